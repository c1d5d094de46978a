//! Which pods the selectors of a kind (Services, PodDisruptionBudgets) match, kept with the changes: the change of a pod looks at the
//! selectors that may match it, not at all of its namespace, and a selector at its pods, not at all of the namespace.
//!
//! Invariant: what is remembered is never too little. It may be too much (a pod that is gone, a selector that changed), so that users
//! match again what they get. The lock is held while a new selector reads the pods: a pod that changes meanwhile is noted after it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Debug;
use std::sync::Arc;

use client::{Change, Informer, NamespacedName, Store};
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Resource, ResourceExt};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;

use crate::label_match::Matcher;

/// A label and its value.
type Pair = (String, String);

/// A kind that selects pods of its namespace.
pub(crate) trait Selects: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static {
    /// The selector; `None` if it matches nothing.
    fn matcher(&self) -> Option<Matcher>;

    /// Pairs of which every pod that matches has at least one; `None` if there is nothing to go by.
    fn pairs(&self) -> Option<Vec<Pair>>;
}

impl Selects for Service {
    fn matcher(&self) -> Option<Matcher> {
        let selector = self.spec.as_ref()?.selector.as_ref()?;
        (!selector.is_empty()).then(|| Matcher::from_map(Some(selector)))
    }

    fn pairs(&self) -> Option<Vec<Pair>> {
        let (key, value) = self.spec.as_ref()?.selector.as_ref()?.first_key_value()?;
        Some(vec![(key.clone(), value.clone())])
    }
}

impl Selects for PodDisruptionBudget {
    fn matcher(&self) -> Option<Matcher> {
        Matcher::new(self.spec.as_ref()?.selector.as_ref()?)
    }

    fn pairs(&self) -> Option<Vec<Pair>> {
        let selector = self.spec.as_ref()?.selector.as_ref()?;
        if let Some((key, value)) = selector.match_labels.as_ref().and_then(BTreeMap::first_key_value) {
            return Some(vec![(key.clone(), value.clone())]);
        }
        let within = selector.match_expressions.iter().flatten().find(|expression| expression.operator == "In")?;
        Some(within.values.iter().flatten().map(|value| (within.key.clone(), value.clone())).collect())
    }
}

#[derive(Default)]
struct Memory {
    /// Names of pods by selector.
    pods: HashMap<NamespacedName, BTreeSet<String>>,
    /// Names of selectors by namespace and pair; those that have none, under no pair.
    selectors: HashMap<(String, Option<Pair>), BTreeSet<String>>,
}

impl Memory {
    fn note(&mut self, key: &NamespacedName, pairs: Option<Vec<Pair>>) {
        for place in places(&key.namespace, pairs) {
            self.selectors.entry(place).or_default().insert(key.name.clone());
        }
    }

    fn forget(&mut self, key: &NamespacedName, pairs: Option<Vec<Pair>>) {
        for place in places(&key.namespace, pairs) {
            if let Some(names) = self.selectors.get_mut(&place) {
                names.remove(&key.name);
                if names.is_empty() {
                    self.selectors.remove(&place);
                }
            }
        }
    }

    /// Selectors that may match these labels.
    fn candidates(&self, meta: &ObjectMeta) -> BTreeSet<NamespacedName> {
        let namespace = meta.namespace.as_deref().unwrap_or_default();
        let pairs = meta.labels.iter().flatten().map(|(key, value)| Some((key.clone(), value.clone())));
        let places = pairs.chain([None]).map(|pair| (namespace.to_owned(), pair));
        let names = places.filter_map(|place| self.selectors.get(&place)).flatten();
        names.map(|name| NamespacedName::new(namespace, name)).collect()
    }
}

fn places(namespace: &str, pairs: Option<Vec<Pair>>) -> Vec<(String, Option<Pair>)> {
    match pairs {
        Some(pairs) => pairs.into_iter().map(|pair| (namespace.to_owned(), Some(pair))).collect(),
        None => vec![(namespace.to_owned(), None)],
    }
}

/// Pods by selectors and selectors by pods. Cloning shares them.
pub(crate) struct Selected<S> {
    memory: Arc<Mutex<Memory>>,
    selectors: Store<S>,
    pods: Store<Pod>,
}

