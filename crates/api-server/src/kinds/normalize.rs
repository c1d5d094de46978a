//! What upstream's strategies make of an object before it is checked, for the kinds whose rules are facts: what they fill in, and the members
//! behind feature gates that are off by default in v1.35, which they drop.

use apimachinery::{GroupResource, Value, value};

use crate::registry::now;

/// Kinds whose creation keeps the status that came with it.
pub(super) fn keeps_status_on_create(resource: &GroupResource) -> bool {
    matches!((resource.group.as_str(), resource.resource.as_str()), ("", "nodes") | ("networking.k8s.io", "servicecidrs"))
}

/// Kinds whose updates take the status that comes with them.
pub(super) fn keeps_status_on_update(resource: &GroupResource) -> bool {
    resource.group == "networking.k8s.io" && resource.resource == "servicecidrs"
}

/// A new object.
pub(super) fn on_create(resource: &GroupResource, object: &mut Value) {
    match (resource.group.as_str(), resource.resource.as_str()) {
        ("", "persistentvolumes") => {
            object.insert("status", value!({"phase": "Pending", "lastPhaseTransitionTime": now()}));
        }
        ("", "persistentvolumeclaims") => claim_sources(object, &Value::Null),
        ("", "serviceaccounts") => plain_secrets(object),
        ("", "nodes") => {
            object.remove_path(&["spec", "configSource"]);
            object.remove_path(&["status", "config"]);
            // `NodeDeclaredFeatures`. Upstream lets those pass that come with a later status.
            object.remove_path(&["status", "declaredFeatures"]);
        }
        // Upstream names them so.
        ("", "limitranges") if object.meta().name().is_empty() => {
            object.meta_mut().set_name(&uuid::Uuid::new_v4().to_string());
        }
        ("discovery.k8s.io", "endpointslices") => drop_topology(object),
        ("resource.k8s.io", kind) => devices(kind, object, &Value::Null),
        _ => {}
    }
}

/// A new state of an object.
pub(super) fn on_update(resource: &GroupResource, object: &mut Value, old: &Value) {
    match (resource.group.as_str(), resource.resource.as_str()) {
        ("", "persistentvolumeclaims") => claim_sources(object, old),
        ("", "serviceaccounts") => plain_secrets(object),
        ("", "nodes") if old["spec"]["configSource"].is_null() => drop(object.remove_path(&["spec", "configSource"])),
        ("discovery.k8s.io", "endpointslices") => {
            // What will be dropped counts, and labels do too.
            let differs = ["addressType", "endpoints", "ports"].into_iter().any(|member| object[member] != old[member]);
            if differs || object["metadata"]["labels"] != old["metadata"]["labels"] {
                object.meta_mut().set_generation(old.meta().generation() + 1);
            }
            if object["endpoints"] != old["endpoints"] {
                drop_topology(object);
            }
        }
        // The first change makes the generation 1: a new one has none.
        ("storage.k8s.io", "csidrivers") if object["spec"] != old["spec"] => {
            object.meta_mut().set_generation(old.meta().generation() + 1);
        }
        ("resource.k8s.io", kind) => {
            // What will be dropped counts.
            if kind == "resourceslices" && object["spec"] != old["spec"] {
                object.meta_mut().set_generation(old.meta().generation() + 1);
            }
            devices(kind, object, old);
        }
        _ => {}
    }
}

/// A new status.
pub(super) fn on_status(resource: &GroupResource, object: &mut Value, old: &Value) {
    if resource.group.is_empty() && resource.resource == "nodes" && old["status"]["config"].is_null() {
        object.remove_path(&["status", "config"]);
    }
    if resource.group == "resource.k8s.io" && resource.resource == "resourceclaims" {
        claim_status(object, old);
    }
    if resource.group.is_empty() && resource.resource == "persistentvolumes" {
        let time = ["status", "lastPhaseTransitionTime"];
        let same_phase = object["status"]["phase"] == old["status"]["phase"];
        let (new_time, old_time) = (object.get_path(&time).cloned(), old.get_path(&time).cloned());
        match old_time {
            Some(old_time) if same_phase && new_time.is_none() => object.set_path(&time, old_time),
            old_time if !same_phase && (new_time.is_none() || new_time == old_time) => object.set_path(&time, now()),
            _ => {}
        }
    }
}

/// Of secrets only the name is kept.
fn plain_secrets(account: &mut Value) {
    for secret in account.get_mut("secrets").and_then(Value::as_array_mut).into_iter().flatten() {
        let name = secret["name"].clone();
        *secret = Value::object();
        if !name.is_null() {
            secret.insert("name", name);
        }
    }
}

fn drop_topology(slice: &mut Value) {
    for endpoint in slice.get_mut("endpoints").and_then(Value::as_array_mut).into_iter().flatten() {
        endpoint.remove("deprecatedTopology");
    }
}

