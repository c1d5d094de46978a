//! Making certificates, and deciding whether one on disk can be kept.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use ::serving::KeyCert;
use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{PkiError, store};

/// Upstream's (kubeadm's) lifetimes.
const LIFETIME_CA: SignedDuration = SignedDuration::from_hours(24 * 3650);
const LIFETIME_LEAF: SignedDuration = SignedDuration::from_hours(24 * 365);
/// A certificate is valid from a little before it was made, for peers whose clock is behind.
const BACKDATE: SignedDuration = SignedDuration::from_mins(5);

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Server,
    Client,
}

pub(super) struct CaSpec {
    pub(super) file: &'static str,
    pub(super) common_name: &'static str,
}

pub(super) struct LeafSpec {
    file: String,
    common_name: String,
    organization: Option<String>,
    purpose: Purpose,
    names: BTreeSet<String>,
    ips: BTreeSet<IpAddr>,
}

impl LeafSpec {
    pub(super) fn new(
        file: &str,
        common_name: &str,
        organization: Option<&str>,
        purpose: Purpose,
        names: Vec<String>,
        ips: Vec<IpAddr>,
    ) -> Self {
        Self {
            file: file.to_owned(),
            common_name: common_name.to_owned(),
            organization: organization.map(str::to_owned),
            purpose,
            names: names.into_iter().filter(|n| !n.is_empty()).collect(),
            ips: ips.into_iter().collect(),
        }
    }

    pub(super) fn client(file: &str, common_name: &str, organization: Option<&str>) -> Self {
        Self::new(file, common_name, organization, Purpose::Client, Vec::new(), Vec::new())
    }
}

fn generate_error(name: &str) -> impl FnOnce(rcgen::Error) -> PkiError {
    let name = name.to_owned();
    move |source| PkiError::Generate { name, source }
}

fn base_params(not_before: Timestamp, not_after: Timestamp) -> CertificateParams {
    // rcgen's own date type comes from a crate we do not otherwise need: count seconds from the epoch instead.
    let at = |t: Timestamp| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(u64::try_from(t.as_second()).unwrap_or(0));
    let mut params = CertificateParams::default();
    params.not_before = at(not_before);
    params.not_after = at(not_after);
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
}

/// Loads a CA, or makes it when neither of its files exists.
pub(super) fn load_or_create_ca(dir: &Path, spec: &CaSpec, now: Timestamp) -> Result<(String, String), PkiError> {
    let (cert_path, key_path) = (dir.join(format!("{}.crt", spec.file)), dir.join(format!("{}.key", spec.file)));
    let key = match (store::read(&cert_path)?, store::read(&key_path)?) {
        (Some(cert), Some(key)) => {
            issuer(dir, spec.file, &cert, &key)?;
            store::restrict(&key_path)?;
            return Ok((cert, key));
        }
        (Some(_), None) => {
            return Err(PkiError::Unusable { path: key_path, reason: "the file is missing".to_owned() });
        }
        // A first start that was interrupted between its two writes: a certificate for the same key is as good.
        (None, Some(pem)) => {
            KeyPair::from_pem(&pem).map_err(|e| PkiError::Unusable { path: key_path.clone(), reason: e.to_string() })?
        }
        (None, None) => KeyPair::generate().map_err(generate_error(spec.file))?,
    };
    let mut params = base_params(now - BACKDATE, now + LIFETIME_CA);
    params.distinguished_name.push(DnType::CommonName, spec.common_name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let cert = params.self_signed(&key).map_err(generate_error(spec.file))?.pem();
    let key_pem = key.serialize_pem();
    store::write(&key_path, &key_pem, store::Sync::Yes)?;
    store::write(&cert_path, &cert, store::Sync::Yes)?;
    Ok((cert, key_pem))
}

/// The CA as something that signs; checks that key and certificate belong together.
pub(super) fn issuer(dir: &Path, file: &str, cert_pem: &str, key_pem: &str) -> Result<Issuer<'static, KeyPair>, PkiError> {
    let unusable = |ending: &str, reason: String| PkiError::Unusable { path: dir.join(format!("{file}.{ending}")), reason };
    let key = KeyPair::from_pem(key_pem).map_err(|e| unusable("key", e.to_string()))?;
    let der = pem_to_der(cert_pem).ok_or_else(|| unusable("crt", "not a PEM certificate".to_owned()))?;
    let (_, parsed) = X509Certificate::from_der(&der).map_err(|e| unusable("crt", e.to_string()))?;
    if parsed.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
        return Err(unusable("crt", "its key is not the one beside it".to_owned()));
    }
    Issuer::from_ca_cert_pem(cert_pem, key).map_err(|e| unusable("crt", e.to_string()))
}

