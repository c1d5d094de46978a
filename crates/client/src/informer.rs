//! One watch of one resource, its cache, and the handlers that hear of changes.
//!
//! Invariants: handlers see changes in the order of the watch, each after the store holds it; a handler added late
//! first hears `Added` for everything present. After a lost watch the relist is turned into the differences
//! (updates of objects whose resourceVersion did not change are not reported), so no deletion is missed.
//!
//! Fan-out has no queue: handlers run on the informer's task, one after the other, and back-pressure goes to the
//! watch itself. A handler must therefore be short and must not block: put a key in a [`crate::WorkQueue`] (which
//! deduplicates, hence is bounded by the number of objects) or update a small structure under a lock. A handler
//! must not add handlers to the same informer.

use std::collections::HashSet;
use std::fmt::Debug;
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use k8s_openapi::NamespaceResourceScope;
use kube::api::{ApiResource, DynamicObject, PartialObjectMeta};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, InitialListStrategy};
use kube::{Api, Resource, ResourceExt};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::raw::Raw;
use crate::{NamespacedName, Store};

/// An object of any kind of which only the metadata is fetched and kept.
pub type MetadataObject = PartialObjectMeta<DynamicObject>;

/// What happened to an object.
#[derive(Debug)]
pub enum Change<'a, K> {
    /// It is new to this informer.
    Added(&'a Arc<K>),
    /// It changed.
    Updated {
        /// The version known before.
        old: &'a Arc<K>,
        /// The version now in the store.
        new: &'a Arc<K>,
    },
    /// It is gone; the last version known.
    Deleted(&'a Arc<K>),
}

impl<'a, K> Change<'a, K> {
    /// The newest version known.
    pub fn object(&self) -> &'a Arc<K> {
        match self {
            Change::Added(object) | Change::Deleted(object) => object,
            Change::Updated { new, .. } => new,
        }
    }
}

/// Why [`Informer::wait_synced`] gave up.
#[derive(Debug, thiserror::Error)]
#[error("informer was stopped before its first list was complete")]
pub struct ResyncError;

type Handler<K> = Box<dyn Fn(&Change<'_, K>) + Send + Sync>;

/// A handle on a running informer. Cloning shares the same watch, cache and handlers.
pub struct Informer<K> {
    store: Store<K>,
    handlers: Arc<Mutex<Vec<Handler<K>>>>,
    synced: watch::Receiver<bool>,
}

impl<K> Clone for Informer<K> {
    fn clone(&self) -> Self {
        Self { store: self.store.clone(), handlers: Arc::clone(&self.handlers), synced: self.synced.clone() }
    }
}

impl<K> Informer<K>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    /// Starts watching a whole resource; the returned future is the informer's task, to be spawned by the caller, and ends with the token.
    pub fn start(client: kube::Client, config: watcher::Config, token: CancellationToken) -> (Self, BoxFuture<'static, ()>) {
        Self::from_api(Api::all_with(client, &ApiResource::erase::<K>(&())), config, token)
    }

    /// As [`Informer::start`], for one namespace.
    pub fn start_in(
        client: kube::Client,
        namespace: &str,
        config: watcher::Config,
        token: CancellationToken,
    ) -> (Self, BoxFuture<'static, ()>)
    where
        K: Resource<Scope = NamespaceResourceScope>,
    {
        Self::from_api(Api::namespaced_with(client, namespace, &ApiResource::erase::<K>(&())), config, token)
    }

    fn from_api(api: Api<Raw>, config: watcher::Config, token: CancellationToken) -> (Self, BoxFuture<'static, ()>) {
        let open = move |config| {
            let events = watch_raw(api.clone(), config);
            events.map(|event| event.and_then(|event| typed(&event))).boxed()
        };
        Self::from_streams(open, config, token)
    }
}

/// Not generic, so that it is compiled here, once.
fn watch_raw(api: Api<Raw>, config: watcher::Config) -> EventStream<Raw> {
    watcher::watcher(api, config).boxed()
}

/// The event with its object read. One that cannot be read is an error of its own: the watch, and all other objects, go on.
fn typed<K: DeserializeOwned + 'static>(event: &Event<Raw>) -> watcher::Result<Event<K>> {
    let read = |raw: &Raw| raw.read().map_err(|error| watcher::Error::WatchFailed(kube::Error::SerdeError(error)));
    Ok(match event {
        Event::Apply(raw) => Event::Apply(read(raw)?),
        Event::Delete(raw) => Event::Delete(read(raw)?),
        Event::Init => Event::Init,
        Event::InitApply(raw) => Event::InitApply(read(raw)?),
        Event::InitDone => Event::InitDone,
    })
}

impl Informer<MetadataObject> {
    /// Starts a watch of only the metadata of a resource that is known by discovery; see [`Informer::start`].
    pub fn start_metadata(
        client: kube::Client,
        resource: &ApiResource,
        config: watcher::Config,
        token: CancellationToken,
    ) -> (Self, BoxFuture<'static, ()>) {
        let api: Api<MetadataObject> = Api::all_with(client, resource);
        Self::from_streams(move |config| watcher::watcher(api.clone(), config).boxed(), config, token)
    }
}

