//! Tokens in Secrets of the type `kubernetes.io/service-account-token`: they do not expire, and are valid as long as their Secret holds
//! them (<https://kubernetes.io/docs/concepts/security/service-accounts/#get-a-token>).
//!
//! On which day a token was last used is noted as a label of its Secret: the controller manager deletes those that nobody uses (KEP-2799).
//!
//! Deliberately absent: the warning about tokens that older releases made, and the metrics of uses.

use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use serde::Deserialize;

use super::tokens::{AcceptedToken, TokenError};
use super::user::{UserInfo, service_account_groups, service_account_user};
use crate::objects::{self, Objects};

/// The `iss` of these tokens, whatever the server's own is.
pub(super) const ISSUER: &str = "kubernetes/serviceaccount";
const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";

#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct LegacyClaims {
    #[serde(default)]
    sub: String,
    #[serde(default, rename = "kubernetes.io/serviceaccount/namespace")]
    namespace: String,
    #[serde(default, rename = "kubernetes.io/serviceaccount/service-account.name")]
    account: String,
    #[serde(default, rename = "kubernetes.io/serviceaccount/service-account.uid")]
    uid: String,
    #[serde(default, rename = "kubernetes.io/serviceaccount/secret.name")]
    secret: String,
}

fn invalid<T>(text: impl Into<String>) -> Result<T, TokenError> {
    Err(TokenError::Invalid(text.into()))
}

/// Checks what a signed token claims against the cluster's state.
pub(super) async fn accept(
    token: &str,
    claims: &LegacyClaims,
    objects: &dyn Objects,
    now: Timestamp,
) -> Result<UserInfo, TokenError> {
    let LegacyClaims { sub, namespace, account, uid, secret } = claims;
    for (claim, text) in [
        ("sub", sub),
        ("namespace", namespace),
        ("secretName", secret),
        ("serviceAccountName", account),
        ("serviceAccountUID", uid),
    ] {
        if text.is_empty() {
            return invalid(format!("{claim} claim is missing"));
        }
    }
    let user = service_account_user(namespace, account);
    if *sub != user {
        return invalid("sub claim is invalid");
    }
    let stored = objects::get::<Secret>(objects, namespace, secret).await?;
    let Some(stored) = stored.filter(|stored| stored.metadata.deletion_timestamp.is_none()) else {
        return invalid("Token has been invalidated");
    };
    if stored.data.as_ref().and_then(|data| data.get("token")).map(|held| held.0.as_slice()) != Some(token.as_bytes()) {
        return invalid("Token does not match server's copy");
    }
    let Some(found) = objects::get::<ServiceAccount>(objects, namespace, account).await? else {
        return invalid(format!("serviceaccounts {account:?} not found"));
    };
    if found.metadata.deletion_timestamp.is_some() {
        return invalid(format!("ServiceAccount {namespace}/{account} has been deleted"));
    }
    let found_uid = found.metadata.uid.unwrap_or_default();
    if found_uid != *uid {
        return invalid(format!("ServiceAccount UID ({found_uid}) does not match claim ({uid})"));
    }
    note_use(&stored, objects, now).await;
    if !label(&stored, INVALID_SINCE).is_empty() {
        return invalid(format!(
            "the token in secret {namespace}/{secret} for service account {namespace}/{account} has been marked invalid. Use tokens from the TokenRequest API or manually created secret-based tokens, or remove the '{INVALID_SINCE}' label from the secret to temporarily allow use of this token"
        ));
    }
    let mut user = UserInfo::authenticated(user, service_account_groups(namespace));
    user.uid.clone_from(uid);
    Ok(user)
}

fn label<'a>(secret: &'a Secret, name: &str) -> &'a str {
    secret.metadata.labels.as_ref().and_then(|labels| labels.get(name)).map(String::as_str).unwrap_or_default()
}

/// Notes today as the day of the token's last use, also of one that is refused since it was marked. Another server's clock may have
/// tomorrow already.
async fn note_use(secret: &Secret, objects: &dyn Objects, now: Timestamp) {
    let today = now.to_zoned(TimeZone::UTC).date();
    let days = [Ok(today), today.checked_add(1.day())];
    let known = label(secret, LAST_USED);
    if days.iter().flatten().any(|day| day.to_string() == known) {
        return;
    }
    let (namespace, name) = (secret.metadata.namespace.as_deref(), secret.metadata.name.as_deref());
    let (namespace, name) = (namespace.unwrap_or_default(), name.unwrap_or_default());
    let labels = serde_json::json!({LAST_USED: today.to_string()});
    let patch = serde_json::json!({"metadata": {"uid": secret.metadata.uid, "labels": labels}});
    if let Err(error) = objects.merge_json("", "secrets", namespace, name, patch.to_string().into()).await {
        let error = &error as &dyn std::error::Error;
        tracing::warn!(namespace, name, error, "the use of a ServiceAccount token cannot be noted in its Secret");
    }
}

