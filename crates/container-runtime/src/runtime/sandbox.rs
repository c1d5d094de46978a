//! Sandboxes: set up, stopped, removed, listed.

use std::sync::Arc;

use cri::v1::{self, ContainerEventType, NamespaceMode, PodSandboxConfig};
use cri::{Code, Status};
use nix::mount::MsFlags;

use super::config::NetworkRequest;
use super::layout::{remove_with_mounts, unmount};
use super::records::{Sandbox, SandboxRecord, Wire, save};
use super::spec::sandbox_namespaces;
use super::{Inner, blocking, io_status, new_id, shim_client};
use crate::clock;
use crate::shim::protocol::{Request, SandboxSpec};

/// `/dev/shm` of a sandbox; Docker's and containerd's number.
const SHM_OPTIONS: &str = "mode=1777,size=65536k";

impl Inner {
    pub(super) async fn run_sandbox(&self, request: v1::RunPodSandboxRequest) -> Result<String, Status> {
        let config = request.config.ok_or_else(|| Status::invalid_argument("sandbox configuration missing"))?;
        if config.metadata.is_none() {
            return Err(Status::invalid_argument("sandbox metadata missing"));
        }
        if !request.runtime_handler.is_empty() {
            return Err(Status::invalid_argument(format!("runtime handler {:?} is not known", request.runtime_handler)));
        }
        let id = new_id();
        let parent = config.linux.as_ref().map(|linux| linux.cgroup_parent.clone()).unwrap_or_default();
        let cgroup_parent = if parent.is_empty() { format!("{}/{id}", self.config.cgroup_parent) } else { parent };
        let record = SandboxRecord {
            id: id.clone(),
            config: Wire(config),
            runtime_handler: request.runtime_handler,
            created_at: clock::nanoseconds(),
            ready: false,
            ips: Vec::new(),
            cgroup_parent,
        };
        match self.set_up_sandbox(record).await {
            Ok(sandbox) => {
                self.sandboxes.write().insert(id.clone(), sandbox);
                self.watch_shim(&id);
                self.publish(&id, &id, ContainerEventType::ContainerCreatedEvent);
                self.publish(&id, &id, ContainerEventType::ContainerStartedEvent);
                Ok(id)
            }
            Err(error) => {
                self.tear_down_sandbox(&id).await;
                let _ = std::fs::remove_dir_all(self.layout.sandbox(&id));
                Err(error)
            }
        }
    }

    async fn set_up_sandbox(&self, mut record: SandboxRecord) -> Result<Arc<Sandbox>, Status> {
        let (id, config) = (record.id.clone(), record.config.0.clone());
        let options = sandbox_namespaces(&config);
        if options.userns_options.as_ref().is_some_and(|user| user.mode() != NamespaceMode::Node) {
            return Err(Status::unimplemented("user namespaces (hostUsers: false) are not implemented"));
        }
        let host_network = options.network() == NamespaceMode::Node;
        let host_ipc = options.ipc() == NamespaceMode::Node;
        let run_dir = self.layout.sandbox_run(&id);
        std::fs::create_dir_all(self.layout.sandbox(&id)).map_err(io_status("sandbox directory"))?;
        // Before anything that would need cleaning up after a crash.
        save(&self.sandbox_file(&id), &record).map_err(io_status("sandbox record"))?;
        let (files_dir, files_config) = (run_dir.clone(), config.clone());
        blocking(move || prepare_files(&files_dir, &files_config, host_ipc).map_err(io_status("sandbox files"))).await?;
        let spec = SandboxSpec {
            id: id.clone(),
            run_dir: run_dir.to_string_lossy().into_owned(),
            hostname: (!host_network).then(|| config.hostname.clone()),
            host_network,
            host_ipc,
            share_pid: options.pid() == NamespaceMode::Pod,
            sysctls: config.linux.as_ref().map(|linux| linux.sysctls.clone().into_iter().collect()).unwrap_or_default(),
        };
        shim_client::launch(&self.config.executable, &spec).await?;
        if !host_network {
            let metadata = config.metadata.clone().unwrap_or_default();
            let request = NetworkRequest {
                sandbox_id: id.clone(),
                netns: run_dir.join("netns"),
                name: metadata.name,
                namespace: metadata.namespace,
                uid: metadata.uid,
                port_mappings: config.port_mappings.clone(),
                annotations: config.annotations.clone(),
            };
            record.ips = self
                .config
                .network
                .setup(request)
                .await
                .map_err(|error| Status::unknown(format!("failed to set up the network of sandbox {id:?}: {error}")))?;
        }
        record.ready = true;
        save(&self.sandbox_file(&id), &record).map_err(io_status("sandbox record"))?;
        Ok(Arc::new(Sandbox::new(record)))
    }

