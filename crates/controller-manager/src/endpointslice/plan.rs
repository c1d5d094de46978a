//! The EndpointSlices of a service, from its pods and the slices that exist. Pure.
//!
//! Per address family and set of ports, endpoints stay in the slice they are in, so that a change touches as few slices
//! as possible; how many fit into one is the caller's to say. Topology-aware hints (annotation) are not made; traffic
//! distribution hints (KEP-4444) are.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ObjectReference, Pod, Service, ServiceSpec};
use k8s_openapi::api::discovery::v1::{
    Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, ForNode, ForZone,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;

use crate::ownership::controller_reference;
use crate::pod_state::{is_ready, node_name};
use crate::pod_template::NAME_LEN_MAX;
use crate::service_pods::{addresses, hostname, is_endpoint, is_headless, target_port};

pub(crate) const MANAGED_BY: (&str, &str) = ("endpointslice.kubernetes.io/managed-by", "endpointslice-controller.k8s.io");
pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";
const HEADLESS: &str = "service.kubernetes.io/headless";
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) create: Vec<EndpointSlice>,
    pub(super) update: Vec<EndpointSlice>,
    pub(super) delete: Vec<Arc<EndpointSlice>>,
    /// Pods on nodes that are not known (yet): look again.
    pub(super) missing_nodes: bool,
}

/// What is known of a node.
pub(super) enum Node {
    Unknown,
    Known { zone: Option<String> },
}

/// `existing` are the slices of this service that this controller manages; no slice gets more than `max` endpoints.
pub(super) fn plan(
    service: &Service,
    pods: &[Arc<Pod>],
    existing: Vec<Arc<EndpointSlice>>,
    max: usize,
    node: impl Fn(&str) -> Node,
) -> Plan {
    let Some(spec) = service.spec.as_ref() else {
        return Plan::default();
    };
    let families = address_types(spec);
    let mut plan = Plan::default();
    let (mut existing, obsolete): (Vec<_>, Vec<_>) =
        existing.into_iter().partition(|slice| families.contains(slice.address_type.as_str()));
    plan.delete = obsolete;
    for family in families {
        let (of_family, others) = existing.into_iter().partition(|slice| slice.address_type == family);
        existing = others;
        let desired = desired_endpoints(service, spec, pods, family, &node, &mut plan.missing_nodes);
        plan_family((service, spec), family, desired, of_family, max, &mut plan);
    }
    plan
}

fn address_types(spec: &ServiceSpec) -> BTreeSet<&'static str> {
    let families: BTreeSet<_> = spec
        .ip_families
        .iter()
        .flatten()
        .filter_map(|family| match family.as_str() {
            "IPv4" => Some("IPv4"),
            "IPv6" => Some("IPv6"),
            _ => None,
        })
        .collect();
    if !families.is_empty() {
        return families;
    }
    match spec.cluster_ip.as_deref() {
        None | Some("" | "None") => ["IPv4", "IPv6"].into(),
        Some(ip) if ip.contains(':') => ["IPv6"].into(),
        Some(_) => ["IPv4"].into(),
    }
}

/// What makes an endpoint the same one although its conditions changed.
pub(crate) type Identity = (Vec<String>, Option<String>, Option<String>, Option<String>);

pub(crate) fn identity(endpoint: &Endpoint) -> Identity {
    let mut addresses = endpoint.addresses.clone();
    addresses.sort();
    let target = endpoint.target_ref.as_ref();
    (
        addresses,
        endpoint.hostname.clone().filter(|hostname| !hostname.is_empty()),
        target.and_then(|target| target.namespace.clone()),
        target.and_then(|target| target.name.clone()),
    )
}

/// A set of ports as a key, whatever their order.
pub(crate) type PortKey = BTreeSet<(Option<String>, Option<i32>, Option<String>, Option<String>)>;

pub(crate) fn port_key(ports: &[EndpointPort]) -> PortKey {
    ports
        .iter()
        .map(|port| {
            let name = port.name.clone().filter(|name| !name.is_empty());
            (name, port.port, port.protocol.clone(), port.app_protocol.clone())
        })
        .collect()
}

#[derive(Default)]
struct Group {
    ports: Vec<EndpointPort>,
    endpoints: BTreeMap<Identity, Endpoint>,
}

fn desired_endpoints(
    service: &Service,
    spec: &ServiceSpec,
    pods: &[Arc<Pod>],
    family: &str,
    node: &impl Fn(&str) -> Node,
    missing_nodes: &mut bool,
) -> BTreeMap<PortKey, Group> {
    let mut groups: BTreeMap<PortKey, Group> = BTreeMap::new();
    for pod in pods.iter().filter(|pod| is_endpoint(pod, true)) {
        let ports = endpoint_ports(spec, pod);
        let group = groups.entry(port_key(&ports)).or_default();
        group.ports = ports;
        let zone = match node(node_name(pod)) {
            Node::Known { zone } => zone,
            Node::Unknown if spec.publish_not_ready_addresses == Some(true) => None,
            Node::Unknown => {
                *missing_nodes = true;
                continue;
            }
        };
        let endpoint = endpoint(service, spec, pod, family, zone);
        if !endpoint.addresses.is_empty() {
            group.endpoints.insert(identity(&endpoint), endpoint);
        }
    }
    groups
}

