//! certificatesigningrequest-approving-controller: approves kubelets' client certificates for those who may ask for them without a
//! human (`create` on the `nodeclient` and `selfnodeclient` subresources).

use std::sync::Arc;

use async_trait::async_trait;
use client::{Controller, Outcome, ReconcileError, Store, run_workers};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use kube::Api;
use kube::api::PostParams;

use super::request::{self, KUBELET_CLIENT, Request};
use super::{has_condition, is_issued, queue};
use crate::context::{Context, wait_synced};

struct Approver {
    client: kube::Client,
    requests: Store<CertificateSigningRequest>,
}

/// What makes a request one that may be approved here: the right that its author needs, and what the approval says.
#[derive(Debug, PartialEq, Eq)]
struct Recognized {
    subresource: &'static str,
    message: &'static str,
}

pub(crate) async fn run(context: Context) {
    let requests = context.informers.get::<CertificateSigningRequest>();
    let queue = queue(&requests, "csrapproving");
    wait_synced!(requests);
    let approver = Approver { client: context.client.clone(), requests: requests.store().clone() };
    run_workers(Arc::new(approver), queue, 1, context.token).await;
}

fn recognize(csr: &CertificateSigningRequest, request: &Request) -> Vec<Recognized> {
    let usages = csr.spec.usages.as_deref().unwrap_or_default();
    if csr.spec.signer_name != KUBELET_CLIENT || request::kubelet_client(request, usages).is_err() {
        return Vec::new();
    }
    let own = Recognized {
        subresource: "selfnodeclient",
        message: "Auto approving self kubelet client certificate after SubjectAccessReview.",
    };
    let any =
        Recognized { subresource: "nodeclient", message: "Auto approving kubelet client certificate after SubjectAccessReview." };
    if csr.spec.username.as_deref() == Some(request.common_name.as_str()) { vec![own, any] } else { vec![any] }
}

fn review(csr: &CertificateSigningRequest, subresource: &str) -> SubjectAccessReview {
    SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: csr.spec.username.clone(),
            uid: csr.spec.uid.clone(),
            groups: csr.spec.groups.clone(),
            extra: csr.spec.extra.clone(),
            resource_attributes: Some(ResourceAttributes {
                group: Some("certificates.k8s.io".into()),
                resource: Some("certificatesigningrequests".into()),
                verb: Some("create".into()),
                subresource: Some(subresource.into()),
                version: Some("*".into()),
                ..Default::default()
            }),
            ..Default::default()
        },
        ..Default::default()
    }
}

#[async_trait]
impl Controller for Approver {
    type Key = String;

    fn name(&self) -> &'static str {
        "certificatesigningrequest-approving-controller"
    }

    async fn reconcile(&self, name: &String) -> Result<Outcome, ReconcileError> {
        let Some(csr) = self.requests.get("", name) else { return Ok(Outcome::Done) };
        if is_issued(&csr) || has_condition(&csr, "Approved") || has_condition(&csr, "Denied") {
            return Ok(Outcome::Done);
        }
        let request = request::parse(&csr.spec.request.0)
            .map_err(|why| ReconcileError::Invalid(format!("unable to parse csr {name:?}: {why}")))?;
        let recognized = recognize(&csr, &request);
        let reviews: Api<SubjectAccessReview> = Api::all(self.client.clone());
        for kind in &recognized {
            let review = reviews.create(&PostParams::default(), &review(&csr, kind.subresource)).await;
            let review = review.map_err(ReconcileError::api("create subject access review"))?;
            if review.status.is_none_or(|status| !status.allowed) {
                continue;
            }
            let mut approved = (*csr).clone();
            approved.status.get_or_insert_default().conditions.get_or_insert_default().push(CertificateSigningRequestCondition {
                type_: "Approved".into(),
                status: "True".into(),
                reason: Some("AutoApproved".into()),
                message: Some(kind.message.into()),
                ..Default::default()
            });
            let requests: Api<CertificateSigningRequest> = Api::all(self.client.clone());
            let result = requests.replace_subresource("approval", name, &PostParams::default(), &approved).await;
            result.map_err(ReconcileError::api("approve certificate signing request"))?;
            return Ok(Outcome::Done);
        }
        // Somebody may still be given the right.
        Ok(if recognized.is_empty() { Outcome::Done } else { Outcome::Retry })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn which_requests_are_recognized() {
        let node =
            Request { common_name: "system:node:n1".into(), organizations: vec!["system:nodes".into()], ..Request::default() };
        let csr = |signer: &str, user: &str, usage: &str| -> CertificateSigningRequest {
            serde_json::from_value(json!({
                "metadata": {"name": "r"},
                "spec": {"request": "", "signerName": signer, "username": user, "usages": ["digital signature", usage]},
            }))
            .expect("is a request")
        };
        for (csr, expected) in [
            (csr(KUBELET_CLIENT, "system:bootstrap:abc", "client auth"), &["nodeclient"][..]),
            (csr(KUBELET_CLIENT, "system:node:n1", "client auth"), &["selfnodeclient", "nodeclient"]),
            (csr(KUBELET_CLIENT, "system:node:n1", "server auth"), &[]),
            (csr("kubernetes.io/kube-apiserver-client", "system:node:n1", "client auth"), &[]),
        ] {
            let found: Vec<&str> = recognize(&csr, &node).iter().map(|kind| kind.subresource).collect();
            assert_eq!(found, expected, "{csr:?}");
        }
    }
}
