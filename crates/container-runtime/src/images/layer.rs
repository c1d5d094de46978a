//! Unpacks one layer of an image into a directory that overlayfs can use as a lower layer.
//!
//! Invariant: nothing outside of that directory is touched, whatever the archive says. Every parent directory is opened with
//! `openat2(RESOLVE_IN_ROOT)` (a symbolic link cannot lead out), and the last component is only ever named relative to it.
//! Whiteouts become overlayfs' own: a character device 0:0, or the attribute `trusted.overlay.opaque` on a directory.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, fchmodat, fstatat, mkdirat, mknodat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, LinkatFlags, Uid, UnlinkatFlags, fchownat, linkat, symlinkat, unlinkat};
use tar::{Entry, EntryType};

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// What a layer takes on disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) bytes: u64,
    pub(crate) inodes: u64,
}

/// Unpacks the (uncompressed) archive into `root`. `parents` are the layers below, topmost first: directories that the archive
/// does not list get the attributes that they have there.
pub(crate) fn unpack(archive: impl Read, root: &Path, parents: &[PathBuf]) -> io::Result<Usage> {
    let mut unpacker = Unpacker { root: File::open(root)?.into(), parents, usage: Usage::default(), directory_times: Vec::new() };
    for entry in tar::Archive::new(archive).entries()? {
        let mut entry = entry?;
        let path = clean(&entry.path()?);
        unpacker.entry(&mut entry, &path).map_err(|error| {
            let kind = error.kind();
            io::Error::new(kind, format!("{}: {error}", path.display()))
        })?;
    }
    // Last, because filling a directory changes its time.
    for (path, time) in unpacker.directory_times.iter().rev() {
        if let Ok((parent, name)) = unpacker.open_parent(path) {
            let _ = utimensat(&parent, name.as_os_str(), time, time, nix::sys::stat::UtimensatFlags::NoFollowSymlink);
        }
    }
    Ok(unpacker.usage)
}

/// The path below the root, `.` and `..` resolved as text.
fn clean(path: &Path) -> PathBuf {
    let mut cleaned = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => cleaned.push(name),
            Component::ParentDir => drop(cleaned.pop()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    cleaned
}

struct Unpacker<'a> {
    root: OwnedFd,
    parents: &'a [PathBuf],
    usage: Usage,
    directory_times: Vec<(PathBuf, TimeSpec)>,
}

