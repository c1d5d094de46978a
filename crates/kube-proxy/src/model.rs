//! What the proxy needs of a Service and its EndpointSlices, without the API's optional fields.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use client::NamespacedName;
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// Services and slices with one of these labels are not for this proxy: they belong to another one, or shall have none.
const NOT_OURS_LABELS: [&str; 2] = ["service.kubernetes.io/service-proxy-name", "service.kubernetes.io/headless"];
/// The API's default for `sessionAffinityConfig.clientIP.timeoutSeconds`: three hours.
const AFFINITY_SECONDS_DEFAULT: i32 = 10_800;

/// A Service that wants translation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServiceInfo {
    pub(crate) name: NamespacedName,
    pub(crate) cluster_ips: Vec<IpAddr>,
    pub(crate) external_ips: Vec<IpAddr>,
    pub(crate) load_balancer_ips: Vec<IpAddr>,
    /// Empty means all.
    pub(crate) source_ranges: Vec<(IpAddr, u8)>,
    /// `sessionAffinity: ClientIP` with its timeout.
    pub(crate) affinity: Option<Duration>,
    pub(crate) internal_local: bool,
    pub(crate) external_local: bool,
    pub(crate) health_check_node_port: Option<u16>,
    pub(crate) ports: Vec<PortInfo>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PortInfo {
    pub(crate) protocol: u8,
    pub(crate) port: u16,
    pub(crate) node_port: Option<u16>,
    /// Sorted by address, without duplicates.
    pub(crate) endpoints: Vec<EndpointInfo>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EndpointInfo {
    pub(crate) address: SocketAddr,
    pub(crate) ready: bool,
    pub(crate) serving: bool,
    pub(crate) terminating: bool,
    /// On this node.
    pub(crate) local: bool,
}

impl ServiceInfo {
    /// `None` if the Service wants no translation: headless, ExternalName, not yet allocated, or another proxy's.
    pub(crate) fn digest(service: &Service, slices: &[Arc<EndpointSlice>], node_name: &str) -> Option<Self> {
        let spec = service.spec.as_ref()?;
        if is_not_ours(&service.metadata) || spec.type_.as_deref() == Some("ExternalName") {
            return None;
        }
        let cluster_ips = cluster_ips(spec);
        if cluster_ips.is_empty() {
            return None;
        }
        let ports = spec.ports.iter().flatten().filter_map(|port| port_info(port, slices, node_name)).collect();
        let is = |value: &Option<String>, wanted: &str| value.as_deref() == Some(wanted);
        let external_local = is(&spec.external_traffic_policy, "Local");
        Some(Self {
            name: NamespacedName::of(service),
            cluster_ips,
            external_ips: addresses(spec.external_ips.as_deref().unwrap_or_default().iter().map(String::as_str)),
            load_balancer_ips: load_balancer_ips(service),
            source_ranges: source_ranges(spec),
            affinity: affinity(spec),
            internal_local: is(&spec.internal_traffic_policy, "Local"),
            external_local,
            health_check_node_port: spec
                .health_check_node_port
                .filter(|_| external_local && is(&spec.type_, "LoadBalancer"))
                .and_then(port_number),
            ports,
        })
    }

    /// Distinct addresses of endpoints on this node that take traffic, for the health check port.
    pub(crate) fn local_endpoints(&self) -> usize {
        let mut addresses: Vec<IpAddr> = self
            .ports
            .iter()
            .flat_map(|port| &port.endpoints)
            .filter(|endpoint| endpoint.local && endpoint.ready)
            .map(|endpoint| endpoint.address.ip())
            .collect();
        addresses.sort_unstable();
        addresses.dedup();
        addresses.len()
    }
}

fn cluster_ips(spec: &ServiceSpec) -> Vec<IpAddr> {
    match spec.cluster_ips.as_deref() {
        Some(ips) if !ips.is_empty() => addresses(ips.iter().map(String::as_str)),
        _ => addresses(spec.cluster_ip.as_deref().into_iter()),
    }
}

/// "None" and "" are no addresses.
fn addresses<'a>(texts: impl Iterator<Item = &'a str>) -> Vec<IpAddr> {
    texts.filter_map(|text| text.parse().ok()).collect()
}

/// The addresses of a Service's load balancer that are the proxy's to translate.
pub(crate) fn load_balancer_ips(service: &Service) -> Vec<IpAddr> {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = status.and_then(|status| status.ingress.as_deref()).unwrap_or_default();
    // KEP-1860: in Proxy mode packets must go through the load balancer, so its address is not ours to translate.
    let vip = ingress.iter().filter(|ingress| ingress.ip_mode.as_deref() != Some("Proxy"));
    addresses(vip.filter_map(|ingress| ingress.ip.as_deref()))
}

