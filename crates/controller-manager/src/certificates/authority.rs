//! Signs certificates (upstream's `pkg/controller/certificates/authority`, the permissive policy).
//!
//! The certificate is encoded here: the subject must come out as it was asked for, with each of several organizations, which are groups.

use std::net::IpAddr;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use rcgen::{KeyPair, PublicKeyData, SigningKey};
use x509_parser::pem::Pem;
use x509_parser::prelude::{FromDer, ParsedExtension, X509Certificate};

use super::der;
use super::request::Request;

/// Certificates are valid from a little before they are made, for peers whose clock is behind.
const BACKDATE: Duration = Duration::from_secs(5 * 60);
/// A life shorter than this is not cut by the time that it was backdated.
const SHORT: Duration = Duration::from_secs(8 * 3600);
/// Key usages in the order of their bits; `signing` is another word for the first.
const USAGES: [&str; 9] = [
    "digital signature",
    "content commitment",
    "key encipherment",
    "data encipherment",
    "key agreement",
    "cert sign",
    "crl sign",
    "encipher only",
    "decipher only",
];
const PURPOSE: [u64; 8] = [1, 3, 6, 1, 5, 5, 7, 3];
/// Extended usages in upstream's order, with the last arc below [`PURPOSE`], or the whole identifier.
const EXTENDED: [(&str, &[u64]); 13] = [
    ("any", &[2, 5, 29, 37, 0]),
    ("server auth", &[1]),
    ("client auth", &[2]),
    ("code signing", &[3]),
    ("email protection", &[4]),
    ("s/mime", &[4]),
    ("ipsec end system", &[5]),
    ("ipsec tunnel", &[6]),
    ("ipsec user", &[7]),
    ("timestamping", &[8]),
    ("ocsp signing", &[9]),
    ("microsoft sgc", &[1, 3, 6, 1, 4, 1, 311, 10, 3, 3]),
    ("netscape sgc", &[2, 16, 840, 1, 113730, 4, 1]),
];

/// A CA that signs.
pub(super) struct Authority {
    key: KeyPair,
    subject: Vec<u8>,
    key_id: Option<Vec<u8>>,
    not_after: Timestamp,
    algorithm: Vec<u8>,
}

/// The AlgorithmIdentifier of signatures by a key.
fn algorithm(key: &KeyPair) -> Result<Vec<u8>, String> {
    let null = || vec![0x05, 0x00];
    let ecdsa = |last| der::sequence(&[der::oid(&[1, 2, 840, 10045, 4, 3, last])]);
    let rsa = |last| der::sequence(&[der::oid(&[1, 2, 840, 113_549, 1, 1, last]), null()]);
    let known = [
        (&rcgen::PKCS_ECDSA_P256_SHA256, ecdsa(2)),
        (&rcgen::PKCS_ECDSA_P384_SHA384, ecdsa(3)),
        (&rcgen::PKCS_ECDSA_P521_SHA512, ecdsa(4)),
        (&rcgen::PKCS_RSA_SHA256, rsa(11)),
        (&rcgen::PKCS_RSA_SHA384, rsa(12)),
        (&rcgen::PKCS_RSA_SHA512, rsa(13)),
        (&rcgen::PKCS_ED25519, der::sequence(&[der::oid(&[1, 3, 101, 112])])),
    ];
    let found = known.into_iter().find(|(known, _)| *known == key.algorithm());
    found.map(|(_, identifier)| identifier).ok_or_else(|| "the CA's key is of a kind that cannot sign here".to_owned())
}