fn endpoint_ports(spec: &ServiceSpec, pod: &Pod) -> Vec<EndpointPort> {
    let ports = spec.ports.iter().flatten();
    ports
        .filter_map(|port| {
            Some(EndpointPort {
                name: Some(port.name.clone().unwrap_or_default()),
                port: Some(target_port(pod, port)?),
                protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".into())),
                app_protocol: port.app_protocol.clone(),
            })
        })
        .collect()
}

fn endpoint(service: &Service, spec: &ServiceSpec, pod: &Pod, family: &str, zone: Option<String>) -> Endpoint {
    let serving = is_ready(pod);
    let terminating = pod.metadata.deletion_timestamp.is_some();
    let ready = spec.publish_not_ready_addresses == Some(true) || (serving && !terminating);
    let node_name = Some(node_name(pod).to_owned()).filter(|name| !name.is_empty());
    let hints = hints(spec, ready, zone.as_deref(), node_name.as_deref());
    Endpoint {
        addresses: addresses(pod)
            .filter(|address| address.is_ipv6() == (family == "IPv6"))
            .map(|address| address.to_string())
            .collect(),
        conditions: Some(EndpointConditions { ready: Some(ready), serving: Some(serving), terminating: Some(terminating) }),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".into()),
            namespace: pod.namespace(),
            name: pod.metadata.name.clone(),
            uid: pod.uid(),
            ..Default::default()
        }),
        hostname: hostname(pod, service).map(str::to_owned),
        node_name,
        zone,
        hints,
        ..Default::default()
    }
}

fn hints(spec: &ServiceSpec, ready: bool, zone: Option<&str>, node: Option<&str>) -> Option<EndpointHints> {
    let distribution = spec.traffic_distribution.as_deref().unwrap_or("");
    let by_node = distribution == "PreferSameNode";
    if !ready || !(by_node || matches!(distribution, "PreferClose" | "PreferSameZone")) {
        return None;
    }
    let for_zones = zone.map(|zone| vec![ForZone { name: zone.into() }]);
    let for_nodes = node.filter(|_| by_node).map(|node| vec![ForNode { name: node.into() }]);
    (for_zones.is_some() || for_nodes.is_some()).then_some(EndpointHints { for_nodes, for_zones })
}

pub(crate) fn same_beyond_identity(a: &Endpoint, b: &Endpoint) -> bool {
    let target = |endpoint: &Endpoint| {
        let target = endpoint.target_ref.as_ref();
        target.map(|target| (target.kind.clone(), target.uid.clone()))
    };
    a.node_name == b.node_name && a.zone == b.zone && a.conditions == b.conditions && a.hints == b.hints && target(a) == target(b)
}

fn plan_family(
    (service, spec): (&Service, &ServiceSpec),
    family: &str,
    desired: BTreeMap<PortKey, Group>,
    existing: Vec<Arc<EndpointSlice>>,
    max: usize,
    plan: &mut Plan,
) {
    let labels = labels(service, spec);
    let mut by_ports: BTreeMap<PortKey, Vec<Arc<EndpointSlice>>> = BTreeMap::new();
    let total = existing.len();
    let mut changes = Plan::default();
    for slice in existing {
        if is_owned(&slice, service) {
            let key = port_key(slice.ports.as_deref().unwrap_or_default());
            by_ports.entry(key).or_default().push(slice);
        } else {
            changes.delete.push(slice);
        }
    }
    for (key, group) in desired {
        let slices = by_ports.remove(&key).unwrap_or_default();
        plan_ports((service, &labels, family), group, slices, max, &mut changes);
    }
    changes.delete.extend(by_ports.into_values().flatten());
    if changes.create.is_empty() && changes.delete.len() == total {
        keep_placeholder(service, &labels, family, &mut changes);
    }
    reuse_deleted(service, &mut changes);
    if service.metadata.deletion_timestamp.is_none() {
        plan.create.append(&mut changes.create);
    }
    plan.update.append(&mut changes.update);
    plan.delete.append(&mut changes.delete);
}

