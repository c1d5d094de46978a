//! Feeds the graph: one watch of the metadata of every resource that can be deleted.
//!
//! Kinds that other controllers keep in the shared informers anyway are taken from there; of all others only the
//! metadata is fetched, and nothing is kept but the graph's node.

use std::collections::{HashMap, HashSet};
use std::fmt::Debug;
use std::sync::Arc;

use client::{Change, Informers, MetadataObject};
use futures::{FutureExt, StreamExt};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{Endpoints, Namespace, Node, Pod, ReplicationController, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::ApiResource;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Resource as _, ResourceExt};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::graph::{Graph, Kind, Work};
use crate::discovery::Resource;

/// Resources that are not collected: events have no dependents, and there are many.
const IGNORED: [(&str, &str); 2] = [("", "events"), ("events.k8s.io", "events")];
/// Resources whose change means that the set of resources changed.
const DEFINE_RESOURCES: [&str; 2] = ["customresourcedefinitions", "apiservices"];

/// Where graph events go: the graph, and the queue for what comes out of it.
#[derive(Clone)]
pub(super) struct Sink {
    pub(super) graph: Arc<Mutex<Graph>>,
    pub(super) enqueue: Arc<dyn Fn(Vec<Work>) + Send + Sync>,
    /// Told when resources may have come or gone.
    pub(super) resources_changed: Arc<tokio::sync::Notify>,
}

impl Sink {
    fn observe(&self, kind: &Arc<Kind>, meta: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) {
        let work = self.graph.lock().observe(kind, meta);
        (self.enqueue)(work);
    }

    fn forget(&self, uid: &str) {
        let work = self.graph.lock().forget(uid);
        (self.enqueue)(work);
    }
}

struct Monitor {
    /// `None` for kinds taken from shared informers, which run anyway.
    token: Option<CancellationToken>,
    synced: watch::Receiver<bool>,
}

/// All running watches.
pub(super) struct Monitors {
    client: kube::Client,
    informers: Informers,
    sink: Sink,
    token: CancellationToken,
    tasks: TaskTracker,
    running: HashMap<(String, String, String), Monitor>,
}

impl Monitors {
    pub(super) fn new(client: kube::Client, informers: Informers, sink: Sink, token: CancellationToken) -> Self {
        Self { client, informers, sink, token, tasks: TaskTracker::new(), running: HashMap::new() }
    }

    /// Watches exactly the collectable ones of these resources.
    pub(super) fn set_resources(&mut self, resources: &[Resource]) {
        let wanted: Vec<&Resource> = resources
            .iter()
            .filter(|resource| resource.preferred && resource.is_collectable())
            .filter(|resource| !IGNORED.contains(&(&resource.api.group, &resource.api.plural)))
            .collect();
        let keys: HashSet<_> = wanted.iter().map(|resource| key(&resource.api)).collect();
        self.running.retain(|key, monitor| {
            let keep = keys.contains(key);
            if !keep && let Some(token) = &monitor.token {
                token.cancel();
            }
            keep || monitor.token.is_none()
        });
        for resource in wanted {
            let key = key(&resource.api);
            if !self.running.contains_key(&key) {
                let monitor = self.start(&resource.api);
                self.running.insert(key, monitor);
            }
        }
    }

    fn start(&self, resource: &ApiResource) -> Monitor {
        let kind = self.sink.graph.lock().kind(&resource.api_version, &resource.kind);
        if let Some(synced) = self.attach_shared(resource, &kind) {
            return Monitor { token: None, synced };
        }
        let token = self.token.child_token();
        let (sender, synced) = watch::channel(false);
        let api: Api<MetadataObject> = Api::all_with(self.client.clone(), resource);
        let defines_resources = DEFINE_RESOURCES.contains(&resource.plural.as_str());
        let task = watch_metadata(api, kind, self.sink.clone(), defines_resources, sender);
        let stop = token.clone();
        self.tasks.spawn(async move { _ = stop.run_until_cancelled(task).await }.boxed());
        Monitor { token: Some(token), synced }
    }

