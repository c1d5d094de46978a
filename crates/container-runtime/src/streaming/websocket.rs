//! Remote commands over WebSocket: binary messages whose first byte is the channel.
//! KEP-4006, `k8s.io/apimachinery/pkg/util/remotecommand`.

use bytes::{BufMut, Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tungstenite::{Message, Utf8Bytes};

use super::session::{Input, Output, Streams};

/// Subprotocols, the preferred one first. The fifth version adds the closing of single channels.
pub(super) const PROTOCOLS: [&str; 2] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const OUTCOME: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;
/// Messages held in either direction.
const PENDING_MAX: usize = 16;
/// Longest message taken from a client; kubectl sends 32 KiB.
const MESSAGE_MAX: usize = 4 * 1024 * 1024;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct TerminalSize {
    width: u16,
    height: u16,
}

/// Serves a session on an upgraded connection until both are done. `first_channel_is_stdout`: the session has a standard output.
pub(super) async fn serve<S, F, Fut>(stream: S, has_stdout: bool, session: F)
where
    S: AsyncRead + AsyncWrite + Unpin,
    F: FnOnce(Streams) -> Fut,
    Fut: Future<Output = ()>,
{
    let config = WebSocketConfig::default().max_message_size(Some(MESSAGE_MAX));
    let socket = WebSocketStream::from_raw_socket(stream, Role::Server, Some(config)).await;
    let (mut sink, mut source) = socket.split();
    let (input_sender, input) = mpsc::channel(PENDING_MAX);
    let (output, mut output_receiver) = mpsc::channel(PENDING_MAX);
    // Tells the client that the session is there.
    let greeting = if has_stdout { STDOUT } else { OUTCOME };
    let sending = async {
        let mut going = sink.send(Message::Binary(Bytes::copy_from_slice(&[greeting]))).await.is_ok();
        while let Some(message) = output_receiver.recv().await.filter(|_| going) {
            going = sink.send(Message::Binary(encode(&message))).await.is_ok();
        }
        output_receiver.close();
        // Clients take a close without this code for an error.
        let _ = sink.send(Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: Utf8Bytes::from_static("") }))).await;
        let _ = sink.close().await;
    };
    let receiving = async {
        while let Some(Ok(message)) = source.next().await {
            let inputs = match message {
                Message::Binary(bytes) => decode(&bytes),
                Message::Close(_) => break,
                _ => None,
            };
            if let Some(input) = inputs
                && input_sender.send(input).await.is_err()
            {
                // The session needs no input any more, but the client's close is still to be seen.
                continue;
            }
        }
        drop(input_sender);
    };
    let working = session(Streams { input, output });
    tokio::pin!(sending, receiving, working);
    let (mut received, mut worked) = (false, false);
    loop {
        tokio::select! {
            () = &mut sending => return,
            () = &mut receiving, if !received => {
                received = true;
                // The client is gone: dropping the session ends what it holds.
                if !worked {
                    return;
                }
            }
            () = &mut working, if !worked => worked = true,
        }
    }
}

fn encode(message: &Output) -> Bytes {
    let (channel, payload) = match message {
        Output::Stdout(bytes) => (STDOUT, bytes),
        Output::Stderr(bytes) => (STDERR, bytes),
        Output::Outcome(bytes) => (OUTCOME, bytes),
    };
    let mut encoded = BytesMut::with_capacity(payload.len() + 1);
    encoded.put_u8(channel);
    encoded.extend_from_slice(payload);
    encoded.freeze()
}

/// What a client's message means; nothing for channels that a client does not write to.
fn decode(message: &Bytes) -> Option<Input> {
    let payload = message.slice(1.min(message.len())..);
    match *message.first()? {
        STDIN if !payload.is_empty() => Some(Input::Stdin(payload)),
        RESIZE => {
            let size: TerminalSize = serde_json::from_slice(&payload).ok()?;
            Some(Input::Resize { width: size.width, height: size.height })
        }
        CLOSE if payload.first() == Some(&STDIN) => Some(Input::StdinEnd),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn client_messages() {
        let check = |bytes: &[u8], expected: &str| {
            let found = decode(&Bytes::copy_from_slice(bytes)).map_or_else(String::new, |input| format!("{input:?}"));
            assert_eq!(found, expected);
        };
        check(b"\0ls\n", r#"Stdin(b"ls\n")"#);
        check(b"\xff\0", "StdinEnd");
        check(b"\x04{\"Width\":80,\"Height\":24}", "Resize { width: 80, height: 24 }");
        check(b"\x04{", "");
        check(b"\x01x", "");
        check(b"", "");
        check(b"\0", "");
    }
}
