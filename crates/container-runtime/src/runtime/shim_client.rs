//! The server's side of the conversation with shims.

use std::os::fd::RawFd;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use cri::Status;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use crate::reexec;
use crate::shim::protocol::{Answer, Request, SandboxSpec};
use crate::shim::{connect, send};

/// A shim answers from one thread that never waits for anything but the disk: silence for so long means that it hangs.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// A container that is not there by then never will be; more than the kubelet's own patience of two minutes.
const START_TIMEOUT: Duration = Duration::from_secs(150);

/// A connection that has sent its request.
pub(crate) struct Conversation {
    pub(crate) stream: BufReader<UnixStream>,
    /// The part of a line that has arrived; kept here so that waiting can be given up and taken up again.
    line: Vec<u8>,
}

/// Sends a request, with descriptors.
pub(crate) fn open(socket: &Path, request: &Request, descriptors: &[RawFd]) -> std::io::Result<Conversation> {
    let stream = connect(socket)?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    send(&stream, &line, descriptors)?;
    stream.set_nonblocking(true)?;
    Ok(Conversation { stream: BufReader::new(UnixStream::from_std(stream)?), line: Vec::new() })
}

impl Conversation {
    /// The next answer; an error when the shim is gone. Cancel safe.
    pub(crate) async fn next(&mut self) -> std::io::Result<Answer> {
        while self.line.last() != Some(&b'\n') {
            if self.stream.read_until(b'\n', &mut self.line).await? == 0 {
                return Err(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "the shim has closed the connection"));
            }
        }
        let line = std::mem::take(&mut self.line);
        Ok(serde_json::from_slice(&line)?)
    }

    /// The next answer, which must come soon.
    pub(crate) async fn answer(&mut self) -> Result<Answer, Status> {
        self.answer_within(ANSWER_TIMEOUT).await
    }

    /// The answer to a request that makes a process, which takes as long as the machine is slow.
    pub(crate) async fn answer_slow(&mut self) -> Result<Answer, Status> {
        self.answer_within(START_TIMEOUT).await
    }

    async fn answer_within(&mut self, patience: Duration) -> Result<Answer, Status> {
        match tokio::time::timeout(patience, self.next()).await {
            Ok(Ok(Answer::Error { message })) => Err(Status::unknown(message)),
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(Status::unavailable(format!("shim: {error}"))),
            Err(_) => Err(Status::deadline_exceeded("the shim does not answer")),
        }
    }
}

/// Sends a request that makes a process, and returns its first answer.
pub(crate) async fn call_slow(socket: &Path, request: &Request) -> Result<Answer, Status> {
    let mut conversation = open(socket, request, &[]).map_err(|error| Status::unavailable(format!("shim: {error}")))?;
    conversation.answer_slow().await
}

/// Sends a request and returns its one answer.
pub(crate) async fn call(socket: &Path, request: &Request) -> Result<Answer, Status> {
    let mut conversation = open(socket, request, &[]).map_err(|error| Status::unavailable(format!("shim: {error}")))?;
    conversation.answer().await
}

/// Starts the shim of a sandbox and returns once it serves its socket.
pub(crate) async fn launch(executable: &Path, spec: &SandboxSpec) -> Result<(), Status> {
    let failed = |error: std::io::Error| Status::internal(format!("starting the shim: {error}"));
    let mut child = tokio::process::Command::new(executable)
        .arg0("rusternetes")
        .args([reexec::SHIM, &spec.id])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed)?;
    let text = serde_json::to_vec(spec).map_err(|error| failed(error.into()))?;
    let mut stdin = child.stdin.take();
    if let Some(stdin) = &mut stdin {
        stdin.write_all(&text).await.map_err(failed)?;
    }
    drop(stdin);
    let mut message = String::new();
    if let Some(mut stdout) = child.stdout.take() {
        stdout.read_to_string(&mut message).await.map_err(failed)?;
    }
    let status = child.wait().await.map_err(failed)?;
    if status.success() {
        return Ok(());
    }
    let message = if message.is_empty() { status.to_string() } else { message };
    Err(Status::unknown(format!("failed to create the sandbox: {message}")))
}
