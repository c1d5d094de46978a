//! SchedulingGates: a pod with gates does not enter the queue (KEP-3521).

use k8s_openapi::api::core::v1::Pod;

use crate::framework::{ClusterEvent, Code, Hint, Plugin, PreEnqueue, Status};

pub(super) struct SchedulingGates;

impl Plugin for SchedulingGates {
    fn name(&self) -> &'static str {
        "SchedulingGates"
    }

    fn hint(&self, _pod: &Pod, event: &ClusterEvent) -> Hint {
        if matches!(event, ClusterEvent::UnscheduledPod { .. }) { Hint::Queue } else { Hint::Skip }
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
