//! The pod's conditions that the kubelet owns; those of others are left to their owners.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::pod::access::{PodAccess, find_status, is_sidecar};
use crate::pod::actions::sandbox_changed;
use crate::pod::status::Inputs;
use crate::runtime::resize;
use crate::runtime::snapshot::{Snapshot, State};

/// The types that the kubelet writes.
pub(crate) const OWNED: [&str; 7] =
    ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled", RESIZE_PENDING, RESIZE_IN_PROGRESS];
/// There only while a resize waits to be granted.
pub(crate) const RESIZE_PENDING: &str = "PodResizePending";
/// There only while containers do not have yet what was granted.
pub(crate) const RESIZE_IN_PROGRESS: &str = "PodResizeInProgress";

struct Verdict {
    status: bool,
    reason: Option<&'static str>,
    message: Option<String>,
}

impl Verdict {
    fn yes() -> Self {
        Self { status: true, reason: None, message: None }
    }
    fn no(reason: &'static str, message: impl Into<String>) -> Self {
        Self { status: false, reason: Some(reason), message: Some(message.into()).filter(|m: &String| !m.is_empty()) }
    }
}

/// All conditions of the new status: foreign ones as they are on the pod, then ours.
pub(crate) fn generate(pod: &Pod, snapshot: &Snapshot, inputs: &Inputs<'_>, status: &PodStatus) -> Vec<PodCondition> {
    let (known, now) = (inputs.old.conditions.as_deref().unwrap_or_default(), inputs.now);
    let foreign = pod.pod_status().conditions.iter().flatten().filter(|c| !OWNED.contains(&c.type_.as_str()));
    let mut conditions: Vec<PodCondition> = foreign.cloned().collect();
    let started = Verdict { status: !sandbox_changed(pod, snapshot).0, reason: None, message: None };
    let mut statuses: Vec<ContainerStatus> = status.init_container_statuses.clone().unwrap_or_default();
    statuses.extend(status.container_statuses.clone().unwrap_or_default());
    let phase = status.phase.as_deref().unwrap_or("");
    let ready = pod_ready(pod, &statuses, phase, &conditions);
    for (kind, verdict) in [
        ("PodReadyToStartContainers", started),
        ("Initialized", initialized(pod, &statuses, phase)),
        ("Ready", ready),
        ("ContainersReady", containers_ready(pod, &statuses, phase)),
        ("PodScheduled", Verdict::yes()),
    ] {
        conditions.push(stamp(kind, verdict, known, pod, now));
    }
    if let Some(pending) = inputs.resize_pending {
        let verdict = Verdict { status: true, reason: Some(pending.reason), message: Some(pending.message.clone()) };
        conditions.push(stamp(RESIZE_PENDING, verdict, known, pod, now));
    }
    let resizable = pod.containers().iter().chain(pod.init_containers().iter().filter(|c| is_sidecar(c)));
    let mut running = resizable.filter_map(|c| Some((c, snapshot.latest(&c.name).filter(|r| r.state == State::Running)?)));
    if running.any(|(container, record)| !resize::is_actual(pod, container, record)) {
        conditions.push(stamp(RESIZE_IN_PROGRESS, Verdict::yes(), known, pod, now));
    }
    conditions
}

fn stamp(kind: &str, verdict: Verdict, known: &[PodCondition], pod: &Pod, now: Timestamp) -> PodCondition {
    let status = if verdict.status { "True" } else { "False" };
    let from_pod = pod.pod_status().conditions.as_deref().unwrap_or_default();
    let before = known.iter().chain(from_pod).find(|c| c.type_ == kind && c.status == status);
    let second = Timestamp::from_second(now.as_second()).unwrap_or(now);
    PodCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: verdict.reason.map(str::to_owned),
        message: verdict.message,
        last_probe_time: None,
        last_transition_time: Some(before.and_then(|c| c.last_transition_time.clone()).unwrap_or(Time(second))),
        observed_generation: pod.metadata.generation,
    }
}

/// Names as Go prints a slice of strings: `[a b]`.
fn listed(names: &[&str]) -> String {
    format!("[{}]", names.join(" "))
}

fn messages(parts: [(&str, &[&str]); 2]) -> String {
    let said: Vec<String> =
        parts.iter().filter(|(_, names)| !names.is_empty()).map(|(what, names)| format!("{what}: {}", listed(names))).collect();
    said.join(", ")
}

fn containers_ready(pod: &Pod, statuses: &[ContainerStatus], phase: &str) -> Verdict {
    let (mut unknown, mut unready) = (Vec::new(), Vec::new());
    for container in pod.init_containers().iter().filter(|c| is_sidecar(c)).chain(pod.containers()) {
        match find_status(statuses, &container.name) {
            Some(status) if status.ready => {}
            Some(_) => unready.push(container.name.as_str()),
            None => unknown.push(container.name.as_str()),
        }
    }
    match phase {
        "Succeeded" if unknown.is_empty() => return Verdict::no("PodCompleted", ""),
        "Failed" => return Verdict::no("PodFailed", ""),
        _ => {}
    }
    let message = messages([("containers with unknown status", &unknown), ("containers with unready status", &unready)]);
    if message.is_empty() { Verdict::yes() } else { Verdict::no("ContainersNotReady", message) }
}

fn pod_ready(pod: &Pod, statuses: &[ContainerStatus], phase: &str, conditions: &[PodCondition]) -> Verdict {
    let containers = containers_ready(pod, statuses, phase);
    if !containers.status {
        return containers;
    }
    let mut missing = Vec::new();
    for gate in pod.pod_spec().readiness_gates.iter().flatten() {
        let kind = &gate.condition_type;
        match conditions.iter().find(|c| &c.type_ == kind) {
            None => missing.push(format!("corresponding condition of pod readiness gate \"{kind}\" does not exist.")),
            Some(c) if c.status != "True" => {
                missing.push(format!("the status of pod readiness gate \"{kind}\" is not \"True\", but {}", c.status))
            }
            Some(_) => {}
        }
    }
    if missing.is_empty() { Verdict::yes() } else { Verdict::no("ReadinessGatesNotReady", missing.join(", ")) }
}

fn initialized(pod: &Pod, statuses: &[ContainerStatus], phase: &str) -> Verdict {
    let (mut unknown, mut incomplete) = (Vec::new(), Vec::new());
    for container in pod.init_containers() {
        match find_status(statuses, &container.name) {
            None => unknown.push(container.name.as_str()),
            Some(status) => {
                let through = if is_sidecar(container) { status.started == Some(true) } else { status.ready };
                if !through {
                    incomplete.push(container.name.as_str());
                }
            }
        }
    }
    if phase == "Succeeded" && unknown.is_empty() {
        return Verdict { status: true, reason: Some("PodCompleted"), message: None };
    }
    let ran = |status: &ContainerStatus| status.state.as_ref().is_some_and(|s| s.running.is_some() || s.terminated.is_some());
    if pod.containers().iter().filter_map(|c| find_status(statuses, &c.name)).any(ran) {
        return Verdict::yes();
    }
    let message = messages([("containers with unknown status", &unknown), ("containers with incomplete status", &incomplete)]);
    if message.is_empty() { Verdict::yes() } else { Verdict::no("ContainersNotInitialized", message) }
}
