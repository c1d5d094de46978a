//! The Service by which pods reach us: `kube-system/kube-dns`, as tools expect it.

use std::fmt::Debug;
use std::net::{IpAddr, SocketAddr};

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

const NAMESPACE: &str = "kube-system";
const NAME: &str = "kube-dns";
const MANAGER: &str = "rusternetes-dns";

/// What the Service looks like.
#[derive(Debug, Clone)]
pub struct ServiceConfig {
    /// The ClusterIP (`--cluster-dns`), one for each family that the cluster has.
    pub cluster_ips: Vec<IpAddr>,
    /// Where the server listens, as pods reach it.
    pub endpoints: Vec<SocketAddr>,
    /// The node that the server runs on.
    pub node_name: String,
}

/// Creates or corrects the Service and its EndpointSlices. A Service of the same name that selects pods is somebody else's DNS
/// (CoreDNS, say) and is left alone; the answer says whether ours is in place.
///
/// Fails while the namespace `kube-system` does not exist yet: call again.
pub async fn ensure_service(client: &kube::Client, config: &ServiceConfig) -> Result<bool, kube::Error> {
    let services: Api<Service> = Api::namespaced(client.clone(), NAMESPACE);
    if let Some(existing) = services.get_opt(NAME).await?
        && existing.spec.is_some_and(|spec| spec.selector.is_some_and(|selector| !selector.is_empty()))
    {
        return Ok(false);
    }
    put(&services, NAME, service(config)).await?;
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), NAMESPACE);
    for ipv6 in [false, true] {
        if let Some((name, slice)) = slice(config, ipv6) {
            put(&slices, &name, slice).await?;
        }
    }
    Ok(true)
}

/// Creates an object, or merges ours into the one that is there (which writes nothing if it is as it should be).
async fn put<K>(api: &Api<K>, name: &str, wanted: Value) -> Result<(), kube::Error>
where
    K: Clone + DeserializeOwned + Debug + Serialize,
{
    // Looked up first: creating a Service at an address that its own stored form holds is refused as taken, not as already there.
    if api.get_opt(name).await?.is_none() {
        let object: K = serde_json::from_value(wanted.clone()).map_err(kube::Error::SerdeError)?;
        match api.create(&PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() }, &object).await {
            Ok(_) => return Ok(()),
            Err(kube::Error::Api(status)) if status.is_already_exists() => {}
            Err(error) => return Err(error),
        }
    }
    let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
    api.patch(name, &params, &Patch::Merge(wanted)).await.map(|_| ())
}

fn labels() -> Value {
    json!({"k8s-app": "kube-dns", "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "CoreDNS"})
}

fn service(config: &ServiceConfig) -> Value {
    let ips: Vec<String> = config.cluster_ips.iter().map(ToString::to_string).collect();
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": NAME, "namespace": NAMESPACE, "labels": labels()},
        "spec": {
            "type": "ClusterIP",
            "clusterIP": ips.first(),
            "clusterIPs": ips,
            "ipFamilyPolicy": if ips.len() > 1 { "RequireDualStack" } else { "SingleStack" },
            "ports": [
                {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 53},
                {"name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": 53},
            ],
        },
    })
}

/// The slice of one family; all endpoints have the port of the first, as slices cannot say otherwise.
fn slice(config: &ServiceConfig, ipv6: bool) -> Option<(String, Value)> {
    let of_family: Vec<&SocketAddr> = config.endpoints.iter().filter(|endpoint| endpoint.is_ipv6() == ipv6).collect();
    let port = of_family.first()?.port();
    let endpoints: Vec<Value> = of_family
        .iter()
        .filter(|endpoint| endpoint.port() == port)
        .map(|endpoint| {
            json!({"addresses": [endpoint.ip().to_string()], "nodeName": config.node_name,
                "conditions": {"ready": true, "serving": true, "terminating": false}})
        })
        .collect();
    let family = if ipv6 { "ipv6" } else { "ipv4" };
    let name = format!("{NAME}-{family}");
    let mut labels = labels();
    labels["kubernetes.io/service-name"] = json!(NAME);
    labels["endpointslice.kubernetes.io/managed-by"] = json!(MANAGER);
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": labels},
        "addressType": if ipv6 { "IPv6" } else { "IPv4" },
        "endpoints": endpoints,
        "ports": [
            {"name": "dns", "port": port, "protocol": "UDP"},
            {"name": "dns-tcp", "port": port, "protocol": "TCP"},
        ],
    });
    Some((name, slice))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_objects_are_valid_and_lead_to_the_server() {
        let config = ServiceConfig {
            cluster_ips: vec!["10.43.0.10".parse().unwrap()],
            endpoints: vec!["10.42.0.1:5353".parse().unwrap()],
            node_name: "node".into(),
        };
        let service: Service = serde_json::from_value(service(&config)).unwrap();
        assert_eq!(service.spec.unwrap().cluster_ip.as_deref(), Some("10.43.0.10"));
        assert!(slice(&config, true).is_none());
        let (name, slice) = slice(&config, false).unwrap();
        let slice: EndpointSlice = serde_json::from_value(slice).unwrap();
        assert_eq!(name, "kube-dns-ipv4");
        assert_eq!(slice.ports.unwrap()[0].port, Some(5353));
        assert_eq!(slice.endpoints[0].addresses, ["10.42.0.1"]);
    }
}
