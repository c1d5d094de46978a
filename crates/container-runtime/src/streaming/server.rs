//! HTTP: tokens, upgrades.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use cri::v1;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::forward::{self, Target};
use super::spdy::{self, Wanted};
use super::{channels, session, websocket};
use crate::runtime::Inner;

/// How long a URL works.
const TOKEN_LIFETIME: Duration = Duration::from_secs(60);
/// URLs that nobody has used yet. More are refused.
const TOKENS_MAX: usize = 1000;

/// What a token stands for.
enum Grant {
    Exec(v1::ExecRequest),
    Attach(v1::AttachRequest),
    PortForward(Target),
}

/// How the client wants to speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transport {
    /// With its subprotocol.
    WebSocket(&'static str),
    /// With its stream protocol.
    Spdy(&'static str),
}

/// SPDY's stream protocol is negotiated in this header.
const STREAM_PROTOCOL: &str = "x-stream-protocol-version";

/// Gives out URLs and serves them.
pub(crate) struct StreamingServer {
    address: SocketAddr,
    grants: Arc<Mutex<HashMap<String, (Instant, Grant)>>>,
}

impl StreamingServer {
    /// Listens and serves until `cancel`; sessions end with it.
    pub(crate) async fn start(
        address: SocketAddr,
        runtime: Weak<Inner>,
        tasks: &TaskTracker,
        cancel: CancellationToken,
    ) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let server = Self { address: listener.local_addr()?, grants: Arc::default() };
        let service = Service { runtime, grants: server.grants.clone(), tasks: tasks.clone(), cancel };
        tasks.spawn(service.accept(listener));
        Ok(server)
    }

    pub(crate) fn exec_url(&self, request: v1::ExecRequest) -> Result<String, cri::Status> {
        self.grant("exec", Grant::Exec(request))
    }

    pub(crate) fn attach_url(&self, request: v1::AttachRequest) -> Result<String, cri::Status> {
        self.grant("attach", Grant::Attach(request))
    }

    /// `netns`: the sandbox's pinned network namespace, the host's if `None`. `ports` are for clients that speak in channels.
    pub(crate) fn port_forward_url(
        &self,
        sandbox: String,
        netns: Option<PathBuf>,
        ports: Vec<u16>,
    ) -> Result<String, cri::Status> {
        self.grant("portforward", Grant::PortForward(Target { netns, sandbox, ports }))
    }

    fn grant(&self, verb: &str, grant: Grant) -> Result<String, cri::Status> {
        let token = hex::encode(rand::random::<[u8; 32]>());
        let url = format!("http://{}/{verb}/{token}", self.address);
        let mut grants = self.grants.lock();
        grants.retain(|_, (given, _)| given.elapsed() < TOKEN_LIFETIME);
        if grants.len() >= TOKENS_MAX {
            return Err(cri::Status::resource_exhausted("too many streaming requests are waiting for their clients"));
        }
        grants.insert(token, (Instant::now(), grant));
        Ok(url)
    }
}

#[derive(Clone)]
struct Service {
    runtime: Weak<Inner>,
    grants: Arc<Mutex<HashMap<String, (Instant, Grant)>>>,
    tasks: TaskTracker,
    cancel: CancellationToken,
}

