//! Tables for [`super::compute`]: a pod, what runs, and what has to be done.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::*;
use crate::runtime::snapshot::SandboxRecord;

fn pod(spec: Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec})).unwrap()
}

/// `NAME:STATE[:EXIT]` for each container, the newest first; the id is the name with its position.
fn snapshot(pod: &Pod, sandbox: &str, containers: &[&str]) -> Snapshot {
    let sandboxes = match sandbox {
        "none" => Vec::new(),
        state => vec![SandboxRecord {
            id: "s".to_owned(),
            attempt: 0,
            ready: state == "ready",
            created_at: 1,
            host_network: false,
            ips: vec!["10.0.0.1".to_owned()],
        }],
    };
    let containers = containers
        .iter()
        .map(|text| {
            let mut fields = text.split(':');
            let (name, state) = (fields.next().unwrap(), fields.next().unwrap());
            let hash = pod.find_container(name).map(|(_, c)| labels::hash(&c)).unwrap_or_default();
            ContainerRecord {
                id: format!("{name}-id"),
                name: name.to_owned(),
                sandbox_id: "s".to_owned(),
                state: match state {
                    "running" | "changed" => State::Running,
                    "created" => State::Created,
                    "exited" => State::Exited,
                    _ => State::Unknown,
                },
                hash: if state == "changed" { "old".to_owned() } else { hash },
                restart_count: 0,
                image: String::new(),
                image_ref: String::new(),
                created_at: Timestamp::UNIX_EPOCH,
                started_at: None,
                finished_at: None,
                exit_code: fields.next().map_or(0, |code| code.parse().unwrap()),
                reason: String::new(),
                message: String::new(),
                log_path: String::new(),
                memory_request: None,
                resources: None,
                user: None,
            }
        })
        .collect();
    Snapshot { sandboxes, containers }
}

/// The actions in one line: `kill` `sandbox` `init=..` `start=..` `stop=..`.
fn summary(actions: &Actions) -> String {
    let mut parts = Vec::new();
    if actions.kill_pod {
        parts.push("kill".to_owned());
    }
    if actions.create_sandbox {
        parts.push(format!("sandbox{}", actions.attempt));
    }
    let indexes = |list: &[usize]| list.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    for (name, list) in
        [("init", &actions.init_to_start), ("start", &actions.to_start), ("ephemeral", &actions.ephemeral_to_start)]
    {
        if !list.is_empty() {
            parts.push(format!("{name}={}", indexes(list)));
        }
    }
    if !actions.to_kill.is_empty() {
        parts.push(format!("stop={}", actions.to_kill.iter().map(|k| k.name.as_str()).collect::<Vec<_>>().join(",")));
    }
    parts.join(" ")
}

fn check(spec: &Value, sandbox: &str, containers: &[&str], expected: &str) {
    check_probes(spec, sandbox, containers, &|_| ProbeOutcomes::default(), expected);
}

fn check_probes(spec: &Value, sandbox: &str, containers: &[&str], probes: &dyn Fn(&str) -> ProbeOutcomes, expected: &str) {
    let pod = pod(spec.clone());
    let actions = compute(&pod, &snapshot(&pod, sandbox, containers), probes);
    assert_eq!(summary(&actions), expected, "{spec} with {sandbox} and {containers:?}: {actions:?}");
}

#[test]
fn regular_containers() {
    let two = |policy: &str| json!({"restartPolicy": policy, "containers": [{"name": "a"}, {"name": "b"}]});
    let (always, on_failure, never) = (two("Always"), two("OnFailure"), two("Never"));
    for (spec, sandbox, containers, expected) in [
        (&always, "none", &[][..], "kill sandbox0 start=0,1"),
        (&always, "ready", &[], "start=0,1"),
        (&always, "ready", &["a:running", "b:running"], ""),
        (&always, "ready", &["a:exited:0", "b:running"], "start=0"),
        (&on_failure, "ready", &["a:exited:0", "b:exited:1"], "start=1"),
        (&never, "ready", &["a:exited:0", "b:exited:1"], "kill"),
        (&never, "ready", &["a:exited:1", "b:running"], ""),
        (&always, "ready", &["a:unknown", "b:running"], "start=0 stop=a"),
        (&always, "ready", &["a:created", "b:running"], "start=0"),
        (&never, "ready", &["a:changed", "b:running"], "start=0 stop=a"),
        // The sandbox died.
        (&always, "dead", &["a:exited:0", "b:exited:0"], "kill sandbox1 start=0,1"),
        (&on_failure, "dead", &["a:exited:0", "b:exited:1"], "kill sandbox1 start=1"),
        (&on_failure, "dead", &["a:exited:0", "b:exited:0"], "kill"),
        (&never, "dead", &["a:exited:0"], "kill"),
        (&never, "dead", &[], "kill sandbox1 start=0,1"),
    ] {
        check(spec, sandbox, containers, expected);
    }
}

