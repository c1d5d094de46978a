//! DynamicResources: devices that pods claim (KEP-4381).
//!
//! Not implemented: a pod with claims is refused with a reason that says so. Pods without claims pass, as upstream's do.

use k8s_openapi::api::core::v1::Pod;

use crate::framework::{ClusterEvent, Code, CycleState, EventSet, Hint, Misfit, Plugin, PostFilter, PreFilter, Remedy, Status};
use crate::pod_info::PodInfo;
use crate::snapshot::Snapshot;

pub(super) struct DynamicResources;

/// PreFilter was reached.
#[derive(Clone)]
struct Seen;

impl Plugin for DynamicResources {
    fn name(&self) -> &'static str {
        "DynamicResources"
    }

    fn events(&self) -> EventSet {
        EventSet::NONE
    }

    fn hint(&self, _pod: &PodInfo, _event: &ClusterEvent) -> Hint {
        Hint::Skip
    }

    fn as_pre_filter(&self) -> Option<&dyn PreFilter> {
        Some(self)
    }

    fn as_post_filter(&self) -> Option<&dyn PostFilter> {
        Some(self)
    }
}

impl PreFilter for DynamicResources {
    fn pre_filter(&self, state: &mut CycleState, pod: &Pod, _snapshot: &Snapshot) -> (Status, Option<Vec<String>>) {
        let claims = pod.spec.as_ref().and_then(|spec| spec.resource_claims.as_deref()).unwrap_or_default();
        state.put(Seen);
        if claims.is_empty() {
            return (Status::skip(), None);
        }
        let reason = "resource claims are not implemented by this scheduler";
        (Status::new(Code::UnschedulableAndUnresolvable, [reason]), None)
    }
}

impl PostFilter for DynamicResources {
    /// Upstream would free a claim that was allocated for this pod in vain. Where another plugin ended the cycle in its PreFilter, the
    /// state of this one is missing, which upstream reports in these two words.
    fn post_filter(&self, state: &CycleState, _pod: &Pod, _misfit: &Misfit<'_>) -> (Status, Remedy) {
        if state.get::<Seen>().is_none() {
            return (Status::new(Code::Error, ["not found"]), Remedy::default());
        }
        (Status::new(Code::Unschedulable, ["no new claims to deallocate"]), Remedy::default())
    }
}
