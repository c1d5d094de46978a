//! DaemonSets under faults. Invariants: *one pod of a node* (two while surging), *never more than maxSurge above*, *never more than
//! maxUnavailable below*, *an idle set causes no write*.

use std::collections::BTreeMap;

use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use super::*;
use crate::Config;
use crate::model::{Cache, Fault, Model, NAMESPACE, check_error};
use crate::pod_state::{is_active, is_ready};

struct Run {
    model: Model,
    sets: Cache<DaemonSet>,
    pods: Cache<Pod>,
    nodes: Cache<Node>,
    revisions: Cache<ControllerRevision>,
    expectations: Arc<Expectations>,
    image: u32,
}

fn set(surge: i32, unavailable: i32) -> Value {
    let rolling = json!({"maxSurge": surge, "maxUnavailable": unavailable});
    json!({"metadata": {"name": "agent"}, "spec": {
        "selector": {"matchLabels": {"app": "agent"}}, "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": rolling},
        "template": {"metadata": {"labels": {"app": "agent"}}, "spec": {"containers": [{"name": "c", "image": "image:0"}]}}}})
}

impl Run {
    async fn new(seed: u64, nodes: usize, set: Value) -> Self {
        let model = Model::new(seed).await;
        let mut run = Self {
            model,
            sets: Cache::default(),
            pods: Cache::default(),
            nodes: Cache::default(),
            revisions: Cache::default(),
            expectations: Arc::default(),
            image: 0,
        };
        for i in 0..nodes {
            run.add_node(&format!("n{i}")).await;
        }
        run.model.create::<DaemonSet>(set).await;
        run.observe().await;
        run.restart();
        run
    }

    async fn add_node(&mut self, name: &str) {
        let node = serde_json::from_value(json!({"metadata": {"name": name}})).expect("is a node");
        let api: Api<Node> = Api::all(self.model.admin.clone());
        api.create(&PostParams::default(), &node).await.expect("is created");
        // It came up as not ready.
        self.taint(name, json!([])).await;
    }

    async fn taint(&mut self, name: &str, taints: Value) {
        let api: Api<Node> = Api::all(self.model.admin.clone());
        let patch = Patch::Merge(json!({"spec": {"taints": taints}}));
        api.patch(name, &PatchParams::default(), &patch).await.expect("is tainted");
        self.observe().await;
    }

    async fn observe(&mut self) {
        self.sets.observe(self.model.list().await);
        self.pods.observe(self.model.list().await);
        self.nodes.observe(self.model.list().await);
        self.revisions.observe(self.model.list().await);
    }

    fn restart(&mut self) {
        self.sets.restart();
        self.pods.restart();
        self.nodes.restart();
        self.revisions.restart();
        self.expectations = Arc::default();
    }

    fn advance(&mut self, all: bool) {
        let mut some = |lag: usize| if all { lag } else { self.model.pick(lag + 1) };
        let counts = [self.sets.lag(), self.pods.lag(), self.nodes.lag(), self.revisions.lag()].map(&mut some);
        self.sets.advance(counts[0], |_| {});
        self.nodes.advance(counts[2], |_| {});
        self.revisions.advance(counts[3], |_| {});
        let wakeups =
            Wakeups { sets: self.sets.store(), queue: WorkQueue::new("model"), expectations: Arc::clone(&self.expectations) };
        self.pods.advance(counts[1], |change| wakeups.pod(change));
    }

    async fn reconcile(&mut self, fault: Fault) {
        let (context, events) = self.model.context("daemon-set-controller", Config::default());
        let controller = DaemonSets {
            context,
            events,
            sets: self.sets.store(),
            pods: self.pods.store(),
            nodes: self.nodes.store(),
            revisions: self.revisions.store(),
            expectations: Arc::clone(&self.expectations),
            // Time does not pass in the model.
            failed: Arc::default(),
        };
        self.model.faults.set(fault);
        let reconciled = controller.reconcile(&NamespacedName::new(NAMESPACE, "agent")).await;
        let ended = self.model.faults.ended();
        check_error(&reconciled);
        self.observe().await;
        if ended {
            self.restart();
        }
    }

    async fn run_pod(&mut self, pod: &Pod) -> bool {
        let node = pods::target_node(pod).expect("is for a node").to_owned();
        let ran = self.model.run_pod(pod, &node).await;
        self.observe().await;
        ran
    }

    async fn step_kubelet(&mut self) {
        let pods: Vec<_> = self.pods.truth().cloned().collect();
        if !pods.is_empty() {
            let pod = Arc::clone(&pods[self.model.pick(pods.len())]);
            self.run_pod(&pod).await;
        }
    }

    async fn change_template(&mut self) {
        self.image = if self.model.chance(30) { self.image.saturating_sub(1) } else { self.image + 1 };
        let containers = json!([{"name": "c", "image": format!("image:{}", self.image)}]);
        let patch = Patch::Merge(json!({"spec": {"template": {"spec": {"containers": containers}}}}));
        self.model.api::<DaemonSet>().patch("agent", &PatchParams::default(), &patch).await.expect("is changed");
        self.observe().await;
    }

