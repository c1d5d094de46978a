//! The controllers of CertificateSigningRequests: approval of kubelets' client certificates, signing for Kubernetes' own signers, and
//! removal of what is done (<https://kubernetes.io/docs/reference/access-authn-authz/certificate-signing-requests/>).

mod approve;
mod authority;
mod clean;
mod der;
mod request;
mod sign;

use std::time::Duration;

use client::{Change, Informer, RateLimiter, WorkQueue};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::ResourceExt;

pub(crate) use approve::run as run_approving;
pub(crate) use clean::run as run_cleaner;
pub(crate) use sign::run as run_signing;

/// Queues every request that changes, with upstream's own limits for retries.
fn queue(requests: &Informer<CertificateSigningRequest>, name: &str) -> WorkQueue<String> {
    let queue = WorkQueue::with_limiter(name, RateLimiter::item(Duration::from_millis(200), Duration::from_secs(1000)));
    let on_request = queue.clone();
    requests.add_handler(move |change| {
        if !matches!(change, Change::Deleted(_)) {
            on_request.add(change.object().name_any());
        }
    });
    queue
}

/// Whether a condition of this type is set.
fn has_condition(request: &CertificateSigningRequest, kind: &str) -> bool {
    let conditions = request.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == kind && condition.status != "False")
}

/// Whether the certificate is there: nothing is left to do.
fn is_issued(request: &CertificateSigningRequest) -> bool {
    let certificate = request.status.as_ref().and_then(|status| status.certificate.as_ref());
    certificate.is_some_and(|certificate| !certificate.0.is_empty())
}
