//! What becomes of a Secret with a token. Pure.
//!
//! Days are compared as the API server writes them, in UTC: `2026-11-30`.

use std::time::Duration;

use client::ReconcileError;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan};
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use kube::ResourceExt;

/// On which day the token was last used; the API server sets it.
const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
/// On which day the token was marked; the API server refuses it since.
pub(super) const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";
const ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";
const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";
const DAY: &str = "%Y-%m-%d";

/// What to do with a Secret.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Action {
    Keep,
    /// Label it with this day.
    Invalidate(String),
    Delete,
}

/// What was made, used or marked at this time or later stays as it is.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Deadlines {
    created: Timestamp,
    used: String,
}

fn day(text: &str) -> Option<Date> {
    // Exactly that form: others would not compare as text.
    Date::strptime(DAY, text).ok().filter(|_| text.len() == 10)
}

fn text(time: Timestamp) -> String {
    time.to_zoned(TimeZone::UTC).strftime(DAY).to_string()
}

impl Deadlines {
    /// `None` while uses have not been recorded for the whole period: since the day after the one that recording began on.
    pub(super) fn new(now: Timestamp, since: &str, period: Duration) -> Result<Option<Self>, ReconcileError> {
        let invalid = |text: String| ReconcileError::Invalid(text);
        let began = day(since).ok_or_else(|| invalid(format!("not a day since which uses of tokens are recorded: {since:?}")))?;
        let began = began.checked_add(1.day()).and_then(|next| next.to_zoned(TimeZone::UTC));
        let began = began.map_err(|error| invalid(error.to_string()))?.timestamp();
        let period = SignedDuration::try_from(period).unwrap_or(SignedDuration::MAX);
        let Ok(created) = now.checked_sub(period) else { return Ok(None) };
        Ok((created >= began).then(|| Self { created, used: text(created) }))
    }
}

pub(super) fn account_name(secret: &Secret) -> &str {
    secret.annotations().get(ACCOUNT_NAME).map(String::as_str).unwrap_or_default()
}

/// Only an account of an older release lists the Secrets that were made for it.
fn was_made_for(secret: &Secret, account: Option<&ServiceAccount>) -> bool {
    let uid = secret.annotations().get(ACCOUNT_UID).map(String::as_str).unwrap_or_default();
    let name = secret.name_any();
    account
        .filter(|account| uid.is_empty() || account.metadata.uid.as_deref() == Some(uid))
        .is_some_and(|account| account.secrets.iter().flatten().any(|reference| reference.name.as_deref() == Some(name.as_str())))
}

/// What becomes of a Secret: `mounted` if a pod refers to it, `account` as its annotation names it.
pub(super) fn plan(
    secret: &Secret,
    account: Option<&ServiceAccount>,
    mounted: bool,
    deadlines: &Deadlines,
    now: Timestamp,
) -> Action {
    let created = secret.metadata.creation_timestamp.as_ref().map(|time| time.0);
    if created.is_none_or(|created| created >= deadlines.created) || secret.metadata.deletion_timestamp.is_some() {
        return Action::Keep;
    }
    let label = |name: &str| secret.labels().get(name).map(String::as_str);
    if let Some(used) = label(LAST_USED)
        && (day(used).is_none() || used >= deadlines.used.as_str())
    {
        return Action::Keep;
    }
    if mounted || !was_made_for(secret, account) {
        return Action::Keep;
    }
    match label(INVALID_SINCE).filter(|since| day(since).is_some()) {
        None => Action::Invalidate(text(now)),
        Some(since) if since >= deadlines.used.as_str() => Action::Keep,
        Some(_) => Action::Delete,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

    fn time(text: &str) -> Timestamp {
        text.parse().expect("is a time")
    }

    #[test]
    fn recording_must_have_lasted_for_the_period() {
        for (now, since, used) in [
            ("2026-11-30T12:00:00Z", "2025-11-30", None),
            ("2026-11-30T12:00:00Z", "2025-11-29", Some("2025-11-30")),
            ("2026-12-01T00:00:00Z", "2025-11-30", Some("2025-12-01")),
            ("2026-11-30T23:59:59Z", "2025-11-30", None),
        ] {
            let found = Deadlines::new(time(now), since, YEAR).expect("is a day").map(|deadlines| deadlines.used);
            assert_eq!(found.as_deref(), used, "{now} {since}");
        }
        for malformed in ["", "yesterday", "2025-1-3", "2025-11-30T00:00:00Z"] {
            assert!(Deadlines::new(time("2026-11-30T12:00:00Z"), malformed, YEAR).is_err(), "{malformed}");
        }
    }

    fn secret(created: &str, labels: Value, uid: &str) -> Secret {
        let metadata = json!({
            "name": "s", "namespace": "ns", "creationTimestamp": created, "labels": labels,
            "annotations": {ACCOUNT_NAME: "bot", ACCOUNT_UID: uid},
        });
        serde_json::from_value(json!({"metadata": metadata})).expect("is a secret")
    }

    fn account(secrets: Value) -> ServiceAccount {
        let metadata = json!({"name": "bot", "namespace": "ns", "uid": "u"});
        serde_json::from_value(json!({"metadata": metadata, "secrets": secrets})).expect("is an account")
    }

    #[test]
    fn what_becomes_of_secrets() {
        let now = time("2026-11-30T12:00:00Z");
        let deadlines = Deadlines::new(now, "2020-01-01", YEAR).expect("is a day").expect("is long ago");
        let listed = || Some(account(json!([{"name": "other"}, {"name": "s"}])));
        let old = "2022-01-01T00:00:00Z";
        let used = |day: &str| json!({LAST_USED: day});
        let marked = |day: &str| json!({INVALID_SINCE: day});
        let mark = || Action::Invalidate("2026-11-30".to_owned());
        for (secret, account, mounted, expected) in [
            (secret(old, json!({}), "u"), listed(), false, mark()),
            (secret(old, json!({}), ""), listed(), false, mark()),
            (secret(old, json!({}), "another"), listed(), false, Action::Keep),
            (secret(old, json!({}), "u"), Some(account(json!([]))), false, Action::Keep),
            (secret(old, json!({}), "u"), None, false, Action::Keep),
            (secret(old, json!({}), "u"), listed(), true, Action::Keep),
            (secret("2025-11-30T12:00:00Z", json!({}), "u"), listed(), false, Action::Keep),
            (secret("2025-11-30T11:59:59Z", json!({}), "u"), listed(), false, mark()),
            (secret(old, used("2025-11-30"), "u"), listed(), false, Action::Keep),
            (secret(old, used("2025-11-29"), "u"), listed(), false, mark()),
            (secret(old, used("long ago"), "u"), listed(), false, Action::Keep),
            (secret(old, marked("2025-11-30"), "u"), listed(), false, Action::Keep),
            (secret(old, marked("2025-11-29"), "u"), listed(), false, Action::Delete),
            (secret(old, marked("2025-11-29"), "u"), listed(), true, Action::Keep),
            (secret(old, marked("long ago"), "u"), listed(), false, mark()),
        ] {
            assert_eq!(plan(&secret, account.as_ref(), mounted, &deadlines, now), expected, "{secret:?} {account:?}");
        }
        let mut leaving = secret(old, json!({}), "u");
        leaving.metadata.deletion_timestamp = leaving.metadata.creation_timestamp.clone();
        assert_eq!(plan(&leaving, listed().as_ref(), false, &deadlines, now), Action::Keep);
    }
}
