//! Volumes under faults: stale caches, conflicts, a process that ends between two writes. Invariants: *a ReadWriteOnce volume has one
//! node*, *nothing is detached that a node mounts*, *nothing is mounted that is not attached*, *an idle cluster causes no write*.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use super::*;
use crate::Config;
use crate::model::{Cache, Fault, Model, NAMESPACE, check_error};
use crate::pod_state::node_name;

const VOLUMES: usize = 2;
const NODES: usize = 3;
const FINALIZER: &str = "external-attacher/d";

fn unique_name(volume: usize) -> String {
    format!("kubernetes.io/csi/d^h{volume}")
}

struct Run {
    model: Model,
    nodes: Cache<Node>,
    pods: Cache<Pod>,
    attachments: Cache<VolumeAttachment>,
    claims: Store<PersistentVolumeClaim>,
    volumes: Store<PersistentVolume>,
    memory: Arc<Mutex<Memory>>,
    made: usize,
    detached: usize,
}

impl Run {
    async fn new(seed: u64) -> Self {
        let model = Model::new(seed).await;
        let mut run = Self {
            model,
            nodes: Cache::default(),
            pods: Cache::default(),
            attachments: Cache::default(),
            claims: Store::from_objects([]),
            volumes: Store::from_objects([]),
            memory: Arc::default(),
            made: 0,
            detached: 0,
        };
        for i in 0..NODES {
            let api: Api<Node> = Api::all(run.model.admin.clone());
            let node = json!({"metadata": {"name": format!("n{i}"), "annotations": {MANAGED: "true"}}});
            api.create(&PostParams::default(), &serde_json::from_value(node).expect("is a node")).await.expect("is created");
        }
        for i in 0..VOLUMES {
            run.make_volume(i).await;
        }
        let (claims, volumes) = (run.model.list().await, run.model.list().await);
        run.claims = Store::from_objects(claims);
        run.volumes = Store::from_objects(volumes);
        run.observe().await;
        run.restart();
        run
    }

