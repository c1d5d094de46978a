//! TLS to kubelets as upstream's client has it (`KubeletClientConfig`): which certificate the API server shows, read again when somebody
//! renews its files, and whose certificates kubelets may show.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::serving::KeyCert;
use parking_lot::Mutex;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsConnector;

use super::backend::any_certificate;
use super::verify::BundleVerifier;

/// Files are read when a connection is made, and not more often than this (client-go's `cachingCertificateLoader`): nothing is looked
/// at while nobody asks for a kubelet.
const FRESH: Duration = Duration::from_secs(1);

/// Why a connection to kubelets cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum KubeletAccessError {
    /// A certificate or key is not PEM.
    #[error("the kubelet client's certificate or key is not PEM")]
    Pem(#[from] rustls::pki_types::pem::Error),
    /// They do not fit together.
    #[error("the kubelet client's certificate cannot be used")]
    Tls(#[from] rustls::Error),
    /// A file is not there.
    #[error("cannot read {path}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The bundle is empty.
    #[error("unable to load root certificates: no valid certificate authority data seen")]
    NoAuthority,
}

/// Who the API server is to kubelets.
#[derive(Debug)]
pub enum KubeletIdentity {
    /// It shows no certificate.
    Nobody,
    /// It shows what is in these files when it connects. Upstream's flags are `--kubelet-client-certificate` and `--kubelet-client-key`.
    Files {
        /// The chain in PEM.
        certificate: PathBuf,
        /// The key in PEM.
        key: PathBuf,
    },
}

impl KubeletIdentity {
    async fn read(&self) -> Result<Option<KeyCert>, KubeletAccessError> {
        let text = async |path: &PathBuf| {
            let read = tokio::fs::read_to_string(path).await;
            read.map_err(|source| KubeletAccessError::File { path: path.clone(), source })
        };
        Ok(match self {
            Self::Nobody => None,
            Self::Files { certificate, key } => Some(KeyCert { cert_pem: text(certificate).await?, key_pem: text(key).await? }),
        })
    }
}

/// What connections are made with.
pub(super) struct KubeletTls {
    identity: KubeletIdentity,
    verifier: Arc<dyn ServerCertVerifier>,
    loaded: Mutex<Option<Loaded>>,
}

struct Loaded {
    pair: Option<KeyCert>,
    at: Instant,
    verifying: TlsConnector,
    trusting: TlsConnector,
}

impl Loaded {
    fn connector(&self, trusting: bool) -> TlsConnector {
        if trusting { self.trusting.clone() } else { self.verifying.clone() }
    }
}

impl KubeletTls {
    /// Without a bundle every kubelet is believed to be one: those of upstream sign their certificates themselves unless told otherwise.
    pub(super) fn new(identity: KubeletIdentity, ca_pem: Option<&str>) -> Result<Self, KubeletAccessError> {
        let algorithms = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms;
        let verifier: Arc<dyn ServerCertVerifier> = match ca_pem {
            Some(pem) => Arc::new(BundleVerifier::new(pem, algorithms).ok_or(KubeletAccessError::NoAuthority)?),
            None => any_certificate(),
        };
        Ok(Self { identity, verifier, loaded: Mutex::new(None) })
    }

    /// For the next connection; `trusting` believes any kubelet.
    pub(super) async fn connector(&self, trusting: bool) -> Result<TlsConnector, KubeletAccessError> {
        let now = Instant::now();
        let is_fresh = |loaded: &&Loaded| now.saturating_duration_since(loaded.at) < FRESH;
        if let Some(loaded) = self.loaded.lock().as_ref().filter(is_fresh) {
            return Ok(loaded.connector(trusting));
        }
        let pair = self.identity.read().await?;
        let mut loaded = self.loaded.lock();
        if let Some(loaded) = loaded.as_mut().filter(|loaded| loaded.pair == pair) {
            loaded.at = now;
            return Ok(loaded.connector(trusting));
        }
        let verifying = connector(pair.as_ref(), self.verifier.clone())?;
        let all = Loaded { at: now, verifying, trusting: connector(pair.as_ref(), any_certificate())?, pair };
        Ok(loaded.insert(all).connector(trusting))
    }
}

fn connector(client: Option<&KeyCert>, verifier: Arc<dyn ServerCertVerifier>) -> Result<TlsConnector, KubeletAccessError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let config = match client {
        None => builder.with_no_client_auth(),
        Some(client) => {
            let chain = CertificateDer::pem_slice_iter(client.cert_pem.as_bytes()).collect::<Result<Vec<_>, _>>()?;
            builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(client.key_pem.as_bytes())?)?
        }
    };
    Ok(TlsConnector::from(Arc::new(config)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn renewed_files_are_shown_by_the_next_connection() {
        let directory = tempfile::tempdir().expect("a directory");
        let (certificate, key) = (directory.path().join("c.pem"), directory.path().join("k.pem"));
        let write = |pair: &KeyCert| {
            std::fs::write(&certificate, &pair.cert_pem).expect("is written");
            std::fs::write(&key, &pair.key_pem).expect("is written");
        };
        let make = || KeyCert::self_signed(&["n".to_owned()]).expect("is made");
        let (first, second) = (make(), make());
        let identity = KubeletIdentity::Files { certificate: certificate.clone(), key: key.clone() };
        let tls = KubeletTls::new(identity, None).expect("is usable");
        assert!(matches!(tls.connector(false).await, Err(KubeletAccessError::File { .. })), "there is none yet");
        write(&first);
        tls.connector(false).await.expect("is usable");
        write(&second);
        tls.connector(true).await.expect("is usable");
        let shown = || tls.loaded.lock().as_ref().and_then(|loaded| loaded.pair.clone());
        assert_eq!(shown(), Some(first), "it was read just now");
        let age = || {
            if let Some(loaded) = tls.loaded.lock().as_mut() {
                loaded.at = loaded.at.checked_sub(FRESH).expect("the machine runs for longer");
            }
        };
        age();
        tls.connector(false).await.expect("is usable");
        assert_eq!(shown(), Some(second));
        age();
        std::fs::write(&key, make().key_pem).expect("is written");
        assert!(tls.connector(false).await.is_err(), "the key is another's");
    }

    #[test]
    fn a_bundle_holds_somebody() {
        assert!(matches!(KubeletTls::new(KubeletIdentity::Nobody, Some("")), Err(KubeletAccessError::NoAuthority)));
        assert!(KubeletTls::new(KubeletIdentity::Nobody, None).is_ok());
    }
}
