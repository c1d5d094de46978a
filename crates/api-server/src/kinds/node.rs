//! Nodes (upstream's `ValidateNode`).

use apimachinery::field::{Error, ErrorList};
use apimachinery::{Value, validation};

use super::at::At;
use super::go_text::Shown;
use super::table::Checks;
use super::{pod_spec, resources};

pub(super) const CHECKS: &[Checks] = &[Checks { group: "", resource: "nodes", create, update, status }];

fn create(object: &Value, e: &mut ErrorList) {
    let root = At::root(object);
    taints(&root, e);
    amounts(&root, e);
    let spec = root.get("spec");
    let ranges = spec.get("podCIDRs");
    ranges.items().for_each(|range| range.cidr(e));
    let odd = ranges.items().enumerate().find(|(_, range)| !super::at::is_cidr(range.text()));
    if let (Some((index, range)), true) = (odd, ranges.len() > 1) {
        let why = format!("invalid CIDR[{index}]: <nil> (invalid CIDR address: {})", range.text());
        let why = format!("invalid PodCIDRs. failed to check with dual stack with error:{why}");
        e.push(Error::internal(&ranges.path(), why));
        return ranges.invalid(e, "may specify no more than one CIDR for each IP family");
    }
    let ipv6: Vec<bool> = ranges.items().map(|range| range.text().contains(':')).collect();
    if ipv6.len() > 2 || (ipv6.len() == 2 && ipv6[0] == ipv6[1]) {
        ranges.invalid(e, "may specify no more than one CIDR for each IP family");
    }
}

fn update(object: &Value, old: &Value, e: &mut ErrorList) {
    create(object, e);
    status(object, old, e);
}

/// Upstream's `ValidateNodeUpdate`, which is all that is asked of a new status.
fn status(object: &Value, old: &Value, e: &mut ErrorList) {
    let root = At::root(object);
    amounts(&root, e);
    let (spec, status, before) = (root.get("spec"), root.get("status"), &old["spec"]);
    let addresses = status.get("addresses");
    let list = addresses.value.as_array().unwrap_or_default();
    for (_, address) in addresses.items().enumerate().filter(|(i, address)| list[..*i].contains(address.value)) {
        address.duplicate(e);
    }
    if !before["podCIDRs"].is_empty() && *spec.get("podCIDRs").value != before["podCIDRs"] {
        spec.get("podCIDRs").forbid(e, "node updates may not change podCIDR except from \"\" to valid");
    }
    if !before["providerID"].is_empty() && *spec.get("providerID").value != before["providerID"] {
        spec.get("providerID").forbid(e, "node updates may not change providerID except from \"\" to valid");
    }
    taints(&root, e);
    let external = spec.get("externalID");
    if external.text() != before["externalID"].as_str().unwrap_or_default() {
        external.forbid(e, "may not be updated");
    }
}

fn amounts(root: &At, e: &mut ErrorList) {
    let status = root.get("status");
    for list in ["capacity", "allocatable"] {
        let list = status.get(list);
        for (name, entry) in list.entries() {
            resources::amount(&list.get(name).with(entry.value), name, e);
        }
    }
}

/// Upstream's path is `metadata.taints`.
fn taints(root: &At, e: &mut ErrorList) {
    let (meta, spec) = (root.get("metadata"), root.get("spec"));
    let list = meta.get("taints");
    let list = list.with(spec.get("taints").value);
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for taint in list.items() {
        let (key, value, effect) = (taint.get("key"), taint.get("value"), taint.get("effect"));
        key.label_name(e);
        let why = validation::is_label_value(value.text());
        if !why.is_empty() {
            value.invalid(e, why.join(";"));
        }
        effect.required_one_of(e, &pod_spec::EFFECTS);
        if seen.contains(&(key.text(), effect.text())) {
            let mut error = Error::duplicate(&taint.path(), taint.value.clone());
            error.detail = "taints must be unique by key and effect pair".into();
            e.push(error.shown_as(super::go_text::internal(taint.value, "core.v1.Taint")));
            continue;
        }
        seen.push((key.text(), effect.text()));
    }
}