    async fn make_volume(&self, i: usize) {
        let (claim, volume) = (format!("c{i}"), format!("v{i}"));
        let spec = json!({"accessModes": ["ReadWriteOnce"], "volumeName": volume, "storageClassName": "",
            "resources": {"requests": {"storage": "1Gi"}}});
        let made: PersistentVolumeClaim = self.model.create(json!({"metadata": {"name": claim}, "spec": spec})).await;
        let bound = Patch::Merge(json!({"status": {"phase": "Bound"}}));
        self.model.api::<PersistentVolumeClaim>().patch_status(&claim, &PatchParams::default(), &bound).await.expect("is bound");
        let reference = json!({"namespace": NAMESPACE, "name": claim, "uid": made.metadata.uid});
        let volume = json!({"metadata": {"name": volume}, "spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"},
            "claimRef": reference, "storageClassName": "", "csi": {"driver": "d", "volumeHandle": format!("h{i}")}}});
        let api: Api<PersistentVolume> = Api::all(self.model.admin.clone());
        api.create(&PostParams::default(), &serde_json::from_value(volume).expect("is a volume")).await.expect("is created");
    }

    async fn observe(&mut self) {
        self.nodes.observe(self.model.list().await);
        self.pods.observe(self.model.list().await);
        self.attachments.observe(self.model.list().await);
    }

    fn restart(&mut self) {
        self.nodes.restart();
        self.pods.restart();
        self.attachments.restart();
        self.memory = Arc::default();
    }

    fn advance(&mut self, all: bool) {
        let mut some = |lag: usize| if all { lag } else { self.model.pick(lag + 1) };
        let counts = [self.nodes.lag(), self.pods.lag(), self.attachments.lag()].map(&mut some);
        let memory = &self.memory;
        self.nodes.advance(counts[0], |change| memory.lock().seen_node(change));
        self.pods.advance(counts[1], |_| {});
        self.attachments.advance(counts[2], |change| memory.lock().seen(change));
    }

    async fn reconcile(&mut self, node: usize, fault: Fault) {
        let (context, events) = self.model.context("attachdetach-controller", Config::default());
        let (nodes, pods, attachments) = (self.nodes.store(), self.pods.store(), self.attachments.store());
        index_by_node(&pods);
        index(&attachments);
        let controller = AttachDetach {
            context,
            events,
            nodes,
            pods,
            attachments,
            claims: self.claims.clone(),
            volumes: self.volumes.clone(),
            drivers: Store::from_objects([]),
            memory: Arc::clone(&self.memory),
        };
        let mounted = self.mounted();
        self.model.faults.set(fault);
        let reconciled = controller.reconcile(&format!("n{node}")).await;
        check_error(&reconciled);
        let ended = self.model.faults.ended();
        let before: Vec<String> = self.going();
        self.observe().await;
        for going in self.going().iter().filter(|going| !before.contains(going)) {
            self.detached += 1;
            assert!(!mounted.contains(going), "nothing is detached that a node mounts: {going}");
        }
        if ended {
            self.restart();
        }
    }

    /// Attachments that are being deleted, as `NODE/VOLUME`.
    fn going(&self) -> Vec<String> {
        let going = self.attachments.truth().filter(|attachment| attachment.metadata.deletion_timestamp.is_some());
        going.map(|attachment| place(attachment)).collect()
    }

    /// What nodes say that they use, as `NODE/VOLUME`.
    fn mounted(&self) -> Vec<String> {
        let used = |node: &Arc<Node>| node.status.as_ref().and_then(|status| status.volumes_in_use.clone()).unwrap_or_default();
        self.nodes.truth().flat_map(|node| used(node).into_iter().map(|name| format!("{}/{name}", node.name_any()))).collect()
    }

    async fn write_in_use(&mut self, node: &str, names: Vec<String>) {
        let api: Api<Node> = Api::all(self.model.admin.clone());
        let list = if names.is_empty() { Value::Null } else { json!(names) };
        let patch = Patch::Merge(json!({"status": {"volumesInUse": list}}));
        api.patch_status(node, &PatchParams::default(), &patch).await.expect("is written");
        self.observe().await;
    }

    /// A kubelet does the next thing: first it says that it uses a volume, then it looks whether it may, and only then it mounts; what
    /// no pod needs it unmounts. True if it did something.
    async fn step_kubelet(&mut self, i: usize) -> bool {
        let node = format!("n{i}");
        let object = self.nodes.truth().find(|object| object.name_any() == node).expect("is there").clone();
        let used = object.status.as_ref().and_then(|status| status.volumes_in_use.clone()).unwrap_or_default();
        let wants: BTreeSet<String> =
            self.pods.truth().filter(|pod| node_name(pod) == node && is_alive(pod)).map(|p| volume_name(p)).collect();
        if let Some(stale) = used.iter().find(|name| !wants.contains(*name)) {
            let left = used.iter().filter(|name| *name != stale).cloned().collect();
            self.write_in_use(&node, left).await;
            return true;
        }
        let allowed: Vec<&str> = plan::reported(&object).iter().map(|entry| entry.name.as_str()).collect();
        for name in &used {
            // It mounts, and uses what it mounted, only where the attachment is good.
            if allowed.contains(&name.as_str()) {
                let good = self
                    .attachments
                    .truth()
                    .any(|a| place(a) == format!("{node}/{name}") && a.metadata.deletion_timestamp.is_none());
                assert!(good, "nothing is mounted that is not attached: {node} {name}");
            }
        }
        if let Some(new) = wants.iter().find(|name| !used.contains(*name) && allowed.contains(&name.as_str())) {
            let mut all = used.clone();
            all.push(new.clone());
            self.write_in_use(&node, all).await;
            return true;
        }
        let dying = self.pods.truth().find(|pod| node_name(pod) == node && !is_alive(pod)).map(|pod| pod.name_any());
        if let Some(pod) = dying {
            self.model.api::<Pod>().delete(&pod, &DeleteParams::default().grace_period(0)).await.expect("is removed");
            self.observe().await;
            return true;
        }
        false
    }

    /// The driver's attacher does the next thing. True if there was one.
    async fn step_attacher(&mut self) -> bool {
        let api: Api<VolumeAttachment> = Api::all(self.model.admin.clone());
        let all: Vec<_> = self.attachments.truth().cloned().collect();
        for attachment in all {
            let name = attachment.name_any();
            let going = attachment.metadata.deletion_timestamp.is_some();
            let marked = attachment.finalizers().iter().any(|finalizer| finalizer == FINALIZER);
            let attached = attachment.status.as_ref().is_some_and(|status| status.attached);
            let patch = |value: Value| Patch::Merge(value);
            match (going, marked, attached) {
                (true, true, _) => {
                    drop(api.patch(&name, &PatchParams::default(), &patch(json!({"metadata": {"finalizers": null}}))).await)
                }
                (false, false, _) => {
                    let mark = patch(json!({"metadata": {"finalizers": [FINALIZER]}}));
                    api.patch(&name, &PatchParams::default(), &mark).await.expect("is marked");
                }
                (false, true, false) => {
                    let done = patch(json!({"status": {"attached": true}}));
                    api.patch_status(&name, &PatchParams::default(), &done).await.expect("is attached");
                }
                _ => continue,
            }
            self.observe().await;
            return true;
        }
        false
    }

    /// A user moves a pod, or makes or deletes one.
    async fn step_user(&mut self) {
        let pods: Vec<String> = self.pods.truth().filter(|pod| is_alive(pod)).map(|pod| pod.name_any()).collect();
        if !pods.is_empty() && self.model.chance(50) {
            let name = &pods[self.model.pick(pods.len())];
            self.model.api::<Pod>().delete(name, &DeleteParams::default()).await.expect("is deleted");
        } else {
            let (node, volume) = (self.model.pick(NODES), self.model.pick(VOLUMES));
            self.made += 1;
            let volumes = json!([{"name": "v", "persistentVolumeClaim": {"claimName": format!("c{volume}")}}]);
            self.model
                .create::<Pod>(json!({"metadata": {"name": format!("p{}", self.made)}, "spec": {"nodeName": format!("n{node}"),
                    "volumes": volumes, "containers": [{"name": "c", "image": "image:0"}]}}))
                .await;
        }
        self.observe().await;
    }

    fn check(&self) {
        for i in 0..VOLUMES {
            let places = self.attachments.truth().filter(|a| place(a).ends_with(&format!("/{}", unique_name(i)))).count();
            assert!(places <= 1, "a ReadWriteOnce volume has one node");
        }
    }

    async fn settle(&mut self) {
        for _ in 0..200 {
            let mut busy = false;
            for node in 0..NODES {
                self.advance(true);
                self.reconcile(node, Fault::None).await;
                busy |= self.model.faults.writes() > 0;
                busy |= self.step_kubelet(node).await;
                busy |= self.step_attacher().await;
                self.check();
            }
            if !busy {
                return;
            }
        }
        panic!("does not settle");
    }
}

