//! `downwardAPI` volumes: fields of the pod as files, kept current.

use k8s_openapi::api::core::v1::{DownwardAPIVolumeFile, DownwardAPIVolumeSource};

use super::payload::{self, Payload};
use super::{Context, Mounted, atomic_writer, describe};
use crate::env::field;
use crate::pod::access::PodAccess;

pub(super) fn set_up(context: &Context<'_>, source: &DownwardAPIVolumeSource) -> Result<Mounted, String> {
    let files =
        collect(context, source.items.as_deref().unwrap_or_default(), source.default_mode.unwrap_or(payload::DEFAULT_MODE))?;
    let path = context.directory("downward-api");
    atomic_writer::write(&path, &files, context.fs_group()).map_err(|e| describe(&e, "cannot write", &path))?;
    Ok(Mounted { read_only: true, ..Mounted::at(path) })
}

/// The files of the listed items.
pub(super) fn collect(context: &Context<'_>, items: &[DownwardAPIVolumeFile], mode: i32) -> Result<Payload, String> {
    let mut files = Payload::new();
    for item in items {
        payload::check_path(&item.path)?;
        let value = if let Some(reference) = &item.field_ref {
            field::pod_field(context.core, context.pod, &reference.field_path, &[])?
        } else if let Some(reference) = &item.resource_field_ref {
            let name = reference.container_name.as_deref().unwrap_or("");
            let container = context.pod.find_container(name).ok_or_else(|| format!("container {name} not found"))?.1;
            field::resource_field(context.core, &container, &reference.resource, reference.divisor.as_ref())?
        } else {
            continue;
        };
        files.insert(item.path.clone(), payload::file(value.into_bytes(), item.mode.unwrap_or(mode)));
    }
    Ok(files)
}
