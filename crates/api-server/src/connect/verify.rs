//! Whether a backend's certificate is believed, by the rules of Go's crypto/x509, which upstream's transports have: the name is one of
//! the certificate's subject alternative names (a common name is none), and the bundle holds whoever signed it, or the certificate
//! itself. The texts are Go's, too: people search for them.

use std::net::IpAddr;
use std::sync::Arc;

use ::serving::Names;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate, X509Version};

/// A certificate is not believed; the text is as Go has it.
#[derive(Debug, thiserror::Error)]
#[error("x509: {0}")]
pub(super) struct Unbelieved(String);

impl Unbelieved {
    /// What rustls was told by [`BundleVerifier`], if it was.
    pub(super) fn in_error(error: &rustls::Error) -> Option<&Self> {
        match error {
            rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(error))) => error.downcast_ref(),
            _ => None,
        }
    }
}

/// Believes what a bundle vouches for.
#[derive(Debug)]
pub(super) struct BundleVerifier {
    /// Those of the bundle that may sign others.
    signers: RootCertStore,
    all: Vec<CertificateDer<'static>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl BundleVerifier {
    /// Reads a bundle in PEM; what is no certificate in it is passed over. `None` if nothing else is in it.
    pub(super) fn new(pem: &str, algorithms: WebPkiSupportedAlgorithms) -> Option<Self> {
        let read = CertificateDer::pem_slice_iter(pem.as_bytes()).filter_map(Result::ok);
        let all: Vec<CertificateDer<'static>> = read.filter(|der| X509Certificate::from_der(der).is_ok()).collect();
        let mut signers = RootCertStore::empty();
        for der in all.iter().filter(|der| may_sign(der)) {
            // One that cannot be an anchor signs nothing.
            _ = signers.add(der.clone());
        }
        (!all.is_empty()).then_some(Self { signers, all, algorithms })
    }

    fn check(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), Unbelieved> {
        let unreadable = |error: &dyn std::fmt::Display| Unbelieved(format!("malformed certificate: {error}"));
        let (_, leaf) = X509Certificate::from_der(end_entity).map_err(|error| unreadable(&error))?;
        let parsed = ParsedCertificate::try_from(end_entity).map_err(|error| unreadable(&error))?;
        check_time(&leaf, now)?;
        verify_server_name(&parsed, name).map_err(|_| not_named(&leaf, name))?;
        if self.all.iter().any(|known| known == end_entity) {
            return check_usage(&leaf);
        }
        let signed = verify_server_cert_signed_by_trust_anchor(&parsed, &self.signers, intermediates, now, self.algorithms.all);
        signed.map_err(|error| match error {
            rustls::Error::InvalidCertificate(CertificateError::InvalidPurpose) => wrong_usage(),
            rustls::Error::InvalidCertificate(
                CertificateError::Expired | CertificateError::ExpiredContext { .. } | CertificateError::NotValidYet,
            ) => Unbelieved("certificate has expired or is not yet valid".to_owned()),
            _ => match check_usage(&leaf) {
                Ok(()) => Unbelieved("certificate signed by unknown authority".to_owned()),
                Err(usage) => usage,
            },
        })
    }
}

/// Go's `CheckSignatureFrom`: whom it lets sign.
fn may_sign(der: &CertificateDer<'_>) -> bool {
    let Ok((_, certificate)) = X509Certificate::from_der(der) else { return false };
    let constraints = certificate.basic_constraints().ok().flatten();
    let is_authority = constraints.map_or(certificate.version() != X509Version::V3, |constraints| constraints.value.ca);
    let usage = certificate.key_usage().ok().flatten();
    is_authority && usage.is_none_or(|usage| usage.value.key_cert_sign())
}