    /// Frees everything that a sandbox holds outside of its record. Idempotent, for half-made sandboxes too.
    pub(super) async fn tear_down_sandbox(&self, id: &str) {
        let run_dir = self.layout.sandbox_run(id);
        let netns = run_dir.join("netns");
        if let Err(error) = self.config.network.teardown(id, &netns).await {
            tracing::warn!(sandbox = id, %error, "network of a sandbox could not be torn down");
        }
        // A shim that is gone needs no shutdown.
        let _ = shim_client::call(&self.layout.shim_socket(id), &Request::Shutdown).await;
        for name in ["netns", "ipcns", "utsns", "pidns", "shm"] {
            unmount(&run_dir.join(name));
        }
        if let Err(error) = remove_with_mounts(&run_dir) {
            tracing::warn!(sandbox = id, %error, "run directory of a sandbox could not be removed");
        }
    }

    pub(super) async fn stop_sandbox(&self, id: &str) -> Result<(), Status> {
        let Ok(sandbox) = self.sandbox(id) else { return Ok(()) };
        let _operation = sandbox.operation.lock().await;
        let record = sandbox.snapshot();
        if !record.ready && !self.layout.sandbox_run(&record.id).exists() {
            return Ok(());
        }
        for container in self.containers_of(&record.id) {
            self.stop_container_now(&container).await?;
        }
        self.tear_down_sandbox(&record.id).await;
        let (stopped, saved) = sandbox.update(&self.sandbox_file(&record.id), |record| record.ready = false);
        saved.map_err(io_status("sandbox record"))?;
        self.publish(&stopped.id, &stopped.id, ContainerEventType::ContainerStoppedEvent);
        Ok(())
    }

