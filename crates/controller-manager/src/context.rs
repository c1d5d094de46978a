//! What every controller is given at its start.

use std::fmt::Debug;
use std::sync::{Arc, OnceLock};

use client::{EventRecorder, Informer, Informers, NamespacedName, WorkQueue};
use jiff::Timestamp;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use crate::Config;
use crate::selected::Selected;

/// Cheap to clone.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) client: kube::Client,
    pub(crate) informers: Informers,
    pub(crate) config: Arc<Config>,
    pub(crate) token: CancellationToken,
    events: EventRecorder,
    /// What Services select; made for the first controller that asks.
    selected_services: Arc<OnceLock<Selected<Service>>>,
}

impl Context {
    pub(crate) fn new(
        client: kube::Client,
        informers: Informers,
        config: Config,
        events: EventRecorder,
        token: CancellationToken,
    ) -> Self {
        Self { client, informers, config: Arc::new(config), token, events, selected_services: Arc::default() }
    }

    /// The same for a controller with a client, and so an identity, of its own.
    pub(crate) fn with_client(&self, client: kube::Client) -> Self {
        Self { client, ..self.clone() }
    }

    /// The pods of Services, shared by the controllers that look at them.
    pub(crate) fn selected_services(&self) -> Selected<Service> {
        let make = || Selected::follow(&self.informers.get::<Service>(), &self.informers.get::<Pod>());
        self.selected_services.get_or_init(make).clone()
    }

    /// Events in the name of one controller.
    pub(crate) fn events(&self, component: &str) -> EventRecorder {
        self.events.for_component(component)
    }

    /// An API of one namespace.
    pub(crate) fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }
}

/// The wall clock. Plans take the time as an argument; only `reconcile` calls this.
pub(crate) fn now() -> Timestamp {
    Timestamp::now()
}

/// Queues the key of every object that is added, changed or deleted.
pub(crate) fn enqueue_all<K>(informer: &Informer<K>, queue: &WorkQueue<NamespacedName>)
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    let queue = queue.clone();
    informer.add_handler(move |change| queue.add(NamespacedName::of(&**change.object())));
}

/// Waits for informers; returns from the enclosing controller when they are stopped first.
macro_rules! wait_synced {
    ($($informer:expr),+ $(,)?) => {
        $(if $informer.wait_synced().await.is_err() { return; })+
    };
}
pub(crate) use wait_synced;
