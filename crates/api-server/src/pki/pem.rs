//! Whether text from clients is what it says: certificate requests and certificates, base64 of PEM.

use ::serving::Names;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::blocks::{Block, blocks};

const CERTIFICATE: &str = "CERTIFICATE";

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
    let Some(block) = blocks(&bytes).next().filter(|block| block.label == "CERTIFICATE REQUEST") else {
        return Err("PEM block type must be CERTIFICATE REQUEST".into());
    };
    match X509CertificationRequest::from_der(&block.contents).map_err(|error| error.to_string())? {
        ([], request) => read(&request),
        _ => Err("asn1: syntax error: trailing data".into()),
    }
}

/// The certificates of a block, one behind the other.
fn certificates(block: &Block) -> Result<Vec<X509Certificate<'_>>, String> {
    let (mut rest, mut found) = (block.contents.as_slice(), Vec::new());
    while !rest.is_empty() {
        let certificate;
        (rest, certificate) = X509Certificate::from_der(rest).map_err(|error| error.to_string())?;
        found.push(certificate);
    }
    Ok(found)
}

/// Whether the bytes are certificates in PEM, or nothing. The messages are upstream's.
pub(crate) fn check_certificate(base64: &str) -> Result<(), String> {
    let bytes = decode(base64);
    if bytes.is_empty() {
        return Ok(());
    }
    let mut any = false;
    for block in blocks(&bytes) {
        if block.label != CERTIFICATE {
            return Err(format!("only CERTIFICATE PEM blocks are allowed, found {}", apimachinery::go_quote(&block.label)));
        }
        if block.has_headers {
            return Err("no PEM block headers are permitted".into());
        }
        if certificates(&block)?.is_empty() {
            return Err("found CERTIFICATE PEM block containing 0 certificates".into());
        }
        any = true;
    }
    if any { Ok(()) } else { Err("must contain at least one CERTIFICATE PEM block".into()) }
}

/// For how many seconds the first certificate is valid; `None` if they are not all certificates.
pub(crate) fn lifetime_seconds(base64: &str) -> Option<i64> {
    let bytes = decode(base64);
    let blocks = blocks(&bytes).filter(|block| block.label == CERTIFICATE && !block.has_headers);
    let lifetime = |block: Block| match certificates(&block).ok()?.as_slice() {
        [one] => Some(one.validity().not_after.timestamp() - one.validity().not_before.timestamp()),
        _ => None,
    };
    blocks.map(lifetime).collect::<Option<Vec<_>>>()?.first().copied()
}

/// What is wrong with the certificates of a trust bundle; the messages are upstream's.
pub(crate) fn trust_anchor_problems(text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let mut anchors: Vec<(Vec<u8>, Vec<usize>)> = Vec::new();
    // What is no PEM is passed over.
    for (at, block) in blocks(text.as_bytes()).enumerate() {
        if block.label != CERTIFICATE {
            problems.push(format!("entry {at} has bad block type: {}", block.label));
            continue;
        }
        if block.has_headers {
            problems.push(format!("entry {at} has PEM block headers"));
            continue;
        }
        let Ok(([], certificate)) = X509Certificate::from_der(&block.contents) else {
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

    #[test]
    fn what_stands_in_blocks() {
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        (params.not_before, params.not_after) = (rcgen::date_time_ymd(2026, 1, 1), rcgen::date_time_ymd(2026, 1, 2));
        let (request, certificate) = (params.serialize_request(&key).expect("signed"), params.self_signed(&key).expect("signed"));
        let block = |label: &str, headers: &str, parts: &[&[u8]]| {
            format!("-----BEGIN {label}-----\n{headers}{}\n-----END {label}-----\n", STANDARD.encode(parts.concat()))
        };
        let der = certificate.der().as_ref();
        let (plain, headed) = (block(CERTIFICATE, "", &[der]), block(CERTIFICATE, "Key: value\n\n", &[der]));
        let (twice, garbage, empty) =
            (block(CERTIFICATE, "", &[der, der]), block(CERTIFICATE, "", &[der, b"x"]), block(CERTIFICATE, "", &[]));
        let (day, headers) = (Some(24 * 60 * 60), "no PEM block headers are permitted");
        for (text, expected, anchors, lifetime) in [
            (plain.clone(), "", "", day),
            (headed.clone(), headers, "entry 0 has PEM block headers", None),
            (format!("{plain}{headed}"), headers, "entry 1 has PEM block headers", day),
            (twice, "", "entry 0 does not parse as X.509", None),
            (garbage, "Parsing", "entry 0 does not parse as X.509", None),
            (empty, "found CERTIFICATE PEM block containing 0 certificates", "entry 0 does not parse as X.509", None),
            (
                block("KEY", "", &[der]),
                "only CERTIFICATE PEM blocks are allowed, found \"KEY\"",
                "entry 0 has bad block type: KEY",
                None,
            ),
        ] {
            let encoded = STANDARD.encode(&text);
            let error = check_certificate(&encoded).err().unwrap_or_default();
            assert!(error.starts_with(expected) && error.is_empty() == expected.is_empty(), "{error:?} {text}");
            assert_eq!(trust_anchor_problems(&text).join(","), anchors, "{text}");
            assert_eq!(lifetime_seconds(&encoded), lifetime, "{text}");
        }
        let der = request.der().as_ref();
        for (text, expected) in [
            (block("CERTIFICATE REQUEST", "", &[der]), Ok(())),
            // Upstream takes these.
            (block("CERTIFICATE REQUEST", "Key: value\n\n", &[der]), Ok(())),
            (block("CERTIFICATE REQUEST", "", &[der, der]), Err("asn1: syntax error: trailing data")),
            (block("NEW CERTIFICATE REQUEST", "", &[der]), Err("PEM block type must be CERTIFICATE REQUEST")),
        ] {
            assert_eq!(check_request(&STANDARD.encode(&text)), expected.map_err(str::to_owned), "{text}");
        }
    }
}
