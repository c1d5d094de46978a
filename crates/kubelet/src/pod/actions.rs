//! The decision of the pod state machine: from the pod's specification, what the runtime reports and what probes found, to what has to be
//! done now. Pure; upstream's `computePodActions` is the specification.

use k8s_openapi::api::core::v1::{Container, Pod};

use crate::pod::access::{PodAccess, is_sidecar};
use crate::runtime::labels;
use crate::runtime::snapshot::{ContainerRecord, Snapshot, State};

/// What probes say about a container; `None`: nothing yet, or no such probe.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ProbeOutcomes {
    pub(crate) liveness: Option<bool>,
    pub(crate) startup: Option<bool>,
}

/// Why a container is killed; decides its grace period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KillReason {
    LivenessProbe,
    StartupProbe,
    Unknown,
}

/// A container to kill.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kill {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) message: String,
    pub(crate) reason: KillReason,
}

/// What has to be done for a pod now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Actions {
    /// Stop everything of the pod, before a new sandbox or for good.
    pub(crate) kill_pod: bool,
    pub(crate) create_sandbox: bool,
    /// The current sandbox, if there is one.
    pub(crate) sandbox_id: Option<String>,
    /// The attempt of the sandbox: of the current, or of the one to create.
    pub(crate) attempt: u32,
    /// Indexes into `initContainers`, in the order of starting.
    pub(crate) init_to_start: Vec<usize>,
    /// Indexes into `containers`.
    pub(crate) to_start: Vec<usize>,
    /// Indexes into `ephemeralContainers`.
    pub(crate) ephemeral_to_start: Vec<usize>,
    pub(crate) to_kill: Vec<Kill>,
}

/// Whether the pod needs a new sandbox, the attempt number, and the sandbox there is.
pub(crate) fn sandbox_changed(pod: &Pod, snapshot: &Snapshot) -> (bool, u32, Option<String>) {
    let Some(latest) = snapshot.sandboxes.first() else { return (true, 0, None) };
    let ready = snapshot.sandboxes.iter().filter(|s| s.ready).count();
    if ready > 1 || !latest.ready {
        return (true, latest.attempt + 1, Some(latest.id.clone()));
    }
    if latest.host_network != pod.host_network() {
        return (true, latest.attempt + 1, None);
    }
    if !pod.host_network() && latest.ips.is_empty() {
        return (true, latest.attempt + 1, Some(latest.id.clone()));
    }
    (false, latest.attempt, Some(latest.id.clone()))
}

/// Whether a container that does not run has to be started, by the pod's restart policy and its own (KEP-5307).
pub(crate) fn should_restart(pod: &Pod, container: &Container, latest: Option<&ContainerRecord>) -> bool {
    if pod.is_deleted() {
        return false;
    }
    match latest {
        None => true,
        Some(c) => match c.state {
            State::Running => false,
            State::Unknown | State::Created => true,
            State::Exited => restarts_after(pod, container, c.exit_code),
        },
    }
}

/// Whether a container that exited with `exit_code` is started again.
pub(crate) fn restarts_after(pod: &Pod, container: &Container, exit_code: i32) -> bool {
    if let Some(rules) = container.restart_policy_rules.as_ref() {
        for rule in rules {
            let Some(codes) = rule.exit_codes.as_ref() else { continue };
            let listed = codes.values.as_deref().unwrap_or_default().contains(&exit_code);
            let matches = if codes.operator == "In" { listed } else { !listed };
            if matches && rule.action == "Restart" {
                return true;
            }
        }
    }
    match container.restart_policy.as_deref().unwrap_or_else(|| pod.restart_policy()) {
        "Always" => true,
        "OnFailure" => exit_code != 0,
        _ => false,
    }
}

fn restarts_on_failure(pod: &Pod, container: &Container) -> bool {
    container.restart_policy.as_deref().unwrap_or_else(|| pod.restart_policy()) != "Never"
}

