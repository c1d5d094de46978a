//! Builds the files of ConfigMap and Secret volumes: all keys, or the listed items with their paths and modes.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::KeyToPath;

use super::atomic_writer::File;
use crate::objects::Object;

/// The mode of files where none is given.
pub(super) const DEFAULT_MODE: i32 = 0o644;

/// A payload: path to file.
pub(super) type Payload = BTreeMap<String, File>;

/// A file with a mode as the API has it.
pub(super) fn file(content: Vec<u8>, mode: i32) -> File {
    File { content, mode: u32::try_from(mode).unwrap_or(0o644) & 0o777, owner: None }
}

/// The files of an object; `what` names it in errors, e.g. `configmap`.
pub(super) fn of_object(
    object: Option<&Object>,
    what: &str,
    name: &str,
    items: Option<&Vec<KeyToPath>>,
    mode: i32,
    optional: bool,
) -> Result<Payload, String> {
    let Some(object) = object else {
        return if optional { Ok(Payload::new()) } else { Err(format!("{what} \"{name}\" not found")) };
    };
    let mut files = object.files();
    let Some(items) = items.filter(|i| !i.is_empty()) else {
        return Ok(files.into_iter().map(|(key, content)| (key, file(content, mode))).collect());
    };
    let mut payload = Payload::new();
    for item in items {
        match files.get_mut(&item.key) {
            Some(content) => {
                check_path(&item.path)?;
                payload.insert(item.path.clone(), file(content.clone(), item.mode.unwrap_or(mode)));
            }
            None if optional => {}
            None if what == "configmap" => return Err(format!("configmap references non-existent config key: {}", item.key)),
            None => return Err(format!("references non-existent secret key: {}", item.key)),
        }
    }
    Ok(payload)
}

/// Refuses paths that would leave the volume.
pub(super) fn check_path(path: &str) -> Result<(), String> {
    let bad = path.is_empty() || path.starts_with('/') || path.split('/').any(|part| part == "..") || path.starts_with("..");
    if bad { Err(format!("invalid path: {path}")) } else { Ok(()) }
}
