//! Nodes (upstream's `ValidateNode`).

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::{Value, go_quote, validation};

use super::at::At;
use super::go_text::Shown;
use super::table::Checks;
use super::{pod_spec, resources};

pub(super) const CHECKS: &[Checks] = &[Checks { group: "", resource: "nodes", create, update, status }];

/// Upstream's `DNS1123SubdomainMaxLength`.
const FEATURE_NAME_BYTES_MAX: usize = 253;

fn create(object: &Value, e: &mut ErrorList) {
    let root = At::root(object);
    taints(&root, e);
    amounts(&root, e);
    swap(&root, e);
    declared_features(&root, e);
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
    declared_features(&root, e);
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

/// Upstream's path is `metadata.nodeSwapStatus`.
fn swap(root: &At, e: &mut ErrorList) {
    let capacity = root.value.get_path(&["status", "nodeInfo", "swap", "capacity"]).and_then(Value::as_i64);
    if let Some(bytes) = capacity.filter(|bytes| *bytes <= 0) {
        let path = Path::new("metadata").child("nodeSwapStatus").child("capacity");
        e.push(Error::invalid(&path, bytes, "must be greater than zero"));
    }
}

/// Names such as `MyFeature/mySubFeature`, sorted.
fn declared_features(root: &At, e: &mut ErrorList) {
    let status = root.get("status");
    let features = status.get("declaredFeatures");
    let mut before: Option<&str> = None;
    for feature in features.items() {
        let name = feature.text();
        match before {
            Some(before) if before == name => feature.duplicate(e),
            Some(before) if before > name => feature.invalid(e, "list must be sorted alphabetically"),
            _ => {}
        }
        before = Some(name);
        if let Some(why) = feature_name_error(name) {
            feature.invalid(e, format!("invalid feature name {}: {why}", go_quote(name)));
        }
    }
}

fn feature_name_error(name: &str) -> Option<String> {
    if name.len() > FEATURE_NAME_BYTES_MAX {
        return Some(format!("must be no more than {FEATURE_NAME_BYTES_MAX} characters"));
    }
    let is_segment = |segment: &str| {
        segment.starts_with(|c: char| c.is_ascii_alphabetic()) && segment.bytes().all(|byte| byte.is_ascii_alphanumeric())
    };
    let well_formed = name.starts_with(|c: char| c.is_ascii_uppercase()) && name.split('/').all(is_segment);
    let rule = "must start with an UpperCamelCase segment, with subsequent segments separated by '/' (e.g., MyFeature or MyFeature/mySubFeature), \
                and contain only alphanumeric characters and slashes";
    (!well_formed).then(|| rule.to_owned())
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

#[cfg(test)]
mod tests {
    use apimachinery::value;

    use super::super::table::tests::{assert_create, assert_status};

    #[test]
    fn features_and_swap() {
        let node = value!({"status": {"declaredFeatures": ["A", "A/b", "B2/C/d"], "nodeInfo": {"swap": {"capacity": 1}}}});
        let features = ["status", "declaredFeatures"];
        let swap = ["status", "nodeInfo", "swap", "capacity"];
        let rule = "must start with an UpperCamelCase segment, with subsequent segments separated by '/' (e.g., MyFeature or MyFeature/mySubFeature), and contain only alphanumeric characters and slashes";
        let named = |index: usize, name: &str| {
            format!(r#"status.declaredFeatures[{index}]: Invalid value: "{name}": invalid feature name "{name}": {rule}"#)
        };
        let (lower, empty) = (named(0, "a"), named(1, "A//b"));
        let sorted = r#"status.declaredFeatures[1]: Invalid value: "A": list must be sorted alphabetically"#;
        let twice = r#"status.declaredFeatures[1]: Duplicate value: "A""#;
        let none = "metadata.nodeSwapStatus.capacity: Invalid value: 0: must be greater than zero";
        assert_create(
            "",
            "nodes",
            &node,
            &[
                (&features, value!(["a"]), &[&lower]),
                (&features, value!(["A", "A//b"]), &[&empty]),
                (&features, value!(["B", "A"]), &[sorted]),
                (&features, value!(["A", "A"]), &[twice]),
                (&swap, value!(0), &[none]),
            ],
        );
        assert_status("", "nodes", &node, &[(&features, value!(["B", "A"]), &[sorted]), (&swap, value!(0), &[])]);
    }
}
