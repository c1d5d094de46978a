//! More processes in running containers: started through the shim, their streams held by the server.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use cri::{Code, Status, v1};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::pipe2;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::unix::pipe;

use super::records::{ContainerRecord, load, save};
use super::shim_client::{self, Conversation};
use super::{Inner, io_status};
use crate::shim::protocol::{Answer, Request};
use crate::shim::{listen, receive};

/// Output of one stream kept by ExecSync; containerd's number. The rest is read and dropped.
const SYNC_OUTPUT_MAX: usize = 16 * 1024 * 1024;
/// How long streams may stay open after the end of the process: its children can hold them.
pub(crate) const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// A process that was started in a container.
pub(crate) struct ExecSession {
    conversation: Conversation,
    shim: PathBuf,
    container: String,
    exec_id: String,
    /// Closed by dropping it.
    stdin: Option<pipe::Sender>,
    stdout: pipe::Receiver,
    /// `None` with a terminal, which has one output.
    stderr: Option<pipe::Receiver>,
    terminal: Option<Terminal>,
}

/// The master side of a terminal.
pub(crate) struct Terminal(OwnedFd);

impl Terminal {
    /// Changes the size, in characters.
    pub(crate) fn resize(&self, width: u16, height: u16) {
        let size = libc::winsize { ws_row: height, ws_col: width, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: the size is a valid winsize and outlives the call. Failure means that the terminal is gone.
        #[allow(unsafe_code)]
        unsafe {
            libc::ioctl(self.0.as_raw_fd(), libc::TIOCSWINSZ, &size);
        }
    }
}

impl Inner {
    /// Starts `command` in a running container.
    pub(crate) async fn exec(&self, id: &str, command: Vec<String>, tty: bool, stdin: bool) -> Result<ExecSession, Status> {
        let record = self.running(id)?;
        if command.is_empty() {
            return Err(Status::invalid_argument("no command specified"));
        }
        let exec_id = format!("{:016x}", rand::random::<u64>());
        let process = self.layout.container_run(&record.id).join(format!("exec-{exec_id}.json"));
        let mut spec: serde_json::Value = load(&self.layout.container(&record.id).join("process.json"))
            .ok_or_else(|| Status::internal(format!("container {id} has lost its process.json")))?;
        spec["args"] = json!(command);
        spec["terminal"] = json!(tty);
        save(&process, &spec).map_err(io_status("exec"))?;
        let started = if tty {
            self.exec_with_terminal(&record, exec_id, &process, stdin).await
        } else {
            self.exec_with_pipes(&record, exec_id, &process, stdin).await
        };
        if started.is_err() {
            let _ = std::fs::remove_file(&process);
        }
        started.map_err(|error| match error.code() {
            Code::Unknown => Status::unknown(format!("failed to exec in container: {}", error.message())),
            _ => error,
        })
    }

    async fn exec_with_pipes(
        &self,
        record: &ContainerRecord,
        exec_id: String,
        process: &std::path::Path,
        stdin: bool,
    ) -> Result<ExecSession, Status> {
        let failed = |error: nix::Error| Status::internal(format!("pipe: {error}"));
        let (stdin_reader, stdin_writer) = if stdin {
            let (reader, writer) = pipe2(OFlag::O_CLOEXEC).map_err(failed)?;
            (reader, Some(writer))
        } else {
            (File::open("/dev/null").map_err(io_status("/dev/null"))?.into(), None)
        };
        let (stdout, stdout_writer) = pipe2(OFlag::O_CLOEXEC).map_err(failed)?;
        let (stderr, stderr_writer) = pipe2(OFlag::O_CLOEXEC).map_err(failed)?;
        let descriptors = [stdin_reader.as_raw_fd(), stdout_writer.as_raw_fd(), stderr_writer.as_raw_fd()];
        let conversation = self.start_exec(record, &exec_id, process, None, &descriptors).await?;
        let receiver = |fd: OwnedFd| nonblocking(&fd).and_then(|()| pipe::Receiver::from_owned_fd(fd));
        Ok(ExecSession {
            conversation,
            shim: self.layout.shim_socket(&record.sandbox_id),
            container: record.id.clone(),
            exec_id,
            stdin: stdin_writer
                .map(|fd| nonblocking(&fd).and_then(|()| pipe::Sender::from_owned_fd(fd)))
                .transpose()
                .map_err(io_status("pipe"))?,
            stdout: receiver(stdout).map_err(io_status("pipe"))?,
            stderr: Some(receiver(stderr).map_err(io_status("pipe"))?),
            terminal: None,
        })
    }

