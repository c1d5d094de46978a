//! Whether text from clients is what it says: certificate requests and certificates, base64 of PEM.

use ::serving::Names;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::pem::Pem;
use x509_parser::prelude::{FromDer, X509Certificate};

fn decode(base64: &str) -> Vec<u8> {
    STANDARD.decode(base64).unwrap_or_default()
}

/// Whether the bytes are one request in PEM, signed with its own key. The messages are upstream's.
pub(crate) fn check_request(base64: &str) -> Result<(), String> {
    with_request(base64, |request| request.verify_signature().map_err(|error| error.to_string()))
}

/// The organizations, which are a client's groups, in a request's subject.
pub(crate) fn requested_organizations(base64: &str) -> Result<Vec<String>, String> {
    with_request(base64, |request| Ok(Names::of(&request.certification_request_info.subject).organizations))
}

/// The common name, which is a client's user name, in a request's subject.
pub(crate) fn requested_name(base64: &str) -> Result<String, String> {
    with_request(base64, |request| Ok(Names::of(&request.certification_request_info.subject).common_name))
}

fn with_request<T>(base64: &str, read: impl FnOnce(&X509CertificationRequest) -> Result<T, String>) -> Result<T, String> {
    let bytes = decode(base64);
    let block = Pem::iter_from_buffer(&bytes).next().and_then(Result::ok);
    let Some(block) = block.filter(|block| block.label == "CERTIFICATE REQUEST") else {
        return Err("PEM block type must be CERTIFICATE REQUEST".into());
    };
    let (_, request) = X509CertificationRequest::from_der(&block.contents).map_err(|error| error.to_string())?;
    read(&request)
}

/// Whether the bytes are certificates in PEM, or nothing.
pub(crate) fn check_certificate(base64: &str) -> Result<(), String> {
    let bytes = decode(base64);
    if bytes.is_empty() {
        return Ok(());
    }
    let mut blocks = 0;
    for block in Pem::iter_from_buffer(&bytes) {
        let block = block.map_err(|error| error.to_string())?;
        if block.label != "CERTIFICATE" {
            return Err(format!("only CERTIFICATE PEM blocks are allowed, found {}", apimachinery::go_quote(&block.label)));
        }
        X509Certificate::from_der(&block.contents).map_err(|error| error.to_string())?;
        blocks += 1;
    }
    if blocks == 0 { Err("must contain at least one CERTIFICATE PEM block".into()) } else { Ok(()) }
}

/// For how many seconds the first certificate is valid.
pub(crate) fn lifetime_seconds(base64: &str) -> Option<i64> {
    let bytes = decode(base64);
    let block = Pem::iter_from_buffer(&bytes).filter_map(Result::ok).find(|block| block.label == "CERTIFICATE")?;
    let (_, certificate) = X509Certificate::from_der(&block.contents).ok()?;
    Some(certificate.validity().not_after.timestamp() - certificate.validity().not_before.timestamp())
}

/// What is wrong with the certificates of a trust bundle; the messages are upstream's.
pub(crate) fn trust_anchor_problems(text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let mut anchors: Vec<(Vec<u8>, Vec<usize>)> = Vec::new();
    // What is no PEM is passed over.
    for (at, block) in Pem::iter_from_buffer(text.as_bytes()).filter_map(Result::ok).enumerate() {
        if block.label != "CERTIFICATE" {
            problems.push(format!("entry {at} has bad block type: {}", block.label));
            continue;
        }
        let Ok((_, certificate)) = X509Certificate::from_der(&block.contents) else {
            problems.push(format!("entry {at} does not parse as X.509"));
            continue;
        };
        if !certificate.is_ca() {
            problems.push(format!("entry {at} does not have the CA bit set"));
            continue;
        }
        match anchors.iter_mut().find(|(known, _)| *known == block.contents) {
            Some((_, places)) => places.push(at),
            None => anchors.push((block.contents.clone(), vec![at])),
        }
    }
    if !problems.is_empty() {
        return problems;
    }
    if anchors.is_empty() {
        problems.push("at least one trust anchor must be provided".to_owned());
    }
    for (_, places) in anchors.iter().filter(|(_, places)| places.len() > 1) {
        let places: Vec<String> = places.iter().map(ToString::to_string).collect();
        problems.push(format!("duplicate trust anchor (indices [{}])", places.join(" ")));
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_certificates() {
        let key = rcgen::KeyPair::generate().expect("a key");
        let params = rcgen::CertificateParams::default();
        let request = params.serialize_request(&key).expect("a request").pem().expect("PEM");
        let certificate = params.self_signed(&key).expect("a certificate").pem();
        let (request, certificate) = (STANDARD.encode(request), STANDARD.encode(certificate));
        assert_eq!(check_request(&request), Ok(()));
        assert!(check_request(&certificate).is_err());
        assert!(check_request("").is_err());
        assert_eq!(check_certificate(&certificate), Ok(()));
        assert_eq!(check_certificate(""), Ok(()));
        assert_eq!(check_certificate("eA==").unwrap_err(), "must contain at least one CERTIFICATE PEM block");
        assert!(check_certificate(&request).unwrap_err().starts_with("only CERTIFICATE PEM blocks"));
    }
}
