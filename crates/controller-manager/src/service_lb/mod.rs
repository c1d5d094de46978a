//! service-lb-controller: load balancers of Services of type LoadBalancer without a class, through a seam ([`balancer::Balancer`]) behind
//! which is, for machines without a cloud, the nodes' own ports.
//!
//! Which of two Services gets a port: the one that has it, then the older one. Upstream's finalizer is not set, because nothing outside
//! the cluster is to be cleaned up. Absent: address pools with announcements, clouds.

mod balancer;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use client::{
    Change, Controller, EventKind, EventRecorder, Informer, NamespacedName, Outcome, ReconcileError, Store, WorkQueue,
    run_workers,
};
use k8s_openapi::api::core::v1::{LoadBalancerIngress, Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;

use self::balancer::{Balancer, HostPorts, Wish, may_carry, ports};
use crate::api_errors::ignore_not_found;
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
    if !context.config.service_lb {
        if context.config.controllers.iter().any(|name| name == NAME) {
            tracing::warn!(controller = NAME, "load balancers on the nodes' own ports are not switched on: nothing is done");
        }
        return;
    }
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
        balancer: Box::new(HostPorts),
        context: context.clone(),
    };
    // One worker: Services compete for ports.
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
        // Ports may have become free.
        let freed = match change {
            Change::Updated { old, new } => before && (!wants(new) || !ports(old).eq(ports(new))),
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

/// Whether another Service goes before this one.
fn goes_before(other: &Service, this: &Service) -> bool {
    let rank = |service: &Service| {
        let created = service.metadata.creation_timestamp.as_ref().map(|time| time.0);
        (ingress(service).is_empty(), created, service.uid())
    };
    rank(other) < rank(this)
}

/// Why which port cannot be had, by protocol and number: by whom it is taken, or for whom reserved.
type Taken = BTreeMap<(String, i32), String>;

/// Ports that a Service cannot have: the fixed ones, and those of Services before it. One that wants a fixed port never gets any, and so
/// keeps none from others.
fn taken(fixed: Taken, services: &[Arc<Service>], service: &Service) -> Taken {
    let hopeless = |other: &Service| ingress(other).is_empty() && ports(other).any(|key| fixed.contains_key(&key));
    let mut taken = Taken::new();
    for other in services.iter().filter(|other| other.uid() != service.uid() && goes_before(other, service)) {
        if !hopeless(other) {
            let why = format!("taken by service {}", NamespacedName::of(&**other));
            taken.extend(ports(other).map(|key| (key, why.clone())));
        }
    }
    taken.extend(fixed);
    taken
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
        let endpoint_nodes = self.endpoint_nodes(&key.to_string());
        let taken = taken(self.fixed(), &self.services.by_index(BY_TYPE, ""), &service);
        let wish = Wish { service: &service, nodes: &nodes, endpoint_nodes: &endpoint_nodes, taken: &taken };
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
    fn endpoint_nodes(&self, service: &str) -> Vec<String> {
        let slices = self.slices.by_index(SLICES, service);
        let endpoints = slices.iter().flat_map(|slice| &slice.endpoints);
        let ready = endpoints.filter(|endpoint| endpoint.conditions.as_ref().and_then(|c| c.ready) != Some(false));
        ready.filter_map(|endpoint| endpoint.node_name.clone()).collect()
    }

    /// Ports that no Service can have: those of kubelets, of the API server, and that of SSH, by which somebody may have to come to the
    /// node.
    fn fixed(&self) -> Taken {
        let mut fixed = BTreeMap::from([(("TCP".to_owned(), 22), "reserved for the node's SSH server".to_owned())]);
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
    use serde_json::Value;

    fn service(name: &str, created: &str, status: Value) -> Service {
        let value = json!({"metadata": {"name": name, "uid": name, "creationTimestamp": created}, "status": status});
        serde_json::from_value(value).expect("is a service")
    }

    #[test]
    fn who_has_a_port_keeps_it() {
        let (old, new) = (service("old", "2026-01-01T00:00:00Z", json!({})), service("new", "2026-01-02T00:00:00Z", json!({})));
        let has = json!({"loadBalancer": {"ingress": [{"ip": "10.0.0.1"}]}});
        let holder = service("holder", "2026-01-03T00:00:00Z", has);
        assert!(goes_before(&old, &new) && !goes_before(&new, &old));
        assert!(goes_before(&holder, &old) && !goes_before(&old, &holder));
    }

    #[test]
    fn a_service_that_never_gets_its_ports_keeps_none_from_others() {
        let of = |name: &str, created: &str, status: Value, ports: &[i32]| {
            let mut service = service(name, created, status);
            let ports = ports.iter().map(|port| json!({"port": port})).collect::<Value>();
            service.spec = Some(serde_json::from_value(json!({"ports": ports})).expect("is a spec"));
            Arc::new(service)
        };
        let has = json!({"loadBalancer": {"ingress": [{"ip": "10.0.0.1"}]}});
        let ssh = || Taken::from([(("TCP".to_owned(), 22), "ssh".to_owned())]);
        let new = of("new", "2026-01-02T00:00:00Z", json!({}), &[80]);
        for (status, ports, expected) in [
            (json!({}), &[80][..], Some("taken by service old")),
            (json!({}), &[80, 22], None),
            // It has them from a time when the port was not taken, until it is looked at.
            (has, &[80, 22], Some("taken by service old")),
        ] {
            let services = [of("old", "2026-01-01T00:00:00Z", status, ports), Arc::clone(&new)];
            let taken = taken(ssh(), &services, &new);
            assert_eq!(taken.get(&("TCP".to_owned(), 80)).map(String::as_str), expected, "{ports:?}");
            assert_eq!(taken[&("TCP".to_owned(), 22)], "ssh", "{ports:?}");
        }
    }

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
