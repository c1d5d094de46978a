//! The status that the API shows for a pod, computed from the pod, the runtime's view, the probes and the previous status. Pure;
//! upstream's `generateAPIPodStatus` and `convertToAPIContainerStatuses` are the specification.

use std::collections::HashMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus,
    ContainerUser, HostIP, LinuxContainerUser, Pod, PodIP, PodStatus, VolumeMountStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::error::StartFailure;
use crate::pod::access::{ContainerKind, PodAccess, ephemeral_as_container, find_status, is_sidecar};
use crate::pod::actions::{restarts_after, should_restart};
use crate::pod::allocation::Pending;
use crate::pod::{conditions, qos};
use crate::runtime::resize;
use crate::runtime::snapshot::{ContainerRecord, Snapshot, State};

/// What probes found about one container; `None`: no result yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Readiness {
    pub(crate) startup: Option<bool>,
    pub(crate) readiness: Option<bool>,
}

/// What the status is computed from, besides the pod and the runtime's view.
pub(crate) struct Inputs<'a> {
    /// The previous status.
    pub(crate) old: &'a PodStatus,
    /// Why containers could not be started, by name.
    pub(crate) failures: &'a HashMap<String, StartFailure>,
    /// Probe results by container id.
    pub(crate) probes: &'a dyn Fn(&str) -> Readiness,
    /// No container will be started again: the pod is being, or has been, stopped for good.
    pub(crate) terminal: bool,
    /// The kubelet itself decided that the pod failed: reason and message.
    pub(crate) failed: Option<&'a (String, String)>,
    /// Why a resize is not granted.
    pub(crate) resize_pending: Option<&'a Pending>,
    pub(crate) host_ips: &'a [String],
    pub(crate) runtime_name: &'a str,
    pub(crate) now: Timestamp,
}

/// Computes the pod's status.
pub(crate) fn generate(pod: &Pod, snapshot: &Snapshot, inputs: &Inputs<'_>) -> PodStatus {
    let old = inputs.old;
    let ephemeral: Vec<Container> = pod.ephemeral_containers().iter().map(ephemeral_as_container).collect();
    let list = |kind, containers: &[Container], old: Option<&Vec<ContainerStatus>>| {
        container_statuses(pod, snapshot, inputs, kind, containers, old.map_or(&[], Vec::as_slice))
    };
    let containers = list(ContainerKind::Regular, pod.containers(), old.container_statuses.as_ref());
    let init = list(ContainerKind::Init, pod.init_containers(), old.init_container_statuses.as_ref());
    let ephemeral = list(ContainerKind::Ephemeral, &ephemeral, old.ephemeral_container_statuses.as_ref());
    let active_started = snapshot.ready_sandbox().is_some_and(|s| {
        snapshot.containers.iter().any(|c| c.sandbox_id == s.id && pod.containers().iter().any(|p| p.name == c.name))
    });
    let mut phase = phase(pod, &init, &containers, inputs.terminal, active_started).to_owned();
    // Terminal phases are final, whoever set them.
    for known in [old.phase.as_deref(), Some(pod.phase())].into_iter().flatten() {
        if matches!(known, "Failed" | "Succeeded") && !matches!(phase.as_str(), "Failed" | "Succeeded") {
            known.clone_into(&mut phase);
        }
    }
    let (mut reason, mut message) = (None, None);
    if old.phase.as_deref() == Some(phase.as_str()) {
        reason = old.reason.clone().or_else(|| pod.pod_status().reason.clone());
        message = old.message.clone().or_else(|| pod.pod_status().message.clone());
    }
    if let Some((why, text)) = inputs.failed {
        "Failed".clone_into(&mut phase);
        reason = Some(why.clone());
        message = Some(text.clone());
    }
    if pod.phase_is_terminal() {
        pod.phase().clone_into(&mut phase);
    }
    let mut status = PodStatus {
        phase: Some(phase),
        reason,
        message,
        qos_class: Some(pod.pod_status().qos_class.clone().unwrap_or_else(|| qos::class(pod).as_str().to_owned())),
        start_time: Some(old.start_time.clone().or_else(|| pod.pod_status().start_time.clone()).unwrap_or(Time(inputs.now))),
        container_statuses: Some(containers),
        init_container_statuses: (!init.is_empty()).then_some(init),
        ephemeral_container_statuses: (!ephemeral.is_empty()).then_some(ephemeral),
        observed_generation: pod.metadata.generation,
        nominated_node_name: pod.pod_status().nominated_node_name.clone(),
        resource_claim_statuses: pod.pod_status().resource_claim_statuses.clone(),
        ..PodStatus::default()
    };
    addresses(pod, snapshot, inputs, &mut status);
    status.conditions = Some(conditions::generate(pod, snapshot, inputs, &status));
    status
}

