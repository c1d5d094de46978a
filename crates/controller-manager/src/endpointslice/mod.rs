//! endpointslice-controller: the addresses behind a service, in slices (KEP-752).

#[cfg(test)]
mod model_tests;
mod plan;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use client::{
    Change, Controller, EventKind, EventRecorder, NamespacedName, Outcome, RateLimiter, ReconcileError, Store, WorkQueue,
    run_workers,
};
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, PostParams};
use kube::{Api, ResourceExt};

pub(crate) use self::plan::{Identity, MANAGED_BY, PortKey, SERVICE_NAME, identity, port_key, same_beyond_identity};
use self::plan::{Plan, plan};
use crate::api_errors::{self, ignore_not_found, is_namespace_terminating};
use crate::context::{Context, wait_synced};
use crate::own_writes::Tracker;
use crate::selected::Selected;
use crate::service_pods::{managed_spec, watch};

const SLICES_BY_SERVICE: &str = "managedSlicesByService";
const ZONE: &str = "topology.kubernetes.io/zone";

struct EndpointSlices {
    context: Context,
    events: EventRecorder,
    services: Store<Service>,
    selected: Selected<Service>,
    nodes: Store<Node>,
    slices: Store<EndpointSlice>,
    tracker: Arc<Tracker>,
}

pub(crate) async fn run(context: Context) {
    let services = context.informers.get::<Service>();
    let pods = context.informers.get::<Pod>();
    let nodes = context.informers.get::<Node>();
    let slices = context.informers.get::<EndpointSlice>();
    index(slices.store());
    // Upstream's own limits for this queue: a failing sync waits a second at first.
    let limiter = RateLimiter::item(Duration::from_secs(1), Duration::from_secs(1000));
    let queue = WorkQueue::with_limiter("endpoint_slice", limiter);
    wait_synced!(services, nodes);
    let selected = context.selected_services();
    watch(&services, &pods, &selected, &queue);
    wait_synced!(pods, slices);
    let tracker: Arc<Tracker> = Arc::default();
    let (on_slice, to_track) = (queue.clone(), tracker.clone());
    slices.add_handler(move |change| {
        note_gone(change, &to_track);
        if let Change::Updated { old, .. } = change
            && let Some(service) = managed_for(old)
        {
            on_slice.add(service);
        }
        if let Some(service) = managed_for(change.object()) {
            on_slice.add(service);
        }
    });
    let controller = EndpointSlices {
        events: context.events("endpoint-slice-controller"),
        services: services.store().clone(),
        selected,
        nodes: nodes.store().clone(),
        slices: slices.store().clone(),
        tracker,
        context: context.clone(),
    };
    let workers = context.config.concurrent_service_endpoint_syncs;
    run_workers(Arc::new(controller), queue, workers, context.token).await;
}

fn index(slices: &Store<EndpointSlice>) {
    slices.add_index(SLICES_BY_SERVICE, |slice| managed_for(slice).map(|service| service.to_string()).into_iter().collect());
}

/// A slice that somebody else deleted need not be waited for.
fn note_gone(change: &Change<'_, EndpointSlice>, tracker: &Tracker) {
    if let Change::Deleted(slice) = change
        && let Some(service) = managed_for(slice)
    {
        tracker.gone(&service, &***slice);
    }
}

/// The service of a slice that this controller manages.
fn managed_for(slice: &EndpointSlice) -> Option<NamespacedName> {
    let labels = slice.labels();
    if labels.get(MANAGED_BY.0).map(String::as_str) != Some(MANAGED_BY.1) {
        return None;
    }
    Some(NamespacedName::new(slice.namespace()?, labels.get(SERVICE_NAME)?))
}

#[async_trait]
impl Controller for EndpointSlices {
    type Key = NamespacedName;

    fn name(&self) -> &'static str {
        "endpointslice-controller"
    }

    async fn reconcile(&self, key: &NamespacedName) -> Result<Outcome, ReconcileError> {
        let Some(service) = self.services.get_key(key) else {
            // Its slices have it as their owner: the garbage collector takes them.
            self.tracker.forget(key);
            return Ok(Outcome::Done);
        };
        if managed_spec(&service).is_none() {
            return Ok(Outcome::Done);
        }
        if !self.tracker.caught_up(key, &self.slices) {
            return Ok(Outcome::RequeueAfter(Duration::from_millis(50)));
        }
        let pods = self.selected.pods_of(&service);
        let mut existing = self.slices.by_index(SLICES_BY_SERVICE, &key.to_string());
        existing.retain(|slice| slice.metadata.deletion_timestamp.is_none());
        let max = self.context.config.max_endpoints_per_slice;
        let plan = plan(&service, &pods, existing, max, |name| match self.nodes.get("", name) {
            None => plan::Node::Unknown,
            Some(node) => plan::Node::Known { zone: node.labels().get(ZONE).cloned() },
        });
        let missing_nodes = plan.missing_nodes;
        if let Err(error) = self.perform(key, plan).await {
            if !error.is_conflict() {
                let message = format!("Error updating Endpoint Slices for Service {key}: {}", describe(&error));
                self.events.record(&*service, EventKind::Warning, "FailedToUpdateEndpointSlices", message);
            }
            return Err(error);
        }
        Ok(if missing_nodes { Outcome::Retry } else { Outcome::Done })
    }
}

impl EndpointSlices {
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

fn describe(error: &ReconcileError) -> String {
    match error {
        ReconcileError::Api { source, .. } => api_errors::message(source),
        other => other.to_string(),
    }
}
