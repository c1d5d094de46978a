//! Watches the kinds that quotas name, from the first quota that names them on.
//!
//! Upstream watches every kind of the server from its start. Here a cluster without quotas pays nothing, and of kinds that are only
//! counted, the metadata is all that is fetched.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use apimachinery::quota::Evaluator;
use apimachinery::{GroupResource, Value};
use client::{Change, Informer, MetadataObject, NamespacedName, ReconcileError, Store, WorkQueue};
use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, ResourceQuota, Service};
use k8s_openapi::api::resource::v1::ResourceClaim;
use kube::runtime::watcher;
use kube::{Resource, ResourceExt};
use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_util::task::TaskTracker;

use super::tallies::Tallies;
use crate::context::{Context, now};
use crate::discovery::resources;

/// How long a new watch may take before the quota is tried again later.
const FIRST_LIST_MAX: Duration = Duration::from_secs(30);

type Number = Arc<dyn Fn(&str) -> usize + Send + Sync>;
type Synced = Arc<dyn Fn() -> BoxFuture<'static, bool> + Send + Sync>;

/// What there is of a kind in a namespace.
#[derive(Clone)]
pub(super) enum Count {
    /// What they use.
    Used(Tallies),
    /// Their number is enough.
    Number(Number),
    /// The server has no such kind.
    Unknown,
}

#[derive(Clone)]
struct Monitor {
    count: Count,
    synced: Synced,
}

/// All watches.
pub(super) struct Monitors {
    context: Context,
    replenish: Replenish,
    running: Mutex<HashMap<GroupResource, Monitor>>,
    tasks: TaskTracker,
}

/// Queues the quotas of a namespace that limit a kind.
#[derive(Clone)]
struct Replenish {
    quotas: Store<ResourceQuota>,
    queue: WorkQueue<NamespacedName>,
}

impl Replenish {
    fn limiting(&self, evaluator: &Evaluator, namespace: &str) -> Vec<NamespacedName> {
        let limits = |quota: &ResourceQuota| {
            let hard = quota.status.as_ref().and_then(|status| status.hard.as_ref());
            hard.is_some_and(|hard| hard.keys().any(|name| evaluator.measures(name)))
        };
        let quotas = self.quotas.list_namespace(namespace);
        quotas.iter().filter(|quota| limits(quota)).map(|quota| NamespacedName::of(&**quota)).collect()
    }

    fn changed<K: ResourceExt + Serialize>(&self, evaluator: &Evaluator, change: &Change<'_, K>) {
        let object = change.object();
        let quotas = match change {
            // Charged by admission.
            Change::Added(_) => return,
            Change::Updated { .. } | Change::Deleted(_) => self.limiting(evaluator, &object.namespace().unwrap_or_default()),
        };
        if quotas.is_empty() {
            return;
        }
        let freed = match change {
            Change::Updated { old, new } if old.uid() == new.uid() => match (tree(&***old), tree(&***new)) {
                (Some(old), Some(new)) => evaluator.recounts_after(&new, &old, now()),
                _ => true,
            },
            _ => true,
        };
        if freed {
            quotas.into_iter().for_each(|quota| self.queue.add(quota));
        }
    }
}

/// Notes what an object of a namespace with quotas uses.
pub(super) fn tally<K: ResourceExt + Serialize>(tallies: &Tallies, change: &Change<'_, K>) {
    let object = change.object();
    let namespace = object.namespace().unwrap_or_default();
    if !tallies.watches(&namespace) {
        return;
    }
    let tree = if matches!(change, Change::Deleted(_)) { None } else { tree(&**object) };
    tallies.changed(&namespace, &object.name_any(), tree.as_ref(), now());
}

pub(super) fn tree<K: Serialize>(object: &K) -> Option<Value> {
    Value::from_typed(object).ok()
}

fn synced<K: ResourceExt + Send + Sync + 'static>(informer: &Informer<K>) -> Synced {
    let informer = informer.clone();
    Arc::new(move || {
        let informer = informer.clone();
        async move { informer.wait_synced().await.is_ok() }.boxed()
    })
}