    async fn exec_with_terminal(
        &self,
        record: &ContainerRecord,
        exec_id: String,
        process: &std::path::Path,
        stdin: bool,
    ) -> Result<ExecSession, Status> {
        let console = self.layout.container_run(&record.id).join(format!("exec-{exec_id}.console"));
        let listener = listen(&console).map_err(io_status("console socket"))?;
        let path = console.to_string_lossy().into_owned();
        let started = self.start_exec(record, &exec_id, process, Some(path), &[]).await;
        let _ = std::fs::remove_file(&console);
        let conversation = started?;
        // libcontainer has sent the terminal before it reported success.
        let master = listener
            .set_nonblocking(true)
            .and_then(|()| listener.accept())
            .and_then(|(stream, _)| {
                let mut descriptors = Vec::new();
                receive(stream.as_raw_fd(), &mut [0; 256], &mut descriptors)?;
                descriptors.pop().ok_or_else(|| std::io::Error::other("no terminal received"))
            })
            .map_err(io_status("terminal"))?;
        let copy = || master.as_fd().try_clone_to_owned();
        nonblocking(&master).map_err(io_status("terminal"))?;
        let stdin =
            stdin.then(|| copy().and_then(pipe::Sender::from_owned_fd_unchecked)).transpose().map_err(io_status("terminal"))?;
        Ok(ExecSession {
            conversation,
            shim: self.layout.shim_socket(&record.sandbox_id),
            container: record.id.clone(),
            exec_id,
            stdin,
            stdout: copy().and_then(pipe::Receiver::from_owned_fd_unchecked).map_err(io_status("terminal"))?,
            stderr: None,
            terminal: Some(Terminal(master)),
        })
    }

    async fn start_exec(
        &self,
        record: &ContainerRecord,
        exec_id: &str,
        process: &std::path::Path,
        console: Option<String>,
        descriptors: &[i32],
    ) -> Result<Conversation, Status> {
        let request = Request::Exec {
            id: record.id.clone(),
            exec_id: exec_id.to_owned(),
            process: process.to_string_lossy().into_owned(),
            console,
        };
        let mut conversation = shim_client::open(&self.layout.shim_socket(&record.sandbox_id), &request, descriptors)
            .map_err(|error| Status::unavailable(format!("shim: {error}")))?;
        match conversation.answer_slow().await? {
            Answer::Started { .. } => Ok(conversation),
            other => Err(Status::internal(format!("unexpected answer of the shim: {other:?}"))),
        }
    }

    pub(super) async fn exec_sync(&self, request: v1::ExecSyncRequest) -> Result<v1::ExecSyncResponse, Status> {
        let command = request.cmd.join(" ");
        let mut session = self.exec(&request.container_id, request.cmd, false, false).await?;
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let run = session.run(&mut stdout, &mut stderr);
        let code = match u64::try_from(request.timeout).ok().filter(|seconds| *seconds > 0) {
            None => run.await?,
            Some(seconds) => match tokio::time::timeout(Duration::from_secs(seconds), run).await {
                Ok(code) => code?,
                Err(_) => {
                    session.kill().await;
                    return Err(Status::deadline_exceeded(format!("command {command:?} timed out after {seconds}s")));
                }
            },
        };
        Ok(v1::ExecSyncResponse { stdout, stderr, exit_code: code })
    }
}

impl ExecSession {
    /// Reads both outputs until the process has ended; returns its exit code.
    async fn run(&mut self, stdout: &mut Vec<u8>, stderr: &mut Vec<u8>) -> Result<i32, Status> {
        let reading = async {
            match &mut self.stderr {
                Some(source) => drop(tokio::join!(read_some(&mut self.stdout, stdout), read_some(source, stderr))),
                None => read_some(&mut self.stdout, stdout).await,
            }
        };
        tokio::pin!(reading);
        let code = tokio::select! {
            code = wait(&mut self.conversation) => code?,
            () = &mut reading => return wait(&mut self.conversation).await,
        };
        let _ = tokio::time::timeout(DRAIN_TIMEOUT, reading).await;
        Ok(code)
    }

    /// What waits for the process, its standard input, output and error, and its terminal.
    pub(crate) fn into_parts(
        self,
    ) -> (ExecWaiter, Option<pipe::Sender>, pipe::Receiver, Option<pipe::Receiver>, Option<Terminal>) {
        (ExecWaiter(self.conversation), self.stdin, self.stdout, self.stderr, self.terminal)
    }

    /// Ends the process.
    pub(crate) async fn kill(&self) {
        let request =
            Request::Kill { id: self.container.clone(), exec_id: self.exec_id.clone(), signal: libc::SIGKILL, all: false };
        if let Err(error) = shim_client::call(&self.shim, &request).await {
            tracing::warn!(container = self.container, %error, "a process in a container could not be killed");
        }
    }
}

/// Waits for the end of a process.
pub(crate) struct ExecWaiter(Conversation);

impl ExecWaiter {
    /// The exit code. Cancel safe.
    pub(crate) async fn wait(&mut self) -> Result<i32, Status> {
        wait(&mut self.0).await
    }
}

async fn wait(conversation: &mut Conversation) -> Result<i32, Status> {
    match conversation.next().await {
        Ok(Answer::Exited { exit, .. }) => Ok(exit.code),
        Ok(Answer::Error { message }) => Err(Status::unknown(message)),
        Ok(other) => Err(Status::internal(format!("unexpected answer of the shim: {other:?}"))),
        Err(error) => Err(Status::unavailable(format!("shim: {error}"))),
    }
}

async fn read_some(source: &mut (impl AsyncRead + Unpin), target: &mut Vec<u8>) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(length) = source.read(&mut buffer).await {
        if length == 0 {
            return;
        }
        let room = SYNC_OUTPUT_MAX.saturating_sub(target.len());
        target.extend_from_slice(&buffer[..length.min(room)]);
    }
}

fn nonblocking(fd: &OwnedFd) -> std::io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}
