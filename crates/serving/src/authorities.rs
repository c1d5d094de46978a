//! Whose client certificates are believed, and whom they name: the common name is the user, the organizations are the groups
//! (<https://kubernetes.io/docs/reference/access-authn-authz/authentication/#x509-client-certificates>).

use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::DistinguishedName;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::certificate::CertificateError;
use crate::names::Names;
use crate::tls::provider;

/// Authorities whose client certificates are believed. They can be replaced while a server runs: all clones see it.
#[derive(Clone, Debug)]
pub struct Authorities(Arc<ArcSwap<Bundle>>);

#[derive(Debug)]
struct Bundle {
    pem: String,
    verifier: Arc<dyn ClientCertVerifier>,
    names: Vec<DistinguishedName>,
}

/// The authorities as they were at one time.
#[derive(Clone, Debug)]
pub struct AuthoritiesThen(Arc<Bundle>);

/// Whom a certificate names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// May be empty.
    pub common_name: String,
    /// In the certificate's order.
    pub organizations: Vec<String>,
    /// The SHA-256 digest of the certificate, in hexadecimal digits.
    pub fingerprint: String,
}

impl Bundle {
    fn read(ca_pem: &str) -> Result<Self, CertificateError> {
        let mut roots = rustls::RootCertStore::empty();
        for der in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
            roots.add(der?)?;
        }
        let names = roots.subjects();
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider()).build();
        let verifier = verifier.map_err(|error| rustls::Error::General(error.to_string()))?;
        Ok(Self { pem: ca_pem.to_owned(), verifier, names })
    }
}

impl Authorities {
    /// Reads a bundle.
    pub fn new(ca_pem: &str) -> Result<Self, CertificateError> {
        Ok(Self(Arc::new(ArcSwap::from_pointee(Bundle::read(ca_pem)?))))
    }

    /// Believes another bundle from now on, and says whether it is another one. One that cannot be used changes nothing.
    pub fn replace(&self, ca_pem: &str) -> Result<bool, CertificateError> {
        if self.0.load().pem == ca_pem {
            return Ok(false);
        }
        self.0.store(Arc::new(Bundle::read(ca_pem)?));
        Ok(true)
    }

    /// Whom a chain names that one of them has signed and that is valid at this time; the error says why it is not believed.
    pub fn verify(&self, chain: &[CertificateDer<'static>], at: UnixTime) -> Result<Subject, String> {
        self.now().verify(chain, at)
    }

    /// As they are now.
    pub fn now(&self) -> AuthoritiesThen {
        AuthoritiesThen(self.0.load_full())
    }
}

impl AuthoritiesThen {
    /// As [`Authorities::verify`].
    pub fn verify(&self, chain: &[CertificateDer<'static>], at: UnixTime) -> Result<Subject, String> {
        let [leaf, intermediates @ ..] = chain else { return Err("no certificate".to_owned()) };
        self.0.verifier.verify_client_cert(leaf, intermediates, at).map_err(|error| error.to_string())?;
        Subject::of(leaf)
    }

    /// The bundle.
    pub fn pem(&self) -> &str {
        &self.0.pem
    }

    /// The names of the authorities.
    pub(crate) fn names(&self) -> &[DistinguishedName] {
        &self.0.names
    }

    /// Whether these are the same authorities, not only equal ones.
    pub fn are(&self, others: &Self) -> bool {
        Arc::ptr_eq(&self.0, &others.0)
    }
}

impl Subject {
    fn of(leaf: &CertificateDer<'_>) -> Result<Self, String> {
        let (_, certificate) = X509Certificate::from_der(leaf).map_err(|error| error.to_string())?;
        let Names { common_name, organizations } = Names::of(certificate.subject());
        let fingerprint = hex::encode(<sha2::Sha256 as sha2::Digest>::digest(leaf.as_ref()));
        Ok(Self { common_name, organizations, fingerprint })
    }

    /// The same, if it can be a user.
    pub fn named(self) -> Result<Self, String> {
        if self.common_name.is_empty() {
            return Err("the certificate's subject has no common name".to_owned());
        }
        Ok(self)
    }

    /// What is known of the credential, for a user's extra attributes (KEP-4193).
    pub fn credential(&self) -> (String, Vec<String>) {
        ("authentication.kubernetes.io/credential-id".to_owned(), vec![format!("X509SHA256={}", self.fingerprint)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

    #[test]
    fn a_certificate_names_a_user_where_its_authority_is_believed() {
        let authority = |name: Option<&str>| {
            let key = KeyPair::generate().expect("a key");
            let mut ca = CertificateParams::default();
            ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let root = ca.self_signed(&key).expect("signed");
            let mut leaf = CertificateParams::default();
            leaf.distinguished_name = rcgen::DistinguishedName::new();
            if let Some(name) = name {
                leaf.distinguished_name.push(DnType::CommonName, name);
            }
            leaf.distinguished_name.push(DnType::OrganizationName, "operators");
            let leaf_key = KeyPair::generate().expect("a key");
            let leaf = leaf.signed_by(&leaf_key, &Issuer::from_params(&ca, &key)).expect("signed");
            (Authorities::new(&root.pem()).expect("a CA"), [leaf.der().clone()])
        };
        let (ours, chain) = authority(Some("ada"));
        let (others, nameless) = authority(None);
        let subject = ours.verify(&chain, UnixTime::now()).and_then(Subject::named).expect("is believed");
        assert_eq!(
            (subject.common_name.as_str(), subject.organizations.as_slice()),
            ("ada", ["operators".to_owned()].as_slice())
        );
        assert!(others.verify(&chain, UnixTime::now()).is_err());
        assert!(ours.verify(&[], UnixTime::now()).is_err());
        let late = UnixTime::since_unix_epoch(std::time::Duration::from_secs(1 << 40));
        assert!(ours.verify(&chain, late).is_err(), "it is not valid any more");
        assert!(others.verify(&nameless, UnixTime::now()).expect("is believed").named().is_err());
        assert!(ours.now().are(&ours.clone().now()) && !ours.now().are(&others.now()));
    }

    #[test]
    fn authorities_are_replaced_by_ones_that_can_be_used() {
        let authority = || {
            let key = KeyPair::generate().expect("a key");
            let mut ca = CertificateParams::default();
            ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let root = ca.self_signed(&key).expect("signed").pem();
            let leaf = CertificateParams::default();
            let leaf = leaf.signed_by(&KeyPair::generate().expect("a key"), &Issuer::from_params(&ca, &key)).expect("signed");
            (root, [leaf.der().clone()])
        };
        let ((first, of_first), (second, of_second)) = (authority(), authority());
        let ours = Authorities::new(&first).expect("a CA");
        let (clone, then) = (ours.clone(), ours.now());
        let believes = |chain: &[CertificateDer<'static>]| clone.verify(chain, UnixTime::now()).is_ok();
        assert!(!ours.replace(&first).expect("a CA"), "nothing is new");
        assert!(ours.replace("").is_err() && ours.replace("nonsense").is_err());
        assert!(believes(&of_first) && then.are(&ours.now()));
        assert!(ours.replace(&second).expect("a CA"));
        assert!(!believes(&of_first) && believes(&of_second), "clones see it");
        assert!(then.verify(&of_first, UnixTime::now()).is_ok() && !then.are(&ours.now()));
        assert_eq!((ours.now().pem(), ours.now().names().len()), (second.as_str(), 1));
    }
}