/// An accepted token is for this server's own audiences.
pub(super) fn audiences(wanted: &[String], own: &[String], user: UserInfo) -> Result<AcceptedToken, TokenError> {
    let asked = if wanted.is_empty() { own } else { wanted };
    let audiences: Vec<String> = asked.iter().filter(|audience| own.contains(audience)).cloned().collect();
    if audiences.is_empty() {
        return invalid(format!("token audiences {own:?} is invalid for the target audiences {asked:?}"));
    }
    Ok(AcceptedToken { user, audiences })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::memory::MemoryObjects;
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use serde_json::json;

    fn claims() -> LegacyClaims {
        serde_json::from_value(json!({
            "iss": ISSUER, "sub": "system:serviceaccount:ns:bot", "kubernetes.io/serviceaccount/namespace": "ns",
            "kubernetes.io/serviceaccount/service-account.name": "bot", "kubernetes.io/serviceaccount/service-account.uid": "u1",
            "kubernetes.io/serviceaccount/secret.name": "bot-token",
        }))
        .expect("are claims")
    }

    fn cluster(account_uid: &str, labels: serde_json::Value) -> MemoryObjects {
        let objects = MemoryObjects::default();
        objects.put("serviceaccounts", json!({"metadata": {"name": "bot", "namespace": "ns", "uid": account_uid}}));
        let data = json!({"token": STANDARD.encode("t.o.k")});
        objects.put("secrets", json!({"metadata": {"name": "bot-token", "namespace": "ns", "labels": labels}, "data": data}));
        objects
    }

    #[tokio::test]
    async fn what_is_accepted() {
        let now = Timestamp::UNIX_EPOCH;
        let accepted = accept("t.o.k", &claims(), &cluster("u1", json!({})), now).await.expect("is valid");
        assert_eq!((accepted.name.as_str(), accepted.uid.as_str()), ("system:serviceaccount:ns:bot", "u1"));
        let no_secret = cluster("u1", json!({}));
        no_secret.remove("secrets", "ns", "bot-token");
        let marked = json!({"kubernetes.io/legacy-token-invalid-since": "2024-01-01"});
        for (token, claims, objects, expected) in [
            (
                "t.o.k",
                LegacyClaims { secret: String::new(), ..claims() },
                cluster("u1", json!({})),
                "secretName claim is missing",
            ),
            ("t.o.k", LegacyClaims { sub: "x".into(), ..claims() }, cluster("u1", json!({})), "sub claim is invalid"),
            ("t.o.k", claims(), no_secret, "Token has been invalidated"),
            ("o.t.her", claims(), cluster("u1", json!({})), "Token does not match server's copy"),
            ("t.o.k", claims(), cluster("u2", json!({})), "ServiceAccount UID (u2) does not match claim (u1)"),
            ("t.o.k", claims(), cluster("u1", marked), "has been marked invalid"),
        ] {
            let error = accept(token, &claims, &objects, now).await.expect_err("is refused").to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[tokio::test]
    async fn the_day_of_the_last_use_is_noted() {
        let now: Timestamp = "2026-11-30T23:59:00Z".parse().expect("is a time");
        for (known, marked, expected) in [
            (None, false, "2026-11-30"),
            (Some("2026-11-29"), false, "2026-11-30"),
            (Some("2026-11-29"), true, "2026-11-30"),
            (Some("2026-12-01"), false, "2026-12-01"),
            (Some("2026-12-02"), false, "2026-11-30"),
        ] {
            let mut labels = json!({"other": "kept"});
            known.iter().for_each(|day| labels[LAST_USED] = json!(day));
            if marked {
                labels[INVALID_SINCE] = json!("2026-01-01");
            }
            let objects = cluster("u1", labels);
            assert_eq!(accept("t.o.k", &claims(), &objects, now).await.is_err(), marked);
            let secret = objects::get::<Secret>(&objects, "ns", "bot-token").await.expect("is read").expect("is there");
            assert_eq!((label(&secret, LAST_USED), label(&secret, "other")), (expected, "kept"), "{known:?}");
        }
        // Who shows a wrong token does not use the right one.
        let objects = cluster("u1", json!({}));
        accept("o.t.her", &claims(), &objects, now).await.expect_err("is refused");
        let secret = objects::get::<Secret>(&objects, "ns", "bot-token").await.expect("is read").expect("is there");
        assert_eq!(label(&secret, LAST_USED), "");
    }

    #[test]
    fn whom_a_token_is_for() {
        let own = ["api".to_owned()];
        let of = |wanted: &[&str]| {
            let wanted: Vec<String> = wanted.iter().map(|text| (*text).to_owned()).collect();
            audiences(&wanted, &own, UserInfo::default()).map(|accepted| accepted.audiences)
        };
        assert_eq!(of(&[]).expect("is the server's own"), ["api"]);
        assert_eq!(of(&["other", "api"]).expect("is one of them"), ["api"]);
        assert!(of(&["other"]).is_err());
    }
}