impl<S> Clone for Selected<S> {
    fn clone(&self) -> Self {
        Self { memory: self.memory.clone(), selectors: self.selectors.clone(), pods: self.pods.clone() }
    }
}

impl<S: Selects> Selected<S> {
    /// Follows both from now on. Handlers that are added to them later find everything noted.
    pub(crate) fn follow(selectors: &Informer<S>, pods: &Informer<Pod>) -> Self {
        let memory = Arc::default();
        let selected = Self { memory, selectors: selectors.store().clone(), pods: pods.store().clone() };
        let on_selector = selected.clone();
        selectors.add_handler(move |change| on_selector.selector_changed(change));
        let on_pod = selected.clone();
        pods.add_handler(move |change| on_pod.pod_changed(change));
        selected
    }

    /// What is remembered when it was followed to this point, for model tests.
    #[cfg(test)]
    pub(crate) fn of(selectors: Store<S>, pods: Store<Pod>) -> Self {
        let selected = Self { memory: Arc::default(), selectors, pods };
        selected.selectors.for_each(|selector| selected.selector_changed(&Change::Added(selector)));
        selected
    }

    fn selector_changed(&self, change: &Change<'_, S>) {
        let object = change.object();
        let key = NamespacedName::of(&**object);
        let mut memory = self.memory.lock();
        match change {
            Change::Updated { old, new } if old.pairs() == new.pairs() && same(&***old, &***new) => return,
            Change::Updated { old, .. } => memory.forget(&key, old.pairs()),
            Change::Deleted(old) => {
                memory.forget(&key, old.pairs());
                memory.pods.remove(&key);
                return;
            }
            Change::Added(_) => {}
        }
        memory.note(&key, object.pairs());
        let Some(matcher) = object.matcher() else { return drop(memory.pods.remove(&key)) };
        let pods = self.pods.list_namespace(&key.namespace);
        let names = pods.iter().filter(|pod| matcher.matches(&pod.metadata)).map(|pod| pod.name_any()).collect();
        memory.pods.insert(key, names);
    }

    fn pod_changed(&self, change: &Change<'_, Pod>) {
        let relabeled = match change {
            Change::Updated { old, new } if old.metadata.labels == new.metadata.labels => return,
            Change::Updated { old, .. } => Some(*old),
            Change::Added(_) | Change::Deleted(_) => None,
        };
        let pod = change.object();
        let name = pod.name_any();
        let mut memory = self.memory.lock();
        let mut candidates = memory.candidates(&pod.metadata);
        candidates.extend(relabeled.into_iter().flat_map(|old| memory.candidates(&old.metadata)));
        for key in candidates {
            let matches = || {
                let matcher = self.selectors.get_key(&key).and_then(|selector| selector.matcher());
                matcher.is_some_and(|matcher| matcher.matches(&pod.metadata))
            };
            let names = memory.pods.entry(key.clone()).or_default();
            if matches!(change, Change::Deleted(_)) || !matches() {
                names.remove(&name);
            } else {
                names.insert(name.clone());
            }
        }
    }

    /// The pods that a selector matches.
    pub(crate) fn pods_of(&self, selector: &S) -> Vec<Arc<Pod>> {
        let Some(matcher) = selector.matcher() else { return Vec::new() };
        let namespace = selector.meta().namespace.clone().unwrap_or_default();
        let key = NamespacedName::new(namespace, selector.meta().name.clone().unwrap_or_default());
        let names = self.memory.lock().pods.get(&key).cloned().unwrap_or_default();
        let pods = names.iter().filter_map(|name| self.pods.get(&key.namespace, name));
        pods.filter(|pod| matcher.matches(&pod.metadata)).collect()
    }

    /// The selectors that match these labels, in order of their names.
    pub(crate) fn selectors_of(&self, meta: &ObjectMeta) -> Vec<Arc<S>> {
        let candidates = self.memory.lock().candidates(meta);
        let found = candidates.into_iter().filter_map(|key| self.selectors.get_key(&key));
        found.filter(|selector| selector.matcher().is_some_and(|matcher| matcher.matches(meta))).collect()
    }
}

