//! Remote commands over SPDY/3.1: one stream each for the outcome, standard input, output, error and terminal sizes.
//! `v4.channel.k8s.io`, for clients that do not speak WebSocket.

use std::collections::HashMap;
use std::time::Duration;

use serde::Deserialize;
use streaming::{Stream, StreamReader, StreamWriter};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

use super::session::{Input, Output, Streams};

/// The protocol's name in `X-Stream-Protocol-Version`.
pub(super) const PROTOCOL: &str = "v4.channel.k8s.io";

/// How long the client may take to open its streams; the CRI server's default.
const STREAMS_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the client may take to hang up after the outcome.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(10);
const PENDING_MAX: usize = 16;

/// Which streams a session has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pub(super) stdin: bool,
    pub(super) stdout: bool,
    pub(super) stderr: bool,
    pub(super) tty: bool,
}

impl Wanted {
    fn types(self) -> Vec<&'static str> {
        let list =
            [("error", true), ("stdin", self.stdin), ("stdout", self.stdout), ("stderr", self.stderr), ("resize", self.tty)];
        list.into_iter().filter(|(_, wanted)| *wanted).map(|(name, _)| name).collect()
    }
}

/// Serves a session on an upgraded connection until both are done.
pub(super) async fn serve<S, F, Fut>(io: S, wanted: Wanted, session: F)
where
    S: AsyncRead + AsyncWrite + Unpin,
    F: FnOnce(Streams) -> Fut,
    Fut: Future<Output = ()>,
{
    let (mut connection, work) = streaming::accept(io);
    let serving = async {
        let types = wanted.types();
        let mut streams: HashMap<&str, Stream> = HashMap::new();
        let collecting = async {
            while streams.len() < types.len() {
                let stream = connection.next().await?;
                let name = types.iter().find(|name| stream.header("streamtype") == Some(name));
                if let Some(name) = name {
                    streams.insert(name, stream);
                }
            }
            Some(())
        };
        // A client that opens too few streams gets nothing, as upstream.
        if !matches!(tokio::time::timeout(STREAMS_TIMEOUT, collecting).await, Ok(Some(()))) {
            return;
        }
        run(streams, session).await;
        // The client closes the connection once it has read everything.
        let _ = tokio::time::timeout(GOODBYE_TIMEOUT, async { while connection.next().await.is_some() {} }).await;
    };
    tokio::select! {
        () = serving => {}
        result = work => {
            if let Err(error) = result {
                tracing::debug!(%error, "a streaming connection failed");
            }
        }
    }
}

async fn run<F, Fut>(mut streams: HashMap<&str, Stream>, session: F)
where
    F: FnOnce(Streams) -> Fut,
    Fut: Future<Output = ()>,
{
    let mut take = |name: &str| match streams.remove(name) {
        Some(Stream { reader, writer, .. }) => (Some(reader), Some(writer)),
        None => (None, None),
    };
    let ((error_reader, error), (stdin, stdin_writer), (stdout_reader, stdout), (stderr_reader, stderr), (resize, resize_writer)) =
        (take("error"), take("stdin"), take("stdout"), take("stderr"), take("resize"));
    let (input_sender, input) = mpsc::channel(PENDING_MAX);
    let (output, mut messages) = mpsc::channel(PENDING_MAX);
    let inputs = async {
        tokio::join!(pass_stdin(stdin, input_sender.clone()), pass_sizes(resize, input_sender));
        std::future::pending::<()>().await;
    };
    let outputs = async {
        while let Some(message) = messages.recv().await {
            let (writer, bytes) = match &message {
                Output::Stdout(bytes) => (&stdout, bytes),
                Output::Stderr(bytes) => (&stderr, bytes),
                Output::Outcome(bytes) => (&error, bytes),
            };
            if let Some(writer) = writer
                && !writer.write(bytes).await
            {
                return;
            }
        }
    };
    let working = async {
        tokio::join!(session(Streams { input, output }), outputs);
    };
    tokio::select! {
        () = working => {}
        () = inputs => {}
    }
    for writer in [stdout, stderr, stdin_writer, resize_writer, error].into_iter().flatten() {
        StreamWriter::finish(writer).await;
    }
    drop((error_reader, stdout_reader, stderr_reader));
}

async fn pass_stdin(stdin: Option<StreamReader>, input: mpsc::Sender<Input>) {
    let Some(mut stdin) = stdin else { return };
    while let Some(bytes) = stdin.read().await {
        if input.send(Input::Stdin(bytes)).await.is_err() {
            return;
        }
    }
    let _ = input.send(Input::StdinEnd).await;
}

/// Terminal sizes: JSON objects one after the other.
async fn pass_sizes(resize: Option<StreamReader>, input: mpsc::Sender<Input>) {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Size {
        width: u16,
        height: u16,
    }
    let Some(mut resize) = resize else { return };
    let mut pending = Vec::new();
    while let Some(bytes) = resize.read().await {
        pending.extend_from_slice(&bytes);
        let mut sizes = serde_json::Deserializer::from_slice(&pending).into_iter::<Size>();
        let mut last = None;
        let mut consumed = 0;
        while let Some(Ok(size)) = sizes.next() {
            consumed = sizes.byte_offset();
            last = Some(size);
        }
        pending.drain(..consumed);
        if let Some(Size { width, height }) = last
            && input.send(Input::Resize { width, height }).await.is_err()
        {
            return;
        }
        if pending.len() > 4096 {
            return;
        }
    }
}
