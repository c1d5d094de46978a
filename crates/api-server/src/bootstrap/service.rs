//! How pods find this server: the Service `kubernetes` in `default`, its Endpoints and EndpointSlice, and the ServiceCIDR.
//!
//! One server: the endpoints are exactly its own address. (Several servers would share them through leases, as upstream's lease
//! reconciler does; that is absent.)

use std::net::IpAddr;

use http::Method;
use serde_json::{Value as Json, json};

use super::{BootstrapConfig, ensure};
use crate::loopback::{Loopback, LoopbackError, collection};

const NAME: &str = "kubernetes";
const SERVICE_PORT: u16 = 443;

/// The range of ClusterIPs as an object.
pub(super) async fn cidr(loopback: &Loopback, config: &BootstrapConfig) -> Result<(), LoopbackError> {
    let cidr = json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "ServiceCIDR",
        "metadata": {"name": NAME},
        "spec": {"cidrs": config.service_cidrs},
    });
    ensure(loopback, "networking.k8s.io", "servicecidrs", "", NAME, &cidr).await?;
    set_ready(loopback, config).await
}

/// The Service and its endpoints.
pub(super) async fn run(loopback: &Loopback, config: &BootstrapConfig) -> Result<(), LoopbackError> {
    ensure(loopback, "", "services", "default", NAME, &service(config)).await?;
    if !config.publish_endpoints {
        return Ok(());
    }
    if config.advertise_address.is_loopback() {
        // Not an endpoint for anyone else (validation refuses it, as upstream's does); the Service goes on without.
        tracing::warn!(address = %config.advertise_address, "the kubernetes Service has no endpoints: a loopback address is advertised");
        return Ok(());
    }
    reconcile(loopback, "", "endpoints", &endpoints(config), &["subsets"]).await?;
    let slice = slice(config);
    leave_family(loopback, &slice).await?;
    reconcile(loopback, "discovery.k8s.io", "endpointslices", &slice, &["endpoints", "ports"]).await
}

/// Takes the slice away if it is of the other family: that cannot be changed.
async fn leave_family(loopback: &Loopback, wanted: &Json) -> Result<(), LoopbackError> {
    let path = format!("{}/{NAME}", collection("discovery.k8s.io", "v1", "endpointslices", "default"));
    let gone = |error: &LoopbackError| error.code() == Some(404);
    match loopback.get(&path).await {
        Ok(stored) if stored["addressType"] != wanted["addressType"] => match loopback.bytes(Method::DELETE, &path, None).await {
            Err(error) if !gone(&error) => Err(error),
            _ => Ok(()),
        },
        Err(error) if !gone(&error) => Err(error),
        _ => Ok(()),
    }
}

/// Says that the cluster's own ServiceCIDR is ready, unless somebody said otherwise or it is not ours any more.
async fn set_ready(loopback: &Loopback, config: &BootstrapConfig) -> Result<(), LoopbackError> {
    let path = format!("{}/{NAME}", collection("networking.k8s.io", "v1", "servicecidrs", ""));
    let mut cidr = loopback.get(&path).await?;
    if cidr["metadata"].get("deletionTimestamp").is_some() {
        return Ok(());
    }
    let wanted = &config.service_cidrs;
    if wanted.len() == 2 && cidr["spec"]["cidrs"] == json!([wanted[0]]) {
        cidr["spec"]["cidrs"] = json!(wanted);
        cidr = match loopback.update(&path, &cidr).await {
            // Another server was faster.
            Err(error) if error.code() == Some(409) => loopback.get(&path).await?,
            result => result?,
        };
    }
    if cidr["spec"]["cidrs"] != json!(wanted) {
        tracing::warn!(configured = ?wanted, "the default ServiceCIDR does not match the configuration");
        return Ok(());
    }
    let conditions = cidr["status"]["conditions"].as_array();
    if conditions.is_some_and(|conditions| conditions.iter().any(|c| c["type"] == "Ready" && c["status"] != "Unknown")) {
        return Ok(());
    }
    cidr["status"]["conditions"] = json!([{
        "type": "Ready", "status": "True", "reason": "", "message": "Kubernetes default Service CIDR is ready",
        "lastTransitionTime": crate::registry::now(),
    }]);
    match loopback.update(&format!("{path}/status"), &cidr).await {
        // The controller was faster.
        Err(error) if error.code() == Some(409) => Ok(()),
        result => result.map(|_| ()),
    }
}

