//! Client certificates: the common name is the user, the organizations are the groups.
//!
//! The TLS handshake accepts any client certificate whose key the client holds; whether it is signed by the cluster CA and still
//! valid is decided here, per request, so that a bad one is answered with 401 and a `Status` instead of a broken handshake.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rustls::DigitallySignedStruct;
use rustls::SignatureScheme;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::user::UserInfo;

/// Verifies client certificates against the cluster CA.
#[derive(Clone, Debug)]
pub struct CertificateAuthenticator {
    inner: Arc<dyn ClientCertVerifier>,
}

/// The certificate chain that a connection's client showed (leaf first).
#[derive(Clone, Debug)]
pub struct PeerCertificates(pub Arc<[CertificateDer<'static>]>);

impl CertificateAuthenticator {
    /// Trusts certificates signed by `ca_pem`.
    pub fn new(ca_pem: &str) -> Result<Self, rustls::Error> {
        use rustls_pki_types::pem::PemObject;
        let mut roots = rustls::RootCertStore::empty();
        for der in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
            roots.add(der.map_err(|e| rustls::Error::General(format!("the client CA is not PEM: {e}")))?)?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let inner = WebPkiClientVerifier::builder_with_provider(roots.into(), provider)
            .allow_unauthenticated()
            .build()
            .map_err(|e| rustls::Error::General(e.to_string()))?;
        Ok(Self { inner })
    }

    /// The verifier for the handshake: asks for a certificate, takes any, and checks that the client holds its key.
    pub fn handshake_verifier(&self) -> Arc<dyn ClientCertVerifier> {
        Arc::new(AnyCertificate(self.inner.clone()))
    }

    /// Whose certificate this is; the error says why it is not accepted.
    pub fn authenticate(&self, peer: &PeerCertificates, now: Timestamp) -> Result<UserInfo, String> {
        let [leaf, intermediates @ ..] = peer.0.as_ref() else { return Err("no certificate".to_owned()) };
        let at = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(now.as_second()).unwrap_or(0)));
        self.inner.verify_client_cert(leaf, intermediates, at).map_err(|e| e.to_string())?;
        let (_, certificate) = X509Certificate::from_der(leaf).map_err(|e| e.to_string())?;
        let subject = certificate.subject();
        let name = subject.iter_common_name().next().and_then(|a| a.as_str().ok()).unwrap_or_default();
        if name.is_empty() {
            return Err("the certificate's subject has no common name".to_owned());
        }
        let mut user = UserInfo::authenticated(name, subject.iter_organization().filter_map(|a| a.as_str().ok()));
        let fingerprint = hex::encode(<sha2::Sha256 as sha2::Digest>::digest(leaf.as_ref()));
        let credential = vec![format!("X509SHA256={fingerprint}")];
        user.extra.insert("authentication.kubernetes.io/credential-id".to_owned(), credential);
        Ok(user)
    }
}

#[derive(Debug)]
struct AnyCertificate(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for AnyCertificate {
    fn offer_client_auth(&self) -> bool {
        true
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[rustls::DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        // Not a statement about trust: `CertificateAuthenticator::authenticate` decides.
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
