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
use crate::service_pods::{managed_spec, selected_pods, watch};

const LEADER_RECORD: &str = "control-plane.alpha.kubernetes.io/leader";

struct EndpointsController {
    context: Context,
    events: EventRecorder,
    services: Store<Service>,
    pods: Store<Pod>,
    endpoints: Store<Endpoints>,
}

pub(crate) async fn run(context: Context) {
    let services = context.informers.get::<Service>();
    let pods = context.informers.get::<Pod>();
    let endpoints = context.informers.get::<Endpoints>();
    let limiter = RateLimiter::item(Duration::from_secs(1), Duration::from_secs(1000));
    let queue = WorkQueue::with_limiter("endpoint", limiter);
    wait_synced!(services);
    watch(&services, &pods, &queue);
    wait_synced!(pods, endpoints);
    let on_endpoints = queue.clone();
    let known = services.store().clone();
    endpoints.add_handler(move |change| {
        let key = NamespacedName::of(&**change.object());
        match change {
            // Left over from a service that was deleted while nobody watched.
            Change::Added(endpoints) => {
                if known.get_key(&key).is_none() && !endpoints.annotations().contains_key(LEADER_RECORD) {
                    on_endpoints.add(key);
                }
            }
            Change::Deleted(_) => on_endpoints.add(key),
            Change::Updated { .. } => {}
        }
    });
    let controller = EndpointsController {
        events: context.events("endpoint-controller"),
        services: services.store().clone(),
        pods: pods.store().clone(),
        endpoints: endpoints.store().clone(),
        context: context.clone(),
    };
    let workers = context.config.concurrent_endpoint_syncs;
    run_workers(Arc::new(controller), queue, workers, context.token).await;
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
        let pods = selected_pods(&service, &self.pods);
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
