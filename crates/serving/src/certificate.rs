//! A server's own certificates, which can be replaced while it runs.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::names::Names;
use crate::tls::provider;

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

/// A certificate chain with its private key, in PEM.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct KeyCert {
    /// The chain.
    pub cert_pem: String,
    /// The private key of its first certificate.
    pub key_pem: String,
}

impl KeyCert {
    /// A certificate that nobody vouches for, for these names and addresses.
    pub fn self_signed(names: &[String]) -> Result<Self, CertificateError> {
        let made = rcgen::generate_simple_self_signed(names)?;
        Ok(Self { cert_pem: made.cert.pem(), key_pem: made.signing_key.serialize_pem() })
    }

    fn certified(&self) -> Result<CertifiedKey, CertificateError> {
        let chain = CertificateDer::pem_slice_iter(self.cert_pem.as_bytes()).collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes())?;
        Ok(CertifiedKey::from_der(chain, key, &provider())?)
    }
}

impl std::fmt::Debug for KeyCert {
    /// Not the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyCert").field("cert_pem", &self.cert_pem).finish_non_exhaustive()
    }
}

/// The certificates that a listener shows; each can be replaced while it runs.
#[derive(Debug)]
pub struct ServingCertificate {
    usual: ArcSwap<CertifiedKey>,
    named: ArcSwap<Named>,
}

/// Certificates for clients that ask for a server by one of their names.
#[derive(Debug, Default)]
struct Named {
    certificates: Vec<NamedCertificate>,
    by_name: HashMap<String, Arc<CertifiedKey>>,
}

#[derive(Clone, Debug)]
struct NamedCertificate {
    /// None: those of the certificate.
    names: Vec<String>,
    key: Arc<CertifiedKey>,
}

impl Named {
    /// Upstream's order (`BuildNamedCertificates`): names that somebody gave count before those of certificates, earlier ones before later.
    fn new(certificates: Vec<NamedCertificate>) -> Self {
        let mut by_name = HashMap::new();
        let (given, of_certificates): (Vec<_>, Vec<_>) = certificates.iter().partition(|named| !named.names.is_empty());
        for named in given {
            for name in &named.names {
                by_name.entry(name.clone()).or_insert_with(|| named.key.clone());
            }
        }
        for named in of_certificates {
            for name in names_of(&named.key) {
                by_name.entry(name).or_insert_with(|| named.key.clone());
            }
        }
        Self { certificates, by_name }
    }
}

/// The names that a client can ask for of those in a certificate: its common name if it is one, and its DNS names.
fn names_of(key: &CertifiedKey) -> Vec<String> {
    let Some(leaf) = key.cert.first() else { return Vec::new() };
    let Ok((_, certificate)) = X509Certificate::from_der(leaf) else { return Vec::new() };
    let common_name = Names::of(certificate.subject()).common_name;
    let mut names = Vec::new();
    if common_name.parse::<IpAddr>().is_err() && (common_name == "*" || is_domain(&common_name)) {
        names.push(common_name);
    }
    if let Ok(Some(extension)) = certificate.subject_alternative_name() {
        names.extend(extension.value.general_names.iter().filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            _ => None,
        }));
    }
    names
}

/// RFC 1123, with a wildcard before it.
fn is_domain(name: &str) -> bool {
    let label = |label: &str| {
        let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        !label.is_empty() && !label.starts_with('-') && !label.ends_with('-') && label.bytes().all(inner)
    };
    name.len() <= 253 && name.strip_prefix("*.").unwrap_or(name).split('.').all(label)
}

impl ServingCertificate {
    /// Starts with this one for everybody.
    pub fn new(pair: &KeyCert) -> Result<Arc<Self>, CertificateError> {
        Self::with_named(pair, &[])
    }

    /// Starts with this one, and others for clients that ask for a server by one of these names (RFC 6066, section 3; `*.` stands for one
    /// label). Without names, those of the certificate count. An address among them is that of our side of the connection, for clients
    /// that ask for no name.
    pub fn with_named(pair: &KeyCert, named: &[(Vec<String>, KeyCert)]) -> Result<Arc<Self>, CertificateError> {
        let read = |(names, pair): &(Vec<String>, KeyCert)| -> Result<NamedCertificate, CertificateError> {
            Ok(NamedCertificate { names: names.clone(), key: Arc::new(pair.certified()?) })
        };
        let named = Named::new(named.iter().map(read).collect::<Result<_, _>>()?);
        Ok(Arc::new(Self { usual: ArcSwap::from_pointee(pair.certified()?), named: ArcSwap::from_pointee(named) }))
    }

    /// Shows another one from the next handshake on.
    pub fn replace(&self, pair: &KeyCert) -> Result<(), CertificateError> {
        self.usual.store(Arc::new(pair.certified()?));
        Ok(())
    }

