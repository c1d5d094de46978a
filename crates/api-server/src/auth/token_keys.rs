//! The keys behind ServiceAccount tokens: one that signs, and all that verify.
//!
//! Owns reading them from PEM (RSA, ECDSA P-256 and P-384; private keys in PKCS#8, PKCS#1 or SEC 1, public ones as SPKI or in a
//! certificate) and their JSON Web Keys (RFC 7517). The key id is upstream's: SHA-256 of the public key's SPKI.

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm, KeyPair, RsaKeyPair,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey};
use rustls_pki_types::pem::{PemObject, SectionKind};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

/// A key cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("a ServiceAccount key is not usable: {0}")]
pub struct KeyError(String);

impl KeyError {
    fn new(reason: impl std::fmt::Display) -> Self {
        Self(reason.to_string())
    }
}

/// Signs tokens.
pub(super) struct SigningKey {
    pub(super) algorithm: Algorithm,
    pub(super) encoding: EncodingKey,
    pub(super) key_id: String,
}

/// Verifies tokens.
pub(super) struct VerifyingKey {
    pub(super) algorithm: Algorithm,
    pub(super) decoding: DecodingKey,
    pub(super) key_id: String,
    /// As in the key set.
    pub(super) jwk: Value,
}

/// The private key of a PEM text, with its public half.
pub(super) fn signing_key(pem: &str) -> Result<(SigningKey, VerifyingKey), KeyError> {
    for (kind, der) in sections(pem)? {
        let Some((algorithm, encoding, spki)) = private_key(pem, kind, &der)? else { continue };
        let verifying = verifying_key(&spki)?;
        return Ok((SigningKey { algorithm, encoding, key_id: verifying.key_id.clone() }, verifying));
    }
    Err(KeyError::new("there is no private key in the PEM text"))
}

/// All keys of a PEM text: public ones, those of certificates, and the public halves of private ones.
pub(super) fn verifying_keys(pem: &str) -> Result<Vec<VerifyingKey>, KeyError> {
    let mut keys = Vec::new();
    for (kind, der) in sections(pem)? {
        match kind {
            SectionKind::PublicKey => keys.push(verifying_key(&der)?),
            SectionKind::Certificate => {
                let (_, certificate) = X509Certificate::from_der(&der).map_err(KeyError::new)?;
                keys.push(verifying_key(certificate.public_key().raw)?);
            }
            _ => {
                if let Some((_, _, spki)) = private_key(pem, kind, &der)? {
                    keys.push(verifying_key(&spki)?);
                }
            }
        }
    }
    if keys.is_empty() { Err(KeyError::new("there is no key in the PEM text")) } else { Ok(keys) }
}

fn sections(pem: &str) -> Result<Vec<(SectionKind, Vec<u8>)>, KeyError> {
    <(SectionKind, Vec<u8>)>::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().map_err(KeyError::new)
}

type Private = (Algorithm, EncodingKey, Vec<u8>);

/// A private key's algorithm, the key itself and the SPKI of its public half; `None` if the section is something else.
fn private_key(pem: &str, kind: SectionKind, der: &[u8]) -> Result<Option<Private>, KeyError> {
    let rsa = match kind {
        SectionKind::RsaPrivateKey => Some(RsaKeyPair::from_der(der).map_err(KeyError::new)?),
        SectionKind::PrivateKey => RsaKeyPair::from_pkcs8(der).ok(),
        SectionKind::EcPrivateKey => None,
        _ => return Ok(None),
    };
    if let Some(pair) = rsa {
        let encoding = EncodingKey::from_rsa_pem(pem.as_bytes()).map_err(KeyError::new)?;
        let spki: PublicKeyX509Der<'_> = pair.public_key().as_der().map_err(KeyError::new)?;
        return Ok(Some((Algorithm::RS256, encoding, spki.as_ref().to_vec())));
    }
    let curves: [(&'static EcdsaSigningAlgorithm, Algorithm); 2] =
        [(&ECDSA_P256_SHA256_FIXED_SIGNING, Algorithm::ES256), (&ECDSA_P384_SHA384_FIXED_SIGNING, Algorithm::ES384)];
    for (curve, algorithm) in curves {
        let Ok(pair) = EcdsaKeyPair::from_private_key_der(curve, der) else { continue };
        let pkcs8 = pair.to_pkcs8v1().map_err(KeyError::new)?;
        let spki: PublicKeyX509Der<'_> = pair.public_key().as_der().map_err(KeyError::new)?;
        return Ok(Some((algorithm, EncodingKey::from_ec_der(pkcs8.as_ref()), spki.as_ref().to_vec())));
    }
    Err(KeyError::new("neither RSA nor ECDSA on P-256 or P-384"))
}

fn verifying_key(spki: &[u8]) -> Result<VerifyingKey, KeyError> {
    let key_id = URL_SAFE_NO_PAD.encode(Sha256::digest(spki));
    let (_, info) = SubjectPublicKeyInfo::from_der(spki).map_err(KeyError::new)?;
    let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    match info.parsed().map_err(KeyError::new)? {
        PublicKey::RSA(key) => {
            let modulus = &key.modulus[key.modulus.iter().take_while(|byte| **byte == 0).count()..];
            let jwk = json!({
                "use": "sig", "kty": "RSA", "kid": key_id, "alg": "RS256", "n": text(modulus), "e": text(key.exponent),
            });
            let decoding = DecodingKey::from_rsa_raw_components(modulus, key.exponent);
            Ok(VerifyingKey { algorithm: Algorithm::RS256, decoding, key_id, jwk })
        }
        PublicKey::EC(point) => {
            // Uncompressed (SEC 1): 4, x, y.
            let (algorithm, name, curve, half) = match point.data().len() {
                65 => (Algorithm::ES256, "ES256", "P-256", 32),
                97 => (Algorithm::ES384, "ES384", "P-384", 48),
                _ => return Err(KeyError::new("an ECDSA key on another curve than P-256 and P-384")),
            };
            let (x, y) = (text(&point.data()[1..=half]), text(&point.data()[1 + half..]));
            let jwk = json!({"use": "sig", "kty": "EC", "kid": key_id, "crv": curve, "alg": name, "x": x, "y": y});
            let decoding = DecodingKey::from_ec_components(&x, &y).map_err(KeyError::new)?;
            Ok(VerifyingKey { algorithm, decoding, key_id, jwk })
        }
        _ => Err(KeyError::new("neither RSA nor ECDSA")),
    }
}
