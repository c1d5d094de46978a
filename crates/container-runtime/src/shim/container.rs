//! One container as its shim sees it: streams, log, first process, end.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::log::{Lines, Log};
use super::protocol::{Exit, Running, StartSpec, frame};
use super::socket;
use crate::cgroup;

/// How long the streams of an ended container may stay open: a process that left the container can hold them.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
/// Input held for a container that does not read.
pub(super) const STDIN_PENDING_MAX: usize = 64 * 1024;

/// One output stream of a container.
pub(super) struct Output {
    pub(super) file: File,
    lines: Lines,
    pub(super) kind: u8,
}

impl Output {
    pub(super) fn new(fd: OwnedFd, kind: u8) -> Self {
        set_nonblocking(&fd);
        let stream = if kind == frame::STDERR { "stderr" } else { "stdout" };
        Self { file: File::from(fd), lines: Lines::new(stream), kind }
    }
}

pub(super) fn set_nonblocking(fd: &OwnedFd) {
    let _ = fcntl(fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK));
}

pub(super) struct Container {
    pub(super) spec: StartSpec,
    pub(super) pid: Option<Pid>,
    pub(super) started_at: i64,
    /// Published end.
    pub(super) exit: Option<Exit>,
    /// The first process has ended; waiting for the streams until the instant.
    ended: Option<(Exit, Instant)>,
    log: Option<Log>,
    pub(super) outputs: Vec<Output>,
    pub(super) stdin: Option<File>,
    pub(super) stdin_pending: VecDeque<u8>,
    stdin_closing: bool,
    pub(super) terminal: Option<File>,
    /// The server has signalled it: how it ends is no news that must outlive the machine's power.
    pub(super) signalled: bool,
}

impl Container {
    pub(super) fn new(spec: StartSpec) -> Self {
        let log = (!spec.log_path.is_empty()).then(|| Log::open(Path::new(&spec.log_path)));
        Self {
            spec,
            pid: None,
            started_at: 0,
            exit: None,
            ended: None,
            log,
            outputs: Vec::new(),
            stdin: None,
            stdin_pending: VecDeque::new(),
            stdin_closing: false,
            terminal: None,
            signalled: false,
        }
    }

    pub(super) fn running(&self) -> Running {
        Running { id: self.spec.id.clone(), pid: self.pid.map(Pid::as_raw), started_at: self.started_at, exit: self.exit }
    }

    /// Takes the terminal's master side that the container's first process sent.
    pub(super) fn take_terminal(&mut self, listener: &UnixListener) -> std::io::Result<()> {
        let master = receive_terminal(listener)?;
        let master = File::from(master);
        self.outputs.push(Output::new(master.try_clone()?.into(), frame::STDOUT));
        if self.spec.stdin {
            self.stdin = Some(master.try_clone()?);
        }
        self.terminal = Some(master);
        Ok(())
    }

    /// Tells the waiting first process to run its command.
    pub(super) fn start(&mut self, pid: Pid) -> std::io::Result<()> {
        self.pid = Some(pid);
        let path = Path::new(&self.spec.state_root).join(&self.spec.id).join("notify.sock");
        socket::connect(&path)?.write_all(b"start container")?;
        self.started_at = now();
        Ok(())
    }