impl<K> Informer<K>
where
    K: ResourceExt + Send + Sync + 'static,
{
    fn from_streams(
        open: impl Fn(watcher::Config) -> EventStream<K> + Send + 'static,
        config: watcher::Config,
        token: CancellationToken,
    ) -> (Self, BoxFuture<'static, ()>) {
        let (synced_sender, synced) = watch::channel(false);
        let informer = Self { store: Store::new(), handlers: Arc::new(Mutex::new(Vec::new())), synced };
        let task =
            Task { store: informer.store.clone(), handlers: Arc::clone(&informer.handlers), synced: synced_sender, relist: None };
        (informer, task.run(open, config, token).boxed())
    }

    /// The cache.
    pub fn store(&self) -> &Store<K> {
        &self.store
    }

    /// Whether the first list is complete.
    pub fn is_synced(&self) -> bool {
        *self.synced.borrow()
    }

    /// Waits until the first list is complete and every handler heard of it. Fails when the informer is stopped.
    /// Cancellation-safe.
    pub async fn wait_synced(&self) -> Result<(), ResyncError> {
        let mut synced = self.synced.clone();
        match synced.wait_for(|synced| *synced).await {
            Ok(_) => Ok(()),
            Err(_) => Err(ResyncError),
        }
    }

    /// Adds a handler, which first hears `Added` for everything in the cache, on the caller's thread.
    /// See the module's rules: short, non-blocking.
    pub fn add_handler(&self, handler: impl Fn(&Change<'_, K>) + Send + Sync + 'static) {
        let mut handlers = self.handlers.lock();
        for object in self.store.list() {
            handler(&Change::Added(&object));
        }
        handlers.push(Box::new(handler));
    }
}

type EventStream<K> = BoxStream<'static, watcher::Result<Event<K>>>;

struct Task<K> {
    store: Store<K>,
    handlers: Arc<Mutex<Vec<Handler<K>>>>,
    synced: watch::Sender<bool>,
    /// Keys seen since `Init`, while a relist is under way.
    relist: Option<HashSet<NamespacedName>>,
}

impl<K: ResourceExt + Send + Sync + 'static> Task<K> {
    async fn run(
        mut self,
        open: impl Fn(watcher::Config) -> EventStream<K> + Send + 'static,
        mut config: watcher::Config,
        token: CancellationToken,
    ) {
        // The watcher retries by itself; the back-off (800 ms to 30 s as client-go's reflector) paces it.
        let mut stream = open(config.clone()).default_backoff().boxed();
        loop {
            let event = tokio::select! {
                () = token.cancelled() => return,
                event = stream.next() => event,
            };
            match event {
                None => return,
                Some(Ok(event)) => self.apply(event),
                Some(Err(error)) => {
                    if refuses_streaming_lists(&config, &error) {
                        config.initial_list_strategy = InitialListStrategy::ListWatch;
                        stream = open(config.clone()).default_backoff().boxed();
                        continue;
                    }
                    // One object may be unreadable now: it is not taken for deleted, even if no other can be either then.
                    self.relist = None;
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        resource = std::any::type_name::<K>(),
                        "watch failed, retrying"
                    );
                }
            }
        }
    }

    fn apply(&mut self, event: Event<K>) {
        let event = event.modify(|object| {
            // No component reads them, and they are often the larger half of an object.
            object.meta_mut().managed_fields = None;
        });
        match event {
            Event::Init => self.relist = Some(HashSet::new()),
            Event::InitApply(object) => {
                let key = NamespacedName::of(&object);
                if let Some(seen) = &mut self.relist {
                    seen.insert(key.clone());
                }
                self.put(key, object);
            }
            Event::Apply(object) => self.put(NamespacedName::of(&object), object),
            Event::InitDone => {
                if let Some(seen) = self.relist.take() {
                    for key in self.store.keys() {
                        if !seen.contains(&key) {
                            self.take(&key, None);
                        }
                    }
                }
                self.synced.send_replace(true);
            }
            Event::Delete(object) => self.take(&NamespacedName::of(&object), Some(Arc::new(object))),
        }
    }

    fn put(&self, key: NamespacedName, object: K) {
        let object = Arc::new(object);
        let handlers = self.handlers.lock();
        let change = match self.store.insert(key, Arc::clone(&object)) {
            None => None,
            Some(old) if same_version(&*old, &*object) => return,
            Some(old) => Some(old),
        };
        let change = match &change {
            None => Change::Added(&object),
            Some(old) => Change::Updated { old, new: &object },
        };
        for handler in handlers.iter() {
            handler(&change);
        }
    }

    fn take(&self, key: &NamespacedName, last: Option<Arc<K>>) {
        let handlers = self.handlers.lock();
        let Some(known) = self.store.remove(key) else {
            return;
        };
        let last = last.unwrap_or(known);
        for handler in handlers.iter() {
            handler(&Change::Deleted(&last));
        }
    }
}

/// An object deleted and made again between two lists has another UID and thus another version.
fn same_version<K: ResourceExt>(old: &K, new: &K) -> bool {
    old.meta().uid == new.meta().uid
        && old.meta().resource_version.is_some()
        && old.meta().resource_version == new.meta().resource_version
}

/// A server without the WatchList feature (KEP-3157) refuses `sendInitialEvents` as invalid.
fn refuses_streaming_lists(config: &watcher::Config, error: &watcher::Error) -> bool {
    if config.initial_list_strategy != InitialListStrategy::StreamingList {
        return false;
    }
    match error {
        watcher::Error::WatchStartFailed(kube::Error::Api(status)) => {
            matches!(status.code, 400 | 405 | 422)
        }
        watcher::Error::WatchError(status) => matches!(status.code, 400 | 405 | 422),
        _ => false,
    }
}

#[cfg(test)]
#[path = "informer_tests.rs"]
mod tests;