/// Creates the object, or sets these fields of it.
async fn reconcile(
    loopback: &Loopback,
    group: &str,
    resource: &str,
    wanted: &Json,
    fields: &[&str],
) -> Result<(), LoopbackError> {
    let Some(mut stored) = ensure(loopback, group, resource, "default", NAME, wanted).await? else { return Ok(()) };
    if fields.iter().all(|field| stored[*field] == wanted[*field]) {
        return Ok(());
    }
    for field in fields {
        stored[*field] = wanted[*field].clone();
    }
    let path = format!("{}/{NAME}", collection(group, "v1", resource, "default"));
    loopback.update(&path, &stored).await.map(|_| ())
}

fn family(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() { "IPv4" } else { "IPv6" }
}

fn service(config: &BootstrapConfig) -> Json {
    let ip = config.service_ip.to_string();
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": NAME,
            "namespace": "default",
            "labels": {"provider": "kubernetes", "component": "apiserver"},
        },
        "spec": {
            "type": "ClusterIP",
            "clusterIP": ip,
            "clusterIPs": [ip],
            "ipFamilies": [family(config.service_ip)],
            "ipFamilyPolicy": "SingleStack",
            "sessionAffinity": "None",
            "ports": [{"name": "https", "port": SERVICE_PORT, "protocol": "TCP", "targetPort": config.advertise_port}],
        },
    })
}

fn endpoints(config: &BootstrapConfig) -> Json {
    json!({
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": {
            "name": NAME,
            "namespace": "default",
            "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"},
        },
        "subsets": [{
            "addresses": [{"ip": config.advertise_address.to_string()}],
            "ports": [{"name": "https", "port": config.advertise_port, "protocol": "TCP"}],
        }],
    })
}

fn slice(config: &BootstrapConfig) -> Json {
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": NAME,
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": NAME},
        },
        "addressType": family(config.advertise_address),
        "endpoints": [{"addresses": [config.advertise_address.to_string()], "conditions": {"ready": true}}],
        "ports": [{"name": "https", "port": config.advertise_port, "protocol": "TCP"}],
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::server::{ApiServer, ServerConfig};

    #[tokio::test]
    async fn the_slice_is_of_the_advertised_family() {
        let server = ApiServer::builder(ServerConfig::default(), Arc::new(storage::Memory::new())).build();
        let loopback = Loopback::new(Arc::downgrade(&server));
        let path = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes";
        let mut before = Json::Null;
        // Within a family it stays the same object, for its address type cannot be changed.
        for (address, family, is_new) in [
            ("192.0.2.1", "IPv4", true),
            ("192.0.2.2", "IPv4", false),
            ("2001:db8::1", "IPv6", true),
            ("2001:db8::2", "IPv6", false),
            ("192.0.2.1", "IPv4", true),
        ] {
            let config = BootstrapConfig {
                advertise_address: address.parse().expect("an address"),
                advertise_port: 6443,
                service_cidrs: vec!["10.43.0.0/16".to_owned()],
                service_ip: [10, 43, 0, 1].into(),
                publish_endpoints: true,
            };
            server.bootstrap(&config).await.expect("bootstrap objects");
            let slice = loopback.get(path).await.expect("it is there");
            assert_eq!(slice["addressType"], family, "{address}");
            assert_eq!(slice["endpoints"], json!([{"addresses": [address], "conditions": {"ready": true}}]));
            assert_eq!(slice["metadata"]["uid"] != before, is_new, "{address}");
            before = slice["metadata"]["uid"].clone();
        }
    }
}
