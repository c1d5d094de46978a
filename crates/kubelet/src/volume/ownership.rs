//! Gives a volume to the pod's `fsGroup` (<https://kubernetes.io/docs/tasks/configure-pod-container/security-context/>).

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Sets the group of everything below `path`, lets it read (and write, unless `read_only`), and makes directories pass it on.
pub(super) fn apply(path: &Path, group: u32, read_only: bool) -> io::Result<()> {
    let metadata = std::fs::symlink_metadata(path)?;
    std::os::unix::fs::lchown(path, None, Some(group))?;
    if metadata.file_type().is_symlink() {
        return Ok(());
    }
    let mut mode = metadata.permissions().mode() & 0o7777;
    mode |= if read_only { 0o440 } else { 0o660 };
    if metadata.is_dir() {
        mode |= 0o2110;
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    if metadata.is_dir() {
        for entry in std::fs::read_dir(path)? {
            apply(&entry?.path(), group, read_only)?;
        }
    }
    Ok(())
}