/// `dataSource` and `dataSourceRef` say the same, and unknown kinds of the former are dropped.
/// A source in another namespace is not (the gate CrossNamespaceVolumeDataSource is off).
fn claim_sources(claim: &mut Value, old: &Value) {
    if old["spec"]["dataSourceRef"].is_null() && !claim["spec"]["dataSourceRef"]["namespace"].is_empty() {
        claim.remove_path(&["spec", "dataSourceRef"]);
    }
    let used = !old["spec"]["dataSource"].is_null() || !old["spec"]["dataSourceRef"].is_null();
    let (source, reference) = (claim["spec"]["dataSource"].clone(), claim["spec"]["dataSourceRef"].clone());
    let group = source["apiGroup"].as_str().unwrap_or_default();
    let known = matches!(
        (source["kind"].as_str().unwrap_or_default(), group),
        ("PersistentVolumeClaim", "") | ("VolumeSnapshot", "snapshot.storage.k8s.io")
    );
    match (source.is_null(), reference.is_null()) {
        (false, true) if !used && !known => drop(claim.remove_path(&["spec", "dataSource"])),
        (false, true) => claim.set_path(&["spec", "dataSourceRef"], source),
        (true, false) if reference["namespace"].is_empty() => {
            let mut source = reference;
            source.remove("namespace");
            claim.set_path(&["spec", "dataSource"], source);
        }
        _ => {}
    }
}

/// Whether any element has one of these members.
fn uses(list: &[Value], members: &[&str]) -> bool {
    list.iter().any(|item| members.iter().any(|member| !item[*member].is_empty()))
}

fn remove(object: &mut Value, path: &[&str], members: &[&str]) {
    for item in object.get_path_mut(path).and_then(Value::as_array_mut).into_iter().flatten() {
        members.iter().for_each(|member| drop(item.remove(member)));
    }
}

fn devices(kind: &str, object: &mut Value, old: &Value) {
    match kind {
        "deviceclasses" if old["spec"]["extendedResourceName"].is_null() => {
            object.remove_path(&["spec", "extendedResourceName"]);
        }
        "resourceclaims" => requests(object, old, &["spec", "devices"]),
        "resourceclaimtemplates" => requests(object, old, &["spec", "spec", "devices"]),
        "resourceslices" => slice_devices(object, old),
        _ => {}
    }
}

/// Whether a new object loses what is at this place.
pub(crate) fn drops(resource: &GroupResource, path: &str) -> bool {
    let claims = resource.group == "resource.k8s.io" && resource.resource.starts_with("resourceclaim");
    claims && path.contains("devices.requests[") && (path.ends_with(".tolerations") || path.ends_with(".capacity"))
}

/// Tolerations, capacity and distinct attributes of requests.
fn requests(object: &mut Value, old: &Value, path: &[&str]) {
    let before = old.get_path(path).cloned().unwrap_or_default();
    let of = |member: &'static str| {
        let requests = before.array_at(&["requests"]);
        let exactly = requests.iter().any(|request| !request["exactly"][member].is_null());
        exactly || requests.iter().any(|request| uses(request.array_at(&["firstAvailable"]), &[member]))
    };
    let gone: Vec<&str> = ["tolerations", "capacity"].into_iter().filter(|member| !of(member)).collect();
    let Some(devices) = object.get_path_mut(path) else { return };
    for request in devices.get_mut("requests").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(exactly) = request.get_mut("exactly") {
            gone.iter().for_each(|member| drop(exactly.remove(member)));
        }
        remove(request, &["firstAvailable"], &gone);
    }
    if !uses(before.array_at(&["constraints"]), &["distinctAttribute"]) {
        remove(devices, &["constraints"], &["distinctAttribute"]);
    }
}

/// `DRAConsumableCapacity` and `DRADeviceBindingConditions`; what is said of devices that the claim has no more.
fn claim_status(object: &mut Value, old: &Value) {
    const RESULTS: [&str; 4] = ["status", "allocation", "devices", "results"];
    let before = old.array_at(&RESULTS);
    let requests = old.array_at(&["spec", "devices", "requests"]);
    let consumes = requests
        .iter()
        .any(|request| !request["exactly"]["capacity"].is_null() || uses(request.array_at(&["firstAvailable"]), &["capacity"]))
        || uses(old.array_at(&["spec", "devices", "constraints"]), &["distinctAttribute"]);
    let consumable = ["shareID", "consumedCapacity"];
    if !consumes && !has(before, &consumable) && !has(old.array_at(&["status", "devices"]), &["shareID"]) {
        remove(object, &RESULTS, &consumable);
        remove(object, &["status", "devices"], &["shareID"]);
    }
    let binding = ["bindingConditions", "bindingFailureConditions"];
    if !uses(before, &binding) {
        remove(object, &RESULTS, &binding);
    }
    let id = |item: &Value| ["driver", "pool", "device", "shareID"].map(|member| item[member].clone());
    let now: Vec<[Value; 4]> = object.array_at(&RESULTS).iter().map(id).collect();
    let gone: Vec<[Value; 4]> = before.iter().map(id).filter(|id| !now.contains(id)).collect();
    let devices = object.get_path_mut(&["status", "devices"]).and_then(Value::as_array_mut);
    let left = devices.map(|devices| {
        devices.retain(|device| !gone.contains(&id(device)));
        devices.len()
    });
    if left == Some(0) {
        object.remove_path(&["status", "devices"]);
    }
}

