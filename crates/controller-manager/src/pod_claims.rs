//! Which PersistentVolumeClaims a pod uses.

use k8s_openapi::api::core::v1::Pod;

/// The index of pods by `NAMESPACE/NAME` of the claims that they use.
pub(crate) const CLAIMS_INDEX: &str = "claims";

/// The keys of a pod for [`CLAIMS_INDEX`]: claims that it names, and those that are made for its ephemeral volumes.
pub(crate) fn claim_keys(pod: &Pod) -> Vec<String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let pod_name = pod.metadata.name.as_deref().unwrap_or_default();
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let names = volumes.filter_map(|volume| match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(source), _) => Some(source.claim_name.clone()),
        (None, Some(_)) => Some(format!("{pod_name}-{}", volume.name)),
        (None, None) => None,
    });
    names.map(|name| format!("{namespace}/{name}")).collect()
}

/// No container of the pod runs any more.
pub(crate) fn is_finished(pod: &Pod) -> bool {
    matches!(pod.status.as_ref().and_then(|status| status.phase.as_deref()), Some("Succeeded" | "Failed"))
}