impl Unpacker<'_> {
    fn entry(&mut self, entry: &mut Entry<'_, impl Read>, path: &Path) -> io::Result<()> {
        let kind = entry.header().entry_type();
        if matches!(kind, EntryType::XGlobalHeader) {
            return Ok(());
        }
        if path.as_os_str().is_empty() {
            return self.set_root_attributes(entry);
        }
        if let Some(parent) = path.parent() {
            self.make_parents(parent)?;
        }
        let (parent, name) = self.open_parent(path)?;
        let bytes = name.as_bytes();
        if bytes == OPAQUE {
            return set_attribute(&parent, OsStr::new("."), "trusted.overlay.opaque", b"y");
        }
        if let Some(hidden) = bytes.strip_prefix(WHITEOUT) {
            return whiteout(&parent, OsStr::from_bytes(hidden));
        }
        self.make(entry, path, &parent, &name, kind)?;
        self.usage.inodes += 1;
        if kind == EntryType::Link {
            return Ok(());
        }
        self.set_attributes(entry, path, &parent, &name, kind)
    }

    fn make(
        &mut self,
        entry: &mut Entry<'_, impl Read>,
        path: &Path,
        parent: &OwnedFd,
        name: &OsStr,
        kind: EntryType,
    ) -> io::Result<()> {
        let device = || -> io::Result<libc::dev_t> {
            let header = entry.header();
            let (major, minor) = (header.device_major()?.unwrap_or(0), header.device_minor()?.unwrap_or(0));
            Ok(nix::sys::stat::makedev(u64::from(major), u64::from(minor)))
        };
        let private = Mode::S_IRUSR | Mode::S_IWUSR;
        if kind == EntryType::Directory {
            return make_directory(parent, name);
        }
        remove(parent, name)?;
        match kind {
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                let mut file = File::from(openat(parent, name, flags, private)?);
                self.usage.bytes += io::copy(entry, &mut file)?;
            }
            EntryType::Symlink => {
                let target = entry.link_name()?.ok_or(Errno::EINVAL)?;
                symlinkat(target.as_os_str(), parent, name)?;
            }
            EntryType::Link => {
                let target = clean(&entry.link_name()?.ok_or(Errno::EINVAL)?);
                self.hard_link(&target, parent, name, path)?;
            }
            EntryType::Char => mknodat(parent, name, SFlag::S_IFCHR, private, device()?)?,
            EntryType::Block => mknodat(parent, name, SFlag::S_IFBLK, private, device()?)?,
            EntryType::Fifo => mknodat(parent, name, SFlag::S_IFIFO, private, 0)?,
            other => {
                return Err(io::Error::new(io::ErrorKind::Unsupported, format!("entry type {other:?} is not supported")));
            }
        }
        Ok(())
    }

    fn hard_link(&self, target: &Path, parent: &OwnedFd, name: &OsStr, path: &Path) -> io::Result<()> {
        let (target_parent, target_name) = self.open_parent(target)?;
        match linkat(&target_parent, target_name.as_os_str(), parent, name, LinkatFlags::empty()) {
            Ok(()) => Ok(()),
            Err(error) => Err(io::Error::new(
                io::Error::from(error).kind(),
                format!("hard link from {} to {}: {}", path.display(), target.display(), error.desc()),
            )),
        }
    }

    fn set_attributes(
        &mut self,
        entry: &mut Entry<'_, impl Read>,
        path: &Path,
        parent: &OwnedFd,
        name: &OsStr,
        kind: EntryType,
    ) -> io::Result<()> {
        let header = entry.header();
        let (uid, gid) = (header.uid()? as u32, header.gid()? as u32);
        let mode = Mode::from_bits_truncate(header.mode()?);
        let seconds = header.mtime()?;
        fchownat(parent, name, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), AtFlags::AT_SYMLINK_NOFOLLOW)?;
        // Extended attributes (file capabilities) after the owner, whose change clears them; the mode last, for setuid.
        let attributes: Vec<(String, Vec<u8>)> = match entry.pax_extensions()? {
            Some(extensions) => extensions
                .filter_map(|extension| {
                    let extension = extension.ok()?;
                    let name = extension.key().ok()?.strip_prefix("SCHILY.xattr.")?.to_owned();
                    Some((name, extension.value_bytes().to_owned()))
                })
                .collect(),
            None => Vec::new(),
        };
        for (attribute, value) in attributes {
            // An archive must not speak to overlayfs.
            if !attribute.starts_with("trusted.overlay.") {
                set_attribute(parent, name, &attribute, &value)?;
            }
        }
        if kind != EntryType::Symlink {
            fchmodat(parent, name, mode, FchmodatFlags::FollowSymlink)?;
        }
        let time = TimeSpec::new(i64::try_from(seconds).unwrap_or(0), 0);
        if kind == EntryType::Directory {
            self.directory_times.push((path.to_owned(), time));
        } else {
            utimensat(parent, name, &time, &time, nix::sys::stat::UtimensatFlags::NoFollowSymlink)?;
        }
        Ok(())
    }

    fn set_root_attributes(&mut self, entry: &Entry<'_, impl Read>) -> io::Result<()> {
        let header = entry.header();
        nix::unistd::fchown(&self.root, Some(Uid::from_raw(header.uid()? as u32)), Some(Gid::from_raw(header.gid()? as u32)))?;
        nix::sys::stat::fchmod(&self.root, Mode::from_bits_truncate(header.mode()?))?;
        Ok(())
    }

    /// The directory that holds the path's last component, and that component.
    fn open_parent(&self, path: &Path) -> io::Result<(OwnedFd, std::ffi::OsString)> {
        let name = path.file_name().ok_or(Errno::EINVAL)?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Ok((open_in_root(&self.root, parent)?, name.to_owned()))
    }

    /// Directories that the archive uses without listing them.
    fn make_parents(&mut self, directory: &Path) -> io::Result<()> {
        if directory.as_os_str().is_empty() || open_in_root(&self.root, directory).is_ok() {
            return Ok(());
        }
        if let Some(parent) = directory.parent() {
            self.make_parents(parent)?;
        }
        let (parent, name) = self.open_parent(directory)?;
        if fstatat(&parent, name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW)
            .is_ok_and(|stat| SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT != SFlag::S_IFDIR)
        {
            remove(&parent, &name)?;
        }
        make_directory(&parent, &name)?;
        self.usage.inodes += 1;
        let below = self.parents.iter().find_map(|layer| {
            let root: OwnedFd = File::open(layer).ok()?.into();
            let found = open_in_root(&root, directory).ok()?;
            nix::sys::stat::fstat(&found).ok()
        });
        if let Some(stat) = below {
            fchownat(
                &parent,
                name.as_os_str(),
                Some(Uid::from_raw(stat.st_uid)),
                Some(Gid::from_raw(stat.st_gid)),
                AtFlags::AT_SYMLINK_NOFOLLOW,
            )?;
            fchmodat(&parent, name.as_os_str(), Mode::from_bits_truncate(stat.st_mode), FchmodatFlags::FollowSymlink)?;
        }
        Ok(())
    }
}

