//! The Endpoints object of a service, from its pods. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, ObjectReference, Pod, Service, ServicePort, ServiceSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;

use crate::pod_state::{is_ready, node_name};
use crate::service_pods::{addresses, hostname, is_endpoint, is_headless, target_port};

const HEADLESS: &str = "service.kubernetes.io/headless";
const MANAGED_BY: (&str, &str) = ("endpoints.kubernetes.io/managed-by", "endpoint-controller");
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
/// Most addresses in one object.
const ADDRESSES_MAX: usize = 1000;

/// The object as it should be; `None` if it is so already.
pub(super) fn plan(service: &Service, pods: &[Arc<Pod>], current: Option<&Endpoints>) -> Option<Endpoints> {
    let spec = service.spec.as_ref()?;
    let mut subsets = repack(subsets(service, spec, pods));
    let truncated = truncate(&mut subsets);
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    if is_headless(spec) {
        labels.insert(HEADLESS.into(), String::new());
    }
    labels.insert(MANAGED_BY.0.into(), MANAGED_BY.1.into());
    let mut wanted = current.cloned().unwrap_or_else(|| Endpoints {
        metadata: ObjectMeta { name: service.metadata.name.clone(), namespace: service.namespace(), ..Default::default() },
        subsets: None,
    });
    if let Some(current) = current {
        let annotated = current.annotations().contains_key(OVER_CAPACITY);
        let as_packed = current.subsets.as_deref().unwrap_or_default();
        let same = as_packed == subsets || repack(as_packed.iter().cloned()) == subsets;
        if same && current.labels() == &labels && annotated == truncated {
            return None;
        }
    }
    wanted.subsets = Some(subsets).filter(|subsets| !subsets.is_empty());
    wanted.metadata.labels = Some(labels);
    if truncated {
        let annotations = wanted.metadata.annotations.get_or_insert_default();
        annotations.insert(OVER_CAPACITY.into(), "truncated".into());
    } else if let Some(annotations) = &mut wanted.metadata.annotations {
        annotations.remove(OVER_CAPACITY);
    }
    Some(wanted)
}

/// One subset per pod and port.
fn subsets(service: &Service, spec: &ServiceSpec, pods: &[Arc<Pod>]) -> Vec<EndpointSubset> {
    let tolerate_unready = spec.publish_not_ready_addresses == Some(true);
    let mut subsets = Vec::new();
    for pod in pods.iter().filter(|pod| is_endpoint(pod, tolerate_unready)) {
        let Some(address) = address(service, spec, pod) else { continue };
        let ready = tolerate_unready || is_ready(pod);
        let mut add = |ports: Option<Vec<EndpointPort>>| {
            let addresses = Some(vec![address.clone()]);
            subsets.push(if ready {
                EndpointSubset { addresses, ports, ..Default::default() }
            } else {
                EndpointSubset { not_ready_addresses: addresses, ports, ..Default::default() }
            });
        };
        let ports: Vec<&ServicePort> = spec.ports.iter().flatten().collect();
        if ports.is_empty() && is_headless(spec) {
            add(None);
        }
        for port in ports {
            let Some(number) = target_port(pod, port) else { continue };
            add(Some(vec![EndpointPort {
                name: port.name.clone().filter(|name| !name.is_empty()),
                port: number,
                protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".into())),
                app_protocol: port.app_protocol.clone(),
            }]));
        }
    }
    subsets
}

/// The pod's first address of the service's first family.
fn address(service: &Service, spec: &ServiceSpec, pod: &Pod) -> Option<EndpointAddress> {
    let first = spec.ip_families.iter().flatten().next().map(String::as_str);
    let ipv6 = match first {
        Some(family) => family == "IPv6",
        None => spec.cluster_ip.as_deref().is_some_and(|ip| ip.contains(':')),
    };
    let ip = addresses(pod).find(|address| address.is_ipv6() == ipv6)?;
    Some(EndpointAddress {
        ip: ip.to_string(),
        hostname: hostname(pod, service).map(str::to_owned),
        node_name: Some(node_name(pod).to_owned()).filter(|name| !name.is_empty()),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".into()),
            namespace: pod.namespace(),
            name: pod.metadata.name.clone(),
            uid: pod.uid(),
            ..Default::default()
        }),
    })
}

type PortKey = (Option<String>, i32, Option<String>, Option<String>);
/// Address, UID of its pod, readiness.
type AddressKey = (String, Option<String>, bool);

/// Ports with the same addresses share a subset; the order is canonical.
fn repack(subsets: impl IntoIterator<Item = EndpointSubset>) -> Vec<EndpointSubset> {
    let mut addresses: BTreeMap<AddressKey, EndpointAddress> = BTreeMap::new();
    let mut by_port: BTreeMap<Option<PortKey>, BTreeSet<AddressKey>> = BTreeMap::new();
    for subset in subsets {
        let ready = subset.addresses.into_iter().flatten().map(|address| (address, true));
        let unready = subset.not_ready_addresses.into_iter().flatten().map(|address| (address, false));
        let mut keys = BTreeSet::new();
        for (address, ready) in ready.chain(unready) {
            let uid = address.target_ref.as_ref().and_then(|target| target.uid.clone());
            let key = (address.ip.clone(), uid, ready);
            addresses.insert(key.clone(), address);
            keys.insert(key);
        }
        let ports: Vec<_> = subset.ports.into_iter().flatten().collect();
        if ports.is_empty() {
            by_port.entry(None).or_default().extend(keys.iter().cloned());
        }
        for port in ports {
            let key = (port.name, port.port, port.protocol, port.app_protocol);
            by_port.entry(Some(key)).or_default().extend(keys.iter().cloned());
        }
    }
    let mut by_addresses: BTreeMap<BTreeSet<AddressKey>, Vec<PortKey>> = BTreeMap::new();
    for (port, keys) in by_port {
        by_addresses.entry(keys).or_default().extend(port);
    }
    by_addresses.into_iter().map(|(keys, ports)| subset(&keys, ports, &addresses)).collect()
}

