//! SchedulingGates: a pod with gates does not enter the queue (KEP-3521).

use k8s_openapi::api::core::v1::Pod;

use crate::framework::{ClusterEvent, Code, EventSet, Hint, Plugin, PreEnqueue, Status};
use crate::pod_info::PodInfo;

pub(super) struct SchedulingGates;

impl Plugin for SchedulingGates {
    fn name(&self) -> &'static str {
        "SchedulingGates"
    }

    fn events(&self) -> EventSet {
        EventSet::OWN
    }

    fn hint(&self, _pod: &PodInfo, event: &ClusterEvent) -> Hint {
        // One gate less is not enough.
        let open = |pod: &Pod| pod.spec.as_ref().is_none_or(|spec| spec.scheduling_gates.as_ref().is_none_or(Vec::is_empty));
        Hint::queue_if(matches!(event, ClusterEvent::UnscheduledPod { new, .. } if open(new)))
    }

    fn as_pre_enqueue(&self) -> Option<&dyn PreEnqueue> {
        Some(self)
    }
}

impl PreEnqueue for SchedulingGates {
    fn pre_enqueue(&self, pod: &Pod) -> Status {
        let gates = pod.spec.as_ref().and_then(|spec| spec.scheduling_gates.as_deref()).unwrap_or_default();
        if gates.is_empty() {
            return Status::success();
        }
        let names: Vec<&str> = gates.iter().map(|gate| gate.name.as_str()).collect();
        Status::new(Code::UnschedulableAndUnresolvable, [format!("waiting for scheduling gates: [{}]", names.join(" "))])
    }
}
