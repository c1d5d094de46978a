//! Which pod specs are valid (upstream's `ValidatePodSpec`), as far as the schema does not say. Pods and everything with a pod template
//! share it. Not here yet: the members of volumes' sources, probes, affinity and topology.

use std::collections::HashSet;

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::{Quantity, Value, validation};

const RESTART_POLICIES: [&str; 3] = ["Always", "Never", "OnFailure"];
const DNS_POLICIES: [&str; 4] = ["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"];
const PULL_POLICIES: [&str; 3] = ["Always", "IfNotPresent", "Never"];
const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];

pub(super) fn validate(spec: &Value, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    let mut volumes = HashSet::new();
    for (i, volume) in spec.array_at(&["volumes"]).iter().enumerate() {
        let at = path.child("volumes").index(i);
        errors.extend(label(volume["name"].as_str().unwrap_or_default(), &at.child("name")));
        if let Some(name) = volume["name"].as_str().filter(|name| !name.is_empty())
            && !volumes.insert(name)
        {
            errors.push(Error::duplicate(&at.child("name"), name));
        }
        match volume.as_object().map_or(0, |members| members.keys().filter(|key| *key != "name").count()) {
            0 => errors.push(Error::required(&at, "must specify a volume type")),
            1 => {}
            _ => {
                let second = volume.as_object().into_iter().flat_map(|m| m.keys()).filter(|key| *key != "name").nth(1);
                let at = second.map_or(at.clone(), |second| at.child(second));
                errors.push(Error::forbidden(&at, "may not specify more than 1 volume type"));
            }
        }
    }
    let restart = spec["restartPolicy"].as_str().unwrap_or_default();
    let mut names = HashSet::new();
    for (member, required) in [("containers", true), ("initContainers", false), ("ephemeralContainers", false)] {
        let containers = spec.array_at(&[member]);
        if required && containers.is_empty() {
            errors.push(Error::required(&path.child(member), ""));
        }
        for (i, container) in containers.iter().enumerate() {
            let at = path.child(member).index(i);
            if let Some(name) = container["name"].as_str().filter(|name| !name.is_empty())
                && !names.insert(name)
            {
                errors.push(Error::duplicate(&at.child("name"), name));
            }
            errors.extend(validate_container(container, &volumes, &at));
        }
    }
    match restart {
        "" => errors.push(Error::required(&path.child("restartPolicy"), "")),
        known if RESTART_POLICIES.contains(&known) => {}
        other => errors.push(Error::not_supported(&path.child("restartPolicy"), other, &RESTART_POLICIES)),
    }
    match spec["dnsPolicy"].as_str().unwrap_or_default() {
        "" => errors.push(Error::required(&path.child("dnsPolicy"), "")),
        "None" if spec.array_at(&["dnsConfig", "nameservers"]).is_empty() => {
            let at = path.child("dnsConfig").child("nameservers");
            errors.push(Error::required(&at, "must provide at least one DNS nameserver when `dnsPolicy` is None"));
        }
        known if DNS_POLICIES.contains(&known) => {}
        other => errors.push(Error::not_supported(&path.child("dnsPolicy"), other, &DNS_POLICIES)),
    }
    if let Some(seconds) = spec.i64_at(&["activeDeadlineSeconds"])
        && !(1..=i64::from(i32::MAX)).contains(&seconds)
    {
        let why = validation::inclusive_range_error(1, i64::from(i32::MAX));
        errors.push(Error::invalid(&path.child("activeDeadlineSeconds"), seconds, why));
    }
    let names = [("serviceAccountName", spec["serviceAccountName"].as_str()), ("nodeName", spec["nodeName"].as_str())];
    for (member, name) in names.iter().filter_map(|(member, name)| Some((member, name.filter(|name| !name.is_empty())?))) {
        let why = validation::name_is_dns_subdomain(name, false);
        errors.extend(why.into_iter().map(|why| Error::invalid(&path.child(member), name, why)));
    }
    errors
}

fn label(name: &str, path: &Path) -> ErrorList {
    if name.is_empty() {
        return vec![Error::required(path, "")];
    }
    validation::is_dns1123_label(name).into_iter().map(|why| Error::invalid(path, name, why)).collect()
}