    /// The same for one of those with names, by its place. One that is not there is not replaced.
    pub fn replace_named(&self, place: usize, pair: &KeyCert) -> Result<(), CertificateError> {
        let key = Arc::new(pair.certified()?);
        self.named.rcu(|named| {
            let mut certificates = named.certificates.clone();
            if let Some(named) = certificates.get_mut(place) {
                named.key = key.clone();
            }
            Named::new(certificates)
        });
        Ok(())
    }

    fn for_name(&self, name: Option<&str>) -> Arc<CertifiedKey> {
        let (named, name) = (self.named.load(), name.map(str::to_ascii_lowercase));
        let found = name.and_then(|name| {
            let wildcard = || named.by_name.get(&name.split_once('.').map_or("*".to_owned(), |(_, rest)| format!("*.{rest}")));
            named.by_name.get(&name).or_else(wildcard)
        });
        found.cloned().unwrap_or_else(|| self.usual.load_full())
    }

    /// The one for connections to an address of ours, if there is one.
    pub(crate) fn for_address(&self, address: IpAddr) -> Option<Arc<CertifiedKey>> {
        let named = self.named.load();
        // Most servers have none with names.
        if named.by_name.is_empty() { None } else { named.by_name.get(&address.to_canonical().to_string()).cloned() }
    }
}

impl ResolvesServerCert for ServingCertificate {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.for_name(hello.server_name()))
    }
}

/// What is shown on a connection to an address that has a certificate of its own.
#[derive(Debug)]
pub(crate) struct AddressCertificate {
    pub(crate) unnamed: Arc<CertifiedKey>,
    pub(crate) others: Arc<ServingCertificate>,
}

impl ResolvesServerCert for AddressCertificate {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        match hello.server_name() {
            None => Some(self.unnamed.clone()),
            name => Some(self.others.for_name(name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_replaced_by_one_that_can_be_served_only() {
        let make = |name: &str| KeyCert::self_signed(&[name.to_owned()]).expect("is made");
        let (first, second) = (make("localhost"), make("localhost"));
        let shown = ServingCertificate::new(&first).expect("is usable");
        let before = shown.usual.load_full();
        let mixed = KeyCert { key_pem: second.key_pem.clone(), ..first.clone() };
        assert!(shown.replace(&mixed).is_err(), "the key of another certificate");
        assert!(shown.replace(&KeyCert::default()).is_err());
        assert!(Arc::ptr_eq(&before, &shown.usual.load_full()));
        shown.replace(&second).expect("is usable");
        assert_ne!(before.cert, shown.usual.load_full().cert);
        assert!(!format!("{first:?}").contains("PRIVATE"));
    }

    #[test]
    fn names_choose_the_certificate() {
        let make = |name: &str| KeyCert::self_signed(&[name.to_owned()]).expect("is made");
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let pairs = ["usual", "foo.example", "bar.example", "foo.example", "other"].map(make);
        let [usual, foo, bar, late, addressed] = &pairs;
        let named = [
            (Vec::new(), foo.clone()),
            (names(&["*.wild", "bar.example"]), bar.clone()),
            (names(&["foo.example", "bar.example"]), late.clone()),
            (names(&["127.0.0.9"]), addressed.clone()),
        ];
        let shown = ServingCertificate::with_named(usual, &named).expect("are usable");
        let is = |found: &CertifiedKey, pair: &KeyCert| found.cert == pair.certified().expect("is usable").cert;
        for (name, expected) in [
            (None, usual),
            (Some("unknown"), usual),
            (Some("foo.example"), late),
            (Some("FOO.example"), late),
            (Some("bar.example"), bar),
            (Some("x.wild"), bar),
            (Some("x.y.wild"), usual),
            (Some("wild"), usual),
            (Some("other"), usual),
        ] {
            assert!(is(&shown.for_name(name), expected), "{name:?}");
        }
        assert!(is(&shown.for_address([127, 0, 0, 9].into()).expect("has one"), addressed));
        assert!(shown.for_address([127, 0, 0, 1].into()).is_none());
        let renewed = make("new.example");
        shown.replace_named(0, &renewed).expect("is usable");
        assert!(is(&shown.for_name(Some("new.example")), &renewed), "its names are its own");
        assert!(is(&shown.for_name(Some("bar.example")), bar));
        assert!(shown.replace_named(1, &KeyCert::default()).is_err());
        assert!(is(&shown.for_name(Some("x.wild")), bar));
    }

    #[test]
    fn domains() {
        for (name, expected) in
            [("a", true), ("*.a-b.c1", true), ("", false), ("a..b", false), ("A", false), ("-a", false), ("a b", false)]
        {
            assert_eq!(is_domain(name), expected, "{name}");
        }
    }
}
