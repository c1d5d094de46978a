//! Clients of a server elsewhere, from a kubeconfig file: HTTPS with our own connector, because kube's would bring a
//! second set of TLS dependencies.
//!
//! The server must be given by IP address, as `localhost`, or by a name that `/etc/hosts` has when a connection is opened: a static
//! binary has no name resolution of the C library, and a resolver of our own is not wired in here.

mod file;

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::{Connected, Connection as Connectable};
use hyper_util::rt::{TokioExecutor, TokioIo};
use kube::client::{ClientBuilder, ConfigExt};
use kube::config::AuthInfo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use secrecy::ExposeSecret;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tower::{BoxError, Service};

use crate::credentials::{self, Authenticated, Credentials};
use crate::rate_limit::RateLimitLayer;
use crate::service_account::ServiceAccountTokens;

/// Why a kubeconfig does not make a client.
#[derive(Debug, thiserror::Error)]
pub enum KubeconfigError {
    /// The file cannot be read.
    #[error("cannot read kubeconfig {path}", path = .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The file is no kubeconfig, or what its current context names is missing.
    #[error("kubeconfig {path}: {why}", path = .path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A member of it that this client does not act on.
    #[error("kubeconfig: {0} is not implemented")]
    NotImplemented(&'static str),
    /// A certificate or key in it is unusable.
    #[error("kubeconfig: {0}")]
    Credentials(String),
    /// Certificates and key do not fit together.
    #[error("kubeconfig: TLS settings are unusable")]
    Tls(#[source] rustls::Error),
    /// Its authentication cannot be used.
    #[error("kubeconfig: cannot use its authentication: {0}")]
    Authentication(String),
    /// The server is given by a host name.
    #[error("kubeconfig: server {0:?} must be given by IP address, as localhost or by a name in /etc/hosts")]
    HostName(String),
    /// The file's server, or `--master`, is no address of one.
    #[error("the server {0:?} is not a URL")]
    Server(String),
    /// Neither a file nor a server is given.
    #[error("neither a kubeconfig nor the address of a server is given")]
    Missing,
}

/// Which server, and how much of it.
#[derive(Clone, Debug, Default)]
pub struct Connection {
    /// The file; without it only `master` counts, and there are no credentials.
    pub kubeconfig: Option<PathBuf>,
    /// Another server than the file's (`--master`).
    pub master: Option<String>,
    /// Requests a second at most, and how many of them at once (`--kube-api-qps`, `--kube-api-burst`). `None`: as many as there are.
    pub rate: Option<(f64, u32)>,
}

impl Connection {
    /// The server of a kubeconfig, without a limit.
    pub fn to(kubeconfig: &Path) -> Self {
        Self { kubeconfig: Some(kubeconfig.to_owned()), ..Self::default() }
    }

    /// A client. Must be called inside a Tokio runtime; the server need not be reachable yet.
    pub async fn client(&self) -> Result<kube::Client, KubeconfigError> {
        let (config, credentials) = self.config()?;
        client(&config, credentials, self.rate)
    }

    /// Makes clients that act as ServiceAccounts of a namespace, by their names; the connection's own user must be allowed to create
    /// ServiceAccounts and tokens there. Each has the whole rate to itself, as upstream has it. Must be called inside a Tokio runtime.
    pub async fn service_accounts(
        &self,
        namespace: &str,
    ) -> Result<impl Fn(&str) -> kube::Client + Send + Sync + 'static, KubeconfigError> {
        let (config, credentials) = self.config()?;
        let issuer = client(&config, credentials, None)?;
        // Without the user's certificate, which the server would believe rather than the token.
        let transport = transport(&config, None)?;
        let (namespace, rate) = (namespace.to_owned(), self.rate);
        Ok(move |account: &str| {
            let tokens = ServiceAccountTokens::new(issuer.clone(), &namespace, account);
            let transport = Authenticated::new(transport.clone(), Arc::new(tokens));
            let service = tower::ServiceBuilder::new()
                .layer(config.base_uri_layer())
                .option_layer(rate.map(RateLimitLayer::new))
                .service(transport);
            ClientBuilder::new(service, config.default_namespace.clone()).build()
        })
    }

    fn config(&self) -> Result<(kube::Config, Option<Arc<dyn Credentials>>), KubeconfigError> {
        let server = |url: &String| url.parse::<http::Uri>().map_err(|_| KubeconfigError::Server(url.clone()));
        let master = self.master.as_ref().map(server).transpose()?;
        match (&self.kubeconfig, master) {
            (None, None) => Err(KubeconfigError::Missing),
            (None, Some(server)) => Ok((kube::Config::new(server), None)),
            (Some(path), master) => {
                let target = file::read(path)?;
                let credentials = credentials::of_user(&target.user, &target.cluster).map_err(KubeconfigError::Authentication)?;
                let mut config = target.config()?;
                config.cluster_url = master.unwrap_or(config.cluster_url);
                Ok((config, credentials))
            }
        }
    }
}

/// A client of the server that the current context of a kubeconfig names. Must be called inside a Tokio runtime; the
/// server need not be reachable yet.
pub async fn from_kubeconfig(path: &Path) -> Result<kube::Client, KubeconfigError> {
    Connection::to(path).client().await
}

fn client(
    config: &kube::Config,
    credentials: Option<Arc<dyn Credentials>>,
    rate: Option<(f64, u32)>,
) -> Result<kube::Client, KubeconfigError> {
    let http = transport(config, client_certificate(&config.auth_info)?)?;
    let authenticated =
        |credentials| tower::layer::layer_fn(move |service| Authenticated::new(service, Arc::clone(&credentials)));
    let service = tower::ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(credentials.map(authenticated))
        .option_layer(rate.map(RateLimitLayer::new))
        .map_err(BoxError::from)
        .service(http);
    Ok(ClientBuilder::new(service, config.default_namespace.clone()).build())
}

/// HTTP to the one server, with a client certificate or none.
fn transport(
    config: &kube::Config,
    identity: Option<Identity>,
) -> Result<HttpClient<Connector, kube::client::Body>, KubeconfigError> {
    let tls = tls_config(config, identity)?;
    let host = config.cluster_url.host().unwrap_or_default();
    let address = Host::new(host);
    if address.resolve().is_none() {
        return Err(KubeconfigError::HostName(host.to_owned()));
    }
    let server_name = config.tls_server_name.clone().unwrap_or_else(|| host.trim_matches(['[', ']']).to_owned());
    let server_name = ServerName::try_from(server_name.clone()).map_err(|_| KubeconfigError::HostName(server_name))?;
    let connector = Connector {
        tls: TlsConnector::from(Arc::new(tls)),
        secure: config.cluster_url.scheme_str() != Some("http"),
        address,
        server_name,
    };
    Ok(HttpClient::builder(TokioExecutor::new()).build(connector))
}

/// A server's address, or a name that the machine's own table has.
#[derive(Clone)]
enum Host {
    Address(IpAddr),
    Name(Arc<str>),
}

impl Host {
    fn new(host: &str) -> Self {
        if host == "localhost" {
            return Self::Address(IpAddr::V4(Ipv4Addr::LOCALHOST));
        }
        host.trim_matches(['[', ']']).parse().map_or_else(|_| Self::Name(host.into()), Self::Address)
    }

