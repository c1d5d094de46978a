//! Nodes, namespaces, events and the plain objects of core/v1.

use std::collections::BTreeSet;

use apimachinery::Value;

use super::format::{age, any, condition, is_true, name, number, since, text, with_more};
use super::{Registration, printer};

const EVENT: &[&str] =
    &["Last Seen", "Type", "Reason", "Object", "+Subobject", "+Source", "Message", "+First Seen", "+Count", "+Name"];

pub(super) const PRINTERS: &[Registration] = &[
    printer(
        "nodes",
        "",
        &[
            "Name",
            "Status",
            "Roles",
            "Age",
            "Version",
            "+Internal-IP",
            "+External-IP",
            "+OS-Image",
            "+Kernel-Version",
            "+Container-Runtime",
        ],
        node,
    ),
    printer("namespaces", "", &["Name", "Status", "Age"], namespace),
    printer("events", "", EVENT, event),
    printer("events", "events.k8s.io", EVENT, event),
    printer("secrets", "", &["Name", "Type", "Data", "Age"], secret),
    printer("configmaps", "", &["Name", "Data", "Age"], config_map),
    printer("serviceaccounts", "", &["Name", "Age"], name_and_age),
    printer("componentstatuses", "", &["Name", "Status", "Message", "Error"], component_status),
    printer("resourcequotas", "", &["Name", "Request", "Limit", "Age"], resource_quota),
    printer("leases", "coordination.k8s.io", &["Name", "Holder", "Age"], lease),
    printer(
        "leasecandidates",
        "coordination.k8s.io",
        &["Name", "LeaseName", "BinaryVersion", "EmulationVersion", "Age"],
        lease_candidate,
    ),
    printer(
        "priorityclasses",
        "scheduling.k8s.io",
        &["Name", "#Value", "?Global-Default", "Age", "PreemptionPolicy"],
        priority_class,
    ),
    printer("workloads", "scheduling.k8s.io", &["Name", "Age"], name_and_age),
    printer("runtimeclasses", "node.k8s.io", &["Name", "Handler", "Age"], runtime_class),
    printer("deviceclasses", "resource.k8s.io", &["Name", "Age"], name_and_age),
    printer("resourceclaimtemplates", "resource.k8s.io", &["Name", "Age"], name_and_age),
    printer("resourceclaims", "resource.k8s.io", &["Name", "State", "Age"], resource_claim),
    printer("resourceslices", "resource.k8s.io", &["Name", "Node", "Driver", "Pool", "Age"], resource_slice),
    printer("devicetaintrules", "resource.k8s.io", &["Name", "Key", "Value", "Effect", "TimeAdded", "Age"], device_taint_rule),
    printer(
        "storageversions",
        "internal.apiserver.k8s.io",
        &["Name", "CommonEncodingVersion", "StorageVersions", "Age"],
        storage_version,
    ),
    printer("storageversionmigrations", "storagemigration.k8s.io", &["-Name", "Resource", "Status"], storage_version_migration),
];

fn name_and_age(object: &Value) -> Vec<Value> {
    vec![name(object), age(object)]
}

fn node(object: &Value) -> Vec<Value> {
    let mut status = match condition(object, "Ready") {
        None => "Unknown",
        Some(_) if is_true(object, "Ready") => "Ready",
        Some(_) => "NotReady",
    }
    .to_owned();
    if object.bool_at(&["spec", "unschedulable"]) == Some(true) {
        status.push_str(",SchedulingDisabled");
    }
    let roles: BTreeSet<&str> = object
        .meta()
        .labels()
        .filter_map(|(key, value)| match key {
            "kubernetes.io/role" => Some(value),
            key => key.strip_prefix("node-role.kubernetes.io/"),
        })
        .filter(|role| !role.is_empty())
        .collect();
    let roles = if roles.is_empty() { "<none>".to_owned() } else { roles.into_iter().collect::<Vec<_>>().join(",") };
    let address = |kind: &str| {
        let addresses = object.array_at(&["status", "addresses"]).iter();
        let found =
            addresses.filter(|address| address.str_at(&["type"]) == Some(kind)).find_map(|address| address.str_at(&["address"]));
        Value::from(found.unwrap_or("<none>"))
    };
    let info = |field: &str| text(object, &["status", "nodeInfo", field], "<unknown>");
    vec![
        name(object),
        status.into(),
        roles.into(),
        age(object),
        text(object, &["status", "nodeInfo", "kubeletVersion"], ""),
        address("InternalIP"),
        address("ExternalIP"),
        info("osImage"),
        info("kernelVersion"),
        info("containerRuntimeVersion"),
    ]
}

