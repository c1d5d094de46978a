//! What all registries share: the store, the feed, the table, admission.

use std::sync::Arc;
use std::time::{Duration, Instant};

use apimachinery::{Reason, Status, StatusCause, StatusDetails};
use parking_lot::Mutex;
use storage::{Durability, LeaseId, Store, StoreError};
use tokio_util::sync::CancellationToken;

use super::catalog::{Catalog, Stored};
use crate::admission::AdmissionChain;
use crate::cache::{Feed, Snapshot};
use crate::gates::Feature;
use crate::kinds::ServiceAllocator;
use crate::metrics::Metrics;
use crate::server::ServerConfig;

/// How long a read waits for the caches (upstream's `blockTimeout`).
pub(crate) const FRESH_TIMEOUT: Duration = Duration::from_secs(3);
/// Events within so long share a lease, as upstream's lease manager has it, so that a lease is not made for each.
const EVENT_LEASE_REUSE: Duration = Duration::from_secs(60);

/// The heart of the registry.
pub(crate) struct Engine {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) feed: Arc<Feed>,
    pub(crate) catalog: Catalog,
    pub(crate) admission: AdmissionChain,
    pub(super) metrics: Arc<Metrics>,
    event_ttl: Duration,
    event_lease: Mutex<Option<(Instant, LeaseId)>>,
    /// Containers may be privileged.
    pub(super) allow_privileged: bool,
}

impl Engine {
    pub(crate) fn new(
        store: Arc<dyn Store>,
        config: &ServerConfig,
        metrics: Arc<Metrics>,
        admission: AdmissionChain,
        shutdown: CancellationToken,
    ) -> Engine {
        let prefix = config.storage_prefix.as_str();
        let feed = Feed::new(store.clone(), prefix, shutdown);
        let objects = config.gates.has(Feature::MultiCidrServiceAllocator);
        let services = Arc::new(ServiceAllocator::new(store.clone(), prefix, &config.service_cidrs, objects));
        let catalog = Catalog::builtin(config, &feed, &services);
        Engine {
            store,
            feed,
            catalog,
            admission,
            metrics,
            event_ttl: config.event_ttl,
            event_lease: Mutex::default(),
            allow_privileged: config.allow_privileged,
        }
    }

    /// Waits for the store and notes how long it took.
    pub(crate) async fn timed<T>(
        &self,
        operation: &'static str,
        stored: &Stored,
        work: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let begun = Instant::now();
        let result = work.await;
        self.metrics.stored(operation, &stored.resource, begun.elapsed());
        result
    }

    /// Makes a resource's cache ready, and waits until it holds every write acknowledged before the call.
    pub(crate) async fn fresh(&self, stored: &Stored) -> Result<(), Status> {
        self.ready(stored).await?;
        let waited = self.feed.wait_for_now(FRESH_TIMEOUT).await.map_err(store_status)?;
        waited.map_err(|error| Status::timeout(&error.to_string(), 1))
    }

    /// Makes a resource's cache ready.
    pub(crate) async fn ready(&self, stored: &Stored) -> Result<(), Status> {
        stored.cacher.ensure_ready(&*self.store, &self.feed).await.map_err(store_status)
    }

    /// Waits until the caches have reached a revision that a client named.
    pub(crate) async fn wait_for(&self, revision: i64) -> Result<(), Status> {
        let too_large = |current| {
            let message = format!("Too large resource version: {revision}, current: {current}");
            let cause = StatusCause {
                reason: "ResourceVersionTooLarge".to_owned(),
                message: "Too large resource version".to_owned(),
                ..StatusCause::default()
            };
            let details = StatusDetails { retry_after_seconds: 1, causes: vec![cause], ..StatusDetails::default() };
            Status::new(Reason::Timeout, format!("Timeout: {message}")).with_details(details)
        };
        match self.feed.wait_for(revision, FRESH_TIMEOUT).await {
            Ok(()) => Ok(()),
            Err(error) => Err(too_large(error.current)),
        }
    }

    /// The state of a resource now.
    pub(crate) fn snapshot(&self, stored: &Stored) -> Snapshot {
        // Read before the entries: what the feed has announced is in all caches.
        let announced = self.feed.revision();
        stored.cacher.snapshot(announced)
    }

    /// The lease that new objects of a resource get: events are forgotten after an hour.
    pub(crate) async fn lease_for(&self, stored: &Stored) -> Result<LeaseId, Status> {
        if !is(stored, "", "events") {
            return Ok(LeaseId::default());
        }
        let recent = *self.event_lease.lock();
        if let Some((made, lease)) = recent.filter(|(made, _)| made.elapsed() < EVENT_LEASE_REUSE) {
            let _ = made;
            return Ok(lease);
        }
        let lease = self.store.lease_grant(self.event_ttl + EVENT_LEASE_REUSE).await.map_err(store_status)?;
        *self.event_lease.lock() = Some((Instant::now(), lease));
        Ok(lease)
    }
}

fn is(stored: &Stored, group: &str, resource: &str) -> bool {
    stored.resource.group == group && stored.resource.resource == resource
}

/// Heartbeats and events may be lost at power loss; they are what an idle node writes all the time.
pub(crate) fn durability(stored: &Stored) -> Durability {
    match is(stored, "coordination.k8s.io", "leases") || is(stored, "", "events") {
        true => Durability::Relaxed,
        false => Durability::Full,
    }
}

/// A store's failure as clients see it.
pub(crate) fn store_status(error: StoreError) -> Status {
    match &error {
        StoreError::Compacted { .. } => Status::expired("The resourceVersion for the provided list is too old."),
        StoreError::Closed => Status::service_unavailable("the server is shutting down"),
        StoreError::NoSpace { .. } => Status::service_unavailable(error.to_string()),
        _ => {
            tracing::error!(error = &error as &dyn std::error::Error, "the store failed");
            Status::internal_error(&error)
        }
    }
}
