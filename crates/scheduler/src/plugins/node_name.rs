//! NodeName: a pod that names its node goes nowhere else.

use k8s_openapi::api::core::v1::Pod;

use crate::framework::{ClusterEvent, Code, CycleState, EventSet, Filter, Hint, Plugin, Sign, Signer, Status};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;

pub(super) struct NodeName;

impl Plugin for NodeName {
    fn name(&self) -> &'static str {
        "NodeName"
    }

    fn events(&self) -> EventSet {
        EventSet::NODE_ADD
    }

    fn hint(&self, _pod: &PodInfo, event: &ClusterEvent) -> Hint {
        if matches!(event, ClusterEvent::Node { old: None, .. }) { Hint::Queue } else { Hint::Skip }
    }

    fn as_filter(&self) -> Option<&dyn Filter> {
        Some(self)
    }

    fn as_sign(&self) -> Option<&dyn Sign> {
        Some(self)
    }
}

impl Sign for NodeName {
    fn sign(&self, pod: &PodInfo, signer: &mut Signer) {
        signer.add("v1.Pod.Spec.NodeName", || Ok(pod.pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref())));
    }
}

impl Filter for NodeName {
    fn filter(&self, _state: &CycleState, pod: &Pod, node: &NodeInfo) -> Status {
        match pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) {
            Some(name) if !name.is_empty() && name != node.name() => {
                Status::new(Code::UnschedulableAndUnresolvable, ["node(s) didn't match the requested node name"])
            }
            _ => Status::success(),
        }
    }
}
