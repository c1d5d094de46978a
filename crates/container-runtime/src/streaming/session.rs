//! The streams of a remote command, free of any wire protocol, and what is done with them.

use bytes::Bytes;
use cri::{Status, v1};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::sync::mpsc;

use crate::runtime::exec::{DRAIN_TIMEOUT, ExecSession};
use crate::runtime::{Inner, shim_client};
use crate::shim::protocol::{Request, frame};

/// Bytes read from a process at once.
const CHUNK: usize = 32 * 1024;

/// What a client sends.
#[derive(Debug)]
pub(crate) enum Input {
    Stdin(Bytes),
    StdinEnd,
    Resize { width: u16, height: u16 },
}

/// What a client gets.
#[derive(Debug)]
pub(crate) enum Output {
    Stdout(Bytes),
    Stderr(Bytes),
    /// The outcome: a Kubernetes `Status` in JSON. The last message.
    Outcome(Bytes),
}

/// The client's side of a session. Bounded: a slow client slows the process down.
pub(crate) struct Streams {
    /// Ends when the client is gone.
    pub(crate) input: mpsc::Receiver<Input>,
    /// Closed when the client is gone.
    pub(crate) output: mpsc::Sender<Output>,
}

/// The outcome of a process with this exit code. Clients match reason and causes.
fn outcome_of(code: i32) -> serde_json::Value {
    if code == 0 {
        return json!({ "metadata": {}, "status": "Success" });
    }
    json!({
        "metadata": {},
        "status": "Failure",
        "message": format!("command terminated with non-zero exit code: exit code {code}"),
        "reason": "NonZeroExitCode",
        "details": { "causes": [{ "reason": "ExitCode", "message": code.to_string() }] },
    })
}

fn outcome_of_error(error: &Status) -> serde_json::Value {
    json!({
        "metadata": {},
        "status": "Failure",
        "message": format!("Internal error occurred: {}", error.message()),
        "reason": "InternalError",
        "details": { "causes": [{ "message": error.message() }] },
        "code": 500,
    })
}

async fn send_outcome(output: &mpsc::Sender<Output>, outcome: &serde_json::Value) {
    // A client that is gone needs no outcome.
    let _ = output.send(Output::Outcome(Bytes::from(outcome.to_string()))).await;
}

/// Runs a command in a container for a client, to the end of either.
pub(crate) async fn exec(runtime: &Inner, request: v1::ExecRequest, streams: Streams) {
    let Streams { input, output } = streams;
    let outcome = match runtime.exec(&request.container_id, request.cmd, request.tty, request.stdin).await {
        Ok(session) => match run(session, input, &output).await {
            Ok(code) => outcome_of(code),
            Err(error) => outcome_of_error(&error),
        },
        Err(error) => outcome_of_error(&error),
    };
    send_outcome(&output, &outcome).await;
}

async fn run(session: ExecSession, mut input: mpsc::Receiver<Input>, output: &mpsc::Sender<Output>) -> Result<i32, Status> {
    let (mut waiter, mut stdin, stdout, stderr, terminal) = session.into_parts();
    let outputs = async {
        let stderr = async {
            if let Some(stderr) = stderr {
                copy(stderr, output, Output::Stderr).await;
            }
        };
        tokio::join!(copy(stdout, output, Output::Stdout), stderr);
    };
    let inputs = async {
        while let Some(message) = input.recv().await {
            match message {
                Input::Stdin(bytes) => {
                    if let Some(pipe) = &mut stdin
                        && pipe.write_all(&bytes).await.is_err()
                    {
                        stdin = None;
                    }
                }
                Input::StdinEnd => stdin = None,
                Input::Resize { width, height } => {
                    if let Some(terminal) = &terminal {
                        terminal.resize(width, height);
                    }
                }
            }
        }
        stdin = None;
    };
    tokio::pin!(outputs);
    tokio::pin!(inputs);
    let mut inputs_done = false;
    let mut outputs_done = false;
    loop {
        tokio::select! {
            code = waiter.wait() => {
                if !outputs_done {
                    let _ = tokio::time::timeout(DRAIN_TIMEOUT, &mut outputs).await;
                }
                return code;
            }
            () = &mut outputs, if !outputs_done => outputs_done = true,
            () = &mut inputs, if !inputs_done => inputs_done = true,
            // Nobody is there any more: the process loses its streams, or its terminal, and that is how it learns.
            () = output.closed() => return Err(Status::cancelled("the client is gone")),
        }
    }
}

