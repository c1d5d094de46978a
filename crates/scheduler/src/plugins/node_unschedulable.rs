//! NodeUnschedulable: a cordoned node takes only pods that tolerate it.

use k8s_openapi::api::core::v1::{Node, Pod, Taint};

use super::{tolerates, tolerations};
use crate::framework::{ClusterEvent, Code, CycleState, EventSet, Filter, Hint, Plugin, Sign, Signer, Status};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;

pub(super) struct NodeUnschedulable;

/// The taint that a cordon stands for.
const TAINT: &str = "node.kubernetes.io/unschedulable";

fn accepts(pod: &Pod, node: &Node) -> bool {
    let cordoned = node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or_default();
    let taint = Taint { key: TAINT.to_owned(), effect: "NoSchedule".to_owned(), ..Taint::default() };
    !cordoned || tolerations(pod).iter().any(|toleration| tolerates(toleration, &taint))
}

impl Plugin for NodeUnschedulable {
    fn name(&self) -> &'static str {
        "NodeUnschedulable"
    }

    fn events(&self) -> EventSet {
        EventSet::NODE_ADD.and(EventSet::NODE_UPDATE).and(EventSet::OWN)
    }

    fn hint(&self, info: &PodInfo, event: &ClusterEvent) -> Hint {
        let pod = &*info.pod;
        match event {
            ClusterEvent::Node { new, .. } if accepts(pod, new) => Hint::Queue,
            ClusterEvent::UnscheduledPod { .. } => Hint::Queue,
            _ => Hint::Skip,
        }
    }

    fn as_filter(&self) -> Option<&dyn Filter> {
        Some(self)
    }

    fn as_sign(&self) -> Option<&dyn Sign> {
        Some(self)
    }
}

impl Sign for NodeUnschedulable {
    fn sign(&self, pod: &PodInfo, signer: &mut Signer) {
        signer.tolerations(&pod.pod);
    }
}

impl Filter for NodeUnschedulable {
    fn filter(&self, _state: &CycleState, pod: &Pod, node: &NodeInfo) -> Status {
        if !node.unschedulable || accepts(pod, node.node()) {
            return Status::success();
        }
        Status::new(Code::UnschedulableAndUnresolvable, ["node(s) were unschedulable"])
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plugins::testing::{filter, node, pod};

    #[test]
    fn a_cordon_holds_unless_tolerated() {
        let cordoned = node(json!({"metadata": {"name": "n"}, "spec": {"unschedulable": true}}));
        let plain = pod(json!({"containers": []}));
        let tolerant = pod(json!({"containers": [], "tolerations": [{"key": TAINT, "operator": "Exists"}]}));
        assert_eq!(filter(&NodeUnschedulable, &plain, &cordoned), Code::UnschedulableAndUnresolvable);
        assert_eq!(filter(&NodeUnschedulable, &tolerant, &cordoned), Code::Success);
        assert_eq!(filter(&NodeUnschedulable, &plain, &node(json!({"metadata": {"name": "n"}}))), Code::Success);
    }
}
