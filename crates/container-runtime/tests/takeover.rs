//! Servers come and go, containers stay; and what remains after a reboot. Needs root.

#![allow(missing_docs)]

mod support;

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use container_runtime::ContainerRuntime;
use cri::{Runtime, v1};
use support::{Node, container, eventually, texts};

#[tokio::test(flavor = "multi_thread")]
async fn containers_survive_kill_9_of_the_server() {
    let node = Node::start().await;
    let config = node.config();
    // A server process of its own, to be killed.
    let mut server = Command::new(&config.executable)
        .args(["serve", &node.directory.path().to_string_lossy(), &config.cgroup_parent])
        .stdout(Stdio::piped())
        .spawn()
        .expect("server");
    let mut lines = BufReader::new(server.stdout.take().expect("output")).lines();
    let mut line = || lines.next().expect("line").expect("line");
    let (sandbox, lasting, ending) = (line(), line(), line());
    server.kill().expect("kill");
    server.wait().expect("wait");

    let log = node.logs().join("served/lasting/0.log");
    let count = || std::fs::read_to_string(&log).map_or(0, |log| log.lines().count());
    let before = count();
    eventually("the container counts without a server", || count() > before + 5).await;

    let exit_file = node.root().join("containers").join(&ending).join("exit.json");
    eventually("the other one ends without a server", || exit_file.exists()).await;
    let runtime = ContainerRuntime::open(config).await.expect("open");
    let status = |id: String| {
        let runtime = runtime.clone();
        async move {
            let request = v1::ContainerStatusRequest { container_id: id, verbose: false };
            runtime.container_status(request).await.expect("status").status.expect("status")
        }
    };
    assert_eq!(status(lasting.clone()).await.state(), v1::ContainerState::ContainerRunning);
    let ended = status(ending).await;
    assert_eq!((ended.state(), ended.exit_code), (v1::ContainerState::ContainerExited, 9));
    let request =
        v1::ExecSyncRequest { container_id: lasting.clone(), cmd: support::words(&["rusternetes", "hostname"]), timeout: 10 };
    assert_eq!(runtime.exec_sync(request).await.expect("exec").stdout, b"served\n");
    runtime.stop_container(v1::StopContainerRequest { container_id: lasting.clone(), timeout: 0 }).await.expect("stop");
    assert_eq!(status(lasting).await.exit_code, 137);
    let texts = texts(&std::fs::read_to_string(&log).expect("log"));
    let expected: Vec<String> = (0..texts.len()).map(|number| number.to_string()).collect();
    assert_eq!(texts, expected, "lines were lost");
    runtime.stop_pod_sandbox(v1::StopPodSandboxRequest { pod_sandbox_id: sandbox.clone() }).await.expect("stop");
    runtime.remove_pod_sandbox(v1::RemovePodSandboxRequest { pod_sandbox_id: sandbox }).await.expect("remove");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_leaves_no_process() {
    let node = Node::start().await;
    let sandbox = node.sandbox("reset").await;
    node.run(&sandbox, container("running", &["sleep"])).await;
    let config = node.config();
    let shim = std::fs::read_to_string(node.run_dir().join("sandboxes").join(&sandbox.0).join("shim.pid")).expect("pid");
    // A zombie has ended: who started the tests may not have asked for it yet.
    let runs = || std::fs::read_to_string(format!("/proc/{shim}/stat")).is_ok_and(|stat| !stat.contains(") Z "));
    assert!(runs());
    node.runtime.close().await;
    container_runtime::kill_all(&config.root, &config.run_dir, &config.cgroup_parent).expect("reset");
    assert!(!runs(), "the shim outlives the reset");
    assert!(!config.run_dir.exists(), "the run directory, a mount of its own, outlives the reset");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_reboot_everything_has_ended_and_can_be_removed() {
    let node = Node::start().await;
    let sandbox = node.sandbox("boot").await;
    let running = node.run(&sandbox, container("running", &["sleep"])).await;
    let created = node.create(&sandbox, container("created", &["sleep"])).await.expect("create");
    let (ended, _) = node.run_to_end(&sandbox, container("ended", &["exit", "6"])).await;
    let config = node.config();
    let shim = std::fs::read_to_string(node.run_dir().join("sandboxes").join(&sandbox.0).join("shim.pid")).expect("pid");
    let pid = nix::unistd::Pid::from_raw(shim.parse().expect("number"));
    node.runtime.close().await;
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("kill");
    // What a reboot takes away: processes, mounts, the run directory.
    let cgroups = format!("{}/{}/{running}", config.cgroup_parent, sandbox.0);
    for hierarchy in std::fs::read_dir("/sys/fs/cgroup").expect("cgroup").flatten() {
        let procs = std::fs::read_to_string(format!("{}{cgroups}/cgroup.procs", hierarchy.path().display())).unwrap_or_default();
        for line in procs.lines() {
            let _ =
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(line.parse().expect("pid")), nix::sys::signal::Signal::SIGKILL);
        }
    }
    nix::mount::umount2(&node.run_dir(), nix::mount::MntFlags::MNT_DETACH).expect("unmount");
    std::fs::remove_dir_all(node.run_dir()).expect("run directory");

    let node = node.restart().await;
    let list = node.runtime.list_pod_sandbox(v1::ListPodSandboxRequest { filter: None }).await.expect("list").items;
    assert_eq!(list.len(), 1);
    assert_eq!(list[0].state(), v1::PodSandboxState::SandboxNotready);
    for (id, code, reason) in [(&running, 255, "Unknown"), (&created, 255, "Unknown"), (&ended.id, 6, "Error")] {
        let status = node.status(id).await;
        assert_eq!(
            (status.state(), status.exit_code, status.reason.as_str()),
            (v1::ContainerState::ContainerExited, code, reason)
        );
    }
    node.remove_sandbox(&sandbox.0).await;
    // The machine works again.
    let sandbox = node.sandbox("again").await;
    let (status, _) = node.run_to_end(&sandbox, container("c", &["exit", "0"])).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (0, "Completed"));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shim_that_dies_takes_its_sandbox_with_it() {
    let node = Node::start().await;
    let sandbox = node.sandbox("shimless").await;
    let id = node.run(&sandbox, container("c", &["sleep"])).await;
    let init = node.output(&id, &["rusternetes", "pid"]).await;
    assert!(!init.is_empty());
    let shim = std::fs::read_to_string(node.run_dir().join("sandboxes").join(&sandbox.0).join("shim.pid")).expect("pid");
    let shim = nix::unistd::Pid::from_raw(shim.parse().expect("number"));
    nix::sys::signal::kill(shim, nix::sys::signal::Signal::SIGKILL).expect("kill");
    let status = node.wait_exit(&id).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (255, "Unknown"));
    let request = v1::PodSandboxStatusRequest { pod_sandbox_id: sandbox.0.clone(), verbose: false };
    let status = node.runtime.pod_sandbox_status(request).await.expect("status").status.expect("status");
    assert_eq!(status.state(), v1::PodSandboxState::SandboxNotready);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shim_is_small() {
    let node = Node::start().await;
    let sandbox = node.sandbox("small").await;
    let _id = node.run(&sandbox, container("c", &["echo", "x", "--", "sleep"])).await;
    let pid = std::fs::read_to_string(node.run_dir().join("sandboxes").join(&sandbox.0).join("shim.pid")).expect("pid");
    let kilobytes = |name: &str| -> u64 {
        let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("smaps");
        let line = rollup.lines().find(|line| line.starts_with(name)).expect(name);
        line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("number")
    };
    // Once what it needed to start the container is given back.
    eventually("a shim holds less than 1 MB of its own", || kilobytes("Private_Dirty:") < 1024).await;
    println!("shim: {} kB private dirty, {} kB PSS", kilobytes("Private_Dirty:"), kilobytes("Pss:"));
    node.stop().await;
}
