//! Where the proxy subresources lead: `[SCHEME:]NAME[:PORT]` of a pod, a Service or a node to an address
//! (<https://kubernetes.io/docs/tasks/access-application-cluster/access-cluster-services/#manually-constructing-apiserver-proxy-urls>).

use std::net::{IpAddr, SocketAddr};

use apimachinery::{GroupResource, Status};
use k8s_openapi::api::core::v1::{EndpointAddress, Endpoints, Node, Pod};
use rand::Rng;
use serde_json::Value as Json;

use super::kubelet::kubelet_of;
use crate::objects::{self, Objects};

/// The port of a pod that declares none and is asked for without one.
const HTTP_PORT: u16 = 80;
/// The same with `https:`.
const HTTPS_PORT: u16 = 443;

/// What is proxied to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) address: SocketAddr,
    pub(super) transport: Transport,
}

/// How it is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    Http,
    /// TLS to whoever answers.
    Https,
    /// TLS with the API server's identity for kubelets.
    Kubelet,
}

/// The name of a request, taken apart.
#[derive(Debug, PartialEq, Eq)]
struct Name<'a> {
    transport: Transport,
    name: &'a str,
    /// Empty when not given.
    port: &'a str,
}

impl<'a> Name<'a> {
    /// `None` unless it is `NAME`, `NAME:PORT` or `SCHEME:NAME:PORT` with a scheme of `http`, `https` or nothing.
    fn parse(id: &'a str) -> Option<Name<'a>> {
        let parts: Vec<&str> = id.split(':').collect();
        let (scheme, name, port) = match parts[..] {
            [name] => ("", name, ""),
            [name, port] => ("", name, port),
            [scheme, name, port] => (scheme, name, port),
            _ => return None,
        };
        let transport = match scheme {
            "" | "http" => Transport::Http,
            "https" => Transport::Https,
            _ => return None,
        };
        (!name.is_empty()).then_some(Name { transport, name, port })
    }

    fn of(id: &'a str, kind: &str) -> Result<Name<'a>, Status> {
        Self::parse(id).ok_or_else(|| Status::bad_request(format!("invalid {kind} request {id:?}")))
    }
}

/// The address of a pod; without a port, the first that it declares.
pub(super) async fn pod(objects: &dyn Objects, namespace: &str, id: &str) -> Result<Target, Status> {
    let wanted = Name::of(id, "pod")?;
    let pod: Option<Pod> = objects::get(objects, namespace, wanted.name).await.map_err(Status::internal_error)?;
    let pod = pod.ok_or_else(|| Status::not_found(&GroupResource::new("", "pods"), wanted.name))?;
    let declared = pod.spec.iter().flat_map(|spec| &spec.containers).find_map(|container| container.ports.as_ref()?.first());
    let port = match wanted.port {
        "" => declared.and_then(|port| u16::try_from(port.container_port).ok()).unwrap_or(match wanted.transport {
            Transport::Https => HTTPS_PORT,
            _ => HTTP_PORT,
        }),
        // A name is no port of a URL.
        text => text.parse().map_err(|_| Status::bad_request(format!("invalid pod request {id:?}")))?,
    };
    let status = pod.status.unwrap_or_default();
    let first = status.pod_ips.unwrap_or_default().into_iter().next().map(|ip| ip.ip);
    let ip = first.or(status.pod_ip).and_then(|ip| ip.parse().ok()).filter(is_global_unicast);
    let ip = ip.ok_or_else(|| Status::bad_request("address not allowed"))?;
    Ok(Target { address: SocketAddr::new(ip, port), transport: wanted.transport })
}

/// The address of one of a Service's pods, taken at random.
pub(super) async fn service(objects: &dyn Objects, namespace: &str, id: &str) -> Result<Target, Status> {
    let wanted = Name::of(id, "service")?;
    let mut port_name = wanted.port.to_owned();
    if let Ok(number) = wanted.port.parse::<i64>() {
        let read = objects.get_json("", "services", namespace, wanted.name).await.map_err(Status::internal_error)?;
        let json = read.ok_or_else(|| Status::not_found(&GroupResource::new("", "services"), wanted.name))?;
        port_name = declared_port(&json, number).ok_or_else(|| {
            Status::service_unavailable(format!("no service port {number} found for service {:?}", wanted.name))
        })?;
    }
    let endpoints: Option<Endpoints> = objects::get(objects, namespace, wanted.name).await.map_err(Status::internal_error)?;
    let endpoints = endpoints.ok_or_else(|| Status::not_found(&GroupResource::new("", "services"), wanted.name))?;
    let mut candidates: Vec<(EndpointAddress, u16)> = Vec::new();
    let subsets = endpoints.subsets.unwrap_or_default();
    if subsets.is_empty() {
        return Err(Status::service_unavailable(format!("no endpoints available for service {:?}", wanted.name)));
    }
    for subset in subsets {
        let ports = subset.ports.unwrap_or_default();
        let port = ports.iter().find(|port| port.name.as_deref().unwrap_or_default() == port_name);
        let Some(port) = port.and_then(|port| u16::try_from(port.port).ok()) else { continue };
        candidates.extend(subset.addresses.unwrap_or_default().into_iter().map(|address| (address, port)));
    }
    // Whether an address is a pod's is asked of one after the other: usually of one.
    while !candidates.is_empty() {
        let (address, port) = candidates.swap_remove(rand::rng().random_range(..candidates.len()));
        if let Some(ip) = pod_address(objects, namespace, &address).await? {
            return Ok(Target { address: SocketAddr::new(ip, port), transport: wanted.transport });
        }
    }
    Err(Status::service_unavailable(format!("no endpoints available for service {id:?}")))
}

/// The name of a Service's port by its number; empty for one without a name.
fn declared_port(service: &[u8], number: i64) -> Option<String> {
    let service: Json = serde_json::from_slice(service).ok()?;
    let port = service["spec"]["ports"].as_array()?.iter().find(|port| port["port"].as_i64() == Some(number))?;
    Some(port["name"].as_str().unwrap_or_default().to_owned())
}

/// The address if it is that of a pod of the namespace: endpoints that a user wrote must not lead anywhere else.
async fn pod_address(objects: &dyn Objects, namespace: &str, address: &EndpointAddress) -> Result<Option<IpAddr>, Status> {
    let Some(reference) = &address.target_ref else { return Ok(None) };
    if reference.namespace.as_deref() != Some(namespace) {
        return Ok(None);
    }
    let name = reference.name.as_deref().unwrap_or_default();
    let pod: Option<Pod> = objects::get(objects, namespace, name).await.map_err(Status::internal_error)?;
    let ips = pod.and_then(|pod| pod.status).and_then(|status| status.pod_ips).unwrap_or_default();
    let is_own = ips.iter().any(|ip| ip.ip == address.ip);
    Ok(address.ip.parse().ok().filter(|_| is_own))
}

/// The kubelet of a node, or another port of its address.
pub(super) async fn node(objects: &dyn Objects, id: &str) -> Result<Target, Status> {
    let wanted = Name::of(id, "node")?;
    let node: Option<Node> = objects::get(objects, "", wanted.name).await.map_err(Status::internal_error)?;
    let node = node.ok_or_else(|| Status::not_found(&GroupResource::new("", "nodes"), wanted.name))?;
    let kubelet = kubelet_of(&node)?;
    if !is_global_unicast(&kubelet.ip()) {
        return Err(Status::bad_request("address not allowed"));
    }
    if wanted.port.is_empty() || wanted.port == kubelet.port().to_string() {
        return Ok(Target { address: kubelet, transport: Transport::Kubelet });
    }
    let port = wanted.port.parse().map_err(|_| Status::bad_request(format!("invalid node request {id:?}")))?;
    Ok(Target { address: SocketAddr::new(kubelet.ip(), port), transport: wanted.transport })
}

/// Go's `IP.IsGlobalUnicast`: private networks count, loopback and link-local addresses (the cloud's metadata service) do not.
fn is_global_unicast(ip: &IpAddr) -> bool {
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    !(ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || link_local)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_a_scheme_and_a_port() {
        use Transport::{Http, Https};
        let check = |id: &str, expected: Option<(Transport, &str, &str)>| {
            let expected = expected.map(|(transport, name, port)| Name { transport, name, port });
            assert_eq!(Name::parse(id), expected, "{id}");
        };
        check("a", Some((Http, "a", "")));
        check("a:", Some((Http, "a", "")));
        check("a:80", Some((Http, "a", "80")));
        check("http:a:web", Some((Http, "a", "web")));
        check("https:a:", Some((Https, "a", "")));
        check(":a:1", Some((Http, "a", "1")));
        check("ftp:a:1", None);
        check("http::1", None);
        check("a:b:c:d", None);
        check("", None);
    }

    #[test]
    fn addresses_of_the_machine_itself_are_refused() {
        for (ip, expected) in [
            ("10.42.0.3", true),
            ("fd00::3", true),
            ("127.0.0.1", false),
            ("169.254.169.254", false),
            ("fe80::1", false),
            ("0.0.0.0", false),
            ("224.0.0.1", false),
        ] {
            assert_eq!(is_global_unicast(&ip.parse().expect("an address")), expected, "{ip}");
        }
    }

    #[test]
    fn ports_of_a_service_by_number() {
        let service = br#"{"spec": {"ports": [{"port": 80}, {"port": 443, "name": "tls"}]}}"#;
        assert_eq!(declared_port(service, 80).as_deref(), Some(""));
        assert_eq!(declared_port(service, 443).as_deref(), Some("tls"));
        assert_eq!(declared_port(service, 81), None);
    }
}
