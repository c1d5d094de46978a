//! Port-forward: pairs of SPDY streams, each joined to a connection into the sandbox's network.
//! `portforward.k8s.io`, over SPDY/3.1 itself or over SPDY/3.1 inside a WebSocket (KEP-4006).

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::FuturesUnordered;
use futures::{SinkExt, StreamExt};
use streaming::{Stream, StreamReader, StreamWriter};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_tungstenite::WebSocketStream;
use tungstenite::Message;
use tungstenite::protocol::Role;

/// Subprotocols whose channels are ports: two for each, data and error.
pub(super) const CHANNEL_PROTOCOLS: [&str; 2] = ["v4.channel.k8s.io", "v4.base64.channel.k8s.io"];

/// The protocol's name in `X-Stream-Protocol-Version`.
pub(super) const PROTOCOL: &str = "portforward.k8s.io";
/// The WebSocket subprotocol that carries SPDY/3.1 frames in its messages.
pub(super) const TUNNEL_PROTOCOL: &str = "SPDY/3.1+portforward.k8s.io";

/// A refused connection comes back at once; one that is dropped by a firewall does not.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Requests of which only one stream has come.
const HALVES_MAX: usize = 256;
pub(super) const CHUNK: usize = 32 * 1024;

/// Where connections go.
#[derive(Debug, Clone)]
pub(super) struct Target {
    /// The pinned network namespace; the host's if `None`.
    pub(super) netns: Option<PathBuf>,
    /// For messages.
    pub(super) sandbox: String,
    /// The ports that channels stand for; SPDY's streams name theirs.
    pub(super) ports: Vec<u16>,
}

/// Serves port-forward requests on a SPDY connection until it ends.
pub(super) async fn serve<S: AsyncRead + AsyncWrite + Unpin>(io: S, target: Target) {
    let (mut connection, work) = streaming::accept(io);
    let serving = async {
        let mut halves: HashMap<String, Stream> = HashMap::new();
        let mut forwards = FuturesUnordered::new();
        loop {
            tokio::select! {
                stream = connection.next() => match stream {
                    Some(stream) => {
                        if let Some((data, error)) = pair(&mut halves, stream) {
                            forwards.push(forward(data, error, &target));
                        }
                    }
                    None => return,
                },
                Some(()) = forwards.next(), if !forwards.is_empty() => {}
            }
        }
    };
    tokio::select! {
        () = serving => {}
        result = work => {
            if let Err(error) = result {
                tracing::debug!(%error, "a port-forward connection failed");
            }
        }
    }
}

