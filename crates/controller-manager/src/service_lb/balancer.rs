//! The seam to what balances load outside the cluster, and the one that needs nothing outside: the nodes themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use client::NamespacedName;
use k8s_openapi::api::core::v1::{LoadBalancerIngress, Node, Service};
use kube::ResourceExt;

use super::ingress;

/// Why a Service has no load balancer yet. Users read it.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum BalancerError {
    /// Another Service has the port.
    #[error("port {protocol}/{port} is {why}")]
    Taken { protocol: String, port: i32, why: String },
    /// Another Service has the address.
    #[error("address {address} is taken by service {by}")]
    AddressTaken { address: IpAddr, by: NamespacedName },
    /// The address that the Service asks for.
    #[error("loadBalancerIP {0} is no address of the pool in a family of the service")]
    NotInPool(String),
    /// All addresses of the pool are given, or there are none of the family.
    #[error("the pool has no free {0} address")]
    Exhausted(String),
}

/// What a balancer is told.
#[derive(Debug)]
pub(super) struct Wish<'a> {
    pub(super) service: &'a Service,
    /// Nodes that may carry traffic.
    pub(super) nodes: &'a [Arc<Node>],
    /// Nodes with ready endpoints of the Service.
    pub(super) endpoint_nodes: &'a BTreeSet<String>,
    /// All Services that want a load balancer, this one among them.
    pub(super) services: &'a [Arc<Service>],
    /// Ports that no Service can have on a node.
    pub(super) fixed: &'a Ports,
}

/// Balances load from outside: a cloud's, or the nodes themselves.
pub(super) trait Balancer: Send + Sync {
    /// Where the Service is reached from outside.
    fn ensure(&self, wish: &Wish<'_>) -> Result<Vec<LoadBalancerIngress>, BalancerError>;
}

/// Bare metal: every node takes the Service's ports on its own address, as k3s has it. The service proxy of each node does the work, by the
/// addresses in the Service's status.
#[derive(Debug)]
pub(super) struct HostPorts;

impl Balancer for HostPorts {
    fn ensure(&self, wish: &Wish<'_>) -> Result<Vec<LoadBalancerIngress>, BalancerError> {
        let taken = taken(wish.fixed, wish.services, wish.service);
        for key in ports(wish.service) {
            if let Some(why) = taken.get(&key) {
                return Err(BalancerError::Taken { protocol: key.0, port: key.1, why: why.clone() });
            }
        }
        let spec = wish.service.spec.as_ref();
        let local = spec.and_then(|spec| spec.external_traffic_policy.as_deref()) == Some("Local");
        let families = spec.and_then(|spec| spec.ip_families.clone()).unwrap_or_else(|| vec!["IPv4".to_owned()]);
        let carries = |node: &&Arc<Node>| !local || wish.endpoint_nodes.contains(&node.name_any());
        let addresses = wish.nodes.iter().filter(carries).flat_map(|node| addresses(node, &families));
        Ok(addresses.map(vip).collect())
    }
}

/// An address that leads to the service proxy.
pub(super) fn vip(ip: String) -> LoadBalancerIngress {
    LoadBalancerIngress { ip: Some(ip), ip_mode: Some("VIP".to_owned()), ..Default::default() }
}

/// Whether another Service goes before this one.
pub(super) fn goes_before(other: &Service, this: &Service) -> bool {
    let rank = |service: &Service| {
        let created = service.metadata.creation_timestamp.as_ref().map(|time| time.0);
        (ingress(service).is_empty(), created, service.uid())
    };
    rank(other) < rank(this)
}

/// Why which port cannot be had, by protocol and number: by whom it is taken, or for whom reserved.
pub(super) type Ports = BTreeMap<(String, i32), String>;

/// Ports that a Service cannot have: the fixed ones, and those of Services before it. One that wants a fixed port never gets any, and so
/// keeps none from others.
fn taken(fixed: &Ports, services: &[Arc<Service>], service: &Service) -> Ports {
    let hopeless = |other: &Service| ingress(other).is_empty() && ports(other).any(|key| fixed.contains_key(&key));
    let mut taken = Ports::new();
    for other in services.iter().filter(|other| other.uid() != service.uid() && goes_before(other, service)) {
        if !hopeless(other) {
            let why = format!("taken by service {}", NamespacedName::of(&**other));
            taken.extend(ports(other).map(|key| (key, why.clone())));
        }
    }
    taken.extend(fixed.clone());
    taken
}

/// The ports of a Service, by protocol and number.
pub(super) fn ports(service: &Service) -> impl Iterator<Item = (String, i32)> {
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    ports.map(|port| (port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()), port.port))
}

