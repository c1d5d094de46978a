//! Pods and pod templates.

use apimachinery::Value;

use super::format::{age, condition, containers, is_true, labels, name, number, since, text};
use super::{Registration, printer};

pub(super) const PRINTERS: &[Registration] = &[
    printer(
        "pods",
        "",
        &["Name", "Ready", "Status", "Restarts", "Age", "+IP", "+Node", "+Nominated Node", "+Readiness Gates"],
        pod,
    ),
    printer("podtemplates", "", &["Name", "Containers", "Images", "Pod Labels"], pod_template),
];

fn pod_template(object: &Value) -> Vec<Value> {
    let [names, images] = containers(object.get_path(&["template", "spec"]));
    vec![name(object), names, images, labels(object.get_path(&["template", "metadata", "labels"])).into()]
}

/// What the containers' states add up to.
#[derive(Default)]
struct Summary {
    reason: String,
    restarts: i64,
    last_restart: String,
    ready: usize,
}

impl Summary {
    fn count_restarts(&mut self, status: &Value) {
        self.restarts += number(status, &["restartCount"]);
        let finished = status.str_at(&["lastState", "terminated", "finishedAt"]).unwrap_or_default();
        // RFC 3339 in UTC sorts as text.
        if finished > self.last_restart.as_str() {
            self.last_restart = finished.to_owned();
        }
    }
}

fn pod(object: &Value) -> Vec<Value> {
    let init_containers = object.array_at(&["spec", "initContainers"]);
    let sidecars = init_containers.iter().filter(|container| is_sidecar(container)).count();
    let total = object.array_at(&["spec", "containers"]).len() + sidecars;
    let phase = object.str_at(&["status", "phase"]).unwrap_or_default();
    let mut summary = Summary { reason: phase.to_owned(), ..Summary::default() };
    if let Some(reason) = object.str_at(&["status", "reason"]).filter(|reason| !reason.is_empty()) {
        summary.reason = reason.to_owned();
    }
    if condition(object, "PodScheduled").and_then(|c| c.str_at(&["reason"])) == Some("SchedulingGated") {
        summary.reason = "SchedulingGated".to_owned();
    }
    let initializing = init_state(object, init_containers, &mut summary);
    if !initializing || is_true(object, "Initialized") {
        main_state(object, init_containers, &mut summary);
    }
    if object.meta().deletion_timestamp().is_some() {
        if object.str_at(&["status", "reason"]) == Some("NodeLost") {
            summary.reason = "Unknown".to_owned();
        } else if phase != "Succeeded" && phase != "Failed" {
            summary.reason = "Terminating".to_owned();
        }
    }
    let restarts = match (summary.restarts, summary.last_restart.as_str()) {
        (0, _) | (_, "") => summary.restarts.to_string(),
        (restarts, last) => format!("{restarts} ({} ago)", since(Some(last))),
    };
    let first = object.array_at(&["status", "podIPs"]).first().and_then(|ip| ip.str_at(&["ip"]));
    let address = first.or_else(|| object.str_at(&["status", "podIP"])).filter(|ip| !ip.is_empty()).unwrap_or("<none>");
    vec![
        name(object),
        format!("{}/{total}", summary.ready).into(),
        summary.reason.into(),
        restarts.into(),
        age(object),
        address.into(),
        text(object, &["spec", "nodeName"], "<none>"),
        text(object, &["status", "nominatedNodeName"], "<none>"),
        readiness_gates(object).into(),
    ]
}

/// Marks a pod that is over, so that clients may show it differently.
pub(super) fn conditions(object: &Value) -> Option<Value> {
    let (reason, message) = match object.str_at(&["status", "phase"])? {
        "Succeeded" => ("Succeeded", "The pod has completed successfully."),
        "Failed" => ("Failed", "The pod failed."),
        _ => return None,
    };
    Some(apimachinery::value!([{"type": "Completed", "status": "True", "reason": reason, "message": message}]))
}

fn is_sidecar(container: &Value) -> bool {
    container.str_at(&["restartPolicy"]) == Some("Always")
}

/// Reads the init containers; true while one of them holds the pod up.
fn init_state(object: &Value, specs: &[Value], summary: &mut Summary) -> bool {
    for (index, status) in object.array_at(&["status", "initContainerStatuses"]).iter().enumerate() {
        summary.count_restarts(status);
        let sidecar = specs.iter().any(|spec| is_sidecar(spec) && spec.str_at(&["name"]) == status.str_at(&["name"]));
        let terminated = status.get_path(&["state", "terminated"]);
        let waiting =
            status.str_at(&["state", "waiting", "reason"]).filter(|reason| !reason.is_empty() && *reason != "PodInitializing");
        if terminated.is_some_and(|terminated| number(terminated, &["exitCode"]) == 0) {
            continue;
        }
        if sidecar && status.bool_at(&["started"]) == Some(true) {
            summary.ready += usize::from(status.bool_at(&["ready"]) == Some(true));
            continue;
        }
        summary.reason = match (terminated, waiting) {
            (Some(terminated), _) => format!("Init:{}", ended(terminated)),
            (None, Some(reason)) => format!("Init:{reason}"),
            (None, None) => format!("Init:{index}/{}", specs.len()),
        };
        return true;
    }
    false
}

