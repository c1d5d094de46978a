//! certificatesigningrequest-signing-controller: signs approved requests for the signers whose CA it was given.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use client::{Controller, Outcome, ReconcileError, Store, run_workers};
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Api;
use kube::api::PostParams;

use super::authority::Authority;
use super::request::{self, API_CLIENT, KUBELET_CLIENT, KUBELET_SERVING, LEGACY_UNKNOWN};
use super::{has_condition, is_issued, queue};
use crate::context::{Context, now, wait_synced};

/// No certificate lives shorter, whatever is asked for: twice the time that it is backdated.
const LIFE_MIN: Duration = Duration::from_secs(10 * 60);

struct Signer {
    client: kube::Client,
    requests: Store<CertificateSigningRequest>,
    authorities: BTreeMap<&'static str, Authority>,
    life_max: Duration,
}

pub(crate) async fn run(context: Context) {
    let signing = &context.config.cluster_signing;
    let configured = [
        (KUBELET_SERVING, &signing.kubelet_serving),
        (KUBELET_CLIENT, &signing.kubelet_client),
        (API_CLIENT, &signing.kube_apiserver_client),
        (LEGACY_UNKNOWN, &signing.legacy_unknown),
    ];
    let mut authorities = BTreeMap::new();
    for (signer, ca) in configured {
        let Some(ca) = ca else { continue };
        match Authority::new(&ca.cert_pem, &ca.key_pem) {
            Ok(authority) => _ = authorities.insert(signer, authority),
            Err(why) => tracing::error!(signer, why, "the CA cannot be used, nothing is signed for this signer"),
        }
    }
    if authorities.is_empty() {
        tracing::info!(controller = "certificatesigningrequest-signing-controller", "no CA configured, not signing");
        return;
    }
    let requests = context.informers.get::<CertificateSigningRequest>();
    let queue = queue(&requests, "csrsigning");
    wait_synced!(requests);
    let signer = Signer {
        client: context.client.clone(),
        requests: requests.store().clone(),
        authorities,
        life_max: context.config.cluster_signing.duration,
    };
    run_workers(Arc::new(signer), queue, 1, context.token).await;
}

/// How long a certificate lives: as asked for, within limits.
fn life(asked_seconds: Option<i32>, most: Duration) -> Duration {
    let Some(asked) = asked_seconds.and_then(|seconds| u64::try_from(seconds).ok()) else { return most };
    let asked = Duration::from_secs(asked);
    if asked > most { most } else { asked.max(LIFE_MIN) }
}

#[async_trait]
impl Controller for Signer {
    type Key = String;

    fn name(&self) -> &'static str {
        "certificatesigningrequest-signing-controller"
    }

    async fn reconcile(&self, name: &String) -> Result<Outcome, ReconcileError> {
        let Some(csr) = self.requests.get("", name) else { return Ok(Outcome::Done) };
        let approved = has_condition(&csr, "Approved") && !has_condition(&csr, "Denied");
        if is_issued(&csr) || !approved || has_condition(&csr, "Failed") {
            return Ok(Outcome::Done);
        }
        let Some(authority) = self.authorities.get(csr.spec.signer_name.as_str()) else { return Ok(Outcome::Done) };
        let request = request::parse(&csr.spec.request.0)
            .map_err(|why| ReconcileError::Invalid(format!("unable to parse csr {name:?}: {why}")))?;
        let usages = csr.spec.usages.as_deref().unwrap_or_default();
        let mut changed = (*csr).clone();
        let status = changed.status.get_or_insert_default();
        match request::validate(&csr.spec.signer_name, &request, usages) {
            Ok(()) => {
                let signed = authority.sign(&request, usages, life(csr.spec.expiration_seconds, self.life_max), now());
                let signed = signed.map_err(|why| ReconcileError::Invalid(format!("error auto signing csr: {why}")))?;
                status.certificate = Some(ByteString(signed.into_bytes()));
            }
            Err(why) => status.conditions.get_or_insert_default().push(CertificateSigningRequestCondition {
                type_: "Failed".into(),
                status: "True".into(),
                reason: Some("SignerValidationFailure".into()),
                message: Some(why),
                last_update_time: Some(Time(now())),
                ..Default::default()
            }),
        }
        let api: Api<CertificateSigningRequest> = Api::all(self.client.clone());
        let result = api.replace_status(name, &PostParams::default(), &changed).await;
        result.map_err(ReconcileError::api("update certificate signing request status"))?;
        Ok(Outcome::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lives() {
        let most = Duration::from_secs(7 * 24 * 3600);
        for (asked, expected) in [(None, 7 * 24 * 3600), (Some(600), 600), (Some(60), 600), (Some(i32::MAX), 7 * 24 * 3600)] {
            assert_eq!(life(asked, most), Duration::from_secs(expected), "{asked:?}");
        }
    }
}
