//! Client certificates: the common name is the user, the organizations are the groups.
//!
//! The TLS handshake accepts any client certificate whose key the client holds; whether it is signed by the cluster CA and still
//! valid is decided here, per request, so that a bad one is answered with 401 and a `Status` instead of a broken handshake.

use std::sync::{Arc, OnceLock};
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

/// The certificate chain that a connection's client showed (leaf first), and what checking it came to.
#[derive(Clone, Debug)]
pub struct PeerCertificates {
    chain: Arc<[CertificateDer<'static>]>,
    /// Checking signatures costs more than all else that a small request does: done once a connection.
    verified: Arc<OnceLock<Verified>>,
}

/// A chain that was found good.
#[derive(Debug)]
struct Verified {
    user: UserInfo,
    /// By whom: another authenticator trusts other authorities.
    by: Arc<dyn ClientCertVerifier>,
    /// When the first certificate of the chain expires, in seconds since 1970; it is checked in full (and refused) from then on.
    until: i64,
}

impl PeerCertificates {
    /// What a handshake ended with.
    pub fn new(chain: impl IntoIterator<Item = CertificateDer<'static>>) -> Self {
        Self { chain: chain.into_iter().collect(), verified: Arc::default() }
    }
}

impl CertificateAuthenticator {
    /// Trusts certificates signed by `ca_pem`.
    pub fn new(ca_pem: &str) -> Result<Self, rustls::Error> {
        Ok(Self { inner: verifier(ca_pem)? })
    }

    /// Whose certificate this is; the error says why it is not accepted.
    pub fn authenticate(&self, peer: &PeerCertificates, now: Timestamp) -> Result<UserInfo, String> {
        if let Some(known) = peer.verified.get()
            && Arc::ptr_eq(&known.by, &self.inner)
            && now.as_second() < known.until
        {
            return Ok(known.user.clone());
        }
        let leaf = verify(&*self.inner, peer, now)?;
        let user = subject(leaf)?;
        // Set already by another request or another authenticator: then the next request checks again, no more.
        let _ = peer.verified.set(Verified { user: user.clone(), by: self.inner.clone(), until: expiry(&peer.chain)? });
        Ok(user)
    }
}

/// Trusts certificates signed by these authorities.
fn verifier(ca_pem: &str) -> Result<Arc<dyn ClientCertVerifier>, rustls::Error> {
    use rustls_pki_types::pem::PemObject;
    let mut roots = rustls::RootCertStore::empty();
    for der in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
        roots.add(der.map_err(|e| rustls::Error::General(format!("the client CA is not PEM: {e}")))?)?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider()).allow_unauthenticated().build();
    verifier.map_err(|e| rustls::Error::General(e.to_string()))
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// The leaf of a chain that the authorities have signed.
fn verify<'a>(
    by: &dyn ClientCertVerifier,
    peer: &'a PeerCertificates,
    now: Timestamp,
) -> Result<&'a CertificateDer<'static>, String> {
    let [leaf, intermediates @ ..] = peer.chain.as_ref() else { return Err("no certificate".to_owned()) };
    let at = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(now.as_second()).unwrap_or(0)));
    by.verify_client_cert(leaf, intermediates, at).map_err(|e| e.to_string())?;
    Ok(leaf)
}

/// Certification authorities whose certificates say a name and nothing else.
#[derive(Clone, Debug)]
pub(super) struct TrustedNames(Arc<dyn ClientCertVerifier>);

impl TrustedNames {
    /// Reads the authorities.
    pub(super) fn new(ca_pem: &str) -> Result<Self, rustls::Error> {
        verifier(ca_pem).map(Self)
    }

    /// The common name of a certificate that one of them has signed, empty if it has none; the error says why it is not accepted.
    pub(super) fn common_name(&self, peer: &PeerCertificates, now: Timestamp) -> Result<String, String> {
        let leaf = verify(&*self.0, peer, now)?;
        let (_, certificate) = X509Certificate::from_der(leaf).map_err(|e| e.to_string())?;
        let name = certificate.subject().iter_common_name().next().and_then(|a| a.as_str().ok());
        Ok(name.unwrap_or_default().to_owned())
    }
}

/// The verifier for the handshake: asks for a certificate, takes any, and checks that the client holds its key.
pub(crate) fn handshake_verifier() -> Arc<dyn ClientCertVerifier> {
    Arc::new(AnyCertificate(provider().signature_verification_algorithms))
}

/// The user that a certificate names.
fn subject(leaf: &CertificateDer<'_>) -> Result<UserInfo, String> {
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

/// When the first certificate of a chain expires, in seconds since 1970.
fn expiry(chain: &[CertificateDer<'_>]) -> Result<i64, String> {
    let mut until = i64::MAX;
    for der in chain {
        let (_, certificate) = X509Certificate::from_der(der).map_err(|e| e.to_string())?;
        until = until.min(certificate.validity().not_after.timestamp());
    }
    Ok(until)
}

#[derive(Debug)]
struct AnyCertificate(rustls::crypto::WebPkiSupportedAlgorithms);

impl ClientCertVerifier for AnyCertificate {
    fn offer_client_auth(&self) -> bool {
        true
    }

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
        // Not a statement about trust: `CertificateAuthenticator::authenticate` decides.
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
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

    /// An authenticator with an authority of its own, and a chain of it for `ada` that ends at `not_after`.
    fn authority(not_after: Timestamp) -> (CertificateAuthenticator, PeerCertificates) {
        let at = |time: Timestamp| std::time::SystemTime::from(time).into();
        let key = KeyPair::generate().expect("a key");
        let mut ca = CertificateParams::default();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = ca.self_signed(&key).expect("signed");
        let mut leaf = CertificateParams::default();
        leaf.distinguished_name.push(DnType::CommonName, "ada");
        leaf.not_after = at(not_after);
        let leaf_key = KeyPair::generate().expect("a key");
        let leaf = leaf.signed_by(&leaf_key, &Issuer::from_params(&ca, &key)).expect("signed");
        (CertificateAuthenticator::new(&root.pem()).expect("a CA"), PeerCertificates::new([leaf.der().clone()]))
    }

    #[test]
    fn a_checked_chain_is_still_refused_after_its_end_and_by_others() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
        let hour = jiff::SignedDuration::from_hours(1);
        let (authenticator, peer) = authority(now + hour);
        let (stranger, _) = authority(now + hour);
        for _ in 0..2 {
            assert_eq!(authenticator.authenticate(&peer, now).expect("valid").name, "ada");
        }
        assert!(stranger.authenticate(&peer, now).is_err(), "another authority's certificate");
        let error = authenticator.authenticate(&peer, now + hour + hour).expect_err("expired");
        assert!(error.contains("xpired"), "{error}");
    }
}
