//! InterPodAffinity: pods that want to be near others, or away from them
//! (<https://kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node/#inter-pod-affinity-and-anti-affinity>).
//!
//! `matchLabelKeys` and `mismatchLabelKeys` are merged into the selectors by the API server. What others want of this pod is looked for
//! only on the nodes that have pods with terms.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use crate::config::ConfigError;
use crate::framework::{
    ClusterEvent, Code, CycleState, Filter, Handle, Hint, NODE_SCORE_MAX, Plugin, PreFilter, PreScore, Score, Status,
};
use crate::label_selector::{Labels, Selector};
use crate::node_info::NodeInfo;
use crate::pod_info::{AffinityTerm, PodInfo};
use crate::snapshot::Snapshot;

/// The plugin's arguments (InterPodAffinityArgs).
#[derive(Clone, Copy, Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Args {
    /// What the required affinity of a pod to this one counts in scoring.
    pub(crate) hard_pod_affinity_weight: i64,
    /// Leaves other pods' preferences out unless this one has its own.
    pub(crate) ignore_preferred_terms_of_existing_pods: bool,
}

impl Default for Args {
    fn default() -> Self {
        Self { hard_pod_affinity_weight: 1, ignore_preferred_terms_of_existing_pods: false }
    }
}

pub(super) struct InterPodAffinity {
    handle: Arc<Handle>,
    args: Args,
}

/// How many pods are at a place: a value of a topology label.
type Counts = HashMap<(String, String), i64>;

/// What Filter reads.
#[derive(Clone)]
struct Places {
    /// The terms of the pod, with the namespaces that they mean.
    affinity: Arc<[AffinityTerm]>,
    anti_affinity: Arc<[AffinityTerm]>,
    /// The labels of the pod's own namespace.
    namespace: Arc<Option<Labels>>,
    /// Where pods are that satisfy all affinity terms.
    wanted: Counts,
    /// Where pods are that an anti-affinity term is about.
    unwanted: Counts,
    /// Where pods are that do not want this one.
    unwelcome: Counts,
}

/// What Score reads: the sum of weights for each place, by label and value.
#[derive(Clone)]
struct Weights(Arc<HashMap<String, HashMap<String, i64>>>);

fn count(counts: &mut Counts, term: &AffinityTerm, node: &NodeInfo, by: i64) {
    let Some(value) = node.label(&term.topology_key) else { return };
    let place = (term.topology_key.clone(), value.to_owned());
    let pods = counts.entry(place.clone()).or_default();
    *pods += by;
    if *pods == 0 {
        counts.remove(&place);
    }
}

impl Places {
    fn is_wanted(&self, pod: &Pod) -> bool {
        !self.affinity.is_empty() && self.affinity.iter().all(|term| term.matches(pod, None))
    }

    /// A pod is on the node (`by` 1), or is not any more (-1). `own` is the pod that is being placed.
    fn update(&mut self, own: &Pod, other: &PodInfo, node: &NodeInfo, by: i64) {
        for term in other.required_anti_affinity.iter().filter(|term| term.matches(own, self.namespace.as_ref().as_ref())) {
            count(&mut self.unwelcome, term, node, by);
        }
        self.update_own(&other.pod, node, by);
    }

    fn update_own(&mut self, other: &Pod, node: &NodeInfo, by: i64) {
        if self.is_wanted(other) {
            self.affinity.iter().for_each(|term| count(&mut self.wanted, term, node, by));
        }
        for term in self.anti_affinity.iter().filter(|term| term.matches(other, None)) {
            count(&mut self.unwanted, term, node, by);
        }
    }
}

impl InterPodAffinity {
    pub(super) fn with_args(handle: &Arc<Handle>, args: Args) -> Result<Self, ConfigError> {
        let weight = args.hard_pod_affinity_weight;
        if !(0..=100).contains(&weight) {
            return Err(ConfigError::invalid("hardPodAffinityWeight", weight, "not in valid range [0-100]"));
        }
        Ok(Self { handle: Arc::clone(handle), args })
    }

