//! The claims that a pod's volumes mean, and what is known of them.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, Volume};

use crate::framework::Listers;

/// A volume of a pod that is a claim.
pub(super) struct ClaimRef {
    pub(super) name: String,
    /// Made for this pod by the ephemeral volume controller.
    pub(super) ephemeral: bool,
}

/// The claim of a volume, if it is one.
pub(super) fn claim_ref(pod: &Pod, volume: &Volume) -> Option<ClaimRef> {
    if let Some(source) = &volume.persistent_volume_claim {
        return Some(ClaimRef { name: source.claim_name.clone(), ephemeral: false });
    }
    volume.ephemeral.as_ref()?;
    let pod_name = pod.metadata.name.as_deref().unwrap_or_default();
    Some(ClaimRef { name: format!("{pod_name}-{}", volume.name), ephemeral: true })
}

/// The volumes of a pod.
pub(super) fn volumes(pod: &Pod) -> &[Volume] {
    pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default()
}

/// The claims of a pod.
pub(super) fn claim_refs(pod: &Pod) -> impl Iterator<Item = ClaimRef> + '_ {
    volumes(pod).iter().filter_map(|volume| claim_ref(pod, volume))
}

/// Whether a claim is one of the pod's.
pub(super) fn uses_claim(pod: &Pod, claim: &PersistentVolumeClaim) -> bool {
    claim.metadata.namespace == pod.metadata.namespace
        && claim_refs(pod).any(|reference| claim.metadata.name.as_deref() == Some(&reference.name))
}

/// A claim by its name; the error is for the user.
pub(super) fn get_claim(listers: &Listers, pod: &Pod, name: &str) -> Result<Arc<PersistentVolumeClaim>, String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    listers.claims.get(namespace, name).ok_or_else(|| format!("persistentvolumeclaim {name:?} not found"))
}

/// `spec.volumeName`, if the claim has one.
pub(super) fn volume_name(claim: &PersistentVolumeClaim) -> Option<&str> {
    claim.spec.as_ref()?.volume_name.as_deref().filter(|name| !name.is_empty())
}

/// Claim and volume know of each other, and the controller has seen to it.
pub(super) fn is_fully_bound(claim: &PersistentVolumeClaim) -> bool {
    let annotations = claim.metadata.annotations.as_ref();
    volume_name(claim).is_some() && annotations.is_some_and(|all| all.contains_key("pv.kubernetes.io/bind-completed"))
}

/// The storage class of a claim; empty for none. The annotation is older than the field and wins.
pub(super) fn class_of_claim(claim: &PersistentVolumeClaim) -> &str {
    let annotated = claim.metadata.annotations.as_ref().and_then(|all| all.get("volume.beta.kubernetes.io/storage-class"));
    annotated.or(claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_ref())).map_or("", String::as_str)
}

/// The storage class of a volume; empty for none.
pub(super) fn class_of_volume(volume: &PersistentVolume) -> &str {
    let annotated = volume.metadata.annotations.as_ref().and_then(|all| all.get("volume.beta.kubernetes.io/storage-class"));
    annotated.or(volume.spec.as_ref().and_then(|spec| spec.storage_class_name.as_ref())).map_or("", String::as_str)
}

/// Whether a claim waits for its first pod before it gets a volume. An error if its class does not exist.
pub(super) fn is_delayed(listers: &Listers, claim: &PersistentVolumeClaim) -> Result<bool, String> {
    let name = class_of_claim(claim);
    if name.is_empty() {
        return Ok(false);
    }
    match listers.classes.get("", name) {
        Some(class) => Ok(class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer")),
        None => Ok(false),
    }
}
