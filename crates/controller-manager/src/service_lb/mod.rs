//! service-lb-controller: load balancers of Services of type LoadBalancer without a class, through a seam ([`balancer::Balancer`]) behind
//! which are, for machines without a cloud, the nodes' own ports, or addresses of a pool that the nodes announce.
//!
//! Which of two Services gets a port or an address: the one that has it, then the older one. Upstream's finalizer is not set, because
//! nothing outside the cluster is to be cleaned up. Absent: clouds.

mod balancer;
mod pool;

use std::sync::Arc;

use async_trait::async_trait;
use client::load_balancing::{endpoint_nodes, may_carry};
use client::{
    Change, Controller, EventKind, EventRecorder, Informer, NamespacedName, Outcome, ReconcileError, Store, WorkQueue,
    run_workers,
};
use k8s_openapi::api::core::v1::{LoadBalancerIngress, Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;

use self::balancer::{Balancer, HostPorts, Ports, Wish, ports};
use self::pool::AddressPool;
use crate::api_errors::ignore_not_found;
use crate::config::ServiceLoadBalancers;
use crate::context::{Context, wait_synced};
use crate::endpointslice::SERVICE_NAME;

const NAME: &str = "service-lb-controller";
const BY_TYPE: &str = "loadBalancers";
const SLICES: &str = "slicesByService";

struct LoadBalancers {
    context: Context,
    events: EventRecorder,
    services: Store<Service>,
    nodes: Store<Node>,
    slices: Store<EndpointSlice>,
    balancer: Box<dyn Balancer>,
}

/// Whether a Service is this controller's.
fn wants(service: &Service) -> bool {
    let spec = service.spec.as_ref();
    spec.is_some_and(|spec| spec.type_.as_deref() == Some("LoadBalancer") && spec.load_balancer_class.is_none())
        && service.metadata.deletion_timestamp.is_none()
}

fn ingress(service: &Service) -> &[LoadBalancerIngress] {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    status.and_then(|status| status.ingress.as_deref()).unwrap_or_default()
}

fn has_class(service: &Service) -> bool {
    service.spec.as_ref().is_some_and(|spec| spec.load_balancer_class.is_some())
}

pub(crate) async fn run(context: Context) {
    let balancer: Box<dyn Balancer> = match &context.config.service_load_balancers {
        ServiceLoadBalancers::Elsewhere => {
            if context.config.controllers.iter().any(|name| name == NAME) {
                tracing::warn!(controller = NAME, "load balancers are not switched on: nothing is done");
            }
            return;
        }
        ServiceLoadBalancers::NodePorts => Box::new(HostPorts),
        ServiceLoadBalancers::Pool(ranges) => Box::new(AddressPool::new(ranges.clone())),
    };
    let services = context.informers.get::<Service>();
    let nodes = context.informers.get::<Node>();
    let slices = context.informers.get::<EndpointSlice>();
    services.store().add_index(BY_TYPE, |service| if wants(service) { vec![String::new()] } else { Vec::new() });
    slices.store().add_index(SLICES, |slice| {
        let name = slice.labels().get(SERVICE_NAME);
        name.map(|name| format!("{}/{name}", slice.namespace().unwrap_or_default())).into_iter().collect()
    });
    wait_synced!(services, nodes, slices);
    let queue: WorkQueue<NamespacedName> = WorkQueue::new("service");
    watch_services(&services, &queue);
    watch_nodes(&nodes, services.store(), &queue);
    watch_slices(&slices, services.store(), &queue);
    let controller = LoadBalancers {
        events: context.events("service-controller"),
        services: services.store().clone(),
        nodes: nodes.store().clone(),
        slices: slices.store().clone(),
        balancer,
        context: context.clone(),
    };
    // One worker: Services compete for ports and addresses.
    run_workers(Arc::new(controller), queue, 1, context.token).await;
}

/// All load balancers: they compete, and there are few.
fn wake_all(services: &Store<Service>, queue: &WorkQueue<NamespacedName>) {
    services.by_index(BY_TYPE, "").iter().for_each(|service| queue.add(NamespacedName::of(&**service)));
}

fn watch_services(services: &Informer<Service>, queue: &WorkQueue<NamespacedName>) {
    let (known, queue) = (services.store().clone(), queue.clone());
    services.add_handler(move |change| {
        let before = match change {
            Change::Updated { old, .. } => wants(old),
            Change::Deleted(old) => wants(old),
            Change::Added(_) => false,
        };
        let now = change.object();
        if before || wants(now) || !ingress(now).is_empty() && !has_class(now) {
            queue.add(NamespacedName::of(&**now));
        }
        // Ports or addresses may have become free.
        let freed = match change {
            Change::Updated { old, new } => {
                before && (!wants(new) || !ports(old).eq(ports(new)) || !same(ingress(old), ingress(new)))
            }
            change => matches!(change, Change::Deleted(_)) && before,
        };
        if freed {
            wake_all(&known, &queue);
        }
    });
}

fn watch_nodes(nodes: &Informer<Node>, services: &Store<Service>, queue: &WorkQueue<NamespacedName>) {
    let (services, queue) = (services.clone(), queue.clone());
    let essence = |node: &Node| (may_carry(node), node.status.as_ref().and_then(|status| status.addresses.clone()));
    nodes.add_handler(move |change| match change {
        Change::Updated { old, new } if essence(old) == essence(new) => {}
        _ => wake_all(&services, &queue),
    });
}

/// Endpoints matter to Services whose traffic stays on the node.
fn watch_slices(slices: &Informer<EndpointSlice>, services: &Store<Service>, queue: &WorkQueue<NamespacedName>) {
    let (services, queue) = (services.clone(), queue.clone());
    slices.add_handler(move |change| {
        let slice = change.object();
        let Some(name) = slice.labels().get(SERVICE_NAME) else { return };
        let key = NamespacedName::new(slice.namespace().unwrap_or_default(), name);
        let local =
            |service: &Service| service.spec.as_ref().and_then(|spec| spec.external_traffic_policy.as_deref()) == Some("Local");
        if services.get_key(&key).is_some_and(|service| wants(&service) && local(&service)) {
            queue.add(key);
        }
    });
}

#[async_trait]
impl Controller for LoadBalancers {
    type Key = NamespacedName;

    fn name(&self) -> &'static str {
        NAME
    }

    async fn reconcile(&self, key: &NamespacedName) -> Result<Outcome, ReconcileError> {
        let Some(service) = self.services.get_key(key) else { return Ok(Outcome::Done) };
        if !wants(&service) {
            if !ingress(&service).is_empty() && !has_class(&service) && service.metadata.deletion_timestamp.is_none() {
                self.write(&service, Vec::new()).await?;
                self.events.record(&*service, EventKind::Normal, "DeletedLoadBalancer", "Deleted load balancer");
            }
            return Ok(Outcome::Done);
        }
        let nodes: Vec<Arc<Node>> = self.nodes.list().into_iter().filter(|node| may_carry(node)).collect();
        let endpoint_nodes = endpoint_nodes(&self.slices.by_index(SLICES, &key.to_string()));
        let (services, fixed) = (self.services.by_index(BY_TYPE, ""), self.fixed());
        let wish = Wish { service: &service, services: &services, nodes: &nodes, endpoint_nodes: &endpoint_nodes, fixed: &fixed };
        match self.balancer.ensure(&wish) {
            Ok(addresses) => {
                if same(ingress(&service), &addresses) {
                    return Ok(Outcome::Done);
                }
                if nodes.is_empty() {
                    let message = "There are no available nodes for LoadBalancer";
                    self.events.record(&*service, EventKind::Warning, "UnAvailableLoadBalancer", message);
                }
                let new = ingress(&service).is_empty();
                self.write(&service, addresses).await?;
                let (reason, message) = match new {
                    true => ("EnsuredLoadBalancer", "Ensured load balancer"),
                    false => ("UpdatedLoadBalancer", "Updated load balancer with new hosts"),
                };
                self.events.record(&*service, EventKind::Normal, reason, message);
            }
            // A change will wake it: the port that is free, the Service that goes.
            Err(error) => {
                let message = format!("Error syncing load balancer: failed to ensure load balancer: {error}");
                self.events.record(&*service, EventKind::Warning, "SyncLoadBalancerFailed", message);
                if !ingress(&service).is_empty() {
                    self.write(&service, Vec::new()).await?;
                }
            }
        }
        Ok(Outcome::Done)
    }
}

