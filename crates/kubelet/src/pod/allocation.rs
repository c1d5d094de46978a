//! Which requests and limits this node has granted to a pod (KEP-1287). A resize that the node cannot give is pending: the pod goes on with
//! what it was granted before, and a condition says so. What was granted survives a restart of the kubelet in the containers' statuses.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, ResourceRequirements};

use crate::admit;
use crate::context::Core;
use crate::pod::access::{PodAccess, find_status, is_sidecar};
use crate::pod::manager::PodEntry;
use crate::runtime::resize;

/// Why a resize is not granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pending {
    /// `Deferred`: it may fit later; `Infeasible`: never on this node.
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

/// What a pod was granted, and what it still waits for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Allocation {
    resources: BTreeMap<String, Option<ResourceRequirements>>,
    pub(crate) pending: Option<Pending>,
}

impl Allocation {
    fn of(pod: &Pod) -> Self {
        let resources = resizable(pod).map(|c| (c.name.clone(), c.resources.clone())).collect();
        Self { resources, pending: None }
    }

    /// What the pod was given by the kubelet before this one, by its status; its specification where that says nothing.
    fn restored(pod: &Pod) -> Self {
        let status = pod.pod_status();
        let statuses: Vec<ContainerStatus> =
            status.container_statuses.iter().chain(&status.init_container_statuses).flatten().cloned().collect();
        let mut allocation = Self::of(pod);
        if status.start_time.is_none() {
            return allocation;
        }
        for (name, resources) in &mut allocation.resources {
            let Some(found) = find_status(&statuses, name).filter(|s| s.state.as_ref().is_some_and(|s| s.running.is_some()))
            else {
                continue;
            };
            if let (Some(actual), Some(wanted)) = (&found.resources, resources) {
                wanted.limits.clone_from(&actual.limits);
                wanted.requests = found.allocated_resources.clone().or_else(|| actual.requests.clone());
            }
        }
        allocation
    }

    fn apply(&self, pod: &Arc<Pod>) -> Arc<Pod> {
        if self.resources == Self::of(pod).resources {
            return Arc::clone(pod);
        }
        let mut granted = Pod::clone(pod);
        if let Some(spec) = granted.spec.as_mut() {
            for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
                if let Some(resources) = self.resources.get(&container.name) {
                    container.resources.clone_from(resources);
                }
            }
        }
        Arc::new(granted)
    }
}

fn resizable(pod: &Pod) -> impl Iterator<Item = &Container> {
    pod.containers().iter().chain(pod.init_containers().iter().filter(|c| is_sidecar(c)))
}

/// The pod with the resources that it was granted.
pub(crate) fn granted(entry: &PodEntry) -> Arc<Pod> {
    let pod = entry.pod();
    entry.allocation.lock().get_or_insert_with(|| Allocation::restored(&pod)).apply(&pod)
}

/// Grants the pod what it asks for now, if the node has it; the pod with what it has been granted.
pub(crate) fn grant(core: &Core, entry: &PodEntry) -> Arc<Pod> {
    let pod = entry.pod();
    let before = granted(entry);
    let pending = if Arc::ptr_eq(&before, &pod) { None } else { admit::resize(core, &pod) };
    let mut allocation = entry.allocation.lock();
    let allocation = allocation.get_or_insert_default();
    match &pending {
        None => {
            allocation.resources = Allocation::of(&pod).resources;
            if !Arc::ptr_eq(&before, &pod) {
                core.events.pod(&pod, "Normal", "ResizeStarted", resize::message(&pod, "Pod resize started", ""));
            }
        }
        Some(why) if pending != allocation.pending => {
            tracing::info!(namespace = pod.namespace(), name = pod.name(), ?why, "a resize is not granted");
            let message = resize::message(&pod, &format!("Pod resize {}", why.reason), &why.message);
            core.events.pod(&pod, "Warning", &format!("Resize{}", why.reason), message);
        }
        Some(_) => {}
    }
    allocation.pending = pending;
    allocation.apply(&pod)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_granted_survives_in_the_status() {
        let pod: Arc<Pod> = Arc::new(
            serde_json::from_value(serde_json::json!({
                "spec": {"containers": [
                    {"name": "a", "resources": {"requests": {"cpu": "9"}, "limits": {"cpu": "9"}}},
                    {"name": "b", "resources": {"requests": {"cpu": "1"}}}]},
                "status": {"startTime": "2026-01-01T00:00:00Z", "containerStatuses": [
                    {"name": "a", "image": "", "imageID": "", "ready": true, "restartCount": 0, "state": {"running": {}},
                     "allocatedResources": {"cpu": "2"}, "resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "3"}}}]}}))
            .unwrap(),
        );
        let entry = PodEntry::new(Arc::clone(&pod));
        let granted = granted(&entry);
        let of = |pod: &Pod, index: usize| serde_json::to_value(&pod.containers()[index].resources).unwrap();
        assert_eq!(of(&granted, 0), serde_json::json!({"requests": {"cpu": "2"}, "limits": {"cpu": "3"}}));
        assert_eq!(of(&granted, 1), of(&pod, 1));
    }
}
