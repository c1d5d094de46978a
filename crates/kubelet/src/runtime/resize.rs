//! In-place resize (KEP-1287): a running container whose requests or limits changed gets them without a restart, unless its
//! `resizePolicy` wants one.

use cri::v1;
use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};

use crate::context::Core;
use crate::pod::access::{PodAccess, is_sidecar};
use crate::pod::actions::{Actions, Kill, KillReason};
use crate::pod::resources::{self, container_resources};
use crate::quantity;
use crate::runtime::snapshot::{ContainerRecord, Snapshot, State};

/// Whether the runtime gives the container what the pod asks for now. A runtime that does not tell counts as yes.
pub(crate) fn is_actual(pod: &Pod, container: &Container, record: &ContainerRecord) -> bool {
    changed(pod, container, record).is_none()
}

/// Which of processor and memory differ.
fn changed(pod: &Pod, container: &Container, record: &ContainerRecord) -> Option<(bool, bool)> {
    let actual = record.resources.as_ref()?;
    // Only what a resize can change is compared: neither the node's memory nor the cgroup version matters for these.
    let wanted = container_resources(pod, container, 1, false);
    let cpu = actual.cpu_shares != wanted.cpu_shares || actual.cpu_quota != wanted.cpu_quota;
    let asks_otherwise = |before: i64| memory_request(container).is_some_and(|now| now != before);
    let memory =
        actual.memory_limit_in_bytes != wanted.memory_limit_in_bytes || record.memory_request.is_some_and(asks_otherwise);
    (cpu || memory).then_some((cpu, memory))
}

/// The memory that a container asks for, in bytes, if a change of it means a restart. Otherwise nothing follows from it: it is in no cgroup.
pub(crate) fn memory_request(container: &Container) -> Option<i64> {
    let asked = || resources::request(container.resources.as_ref(), "memory", quantity::whole).unwrap_or(0);
    wants_restart(container, false, true).then(asked)
}

fn wants_restart(container: &Container, cpu: bool, memory: bool) -> bool {
    let policies = container.resize_policy.as_deref().unwrap_or_default();
    policies.iter().any(|p| {
        p.restart_policy == "RestartContainer" && ((cpu && p.resource_name == "cpu") || (memory && p.resource_name == "memory"))
    })
}

/// What is resized.
#[derive(Default)]
pub(crate) struct Resizes<'a> {
    /// The running containers that get their new resources as they run.
    in_place: Vec<(&'a Container, &'a ContainerRecord)>,
    /// Others are killed and started for it, by the pod's other actions.
    pub(crate) restarts: bool,
}

impl Resizes<'_> {
    /// Whether containers get their new resources as they run.
    pub(crate) fn any_in_place(&self) -> bool {
        !self.in_place.is_empty()
    }
}

/// The running containers to resize; those that want a restart are added to `actions`.
pub(crate) fn plan<'a>(pod: &'a Pod, snapshot: &'a Snapshot, actions: &mut Actions) -> Resizes<'a> {
    let mut resizes = Resizes::default();
    let sidecars = pod.init_containers().iter().enumerate().filter(|(_, c)| is_sidecar(c)).map(|(index, c)| (true, index, c));
    for (init, index, container) in pod.containers().iter().enumerate().map(|(index, c)| (false, index, c)).chain(sidecars) {
        let Some(record) = snapshot.latest(&container.name).filter(|r| r.state == State::Running) else { continue };
        let Some((cpu, memory)) = changed(pod, container, record) else { continue };
        if actions.to_kill.iter().any(|k| k.id == record.id) {
            continue;
        }
        if wants_restart(container, cpu, memory) {
            let message = format!("Container {} resize requires restart", container.name);
            actions.to_kill.push(Kill {
                id: record.id.clone(),
                name: container.name.clone(),
                message,
                reason: KillReason::Unknown,
            });
            if init { &mut actions.init_to_start } else { &mut actions.to_start }.push(index);
            resizes.restarts = true;
        } else {
            resizes.in_place.push((container, record));
        }
    }
    resizes
}

/// Before containers are resized, as they run or by a restart: a larger one fits into the pod's cgroup. [`finish`] makes it smaller.
pub(crate) fn begin(core: &Core, pod: &Pod) {
    core.cgroups.grow_limits(pod);
}

/// Resizes the containers that go on running.
pub(crate) async fn apply(core: &Core, pod: &Pod, resizes: &Resizes<'_>) -> Result<(), cri::Status> {
    for (container, record) in &resizes.in_place {
        let linux = container_resources(pod, container, core.machine.memory_bytes, core.cgroups.is_v2());
        let request =
            v1::UpdateContainerResourcesRequest { container_id: record.id.clone(), linux: Some(linux), ..Default::default() };
        if let Err(status) = core.runtime.update_container_resources(request).await {
            core.events.pod(pod, "Warning", "ResizeError", message(pod, "Pod resize error", status.message()));
            return Err(status);
        }
    }
    Ok(())
}

