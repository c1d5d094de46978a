//! Brings the subsets of Endpoints into one form: each set of ports once, with the addresses that have exactly these
//! (upstream's `pkg/api/v1/endpoints.RepackSubsets`).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset};

/// What tells addresses apart: the same one may stand for different objects.
type AddressKey = (String, Option<String>);
/// Name, number, protocol, application protocol; `None` for a subset without ports.
type PortKey = Option<(Option<String>, i32, Option<String>, Option<String>)>;

/// One set of ports.
#[derive(Debug)]
pub(super) struct Subset {
    pub(super) ports: Vec<EndpointPort>,
    /// With their readiness, those that are ready first.
    pub(super) addresses: Vec<(EndpointAddress, bool)>,
}

fn address_key(address: &EndpointAddress) -> AddressKey {
    (address.ip.clone(), address.target_ref.as_ref().and_then(|target| target.uid.clone()))
}

fn port_key(port: &EndpointPort) -> PortKey {
    Some((port.name.clone(), port.port, port.protocol.clone(), port.app_protocol.clone()))
}

pub(super) fn repack(subsets: &[EndpointSubset]) -> Vec<Subset> {
    let mut addresses: BTreeMap<AddressKey, EndpointAddress> = BTreeMap::new();
    let mut by_port: BTreeMap<PortKey, (Option<EndpointPort>, BTreeMap<AddressKey, bool>)> = BTreeMap::new();
    for subset in subsets {
        let ports = subset.ports.as_deref().unwrap_or_default();
        let ports: Vec<Option<&EndpointPort>> = if ports.is_empty() { vec![None] } else { ports.iter().map(Some).collect() };
        let ready = subset.addresses.iter().flatten().map(|address| (address, true));
        let not_ready = subset.not_ready_addresses.iter().flatten().map(|address| (address, false));
        for (address, ready) in ready.chain(not_ready) {
            let key = address_key(address);
            addresses.entry(key.clone()).or_insert_with(|| address.clone());
            for port in &ports {
                let (_, known) = by_port.entry(port.and_then(port_key)).or_insert_with(|| (port.cloned(), BTreeMap::new()));
                // Whoever says that it is not ready is believed.
                known.entry(key.clone()).and_modify(|was| *was &= ready).or_insert(ready);
            }
        }
    }
    let mut by_addresses: BTreeMap<BTreeMap<AddressKey, bool>, Vec<EndpointPort>> = BTreeMap::new();
    for (port, known) in by_port.into_values() {
        by_addresses.entry(known).or_default().extend(port);
    }
    let subset = |(known, ports): (BTreeMap<AddressKey, bool>, Vec<EndpointPort>)| {
        let mut members: Vec<(EndpointAddress, bool)> =
            known.into_iter().filter_map(|(key, ready)| Some((addresses.get(&key)?.clone(), ready))).collect();
        members.sort_by_key(|(_, ready)| !ready);
        Subset { ports, addresses: members }
    };
    by_addresses.into_iter().map(subset).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// The repacked subsets as `ports: addresses`, those that are not ready in brackets.
    fn check(subsets: Value, expected: &[&str]) {
        let typed: Vec<EndpointSubset> = serde_json::from_value(subsets.clone()).expect("are subsets");
        let told = |subset: &Subset| {
            let ports: Vec<String> = subset.ports.iter().map(|port| port.port.to_string()).collect();
            let addresses: Vec<String> = subset
                .addresses
                .iter()
                .map(|(address, ready)| if *ready { address.ip.clone() } else { format!("[{}]", address.ip) })
                .collect();
            format!("{}: {}", ports.join(","), addresses.join(" "))
        };
        let mut repacked: Vec<String> = repack(&typed).iter().map(told).collect();
        repacked.sort();
        assert_eq!(repacked, expected, "{subsets}");
    }

    #[test]
    fn one_form_for_all() {
        let a = json!([{"ip": "1.1.1.1"}]);
        let both = json!([{"ip": "1.1.1.1"}, {"ip": "2.2.2.2"}]);
        let ports = |ports: &[i32]| Value::from(ports.iter().map(|port| json!({"port": port})).collect::<Vec<_>>());
        check(json!([]), &[]);
        check(json!([{"addresses": both, "ports": ports(&[80, 443])}]), &["80,443: 1.1.1.1 2.2.2.2"]);
        check(json!([{"addresses": a, "ports": ports(&[80])}, {"addresses": a, "ports": ports(&[81])}]), &["80,81: 1.1.1.1"]);
        let split = json!([{"addresses": both, "ports": ports(&[80])}, {"addresses": a, "ports": ports(&[81])}]);
        check(split, &["80: 1.1.1.1 2.2.2.2", "81: 1.1.1.1"]);
        let doubt = json!([{"addresses": a, "ports": ports(&[80])}, {"notReadyAddresses": a, "ports": ports(&[80])}]);
        check(doubt, &["80: [1.1.1.1]"]);
        check(json!([{"addresses": a}]), &[": 1.1.1.1"]);
    }
}