impl Service {
    async fn accept(self, listener: TcpListener) {
        loop {
            let accepted = tokio::select! {
                () = self.cancel.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    let _ = stream.set_nodelay(true);
                    self.tasks.spawn(self.clone().connection(stream));
                }
                Err(error) => {
                    tracing::warn!(%error, "accepting a streaming connection failed");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn connection(self, stream: tokio::net::TcpStream) {
        let cancel = self.cancel.clone();
        let service = hyper::service::service_fn(move |request| {
            let response = self.respond(request);
            async move { Ok::<_, Infallible>(response) }
        });
        let connection =
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades();
        tokio::select! {
            () = cancel.cancelled() => {}
            // A client that breaks off is its own business.
            _ = connection => {}
        }
    }

    fn respond(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let token = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
        let forwards = request.uri().path().starts_with("/portforward/");
        let transport = match negotiate(request.headers(), forwards) {
            Ok(transport) => transport,
            Err(message) => return plain(StatusCode::BAD_REQUEST, message),
        };
        let Some((given, grant)) = self.grants.lock().remove(&token) else {
            return plain(StatusCode::NOT_FOUND, "unknown or used token");
        };
        if given.elapsed() >= TOKEN_LIFETIME || forwards != matches!(grant, Grant::PortForward(_)) {
            return plain(StatusCode::NOT_FOUND, "the token has expired");
        }
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let key = request.headers().get(header::SEC_WEBSOCKET_KEY);
        let accept = key.map(|key| tungstenite::handshake::derive_accept_key(key.as_bytes()));
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        match transport {
            Transport::WebSocket(protocol) => {
                headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
                if protocol != websocket::NO_PROTOCOL {
                    headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
                }
                if let Some(accept) = accept.and_then(|key| HeaderValue::from_str(&key).ok()) {
                    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
                }
            }
            Transport::Spdy(protocol) => {
                headers.insert(header::UPGRADE, HeaderValue::from_static("SPDY/3.1"));
                headers.insert(STREAM_PROTOCOL, HeaderValue::from_static(protocol));
            }
        }
        let service = self.clone();
        self.tasks.spawn(async move {
            let cancel = service.cancel.clone();
            tokio::select! {
                () = cancel.cancelled() => {}
                () = service.session(request, grant, transport) => {}
            }
        });
        response
    }

    async fn session(self, request: Request<Incoming>, grant: Grant, transport: Transport) {
        let Ok(upgraded) = hyper::upgrade::on(request).await else { return };
        let Some(runtime) = self.runtime.upgrade() else { return };
        let stream = TokioIo::new(upgraded);
        match (grant, transport) {
            (Grant::Exec(request), Transport::WebSocket(protocol)) => {
                let first = websocket::Channel::first(request.stdout || request.tty, request.stderr);
                websocket::serve(stream, protocol, first, |streams| session::exec(&runtime, request, streams)).await;
            }
            (Grant::Attach(request), Transport::WebSocket(protocol)) => {
                let first = websocket::Channel::first(request.stdout || request.tty, request.stderr);
                websocket::serve(stream, protocol, first, |streams| session::attach(&runtime, request, streams)).await;
            }
            (Grant::Exec(request), Transport::Spdy(_)) => {
                let wanted = Wanted { stdin: request.stdin, stdout: request.stdout, stderr: request.stderr, tty: request.tty };
                spdy::serve(stream, wanted, |streams| session::exec(&runtime, request, streams)).await;
            }
            (Grant::Attach(request), Transport::Spdy(_)) => {
                let wanted = Wanted { stdin: request.stdin, stdout: request.stdout, stderr: request.stderr, tty: request.tty };
                spdy::serve(stream, wanted, |streams| session::attach(&runtime, request, streams)).await;
            }
            (Grant::PortForward(target), Transport::WebSocket(forward::TUNNEL_PROTOCOL)) => {
                forward::serve_tunnel(stream, target).await;
            }
            (Grant::PortForward(target), Transport::WebSocket(protocol)) => channels::serve(stream, protocol, target).await,
            (Grant::PortForward(target), Transport::Spdy(_)) => forward::serve(stream, target).await,
        }
    }
}

/// The transport to use, out of those that the client offers.
fn negotiate(headers: &http::HeaderMap, forwards: bool) -> Result<Transport, &'static str> {
    let holds = |name: &str, wanted: &str| {
        headers
            .get_all(name)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .any(|value| value.trim().eq_ignore_ascii_case(wanted))
    };
    if !holds("connection", "upgrade") {
        return Err("WebSocket or SPDY/3.1 is served here: the request asks for no upgrade");
    }
    if holds("upgrade", "websocket") {
        let [binary, base64] = forward::CHANNEL_PROTOCOLS;
        let protocols: &[&'static str] =
            if forwards { &[forward::TUNNEL_PROTOCOL, binary, base64] } else { &websocket::PROTOCOLS };
        if !headers.contains_key(header::SEC_WEBSOCKET_PROTOCOL) {
            return Ok(Transport::WebSocket(websocket::NO_PROTOCOL));
        }
        let common = protocols.iter().find(|protocol| holds("sec-websocket-protocol", protocol));
        return common.map(|protocol| Transport::WebSocket(protocol)).ok_or("no common WebSocket subprotocol");
    }
    if holds("upgrade", "SPDY/3.1") {
        let protocol = if forwards { forward::PROTOCOL } else { spdy::PROTOCOL };
        return if holds(STREAM_PROTOCOL, protocol) { Ok(Transport::Spdy(protocol)) } else { Err("no common stream protocol") };
    }
    Err("only WebSocket and SPDY/3.1 are served here")
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transports_are_negotiated() {
        let check = |list: &[(&'static str, &'static str)], forwards, expected: Option<Transport>| {
            let mut headers = http::HeaderMap::new();
            for (name, value) in list {
                headers.append(*name, HeaderValue::from_static(value));
            }
            assert_eq!(negotiate(&headers, forwards).ok(), expected, "{list:?}");
        };
        let websocket = [("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")];
        let with = |head: &[(&'static str, &'static str)], name, value| [head, &[(name, value)][..]].concat();
        let both = with(&websocket, "sec-websocket-protocol", "v4.channel.k8s.io, v5.channel.k8s.io");
        check(&both, false, Some(Transport::WebSocket("v5.channel.k8s.io")));
        check(&both, true, Some(Transport::WebSocket("v4.channel.k8s.io")));
        check(&websocket, false, Some(Transport::WebSocket("")));
        check(&websocket, true, Some(Transport::WebSocket("")));
        let old = with(&websocket, "sec-websocket-protocol", "channel.k8s.io");
        check(&old, false, Some(Transport::WebSocket("channel.k8s.io")));
        check(&old, true, None);
        let unknown = with(&websocket, "sec-websocket-protocol", "chat");
        check(&unknown, false, None);
        let tunnel = with(&websocket, "sec-websocket-protocol", "SPDY/3.1+portforward.k8s.io");
        check(&tunnel, true, Some(Transport::WebSocket(forward::TUNNEL_PROTOCOL)));
        let spdy = [
            ("connection", "Upgrade"),
            ("upgrade", "SPDY/3.1"),
            (STREAM_PROTOCOL, "v5.channel.k8s.io"),
            (STREAM_PROTOCOL, "v4.channel.k8s.io"),
        ];
        check(&spdy, false, Some(Transport::Spdy("v4.channel.k8s.io")));
        check(&spdy, true, None);
        check(&[("upgrade", "websocket")], false, None);
    }
}
