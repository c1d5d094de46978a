//! Port-forward over WebSocket channels: two for each port, its data and its error (`v4.channel.k8s.io`). What client libraries speak that know
//! no SPDY; a client cannot end one direction alone.

use futures::stream::FuturesUnordered;
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tungstenite::{Message, Utf8Bytes};

use super::forward::{CHUNK, Target, connect, refusal};
use super::websocket::{Dialect, MESSAGE_MAX, PENDING_MAX};

/// Channels are numbered by a byte.
pub(crate) const PORTS_MAX: usize = 127;

/// Where one port's messages go.
struct Port {
    number: u16,
    /// The data channel; the next one is for its error.
    channel: u8,
    out: mpsc::Sender<(u8, Vec<u8>)>,
}

/// Serves the target's ports until all of them are done, or the client is.
pub(super) async fn serve<S: AsyncRead + AsyncWrite + Unpin>(io: S, protocol: &str, target: Target) {
    let config = WebSocketConfig::default().max_message_size(Some(MESSAGE_MAX));
    let socket = WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await;
    let (mut sink, mut source) = socket.split();
    let dialect = Dialect::of(protocol);
    let (out, mut messages) = mpsc::channel::<(u8, Vec<u8>)>(PENDING_MAX);
    let (mut inputs, mut working) = (Vec::new(), FuturesUnordered::new());
    for (channel, number) in (0u8..).step_by(2).zip(target.ports.iter().copied().take(PORTS_MAX)) {
        // Which port it is, on both channels, before anything else.
        for channel in [channel, channel + 1] {
            if sink.send(dialect.message(channel, &number.to_le_bytes())).await.is_err() {
                return;
            }
        }
        let (input, received) = mpsc::channel(PENDING_MAX);
        inputs.push(input);
        working.push(forward(Port { number, channel, out: out.clone() }, received, &target));
    }
    drop(out);
    let receiving = async {
        while let Some(Ok(message)) = source.next().await {
            if message.is_close() {
                return;
            }
            if let Some((channel, payload)) = dialect.parts(&message)
                && channel % 2 == 0
                && let Some(input) = inputs.get(usize::from(channel / 2))
            {
                // A port that has ended takes nothing any more; the others go on.
                let _ = input.send(payload).await;
            }
        }
    };
    let sending = async {
        while let Some((channel, payload)) = messages.recv().await {
            if sink.send(dialect.message(channel, &payload)).await.is_err() {
                return;
            }
        }
        let end = CloseFrame { code: CloseCode::Normal, reason: Utf8Bytes::from_static("") };
        let _ = sink.send(Message::Close(Some(end))).await;
        let _ = sink.close().await;
    };
    // The messages end with the last port.
    let working = async {
        while let Some(()) = working.next().await {}
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = receiving => {}
        () = sending => {}
        () = working => {}
    }
}

/// Joins one port's channels to a connection until the pod's side ends.
async fn forward(port: Port, mut input: mpsc::Receiver<bytes::Bytes>, target: &Target) {
    let connection = match connect(target.netns.as_deref(), port.number).await {
        Ok(connection) => connection,
        Err(failure) => {
            let message = refusal(target, port.number, &failure).into_bytes();
            // Nobody listens when the client is gone.
            let _ = port.out.send((port.channel + 1, message)).await;
            return;
        }
    };
    let (mut source, mut sink) = connection.into_split();
    let inward = async {
        while let Some(bytes) = input.recv().await {
            if sink.write_all(&bytes).await.is_err() {
                break;
            }
        }
        std::future::pending::<()>().await;
    };
    let outward = async {
        let mut buffer = vec![0; CHUNK];
        while let Ok(length) = source.read(&mut buffer).await {
            if length == 0 || port.out.send((port.channel, buffer[..length].to_vec())).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = inward => {}
        () = outward => {}
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn two_channels_a_port() {
        const PROTOCOLS: [&str; 2] = ["v4.channel.k8s.io", "v4.base64.channel.k8s.io"];
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let open = listener.local_addr().expect("bound").port();
        // Bound and closed again: nobody listens there.
        let closed = TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("bound").port();
        let pod = tokio::spawn(async move {
            for _ in PROTOCOLS {
                let (mut stream, _) = listener.accept().await.expect("a connection");
                let mut asked = [0; 4];
                stream.read_exact(&mut asked).await.expect("what the client sent");
                assert_eq!(&asked, b"ping");
                stream.write_all(b"pong").await.expect("written");
            }
        });
        for protocol in PROTOCOLS {
            let (near, far) = tokio::io::duplex(CHUNK);
            let dialect = Dialect::of(protocol);
            let client = async {
                let mut socket = WebSocketStream::from_raw_socket(near, Role::Client, None).await;
                socket.send(dialect.message(0, b"ping")).await.expect("sent");
                let mut heard = vec![Vec::new(); 4];
                while let Some(Ok(message)) = socket.next().await {
                    if let Some((channel, payload)) = dialect.parts(&message) {
                        heard[usize::from(channel)].extend_from_slice(&payload);
                    }
                }
                heard
            };
            let target = Target { netns: None, sandbox: "s".to_owned(), ports: vec![open, closed] };
            let (heard, ()) = tokio::join!(client, serve(far, protocol, target));
            assert_eq!(heard[0], [&open.to_le_bytes()[..], b"pong"].concat(), "{protocol}");
            assert_eq!((&heard[1][..], &heard[2][..]), (&open.to_le_bytes()[..], &closed.to_le_bytes()[..]), "{protocol}");
            let refused = String::from_utf8_lossy(heard[3].get(2..).unwrap_or_default()).into_owned();
            assert!(refused.starts_with(&format!("error forwarding port {closed} to pod s")), "{protocol}: {refused}");
        }
        pod.await.expect("both were asked");
    }
}
