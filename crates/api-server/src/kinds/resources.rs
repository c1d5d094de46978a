//! Names and amounts of resources: what containers, quotas and limit ranges may name (upstream's `pkg/apis/core/helper`).

use apimachinery::field::{Error, ErrorList};
use apimachinery::quantity::Format;
use apimachinery::{Quantity, Value, validation};

use super::at::{At, NOT_NEGATIVE};

const CONTAINER: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];
const STANDARD: [&str; 21] = [
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
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "storage",
    "requests.storage",
    "services.nodeports",
    "services.loadbalancers",
    "requests.hugepages-",
];
const COUNTED: [&str; 9] = [
    "pods",
    "services",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];

fn is_huge_page(name: &str) -> bool {
    name.starts_with("hugepages-")
}

pub(super) fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// A device of a node, by a vendor's name.
pub(crate) fn is_extended(name: &str) -> bool {
    !is_native(name) && !name.starts_with("requests.") && validation::is_qualified_name(&format!("requests.{name}")).is_empty()
}

fn is_overcommit_allowed(name: &str) -> bool {
    is_native(name) && !is_huge_page(name)
}

/// Upstream's `IsStandardQuotaResourceName`: what quotas count besides `count/RESOURCE.GROUP`.
pub(super) fn is_quota_resource(name: &str) -> bool {
    STANDARD.contains(&name) || is_huge_page(name) || name.starts_with("requests.hugepages-")
}

/// A resource of any object.
pub(super) fn resource_name(at: &At, name: &str, e: &mut ErrorList) {
    let why = validation::is_qualified_name(name);
    if !why.is_empty() {
        e.extend(why.into_iter().map(|why| Error::invalid(&at.path(), name, why)));
        return;
    }
    if !name.contains('/') && !STANDARD.contains(&name) && !is_huge_page(name) && !name.starts_with("requests.hugepages-") {
        e.push(Error::invalid(&at.path(), name, "must be a standard resource type or fully qualified"));
    }
}

/// A resource of containers.
pub(super) fn container_resource_name(at: &At, name: &str, e: &mut ErrorList) {
    resource_name(at, name, e);
    if !name.contains('/') {
        if !CONTAINER.contains(&name) && !is_huge_page(name) {
            e.push(Error::invalid(&at.path(), name, "must be a standard resource for containers"));
        }
    } else if !is_native(name) && !is_extended(name) {
        e.push(Error::invalid(&at.path(), name, "doesn't follow extended resource name standard"));
    }
}

/// A resource of pods as a whole.
fn pod_resource_name(at: &At, name: &str, e: &mut ErrorList) {
    let before = e.len();
    resource_name(at, name, e);
    if e.len() == before && !matches!(name, "cpu" | "memory") && !is_huge_page(name) {
        e.push(Error::not_supported(&at.path(), name, &["cpu", "hugepages-", "memory"]));
    }
}

/// A resource that a quota limits.
pub(super) fn quota_resource_name(at: &At, name: &str, e: &mut ErrorList) {
    resource_name(at, name, e);
    if !name.contains('/') && !is_quota_resource(name) {
        e.push(Error::invalid(&at.path(), name, "must be a standard resource for quota"));
    }
}

/// What has more thousandths than upstream can count is no whole number to it.
fn most() -> Quantity {
    Quantity::from_milli(i64::MAX, Format::DecimalSi)
}

/// An amount of the resource.
pub(super) fn amount(at: &At, name: &str, e: &mut ErrorList) {
    let Some(quantity) = at.quantity() else { return };
    if quantity < Quantity::default() {
        at.invalid(e, NOT_NEGATIVE);
    }
    if (COUNTED.contains(&name) || is_extended(name)) && (!quantity.is_integer() || quantity > most()) {
        at.invalid(e, "must be an integer");
    }
}

/// Of whom the requirements are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Of {
    Container,
    Pod,
}

/// Limits, requests and claims. `claims` are the names of the pod's claims.
pub(super) fn requirements(at: &At, of: Of, claims: &[Value], e: &mut ErrorList) {
    if !at.is_set() {
        return;
    }
    let name_rule = if of == Of::Container { container_resource_name } else { pod_resource_name };
    let (mut compute, mut huge) = (false, false);
    let limits = at.get("limits");
    for list in [at.get("limits"), at.get("requests")] {
        for (name, entry) in list.entries() {
            name_rule(&entry, name, e);
            amount(&entry, name, e);
            compute |= matches!(name, "cpu" | "memory");
            huge |= is_huge_page(name);
            huge_page_multiple(&entry, name, e);
        }
    }
    let requests = at.get("requests");
    for (name, entry) in requests.entries() {
        let (Some(asked), limit) = (entry.quantity(), limits.key(name)) else { continue };
        let text = limit.text();
        match limit.quantity() {
            Some(most) if asked != most && !is_overcommit_allowed(name) => {
                let why = format!("must be equal to {name} limit of {text}");
                e.push(Error::invalid(&requests.path(), entry.value.clone(), why));
            }
            Some(most) if asked > most => {
                let why = format!("must be less than or equal to {name} limit of {text}");
                e.push(Error::invalid(&requests.path(), entry.value.clone(), why));
            }
            None if !is_overcommit_allowed(name) => {
                limits.require(e, "Limit must be set for non overcommitable resources");
            }
            _ => {}
        }
    }
    if huge && !compute {
        at.forbid(e, "HugePages require cpu or memory");
    }
    claim_names(&at.get("claims"), claims, e);
}

fn huge_page_multiple(at: &At, name: &str, e: &mut ErrorList) {
    let Some(size) = name.strip_prefix("hugepages-").and_then(|size| Quantity::parse(size).ok()) else { return };
    if let Some(quantity) = at.quantity()
        && size.value() > 0
        && quantity.value() % size.value() != 0
    {
        at.invalid(e, format!("{} is not positive integer multiple of {}", at.text(), &name["hugepages-".len()..]));
    }
}

fn claim_names(at: &At, claims: &[Value], e: &mut ErrorList) {
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for claim in at.items() {
        let (name, request) = (claim.get("name").text(), claim.get("request").text());
        if name.is_empty() {
            claim.require(e, "");
            continue;
        }
        let all_of_it = seen.contains(&(name, ""));
        if !request.is_empty() && !all_of_it {
            claim.get("request").check(e, validation::is_dns1123_label);
        }
        if seen.contains(&(name, request)) {
            let text = if request.is_empty() { name.to_owned() } else { format!("{name}/{request}") };
            e.push(Error::duplicate(&claim.path(), text));
        } else if seen.iter().any(|(other, all)| *other == name && (all.is_empty() || request.is_empty())) {
            e.push(Error::duplicate(&claim.path(), name));
        }
        seen.push((name, request));
        if !claims.iter().any(|known| known["name"] == *name) {
            let mut known: Vec<&str> = claims.iter().filter_map(|known| known["name"].as_str()).collect();
            known.sort_unstable();
            let mut error = Error::not_found(&claim.path(), name);
            let list = if known.is_empty() { " which is empty".to_owned() } else { format!(": {}", known.join(", ")) };
            error.detail = format!("must be one of the names in pod.spec.resourceClaims{list}");
            e.push(error);
        }
    }
}
