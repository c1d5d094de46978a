//! certificatesigningrequest-cleaner-controller: removes requests that are done with.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::DeleteParams;
use kube::{Api, ResourceExt};
use x509_parser::pem::Pem;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::is_issued;
use crate::api_errors::ignore_not_found;
use crate::context::{Context, now, wait_synced};

/// How often.
const INTERVAL: Duration = Duration::from_secs(3600);
/// How long after the decision.
const DECIDED: SignedDuration = SignedDuration::from_hours(1);
/// How long it may wait for one, or for its certificate.
const PENDING: SignedDuration = SignedDuration::from_hours(24);

pub(crate) async fn run(context: Context) {
    let requests = context.informers.get::<CertificateSigningRequest>();
    wait_synced!(requests);
    let api: Api<CertificateSigningRequest> = Api::all(context.client.clone());
    loop {
        for request in requests.store().list().iter().filter(|request| is_done(request, now())) {
            if let Err(error) = ignore_not_found(api.delete(&request.name_any(), &DeleteParams::default()).await) {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(name = request.name_any(), error, "cannot delete a certificate signing request");
            }
        }
        tokio::select! {
            () = context.token.cancelled() => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
    }
}

fn is_older(time: Option<&Time>, than: SignedDuration, now: Timestamp) -> bool {
    time.is_some_and(|time| now.duration_since(time.0) > than)
}

fn is_done(request: &CertificateSigningRequest, now: Timestamp) -> bool {
    let conditions: Vec<_> = request.status.iter().flat_map(|status| status.conditions.iter().flatten()).collect();
    let issued = is_issued(request);
    if conditions.is_empty() && is_older(request.metadata.creation_timestamp.as_ref(), PENDING, now) {
        return true;
    }
    conditions.iter().any(|condition| {
        let updated = condition.last_update_time.as_ref();
        match condition.type_.as_str() {
            "Approved" if issued => is_older(updated, DECIDED, now) || has_expired(request, now),
            "Approved" => is_older(updated, PENDING, now),
            "Denied" | "Failed" => is_older(updated, DECIDED, now),
            _ => false,
        }
    })
}

fn has_expired(request: &CertificateSigningRequest, now: Timestamp) -> bool {
    let certificate = request.status.as_ref().and_then(|status| status.certificate.as_ref());
    let block = certificate.and_then(|certificate| Pem::iter_from_buffer(&certificate.0).next()).and_then(Result::ok);
    let end = block.and_then(|block| {
        let (_, certificate) = X509Certificate::from_der(&block.contents).ok()?;
        Some(certificate.validity().not_after.timestamp())
    });
    end.is_some_and(|end| now.as_second() > end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn check(condition: Value, certificate: &str, expected: bool) {
        let conditions = if condition.is_null() { json!([]) } else { json!([condition]) };
        let request = json!({
            "metadata": {"name": "r", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"request": "", "signerName": "s"},
            "status": {"conditions": conditions, "certificate": certificate},
        });
        let typed: CertificateSigningRequest = serde_json::from_value(request.clone()).expect("is a request");
        let now = "2026-01-02T12:00:00Z".parse().expect("a time");
        assert_eq!(is_done(&typed, now), expected, "{request}");
    }

    #[test]
    fn what_is_removed() {
        let condition = |kind: &str, at: &str| json!({"type": kind, "status": "True", "lastUpdateTime": at});
        check(Value::Null, "", true);
        check(condition("Approved", "2026-01-02T11:30:00Z"), "Y2VydA==", false);
        check(condition("Approved", "2026-01-02T10:30:00Z"), "Y2VydA==", true);
        check(condition("Approved", "2026-01-02T10:30:00Z"), "", false);
        check(condition("Approved", "2026-01-01T10:30:00Z"), "", true);
        check(condition("Denied", "2026-01-02T10:30:00Z"), "", true);
        check(condition("Failed", "2026-01-02T11:30:00Z"), "", false);
        check(json!({"type": "Denied", "status": "True"}), "", false);
    }
}
