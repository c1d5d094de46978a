//! Stops containers and pods: preStop hook, grace period, order of sidecars (KEP-753), the sandbox last.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use cri::v1;
use futures::future::try_join_all;
use k8s_openapi::api::core::v1::{Container, Pod};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::context::Core;
use crate::pod::access::{PodAccess, is_sidecar};
use crate::pod::actions::{Kill, KillReason};
use crate::runtime::hooks;
use crate::runtime::snapshot::{ContainerRecord, Snapshot, State};

/// Every container gets at least this long before it is killed (upstream `minimumGracePeriodInSeconds`).
const GRACE_MIN: i64 = 2;

/// What to kill of a pod, and how.
pub(crate) struct KillPod {
    pub(crate) pod: Arc<Pod>,
    pub(crate) snapshot: Snapshot,
    /// The grace period that the deletion asked for, in seconds; `None`: the pod's own.
    pub(crate) grace_override: Option<i64>,
    /// Whether this is the first attempt: announces the kill and runs preStop hooks.
    pub(crate) run_hooks: bool,
}

fn gone_is_fine<T>(result: Result<T, cri::Status>) -> Result<(), cri::Status> {
    match result {
        Ok(_) => Ok(()),
        Err(status) if status.code() == cri::Code::NotFound => Ok(()),
        Err(status) => Err(status),
    }
}

/// Stops every container that may run, all at once but sidecars after those that they serve, then the sandboxes.
pub(crate) async fn kill_pod(core: &Core, request: KillPod) -> Result<(), cri::Status> {
    let KillPod { pod, snapshot, grace_override, run_hooks } = request;
    let alive: Vec<&ContainerRecord> = snapshot.alive().filter(|c| c.state != State::Created).collect();
    let running: BTreeSet<String> = alive.iter().map(|c| c.name.clone()).collect();
    let ordering = Ordering { before: order(&pod, &running), left: watch::Sender::new(running) };
    try_join_all(alive.iter().map(|record| {
        let (pod, ordering) = (&pod, &ordering);
        async move {
            let spec = pod.find_container(&record.name).map(|(_, c)| c);
            let grace = grace_override.unwrap_or_else(|| grace_period(pod, spec.as_ref(), KillReason::Unknown));
            if run_hooks {
                core.events.container(pod, &record.name, "Normal", "Killing", format!("Stopping container {}", record.name));
            }
            let result = stop(core, pod, spec.as_ref(), record, grace, run_hooks, Some(ordering)).await;
            ordering.left.send_if_modified(|left| left.remove(&record.name));
            result
        }
    }))
    .await?;
    for sandbox in snapshot.sandboxes {
        gone_is_fine(core.runtime.stop_pod_sandbox(v1::StopPodSandboxRequest { pod_sandbox_id: sandbox.id }).await)?;
    }
    Ok(())
}

/// Kills one container that must go while its pod stays.
pub(crate) async fn kill_container(core: &Core, pod: &Pod, kill: &Kill) -> Result<(), cri::Status> {
    let spec = pod.find_container(&kill.name).map(|(_, c)| c);
    let grace = grace_period(pod, spec.as_ref(), kill.reason);
    let record = ContainerId { id: &kill.id, name: &kill.name };
    core.events.container(pod, &kill.name, "Normal", "Killing", &kill.message);
    stop_id(core, pod, spec.as_ref(), &record, grace, true, None).await
}

/// Removes the init containers of a sandbox that is replaced: they run again.
pub(crate) async fn purge_init_containers(core: &Core, pod: &Pod, snapshot: &Snapshot) {
    for record in &snapshot.containers {
        if pod.init_containers().iter().any(|c| c.name == record.name) {
            let removed =
                gone_is_fine(core.runtime.remove_container(v1::RemoveContainerRequest { container_id: record.id.clone() }).await);
            if let Err(status) = removed {
                tracing::warn!(container = record.id, error = status.message(), "an old init container was not removed");
            }
        }
    }
}

/// The grace period by the deletion, a probe's own, or the pod's.
fn grace_period(pod: &Pod, container: Option<&Container>, reason: KillReason) -> i64 {
    if let Some(seconds) = pod.metadata.deletion_grace_period_seconds {
        return seconds;
    }
    let probe = container.and_then(|c| match reason {
        KillReason::LivenessProbe => c.liveness_probe.as_ref(),
        KillReason::StartupProbe => c.startup_probe.as_ref(),
        KillReason::Unknown => None,
    });
    probe
        .and_then(|p| p.termination_grace_period_seconds)
        .or(pod.pod_spec().termination_grace_period_seconds)
        .unwrap_or(GRACE_MIN)
}

struct ContainerId<'a> {
    id: &'a str,
    name: &'a str,
}