impl Authority {
    /// From a certificate and its key in PEM.
    pub(super) fn new(cert_pem: &str, key_pem: &str) -> Result<Self, String> {
        let blocks: Vec<Pem> = Pem::iter_from_buffer(cert_pem.as_bytes()).filter_map(Result::ok).collect();
        let [block] = blocks.as_slice() else {
            return Err(format!("expected 1 certificate, found {}", blocks.len()));
        };
        let (_, certificate) = X509Certificate::from_der(&block.contents).map_err(|error| error.to_string())?;
        let key = KeyPair::from_pem(key_pem).map_err(|error| error.to_string())?;
        if certificate.public_key().subject_public_key.data.as_ref() != key.der_bytes() {
            return Err("the key is not the certificate's".to_owned());
        }
        let key_id = certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
            _ => None,
        });
        let not_after =
            Timestamp::from_second(certificate.validity().not_after.timestamp()).map_err(|error| error.to_string())?;
        Ok(Self { subject: certificate.subject().as_raw().to_vec(), key_id, not_after, algorithm: algorithm(&key)?, key })
    }

    /// The certificate in PEM.
    pub(super) fn sign(&self, request: &Request, usages: &[String], life: Duration, now: Timestamp) -> Result<String, String> {
        let until = if life < SHORT { life } else { life - BACKDATE };
        let not_after = now.checked_add(until).map_err(|error| error.to_string())?.min(self.not_after);
        if now >= self.not_after {
            return Err(format!("refusing to sign a certificate that expired in the past: NotAfter={}", self.not_after));
        }
        let serial: [u8; 16] = rand::random();
        let content = der::sequence(&[
            der::tlv(0xa0, &der::integer(&[2])),
            der::integer(&serial),
            self.algorithm.clone(),
            self.subject.clone(),
            der::sequence(&[der::time(now - jiff::SignedDuration::from_secs(BACKDATE.as_secs() as i64)), der::time(not_after)]),
            request.subject.clone(),
            request.public_key.clone(),
            der::tlv(0xa3, &der::sequence(&self.extensions(request, usages)?)),
        ]);
        let signature = self.key.sign(&content).map_err(|error| error.to_string())?;
        let certificate = der::sequence(&[content, self.algorithm.clone(), der::bit_string(&signature)]);
        Ok(pem("CERTIFICATE", &certificate))
    }

    fn extensions(&self, request: &Request, usages: &[String]) -> Result<Vec<Vec<u8>>, String> {
        let (bits, purposes) = encode_usages(usages)?;
        let mut extensions = Vec::new();
        if !bits.is_empty() {
            extensions.push(extension(&[2, 5, 29, 15], true, &der::bits(&bits)));
        }
        if !purposes.is_empty() {
            extensions.push(extension(&[2, 5, 29, 37], false, &der::sequence(&purposes)));
        }
        // Not a CA.
        extensions.push(extension(&[2, 5, 29, 19], true, &der::sequence(&[])));
        if let Some(id) = &self.key_id {
            extensions.push(extension(&[2, 5, 29, 35], false, &der::sequence(&[der::tlv(0x80, id)])));
        }
        let names = alternative_names(request);
        if !names.is_empty() {
            let only_names = request.subject == der::sequence(&[]);
            extensions.push(extension(&[2, 5, 29, 17], only_names, &der::sequence(&names)));
        }
        Ok(extensions)
    }
}

fn extension(id: &[u64], critical: bool, value: &[u8]) -> Vec<u8> {
    let critical = if critical { vec![0x01, 0x01, 0xff] } else { Vec::new() };
    der::sequence(&[der::oid(id), critical, der::tlv(der::OCTET_STRING, value)])
}

fn alternative_names(request: &Request) -> Vec<Vec<u8>> {
    let texts = |tag: u8, names: &[String]| names.iter().map(|name| der::tlv(tag, name.as_bytes())).collect::<Vec<_>>();
    let ip = |ip: &IpAddr| match ip {
        IpAddr::V4(ip) => der::tlv(0x87, &ip.octets()),
        IpAddr::V6(ip) => der::tlv(0x87, &ip.octets()),
    };
    let mut names = texts(0x82, &request.dns_names);
    names.extend(texts(0x81, &request.emails));
    names.extend(request.ips.iter().map(ip));
    names.extend(texts(0x86, &request.uris));
    names
}

/// The bits of the key usage, and the identifiers of the extended ones.
fn encode_usages(usages: &[String]) -> Result<(Vec<u8>, Vec<Vec<u8>>), String> {
    let known = |usage: &str| usage == "signing" || USAGES.contains(&usage) || EXTENDED.iter().any(|(name, _)| *name == usage);
    let unknown: Vec<&String> = usages.iter().filter(|usage| !known(usage)).collect();
    if !unknown.is_empty() {
        return Err(format!("unrecognized usage values: {unknown:?}"));
    }
    let asked = |name: &str| usages.iter().any(|usage| usage == name);
    let bit = |(bit, name): (usize, &&str)| {
        let set = asked(name) || (bit == 0 && asked("signing"));
        set.then_some(bit as u8)
    };
    let bits = USAGES.iter().enumerate().filter_map(bit).collect();
    let mut purposes: Vec<Vec<u8>> = Vec::new();
    for (_, arcs) in EXTENDED.iter().filter(|(name, _)| asked(name)) {
        let id = if arcs.len() == 1 { der::oid(&[&PURPOSE[..], arcs].concat()) } else { der::oid(arcs) };
        if !purposes.contains(&id) {
            purposes.push(id);
        }
    }
    Ok((bits, purposes))
}