fn validate_container(container: &Value, volumes: &HashSet<&str>, path: &Path) -> ErrorList {
    let mut errors = label(container["name"].as_str().unwrap_or_default(), &path.child("name"));
    if container["image"].as_str().unwrap_or_default().is_empty() {
        errors.push(Error::required(&path.child("image"), ""));
    }
    match container["imagePullPolicy"].as_str() {
        None | Some("") => errors.push(Error::required(&path.child("imagePullPolicy"), "")),
        Some(known) if PULL_POLICIES.contains(&known) => {}
        Some(other) => errors.push(Error::not_supported(&path.child("imagePullPolicy"), other, &PULL_POLICIES)),
    }
    errors.extend(validate_ports(container.array_at(&["ports"]), &path.child("ports")));
    for (i, variable) in container.array_at(&["env"]).iter().enumerate() {
        let at = path.child("env").index(i).child("name");
        match variable["name"].as_str().unwrap_or_default() {
            "" => errors.push(Error::required(&at, "")),
            name => {
                let why = validation::is_relaxed_env_var_name(name);
                errors.extend(why.into_iter().map(|why| Error::invalid(&at, name, why)));
            }
        }
        if !variable["value"].is_empty() && variable.get("valueFrom").is_some_and(|from| !from.is_null()) {
            let at = path.child("env").index(i).child("valueFrom");
            errors.push(Error::invalid(&at, "", "may not be specified when `value` is not empty"));
        }
    }
    let mut targets = HashSet::new();
    for (i, mount) in container.array_at(&["volumeMounts"]).iter().enumerate() {
        let at = path.child("volumeMounts").index(i);
        let name = mount["name"].as_str().unwrap_or_default();
        if name.is_empty() {
            errors.push(Error::required(&at.child("name"), ""));
        }
        if !volumes.contains(name) {
            errors.push(Error::not_found(&at.child("name"), name));
        }
        match mount["mountPath"].as_str().unwrap_or_default() {
            "" => errors.push(Error::required(&at.child("mountPath"), "")),
            target if !targets.insert(target) => errors.push(Error::invalid(&at.child("mountPath"), target, "must be unique")),
            _ => {}
        }
    }
    errors.extend(validate_resources(&container["resources"], &path.child("resources")));
    errors
}

fn validate_ports(ports: &[Value], path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    let mut names = HashSet::new();
    for (i, port) in ports.iter().enumerate() {
        let at = path.index(i);
        if let Some(name) = port["name"].as_str().filter(|name| !name.is_empty()) {
            let why = validation::is_port_name(name);
            errors.extend(why.into_iter().map(|why| Error::invalid(&at.child("name"), name, why)));
            if !names.insert(name) {
                errors.push(Error::duplicate(&at.child("name"), name));
            }
        }
        match port["containerPort"].as_i64().unwrap_or_default() {
            0 => errors.push(Error::required(&at.child("containerPort"), "")),
            number => {
                let why = validation::is_port_number(number);
                errors.extend(why.into_iter().map(|why| Error::invalid(&at.child("containerPort"), number, why)));
            }
        }
        if let Some(number) = port["hostPort"].as_i64().filter(|port| *port != 0) {
            let why = validation::is_port_number(number);
            errors.extend(why.into_iter().map(|why| Error::invalid(&at.child("hostPort"), number, why)));
        }
        match port["protocol"].as_str().unwrap_or_default() {
            "" => errors.push(Error::required(&at.child("protocol"), "")),
            known if PROTOCOLS.contains(&known) => {}
            other => errors.push(Error::not_supported(&at.child("protocol"), other, &PROTOCOLS)),
        }
    }
    errors
}

fn validate_resources(resources: &Value, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    let quantity = |value: &Value| value.as_str().and_then(|text| text.parse::<Quantity>().ok());
    for member in ["limits", "requests"] {
        for (name, value) in resources[member].as_object().into_iter().flatten() {
            if quantity(value).is_some_and(|quantity| quantity < Quantity::default()) {
                let why = "must be greater than or equal to 0";
                errors.push(Error::invalid(&path.child(member).key(name), value.clone(), why));
            }
        }
    }
    for (name, request) in resources["requests"].as_object().into_iter().flatten() {
        let limit = &resources["limits"][name.as_str()];
        if let (Some(asked), Some(most)) = (quantity(request), quantity(limit))
            && asked > most
        {
            let why = format!("must be less than or equal to {name} limit of {}", limit.as_str().unwrap_or_default());
            errors.push(Error::invalid(&path.child("requests"), request.clone(), why));
        }
    }
    errors
}