    /// Reads what output `index` has. Returns the bytes for attached clients; `None` at the end of the stream.
    pub(super) fn read_output<'a>(&mut self, index: usize, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
        let output = &mut self.outputs[index];
        match output.file.read(buffer) {
            Ok(length) if length > 0 => {
                let bytes = &buffer[..length];
                if let Some(log) = &mut self.log {
                    output.lines.write(log, bytes);
                }
                Some(bytes)
            }
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::Interrupted) => Some(&[]),
            // A terminal without processes reads as EIO.
            _ => {
                self.close_output(index);
                None
            }
        }
    }

    fn close_output(&mut self, index: usize) {
        let mut output = self.outputs.remove(index);
        if let Some(log) = &mut self.log {
            output.lines.finish(log);
        }
    }

    pub(super) fn reopen_log(&mut self) -> std::io::Result<()> {
        self.log.as_mut().map_or(Ok(()), Log::reopen)
    }

    /// Passes pending input on. Input for a container that has closed its side is dropped.
    pub(super) fn write_stdin(&mut self) {
        while let Some(stdin) = &mut self.stdin {
            let (bytes, _) = self.stdin_pending.as_slices();
            if bytes.is_empty() {
                break;
            }
            match stdin.write(bytes) {
                Ok(written) => drop(self.stdin_pending.drain(..written)),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => self.stdin = None,
            }
        }
        if self.stdin_closing || self.stdin.is_none() {
            self.stdin_pending.clear();
            self.stdin = None;
        }
    }

    /// A client's input has ended.
    pub(super) fn end_stdin(&mut self) {
        if self.spec.stdin_once {
            self.stdin_closing = true;
            self.write_stdin();
        }
    }

    pub(super) fn end(&mut self, code: i32) {
        let exit = Exit {
            code,
            finished_at: now(),
            oom_killed: self.spec.cgroups.iter().any(|directory| cgroup::oom_kills(Path::new(directory)) > 0),
        };
        if !self.spec.private_pid {
            self.kill_all(Signal::SIGKILL as i32);
        }
        self.ended = Some((exit, Instant::now() + DRAIN_TIMEOUT));
        self.stdin = None;
    }

    /// Until when the poll loop must come back to this container.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.ended.filter(|_| self.exit.is_none()).map(|(_, deadline)| deadline)
    }

    /// The end to be published, once: when the streams are drained or the time for it is up. A container that
    /// ended by itself has its end on disk by then.
    pub(super) fn finish(&mut self) -> Option<Exit> {
        let (exit, deadline) = self.ended.filter(|_| self.exit.is_none())?;
        if !self.outputs.is_empty() && Instant::now() < deadline {
            return None;
        }
        while !self.outputs.is_empty() {
            self.close_output(0);
        }
        self.terminal = None;
        self.log = None;
        self.exit = Some(exit);
        let _ = write_exit(Path::new(&self.spec.exit_file), &exit, !self.signalled);
        Some(exit)
    }

    pub(super) fn signal(&self, signal: i32) -> nix::Result<()> {
        match (self.pid, self.ended) {
            (Some(pid), None) => send_signal(pid, signal),
            _ => Ok(()),
        }
    }

    /// Signals everything in the container's cgroup.
    pub(super) fn kill_all(&self, signal: i32) {
        for pid in self.spec.cgroups.iter().flat_map(|directory| cgroup::processes(Path::new(directory))) {
            let _ = send_signal(Pid::from_raw(pid), signal);
        }
    }

    pub(super) fn resize(&self, width: u16, height: u16) -> nix::Result<()> {
        let terminal = self.terminal.as_ref().ok_or(Errno::ENOTTY)?;
        let size = libc::winsize { ws_row: height, ws_col: width, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: the size is a valid winsize and outlives the call.
        #[allow(unsafe_code)]
        Errno::result(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &size) }).map(drop)
    }
}

pub(super) fn send_signal(pid: Pid, signal: i32) -> nix::Result<()> {
    // SAFETY: plain system call; numbers outside of nix's enum (real-time signals) are allowed.
    #[allow(unsafe_code)]
    match Errno::result(unsafe { libc::kill(pid.as_raw(), signal) }) {
        Ok(_) | Err(Errno::ESRCH) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Accepts the connection that libcontainer has made and takes the descriptor that it has sent.
pub(super) fn receive_terminal(listener: &UnixListener) -> std::io::Result<OwnedFd> {
    let (stream, _) = listener.accept()?;
    let mut descriptors = Vec::new();
    socket::receive(stream.as_raw_fd(), &mut [0; 256], &mut descriptors)?;
    descriptors.pop().ok_or_else(|| std::io::Error::new(std::io::ErrorKind::InvalidData, "no terminal received"))
}

/// Durably: on disk before anybody hears of it. Waiting for the disk also makes what is removed next wait.
fn write_exit(path: &Path, exit: &Exit, durably: bool) -> std::io::Result<()> {
    let temporary = path.with_extension("new");
    let mut file = File::create(&temporary)?;
    file.write_all(&serde_json::to_vec(exit)?)?;
    if durably {
        file.sync_all()?;
    }
    std::fs::rename(&temporary, path)
}

pub(super) fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_nanos() as i64)
}

/// Ends a process that nobody waits for.
pub(super) fn kill_quietly(pid: Pid) {
    let _ = kill(pid, Signal::SIGKILL);
}