    /// The terms with the names of the namespaces that their selector means now.
    fn resolve(&self, terms: &[AffinityTerm]) -> Arc<[AffinityTerm]> {
        let resolved = terms.iter().cloned().map(|mut term| {
            if !term.namespace_selector.is_everything() && term.namespace_selector != Selector::nothing() {
                self.handle.listers.namespaces.for_each(|namespace| {
                    if term.namespace_selector.matches(namespace.metadata.labels.as_ref()) {
                        term.namespaces.extend(namespace.metadata.name.clone());
                    }
                });
                term.namespace_selector = Selector::nothing();
            }
            term
        });
        resolved.collect()
    }

    fn namespace_labels(&self, pod: &Pod) -> Arc<Option<Labels>> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        Arc::new(self.handle.listers.with_namespace_labels(namespace, |labels| labels.cloned()))
    }

    fn places(&self, pod: &PodInfo) -> Places {
        Places {
            affinity: self.resolve(&pod.required_affinity),
            anti_affinity: self.resolve(&pod.required_anti_affinity),
            namespace: self.namespace_labels(&pod.pod),
            wanted: Counts::new(),
            unwanted: Counts::new(),
            unwelcome: Counts::new(),
        }
    }
}

impl Plugin for InterPodAffinity {
    fn name(&self) -> &'static str {
        "InterPodAffinity"
    }

    fn hint(&self, pod: &Pod, event: &ClusterEvent) -> Hint {
        let labels_changed = |old: &Pod, new: &Pod| old.metadata.labels != new.metadata.labels;
        let places = || self.places(&PodInfo::new(Arc::new(pod.clone())));
        let unwanted = |places: &Places, other: &Pod| places.anti_affinity.iter().any(|term| term.matches(other, None));
        match event {
            ClusterEvent::AssignedPod { old: None, new: Some(new) } => Hint::queue_if(places().is_wanted(new)),
            ClusterEvent::AssignedPod { old: Some(old), new: None } => {
                let places = places();
                let other = PodInfo::new(Arc::clone(old));
                let mut terms = other.required_anti_affinity.iter();
                let unwelcome = terms.any(|term| term.matches(pod, places.namespace.as_ref().as_ref()));
                Hint::queue_if(unwelcome || unwanted(&places, old))
            }
            ClusterEvent::AssignedPod { old: Some(old), new: Some(new) } if labels_changed(old, new) => {
                let places = places();
                let now_wanted = places.is_wanted(new) && !places.is_wanted(old);
                Hint::queue_if(now_wanted || unwanted(&places, old) && !unwanted(&places, new))
            }
            ClusterEvent::UnscheduledPod { old, new } => Hint::queue_if(labels_changed(old, new)),
            ClusterEvent::Node { old: None, .. } => Hint::Queue,
            ClusterEvent::Node { old: Some(old), new } => Hint::queue_if(old.metadata.labels != new.metadata.labels),
            _ => Hint::Skip,
        }
    }

    fn as_pre_filter(&self) -> Option<&dyn PreFilter> {
        Some(self)
    }

    fn as_filter(&self) -> Option<&dyn Filter> {
        Some(self)
    }

    fn as_pre_score(&self) -> Option<&dyn PreScore> {
        Some(self)
    }

    fn as_score(&self) -> Option<&dyn Score> {
        Some(self)
    }
}

