//! PodTopologySpread: keeps the pods of a group evenly over zones, nodes or other places
//! (<https://kubernetes.io/docs/concepts/scheduling-eviction/topology-spread-constraints/>).

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, NodeSelector, Pod, Toleration, TopologySpreadConstraint};

use super::default_selector::{self, default_selector};
use super::{node_affinity, taint_toleration};
use crate::config::ConfigError;
use crate::framework::{
    ClusterEvent, Code, CycleState, EventSet, Filter, Handle, Hint, NODE_SCORE_MAX, Plugin, PreFilter, PreScore, Score, Sign,
    Signer, Status,
};
use crate::label_selector::Selector;
use crate::memo::{Memo, Over};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use crate::snapshot::Snapshot;

const HOSTNAME: &str = "kubernetes.io/hostname";
const ZONE: &str = "topology.kubernetes.io/zone";

/// The plugin's arguments (PodTopologySpreadArgs).
#[derive(Clone, Default, Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Args {
    /// For pods without constraints of their own, if the type is `List`.
    pub(crate) default_constraints: Vec<TopologySpreadConstraint>,
    /// `System` (the default) or `List`.
    pub(crate) defaulting_type: Option<String>,
}

pub(super) struct PodTopologySpread {
    handle: Arc<Handle>,
    defaults: Vec<TopologySpreadConstraint>,
    /// The defaults are the system's: nodes without their labels count nevertheless.
    system_defaulted: bool,
    /// The pods in each place, for each hard constraint.
    hard: Memo<Kind, Vec<Domains>>,
}

/// A constraint, compiled.
#[derive(Clone, Debug, PartialEq)]
struct Constraint {
    max_skew: i64,
    key: String,
    selector: Selector,
    min_domains: usize,
    honor_affinity: bool,
    honor_taints: bool,
}

impl Constraint {
    fn new(constraint: &TopologySpreadConstraint, pod: &Pod) -> Self {
        let labels = pod.metadata.labels.as_ref();
        let mut selector = Selector::new(constraint.label_selector.as_ref());
        for key in constraint.match_label_keys.iter().flatten() {
            if let Some(value) = labels.and_then(|labels| labels.get(key)) {
                selector.require(key, "In", vec![value.clone()]);
            }
        }
        Self {
            max_skew: i64::from(constraint.max_skew),
            key: constraint.topology_key.clone(),
            selector,
            min_domains: constraint.min_domains.and_then(|domains| usize::try_from(domains).ok()).unwrap_or(1),
            honor_affinity: constraint.node_affinity_policy.as_deref() != Some("Ignore"),
            honor_taints: constraint.node_taints_policy.as_deref() == Some("Honor"),
        }
    }

    /// Whether the node's pods count.
    fn includes(&self, pod: &Pod, node: &Node) -> bool {
        let taints = || node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
        (!self.honor_affinity || node_affinity::accepts(pod, node))
            && (!self.honor_taints || taint_toleration::accepts(pod, taints()))
    }

    fn concerns(&self, pod: &Pod, other: &Pod) -> bool {
        other.metadata.deletion_timestamp.is_none()
            && other.metadata.namespace == pod.metadata.namespace
            && !self.selector.is_everything()
            && self.selector.matches(other.metadata.labels.as_ref())
    }

    fn count(&self, pod: &Pod, node: &NodeInfo) -> i64 {
        let concerned = node.pods().iter().filter(|other| self.concerns(pod, &other.pod)).count();
        i64::try_from(concerned).unwrap_or(i64::MAX)
    }
}

fn has_all_keys(node: &NodeInfo, constraints: &[Constraint]) -> bool {
    constraints.iter().all(|constraint| node.label(&constraint.key).is_some())
}

/// The pods in each place that has a node which counts.
#[derive(Clone, Debug, Default, PartialEq)]
struct Domains {
    /// Pods and nodes.
    places: imbl::HashMap<String, (i64, i64)>,
    /// How many places have so many pods: the least is found at once.
    tally: imbl::OrdMap<i64, i64>,
}