/// Loads a leaf that still fits `spec`, or makes a new one; the flag says which.
pub(super) fn load_or_create(
    dir: &Path,
    spec: &LeafSpec,
    issuer: &Issuer<'_, KeyPair>,
    ca_pem: &str,
    now: Timestamp,
) -> Result<(KeyCert, bool), PkiError> {
    let (cert_path, key_path) = (dir.join(format!("{}.crt", spec.file)), dir.join(format!("{}.key", spec.file)));
    if let (Ok(Some(cert_pem)), Ok(Some(key_pem))) = (store::read(&cert_path), store::read(&key_path)) {
        let pair = KeyCert { cert_pem, key_pem };
        if still_fits(&pair, spec, ca_pem, now).unwrap_or(false) {
            store::restrict(&key_path)?;
            return Ok((pair, false));
        }
        tracing::info!(certificate = spec.file, "replacing a certificate that no longer fits or expires soon");
    }
    let pair = make(spec, issuer, now)?;
    store::write(&key_path, &pair.key_pem, store::Sync::No)?;
    store::write(&cert_path, &pair.cert_pem, store::Sync::No)?;
    Ok((pair, true))
}

pub(super) fn make(spec: &LeafSpec, issuer: &Issuer<'_, KeyPair>, now: Timestamp) -> Result<KeyCert, PkiError> {
    let key = KeyPair::generate().map_err(generate_error(&spec.file))?;
    let mut params = base_params(now - BACKDATE, now + LIFETIME_LEAF);
    if let Some(organization) = &spec.organization {
        params.distinguished_name.push(DnType::OrganizationName, organization.as_str());
    }
    params.distinguished_name.push(DnType::CommonName, spec.common_name.as_str());
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![match spec.purpose {
        Purpose::Server => ExtendedKeyUsagePurpose::ServerAuth,
        Purpose::Client => ExtendedKeyUsagePurpose::ClientAuth,
    }];
    params.use_authority_key_identifier_extension = true;
    for name in &spec.names {
        params.subject_alt_names.push(SanType::DnsName(name.as_str().try_into().map_err(generate_error(&spec.file))?));
    }
    params.subject_alt_names.extend(spec.ips.iter().map(|ip| SanType::IpAddress(*ip)));
    let cert = params.signed_by(&key, issuer).map_err(generate_error(&spec.file))?;
    Ok(KeyCert { cert_pem: cert.pem(), key_pem: key.serialize_pem() })
}

/// `None` when the files do not even parse.
fn still_fits(pair: &KeyCert, spec: &LeafSpec, ca_pem: &str, now: Timestamp) -> Option<bool> {
    let (der, ca_der) = (pem_to_der(&pair.cert_pem)?, pem_to_der(ca_pem)?);
    let (_, cert) = X509Certificate::from_der(&der).ok()?;
    let (_, ca) = X509Certificate::from_der(&ca_der).ok()?;
    let key = KeyPair::from_pem(&pair.key_pem).ok()?;
    if cert.public_key().subject_public_key.data.as_ref() != key.public_key_raw() || !signed_by(&cert, &ca) {
        return Some(false);
    }
    if cert.issuer().as_raw() != ca.subject().as_raw() {
        return Some(false);
    }
    let (from, until) = (cert.validity().not_before.timestamp(), cert.validity().not_after.timestamp());
    if now.as_second() < from || now.as_second() > until - (until - from) / 3 {
        return Some(false);
    }
    let subject = cert.subject();
    let common_name = subject.iter_common_name().next().and_then(|a| a.as_str().ok());
    let organization = subject.iter_organization().next().and_then(|a| a.as_str().ok());
    if common_name != Some(spec.common_name.as_str()) || organization != spec.organization.as_deref() {
        return Some(false);
    }
    let (mut names, mut ips) = (BTreeSet::new(), BTreeSet::new());
    for general in cert.subject_alternative_name().ok()?.map(|san| san.value.general_names.as_slice()).unwrap_or_default() {
        match general {
            GeneralName::DNSName(name) => _ = names.insert((*name).to_owned()),
            GeneralName::IPAddress(bytes) => _ = ips.insert(ip_from_bytes(bytes)?),
            _ => return Some(false),
        }
    }
    Some(names == spec.names && ips == spec.ips)
}

/// Whether the CA's key signed the certificate. CAs made here are ECDSA P-256; one brought along may be RSA.
fn signed_by(cert: &X509Certificate<'_>, ca: &X509Certificate<'_>) -> bool {
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey, VerificationAlgorithm};
    let key = ca.public_key().subject_public_key.data.as_ref();
    let algorithms: [&'static dyn VerificationAlgorithm; 2] = [&ECDSA_P256_SHA256_ASN1, &RSA_PKCS1_2048_8192_SHA256];
    algorithms.into_iter().any(|algorithm| {
        UnparsedPublicKey::new(algorithm, key).verify(cert.tbs_certificate.as_ref(), cert.signature_value.data.as_ref()).is_ok()
    })
}

fn ip_from_bytes(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        16 => Some(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?)),
        _ => None,
    }
}

/// The first certificate of a PEM text.
pub(super) fn pem_to_der(pem: &str) -> Option<Vec<u8>> {
    use rustls_pki_types::CertificateDer;
    use rustls_pki_types::pem::PemObject;
    CertificateDer::from_pem_slice(pem.as_bytes()).ok().map(|der| der.to_vec())
}