impl PreFilter for InterPodAffinity {
    fn pre_filter(&self, state: &mut CycleState, pod: &Pod, snapshot: &Snapshot) -> (Status, Option<Vec<String>>) {
        let mut places = self.places(state.pod());
        let namespace = Arc::clone(&places.namespace);
        for node in snapshot.nodes_with_affinity() {
            for other in node.pods_with_affinity() {
                let terms = other.required_anti_affinity.iter();
                for term in terms.filter(|term| term.matches(pod, namespace.as_ref().as_ref())) {
                    count(&mut places.unwelcome, term, node, 1);
                }
            }
        }
        let has_terms = !places.affinity.is_empty() || !places.anti_affinity.is_empty();
        if has_terms {
            for node in snapshot.nodes() {
                node.pods().iter().for_each(|other| places.update_own(&other.pod, node, 1));
            }
        } else if places.unwelcome.is_empty() {
            return (Status::skip(), None);
        }
        state.put(places);
        (Status::success(), None)
    }

    fn add_pod(&self, state: &mut CycleState, pod: &Pod, other: &PodInfo, node: &NodeInfo) {
        if let Some(places) = state.get_mut::<Places>() {
            places.update(pod, other, node, 1);
        }
    }

    fn remove_pod(&self, state: &mut CycleState, pod: &Pod, other: &PodInfo, node: &NodeInfo) {
        if let Some(places) = state.get_mut::<Places>() {
            places.update(pod, other, node, -1);
        }
    }
}

impl Filter for InterPodAffinity {
    fn filter(&self, state: &CycleState, pod: &Pod, node: &NodeInfo) -> Status {
        let Some(places) = state.get::<Places>() else { return Status::success() };
        let at = |counts: &Counts, term: &AffinityTerm| {
            let place = node.label(&term.topology_key).map(|value| (term.topology_key.clone(), value.to_owned()));
            place.map(|place| counts.get(&place).copied().unwrap_or_default() > 0)
        };
        let labelled = places.affinity.iter().all(|term| at(&places.wanted, term).is_some());
        let near = places.affinity.iter().all(|term| at(&places.wanted, term) == Some(true));
        // The first of a group that wants to be together cannot wait for the others.
        let first = places.wanted.is_empty() && places.is_wanted(pod);
        if !labelled || !near && !first {
            return Status::new(Code::UnschedulableAndUnresolvable, ["node(s) didn't match pod affinity rules"]);
        }
        if places.anti_affinity.iter().any(|term| at(&places.unwanted, term) == Some(true)) {
            return Status::new(Code::Unschedulable, ["node(s) didn't match pod anti-affinity rules"]);
        }
        let mut labels = node.node().metadata.labels.iter().flatten();
        if !places.unwelcome.is_empty()
            && labels.any(|(key, value)| places.unwelcome.get(&(key.clone(), value.clone())).is_some_and(|pods| *pods > 0))
        {
            return Status::new(Code::Unschedulable, ["node(s) didn't satisfy existing pods anti-affinity rules"]);
        }
        Status::success()
    }
}

impl PreScore for InterPodAffinity {
    fn pre_score(&self, state: &mut CycleState, pod: &Pod, _nodes: &[Arc<NodeInfo>], snapshot: &Snapshot) -> Status {
        let own = Arc::clone(state.pod());
        let (near, away) = (self.resolve(&own.preferred_affinity), self.resolve(&own.preferred_anti_affinity));
        let has_own = !near.is_empty() || !away.is_empty();
        if !has_own && self.args.ignore_preferred_terms_of_existing_pods {
            return Status::skip();
        }
        let namespace = self.namespace_labels(pod);
        let namespace = namespace.as_ref().as_ref();
        let mut weights: HashMap<String, HashMap<String, i64>> = HashMap::new();
        let mut add = |term: &AffinityTerm, node: &NodeInfo, weight: i64| {
            if let Some(value) = node.label(&term.topology_key) {
                let places = weights.entry(term.topology_key.clone()).or_default();
                *places.entry(value.to_owned()).or_default() += weight;
            }
        };
        for node in snapshot.nodes_with_affinity() {
            for other in node.pods_with_affinity() {
                let about_own = |term: &&AffinityTerm| term.matches(pod, namespace);
                other.required_affinity.iter().filter(about_own).for_each(|t| add(t, node, self.args.hard_pod_affinity_weight));
                other.preferred_affinity.iter().filter(about_own).for_each(|term| add(term, node, term.weight));
                other.preferred_anti_affinity.iter().filter(about_own).for_each(|term| add(term, node, -term.weight));
            }
        }
        if has_own {
            for node in snapshot.nodes() {
                for other in node.pods() {
                    near.iter().filter(|t| t.matches(&other.pod, None)).for_each(|term| add(term, node, term.weight));
                    away.iter().filter(|t| t.matches(&other.pod, None)).for_each(|term| add(term, node, -term.weight));
                }
            }
        }
        if weights.is_empty() {
            return Status::skip();
        }
        state.put(Weights(Arc::new(weights)));
        Status::success()
    }
}

