//! Unix sockets whose paths may be longer than `sun_path`, and descriptors sent over them.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, UnixAddr, recvmsg, sendmsg};

/// A short name of `path` through a descriptor of its directory; valid while the returned file lives.
fn short(path: &Path) -> io::Result<(File, PathBuf)> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "socket path without directory"));
    };
    let directory = File::options().read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY).open(parent)?;
    let short = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd())).join(name);
    Ok((directory, short))
}

/// Connects to the socket at `path`.
pub(crate) fn connect(path: &Path) -> io::Result<UnixStream> {
    let (_directory, path) = short(path)?;
    UnixStream::connect(path)
}

/// Listens at `path`.
pub(crate) fn listen(path: &Path) -> io::Result<UnixListener> {
    let (_directory, path) = short(path)?;
    UnixListener::bind(path)
}

/// Makes the calling process the one that those who connect see as the other end (unix(7), `SO_PEERCRED`).
pub(crate) fn listen_again(listener: &UnixListener) -> io::Result<()> {
    Ok(nix::sys::socket::listen(listener, nix::sys::socket::Backlog::MAXALLOWABLE)?)
}

/// Sends `bytes` with `descriptors` attached to the first of them.
pub(crate) fn send(stream: &UnixStream, bytes: &[u8], descriptors: &[RawFd]) -> io::Result<()> {
    let mut sent = 0;
    while sent < bytes.len() {
        let rights = [ControlMessage::ScmRights(descriptors)];
        let attached: &[ControlMessage] = if sent == 0 && !descriptors.is_empty() { &rights } else { &[] };
        sent += sendmsg::<UnixAddr>(stream.as_raw_fd(), &[IoSlice::new(&bytes[sent..])], attached, MsgFlags::MSG_NOSIGNAL, None)?;
    }
    Ok(())
}

/// Receives bytes into `buffer` and attached descriptors into `descriptors`; 0 at the end of the stream.
pub(crate) fn receive(stream: RawFd, buffer: &mut [u8], descriptors: &mut Vec<OwnedFd>) -> nix::Result<usize> {
    let mut space = nix::cmsg_space!([RawFd; 4]);
    let mut slices = [IoSliceMut::new(buffer)];
    let message = recvmsg::<UnixAddr>(stream, &mut slices, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(received) = control {
            // SAFETY: the kernel just made these descriptors for us; nobody else knows them.
            #[allow(unsafe_code)]
            descriptors.extend(received.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    Ok(message.bytes)
}
