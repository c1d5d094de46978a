//! `projected` volumes: several sources in one directory, among them the pod's own API token.

use std::path::Path;

use k8s_openapi::api::core::v1::{ProjectedVolumeSource, VolumeProjection};
use nix::mount::{MsFlags, mount};

use super::payload::{self, Payload};
use super::{Context, Mounted, atomic_writer, describe, downward_api, service_account_token};
use crate::objects::Kind;
use crate::pod::access::PodAccess;

pub(super) async fn set_up(context: &Context<'_>, source: &ProjectedVolumeSource) -> Result<Mounted, String> {
    let mode = source.default_mode.unwrap_or(payload::DEFAULT_MODE);
    let mut files = Payload::new();
    let mut refresh_at = None;
    for projection in source.sources.iter().flatten() {
        files.extend(collect(context, projection, mode, &mut refresh_at).await?);
    }
    let path = context.directory("projected");
    memory_backed(&path)?;
    atomic_writer::write(&path, &files, context.fs_group()).map_err(|e| describe(&e, "cannot write", &path))?;
    Ok(Mounted { read_only: true, refresh_at, ..Mounted::at(path) })
}

async fn collect(
    context: &Context<'_>,
    projection: &VolumeProjection,
    mode: i32,
    refresh_at: &mut Option<jiff::Timestamp>,
) -> Result<Payload, String> {
    if let Some(source) = &projection.config_map {
        let object = context.core.objects.get(context.core, context.pod, Kind::ConfigMap, &source.name).await?;
        return payload::of_object(
            object.as_ref(),
            "configmap",
            &source.name,
            source.items.as_ref(),
            mode,
            source.optional.unwrap_or(false),
        );
    }
    if let Some(source) = &projection.secret {
        let object = context.core.objects.get(context.core, context.pod, Kind::Secret, &source.name).await?;
        return payload::of_object(
            object.as_ref(),
            "secret",
            &source.name,
            source.items.as_ref(),
            mode,
            source.optional.unwrap_or(false),
        );
    }
    if let Some(source) = &projection.downward_api {
        return downward_api::collect(context, source.items.as_deref().unwrap_or_default(), mode);
    }
    if let Some(source) = &projection.service_account_token {
        let token = service_account_token::token(context.core, context.pod, source).await?;
        *refresh_at = refresh_at.map_or(Some(token.refresh_at), |known| Some(known.min(token.refresh_at)));
        payload::check_path(&source.path)?;
        let mut file = payload::file(token.text.into_bytes(), mode);
        own_token(context, &mut file);
        return Ok(Payload::from([(source.path.clone(), file)]));
    }
    let fields = crate::pod::fields(projection).unwrap_or_default();
    let kind = fields.keys().next().map(String::as_str).unwrap_or_default();
    Err(format!("projected volume source {kind} is not implemented"))
}

/// KEP-1205: only who needs it can read the token: the one user that all containers run as, and the pod's group.
fn own_token(context: &Context<'_>, file: &mut atomic_writer::File) {
    let pod_user = context.pod.security().and_then(|s| s.run_as_user);
    let users: std::collections::BTreeSet<Option<i64>> = context
        .pod
        .containers()
        .iter()
        .chain(context.pod.init_containers())
        .map(|c| c.security_context.as_ref().and_then(|s| s.run_as_user).or(pod_user))
        .collect();
    let user = users.first().copied().flatten().filter(|_| users.len() == 1);
    protect(file, context.fs_group(), user.and_then(|user| u32::try_from(user).ok()));
}

/// The writer opens what it has written to the group.
fn protect(file: &mut atomic_writer::File, group: Option<u32>, user: Option<u32>) {
    if group.is_some() || user.is_some() {
        file.mode = 0o600;
    }
    file.owner = user;
}

/// A tmpfs for what must not reach a disk.
pub(super) fn memory_backed(path: &Path) -> Result<(), String> {
    use std::os::unix::fs::MetadataExt;
    std::fs::create_dir_all(path).map_err(|e| describe(&e, "cannot create", path))?;
    let device = |p: &Path| std::fs::metadata(p).map(|m| m.dev()).ok();
    if path.parent().is_some_and(|parent| device(path) != device(parent)) {
        return Ok(());
    }
    mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), Some("mode=0777"))
        .map_err(|e| format!("cannot mount a tmpfs on {}: {e}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_reads_a_token() {
        let check = |group, user, mode, owner| {
            let mut file = payload::file(Vec::new(), 0o644);
            protect(&mut file, group, user);
            assert_eq!((file.mode, file.owner), (mode, owner), "group {group:?}, user {user:?}");
        };
        check(None, None, 0o644, None);
        check(None, Some(1000), 0o600, Some(1000));
        check(Some(10_000), None, 0o600, None);
        check(Some(10_000), Some(1000), 0o600, Some(1000));
    }
}