/// A node's addresses in these families: those that are reached from outside if it has any, else those inside.
fn addresses(node: &Node, families: &[String]) -> Vec<String> {
    let all = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
    let of = |type_: &str| -> Vec<String> {
        let of_type = all.clone().filter(|address| address.type_ == type_);
        let wanted = of_type.filter(|address| match address.address.parse() {
            Ok(IpAddr::V4(_)) => families.iter().any(|family| family == "IPv4"),
            Ok(IpAddr::V6(_)) => families.iter().any(|family| family == "IPv6"),
            Err(_) => false,
        });
        wanted.map(|address| address.address.clone()).collect()
    };
    let external = of("ExternalIP");
    if external.is_empty() { of("InternalIP") } else { external }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn node(name: &str, addresses: Value) -> Arc<Node> {
        let value = json!({"metadata": {"name": name}, "status": {"addresses": addresses,
            "conditions": [{"type": "Ready", "status": "True"}]}});
        Arc::new(serde_json::from_value(value).expect("is a node"))
    }

    fn ensured(spec: Value, taken: &[(i32, &str)]) -> Result<Vec<String>, BalancerError> {
        let service: Service = serde_json::from_value(json!({"metadata": {"name": "s"}, "spec": spec})).expect("is a service");
        let nodes = [
            node("a", json!([{"type": "InternalIP", "address": "10.0.0.1"}, {"type": "InternalIP", "address": "fd00::1"}])),
            node("b", json!([{"type": "InternalIP", "address": "10.0.0.2"}, {"type": "ExternalIP", "address": "192.0.2.2"}])),
        ];
        let fixed = taken.iter().map(|(port, why)| (("TCP".to_owned(), *port), (*why).to_owned())).collect();
        let wish = Wish {
            service: &service,
            services: &[],
            nodes: &nodes,
            endpoint_nodes: &BTreeSet::from(["b".to_owned()]),
            fixed: &fixed,
        };
        Ok(HostPorts.ensure(&wish)?.into_iter().filter_map(|ingress| ingress.ip).collect())
    }

    #[test]
    fn where_a_service_is_reached() {
        let ports = json!([{"port": 80}]);
        assert_eq!(ensured(json!({"ports": ports}), &[]).unwrap(), ["10.0.0.1", "192.0.2.2"]);
        let local = json!({"ports": ports, "externalTrafficPolicy": "Local"});
        assert_eq!(ensured(local, &[]).unwrap(), ["192.0.2.2"]);
        let both = json!({"ports": ports, "ipFamilies": ["IPv6", "IPv4"]});
        assert_eq!(ensured(both, &[]).unwrap(), ["10.0.0.1", "fd00::1", "192.0.2.2"]);
        let taken = ensured(json!({"ports": ports}), &[(80, "taken by service default/other")]).unwrap_err();
        assert_eq!(taken.to_string(), "port TCP/80 is taken by service default/other");
        assert!(ensured(json!({"ports": ports}), &[(81, "x")]).is_ok());
    }

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
        let ssh = Ports::from([(("TCP".to_owned(), 22), "ssh".to_owned())]);
        let new = of("new", "2026-01-02T00:00:00Z", json!({}), &[80]);
        for (status, ports, expected) in [
            (json!({}), &[80][..], Some("taken by service old")),
            (json!({}), &[80, 22], None),
            // It has them from a time when the port was not taken, until it is looked at.
            (has, &[80, 22], Some("taken by service old")),
        ] {
            let services = [of("old", "2026-01-01T00:00:00Z", status, ports), Arc::clone(&new)];
            let taken = taken(&ssh, &services, &new);
            assert_eq!(taken.get(&("TCP".to_owned(), 80)).map(String::as_str), expected, "{ports:?}");
            assert_eq!(taken[&("TCP".to_owned(), 22)], "ssh", "{ports:?}");
        }
    }
}
