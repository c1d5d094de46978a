//! Watches and logs over WebSocket, for clients such as browsers that cannot read an answer while it comes: what would be the body
//! becomes messages (upstream's `handlers/watch.go` and `apimachinery/pkg/util/httpstream/wsstream`).

use ::http::header::{self, HeaderMap, HeaderValue};
use ::http::{Request, Response, StatusCode};
use apimachinery::cbor;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::{Buf, Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tungstenite::protocol::Role;
use tungstenite::{Message, Utf8Bytes};

use crate::connect::Backends;
use crate::http::{Body, RequestContext, Verb};

/// Protocols of logs; without one, messages are binary.
const LOG_PROTOCOLS: [&str; 2] = ["binary.k8s.io", "base64.binary.k8s.io"];
/// The most that a client may send at once; it has nothing to say.
const MESSAGE_BYTES_MAX: usize = 4096;

/// How a body becomes messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    /// As it comes.
    Chunks,
    /// As it comes, as text.
    Base64,
    /// A text for each line: JSON events.
    Lines,
    /// A message for each frame that has its length before it: protobuf events.
    Frames,
    /// A message for each item: CBOR events.
    Items,
}

/// A client's wish to get the answer as messages.
pub(super) struct Upgrade {
    client: hyper::upgrade::OnUpgrade,
    accept: HeaderValue,
    protocol: Option<HeaderValue>,
    /// `None` for a watch, whose framing is that of its media type.
    framing: Option<Framing>,
}

impl Upgrade {
    /// `None` when the request does not ask for it, is not of a kind that can be had so, or offers no protocol that is known.
    pub(super) fn of(context: &RequestContext, request: &mut Request<Body>) -> Option<Upgrade> {
        let is_log = context.info.resource == "pods" && context.info.subresource == "log";
        if !is_log && context.info.verb != Verb::Watch || !is_websocket(request.headers()) {
            return None;
        }
        let key = request.headers().get(header::SEC_WEBSOCKET_KEY)?;
        let accept = HeaderValue::from_str(&tungstenite::handshake::derive_accept_key(key.as_bytes())).ok()?;
        let offered = request.headers().get(header::SEC_WEBSOCKET_PROTOCOL).and_then(|offered| offered.to_str().ok());
        let (protocol, framing) = match is_log {
            true => log_protocol(offered)?,
            false => (offered.filter(|offered| !offered.contains(',')).map(str::to_owned), None),
        };
        let protocol = protocol.and_then(|protocol| HeaderValue::from_str(&protocol).ok());
        Some(Upgrade { client: hyper::upgrade::on(request), accept, protocol, framing })
    }

    /// Turns a successful answer into messages; another is passed on as it is.
    pub(super) fn answer(self, backends: &Backends, response: Response<Body>) -> Response<Body> {
        if response.status() != StatusCode::OK {
            return response;
        }
        let framing = self.framing.unwrap_or_else(|| framing_of_watch(response.headers()));
        let (mut head, body) = response.into_parts();
        head.status = StatusCode::SWITCHING_PROTOCOLS;
        for name in [header::CONTENT_TYPE, header::CONTENT_LENGTH, header::TRANSFER_ENCODING] {
            head.headers.remove(name);
        }
        head.headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        head.headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        head.headers.insert(header::SEC_WEBSOCKET_ACCEPT, self.accept);
        if let Some(protocol) = self.protocol {
            head.headers.insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
        }
        let client = self.client;
        backends.carry(async move {
            if let Ok(upgraded) = client.await {
                send(upgraded, body, framing).await;
            }
        });
        Response::from_parts(head, Body::empty())
    }
}

fn is_websocket(headers: &HeaderMap) -> bool {
    let holds = |name, wanted: &str| {
        let values = headers.get_all(name).iter().filter_map(|value: &HeaderValue| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|value| value.trim().eq_ignore_ascii_case(wanted))
    };
    holds(header::CONNECTION, "upgrade") && holds(header::UPGRADE, "websocket")
}

/// The first protocol offered that is known; `None` when there is none.
fn log_protocol(offered: Option<&str>) -> Option<(Option<String>, Option<Framing>)> {
    let Some(offered) = offered else { return Some((None, Some(Framing::Chunks))) };
    let chosen = offered.split(',').map(str::trim).find(|offered| LOG_PROTOCOLS.contains(offered))?;
    let framing = if chosen.starts_with("base64") { Framing::Base64 } else { Framing::Chunks };
    Some((Some(chosen.to_owned()), Some(framing)))
}