impl Score for InterPodAffinity {
    fn score(&self, state: &CycleState, _pod: &Pod, node: &NodeInfo) -> i64 {
        let Some(Weights(weights)) = state.get() else { return 0 };
        weights.iter().filter_map(|(key, places)| places.get(node.label(key)?)).sum()
    }

    fn normalize(&self, _state: &CycleState, _nodes: &[Arc<NodeInfo>], scores: &mut [i64]) {
        let (least, most) = (scores.iter().min().copied().unwrap_or_default(), scores.iter().max().copied().unwrap_or_default());
        for score in scores {
            let share = if most > least { (*score - least) as f64 / (most - least) as f64 } else { 0.0 };
            *score = (NODE_SCORE_MAX as f64 * share) as i64;
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Namespace;
    use serde_json::{Value, json};

    use super::*;
    use crate::plugins::testing::{filter_among, node, scores};

    const YES: Code = Code::Success;
    const NO: Code = Code::Unschedulable;
    const NEVER: Code = Code::UnschedulableAndUnresolvable;

    fn pod(name: &str, app: &str, affinity: Value) -> Pod {
        let object = json!({
            "metadata": {"name": name, "uid": name, "namespace": "d", "labels": {"app": app}},
            "spec": {"containers": [], "affinity": affinity},
        });
        serde_json::from_value(object).unwrap()
    }

    fn term(app: &str) -> Value {
        json!({"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": app}}})
    }

    fn required(kind: &str, term: Value) -> Value {
        json!({kind: {"requiredDuringSchedulingIgnoredDuringExecution": [term]}})
    }

