//! Which volume a claim gets (upstream's `component-helpers/storage/volume` and `pv_controller`'s index).

use std::collections::BTreeMap;
use std::sync::Arc;

use apimachinery::Quantity;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::label_match::Matcher;

/// The initial binding of a claim is complete.
pub(super) const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// The controller made the binding, not a user.
pub(super) const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// The provisioner of a volume.
pub(crate) const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// Another driver took over from the one built in.
pub(super) const MIGRATED_TO: &str = "pv.kubernetes.io/migrated-to";
/// The scheduler's choice for a claim that waits for its first pod.
pub(crate) const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// Where classes were named before they had a field.
const OLD_CLASS: &str = "volume.beta.kubernetes.io/storage-class";
const DEFAULT_CLASS: [&str; 2] =
    ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];

pub(crate) fn annotation<'a>(meta: &'a ObjectMeta, name: &str) -> Option<&'a str> {
    meta.annotations.as_ref()?.get(name).map(String::as_str)
}

/// A volume's phase.
pub(crate) fn phase(volume: &PersistentVolume) -> &str {
    volume.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

pub(crate) fn claim_class(claim: &PersistentVolumeClaim) -> &str {
    let field = claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref());
    annotation(&claim.metadata, OLD_CLASS).or(field).unwrap_or_default()
}

/// Whether the user said anything about the class: an empty name says "none".
fn has_class(claim: &PersistentVolumeClaim) -> bool {
    let field = claim.spec.as_ref().is_some_and(|spec| spec.storage_class_name.is_some());
    field || annotation(&claim.metadata, OLD_CLASS).is_some()
}

pub(super) fn volume_class(volume: &PersistentVolume) -> &str {
    let field = volume.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref());
    annotation(&volume.metadata, OLD_CLASS).or(field).unwrap_or_default()
}

/// The name of the volume that a claim asks for or has.
pub(crate) fn volume_name(claim: &PersistentVolumeClaim) -> &str {
    claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or_default()
}

/// The class that a claim without one should get: the newest that is marked as default, then the first by name.
pub(super) fn default_class<'a>(claim: &PersistentVolumeClaim, classes: &'a [Arc<StorageClass>]) -> Option<&'a str> {
    if has_class(claim) {
        return None;
    }
    let marked = |class: &&Arc<StorageClass>| DEFAULT_CLASS.iter().any(|name| annotation(&class.metadata, name) == Some("true"));
    let age = |class: &StorageClass| class.metadata.creation_timestamp.as_ref().map(|time| time.0);
    let older =
        |a: &&Arc<StorageClass>, b: &&Arc<StorageClass>| age(b).cmp(&age(a)).then_with(|| a.metadata.name.cmp(&b.metadata.name));
    classes.iter().filter(marked).min_by(older).and_then(|class| class.metadata.name.as_deref())
}

fn amount(list: Option<&BTreeMap<String, ApiQuantity>>) -> Quantity {
    list.and_then(|list| list.get("storage")).and_then(|amount| Quantity::parse(&amount.0).ok()).unwrap_or_default()
}

fn asked(claim: &PersistentVolumeClaim) -> Quantity {
    let resources = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref());
    amount(resources.and_then(|resources| resources.requests.as_ref()))
}

pub(super) fn capacity(volume: &PersistentVolume) -> Quantity {
    amount(volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref()))
}

/// `Filesystem` or `Block`.
pub(super) fn modes_differ(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> bool {
    let asked = claim.spec.as_ref().and_then(|spec| spec.volume_mode.as_deref());
    let has = volume.spec.as_ref().and_then(|spec| spec.volume_mode.as_deref());
    asked.unwrap_or("Filesystem") != has.unwrap_or("Filesystem")
}

fn attributes_classes_differ(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> bool {
    let asked = claim.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.as_deref());
    let has = volume.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.as_deref());
    asked.unwrap_or_default() != has.unwrap_or_default()
}

/// The access modes of a volume, each once.
fn access_modes(volume: &PersistentVolume) -> Vec<&str> {
    let mut modes: Vec<&str> =
        volume.spec.iter().flat_map(|spec| spec.access_modes.iter().flatten()).map(String::as_str).collect();
    modes.sort_unstable();
    modes.dedup();
    modes
}

fn accessible(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> bool {
    let has = access_modes(volume);
    claim.spec.iter().flat_map(|spec| spec.access_modes.iter().flatten()).all(|mode| has.contains(&mode.as_str()))
}

/// The volume is reserved for this claim or bound to it.
pub(super) fn is_bound_to(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let Some(reference) = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()) else { return false };
    let uid = reference.uid.as_deref().filter(|uid| !uid.is_empty());
    reference.name == claim.metadata.name
        && reference.namespace == claim.metadata.namespace
        && uid.is_none_or(|uid| claim.metadata.uid.as_deref() == Some(uid))
}

/// Why a volume that a claim names is none for it; upstream's texts.
pub(super) fn satisfies(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Result<(), String> {
    if volume.metadata.deletion_timestamp.is_some() {
        let name = volume.metadata.name.as_deref().unwrap_or_default();
        return Err(format!("the volume is marked for deletion {name:?}"));
    }
    let refusals = [
        (capacity(volume).value() < asked(claim).value(), "requested PV is too small"),
        (volume_class(volume) != claim_class(claim), "storageClassName does not match"),
        (attributes_classes_differ(claim, volume), "volumeAttributesClassName does not match"),
        (modes_differ(claim, volume), "incompatible volumeMode"),
        (!accessible(claim, volume), "incompatible accessMode"),
    ];
    refusals.iter().find(|(refused, _)| *refused).map_or(Ok(()), |(_, why)| Err((*why).to_owned()))
}

/// The best volume for a claim: the one that is reserved for it, else the smallest that will do, of those with the fewest access
/// modes. Of a class that waits for the first pod (`delayed`) only a reserved one: the scheduler chooses.
pub(super) fn find(
    claim: &PersistentVolumeClaim,
    volumes: &[Arc<PersistentVolume>],
    delayed: bool,
) -> Option<Arc<PersistentVolume>> {
    let possible = |volume: &&Arc<PersistentVolume>| {
        let free = volume.spec.as_ref().is_none_or(|spec| spec.claim_ref.is_none());
        (free || is_bound_to(volume, claim))
            && accessible(claim, volume)
            && capacity(volume) >= asked(claim)
            && !modes_differ(claim, volume)
            && !attributes_classes_differ(claim, volume)
            && volume.metadata.deletion_timestamp.is_none()
    };
    let selector = claim.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let matcher = selector.and_then(Matcher::new);
    let wanted = |volume: &&Arc<PersistentVolume>| {
        !delayed
            && phase(volume) == "Available"
            && volume_class(volume) == claim_class(claim)
            && (selector.is_none() || matcher.as_ref().is_some_and(|matcher| matcher.matches(&volume.metadata)))
    };
    let mut candidates: Vec<&Arc<PersistentVolume>> = volumes.iter().filter(possible).collect();
    candidates.sort_by(|a, b| {
        let (a, b) = (access_modes(a), access_modes(b));
        a.len().cmp(&b.len()).then_with(|| a.cmp(&b))
    });
    for group in candidates.chunk_by(|a, b| access_modes(a) == access_modes(b)) {
        let reserved = group.iter().find(|volume| is_bound_to(volume, claim)).copied();
        let smallest = || group.iter().copied().filter(wanted).min_by_key(|volume| capacity(volume));
        if let Some(best) = reserved.or_else(smallest) {
            return Some(Arc::clone(best));
        }
    }
    None
}
