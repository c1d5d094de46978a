//! Where a server is and how to be let in, from a kubeconfig.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls_pki_types::pem::PemObject;
use serde::Deserialize;

/// A server with credentials.
#[derive(Clone)]
pub(crate) struct Target {
    /// `HOST:PORT`.
    pub(crate) address: String,
    /// The name that its certificate must have.
    pub(crate) server_name: ServerName<'static>,
    /// The client's side of TLS, with its certificate if there is one.
    pub(crate) tls: Arc<rustls::ClientConfig>,
    /// Value of the `Authorization` header, if a token is used.
    pub(crate) authorization: Option<String>,
}

#[derive(Deserialize)]
struct Kubeconfig {
    clusters: Vec<Named>,
    users: Vec<Named>,
}

#[derive(Deserialize)]
struct Named {
    #[serde(default)]
    cluster: Cluster,
    #[serde(default)]
    user: User,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Cluster {
    #[serde(default)]
    server: String,
    certificate_authority_data: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct User {
    client_certificate_data: Option<String>,
    client_key_data: Option<String>,
    token: Option<String>,
}

impl Target {
    /// Reads the first cluster and the first user of a kubeconfig; certificates must be embedded (`...-data`).
    pub(crate) fn from_kubeconfig(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let config: Kubeconfig = serde_saphyr::from_str(&text).with_context(|| format!("{} is no kubeconfig", path.display()))?;
        let (Some(cluster), Some(user)) = (config.clusters.first(), config.users.first()) else {
            bail!("{} names no cluster or no user", path.display());
        };
        let (cluster, user) = (&cluster.cluster, &user.user);
        let Some(address) = cluster.server.strip_prefix("https://") else {
            bail!("{}: the server must be an https:// URL, not {:?}", path.display(), cluster.server);
        };
        let address = address.trim_end_matches('/').to_owned();
        let host = address.rsplit_once(':').map_or(address.as_str(), |(host, _)| host);
        let authority =
            cluster.certificate_authority_data.as_deref().context("the kubeconfig has no certificate-authority-data")?;
        let mut roots = rustls::RootCertStore::empty();
        for certificate in certificates(authority)? {
            roots.add(certificate)?;
        }
        let builder = rustls::ClientConfig::builder().with_root_certificates(roots);
        let tls = match (&user.client_certificate_data, &user.client_key_data) {
            (Some(certificate), Some(key)) => builder.with_client_auth_cert(certificates(certificate)?, private_key(key)?)?,
            _ => builder.with_no_client_auth(),
        };
        Ok(Self {
            server_name: ServerName::try_from(host.trim_matches(['[', ']']).to_owned())?,
            address,
            tls: Arc::new(tls),
            authorization: user.token.as_ref().map(|token| format!("Bearer {token}")),
        })
    }
}

fn certificates(data: &str) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let pem = STANDARD.decode(data.trim())?;
    CertificateDer::pem_slice_iter(&pem).collect::<Result<_, _>>().context("not a PEM certificate")
}

fn private_key(data: &str) -> anyhow::Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_slice(&STANDARD.decode(data.trim())?).context("not a PEM private key")
}
