//! Connections from the server to backends (kubelets, pods): one for each request, and bytes between two upgraded connections.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ::http::{Request, Response};
use bytes::Bytes;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::verify::Unbelieved;
use crate::http::{Body, BoxError};

/// How long a backend may take to accept a connection.
const CONNECT_MAX: Duration = Duration::from_secs(10);

/// A backend did not answer; the text is as Go's dialer and transport have it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BackendError {
    /// No connection.
    #[error("dial tcp {address}: {reason}")]
    Dial {
        /// Where to.
        address: SocketAddr,
        /// Why not.
        reason: String,
    },
    /// The backend is not who it should be.
    #[error("tls: failed to verify certificate: {0}")]
    Certificate(String),
    /// The connection broke or what came was not HTTP.
    #[error(transparent)]
    Http(#[from] hyper::Error),
}

/// Owner of the connections that carry requests to backends. Cloning shares it.
#[derive(Clone)]
pub(crate) struct Backends {
    carried: TaskTracker,
    stop: CancellationToken,
}

impl Backends {
    /// All connections end with `stop`.
    pub(crate) fn new(stop: CancellationToken) -> Self {
        Self { carried: TaskTracker::new(), stop }
    }

    /// Sends a request over a connection of its own.
    pub(crate) async fn send<B>(
        &self,
        address: SocketAddr,
        tls: Option<&TlsConnector>,
        request: Request<B>,
    ) -> Result<Response<Incoming>, BackendError>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let failed = |error| BackendError::dial(address, &error);
        let stream = within(async {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Ok(stream)
        });
        let stream = stream.await.map_err(failed)?;
        let Some(tls) = tls else { return Ok(self.over(stream, request).await?) };
        let stream = within(tls.connect(ServerName::IpAddress(address.ip().into()), stream)).await.map_err(failed)?;
        Ok(self.over(stream, request).await?)
    }

    async fn over<S, B>(&self, stream: S, request: Request<B>) -> hyper::Result<Response<Incoming>>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let request = request.map(Body::new);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        // How it ends is seen by whoever reads the answer.
        self.carry(async move { _ = connection.with_upgrades().await });
        sender.send_request(request).await
    }

    /// Carries bytes between two upgraded connections until one ends.
    pub(crate) fn join(&self, client: OnUpgrade, backend: OnUpgrade) {
        self.carry(async move {
            let join = async {
                let (client, backend) = tokio::try_join!(client, backend).map_err(std::io::Error::other)?;
                tokio::io::copy_bidirectional(&mut TokioIo::new(client), &mut TokioIo::new(backend)).await
            };
            if let Err(error) = join.await {
                tracing::debug!(%error, "an upgraded connection ended");
            }
        });
    }

    /// Runs what moves bytes over a connection, until it ends or the server stops.
    pub(crate) fn carry(&self, work: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.carried.spawn(async move {
            tokio::select! {
                () = work => {}
                () = stop.cancelled() => {}
            }
        });
    }
}

impl BackendError {
    fn dial(address: SocketAddr, error: &std::io::Error) -> Self {
        use std::io::ErrorKind;
        let tls = error.get_ref().and_then(|source| source.downcast_ref::<rustls::Error>());
        if let Some(why) = tls.and_then(Unbelieved::in_error) {
            return Self::Certificate(why.to_string());
        }
        let reason = match error.kind() {
            ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
            ErrorKind::TimedOut => "i/o timeout".to_owned(),
            ErrorKind::HostUnreachable => "connect: no route to host".to_owned(),
            ErrorKind::NetworkUnreachable => "connect: network is unreachable".to_owned(),
            _ => error.to_string(),
        };
        Self::Dial { address, reason }
    }
}

/// A step of setting up a connection, which may not take for ever.
async fn within<T>(step: impl Future<Output = std::io::Result<T>>) -> std::io::Result<T> {
    tokio::time::timeout(CONNECT_MAX, step).await.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
}

/// TLS to pods and Services behind `https:NAME:PORT`, whose certificates nobody vouches for: upstream does not look at them either.
pub(crate) fn trusting_tls() -> TlsConnector {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has TLS 1.2 and 1.3")
        .dangerous()
        .with_custom_certificate_verifier(any_certificate())
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}

/// Believes every backend.
pub(super) fn any_certificate() -> Arc<dyn ServerCertVerifier> {
    let algorithms = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms;
    Arc::new(AnyCertificate { schemes: algorithms.supported_schemes() })
}

#[derive(Debug)]
struct AnyCertificate {
    schemes: Vec<rustls::SignatureScheme>,
}

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.schemes.clone()
    }
}
