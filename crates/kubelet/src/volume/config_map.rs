//! `configMap` volumes.

use k8s_openapi::api::core::v1::ConfigMapVolumeSource;

use super::{Context, Mounted, atomic_writer, describe, payload};
use crate::objects::Kind;

pub(super) async fn set_up(context: &Context<'_>, source: &ConfigMapVolumeSource) -> Result<Mounted, String> {
    let object = context.core.objects.get(context.core, context.pod, Kind::ConfigMap, &source.name).await?;
    let mode = source.default_mode.unwrap_or(payload::DEFAULT_MODE);
    let files = payload::of_object(
        object.as_ref(),
        "configmap",
        &source.name,
        source.items.as_ref(),
        mode,
        source.optional.unwrap_or(false),
    )?;
    let path = context.directory("configmap");
    atomic_writer::write(&path, &files, context.fs_group()).map_err(|e| describe(&e, "cannot write", &path))?;
    Ok(Mounted { read_only: true, ..Mounted::at(path) })
}
