//! Client certificates: the common name is the user, the organizations are the groups.
//!
//! The TLS handshake accepts any client certificate whose key the client holds; whether it is signed by the cluster CA and still
//! valid is decided here, per request, so that a bad one is answered with 401 and a `Status` instead of a broken handshake.

use std::sync::Arc;
use std::time::Duration;

use ::serving::{Authorities, AuthoritiesThen, CertificateError, Subject, text_of};
use arc_swap::ArcSwapOption;
use jiff::Timestamp;
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::user::UserInfo;

/// Where a subject says its uid.
const UID_OID: &str = "1.3.6.1.4.1.57683.2";

/// Verifies client certificates against the cluster CA.
#[derive(Clone, Debug)]
pub struct CertificateAuthenticator {
    authorities: Authorities,
    /// Subjects may say their uid (`AllowParsingUserUIDFromCertAuth`).
    reads_uids: bool,
}

/// The certificate chain that a connection's client showed (leaf first), and what checking it came to.
#[derive(Clone, Debug)]
pub struct PeerCertificates {
    chain: Arc<[CertificateDer<'static>]>,
    /// Checking signatures costs more than all else that a small request does: done once a connection.
    verified: Arc<ArcSwapOption<Verified>>,
}

/// A chain that was found good.
#[derive(Debug)]
struct Verified {
    user: UserInfo,
    /// By whom: another authenticator trusts other authorities, and others may be trusted by now.
    by: AuthoritiesThen,
    /// When the first certificate of the chain expires, in seconds since 1970; it is checked in full (and refused) from then on.
    until: i64,
}

impl PeerCertificates {
    /// What a handshake ended with.
    pub fn new(chain: impl IntoIterator<Item = CertificateDer<'static>>) -> Self {
        Self { chain: chain.into_iter().collect(), verified: Arc::default() }
    }
}

impl CertificateAuthenticator {
    /// Trusts certificates signed by `ca_pem`.
    pub fn new(ca_pem: &str) -> Result<Self, CertificateError> {
        Ok(Self { authorities: Authorities::new(ca_pem)?, reads_uids: true })
    }

    /// Whose certificates these are.
    pub fn authorities(&self) -> &Authorities {
        &self.authorities
    }

    /// The same, which takes a user's uid from the certificate or does not.
    #[must_use]
    pub fn reading_uids(self, reads_uids: bool) -> Self {
        Self { reads_uids, ..self }
    }

    /// Whose certificate this is; the error says why it is not accepted.
    pub fn authenticate(&self, peer: &PeerCertificates, now: Timestamp) -> Result<UserInfo, String> {
        let authorities = self.authorities.now();
        if let Some(known) = peer.verified.load().as_ref()
            && known.by.are(&authorities)
            && now.as_second() < known.until
        {
            return Ok(known.user.clone());
        }
        let subject = verify(&authorities, peer, now)?.named()?;
        let credential = subject.credential();
        let mut user = UserInfo::authenticated(subject.common_name, subject.organizations);
        user.extra.extend([credential]);
        if self.reads_uids {
            user.uid = uid_of(&peer.chain)?;
        }
        let verified = Verified { user: user.clone(), by: authorities, until: expiry(&peer.chain)? };
        peer.verified.store(Some(Arc::new(verified)));
        Ok(user)
    }
}

/// Whom a chain names that the authorities have signed.
pub(super) fn verify(by: &AuthoritiesThen, peer: &PeerCertificates, now: Timestamp) -> Result<Subject, String> {
    by.verify(&peer.chain, UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(now.as_second()).unwrap_or(0))))
}

