//! The kubelet's HTTPS server: logs, exec, attach, port-forward, health, stats and metrics, with upstream's paths.
//!
//! HTTP/1.1 only, because exec and its like upgrade the connection. Every request is authenticated (client certificate, else bearer token)
//! and authorized (SubjectAccessReview on `nodes/...`), also `/healthz`.

mod auth;
mod cadvisor;
mod logs;
mod metrics;
mod node_logs;
mod pods;
mod stats;
mod stream;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::{Method, Request, Response, StatusCode, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use crate::config::ServerTls;
use crate::context::Core;
use crate::error::Error;

/// How long a client may take for its TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// A body that may be a stream. An error breaks the connection: the client sees that the answer is incomplete.
type Body = BoxBody<Bytes, std::io::Error>;

fn full(content: impl Into<Bytes>) -> Body {
    Full::new(content.into()).map_err(|never: Infallible| match never {}).boxed()
}

fn text(status: StatusCode, content: impl Into<String>) -> Response<Body> {
    let mut response = Response::new(full(content.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

fn json(value: &serde_json::Value) -> Response<Body> {
    let mut response = Response::new(full(value.to_string()));
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}

/// What a listening server has.
pub(crate) struct Listener {
    socket: TcpListener,
    tls: TlsAcceptor,
    renewed: watch::Receiver<ServerTls>,
}

impl Listener {
    /// Shows the newest certificate. One that cannot be used leaves the one before in place.
    fn refresh(&mut self) {
        if !self.renewed.has_changed().unwrap_or(false) {
            return;
        }
        match auth::server_config(&self.renewed.borrow_and_update()) {
            Ok(config) => self.tls = TlsAcceptor::from(config),
            Err(error) => tracing::error!(error = &error as &dyn std::error::Error, "the kubelet's new certificate is unusable"),
        }
    }
}

/// Opens the port: the configured one, or any free one when that is taken. `None`: no certificate, no server.
pub(crate) async fn listen(core: &Core) -> Result<Option<Listener>, Error> {
    let Some(mut renewed) = core.config.tls.clone() else { return Ok(None) };
    let tls = TlsAcceptor::from(auth::server_config(&renewed.borrow_and_update())?);
    let address = SocketAddr::new(core.config.bind_address, core.config.port);
    let socket = match TcpListener::bind(address).await {
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => TcpListener::bind((core.config.bind_address, 0)).await,
        bound => bound,
    };
    let socket = socket.map_err(|source| Error::Listen { address, source })?;
    let port = socket.local_addr().map_err(|source| Error::Listen { address, source })?.port();
    core.port.store(port, Ordering::Relaxed);
    Ok(Some(Listener { socket, tls, renewed }))
}

/// Serves until the kubelet stops.
pub(crate) async fn serve(core: Arc<Core>, mut listener: Listener) {
    let reviews = Arc::new(auth::Reviews::default());
    loop {
        let accepted = tokio::select! {
            () = core.token.cancelled() => return,
            accepted = listener.socket.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "the kubelet could not accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        listener.refresh();
        let (core, reviews, tls) = (Arc::clone(&core), Arc::clone(&reviews), listener.tls.clone());
        let tasks = core.tasks.clone();
        tasks.spawn(async move {
            let token = core.token.clone();
            tokio::select! {
                () = token.cancelled() => {}
                () = connection(core, reviews, tls, stream) => {}
            }
        });
    }
}

async fn connection(core: Arc<Core>, reviews: Arc<auth::Reviews>, tls: TlsAcceptor, stream: tokio::net::TcpStream) {
    let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)).await else { return };
    let user = auth::user_of_certificate(stream.get_ref().1.peer_certificates());
    let service = hyper::service::service_fn(move |request| {
        let (core, reviews, user) = (Arc::clone(&core), Arc::clone(&reviews), user.clone());
        async move { Ok::<_, Infallible>(handle(core, &reviews, user, request).await) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection to the kubelet ended");
    }
}

async fn handle(
    core: Arc<Core>,
    reviews: &auth::Reviews,
    user: Option<auth::User>,
    request: Request<Incoming>,
) -> Response<Body> {
    if let Err(response) = reviews.admit(&core, user, &request).await {
        return response;
    }
    route(core, request).await
}

async fn route(core: Arc<Core>, request: Request<Incoming>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).collect();
    let get = matches!(*request.method(), Method::GET | Method::HEAD);
    match parts.as_slice() {
        ["healthz"] | ["healthz", "ping" | "log" | "syncloop"] if get => text(StatusCode::OK, "ok"),
        ["pods"] if get => pods::all(&core),
        ["runningpods"] if get => pods::running(&core).await,
        ["logs"] if get && !path.ends_with('/') => text(StatusCode::NOT_FOUND, "404 page not found\n"),
        ["logs", ..] if get => node_logs::serve(node_logs::DIRECTORY, path.strip_prefix("/logs/").unwrap_or_default()).await,
        ["configz"] if get => pods::configuration(&core),
        ["stats", "summary"] => stats::summary(&core).await,
        ["metrics"] if get => metrics::kubelet(&core),
        ["metrics", "resource"] if get => metrics::resource(&core).await,
        ["metrics", "cadvisor"] if get => cadvisor::answer(&core).await,
        ["metrics", "probes"] if get => metrics::probes(&core),
        ["containerLogs", namespace, pod, container] if get => {
            logs::serve(core, namespace, pod, container, request.uri().query()).await
        }
        ["run", namespace, pod, container] | ["run", namespace, pod, _, container] => {
            stream::run(&core, namespace, pod, container, &request).await
        }
        ["exec", namespace, pod, container] | ["exec", namespace, pod, _, container] => {
            stream::exec(core, namespace, pod, container, request).await
        }
        ["attach", namespace, pod, container] | ["attach", namespace, pod, _, container] => {
            stream::attach(core, namespace, pod, container, request).await
        }
        ["portForward", namespace, pod] | ["portForward", namespace, pod, _] => {
            stream::port_forward(core, namespace, pod, request).await
        }
        _ => text(StatusCode::NOT_FOUND, "404 page not found\n"),
    }
}

/// A query's parameters, decoded.
fn parameters(query: Option<&str>) -> Vec<(String, String)> {
    query
        .unwrap_or("")
        .split('&')
        .filter(|p| !p.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(key, value)| (decode(key), decode(value)))
        .collect()
}

fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut result = Vec::with_capacity(bytes.len());
    let mut index = 0;
    while index < bytes.len() {
        let hex = bytes
            .get(index + 1..index + 3)
            .filter(|_| bytes[index] == b'%')
            .and_then(|d| u8::from_str_radix(std::str::from_utf8(d).ok()?, 16).ok());
        match (bytes[index], hex) {
            (_, Some(byte)) => {
                result.push(byte);
                index += 3;
            }
            (b'+', None) => {
                result.push(b' ');
                index += 1;
            }
            (byte, None) => {
                result.push(byte);
                index += 1;
            }
        }
    }
    String::from_utf8_lossy(&result).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_decoded() {
        let expected = [("command", "sh"), ("command", "-c"), ("command", "echo a b&c"), ("tty", "")];
        let found = parameters(Some("command=sh&command=-c&command=echo+a%20b%26c&tty"));
        assert_eq!(found.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect::<Vec<_>>(), expected);
    }
}