/// A service without endpoints keeps one empty slice, so that consumers know that it has none.
fn keep_placeholder(service: &Service, labels: &BTreeMap<String, String>, family: &str, changes: &mut Plan) {
    let placeholder = new_slice(service, labels, family, Vec::new());
    let is_placeholder = |slice: &EndpointSlice| {
        slice.metadata.labels.as_ref() == Some(labels)
            && slice.endpoints.is_empty()
            && slice.ports.iter().flatten().next().is_none()
            && is_owned(slice, service)
    };
    match &changes.delete[..] {
        [only] if is_placeholder(only) => changes.delete.clear(),
        _ => changes.create.push(placeholder),
    }
}

/// Rewriting a slice that would be deleted costs less than deleting it and creating another.
fn reuse_deleted(service: &Service, changes: &mut Plan) {
    let deleted = std::mem::take(&mut changes.delete);
    for old in deleted {
        if !is_owned(&old, service) || changes.create.is_empty() {
            changes.delete.push(old);
            continue;
        }
        if let Some(mut slice) = changes.create.pop() {
            slice.metadata = ObjectMeta {
                labels: slice.metadata.labels,
                owner_references: slice.metadata.owner_references,
                ..old.metadata.clone()
            };
            changes.update.push(slice);
        }
    }
}

fn plan_ports(
    (service, labels, family): (&Service, &BTreeMap<String, String>, &str),
    mut group: Group,
    existing: Vec<Arc<EndpointSlice>>,
    max: usize,
    changes: &mut Plan,
) {
    let mut updates: Vec<EndpointSlice> = Vec::new();
    let mut unchanged: Vec<Arc<EndpointSlice>> = Vec::new();
    for slice in existing {
        let mut kept = Vec::with_capacity(slice.endpoints.len());
        let mut changed = false;
        for endpoint in &slice.endpoints {
            if let Some(wanted) = group.endpoints.remove(&identity(endpoint)) {
                changed |= !same_beyond_identity(endpoint, &wanted);
                kept.push(wanted);
            }
        }
        changed |= kept.len() != slice.endpoints.len();
        if changed && kept.is_empty() {
            changes.delete.push(slice);
        } else if changed || slice.metadata.labels.as_ref() != Some(labels) {
            let mut updated = EndpointSlice::clone(&slice);
            updated.endpoints = kept;
            updated.metadata.labels = Some(labels.clone());
            updates.push(updated);
        } else {
            unchanged.push(slice);
        }
    }
    let mut left: Vec<Endpoint> = group.endpoints.into_values().collect();
    // Slices that are written anyway are filled first, the fullest first.
    updates.sort_by_key(|slice| std::cmp::Reverse(slice.endpoints.len()));
    for slice in &mut updates {
        fill(slice, &mut left, max);
    }
    while !left.is_empty() {
        let mut slice = match fullest_with_room(&unchanged, left.len(), max) {
            Some(index) => EndpointSlice::clone(&unchanged.swap_remove(index)),
            None => new_slice(service, labels, family, group.ports.clone()),
        };
        fill(&mut slice, &mut left, max);
        if slice.metadata.name.is_some() {
            updates.push(slice);
        } else {
            changes.create.push(slice);
        }
    }
    changes.update.append(&mut updates);
}

fn fill(slice: &mut EndpointSlice, left: &mut Vec<Endpoint>, max: usize) {
    let room = max.saturating_sub(slice.endpoints.len()).min(left.len());
    slice.endpoints.extend(left.drain(..room));
}

/// The slice that is fullest with `count` more.
fn fullest_with_room(slices: &[Arc<EndpointSlice>], count: usize, max: usize) -> Option<usize> {
    (0..slices.len()).filter(|i| slices[*i].endpoints.len() + count <= max).max_by_key(|i| slices[*i].endpoints.len())
}

fn is_owned(slice: &EndpointSlice, service: &Service) -> bool {
    slice
        .owner_references()
        .iter()
        .any(|owner| Some(&owner.uid) == service.metadata.uid.as_ref() && owner.kind == "Service" && owner.api_version == "v1")
}

fn labels(service: &Service, spec: &ServiceSpec) -> BTreeMap<String, String> {
    let reserved = [SERVICE_NAME, MANAGED_BY.0, HEADLESS];
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.retain(|key, _| !reserved.contains(&key.as_str()));
    if is_headless(spec) {
        labels.insert(HEADLESS.into(), String::new());
    }
    labels.insert(SERVICE_NAME.into(), service.name_any());
    labels.insert(MANAGED_BY.0.into(), MANAGED_BY.1.into());
    labels
}

fn new_slice(service: &Service, labels: &BTreeMap<String, String>, family: &str, ports: Vec<EndpointPort>) -> EndpointSlice {
    let name = service.name_any();
    let separator = if name.len() < NAME_LEN_MAX { "-" } else { "" };
    EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(format!("{name}{separator}")),
            namespace: service.namespace(),
            labels: Some(labels.clone()),
            owner_references: Some(vec![controller_reference(service)]),
            ..Default::default()
        },
        address_type: family.into(),
        endpoints: Vec::new(),
        ports: Some(ports),
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
