//! Remote commands over WebSocket: binary messages whose first byte is the channel.
//! KEP-4006, `k8s.io/apimachinery/pkg/util/remotecommand`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
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

/// Subprotocols, the preferred one first. The fifth version adds the closing of single channels; those without a version are from before
/// the fourth, which made the outcome a Status.
pub(super) const PROTOCOLS: [&str; 5] =
    ["v5.channel.k8s.io", "v4.channel.k8s.io", "v4.base64.channel.k8s.io", "channel.k8s.io", "base64.channel.k8s.io"];
/// What is spoken to a client that names none.
pub(super) const NO_PROTOCOL: &str = "";

/// How a subprotocol writes messages.
#[derive(Clone, Copy)]
pub(super) struct Dialect {
    /// Text messages: the channel as a digit, then the payload in base64.
    base64: bool,
    /// The outcome is a Status; else it is the text of an error, and nothing for success.
    status: bool,
}

impl Dialect {
    pub(super) fn of(protocol: &str) -> Self {
        Self { base64: protocol.contains("base64"), status: protocol.starts_with('v') }
    }

    /// `None` for what this dialect does not say.
    fn encode(self, message: &Output) -> Option<Message> {
        let (channel, payload) = match message {
            Output::Stdout(bytes) => (STDOUT, bytes.clone()),
            Output::Stderr(bytes) => (STDERR, bytes.clone()),
            Output::Outcome(bytes) if self.status => (OUTCOME, bytes.clone()),
            Output::Outcome(bytes) => (OUTCOME, error_text(bytes)?),
        };
        Some(self.message(channel, &payload))
    }

    /// A message of a channel.
    pub(super) fn message(self, channel: u8, payload: &[u8]) -> Message {
        if self.base64 {
            // Of the tenth channel and those behind it the digit is what comes after `9`.
            let digit = char::from(b'0'.wrapping_add(channel));
            return Message::Text(format!("{digit}{}", BASE64.encode(payload)).into());
        }
        let mut encoded = BytesMut::with_capacity(payload.len() + 1);
        encoded.put_u8(channel);
        encoded.extend_from_slice(payload);
        Message::Binary(encoded.freeze())
    }

    /// What a client's message means; nothing for channels that a client does not write to.
    fn decode(self, message: &Message) -> Option<Input> {
        let (channel, payload) = self.parts(message)?;
        decode(channel, payload)
    }

    /// The channel of a client's message, and what it carries. `None` for what is none of this dialect.
    pub(super) fn parts(self, message: &Message) -> Option<(u8, Bytes)> {
        match message {
            Message::Binary(bytes) if !self.base64 => Some((*bytes.first()?, bytes.slice(1..))),
            Message::Text(text) if self.base64 => {
                let (digit, payload) = text.as_bytes().split_first()?;
                Some((digit.checked_sub(b'0')?, BASE64.decode(payload).ok()?.into()))
            }
            _ => None,
        }
    }
}

/// The message of a Status that says failure.
fn error_text(status: &[u8]) -> Option<Bytes> {
    let status: serde_json::Value = serde_json::from_slice(status).ok()?;
    if status["status"] == "Success" {
        return None;
    }
    Some(Bytes::from(status["message"].as_str().unwrap_or_default().to_owned()))
}

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const OUTCOME: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;
/// Messages held in either direction.
pub(super) const PENDING_MAX: usize = 16;
/// Longest message taken from a client; kubectl sends 32 KiB.
pub(super) const MESSAGE_MAX: usize = 4 * 1024 * 1024;

/// A channel that the server writes to.
#[derive(Clone, Copy)]
pub(super) struct Channel(u8);

impl Channel {
    /// The lowest one of a session with these streams.
    pub(super) fn first(stdout: bool, stderr: bool) -> Self {
        match (stdout, stderr) {
            (true, _) => Self(STDOUT),
            (false, true) => Self(STDERR),
            (false, false) => Self(OUTCOME),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct TerminalSize {
    width: u16,
    height: u16,
}

/// Serves a session on an upgraded connection until both are done. `first` is the channel whose empty message tells the client that the
/// session is there.
pub(super) async fn serve<S, F, Fut>(stream: S, protocol: &str, first: Channel, session: F)
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
    let dialect = Dialect::of(protocol);
    let sending = async {
        let mut going = sink.send(dialect.message(first.0, &[])).await.is_ok();
        while let Some(message) = output_receiver.recv().await.filter(|_| going) {
            if let Some(message) = dialect.encode(&message) {
                going = sink.send(message).await.is_ok();
            }
        }
        output_receiver.close();
        // Clients take a close without this code for an error.
        let _ = sink.send(Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: Utf8Bytes::from_static("") }))).await;
        let _ = sink.close().await;
    };
    let receiving = async {
        while let Some(Ok(message)) = source.next().await {
            if message.is_close() {
                break;
            }
            if let Some(input) = dialect.decode(&message)
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

/// What a channel's payload means.
fn decode(channel: u8, payload: Bytes) -> Option<Input> {
    match channel {
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
            let message = Message::Binary(Bytes::copy_from_slice(bytes));
            let found = Dialect::of("v5.channel.k8s.io").decode(&message).map_or_else(String::new, |input| format!("{input:?}"));
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

    #[test]
    fn dialects() {
        let check = |protocol: &str, output: Output, expected: Option<Message>| {
            assert_eq!(Dialect::of(protocol).encode(&output), expected, "{protocol}");
        };
        let text = |text: &'static str| Message::Text(Utf8Bytes::from_static(text));
        let binary = |bytes: &'static [u8]| Message::Binary(Bytes::from_static(bytes));
        let success = || Output::Outcome(Bytes::from_static(br#"{"status":"Success"}"#));
        let failure = || Output::Outcome(Bytes::from_static(br#"{"status":"Failure","message":"no"}"#));
        for protocol in [NO_PROTOCOL, "channel.k8s.io", "v4.channel.k8s.io", "v5.channel.k8s.io"] {
            check(protocol, Output::Stdout(Bytes::from_static(b"hi")), Some(binary(b"\x01hi")));
        }
        check("v4.base64.channel.k8s.io", Output::Stderr(Bytes::from_static(b"hi")), Some(text("2aGk=")));
        check("channel.k8s.io", success(), None);
        check("channel.k8s.io", failure(), Some(binary(b"\x03no")));
        check("base64.channel.k8s.io", failure(), Some(text("3bm8=")));
        check("v4.channel.k8s.io", success(), Some(binary(b"\x03{\"status\":\"Success\"}")));
        let stdin = Dialect::of("base64.channel.k8s.io").decode(&text("0bHM="));
        assert_eq!(format!("{stdin:?}"), r#"Some(Stdin(b"ls"))"#);
    }
}
