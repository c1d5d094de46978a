//! GangScheduling: the pods of a gang are bound when there is a node for enough of them, or not at all (KEP-4671).

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::scheduling::v1alpha1::{PodGroupPolicy, Workload};

use crate::framework::{
    ClusterEvent, Code, CycleState, EventSet, Group, Handle, Hint, Permit, Plugin, PreEnqueue, Reserve, Status,
    workload_reference,
};
use crate::pod_info::PodInfo;

/// Upstream's name. Among the default plugins only by the gate of the same name.
pub(crate) const NAME: &str = "GangScheduling";

pub(super) struct GangScheduling {
    pub(super) handle: Arc<Handle>,
}

fn error(reason: String) -> Status {
    Status::new(Code::Error, [reason])
}

/// What a Workload says of one of its groups.
fn policy<'w>(workload: &'w Workload, group: &str) -> Option<&'w PodGroupPolicy> {
    workload.spec.pod_groups.iter().find(|known| known.name == group).map(|group| &group.policy)
}

/// How many pods a gang needs; `None` for a group that is no gang.
fn min_count(policy: &PodGroupPolicy) -> Option<usize> {
    let gang = policy.gang.as_ref()?;
    Some(usize::try_from(gang.min_count).unwrap_or_default())
}

impl GangScheduling {
    fn workload(&self, pod: &Pod, name: &str) -> Option<Arc<Workload>> {
        self.handle.listers.workloads.get(pod.metadata.namespace.as_deref().unwrap_or_default(), name)
    }

    fn with_group<R>(&self, pod: &Pod, visit: impl FnOnce(&mut Group, &str) -> R) -> Result<R, Status> {
        let missing = || error("internal pod group state doesn't exist for a pod's workload".to_owned());
        self.handle.gangs.with(pod, visit).ok_or_else(missing)
    }
}

impl Plugin for GangScheduling {
    fn name(&self) -> &'static str {
        NAME
    }

    /// References and groups are immutable: only what is new can help.
    fn events(&self) -> EventSet {
        EventSet::ASSIGNED_ADD.and(EventSet::UNSCHEDULED_ADD).and(EventSet::WORKLOADS)
    }

    fn hint(&self, info: &PodInfo, event: &ClusterEvent) -> Hint {
        let pod = &*info.pod;
        let is_of_gang = |other: &Pod| {
            workload_reference(pod).is_some()
                && workload_reference(pod) == workload_reference(other)
                && pod.metadata.namespace == other.metadata.namespace
        };
        match event {
            ClusterEvent::UnscheduledPodAdd(new) | ClusterEvent::AssignedPod { old: None, new: Some(new) } => {
                Hint::queue_if(is_of_gang(new))
            }
            ClusterEvent::Workload(change) => Hint::queue_if(change.added().is_some_and(|workload| {
                workload.metadata.namespace == pod.metadata.namespace
                    && workload_reference(pod).is_some_and(|reference| workload.metadata.name.as_ref() == Some(&reference.name))
            })),
            _ => Hint::Skip,
        }
    }

    fn as_pre_enqueue(&self) -> Option<&dyn PreEnqueue> {
        Some(self)
    }

    fn as_reserve(&self) -> Option<&dyn Reserve> {
        Some(self)
    }

    fn as_permit(&self) -> Option<&dyn Permit> {
        Some(self)
    }
}

impl PreEnqueue for GangScheduling {
    fn pre_enqueue(&self, pod: &Pod) -> Status {
        let Some(reference) = workload_reference(pod) else { return Status::success() };
        let waits = |reason: String| Status::new(Code::UnschedulableAndUnresolvable, [reason]);
        let Some(workload) = self.workload(pod, &reference.name) else {
            return waits(format!("waiting for pods's workload {:?} to appear in scheduling queue", reference.name));
        };
        let Some(policy) = policy(&workload, &reference.pod_group) else {
            return waits(format!("pod group {:?} doesn't exist for a workload {:?}", reference.pod_group, reference.name));
        };
        let Some(min_count) = min_count(policy) else { return Status::success() };
        match self.with_group(pod, |group, _| group.len()) {
            Ok(pods) if pods < min_count => {
                waits("waiting for minCount pods from a gang to appear in scheduling queue".to_owned())
            }
            Ok(_) => Status::success(),
            Err(status) => status,
        }
    }
}

impl Reserve for GangScheduling {
    fn reserve(&self, _state: &mut CycleState, pod: &Pod, _node: &str) -> Status {
        if workload_reference(pod).is_none() {
            return Status::success();
        }
        self.with_group(pod, Group::assume).err().unwrap_or_else(Status::success)
    }

    fn unreserve(&self, _state: &mut CycleState, pod: &Pod, _node: &str) {
        // Nothing is known any more of the gang of a pod that was its last.
        let _ = self.handle.gangs.with(pod, Group::forget);
    }
}

impl Permit for GangScheduling {
    fn permit(&self, _state: &CycleState, pod: &Pod, _node: &str) -> (Status, Duration) {
        let at_once = |status: Status| (status, Duration::ZERO);
        let Some(reference) = workload_reference(pod) else { return at_once(Status::success()) };
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let Some(workload) = self.workload(pod, &reference.name) else {
            let why = format!("workload.scheduling.k8s.io {:?} not found", reference.name);
            return at_once(error(format!("failed to get workload {namespace}/{}: {why}", reference.name)));
        };
        let Some(policy) = policy(&workload, &reference.pod_group) else {
            let (group, name) = (&reference.pod_group, &reference.name);
            return at_once(error(format!("pod group {group:?} doesn't exist for a workload {name:?}")));
        };
        let Some(min_count) = min_count(policy) else { return at_once(Status::success()) };
        let permitted = self.with_group(pod, |group, _| {
            if group.placed() >= min_count {
                group.assumed().for_each(|uid| self.handle.waiting.allow(uid, NAME));
                return at_once(Status::success());
            }
            self.handle.activations.lock().extend(group.unscheduled().cloned());
            (Status::new(Code::Wait, ["waiting for minCount pods from a gang to be waiting on permit"]), group.patience())
        });
        permitted.unwrap_or_else(at_once)
    }
}

#[cfg(test)]
#[path = "gang_scheduling_tests.rs"]
mod tests;