/// Decides what to do. `probes` answers for a container id.
pub(crate) fn compute(pod: &Pod, snapshot: &Snapshot, probes: &dyn Fn(&str) -> ProbeOutcomes) -> Actions {
    let (create_sandbox, attempt, sandbox_id) = sandbox_changed(pod, snapshot);
    let mut actions = Actions { kill_pod: create_sandbox, create_sandbox, sandbox_id, attempt, ..Actions::default() };
    if create_sandbox {
        from_new_sandbox(pod, snapshot, &mut actions);
        return actions;
    }
    for (index, container) in pod.ephemeral_containers().iter().enumerate() {
        // They are never restarted.
        if snapshot.latest(&container.name).is_none() {
            actions.ephemeral_to_start.push(index);
        }
    }
    let initialized = init_containers(pod, snapshot, probes, &mut actions);
    if actions.kill_pod || !initialized {
        return actions;
    }
    let mut keep = 0;
    for (index, container) in pod.containers().iter().enumerate() {
        match snapshot.latest(&container.name).filter(|c| c.state == State::Running) {
            Some(record) => match unwanted(pod, container, record, probes(&record.id)) {
                None => keep += 1,
                Some((kill, restart)) => {
                    if restart {
                        actions.to_start.push(index);
                    }
                    actions.to_kill.push(kill);
                }
            },
            None => stopped(pod, container, index, snapshot, &mut actions),
        }
    }
    if keep == 0 && actions.to_start.is_empty() {
        actions.kill_pod = true;
        // Sidecars must not keep a finished pod alive.
        actions.init_to_start.clear();
    }
    actions
}

fn stopped(pod: &Pod, container: &Container, index: usize, snapshot: &Snapshot, actions: &mut Actions) {
    let latest = snapshot.latest(&container.name);
    if !should_restart(pod, container, latest) {
        return;
    }
    actions.to_start.push(index);
    if let Some(record) = latest.filter(|c| c.state == State::Unknown) {
        // It may run: two of one container must not.
        actions.to_kill.push(unknown_state("Container", record));
    }
}

fn unknown_state(kind: &str, record: &ContainerRecord) -> Kill {
    Kill {
        id: record.id.clone(),
        name: record.name.clone(),
        message: format!("{kind} is in \"unknown\" state, try killing it before restart"),
        reason: KillReason::Unknown,
    }
}

/// Why a running container must go, and whether it comes back.
fn unwanted(pod: &Pod, container: &Container, record: &ContainerRecord, probes: ProbeOutcomes) -> Option<(Kill, bool)> {
    let name = &container.name;
    let (mut message, reason, restart) = if record.hash != labels::hash(container) {
        (format!("Container {name} definition changed"), KillReason::Unknown, true)
    } else if probes.liveness == Some(false) {
        (format!("Container {name} failed liveness probe"), KillReason::LivenessProbe, restarts_on_failure(pod, container))
    } else if probes.startup == Some(false) {
        (format!("Container {name} failed startup probe"), KillReason::StartupProbe, restarts_on_failure(pod, container))
    } else {
        return None;
    };
    if restart {
        message.push_str(", will be restarted");
    }
    Some((Kill { id: record.id.clone(), name: name.clone(), message, reason }, restart))
}

fn from_new_sandbox(pod: &Pod, snapshot: &Snapshot, actions: &mut Actions) {
    if pod.restart_policy() == "Never" && actions.attempt != 0 && !snapshot.containers.is_empty() {
        actions.create_sandbox = false;
        return;
    }
    let succeeded = |c: &Container| snapshot.latest(&c.name).is_some_and(|r| r.state == State::Exited && r.exit_code == 0);
    for (index, container) in pod.containers().iter().enumerate() {
        let run_once = container.restart_policy.as_deref().unwrap_or_else(|| pod.restart_policy()) == "OnFailure";
        if !(run_once && succeeded(container)) {
            actions.to_start.push(index);
        }
    }
    let any_created = pod.containers().iter().any(|c| snapshot.latest(&c.name).is_some_and(|r| r.state != State::Unknown));
    if actions.to_start.is_empty() && any_created {
        actions.create_sandbox = false;
        return;
    }
    if !pod.init_containers().is_empty() {
        actions.to_start.clear();
        actions.init_to_start = vec![0];
    }
}

