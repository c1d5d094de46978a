//! Tells when files may have changed: their directories are watched (inotify), because files are mostly renewed by renaming another one
//! over them, or a link that leads to them.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

/// The link that a kubelet moves when it renews a mounted Secret or ConfigMap.
const MOUNTED: &str = "..data";
/// An event without its name: watch, mask, cookie and length of the name, four bytes each (inotify(7)).
const HEADER_BYTES: usize = 16;
/// Room for a few dozen events; one alone is at most 272 bytes.
const BUFFER_BYTES: usize = 4096;

/// A watch on some files.
pub(crate) struct FileChanges {
    events: pipe::Receiver,
    names: HashSet<OsString>,
}

impl FileChanges {
    /// Watches these files, which need not be there. A directory that is not there is not watched.
    pub(crate) fn of(files: &[PathBuf]) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let flags =
            AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_ONLYDIR;
        let directory = |file: &'_ PathBuf| match file.parent() {
            Some(parent) if parent != Path::new("") => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        for directory in files.iter().map(directory).collect::<HashSet<_>>() {
            if let Err(error) = inotify.add_watch(&directory, flags) {
                tracing::warn!(directory = %directory.display(), %error, "changes of files are seen within a minute only");
            }
        }
        let names = files.iter().filter_map(|file| file.file_name()).chain([OsStr::new(MOUNTED)]).map(OsStr::to_owned).collect();
        Ok(Self { events: pipe::Receiver::from_owned_fd_unchecked(OwnedFd::from(inotify))?, names })
    }

    /// Waits until one of the files may have changed.
    pub(crate) async fn next(&mut self) -> io::Result<()> {
        let mut buffer = [0; BUFFER_BYTES];
        loop {
            let count = self.events.read(&mut buffer).await?;
            if count == 0 || names(&buffer[..count]).any(|name| self.names.contains(name)) {
                return Ok(());
            }
        }
    }
}

/// The names in events. One without a name is about a directory itself.
fn names(mut events: &[u8]) -> impl Iterator<Item = &OsStr> {
    std::iter::from_fn(move || {
        let length = events.get(HEADER_BYTES - 4..HEADER_BYTES)?.try_into().ok()?;
        let (event, rest) = events.split_at_checked(HEADER_BYTES + u32::from_ne_bytes(length) as usize)?;
        events = rest;
        let name = &event[HEADER_BYTES..];
        let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
        Some(OsStr::from_bytes(&name[..end]))
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn changes_of_the_files_alone_are_told() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = |name: &str| directory.path().join(name);
        let mut changes = FileChanges::of(&[path("a"), path("b"), path("gone/c")]).expect("is watched");
        std::fs::write(path("other"), "x").expect("is written");
        assert!(tokio::time::timeout(Duration::from_millis(50), changes.next()).await.is_err(), "another file");
        let told = async |changes: &mut FileChanges| {
            tokio::time::timeout(SOON, changes.next()).await.expect("is told").expect("is read");
            // What belongs to the same change.
            while tokio::time::timeout(Duration::from_millis(20), changes.next()).await.is_ok() {}
        };
        std::fs::write(path("a"), "x").expect("is written");
        told(&mut changes).await;
        std::fs::rename(path("other"), path("b")).expect("is renamed");
        told(&mut changes).await;
        std::os::unix::fs::symlink(path("a"), path("link")).expect("is made");
        std::fs::rename(path("link"), path(MOUNTED)).expect("is renamed");
        told(&mut changes).await;
    }

    #[test]
    fn events_are_read() {
        let event =
            |name: &[u8]| [&[0; HEADER_BYTES - 4][..], &u32::try_from(name.len()).expect("short").to_ne_bytes(), name].concat();
        let events = [event(b""), event(b"a\0\0\0"), event(b"bc\0\0")].concat();
        assert_eq!(names(&events).collect::<Vec<_>>(), ["", "a", "bc"]);
        assert_eq!(names(&events[..events.len() - 1]).count(), 2);
    }
}
