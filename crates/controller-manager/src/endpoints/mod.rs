//! endpoints-controller: the addresses behind a service in one Endpoints object, the API before EndpointSlices.

mod plan;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use client::{
    Change, Controller, EventKind, EventRecorder, NamespacedName, Outcome, RateLimiter, ReconcileError, Store, WorkQueue,
    run_workers,
};
use k8s_openapi::api::core::v1::{Endpoints, Pod, Service};
use kube::api::{DeleteParams, PostParams};
use kube::{Api, ResourceExt};

use self::plan::plan;
use crate::api_errors::{self, ignore_not_found, is_already_exists, is_conflict, is_namespace_terminating};
use crate::context::{Context, wait_synced};
use crate::selected::Selected;
use crate::service_pods::{managed_spec, watch};

const LEADER_RECORD: &str = "control-plane.alpha.kubernetes.io/leader";

struct EndpointsController {
    context: Context,
    events: EventRecorder,
    services: Store<Service>,
    selected: Selected<Service>,
    endpoints: Store<Endpoints>,
}

pub(crate) async fn run(context: Context) {
    let services = context.informers.get::<Service>();
    let pods = context.informers.get::<Pod>();
    let endpoints = context.informers.get::<Endpoints>();
    let limiter = RateLimiter::item(Duration::from_secs(1), Duration::from_secs(1000));
    let queue = WorkQueue::with_limiter("endpoint", limiter);
    wait_synced!(services);
    let selected = context.selected_services();
    watch(&services, &pods, &selected, &queue);
    wait_synced!(pods, endpoints);
    queue_leftovers(endpoints.store(), services.store(), &queue);
    let on_endpoints = queue.clone();
    // What appears without a Service is its creator's own business.
    endpoints.add_handler(move |change| {
        if matches!(change, Change::Deleted(_)) {
            on_endpoints.add(NamespacedName::of(&**change.object()));
        }
    });
    let controller = EndpointsController {
        events: context.events("endpoint-controller"),
        services: services.store().clone(),
        selected,
        endpoints: endpoints.store().clone(),
        context: context.clone(),
    };
    let workers = context.config.concurrent_endpoint_syncs;
    run_workers(Arc::new(controller), queue, workers, context.token).await;
}

/// Queues what is left over, at the start, from Services that were deleted while nobody watched.
fn queue_leftovers(endpoints: &Store<Endpoints>, services: &Store<Service>, queue: &WorkQueue<NamespacedName>) {
    for left in endpoints.list() {
        let key = NamespacedName::of(&*left);
        if services.get_key(&key).is_none() && !left.annotations().contains_key(LEADER_RECORD) {
            queue.add(key);
        }
    }
}

/// One look of the controller, for model tests.
#[cfg(test)]
pub(crate) async fn reconcile_once(
    (context, events): (Context, EventRecorder),
    (services, endpoints): (Store<Service>, Store<Endpoints>),
    selected: Selected<Service>,
    key: &NamespacedName,
) -> Result<Outcome, ReconcileError> {
    EndpointsController { context, events, services, selected, endpoints }.reconcile(key).await
}

#[async_trait]
impl Controller for EndpointsController {
    type Key = NamespacedName;

    fn name(&self) -> &'static str {
        "endpoints-controller"
    }

    async fn reconcile(&self, key: &NamespacedName) -> Result<Outcome, ReconcileError> {
        let api: Api<Endpoints> = self.context.api(&key.namespace);
        let Some(service) = self.services.get_key(key) else {
            if self.endpoints.get_key(key).is_some() {
                let result = api.delete(&key.name, &DeleteParams::default()).await;
                ignore_not_found(result).map_err(ReconcileError::api("delete endpoints"))?;
            }
            return Ok(Outcome::Done);
        };
        if managed_spec(&service).is_none() {
            return Ok(Outcome::Done);
        }
        let pods = self.selected.pods_of(&service);
        let current = self.endpoints.get_key(key);
        let Some(wanted) = plan(&service, &pods, current.as_deref()) else {
            return Ok(Outcome::Done);
        };
        let params = PostParams::default();
        let (result, reason, verb) = match current {
            None => (api.create(&params, &wanted).await, "FailedToCreateEndpoint", "create"),
            Some(_) => (api.replace(&key.name, &params, &wanted).await, "FailedToUpdateEndpoint", "update"),
        };
        match result {
            Ok(_) => Ok(Outcome::Done),
            Err(error) if is_namespace_terminating(&error) => Ok(Outcome::Done),
            // The cache lags behind an own write.
            Err(error) if is_conflict(&error) || is_already_exists(&error) => {
                Ok(Outcome::RequeueAfter(Duration::from_millis(50)))
            }
            Err(error) => {
                let message = format!("Failed to {verb} endpoint for service {key}: {}", api_errors::message(&error));
                self.events.record(&*service, EventKind::Warning, reason, message);
                Err(ReconcileError::api("write endpoints")(error))
            }
        }
    }
}