    /// Kinds for which a shared informer runs anyway.
    fn attach_shared(&self, resource: &ApiResource, kind: &Arc<Kind>) -> Option<watch::Receiver<bool>> {
        macro_rules! shared {
            ($($type:ty),+ $(,)?) => {
                $(if <$type>::group(&()) == resource.group && <$type>::kind(&()) == resource.kind {
                    return Some(self.attach::<$type>(kind));
                })+
            };
        }
        shared!(
            Pod,
            ReplicaSet,
            Deployment,
            ReplicationController,
            Service,
            Endpoints,
            EndpointSlice,
            Namespace,
            Node,
            ServiceAccount,
        );
        None
    }

    fn attach<K>(&self, kind: &Arc<Kind>) -> watch::Receiver<bool>
    where
        K: kube::Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    {
        let informer = self.informers.get::<K>();
        let (sink, kind) = (self.sink.clone(), Arc::clone(kind));
        informer.add_handler(move |change| match change {
            Change::Added(object) => sink.observe(&kind, object.meta()),
            Change::Updated { old, new } => {
                if old.uid() != new.uid() {
                    sink.forget(&old.uid().unwrap_or_default());
                }
                if matters(old.meta(), new.meta()) {
                    sink.observe(&kind, new.meta());
                }
            }
            Change::Deleted(object) => sink.forget(&object.uid().unwrap_or_default()),
        });
        let (sender, synced) = watch::channel(false);
        let tell = async move {
            if informer.wait_synced().await.is_ok() {
                sender.send_replace(true);
            }
        };
        self.tasks.spawn(tell.boxed());
        synced
    }

    /// Waits until every watch has shown what there is. A resource that cannot be listed holds everything up, as
    /// collecting without knowing all owners would be wrong.
    pub(super) async fn wait_synced(&self) {
        for monitor in self.running.values() {
            let mut synced = monitor.synced.clone();
            // An error means that the monitor was stopped: nothing to wait for.
            let _stopped = synced.wait_for(|synced| *synced).await;
        }
    }
}

fn key(resource: &ApiResource) -> (String, String, String) {
    (resource.group.clone(), resource.version.clone(), resource.plural.clone())
}

/// Whether the graph cares for a change: most are of spec or status.
fn matters(
    old: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta,
    new: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta,
) -> bool {
    old.uid != new.uid
        || old.owner_references != new.owner_references
        || old.deletion_timestamp != new.deletion_timestamp
        || old.finalizers != new.finalizers
}

async fn watch_metadata(
    api: Api<MetadataObject>,
    kind: Arc<Kind>,
    sink: Sink,
    defines_resources: bool,
    synced: watch::Sender<bool>,
) {
    let config = watcher::Config::default();
    let mut stream = watcher::watcher(api, config).default_backoff().boxed();
    let mut seen: Option<HashSet<String>> = None;
    while let Some(event) = stream.next().await {
        match event {
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::debug!(kind = kind.kind, error, "watch of metadata failed, retrying");
                continue;
            }
            Ok(Event::Init) => seen = Some(HashSet::new()),
            Ok(Event::InitApply(object)) => {
                if let Some(seen) = &mut seen {
                    seen.insert(object.uid().unwrap_or_default());
                }
                sink.observe(&kind, &object.metadata);
            }
            Ok(Event::Apply(object)) => {
                sink.observe(&kind, &object.metadata);
                if defines_resources {
                    sink.resources_changed.notify_one();
                }
            }
            Ok(Event::Delete(object)) => {
                sink.forget(&object.uid().unwrap_or_default());
                if defines_resources {
                    sink.resources_changed.notify_one();
                }
            }
            Ok(Event::InitDone) => {
                if let Some(seen) = seen.take() {
                    let known = sink.graph.lock().observed_of_kind(&kind);
                    for uid in known.iter().filter(|uid| !seen.contains(&***uid)) {
                        sink.forget(uid);
                    }
                }
                synced.send_replace(true);
            }
        }
    }
}