/// `Guaranteed`, `Burstable` or `BestEffort`
/// (<https://kubernetes.io/docs/concepts/workloads/pods/pod-qos/>).
pub(super) fn qos_class(spec: &Value) -> &'static str {
    let containers = spec.array_at(&["containers"]).iter().chain(spec.array_at(&["initContainers"]));
    let nonzero =
        |value: &Value| value.as_str().and_then(|text| text.parse::<Quantity>().ok()).filter(|q| *q > Quantity::default());
    let (mut any, mut guaranteed) = (false, true);
    for container in containers {
        for resource in ["cpu", "memory"] {
            let limit = nonzero(&container["resources"]["limits"][resource]);
            let request = nonzero(&container["resources"]["requests"][resource]);
            any |= limit.is_some() || request.is_some();
            guaranteed &= limit.is_some() && request.is_none_or(|request| Some(request) == limit);
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

/// What a pod may still change after its creation (upstream's `updatablePodSpecFields`).
const UPDATABLE: &str = "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` \
    (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// Everything but images, deadlines, new tolerations and removed scheduling gates stays.
pub(super) fn validate_update(spec: &Value, old: &Value, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    let mut same = spec.clone();
    for member in ["containers", "initContainers"] {
        let before = old.array_at(&[member]);
        if spec.array_at(&[member]).len() != before.len() {
            return vec![Error::forbidden(&path.child(member), "pod updates may not add or remove containers")];
        }
        for (container, before) in same.get_mut(member).and_then(Value::as_array_mut).into_iter().flatten().zip(before) {
            container.insert("image", before["image"].clone());
        }
    }
    let (deadline, before) = (spec["activeDeadlineSeconds"].as_i64(), old["activeDeadlineSeconds"].as_i64());
    let at = path.child("activeDeadlineSeconds");
    match (deadline, before) {
        (Some(now), Some(before)) if now > before => {
            errors.push(Error::invalid(&at, now, "must be less than or equal to previous value"));
        }
        (None, Some(_)) => errors.push(Error::invalid(&at, Value::Null, "must not update from a positive integer to nil value")),
        _ => {}
    }
    let seconds_aside = |toleration: &Value| {
        let mut toleration = toleration.clone();
        toleration.remove("tolerationSeconds");
        toleration
    };
    let now: Vec<Value> = spec.array_at(&["tolerations"]).iter().map(seconds_aside).collect();
    if old.array_at(&["tolerations"]).iter().any(|toleration| !now.contains(&seconds_aside(toleration))) {
        let why = "existing toleration can not be modified except its tolerationSeconds";
        errors.push(Error::forbidden(&path.child("tolerations"), why));
    }
    for gate in spec.array_at(&["schedulingGates"]) {
        if !old.array_at(&["schedulingGates"]).contains(gate) {
            let why = "only deletion is allowed, but found new scheduling gate '".to_owned();
            let name = gate["name"].as_str().unwrap_or_default();
            errors.push(Error::forbidden(&path.child("schedulingGates"), format!("{why}{name}'")));
        }
    }
    let mut free = vec!["activeDeadlineSeconds", "tolerations", "schedulingGates"];
    if old["terminationGracePeriodSeconds"].as_i64().is_some_and(|seconds| seconds < 0)
        && spec["terminationGracePeriodSeconds"].as_i64() == Some(1)
    {
        free.push("terminationGracePeriodSeconds");
    }
    if !old.array_at(&["schedulingGates"]).is_empty() {
        // A pod that is held back may still be directed to nodes.
        free.extend(["nodeSelector", "affinity"]);
    }
    for member in free {
        match old.get(member) {
            Some(value) => drop(same.insert(member, value.clone())),
            None => drop(same.remove(member)),
        }
    }
    if same != *old {
        errors.push(Error::forbidden(
            path,
            format!("pod updates may not change fields other than {UPDATABLE}\n{}", changes(old, &same)),
        ));
    }
    errors
}

/// The members that differ, old and new.
fn changes(old: &Value, new: &Value) -> String {
    let keys = old.as_object().into_iter().chain(new.as_object()).flat_map(|members| members.keys());
    let keys: std::collections::BTreeSet<&str> = keys.map(|key| key.as_str()).collect();
    let changed = keys.into_iter().filter(|key| old[*key] != new[*key]);
    changed.map(|key| format!("  {key}: {} -> {}", old[key], new[key])).collect::<Vec<_>>().join("\n")
}