fn source_ranges(spec: &ServiceSpec) -> Vec<(IpAddr, u8)> {
    let ranges = spec.load_balancer_source_ranges.as_deref().unwrap_or_default();
    let parse = |text: &String| {
        let (address, prefix_len) = text.trim().split_once('/')?;
        Some((address.parse().ok()?, prefix_len.parse().ok()?))
    };
    ranges.iter().filter_map(parse).collect()
}

fn affinity(spec: &ServiceSpec) -> Option<Duration> {
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return None;
    }
    let config = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    let seconds = config.and_then(|config| config.timeout_seconds).unwrap_or(AFFINITY_SECONDS_DEFAULT);
    Some(Duration::from_secs(seconds.max(1) as u64))
}

pub(crate) fn protocol_number(name: Option<&str>) -> Option<u8> {
    match name.unwrap_or("TCP") {
        "TCP" => Some(6),
        "UDP" => Some(17),
        "SCTP" => Some(132),
        _ => None,
    }
}

fn port_number(port: i32) -> Option<u16> {
    u16::try_from(port).ok().filter(|port| *port != 0)
}

fn is_not_ours(metadata: &ObjectMeta) -> bool {
    metadata.labels.as_ref().is_some_and(|labels| NOT_OURS_LABELS.iter().any(|label| labels.contains_key(*label)))
}

fn port_info(port: &ServicePort, slices: &[Arc<EndpointSlice>], node_name: &str) -> Option<PortInfo> {
    let protocol = protocol_number(port.protocol.as_deref())?;
    let name = port.name.as_deref().unwrap_or_default();
    let mut endpoints = Vec::new();
    for slice in slices.iter().filter(|slice| !is_not_ours(&slice.metadata)) {
        let slice_ports = slice.ports.as_deref().unwrap_or_default().iter().filter(|candidate| {
            candidate.name.as_deref().unwrap_or_default() == name
                && protocol_number(candidate.protocol.as_deref()) == Some(protocol)
        });
        for number in slice_ports.filter_map(|port| port_number(port.port?)) {
            endpoints.extend(slice.endpoints.iter().filter_map(|one| endpoint_info(one, number, node_name)));
        }
    }
    // The same pod may be in two slices while the controller moves it; the usable one comes first.
    endpoints.sort_by_key(|endpoint: &EndpointInfo| (endpoint.address, !endpoint.ready, !endpoint.serving));
    endpoints.dedup_by_key(|endpoint| endpoint.address);
    Some(PortInfo { protocol, port: port_number(port.port)?, node_port: port.node_port.and_then(port_number), endpoints })
}

fn endpoint_info(endpoint: &Endpoint, port: u16, node_name: &str) -> Option<EndpointInfo> {
    // The addresses of one endpoint are the same host; upstream uses the first alone, too. An FQDN does not parse.
    let address: IpAddr = endpoint.addresses.first()?.parse().ok()?;
    let conditions = endpoint.conditions.as_ref();
    let ready = conditions.and_then(|conditions| conditions.ready).unwrap_or(true);
    Some(EndpointInfo {
        address: SocketAddr::new(address, port),
        ready,
        serving: conditions.and_then(|conditions| conditions.serving).unwrap_or(ready),
        terminating: conditions.and_then(|conditions| conditions.terminating).unwrap_or(false),
        local: endpoint.node_name.as_deref() == Some(node_name),
    })
}

/// The endpoints of one port that take traffic.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Usable {
    pub(crate) cluster: Vec<SocketAddr>,
    pub(crate) local: Vec<SocketAddr>,
    /// All that are local to this node and in either list.
    pub(crate) on_node: Vec<IpAddr>,
}

