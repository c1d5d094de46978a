//! Pods: their number and what they ask the nodes for (upstream's `evaluator/core/pods.go`, `component-helpers/resource`).

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

use super::{Amounts, Requirement, one, quantities, sum};
use crate::time::parse_time;
use crate::{Quantity, Value, validation};

const COUNT: &str = "count/pods";
const NAMES: [&str; 11] = [
    COUNT,
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
];
/// What every container must ask for where it is limited. Upstream calls it a mistake and keeps it at these.
const MANDATORY: [&str; 6] = ["cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"];
const DEVICE_CLASS: &str = "deviceclass.resource.kubernetes.io/";
const KINDS: [&str; 2] = ["containers", "initContainers"];

pub(super) fn measures(name: &str) -> bool {
    let extended = name.strip_prefix("requests.").is_some_and(|name| name.starts_with(DEVICE_CLASS)) || !is_native(name);
    NAMES.contains(&name)
        || name.starts_with("hugepages-")
        || name.starts_with("requests.hugepages-")
        || (extended && name.starts_with("requests."))
}

fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// A device by a vendor's name, or by its class.
fn is_device(name: &str) -> bool {
    let extended = !is_native(name)
        && !name.starts_with("requests.")
        && validation::is_qualified_name(&format!("requests.{name}")).is_empty();
    extended || name.starts_with(DEVICE_CLASS)
}

/// Whether the pod is to end by itself (`activeDeadlineSeconds`).
pub(super) fn is_terminating(pod: &Value) -> bool {
    pod.i64_at(&["spec", "activeDeadlineSeconds"]).is_some_and(|seconds| seconds >= 0)
}

fn supported_for_pods(name: &str) -> bool {
    matches!(name, "cpu" | "memory") || name.starts_with("hugepages-")
}

fn has_resources_of_its_own(pod: &Value) -> bool {
    ["requests", "limits"].iter().any(|part| pod_level(pod, part).next().is_some())
}

fn pod_level(pod: &Value, part: &str) -> impl Iterator<Item = (String, Quantity)> {
    let list = pod.get_path(&["spec", "resources", part]).map(quantities).unwrap_or_default();
    list.into_iter().filter(|(name, _)| supported_for_pods(name))
}

fn is_best_effort(pod: &Value) -> bool {
    if let Some(class) = pod.str_at(&["status", "qosClass"]).filter(|class| !class.is_empty()) {
        return class == "BestEffort";
    }
    let asks = |resources: &Value| {
        let compute = |part: &str| {
            quantities(&resources[part])
                .iter()
                .any(|(name, amount)| matches!(name.as_str(), "cpu" | "memory") && amount.signum() > 0)
        };
        compute("requests") || compute("limits")
    };
    if has_resources_of_its_own(pod) {
        return !asks(&pod["spec"]["resources"]);
    }
    !KINDS.iter().flat_map(|kind| pod.array_at(&["spec", kind])).any(|container| asks(&container["resources"]))
}

fn reaches_other_namespaces(pod: &Value) -> bool {
    ["podAffinity", "podAntiAffinity"].iter().any(|kind| {
        let affinity = &pod["spec"]["affinity"][*kind];
        let required = affinity.array_at(&["requiredDuringSchedulingIgnoredDuringExecution"]).iter();
        let preferred = affinity.array_at(&["preferredDuringSchedulingIgnoredDuringExecution"]).iter();
        let mut terms = required.chain(preferred.map(|weighted| &weighted["podAffinityTerm"]));
        terms
            .any(|term| !term.array_at(&["namespaces"]).is_empty() || term.get("namespaceSelector").is_some_and(|s| !s.is_null()))
    })
}

pub(super) fn fulfils(requirement: &Requirement, pod: &Value) -> bool {
    match requirement.scope.as_str() {
        "Terminating" => is_terminating(pod),
        "NotTerminating" => !is_terminating(pod),
        "BestEffort" => is_best_effort(pod),
        "NotBestEffort" => !is_best_effort(pod),
        "PriorityClass" => requirement.accepts(pod.str_at(&["spec", "priorityClassName"]).filter(|class| !class.is_empty())),
        "CrossNamespacePodAffinity" => reaches_other_namespaces(pod),
        _ => false,
    }
}