fn pem(label: &str, bytes: &[u8]) -> String {
    let encoded = STANDARD.encode(bytes);
    let lines: Vec<&str> = encoded.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::super::request::parse;
    use super::*;

    fn ca(algorithm: &'static rcgen::SignatureAlgorithm) -> (String, String) {
        let key = KeyPair::generate_for(algorithm).expect("a key");
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, "test-ca");
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        (params.self_signed(&key).expect("a certificate").pem(), key.serialize_pem())
    }

    #[test]
    fn certificates_say_what_was_asked_for() {
        let now: Timestamp = "2026-01-01T12:00:00Z".parse().expect("a time");
        for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
            let (cert, key) = ca(algorithm);
            let authority = Authority::new(&cert, &key).expect("a CA");
            let asker = KeyPair::generate().expect("a key");
            let mut params = rcgen::CertificateParams::new(vec!["a.example".to_owned(), "::1".to_owned()]).expect("names");
            params.distinguished_name = rcgen::DistinguishedName::new();
            params.distinguished_name.push(rcgen::DnType::CommonName, "bob");
            let pem = params.serialize_request(&asker).expect("a request").pem().expect("PEM");
            let request = parse(pem.as_bytes()).expect("parses");
            let usages = ["digital signature", "key encipherment", "client auth", "server auth"].map(str::to_owned);
            let signed = authority.sign(&request, &usages, Duration::from_secs(24 * 3600), now).expect("is signed");

            let block = Pem::iter_from_buffer(signed.as_bytes()).next().expect("a block").expect("PEM");
            let (rest, parsed) = X509Certificate::from_der(&block.contents).expect("parses");
            assert!(rest.is_empty());
            let ca_block = Pem::iter_from_buffer(cert.as_bytes()).next().expect("a block").expect("PEM");
            let (_, ca) = X509Certificate::from_der(&ca_block.contents).expect("parses");
            parsed.verify_signature(Some(ca.public_key())).expect("the CA signed it");
            assert_eq!(parsed.issuer().as_raw(), ca.subject().as_raw());
            assert_eq!(parsed.subject().to_string(), "CN=bob");
            assert_eq!(parsed.public_key().subject_public_key.data.as_ref(), asker.der_bytes());
            let seconds = |time: x509_parser::time::ASN1Time| time.timestamp() - now.as_second();
            assert_eq!(seconds(parsed.validity().not_before), -300);
            assert_eq!(seconds(parsed.validity().not_after), 24 * 3600 - 300);
            let usage = parsed.key_usage().expect("parses").expect("is there").value;
            assert!(usage.digital_signature() && usage.key_encipherment() && !usage.key_cert_sign());
            let purposes = parsed.extended_key_usage().expect("parses").expect("is there").value;
            assert!(purposes.client_auth && purposes.server_auth && !purposes.any);
            assert!(!parsed.is_ca());
            let names = parsed.subject_alternative_name().expect("parses").expect("is there");
            assert_eq!(names.value.general_names.len(), 2);
        }
    }

    #[test]
    fn lives_end_with_the_authority() {
        let (cert, key) = ca(&rcgen::PKCS_ECDSA_P256_SHA256);
        let authority = Authority::new(&cert, &key).expect("a CA");
        let late = authority.not_after + jiff::SignedDuration::from_hours(1);
        let refused = authority.sign(&Request::default(), &[], Duration::from_secs(3600), late);
        assert!(refused.expect_err("is refused").starts_with("refusing to sign a certificate that expired in the past"));
        let unknown = authority.sign(&Request::default(), &["x".to_owned()], Duration::from_secs(3600), Timestamp::UNIX_EPOCH);
        assert_eq!(unknown.expect_err("is refused"), "unrecognized usage values: [\"x\"]");
        let (other, _) = ca(&rcgen::PKCS_ECDSA_P256_SHA256);
        assert!(Authority::new(&other, &key).is_err());
    }
}