impl PortInfo {
    /// Ready endpoints of a family; where there are none, those that still serve while they terminate (KEP-1669),
    /// separately for the whole cluster and for this node.
    pub(crate) fn usable(&self, ipv6: bool) -> Usable {
        let of_family = || self.endpoints.iter().filter(move |endpoint| endpoint.address.is_ipv6() == ipv6);
        let choose = |local_only: bool| -> Vec<&EndpointInfo> {
            let reachable = || of_family().filter(move |endpoint| endpoint.local || !local_only);
            let ready: Vec<_> = reachable().filter(|endpoint| endpoint.ready).collect();
            if !ready.is_empty() {
                return ready;
            }
            reachable().filter(|endpoint| endpoint.serving && endpoint.terminating).collect()
        };
        let (cluster, local) = (choose(false), choose(true));
        let mut on_node: Vec<IpAddr> =
            cluster.iter().chain(&local).filter(|endpoint| endpoint.local).map(|endpoint| endpoint.address.ip()).collect();
        on_node.sort_unstable();
        on_node.dedup();
        let address = |endpoint: &EndpointInfo| endpoint.address;
        Usable { cluster: cluster.into_iter().map(address).collect(), local: local.into_iter().map(address).collect(), on_node }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(text: &str, state: &str) -> EndpointInfo {
        let has = |flag| state.contains(flag);
        EndpointInfo {
            address: text.parse().unwrap(),
            ready: has('r'),
            serving: has('r') || has('s'),
            terminating: has('t'),
            local: has('l'),
        }
    }

    #[test]
    fn terminating_endpoints_serve_only_where_no_ready_one_does() {
        let check = |endpoints: &[(&str, &str)], cluster: &[&str], local: &[&str]| {
            let endpoints = endpoints.iter().map(|(text, state)| endpoint(text, state)).collect();
            let port = PortInfo { protocol: 6, port: 80, node_port: None, endpoints };
            let usable = port.usable(false);
            let texts = |list: &[SocketAddr]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
            assert_eq!(texts(&usable.cluster), cluster);
            assert_eq!(texts(&usable.local), local);
        };
        check(&[("10.0.0.1:80", "r"), ("10.0.0.2:80", "rl")], &["10.0.0.1:80", "10.0.0.2:80"], &["10.0.0.2:80"]);
        check(&[("10.0.0.1:80", "r"), ("10.0.0.2:80", "stl")], &["10.0.0.1:80"], &["10.0.0.2:80"]);
        check(&[("10.0.0.1:80", "st"), ("10.0.0.2:80", "tl")], &["10.0.0.1:80"], &[]);
        check(&[("10.0.0.1:80", "s"), ("[fd00::1]:80", "r")], &[], &[]);
    }

    #[test]
    fn services_without_translation_are_left_alone() {
        let check = |json: &str, expected: bool| {
            let service: Service = serde_json::from_str(json).unwrap();
            assert_eq!(ServiceInfo::digest(&service, &[], "node").is_some(), expected, "{json}");
        };
        check(r#"{"spec":{"clusterIP":"10.43.0.1","ports":[{"port":80}]}}"#, true);
        check(r#"{"spec":{"clusterIP":"None","clusterIPs":["None"],"ports":[{"port":80}]}}"#, false);
        check(r#"{"spec":{"type":"ExternalName","externalName":"example.org"}}"#, false);
        check(r#"{"spec":{"ports":[{"port":80}]}}"#, false);
        for label in NOT_OURS_LABELS {
            check(&format!(r#"{{"metadata":{{"labels":{{"{label}":""}}}},"spec":{{"clusterIP":"10.43.0.1"}}}}"#), false);
        }
    }

    #[test]
    fn ports_are_matched_by_name_and_protocol() {
        let service: Service = serde_json::from_str(
            r#"{"metadata":{"name":"s","namespace":"n"},"spec":{"clusterIP":"10.43.0.1","type":"LoadBalancer",
            "externalTrafficPolicy":"Local","healthCheckNodePort":30123,"sessionAffinity":"ClientIP",
            "ports":[{"name":"dns","port":53,"protocol":"UDP"},{"name":"web","port":80,"nodePort":30080}]},
            "status":{"loadBalancer":{"ingress":[{"ip":"192.0.2.9"},{"ip":"192.0.2.8","ipMode":"Proxy"}]}}}"#,
        )
        .unwrap();
        let slice: EndpointSlice = serde_json::from_str(
            r#"{"addressType":"IPv4","metadata":{},
            "ports":[{"name":"dns","port":5353,"protocol":"UDP"},{"name":"web","port":8080}],
            "endpoints":[{"addresses":["10.42.0.9"],"nodeName":"here"},{"addresses":["10.42.1.5"],"nodeName":"there",
            "conditions":{"ready":false,"serving":true,"terminating":true}}]}"#,
        )
        .unwrap();
        let slice = Arc::new(slice);
        let info = ServiceInfo::digest(&service, &[Arc::clone(&slice), slice], "here").unwrap();
        assert_eq!(info.load_balancer_ips, ["192.0.2.9".parse::<IpAddr>().unwrap()]);
        assert_eq!(info.affinity, Some(Duration::from_secs(10_800)));
        assert_eq!(info.health_check_node_port, Some(30_123));
        assert_eq!(info.local_endpoints(), 1);
        let web = &info.ports[1];
        assert_eq!((web.port, web.node_port, web.endpoints.len()), (80, Some(30_080), 2));
        assert_eq!(web.endpoints[0], endpoint("10.42.0.9:8080", "rl"));
        assert_eq!(web.endpoints[1], endpoint("10.42.1.5:8080", "st"));
        assert_eq!(info.ports[0].endpoints[0].address.port(), 5353);
    }
}
