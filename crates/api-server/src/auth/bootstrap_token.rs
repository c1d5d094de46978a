//! Bootstrap tokens as credentials: Secrets in `kube-system` by which nodes join
//! (<https://kubernetes.io/docs/reference/access-authn-authz/bootstrap-tokens/>). Upstream's flag is `--enable-bootstrap-token-auth`.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;

use super::user::UserInfo;
use crate::objects::{self, Objects, ReadError};

const GROUP: &str = "system:bootstrappers";
const GROUP_BYTES_MAX: usize = 256;

fn has_form(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|byte| byte.is_ascii_digit() || byte.is_ascii_lowercase())
}

/// Whose token this is; `None` if it is no bootstrap token, or not one that is good now.
pub(super) async fn authenticate(token: &str, objects: &dyn Objects, now: Timestamp) -> Result<Option<UserInfo>, ReadError> {
    let Some((id, key)) = token.split_once('.').filter(|(id, key)| has_form(id, 6) && has_form(key, 16)) else { return Ok(None) };
    let secret: Option<Secret> = objects::get(objects, "kube-system", &format!("bootstrap-token-{id}")).await?;
    Ok(secret.and_then(|secret| match check(&secret, id, key, now) {
        Ok(user) => Some(user),
        Err(why) => {
            tracing::info!(token_id = id, why, "a bootstrap token is refused");
            None
        }
    }))
}

fn check(secret: &Secret, id: &str, key: &str, now: Timestamp) -> Result<UserInfo, &'static str> {
    let data = |name: &str| -> &[u8] { secret.data.as_ref().and_then(|data| data.get(name)).map_or(&[], |bytes| &bytes.0) };
    let text = |name: &str| std::str::from_utf8(data(name)).unwrap_or_default();
    if secret.metadata.deletion_timestamp.is_some() {
        return Err("its Secret is being deleted");
    }
    if secret.type_.as_deref() != Some("bootstrap.kubernetes.io/token") {
        return Err("its Secret has another type");
    }
    if verify_slices_are_equal(data("token-secret"), key.as_bytes()).is_err() {
        return Err("its second part is wrong");
    }
    if data("token-id") != id.as_bytes() {
        return Err("its Secret has another token-id");
    }
    let expiration = text("expiration");
    // What cannot be read as a time is over.
    if !data("expiration").is_empty() && !expiration.parse::<Timestamp>().is_ok_and(|end| now < end) {
        return Err("it has expired");
    }
    if data("usage-bootstrap-authentication") != b"true" {
        return Err("its Secret lacks usage-bootstrap-authentication: true");
    }
    let mut groups = vec![GROUP.to_owned()];
    let extra = std::str::from_utf8(data("auth-extra-groups")).map_err(|_| "auth-extra-groups is not text")?;
    for group in extra.split(',').filter(|_| !extra.is_empty()) {
        if !is_group(group) {
            return Err("auth-extra-groups holds a group that bootstrap tokens may not have");
        }
        groups.push(group.to_owned());
    }
    groups.sort();
    groups.dedup();
    Ok(UserInfo::authenticated(format!("system:bootstrap:{id}"), groups))
}

/// `system:bootstrappers:`, then at most 256 of `a-z0-9:-` that do not end in a sign.
fn is_group(group: &str) -> bool {
    let Some(rest) = group.strip_prefix(GROUP).and_then(|rest| rest.strip_prefix(':')) else { return false };
    let alphanumeric = |byte: u8| byte.is_ascii_digit() || byte.is_ascii_lowercase();
    rest.len() <= GROUP_BYTES_MAX
        && rest.bytes().all(|byte| alphanumeric(byte) || byte == b':' || byte == b'-')
        && rest.bytes().last().is_some_and(alphanumeric)
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use serde_json::json;

    use super::*;
    use crate::objects::memory::MemoryObjects;

    const TOKEN: &str = "abc123.0123456789abcdef";

    /// The groups of who has the token, if a Secret with these changes lets somebody in.
    async fn groups(token: &str, changes: &[(&str, &str)], more: serde_json::Value) -> Option<Vec<String>> {
        let mut data = serde_json::Map::new();
        let usual = [("token-id", "abc123"), ("token-secret", "0123456789abcdef"), ("usage-bootstrap-authentication", "true")];
        for (name, value) in usual.iter().chain(changes) {
            data.insert((*name).to_owned(), json!(STANDARD.encode(value)));
        }
        let mut secret = json!({"apiVersion": "v1", "kind": "Secret", "type": "bootstrap.kubernetes.io/token", "data": data,
            "metadata": {"name": "bootstrap-token-abc123", "namespace": "kube-system"}});
        for (name, value) in more.as_object().into_iter().flatten() {
            secret[name] = value.clone();
        }
        let objects = MemoryObjects::default();
        objects.put("secrets", secret);
        let now = "2024-01-01T00:00:00Z".parse().expect("is a time");
        let user = authenticate(token, &objects, now).await.expect("reads")?;
        assert_eq!(user.name, "system:bootstrap:abc123");
        Some(user.groups)
    }

    #[tokio::test]
    async fn who_is_let_in() {
        let usual = vec!["system:bootstrappers".to_owned(), "system:authenticated".to_owned()];
        assert_eq!(groups(TOKEN, &[], json!({})).await, Some(usual));
        let extra = groups(TOKEN, &[("auth-extra-groups", "system:bootstrappers:b,system:bootstrappers:a-1")], json!({})).await;
        let expected = ["system:bootstrappers", "system:bootstrappers:a-1", "system:bootstrappers:b", "system:authenticated"];
        assert_eq!(extra, Some(expected.map(str::to_owned).to_vec()));
        assert!(groups(TOKEN, &[("expiration", "2024-01-01T00:00:01Z")], json!({})).await.is_some());
    }

    #[tokio::test]
    async fn who_is_not() {
        for (token, changes, more) in [
            ("abc123.0123456789abcdeX", &[][..], json!({})),
            ("abc123.0123456789abcdee", &[], json!({})),
            ("abc124.0123456789abcdef", &[], json!({})),
            ("abc123", &[], json!({})),
            ("abc123.0123456789abcdef.x", &[], json!({})),
            (TOKEN, &[("token-id", "abc124")], json!({})),
            (TOKEN, &[("expiration", "2024-01-01T00:00:00Z")], json!({})),
            (TOKEN, &[("expiration", "tomorrow")], json!({})),
            (TOKEN, &[("usage-bootstrap-authentication", "yes")], json!({})),
            (TOKEN, &[("auth-extra-groups", "system:masters")], json!({})),
            (TOKEN, &[("auth-extra-groups", "system:bootstrappers:")], json!({})),
            (TOKEN, &[("auth-extra-groups", "system:bootstrappers:a,")], json!({})),
            (TOKEN, &[], json!({"type": "Opaque"})),
            (
                TOKEN,
                &[],
                json!({"metadata": {"name": "bootstrap-token-abc123", "namespace": "kube-system", "deletionTimestamp": "2024-01-01T00:00:00Z"}}),
            ),
        ] {
            assert_eq!(groups(token, changes, more).await, None, "{token} {changes:?}");
        }
    }
}