pub(super) fn constraints(limited: &[&str], pod: &Value) -> Result<(), String> {
    if has_resources_of_its_own(pod) {
        return Ok(());
    }
    let mandatory = limited.iter().filter(|name| MANDATORY.contains(name));
    let mut missing: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let mandatory: Vec<&str> = mandatory.copied().collect();
    for container in KINDS.iter().flat_map(|kind| pod.array_at(&["spec", kind])) {
        let resources = &container["resources"];
        let said = compute(&quantities(&resources["requests"]), &quantities(&resources["limits"]));
        for name in mandatory.iter().filter(|name| !said.contains_key(**name)) {
            missing.entry(name).or_default().insert(container["name"].as_str().unwrap_or_default());
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let join = |names: BTreeSet<&str>| names.into_iter().collect::<Vec<_>>().join(",");
    let texts: Vec<String> = missing.into_iter().map(|(name, containers)| format!("{name} for: {}", join(containers))).collect();
    Err(format!("must specify {}", texts.join("; ")))
}

/// Under the names that quotas have for them.
fn compute(requests: &Amounts, limits: &Amounts) -> Amounts {
    let mut usage = Amounts::from([("pods".to_owned(), one())]);
    for (name, amount) in requests {
        let both = matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
        if both {
            usage.insert(name.clone(), *amount);
        }
        if both || is_device(name) {
            usage.insert(format!("requests.{name}"), *amount);
        }
    }
    for name in ["cpu", "memory", "ephemeral-storage"] {
        if let Some(amount) = limits.get(name) {
            usage.insert(format!("limits.{name}"), *amount);
        }
    }
    usage
}

/// Whether the pod uses anything but its place in the store: not if it has ended, nor if it should have long ago (a lost node must not
/// keep its user from starting another).
fn is_charged(pod: &Value, now: Timestamp) -> bool {
    if matches!(pod.str_at(&["status", "phase"]), Some("Failed" | "Succeeded")) {
        return false;
    }
    let deletion = pod.meta().deletion_timestamp().and_then(|text| parse_time(text).ok());
    match (deletion, pod.meta().deletion_grace_period_seconds()) {
        (Some(at), Some(grace)) => at.checked_add(SignedDuration::from_secs(grace)).is_ok_and(|end| now <= end),
        _ => true,
    }
}

pub(super) fn usage(pod: &Value, now: Timestamp) -> Amounts {
    let counted = Amounts::from([(COUNT.to_owned(), one())]);
    if !is_charged(pod, now) {
        return counted;
    }
    sum(&counted, &compute(&pod_total(pod, "requests"), &pod_total(pod, "limits")))
}

pub(super) fn recounts_after(pod: &Value, old: &Value, now: Timestamp) -> bool {
    let resized = ["containerStatuses", "initContainerStatuses"].iter().any(|list| {
        let new = pod.array_at(&["status", list]);
        old.array_at(&["status", list]).iter().any(|was| {
            let is = new.iter().find(|status| status["name"] == was["name"]);
            is.is_some_and(|is| is["resources"] != was["resources"])
        })
    });
    resized || is_terminating(pod) != is_terminating(old) || (is_charged(old, now) && !is_charged(pod, now))
}

fn raise(total: &mut Amounts, least: &Amounts) {
    for (name, amount) in least {
        if total.get(name).is_none_or(|have| have < amount) {
            total.insert(name.clone(), *amount);
        }
    }
}

/// What a container has or is about to have: the larger of what it asks for, what it was granted and what it runs with, unless the
/// node cannot grant what is asked for.
fn effective(pod: &Value, container: &Value, part: &str) -> Amounts {
    let asked = quantities(&container["resources"][part]);
    let statuses = ["containerStatuses", "initContainerStatuses"].into_iter().flat_map(|list| pod.array_at(&["status", list]));
    let status = statuses.into_iter().find(|status| status["name"] == container["name"]);
    let Some(status) = status.filter(|status| status.get("resources").is_some_and(|r| !r.is_null())) else { return asked };
    let pending = pod.array_at(&["status", "conditions"]).iter().find(|condition| condition["type"] == "PodResizePending");
    let infeasible = pending.is_some_and(|condition| condition["reason"] == "Infeasible");
    let mut most = quantities(&status["resources"][part]);
    if part == "requests" {
        raise(&mut most, &quantities(&status["allocatedResources"]));
    }
    if !infeasible {
        raise(&mut most, &asked);
    }
    most
}

/// All containers and sidecars together, or the largest moment of the initialization; then what the pod says as a whole (KEP-2837),
/// and the overhead of its runtime.
fn pod_total(pod: &Value, part: &str) -> Amounts {
    let mut total = Amounts::new();
    for container in pod.array_at(&["spec", "containers"]) {
        total = sum(&total, &effective(pod, container, part));
    }
    let (mut sidecars, mut peak) = (Amounts::new(), Amounts::new());
    for container in pod.array_at(&["spec", "initContainers"]) {
        if container["restartPolicy"] == "Always" {
            let own = effective(pod, container, part);
            total = sum(&total, &own);
            sidecars = sum(&sidecars, &own);
            raise(&mut peak, &sidecars);
        } else {
            raise(&mut peak, &sum(&quantities(&container["resources"][part]), &sidecars));
        }
    }
    raise(&mut total, &peak);
    total.extend(pod_level(pod, part));
    for (name, overhead) in pod.get_path(&["spec", "overhead"]).map(quantities).unwrap_or_default() {
        match total.get(&name) {
            Some(have) if part == "requests" || !have.is_zero() => total.insert(name, have.plus(overhead)),
            None if part == "requests" => total.insert(name, overhead),
            _ => None,
        };
    }
    total
}
