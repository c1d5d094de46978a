//! `emptyDir`: a directory, or a tmpfs for `medium: Memory` (<https://kubernetes.io/docs/concepts/storage/volumes/#emptydir>).

use std::os::unix::fs::PermissionsExt;

use k8s_openapi::api::core::v1::EmptyDirVolumeSource;
use nix::mount::{MsFlags, mount};

use super::{Context, Mounted, describe, ownership};
use crate::pod::resources;
use crate::quantity;

pub(super) fn set_up(context: &Context<'_>, source: &EmptyDirVolumeSource) -> Result<Mounted, String> {
    let path = context.directory("empty-dir");
    let medium = source.medium.as_deref().unwrap_or("");
    let ready = context
        .core
        .config
        .pod_dir(crate::pod::access::PodAccess::uid(context.pod))
        .join("plugins")
        .join("kubernetes.io~empty-dir")
        .join(context.name)
        .join("ready");
    let mounted = Mounted::at(path.clone());
    if ready.exists() && path.is_dir() && (medium.is_empty() || is_mount_point(&path)) {
        return Ok(mounted);
    }
    std::fs::create_dir_all(&path).map_err(|e| describe(&e, "cannot create", &path))?;
    // Any user of any container may write. A file system in memory has a mode of its own, sticky, which upstream leaves as it is.
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777))
        .map_err(|e| describe(&e, "cannot set the mode of", &path))?;
    match medium {
        "" => {}
        "Memory" => tmpfs(context, source, &path)?,
        other => return Err(format!("emptyDir medium \"{other}\" is not implemented")),
    }
    if let Some(group) = context.fs_group() {
        ownership::apply(&path, group, false).map_err(|e| describe(&e, "cannot set the group of", &path))?;
    }
    let marker = ready.parent().map_or(Ok(()), std::fs::create_dir_all).and_then(|()| std::fs::File::create(&ready).map(|_| ()));
    marker.map_err(|e| describe(&e, "cannot create", &ready))?;
    Ok(mounted)
}

fn is_mount_point(path: &std::path::Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let device = |p: &std::path::Path| std::fs::metadata(p).map(|m| m.dev()).ok();
    path.parent().is_some_and(|parent| device(path) != device(parent))
}

fn tmpfs(context: &Context<'_>, source: &EmptyDirVolumeSource, path: &std::path::Path) -> Result<(), String> {
    if is_mount_point(path) {
        return Ok(());
    }
    // KEP-1967: the smallest of the limit asked for, the pod's memory limit and the node's memory.
    let capacity = i64::try_from(context.core.machine.memory_bytes).unwrap_or(i64::MAX);
    let asked = source.size_limit.as_ref().map(quantity::whole).filter(|s| *s > 0);
    let pod_limit = resources::pod_totals(context.pod).memory_limit_bytes.filter(|l| *l > 0);
    let size = asked.unwrap_or(i64::MAX).min(pod_limit.unwrap_or(i64::MAX)).min(capacity);
    let options = format!("size={size}");
    mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), Some(options.as_str()))
        .map_err(|e| format!("cannot mount a tmpfs on {}: {e}", path.display()))
}
