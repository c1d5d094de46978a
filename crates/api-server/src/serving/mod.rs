//! The listener: HTTPS with HTTP/2 and HTTP/1.1, upgrades, client certificates; and its orderly end.
//!
//! Shutdown: `/readyz` fails and watches end (both by [`ApiServer::draining`]), no new connection is accepted, open ones finish what
//! they do, and what is left at the deadline is cut off.

mod connection;
mod in_process;
mod rotation;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ::serving::{CertificateError, Handshakes, ServingCertificate, TlsOptions};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use in_process::InProcessService;
pub use rotation::CertificateRotation;

use crate::auth::FrontProxy;
use crate::server::ApiServer;

/// Why the server cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Somebody else listens there.
    #[error(
        "cannot listen on {address}: the port is already in use; stop the other server, or choose another port with --secure-port"
    )]
    PortInUse {
        /// The address.
        address: SocketAddr,
    },
    /// The address is not this machine's, or not allowed.
    #[error("cannot listen on {address}; check --bind-address and --secure-port")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The TLS configuration cannot be used.
    #[error("TLS cannot be set up")]
    Tls(#[from] CertificateError),
    /// The server has no authenticators, so that nobody could be let in over the network.
    #[error("the server was built without an access configuration and cannot be served over the network")]
    NoAccess,
}

/// How long shutdown may take.
#[derive(Clone, Copy, Debug)]
pub struct ShutdownConfig {
    /// How long `/readyz` fails while connections are still accepted, for load balancers to notice (upstream's
    /// `--shutdown-delay-duration`).
    pub delay: Duration,
    /// How long open requests may finish after that.
    pub drain: Duration,
}

impl Default for ShutdownConfig {
    fn default() -> Self {
        Self { delay: Duration::ZERO, drain: Duration::from_secs(5) }
    }
}

/// A bound listener; connections wait in its backlog until [`Listener::serve`].
#[derive(Debug)]
pub struct Listener {
    tcp: TcpListener,
    address: SocketAddr,
    tls: TlsOptions,
}

impl Listener {
    /// Binds; port 0 takes any free one.
    pub async fn bind(address: SocketAddr) -> Result<Self, ServeError> {
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::AddrInUse => ServeError::PortInUse { address },
            _ => ServeError::Bind { address, source },
        };
        let tcp = TcpListener::bind(address).await.map_err(failed)?;
        let address = tcp.local_addr().map_err(failed)?;
        Ok(Self { tcp, address, tls: TlsOptions::default() })
    }

    /// Sets what handshakes may agree on.
    #[must_use]
    pub fn with_tls(self, tls: TlsOptions) -> Self {
        Self { tls, ..self }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop` is cancelled, then shuts down as [`ShutdownConfig`] says. Returns when all connections are closed.
    pub async fn serve(
        self,
        server: Arc<ApiServer>,
        certificate: Arc<ServingCertificate>,
        shutdown: ShutdownConfig,
        stop: CancellationToken,
    ) -> Result<(), ServeError> {
        if !server.access().authenticates() {
            return Err(ServeError::NoAccess);
        }
        let access = server.access();
        let clients = access.client_authorities().into_iter().chain(access.front_proxy().map(FrontProxy::authorities)).cloned();
        let handshakes = Handshakes::new(&self.tls, certificate, clients.collect())?;
        let (closing, cut) = (CancellationToken::new(), CancellationToken::new());
        let connections = TaskTracker::new();
        let mut stopping = None;
        loop {
            tokio::select! {
                accepted = self.tcp.accept() => match accepted {
                    Ok((stream, peer)) => {
                        let acceptor = handshakes.acceptor(stream.local_addr().ok().map(|address| address.ip()));
                        let connection = connection::serve(server.clone(), acceptor, stream, closing.clone());
                        let cut = cut.clone();
                        connections.spawn(async move {
                            tokio::select! {
                                () = connection => {}
                                () = cut.cancelled() => tracing::debug!(%peer, "a connection was cut off at shutdown"),
                            }
                        });
                    }
                    Err(error) => {
                        // Mostly "too many open files": give others time to close theirs.
                        tracing::warn!(error = %error, "cannot accept a connection");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
                () = stop.cancelled(), if stopping.is_none() => {
                    server.draining().cancel();
                    stopping = Some(tokio::time::Instant::now() + shutdown.delay);
                }
                () = tokio::time::sleep_until(stopping.unwrap_or_else(tokio::time::Instant::now)), if stopping.is_some() => break,
            }
        }
        drop(self.tcp);
        closing.cancel();
        connections.close();
        if tokio::time::timeout(shutdown.drain, connections.wait()).await.is_err() {
            cut.cancel();
            connections.wait().await;
        }
        Ok(())
    }
}
