//! The runtime: sandboxes and containers, each owned by a shim process, and the CRI over them.
//!
//! State in memory is a copy of what shims and records say. Invariants: a container's phase only moves forward (created,
//! running, exited); whoever changes a sandbox or container holds its `operation`; no record lock is held across an await.

mod config;
mod container;
mod cri_service;
mod events;
pub(crate) mod exec;
mod layout;
mod privileges;
mod records;
mod recovery;
mod sandbox;
pub(crate) mod shim_client;
mod spec;
mod start;
mod stats;
mod update;
mod user;
mod watch_shim;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock, Weak};

use cri::Status;
use parking_lot::{Mutex, RwLock};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use config::{Config, LoopbackNetwork, NetworkError, NetworkRequest, SandboxNetwork};

use crate::cgroup::Hierarchies;
use crate::images::{ImageError, ImageService, Puller, Store};
use crate::streaming::StreamingServer;
pub(crate) use layout::remove_with_mounts;

use events::Events;
use layout::Layout;
use records::{Container, Sandbox};

/// Why the runtime could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Directories, mounts or cgroups.
    #[error("preparing {what}")]
    Prepare {
        /// What was prepared.
        what: &'static str,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// The streaming server's address.
    #[error("listening on {address} for exec, attach and port-forward")]
    Streaming {
        /// As configured.
        address: std::net::SocketAddr,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// The image store.
    #[error("opening the image store")]
    Images(#[source] ImageError),
    /// The pod network could not free what is left from before.
    #[error("reconciling the pod network")]
    Network(#[source] NetworkError),
}

/// The embedded container runtime: implements [`cri::Runtime`] and [`cri::Images`].
///
/// Dropping it leaves all containers running; the next one that is opened on the same directories takes them over.
pub struct ContainerRuntime {
    inner: Arc<Inner>,
}

/// What tasks of the runtime share.
pub(crate) struct Inner {
    /// For tasks, which must not keep the runtime alive.
    this: Weak<Inner>,
    config: Config,
    layout: Layout,
    hierarchies: Hierarchies,
    images: ImageService,
    sandboxes: RwLock<HashMap<String, Arc<Sandbox>>>,
    containers: RwLock<HashMap<String, Arc<Container>>>,
    events: Events,
    /// Containers that are being created at this moment: more at once than there are processors only slows all of them down.
    starts: tokio::sync::Semaphore,
    streaming: OnceLock<StreamingServer>,
    cpu_samples: Mutex<HashMap<String, stats::CpuSample>>,
    tasks: TaskTracker,
    cancel: CancellationToken,
}

impl ContainerRuntime {
    /// Opens the runtime: makes the built-in image, takes running sandboxes over and cleans up what a crash or a reboot left.
    pub async fn open(config: Config) -> Result<Arc<Self>, OpenError> {
        let prepare = |what| move |source| OpenError::Prepare { what, source };
        let layout = Layout::create(&config).map_err(prepare("directories"))?;
        let hierarchies = Hierarchies::detect().map_err(prepare("cgroups"))?;
        let store = Arc::new(Store::open(&layout.root, &layout.root.join("containers")).map_err(OpenError::Images)?);
        let images = ImageService { puller: Puller::new(store.clone(), config.registries.clone()), store };
        images.prepare(&config.executable).map_err(OpenError::Images)?;
        let inner = Arc::new_cyclic(|this| Inner {
            this: this.clone(),
            config,
            layout,
            hierarchies,
            images,
            sandboxes: RwLock::default(),
            containers: RwLock::default(),
            events: Events::new(),
            starts: tokio::sync::Semaphore::new(starts_max()),
            streaming: OnceLock::new(),
            cpu_samples: Mutex::default(),
            tasks: TaskTracker::new(),
            cancel: CancellationToken::new(),
        });
        let address = inner.config.streaming_address;
        let streaming = StreamingServer::start(address, inner.this.clone(), &inner.tasks, inner.cancel.clone())
            .await
            .map_err(|source| OpenError::Streaming { address, source })?;
        let _ = inner.streaming.set(streaming);
        inner.recover().await?;
        Ok(Arc::new(Self { inner }))
    }

    /// Ends the runtime's own tasks; containers go on.
    pub async fn close(&self) {
        self.inner.cancel.cancel();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
    }
}

impl Drop for ContainerRuntime {
    fn drop(&mut self) {
        self.inner.cancel.cancel();
    }
}

impl Inner {
    fn sandbox(&self, id: &str) -> Result<Arc<Sandbox>, Status> {
        find(&self.sandboxes, id).ok_or_else(|| Status::not_found(format!("sandbox {id:?} not found")))
    }

    fn container(&self, id: &str) -> Result<Arc<Container>, Status> {
        find(&self.containers, id).ok_or_else(|| Status::not_found(format!("container {id:?} not found")))
    }

    fn containers_of(&self, sandbox: &str) -> Vec<Arc<Container>> {
        let containers = self.containers.read();
        containers.values().filter(|container| container.record.lock().sandbox_id == sandbox).cloned().collect()
    }

    /// The socket of a sandbox's shim.
    pub(crate) fn shim_socket(&self, sandbox: &str) -> PathBuf {
        self.layout.shim_socket(sandbox)
    }

    fn streaming(&self) -> Result<&StreamingServer, Status> {
        self.streaming.get().ok_or_else(|| Status::unavailable("the runtime is starting"))
    }

    fn sandbox_file(&self, id: &str) -> PathBuf {
        self.layout.sandbox(id).join("sandbox.json")
    }

    fn container_file(&self, id: &str) -> PathBuf {
        self.layout.container(id).join("container.json")
    }
}

/// How many containers are created at once.
fn starts_max() -> usize {
    2 * std::thread::available_parallelism().map_or(2, usize::from)
}

/// Looks an id up; a unique beginning of one will do, as in other runtimes.
fn find<T>(map: &RwLock<HashMap<String, Arc<T>>>, id: &str) -> Option<Arc<T>> {
    let map = map.read();
    if let Some(found) = map.get(id) {
        return Some(found.clone());
    }
    if id.len() < 8 {
        return None;
    }
    let mut matching = map.iter().filter(|(full, _)| full.starts_with(id)).map(|(_, value)| value);
    matching.next().filter(|_| matching.next().is_none()).cloned()
}

/// A new id: 64 hexadecimal digits, like other runtimes'.
fn new_id() -> String {
    hex::encode(rand::random::<[u8; 32]>())
}

fn io_status(what: &str) -> impl FnOnce(std::io::Error) -> Status {
    move |error| Status::internal(format!("{what}: {error}"))
}

/// Runs blocking work off the async threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Status> + Send + 'static) -> Result<T, Status> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Status::internal(error.to_string()))?
}
