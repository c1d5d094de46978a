//! The listener: HTTPS with HTTP/2 and HTTP/1.1; every request is authenticated, authorized, then answered.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls_pki_types::CertificateDer;
use serving::{CertificateError, Handshakes, ServingCertificate, TlsOptions};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::authentication::Authentication;
use crate::authorization::{Authorization, Verdict};
use crate::pages::{Answer, Pages, failure, plain, verb};

/// Upstream's numbers: what a client may take for its handshake and headers.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
const HEADER_TIMEOUT: Duration = Duration::from_secs(32);
/// How long open requests may take once the server is told to end (upstream's scheduler).
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Why the port cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Somebody else listens there, or the address is not this machine's.
    #[error("cannot listen on {address}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The certificate cannot be used.
    #[error("TLS cannot be set up")]
    Tls(#[from] CertificateError),
}

/// An open port; connections wait in its backlog until [`Listener::serve`].
pub struct Listener {
    tcp: TcpListener,
    address: SocketAddr,
    handshakes: Handshakes,
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listener").field("address", &self.address).finish_non_exhaustive()
    }
}

struct Server {
    authentication: Authentication,
    authorization: Authorization,
    pages: Pages,
}

impl Listener {
    /// Opens a port; 0 takes any free one.
    pub async fn bind(address: SocketAddr, certificate: Arc<ServingCertificate>, tls: &TlsOptions) -> Result<Self, ListenError> {
        let failed = |source| ListenError::Bind { address, source };
        let tcp = TcpListener::bind(address).await.map_err(failed)?;
        let bound = tcp.local_addr().map_err(failed)?;
        Ok(Self { tcp, address: bound, handshakes: Handshakes::new(tls, certificate, Vec::new())? })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until the token is cancelled; open requests then have five seconds.
    pub async fn serve(
        self,
        pages: Pages,
        mut authentication: Authentication,
        authorization: Authorization,
        token: CancellationToken,
    ) {
        let mut tasks = JoinSet::new();
        if let Some(follower) = authentication.take_follower() {
            tasks.spawn(follower);
        }
        let server = Arc::new(Server { authentication, authorization, pages });
        loop {
            let accepted = tokio::select! {
                () = token.cancelled() => break,
                // Tasks that have ended are let go.
                Some(_) = tasks.join_next() => continue,
                accepted = self.tcp.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    let local = stream.local_addr().ok().map(|address| address.ip());
                    tasks.spawn(connection(server.clone(), self.handshakes.acceptor(local), stream, token.clone()));
                }
                Err(error) => {
                    // Mostly "too many open files": give others time to close theirs.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
        drop(self.tcp);
        let drained = async { while tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(DRAIN_TIMEOUT, drained).await.is_err() {
            tracing::debug!("connections are cut off at shutdown");
            tasks.shutdown().await;
        }
    }
}

async fn connection(server: Arc<Server>, acceptor: TlsAcceptor, stream: TcpStream, token: CancellationToken) {
    let tls = match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
        Ok(Ok(tls)) => tls,
        Ok(Err(error)) => return tracing::debug!(%error, "TLS handshake failed"),
        Err(_) => return tracing::debug!("TLS handshake timed out"),
    };
    let chain: Option<Arc<[CertificateDer<'static>]>> =
        tls.get_ref().1.peer_certificates().map(|chain| chain.iter().map(|der| der.clone().into_owned()).collect());
    let service = service_fn(move |request: Request<Incoming>| {
        let (server, chain) = (server.clone(), chain.clone());
        async move { Ok::<_, Infallible>(server.handle(&request, chain.as_deref()).await) }
    });
    // Not by what the client says first: one that did not choose HTTP/2 in the handshake may find it switched off.
    let chose_http2 = tls.get_ref().1.alpn_protocol() == Some(b"h2");
    let http = auto::Builder::new(TokioExecutor::new());
    let mut http = if chose_http2 { http.http2_only() } else { http.http1_only() };
    http.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    http.http2().timer(TokioTimer::new());
    let served = http.serve_connection(TokioIo::new(tls), service);
    tokio::pin!(served);
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        () = token.cancelled() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended with an error");
    }
}

impl Server {
    async fn handle<B>(&self, request: &Request<B>, chain: Option<&[CertificateDer<'static>]>) -> Answer {
        let user = match self.authentication.user(request.headers(), chain).await {
            Ok(user) => user,
            Err(error) => {
                tracing::info!(error = &error as &dyn std::error::Error, "a caller is not known");
                return failure(StatusCode::UNAUTHORIZED, "Unauthorized", "Unauthorized", false);
            }
        };
        let (verb, path) = (verb(request.method()), request.uri().path());
        match self.authorization.decide(&user, &verb, path).await {
            Verdict::Allowed => self.pages.answer(request.uri(), request.headers()),
            Verdict::Forbidden(reason) => {
                let message = format!("forbidden: User {:?} cannot {verb} path {path:?}", user.name);
                let message = message.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
                let message = if reason.is_empty() { message } else { format!("{message}: {reason}") };
                failure(StatusCode::FORBIDDEN, "Forbidden", &message, true)
            }
            Verdict::Failed(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "access could not be reviewed");
                let text = format!("Internal Server Error: {path:?}: {error}\n");
                plain(StatusCode::INTERNAL_SERVER_ERROR, "text/plain; charset=utf-8", text)
            }
        }
    }
}
