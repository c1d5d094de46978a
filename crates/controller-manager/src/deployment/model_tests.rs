//! Deployments and their ReplicaSets under faults. Invariants: *never more than maxSurge above* (counted as upstream's own tests count, by
//! what ReplicaSets ask for), *never more than maxUnavailable below*, *no pod is made twice*, *an idle deployment causes no write*.

use std::collections::BTreeMap;

use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use super::*;
use crate::Config;
use crate::model::{Cache, Fault, Model, NAMESPACE, check_error};
use crate::pod_state::{is_active, is_ready};
use crate::replicaset::Simulated;

struct Run {
    model: Model,
    deployments: Cache<Deployment>,
    sets: Cache<ReplicaSet>,
    pods: Cache<Pod>,
    replicas: Simulated,
    written: Arc<Tracker>,
    /// The most replicas that each ReplicaSet ever asked for.
    asked: BTreeMap<String, i32>,
    image: u32,
}

fn deployment(replicas: i32, surge: Value, unavailable: Value) -> Value {
    let rolling = json!({"maxSurge": surge, "maxUnavailable": unavailable});
    json!({"metadata": {"name": "web"}, "spec": {
        "replicas": replicas, "revisionHistoryLimit": 2, "selector": {"matchLabels": {"app": "web"}},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": rolling},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "image:0"}]}}}})
}

impl Run {
    async fn new(seed: u64, deployment: Value) -> Self {
        let model = Model::new(seed).await;
        model.create::<Deployment>(deployment).await;
        let mut run = Self {
            model,
            deployments: Cache::default(),
            sets: Cache::default(),
            pods: Cache::default(),
            replicas: Simulated::default(),
            written: Arc::default(),
            asked: BTreeMap::new(),
            image: 0,
        };
        run.observe().await;
        run.restart();
        run
    }

    async fn observe(&mut self) {
        self.deployments.observe(self.model.list().await);
        self.sets.observe(self.model.list().await);
        self.pods.observe(self.model.list().await);
        for set in self.sets.truth() {
            let asked = self.asked.entry(set.uid().expect("has a uid")).or_default();
            *asked = (*asked).max(size(set));
        }
    }

    fn restart(&mut self) {
        self.deployments.restart();
        self.sets.restart();
        self.pods.restart();
        self.replicas = Simulated::default();
        self.written = Arc::default();
    }

    /// Each watch gets ahead for itself.
    fn advance(&mut self, all: bool) {
        let mut some = |lag: usize| if all { lag } else { self.model.pick(lag + 1) };
        let counts = [self.deployments.lag(), self.sets.lag(), self.pods.lag()].map(&mut some);
        self.deployments.advance(counts[0], |_| {});
        self.sets.advance(counts[1], |change| note_gone(change, &self.written));
        let sets = self.sets.store();
        self.pods.advance(counts[2], |change| self.replicas.pod(&sets, change));
    }

    async fn after(&mut self, reconciled: Result<Outcome, ReconcileError>) {
        let ended = self.model.faults.ended();
        check_error(&reconciled);
        self.observe().await;
        if ended {
            self.restart();
        }
    }

    async fn reconcile(&mut self, fault: Fault) {
        let (context, events) = self.model.context("deployment-controller", Config::default());
        let (deployments, sets, pods) = (self.deployments.store(), self.sets.store(), self.pods.store());
        let written = Arc::clone(&self.written);
        let controller = Deployments { context, events, deployments, sets, pods, written };
        self.model.faults.set(fault);
        let reconciled = controller.reconcile(&NamespacedName::new(NAMESPACE, "web")).await;
        self.after(reconciled).await;
    }

    async fn reconcile_set(&mut self, name: &str, fault: Fault) {
        let context = self.model.context("replicaset-controller", Config::default());
        let stores = (self.sets.store(), self.pods.store());
        self.model.faults.set(fault);
        let reconciled = self.replicas.reconcile(context, stores, &NamespacedName::new(NAMESPACE, name)).await;
        self.after(reconciled).await;
    }

    fn set_names(&self) -> Vec<String> {
        self.sets.truth().map(|set| set.name_any()).collect()
    }

    /// One of the controllers looks at something, with caches and faults as they come.
    async fn step_controllers(&mut self) {
        self.advance(false);
        let fault = self.model.some_fault();
        let sets = self.set_names();
        if sets.is_empty() || self.model.chance(40) {
            self.reconcile(fault).await;
        } else {
            let name = &sets[self.model.pick(sets.len())];
            self.reconcile_set(name, fault).await;
        }
    }

    async fn step_kubelet(&mut self) {
        let pods: Vec<_> = self.pods.truth().cloned().collect();
        if !pods.is_empty() {
            let pod = Arc::clone(&pods[self.model.pick(pods.len())]);
            self.model.run_pod(&pod, "n1").await;
            self.observe().await;
        }
    }

    async fn patch(&mut self, spec: Value) {
        let patch = Patch::Merge(json!({"spec": spec}));
        self.model.api::<Deployment>().patch("web", &PatchParams::default(), &patch).await.expect("is changed");
        self.observe().await;
    }

    async fn change_template(&mut self) {
        // Now and then back to one that was before.
        self.image = if self.model.chance(30) { self.image.saturating_sub(1) } else { self.image + 1 };
        let containers = json!([{"name": "c", "image": self.image()}]);
        self.patch(json!({"template": {"spec": {"containers": containers}}})).await;
    }

    fn deployment(&self) -> &Deployment {
        self.deployments.truth().next().expect("is there")
    }

    /// What ReplicaSets ask for.
    fn asked_for(&self) -> i32 {
        self.sets.truth().map(|set| size(set)).sum()
    }

    fn image(&self) -> String {
        format!("image:{}", self.image)
    }

    fn check_surge(&self, most: i32, what: &str) {
        let asked = self.asked_for();
        assert!(asked <= most, "never more than maxSurge above: {asked}, {what}");
    }

    fn available(&self) -> i32 {
        let available = |pod: &&Arc<Pod>| is_ready(pod) && is_active(pod);
        i32::try_from(self.pods.truth().filter(available).count()).expect("few")
    }

    fn check_no_pod_is_made_twice(&self) {
        for (uid, asked) in &self.asked {
            let active = self.pods.truth().filter(|pod| is_active(pod) && is_controlled_by(&pod.metadata, uid)).count();
            assert!(i32::try_from(active).expect("few") <= *asked, "no pod is made twice: {active} where {asked} were wanted");
        }
    }

    async fn settle(&mut self) {
        for _ in 0..300 {
            self.advance(true);
            self.reconcile(Fault::None).await;
            let mut busy = self.model.faults.writes() > 0;
            for name in self.set_names() {
                self.advance(true);
                self.reconcile_set(&name, Fault::None).await;
                busy |= self.model.faults.writes() > 0;
            }
            for pod in self.pods.truth().cloned().collect::<Vec<_>>() {
                busy |= self.model.run_pod(&pod, "n1").await;
            }
            self.observe().await;
            if !busy {
                return;
            }
        }
        let sets: Vec<_> = self.sets.truth().map(|set| (set.name_any(), size(set), set.status.clone())).collect();
        panic!("does not settle: {sets:#?}");
    }

    fn check_settled(&self, replicas: i32) {
        let deployment = self.deployment();
        let status = deployment.status.clone().unwrap_or_default();
        assert_eq!(status.observed_generation, deployment.metadata.generation);
        let counts = [status.replicas, status.ready_replicas, status.available_replicas, status.updated_replicas];
        assert_eq!(counts.map(|count| count.unwrap_or(0)), [replicas; 4], "{status:?}");
        let sizes: Vec<i32> = self.sets.truth().map(|set| size(set)).filter(|size| *size > 0).collect();
        assert_eq!(sizes, [replicas], "one ReplicaSet has all");
        assert!(self.sets.truth().count() <= 3, "the new one and as many as revisionHistoryLimit");
        assert_eq!(self.pods.truth().count(), usize::try_from(replicas).expect("few"));
        assert!(self.pods.truth().all(|pod| image(pod) == Some(self.image())));
    }
}

fn image(pod: &Pod) -> Option<String> {
    pod.spec.as_ref().and_then(|spec| spec.containers[0].image.clone())
}

fn size(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

/// Pods only become unavailable because the controllers take them down.
#[tokio::test]
async fn a_rolling_update_keeps_its_bounds_whatever_happens() {
    // In how many runs there were as many, and as few, as may be.
    let (mut full, mut least) = (0, 0);
    for (seed, surge, unavailable) in [(0, 1, 0), (1, 0, 1), (2, 1, 1), (3, 2, 0), (4, 0, 2), (5, 2, 1), (6, 1, 0), (7, 0, 1)] {
        let mut run = Run::new(seed, deployment(4, json!(surge), json!(unavailable))).await;
        run.settle().await;
        run.check_settled(4);
        let (mut highest, mut lowest) = (false, false);
        for step in 0..170 {
            match run.model.pick(24) {
                0 => run.change_template().await,
                1 => {
                    let paused = run.model.chance(30);
                    run.patch(json!({"paused": paused})).await;
                }
                2..=9 => run.step_kubelet().await,
                _ => run.step_controllers().await,
            }
            let what = format!("seed {seed}, step {step}");
            run.check_surge(4 + surge, &what);
            run.check_no_pod_is_made_twice();
            let available = run.available();
            highest |= surge > 0 && run.asked_for() == 4 + surge;
            lowest |= unavailable > 0 && available == 4 - unavailable;
            assert!(available >= 4 - unavailable, "never more than maxUnavailable below: {available}, {what}");
        }
        run.patch(json!({"paused": false})).await;
        run.settle().await;
        run.check_settled(4);
        full += usize::from(highest);
        least += usize::from(lowest);
    }
    assert!(full > 1 && least > 1, "both bounds are reached: in {full} and {least} runs");
}

/// Pods fail and are deleted by hand, and the deployment is scaled in the middle of rollouts.
#[tokio::test]
async fn no_pod_is_made_twice_whatever_happens() {
    for seed in 0..6 {
        let mut run = Run::new(100 + seed, deployment(3, json!("30%"), json!("30%"))).await;
        let mut most = 4;
        for step in 0..200 {
            match run.model.pick(24) {
                0 => run.change_template().await,
                1 => {
                    let replicas = run.model.pick(6);
                    run.patch(json!({"replicas": replicas})).await;
                    let deployment = run.deployment();
                    most = most.max(scaling::desired(deployment) + scaling::max_surge(deployment));
                }
                2 => {
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
                3..=9 => run.step_kubelet().await,
                _ => run.step_controllers().await,
            }
            run.check_surge(most, &format!("seed {seed}, step {step}"));
            run.check_no_pod_is_made_twice();
        }
        run.patch(json!({"replicas": 4})).await;
        // Failed pods stay until pod-garbage-collector takes them.
        for pod in run.pods.truth().filter(|pod| is_terminal(pod)).map(|pod| pod.name_any()).collect::<Vec<_>>() {
            run.model.api::<Pod>().delete(&pod, &DeleteParams::default().grace_period(0)).await.expect("is removed");
        }
        run.observe().await;
        run.settle().await;
        run.check_settled(4);
    }
}
