//! References to fields of the pod and resources of containers (the downward API).

use apimachinery::field::{Error, ErrorList};
use apimachinery::{Quantity, validation};

use crate::kinds::at::At;

pub(super) const IN_ENVIRONMENT: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
pub(super) const IN_VOLUMES: [&str; 5] =
    ["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];
/// What upstream's conversion of field labels knows.
const KNOWN: [&str; 12] = [
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.serviceAccountName",
    "spec.schedulerName",
    "status.phase",
    "status.hostIP",
    "status.hostIPs",
];
const RESOURCES: [&str; 6] =
    ["limits.cpu", "limits.ephemeral-storage", "limits.memory", "requests.cpu", "requests.ephemeral-storage", "requests.memory"];
const SIZES: &str = "1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei";

pub(super) fn object_field(at: &At, known: &[&str], e: &mut ErrorList) {
    let (version, path) = (at.get("apiVersion"), at.get("fieldPath"));
    if !version.required(e) || !path.required(e) {
        return;
    }
    let (base, key) = match path.text().strip_suffix(']').and_then(|text| text.split_once("['")) {
        Some((base, key)) if key.ends_with('\'') => (base, Some(&key[..key.len() - 1])),
        _ => (path.text(), None),
    };
    let convertible = KNOWN.contains(&base) || matches!(base, "status.podIP" | "status.podIPs" | "spec.host");
    let subscriptable = matches!(base, "metadata.annotations" | "metadata.labels");
    if version.text() != "v1" {
        let why = format!("error converting fieldPath: unsupported pod version: {}", version.text());
        path.invalid(e, why);
    } else if key.is_some() && !subscriptable {
        path.invalid(e, format!("error converting fieldPath: field label does not support subscript: {}", path.text()));
    } else if !convertible {
        path.invalid(e, format!("error converting fieldPath: field label not supported: {}", path.text()));
    } else if let Some(key) = key {
        let key = if base == "metadata.annotations" { key.to_ascii_lowercase() } else { key.to_owned() };
        let why = validation::is_qualified_name(&key);
        e.extend(why.into_iter().map(|why| Error::invalid(&at.path(), key.as_str(), why)));
    } else if !known.contains(&base) {
        path.one_of(e, known);
    }
}

pub(super) fn resource_field(at: &At, in_volume: bool, e: &mut ErrorList) {
    let resource = at.get("resource");
    let huge = ["limits.hugepages-", "requests.hugepages-"].iter().any(|prefix| resource.text().starts_with(prefix));
    if in_volume && at.get("containerName").text().is_empty() {
        at.get("containerName").require(e, "");
    } else if resource.text().is_empty() {
        resource.require(e, "");
    } else if !huge && !RESOURCES.contains(&resource.text()) {
        resource.one_of(e, &RESOURCES);
    }
    let divisor = at.get("divisor");
    if divisor.quantity().is_none_or(|quantity| quantity == Quantity::default()) {
        return;
    }
    let (allowed, why) = match resource.text().split_once('.').map(|(_, name)| name) {
        Some("cpu") => ("1m, 1", "only divisor's values 1m and 1 are supported with the cpu resource".to_owned()),
        Some("memory") => (SIZES, format!("only divisor's values {SIZES} are supported with the memory resource")),
        Some("ephemeral-storage") => {
            (SIZES, format!("only divisor's values {SIZES} are supported with the local ephemeral storage resource"))
        }
        _ if huge => (SIZES, format!("only divisor's values {SIZES} are supported with the hugepages resource")),
        _ => return,
    };
    let text = divisor.value.as_str().map_or_else(|| divisor.int().to_string(), str::to_owned);
    if !allowed.split(", ").any(|size| size == text) {
        e.push(Error::invalid(&divisor.path(), resource.text(), why));
    }
}