fn namespace(object: &Value) -> Vec<Value> {
    vec![name(object), text(object, &["status", "phase"], ""), age(object)]
}

/// Events of both APIs: core/v1 and events.k8s.io/v1 name the same fields differently.
fn event(object: &Value) -> Vec<Value> {
    let first_of = |paths: &[&[&str]]| paths.iter().find_map(|path| object.str_at(path).filter(|text| !text.is_empty()));
    let first = first_of(&[&["firstTimestamp"], &["deprecatedFirstTimestamp"], &["eventTime"]]);
    // A series says both, even if what it says is nothing. An event alone has no count in the newer API.
    let (last, count) = match object.get("series").filter(|series| !series.is_null()) {
        Some(series) => (series.str_at(&["lastObservedTime"]), number(series, &["count"])),
        None => {
            let counted = [["count"], ["deprecatedCount"]].iter().map(|path| number(object, path)).find(|count| *count != 0);
            (first_of(&[&["lastTimestamp"], &["deprecatedLastTimestamp"]]).or(first), counted.unwrap_or(1))
        }
    };
    let about = object.get("involvedObject").or_else(|| object.get("regarding"));
    let part = |field: &str| about.and_then(|about| about.str_at(&[field])).unwrap_or_default();
    let kind = part("kind").to_ascii_lowercase();
    let target = if part("name").is_empty() { kind } else { format!("{kind}/{}", part("name")) };
    let component = first_of(&[
        &["source", "component"],
        &["deprecatedSource", "component"],
        &["reportingComponent"],
        &["reportingController"],
    ]);
    let instance = first_of(&[&["source", "host"], &["deprecatedSource", "host"], &["reportingInstance"]]);
    let source = [component, instance].into_iter().flatten().collect::<Vec<_>>().join(", ");
    let message = first_of(&[&["message"], &["note"]]).unwrap_or_default().trim();
    vec![
        since(last).into(),
        text(object, &["type"], ""),
        text(object, &["reason"], ""),
        target.into(),
        part("fieldPath").into(),
        source.into(),
        message.into(),
        since(first).into(),
        count.into(),
        name(object),
    ]
}

fn size(object: &Value, fields: &[&str]) -> Value {
    let count: usize = fields.iter().filter_map(|field| object.get(field)?.as_object()).map(apimachinery::Map::len).sum();
    i64::try_from(count).unwrap_or(i64::MAX).into()
}

fn secret(object: &Value) -> Vec<Value> {
    vec![name(object), text(object, &["type"], ""), size(object, &["data"]), age(object)]
}

fn config_map(object: &Value) -> Vec<Value> {
    vec![name(object), size(object, &["data", "binaryData"]), age(object)]
}

fn component_status(object: &Value) -> Vec<Value> {
    let healthy = object.array_at(&["conditions"]).iter().find(|condition| condition.str_at(&["type"]) == Some("Healthy"));
    let status = match healthy.and_then(|condition| condition.str_at(&["status"])) {
        None => "Unknown",
        Some("True") => "Healthy",
        Some(_) => "Unhealthy",
    };
    let part = |field: &str| Value::from(healthy.and_then(|condition| condition.str_at(&[field])).unwrap_or_default());
    vec![name(object), status.into(), part("message"), part("error")]
}