/// The uid that the subject of the first certificate says; empty if it says none.
fn uid_of(chain: &[CertificateDer<'_>]) -> Result<String, String> {
    let Some(leaf) = chain.first() else { return Ok(String::new()) };
    let (_, certificate) = X509Certificate::from_der(leaf).map_err(|e| e.to_string())?;
    let attributes = certificate.subject().iter_attributes().filter(|attribute| attribute.attr_type().to_id_string() == UID_OID);
    let uids = attributes.map(|attribute| text_of(attribute).ok_or_else(|| "unable to parse UID into a string".to_owned()));
    match uids.collect::<Result<Vec<_>, _>>()?.as_slice() {
        [] => Ok(String::new()),
        [uid] if uid.is_empty() => Err("UID cannot be an empty string".to_owned()),
        [uid] => Ok(uid.clone()),
        several => Err(format!("expected 1 UID, but found multiple: [{}]", several.join(" "))),
    }
}

/// When the first certificate of a chain expires, in seconds since 1970.
fn expiry(chain: &[CertificateDer<'_>]) -> Result<i64, String> {
    let mut until = i64::MAX;
    for der in chain {
        let (_, certificate) = X509Certificate::from_der(der).map_err(|e| e.to_string())?;
        until = until.min(certificate.validity().not_after.timestamp());
    }
    Ok(until)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::string::TeletexString;
    use rcgen::{BasicConstraints, CertificateParams, DnType, DnValue, IsCa, Issuer, KeyPair};

    /// An authenticator with an authority of its own, and a chain of it for `ada` that ends at `not_after` and has more in its subject.
    fn authority(not_after: Timestamp, more: &[(DnType, DnValue)]) -> (CertificateAuthenticator, PeerCertificates) {
        let at = |time: Timestamp| std::time::SystemTime::from(time).into();
        let key = KeyPair::generate().expect("a key");
        let mut ca = CertificateParams::default();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = ca.self_signed(&key).expect("signed");
        let mut leaf = CertificateParams::default();
        leaf.distinguished_name.push(DnType::CommonName, "ada");
        more.iter().for_each(|(part, value)| leaf.distinguished_name.push(part.clone(), value.clone()));
        leaf.not_after = at(not_after);
        let leaf_key = KeyPair::generate().expect("a key");
        let leaf = leaf.signed_by(&leaf_key, &Issuer::from_params(&ca, &key)).expect("signed");
        (CertificateAuthenticator::new(&root.pem()).expect("a CA"), PeerCertificates::new([leaf.der().clone()]))
    }

    /// A part of a subject under upstream's arc.
    fn part(number: u64, value: &str) -> (DnType, DnValue) {
        (DnType::CustomDnType(vec![1, 3, 6, 1, 4, 1, 57683, number]), DnValue::Utf8String(value.to_owned()))
    }

    #[test]
    fn a_subject_may_say_its_uid() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
        let uid = |more: &[(DnType, DnValue)], reads: bool| {
            let (authenticator, peer) = authority(now + jiff::SignedDuration::from_hours(1), more);
            authenticator.reading_uids(reads).authenticate(&peer, now).map(|user| user.uid)
        };
        let teletex = DnValue::TeletexString(TeletexString::try_from("u2").expect("text"));
        for (more, reads, expected) in [
            (vec![part(2, "u1")], true, Ok("u1")),
            (vec![part(2, "u1")], false, Ok("")),
            (vec![part(1, "u1")], true, Ok("")),
            (vec![(part(2, "").0, teletex)], true, Ok("u2")),
            (vec![part(2, "")], true, Err("UID cannot be an empty string")),
            (vec![part(2, "")], false, Ok("")),
            (vec![], true, Ok("")),
        ] {
            assert_eq!(uid(&more, reads), expected.map(str::to_owned).map_err(str::to_owned), "{more:?} {reads}");
        }
    }

    #[test]
    fn a_subject_says_one_uid() {
        let (_, peer) = authority("2026-01-01T00:00:00Z".parse().expect("a time"), &[part(2, "u1"), part(3, "u2")]);
        let mut der = peer.chain[0].to_vec();
        // The end of the second part's identifier, which no writer of certificates here writes twice.
        let (other, same) = ([0x83, 0xC2, 0x53, 3], [0x83, 0xC2, 0x53, 2]);
        let at = der.windows(4).position(|window| window == other).expect("it is there");
        der[at..at + 4].copy_from_slice(&same);
        let error = uid_of(&[der.into()]).expect_err("two");
        assert!(
            error.starts_with("expected 1 UID, but found multiple: [u") && error.contains("u1") && error.contains("u2"),
            "{error}"
        );
    }

    #[test]
    fn a_checked_chain_is_checked_again_by_other_authorities() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
        let (ours, peer) = authority(now + jiff::SignedDuration::from_hours(1), &[]);
        let (others, theirs) = authority(now + jiff::SignedDuration::from_hours(1), &[]);
        let believed = |peer: &PeerCertificates| ours.authenticate(peer, now).is_ok();
        let (first, second) = (ours.authorities().now(), others.authorities().now());
        assert!(believed(&peer) && !believed(&theirs));
        ours.authorities().replace(second.pem()).expect("a CA");
        assert!(!believed(&peer) && believed(&theirs), "on connections that are open");
        ours.authorities().replace(first.pem()).expect("a CA");
        assert!(believed(&peer) && !believed(&theirs));
    }

    #[test]
    fn a_checked_chain_is_still_refused_after_its_end_and_by_others() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
        let hour = jiff::SignedDuration::from_hours(1);
        let (authenticator, peer) = authority(now + hour, &[]);
        let (stranger, _) = authority(now + hour, &[]);
        for _ in 0..2 {
            assert_eq!(authenticator.authenticate(&peer, now).expect("valid").name, "ada");
        }
        assert!(stranger.authenticate(&peer, now).is_err(), "another authority's certificate");
        let error = authenticator.authenticate(&peer, now + hour + hour).expect_err("expired");
        assert!(error.contains("xpired"), "{error}");
    }
}
