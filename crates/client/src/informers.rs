//! The process's informers: one per type and scope, shared by everybody who asks.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::Arc;

use kube::Resource;
use kube::runtime::watcher;
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::Informer;

/// Narrows an informer to part of a resource, on the server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Scope {
    /// Field selector such as `spec.nodeName=NAME`, or empty.
    pub fields: String,
    /// Label selector, or empty.
    pub labels: String,
}

impl Scope {
    /// Only objects that match a field selector.
    pub fn fields(selector: impl Into<String>) -> Self {
        Self { fields: selector.into(), labels: String::new() }
    }
}

struct Inner {
    client: kube::Client,
    token: CancellationToken,
    tasks: TaskTracker,
    running: Mutex<HashMap<(TypeId, Scope), Box<dyn Any + Send + Sync>>>,
}

/// Factory and owner of the shared informers. Cloning is cheap and shares everything.
#[derive(Clone)]
pub struct Informers {
    inner: Arc<Inner>,
}

impl Informers {
    /// Informers that read through `client` and stop with `token`.
    pub fn new(client: kube::Client, token: CancellationToken) -> Self {
        Self { inner: Arc::new(Inner { client, token, tasks: TaskTracker::new(), running: Mutex::new(HashMap::new()) }) }
    }

    /// The informer of a whole resource; started at the first request. Must be called inside a Tokio runtime.
    pub fn get<K>(&self) -> Informer<K>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    {
        self.scoped(Scope::default())
    }

    /// The informer of a part of a resource; a different scope is a different watch and cache.
    pub fn scoped<K>(&self, scope: Scope) -> Informer<K>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    {
        let mut running = self.inner.running.lock();
        let key = (TypeId::of::<K>(), scope);
        if let Some(informer) = running.get(&key) {
            let informer: &Informer<K> =
                informer.downcast_ref().expect("the map's key holds the TypeId of the value's type parameter");
            return informer.clone();
        }
        // WatchList (KEP-3157): one streamed request instead of pages; the informer falls back by itself.
        let mut config = watcher::Config::default().streaming_lists();
        if !key.1.fields.is_empty() {
            config = config.fields(&key.1.fields);
        }
        if !key.1.labels.is_empty() {
            config = config.labels(&key.1.labels);
        }
        let (informer, task) = Informer::start(self.inner.client.clone(), config, self.inner.token.child_token());
        self.inner.tasks.spawn(task);
        running.insert(key, Box::new(informer.clone()));
        informer
    }

    /// The client that the informers read through.
    pub fn client(&self) -> &kube::Client {
        &self.inner.client
    }

    /// Waits until every informer's task ended; the token must be cancelled for that to happen.
    pub async fn stopped(&self) {
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
    }
}