/// The init containers' part; `true` when all are through.
fn init_containers(pod: &Pod, snapshot: &Snapshot, probes: &dyn Fn(&str) -> ProbeOutcomes, actions: &mut Actions) -> bool {
    let all = pod.init_containers();
    if all.is_empty() {
        return true;
    }
    let mut initialized = pod
        .containers()
        .iter()
        .filter_map(|c| snapshot.latest(&c.name))
        .any(|r| matches!(r.state, State::Created | State::Running));
    let mut previously = initialized;
    // From the last: finished init containers may be gone from the runtime, so the furthest one counts.
    for (index, container) in all.iter().enumerate().rev() {
        let sidecar = is_sidecar(container);
        let Some(record) = snapshot.latest(&container.name) else {
            if previously && sidecar {
                actions.init_to_start.push(index);
            }
            continue;
        };
        if previously && !sidecar {
            continue;
        }
        let last = index + 1 == all.len();
        let step = match record.state {
            State::Created => Step::Start,
            State::Running if !sidecar => Step::Wait,
            State::Running => running_sidecar(container, record, probes(&record.id)),
            State::Exited if sidecar => Step::Start,
            State::Exited if record.exit_code == 0 => Step::Done(None),
            State::Exited if restarts_after(pod, container, record.exit_code) => Step::Start,
            State::Unknown if sidecar || restarts_on_failure(pod, container) => {
                Step::Restart(unknown_state("Init container", record))
            }
            State::Exited | State::Unknown => Step::Fail,
        };
        match step {
            Step::Wait => {}
            Step::Start => actions.init_to_start.push(index),
            Step::Restart(kill) => {
                actions.to_kill.push(kill);
                actions.init_to_start.push(index);
            }
            Step::Done(kill) => {
                if last {
                    initialized = true;
                } else if !previously {
                    actions.init_to_start.push(index + 1);
                }
                if let Some(kill) = kill {
                    actions.to_kill.push(kill);
                    actions.init_to_start.push(index);
                }
            }
            Step::Fail => {
                actions.kill_pod = true;
                actions.init_to_start.clear();
                return false;
            }
        }
        previously = true;
    }
    if !previously {
        actions.init_to_start.push(0);
    }
    actions.init_to_start.reverse();
    initialized
}

/// What one init container's state asks for.
enum Step {
    Wait,
    Start,
    Restart(Kill),
    /// It is through; a sidecar may have to be restarted all the same.
    Done(Option<Kill>),
    Fail,
}

fn running_sidecar(container: &Container, record: &ContainerRecord, probes: ProbeOutcomes) -> Step {
    let name = &container.name;
    let kill = |what: &str, reason| Kill {
        id: record.id.clone(),
        name: name.clone(),
        message: format!("Init container {name} {what}"),
        reason,
    };
    if container.startup_probe.is_some() {
        match probes.startup {
            None => return Step::Wait,
            Some(false) => return Step::Restart(kill("failed startup probe", KillReason::StartupProbe)),
            Some(true) => {}
        }
    }
    if record.hash != labels::hash(container) {
        return Step::Done(Some(kill("definition changed", KillReason::Unknown)));
    }
    if container.liveness_probe.is_some() && probes.liveness == Some(false) {
        return Step::Done(Some(kill("failed liveness probe", KillReason::LivenessProbe)));
    }
    Step::Done(None)
}

#[cfg(test)]
#[path = "actions_tests.rs"]
mod tests;