fn addresses(pod: &Pod, snapshot: &Snapshot, inputs: &Inputs<'_>, status: &mut PodStatus) {
    let mut ips = snapshot.ips().to_vec();
    if ips.is_empty() && pod.host_network() {
        ips = inputs.host_ips.to_vec();
    }
    if ips.is_empty() {
        // The addresses of a stopped pod stay readable, as upstream keeps them.
        ips = inputs.old.pod_ips.iter().flatten().map(|p| p.ip.clone()).collect();
    }
    status.pod_ip = ips.first().cloned();
    status.pod_ips = (!ips.is_empty()).then(|| ips.into_iter().map(|ip| PodIP { ip }).collect());
    status.host_ip = inputs.host_ips.first().cloned();
    status.host_ips = (!inputs.host_ips.is_empty()).then(|| inputs.host_ips.iter().map(|ip| HostIP { ip: ip.clone() }).collect());
}

fn container_statuses(
    pod: &Pod,
    snapshot: &Snapshot,
    inputs: &Inputs<'_>,
    kind: ContainerKind,
    containers: &[Container],
    old: &[ContainerStatus],
) -> Vec<ContainerStatus> {
    let mut statuses: Vec<ContainerStatus> = containers
        .iter()
        .map(|container| {
            let mut status = container_status(pod, container, snapshot, inputs, find_status(old, &container.name));
            waiting_to_start(pod, container, kind, snapshot, inputs, &mut status);
            readiness(container, kind, inputs, snapshot, &mut status);
            status
        })
        .collect();
    if kind != ContainerKind::Init {
        statuses.sort_by(|a, b| a.name.cmp(&b.name));
    }
    statuses
}

fn waiting(reason: &str, message: Option<String>) -> ContainerState {
    let reason = (!reason.is_empty()).then(|| reason.to_owned());
    ContainerState { waiting: Some(ContainerStateWaiting { reason, message }), ..ContainerState::default() }
}

/// The status of one container by its newest record, with the one before as the last state.
fn container_status(
    pod: &Pod,
    container: &Container,
    snapshot: &Snapshot,
    inputs: &Inputs<'_>,
    old: Option<&ContainerStatus>,
) -> ContainerStatus {
    let mut records = snapshot.containers.iter().filter(|c| c.name == container.name);
    let default_reason = if pod.init_containers().is_empty() { "ContainerCreating" } else { "PodInitializing" };
    let Some(record) = records.next() else { return without_record(pod, container, default_reason, old) };
    let mut status = ContainerStatus {
        name: container.name.clone(),
        restart_count: i32::try_from(record.restart_count).unwrap_or(i32::MAX).max(old.map_or(0, |o| o.restart_count)),
        image: record.image.clone(),
        image_id: record.image_ref.clone(),
        container_id: Some(format!("{}://{}", inputs.runtime_name, record.id)),
        state: Some(state(record, inputs.runtime_name)),
        last_state: Some(ContainerState::default()),
        volume_mounts: old.and_then(|o| o.volume_mounts.clone()).or_else(|| volume_mounts(container)),
        // What the container has; while a resize is under way that is what it had.
        resources: if record.state != State::Running || resize::is_actual(pod, container, record) {
            Some(container.resources.clone().unwrap_or_default())
        } else {
            old.and_then(|o| o.resources.clone()).or_else(|| container.resources.clone())
        },
        allocated_resources: container.resources.as_ref().and_then(|r| r.requests.clone()),
        user: record.user.as_ref().map(|u| ContainerUser {
            linux: Some(LinuxContainerUser {
                uid: u.uid,
                gid: u.gid,
                supplemental_groups: (!u.supplemental_groups.is_empty()).then(|| u.supplemental_groups.clone()),
            }),
        }),
        ..ContainerStatus::default()
    };
    if let Some(previous) = records.next() {
        status.last_state = Some(state(previous, inputs.runtime_name));
    } else if let Some(old) = old {
        // The previous container has been collected: what was known about it stays.
        let terminated = old.state.as_ref().filter(|s| s.terminated.is_some() && old.container_id != status.container_id);
        status.last_state = terminated.cloned().or_else(|| old.last_state.clone()).or(status.last_state);
    }
    status
}