    fn preferred(kind: &str, term: Value) -> Value {
        json!({kind: {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 10, "podAffinityTerm": term}]}})
    }

    /// Two nodes in zone a, one in b, one without a zone; the pods run on the first.
    fn nodes(pods: Vec<Pod>) -> Vec<NodeInfo> {
        let make = |name: &str, zone: &str| node(json!({"metadata": {"name": name, "labels": {"zone": zone}}}));
        let mut nodes = vec![make("a1", "a"), make("a2", "a"), make("b", "b"), node(json!({"metadata": {"name": "c"}}))];
        pods.into_iter().for_each(|pod| nodes[0].add_pod(&Arc::new(PodInfo::new(Arc::new(pod)))));
        nodes
    }

    fn plugin() -> InterPodAffinity {
        InterPodAffinity::with_args(&Arc::default(), Args::default()).unwrap()
    }

    #[test]
    fn required_terms() {
        let check = |pod: Pod, others: Vec<Pod>, expected: [Code; 4]| {
            assert_eq!(filter_among(&plugin(), &pod, nodes(others)), expected);
        };
        let web = || pod("w", "web", Value::Null);
        check(pod("p", "x", Value::Null), vec![web()], [YES; 4]);
        check(pod("p", "x", required("podAffinity", term("web"))), vec![web()], [YES, YES, NEVER, NEVER]);
        check(pod("p", "x", required("podAntiAffinity", term("web"))), vec![web()], [NO, NO, YES, YES]);
        // The first of its group goes anywhere that has the label.
        check(pod("p", "x", required("podAffinity", term("x"))), vec![web()], [YES, YES, YES, NEVER]);
        check(pod("p", "x", required("podAffinity", term("y"))), vec![web()], [NEVER; 4]);
        // Others may not want it.
        let hermit = pod("h", "hermit", required("podAntiAffinity", term("x")));
        check(pod("p", "x", Value::Null), vec![hermit], [NO, NO, YES, YES]);
    }

    #[test]
    fn namespaces_are_chosen_by_name_or_label() {
        let mut handle = Handle::default();
        let namespace = json!({"metadata": {"name": "d", "labels": {"team": "one"}}});
        let namespace: Namespace = serde_json::from_value(namespace).unwrap();
        handle.listers.namespaces = client::Store::from_objects([namespace]);
        let plugin = InterPodAffinity::with_args(&Arc::new(handle), Args::default()).unwrap();
        let check = |narrow: Value, expected: Code| {
            let mut near = term("web");
            near.as_object_mut().unwrap().extend(narrow.as_object().unwrap().clone());
            let mut own = pod("p", "x", required("podAffinity", near));
            own.metadata.namespace = Some("other".into());
            assert_eq!(filter_among(&plugin, &own, nodes(vec![pod("w", "web", Value::Null)]))[0], expected, "{narrow}");
        };
        check(json!({}), NEVER);
        check(json!({"namespaces": ["d"]}), YES);
        check(json!({"namespaceSelector": {}}), YES);
        check(json!({"namespaceSelector": {"matchLabels": {"team": "one"}}}), YES);
        check(json!({"namespaceSelector": {"matchLabels": {"team": "two"}}}), NEVER);
    }

    #[test]
    fn preferences_of_both_sides_count() {
        let check = |own: Value, others: Vec<Pod>, expected: [i64; 4]| {
            assert_eq!(scores(&plugin(), &pod("p", "x", own), nodes(others)), expected);
        };
        let web = || vec![pod("w", "web", Value::Null)];
        check(Value::Null, web(), [0; 4]);
        check(preferred("podAffinity", term("web")), web(), [100, 100, 0, 0]);
        check(preferred("podAntiAffinity", term("web")), web(), [0, 0, 100, 100]);
        check(Value::Null, vec![pod("h", "h", preferred("podAntiAffinity", term("x")))], [0, 0, 100, 100]);
        check(Value::Null, vec![pod("h", "h", required("podAffinity", term("x")))], [100, 100, 0, 0]);
    }

    #[test]
    fn counting_one_by_one_equals_counting_at_once() {
        let terms = json!({
            "podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term("web")]},
            "podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term("hermit")]},
        });
        let own = pod("p", "x", terms);
        let others = [
            pod("w", "web", Value::Null),
            pod("h", "hermit", required("podAntiAffinity", term("x"))),
            pod("z", "z", Value::Null),
        ];
        let plugin = plugin();
        let prepared = |nodes: Vec<NodeInfo>| {
            let mut state = crate::plugins::testing::state(&own);
            plugin.pre_filter(&mut state, &own, &Snapshot::of(nodes.into_iter().map(Arc::new)));
            state
        };
        let counts =
            |state: &CycleState| state.get::<Places>().map(|p| (p.wanted.clone(), p.unwanted.clone(), p.unwelcome.clone()));
        let at_once = prepared(nodes(others.to_vec()));
        let empty = nodes(Vec::new());
        let mut one_by_one = prepared(empty.clone());
        let infos: Vec<_> = others.into_iter().map(|pod| PodInfo::new(Arc::new(pod))).collect();
        infos.iter().for_each(|other| plugin.add_pod(&mut one_by_one, &own, other, &empty[0]));
        assert_eq!(counts(&at_once), counts(&one_by_one));
        infos.iter().for_each(|other| plugin.remove_pod(&mut one_by_one, &own, other, &empty[0]));
        assert_eq!(counts(&prepared(empty.clone())), counts(&one_by_one));
    }
}
