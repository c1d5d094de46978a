//! `secret` volumes, on a tmpfs so that they never reach a disk.

use k8s_openapi::api::core::v1::SecretVolumeSource;

use super::{Context, Mounted, atomic_writer, describe, payload, projected};
use crate::objects::Kind;

pub(super) async fn set_up(context: &Context<'_>, source: &SecretVolumeSource) -> Result<Mounted, String> {
    let name = source.secret_name.as_deref().unwrap_or("");
    let object = context.core.objects.get(context.core, context.pod, Kind::Secret, name).await?;
    let mode = source.default_mode.unwrap_or(payload::DEFAULT_MODE);
    let files =
        payload::of_object(object.as_ref(), "secret", name, source.items.as_ref(), mode, source.optional.unwrap_or(false))?;
    let path = context.directory("secret");
    projected::memory_backed(&path)?;
    atomic_writer::write(&path, &files, context.fs_group()).map_err(|e| describe(&e, "cannot write", &path))?;
    Ok(Mounted { read_only: true, ..Mounted::at(path) })
}
