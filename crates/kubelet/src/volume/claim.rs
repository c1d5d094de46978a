//! `persistentVolumeClaim`: the claim's PersistentVolume, where its source is one that needs no driver: `hostPath` or `local`.

use k8s_openapi::api::core::v1::{LocalVolumeSource, PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimVolumeSource};
use kube::Api;

use super::{Context, Mounted, describe, host_path, ownership};
use crate::pod::access::PodAccess;

pub(super) async fn set_up(context: &Context<'_>, source: &PersistentVolumeClaimVolumeSource) -> Result<Mounted, String> {
    let (namespace, name) = (context.pod.namespace(), &source.claim_name);
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(context.core.client.clone(), namespace);
    let failed = |error: kube::Error| format!("failed to fetch PVC {namespace}/{name} from API server: {error}");
    let claim = claims.get(name).await.map_err(failed)?;
    let phase = claim.status.as_ref().and_then(|s| s.phase.as_deref());
    let bound = claim.spec.as_ref().and_then(|s| s.volume_name.as_deref()).filter(|v| !v.is_empty());
    let Some(volume_name) = bound.filter(|_| phase == Some("Bound")) else {
        return Err(format!("PVC {namespace}/{name} is not bound: phase {}", phase.unwrap_or("unknown")));
    };
    let volumes: Api<PersistentVolume> = Api::all(context.core.client.clone());
    let failed = |error: kube::Error| format!("failed to fetch PV {volume_name} from API server: {error}");
    let spec = volumes.get(volume_name).await.map_err(failed)?.spec.unwrap_or_default();
    if spec.claim_ref.as_ref().and_then(|r| r.uid.as_ref()) != claim.metadata.uid.as_ref() {
        return Err(format!("PVC {namespace}/{name} is bound to PV {volume_name}, which is bound to another claim"));
    }
    if spec.volume_mode.as_deref() == Some("Block") {
        return Err(format!("PV {volume_name}: block volumes are not implemented"));
    }
    let mut mounted = if let Some(host_path) = &spec.host_path {
        host_path::set_up(host_path)?
    } else if let Some(local) = &spec.local {
        set_up_local(context, local)?
    } else {
        return Err(format!("PV {volume_name}: a volume of its type is not implemented"));
    };
    let modes = spec.access_modes.as_deref().unwrap_or_default();
    mounted.read_only |= source.read_only.unwrap_or(false) || (!modes.is_empty() && modes.iter().all(|m| m == "ReadOnlyMany"));
    Ok(mounted)
}

/// A directory of this node. The scheduler has seen to it that the pod is on the right one.
fn set_up_local(context: &Context<'_>, source: &LocalVolumeSource) -> Result<Mounted, String> {
    let path = std::path::PathBuf::from(&source.path);
    let metadata = std::fs::metadata(&path).map_err(|e| describe(&e, "local volume: cannot use", &path))?;
    if !metadata.is_dir() {
        return Err(format!("local volume: {} is not a directory; formatting block devices is not implemented", path.display()));
    }
    if let Some(group) = context.fs_group() {
        ownership::apply(&path, group, false).map_err(|e| describe(&e, "cannot set the group of", &path))?;
    }
    Ok(Mounted::at(path))
}