fn place(attachment: &VolumeAttachment) -> String {
    let volume = attachment.spec.source.persistent_volume_name.as_deref().unwrap_or_default();
    format!("{}/kubernetes.io/csi/d^{}", attachment.spec.node_name, volume.replace('v', "h"))
}

fn is_alive(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_none()
}

fn volume_name(pod: &Pod) -> String {
    let claim = claim_keys(pod).remove(0);
    claim.replace(&format!("{NAMESPACE}/c"), "kubernetes.io/csi/d^h")
}

#[tokio::test]
async fn what_a_kubelet_attaches_by_itself_is_left_alone() {
    let mut run = Run::new(0).await;
    let nodes: Api<Node> = Api::all(run.model.admin.clone());
    let name = format!("n{NODES}");
    let node = serde_json::from_value(json!({"metadata": {"name": name}})).expect("is a node");
    nodes.create(&PostParams::default(), &node).await.expect("is created");
    let attachment = json!({"metadata": {"name": "a", "finalizers": [FINALIZER]}, "spec": {"attacher": "d", "nodeName": name,
        "source": {"persistentVolumeName": "v0"}}});
    let api: Api<VolumeAttachment> = Api::all(run.model.admin.clone());
    let attachment = serde_json::from_value(attachment).expect("is an attachment");
    api.create(&PostParams::default(), &attachment).await.expect("is created");
    run.observe().await;
    run.advance(true);
    // The kubelet has not mounted it yet, and no pod that this controller would know needs it.
    run.reconcile(NODES, Fault::None).await;
    assert_eq!((run.model.faults.writes(), run.going()), (0, Vec::new()));
    let managed = Patch::Merge(json!({"metadata": {"annotations": {MANAGED: "true"}}}));
    nodes.patch(&name, &PatchParams::default(), &managed).await.expect("is handed over");
    run.observe().await;
    run.advance(true);
    run.reconcile(NODES, Fault::None).await;
    assert_eq!(run.going(), [format!("{name}/{}", unique_name(0))]);
}

