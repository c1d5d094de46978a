//! Services: their number, load balancers and node ports (upstream's `evaluator/core/services.go`).

use super::{Amounts, count, one};
use crate::{Quantity, Value};

pub(super) const NAMES: [&str; 4] = ["count/services", "services", "services.nodeports", "services.loadbalancers"];

/// The type, where it matters for quotas.
pub(super) fn exposed_type(service: &Value) -> &str {
    service.str_at(&["spec", "type"]).filter(|kind| matches!(*kind, "NodePort" | "LoadBalancer")).unwrap_or_default()
}

/// Node ports are counted by what is asked for: they may not have been allocated yet.
pub(super) fn usage(service: &Value) -> Amounts {
    let ports = service.array_at(&["spec", "ports"]);
    let kind = exposed_type(service);
    let allocates = service.bool_at(&["spec", "allocateLoadBalancerNodePorts"]).unwrap_or(true);
    let node_ports = match kind {
        "" => 0,
        "LoadBalancer" if !allocates => ports.iter().filter(|port| port.i64_at(&["nodePort"]).unwrap_or(0) != 0).count(),
        _ => ports.len(),
    };
    let balancers = if kind == "LoadBalancer" { one() } else { Quantity::default() };
    [
        ("count/services", one()),
        ("services", one()),
        ("services.loadbalancers", balancers),
        ("services.nodeports", count(node_ports)),
    ]
    .map(|(name, amount)| (name.to_owned(), amount))
    .into()
}
