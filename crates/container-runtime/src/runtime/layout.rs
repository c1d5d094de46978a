//! Where everything is below the two directories of a runtime.

use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags};

use super::config::Config;

/// Paths of one runtime.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    pub(crate) root: PathBuf,
    pub(crate) run: PathBuf,
}

impl Layout {
    /// Creates the directories, and makes the run directory a mount of its own whose mounts propagate nowhere.
    pub(crate) fn create(config: &Config) -> std::io::Result<Self> {
        for directory in ["sandboxes", "containers"] {
            std::fs::create_dir_all(config.root.join(directory))?;
            std::fs::create_dir_all(config.run_dir.join(directory))?;
        }
        std::fs::create_dir_all(config.run_dir.join("oci"))?;
        let layout = Self { root: config.root.canonicalize()?, run: config.run_dir.canonicalize()? };
        if !is_mount_point(&layout.run) {
            nix::mount::mount(Some(&layout.run), &layout.run, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
        }
        nix::mount::mount(None::<&str>, &layout.run, None::<&str>, MsFlags::MS_PRIVATE, None::<&str>)?;
        Ok(layout)
    }

    pub(crate) fn sandbox(&self, id: &str) -> PathBuf {
        self.root.join("sandboxes").join(id)
    }

    pub(crate) fn sandbox_run(&self, id: &str) -> PathBuf {
        self.run.join("sandboxes").join(id)
    }

    pub(crate) fn shim_socket(&self, sandbox: &str) -> PathBuf {
        self.sandbox_run(sandbox).join("shim.sock")
    }

    pub(crate) fn container(&self, id: &str) -> PathBuf {
        self.root.join("containers").join(id)
    }

    pub(crate) fn container_run(&self, id: &str) -> PathBuf {
        self.run.join("containers").join(id)
    }

    pub(crate) fn rootfs(&self, id: &str) -> PathBuf {
        self.container_run(id).join("rootfs")
    }

    /// Root of libcontainer's state.
    pub(crate) fn oci(&self) -> PathBuf {
        self.run.join("oci")
    }
}

fn is_mount_point(path: &Path) -> bool {
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let wanted = path.to_string_lossy();
    text.lines().any(|line| line.split(' ').nth(4).is_some_and(|mount| mount == wanted))
}

/// Unmounts whatever is mounted at `path`, several times over if need be; no error if nothing is.
pub(crate) fn unmount(path: &Path) {
    while nix::mount::umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW).is_ok() {}
}

/// Unmounts everything in a directory (one level and `path/*/rootfs` are all that the runtime makes) and removes it.
pub(crate) fn remove_with_mounts(path: &Path) -> std::io::Result<()> {
    let prefix = format!("{}/", path.display());
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut mounts: Vec<&str> =
        text.lines().filter_map(|line| line.split(' ').nth(4)).filter(|mount| mount.starts_with(&prefix)).collect();
    mounts.sort_by_key(|mount| std::cmp::Reverse(mount.len()));
    mounts.into_iter().for_each(|mount| unmount(Path::new(mount)));
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
