//! NodeAffinity: `nodeSelector` and node affinity, required and preferred.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, NodeAffinity as Affinity, Pod};

use super::normalize_by_largest;
use crate::framework::{
    ClusterEvent, Code, CycleState, EventSet, Filter, Hint, Plugin, PreFilter, PreScore, Score, Sign, Signer, Status, terms,
    weighted_terms,
};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use crate::snapshot::Snapshot;
use client::node_selector::{self, term_matches};

pub(super) struct NodeAffinity;

fn affinity(pod: &Pod) -> Option<&Affinity> {
    pod.spec.as_ref()?.affinity.as_ref()?.node_affinity.as_ref()
}

pub(super) fn accepts(pod: &Pod, node: &Node) -> bool {
    pod.spec.as_ref().is_none_or(|spec| node_selector::accepts(spec, node))
}

/// The nodes that the required terms name, when every term names some: the cycle need not look at others.
fn named_nodes(pod: &Pod) -> Option<Vec<String>> {
    let required = affinity(pod)?.required_during_scheduling_ignored_during_execution.as_ref()?;
    let mut nodes = Vec::new();
    for term in &required.node_selector_terms {
        let named = term.match_fields.iter().flatten().find(|field| field.key == "metadata.name" && field.operator == "In")?;
        nodes.extend(named.values.iter().flatten().cloned());
    }
    Some(nodes)
}

impl Plugin for NodeAffinity {
    fn name(&self) -> &'static str {
        "NodeAffinity"
    }

    fn events(&self) -> EventSet {
        EventSet::NODE_ADD.and(EventSet::NODE_UPDATE).and(EventSet::OWN)
    }

    fn hint(&self, info: &PodInfo, event: &ClusterEvent) -> Hint {
        let pod = &*info.pod;
        match event {
            ClusterEvent::Node { old, new } => {
                let before = old.as_ref().is_some_and(|old| accepts(pod, old));
                if accepts(pod, new) && !before { Hint::Queue } else { Hint::Skip }
            }
            ClusterEvent::UnscheduledPod { .. } => Hint::Queue,
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

impl Sign for NodeAffinity {
    fn sign(&self, pod: &PodInfo, signer: &mut Signer) {
        let pod = &*pod.pod;
        signer.add("v1.Pod.Spec.Affinity.NodeAffinity", || {
            let Some(affinity) = affinity(pod) else { return Ok(None) };
            let required = affinity.required_during_scheduling_ignored_during_execution.iter();
            let preferred = affinity.preferred_during_scheduling_ignored_during_execution.iter().flatten();
            Ok(Some((terms(required.flat_map(|required| &required.node_selector_terms))?, weighted_terms(preferred)?)))
        });
        signer.add("v1.Pod.Spec.Affinity.NodeSelector", || Ok(pod.spec.as_ref().map(|spec| &spec.node_selector)));
    }
}

impl PreFilter for NodeAffinity {
    fn pre_filter(&self, _state: &mut CycleState, pod: &Pod, _snapshot: &Snapshot) -> (Status, Option<Vec<String>>) {
        let required =
            affinity(pod).is_some_and(|affinity| affinity.required_during_scheduling_ignored_during_execution.is_some());
        let selects = pod.spec.as_ref().is_some_and(|spec| spec.node_selector.as_ref().is_some_and(|labels| !labels.is_empty()));
        if !required && !selects {
            return (Status::skip(), None);
        }
        match named_nodes(pod) {
            Some(nodes) if nodes.is_empty() => {
                (Status::new(Code::UnschedulableAndUnresolvable, ["pod affinity terms conflict"]), None)
            }
            nodes => (Status::success(), nodes),
        }
    }
}

impl Filter for NodeAffinity {
    fn filter(&self, _state: &CycleState, pod: &Pod, node: &NodeInfo) -> Status {
        if accepts(pod, node.node()) {
            return Status::success();
        }
        Status::new(Code::UnschedulableAndUnresolvable, ["node(s) didn't match Pod's node affinity/selector"])
    }
}

impl PreScore for NodeAffinity {
    fn pre_score(&self, _state: &mut CycleState, pod: &Pod, _nodes: &[Arc<NodeInfo>], _snapshot: &Snapshot) -> Status {
        let preferred =
            affinity(pod).and_then(|affinity| affinity.preferred_during_scheduling_ignored_during_execution.as_deref());
        if preferred.unwrap_or_default().is_empty() { Status::skip() } else { Status::success() }
    }
}

impl Score for NodeAffinity {
    fn score(&self, _state: &CycleState, pod: &Pod, node: &NodeInfo) -> i64 {
        let preferred =
            affinity(pod).and_then(|affinity| affinity.preferred_during_scheduling_ignored_during_execution.as_deref());
        preferred
            .unwrap_or_default()
            .iter()
            .filter(|term| term_matches(&term.preference, node.node()))
            .map(|term| i64::from(term.weight))
            .sum()
    }

    fn normalize(&self, _state: &CycleState, _nodes: &[Arc<NodeInfo>], scores: &mut [i64]) {
        normalize_by_largest(scores, false);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plugins::testing::{filter, node, pod, scores, state};

    fn in_zone(zone: &str) -> NodeInfo {
        node(json!({"metadata": {"name": zone, "labels": {"zone": zone}}}))
    }

    #[test]
    fn selector_and_required_affinity_both_hold() {
        let term = |zone: &str| json!({"matchExpressions": [{"key": "zone", "operator": "In", "values": [zone]}]});
        let affinity = |zone: &str| json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term(zone)]}}});
        let refused = Code::UnschedulableAndUnresolvable;
        let check = |spec, expected| assert_eq!(filter(&NodeAffinity, &pod(spec), &in_zone("a")), expected);
        check(json!({"containers": []}), Code::Success);
        check(json!({"containers": [], "nodeSelector": {"zone": "a"}}), Code::Success);
        check(json!({"containers": [], "nodeSelector": {"zone": "b"}}), refused);
        check(json!({"containers": [], "affinity": affinity("a")}), Code::Success);
        check(json!({"containers": [], "affinity": affinity("b")}), refused);
        check(json!({"containers": [], "nodeSelector": {"zone": "a"}, "affinity": affinity("b")}), refused);
    }

    #[test]
    fn preferences_add_up() {
        let prefer = |zone: &str, weight: i32| json!({"weight": weight, "preference": {"matchExpressions": [{"key": "zone", "operator": "In", "values": [zone]}]}});
        let terms = json!([prefer("a", 10), prefer("b", 40)]);
        let spec =
            json!({"containers": [], "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": terms}}});
        assert_eq!(scores(&NodeAffinity, &pod(spec), vec![in_zone("a"), in_zone("b"), in_zone("c")]), [25, 100, 0]);
    }

    #[test]
    fn names_narrow_the_search() {
        let field = |name: &str| json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": [name]}]});
        let terms = json!([field("n1"), field("n2")]);
        let spec = json!({"containers": [], "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}});
        let (status, nodes) = {
            let pod = pod(spec);
            NodeAffinity.pre_filter(&mut state(&pod), &pod, &Snapshot::default())
        };
        assert!(status.is_success());
        assert_eq!(nodes.unwrap(), ["n1", "n2"]);
    }
}