fn resource_quota(object: &Value) -> Vec<Value> {
    let (mut requests, mut limits) = (Vec::new(), Vec::new());
    for (resource, hard) in object.get_path(&["status", "hard"]).and_then(Value::as_object).into_iter().flatten() {
        let used = object.str_at(&["status", "used", resource.as_str()]).unwrap_or("0");
        let text = format!("{resource}: {used}/{}", hard.as_str().unwrap_or_default());
        if resource.starts_with("limits.") { limits.push(text) } else { requests.push(text) }
    }
    vec![name(object), requests.join(", ").into(), limits.join(", ").into(), age(object)]
}

fn lease(object: &Value) -> Vec<Value> {
    vec![name(object), text(object, &["spec", "holderIdentity"], ""), age(object)]
}

fn lease_candidate(object: &Value) -> Vec<Value> {
    let of = |field: &str| text(object, &["spec", field], "");
    vec![name(object), of("leaseName"), of("binaryVersion"), of("emulationVersion"), age(object)]
}

fn device_taint_rule(object: &Value) -> Vec<Value> {
    let of = |field: &str| text(object, &["spec", "taint", field], "");
    let added = object.str_at(&["spec", "taint", "timeAdded"]).map(|added| since(Some(added))).unwrap_or_default();
    vec![name(object), of("key"), of("value"), of("effect"), added.into(), age(object)]
}

fn storage_version(object: &Value) -> Vec<Value> {
    let version = |entry: &Value| {
        let of = |field: &str| entry.str_at(&[field]).unwrap_or_default().to_owned();
        format!("{}={}", of("apiServerID"), of("encodingVersion"))
    };
    let versions: Vec<String> = object.array_at(&["status", "storageVersions"]).iter().map(version).collect();
    let versions = if versions.is_empty() { "<unset>".to_owned() } else { with_more(&versions, 3) };
    vec![name(object), text(object, &["status", "commonEncodingVersion"], "<unset>"), versions.into(), age(object)]
}

fn storage_version_migration(object: &Value) -> Vec<Value> {
    let of = |field: &str| object.str_at(&["spec", "resource", field]).unwrap_or_default();
    let resource = if of("group").is_empty() { of("resource").to_owned() } else { format!("{}.{}", of("resource"), of("group")) };
    // The last one that is true.
    let state = object.array_at(&["status", "conditions"]).iter().rev().find_map(|condition| {
        let kind = condition.str_at(&["type"])?;
        let known = matches!(kind, "Running" | "Succeeded" | "Failed") && condition.str_at(&["status"]) == Some("True");
        known.then_some(kind)
    });
    vec![name(object), resource.into(), state.unwrap_or("Unknown").into()]
}

fn priority_class(object: &Value) -> Vec<Value> {
    let global = object.bool_at(&["globalDefault"]).unwrap_or_default().into();
    vec![name(object), number(object, &["value"]).into(), global, age(object), any(object, &["preemptionPolicy"], "")]
}

fn runtime_class(object: &Value) -> Vec<Value> {
    vec![name(object), text(object, &["handler"], ""), age(object)]
}

fn resource_claim(object: &Value) -> Vec<Value> {
    let mut states = Vec::new();
    let deleted = object.meta().deletion_timestamp().is_some();
    if deleted {
        states.push("deleted");
    }
    if object.get_path(&["status", "allocation"]).is_some() {
        states.push("allocated");
        if !object.array_at(&["status", "reservedFor"]).is_empty() {
            states.push("reserved");
        }
    } else if !deleted {
        states.push("pending");
    }
    vec![name(object), states.join(",").into(), age(object)]
}

fn resource_slice(object: &Value) -> Vec<Value> {
    let node = text(object, &["spec", "nodeName"], "");
    vec![name(object), node, text(object, &["spec", "driver"], ""), text(object, &["spec", "pool", "name"], ""), age(object)]
}