fn subset(keys: &BTreeSet<AddressKey>, ports: Vec<PortKey>, addresses: &BTreeMap<AddressKey, EndpointAddress>) -> EndpointSubset {
    let of = |ready: bool| {
        let chosen: Vec<_> = keys.iter().filter(|key| key.2 == ready).filter_map(|key| addresses.get(key).cloned()).collect();
        Some(chosen).filter(|chosen| !chosen.is_empty())
    };
    let ports: Vec<_> = ports
        .into_iter()
        .map(|(name, port, protocol, app_protocol)| EndpointPort { name, port, protocol, app_protocol })
        .collect();
    EndpointSubset { addresses: of(true), not_ready_addresses: of(false), ports: Some(ports).filter(|ports| !ports.is_empty()) }
}

/// Cuts down to the capacity, unready addresses first; whether anything was cut.
fn truncate(subsets: &mut [EndpointSubset]) -> bool {
    let count = |of: &dyn Fn(&EndpointSubset) -> usize| subsets.iter().map(of).sum::<usize>();
    let ready = count(&|subset| subset.addresses.as_ref().map_or(0, Vec::len));
    let unready = count(&|subset| subset.not_ready_addresses.as_ref().map_or(0, Vec::len));
    if ready + unready <= ADDRESSES_MAX {
        return false;
    }
    let cut_ready = ready > ADDRESSES_MAX;
    let (room, total) = if cut_ready { (ADDRESSES_MAX, ready) } else { (ADDRESSES_MAX - ready, unready) };
    let mut left = room;
    for subset in subsets {
        if cut_ready {
            subset.not_ready_addresses = None;
        }
        let list = if cut_ready { &mut subset.addresses } else { &mut subset.not_ready_addresses };
        let Some(addresses) = list else { continue };
        // Each subset keeps its share, rounded up.
        let share = (addresses.len() * room).div_ceil(total).min(left);
        addresses.truncate(share);
        left -= addresses.len();
        if addresses.is_empty() {
            *list = None;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn service(ports: Value) -> Service {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "default", "labels": {"team": "a"}},
            "spec": {"selector": {"app": "web"}, "clusterIP": "10.0.0.1", "ipFamilies": ["IPv4"], "ports": ports},
        }))
        .expect("is a service")
    }

    fn pod(number: usize, ready: bool) -> Arc<Pod> {
        let status = if ready { "True" } else { "False" };
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"name": format!("p{number}"), "namespace": "default", "uid": format!("u{number}")},
                "spec": {"containers": [], "nodeName": "n1"},
                "status": {"phase": "Running", "podIPs": [{"ip": format!("10.1.{}.{}", number / 200, number % 200)}],
                    "conditions": [{"type": "Ready", "status": status}]},
            }))
            .expect("is a pod"),
        )
    }

    fn counts(endpoints: &Endpoints) -> Vec<(usize, usize, usize)> {
        let subsets = endpoints.subsets.iter().flatten();
        subsets
            .map(|subset| {
                (
                    subset.addresses.as_ref().map_or(0, Vec::len),
                    subset.not_ready_addresses.as_ref().map_or(0, Vec::len),
                    subset.ports.as_ref().map_or(0, Vec::len),
                )
            })
            .collect()
    }

    #[test]
    fn ports_with_the_same_pods_share_a_subset() {
        let two = json!([{"name": "a", "port": 1}, {"name": "b", "port": 2}]);
        let wanted = plan(&service(two), &[pod(1, true), pod(2, false)], None).expect("is made");
        assert_eq!(counts(&wanted), [(1, 1, 2)]);
        assert_eq!(wanted.labels()["team"], "a");
        assert_eq!(wanted.labels()[MANAGED_BY.0], MANAGED_BY.1);
    }

    #[test]
    fn nothing_is_written_when_nothing_changed() {
        let service = service(json!([{"port": 1}]));
        let first = plan(&service, &[pod(1, true)], None).expect("is made");
        assert_eq!(plan(&service, &[pod(1, true)], Some(&first)), None);
        let changed = plan(&service, &[pod(1, false)], Some(&first)).expect("changes");
        assert_eq!(counts(&changed), [(0, 1, 1)]);
        let emptied = plan(&service, &[], Some(&first)).expect("changes");
        assert_eq!(emptied.subsets, None);
        assert_eq!(plan(&service, &[], Some(&emptied)), None);
    }

    #[test]
    fn a_thousand_addresses_at_most() {
        let pods: Vec<_> = (0..1200).map(|n| pod(n, n < 900)).collect();
        let wanted = plan(&service(json!([{"port": 1}])), &pods, None).expect("is made");
        assert_eq!(counts(&wanted), [(900, 100, 1)]);
        assert_eq!(wanted.annotations()[OVER_CAPACITY], "truncated");
        assert_eq!(plan(&service(json!([{"port": 1}])), &pods, Some(&wanted)), None);
    }
}