fn state(record: &ContainerRecord, runtime_name: &str) -> ContainerState {
    match record.state {
        State::Running => ContainerState {
            running: Some(ContainerStateRunning { started_at: record.started_at.map(seconds) }),
            ..ContainerState::default()
        },
        State::Exited => ContainerState {
            terminated: Some(ContainerStateTerminated {
                exit_code: record.exit_code,
                reason: Some(record.reason.clone()).filter(|r| !r.is_empty()),
                message: Some(record.message.clone()).filter(|m| !m.is_empty()),
                // What never started is said to have at the epoch, as upstream has it.
                started_at: Some(seconds(record.started_at.unwrap_or_default())),
                finished_at: record.finished_at.map(seconds),
                container_id: Some(format!("{runtime_name}://{}", record.id)),
                signal: None,
            }),
            ..ContainerState::default()
        },
        State::Created | State::Unknown => waiting("", None),
    }
}

/// API times have whole seconds; comparing statuses must not see more.
fn seconds(time: Timestamp) -> Time {
    Time(Timestamp::from_second(time.as_second()).unwrap_or(time))
}

fn without_record(pod: &Pod, container: &Container, default_reason: &str, old: Option<&ContainerStatus>) -> ContainerStatus {
    let mut status = ContainerStatus {
        name: container.name.clone(),
        image: container.image.clone().unwrap_or_default(),
        state: Some(waiting(default_reason, None)),
        last_state: Some(ContainerState::default()),
        volume_mounts: volume_mounts(container),
        ..ContainerStatus::default()
    };
    let Some(old) = old else { return status };
    let old_state = old.state.clone().unwrap_or_default();
    if old_state.terminated.is_some() {
        return old.clone();
    }
    status.restart_count = old.restart_count;
    status.last_state = Some(old.last_state.clone().unwrap_or_default());
    let lost = old_state.running.is_some() && status.last_state.as_ref().is_none_or(|s| s.terminated.is_none());
    if lost {
        // It ran, and nothing is left of it: it ended, however that was.
        status.last_state = Some(ContainerState {
            terminated: Some(ContainerStateTerminated {
                exit_code: 137,
                reason: Some("ContainerStatusUnknown".to_owned()),
                message: Some(
                    "The container could not be located when the pod was deleted.  The container used to be Running".to_owned(),
                ),
                ..ContainerStateTerminated::default()
            }),
            ..ContainerState::default()
        });
        if !pod.is_deleted() {
            status.restart_count += 1;
        }
    }
    status
}

fn volume_mounts(container: &Container) -> Option<Vec<VolumeMountStatus>> {
    let mounts = container.volume_mounts.as_ref()?;
    let list: Vec<VolumeMountStatus> = mounts
        .iter()
        .map(|m| VolumeMountStatus {
            name: m.name.clone(),
            mount_path: m.mount_path.clone(),
            read_only: m.read_only.filter(|r| *r),
            recursive_read_only: (m.read_only == Some(true))
                .then(|| if m.recursive_read_only.as_deref() == Some("Enabled") { "Enabled" } else { "Disabled" }.to_owned()),
        })
        .collect();
    (!list.is_empty()).then_some(list)
}

/// A container that is to be started and cannot be is Waiting, with the reason; what it was becomes its last state.
fn waiting_to_start(
    pod: &Pod,
    container: &Container,
    kind: ContainerKind,
    snapshot: &Snapshot,
    inputs: &Inputs<'_>,
    status: &mut ContainerStatus,
) {
    let latest = snapshot.latest(&container.name);
    let done = kind == ContainerKind::Init
        && latest.is_some_and(|r| r.state == State::Exited && r.exit_code == 0)
        && !is_sidecar(container);
    if done
        || inputs.terminal
        || (kind == ContainerKind::Ephemeral && latest.is_some())
        || !should_restart(pod, container, latest)
    {
        return;
    }
    let Some(failure) = inputs.failures.get(&container.name) else { return };
    if status.state.as_ref().is_some_and(|s| s.terminated.is_some()) {
        status.last_state = status.state.take();
    }
    status.state = Some(waiting(failure.reason, Some(failure.message.clone()).filter(|m| !m.is_empty())));
}

