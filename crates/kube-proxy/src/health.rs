//! Health over HTTP: the proxy's own, and the `healthCheckNodePort` of Services with `externalTrafficPolicy: Local`, by which
//! load balancers find the nodes that have endpoints.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use client::NamespacedName;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A change that waits longer than this makes the proxy unhealthy (upstream: twice the sync period of 30 s).
const PENDING_MAX: Duration = Duration::from_secs(60);
/// A health check that does not send its request in this time is hung up on.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
struct Times {
    updated: Option<Timestamp>,
    /// When the oldest change that is not yet in the kernel came.
    pending_since: Option<Timestamp>,
}

/// How up to date the kernel's rules are. Clones share the state.
#[derive(Debug, Clone, Default)]
pub struct HealthState {
    times: Arc<Mutex<Times>>,
}

impl HealthState {
    /// Notes that a change waits.
    pub(crate) fn queued(&self) {
        self.times.lock().pending_since.get_or_insert_with(Timestamp::now);
    }

    /// Notes that the rules hold every change that was queued so far.
    pub(crate) fn updated(&self) {
        let mut times = self.times.lock();
        times.pending_since = None;
        times.updated = Some(Timestamp::now());
    }

    /// Whether rules were written, and no change waits too long.
    pub fn is_healthy(&self) -> bool {
        let times = self.times.lock();
        let waiting = times.pending_since.map(|since| Timestamp::now().duration_since(since).unsigned_abs());
        times.updated.is_some() && waiting.is_none_or(|waiting| waiting < PENDING_MAX)
    }

    fn answer(&self) -> Response<Full<Bytes>> {
        let healthy = self.is_healthy();
        let now = Timestamp::now();
        let updated = if healthy { Some(now) } else { self.times.lock().updated };
        let body = serde_json::json!({
            "lastUpdated": updated.map(|time| time.to_string()),
            "currentTime": now.to_string(),
            "nodeEligible": true,
        });
        answer(healthy, &body, &[])
    }
}

fn answer(healthy: bool, body: &serde_json::Value, headers: &[(&str, String)]) -> Response<Full<Bytes>> {
    let status = if healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut response =
        Response::builder().status(status).header("Content-Type", "application/json").header("X-Content-Type-Options", "nosniff");
    for (name, value) in headers {
        response = response.header(*name, value);
    }
    response.body(Full::new(Bytes::from(body.to_string()))).expect("status and headers are valid constants and numbers")
}

/// Serves `/healthz` and `/livez` of the proxy on a listener until the token ends.
pub async fn serve_healthz(listener: TcpListener, state: HealthState, token: CancellationToken) {
    let respond = move |request: &Request<Incoming>| match request.uri().path() {
        "/healthz" | "/livez" => state.answer(),
        _ => {
            let mut response = Response::new(Full::default());
            *response.status_mut() = StatusCode::NOT_FOUND;
            response
        }
    };
    serve(listener, Arc::new(respond), token).await;
}

type Respond = dyn Fn(&Request<Incoming>) -> Response<Full<Bytes>> + Send + Sync;

async fn serve(listener: TcpListener, respond: Arc<Respond>, token: CancellationToken) {
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = token.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else {
            // Out of file descriptors, most likely: do not spin.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let respond = Arc::clone(&respond);
        let service = service_fn(move |request| {
            let response = respond(&request);
            async move { Ok::<_, Infallible>(response) }
        });
        let connection =
            hyper::server::conn::http1::Builder::new().keep_alive(false).serve_connection(TokioIo::new(stream), service);
        let token = token.clone();
        connections.spawn(async move {
            tokio::select! {
                () = token.cancelled() => {}
                // A broken health check connection is the checker's business.
                _ = tokio::time::timeout(CONNECTION_TIMEOUT, connection) => {}
            }
        });
    }
    connections.close();
    connections.wait().await;
}

struct PortServer {
    port: u16,
    local_endpoints: Arc<AtomicUsize>,
    token: CancellationToken,
}

/// The health check ports of Services, one small HTTP server each.
pub(crate) struct HealthPorts {
    servers: HashMap<NamespacedName, PortServer>,
    proxy: HealthState,
    tasks: TaskTracker,
    token: CancellationToken,
}

impl HealthPorts {
    pub(crate) fn new(proxy: HealthState, token: CancellationToken) -> Self {
        Self { servers: HashMap::new(), proxy, tasks: TaskTracker::new(), token }
    }

    /// Opens, closes or updates the port of a Service. A port that cannot be bound is logged; it is tried again when the
    /// Service changes.
    pub(crate) async fn set(&mut self, service: &NamespacedName, wanted: Option<(u16, usize)>) {
        let Some((port, local_endpoints)) = wanted else {
            self.close(service);
            return;
        };
        if let Some(server) = self.servers.get(service).filter(|server| server.port == port) {
            server.local_endpoints.store(local_endpoints, Ordering::Relaxed);
            return;
        }
        self.close(service);
        let listener = match bind_all(port).await {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!(%service, port, %error, "cannot listen on a health check node port");
                return;
            }
        };
        let local_endpoints = Arc::new(AtomicUsize::new(local_endpoints));
        let token = self.token.child_token();
        let respond = respond(service.clone(), Arc::clone(&local_endpoints), self.proxy.clone());
        self.tasks.spawn(serve(listener, respond, token.clone()));
        self.servers.insert(service.clone(), PortServer { port, local_endpoints, token });
    }

    fn close(&mut self, service: &NamespacedName) {
        if let Some(server) = self.servers.remove(service) {
            server.token.cancel();
        }
    }

    /// Ends all servers.
    pub(crate) async fn stopped(self) {
        self.servers.values().for_each(|server| server.token.cancel());
        self.tasks.close();
        self.tasks.wait().await;
    }
}

async fn bind_all(port: u16) -> std::io::Result<TcpListener> {
    match TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))).await {
        Ok(listener) => Ok(listener),
        // A kernel without IPv6.
        Err(_) => TcpListener::bind(("0.0.0.0", port)).await,
    }
}

fn respond(service: NamespacedName, local_endpoints: Arc<AtomicUsize>, proxy: HealthState) -> Arc<Respond> {
    Arc::new(move |_| {
        let local = local_endpoints.load(Ordering::Relaxed);
        let healthy = proxy.is_healthy();
        let body = serde_json::json!({
            "service": {"namespace": service.namespace, "name": service.name},
            "localEndpoints": local,
            "serviceProxyHealthy": healthy,
        });
        answer(local > 0 && healthy, &body, &[("X-Load-Balancing-Endpoint-Weight", local.to_string())])
    })
}
