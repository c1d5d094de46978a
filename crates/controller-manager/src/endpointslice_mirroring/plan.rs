//! The slices that mirror Endpoints, from the slices that exist. Pure.
//!
//! One slice for each set of ports and address family, with at most as many addresses as the configuration says; the rest is told in
//! an event.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{EndpointAddress, Endpoints};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;

use super::subsets::repack;
use crate::endpointslice::{Identity, MANAGED_BY, PortKey, SERVICE_NAME, identity, port_key, same_beyond_identity};
use crate::ownership::controller_reference;
use crate::pod_template::NAME_LEN_MAX;

/// The value of the label that says who manages a slice.
pub(super) const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
/// Annotations of Endpoints that are about the object itself.
const OWN_ANNOTATIONS: [&str; 2] =
    ["endpoints.kubernetes.io/last-change-trigger-time", "kubectl.kubernetes.io/last-applied-configuration"];

#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) create: Vec<EndpointSlice>,
    pub(super) update: Vec<EndpointSlice>,
    pub(super) delete: Vec<Arc<EndpointSlice>>,
    pub(super) invalid: usize,
    pub(super) skipped: usize,
    pub(super) addresses_max: usize,
}

impl Plan {
    /// Events about what is not mirrored: reason and message.
    pub(super) fn warnings(&self) -> Vec<(&'static str, String)> {
        let mut warnings = Vec::new();
        if self.invalid > 0 {
            let message = format!("Skipped {} invalid IP addresses when mirroring to EndpointSlices", self.invalid);
            warnings.push(("InvalidIPAddress", message));
        }
        if self.skipped > self.invalid {
            let (most, skipped) = (self.addresses_max, self.skipped);
            let message = format!(
                "A max of {most} addresses can be mirrored to EndpointSlices per Endpoints subset. {skipped} addresses were skipped"
            );
            warnings.push(("TooManyAddressesToMirror", message));
        }
        warnings
    }
}

#[derive(Default)]
struct Group {
    ports: Vec<EndpointPort>,
    endpoints: BTreeMap<Identity, Endpoint>,
}

/// `existing` are the slices for these Endpoints that this controller manages.
pub(super) fn plan(endpoints: &Endpoints, existing: Vec<Arc<EndpointSlice>>, addresses_max: usize) -> Plan {
    let mut plan = Plan { addresses_max, ..Plan::default() };
    let desired = desired(endpoints, &mut plan);
    let mut by_key: BTreeMap<(String, PortKey), Vec<Arc<EndpointSlice>>> = BTreeMap::new();
    for slice in existing {
        let key = (slice.address_type.clone(), port_key(slice.ports.as_deref().unwrap_or_default()));
        by_key.entry(key).or_default().push(slice);
    }
    for (key, group) in desired {
        let slices = by_key.remove(&key).unwrap_or_default();
        plan_group(endpoints, &key.0, group, slices, &mut plan);
    }
    plan.delete.extend(by_key.into_values().flatten());
    reuse_deleted(&mut plan);
    if endpoints.metadata.deletion_timestamp.is_some() {
        plan.create.clear();
    }
    plan
}

fn desired(endpoints: &Endpoints, plan: &mut Plan) -> BTreeMap<(String, PortKey), Group> {
    let mut groups: BTreeMap<(String, PortKey), Group> = BTreeMap::new();
    for subset in repack(endpoints.subsets.as_deref().unwrap_or_default()) {
        let ports: Vec<EndpointPort> = subset
            .ports
            .into_iter()
            .map(|port| EndpointPort {
                name: Some(port.name.unwrap_or_default()),
                port: Some(port.port),
                protocol: Some(port.protocol.unwrap_or_else(|| "TCP".to_owned())),
                app_protocol: port.app_protocol,
            })
            .collect();
        let key = port_key(&ports);
        for family in ["IPv4", "IPv6"] {
            groups.entry((family.to_owned(), key.clone())).or_default().ports.clone_from(&ports);
        }
        let total = subset.addresses.len();
        let mut added = 0;
        for (address, ready) in &subset.addresses {
            if added >= plan.addresses_max {
                break;
            }
            let Some((family, endpoint)) = endpoint(address, *ready) else {
                plan.invalid += 1;
                continue;
            };
            added += 1;
            if let Some(group) = groups.get_mut(&(family.to_owned(), key.clone())) {
                group.endpoints.insert(identity(&endpoint), endpoint);
            }
        }
        plan.skipped += total - added;
    }
    groups
}

