//! The seam to what balances load outside the cluster, and the one that needs nothing outside: the nodes themselves.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{LoadBalancerIngress, Node, Service};
use kube::ResourceExt;

/// Keeps this node out of load balancers (<https://kubernetes.io/docs/reference/labels-annotations-taints/>).
const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// Why a Service has no load balancer yet. Users read it.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum BalancerError {
    /// Another Service has the port.
    #[error("port {protocol}/{port} is {why}")]
    Taken { protocol: String, port: i32, why: String },
}

/// What a balancer is told.
#[derive(Debug)]
pub(super) struct Wish<'a> {
    pub(super) service: &'a Service,
    /// Nodes that may carry traffic.
    pub(super) nodes: &'a [Arc<Node>],
    /// Nodes with ready endpoints of the Service.
    pub(super) endpoint_nodes: &'a [String],
    /// Who has which port, by protocol and number: other Services, and the cluster's own servers.
    pub(super) taken: &'a BTreeMap<(String, i32), String>,
}

/// Balances load from outside: a cloud's, or the nodes themselves.
pub(super) trait Balancer: Send + Sync {
    /// Where the Service is reached from outside. Pure for those that keep nothing outside the cluster.
    fn ensure(&self, wish: &Wish<'_>) -> Result<Vec<LoadBalancerIngress>, BalancerError>;
}

/// Bare metal: every node takes the Service's ports on its own address, as k3s has it. The service proxy of each node does the work, by the
/// addresses in the Service's status.
#[derive(Debug)]
pub(super) struct HostPorts;

impl Balancer for HostPorts {
    fn ensure(&self, wish: &Wish<'_>) -> Result<Vec<LoadBalancerIngress>, BalancerError> {
        for key in ports(wish.service) {
            if let Some(why) = wish.taken.get(&key) {
                return Err(BalancerError::Taken { protocol: key.0, port: key.1, why: why.clone() });
            }
        }
        let spec = wish.service.spec.as_ref();
        let local = spec.and_then(|spec| spec.external_traffic_policy.as_deref()) == Some("Local");
        let families = spec.and_then(|spec| spec.ip_families.clone()).unwrap_or_else(|| vec!["IPv4".to_owned()]);
        let carries = |node: &&Arc<Node>| !local || wish.endpoint_nodes.contains(&node.name_any());
        let addresses = wish.nodes.iter().filter(carries).flat_map(|node| addresses(node, &families));
        Ok(addresses
            .map(|ip| LoadBalancerIngress { ip: Some(ip), ip_mode: Some("VIP".to_owned()), ..Default::default() })
            .collect())
    }
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
            Ok(std::net::IpAddr::V4(_)) => families.iter().any(|family| family == "IPv4"),
            Ok(std::net::IpAddr::V6(_)) => families.iter().any(|family| family == "IPv6"),
            Err(_) => false,
        });
        wanted.map(|address| address.address.clone()).collect()
    };
    let external = of("ExternalIP");
    if external.is_empty() { of("InternalIP") } else { external }
}

/// Upstream's condition for a node behind a load balancer: ready, not being deleted, not left out.
pub(super) fn may_carry(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let ready = conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True");
    ready && node.metadata.deletion_timestamp.is_none() && !node.labels().contains_key(EXCLUDED)
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
        let taken = taken.iter().map(|(port, why)| (("TCP".to_owned(), *port), (*why).to_owned())).collect();
        let wish = Wish { service: &service, nodes: &nodes, endpoint_nodes: &["b".to_owned()], taken: &taken };
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
}