    pub(super) async fn remove_sandbox(&self, id: &str) -> Result<(), Status> {
        let Ok(sandbox) = self.sandbox(id) else { return Ok(()) };
        let id = sandbox.snapshot().id;
        self.stop_sandbox(&id).await?;
        for container in self.containers_of(&id) {
            let container_id = container.snapshot().id;
            match self.remove_container(&container_id).await {
                Err(error) if error.code() != Code::NotFound => return Err(error),
                _ => {}
            }
        }
        let _operation = sandbox.operation.lock().await;
        let record = sandbox.snapshot();
        if record.config.0.linux.as_ref().is_none_or(|linux| linux.cgroup_parent.is_empty()) {
            // Our own cgroup; a parent that the kubelet named is the kubelet's.
            let (hierarchies, path) = (self.hierarchies.clone(), record.cgroup_parent.clone());
            blocking(move || {
                hierarchies.remove(&path);
                Ok(())
            })
            .await?;
        }
        match std::fs::remove_dir_all(self.layout.sandbox(&id)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io_status("sandbox directory")(error)),
            _ => {}
        }
        self.sandboxes.write().remove(&id);
        self.forget_samples(&id);
        self.forget_samples(&id);
        self.publish_gone(&id, &id);
        Ok(())
    }

    pub(super) fn sandbox_status(&self, sandbox: &Sandbox) -> v1::PodSandboxStatus {
        let record = sandbox.snapshot();
        let config = record.config.0;
        let mut ips = record.ips.iter().filter(|_| record.ready).map(ToString::to_string);
        v1::PodSandboxStatus {
            id: record.id,
            state: sandbox_state(record.ready) as i32,
            created_at: record.created_at,
            network: Some(v1::PodSandboxNetworkStatus {
                ip: ips.next().unwrap_or_default(),
                additional_ips: ips.map(|ip| v1::PodIp { ip }).collect(),
            }),
            linux: Some(v1::LinuxPodSandboxStatus {
                namespaces: Some(v1::Namespace { options: Some(sandbox_namespaces(&config)) }),
            }),
            metadata: config.metadata,
            labels: config.labels,
            annotations: config.annotations,
            runtime_handler: record.runtime_handler,
        }
    }

    pub(super) fn list_sandboxes(&self, filter: &v1::PodSandboxFilter) -> Vec<v1::PodSandbox> {
        let sandboxes = self.sandboxes.read();
        let mut items: Vec<v1::PodSandbox> = sandboxes
            .values()
            .map(|sandbox| sandbox.snapshot())
            .filter(|record| {
                let state = sandbox_state(record.ready) as i32;
                (filter.id.is_empty() || record.id.starts_with(&filter.id))
                    && filter.state.as_ref().is_none_or(|wanted| wanted.state == state)
                    && matches_labels(&record.config.0.labels, &filter.label_selector)
            })
            .map(|record| v1::PodSandbox {
                id: record.id,
                state: sandbox_state(record.ready) as i32,
                created_at: record.created_at,
                runtime_handler: record.runtime_handler,
                metadata: record.config.0.metadata,
                labels: record.config.0.labels,
                annotations: record.config.0.annotations,
            })
            .collect();
        items.sort_by_key(|item| item.created_at);
        items
    }
}

fn sandbox_state(ready: bool) -> v1::PodSandboxState {
    if ready { v1::PodSandboxState::SandboxReady } else { v1::PodSandboxState::SandboxNotready }
}

/// Whether `labels` have everything that `selector` asks for.
pub(super) fn matches_labels(
    labels: &std::collections::HashMap<String, String>,
    selector: &std::collections::HashMap<String, String>,
) -> bool {
    selector.iter().all(|(name, value)| labels.get(name) == Some(value))
}

/// `/dev/shm`, `resolv.conf` and `hostname` of a sandbox.
fn prepare_files(run_dir: &std::path::Path, config: &PodSandboxConfig, host_ipc: bool) -> std::io::Result<()> {
    std::fs::create_dir_all(run_dir)?;
    let hostname = if config.hostname.is_empty() {
        nix::unistd::gethostname()?.to_string_lossy().into_owned()
    } else {
        config.hostname.clone()
    };
    std::fs::write(run_dir.join("hostname"), format!("{hostname}\n"))?;
    let resolv_conf = config.dns_config.as_ref().and_then(resolv_conf);
    let text = match resolv_conf {
        Some(text) => text,
        None => std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default(),
    };
    std::fs::write(run_dir.join("resolv.conf"), text)?;
    if !host_ipc {
        let shm = run_dir.join("shm");
        std::fs::create_dir_all(&shm)?;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        nix::mount::mount(Some("shm"), &shm, Some("tmpfs"), flags, Some(SHM_OPTIONS))?;
    }
    Ok(())
}

/// The text of `resolv.conf`; `None` if the configuration is empty, which means the host's.
fn resolv_conf(dns: &v1::DnsConfig) -> Option<String> {
    if dns.servers.is_empty() && dns.searches.is_empty() && dns.options.is_empty() {
        return None;
    }
    let mut text = String::new();
    if !dns.searches.is_empty() {
        text += &format!("search {}\n", dns.searches.join(" "));
    }
    for server in &dns.servers {
        text += &format!("nameserver {server}\n");
    }
    if !dns.options.is_empty() {
        text += &format!("options {}\n", dns.options.join(" "));
    }
    Some(text)
}