/// After containers were resized: a smaller pod is one, and it is told.
pub(crate) fn finish(core: &Core, pod: &Pod) {
    core.cgroups.set_limits(pod);
    let totals = resources::pod_totals(pod);
    tracing::info!(namespace = pod.namespace(), name = pod.name(), ?totals, "pod resized in place");
    core.events.pod(pod, "Normal", "ResizeCompleted", message(pod, "Pod resize completed", ""));
    // What it gave back another may wait for.
    core.pods.poke_pending();
}

/// An event's message: upstream's, with what the pod asks for and what went wrong.
pub(crate) fn message(pod: &Pod, what: &str, error: &str) -> String {
    #[derive(serde::Serialize)]
    struct Given<'a> {
        name: &'a str,
        resources: ResourceRequirements,
    }
    #[derive(serde::Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Summary<'a> {
        #[serde(skip_serializing_if = "Vec::is_empty")]
        init_containers: Vec<Given<'a>>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        containers: Vec<Given<'a>>,
        generation: i64,
        #[serde(skip_serializing_if = "str::is_empty")]
        error: &'a str,
    }
    fn given(containers: &[Container]) -> Vec<Given<'_>> {
        let one = |c: &'_ Container| c.resources.clone().unwrap_or_default();
        containers.iter().map(|c| Given { name: &c.name, resources: one(c) }).collect()
    }
    let summary = Summary {
        init_containers: given(pod.init_containers()),
        containers: given(pod.containers()),
        generation: pod.metadata.generation.unwrap_or(0),
        error,
    };
    serde_json::to_string(&summary).map_or_else(|_| what.to_owned(), |summary| format!("{what}: {summary}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::labels;
    use crate::runtime::snapshot::container_record;

    #[test]
    fn messages_are_upstreams() {
        let pod: Pod = serde_json::from_value(serde_json::json!({"metadata": {"generation": 3}, "spec": {"containers": [
            {"name": "a", "resources": {"requests": {"cpu": "2"}}}, {"name": "b"}]}}))
        .unwrap();
        let given =
            r#""containers":[{"name":"a","resources":{"requests":{"cpu":"2"}}},{"name":"b","resources":{}}],"generation":3"#;
        assert_eq!(message(&pod, "Pod resize started", ""), format!("Pod resize started: {{{given}}}"));
        assert_eq!(message(&pod, "Pod resize Deferred", "why"), format!("Pod resize Deferred: {{{given},\"error\":\"why\"}}"));
    }

    #[test]
    fn only_a_policy_restarts() {
        let container: Container = serde_json::from_value(serde_json::json!({"name": "c", "resizePolicy": [{"resourceName": "memory", "restartPolicy": "RestartContainer"}, {"resourceName": "cpu", "restartPolicy": "NotRequired"}]})).unwrap();
        for (cpu, memory, expected) in [(true, false, false), (false, true, true), (true, true, true)] {
            assert_eq!(wants_restart(&container, cpu, memory), expected);
        }
    }

    #[test]
    fn a_memory_request_alone_is_a_reason_where_the_policy_says_so() {
        let container = |policy: &str, request: &str| -> Container {
            let resources = serde_json::json!({"requests": {"memory": request}, "limits": {"memory": "64Mi"}});
            let policies = serde_json::json!([{"resourceName": "memory", "restartPolicy": policy}]);
            serde_json::from_value(serde_json::json!({"name": "c", "resources": resources, "resizePolicy": policies})).unwrap()
        };
        let pod = Pod { spec: Some(k8s_openapi::api::core::v1::PodSpec::default()), ..Pod::default() };
        for (policy, started, now, expected) in [
            ("RestartContainer", "32Mi", "48Mi", Some((false, true))),
            ("RestartContainer", "32Mi", "32Mi", None),
            ("NotRequired", "32Mi", "48Mi", None),
        ] {
            let (before, after) = (container(policy, started), container(policy, now));
            let status = v1::ContainerStatus {
                annotations: labels::container_annotations(&pod, &before, 0),
                resources: Some(v1::ContainerResources {
                    linux: Some(container_resources(&pod, &before, 1, false)),
                    ..Default::default()
                }),
                ..Default::default()
            };
            assert_eq!(changed(&pod, &after, &container_record(status, String::new())), expected, "{policy} {started} {now}");
        }
    }
}