/// Two volumes are attached to a node, which uses the first of them and goes.
async fn with_a_node_that_went() -> Run {
    let mut run = Run::new(0).await;
    let api: Api<VolumeAttachment> = Api::all(run.model.admin.clone());
    for i in 0..2 {
        let attachment = json!({"metadata": {"name": format!("a{i}"), "finalizers": [FINALIZER]}, "spec": {"attacher": "d",
            "nodeName": "n0", "source": {"persistentVolumeName": format!("v{i}")}}});
        let attachment = serde_json::from_value(attachment).expect("is an attachment");
        api.create(&PostParams::default(), &attachment).await.expect("is created");
    }
    run.write_in_use("n0", vec![unique_name(0)]).await;
    let nodes: Api<Node> = Api::all(run.model.admin.clone());
    run.advance(true);
    nodes.delete("n0", &DeleteParams::default()).await.expect("is deleted");
    run.observe().await;
    run
}

#[tokio::test]
async fn a_node_that_goes_keeps_what_it_used() {
    let mut run = with_a_node_that_went().await;
    run.advance(true);
    run.reconcile(0, Fault::None).await;
    assert_eq!(run.going(), [format!("n0/{}", unique_name(1))]);
    // Another of the name has said nothing yet, and uses nothing.
    let nodes: Api<Node> = Api::all(run.model.admin.clone());
    let node = json!({"metadata": {"name": "n0", "annotations": {MANAGED: "true"}}});
    nodes.create(&PostParams::default(), &serde_json::from_value(node).expect("is a node")).await.expect("is created");
    run.observe().await;
    run.advance(true);
    assert!(run.memory.lock().last_in_use.is_empty());
    run.reconcile(0, Fault::None).await;
    assert_eq!(run.going().len(), 2);
}

#[tokio::test]
async fn what_a_node_used_is_kept_no_longer_than_it_matters() {
    let mut run = with_a_node_that_went().await;
    let api: Api<VolumeAttachment> = Api::all(run.model.admin.clone());
    for name in ["a0", "a1"] {
        let free = Patch::Merge(json!({"metadata": {"finalizers": null}}));
        api.patch(name, &PatchParams::default(), &free).await.expect("is changed");
        api.delete(name, &DeleteParams::default()).await.expect("is deleted");
    }
    run.observe().await;
    run.advance(true);
    assert_eq!(run.memory.lock().last_in_use.len(), 1);
    run.reconcile(0, Fault::None).await;
    assert!(run.memory.lock().last_in_use.is_empty());
}

#[tokio::test]
async fn a_node_that_nobody_saw_go_may_have_used_anything() {
    let mut run = with_a_node_that_went().await;
    run.restart();
    run.reconcile(0, Fault::None).await;
    assert_eq!((run.model.faults.writes(), run.going()), (0, Vec::new()));
}

#[tokio::test]
async fn a_volume_has_one_node_whatever_happens() {
    let mut detached = 0;
    for seed in 0..8 {
        let mut run = Run::new(seed).await;
        for _ in 0..150 {
            match run.model.pick(12) {
                0 => run.step_user().await,
                1..=3 => {
                    let node = run.model.pick(NODES);
                    run.step_kubelet(node).await;
                }
                4 | 5 => {
                    run.step_attacher().await;
                }
                _ => {
                    run.advance(false);
                    let (node, fault) = (run.model.pick(NODES), run.model.some_fault());
                    run.reconcile(node, fault).await;
                }
            }
            run.check();
        }
        // One pod of each volume: the others would wait for ever.
        for pod in run.pods.truth().map(|pod| pod.name_any()).collect::<Vec<_>>() {
            run.model.api::<Pod>().delete(&pod, &DeleteParams::default().grace_period(0)).await.expect("is removed");
        }
        run.observe().await;
        run.step_user().await;
        run.settle().await;
        for pod in run.pods.truth() {
            let wanted = format!("{}/{}", node_name(pod), volume_name(pod));
            assert!(run.mounted().contains(&wanted), "seed {seed}: {wanted} is mounted in the end");
        }
        assert_eq!(run.attachments.truth().count(), run.pods.truth().count(), "seed {seed}: nothing else is attached");
        detached += run.detached;
    }
    assert!(detached > 10, "the test does something: {detached}");
}
