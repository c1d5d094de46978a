//! TaintToleration: NoSchedule and NoExecute taints keep pods away, PreferNoSchedule taints cost score.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, Taint, Toleration};

use super::{normalize_by_largest, tolerates, tolerations};
use crate::framework::{ClusterEvent, Code, CycleState, EventSet, Filter, Hint, Plugin, PreScore, Score, Sign, Signer, Status};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use crate::snapshot::Snapshot;

pub(super) struct TaintToleration;

/// The pod's tolerations that matter for PreferNoSchedule.
#[derive(Clone)]
struct Preferences(Vec<Toleration>);

pub(super) fn accepts(pod: &Pod, taints: &[Taint]) -> bool {
    taints
        .iter()
        .filter(|taint| taint.effect == "NoSchedule" || taint.effect == "NoExecute")
        .all(|taint| tolerations(pod).iter().any(|toleration| tolerates(toleration, taint)))
}

impl Plugin for TaintToleration {
    fn name(&self) -> &'static str {
        "TaintToleration"
    }

    fn events(&self) -> EventSet {
        EventSet::NODE_ADD.and(EventSet::NODE_UPDATE).and(EventSet::OWN)
    }

    fn hint(&self, info: &PodInfo, event: &ClusterEvent) -> Hint {
        let pod = &*info.pod;
        let taints =
            |node: &k8s_openapi::api::core::v1::Node| node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
        match event {
            ClusterEvent::Node { old, new } => {
                let before = old.as_ref().is_some_and(|old| accepts(pod, &taints(old)));
                if accepts(pod, &taints(new)) && !before { Hint::Queue } else { Hint::Skip }
            }
            ClusterEvent::UnscheduledPod { old, new } if tolerations(old) != tolerations(new) => Hint::Queue,
            _ => Hint::Skip,
        }
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

impl Sign for TaintToleration {
    fn sign(&self, pod: &PodInfo, signer: &mut Signer) {
        signer.tolerations(&pod.pod);
    }
}

impl Filter for TaintToleration {
    fn filter(&self, _state: &CycleState, pod: &Pod, node: &NodeInfo) -> Status {
        if !node.has_hard_taints() || accepts(pod, node.taints()) {
            return Status::success();
        }
        Status::new(Code::UnschedulableAndUnresolvable, ["node(s) had untolerated taint(s)"])
    }
}

impl PreScore for TaintToleration {
    fn pre_score(&self, state: &mut CycleState, pod: &Pod, _nodes: &[Arc<NodeInfo>], _snapshot: &Snapshot) -> Status {
        let matters = |toleration: &&Toleration| matches!(toleration.effect.as_deref(), None | Some("" | "PreferNoSchedule"));
        state.put(Preferences(tolerations(pod).iter().filter(matters).cloned().collect()));
        Status::success()
    }
}

impl Score for TaintToleration {
    fn score(&self, state: &CycleState, _pod: &Pod, node: &NodeInfo) -> i64 {
        if !node.has_soft_taints() {
            return 0;
        }
        let preferences = state.get::<Preferences>().map(|preferences| preferences.0.as_slice()).unwrap_or_default();
        let intolerable = node
            .taints()
            .iter()
            .filter(|taint| {
                taint.effect == "PreferNoSchedule" && !preferences.iter().any(|toleration| tolerates(toleration, taint))
            })
            .count();
        i64::try_from(intolerable).unwrap_or(i64::MAX)
    }

    fn normalize(&self, _state: &CycleState, _nodes: &[Arc<NodeInfo>], scores: &mut [i64]) {
        normalize_by_largest(scores, true);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::plugins::testing::{filter, node, pod, scores};

    fn tainted(effect: &str) -> NodeInfo {
        node(json!({"metadata": {"name": "n"}, "spec": {"taints": [{"key": "k", "value": "v", "effect": effect}]}}))
    }

    #[test]
    fn taints_need_tolerations() {
        let check = |toleration: Value, effect: &str, expected: Code| {
            let pod = pod(json!({"containers": [], "tolerations": [toleration]}));
            assert_eq!(filter(&TaintToleration, &pod, &tainted(effect)), expected, "{toleration} {effect}");
        };
        let refused = Code::UnschedulableAndUnresolvable;
        check(json!({"key": "k", "value": "v"}), "NoSchedule", Code::Success);
        check(json!({"key": "k", "operator": "Equal", "value": "w"}), "NoSchedule", refused);
        check(json!({"key": "k", "operator": "Exists"}), "NoExecute", Code::Success);
        check(json!({"operator": "Exists"}), "NoExecute", Code::Success);
        check(json!({"key": "k", "operator": "Exists", "effect": "NoSchedule"}), "NoExecute", refused);
        check(json!({"key": "other", "operator": "Exists"}), "NoSchedule", refused);
        check(json!({"key": "other", "operator": "Exists"}), "PreferNoSchedule", Code::Success);
    }

    #[test]
    fn preferences_cost_score() {
        let pod = pod(json!({"containers": []}));
        let free = node(json!({"metadata": {"name": "free"}}));
        assert_eq!(scores(&TaintToleration, &pod, vec![tainted("PreferNoSchedule"), free]), [0, 100]);
    }
}