impl Domains {
    /// Changes the pods and the nodes of a place. One without nodes is none.
    fn update(&mut self, place: &str, pods: i64, nodes: i64) {
        let before = self.places.get(place).copied();
        if before.is_none() && nodes <= 0 {
            return;
        }
        let (pods_before, nodes_before) = before.unwrap_or_default();
        let after = (pods_before + pods, nodes_before + nodes);
        if before.is_some() {
            self.count(pods_before, -1);
        }
        if after.1 > 0 {
            self.places.insert(place.to_owned(), after);
            self.count(after.0, 1);
        } else {
            self.places.remove(place);
        }
    }

    fn count(&mut self, pods: i64, by: i64) {
        let places = self.tally.get(&pods).copied().unwrap_or_default() + by;
        if places == 0 {
            self.tally.remove(&pods);
        } else {
            self.tally.insert(pods, places);
        }
    }

    /// The pods of the place that has the fewest.
    fn least(&self) -> i64 {
        self.tally.get_min().map_or(i64::from(i32::MAX), |(pods, _)| *pods)
    }
}

/// What the counts of the hard constraints depend on besides the nodes.
#[derive(PartialEq)]
struct Kind {
    namespace: Option<String>,
    constraints: Arc<[Constraint]>,
    /// Decide which nodes count.
    node_selector: Option<std::collections::BTreeMap<String, String>>,
    affinity: Option<NodeSelector>,
    tolerations: Vec<Toleration>,
}

impl Kind {
    fn new(pod: &Pod, constraints: &Arc<[Constraint]>) -> Self {
        let spec = pod.spec.as_ref();
        let affinity = spec.and_then(|spec| spec.affinity.as_ref()).and_then(|affinity| affinity.node_affinity.as_ref());
        Self {
            namespace: pod.metadata.namespace.clone(),
            constraints: Arc::clone(constraints),
            node_selector: spec.and_then(|spec| spec.node_selector.clone()),
            affinity: affinity.and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.clone()),
            tolerations: super::tolerations(pod).to_vec(),
        }
    }
}

/// What Filter reads.
#[derive(Clone)]
struct Hard {
    constraints: Arc<[Constraint]>,
    domains: Vec<Domains>,
}

/// What Score reads.
#[derive(Clone)]
struct Soft {
    constraints: Arc<[Constraint]>,
    /// For each constraint the pods in each place; for host names, on each node, by its name.
    pods: Arc<[HashMap<String, i64>]>,
    weights: Arc<[f64]>,
    require_all_keys: bool,
}

impl PodTopologySpread {
    pub(super) fn with_args(handle: &Arc<Handle>, args: Args) -> Result<Self, ConfigError> {
        let system_defaulted = match args.defaulting_type.as_deref() {
            None | Some("System") => true,
            Some("List") => false,
            Some(other) => return Err(ConfigError::invalid("defaultingType", other, "supported values: \"System\", \"List\"")),
        };
        if system_defaulted && !args.default_constraints.is_empty() {
            let reason = "when .defaultingType is System, .defaultConstraints must be empty";
            return Err(ConfigError::invalid("defaultingType", "System", reason));
        }
        let system = |(key, max_skew): (&str, i32)| TopologySpreadConstraint {
            topology_key: key.to_owned(),
            max_skew,
            when_unsatisfiable: "ScheduleAnyway".to_owned(),
            ..TopologySpreadConstraint::default()
        };
        default_selector::index(&handle.listers.services);
        let defaults = if system_defaulted { [(HOSTNAME, 3), (ZONE, 5)].map(system).to_vec() } else { args.default_constraints };
        Ok(Self { handle: Arc::clone(handle), defaults, system_defaulted, hard: Memo::default() })
    }

    fn constraints(&self, pod: &Pod, action: &str) -> Vec<Constraint> {
        let own = pod.spec.as_ref().and_then(|spec| spec.topology_spread_constraints.as_deref()).unwrap_or_default();
        let chosen = |constraints: &[TopologySpreadConstraint]| -> Vec<Constraint> {
            let chosen = constraints.iter().filter(|constraint| constraint.when_unsatisfiable == action);
            chosen.map(|constraint| Constraint::new(constraint, pod)).collect()
        };
        if !own.is_empty() {
            return chosen(own);
        }
        let mut defaults = chosen(&self.defaults);
        if !defaults.is_empty() {
            let selector = default_selector(pod, &self.handle.listers);
            if selector.is_everything() {
                return Vec::new();
            }
            defaults.iter_mut().for_each(|constraint| constraint.selector = selector.clone());
        }
        defaults
    }
}

