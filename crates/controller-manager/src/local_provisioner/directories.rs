//! The directories themselves.

use std::fs;
use std::io::{ErrorKind, Result};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Whoever the pod runs as may write: the way to the directory is the mount.
const MODE: u32 = 0o777;

/// Makes a volume's directory, or finds it.
pub(super) fn make(path: &Path) -> Result<()> {
    fs::create_dir_all(path)?;
    // Not at its creation: that is subject to the process's umask.
    fs::set_permissions(path, fs::Permissions::from_mode(MODE))
}

/// Removes a volume's directory with what is in it; links in it are removed, not followed.
pub(super) fn remove(path: &Path) -> Result<()> {
    found(fs::remove_dir_all(path))
}

/// Removes a directory that no volume was made for.
pub(super) fn remove_unused(path: &Path) -> Result<()> {
    found(fs::remove_dir(path))
}

fn found(result: Result<()>) -> Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_come_and_go() {
        let base = std::env::temp_dir().join(format!("local-provisioner-{}", std::process::id()));
        let (outside, volume) = (base.join("outside"), base.join("volumes/pvc-1_ns_name"));
        fs::create_dir_all(&outside).unwrap();
        fs::write(outside.join("kept"), "x").unwrap();
        for _ in 0..2 {
            make(&volume).unwrap();
            assert_eq!(fs::metadata(&volume).unwrap().permissions().mode() & 0o777, MODE);
        }
        std::os::unix::fs::symlink(&outside, volume.join("link")).unwrap();
        assert!(remove_unused(&volume).is_err(), "something is in it");
        for _ in 0..2 {
            remove(&volume).unwrap();
            assert!(!volume.exists());
        }
        assert!(outside.join("kept").exists(), "a link is not followed");
        make(&volume).unwrap();
        remove_unused(&volume).unwrap();
        remove_unused(&volume).unwrap();
        fs::remove_dir_all(&base).unwrap();
    }
}
