//! One libcontainer operation as a child process: its streams, its start, its result.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use nix::unistd::{Pid, pipe2};

use super::container::{self, Container, Output};
use super::protocol::frame;
use crate::oci;

/// Pipes for a container without terminal: the container's ends.
pub(super) fn make_pipes(container: &mut Container) -> nix::Result<[Stdio; 3]> {
    use nix::fcntl::OFlag;
    let stdin = if container.spec.stdin {
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC)?;
        container::set_nonblocking(&writer);
        container.stdin = Some(File::from(writer));
        Stdio::from(reader)
    } else {
        Stdio::null()
    };
    let mut output = |kind| {
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC)?;
        container.outputs.push(Output::new(reader, kind));
        Ok::<_, nix::Error>(Stdio::from(writer))
    };
    Ok([stdin, output(frame::STDOUT)?, output(frame::STDERR)?])
}

/// Starts this executable for a libcontainer operation, with a pipe for the result.
pub(super) fn spawn(arguments: &[String], [stdin, stdout, stderr]: [Stdio; 3]) -> Result<(Pid, OwnedFd), String> {
    let (result, writer) = pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(|error| format!("pipe: {error}"))?;
    let mut command = Command::new("/proc/self/exe");
    command.arg0("rusternetes").args(arguments).stdin(stdin).stdout(stdout).stderr(stderr);
    let raw = writer.as_raw_fd();
    // SAFETY: between fork and exec only async-signal-safe calls are made. The descriptor lives until after `spawn`.
    #[allow(unsafe_code)]
    unsafe {
        command.pre_exec(move || {
            // dup2 onto itself would keep the close-on-exec flag.
            let outcome =
                if raw == oci::RESULT_FD { libc::fcntl(raw, libc::F_SETFD, 0) } else { libc::dup2(raw, oci::RESULT_FD) };
            nix::errno::Errno::result(outcome)?;
            Ok(())
        });
    }
    let child = command.spawn().map_err(|error| format!("{}: {error}", arguments[0]))?;
    drop(writer);
    Ok((Pid::from_raw(child.id() as i32), result))
}

/// What a libcontainer process had to say, after its end. The container's first process may hold the pipe open.
pub(super) fn read_result(result: &OwnedFd) -> Result<Pid, String> {
    container::set_nonblocking(result);
    let mut buffer = vec![0; 4096];
    let length = nix::unistd::read(result, &mut buffer).unwrap_or(0);
    let text = String::from_utf8_lossy(&buffer[..length]);
    match text.split_once(' ') {
        Some(("pid", pid)) => pid.parse().map(Pid::from_raw).map_err(|_| format!("unexpected result {text:?}")),
        Some(("error", message)) => Err(message.to_owned()),
        _ => Err("the process that creates the container ended without a result".to_owned()),
    }
}
