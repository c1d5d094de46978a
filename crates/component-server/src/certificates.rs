//! Certificates: our own for serving, and whose client certificates are believed.
//!
//! The handshake takes any client certificate whose key the client holds; whether somebody whom we trust has signed it is decided for
//! each request, so that a bad one is answered with 401 and the authorities can change while the server runs.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, ServerConfig, SignatureScheme, SupportedCipherSuite};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use tokio_rustls::TlsAcceptor;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::user::User;

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// Not PEM.
    #[error("a certificate or key is not PEM")]
    Pem(#[from] rustls_pki_types::pem::Error),
    /// Not usable.
    #[error("a certificate or key cannot be used")]
    Rustls(#[from] rustls::Error),
    /// The certificate of the process itself cannot be made.
    #[error("cannot make a serving certificate")]
    SelfSigned(#[from] rcgen::Error),
}

/// A certificate with its chain, and its key, in PEM.
#[derive(Clone)]
pub struct KeyCert {
    /// The chain.
    pub cert_pem: String,
    /// The key.
    pub key_pem: String,
}

impl KeyCert {
    /// A certificate that nobody vouches for, for these names and addresses.
    pub fn self_signed(names: &[String]) -> Result<Self, CertificateError> {
        let made = rcgen::generate_simple_self_signed(names)?;
        Ok(Self { cert_pem: made.cert.pem(), key_pem: made.signing_key.serialize_pem() })
    }
}

impl std::fmt::Debug for KeyCert {
    /// Not the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyCert").finish_non_exhaustive()
    }
}

/// What handshakes may agree on.
#[derive(Clone, Debug, Default)]
pub struct Tls {
    /// Refuses TLS 1.2 (`--tls-min-version`).
    pub only_tls13: bool,
    /// Cipher suites of TLS 1.2 by IANA's names, empty for all (`--tls-cipher-suites`).
    pub cipher_suites: Vec<String>,
    /// HTTP/1.1 alone (`--disable-http2-serving`).
    pub without_http2: bool,
}

impl Tls {
    /// Those of the cipher suites that cannot be spoken.
    pub fn unsupported_cipher_suites(&self) -> Vec<&str> {
        let known = provider();
        let is_known = |name: &str| known.cipher_suites.iter().any(|suite| suite_is(*suite, name));
        self.cipher_suites.iter().map(String::as_str).filter(|name| !is_known(name)).collect()
    }

    pub(crate) fn acceptor(&self, certificate: &KeyCert) -> Result<TlsAcceptor, CertificateError> {
        let chain = CertificateDer::pem_slice_iter(certificate.cert_pem.as_bytes()).collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(certificate.key_pem.as_bytes())?;
        let mut chosen = (*provider()).clone();
        if !self.cipher_suites.is_empty() {
            let wanted = |suite: SupportedCipherSuite| {
                suite.tls13().is_some() || self.cipher_suites.iter().any(|name| suite_is(suite, name))
            };
            chosen.cipher_suites.retain(|suite| wanted(*suite));
        }
        let versions: &[&rustls::SupportedProtocolVersion] =
            if self.only_tls13 { &[&rustls::version::TLS13] } else { rustls::DEFAULT_VERSIONS };
        let mut config = ServerConfig::builder_with_provider(chosen.into())
            .with_protocol_versions(versions)?
            .with_client_cert_verifier(Arc::new(AnyCertificate(provider().signature_verification_algorithms)))
            .with_single_cert(chain, key)?;
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

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// Authorities whose client certificates are believed.
#[derive(Clone, Debug)]
pub(crate) struct Authorities(Arc<dyn ClientCertVerifier>);

impl Authorities {
    /// Reads a bundle.
    pub(crate) fn new(ca_pem: &str) -> Result<Self, CertificateError> {
        let mut roots = rustls::RootCertStore::empty();
        for der in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
            roots.add(der?)?;
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider()).build();
        verifier.map(Self).map_err(|error| rustls::Error::General(error.to_string()).into())
    }

    /// The subject of a chain that one of them has signed; the error says why it is not believed.
    fn verify<'a>(&self, chain: &'a [CertificateDer<'static>]) -> Result<X509Certificate<'a>, String> {
        let [leaf, intermediates @ ..] = chain else { return Err("no certificate".to_owned()) };
        self.0.verify_client_cert(leaf, intermediates, UnixTime::now()).map_err(|error| error.to_string())?;
        X509Certificate::from_der(leaf).map(|(_, certificate)| certificate).map_err(|error| error.to_string())
    }

    /// The common name is the user, the organizations are the groups.
    pub(crate) fn user(&self, chain: &[CertificateDer<'static>]) -> Result<User, String> {
        let certificate = self.verify(chain)?;
        let name = common_name(&certificate);
        if name.is_empty() {
            return Err("the certificate's subject has no common name".to_owned());
        }
        let groups = certificate.subject().iter_organization().filter_map(|o| o.as_str().ok()).map(str::to_owned).collect();
        let fingerprint = hex::encode(<sha2::Sha256 as sha2::Digest>::digest(chain[0].as_ref()));
        let credential = ("authentication.kubernetes.io/credential-id".to_owned(), vec![format!("X509SHA256={fingerprint}")]);
        Ok(User { name, groups, extra: [credential].into(), ..User::default() })
    }

    /// The common name alone.
    pub(crate) fn name(&self, chain: &[CertificateDer<'static>]) -> Result<String, String> {
        self.verify(chain).map(|certificate| common_name(&certificate))
    }
}

fn common_name(certificate: &X509Certificate<'_>) -> String {
    certificate.subject().iter_common_name().next().and_then(|name| name.as_str().ok()).unwrap_or_default().to_owned()
}

#[derive(Debug)]
struct AnyCertificate(rustls::crypto::WebPkiSupportedAlgorithms);

impl ClientCertVerifier for AnyCertificate {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[rustls::DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        // Not a statement about trust: `Authorities` decides.
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

    #[test]
    fn a_certificate_names_a_user_where_its_authority_is_believed() {
        let authority = || {
            let key = KeyPair::generate().expect("a key");
            let mut ca = CertificateParams::default();
            ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let root = ca.self_signed(&key).expect("signed");
            let mut leaf = CertificateParams::default();
            leaf.distinguished_name.push(DnType::CommonName, "ada");
            leaf.distinguished_name.push(DnType::OrganizationName, "operators");
            let leaf_key = KeyPair::generate().expect("a key");
            let leaf = leaf.signed_by(&leaf_key, &Issuer::from_params(&ca, &key)).expect("signed");
            (Authorities::new(&root.pem()).expect("a CA"), [leaf.der().clone()])
        };
        let (ours, chain) = authority();
        let (others, _) = authority();
        let user = ours.user(&chain).expect("is believed");
        assert_eq!((user.name.as_str(), user.groups.as_slice()), ("ada", ["operators".to_owned()].as_slice()));
        assert!(others.user(&chain).is_err());
        assert!(ours.user(&[]).is_err());
    }

    #[test]
    fn a_certificate_of_our_own_can_be_served() {
        let pair = KeyCert::self_signed(&["localhost".to_owned(), "127.0.0.1".to_owned()]).expect("is made");
        assert!(Tls::default().acceptor(&pair).is_ok());
        let old = Tls { cipher_suites: vec!["TLS_RSA_WITH_AES_128_CBC_SHA".to_owned()], ..Tls::default() };
        assert_eq!(old.unsupported_cipher_suites(), ["TLS_RSA_WITH_AES_128_CBC_SHA"]);
    }
}