/// Serves port-forward requests on a WebSocket that carries SPDY.
pub(super) async fn serve_tunnel<S: AsyncRead + AsyncWrite + Unpin>(io: S, target: Target) {
    let socket = WebSocketStream::from_raw_socket(io, Role::Server, None).await;
    let (mut sink, mut source) = socket.split();
    let (near, far) = tokio::io::duplex(2 * CHUNK);
    let (mut reader, mut writer) = tokio::io::split(near);
    let inward = async {
        while let Some(Ok(message)) = source.next().await {
            match message {
                Message::Binary(bytes) => {
                    let Ok(()) = writer.write_all(&bytes).await else { return };
                }
                Message::Close(_) => return,
                _ => {}
            }
        }
    };
    let outward = async {
        let mut buffer = vec![0; CHUNK];
        while let Ok(length) = reader.read(&mut buffer).await {
            if length == 0 || sink.send(Message::Binary(Bytes::copy_from_slice(&buffer[..length]))).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = inward => {}
        () = outward => {}
        () = serve(far, target) => {}
    }
}

/// The streams of one request come in either order; returns them, data first, when both are there.
fn pair(halves: &mut HashMap<String, Stream>, stream: Stream) -> Option<(Stream, Stream)> {
    let is_data = match stream.header("streamtype") {
        Some("data") => true,
        Some("error") => false,
        _ => return None,
    };
    // Clients of old number no requests, but open the data stream right after the error stream.
    let fallback = if is_data { stream.id().wrapping_sub(2) } else { stream.id() };
    let request = stream.header("requestid").map_or_else(|| format!("stream {fallback}"), str::to_owned);
    match halves.remove(&request) {
        Some(other) if is_data => Some((stream, other)),
        Some(other) => Some((other, stream)),
        None => {
            if halves.len() < HALVES_MAX {
                halves.insert(request, stream);
            }
            None
        }
    }
}

async fn forward(data: Stream, error: Stream, target: &Target) {
    let Some(port) = data.header("port").and_then(|port| port.parse().ok()).filter(|port| *port > 0) else {
        return fail(data, error, "the stream's port header is missing or wrong").await;
    };
    match connect(target.netns.as_deref(), port).await {
        Ok(connection) => {
            join(connection, data.reader, data.writer).await;
            error.writer.finish().await;
        }
        Err(failure) => fail(data, error, &refusal(target, port, &failure)).await,
    }
}

/// What the error stream says of a port that nobody listens at.
pub(super) fn refusal(target: &Target, port: u16, failure: &std::io::Error) -> String {
    format!(
        "error forwarding port {port} to pod {}, uid : failed to connect to localhost:{port} inside the pod's network namespace: {failure}",
        target.sandbox
    )
}

async fn fail(data: Stream, error: Stream, message: &str) {
    error.writer.write(message.as_bytes()).await;
    error.writer.finish().await;
    data.writer.reset().await;
}

/// Copies both ways until both have ended; the end of one is passed on.
async fn join(connection: tokio::net::TcpStream, mut reader: StreamReader, writer: StreamWriter) {
    let (mut source, mut sink) = connection.into_split();
    let inward = async {
        while let Some(bytes) = reader.read().await {
            if sink.write_all(&bytes).await.is_err() {
                return;
            }
        }
        let _ = sink.shutdown().await;
    };
    let outward = async {
        let mut buffer = vec![0; CHUNK];
        while let Ok(length) = source.read(&mut buffer).await {
            if length == 0 || !writer.write(&buffer[..length]).await {
                break;
            }
        }
        writer.finish().await;
    };
    // Once the pod's side has ended there is nobody to read what the client still sends.
    tokio::pin!(inward, outward);
    let mut inward_done = false;
    loop {
        tokio::select! {
            () = &mut outward => return,
            () = &mut inward, if !inward_done => inward_done = true,
        }
    }
}

/// Connects to a port on the loopback interface of a network namespace.
pub(super) async fn connect(netns: Option<&Path>, port: u16) -> std::io::Result<tokio::net::TcpStream> {
    let netns = netns.map(Path::to_owned);
    let (sender, receiver) = tokio::sync::oneshot::channel();
    // A thread of its own: it changes its network namespace, and must not come back into a pool.
    std::thread::Builder::new().stack_size(128 * 1024).spawn(move || {
        let _ = sender.send(connect_blocking(netns.as_deref(), port));
    })?;
    let stream = receiver.await.map_err(|_| std::io::Error::other("the connecting thread panicked"))??;
    stream.set_nonblocking(true)?;
    stream.set_nodelay(true)?;
    tokio::net::TcpStream::from_std(stream)
}

fn connect_blocking(netns: Option<&Path>, port: u16) -> std::io::Result<TcpStream> {
    if let Some(netns) = netns {
        nix::sched::setns(std::fs::File::open(netns)?, nix::sched::CloneFlags::CLONE_NEWNET)?;
    }
    let v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    match TcpStream::connect_timeout(&v4, CONNECT_TIMEOUT) {
        Ok(stream) => Ok(stream),
        Err(error) => {
            TcpStream::connect_timeout(&SocketAddr::from((Ipv6Addr::LOCALHOST, port)), CONNECT_TIMEOUT).map_err(|_| error)
        }
    }
}