impl Monitors {
    pub(super) fn new(context: &Context, quotas: Store<ResourceQuota>, queue: WorkQueue<NamespacedName>) -> Self {
        let replenish = Replenish { quotas, queue };
        Self { context: context.clone(), replenish, running: Mutex::default(), tasks: TaskTracker::new() }
    }

    /// With kinds that somebody else follows, for model tests.
    #[cfg(test)]
    pub(super) fn following(
        context: &Context,
        quotas: Store<ResourceQuota>,
        kinds: impl IntoIterator<Item = (GroupResource, Tallies)>,
    ) -> Self {
        let monitors = Self::new(context, quotas, WorkQueue::new("model"));
        let synced: Synced = Arc::new(|| async { true }.boxed());
        let monitor = |tallies| Monitor { count: Count::Used(tallies), synced: Arc::clone(&synced) };
        monitors.running.lock().extend(kinds.into_iter().map(|(resource, tallies)| (resource, monitor(tallies))));
        monitors
    }

    /// How to count a kind; starts to watch it at the first call.
    pub(super) async fn count(&self, resource: &GroupResource, evaluator: &Evaluator) -> Result<Count, ReconcileError> {
        let running = self.running.lock().get(resource).cloned();
        let monitor = match running {
            Some(monitor) => monitor,
            None => match self.start(resource, evaluator).await? {
                Some(monitor) => self.running.lock().entry(resource.clone()).or_insert(monitor).clone(),
                None => return Ok(Count::Unknown),
            },
        };
        match tokio::time::timeout(FIRST_LIST_MAX, (monitor.synced)()).await {
            Ok(true) => Ok(monitor.count),
            _ => Err(ReconcileError::Invalid(format!("{resource} is not listed yet"))),
        }
    }

    async fn start(&self, resource: &GroupResource, evaluator: &Evaluator) -> Result<Option<Monitor>, ReconcileError> {
        match evaluator {
            Evaluator::Pods => Ok(Some(self.shared::<Pod>(evaluator))),
            Evaluator::Services => Ok(Some(self.shared::<Service>(evaluator))),
            Evaluator::Claims => Ok(Some(self.shared::<PersistentVolumeClaim>(evaluator))),
            Evaluator::ResourceClaims => Ok(Some(self.shared::<ResourceClaim>(evaluator))),
            Evaluator::Count(_) => self.metadata(resource, evaluator).await,
        }
    }

    fn shared<K>(&self, evaluator: &Evaluator) -> Monitor
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Serialize + Debug + Send + Sync + 'static,
    {
        let informer = self.context.informers.get::<K>();
        let store = informer.store().clone();
        let named = |object: &Arc<K>| Some((object.name_any(), tree(&**object)?));
        let list = Arc::new(move |namespace: &str| store.list_namespace(namespace).iter().filter_map(named).collect());
        let tallies = Tallies::new(evaluator.clone(), list, self.context.config.resource_quota_sync_period);
        let (replenish, of, on_change) = (self.replenish.clone(), evaluator.clone(), tallies.clone());
        informer.add_handler(move |change| {
            // First, so that who is woken finds it.
            tally(&on_change, change);
            replenish.changed(&of, change);
        });
        Monitor { count: Count::Used(tallies), synced: synced(&informer) }
    }

    async fn metadata(&self, resource: &GroupResource, evaluator: &Evaluator) -> Result<Option<Monitor>, ReconcileError> {
        let known = resources(&self.context.client).await?;
        let found = known.into_iter().find(|found| {
            let same = found.api.group == resource.group && found.api.plural == resource.resource;
            same && found.preferred && found.namespaced && found.is_collectable() && found.supports("create")
        });
        let Some(found) = found else { return Ok(None) };
        let client = self.context.client.clone();
        let config = watcher::Config::default();
        let (informer, task) = Informer::start_metadata(client, &found.api, config, self.context.token.child_token());
        self.tasks.spawn(task);
        let (replenish, of) = (self.replenish.clone(), evaluator.clone());
        informer.add_handler(move |change: &Change<'_, MetadataObject>| replenish.changed(&of, change));
        let store = informer.store().clone();
        let number: Number = Arc::new(move |namespace| store.list_namespace(namespace).len());
        Ok(Some(Monitor { count: Count::Number(number), synced: synced(&informer) }))
    }
}