impl Hard {
    fn update(&mut self, pod: &Pod, other: &PodInfo, node: &NodeInfo, by: i64) {
        if !has_all_keys(node, &self.constraints) {
            return;
        }
        for (constraint, domains) in self.constraints.iter().zip(&mut self.domains) {
            if constraint.concerns(pod, &other.pod) && constraint.includes(pod, node.node()) {
                domains.update(node.label(&constraint.key).unwrap_or_default(), by, 0);
            }
        }
    }
}

impl Plugin for PodTopologySpread {
    fn name(&self) -> &'static str {
        "PodTopologySpread"
    }

    fn events(&self) -> EventSet {
        EventSet::ASSIGNED_ADD
            .and(EventSet::ASSIGNED_UPDATE)
            .and(EventSet::ASSIGNED_DELETE)
            .and(EventSet::OWN)
            .and(EventSet::NODE_ADD)
            .and(EventSet::NODE_UPDATE)
            .and(EventSet::NODE_DELETE)
    }

    fn hint(&self, info: &PodInfo, event: &ClusterEvent) -> Hint {
        let pod = &*info.pod;
        let constraints = self.constraints(pod, "DoNotSchedule");
        let matches = |other: &Pod| constraints.iter().any(|one| one.selector.matches(other.metadata.labels.as_ref()));
        let near = |other: &Pod| other.metadata.namespace == pod.metadata.namespace;
        let keys = |node: &Node| -> Vec<Option<String>> {
            let labels = node.metadata.labels.as_ref();
            constraints.iter().map(|one| labels.and_then(|labels| labels.get(&one.key)).cloned()).collect()
        };
        let complete = |node: &Node| keys(node).iter().all(Option::is_some);
        let taints = |node: &Node| node.spec.as_ref().and_then(|spec| spec.taints.clone());
        match event {
            ClusterEvent::AssignedPod { old: Some(old), new: Some(new) } if near(new) => {
                let (old, new) = (old.metadata.labels.as_ref(), new.metadata.labels.as_ref());
                Hint::queue_if(constraints.iter().any(|one| one.selector.matches(old) != one.selector.matches(new)))
            }
            ClusterEvent::AssignedPod { old: Some(other), new: None }
            | ClusterEvent::AssignedPod { old: None, new: Some(other) } => Hint::queue_if(near(other) && matches(other)),
            ClusterEvent::UnscheduledPod { old, new } => {
                let tolerations = super::tolerations(old) != super::tolerations(new);
                let honored = constraints.iter().any(|one| one.honor_taints);
                Hint::queue_if(old.metadata.labels != new.metadata.labels || tolerations && honored)
            }
            ClusterEvent::Node { old: Some(old), new } => {
                let labels = complete(old) != complete(new) || complete(new) && keys(old) != keys(new);
                Hint::queue_if(labels || complete(new) && taints(old) != taints(new))
            }
            ClusterEvent::Node { old: None, new: node } | ClusterEvent::NodeGone(node) => Hint::queue_if(complete(node)),
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

impl Sign for PodTopologySpread {
    fn is_signable(&self, pod: &Pod) -> bool {
        let own = pod.spec.as_ref().and_then(|spec| spec.topology_spread_constraints.as_deref()).unwrap_or_default();
        own.is_empty() && self.defaults.is_empty()
    }

    fn sign(&self, _pod: &PodInfo, _signer: &mut Signer) {}
}

impl PreFilter for PodTopologySpread {
    fn pre_filter(&self, state: &mut CycleState, pod: &Pod, snapshot: &Snapshot) -> (Status, Option<Vec<String>>) {
        let constraints: Arc<[Constraint]> = self.constraints(pod, "DoNotSchedule").into();
        if constraints.is_empty() {
            return (Status::skip(), None);
        }
        let domains = self.hard.get(Kind::new(pod, &constraints), Over::Nodes, snapshot, |domains, node, by| {
            domains.resize_with(constraints.len(), Domains::default);
            for (constraint, domains) in constraints.iter().zip(domains).filter(|_| has_all_keys(node, &constraints)) {
                if constraint.includes(pod, node.node()) {
                    let place = node.label(&constraint.key).unwrap_or_default();
                    domains.update(place, by * constraint.count(pod, node), by);
                }
            }
        });
        state.put(Hard { constraints, domains });
        (Status::success(), None)
    }

    fn add_pod(&self, state: &mut CycleState, pod: &Pod, other: &PodInfo, node: &NodeInfo) {
        if let Some(hard) = state.get_mut::<Hard>() {
            hard.update(pod, other, node, 1);
        }
    }

    fn remove_pod(&self, state: &mut CycleState, pod: &Pod, other: &PodInfo, node: &NodeInfo) {
        if let Some(hard) = state.get_mut::<Hard>() {
            hard.update(pod, other, node, -1);
        }
    }
}

impl Filter for PodTopologySpread {
    fn filter(&self, state: &CycleState, pod: &Pod, node: &NodeInfo) -> Status {
        let Some(hard) = state.get::<Hard>() else { return Status::success() };
        for (constraint, domains) in hard.constraints.iter().zip(&hard.domains) {
            let Some(place) = node.label(&constraint.key) else {
                let reason = "node(s) didn't match pod topology spread constraints (missing required label)";
                return Status::new(Code::UnschedulableAndUnresolvable, [reason]);
            };
            let least = if domains.places.len() < constraint.min_domains { 0 } else { domains.least() };
            let itself = i64::from(constraint.selector.matches(pod.metadata.labels.as_ref()));
            let there = domains.places.get(place).map_or(0, |(pods, _)| *pods);
            if there + itself - least > constraint.max_skew {
                return Status::new(Code::Unschedulable, ["node(s) didn't match pod topology spread constraints"]);
            }
        }
        Status::success()
    }
}

impl PreScore for PodTopologySpread {
    fn pre_score(&self, state: &mut CycleState, pod: &Pod, nodes: &[Arc<NodeInfo>], snapshot: &Snapshot) -> Status {
        let constraints: Arc<[Constraint]> = self.constraints(pod, "ScheduleAnyway").into();
        if constraints.is_empty() {
            return Status::skip();
        }
        let own = pod.spec.as_ref().and_then(|spec| spec.topology_spread_constraints.as_deref()).unwrap_or_default();
        let require_all_keys = !own.is_empty() || !self.system_defaulted;
        let counts = |node: &&Arc<NodeInfo>| !require_all_keys || has_all_keys(node, &constraints);
        let mut pods: Vec<HashMap<String, i64>> = vec![HashMap::new(); constraints.len()];
        let mut scored = 0;
        for node in nodes.iter().filter(counts) {
            scored += 1;
            for (constraint, pods) in constraints.iter().zip(&mut pods).filter(|(constraint, _)| constraint.key != HOSTNAME) {
                let place = node.label(&constraint.key).unwrap_or_default();
                if !pods.contains_key(place) {
                    pods.insert(place.to_owned(), 0);
                }
            }
        }
        let size = |constraint: &Constraint, places: usize| if constraint.key == HOSTNAME { scored } else { places };
        let weights = constraints.iter().zip(&pods).map(|(one, pods)| (size(one, pods.len()) as f64 + 2.0).ln()).collect();
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        for (constraint, pods) in constraints.iter().zip(&mut pods) {
            for node in snapshot.nodes_with_pods(namespace, &constraint.selector).into_iter().filter(counts) {
                if constraint.key == HOSTNAME {
                    pods.insert(node.name().to_owned(), constraint.count(pod, node));
                    continue;
                }
                let place = node.label(&constraint.key).and_then(|place| pods.get_mut(place));
                if let Some(place) = place.filter(|_| constraint.includes(pod, node.node())) {
                    *place += constraint.count(pod, node);
                }
            }
        }
        state.put(Soft { constraints, pods: pods.into(), weights, require_all_keys });
        Status::success()
    }
}

impl Score for PodTopologySpread {
    /// The fewer the better; see `normalize`.
    fn score(&self, state: &CycleState, _pod: &Pod, node: &NodeInfo) -> i64 {
        let Some(soft) = state.get::<Soft>() else { return 0 };
        if soft.require_all_keys && !has_all_keys(node, &soft.constraints) {
            return 0;
        }
        let mut score = 0.0;
        for ((constraint, pods), weight) in soft.constraints.iter().zip(soft.pods.iter()).zip(soft.weights.iter()) {
            let Some(place) = node.label(&constraint.key) else { continue };
            let place = if constraint.key == HOSTNAME { node.name() } else { place };
            let count = pods.get(place).copied().unwrap_or_default();
            score += count as f64 * weight + (constraint.max_skew - 1) as f64;
        }
        score.round() as i64
    }

    fn normalize(&self, state: &CycleState, nodes: &[Arc<NodeInfo>], scores: &mut [i64]) {
        let Some(soft) = state.get::<Soft>() else { return };
        let ignored = |node: &NodeInfo| soft.require_all_keys && !has_all_keys(node, &soft.constraints);
        let counted = || nodes.iter().zip(scores.iter()).filter(|(node, _)| !ignored(node)).map(|(_, score)| *score);
        let (least, most) = (counted().min().unwrap_or_default(), counted().max().unwrap_or_default());
        for (node, score) in nodes.iter().zip(scores) {
            *score = match most {
                _ if ignored(node) => 0,
                0 => NODE_SCORE_MAX,
                most => NODE_SCORE_MAX * (most + least - *score) / most,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::plugins::testing::{filter_among, node, scores, state};

    const YES: Code = Code::Success;
    const NO: Code = Code::Unschedulable;
    const NEVER: Code = Code::UnschedulableAndUnresolvable;

    fn pod(name: &str, labels: Value, constraint: Value) -> Pod {
        let constraints = if constraint.is_null() { json!([]) } else { json!([constraint]) };
        let object = json!({
            "metadata": {"name": name, "uid": name, "namespace": "d", "labels": labels},
            "spec": {"containers": [], "topologySpreadConstraints": constraints},
        });
        serde_json::from_value(object).unwrap()
    }

    fn web(name: &str) -> Pod {
        pod(name, json!({"app": "web"}), Value::Null)
    }

    fn constraint(extra: Value) -> Value {
        let mut constraint = json!({"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "web"}}});
        constraint.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        constraint
    }

    /// Zones a, b and c with so many pods each, and a node without a zone.
    fn nodes(pods: [usize; 3]) -> Vec<NodeInfo> {
        let mut nodes: Vec<NodeInfo> = ["a", "b", "c"]
            .iter()
            .zip(pods)
            .map(|(zone, count)| {
                let mut node = node(json!({"metadata": {"name": zone, "labels": {"zone": zone}}}));
                (0..count).for_each(|n| node.add_pod(&Arc::new(PodInfo::new(Arc::new(web(&format!("{zone}{n}")))))));
                node
            })
            .collect();
        nodes.push(node(json!({"metadata": {"name": "none"}})));
        nodes
    }

    fn plugin() -> PodTopologySpread {
        PodTopologySpread::with_args(&Arc::default(), Args::default()).unwrap()
    }

    #[test]
    fn the_skew_is_bounded() {
        let check = |extra: Value, pods: [usize; 3], expected: [Code; 4]| {
            let own = pod("p", json!({"app": "web", "version": "2"}), constraint(extra.clone()));
            assert_eq!(filter_among(&plugin(), &own, nodes(pods)), expected, "{extra} {pods:?}");
        };
        check(json!({}), [1, 0, 0], [NO, YES, YES, NEVER]);
        check(json!({}), [1, 1, 1], [YES, YES, YES, NEVER]);
        check(json!({"maxSkew": 2}), [2, 1, 0], [NO, YES, YES, NEVER]);
        check(json!({"minDomains": 4}), [1, 1, 1], [NO, NO, NO, NEVER]);
        check(json!({"minDomains": 3}), [1, 1, 1], [YES, YES, YES, NEVER]);
        // Only pods of the same version count, and there are none.
        check(json!({"matchLabelKeys": ["version"]}), [5, 0, 0], [YES, YES, YES, NEVER]);
        check(json!({"whenUnsatisfiable": "ScheduleAnyway"}), [5, 0, 0], [YES; 4]);
    }

    #[test]
    fn nodes_that_the_pod_cannot_use_do_not_count() {
        let mut own = pod("p", json!({"app": "web"}), constraint(json!({})));
        own.spec.as_mut().unwrap().node_selector = Some([("zone".to_owned(), "a".to_owned())].into());
        assert_eq!(filter_among(&plugin(), &own, nodes([3, 0, 0]))[0], YES);
        let mut own = pod("p", json!({"app": "web"}), constraint(json!({"nodeAffinityPolicy": "Ignore"})));
        own.spec.as_mut().unwrap().node_selector = Some([("zone".to_owned(), "a".to_owned())].into());
        assert_eq!(filter_among(&plugin(), &own, nodes([3, 0, 0]))[0], NO);
        let tainted = |policy: &str| {
            let own = pod("p", json!({"app": "web"}), constraint(json!({"nodeTaintsPolicy": policy})));
            let mut nodes = nodes([1, 1, 0]);
            let taints = json!([{"key": "k", "effect": "NoSchedule"}]);
            let object = json!({"metadata": {"name": "c", "labels": {"zone": "c"}}, "spec": {"taints": taints}});
            nodes[2].set_node(Arc::new(serde_json::from_value(object).unwrap()));
            filter_among(&plugin(), &own, nodes)[0]
        };
        assert_eq!((tainted("Honor"), tainted("Ignore")), (YES, NO));
    }

    #[test]
    fn fuller_places_score_worse() {
        let own = pod("p", json!({"app": "web"}), constraint(json!({"whenUnsatisfiable": "ScheduleAnyway"})));
        assert_eq!(scores(&plugin(), &own, nodes([2, 1, 0])), [0, 33, 100, 0]);
        assert_eq!(scores(&plugin(), &own, nodes([0, 0, 0])), [100, 100, 100, 0]);
        assert_eq!(scores(&plugin(), &web("alone"), nodes([2, 1, 0])), [0; 4], "nothing selects its like");
    }

    #[test]
    fn by_default_the_pods_of_services_are_spread_over_nodes() {
        let check = |services: &[(&str, Value)], expected: [i64; 3]| {
            let service = |(namespace, selector): &(&str, Value)| {
                let object =
                    json!({"metadata": {"name": selector.to_string(), "namespace": namespace}, "spec": {"selector": selector}});
                serde_json::from_value(object).unwrap()
            };
            let mut handle = Handle::default();
            handle.listers.services = client::Store::from_objects(services.iter().map(service));
            let plugin = PodTopologySpread::with_args(&Arc::new(handle), Args::default()).unwrap();
            let named = |info: &NodeInfo| {
                let mut named = info.clone();
                let object = json!({"metadata": {"name": info.name(), "labels": {HOSTNAME: info.name()}}});
                named.set_node(Arc::new(serde_json::from_value(object).unwrap()));
                named
            };
            let named: Vec<NodeInfo> = nodes([2, 1, 0])[..3].iter().map(named).collect();
            assert_eq!(scores(&plugin, &web("new"), named), expected, "{services:?}");
        };
        let web = ("d", json!({"app": "web"}));
        check(std::slice::from_ref(&web), [40, 60, 100]);
        check(&[("d", json!({"app": "db"})), web.clone()], [40, 60, 100]);
        // Nothing selects it.
        check(&[("d", json!({"app": "web", "tier": "front"}))], [0; 3]);
        check(&[("e", json!({"app": "web"})), ("d", json!({}))], [0; 3]);
    }

    #[test]
    fn counting_one_by_one_equals_counting_at_once() {
        let own = pod("p", json!({"app": "web"}), constraint(json!({})));
        let plugin = plugin();
        let prepared = |pods| {
            let mut state = state(&own);
            plugin.pre_filter(&mut state, &own, &Snapshot::of(nodes(pods).into_iter().map(Arc::new)));
            state.get::<Hard>().map(|hard| hard.domains.clone())
        };
        let mut state = state(&own);
        plugin.pre_filter(&mut state, &own, &Snapshot::of(nodes([0, 1, 2]).into_iter().map(Arc::new)));
        let empty = nodes([0, 0, 0]);
        let other = PodInfo::new(Arc::new(web("o")));
        for (zone, by) in [(0, 1), (0, 1), (1, -1), (0, 1), (2, -1), (1, 1)] {
            let node = &empty[zone];
            if by > 0 {
                plugin.add_pod(&mut state, &own, &other, node)
            } else {
                plugin.remove_pod(&mut state, &own, &other, node)
            }
        }
        assert_eq!(state.get::<Hard>().map(|hard| hard.domains.clone()), prepared([3, 1, 1]));
    }
}