fn readiness(container: &Container, kind: ContainerKind, inputs: &Inputs<'_>, snapshot: &Snapshot, status: &mut ContainerStatus) {
    let state = status.state.clone().unwrap_or_default();
    let sidecar = is_sidecar(container);
    if kind == ContainerKind::Init && !sidecar {
        status.ready = state.terminated.as_ref().is_some_and(|t| t.exit_code == 0);
        status.started = Some(state.running.is_some());
        return;
    }
    if kind == ContainerKind::Ephemeral {
        status.started = None;
        status.ready = false;
        return;
    }
    let running = state.running.is_some();
    let found = snapshot.latest(&container.name).map(|r| (inputs.probes)(&r.id)).unwrap_or_default();
    let started = running && (container.startup_probe.is_none() || found.startup == Some(true));
    status.started = Some(started);
    status.ready = started && (container.readiness_probe.is_none() || found.readiness == Some(true));
}

#[derive(Default)]
struct Counts {
    pending_init: u32,
    pending_sidecars: u32,
    failed_for_good: u32,
    unknown: u32,
    running: u32,
    waiting: u32,
    stopped: u32,
    stopped_for_good: u32,
    succeeded: u32,
}

/// The pod's phase by its containers' states.
pub(crate) fn phase(
    pod: &Pod,
    init: &[ContainerStatus],
    containers: &[ContainerStatus],
    terminal: bool,
    initialized: bool,
) -> &'static str {
    let mut counts = Counts::default();
    for container in pod.init_containers() {
        let state = find_status(init, &container.name);
        if is_sidecar(container) { count_sidecar(state, &mut counts) } else { count_init(pod, container, state, &mut counts) }
    }
    for container in pod.containers() {
        count_regular(pod, container, find_status(containers, &container.name), &mut counts);
    }
    if counts.failed_for_good > 0 {
        return "Failed";
    }
    if counts.pending_init > 0 || (counts.pending_sidecars > 0 && !initialized) || counts.waiting > 0 {
        return "Pending";
    }
    if counts.running > 0 && counts.unknown == 0 {
        return "Running";
    }
    if counts.running == 0 && counts.stopped > 0 && counts.unknown == 0 {
        if terminal && !pod.is_static() {
            return if counts.stopped == counts.succeeded { "Succeeded" } else { "Failed" };
        }
        if counts.stopped != counts.stopped_for_good {
            return "Running";
        }
        return if counts.stopped == counts.succeeded { "Succeeded" } else { "Failed" };
    }
    "Pending"
}

/// The three states, with the last termination's exit code where the container waits after one.
enum Now {
    Running { started: bool },
    Ended(i32),
    WaitingAfter(i32),
    Waiting,
    Unknown,
}

fn now(status: Option<&ContainerStatus>) -> Now {
    let Some(status) = status else { return Now::Unknown };
    let state = status.state.clone().unwrap_or_default();
    if state.running.is_some() {
        return Now::Running { started: status.started == Some(true) };
    }
    if let Some(terminated) = state.terminated {
        return Now::Ended(terminated.exit_code);
    }
    if state.waiting.is_some() {
        return status
            .last_state
            .as_ref()
            .and_then(|l| l.terminated.as_ref())
            .map_or(Now::Waiting, |t| Now::WaitingAfter(t.exit_code));
    }
    Now::Unknown
}

fn count_init(pod: &Pod, container: &Container, status: Option<&ContainerStatus>, counts: &mut Counts) {
    match now(status) {
        Now::Ended(code) | Now::WaitingAfter(code) => {
            if code != 0 && !restarts_after(pod, container, code) {
                counts.failed_for_good += 1;
            }
        }
        Now::Running { .. } | Now::Waiting | Now::Unknown => counts.pending_init += 1,
    }
}

fn count_sidecar(status: Option<&ContainerStatus>, counts: &mut Counts) {
    match now(status) {
        Now::Running { started } => {
            counts.pending_sidecars += u32::from(!started);
            counts.running += 1;
        }
        Now::Ended(_) | Now::WaitingAfter(_) => {}
        Now::Waiting => {
            counts.pending_sidecars += 1;
            counts.waiting += 1;
        }
        Now::Unknown => counts.unknown += 1,
    }
}

fn count_regular(pod: &Pod, container: &Container, status: Option<&ContainerStatus>, counts: &mut Counts) {
    match now(status) {
        Now::Running { .. } => counts.running += 1,
        Now::Ended(code) => {
            counts.stopped += 1;
            counts.stopped_for_good += u32::from(!restarts_after(pod, container, code));
            counts.succeeded += u32::from(code == 0);
        }
        Now::WaitingAfter(code) => {
            counts.stopped += 1;
            counts.stopped_for_good += u32::from(!restarts_after(pod, container, code));
        }
        Now::Waiting => counts.waiting += 1,
        Now::Unknown => counts.unknown += 1,
    }
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
