//! Real containers through the CRI: started, watched, stopped, removed. Needs root.

#![allow(missing_docs)]

mod support;

use std::time::Duration;

use cri::{Runtime, v1};
use futures::StreamExt;
use support::{Node, container, eventually, texts};

#[tokio::test(flavor = "multi_thread")]
async fn a_container_runs_logs_and_ends() {
    let node = Node::start().await;
    let sandbox = node.sandbox("first").await;
    let (status, log) = node
        .run_to_end(&sandbox, container("c", &["echo", "hello", "world", "--", "echo-error", "oops", "--", "exit", "3"]))
        .await;
    assert_eq!(status.exit_code, 3);
    assert_eq!(status.reason, "Error");
    assert!(status.created_at < status.started_at && status.started_at <= status.finished_at, "{status:?}");
    let mut lines: Vec<&str> = log.lines().map(|line| line.split_once(' ').expect("time").1).collect();
    lines.sort_unstable();
    assert_eq!(lines, ["stderr F oops", "stdout F hello world"]);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sandbox_is_what_its_configuration_says() {
    let node = Node::start().await;
    let sandbox = node.sandbox("named").await;
    let id = node.run(&sandbox, container("c", &["sleep"])).await;
    assert_eq!(node.output(&id, &["/bin/rusternetes", "hostname"]).await, "named");
    let resolv = node.output(&id, &["rusternetes", "cat", "/etc/resolv.conf"]).await;
    assert_eq!(resolv, "search default.svc\nnameserver 10.96.0.10\noptions ndots:5");
    assert_eq!(node.output(&id, &["rusternetes", "cat", "/etc/hostname"]).await, "named");
    assert_eq!(node.output(&id, &["rusternetes", "list", "/sys/class/net"]).await, "lo");
    let mounts = node.output(&id, &["rusternetes", "cat", "/proc/mounts"]).await;
    assert!(mounts.lines().any(|line| line.contains(" /dev/shm tmpfs ")), "{mounts}");
    let status = node
        .runtime
        .pod_sandbox_status(v1::PodSandboxStatusRequest { pod_sandbox_id: sandbox.0.clone(), verbose: false })
        .await
        .expect("status");
    assert_eq!(status.status.expect("status").state(), v1::PodSandboxState::SandboxReady);
    assert_eq!(status.containers_statuses.len(), 1);
    node.runtime.stop_pod_sandbox(v1::StopPodSandboxRequest { pod_sandbox_id: sandbox.0.clone() }).await.expect("stop");
    let status = node
        .runtime
        .pod_sandbox_status(v1::PodSandboxStatusRequest { pod_sandbox_id: sandbox.0.clone(), verbose: false })
        .await
        .expect("status");
    assert_eq!(status.status.expect("status").state(), v1::PodSandboxState::SandboxNotready);
    assert_eq!(node.status(&id).await.exit_code, 137);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_is_polite_first() {
    let node = Node::start().await;
    let sandbox = node.sandbox("stop").await;
    let polite = node.run(&sandbox, container("polite", &["die-of-term"])).await;
    let log = node.status(&polite).await.log_path;
    eventually("waiting", || std::fs::read_to_string(&log).is_ok_and(|log| log.contains("waiting"))).await;
    node.runtime.stop_container(v1::StopContainerRequest { container_id: polite.clone(), timeout: 20 }).await.expect("stop");
    let status = node.status(&polite).await;
    assert_eq!(status.exit_code, 7);
    assert_eq!(texts(&std::fs::read_to_string(&log).expect("log")), ["waiting", "terminated"]);

    let stubborn = node.run(&sandbox, container("stubborn", &["sleep"])).await;
    let started = std::time::Instant::now();
    node.runtime.stop_container(v1::StopContainerRequest { container_id: stubborn.clone(), timeout: 1 }).await.expect("stop");
    assert!(started.elapsed() >= Duration::from_secs(1));
    assert_eq!(node.status(&stubborn).await.exit_code, 137);
    // Stopping again, and stopping what was never there, is no error.
    node.runtime.stop_container(v1::StopContainerRequest { container_id: stubborn, timeout: 1 }).await.expect("stop");
    node.runtime.stop_container(v1::StopContainerRequest { container_id: "f".repeat(64), timeout: 1 }).await.expect("stop");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_is_not_there_fails_the_start() {
    let node = Node::start().await;
    let sandbox = node.sandbox("nope").await;
    let mut config = container("c", &[]);
    config.command = support::words(&["nope"]);
    let id = node.create(&sandbox, config).await.expect("create");
    let error = node.start_container(&id).await.expect_err("started");
    let expected = "unable to start container process: exec: \"nope\": executable file not found in $PATH";
    assert_eq!(error.message(), expected);
    let status = node.status(&id).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (128, "StartError"));
    // What only execve finds out.
    let script = node.directory.path().join("script");
    std::fs::write(&script, "no executable\n").expect("script");
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("mode");
    let mut config = container("e", &[]);
    config.command = support::words(&["/script"]);
    let host_path = script.to_string_lossy().into_owned();
    config.mounts = vec![v1::Mount { container_path: "/script".to_owned(), host_path, ..Default::default() }];
    let id = node.create(&sandbox, config).await.expect("create");
    let error = node.start_container(&id).await.expect_err("started");
    assert_eq!(error.message(), "unable to start container process: exec /script: exec format error");
    assert_eq!(node.status(&id).await.exit_code, 128);
    let running = node.run(&sandbox, container("d", &["sleep"])).await;
    let error = node.try_exec(&running, &["nope"], 5).await.expect_err("executed");
    assert!(error.message().ends_with("exec: \"nope\": executable file not found in $PATH"), "{error}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_joins_the_processes_of_another() {
    let node = Node::start().await;
    let sandbox = node.sandbox("target").await;
    let target = node.run(&sandbox, container("t", &["sleep"])).await;
    let joining = |name: &str, arguments: &[&str]| {
        let mut config = container(name, arguments);
        let options =
            v1::NamespaceOption { pid: v1::NamespaceMode::Target as i32, target_id: target.clone(), ..Default::default() };
        let context = config.linux.as_mut().and_then(|linux| linux.security_context.as_mut()).expect("context");
        context.namespace_options = Some(options);
        config
    };
    // The target's first process is the first that the other sees, and it is not alone.
    let (status, log) = node.run_to_end(&sandbox, joining("j", &["cat", "/proc/1/cmdline", "--", "pid"])).await;
    assert_eq!(status.exit_code, 0);
    let seen = texts(&log).concat();
    assert!(seen.contains("sleep") && !seen.ends_with("sleep"), "{log}");
    // A joined container ends with the namespace; a target that has ended cannot be joined, and the sandbox goes on.
    let held = node.run(&sandbox, joining("h", &["sleep"])).await;
    node.runtime.stop_container(v1::StopContainerRequest { container_id: target.clone(), timeout: 0 }).await.expect("stop");
    assert_eq!(node.wait_exit(&held).await.exit_code, 137);
    let error = node.create(&sandbox, joining("late", &["sleep"])).await.expect_err("joined the dead");
    assert!(error.message().contains("is not running"), "{error:?}");
    let (status, _) = node.run_to_end(&sandbox, container("next", &["exit", "0"])).await;
    assert_eq!(status.exit_code, 0);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_sync_gives_output_code_and_timeout() {
    let node = Node::start().await;
    let sandbox = node.sandbox("exec").await;
    let id = node.run(&sandbox, container("c", &["sleep"])).await;
    let response = node.exec(&id, &["rusternetes", "echo", "out", "--", "echo-error", "err", "--", "exit", "5"]).await;
    assert_eq!((response.stdout.as_slice(), response.stderr.as_slice(), response.exit_code), (&b"out\n"[..], &b"err\n"[..], 5));
    let error = node.try_exec(&id, &["rusternetes", "sleep"], 1).await.expect_err("no timeout");
    assert_eq!(error.code(), cri::Code::DeadlineExceeded);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_tell_the_whole_life() {
    let node = Node::start().await;
    let mut events = node.runtime.get_container_events(v1::GetEventsRequest {}).await.expect("events");
    let sandbox = node.sandbox("events").await;
    let id = node.run(&sandbox, container("c", &["exit", "0"])).await;
    node.wait_exit(&id).await;
    node.runtime.remove_container(v1::RemoveContainerRequest { container_id: id.clone() }).await.expect("remove");
    let mut seen = Vec::new();
    while seen.last() != Some(&v1::ContainerEventType::ContainerDeletedEvent) {
        let event = tokio::time::timeout(support::DEADLINE, events.next()).await.expect("event").expect("stream").expect("event");
        if event.container_id == id {
            seen.push(event.container_event_type());
        }
    }
    use v1::ContainerEventType::{ContainerCreatedEvent, ContainerDeletedEvent, ContainerStartedEvent, ContainerStoppedEvent};
    seen.sort_by_key(|kind| *kind as i32);
    assert_eq!(seen, [ContainerCreatedEvent, ContainerStartedEvent, ContainerStoppedEvent, ContainerDeletedEvent]);
    node.stop().await;
}
