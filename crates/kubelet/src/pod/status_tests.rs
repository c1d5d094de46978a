//! Tables for [`super::phase`] and whole statuses for [`super::generate`].

use serde_json::{Value, json};

use super::*;
use crate::runtime::snapshot::SandboxRecord;

fn pod(spec: Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u", "generation": 3}, "spec": spec}))
        .unwrap()
}

/// `NAME:running`, `NAME:waiting`, `NAME:exit N`, `NAME:backoff N`.
fn statuses(list: &[&str]) -> Vec<ContainerStatus> {
    list.iter()
        .map(|text| {
            let (name, state) = text.split_once(':').unwrap();
            let (word, code) = state.split_once(' ').unwrap_or((state, "0"));
            let code: i32 = code.parse().unwrap();
            let (state, last) = match word {
                "running" => (json!({"running": {}}), json!({})),
                "waiting" => (json!({"waiting": {}}), json!({})),
                "exit" => (json!({"terminated": {"exitCode": code}}), json!({})),
                _ => (json!({"waiting": {}}), json!({"terminated": {"exitCode": code}})),
            };
            serde_json::from_value(json!({"name": name, "image": "", "imageID": "", "ready": false, "restartCount": 0, "started": word == "running", "state": state, "lastState": last})).unwrap()
        })
        .collect()
}

#[test]
fn phases() {
    let two = |policy: &str| json!({"restartPolicy": policy, "containers": [{"name": "a"}, {"name": "b"}]});
    for (policy, containers, expected) in [
        ("Always", &[][..], "Pending"),
        ("Always", &["a:running", "b:running"], "Running"),
        ("Always", &["a:exit 0", "b:exit 1"], "Running"),
        ("Always", &["a:running", "b:waiting"], "Pending"),
        ("Always", &["a:running", "b:backoff 1"], "Running"),
        ("Never", &["a:exit 0", "b:exit 0"], "Succeeded"),
        ("Never", &["a:exit 0", "b:exit 1"], "Failed"),
        ("Never", &["a:running", "b:exit 1"], "Running"),
        ("OnFailure", &["a:exit 0", "b:exit 0"], "Succeeded"),
        ("OnFailure", &["a:exit 0", "b:exit 1"], "Running"),
        ("OnFailure", &["a:exit 0", "b:backoff 1"], "Running"),
    ] {
        assert_eq!(phase(&pod(two(policy)), &[], &statuses(containers), false, true), expected, "{policy} {containers:?}");
    }
    assert_eq!(phase(&pod(two("Always")), &[], &statuses(&["a:exit 0", "b:exit 0"]), true, true), "Succeeded");
    assert_eq!(phase(&pod(two("Always")), &[], &statuses(&["a:exit 0", "b:exit 137"]), true, true), "Failed");
}

#[test]
fn phases_with_init_containers() {
    let spec = |policy: &str| json!({"restartPolicy": policy, "initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}], "containers": [{"name": "a"}]});
    for (policy, init, containers, initialized, expected) in [
        ("Always", &["i:running", "s:waiting"][..], &["a:waiting"][..], false, "Pending"),
        ("Never", &["i:exit 1", "s:waiting"], &["a:waiting"], false, "Failed"),
        ("Always", &["i:exit 1", "s:waiting"], &["a:waiting"], false, "Pending"),
        ("Always", &["i:exit 0", "s:running"], &["a:running"], true, "Running"),
        ("Never", &["i:exit 0", "s:exit 143"], &["a:exit 0"], true, "Succeeded"),
        ("Never", &["i:exit 0", "s:running"], &["a:exit 0"], true, "Running"),
    ] {
        assert_eq!(
            phase(&pod(spec(policy)), &statuses(init), &statuses(containers), false, initialized),
            expected,
            "{policy} {init:?} {containers:?}"
        );
    }
}

fn record(name: &str, state: State, exit_code: i32, restart_count: u32) -> ContainerRecord {
    let at = |second| Some(Timestamp::from_second(1_700_000_000 + second).unwrap());
    ContainerRecord {
        id: format!("{name}{restart_count}"),
        name: name.to_owned(),
        sandbox_id: "s".to_owned(),
        state,
        hash: String::new(),
        restart_count,
        image: "busybox".to_owned(),
        image_ref: "busybox@sha256:1".to_owned(),
        created_at: at(i64::from(restart_count)).unwrap(),
        started_at: at(1),
        finished_at: at(2),
        exit_code,
        reason: "Error".to_owned(),
        message: String::new(),
        log_path: String::new(),
        memory_request: None,
        resources: None,
        user: None,
    }
}

fn sandbox() -> Vec<SandboxRecord> {
    vec![SandboxRecord {
        id: "s".to_owned(),
        attempt: 0,
        ready: true,
        created_at: 1,
        host_network: false,
        ips: vec!["10.1.0.2".to_owned()],
    }]
}

fn generate_json(
    pod: &Pod,
    containers: Vec<ContainerRecord>,
    old: &PodStatus,
    failures: &HashMap<String, StartFailure>,
    ready: Option<bool>,
) -> Value {
    let inputs = Inputs {
        old,
        failures,
        probes: &|_| Readiness { startup: None, readiness: ready },
        terminal: false,
        failed: None,
        resize_pending: None,
        host_ips: &["192.0.2.1".to_owned()],
        runtime_name: "rusternetes",
        now: Timestamp::from_second(1_700_000_100).unwrap(),
    };
    serde_json::to_value(generate(pod, &Snapshot { sandboxes: sandbox(), containers }, &inputs)).unwrap()
}

fn condition<'a>(status: &'a Value, kind: &str) -> &'a Value {
    status["conditions"].as_array().unwrap().iter().find(|c| c["type"] == kind).unwrap()
}