/// Whether two versions select the same; what cannot be compared does not.
fn same<S: Selects>(old: &S, new: &S) -> bool {
    match (old.matcher(), new.matcher()) {
        (None, None) => true,
        (Some(old), Some(new)) => old == new,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};
    use serde_json::{Value, json};

    fn from<K: DeserializeOwned>(value: Value) -> K {
        serde_json::from_value(value).expect("fits the type")
    }

    fn labels(random: &mut StdRng) -> Value {
        let mut labels = serde_json::Map::new();
        for key in ["a", "b", "c"] {
            if random.random_range(0..3) > 0 {
                labels.insert(key.to_owned(), json!(random.random_range(0..2).to_string()));
            }
        }
        labels.into()
    }

    fn budget(random: &mut StdRng, name: &str) -> PodDisruptionBudget {
        let selector = match random.random_range(0..5) {
            0 => json!({}),
            1 => json!({"matchExpressions": [{"key": "a", "operator": "In", "values": ["0", "1"]}]}),
            2 => json!({"matchExpressions": [{"key": "b", "operator": "DoesNotExist"}]}),
            3 => Value::Null,
            _ => json!({"matchLabels": labels(random)}),
        };
        from(json!({"metadata": {"name": name, "namespace": "n"}, "spec": {"selector": selector}}))
    }

    /// Whatever changes: what is remembered is what a look at everything finds.
    #[test]
    fn what_is_remembered_is_what_is_there() {
        let mut random = StdRng::seed_from_u64(7);
        let (mut pods, mut budgets): (BTreeMap<String, Arc<Pod>>, BTreeMap<String, Arc<PodDisruptionBudget>>) =
            Default::default();
        let memory: Arc<Mutex<Memory>> = Arc::default();
        let mut found = 0;
        for _ in 0..3000 {
            // Stores are as informers have them: changed before a handler hears of it.
            let stores = |pods: &BTreeMap<String, Arc<Pod>>, budgets: &BTreeMap<String, Arc<PodDisruptionBudget>>| Selected {
                memory: memory.clone(),
                selectors: Store::from_objects(budgets.values().map(|budget| (**budget).clone())),
                pods: Store::from_objects(pods.values().map(|pod| (**pod).clone())),
            };
            let name = format!("x{}", random.random_range(0..6));
            if random.random_bool(0.6) {
                let gone = random.random_bool(0.2);
                let new: Arc<Pod> = from(json!({"metadata": {"name": name, "namespace": "n", "labels": labels(&mut random)}}));
                let old = if gone { pods.remove(&name) } else { pods.insert(name, new.clone()) };
                let selected = stores(&pods, &budgets);
                match (&old, gone) {
                    (Some(old), true) => selected.pod_changed(&Change::Deleted(old)),
                    (Some(old), false) => selected.pod_changed(&Change::Updated { old, new: &new }),
                    (None, false) => selected.pod_changed(&Change::Added(&new)),
                    (None, true) => {}
                }
            } else {
                let gone = random.random_bool(0.2);
                let new = Arc::new(budget(&mut random, &name));
                let old = if gone { budgets.remove(&name) } else { budgets.insert(name, new.clone()) };
                let selected = stores(&pods, &budgets);
                match (&old, gone) {
                    (Some(old), true) => selected.selector_changed(&Change::Deleted(old)),
                    (Some(old), false) => selected.selector_changed(&Change::Updated { old, new: &new }),
                    (None, false) => selected.selector_changed(&Change::Added(&new)),
                    (None, true) => {}
                }
            }
            let selected = stores(&pods, &budgets);
            for budget in budgets.values() {
                let matches = |pod: &&Arc<Pod>| budget.matcher().is_some_and(|matcher| matcher.matches(&pod.metadata));
                let expected: Vec<_> = pods.values().filter(matches).map(|pod| pod.name_any()).collect();
                let remembered: Vec<_> = selected.pods_of(budget).iter().map(|pod| pod.name_any()).collect();
                assert_eq!(remembered, expected, "{budget:?}");
                found += expected.len();
            }
            for pod in pods.values() {
                let matches = |b: &&Arc<PodDisruptionBudget>| b.matcher().is_some_and(|matcher| matcher.matches(&pod.metadata));
                let expected: Vec<_> = budgets.values().filter(matches).map(|budget| budget.name_any()).collect();
                let remembered: Vec<_> = selected.selectors_of(&pod.metadata).iter().map(|budget| budget.name_any()).collect();
                assert_eq!(remembered, expected, "{pod:?}");
            }
        }
        assert!(found > 1000, "the test does something: {found}");
    }
}
