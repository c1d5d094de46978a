//! Bootstrap tokens: Secrets in `kube-system` by which nodes join
//! (<https://kubernetes.io/docs/reference/access-authn-authz/bootstrap-tokens/>). Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use serde_json::json;

pub(super) const SECRET_TYPE: &str = "bootstrap.kubernetes.io/token";
const NAME_PREFIX: &str = "bootstrap-token-";
const SIGNATURE_PREFIX: &str = "jws-kubeconfig-";
const KUBECONFIG: &str = "kubeconfig";

fn data<'a>(secret: &'a Secret, key: &str) -> &'a str {
    let bytes = secret.data.as_ref().and_then(|data| data.get(key));
    bytes.and_then(|bytes| std::str::from_utf8(&bytes.0).ok()).unwrap_or_default()
}

/// How long a token is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Validity {
    Forever,
    For(Duration),
    /// It is over, or nobody can tell.
    Expired,
}

pub(super) fn validity(secret: &Secret, now: Timestamp) -> Validity {
    let text = data(secret, "expiration");
    if text.is_empty() {
        return Validity::Forever;
    }
    let Ok(end) = text.parse::<Timestamp>() else { return Validity::Expired };
    match u64::try_from(end.duration_since(now).as_millis()) {
        Ok(left) if left > 0 => Validity::For(Duration::from_millis(left)),
        _ => Validity::Expired,
    }
}

/// The id and the secret of a token that may sign.
fn signing(secret: &Secret, now: Timestamp) -> Option<(&str, &str)> {
    let name = secret.metadata.name.as_deref()?.strip_prefix(NAME_PREFIX)?;
    let (id, key) = (data(secret, "token-id"), data(secret, "token-secret"));
    let named = name.len() == 6 && name.bytes().all(|byte| byte.is_ascii_digit() || byte.is_ascii_lowercase());
    let usable = named && id == name && !key.is_empty() && data(secret, "usage-bootstrap-signing") == "true";
    (usable && validity(secret, now) != Validity::Expired).then_some((id, key))
}

/// A JSON Web Signature without its content (RFC 7515, Appendix F).
fn detached_signature(content: &str, id: &str, key: &str) -> String {
    let header = URL_SAFE_NO_PAD.encode(json!({"alg": "HS256", "kid": id}).to_string());
    let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(content));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes()), signed.as_bytes());
    format!("{header}..{}", URL_SAFE_NO_PAD.encode(tag.as_ref()))
}

/// The data of `cluster-info` with the signatures that it should have; `None` if it has them, or nothing to sign.
pub(super) fn signed<'a>(
    current: &BTreeMap<String, String>,
    secrets: impl Iterator<Item = &'a Secret>,
    now: Timestamp,
) -> Option<BTreeMap<String, String>> {
    let content = current.get(KUBECONFIG)?;
    let mut wanted = current.clone();
    wanted.retain(|key, _| !key.starts_with(SIGNATURE_PREFIX));
    for (id, key) in secrets.filter_map(|secret| signing(secret, now)) {
        wanted.entry(format!("{SIGNATURE_PREFIX}{id}")).or_insert_with(|| detached_signature(content, id, key));
    }
    (wanted != *current).then_some(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(name: &str, pairs: &[(&str, &str)]) -> Secret {
        let mut data = serde_json::Map::new();
        for (key, value) in [("token-id", "abc123"), ("token-secret", "0123456789abcdef"), ("usage-bootstrap-signing", "true")] {
            data.insert(key.into(), json!(base64::engine::general_purpose::STANDARD.encode(value)));
        }
        for (key, value) in pairs {
            data.insert((*key).into(), json!(base64::engine::general_purpose::STANDARD.encode(value)));
        }
        serde_json::from_value(json!({"metadata": {"name": name}, "type": SECRET_TYPE, "data": data})).expect("is a secret")
    }

    fn now() -> Timestamp {
        "2024-01-01T00:00:00Z".parse().expect("is a time")
    }

    #[test]
    fn a_signature_as_upstream_computes_it() {
        // From cluster-bootstrap's tests (token/jws).
        let expected = "eyJhbGciOiJIUzI1NiIsImtpZCI6Impvc2h1YSJ9..VShe2taLd-YTrmWuRkcL_8QTNDHYxQIEBsAYYiIj1_8";
        assert_eq!(
            detached_signature(
                "Hello from the other side. I must have called a thousand times.",
                "joshua",
                "my voice is my passcode"
            ),
            expected
        );
    }

    #[test]
    fn which_tokens_sign() {
        for (name, pairs, expected) in [
            ("bootstrap-token-abc123", &[][..], true),
            ("bootstrap-token-abc124", &[], false),
            ("bootstrap-token-abc12", &[("token-id", "abc12")], false),
            ("bootstrap-token-ABC123", &[("token-id", "ABC123")], false),
            ("abc123", &[], false),
            ("bootstrap-token-abc123", &[("token-secret", "")], false),
            ("bootstrap-token-abc123", &[("usage-bootstrap-signing", "yes")], false),
            ("bootstrap-token-abc123", &[("expiration", "2023-12-31T00:00:00Z")], false),
            ("bootstrap-token-abc123", &[("expiration", "soon")], false),
            ("bootstrap-token-abc123", &[("expiration", "2024-01-01T01:00:00+00:00")], true),
        ] {
            assert_eq!(signing(&secret(name, pairs), now()).is_some(), expected, "{name} {pairs:?}");
        }
    }

    #[test]
    fn when_tokens_end() {
        for (expiration, expected) in [
            ("", Validity::Forever),
            ("2024-01-01T00:01:00Z", Validity::For(Duration::from_secs(60))),
            ("2024-01-01T00:00:00Z", Validity::Expired),
            ("2023-12-31T23:59:59Z", Validity::Expired),
            ("x", Validity::Expired),
        ] {
            assert_eq!(validity(&secret("s", &[("expiration", expiration)]), now()), expected, "{expiration}");
        }
    }

    #[test]
    fn signatures_come_and_go_with_their_tokens() {
        let data = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
        };
        let token = secret("bootstrap-token-abc123", &[]);
        assert_eq!(signed(&data(&[("other", "x")]), [&token].into_iter(), now()), None, "nothing to sign");
        let first = signed(&data(&[("kubeconfig", "k")]), [&token].into_iter(), now()).expect("is signed");
        assert_eq!(first.keys().map(String::as_str).collect::<Vec<_>>(), ["jws-kubeconfig-abc123", "kubeconfig"]);
        assert_eq!(signed(&first, [&token].into_iter(), now()), None, "is settled");
        assert_eq!(signed(&first, std::iter::empty(), now()), Some(data(&[("kubeconfig", "k")])), "the token is gone");
        let mut changed = first.clone();
        changed.insert("kubeconfig".into(), "other".into());
        assert_ne!(signed(&changed, [&token].into_iter(), now()), None, "the content changed");
    }
}
