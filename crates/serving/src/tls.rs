//! What handshakes may agree on.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, ServerConfig, SignatureScheme, SupportedCipherSuite};
use rustls_pki_types::{CertificateDer, UnixTime};
use tokio_rustls::TlsAcceptor;

use crate::certificate::{CertificateError, ServingCertificate};

/// What a listener agrees to in a handshake. By default TLS 1.2 and 1.3 with all cipher suites that are safe, HTTP/2 and HTTP/1.1.
#[derive(Clone, Debug, Default)]
pub struct TlsOptions {
    /// Refuses TLS 1.2. Upstream's flag is `--tls-min-version`.
    pub only_tls13: bool,
    /// The cipher suites of TLS 1.2 by IANA's names; empty for all. Those of TLS 1.3 are not chosen. Upstream's flag is
    /// `--tls-cipher-suites`.
    pub cipher_suites: Vec<String>,
    /// HTTP/1.1 alone. Upstream's flag is `--disable-http2-serving`.
    pub without_http2: bool,
}

impl TlsOptions {
    /// Those of the names that a server cannot speak: unknown ones, and ones that are not safe any more (CBC, RC4, plain RSA).
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

    /// Shakes hands with this certificate.
    pub fn acceptor(&self, certificate: Arc<ServingCertificate>) -> Result<TlsAcceptor, CertificateError> {
        let versions: &[&rustls::SupportedProtocolVersion] =
            if self.only_tls13 { &[&rustls::version::TLS13] } else { rustls::DEFAULT_VERSIONS };
        let mut config = ServerConfig::builder_with_provider(self.provider().into())
            .with_protocol_versions(versions)?
            .with_client_cert_verifier(Arc::new(AnyCertificate(provider().signature_verification_algorithms)))
            .with_cert_resolver(certificate);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        if !self.without_http2 {
            config.alpn_protocols.insert(0, b"h2".to_vec());
        }
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

/// Whether a suite has this name; Go knows two also by a shorter one.
fn suite_is(suite: SupportedCipherSuite, name: &str) -> bool {
    let have = format!("{:?}", suite.suite()).replace("TLS13_", "TLS_");
    have == name || have.strip_suffix("_SHA256").is_some_and(|short| short == name && short.ends_with("CHACHA20_POLY1305"))
}

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// The verifier for the handshake: asks for a certificate, takes any, and checks that the client holds its key.
#[derive(Debug)]
struct AnyCertificate(rustls::crypto::WebPkiSupportedAlgorithms);

impl ClientCertVerifier for AnyCertificate {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[rustls::DistinguishedName] {
        // No hints: whom we trust is nobody's business, and clients may hold certificates for the front proxy or for us.
        &[]
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        // Not a statement about trust: `Authorities` decide.
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
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
