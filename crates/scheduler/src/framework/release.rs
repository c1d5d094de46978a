//! Claims to devices that are given back: an allocation that nobody uses, or the reservation of a pod that does not come.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::ResourceClaim;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::json;

/// What is to be given back.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum ClaimRelease {
    /// The allocation, as of this version of the claim.
    Deallocate(Box<ResourceClaim>),
    /// The reservation of a pod.
    Unreserve { namespace: String, name: String, claim_uid: String, pod_uid: String },
}

impl ClaimRelease {
    pub(crate) fn deallocate(claim: &ResourceClaim) -> Self {
        Self::Deallocate(Box::new(claim.clone()))
    }

    pub(crate) fn unreserve(claim: &ResourceClaim, pod: &Pod) -> Self {
        Self::Unreserve {
            namespace: claim.namespace().unwrap_or_default(),
            name: claim.name_any(),
            claim_uid: claim.uid().unwrap_or_default(),
            pod_uid: pod.uid().unwrap_or_default(),
        }
    }

    /// Tells the API server. One that is lost costs nothing but a device that stays allocated until the claim's owner goes.
    pub(crate) async fn carry_out(self, client: &kube::Client) -> kube::Result<()> {
        match self {
            Self::Deallocate(mut claim) => {
                if let Some(status) = claim.status.as_mut() {
                    status.allocation = None;
                    status.devices = None;
                    status.reserved_for = None;
                }
                let api = Api::<ResourceClaim>::namespaced(client.clone(), &claim.namespace().unwrap_or_default());
                // With the version that was looked at: somebody may have come to use it since.
                api.replace_status(&claim.name_any(), &PostParams::default(), &claim).await.map(drop)
            }
            Self::Unreserve { namespace, name, claim_uid, pod_uid } => {
                let users = json!([{"$patch": "delete", "uid": pod_uid}]);
                let patch = json!({"metadata": {"uid": claim_uid}, "status": {"reservedFor": users}});
                let api = Api::<ResourceClaim>::namespaced(client.clone(), &namespace);
                api.patch_status(&name, &PatchParams::default(), &Patch::Strategic(patch)).await.map(drop)
            }
        }
    }
}
