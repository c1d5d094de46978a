//! Which pod specs are valid (upstream's `ValidatePodSpec`). Pods and everything with a pod template share it.

mod containers;
mod field_refs;
mod label_keys;
mod probes;
mod projected;
mod scheduling;
mod security;
mod update;
mod volumes;

use apimachinery::field::{Error, ErrorList};
use apimachinery::{Quantity, Value, validation};

use super::at::{At, Policy, subdomain};
use super::resources::{self, Of};
use crate::gates::Feature;

pub(super) use label_keys::merge as merge_label_keys;
pub(crate) use scheduling::toleration_errors;
pub(super) use scheduling::{EFFECTS, node_selector, tolerations};
pub(super) use update::{ephemeral_containers_update, resize, status_update, update};

/// Upstream's `MaxDNSNameservers`, `MaxDNSSearchPaths` and `MaxDNSSearchListChars`.
const NAMESERVERS_MAX: usize = 3;
const SEARCHES_MAX: usize = 32;
const SEARCHES_BYTES_MAX: usize = 2048;

/// A whole pod (upstream's `validatePodMetadataAndSpec`).
pub(super) fn pod(object: &Value, policy: Policy, e: &mut ErrorList) {
    let root = At::root_under(object, policy);
    let (meta, spec) = (root.get("metadata"), root.get("spec"));
    annotations(&meta.get("annotations"), &spec, e);
    validate(&spec, object.meta().name(), e);
    if spec.get("serviceAccountName").text().is_empty() {
        for volume in spec.get("volumes").items() {
            for source in volume.get("projected").get("sources").items() {
                if let Some(token) = source.set("serviceAccountToken") {
                    token.forbid(e, "must not be specified when serviceAccountName is not set");
                }
            }
        }
    }
    for list in ["containers", "initContainers"] {
        spec.get(list).items().for_each(|container| containers::image_spaces(&container, e));
    }
}

/// A new pod (upstream's `ValidatePodCreate`).
pub(super) fn create(object: &Value, policy: Policy, e: &mut ErrorList) {
    pod(object, policy, e);
    let root = At::root(object);
    let spec = root.get("spec");
    if spec.get("ephemeralContainers").len() > 0 {
        spec.get("ephemeralContainers").forbid(e, "cannot be set on create");
    }
    if !spec.get("nodeName").text().is_empty() && spec.get("schedulingGates").len() > 0 {
        spec.get("nodeName").forbid(e, "cannot be set until all schedulingGates have been cleared");
    }
    security::seccomp_annotations(&root.get("metadata").get("annotations"), &spec, e);
}

/// A core.v1.PodTemplateSpec.
pub(super) fn template(at: &At, e: &mut ErrorList) {
    let (meta, spec) = (at.get("metadata"), at.get("spec"));
    template_meta(at, e);
    validate(&spec, "", e);
    let noted = at.get("annotations");
    security::seccomp_annotations(&noted.with(meta.get("annotations").value), &spec, e);
    if spec.get("ephemeralContainers").len() > 0 {
        spec.get("ephemeralContainers").forbid(e, "ephemeral containers not allowed in pod template");
    }
}

/// Upstream's paths leave `metadata` out here.
pub(super) fn template_meta(at: &At, e: &mut ErrorList) {
    let meta = at.get("metadata");
    at.get("labels").with(meta.get("labels").value).labels(e);
    let noted = at.get("annotations");
    let noted = noted.with(meta.get("annotations").value);
    noted.annotations(e);
    annotations(&noted, &at.get("spec"), e);
}

const MIRROR: &str = "kubernetes.io/config.mirror";
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

fn annotations(at: &At, spec: &At, e: &mut ErrorList) {
    let mirror = at.key(MIRROR);
    if mirror.is_set() && spec.get("nodeName").text().is_empty() {
        mirror.invalid(e, "must set spec.nodeName if mirror pod annotation is set");
    }
    let cost = at.key(DELETION_COST);
    if cost.is_set() && at.policy().has(Feature::PodDeletionCost) {
        let text = cost.text();
        let canonical = text == "0" || !(text.starts_with('+') || text.starts_with('0') || text.starts_with("-0"));
        if !canonical || text.parse::<i32>().is_err() {
            cost.invalid(e, "must be a 32bit integer");
        }
    }
}