/// Opens a directory below `root`; symbolic links are followed inside of it only.
pub(crate) fn open_in_root(root: impl AsFd, path: &Path) -> nix::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    openat2(root, path, how)
}

fn make_directory(parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
    match mkdirat(parent, name, Mode::from_bits_truncate(0o755)) {
        // mkdir obeys the umask of this process.
        Ok(()) => Ok(fchmodat(parent, name, Mode::from_bits_truncate(0o755), FchmodatFlags::FollowSymlink)?),
        Err(Errno::EEXIST) => {
            let stat = fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
            if SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR {
                return Ok(());
            }
            remove(parent, name)?;
            make_directory(parent, name)
        }
        Err(error) => Err(error.into()),
    }
}

/// Removes what an earlier entry of the same layer left under this name.
fn remove(parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
    match unlinkat(parent, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        // The descriptor's directory is inside the root, and remove_dir_all follows no links.
        Err(Errno::EISDIR) => std::fs::remove_dir_all(through_descriptor(parent, name)),
        Err(error) => Err(error.into()),
    }
}

fn whiteout(parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
    if name.is_empty() || name.as_bytes().starts_with(WHITEOUT) {
        // AUFS' own files (.wh..wh.plnk and others) mean nothing here.
        return Ok(());
    }
    remove(parent, name)?;
    mknodat(parent, name, SFlag::S_IFCHR, Mode::empty(), 0)?;
    Ok(())
}

fn through_descriptor(parent: &OwnedFd, name: &OsStr) -> PathBuf {
    Path::new(&format!("/proc/self/fd/{}", parent.as_raw_fd())).join(name)
}

fn set_attribute(parent: &OwnedFd, name: &OsStr, attribute: &str, value: &[u8]) -> io::Result<()> {
    let path = CString::new(through_descriptor(parent, name).as_os_str().as_bytes())?;
    let c_attribute = CString::new(attribute)?;
    // SAFETY: both strings end with NUL and the value's length is its own.
    #[allow(unsafe_code)]
    let result = unsafe { libc::lsetxattr(path.as_ptr(), c_attribute.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    match Errno::result(result) {
        Ok(_) => Ok(()),
        // A file system without them: containerd ignores that too.
        Err(Errno::ENOTSUP) if !attribute.starts_with("trusted.") => Ok(()),
        Err(error) => Err(io::Error::new(io::Error::from(error).kind(), format!("attribute {attribute}: {}", error.desc()))),
    }
}

/// Whether a path exists in the layer directory; for tests and lookups.
pub(crate) fn open_file_in_root(root: &Path, path: &Path) -> io::Result<File> {
    let root = openat(AT_FDCWD, root, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    Ok(File::from(openat2(root, path, how)?))
}
