//! What the scheduler has checked already for pods that it bound: host ports and taints that drive pods away. A pod that was bound by hand is
//! checked here alone (upstream's `generalFilter` of the kubelet).

use k8s_openapi::api::core::v1::{ContainerPort, Pod, Taint, Toleration};

use crate::pod::access::{PodAccess, is_sidecar};

/// A refusal: upstream's name of the predicate, and why.
pub(super) fn refusal(predicate: &str, why: &str) -> (String, String) {
    (predicate.to_owned(), format!("Predicate {predicate} failed: {why}"))
}

/// The ports of the host that a pod takes: of its containers and sidecars.
fn host_ports(pod: &Pod) -> impl Iterator<Item = &ContainerPort> {
    let sidecars = pod.init_containers().iter().filter(|container| is_sidecar(container));
    let ports = pod.containers().iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
    ports.filter(|port| port.host_port.is_some_and(|number| number > 0))
}

/// The same port of the same protocol, at one address or at all.
fn conflict(one: &ContainerPort, other: &ContainerPort) -> bool {
    const ANY: &str = "0.0.0.0";
    let protocol = |port: &ContainerPort| port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
    let address = |port: &ContainerPort| port.host_ip.clone().filter(|ip| !ip.is_empty()).unwrap_or_else(|| ANY.to_owned());
    let (mine, theirs) = (address(one), address(other));
    one.host_port == other.host_port && protocol(one) == protocol(other) && (mine == ANY || theirs == ANY || mine == theirs)
}

/// Refuses a pod whose host ports another pod of the node has.
pub(super) fn ports<'a>(pod: &Pod, others: impl IntoIterator<Item = &'a Pod>) -> Result<(), (String, String)> {
    let taken = |other: &Pod| host_ports(pod).any(|wanted| host_ports(other).any(|held| conflict(wanted, held)));
    if others.into_iter().any(taken) {
        return Err(refusal("NodePorts", "node(s) didn't have free ports for the requested pod ports"));
    }
    Ok(())
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let fits = |wanted: &Option<String>, has: &str| wanted.as_deref().is_none_or(|wanted| wanted.is_empty() || wanted == has);
    if !fits(&toleration.effect, &taint.effect) || !fits(&toleration.key, &taint.key) {
        return false;
    }
    match toleration.operator.as_deref().unwrap_or_default() {
        "" | "Equal" => toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default(),
        "Exists" => true,
        // Comparisons are behind a gate that is off.
        _ => false,
    }
}

/// Refuses a pod that does not tolerate a taint with the effect NoExecute; the others are the scheduler's.
pub(super) fn taints(pod: &Pod, taints: &[Taint]) -> Result<(), (String, String)> {
    let tolerated = |taint: &Taint| pod.pod_spec().tolerations.iter().flatten().any(|toleration| tolerates(toleration, taint));
    if !pod.is_static() && taints.iter().any(|taint| taint.effect == "NoExecute" && !tolerated(taint)) {
        return Err(refusal("TaintToleration", "node(s) had taints that the pod didn't tolerate"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(spec: Value) -> Pod {
        let mut spec = spec;
        if spec.get("containers").is_none() {
            spec["containers"] = json!([]);
        }
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).expect("is a pod")
    }

    fn port(address: &str, protocol: &str, number: i32) -> Value {
        json!([{"name": "c", "ports": [{"containerPort": 80, "hostPort": number, "hostIP": address, "protocol": protocol}]}])
    }

    #[test]
    fn ports_that_are_taken() {
        let held = pod(json!({"containers": port("127.0.0.1", "TCP", 80)}));
        for (wanted, free) in [
            (json!({"containers": port("127.0.0.1", "TCP", 80)}), false),
            (json!({"containers": port("", "TCP", 80)}), false),
            (json!({"containers": port("127.0.0.2", "TCP", 80)}), true),
            (json!({"containers": port("", "UDP", 80)}), true),
            (json!({"containers": port("", "TCP", 81)}), true),
            (json!({"containers": port("", "TCP", 0)}), true),
            (json!({"initContainers": port("", "TCP", 80)}), true),
            (json!({}), true),
        ] {
            let wanted = pod(wanted);
            assert_eq!(ports(&wanted, [&held]).is_ok(), free, "{wanted:?}");
        }
        let mut sidecar = port("", "TCP", 80);
        sidecar[0]["restartPolicy"] = json!("Always");
        let (reason, message) = ports(&pod(json!({"initContainers": sidecar})), [&held]).expect_err("it is taken");
        assert_eq!(reason, "NodePorts");
        assert_eq!(message, "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports");
    }

    #[test]
    fn taints_that_are_tolerated() {
        let taint = |effect: &str| -> Taint {
            serde_json::from_value(json!({"key": "k", "value": "v", "effect": effect})).expect("is a taint")
        };
        for (tolerations, effect, taken) in [
            (json!([]), "NoExecute", false),
            (json!([]), "NoSchedule", true),
            (json!([{"key": "k", "value": "v"}]), "NoExecute", true),
            (json!([{"key": "k", "value": "v", "effect": "NoSchedule"}]), "NoExecute", false),
            (json!([{"key": "k", "operator": "Equal", "value": "w"}]), "NoExecute", false),
            (json!([{"key": "k", "operator": "Exists", "effect": "NoExecute"}]), "NoExecute", true),
            (json!([{"key": "other", "operator": "Exists"}]), "NoExecute", false),
            (json!([{"operator": "Exists"}]), "NoExecute", true),
            (json!([{"key": "k", "operator": "Gt", "value": "1"}]), "NoExecute", false),
        ] {
            let found = taints(&pod(json!({"tolerations": tolerations})), &[taint(effect)]);
            assert_eq!(found.is_ok(), taken, "{tolerations} {effect}");
        }
    }
}
