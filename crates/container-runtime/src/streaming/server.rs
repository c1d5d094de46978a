//! HTTP: tokens, upgrades.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
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

use super::{session, websocket};
use crate::runtime::Inner;

/// How long a URL works.
const TOKEN_LIFETIME: Duration = Duration::from_secs(60);
/// URLs that nobody has used yet. More are refused.
const TOKENS_MAX: usize = 1000;

/// What a token stands for.
enum Grant {
    Exec(v1::ExecRequest),
    Attach(v1::AttachRequest),
}

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
        let protocol = match negotiate(request.headers()) {
            Ok(protocol) => protocol,
            Err(message) => return plain(StatusCode::BAD_REQUEST, message),
        };
        let Some((given, grant)) = self.grants.lock().remove(&token) else {
            return plain(StatusCode::NOT_FOUND, "unknown or used token");
        };
        if given.elapsed() >= TOKEN_LIFETIME {
            return plain(StatusCode::NOT_FOUND, "the token has expired");
        }
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let key =
            request.headers().get(header::SEC_WEBSOCKET_KEY).map(|key| tungstenite::handshake::derive_accept_key(key.as_bytes()));
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
        if let Some(accept) = key.and_then(|key| HeaderValue::from_str(&key).ok()) {
            headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
        }
        let service = self.clone();
        self.tasks.spawn(async move {
            let cancel = service.cancel.clone();
            tokio::select! {
                () = cancel.cancelled() => {}
                () = service.session(request, grant) => {}
            }
        });
        response
    }

    async fn session(self, request: Request<Incoming>, grant: Grant) {
        let Ok(upgraded) = hyper::upgrade::on(request).await else { return };
        let Some(runtime) = self.runtime.upgrade() else { return };
        let stream = TokioIo::new(upgraded);
        match grant {
            Grant::Exec(request) => {
                let has_stdout = request.stdout || request.tty;
                websocket::serve(stream, has_stdout, |streams| session::exec(&runtime, request, streams)).await;
            }
            Grant::Attach(request) => {
                let has_stdout = request.stdout || request.tty;
                websocket::serve(stream, has_stdout, |streams| session::attach(&runtime, request, streams)).await;
            }
        }
    }
}

/// The subprotocol to speak, out of those that the client offers.
fn negotiate(headers: &http::HeaderMap) -> Result<&'static str, &'static str> {
    let holds = |name: header::HeaderName, wanted: &str| {
        headers
            .get_all(name)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .any(|value| value.trim().eq_ignore_ascii_case(wanted))
    };
    if !holds(header::UPGRADE, "websocket") || !holds(header::CONNECTION, "upgrade") {
        return Err("only WebSocket is served here");
    }
    websocket::PROTOCOLS
        .into_iter()
        .find(|protocol| holds(header::SEC_WEBSOCKET_PROTOCOL, protocol))
        .ok_or("no common subprotocol: v5.channel.k8s.io and v4.channel.k8s.io are served")
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response
}
