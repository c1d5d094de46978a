//! What the runtime needs from its surroundings: directories, the executable, the pod network.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::images::RegistryConfig;

/// Everything that a runtime is told at start. Two runtimes on one machine need different directories and cgroup parents.
#[derive(Clone)]
pub struct Config {
    /// Images, writable layers and state that survive a reboot.
    pub root: PathBuf,
    /// Sockets, mounts and pinned namespaces; should be on a tmpfs.
    pub run_dir: PathBuf,
    /// The executable that is started for shims and container operations, and that becomes the built-in image. Its `main` must
    /// call [`crate::reexec::dispatch`]. Usually `/proc/self/exe`.
    pub executable: PathBuf,
    /// Parent of the cgroups of sandboxes whose configuration names none, absolute within each hierarchy.
    pub cgroup_parent: String,
    /// Where exec, attach and port-forward are served; a loopback address, port 0 for any.
    pub streaming_address: SocketAddr,
    /// The pod network.
    pub network: Arc<dyn SandboxNetwork>,
    /// How registries are spoken to.
    pub registries: RegistryConfig,
}

/// One sandbox to be connected.
#[derive(Debug, Clone)]
pub struct NetworkRequest {
    /// Sandbox id.
    pub sandbox_id: String,
    /// The pinned network namespace; its loopback interface is up.
    pub netns: PathBuf,
    /// Name of the pod.
    pub name: String,
    /// Namespace of the pod.
    pub namespace: String,
    /// UID of the pod.
    pub uid: String,
    /// Ports of the host that lead into the pod.
    pub port_mappings: Vec<cri::v1::PortMapping>,
    /// Annotations of the sandbox (bandwidth limits, for one).
    pub annotations: std::collections::HashMap<String, String>,
}

/// Any error of a network implementation.
pub type NetworkError = Box<dyn std::error::Error + Send + Sync>;

/// Connects sandboxes to the pod network. Not called for sandboxes in the host's network.
#[async_trait::async_trait]
pub trait SandboxNetwork: Send + Sync + 'static {
    /// Connects a sandbox and returns its addresses, the primary one first.
    async fn setup(&self, request: NetworkRequest) -> Result<Vec<IpAddr>, NetworkError>;

    /// Disconnects a sandbox. Must succeed for one that was never connected, or whose namespace is gone.
    async fn teardown(&self, sandbox_id: &str, netns: &Path) -> Result<(), NetworkError>;

    /// Frees what belongs to other sandboxes than `live`; called once when the runtime starts.
    async fn reconcile(&self, live: &[String]) -> Result<(), NetworkError>;

    /// Why sandboxes cannot be connected now; `None` if they can.
    async fn problem(&self) -> Option<String> {
        None
    }
}

/// No network but each sandbox's own loopback interface.
#[derive(Debug, Clone, Copy, Default)]
pub struct LoopbackNetwork;

#[async_trait::async_trait]
impl SandboxNetwork for LoopbackNetwork {
    async fn setup(&self, _request: NetworkRequest) -> Result<Vec<IpAddr>, NetworkError> {
        Ok(Vec::new())
    }

    async fn teardown(&self, _sandbox_id: &str, _netns: &Path) -> Result<(), NetworkError> {
        Ok(())
    }

    async fn reconcile(&self, _live: &[String]) -> Result<(), NetworkError> {
        Ok(())
    }
}