/// As Go's lenient parser reads it: numbers of IPv4 may have leading zeros.
fn parse_ip(text: &str) -> Option<IpAddr> {
    let parse = |text: &str| text.parse::<IpAddr>().ok();
    let strict = parse(text).or_else(|| {
        let trimmed = |part: &str| match part.trim_start_matches('0') {
            "" if !part.is_empty() => "0".to_owned(),
            rest => rest.to_owned(),
        };
        parse(&text.split('.').map(trimmed).collect::<Vec<_>>().join("."))
    });
    strict.map(|ip| ip.to_canonical())
}

fn endpoint(address: &EndpointAddress, ready: bool) -> Option<(&'static str, Endpoint)> {
    let ip = parse_ip(&address.ip)?;
    let endpoint = Endpoint {
        addresses: vec![ip.to_string()],
        conditions: Some(EndpointConditions { ready: Some(ready), ..Default::default() }),
        target_ref: address.target_ref.clone(),
        node_name: address.node_name.clone(),
        hostname: address.hostname.clone().filter(|hostname| !hostname.is_empty()),
        ..Default::default()
    };
    Some((if ip.is_ipv4() { "IPv4" } else { "IPv6" }, endpoint))
}

fn plan_group(endpoints: &Endpoints, family: &str, group: Group, mut existing: Vec<Arc<EndpointSlice>>, plan: &mut Plan) {
    if group.endpoints.is_empty() {
        plan.delete.append(&mut existing);
        return;
    }
    let mut existing = existing.into_iter();
    let first = existing.next();
    plan.delete.extend(existing);
    if first.as_ref().is_some_and(|slice| is_current(endpoints, slice, &group)) {
        return;
    }
    let mut slice = new_slice(endpoints, family, group);
    match first {
        Some(first) => {
            slice.metadata.generate_name = None;
            slice.metadata.name.clone_from(&first.metadata.name);
            slice.metadata.resource_version.clone_from(&first.metadata.resource_version);
            plan.update.push(slice);
        }
        None => plan.create.push(slice),
    }
}

fn is_current(endpoints: &Endpoints, slice: &EndpointSlice, group: &Group) -> bool {
    let mut labels = slice.labels().clone();
    labels.retain(|name, _| name != MANAGED_BY.0 && name != SERVICE_NAME);
    let owned_by_another = slice.owner_references().iter().any(|owner| {
        owner.kind == "Endpoints" && owner.name == endpoints.name_any() && Some(&owner.uid) != endpoints.metadata.uid.as_ref()
    });
    slice.endpoints.len() == group.endpoints.len()
        && slice
            .endpoints
            .iter()
            .all(|is| group.endpoints.get(&identity(is)).is_some_and(|wanted| same_beyond_identity(is, wanted)))
        && labels == *endpoints.labels()
        && *slice.annotations() == annotations(endpoints)
        && !owned_by_another
}

fn annotations(endpoints: &Endpoints) -> BTreeMap<String, String> {
    let mut annotations = endpoints.annotations().clone();
    annotations.retain(|name, _| !OWN_ANNOTATIONS.contains(&name.as_str()));
    annotations
}

fn new_slice(endpoints: &Endpoints, family: &str, group: Group) -> EndpointSlice {
    let name = endpoints.name_any();
    let separator = if name.len() < NAME_LEN_MAX { "-" } else { "" };
    let mut labels = endpoints.labels().clone();
    labels.insert(SERVICE_NAME.into(), name.clone());
    labels.insert(MANAGED_BY.0.into(), MANAGER.into());
    EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(format!("{name}{separator}")),
            namespace: endpoints.namespace(),
            labels: Some(labels),
            annotations: Some(annotations(endpoints)),
            owner_references: Some(vec![controller_reference(endpoints)]),
            ..Default::default()
        },
        address_type: family.into(),
        endpoints: group.endpoints.into_values().collect(),
        ports: Some(group.ports),
    }
}