fn check_time(leaf: &X509Certificate<'_>, now: UnixTime) -> Result<(), Unbelieved> {
    let at = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let shown = |seconds: i64| jiff::Timestamp::from_second(seconds).map(|time| time.to_string()).unwrap_or_default();
    let (from, until) = (leaf.validity().not_before.timestamp(), leaf.validity().not_after.timestamp());
    let (relation, end) = match (at < from, at > until) {
        (true, _) => ("before", from),
        (_, true) => ("after", until),
        _ => return Ok(()),
    };
    let (current, end) = (shown(at), shown(end));
    Err(Unbelieved(format!("certificate has expired or is not yet valid: current time {current} is {relation} {end}")))
}

/// A certificate without extended key usages is for everything.
fn check_usage(leaf: &X509Certificate<'_>) -> Result<(), Unbelieved> {
    match leaf.extended_key_usage().ok().flatten() {
        Some(usage) if !usage.value.any && !usage.value.server_auth => Err(wrong_usage()),
        _ => Ok(()),
    }
}

fn wrong_usage() -> Unbelieved {
    Unbelieved("certificate specifies an incompatible key usage".to_owned())
}

fn not_named(leaf: &X509Certificate<'_>, name: &ServerName<'_>) -> Unbelieved {
    let names = leaf.subject_alternative_name().ok().flatten();
    let is_common_name = |host: &str| Names::of(leaf.subject()).common_name.eq_ignore_ascii_case(host);
    if names.is_none() && is_common_name(&name.to_str()) {
        return Unbelieved("certificate relies on legacy Common Name field, use SANs instead".to_owned());
    }
    let names = names.iter().flat_map(|extension| &extension.value.general_names);
    let host = name.to_str();
    let is_address = matches!(name, ServerName::IpAddress(_));
    let valid: Vec<String> = names
        .filter_map(|name| match name {
            GeneralName::IPAddress(octets) if is_address => address(octets).map(|address| address.to_string()),
            GeneralName::DNSName(name) if !is_address => Some((*name).to_owned()),
            _ => None,
        })
        .collect();
    Unbelieved(match (valid.is_empty(), is_address) {
        (false, _) => format!("certificate is valid for {}, not {host}", valid.join(", ")),
        (true, true) => format!("cannot validate certificate for {host} because it doesn't contain any IP SANs"),
        (true, false) => format!("certificate is not valid for any names, but wanted to match {host}"),
    })
}

fn address(octets: &[u8]) -> Option<IpAddr> {
    match octets.len() {
        4 => <[u8; 4]>::try_from(octets).ok().map(IpAddr::from),
        _ => <[u8; 16]>::try_from(octets).ok().map(IpAddr::from),
    }
}

impl ServerCertVerifier for BundleVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match self.check(end_entity, intermediates, name, now) {
            Ok(()) => Ok(ServerCertVerified::assertion()),
            Err(why) => Err(CertificateError::Other(OtherError(Arc::new(why))).into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
        PKCS_ECDSA_P256_SHA256,
    };

    use super::*;

    const UNKNOWN: &str = "x509: certificate signed by unknown authority";

    struct Made {
        params: CertificateParams,
        key: KeyPair,
        der: CertificateDer<'static>,
        pem: String,
    }

    fn make(names: &[&str], change: impl FnOnce(&mut CertificateParams), by: Option<&Made>) -> Made {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names");
        change(&mut params);
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
        let certificate = match by {
            None => params.self_signed(&key).expect("is signed"),
            Some(by) => params.signed_by(&key, &Issuer::from_params(&by.params, &by.key)).expect("is signed"),
        };
        Made { params, key, der: certificate.der().clone(), pem: certificate.pem() }
    }

    fn authority(usages: &[KeyUsagePurpose]) -> Made {
        let change = |params: &mut CertificateParams| {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = usages.to_vec();
        };
        make(&[], change, None)
    }

    fn said(bundle: &str, leaf: &Made, host: &str) -> String {
        let algorithms = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms;
        let verifier = BundleVerifier::new(bundle, algorithms).expect("a bundle");
        let name = ServerName::try_from(host.to_owned()).expect("a name");
        verifier.check(&leaf.der, &[], &name, UnixTime::now()).err().map(|why| why.to_string()).unwrap_or_default()
    }

