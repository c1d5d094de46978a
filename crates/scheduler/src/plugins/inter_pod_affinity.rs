//! InterPodAffinity: pods that want to be near others, or away from them
//! (<https://kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node/#inter-pod-affinity-and-anti-affinity>).
//!
//! `matchLabelKeys` and `mismatchLabelKeys` are merged into the selectors by the API server. What is counted over all nodes is kept for the
//! next pod of its kind.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use crate::config::ConfigError;
use crate::framework::{
    ClusterEvent, Code, CycleState, EventSet, Filter, Handle, Hint, NODE_SCORE_MAX, Plugin, PreFilter, PreScore, Score, Sign,
    Signer, Status,
};
use crate::label_selector::{Labels, Selector};
use crate::memo::{Memo, Over};
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
    /// Where pods are that satisfy the affinity terms, and where those are that an anti-affinity term is about.
    own: Memo<(Terms, Terms), (Counts, Counts)>,
    /// Where pods are that do not want one.
    unwelcome: Memo<Identity, Counts>,
    /// What preferences of both sides sum up to.
    weights: Memo<(Identity, Terms, Terms), Counts>,
}

type Terms = Arc<[AffinityTerm]>;

/// What the terms of others look at.
#[derive(Clone, PartialEq)]
struct Identity {
    namespace: Option<String>,
    labels: Option<Labels>,
    namespace_labels: Arc<Option<Labels>>,
}

/// How much there is at each place: for a topology label by its value. Nothing is not kept.
#[derive(Clone, Debug, Default, PartialEq)]
struct Counts(Vec<(String, imbl::HashMap<String, i64>)>);

impl Counts {
    /// Adds at the node's place for a label, if it has one.
    fn add(&mut self, key: &str, node: &NodeInfo, by: i64) {
        let Some(value) = node.label(key).filter(|_| by != 0) else { return };
        let index = self.0.iter().position(|(known, _)| known == key).unwrap_or_else(|| {
            self.0.push((key.to_owned(), imbl::HashMap::new()));
            self.0.len() - 1
        });
        let places = &mut self.0[index].1;
        match places.get_mut(value) {
            Some(sum) if *sum + by == 0 => {
                places.remove(value);
            }
            Some(sum) => *sum += by,
            None => {
                places.insert(value.to_owned(), by);
            }
        }
        if places.is_empty() {
            self.0.remove(index);
        }
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What there is at the node's place for a label; `None` if the node does not have it.
    fn at(&self, key: &str, node: &NodeInfo) -> Option<i64> {
        let value = node.label(key)?;
        let places = self.0.iter().find(|(known, _)| known == key);
        Some(places.and_then(|(_, places)| places.get(value)).copied().unwrap_or_default())
    }

    /// The sum over all labels.
    fn sum(&self, node: &NodeInfo) -> i64 {
        self.0.iter().filter_map(|(key, places)| places.get(node.label(key)?)).sum()
    }

    /// Whether there is anything at the node's place for any label.
    fn any(&self, node: &NodeInfo) -> bool {
        self.0.iter().any(|(key, places)| node.label(key).is_some_and(|value| places.get(value).is_some_and(|count| *count > 0)))
    }
}

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

/// What Score reads.
#[derive(Clone)]
struct Weights(Counts);

fn is_wanted(affinity: &[AffinityTerm], pod: &Pod) -> bool {
    !affinity.is_empty() && affinity.iter().all(|term| term.matches(pod, None))
}

/// A pod is on the node (`by` 1), or is not any more (-1): what the terms of the one that is being placed make of it.
fn count_own(
    terms: (&[AffinityTerm], &[AffinityTerm]),
    counts: (&mut Counts, &mut Counts),
    other: &Pod,
    node: &NodeInfo,
    by: i64,
) {
    let ((affinity, anti_affinity), (wanted, unwanted)) = (terms, counts);
    if is_wanted(affinity, other) {
        affinity.iter().for_each(|term| wanted.add(&term.topology_key, node, by));
    }
    for term in anti_affinity.iter().filter(|term| term.matches(other, None)) {
        unwanted.add(&term.topology_key, node, by);
    }
}

impl Places {
    /// A pod is on the node (`by` 1), or is not any more (-1). `own` is the pod that is being placed.
    fn update(&mut self, own: &Pod, other: &PodInfo, node: &NodeInfo, by: i64) {
        for term in other.required_anti_affinity.iter().filter(|term| term.matches(own, self.namespace.as_ref().as_ref())) {
            self.unwelcome.add(&term.topology_key, node, by);
        }
        let terms = (&*self.affinity, &*self.anti_affinity);
        count_own(terms, (&mut self.wanted, &mut self.unwanted), &other.pod, node, by);
    }
}

impl InterPodAffinity {
    pub(super) fn with_args(handle: &Arc<Handle>, args: Args) -> Result<Self, ConfigError> {
        let weight = args.hard_pod_affinity_weight;
        if !(0..=100).contains(&weight) {
            return Err(ConfigError::invalid("hardPodAffinityWeight", weight, "not in valid range [0-100]"));
        }
        Ok(Self { handle: Arc::clone(handle), args, own: Memo::default(), unwelcome: Memo::default(), weights: Memo::default() })
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
            wanted: Counts::default(),
            unwanted: Counts::default(),
            unwelcome: Counts::default(),
        }
    }

