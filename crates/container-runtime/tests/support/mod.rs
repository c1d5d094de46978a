//! A runtime of one's own per test, and short words for the CRI calls.

#![allow(dead_code, missing_docs, unreachable_pub)]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use container_runtime::{Config, ContainerRuntime, LoopbackNetwork, RegistryConfig};
use cri::{Runtime, v1};

/// Every test container is gone within this time, or the test fails.
pub const DEADLINE: Duration = Duration::from_secs(60);

pub struct Node {
    pub runtime: Arc<ContainerRuntime>,
    pub directory: tempfile::TempDir,
    cgroup: String,
}

pub fn image() -> String {
    concat!("localhost/rusternetes:", env!("CARGO_PKG_VERSION")).to_owned()
}

impl Node {
    pub async fn start() -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        let cgroup = format!("/rusternetes-test-{:08x}", rand::random::<u32>());
        let runtime = ContainerRuntime::open(config(directory.path(), &cgroup)).await.expect("open");
        Self { runtime, directory, cgroup }
    }

    /// Another server on the same directories, as after a restart.
    pub async fn restart(self) -> Self {
        let Self { runtime, directory, cgroup } = self.disarm();
        drop(runtime);
        let runtime = ContainerRuntime::open(config(directory.path(), &cgroup)).await.expect("open");
        Self { runtime, directory, cgroup }
    }

    fn disarm(self) -> Self {
        self
    }

    pub fn config(&self) -> Config {
        config(self.directory.path(), &self.cgroup)
    }

    pub fn root(&self) -> PathBuf {
        self.directory.path().join("root")
    }

    pub fn run_dir(&self) -> PathBuf {
        self.directory.path().join("run")
    }

    pub fn logs(&self) -> PathBuf {
        self.directory.path().join("logs")
    }

    /// Removes every sandbox. Tests call it at their end; a failed test leaves its shims to be looked at.
    pub async fn stop(self) {
        let list = self.runtime.list_pod_sandbox(v1::ListPodSandboxRequest { filter: None }).await.expect("list");
        for sandbox in list.items {
            self.remove_sandbox(&sandbox.id).await;
        }
        let run = self.run_dir();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
        let left: Vec<&str> = mounts.lines().filter(|line| line.contains(&format!("{}/", run.display()))).collect();
        assert!(left.is_empty(), "mounts left: {left:?}");
        nix::mount::umount2(&run, nix::mount::MntFlags::MNT_DETACH).expect("unmount");
        for hierarchy in std::fs::read_dir("/sys/fs/cgroup").expect("cgroups").flatten() {
            // Not every entry is a hierarchy, and not in every one is there a cgroup of ours.
            let _ = std::fs::remove_dir(hierarchy.path().join(self.cgroup.trim_start_matches('/')));
        }
        let _ = std::fs::remove_dir(Path::new("/sys/fs/cgroup").join(self.cgroup.trim_start_matches('/')));
    }

    pub fn sandbox_config(&self, name: &str) -> v1::PodSandboxConfig {
        let logs = self.logs().join(name);
        std::fs::create_dir_all(&logs).expect("logs");
        v1::PodSandboxConfig {
            metadata: Some(v1::PodSandboxMetadata {
                name: name.to_owned(),
                uid: format!("uid-{name}"),
                namespace: "default".to_owned(),
                attempt: 0,
            }),
            hostname: name.to_owned(),
            log_directory: logs.to_string_lossy().into_owned(),
            dns_config: Some(v1::DnsConfig {
                servers: vec!["10.96.0.10".to_owned()],
                searches: vec!["default.svc".to_owned()],
                options: vec!["ndots:5".to_owned()],
            }),
            labels: [("app".to_owned(), name.to_owned())].into(),
            linux: Some(v1::LinuxPodSandboxConfig {
                security_context: Some(v1::LinuxSandboxSecurityContext {
                    namespace_options: Some(v1::NamespaceOption {
                        pid: v1::NamespaceMode::Container as i32,
                        ..Default::default()
                    }),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    pub async fn sandbox(&self, name: &str) -> (String, v1::PodSandboxConfig) {
        self.sandbox_with(self.sandbox_config(name)).await
    }

    pub async fn sandbox_with(&self, config: v1::PodSandboxConfig) -> (String, v1::PodSandboxConfig) {
        let request = v1::RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: String::new() };
        let id = self.runtime.run_pod_sandbox(request).await.expect("sandbox").pod_sandbox_id;
        (id, config)
    }

    pub async fn create(
        &self,
        sandbox: &(String, v1::PodSandboxConfig),
        config: v1::ContainerConfig,
    ) -> Result<String, cri::Status> {
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: sandbox.0.clone(),
            config: Some(config),
            sandbox_config: Some(sandbox.1.clone()),
        };
        Ok(self.runtime.create_container(request).await?.container_id)
    }

    pub async fn start_container(&self, id: &str) -> Result<(), cri::Status> {
        self.runtime.start_container(v1::StartContainerRequest { container_id: id.to_owned() }).await.map(drop)
    }

    /// Creates and starts a container.
    pub async fn run(&self, sandbox: &(String, v1::PodSandboxConfig), config: v1::ContainerConfig) -> String {
        let id = self.create(sandbox, config).await.expect("create");
        self.start_container(&id).await.expect("start");
        id
    }

    /// Runs a container to its end and returns its status and its log.
    pub async fn run_to_end(
        &self,
        sandbox: &(String, v1::PodSandboxConfig),
        config: v1::ContainerConfig,
    ) -> (v1::ContainerStatus, String) {
        let id = self.run(sandbox, config).await;
        let status = self.wait_exit(&id).await;
        let log = std::fs::read_to_string(&status.log_path).expect("log");
        (status, log)
    }

    pub async fn status(&self, id: &str) -> v1::ContainerStatus {
        let request = v1::ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        self.runtime.container_status(request).await.expect("status").status.expect("status")
    }

    pub async fn wait_exit(&self, id: &str) -> v1::ContainerStatus {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let status = self.status(id).await;
            if status.state() == v1::ContainerState::ContainerExited {
                return status;
            }
            assert!(Instant::now() < deadline, "container still {:?}", status.state());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub async fn exec(&self, id: &str, command: &[&str]) -> v1::ExecSyncResponse {
        self.try_exec(id, command, 20).await.expect("exec")
    }

    pub async fn try_exec(&self, id: &str, command: &[&str], timeout: i64) -> Result<v1::ExecSyncResponse, cri::Status> {
        let request = v1::ExecSyncRequest { container_id: id.to_owned(), cmd: words(command), timeout };
        self.runtime.exec_sync(request).await
    }

    pub async fn output(&self, id: &str, command: &[&str]) -> String {
        let response = self.exec(id, command).await;
        assert_eq!(response.exit_code, 0, "{command:?}: {}", String::from_utf8_lossy(&response.stderr));
        String::from_utf8(response.stdout).expect("text").trim_end().to_owned()
    }

    pub async fn remove_sandbox(&self, id: &str) {
        self.runtime.stop_pod_sandbox(v1::StopPodSandboxRequest { pod_sandbox_id: id.to_owned() }).await.expect("stop");
        self.runtime.remove_pod_sandbox(v1::RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() }).await.expect("remove");
    }
}

fn config(directory: &Path, cgroup: &str) -> Config {
    Config {
        root: directory.join("root"),
        run_dir: directory.join("run"),
        executable: PathBuf::from(env!("CARGO_BIN_EXE_container-runtime-test-helper")),
        cgroup_parent: cgroup.to_owned(),
        streaming_address: "127.0.0.1:0".parse().expect("address"),
        network: Arc::new(LoopbackNetwork),
        registries: RegistryConfig::default(),
    }
}

pub fn words(list: &[&str]) -> Vec<String> {
    list.iter().map(|word| (*word).to_owned()).collect()
}

/// A container of the built-in image that runs the test helper with these arguments.
pub fn container(name: &str, arguments: &[&str]) -> v1::ContainerConfig {
    v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: name.to_owned(), attempt: 0 }),
        image: Some(v1::ImageSpec { image: image(), ..Default::default() }),
        args: words(arguments),
        log_path: format!("{name}/0.log"),
        linux: Some(v1::LinuxContainerConfig {
            resources: None,
            security_context: Some(v1::LinuxContainerSecurityContext {
                namespace_options: Some(v1::NamespaceOption { pid: v1::NamespaceMode::Container as i32, ..Default::default() }),
                ..Default::default()
            }),
        }),
        ..Default::default()
    }
}

/// Texts of a CRI log, without time and tag.
pub fn texts(log: &str) -> Vec<String> {
    log.lines().map(|line| line.splitn(4, ' ').nth(3).unwrap_or_default().to_owned()).collect()
}

/// Waits until the condition holds.
pub async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
