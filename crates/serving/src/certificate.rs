//! A server's own certificate, which can be replaced while it runs.

use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

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

/// The certificate that a listener shows; can be replaced while it runs.
#[derive(Debug)]
pub struct ServingCertificate(ArcSwap<CertifiedKey>);

impl ServingCertificate {
    /// Starts with this one.
    pub fn new(pair: &KeyCert) -> Result<Arc<Self>, CertificateError> {
        Ok(Arc::new(Self(ArcSwap::from_pointee(pair.certified()?))))
    }

    /// Shows another one from the next handshake on.
    pub fn replace(&self, pair: &KeyCert) -> Result<(), CertificateError> {
        self.0.store(Arc::new(pair.certified()?));
        Ok(())
    }
}

impl ResolvesServerCert for ServingCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
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
        let before = shown.0.load_full();
        let mixed = KeyCert { key_pem: second.key_pem.clone(), ..first.clone() };
        assert!(shown.replace(&mixed).is_err(), "the key of another certificate");
        assert!(shown.replace(&KeyCert::default()).is_err());
        assert!(Arc::ptr_eq(&before, &shown.0.load_full()));
        shown.replace(&second).expect("is usable");
        assert_ne!(before.cert, shown.0.load_full().cert);
        assert!(!format!("{first:?}").contains("PRIVATE"));
    }
}