    /// Its address now; the table may have changed since.
    fn resolve(&self) -> Option<IpAddr> {
        match self {
            Self::Address(address) => Some(*address),
            Self::Name(name) => listed(&std::fs::read_to_string("/etc/hosts").ok()?, name),
        }
    }
}

/// The first address that a table of hosts (hosts(5)) has for a name.
fn listed(table: &str, name: &str) -> Option<IpAddr> {
    let lines = table.lines().map(|line| line.split('#').next().unwrap_or_default());
    lines.filter_map(|line| line.split_whitespace().next().map(|address| (address, line))).find_map(|(address, line)| {
        let named = line.split_whitespace().skip(1).any(|have| have.eq_ignore_ascii_case(name));
        named.then(|| address.parse().ok()).flatten()
    })
}

fn tls_config(config: &kube::Config, identity: Option<Identity>) -> Result<rustls::ClientConfig, KubeconfigError> {
    let mut roots = rustls::RootCertStore::empty();
    for der in config.root_cert.iter().flatten() {
        roots.add(CertificateDer::from(der.clone())).map_err(KubeconfigError::Tls)?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(KubeconfigError::Tls)?
        .with_root_certificates(roots);
    match identity {
        None => Ok(builder.with_no_client_auth()),
        Some((chain, key)) => {
            // Not `with_client_auth_cert`: that reads the certificate, and does not know those of version 1, which upstream takes.
            let key = provider.key_provider.load_private_key(key).map_err(KubeconfigError::Tls)?;
            let pair = rustls::sign::CertifiedKey::new(chain, key);
            match pair.keys_match() {
                Err(error @ rustls::Error::InconsistentKeys(rustls::InconsistentKeys::KeyMismatch)) => {
                    Err(KubeconfigError::Tls(error))
                }
                _ => Ok(builder.with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(pair)))),
            }
        }
    }
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn client_certificate(auth: &AuthInfo) -> Result<Option<Identity>, KubeconfigError> {
    let unusable = |what: &str, error: &dyn std::fmt::Display| KubeconfigError::Credentials(format!("{what}: {error}"));
    let key_data = auth.client_key_data.as_ref().map(|key| key.expose_secret());
    let certificate =
        data_or_file("client-certificate", auth.client_certificate_data.as_deref(), auth.client_certificate.as_deref())?;
    let key = data_or_file("client-key", key_data, auth.client_key.as_deref())?;
    let (Some(certificate), Some(key)) = (certificate, key) else { return Ok(None) };
    let chain = CertificateDer::pem_slice_iter(&certificate)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| unusable("client certificate", &error))?;
    let key = PrivateKeyDer::from_pem_slice(&key).map_err(|error| unusable("client key", &error))?;
    Ok(Some((chain, key)))
}

