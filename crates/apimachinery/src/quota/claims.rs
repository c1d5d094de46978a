//! Claims of storage and of devices (upstream's `evaluator/core/persistent_volume_claims.go` and `resource_claims.go`).

use std::collections::BTreeSet;

use super::{Amounts, Requirement, count, one, quantities};
use crate::quantity::Format;
use crate::{Quantity, Value};

const COUNT: &str = "count/persistentvolumeclaims";
const NUMBER: &str = "persistentvolumeclaims";
const STORAGE: &str = "requests.storage";
const CLASS_SUFFIX: &str = ".storageclass.storage.k8s.io/";
const DEVICE_COUNT: &str = "count/resourceclaims.resource.k8s.io";
const DEVICES_SUFFIX: &str = ".deviceclass.resource.k8s.io/devices";
/// Upstream's `AllocationResultsMaxSize`: the most devices that "all" can mean.
const ALL_DEVICES: i64 = 32;

pub(super) fn measures(name: &str) -> bool {
    let of_class = |resource| name.strip_suffix(resource).is_some_and(|class| class.ends_with(CLASS_SUFFIX));
    [COUNT, NUMBER, STORAGE].contains(&name) || of_class(NUMBER) || of_class(STORAGE)
}

/// The class of a claim; the old annotation goes before the field.
fn class(claim: &Value) -> &str {
    let old = claim.meta().annotation("volume.beta.kubernetes.io/storage-class");
    old.or(claim.str_at(&["spec", "storageClassName"])).unwrap_or_default()
}

/// What is asked for, or what was granted in an expansion that was taken back, if that is more. In whole bytes.
fn storage(claim: &Value) -> Option<Quantity> {
    let amount = |path: &[&str]| claim.get_path(path).and_then(|value| Quantity::from_value(value).ok());
    let asked = amount(&["spec", "resources", "requests", "storage"])?;
    let granted = amount(&["status", "allocatedResources", "storage"]).filter(|granted| *granted > asked);
    let counted = granted.unwrap_or(asked);
    Some(if counted.is_integer() { counted } else { Quantity::new(counted.value(), counted.format()) })
}

pub(super) fn usage(claim: &Value) -> Amounts {
    let mut usage = Amounts::from([(COUNT.to_owned(), one()), (NUMBER.to_owned(), one())]);
    let class = class(claim);
    if !class.is_empty() {
        usage.insert(format!("{class}{CLASS_SUFFIX}{NUMBER}"), one());
    }
    if let Some(storage) = storage(claim) {
        usage.insert(STORAGE.to_owned(), storage);
        if !class.is_empty() {
            usage.insert(format!("{class}{CLASS_SUFFIX}{STORAGE}"), storage);
        }
    }
    usage
}

/// The classes of volume attributes that a claim has, had or is getting.
fn attributes_classes(claim: &Value) -> BTreeSet<&str> {
    let places: [&[&str]; 3] = [
        &["spec", "volumeAttributesClassName"],
        &["status", "currentVolumeAttributesClassName"],
        &["status", "modifyVolumeStatus", "targetVolumeAttributesClassName"],
    ];
    places.iter().filter_map(|place| claim.str_at(place)).filter(|name| !name.is_empty()).collect()
}

pub(super) fn fulfils(requirement: &Requirement, claim: &Value) -> bool {
    if requirement.scope != "VolumeAttributesClass" {
        return false;
    }
    let classes = attributes_classes(claim);
    if classes.is_empty() { requirement.accepts(None) } else { classes.iter().any(|class| requirement.accepts(Some(class))) }
}

/// Upstream's `RequiresQuotaReplenish`.
pub(super) fn usage_may_shrink(claim: &Value, old: &Value) -> bool {
    let granted = |claim: &Value| claim.get_path(&["status", "allocatedResources"]).map(quantities).unwrap_or_default();
    granted(claim).get("storage") != granted(old).get("storage") || attributes_classes(claim) != attributes_classes(old)
}

pub(super) fn measures_devices(name: &str) -> bool {
    name == DEVICE_COUNT || name.ends_with(DEVICES_SUFFIX)
}

/// The class of a request and how many of its devices may be allocated for it at most.
fn devices(request: &Value) -> (String, i64) {
    let number = match request.str_at(&["allocationMode"]) {
        Some("ExactCount") => request.i64_at(&["count"]).unwrap_or(0),
        Some("All") => ALL_DEVICES,
        // What a newer version knows cannot be counted.
        _ => 0,
    };
    (format!("{}{DEVICES_SUFFIX}", request.str_at(&["deviceClassName"]).unwrap_or_default()), number)
}

pub(super) fn device_usage(claim: &Value) -> Amounts {
    let mut usage = Amounts::from([(DEVICE_COUNT.to_owned(), count(1))]);
    let mut charge = |name: String, number: i64| {
        let have = usage.get(&name).copied().unwrap_or_default();
        usage.insert(name, have.plus(Quantity::new(number, Format::DecimalSi)));
    };
    for request in claim.array_at(&["spec", "devices", "requests"]) {
        let alternatives = request.array_at(&["firstAvailable"]);
        if !alternatives.is_empty() {
            // Only one of them will be used: the worst case for each class.
            let mut worst = std::collections::BTreeMap::new();
            for (name, number) in alternatives.iter().map(devices).filter(|(_, number)| *number > 0) {
                let have = worst.entry(name).or_insert(0);
                *have = number.max(*have);
            }
            worst.into_iter().for_each(|(name, number)| charge(name, number));
        } else if let Some(exactly) = request.get("exactly") {
            let (name, number) = devices(exactly);
            charge(name, number);
        }
    }
    usage
}
