//! endpointslice-mirroring-controller: Endpoints that a user keeps for a Service without a selector, as slices (KEP-752).

mod plan;
mod subsets;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use client::{
    Change, Controller, EventKind, EventRecorder, NamespacedName, Outcome, RateLimiter, ReconcileError, Store, WorkQueue,
    run_workers,
};
use k8s_openapi::api::core::v1::{Endpoints, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, PostParams};
use kube::{Api, ResourceExt};

use self::plan::{MANAGER, Plan, plan};
use crate::api_errors::{ignore_not_found, is_namespace_terminating};
use crate::context::{Context, wait_synced};
use crate::endpointslice::{MANAGED_BY, SERVICE_NAME};
use crate::own_writes::Tracker;

const SLICES_BY_SERVICE: &str = "mirroredSlicesByService";
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";

struct Mirroring {
    context: Context,
    events: EventRecorder,
    endpoints: Store<Endpoints>,
    services: Store<Service>,
    slices: Store<EndpointSlice>,
    tracker: Arc<Tracker>,
}

pub(crate) async fn run(context: Context) {
    let endpoints = context.informers.get::<Endpoints>();
    let services = context.informers.get::<Service>();
    let slices = context.informers.get::<EndpointSlice>();
    slices
        .store()
        .add_index(SLICES_BY_SERVICE, |slice| mirrored_for(slice).map(|service| service.to_string()).into_iter().collect());
    // Upstream's own limits for this queue.
    let limiter = RateLimiter::item(Duration::from_secs(1), Duration::from_secs(100));
    let queue = WorkQueue::with_limiter("endpoint_slice_mirroring", limiter);
    wait_synced!(endpoints, services, slices);
    let on_endpoints = queue.clone();
    endpoints.add_handler(move |change| {
        let before = matches!(change, Change::Updated { old, .. } if is_mirrored(old));
        if before || is_mirrored(change.object()) {
            on_endpoints.add(NamespacedName::of(&**change.object()));
        }
    });
    let on_service = queue.clone();
    services.add_handler(move |change| {
        let relevant = match change {
            Change::Updated { old, new } => has_selector(old) != has_selector(new),
            Change::Added(service) | Change::Deleted(service) => !has_selector(service),
        };
        if relevant {
            on_service.add(NamespacedName::of(&**change.object()));
        }
    });
    let tracker: Arc<Tracker> = Arc::default();
    let (on_slice, to_track) = (queue.clone(), tracker.clone());
    slices.add_handler(move |change| seen_slice(change, &on_slice, &to_track));
    let controller = Mirroring {
        events: context.events("endpoint-slice-mirroring-controller"),
        endpoints: endpoints.store().clone(),
        services: services.store().clone(),
        slices: slices.store().clone(),
        tracker,
        context: context.clone(),
    };
    let workers = context.config.mirroring_concurrent_service_endpoint_syncs;
    run_workers(Arc::new(controller), queue, workers, context.token).await;
}

/// A slice that somebody else deleted need not be waited for.
fn seen_slice(change: &Change<'_, EndpointSlice>, queue: &WorkQueue<NamespacedName>, tracker: &Tracker) {
    if let Change::Updated { old, .. } = change
        && let Some(service) = mirrored_for(old)
    {
        queue.add(service);
    }
    if let Some(service) = mirrored_for(change.object()) {
        if let Change::Deleted(slice) = change {
            tracker.gone(&service, &***slice);
        }
        queue.add(service);
    }
}

/// The Service of a slice that this controller manages.
fn mirrored_for(slice: &EndpointSlice) -> Option<NamespacedName> {
    let labels = slice.labels();
    if labels.get(MANAGED_BY.0).map(String::as_str) != Some(MANAGER) {
        return None;
    }
    Some(NamespacedName::new(slice.namespace()?, labels.get(SERVICE_NAME)?))
}

fn has_selector(service: &Service) -> bool {
    service.spec.as_ref().is_some_and(|spec| spec.selector.is_some())
}

/// Not those that say so, nor those that are only a lock.
fn is_mirrored(endpoints: &Endpoints) -> bool {
    endpoints.labels().get(SKIP).map(String::as_str) != Some("true") && !endpoints.annotations().contains_key(LEADER)
}

#[async_trait]
impl Controller for Mirroring {
    type Key = NamespacedName;

    fn name(&self) -> &'static str {
        "endpointslice-mirroring-controller"
    }

    async fn reconcile(&self, key: &NamespacedName) -> Result<Outcome, ReconcileError> {
        if !self.tracker.caught_up(key, &self.slices) {
            return Ok(Outcome::RequeueAfter(Duration::from_millis(50)));
        }
        let existing = self.slices.by_index(SLICES_BY_SERVICE, &key.to_string());
        let service = self.services.get_key(key);
        let endpoints = self.endpoints.get_key(key).filter(|endpoints| is_mirrored(endpoints));
        let Some(endpoints) = endpoints.filter(|_| service.is_some_and(|service| !has_selector(&service))) else {
            let plan = Plan { delete: existing, ..Plan::default() };
            return self.perform(key, plan).await.map(|()| Outcome::Done);
        };
        let plan = plan(&endpoints, existing, self.context.config.mirroring_max_endpoints_per_subset);
        for (reason, message) in plan.warnings() {
            self.events.record(&*endpoints, EventKind::Warning, reason, message);
        }
        self.perform(key, plan).await.map(|()| Outcome::Done)
    }
}

impl Mirroring {
    async fn perform(&self, key: &NamespacedName, plan: Plan) -> Result<(), ReconcileError> {
        let api: Api<EndpointSlice> = self.context.api(&key.namespace);
        let params = PostParams::default();
        for slice in plan.create {
            match api.create(&params, &slice).await {
                Ok(created) => self.tracker.wrote(key, &created),
                Err(error) if is_namespace_terminating(&error) => return Ok(()),
                Err(error) => return Err(ReconcileError::api("create endpoint slice")(error)),
            }
        }
        for slice in plan.update {
            let updated =
                api.replace(&slice.name_any(), &params, &slice).await.map_err(ReconcileError::api("update endpoint slice"))?;
            self.tracker.wrote(key, &updated);
        }
        for slice in plan.delete {
            let result = api.delete(&slice.name_any(), &DeleteParams::default()).await;
            ignore_not_found(result).map_err(ReconcileError::api("delete endpoint slice"))?;
            self.tracker.deleted(key, &*slice);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Otherwise the service would be left alone until the controller gives up waiting.
    #[tokio::test]
    async fn a_slice_that_goes_right_after_it_was_written_is_not_waited_for() {
        let slice = |version: &str| -> Arc<EndpointSlice> {
            let labels = json!({MANAGED_BY.0: MANAGER, SERVICE_NAME: "s"});
            let metadata = json!({"name": "s-1", "namespace": "n", "labels": labels, "resourceVersion": version});
            let value = json!({"metadata": metadata, "addressType": "IPv4", "endpoints": []});
            Arc::new(serde_json::from_value(value).expect("is a slice"))
        };
        let (tracker, queue) = (Tracker::default(), WorkQueue::new("mirroring-test"));
        let (service, nothing) = (NamespacedName::new("n", "s"), Store::from_objects([]));
        tracker.wrote(&service, &*slice("5"));
        seen_slice(&Change::Deleted(&slice("3")), &queue, &tracker);
        assert!(!tracker.caught_up::<EndpointSlice>(&service, &nothing), "that was the one before");
        seen_slice(&Change::Deleted(&slice("6")), &queue, &tracker);
        assert!(tracker.caught_up::<EndpointSlice>(&service, &nothing));
    }
}
