//! A model of the budget, its pods and the eviction API, in which the controller sees old pods and old budgets, is restarted, and loses
//! writes. What must hold: **no eviction leaves fewer healthy pods than the budget asks for**, and when all is quiet the number allowed is
//! exact.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;

use super::plan::{DELETION_TIMEOUT, counts, plan};

/// How old the cache of the controller gets at most; the contract is less than [`DELETION_TIMEOUT`].
const LAG_MAX_SECONDS: i64 = 60;
const REPLICAS: usize = 5;

type Pods = BTreeMap<String, Arc<Pod>>;

struct Model {
    random: StdRng,
    now: Timestamp,
    pods: Pods,
    budget: PodDisruptionBudget,
    version: u64,
    made: usize,
    /// Whether a replaced pod gets the name of the one before, as in a StatefulSet.
    stable_names: bool,
    /// What the controller has not seen yet, oldest first.
    unseen_pods: VecDeque<(Timestamp, Pods)>,
    unseen_budgets: VecDeque<(Timestamp, PodDisruptionBudget)>,
    seen_pods: Pods,
    seen_budget: PodDisruptionBudget,
    evictions: usize,
}

fn ready(pod: &Pod) -> bool {
    crate::pod_state::is_ready(pod)
}

fn deleting(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

fn minimum(budget: &PodDisruptionBudget) -> i32 {
    match budget.spec.as_ref().and_then(|spec| spec.min_available.as_ref()) {
        Some(IntOrString::Int(number)) => *number,
        other => panic!("is a number: {other:?}"),
    }
}

impl Model {
    fn new(seed: u64) -> Self {
        let budget: PodDisruptionBudget = serde_json::from_value(json!({
            "metadata": {"name": "b", "generation": 1, "resourceVersion": "0"}, "spec": {"minAvailable": 3},
        }))
        .expect("is a budget");
        let mut model = Self {
            random: StdRng::seed_from_u64(seed),
            now: "2024-01-01T00:00:00Z".parse().expect("is a time"),
            pods: Pods::new(),
            version: 0,
            made: 0,
            stable_names: seed & 1 == 0,
            unseen_pods: VecDeque::new(),
            unseen_budgets: VecDeque::new(),
            seen_pods: Pods::new(),
            seen_budget: budget.clone(),
            budget,
            evictions: 0,
        };
        for _ in 0..REPLICAS {
            model.replace();
        }
        model
    }

    fn pods_changed(&mut self) {
        self.unseen_pods.push_back((self.now, self.pods.clone()));
    }

    fn budget_changed(&mut self) {
        self.version += 1;
        self.budget.metadata.resource_version = Some(self.version.to_string());
        self.unseen_budgets.push_back((self.now, self.budget.clone()));
    }

    fn healthy(&self) -> i32 {
        let healthy = self.pods.values().filter(|pod| ready(pod) && !deleting(pod)).count();
        i32::try_from(healthy).expect("are few")
    }

    fn any_pod(&mut self, wanted: impl Fn(&Pod) -> bool) -> Option<String> {
        let names: Vec<&String> = self.pods.iter().filter(|(_, pod)| wanted(pod)).map(|(name, _)| name).collect();
        if names.is_empty() { None } else { Some(names[self.random.random_range(0..names.len())].clone()) }
    }

    fn replace(&mut self) {
        let free = (0..REPLICAS).map(|i| format!("p{i}")).find(|name| !self.pods.contains_key(name));
        self.made += 1;
        let Some(stable) = free.filter(|_| self.pods.len() < REPLICAS) else { return };
        let name = if self.stable_names { stable } else { format!("p-{}", self.made) };
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": name}})).expect("is a pod");
        self.pods.insert(name, Arc::new(pod));
        self.pods_changed();
    }

    fn change(&mut self, name: &str, change: impl FnOnce(&mut Pod)) {
        let pod = self.pods.get_mut(name).expect("is there");
        change(Arc::make_mut(pod));
        self.pods_changed();
    }

    fn become_ready(&mut self) {
        if let Some(name) = self.any_pod(|pod| !ready(pod) && !deleting(pod)) {
            let conditions = serde_json::from_value(json!({"conditions": [{"type": "Ready", "status": "True"}]}));
            self.change(&name, |pod| pod.status = conditions.expect("is a status"));
        }
    }

    fn finish_deletion(&mut self) {
        if let Some(name) = self.any_pod(deleting) {
            self.pods.remove(&name);
            self.pods_changed();
        }
    }

    /// The rules of the eviction API for a healthy pod; now and then the server dies between the two writes.
    fn evict(&mut self) {
        let Some(name) = self.any_pod(|pod| ready(pod) && !deleting(pod)) else { return };
        let generation = self.budget.metadata.generation;
        let now = self.now;
        let status = self.budget.status.get_or_insert_default();
        if status.observed_generation < generation || status.disruptions_allowed <= 0 {
            return;
        }
        status.disruptions_allowed -= 1;
        status.disrupted_pods.get_or_insert_default().insert(name.clone(), Time(now));
        self.budget_changed();
        if self.random.random_bool(0.1) {
            return;
        }
        self.change(&name, |pod| pod.metadata.deletion_timestamp = Some(Time(now)));
        self.evictions += 1;
        let (healthy, minimum) = (self.healthy(), minimum(&self.budget));
        assert!(healthy >= minimum, "evicting {name} left {healthy} healthy pods of {minimum}");
    }

    fn edit(&mut self) {
        let wanted = self.random.random_range(1..=4);
        self.budget.spec.get_or_insert_default().min_available = Some(IntOrString::Int(wanted));
        *self.budget.metadata.generation.get_or_insert_default() += 1;
        self.budget_changed();
    }

    fn see(&mut self, pods: usize, budgets: usize) {
        for _ in 0..pods {
            if let Some((_, seen)) = self.unseen_pods.pop_front() {
                self.seen_pods = seen;
            }
        }
        for _ in 0..budgets {
            if let Some((_, seen)) = self.unseen_budgets.pop_front() {
                self.seen_budget = seen;
            }
        }
    }

    fn see_all(&mut self) {
        self.see(self.unseen_pods.len(), self.unseen_budgets.len());
    }

    fn pass_time(&mut self) {
        self.now += SignedDuration::from_secs(self.random.random_range(1..20));
        while self.unseen_pods.front().is_some_and(|(at, _)| self.now.duration_since(*at).as_secs() > LAG_MAX_SECONDS) {
            self.see(1, 0);
        }
    }

    /// One reconciliation on what was seen; its write may be lost, and conflicts if what was seen is old.
    fn sync(&mut self) {
        let pods: Vec<Arc<Pod>> = self.seen_pods.values().cloned().collect();
        let spec = self.seen_budget.spec.clone().expect("is set");
        let counts = counts(&spec, pods.len(), 0).expect("is a number");
        let Some(status) = plan(&self.seen_budget, &pods, counts, self.now).status else { return };
        let lost = self.random.random_bool(0.1);
        if lost || self.seen_budget.metadata.resource_version != self.budget.metadata.resource_version {
            return;
        }
        assert!(status.observed_generation <= self.budget.metadata.generation, "a generation that does not exist was observed");
        self.budget.status = Some(status);
        self.budget_changed();
    }

    fn step(&mut self) {
        match self.random.random_range(0..20) {
            0..4 => self.evict(),
            4..8 => self.sync(),
            8..10 => self.pass_time(),
            10 => self.finish_deletion(),
            11..13 => self.replace(),
            13..15 => self.become_ready(),
            15 => {
                if self.random.random_bool(0.2) {
                    self.edit();
                }
            }
            // A restart lists everything anew.
            16 => self.see_all(),
            _ => {
                let (pods, budgets) = (self.random.random_range(0..4), self.random.random_range(0..4));
                self.see(pods, budgets);
            }
        }
    }

    /// Everything is seen and nothing is evicted any more, for longer than a granted eviction counts.
    fn settle(&mut self) {
        self.now += SignedDuration::try_from(DELETION_TIMEOUT).expect("fits") + SignedDuration::from_secs(1);
        while self.any_pod(deleting).is_some() {
            self.finish_deletion();
        }
        for _ in 0..30 {
            self.see_all();
            self.sync();
        }
        let status = self.budget.status.clone().expect("was written");
        assert_eq!(status.disruptions_allowed, (self.healthy() - minimum(&self.budget)).max(0), "is exact at rest");
        assert_eq!(status.disrupted_pods.unwrap_or_default().len(), 0, "nothing is left on the list");
    }
}

#[test]
fn evictions_never_go_below_the_budget() {
    let mut evictions = 0;
    for seed in 0..300 {
        let mut model = Model::new(seed);
        for _ in 0..600 {
            model.step();
        }
        model.settle();
        evictions += model.evictions;
    }
    assert!(evictions > 1000, "the model evicts: {evictions}");
}
