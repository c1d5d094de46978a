//! What an update leaves as it was although the client left it out, and what a change of the type makes meaningless (upstream's
//! `patchAllocatedValues`, `normalizeClusterIPs` and `dropTypeDependentFields`).

use std::collections::{HashMap, HashSet};

use apimachinery::Value;

use super::{is_exposed, needs_cluster_ip, needs_health_check_port, needs_node_ports, type_of};

/// `clusterIP` and the first of `clusterIPs` are the same; a client may know only the former.
pub(super) fn normalize_cluster_ips(service: &mut Value, old: Option<&Value>) {
    let one = service.str_at(&["spec", "clusterIP"]).unwrap_or_default().to_owned();
    let many = service.array_at(&["spec", "clusterIPs"]).to_vec();
    let Some(old) = old else {
        if !one.is_empty() && many.is_empty() {
            service.set_path(&["spec", "clusterIPs"], vec![one]);
        }
        return;
    };
    let old_one = old.str_at(&["spec", "clusterIP"]).unwrap_or_default();
    let old_many = old.array_at(&["spec", "clusterIPs"]);
    if one == old_one {
        if many.is_empty() && !old_many.is_empty() {
            service.set_path(&["spec", "clusterIPs"], old_many.to_vec());
        }
        return;
    }
    // The client changed only the field that it knows.
    if many == old_many {
        if one.is_empty() {
            service.remove_path(&["spec", "clusterIPs"]);
        } else {
            service.set_path(&["spec", "clusterIPs"], vec![one]);
        }
    }
}

fn node_port(port: &Value) -> i64 {
    port["nodePort"].as_i64().unwrap_or_default()
}

/// Node ports by the names of their ports.
fn node_ports_by_name(service: &Value) -> HashMap<&str, i64> {
    let ports = service.array_at(&["spec", "ports"]).iter();
    ports.map(|port| (port["name"].as_str().unwrap_or_default(), node_port(port))).collect()
}

fn used_node_ports(service: &Value) -> HashSet<i64> {
    service.array_at(&["spec", "ports"]).iter().map(node_port).filter(|port| *port != 0).collect()
}

/// What was allocated stays when the client leaves it out.
pub(super) fn keep_allocated(service: &mut Value, old: &Value) {
    if needs_cluster_ip(old) && needs_cluster_ip(service) {
        for member in ["clusterIP", "clusterIPs"] {
            let is_empty = service.get_path(&["spec", member]).is_none_or(Value::is_empty);
            if let Some(value) = old.get_path(&["spec", member]).filter(|value| is_empty && !value.is_empty()) {
                service.set_path(&["spec", member], value.clone());
            }
        }
    }
    if needs_node_ports(old) && needs_node_ports(service) {
        let before = node_ports_by_name(old);
        let used = used_node_ports(service);
        for port in service.get_path_mut(&["spec", "ports"]).and_then(Value::as_array_mut).into_iter().flatten() {
            let kept = before.get(port["name"].as_str().unwrap_or_default()).copied().unwrap_or_default();
            // Not that which the client gave to another port.
            if node_port(port) == 0 && kept != 0 && !used.contains(&kept) {
                port.insert("nodePort", kept);
            }
        }
    }
    let health = old.i64_at(&["spec", "healthCheckNodePort"]).unwrap_or_default();
    if needs_health_check_port(old)
        && needs_health_check_port(service)
        && service["spec"]["healthCheckNodePort"].is_zero()
        && health != 0
    {
        service.set_path(&["spec", "healthCheckNodePort"], health);
    }
}

fn is_externally_accessible(service: &Value) -> bool {
    is_exposed(service) || (type_of(service) == "ClusterIP" && !service.array_at(&["spec", "externalIPs"]).is_empty())
}