fn validate(spec: &At, pod: &str, e: &mut ErrorList) {
    spec_and_containers(spec, pod, e);
    host_network_ports(spec, pod, e);
    spec.get("restartPolicy").required_one_of(e, &["Always", "OnFailure", "Never"]);
    spec.get("dnsPolicy").required_one_of(e, &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"]);
    spec.get("nodeSelector").labels(e);
    security::of_pod(spec, e);
    security::host_processes(spec, e);
    scheduling::affinity(&spec.get("affinity"), e);
    dns_config(spec, e);
    for gate in spec.get("readinessGates").items() {
        gate.get("conditionType").check(e, validation::is_qualified_name);
    }
    scheduling_gates(&spec.get("schedulingGates"), e);
    scheduling::topology_spread(&spec.get("topologySpreadConstraints"), e);
    security::host_users(spec, e);
    hostname(spec, e);
    spec.get("serviceAccountName").check_set(e, subdomain);
    spec.get("nodeName").check_set(e, subdomain);
    if let Some(seconds) = spec.set("activeDeadlineSeconds") {
        seconds.range(e, 1, i64::from(i32::MAX));
    }
    spec.get("hostname").check_set(e, validation::is_dns1123_label);
    spec.get("subdomain").check_set(e, validation::is_dns1123_label);
    tolerations(&spec.get("tolerations"), e);
    for alias in spec.get("hostAliases").items() {
        alias.get("ip").ip(e);
        alias.get("hostnames").items().for_each(|name| name.check(e, validation::is_dns1123_subdomain));
    }
    spec.get("priorityClassName").check_set(e, subdomain);
    if let Some(class) = spec.set("runtimeClassName") {
        class.check(e, subdomain);
    }
    if let Some(policy) = spec.set("preemptionPolicy") {
        policy.required_one_of(e, &["PreemptLowerPriority", "Never"]);
    }
    overhead(&spec.get("overhead"), e);
    security::os(spec, e);
    scheduling::workload_reference(&spec.get("workloadRef"), e);
    containers::file_key_refs(spec, e);
}

fn spec_and_containers(spec: &At, pod: &str, e: &mut ErrorList) {
    if !spec.get("terminationGracePeriodSeconds").is_set() {
        spec.get("terminationGracePeriodSeconds").require(e, "");
    }
    let volumes = volumes::volumes(&spec.get("volumes"), pod, e);
    resource_claims(&spec.get("resourceClaims"), e);
    containers::all(spec, &volumes, e);
    let pod_resources = spec.get("resources");
    if !pod_resources.is_set() {
        return;
    }
    if spec.get("os").get("name").text() == "windows" {
        return pod_resources.forbid(e, "may not be set for a windows pod");
    }
    if pod_resources.get("claims").is_set() || pod_resources.get("claims").was_sent_empty() {
        pod_resources.get("claims").forbid(e, "claims may not be set for Resources at pod-level");
    }
    resources::requirements(&pod_resources, Of::Pod, spec.value.array_at(&["resourceClaims"]), e);
    for container in spec.get("containers").items() {
        for (name, limit) in container.get("resources").get("limits").entries() {
            let most = pod_resources.get("limits");
            let most = most.key(name);
            if let (Some(own), Some(all)) = (limit.quantity(), most.quantity())
                && own > all
            {
                limit.invalid(e, format!("must be less than or equal to pod limits of {}", most.text()));
            }
        }
    }
}

fn overhead(at: &At, e: &mut ErrorList) {
    let limits = at.get("limits");
    for (name, amount) in at.entries() {
        let entry = limits.key(name);
        let entry = entry.with(amount.value);
        resources::container_resource_name(&entry, name, e);
        resources::amount(&entry, name, e);
    }
}

fn resource_claims(at: &At, e: &mut ErrorList) {
    let mut names: Vec<&str> = Vec::new();
    for claim in at.items() {
        let name = claim.get("name");
        if name.text().is_empty() {
            name.require(e, "");
        } else if names.contains(&name.text()) {
            name.duplicate(e);
        } else {
            name.check(e, validation::is_dns1123_label);
            names.push(name.text());
        }
        let (own, template) = (claim.get("resourceClaimName"), claim.get("resourceClaimTemplateName"));
        match (own.is_set(), template.is_set()) {
            (true, true) => {
                let why = "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified";
                claim.invalid_internal(e, "core.v1.PodResourceClaim", why);
            }
            (false, false) => {
                let why = "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`";
                claim.invalid_internal(e, "core.v1.PodResourceClaim", why);
            }
            _ => {}
        }
        for reference in [own, template].iter().filter(|reference| reference.is_set()) {
            reference.check(e, subdomain);
        }
    }
}

fn host_network_ports(spec: &At, pod: &str, e: &mut ErrorList) {
    if !spec.get("hostNetwork").is_true() {
        return;
    }
    for container in spec.get("containers").items() {
        for port in container.get("ports").items() {
            let host = port.get("hostPort");
            if (!pod.is_empty() || host.int() != 0) && host.int() != port.get("containerPort").int() {
                host.invalid_int(e, "must match `containerPort` when `hostNetwork` is true");
            }
        }
    }
}

fn dns_config(spec: &At, e: &mut ErrorList) {
    let at = spec.get("dnsConfig");
    let (servers, searches) = (at.get("nameservers"), at.get("searches"));
    if spec.get("dnsPolicy").text() == "None" {
        if !at.is_set() {
            return at.require(e, "must provide `dnsConfig` when `dnsPolicy` is None");
        }
        if servers.len() == 0 {
            return servers.require(e, "must provide at least one DNS nameserver when `dnsPolicy` is None");
        }
    }
    if servers.len() > NAMESERVERS_MAX {
        servers.invalid(e, format!("must not have more than {NAMESERVERS_MAX} nameservers"));
    }
    servers.items().for_each(|server| server.ip(e));
    if searches.len() > SEARCHES_MAX {
        searches.invalid(e, format!("must not have more than {SEARCHES_MAX} search paths"));
    }
    let bytes = searches.items().map(|search| search.text().len() + 1).sum::<usize>();
    if bytes > SEARCHES_BYTES_MAX + 1 {
        let why = format!("must not have more than {SEARCHES_BYTES_MAX} characters (including spaces) in the search list");
        searches.invalid(e, why);
    }
    // KEP-4427.
    let relaxed = at.policy().has(Feature::RelaxedDnsSearchValidation);
    for search in searches.items().filter(|search| !relaxed || search.text() != ".") {
        let bare = search.text().strip_suffix('.').unwrap_or(search.text());
        let why = match relaxed {
            true => validation::is_dns1123_subdomain_with_underscore(bare),
            false => validation::is_dns1123_subdomain(bare),
        };
        e.extend(why.into_iter().map(|why| Error::invalid(&search.path(), bare, why)));
    }
    for option in at.get("options").items().filter(|option| option.get("name").text().is_empty()) {
        option.require(e, "must not be empty");
    }
}

fn scheduling_gates(at: &At, e: &mut ErrorList) {
    let mut seen: Vec<&str> = Vec::new();
    for gate in at.items() {
        let name = gate.with(gate.get("name").value);
        name.check(e, validation::is_qualified_name);
        if seen.contains(&name.text()) {
            name.duplicate(e);
        }
        seen.push(name.text());
    }
}

fn hostname(spec: &At, e: &mut ErrorList) {
    let Some(name) = spec.set("hostnameOverride") else { return };
    if spec.get("setHostnameAsFQDN").is_true() {
        name.forbid(e, "may not be specified when setHostnameAsFQDN is true");
    }
    if spec.get("hostNetwork").is_true() {
        name.forbid(e, "may not be specified when hostNetwork is true");
    }
    if name.text().len() > 64 {
        name.too_long(e, 64);
    }
    name.check(e, validation::is_dns1123_subdomain);
}

/// `Guaranteed`, `Burstable` or `BestEffort`
/// (<https://kubernetes.io/docs/concepts/workloads/pods/pod-qos/>).
pub(crate) fn qos_class(spec: &Value) -> &'static str {
    let containers = spec.array_at(&["containers"]).iter().chain(spec.array_at(&["initContainers"]));
    let of_containers: Vec<&Value> = containers.map(|container| &container["resources"]).collect();
    // What the pod asks for as a whole counts instead of what its containers do.
    let whole = &spec["resources"];
    let counts = |name: &str| matches!(name, "cpu" | "memory") || name.starts_with("hugepages-");
    let names = ["requests", "limits"].into_iter().flat_map(|list| whole[list].as_object().into_iter().flatten());
    let all = if names.into_iter().any(|(name, _)| counts(name.as_str())) { vec![whole] } else { of_containers };
    let nonzero =
        |value: &Value| value.as_str().and_then(|text| text.parse::<Quantity>().ok()).filter(|q| *q > Quantity::default());
    let (mut any, mut guaranteed) = (false, true);
    for resources in all {
        for resource in ["cpu", "memory"] {
            let limit = nonzero(&resources["limits"][resource]);
            let request = nonzero(&resources["requests"][resource]);
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

#[cfg(test)]
mod tests;