#[test]
fn a_running_pod() {
    let pod = pod(json!({"containers": [{"name": "a", "image": "busybox", "readinessProbe": {}}]}));
    let status = generate_json(&pod, vec![record("a", State::Running, 0, 0)], &PodStatus::default(), &HashMap::new(), Some(true));
    assert_eq!(
        (&status["phase"], &status["podIP"], &status["hostIP"], &status["qosClass"], &status["observedGeneration"]),
        (&json!("Running"), &json!("10.1.0.2"), &json!("192.0.2.1"), &json!("BestEffort"), &json!(3))
    );
    let container = &status["containerStatuses"][0];
    assert_eq!(
        (&container["containerID"], &container["ready"], &container["started"], &container["imageID"]),
        (&json!("rusternetes://a0"), &json!(true), &json!(true), &json!("busybox@sha256:1"))
    );
    for kind in ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"] {
        assert_eq!(condition(&status, kind)["status"], "True", "{kind}");
    }
    let unready = generate_json(&pod, vec![record("a", State::Running, 0, 0)], &PodStatus::default(), &HashMap::new(), None);
    assert_eq!(condition(&unready, "Ready")["message"], "containers with unready status: [a]");
    assert_eq!(condition(&unready, "Ready")["reason"], "ContainersNotReady");
}

#[test]
fn a_crashing_container_waits_with_its_last_state() {
    let pod = pod(json!({"restartPolicy": "Always", "containers": [{"name": "a", "image": "busybox"}]}));
    let failures = HashMap::from([("a".to_owned(), StartFailure::new("CrashLoopBackOff", "back-off 10s"))]);
    let status = generate_json(
        &pod,
        vec![record("a", State::Exited, 3, 1), record("a", State::Exited, 2, 0)],
        &PodStatus::default(),
        &failures,
        None,
    );
    let container = &status["containerStatuses"][0];
    assert_eq!(
        (
            &status["phase"],
            &container["restartCount"],
            &container["state"]["waiting"]["reason"],
            &container["lastState"]["terminated"]["exitCode"]
        ),
        (&json!("Running"), &json!(1), &json!("CrashLoopBackOff"), &json!(3))
    );
}

#[test]
fn nothing_runs_yet() {
    let with_init = pod(json!({"initContainers": [{"name": "i", "image": "x"}], "containers": [{"name": "a", "image": "x"}]}));
    let status = generate_json(&with_init, Vec::new(), &PodStatus::default(), &HashMap::new(), None);
    assert_eq!(status["containerStatuses"][0]["state"]["waiting"]["reason"], "PodInitializing");
    assert_eq!(condition(&status, "Initialized")["message"], "containers with incomplete status: [i]");
    let plain = pod(json!({"containers": [{"name": "a", "image": "x"}]}));
    let status = generate_json(&plain, Vec::new(), &PodStatus::default(), &HashMap::new(), None);
    assert_eq!(
        (&status["phase"], &status["containerStatuses"][0]["state"]["waiting"]["reason"]),
        (&json!("Pending"), &json!("ContainerCreating"))
    );
}

#[test]
fn terminal_phases_and_transition_times_stay() {
    let pod = pod(json!({"restartPolicy": "Never", "containers": [{"name": "a", "image": "x"}]}));
    let first = generate_json(&pod, vec![record("a", State::Exited, 0, 0)], &PodStatus::default(), &HashMap::new(), None);
    assert_eq!((&first["phase"], &condition(&first, "Ready")["reason"]), (&json!("Succeeded"), &json!("PodCompleted")));
    let mut old: PodStatus = serde_json::from_value(first.clone()).unwrap();
    old.conditions.as_mut().unwrap().iter_mut().for_each(|c| c.last_transition_time = Some(Time(Timestamp::UNIX_EPOCH)));
    let second = generate_json(&pod, Vec::new(), &old, &HashMap::new(), None);
    assert_eq!(second["phase"], "Succeeded");
    assert_eq!(second["containerStatuses"], first["containerStatuses"], "what ended is still told");
    assert_eq!(condition(&second, "Ready")["lastTransitionTime"], "1970-01-01T00:00:00Z");
}
