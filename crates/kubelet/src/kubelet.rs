//! Puts the kubelet together and runs it.

use std::sync::Arc;
use std::sync::atomic::AtomicU16;
use std::time::Duration;

use client::{Change, EventRecorder, Informer};
use cri::{Images, Runtime};
use k8s_openapi::api::core::v1::{Node, Service};
use kube::runtime::watcher;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cgroup::Cgroups;
use crate::config::Config;
use crate::context::Core;
use crate::error::Error;
use crate::events::Events;
use crate::image::Puller;
use crate::node::{self, Machine};
use crate::objects::ObjectCache;
use crate::pod::manager::{self, PodTable};
use crate::pod::report::StatusReporter;
use crate::pod::sources;
use crate::probe::Probes;
use crate::volume::TokenCache;
use crate::{eviction, gc, server};

/// How long an attempt to register waits after a failed one.
const REGISTER_RETRY: Duration = Duration::from_millis(100);

/// The node agent.
pub struct Kubelet;

impl Kubelet {
    /// Runs the kubelet until `token` is cancelled; containers go on running then, and the next start adopts them.
    ///
    /// `client` acts as `system:node:NAME`. Fails when the runtime does not answer, a directory cannot be made or the HTTPS server
    /// cannot listen; everything later is retried.
    pub async fn run(
        config: Config,
        client: kube::Client,
        runtime: Arc<dyn Runtime>,
        images: Arc<dyn Images>,
        token: CancellationToken,
    ) -> Result<(), Error> {
        if config.node_ips.is_empty() {
            return Err(Error::Config("the node has no address"));
        }
        for path in [config.root_dir.join("pods"), config.pod_logs_dir.clone()] {
            std::fs::create_dir_all(&path).map_err(|source| Error::Directory { path, source })?;
        }
        let tasks = TaskTracker::new();
        let core = assemble(config, client, runtime, images, token.child_token(), tasks.clone()).await?;
        let listener = server::listen(&core).await?;
        start_node(&core);
        tasks.spawn(StatusReporter::run(Arc::clone(&core)));
        if let Some(listener) = listener {
            tasks.spawn(server::serve(Arc::clone(&core), listener));
        }
        if let Err(error) = core.cgroups.ensure_classes(core.machine.cpus) {
            core.events.node("Warning", "KubeletSetupFailed", format!("Failed to start ContainerManager: {error}"));
            tracing::warn!(%error, "the cgroups of the pods' classes were not made");
        }
        let pods = sources::follow_api(&core);
        tasks.spawn(sources::follow_files(Arc::clone(&core)));
        tasks.spawn(manager::follow_runtime(Arc::clone(&core)));
        core.events.node("Normal", "Starting", "Starting kubelet.");
        // Only when all of this node's pods are known can one be called an orphan.
        if pods.wait_synced().await.is_ok() {
            tasks.spawn(gc::run(Arc::clone(&core)));
            tasks.spawn(gc::images::run(Arc::clone(&core)));
            tasks.spawn(gc::logs::run(Arc::clone(&core)));
            tasks.spawn(eviction::run(Arc::clone(&core)));
        }
        token.cancelled().await;
        core.token.cancel();
        tasks.close();
        tasks.wait().await;
        Ok(())
    }
}

async fn assemble(
    config: Config,
    client: kube::Client,
    runtime: Arc<dyn Runtime>,
    images: Arc<dyn Images>,
    token: CancellationToken,
    tasks: TaskTracker,
) -> Result<Arc<Core>, Error> {
    let version = runtime.version(cri::v1::VersionRequest { version: "v1".to_owned() }).await.map_err(Error::Runtime)?;
    let (recorder, writer) = EventRecorder::new(client.clone(), "kubelet", Some(config.node_name.clone()), token.clone());
    tasks.spawn(writer);
    let (services, task) = Informer::<Service>::start(client.clone(), watcher::Config::default(), token.clone());
    tasks.spawn(task);
    Ok(Arc::new(Core {
        machine: Machine::read(&config.root_dir),
        events: Events::new(recorder, config.node_name.clone()),
        cgroups: Cgroups::detect(&config.cgroup_root, config.cgroups_per_qos),
        runtime_name: version.runtime_name,
        runtime_version: version.runtime_version,
        services,
        objects: ObjectCache::default(),
        tokens: TokenCache::default(),
        probes: Probes::default(),
        puller: Puller::default(),
        image_use: gc::images::ImageUse::default(),
        pods: PodTable::default(),
        reporter: StatusReporter::default(),
        node: Mutex::new(None),
        node_changed: Notify::new(),
        port: AtomicU16::new(0),
        runtime_changes: tokio::sync::watch::Sender::new(0),
        config,
        client,
        runtime,
        images,
        token,
        tasks,
    }))
}

/// Registers the node, then keeps its status, its Lease and our view of it.
fn start_node(core: &Arc<Core>) {
    let core = Arc::clone(core);
    let tasks = core.tasks.clone();
    tasks.spawn(async move {
        while let Err(error) = node::register(&core).await {
            tracing::debug!(error = &error as &dyn std::error::Error, "the node is not registered yet");
            tokio::select! {
                () = core.token.cancelled() => return,
                () = tokio::time::sleep(REGISTER_RETRY) => {}
            }
        }
        let config = watcher::Config::default().fields(&format!("metadata.name={}", core.config.node_name));
        let (informer, task) = Informer::<Node>::start(core.client.clone(), config, core.token.clone());
        let weak = Arc::downgrade(&core);
        informer.add_handler(move |change| {
            let Some(core) = weak.upgrade() else { return };
            match change {
                Change::Deleted(_) => *core.node.lock() = None,
                Change::Added(node) | Change::Updated { new: node, .. } => *core.node.lock() = Some(Node::clone(node)),
            }
        });
        core.tasks.spawn(task);
        core.tasks.spawn(node::renew_lease(Arc::clone(&core)));
        node::report_status(core).await;
    });
}