/// Rewriting a slice that would be deleted costs less than deleting it and creating another of the same family.
fn reuse_deleted(plan: &mut Plan) {
    for mut slice in std::mem::take(&mut plan.create) {
        match plan.delete.iter().position(|old| old.address_type == slice.address_type) {
            Some(index) => {
                let old = plan.delete.remove(index);
                slice.metadata.generate_name = None;
                slice.metadata.name.clone_from(&old.metadata.name);
                slice.metadata.resource_version.clone_from(&old.metadata.resource_version);
                plan.update.push(slice);
            }
            None => plan.create.push(slice),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn endpoints(subsets: Value, more: Value) -> Endpoints {
        let mut meta = json!({"name": "s", "namespace": "ns", "uid": "u"});
        for (member, value) in more.as_object().into_iter().flatten() {
            meta[member] = value.clone();
        }
        serde_json::from_value(json!({"metadata": meta, "subsets": subsets})).expect("are endpoints")
    }

    /// What is created, updated and deleted: `FAMILY ports addresses`.
    fn told(plan: &Plan) -> Vec<String> {
        let slice = |verb: &str, slice: &EndpointSlice| {
            let ports: Vec<String> = slice.ports.iter().flatten().filter_map(|port| port.port).map(|p| p.to_string()).collect();
            let addresses: Vec<String> = slice.endpoints.iter().flat_map(|endpoint| endpoint.addresses.clone()).collect();
            format!("{verb} {} {} {}", slice.address_type, ports.join(","), addresses.join(","))
        };
        let mut told: Vec<String> = plan.create.iter().map(|s| slice("create", s)).collect();
        told.extend(plan.update.iter().map(|s| slice("update", s)));
        told.extend(plan.delete.iter().map(|s| slice("delete", s)));
        told.sort();
        told
    }

    fn existing(plan: Plan) -> Vec<Arc<EndpointSlice>> {
        let named = |(index, mut slice): (usize, EndpointSlice)| {
            slice.metadata.name = Some(format!("s-{index}"));
            Arc::new(slice)
        };
        plan.create.into_iter().enumerate().map(named).collect()
    }

    #[test]
    fn slices_follow_the_endpoints() {
        let one = json!([{
            "addresses": [{"ip": "10.0.0.1", "hostname": "a", "nodeName": "n"}, {"ip": "2001:db8::1"}],
            "notReadyAddresses": [{"ip": "010.0.0.002"}],
            "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
        }]);
        let meta = json!({
            "labels": {"app": "x"},
            "annotations": {"note": "hi", "endpoints.kubernetes.io/last-change-trigger-time": "t"},
        });
        let first = endpoints(one.clone(), meta.clone());
        let made = plan(&first, Vec::new(), 1000);
        assert_eq!(told(&made), ["create IPv4 80 10.0.0.1,10.0.0.2", "create IPv6 80 2001:db8::1"]);
        let slice = &made.create[0];
        let label = |name: &str| slice.labels().get(name).map(String::as_str);
        assert_eq!((label("app"), label(SERVICE_NAME), label(MANAGED_BY.0)), (Some("x"), Some("s"), Some(MANAGER)));
        assert_eq!(slice.annotations().keys().collect::<Vec<_>>(), ["note"]);
        assert_eq!(slice.endpoints[0].hostname.as_deref(), Some("a"));
        let ready: Vec<_> = slice.endpoints.iter().map(|e| e.conditions.as_ref().and_then(|c| c.ready)).collect();
        assert_eq!(ready, [Some(true), Some(false)]);
        assert!(made.warnings().is_empty());
        // The order of the slices is that of the families.
        let there = existing(made);
        assert_eq!(told(&plan(&first, there.clone(), 1000)), [""; 0]);

        let changed = endpoints(json!([{"addresses": [{"ip": "10.0.0.3"}], "ports": [{"name": "http", "port": 80}]}]), meta);
        let expected = ["delete IPv6 80 2001:db8::1", "update IPv4 80 10.0.0.3"];
        assert_eq!(told(&plan(&changed, there.clone(), 1000)), expected);
        let relabelled = endpoints(one, json!({"labels": {"app": "y"}, "annotations": {"note": "hi"}}));
        assert_eq!(plan(&relabelled, there.clone(), 1000).update.len(), 2);
        // Other ports: the old slices are written over.
        let other = endpoints(json!([{"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 81}]}]), json!({}));
        assert_eq!(told(&plan(&other, there.clone(), 1000)), ["delete IPv6 80 2001:db8::1", "update IPv4 81 10.0.0.1"]);
        assert_eq!(plan(&endpoints(json!([]), json!({})), there, 1000).delete.len(), 2);
    }

    #[test]
    fn what_is_left_out_is_told() {
        let addresses: Vec<Value> = (1..=5).map(|i| json!({"ip": format!("10.0.0.{i}")})).collect();
        let many = endpoints(json!([{"addresses": addresses, "ports": [{"port": 80}]}]), json!({}));
        let made = plan(&many, Vec::new(), 3);
        assert_eq!(made.create[0].endpoints.len(), 3);
        let message = "A max of 3 addresses can be mirrored to EndpointSlices per Endpoints subset. 2 addresses were skipped";
        assert_eq!(made.warnings(), [("TooManyAddressesToMirror", message.to_owned())]);
        let odd = endpoints(json!([{"addresses": [{"ip": "x"}, {"ip": "10.0.0.1"}], "ports": [{"port": 80}]}]), json!({}));
        let message = "Skipped 1 invalid IP addresses when mirroring to EndpointSlices";
        assert_eq!(plan(&odd, Vec::new(), 3).warnings(), [("InvalidIPAddress", message.to_owned())]);
    }
}