/// What a change of the type makes meaningless goes, unless the client changed it too (then validation refuses it).
pub(super) fn drop_type_dependent(service: &mut Value, old: &Value) {
    let same = |service: &Value, member: &str| service["spec"][member] == old["spec"][member];
    let mut dropped: Vec<&str> = Vec::new();
    if needs_cluster_ip(old) && !needs_cluster_ip(service) {
        if same(service, "clusterIP") && same(service, "clusterIPs") {
            dropped.extend(["clusterIP", "clusterIPs"]);
        }
        dropped.extend(["ipFamilies", "ipFamilyPolicy"]);
    }
    if needs_health_check_port(old) && !needs_health_check_port(service) {
        dropped.push("healthCheckNodePort");
    }
    if is_externally_accessible(old) && !is_externally_accessible(service) {
        dropped.push("externalTrafficPolicy");
    }
    if type_of(old) == "LoadBalancer" && type_of(service) != "LoadBalancer" {
        dropped.extend(["allocateLoadBalancerNodePorts", "loadBalancerClass"]);
    }
    if type_of(service) != "LoadBalancer" {
        service.set_path(&["status", "loadBalancer"], Value::object());
    }
    for member in dropped {
        if same(service, member) {
            service.remove_path(&["spec", member]);
        }
    }
    if is_exposed(old) && !is_exposed(service) && used_node_ports(service).is_subset(&used_node_ports(old)) {
        for port in service.get_path_mut(&["spec", "ports"]).and_then(Value::as_array_mut).into_iter().flatten() {
            port.remove("nodePort");
        }
    }
}

#[cfg(test)]
mod tests {
    use apimachinery::value;

    use super::*;

    #[test]
    fn addresses_that_are_left_out() {
        let old = value!({"spec": {"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"]}});
        for (sent, expected) in [
            (value!({"spec": {}}), value!({"spec": {"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"]}})),
            (
                value!({"spec": {"clusterIP": "10.0.0.2", "clusterIPs": ["10.0.0.1"]}}),
                value!({"spec": {"clusterIP": "10.0.0.2", "clusterIPs": ["10.0.0.2"]}}),
            ),
            (
                value!({"spec": {"clusterIP": "10.0.0.2", "clusterIPs": ["10.0.0.3"]}}),
                value!({"spec": {"clusterIP": "10.0.0.2", "clusterIPs": ["10.0.0.3"]}}),
            ),
            (value!({"spec": {"type": "ExternalName"}}), value!({"spec": {"type": "ExternalName"}})),
        ] {
            let mut service = sent.clone();
            keep_allocated(&mut service, &old);
            normalize_cluster_ips(&mut service, Some(&old));
            assert_eq!(service, expected, "{sent}");
        }
        let mut new = value!({"spec": {"clusterIP": "10.0.0.1"}});
        normalize_cluster_ips(&mut new, None);
        assert_eq!(new, old);
    }

    #[test]
    fn node_ports_stay_with_their_names() {
        let port = |name: &str, number: i64, node: i64| match node {
            0 => value!({"name": name, "port": number}),
            node => value!({"name": name, "port": number, "nodePort": node}),
        };
        let service = |ports: Vec<Value>| value!({"spec": {"type": "NodePort", "ports": ports}});
        let old = service(vec![port("a", 80, 30001), port("b", 81, 30002)]);
        for (sent, expected) in [
            (vec![port("a", 8080, 0), port("c", 81, 0)], vec![port("a", 8080, 30001), port("c", 81, 0)]),
            (vec![port("a", 80, 0), port("b", 81, 30001)], vec![port("a", 80, 0), port("b", 81, 30001)]),
        ] {
            let mut service_now = service(sent);
            keep_allocated(&mut service_now, &old);
            assert_eq!(service_now, service(expected));
        }
    }

    #[test]
    fn what_a_type_does_not_have() {
        let old = value!({"spec": {"type": "NodePort", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack", "externalTrafficPolicy": "Cluster", "ports": [{"port": 80, "nodePort": 30001}]}});
        let with = |members: &[(&str, Value)]| {
            let mut service = old.clone();
            members.iter().for_each(|(member, value)| service.set_path(&["spec", member], value.clone()));
            drop_type_dependent(&mut service, &old);
            service.remove("status");
            service
        };
        let plain = value!({"type": "ClusterIP", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack", "ports": [{"port": 80}]});
        assert_eq!(with(&[("type", value!("ClusterIP"))])["spec"], plain);
        let accessible = with(&[("type", value!("ClusterIP")), ("externalIPs", value!(["1.2.3.4"]))]);
        assert_eq!(accessible["spec"]["externalTrafficPolicy"], *"Cluster");
        let other = with(&[("type", value!("ClusterIP")), ("ports", value!([{"port": 80, "nodePort": 30002}]))]);
        assert_eq!(other["spec"]["ports"][0]["nodePort"], Value::Int(30002), "validation is to refuse it");
        assert_eq!(with(&[("type", value!("ExternalName"))])["spec"], value!({"type": "ExternalName", "ports": [{"port": 80}]}));
        let changed = with(&[("type", value!("ExternalName")), ("clusterIP", value!("10.0.0.2"))]);
        assert_eq!(changed["spec"]["clusterIPs"], value!(["10.0.0.1"]));
    }
}