fn framing_of_watch(headers: &HeaderMap) -> Framing {
    let media_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    match media_type {
        cbor::SEQUENCE_MEDIA_TYPE => Framing::Items,
        protobuf if protobuf.contains("protobuf") => Framing::Frames,
        _ => Framing::Lines,
    }
}

/// Sends a body until it ends or the client is gone.
async fn send(upgraded: hyper::upgrade::Upgraded, mut body: Body, framing: Framing) {
    let config = tungstenite::protocol::WebSocketConfig::default().max_message_size(Some(MESSAGE_BYTES_MAX));
    let (mut sink, mut source) =
        WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await.split();
    let sending = async {
        // Tells the client of a log that it is there, as upstream does.
        match framing {
            Framing::Chunks => sink.send(Message::Binary(Bytes::new())).await?,
            Framing::Base64 => sink.send(Message::Text(Utf8Bytes::default())).await?,
            Framing::Lines | Framing::Frames | Framing::Items => {}
        }
        let mut pending = BytesMut::new();
        while let Some(Ok(frame)) = body.frame().await {
            let Ok(data) = frame.into_data() else { continue };
            pending.extend_from_slice(&data);
            while let Some(message) = take(&mut pending, framing) {
                sink.send(message).await?;
            }
        }
        sink.close().await
    };
    // Nothing is expected but the close; reading also answers pings.
    let receiving = async { while let Some(Ok(_)) = source.next().await {} };
    tokio::select! {
        sent = sending => {
            if let Err(error) = sent {
                tracing::debug!(%error, "a WebSocket ended");
            }
        }
        () = receiving => {}
    }
}

/// Takes the next message out of what came; `None` until it is whole.
fn take(pending: &mut BytesMut, framing: Framing) -> Option<Message> {
    if pending.is_empty() {
        return None;
    }
    match framing {
        Framing::Chunks => Some(Message::Binary(pending.split().freeze())),
        Framing::Base64 => Some(Message::Text(BASE64.encode(pending.split()).into())),
        Framing::Lines => {
            let end = pending.iter().position(|byte| *byte == b'\n')?;
            let line = pending.split_to(end + 1).freeze();
            // Only JSON comes in lines, and JSON is UTF-8.
            Some(Message::Text(Utf8Bytes::try_from(line).ok()?))
        }
        Framing::Frames => {
            let length = u32::from_be_bytes(*pending.first_chunk()?) as usize;
            if pending.len() < 4 + length {
                return None;
            }
            pending.advance(4);
            Some(Message::Binary(pending.split_to(length).freeze()))
        }
        Framing::Items => {
            let (_, end) = cbor::decode_first(pending).ok()?;
            Some(Message::Binary(pending.split_to(end).freeze()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_become_messages() {
        let check = |framing, bytes: &[u8], expected: &[&[u8]], left: usize| {
            let mut pending = BytesMut::from(bytes);
            let mut found = Vec::new();
            while let Some(message) = take(&mut pending, framing) {
                found.push(message.into_data().to_vec());
            }
            assert_eq!(found, expected);
            assert_eq!(pending.len(), left);
        };
        check(Framing::Lines, b"{1}\n{2}\n{3", &[b"{1}\n", b"{2}\n"], 2);
        check(Framing::Frames, b"\0\0\0\x02ab\0\0\0\x01c\0\0\0\x09d", &[b"ab", b"c"], 5);
        check(Framing::Frames, b"\0\0", &[], 2);
        check(Framing::Items, b"\x61a\x82\x01\x02\x61", &[b"\x61a", b"\x82\x01\x02"], 1);
        check(Framing::Chunks, b"a\nb", &[b"a\nb"], 0);
        check(Framing::Base64, b"hi", &[b"aGk="], 0);
    }

    #[test]
    fn protocols_of_logs() {
        let check = |offered: Option<&str>, expected: Option<(Option<&str>, Framing)>| {
            let expected = expected.map(|(protocol, framing)| (protocol.map(str::to_owned), Some(framing)));
            assert_eq!(log_protocol(offered), expected, "{offered:?}");
        };
        check(None, Some((None, Framing::Chunks)));
        check(Some("binary.k8s.io"), Some((Some("binary.k8s.io"), Framing::Chunks)));
        check(Some("chat, base64.binary.k8s.io"), Some((Some("base64.binary.k8s.io"), Framing::Base64)));
        check(Some("chat"), None);
    }
}