async fn copy(mut source: pipe::Receiver, output: &mpsc::Sender<Output>, wrap: fn(Bytes) -> Output) {
    let mut buffer = vec![0; CHUNK];
    // A terminal without processes reads as an error.
    while let Ok(length) = source.read(&mut buffer).await {
        if length == 0 || output.send(wrap(Bytes::copy_from_slice(&buffer[..length]))).await.is_err() {
            return;
        }
    }
}

/// Connects a client to the streams of a container's first process, to the end of either.
pub(crate) async fn attach(runtime: &Inner, request: v1::AttachRequest, streams: Streams) {
    let Streams { input, output } = streams;
    let outcome = match attach_streams(runtime, &request, input, &output).await {
        Ok(()) => outcome_of(0),
        Err(error) => outcome_of_error(&error),
    };
    send_outcome(&output, &outcome).await;
}

async fn attach_streams(
    runtime: &Inner,
    request: &v1::AttachRequest,
    mut input: mpsc::Receiver<Input>,
    output: &mpsc::Sender<Output>,
) -> Result<(), Status> {
    let record = runtime.running(&request.container_id)?;
    let socket = runtime.shim_socket(&record.sandbox_id);
    let gone = |error: std::io::Error| Status::unavailable(format!("shim: {error}"));
    let mut conversation = shim_client::open(&socket, &Request::Attach { id: record.id.clone() }, &[]).map_err(gone)?;
    conversation.answer().await?;
    let (mut reader, mut writer) = tokio::io::split(conversation.stream);
    // As containerd has it: the end of one client's input is the end of the process's only if the container says so, and then the client
    // stays for what comes out. Any other client has said all it had to, and goes.
    let config = &record.config.0;
    let stays = config.stdin_once && !config.tty;
    let outputs = async {
        let mut header = [0; frame::HEADER];
        while reader.read_exact(&mut header).await.is_ok() {
            let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]) as usize;
            let mut payload = vec![0; length];
            if reader.read_exact(&mut payload).await.is_err() {
                break;
            }
            let message = match header[0] {
                frame::STDOUT if request.stdout => Output::Stdout(payload.into()),
                frame::STDERR if request.stderr => Output::Stderr(payload.into()),
                _ => continue,
            };
            if output.send(message).await.is_err() {
                break;
            }
        }
    };
    let inputs = async {
        while let Some(message) = input.recv().await {
            let bytes = match message {
                Input::Stdin(bytes) if request.stdin && !bytes.is_empty() => bytes,
                Input::StdinEnd if request.stdin && stays => Bytes::new(),
                Input::StdinEnd if request.stdin => return,
                Input::Resize { width, height } => {
                    let request = Request::Resize { id: record.id.clone(), width, height };
                    let _ = shim_client::call(&socket, &request).await;
                    continue;
                }
                _ => continue,
            };
            for chunk in if bytes.is_empty() { vec![&bytes[..]] } else { bytes.chunks(CHUNK).collect() } {
                let header = frame::header(frame::STDIN, chunk.len());
                if writer.write_all(&header).await.is_err() || writer.write_all(chunk).await.is_err() {
                    return;
                }
            }
            let _ = writer.flush().await;
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = outputs => Ok(()),
        () = inputs => Ok(()),
        () = output.closed() => Ok(()),
    }
}