fn data_or_file(what: &str, data: Option<&str>, file: Option<&str>) -> Result<Option<Vec<u8>>, KubeconfigError> {
    let unusable = |error: &dyn std::fmt::Display| KubeconfigError::Credentials(format!("{what}: {error}"));
    match (data, file) {
        (Some(data), _) => BASE64.decode(data).map(Some).map_err(|error| unusable(&error)),
        (None, Some(file)) => std::fs::read(file).map(Some).map_err(|error| unusable(&format!("{file}: {error}"))),
        (None, None) => Ok(None),
    }
}

/// Opens connections to the one server of the kubeconfig.
#[derive(Clone)]
struct Connector {
    tls: TlsConnector,
    secure: bool,
    address: Host,
    server_name: ServerName<'static>,
}

impl Service<http::Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = std::io::Result<TokioIo<Stream>>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: http::Uri) -> Self::Future {
        let this = self.clone();
        let port = uri.port_u16().unwrap_or(if this.secure { 443 } else { 80 });
        Box::pin(async move {
            let address = this.address.resolve().ok_or(std::io::ErrorKind::HostUnreachable)?;
            let stream = TcpStream::connect((address, port)).await?;
            stream.set_nodelay(true)?;
            if !this.secure {
                return Ok(TokioIo::new(Stream::Plain(stream)));
            }
            let stream = this.tls.connect(this.server_name, stream).await?;
            Ok(TokioIo::new(Stream::Tls(Box::new(stream))))
        })
    }
}

/// A connection, encrypted or not.
enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connectable for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Stream::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<std::io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_write(context, data),
            Stream::Tls(stream) => Pin::new(stream).poll_write(context, data),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(context),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_by_address_or_by_the_table_of_hosts() {
        let table = "127.0.0.1 localhost\n# 10.0.0.1 no\n10.0.0.2\tcontrol-plane cp # no\nnonsense other\n";
        for (host, expected) in [
            ("127.0.0.1", Some("127.0.0.1")),
            ("localhost", Some("127.0.0.1")),
            ("[::1]", Some("::1")),
            ("CP", Some("10.0.0.2")),
            ("no", None),
            ("other", None),
        ] {
            let expected = expected.map(|address| address.parse().expect("is an address"));
            let found = match Host::new(host) {
                Host::Address(address) => Some(address),
                Host::Name(name) => listed(table, &name),
            };
            assert_eq!(found, expected, "{host}");
        }
    }
}
