//! What the objects of one kind use, by namespace and conditions of a quota, kept with the changes: that one object changed in a namespace
//! of thousands costs what it costs in one of a few.
//!
//! A tally is counted from the objects when a quota first asks, and again after a while: what an object uses also depends on the time
//! (a pod that should be gone uses nothing), of which nobody sends an event. The lock is held while it is counted, so that a change
//! meanwhile is noted after it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use apimachinery::quota::{Amounts, Evaluator, Requirement};
use apimachinery::{Quantity, Value};
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::time::Instant;

/// The objects of a namespace, by name.
type List = Arc<dyn Fn(&str) -> Vec<(String, Value)> + Send + Sync>;

struct Tally {
    requirements: Vec<Requirement>,
    /// What each object uses that fulfils the conditions.
    of: HashMap<String, Amounts>,
    total: Amounts,
    counted: Instant,
}

impl Tally {
    fn new(requirements: &[Requirement]) -> Self {
        Self { requirements: requirements.to_vec(), of: HashMap::new(), total: Amounts::new(), counted: Instant::now() }
    }

    /// Notes what an object uses now; `None`: it is gone, or does not count here.
    fn set(&mut self, name: &str, usage: Option<Amounts>) {
        if let Some(before) = self.of.remove(name) {
            for (resource, amount) in before {
                let left = self.total.get(&resource).copied().unwrap_or_default().minus(amount);
                self.total.insert(resource, left);
            }
        }
        let Some(usage) = usage else { return };
        for (resource, amount) in &usage {
            let sum = self.total.get(resource).map_or(*amount, |have| have.plus(*amount));
            self.total.insert(resource.clone(), sum);
        }
        self.of.insert(name.to_owned(), usage);
    }
}

/// The tallies of a kind. Cloning shares them.
#[derive(Clone)]
pub(super) struct Tallies {
    evaluator: Evaluator,
    list: List,
    /// After so long a tally is counted anew.
    good_for: Duration,
    by_namespace: Arc<Mutex<HashMap<String, Vec<Tally>>>>,
}

impl Tallies {
    pub(super) fn new(evaluator: Evaluator, list: List, good_for: Duration) -> Self {
        Self { evaluator, list, good_for, by_namespace: Arc::default() }
    }

    /// Whether a change in a namespace matters to anybody.
    pub(super) fn watches(&self, namespace: &str) -> bool {
        self.by_namespace.lock().contains_key(namespace)
    }

    /// An object changed; `None`: it is gone.
    pub(super) fn changed(&self, namespace: &str, name: &str, object: Option<&Value>, now: Timestamp) {
        let mut all = self.by_namespace.lock();
        let Some(tallies) = all.get_mut(namespace) else { return };
        // Of quotas that are gone nobody asks any more.
        tallies.retain(|tally| tally.counted.elapsed() < self.good_for * 3);
        if tallies.is_empty() {
            all.remove(namespace);
            return;
        }
        for tally in tallies {
            let counts = |object: &&Value| tally.requirements.iter().all(|condition| self.evaluator.fulfils(condition, object));
            let usage = object.filter(counts).map(|object| self.evaluator.usage(object, now));
            tally.set(name, usage);
        }
    }

    /// What is used of these names.
    pub(super) fn used(&self, namespace: &str, names: &[&str], requirements: &[Requirement], now: Timestamp) -> Amounts {
        let mut all = self.by_namespace.lock();
        let tallies = all.entry(namespace.to_owned()).or_default();
        let fresh = |tally: &Tally| tally.requirements == requirements && tally.counted.elapsed() < self.good_for;
        let index = tallies.iter().position(fresh).unwrap_or_else(|| {
            tallies.retain(|tally| tally.requirements != requirements);
            tallies.push(self.count(namespace, requirements, now));
            tallies.len() - 1
        });
        let total = &tallies[index].total;
        let measured = names.iter().filter(|name| self.evaluator.measures(name));
        measured.map(|name| ((*name).to_owned(), total.get(*name).copied().unwrap_or_else(Quantity::default))).collect()
    }

    fn count(&self, namespace: &str, requirements: &[Requirement], now: Timestamp) -> Tally {
        let mut tally = Tally::new(requirements);
        for (name, object) in (self.list)(namespace) {
            if requirements.iter().all(|condition| self.evaluator.fulfils(condition, &object)) {
                tally.set(&name, Some(self.evaluator.usage(&object, now)));
            }
        }
        tally
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};
    use serde_json::json;
    use std::collections::BTreeMap;

    fn pod(random: &mut StdRng, name: &str) -> Value {
        let cpu = ["100m", "1", "250m"][random.random_range(0..3)];
        let phase = ["Running", "Succeeded"][random.random_range(0..2)];
        let class = ["high", "low"][random.random_range(0..2)];
        let containers = json!([{"name": "c", "resources": {"requests": {"cpu": cpu, "memory": "64Mi"}}}]);
        let pod = json!({"metadata": {"name": name}, "status": {"phase": phase},
            "spec": {"priorityClassName": class, "containers": containers}});
        Value::from_slice(pod.to_string().as_bytes()).expect("is JSON")
    }

    /// Whatever changes: the tally is what a count of everything comes to.
    #[test]
    fn a_tally_is_what_a_count_comes_to() {
        let mut random = StdRng::seed_from_u64(3);
        let pods: Arc<Mutex<BTreeMap<String, Value>>> = Arc::default();
        let known = pods.clone();
        let list: List = Arc::new(move |_| known.lock().iter().map(|(name, pod)| (name.clone(), pod.clone())).collect());
        let tallies = Tallies::new(Evaluator::Pods, list, Duration::from_secs(3600));
        let high = Requirement { scope: "PriorityClass".into(), operator: "In".into(), values: vec!["high".into()] };
        let names = ["pods", "requests.cpu", "requests.memory"];
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().expect("is a time");
        for _ in 0..2000 {
            let name = format!("p{}", random.random_range(0..8));
            let new = random.random_bool(0.7).then(|| pod(&mut random, &name));
            match &new {
                Some(pod) => drop(pods.lock().insert(name.clone(), pod.clone())),
                None => drop(pods.lock().remove(&name)),
            }
            tallies.changed("n", &name, new.as_ref(), now);
            for requirements in [&[][..], std::slice::from_ref(&high)] {
                let expected = Evaluator::Pods.total(&names, requirements, pods.lock().values(), now);
                assert_eq!(tallies.used("n", &names, requirements, now), expected);
            }
        }
        assert!(tallies.watches("n") && !tallies.watches("m"));
    }
}