#[test]
fn init_containers_run_one_after_the_other() {
    let spec = |policy: &str| json!({"restartPolicy": policy, "initContainers": [{"name": "i"}, {"name": "j"}], "containers": [{"name": "a"}]});
    let (always, never) = (spec("Always"), spec("Never"));
    for (spec, sandbox, containers, expected) in [
        (&always, "none", &[][..], "kill sandbox0 init=0"),
        (&always, "ready", &[], "init=0"),
        (&always, "ready", &["i:running"], ""),
        (&always, "ready", &["i:exited:0"], "init=1"),
        (&always, "ready", &["i:exited:1"], "init=0"),
        (&never, "ready", &["i:exited:1"], "kill"),
        (&always, "ready", &["j:running", "i:exited:0"], ""),
        (&always, "ready", &["j:exited:0", "i:exited:0"], "start=0"),
        // The first was collected: the last one counts.
        (&always, "ready", &["j:exited:0"], "start=0"),
        // Initialized once: never again, even with nothing left of it.
        (&always, "ready", &["a:running"], ""),
        (&always, "dead", &["a:exited:1", "j:exited:0"], "kill sandbox1 init=0"),
    ] {
        check(spec, sandbox, containers, expected);
    }
}

#[test]
fn sidecars_start_in_order_and_come_back() {
    let spec = json!({"restartPolicy": "Never", "initContainers": [{"name": "s", "restartPolicy": "Always"}, {"name": "i"}], "containers": [{"name": "a"}]});
    for (containers, expected) in [
        (&[][..], "init=0"),
        (&["s:running"], "init=1"),
        (&["i:running", "s:running"], ""),
        (&["i:exited:0", "s:running"], "start=0"),
        (&["a:running", "i:exited:0", "s:running"], ""),
        (&["a:running", "i:exited:0", "s:exited:1"], "init=0"),
        // Its work is done: sidecars do not keep the pod alive.
        (&["a:exited:0", "i:exited:0", "s:running"], "kill"),
        (&["a:exited:0", "i:exited:0", "s:exited:0"], "kill"),
    ] {
        check(&spec, "ready", containers, expected);
    }
}

#[test]
fn probes_decide() {
    let spec = json!({"restartPolicy": "Never", "containers": [{"name": "a"}]});
    let always = json!({"restartPolicy": "Always", "containers": [{"name": "a"}]});
    let dead = |_: &str| ProbeOutcomes { liveness: Some(false), startup: None };
    // Nothing stays and nothing is started again: the whole pod goes.
    check_probes(&spec, "ready", &["a:running"], &dead, "kill stop=a");
    check_probes(&always, "ready", &["a:running"], &dead, "start=0 stop=a");
    let unstarted = |_: &str| ProbeOutcomes { liveness: None, startup: Some(false) };
    check_probes(&always, "ready", &["a:running"], &unstarted, "start=0 stop=a");
    let gated =
        json!({"initContainers": [{"name": "s", "restartPolicy": "Always", "startupProbe": {}}], "containers": [{"name": "a"}]});
    check_probes(&gated, "ready", &["s:running"], &|_| ProbeOutcomes::default(), "");
    check_probes(&gated, "ready", &["s:running"], &|_| ProbeOutcomes { liveness: None, startup: Some(true) }, "start=0");
    check_probes(&gated, "ready", &["s:running"], &unstarted, "init=0 stop=s");
}

#[test]
fn a_pod_without_a_step_to_do_is_stopped_when_deleted() {
    let mut pod = pod(json!({"containers": [{"name": "a"}]}));
    pod.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::UNIX_EPOCH));
    let actions = compute(&pod, &snapshot(&pod, "ready", &["a:exited:1"]), &|_| ProbeOutcomes::default());
    assert_eq!(summary(&actions), "kill");
}

#[test]
fn container_restart_rules() {
    let spec = json!({"restartPolicy": "Never", "containers": [{"name": "a", "restartPolicy": "Never",
        "restartPolicyRules": [{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]}, {"name": "b"}]});
    check(&spec, "ready", &["a:exited:42", "b:running"], "start=0");
    check(&spec, "ready", &["a:exited:1", "b:running"], "");
}
