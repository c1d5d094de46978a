//! Limits, privileges, mounts and statistics of real containers. Needs root.

#![allow(missing_docs)]

mod support;

use cri::{Runtime, v1};
use support::{Node, container, eventually};

fn limited(name: &str, arguments: &[&str], resources: v1::LinuxContainerResources) -> v1::ContainerConfig {
    let mut config = container(name, arguments);
    config.linux.as_mut().expect("linux").resources = Some(resources);
    config
}

fn with_context(arguments: &[&str], change: impl FnOnce(&mut v1::LinuxContainerSecurityContext)) -> v1::ContainerConfig {
    let mut config = container("c", arguments);
    change(config.linux.as_mut().and_then(|linux| linux.security_context.as_mut()).expect("context"));
    config
}

/// A file of a container's cgroup, by its name in either version.
fn cgroup_file(node: &Node, sandbox: &str, id: &str, controller: &str, v1: &str, v2: &str) -> String {
    let path = format!("{}/{sandbox}/{id}", node.config().cgroup_parent);
    let found = [format!("/sys/fs/cgroup/{controller}{path}/{v1}"), format!("/sys/fs/cgroup{path}/{v2}")]
        .iter()
        .find_map(|file| std::fs::read_to_string(file).ok());
    found.unwrap_or_else(|| panic!("no {v1} for {path}")).trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_set_and_changed() {
    let node = Node::start().await;
    let sandbox = node.sandbox("limits").await;
    let resources = v1::LinuxContainerResources {
        cpu_shares: 512,
        cpu_quota: 50_000,
        cpu_period: 100_000,
        memory_limit_in_bytes: 64 << 20,
        oom_score_adj: -997,
        ..Default::default()
    };
    let id = node.run(&sandbox, limited("c", &["sleep"], resources)).await;
    let file = |controller, v1, v2| cgroup_file(&node, &sandbox.0, &id, controller, v1, v2);
    assert_eq!(file("memory", "memory.limit_in_bytes", "memory.max"), (64 << 20).to_string());
    assert!(["50000", "50000 100000"].contains(&file("cpu", "cpu.cfs_quota_us", "cpu.max").as_str()));
    let update = v1::UpdateContainerResourcesRequest {
        container_id: id.clone(),
        linux: Some(v1::LinuxContainerResources {
            memory_limit_in_bytes: 128 << 20,
            cpu_quota: 70_000,
            cpu_period: 100_000,
            ..Default::default()
        }),
        ..Default::default()
    };
    node.runtime.update_container_resources(update).await.expect("update");
    assert_eq!(file("memory", "memory.limit_in_bytes", "memory.max"), (128 << 20).to_string());
    let status = node.status(&id).await.resources.and_then(|resources| resources.linux).expect("resources");
    assert_eq!((status.memory_limit_in_bytes, status.cpu_quota, status.cpu_shares), (128 << 20, 70_000, 512));
    node.stop().await;
}

/// Root in a container reads its limits, and only a privileged container changes them.
#[tokio::test(flavor = "multi_thread")]
async fn a_container_cannot_lift_its_limits() {
    let node = Node::start().await;
    let sandbox = node.sandbox("lift").await;
    let v1 = std::path::Path::new("/sys/fs/cgroup/memory/memory.limit_in_bytes").exists();
    let file = if v1 { "/sys/fs/cgroup/memory/memory.limit_in_bytes" } else { "/sys/fs/cgroup/memory.max" };
    let resources = v1::LinuxContainerResources { memory_limit_in_bytes: 64 << 20, ..Default::default() };
    let limit = (64 << 20).to_string();

    let id = node.run(&sandbox, limited("c", &["sleep"], resources.clone())).await;
    assert_eq!(node.output(&id, &["rusternetes", "cat", file]).await.trim(), limit);
    let processes = if v1 { "/sys/fs/cgroup/memory/cgroup.procs" } else { "/sys/fs/cgroup/cgroup.procs" };
    for (name, attempt) in [("limit", file), ("file", "/sys/fs/cgroup/new"), ("processes", processes)] {
        let (status, log) = node.run_to_end(&sandbox, limited(name, &["write", attempt, "0"], resources.clone())).await;
        assert_eq!(status.exit_code, 1, "{attempt}");
        assert!(log.contains("Read-only file system"), "{attempt}: {log}");
    }
    assert_eq!(node.output(&id, &["rusternetes", "cat", file]).await.trim(), limit);

    let mut config = limited("p", &["write", file, "134217728"], resources);
    config.linux.as_mut().and_then(|linux| linux.security_context.as_mut()).expect("context").privileged = true;
    let (status, log) = node.run_to_end(&sandbox, config).await;
    assert_eq!(status.exit_code, 0, "{log}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_much_memory_is_oom_killed() {
    let node = Node::start().await;
    let sandbox = node.sandbox("oom").await;
    let resources = v1::LinuxContainerResources { memory_limit_in_bytes: 32 << 20, ..Default::default() };
    let (status, _) = node.run_to_end(&sandbox, limited("c", &["fill-memory"], resources)).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn statistics_come_from_the_cgroup() {
    let node = Node::start().await;
    let sandbox = node.sandbox("stats").await;
    let id = node.run(&sandbox, container("c", &["write", "/tmp/file", "text", "--", "sleep"])).await;
    let request = || v1::ContainerStatsRequest { container_id: id.clone() };
    let stats = node.runtime.container_stats(request()).await.expect("stats").stats.expect("stats");
    assert!(stats.cpu.and_then(|cpu| cpu.usage_core_nano_seconds).expect("cpu").value > 0);
    assert!(stats.memory.and_then(|memory| memory.working_set_bytes).expect("memory").value > 0);
    let layer = stats.writable_layer.expect("layer");
    assert!(layer.used_bytes.expect("bytes").value >= 4096 && layer.inodes_used.expect("inodes").value >= 2);
    let request = v1::PodSandboxStatsRequest { pod_sandbox_id: sandbox.0.clone() };
    let stats = node.runtime.pod_sandbox_stats(request).await.expect("stats").stats.and_then(|stats| stats.linux).expect("stats");
    assert_eq!(stats.containers.len(), 1);
    assert_eq!(stats.process.and_then(|process| process.process_count).expect("count").value, 1);
    assert!(stats.cpu.is_some() && stats.memory.is_some());
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn users_capabilities_and_no_new_privileges() {
    let node = Node::start().await;
    let sandbox = node.sandbox("who").await;
    let lines = |output: String| -> std::collections::HashMap<String, String> {
        output
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
            .collect()
    };
    let default = node.run(&sandbox, container("default", &["sleep"])).await;
    let found = lines(node.output(&default, &["rusternetes", "id"]).await);
    assert_eq!(found["CapEff"], "00000000a80425fb");
    assert_eq!(found["Uid"], "0\t0\t0\t0");

    let config = with_context(&["id"], |context| {
        context.run_as_user = Some(v1::Int64Value { value: 1000 });
        context.run_as_group = Some(v1::Int64Value { value: 2000 });
        context.supplemental_groups = vec![3000];
        context.no_new_privs = true;
        context.capabilities = Some(v1::Capability {
            add_capabilities: vec!["NET_BIND_SERVICE".to_owned()],
            drop_capabilities: vec!["ALL".to_owned()],
            ..Default::default()
        });
    });
    let (_, log) = node.run_to_end(&sandbox, config).await;
    let found = lines(support::texts(&log).join("\n"));
    assert_eq!(
        (found["Uid"].as_str(), found["Gid"].as_str(), found["Groups"].as_str()),
        ("1000\t1000\t1000\t1000", "2000\t2000\t2000\t2000", "2000 3000")
    );
    assert_eq!(
        (found["CapEff"].as_str(), found["CapBnd"].as_str(), found["NoNewPrivs"].as_str()),
        ("0000000000000000", "0000000000000400", "1")
    );

    let mut config = with_context(&["list", "/dev"], |context| context.privileged = true);
    config.metadata = Some(v1::ContainerMetadata { name: "privileged".to_owned(), attempt: 0 });
    config.log_path = "privileged.log".to_owned();
    let (status, log) = node.run_to_end(&sandbox, config).await;
    assert_eq!(status.exit_code, 0, "{log}");
    assert!(log.contains("kmsg") || log.contains("vda") || log.contains("loop"), "{log}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mounts_and_read_only_root() {
    let node = Node::start().await;
    let sandbox = node.sandbox("mounts").await;
    let host = node.directory.path().join("data");
    std::fs::create_dir_all(&host).expect("data");
    std::fs::write(host.join("file"), "from the host").expect("file");
    let mount = |path: &str, readonly: bool, propagation: v1::MountPropagation| v1::Mount {
        container_path: path.to_owned(),
        host_path: host.to_string_lossy().into_owned(),
        readonly,
        propagation: propagation as i32,
        ..Default::default()
    };
    let mut config = with_context(&["sleep"], |context| {
        context.readonly_rootfs = true;
        context.masked_paths = vec!["/proc/keys".to_owned()];
        context.readonly_paths = vec!["/proc/sys".to_owned()];
    });
    config.mounts = vec![
        mount("/data", false, v1::MountPropagation::PropagationPrivate),
        mount("/data-ro", true, v1::MountPropagation::PropagationHostToContainer),
    ];
    let id = node.run(&sandbox, config).await;
    assert_eq!(node.output(&id, &["rusternetes", "cat", "/data/file"]).await, "from the host");
    node.output(&id, &["rusternetes", "write", "/data/new", "x"]).await;
    assert!(host.join("new").exists());
    for path in ["/data-ro/new", "/root/new", "/proc/sys/kernel/domainname"] {
        let response = node.exec(&id, &["rusternetes", "write", path, "x"]).await;
        assert!(String::from_utf8_lossy(&response.stderr).contains("Read-only file system"), "{path}: {response:?}");
    }
    let mounts = node.output(&id, &["rusternetes", "cat", "/proc/self/mountinfo"]).await;
    let line = |path: &str| mounts.lines().find(|line| line.split(' ').nth(4) == Some(path)).expect("mounted").to_owned();
    assert!(!line("/data").contains("master:") && !line("/data").contains("shared:"), "{}", line("/data"));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_pid_namespace_has_a_pause_process() {
    let node = Node::start().await;
    let mut config = node.sandbox_config("shared");
    let context = config.linux.as_mut().and_then(|linux| linux.security_context.as_mut()).expect("context");
    context.namespace_options = Some(v1::NamespaceOption { pid: v1::NamespaceMode::Pod as i32, ..Default::default() });
    let sandbox = node.sandbox_with(config).await;
    let shared = |name: &str, arguments: &[&str]| {
        let mut config = container(name, arguments);
        let context = config.linux.as_mut().and_then(|linux| linux.security_context.as_mut()).expect("context");
        context.namespace_options = Some(v1::NamespaceOption { pid: v1::NamespaceMode::Pod as i32, ..Default::default() });
        config
    };
    let id = node.run(&sandbox, shared("a", &["sleep"])).await;
    assert_eq!(node.output(&id, &["rusternetes", "cat", "/proc/1/comm"]).await, "pause");
    let (status, log) = node.run_to_end(&sandbox, shared("b", &["pid"])).await;
    assert_eq!(status.exit_code, 0);
    assert_ne!(support::texts(&log), ["1"]);
    // The pause process shows nothing of the host.
    let response = node.exec(&id, &["rusternetes", "list", "/proc/1/root"]).await;
    assert!(response.exit_code != 0 || response.stdout == b"\n", "{response:?}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_rotated() {
    let node = Node::start().await;
    let sandbox = node.sandbox("rotate").await;
    let id = node.run(&sandbox, container("c", &["count", "0"])).await;
    let log = std::path::PathBuf::from(node.status(&id).await.log_path);
    let lines = |path: &std::path::Path| std::fs::read_to_string(path).map_or(0, |text| text.lines().count());
    eventually("output", || lines(&log) > 3).await;
    let rotated = log.with_extension("rotated");
    std::fs::rename(&log, &rotated).expect("rename");
    node.runtime.reopen_container_log(v1::ReopenContainerLogRequest { container_id: id.clone() }).await.expect("reopen");
    eventually("output in the new file", || lines(&log) > 3).await;
    let texts = |path: &std::path::Path| support::texts(&std::fs::read_to_string(path).expect("log"));
    let (old, new) = (texts(&rotated), texts(&log));
    assert_eq!(old.len().to_string(), new[0], "lines were lost between the files");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_containers_at_once() {
    let node = Node::start().await;
    let mut sandboxes = Vec::new();
    for number in 0..20 {
        sandboxes.push(node.sandbox(&format!("many-{number}")).await);
    }
    let runs = (0..200).map(|number| {
        let (node, sandbox) = (&node, &sandboxes[number % 20]);
        async move { node.run_to_end(sandbox, container(&format!("c{number}"), &["echo", &number.to_string()])).await }
    });
    let results = futures::future::join_all(runs).await;
    for (number, (status, log)) in results.iter().enumerate() {
        assert_eq!(status.exit_code, 0);
        assert_eq!(support::texts(log), [number.to_string()]);
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_default_seccomp_filter_refuses_what_it_should() {
    let node = Node::start().await;
    let sandbox = node.sandbox("seccomp").await;
    let profile = |kind: v1::security_profile::ProfileType| {
        with_context(&["sleep"], |context| {
            context.seccomp = Some(v1::SecurityProfile { profile_type: kind as i32, ..Default::default() });
            // Without the filter this would allow it.
            context.capabilities = Some(v1::Capability { add_capabilities: vec!["SYS_PTRACE".to_owned()], ..Default::default() });
        })
    };
    let id = node.run(&sandbox, profile(v1::security_profile::ProfileType::RuntimeDefault)).await;
    let status = node.output(&id, &["rusternetes", "id"]).await;
    assert!(status.contains("Seccomp:\t2"), "{status}");
    assert!(status.contains("NoNewPrivs:\t0"), "{status}");
    assert_eq!(node.output(&id, &["rusternetes", "unshare"]).await, "Err(EPERM)");
    // Threads and processes are still made.
    assert_eq!(node.output(&id, &["rusternetes", "thread"]).await, "from a thread");
    let mut open = profile(v1::security_profile::ProfileType::Unconfined);
    open.metadata = Some(v1::ContainerMetadata { name: "open".to_owned(), attempt: 0 });
    let id = node.run(&sandbox, open).await;
    assert!(node.output(&id, &["rusternetes", "id"]).await.contains("Seccomp:\t0"));
    node.stop().await;
}
