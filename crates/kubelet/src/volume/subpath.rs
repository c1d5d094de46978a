//! `subPath` of a volume mount: the path is resolved without leaving the volume, whatever links a container made in it, and pinned by a
//! bind mount of the open file, so that it cannot be exchanged afterwards (CVE-2017-1002101, CVE-2021-25741).

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, mkdirat};

/// Binds `volume/sub_path` to `place`; a missing sub path becomes a directory of the volume's own mode. Returns `place`.
pub(crate) fn bind(volume: &Path, sub_path: &str, place: &Path) -> io::Result<PathBuf> {
    if Path::new(sub_path).is_absolute() || Path::new(sub_path).components().any(|c| c == Component::ParentDir) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("subPath \"{sub_path}\" must be relative and not contain '..'"),
        ));
    }
    if already_bound(place) {
        return Ok(place.to_path_buf());
    }
    let root: OwnedFd = std::fs::File::open(volume)?.into();
    let target = open_or_create(&root, Path::new(sub_path))?;
    let is_dir = nix::sys::stat::fstat(&target)?.st_mode & nix::libc::S_IFMT == nix::libc::S_IFDIR;
    if is_dir {
        std::fs::create_dir_all(place)?;
    } else {
        if let Some(parent) = place.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::File::create(place)?;
    }
    let source = format!("/proc/self/fd/{}", target.as_raw_fd());
    mount(Some(source.as_str()), place, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)?;
    Ok(place.to_path_buf())
}

/// Opens a file of a volume to be read. The volume is the root of every link, and `..` does not lead out of it.
pub(crate) fn open(volume: &Path, path: &str) -> io::Result<std::fs::File> {
    let root = std::fs::File::open(volume)?;
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let file = std::fs::File::from(openat2(&root, path.trim_start_matches('/'), how)?);
    // A pipe or a device could keep the reader for ever.
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a file")) }
}

fn already_bound(place: &Path) -> bool {
    let Ok(table) = std::fs::read_to_string("/proc/self/mountinfo") else { return false };
    table.lines().filter_map(|line| line.split(' ').nth(4)).any(|point| super::unescape(point) == place)
}

fn open_below(root: &OwnedFd, path: &Path) -> nix::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    openat2(root, path, how)
}

fn open_or_create(root: &OwnedFd, path: &Path) -> io::Result<OwnedFd> {
    match open_below(root, path) {
        Ok(fd) => return Ok(fd),
        Err(nix::Error::ENOENT) => {}
        Err(error) => return Err(error.into()),
    }
    let mode = nix::sys::stat::fstat(root)?.st_mode & 0o7777;
    let mut current = open_below(root, Path::new("."))?;
    let mut walked = PathBuf::new();
    for part in path.components().filter_map(|c| if let Component::Normal(name) = c { Some(name) } else { None }) {
        walked.push(part);
        match open_below(root, &walked) {
            Ok(fd) => current = fd,
            Err(nix::Error::ENOENT) => {
                match mkdirat(&current, part, Mode::from_bits_truncate(0o750)) {
                    Ok(()) | Err(nix::Error::EEXIST) => {}
                    Err(error) => return Err(error.into()),
                }
                current = open_below(root, &walked)?;
                // mkdir is subject to our umask, and leaves out the group bit; where that is set, the group is the volume's.
                let path = format!("/proc/self/fd/{}", current.as_raw_fd());
                std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode))?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(current)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn links_out_of_the_volume_are_refused() {
        let directory = std::env::temp_dir().join(format!("kubelet-subpath-{}", std::process::id()));
        let volume = directory.join("volume");
        std::fs::create_dir_all(volume.join("in")).unwrap();
        std::os::unix::fs::symlink("/etc", volume.join("out")).unwrap();
        std::os::unix::fs::symlink("in", volume.join("link")).unwrap();
        let root: OwnedFd = std::fs::File::open(&volume).unwrap().into();
        assert!(open_or_create(&root, Path::new("out/x")).is_err());
        assert!(open_or_create(&root, Path::new("link")).is_ok());
        assert!(open_or_create(&root, Path::new("a/b")).is_ok());
        assert!(volume.join("a/b").is_dir());
        let set_mode = |mode: u32| std::fs::set_permissions(&volume, std::fs::Permissions::from_mode(mode)).unwrap();
        for (mode, name) in [(0o3777, "shared/x"), (0o750, "private/x")] {
            set_mode(mode);
            assert!(open_or_create(&root, Path::new(name)).is_ok());
            let made = std::fs::metadata(volume.join(name)).unwrap();
            assert_eq!(made.permissions().mode() & 0o7777, mode, "{name} has the volume's mode");
        }
        assert!(bind(&volume, "../x", &directory.join("p")).is_err());
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