    #[test]
    fn authorities() {
        let (ours, others) = (authority(&[]), authority(&[]));
        let leaf = make(&["10.0.0.1"], |_| {}, Some(&ours));
        assert_eq!(said(&ours.pem, &leaf, "10.0.0.1"), "");
        assert_eq!(said(&others.pem, &leaf, "10.0.0.1"), UNKNOWN);
        assert_eq!(said(&format!("nonsense\n{}{}", others.pem, ours.pem), &leaf, "10.0.0.1"), "");
        let algorithms = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms;
        assert!(BundleVerifier::new("nonsense", algorithms).is_none());
        // A kubelet's own certificate in the bundle vouches for itself, an authority's too, and for nothing else.
        let own = make(&["10.0.0.1"], |_| {}, None);
        assert_eq!(said(&own.pem, &own, "10.0.0.1"), "");
        assert_eq!(said(&ours.pem, &own, "10.0.0.1"), UNKNOWN);
        assert_eq!(said(&own.pem, &make(&["10.0.0.1"], |_| {}, Some(&own)), "10.0.0.1"), UNKNOWN);
        let both = make(&["10.0.0.1"], |params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained), None);
        assert_eq!(said(&both.pem, &both, "10.0.0.1"), "");
        let no_signer = authority(&[KeyUsagePurpose::DigitalSignature]);
        assert_eq!(said(&no_signer.pem, &make(&["10.0.0.1"], |_| {}, Some(&no_signer)), "10.0.0.1"), UNKNOWN);
        let signer = authority(&[KeyUsagePurpose::KeyCertSign]);
        assert_eq!(said(&signer.pem, &make(&["10.0.0.1"], |_| {}, Some(&signer)), "10.0.0.1"), "");
    }

    #[test]
    fn names_usages_and_times() {
        let ours = authority(&[]);
        let leaf = |names: &[&str], usages: &[ExtendedKeyUsagePurpose]| {
            make(names, |params| params.extended_key_usages = usages.to_vec(), Some(&ours))
        };
        let named = make(&[], |params| params.distinguished_name.push(rcgen::DnType::CommonName, "n"), Some(&ours));
        let (server, client) = (ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth);
        let usage = "x509: certificate specifies an incompatible key usage";
        for (leaf, host, expected) in [
            (leaf(&["n"], &[]), "n", ""),
            (leaf(&["10.0.0.1", "10.0.0.2"], &[]), "10.0.0.3", "x509: certificate is valid for 10.0.0.1, 10.0.0.2, not 10.0.0.3"),
            (
                leaf(&["n"], &[]),
                "10.0.0.1",
                "x509: cannot validate certificate for 10.0.0.1 because it doesn't contain any IP SANs",
            ),
            (leaf(&["n"], &[]), "m", "x509: certificate is valid for n, not m"),
            (named, "n", "x509: certificate relies on legacy Common Name field, use SANs instead"),
            (leaf(&[], &[]), "n", "x509: certificate is not valid for any names, but wanted to match n"),
            (leaf(&["n"], &[client.clone(), server]), "n", ""),
            (leaf(&["n"], std::slice::from_ref(&client)), "n", usage),
        ] {
            assert_eq!(said(&ours.pem, &leaf, host), expected);
        }
        let own = make(&["n"], |params| params.extended_key_usages = vec![client], None);
        assert_eq!(said(&own.pem, &own, "n"), usage, "its own authority");
        let old = make(&["n"], |params| params.not_after = rcgen::date_time_ymd(2020, 1, 1), Some(&ours));
        let error = said(&ours.pem, &old, "n");
        assert!(error.starts_with("x509: certificate has expired or is not yet valid: current time "), "{error}");
        assert!(error.ends_with(" is after 2020-01-01T00:00:00Z"), "{error}");
        let early = make(&["n"], |params| params.not_before = rcgen::date_time_ymd(4000, 1, 1), Some(&ours));
        assert!(said(&ours.pem, &early, "n").ends_with(" is before 4000-01-01T00:00:00Z"));
    }
}
