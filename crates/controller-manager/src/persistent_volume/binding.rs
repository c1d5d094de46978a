//! The two objects of a binding as they should be. Each function returns `None` where nothing has to be written.

use apimachinery::Quantity;
use client::object_reference;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;

use super::matching::{BIND_COMPLETED, BOUND_BY_CONTROLLER, annotation, is_bound_to, phase};

/// What a volume held before it was expanded, until its file system is.
const PRE_RESIZE: &str = "volume.alpha.kubernetes.io/pre-resize-capacity";
const PROVISIONER: [&str; 2] = ["volume.kubernetes.io/storage-provisioner", "volume.beta.kubernetes.io/storage-provisioner"];

/// The volume with a reference to the claim.
pub(super) fn bound_volume(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Option<PersistentVolume> {
    let mut bound = volume.clone();
    let spec = bound.spec.get_or_insert_default();
    let by_controller = !is_bound_to(volume, claim);
    if by_controller || spec.claim_ref.as_ref().is_none_or(|reference| reference.uid != claim.metadata.uid) {
        spec.claim_ref = Some(object_reference(claim));
    }
    if by_controller && annotation(&volume.metadata, BOUND_BY_CONTROLLER).is_none() {
        bound.metadata.annotations.get_or_insert_default().insert(BOUND_BY_CONTROLLER.to_owned(), "yes".to_owned());
    }
    (bound != *volume).then_some(bound)
}

/// The volume in a phase.
pub(super) fn in_phase(volume: &PersistentVolume, wanted: &str, message: Option<&str>) -> Option<PersistentVolume> {
    if phase(volume) == wanted {
        return None;
    }
    let mut changed = volume.clone();
    let status = changed.status.get_or_insert_default();
    status.phase = Some(wanted.to_owned());
    status.message = message.map(str::to_owned);
    Some(changed)
}

/// The claim with the volume's name.
pub(super) fn bound_claim(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Option<PersistentVolumeClaim> {
    let mut bound = claim.clone();
    let spec = bound.spec.get_or_insert_default();
    let annotations = bound.metadata.annotations.get_or_insert_default();
    if spec.volume_name != volume.metadata.name {
        spec.volume_name.clone_from(&volume.metadata.name);
        annotations.entry(BOUND_BY_CONTROLLER.to_owned()).or_insert_with(|| "yes".to_owned());
    }
    annotations.entry(BIND_COMPLETED.to_owned()).or_insert_with(|| "yes".to_owned());
    (bound.spec != claim.spec || Some(&*annotations) != claim.metadata.annotations.as_ref()).then_some(bound)
}

/// The claim that asks this provisioner for a volume.
pub(super) fn with_provisioner(claim: &PersistentVolumeClaim, provisioner: &str) -> Option<PersistentVolumeClaim> {
    if annotation(&claim.metadata, PROVISIONER[0]) == Some(provisioner) {
        return None;
    }
    let mut asking = claim.clone();
    let annotations = asking.metadata.annotations.get_or_insert_default();
    annotations.extend(PROVISIONER.map(|name| (name.to_owned(), provisioner.to_owned())));
    Some(asking)
}

fn storage(list: Option<&std::collections::BTreeMap<String, ApiQuantity>>) -> Option<Quantity> {
    Quantity::parse(&list?.get("storage")?.0).ok()
}

/// The claim in a phase, with what its volume (none: it has none) offers.
pub(super) fn claim_in_phase(
    claim: &PersistentVolumeClaim,
    wanted: &str,
    volume: Option<&PersistentVolume>,
) -> Option<PersistentVolumeClaim> {
    let mut changed = claim.clone();
    let status = changed.status.get_or_insert_default();
    let before = status.phase.replace(wanted.to_owned());
    match volume.and_then(|volume| volume.spec.as_ref()) {
        None => {
            status.access_modes = None;
            status.capacity = None;
            status.current_volume_attributes_class_name = None;
        }
        Some(spec) => {
            status.access_modes.clone_from(&spec.access_modes);
            // Afterwards the capacity is the resizer's: the file system may be smaller than the volume for good reason.
            if before.as_deref() != Some(wanted) {
                let pre_resize = volume.and_then(|volume| annotation(&volume.metadata, PRE_RESIZE));
                if let Some(size) = pre_resize.filter(|size| Quantity::parse(size).is_ok()) {
                    status.capacity.get_or_insert_default().insert("storage".to_owned(), ApiQuantity(size.to_owned()));
                } else if storage(status.capacity.as_ref()) != storage(spec.capacity.as_ref()) {
                    status.capacity.clone_from(&spec.capacity);
                }
            }
            if before.as_deref() == Some("Pending") && wanted == "Bound" {
                status.current_volume_attributes_class_name.clone_from(&spec.volume_attributes_class_name);
            }
        }
    }
    (changed.status != claim.status).then_some(changed)
}