/// Why a container ended: its reason, signal or exit code.
fn ended(terminated: &Value) -> String {
    match (terminated.str_at(&["reason"]).unwrap_or_default(), number(terminated, &["signal"])) {
        ("", 0) => format!("ExitCode:{}", number(terminated, &["exitCode"])),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

fn main_state(object: &Value, specs: &[Value], summary: &mut Summary) {
    (summary.restarts, summary.last_restart) = (0, String::new());
    for status in object.array_at(&["status", "initContainerStatuses"]) {
        if specs.iter().any(|spec| is_sidecar(spec) && spec.str_at(&["name"]) == status.str_at(&["name"])) {
            summary.count_restarts(status);
        }
    }
    let (mut running, mut error) = (false, String::new());
    for status in object.array_at(&["status", "containerStatuses"]).iter().rev() {
        summary.count_restarts(status);
        let ready = status.bool_at(&["ready"]) == Some(true);
        if let Some(reason) = status.str_at(&["state", "waiting", "reason"]).filter(|reason| !reason.is_empty()) {
            summary.reason = reason.to_owned();
        } else if let Some(terminated) = status.get_path(&["state", "terminated"]) {
            summary.reason = ended(terminated);
            if number(terminated, &["exitCode"]) != 0 {
                error.clone_from(&summary.reason);
            }
        } else if ready && status.get_path(&["state", "running"]).is_some() {
            running = true;
            summary.ready += 1;
        }
    }
    // One container has ended well: the others decide.
    if summary.reason == "Completed" {
        if running && is_true(object, "Ready") {
            summary.reason = "Running".to_owned();
        } else if !error.is_empty() {
            summary.reason = error;
        } else if running {
            summary.reason = "NotReady".to_owned();
        }
    }
}

fn readiness_gates(object: &Value) -> String {
    let gates = object.array_at(&["spec", "readinessGates"]);
    if gates.is_empty() {
        return "<none>".to_owned();
    }
    let passed = gates.iter().filter(|gate| is_true(object, gate.str_at(&["conditionType"]).unwrap_or_default())).count();
    format!("{passed}/{}", gates.len())
}

#[cfg(test)]
mod tests {
    use apimachinery::value;

    use super::*;

    fn check(status: Value, deleted: bool, expected: [&str; 3]) {
        let mut object = value!({"metadata": {"name": "p"}, "spec": {
            "containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}]}});
        object.insert("status", status);
        if deleted {
            object.set_path(&["metadata", "deletionTimestamp"], "2026-01-01T00:00:00Z");
        }
        let cells = pod(&object);
        assert_eq!([&cells[1], &cells[2], &cells[3]].map(|cell| cell.as_str().unwrap_or_default().to_owned()), expected);
    }

    #[test]
    fn status_column() {
        let running = || value!({"name": "a", "ready": true, "state": {"running": {}}, "restartCount": 0});
        let done = |code: i64, reason: &str| value!({"name": "b", "state": {"terminated": {"exitCode": code, "reason": reason}}, "restartCount": 2});
        check(value!({"phase": "Pending"}), false, ["0/2", "Pending", "0"]);
        check(value!({"phase": "Running", "containerStatuses": [running(), running()]}), false, ["2/2", "Running", "0"]);
        check(value!({"phase": "Running", "containerStatuses": [running(), running()]}), true, ["2/2", "Terminating", "0"]);
        check(value!({"phase": "Running", "containerStatuses": [running(), done(1, "Error")]}), false, ["1/2", "Error", "2"]);
        check(
            value!({"phase": "Running", "containerStatuses": [done(0, "Completed"), running()]}),
            false,
            ["1/2", "NotReady", "2"],
        );
        check(value!({"phase": "Succeeded", "containerStatuses": [done(0, "Completed")]}), true, ["0/2", "Completed", "2"]);
        let waiting = value!({"name": "a", "state": {"waiting": {"reason": "CrashLoopBackOff"}}, "restartCount": 1});
        check(value!({"phase": "Running", "containerStatuses": [waiting]}), false, ["0/2", "CrashLoopBackOff", "1"]);
        let init = value!({"name": "i", "state": {"running": {}}, "restartCount": 0});
        check(value!({"phase": "Pending", "initContainerStatuses": [init]}), false, ["0/2", "Init:0/1", "0"]);
        let failed = value!({"name": "i", "state": {"terminated": {"exitCode": 3}}, "restartCount": 0});
        check(value!({"phase": "Pending", "initContainerStatuses": [failed]}), false, ["0/2", "Init:ExitCode:3", "0"]);
    }
}
