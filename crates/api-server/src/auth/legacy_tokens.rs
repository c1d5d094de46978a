//! Tokens in Secrets of the type `kubernetes.io/service-account-token`: they do not expire, and are valid as long as their Secret holds
//! them (<https://kubernetes.io/docs/concepts/security/service-accounts/#get-a-token>).
//!
//! Deliberately absent: the label by which upstream tracks when such a token was last used, and with it the clean-up of old ones.

use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use serde::Deserialize;

use super::tokens::{AcceptedToken, TokenError};
use super::user::{UserInfo, service_account_groups, service_account_user};
use crate::objects::{self, Objects};

/// The `iss` of these tokens, whatever the server's own is.
pub(super) const ISSUER: &str = "kubernetes/serviceaccount";
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
pub(super) async fn accept(token: &str, claims: &LegacyClaims, objects: &dyn Objects) -> Result<UserInfo, TokenError> {
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
    if stored.metadata.labels.is_some_and(|labels| labels.get(INVALID_SINCE).is_some_and(|since| !since.is_empty())) {
        return invalid(format!(
            "the token in secret {namespace}/{secret} for service account {namespace}/{account} has been marked invalid. Use tokens from the TokenRequest API or manually created secret-based tokens, or remove the '{INVALID_SINCE}' label from the secret to temporarily allow use of this token"
        ));
    }
    let mut user = UserInfo::authenticated(user, service_account_groups(namespace));
    user.uid.clone_from(uid);
    Ok(user)
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
        let accepted = accept("t.o.k", &claims(), &cluster("u1", json!({}))).await.expect("is valid");
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
            let error = accept(token, &claims, &objects).await.expect_err("is refused").to_string();
            assert!(error.contains(expected), "{error}");
        }
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