/// Whether a member is there, empty or not.
fn has(list: &[Value], members: &[&str]) -> bool {
    list.iter().any(|item| members.iter().any(|member| !item[*member].is_null()))
}

fn slice_devices(object: &mut Value, old: &Value) {
    let (spec, before) = (&old["spec"], old.array_at(&["spec", "devices"]).to_vec());
    let devices = ["spec", "devices"];
    if !uses(&before, &["taints"]) {
        remove(object, &devices, &["taints"]);
    }
    let partitions = ["consumesCounters", "nodeName", "nodeSelector", "allNodes"];
    let partitioned = !spec["sharedCounters"].is_null() || !spec["perDeviceNodeSelection"].is_null();
    if !partitioned && !uses(&before, &partitions) {
        object.remove_path(&["spec", "sharedCounters"]);
        object.remove_path(&["spec", "perDeviceNodeSelection"]);
        remove(object, &devices, &partitions);
    }
    let binding = ["bindingConditions", "bindingFailureConditions", "bindsToNode"];
    if !uses(&before, &binding) {
        remove(object, &devices, &binding);
    }
    let policies = |device: &Value| {
        device["capacity"].as_object().is_some_and(|all| all.iter().any(|(_, capacity)| !capacity["requestPolicy"].is_null()))
    };
    if !uses(&before, &["allowMultipleAllocations"]) && !before.iter().any(policies) {
        remove(object, &devices, &["allowMultipleAllocations"]);
        for device in object.get_path_mut(&devices).and_then(Value::as_array_mut).into_iter().flatten() {
            let names: Vec<String> =
                device["capacity"].as_object().into_iter().flatten().map(|(name, _)| name.as_str().to_owned()).collect();
            for name in names {
                device.remove_path(&["capacity", &name, "requestPolicy"]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_objects() {
        let cases = [
            (
                ("", "persistentvolumeclaims"),
                value!({"spec": {"dataSource": {"kind": "PersistentVolumeClaim", "name": "a"}}}),
                value!({"spec": {"dataSource": {"kind": "PersistentVolumeClaim", "name": "a"}, "dataSourceRef": {"kind": "PersistentVolumeClaim", "name": "a"}}}),
            ),
            (
                ("", "persistentvolumeclaims"),
                value!({"spec": {"dataSource": {"kind": "Nope", "name": "a"}}}),
                value!({"spec": {}}),
            ),
            (("", "serviceaccounts"), value!({"secrets": [{"name": "a", "uid": "b"}]}), value!({"secrets": [{"name": "a"}]})),
            (
                ("discovery.k8s.io", "endpointslices"),
                value!({"endpoints": [{"deprecatedTopology": {"a": "b"}}]}),
                value!({"endpoints": [{}]}),
            ),
            (
                ("resource.k8s.io", "resourceclaims"),
                value!({"spec": {"devices": {"requests": [{"exactly": {"tolerations": [{}], "count": 1}}]}}}),
                value!({"spec": {"devices": {"requests": [{"exactly": {"count": 1}}]}}}),
            ),
            (
                ("resource.k8s.io", "resourceslices"),
                value!({"spec": {"devices": [{"name": "a", "taints": [{}], "capacity": {"c": {"value": "1", "requestPolicy": {}}}}]}}),
                value!({"spec": {"devices": [{"name": "a", "capacity": {"c": {"value": "1"}}}]}}),
            ),
        ];
        for ((group, resource), mut object, expected) in cases {
            on_create(&GroupResource::new(group, resource), &mut object);
            assert_eq!(object, expected);
        }
    }

    #[test]
    fn drivers_count_changes_from_nothing() {
        let old = value!({"spec": {"attachRequired": true}});
        for (new, generation) in [(old.clone(), 0), (value!({"spec": {"attachRequired": false}}), 1)] {
            let mut object = new;
            on_update(&GroupResource::new("storage.k8s.io", "csidrivers"), &mut object, &old);
            assert_eq!(object.meta().generation(), generation);
        }
    }

    #[test]
    fn what_was_in_use_stays() {
        let class = value!({"spec": {"extendedResourceName": "a.b/c"}});
        for (old, kept) in [(value!({"spec": {}}), false), (class.clone(), true)] {
            let mut object = class.clone();
            on_update(&GroupResource::new("resource.k8s.io", "deviceclasses"), &mut object, &old);
            assert_eq!(!object["spec"]["extendedResourceName"].is_null(), kept);
        }
    }

    #[test]
    fn phases_of_volumes() {
        let resource = GroupResource::new("", "persistentvolumes");
        let old = value!({"status": {"phase": "Pending", "lastPhaseTransitionTime": "2020-01-02T03:04:05Z"}});
        for (phase, same) in [("Pending", true), ("Bound", false)] {
            let mut object = value!({"status": {"phase": phase}});
            on_status(&resource, &mut object, &old);
            assert_eq!(object["status"]["lastPhaseTransitionTime"] == old["status"]["lastPhaseTransitionTime"], same, "{phase}");
        }
    }
}
