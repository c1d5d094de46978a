//! The variables that tell a container about services: `{NAME}_SERVICE_HOST`, `{NAME}_SERVICE_PORT`, and Docker's link variables.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;

/// The namespace and name of the API server's own service, which every pod sees.
const MASTER: (&str, &str) = ("default", "kubernetes");

/// The variables of the services in `namespace`, when `links` are wanted, and of the API server's service.
pub(super) fn variables(services: &[Arc<Service>], namespace: &str, links: bool) -> BTreeMap<String, String> {
    let mut result = BTreeMap::new();
    // The namespace's own service called "kubernetes" wins over the API server's.
    let mut ordered: Vec<&Arc<Service>> = services.iter().collect();
    ordered.sort_by_key(|s| s.metadata.namespace.as_deref() == Some(namespace));
    for service in ordered {
        let in_namespace = service.metadata.namespace.as_deref().unwrap_or("");
        let name = service.metadata.name.as_deref().unwrap_or("");
        let wanted = (in_namespace, name) == MASTER || (links && in_namespace == namespace);
        if wanted {
            add(&mut result, service, name);
        }
    }
    result
}

fn add(result: &mut BTreeMap<String, String>, service: &Service, name: &str) {
    let Some(spec) = &service.spec else { return };
    let Some(ip) = spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty() && *ip != "None") else { return };
    let prefix = name.to_uppercase().replace('-', "_");
    let ports = spec.ports.as_deref().unwrap_or_default();
    let Some(first) = ports.first() else { return };
    result.insert(format!("{prefix}_SERVICE_HOST"), ip.to_owned());
    result.insert(format!("{prefix}_SERVICE_PORT"), first.port.to_string());
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
    for (index, port) in ports.iter().enumerate() {
        if let Some(port_name) = port.name.as_deref().filter(|n| !n.is_empty()) {
            result.insert(format!("{prefix}_SERVICE_PORT_{}", port_name.to_uppercase().replace('-', "_")), port.port.to_string());
        }
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let url = format!("{}://{host}:{}", protocol.to_lowercase(), port.port);
        if index == 0 {
            result.insert(format!("{prefix}_PORT"), url.clone());
        }
        let link = format!("{prefix}_PORT_{}_{}", port.port, protocol.to_uppercase());
        result.insert(format!("{link}_PROTO"), protocol.to_lowercase());
        result.insert(format!("{link}_PORT"), port.port.to_string());
        result.insert(format!("{link}_ADDR"), ip.to_owned());
        result.insert(link, url);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(namespace: &str, name: &str, ip: &str) -> Arc<Service> {
        Arc::new(
            serde_json::from_value(serde_json::json!({"metadata": {"name": name, "namespace": namespace},
                "spec": {"clusterIP": ip, "ports": [{"name": "web-a", "port": 80, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]}}))
            .unwrap(),
        )
    }

    #[test]
    fn links_and_the_api_server() {
        let services = [
            service("default", "kubernetes", "10.0.0.1"),
            service("n", "my-db", "10.0.0.2"),
            service("n", "headless", "None"),
            service("m", "other", "10.0.0.3"),
        ];
        let all = variables(&services, "n", true);
        for (key, value) in [
            ("KUBERNETES_SERVICE_HOST", "10.0.0.1"),
            ("MY_DB_SERVICE_PORT", "80"),
            ("MY_DB_SERVICE_PORT_WEB_A", "80"),
            ("MY_DB_PORT", "tcp://10.0.0.2:80"),
            ("MY_DB_PORT_53_UDP", "udp://10.0.0.2:53"),
            ("MY_DB_PORT_53_UDP_PROTO", "udp"),
            ("MY_DB_PORT_80_TCP_ADDR", "10.0.0.2"),
        ] {
            assert_eq!(all.get(key).map(String::as_str), Some(value), "{key}");
        }
        assert!(!all.keys().any(|k| k.starts_with("OTHER") || k.starts_with("HEADLESS")));
        let without = variables(&services, "n", false);
        assert!(without.keys().all(|k| k.starts_with("KUBERNETES_")));
    }
}