/// Who stops after whom.
struct Ordering {
    /// For each sidecar, the containers that have to end first.
    before: Vec<(String, BTreeSet<String>)>,
    left: watch::Sender<BTreeSet<String>>,
}

/// Sidecars wait for all regular containers and for the sidecars that were started after them.
fn order(pod: &Pod, running: &BTreeSet<String>) -> Vec<(String, BTreeSet<String>)> {
    let mut later: BTreeSet<String> = pod.containers().iter().map(|c| c.name.clone()).filter(|n| running.contains(n)).collect();
    let mut order = Vec::new();
    for sidecar in pod.init_containers().iter().rev().filter(|c| is_sidecar(c) && running.contains(&c.name)) {
        order.push((sidecar.name.clone(), later.clone()));
        later.insert(sidecar.name.clone());
    }
    order
}

impl Ordering {
    async fn wait_for_turn(&self, name: &str, limit: Duration) {
        let Some((_, before)) = self.before.iter().find(|(sidecar, _)| sidecar == name) else { return };
        let mut left = self.left.subscribe();
        let turn = left.wait_for(|left| left.is_disjoint(before));
        // When time is up the container is stopped out of order, as upstream does.
        let _in_order = tokio::time::timeout(limit, turn).await.is_ok();
    }
}

async fn stop(
    core: &Core,
    pod: &Pod,
    spec: Option<&Container>,
    record: &ContainerRecord,
    grace: i64,
    hooks: bool,
    ordering: Option<&Ordering>,
) -> Result<(), cri::Status> {
    stop_id(core, pod, spec, &ContainerId { id: &record.id, name: &record.name }, grace, hooks, ordering).await
}

async fn stop_id(
    core: &Core,
    pod: &Pod,
    spec: Option<&Container>,
    record: &ContainerId<'_>,
    grace: i64,
    run_hooks: bool,
    ordering: Option<&Ordering>,
) -> Result<(), cri::Status> {
    let begun = Instant::now();
    let left = || grace - i64::try_from(begun.elapsed().as_secs()).unwrap_or(i64::MAX);
    let hook = spec.and_then(|c| c.lifecycle.as_ref()).and_then(|l| l.pre_stop.as_ref()).filter(|_| run_hooks && grace > 0);
    if let (Some(hook), Some(spec)) = (hook, spec) {
        let limit = Duration::from_secs(grace.unsigned_abs());
        match tokio::time::timeout(limit, hooks::run(core, pod, spec, record.id, hook)).await {
            Ok(Ok(())) => {}
            Ok(Err(message)) => {
                tracing::debug!(
                    namespace = pod.namespace(),
                    name = pod.name(),
                    container = record.name,
                    error = message,
                    "preStop hook failed"
                );
                core.events.container(pod, record.name, "Warning", "FailedPreStopHook", "PreStopHook failed");
            }
            Err(_) => tracing::debug!(
                namespace = pod.namespace(),
                name = pod.name(),
                container = record.name,
                "preStop hook did not end within the grace period"
            ),
        }
    }
    if let Some(ordering) = ordering {
        ordering.wait_for_turn(record.name, Duration::from_secs(left().max(0).unsigned_abs())).await;
    }
    let timeout = left().max(GRACE_MIN);
    gone_is_fine(core.runtime.stop_container(v1::StopContainerRequest { container_id: record.id.to_owned(), timeout }).await)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sidecars_stop_last_and_in_reverse() {
        let pod: Pod = serde_json::from_value(serde_json::json!({"spec": {
            "initContainers": [{"name": "i"}, {"name": "s1", "restartPolicy": "Always"}, {"name": "s2", "restartPolicy": "Always"}],
            "containers": [{"name": "a"}, {"name": "b"}]}}))
        .unwrap();
        let running: BTreeSet<String> = ["a", "s1", "s2"].map(str::to_owned).into();
        let names = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<BTreeSet<_>>();
        assert_eq!(order(&pod, &running), vec![("s2".to_owned(), names(&["a"])), ("s1".to_owned(), names(&["a", "s2"]))]);
    }

    #[test]
    fn grace_periods() {
        let mut pod: Pod =
            serde_json::from_value(serde_json::json!({"metadata": {}, "spec": {"terminationGracePeriodSeconds": 30,
            "containers": [{"name": "a", "livenessProbe": {"terminationGracePeriodSeconds": 5}}]}}))
            .unwrap();
        let container = pod.containers()[0].clone();
        for (reason, expected) in [(KillReason::Unknown, 30), (KillReason::LivenessProbe, 5), (KillReason::StartupProbe, 30)] {
            assert_eq!(grace_period(&pod, Some(&container), reason), expected);
        }
        pod.metadata.deletion_grace_period_seconds = Some(0);
        assert_eq!(grace_period(&pod, Some(&container), KillReason::LivenessProbe), 0);
    }
}
