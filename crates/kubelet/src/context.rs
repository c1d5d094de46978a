//! What every part of the kubelet shares.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use client::Informer;
use cri::{Images, Runtime};
use k8s_openapi::api::core::v1::{Node, Service};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cgroup::Cgroups;
use crate::config::Config;
use crate::events::Events;
use crate::gc::images::ImageUse;
use crate::image::Puller;
use crate::node::Machine;
use crate::objects::ObjectCache;
use crate::pod::manager::PodTable;
use crate::pod::report::StatusReporter;
use crate::probe::Probes;
use crate::volume::TokenCache;

/// The kubelet's shared state. Locks in here are never held across an await.
pub(crate) struct Core {
    pub(crate) config: Config,
    pub(crate) client: kube::Client,
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) images: Arc<dyn Images>,
    /// The runtime's name, as in `containerID: NAME://...`.
    pub(crate) runtime_name: String,
    pub(crate) runtime_version: String,
    pub(crate) machine: Machine,
    pub(crate) events: Events,
    pub(crate) services: Informer<Service>,
    pub(crate) objects: ObjectCache,
    pub(crate) tokens: TokenCache,
    pub(crate) probes: Probes,
    pub(crate) puller: Puller,
    pub(crate) image_use: ImageUse,
    pub(crate) cgroups: Cgroups,
    pub(crate) pods: PodTable,
    pub(crate) reporter: StatusReporter,
    pub(crate) token: CancellationToken,
    pub(crate) tasks: TaskTracker,
    /// The Node as last seen.
    pub(crate) node: Mutex<Option<Node>>,
    /// Asks for a node status report now.
    pub(crate) node_changed: Notify,
    pub(crate) port: AtomicU16,
    /// Counts the runtime's events, for those who wait for any.
    pub(crate) runtime_changes: tokio::sync::watch::Sender<u64>,
}

impl Core {
    /// The port that the HTTPS server listens on; `None` without a server.
    pub(crate) fn server_port(&self) -> Option<u16> {
        match self.port.load(Ordering::Relaxed) {
            0 => None,
            port => Some(port),
        }
    }

    /// The node's addresses as text, the primary first.
    pub(crate) fn host_ips(&self) -> Vec<String> {
        self.config.node_ips.iter().map(ToString::to_string).collect()
    }
}
