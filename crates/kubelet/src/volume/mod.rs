//! Volumes: one module for each type, one line in [`set_up`]. A type that is not here fails with a clear error; nothing turns into an
//! empty directory silently.
//!
//! Layout below the pod's directory, as upstream: `volumes/kubernetes.io~TYPE/NAME`.

mod atomic_writer;
mod claim;
mod config_map;
mod downward_api;
mod empty_dir;
mod host_path;
mod ownership;
mod payload;
mod projected;
mod secret;
mod service_account_token;
pub(crate) mod subpath;

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Volume};

pub(crate) use service_account_token::TokenCache;

use crate::context::Core;
use crate::pod::access::PodAccess;

/// A volume that can be mounted into containers.
#[derive(Debug, Clone)]
pub(crate) struct Mounted {
    pub(crate) path: PathBuf,
    /// Whatever the mount says, containers cannot write.
    pub(crate) read_only: bool,
    /// When its content has to be made anew.
    refresh_at: Option<Timestamp>,
}

impl Mounted {
    fn at(path: PathBuf) -> Self {
        Self { path, read_only: false, refresh_at: None }
    }
}

/// A pod's volumes.
#[derive(Debug, Default)]
pub(crate) struct Volumes {
    pub(crate) by_name: HashMap<String, Mounted>,
    /// When the earliest of them has to be refreshed.
    pub(crate) refresh_at: Option<Timestamp>,
}

/// Why a volume is not there.
#[derive(Debug)]
pub(crate) struct SetUpFailure {
    pub(crate) volume: String,
    pub(crate) message: String,
}

/// What a volume type works with.
struct Context<'a> {
    core: &'a Core,
    pod: &'a Pod,
    name: &'a str,
}

impl Context<'_> {
    /// The directory of this volume; `plugin` as in `empty-dir`.
    fn directory(&self, plugin: &str) -> PathBuf {
        self.core.config.pod_dir(self.pod.uid()).join("volumes").join(format!("kubernetes.io~{plugin}")).join(self.name)
    }

    /// The group that owns the pod's volumes.
    fn fs_group(&self) -> Option<u32> {
        self.pod.security().and_then(|s| s.fs_group).and_then(|g| u32::try_from(g).ok())
    }
}

/// Makes every volume of the pod available, and its content current. Idempotent.
pub(crate) async fn set_up_all(core: &Core, pod: &Pod) -> Result<Volumes, SetUpFailure> {
    let mut volumes = Volumes::default();
    for volume in pod.pod_spec().volumes.iter().flatten() {
        let context = Context { core, pod, name: &volume.name };
        let mounted = set_up(&context, volume).await.map_err(|message| SetUpFailure { volume: volume.name.clone(), message })?;
        volumes.refresh_at = match (volumes.refresh_at, mounted.refresh_at) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        volumes.by_name.insert(volume.name.clone(), mounted);
    }
    Ok(volumes)
}

/// The registry of volume types.
async fn set_up(context: &Context<'_>, volume: &Volume) -> Result<Mounted, String> {
    if let Some(source) = &volume.empty_dir {
        empty_dir::set_up(context, source)
    } else if let Some(source) = &volume.host_path {
        host_path::set_up(source)
    } else if let Some(source) = &volume.config_map {
        config_map::set_up(context, source).await
    } else if let Some(source) = &volume.secret {
        secret::set_up(context, source).await
    } else if let Some(source) = &volume.downward_api {
        downward_api::set_up(context, source)
    } else if let Some(source) = &volume.projected {
        projected::set_up(context, source).await
    } else if let Some(source) = &volume.persistent_volume_claim {
        claim::set_up(context, source).await
    } else {
        Err(format!("volume type {} is not implemented", type_name(volume)))
    }
}

/// The name of the field that says what the volume is.
fn type_name(volume: &Volume) -> String {
    let named = crate::pod::fields(volume).into_iter().flatten().map(|(key, _)| key).find(|key| key != "name");
    named.unwrap_or_else(|| "(none)".to_owned())
}

/// Unmounts and removes all volumes of the pod, the sub paths first.
pub(crate) async fn tear_down_all(core: &Core, uid: &str) -> io::Result<()> {
    let directory = core.config.pod_dir(uid);
    tokio::task::spawn_blocking(move || {
        unmount_below(&directory)?;
        for part in ["volume-subpaths", "volumes"] {
            remove_all(&directory.join(part))?;
        }
        Ok(())
    })
    .await
    .map_err(io::Error::other)?
}

/// Unmounts everything below `directory`, the innermost first.
pub(crate) fn unmount_below(directory: &Path) -> io::Result<()> {
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    let mut points: Vec<PathBuf> =
        table.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape).filter(|p| p.starts_with(directory)).collect();
    points.reverse();
    for point in points {
        nix::mount::umount2(&point, nix::mount::MntFlags::MNT_DETACH | nix::mount::MntFlags::UMOUNT_NOFOLLOW)?;
    }
    Ok(())
}

/// mountinfo writes blanks and the like as three octal digits.
fn unescape(text: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    let bytes = text.as_bytes();
    let mut result = Vec::with_capacity(bytes.len());
    let mut index = 0;
    while index < bytes.len() {
        let octal = bytes
            .get(index + 1..index + 4)
            .filter(|_| bytes[index] == b'\\')
            .and_then(|d| u8::from_str_radix(std::str::from_utf8(d).ok()?, 8).ok());
        match octal {
            Some(byte) => {
                result.push(byte);
                index += 4;
            }
            None => {
                result.push(bytes[index]);
                index += 1;
            }
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(result))
}

fn remove_all(path: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn describe(error: &io::Error, what: &str, path: &Path) -> String {
    format!("{what} {}: {error}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_unescaped() {
        assert_eq!(unescape("/a\\040b/c"), PathBuf::from("/a b/c"));
        assert_eq!(unescape("/plain"), PathBuf::from("/plain"));
    }

    #[test]
    fn unknown_types_are_named() {
        let volume: Volume =
            serde_json::from_value(serde_json::json!({"name": "v", "nfs": {"server": "s", "path": "/"}})).unwrap();
        assert_eq!(type_name(&volume), "nfs");
    }
}