    /// Live pods of each node.
    fn live(&self) -> BTreeMap<String, Vec<&Arc<Pod>>> {
        let mut live: BTreeMap<String, Vec<&Arc<Pod>>> = BTreeMap::new();
        for pod in self.pods.truth().filter(|pod| is_active(pod)) {
            live.entry(pods::target_node(pod).expect("is for a node").to_owned()).or_default().push(pod);
        }
        live
    }

    fn check_surge(&self, surge: usize) {
        let live = self.live();
        let most = if surge == 0 { 1 } else { 2 };
        assert!(live.values().all(|pods| pods.len() <= most), "one pod of a node: {:?}", self.names());
        let doubled = live.values().filter(|pods| pods.len() > 1).count();
        assert!(doubled <= surge, "never more than maxSurge above: {doubled}");
    }

    fn names(&self) -> Vec<(String, Option<String>)> {
        self.pods.truth().map(|pod| (pod.name_any(), pods::target_node(pod).map(str::to_owned))).collect()
    }

    fn without_available(&self, nodes: usize) -> usize {
        nodes - self.live().values().filter(|pods| pods.iter().any(|pod| is_ready(pod))).count()
    }

    async fn settle(&mut self) {
        for _ in 0..200 {
            self.advance(true);
            self.reconcile(Fault::None).await;
            let mut busy = self.model.faults.writes() > 0;
            for pod in self.pods.truth().cloned().collect::<Vec<_>>() {
                busy |= self.run_pod(&pod).await;
            }
            if !busy {
                return;
            }
        }
        panic!("does not settle: {:?}", self.names());
    }

    fn check_settled(&self, nodes: i32) {
        assert_eq!(self.model.faults.writes(), 0, "an idle set causes no write");
        let set = self.sets.truth().next().expect("is there");
        let status = set.status.clone().unwrap_or_default();
        assert_eq!(status.observed_generation, set.metadata.generation);
        let counts = [
            status.desired_number_scheduled,
            status.current_number_scheduled,
            status.number_ready,
            status.updated_number_scheduled.unwrap_or(0),
            status.number_available.unwrap_or(0),
        ];
        assert_eq!(counts, [nodes; 5], "{status:?}");
        assert_eq!(self.pods.truth().count(), usize::try_from(nodes).expect("few"));
        let image = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.containers[0].image.clone());
        assert!(self.pods.truth().all(|pod| image(pod) == Some(format!("image:{}", self.image))));
    }
}

/// Pods only become unavailable because the controller takes them down.
#[tokio::test]
async fn an_update_keeps_its_bounds_whatever_happens() {
    for (seed, surge, unavailable) in [(0, 0, 1), (1, 0, 2), (2, 1, 0), (3, 2, 0), (4, 0, 1), (5, 1, 0)] {
        let mut run = Run::new(seed, 4, set(surge, unavailable)).await;
        run.settle().await;
        run.check_settled(4);
        let mut replaced = 0;
        for _ in 0..150 {
            match run.model.pick(12) {
                0 => run.change_template().await,
                1..=5 => run.step_kubelet().await,
                _ => {
                    run.advance(false);
                    let fault = run.model.some_fault();
                    run.reconcile(fault).await;
                }
            }
            run.check_surge(usize::try_from(surge).expect("is positive"));
            let without = run.without_available(4);
            replaced += usize::from(run.live().values().any(|pods| pods.len() != 1 || !is_ready(pods[0])));
            let allowed = usize::try_from(unavailable).expect("is positive");
            assert!(without <= allowed, "never more than maxUnavailable below: {without}, seed {seed}");
        }
        assert!(replaced > 0, "the test does something");
        run.settle().await;
        run.check_settled(4);
    }
}

/// Pods fail and are deleted by hand, nodes come and are tainted.
#[tokio::test]
async fn one_pod_of_a_node_whatever_happens() {
    for seed in 0..6 {
        let mut run = Run::new(50 + seed, 2, set(0, 1)).await;
        let mut nodes = 2;
        for _ in 0..120 {
            match run.model.pick(14) {
                0 => run.change_template().await,
                1 if nodes < 4 => {
                    run.add_node(&format!("n{nodes}")).await;
                    nodes += 1;
                }
                2 => {
                    let node = format!("n{}", run.model.pick(nodes));
                    let effect = if run.model.chance(50) { "NoExecute" } else { "NoSchedule" };
                    let taints = if run.model.chance(50) { json!([]) } else { json!([{"key": "k", "effect": effect}]) };
                    run.taint(&node, taints).await;
                }
                3 => {
                    let pods: Vec<_> = run.pods.truth().map(|pod| pod.name_any()).collect();
                    if !pods.is_empty() {
                        let pod = &pods[run.model.pick(pods.len())];
                        if run.model.chance(50) {
                            run.model.set_status(pod, json!({"phase": "Failed"})).await;
                        } else {
                            run.model.api::<Pod>().delete(pod, &DeleteParams::default()).await.expect("is deleted");
                        }
                        run.observe().await;
                    }
                }
                4..=7 => run.step_kubelet().await,
                _ => {
                    run.advance(false);
                    let fault = run.model.some_fault();
                    run.reconcile(fault).await;
                }
            }
            run.check_surge(0);
        }
        for i in 0..nodes {
            run.taint(&format!("n{i}"), json!([])).await;
        }
        run.settle().await;
        run.check_settled(i32::try_from(nodes).expect("few"));
    }
}