/// The API server completes the mode.
fn same(left: &[LoadBalancerIngress], right: &[LoadBalancerIngress]) -> bool {
    left.iter().map(|ingress| &ingress.ip).eq(right.iter().map(|ingress| &ingress.ip))
}

impl LoadBalancers {
    /// Ports that no Service can have: those of kubelets, of the API server, and that of SSH, by which somebody may have to come to the
    /// node.
    fn fixed(&self) -> Ports {
        let mut fixed = Ports::from([(("TCP".to_owned(), 22), "reserved for the node's SSH server".to_owned())]);
        for slice in self.slices.by_index(SLICES, "default/kubernetes") {
            for port in slice.ports.iter().flatten().filter_map(|port| port.port) {
                fixed.insert(("TCP".to_owned(), port), "taken by the API server".to_owned());
            }
        }
        self.nodes.for_each(|node| {
            let endpoints = node.status.as_ref().and_then(|status| status.daemon_endpoints.as_ref());
            if let Some(kubelet) = endpoints.and_then(|endpoints| endpoints.kubelet_endpoint.as_ref()) {
                fixed.insert(("TCP".to_owned(), kubelet.port), "taken by the kubelet".to_owned());
            }
        });
        fixed
    }

    async fn write(&self, service: &Service, addresses: Vec<LoadBalancerIngress>) -> Result<(), ReconcileError> {
        let list = if addresses.is_empty() { serde_json::Value::Null } else { json!(addresses) };
        let metadata = json!({"uid": service.uid(), "resourceVersion": service.resource_version()});
        let patch = Patch::Merge(json!({"metadata": metadata, "status": {"loadBalancer": {"ingress": list}}}));
        let api: Api<Service> = self.context.api(&service.namespace().unwrap_or_default());
        let written = api.patch_status(&service.name_any(), &PatchParams::default(), &patch).await;
        ignore_not_found(written).map_err(ReconcileError::api("update load balancer status"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whose_services_these_are() {
        for (spec, expected) in [
            (json!({"type": "LoadBalancer"}), true),
            (json!({"type": "LoadBalancer", "loadBalancerClass": "example.com/x"}), false),
            (json!({"type": "NodePort"}), false),
        ] {
            let service: Service = serde_json::from_value(json!({"metadata": {"name": "s"}, "spec": spec})).expect("is one");
            assert_eq!(wants(&service), expected, "{spec}");
        }
    }
}
