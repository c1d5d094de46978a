//! What is to be done about a volume (upstream's `syncVolume` and `reclaimVolume`).

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};

use super::claims::Note;
use super::matching::{BOUND_BY_CONTROLLER, MIGRATED_TO, PROVISIONED_BY, annotation, modes_differ, volume_name};

#[derive(Debug, PartialEq)]
pub(super) enum Step {
    /// It should say so in its phase.
    Available,
    Bound,
    /// Its claim is gone or has another volume: the reclaim policy decides.
    Release,
    /// The claim has another volume: this one is free again.
    Unbind,
    /// The claim has to do the rest.
    WakeClaim,
    /// The two do not fit: events for the volume and the claim.
    Mismatch(Note, Note),
}

/// `claim` is the one that the volume's reference names, if it still exists.
pub(super) fn plan(volume: &PersistentVolume, claim: Option<&PersistentVolumeClaim>) -> Step {
    let reference = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    let Some(uid) = reference.and_then(|reference| reference.uid.as_deref()).filter(|uid| !uid.is_empty()) else {
        // Unused, or reserved by a user for a claim that has to find it.
        return Step::Available;
    };
    let Some(claim) = claim.filter(|claim| claim.metadata.uid.as_deref() == Some(uid)) else { return Step::Release };
    let name = volume.metadata.name.as_deref().unwrap_or_default();
    match volume_name(claim) {
        "" if modes_differ(claim, volume) => {
            let claim_name = claim.metadata.name.as_deref().unwrap_or_default();
            let of_volume = format!(
                "Cannot bind PersistentVolume to requested PersistentVolumeClaim {claim_name:?} due to incompatible volumeMode."
            );
            let of_claim = format!(
                "Cannot bind PersistentVolume {name:?} to requested PersistentVolumeClaim due to incompatible volumeMode."
            );
            Step::Mismatch(Note::warning("VolumeMismatch", of_volume), Note::warning("VolumeMismatch", of_claim))
        }
        "" => Step::WakeClaim,
        bound if bound == name => Step::Bound,
        _ => {
            let provisioned = annotation(&volume.metadata, PROVISIONED_BY).is_some();
            if provisioned && policy(volume) == "Delete" { Step::Release } else { Step::Unbind }
        }
    }
}

pub(super) fn policy(volume: &PersistentVolume) -> &str {
    volume.spec.as_ref().and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref()).unwrap_or_default()
}

/// What becomes of a released volume: `Some` if it cannot be reclaimed. `None` if nothing is to be done here: it is kept, or its
/// provisioner deletes it.
pub(super) fn reclaim(volume: &PersistentVolume) -> Option<Note> {
    if annotation(&volume.metadata, MIGRATED_TO).is_some_and(|driver| !driver.is_empty()) {
        return None;
    }
    match policy(volume) {
        "Retain" => None,
        "Recycle" => Some(Note::warning("VolumeFailedRecycle", "No recycler plugin found for the volume!")),
        "Delete" => delete(volume).map(|why| Note::warning("VolumeFailedDelete", why)),
        _ => Some(Note::warning("VolumeUnknownReclaimPolicy", "Volume has unrecognized PersistentVolumeReclaimPolicy")),
    }
}

/// No driver is built in that could delete: why a volume without one of its own stays.
fn delete(volume: &PersistentVolume) -> Option<String> {
    match annotation(&volume.metadata, PROVISIONED_BY).filter(|provisioner| !provisioner.is_empty()) {
        Some(provisioner) if !provisioner.starts_with("kubernetes.io/") => None,
        Some(provisioner) => Some(format!("no volume plugin matched name: {provisioner}")),
        None if volume.spec.as_ref().is_some_and(|spec| spec.csi.is_some()) => None,
        None => {
            let name = volume.metadata.name.as_deref().unwrap_or_default();
            Some(format!("error getting deleter volume plugin for volume {name:?}: no deletable volume plugin matched"))
        }
    }
}

/// The volume without its claim: free if this controller bound it, else reserved as the user had it.
pub(super) fn unbound(volume: &PersistentVolume) -> PersistentVolume {
    let mut free = volume.clone();
    let Some(spec) = free.spec.as_mut() else { return free };
    if annotation(&volume.metadata, BOUND_BY_CONTROLLER).is_some() {
        spec.claim_ref = None;
        if let Some(annotations) = &mut free.metadata.annotations {
            annotations.remove(BOUND_BY_CONTROLLER);
        }
    } else if let Some(reference) = &mut spec.claim_ref {
        reference.uid = None;
    }
    free
}
