//! TLS: our certificate, replaced without a restart when it is renewed.

use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::crypto::CryptoProvider;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, SupportedCipherSuite};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use crate::pki::KeyCert;

/// Why a certificate cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Not PEM.
    #[error("the serving certificate or its key is not PEM")]
    Pem(#[from] rustls_pki_types::pem::Error),
    /// Not usable.
    #[error("the serving certificate or its key cannot be used")]
    Rustls(#[from] rustls::Error),
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn certified(pair: &KeyCert) -> Result<CertifiedKey, TlsError> {
    let chain = CertificateDer::pem_slice_iter(pair.cert_pem.as_bytes()).collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(pair.key_pem.as_bytes())?;
    Ok(CertifiedKey::from_der(chain, key, &provider())?)
}

/// The certificate that a listener shows; can be replaced while it runs.
#[derive(Debug)]
pub struct ServingCertificate(ArcSwap<CertifiedKey>);

impl ServingCertificate {
    /// Starts with this one.
    pub fn new(pair: &KeyCert) -> Result<Arc<Self>, TlsError> {
        Ok(Arc::new(Self(ArcSwap::from_pointee(certified(pair)?))))
    }

    /// Shows another one from the next handshake on.
    pub fn replace(&self, pair: &KeyCert) -> Result<(), TlsError> {
        self.0.store(Arc::new(certified(pair)?));
        Ok(())
    }
}

impl ResolvesServerCert for ServingCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

/// What a listener agrees to in a handshake. By default TLS 1.2 and 1.3 with all cipher suites that are safe.
#[derive(Clone, Debug, Default)]
pub struct TlsOptions {
    /// Refuses TLS 1.2. Upstream's flag is `--tls-min-version`.
    pub only_tls13: bool,
    /// The cipher suites of TLS 1.2 by IANA's names; empty for all. Those of TLS 1.3 are not chosen. Upstream's flag is
    /// `--tls-cipher-suites`.
    pub cipher_suites: Vec<String>,
}

impl TlsOptions {
    /// Those of the names that this server cannot speak: unknown ones, and ones that are not safe any more (CBC, RC4, plain RSA).
    pub fn unsupported_cipher_suites(&self) -> Vec<&str> {
        let known = provider();
        let is_known = |name: &str| known.cipher_suites.iter().any(|suite| suite_is(*suite, name));
        self.cipher_suites.iter().map(String::as_str).filter(|name| !is_known(name)).collect()
    }

    fn provider(&self) -> CryptoProvider {
        let mut provider = (*provider()).clone();
        if !self.cipher_suites.is_empty() {
            let wanted = |suite: SupportedCipherSuite| {
                suite.tls13().is_some() || self.cipher_suites.iter().any(|name| suite_is(suite, name))
            };
            provider.cipher_suites.retain(|suite| wanted(*suite));
        }
        provider
    }
}

/// Whether a suite has this name; Go knows two also by a shorter one.
fn suite_is(suite: SupportedCipherSuite, name: &str) -> bool {
    let have = format!("{:?}", suite.suite()).replace("TLS13_", "TLS_");
    have == name || have.strip_suffix("_SHA256").is_some_and(|short| short == name && short.ends_with("CHACHA20_POLY1305"))
}

pub(super) fn acceptor(
    certificate: Arc<ServingCertificate>,
    clients: Arc<dyn ClientCertVerifier>,
    options: &TlsOptions,
) -> Result<TlsAcceptor, TlsError> {
    let versions: &[&rustls::SupportedProtocolVersion] =
        if options.only_tls13 { &[&rustls::version::TLS13] } else { rustls::DEFAULT_VERSIONS };
    let mut config = ServerConfig::builder_with_provider(options.provider().into())
        .with_protocol_versions(versions)?
        .with_client_cert_verifier(clients)
        .with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cipher_suites_are_chosen_by_name() {
        let options = |names: &[&str]| TlsOptions {
            cipher_suites: names.iter().map(|name| (*name).to_owned()).collect(),
            ..TlsOptions::default()
        };
        let tls12 =
            |options: &TlsOptions| options.provider().cipher_suites.iter().filter(|suite| suite.tls13().is_none()).count();
        assert_eq!(tls12(&options(&["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"])), 1);
        assert_eq!(tls12(&options(&["TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305"])), 1);
        assert!(tls12(&options(&[])) > 2);
        let old = options(&["TLS_RSA_WITH_AES_128_CBC_SHA", "TLS_AES_128_GCM_SHA256"]);
        assert_eq!(old.unsupported_cipher_suites(), ["TLS_RSA_WITH_AES_128_CBC_SHA"]);
    }
}