    fn identity(&self, pod: &Pod) -> Identity {
        Identity {
            namespace: pod.metadata.namespace.clone(),
            labels: pod.metadata.labels.clone(),
            namespace_labels: self.namespace_labels(pod),
        }
    }
}

impl Plugin for InterPodAffinity {
    fn name(&self) -> &'static str {
        "InterPodAffinity"
    }

    fn events(&self) -> EventSet {
        EventSet::ASSIGNED_ADD
            .and(EventSet::ASSIGNED_UPDATE)
            .and(EventSet::ASSIGNED_DELETE)
            .and(EventSet::OWN)
            .and(EventSet::NODE_ADD)
            .and(EventSet::NODE_UPDATE)
    }

    fn hint(&self, info: &PodInfo, event: &ClusterEvent) -> Hint {
        let pod = &*info.pod;
        let labels_changed = |old: &Pod, new: &Pod| old.metadata.labels != new.metadata.labels;
        let places = || self.places(info);
        let unwanted = |places: &Places, other: &Pod| places.anti_affinity.iter().any(|term| term.matches(other, None));
        match event {
            ClusterEvent::AssignedPod { old: None, new: Some(new) } => Hint::queue_if(is_wanted(&places().affinity, new)),
            ClusterEvent::AssignedPod { old: Some(old), new: None } => {
                let places = places();
                let other = PodInfo::new(Arc::clone(old));
                let mut terms = other.required_anti_affinity.iter();
                let unwelcome = terms.any(|term| term.matches(pod, places.namespace.as_ref().as_ref()));
                Hint::queue_if(unwelcome || unwanted(&places, old))
            }
            ClusterEvent::AssignedPod { old: Some(old), new: Some(new) } if labels_changed(old, new) => {
                let places = places();
                let now_wanted = is_wanted(&places.affinity, new) && !is_wanted(&places.affinity, old);
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

    fn as_sign(&self) -> Option<&dyn Sign> {
        Some(self)
    }
}

impl Sign for InterPodAffinity {
    fn is_signable(&self, pod: &Pod) -> bool {
        let affinity = pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref());
        affinity.is_none_or(|affinity| affinity.pod_affinity.is_none() && affinity.pod_anti_affinity.is_none())
    }

    fn sign(&self, pod: &PodInfo, signer: &mut Signer) {
        // Else nobody's preferences for its labels count; a node of which somebody bars it is found out when the node is tried.
        if !self.args.ignore_preferred_terms_of_existing_pods {
            signer.add("v1.Pod.Labels", || Ok(&pod.pod.metadata.labels));
        }
    }
}

impl PreFilter for InterPodAffinity {
    fn pre_filter(&self, state: &mut CycleState, pod: &Pod, snapshot: &Snapshot) -> (Status, Option<Vec<String>>) {
        let mut places = self.places(state.pod());
        let namespace = Arc::clone(&places.namespace);
        places.unwelcome = self.unwelcome.get(self.identity(pod), Over::NodesWithAffinity, snapshot, |counts, node, by| {
            for other in node.pods_with_affinity() {
                let terms = other.required_anti_affinity.iter();
                for term in terms.filter(|term| term.matches(pod, namespace.as_ref().as_ref())) {
                    counts.add(&term.topology_key, node, by);
                }
            }
        });
        let has_terms = !places.affinity.is_empty() || !places.anti_affinity.is_empty();
        if has_terms {
            let terms = (Arc::clone(&places.affinity), Arc::clone(&places.anti_affinity));
            let (near, away) = terms.clone();
            (places.wanted, places.unwanted) = self.own.get(terms, Over::Nodes, snapshot, |(wanted, unwanted), node, by| {
                node.pods()
                    .iter()
                    .for_each(|other| count_own((&near, &away), (&mut *wanted, &mut *unwanted), &other.pod, node, by));
            });
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
        let at = |counts: &Counts, term: &AffinityTerm| counts.at(&term.topology_key, node).map(|pods| pods > 0);
        let labelled = places.affinity.iter().all(|term| at(&places.wanted, term).is_some());
        let near = places.affinity.iter().all(|term| at(&places.wanted, term) == Some(true));
        // The first of a group that wants to be together cannot wait for the others.
        let first = places.wanted.is_empty() && is_wanted(&places.affinity, pod);
        if !labelled || !near && !first {
            return Status::new(Code::UnschedulableAndUnresolvable, ["node(s) didn't match pod affinity rules"]);
        }
        if places.anti_affinity.iter().any(|term| at(&places.unwanted, term) == Some(true)) {
            return Status::new(Code::Unschedulable, ["node(s) didn't match pod anti-affinity rules"]);
        }
        if places.unwelcome.any(node) {
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
        let identity = self.identity(pod);
        let namespace = Arc::clone(&identity.namespace_labels);
        let key = (identity, Arc::clone(&near), Arc::clone(&away));
        let over = if has_own { Over::Nodes } else { Over::NodesWithAffinity };
        let weights = self.weights.get(key, over, snapshot, |sums, node, by| {
            for other in node.pods_with_affinity() {
                let about_own = |term: &&AffinityTerm| term.matches(pod, namespace.as_ref().as_ref());
                let mut add = |term: &AffinityTerm, weight: i64| sums.add(&term.topology_key, node, by * weight);
                other.required_affinity.iter().filter(about_own).for_each(|term| add(term, self.args.hard_pod_affinity_weight));
                other.preferred_affinity.iter().filter(about_own).for_each(|term| add(term, term.weight));
                other.preferred_anti_affinity.iter().filter(about_own).for_each(|term| add(term, -term.weight));
            }
            for other in node.pods().iter().filter(|_| has_own) {
                let mut add = |term: &AffinityTerm, weight: i64| sums.add(&term.topology_key, node, by * weight);
                near.iter().filter(|term| term.matches(&other.pod, None)).for_each(|term| add(term, term.weight));
                away.iter().filter(|term| term.matches(&other.pod, None)).for_each(|term| add(term, -term.weight));
            }
        });
        if weights.is_empty() {
            return Status::skip();
        }
        state.put(Weights(weights));
        Status::success()
    }
}

impl Score for InterPodAffinity {
    fn score(&self, state: &CycleState, _pod: &Pod, node: &NodeInfo) -> i64 {
        state.get::<Weights>().map_or(0, |Weights(weights)| weights.sum(node))
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
