//! persistentvolumeclaim-protection-controller: a claim stays while a pod that has a node uses it.

use async_trait::async_trait;
use client::{Change, NamespacedName, ReconcileError, Store, WorkQueue};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::api::ListParams;
use kube::{Api, Resource};

use super::Protected;
use crate::context::{Context, wait_synced};
use crate::ownership::is_controlled_by;
use crate::pod_claims::{CLAIMS_INDEX, claim_keys, is_finished};

struct Claims {
    context: Context,
    pods: Store<Pod>,
}

pub(crate) async fn run(context: Context) {
    let claims = context.informers.get::<PersistentVolumeClaim>();
    let pods = context.informers.get::<Pod>();
    pods.store().add_index(CLAIMS_INDEX, claim_keys);
    wait_synced!(claims, pods);
    let queue: WorkQueue<NamespacedName> = WorkQueue::new("pvcprotection");
    let on_pod = queue.clone();
    pods.add_handler(move |change| match change {
        Change::Deleted(pod) => enqueue(&on_pod, pod),
        Change::Updated { old, new } if old.metadata.uid != new.metadata.uid => {
            enqueue(&on_pod, old);
            enqueue(&on_pod, new);
        }
        change if frees_claims(change.object()) => enqueue(&on_pod, change.object()),
        _ => {}
    });
    let protected = Claims { pods: pods.store().clone(), context: context.clone() };
    super::run(protected, &claims, queue, context.token).await;
}

fn has_node(pod: &Pod) -> bool {
    pod.spec.as_ref().is_some_and(|spec| spec.node_name.as_ref().is_some_and(|name| !name.is_empty()))
}

/// Whether the pod's claims may have become free by it.
fn frees_claims(pod: &Pod) -> bool {
    is_finished(pod) || !has_node(pod)
}

fn enqueue(queue: &WorkQueue<NamespacedName>, pod: &Pod) {
    for key in claim_keys(pod) {
        if let Some((namespace, name)) = key.split_once('/') {
            queue.add(NamespacedName::new(namespace, name));
        }
    }
}

/// The kubelet is done with the pod, or it was deleted by force.
fn is_shut_down(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some() && pod.metadata.deletion_grace_period_seconds == Some(0)
}

/// Whether the pod keeps the claim. A pod without a node does not: no kubelet starts one whose claim is being deleted.
fn uses(pod: &Pod, claim: &PersistentVolumeClaim) -> bool {
    let name = claim.metadata.name.as_deref().unwrap_or_default();
    let pod_name = pod.metadata.name.as_deref().unwrap_or_default();
    let of_pod = || is_controlled_by(claim.meta(), pod.metadata.uid.as_deref().unwrap_or_default());
    has_node(pod)
        && pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()).any(|volume| {
            let named = volume.persistent_volume_claim.as_ref().is_some_and(|source| source.claim_name == name);
            let ephemeral = volume.ephemeral.is_some() && format!("{pod_name}-{}", volume.name) == name;
            named || (ephemeral && !is_shut_down(pod) && of_pod())
        })
}

#[async_trait]
impl Protected for Claims {
    type Kind = PersistentVolumeClaim;
    const NAME: &'static str = "persistentvolumeclaim-protection-controller";
    const FINALIZER: &'static str = "kubernetes.io/pvc-protection";

    fn api(&self, namespace: &str) -> Api<PersistentVolumeClaim> {
        self.context.api(namespace)
    }

    /// The cache can prove that a claim is used; that it is not, only the server.
    async fn is_used(&self, claim: &PersistentVolumeClaim) -> Result<bool, ReconcileError> {
        let key = NamespacedName::of(claim);
        if self.pods.by_index(CLAIMS_INDEX, &key.to_string()).iter().any(|pod| uses(pod, claim)) {
            return Ok(true);
        }
        let api: Api<Pod> = self.context.api(&key.namespace);
        let pods = api.list(&ListParams::default()).await.map_err(ReconcileError::api("list pods"))?;
        Ok(pods.items.iter().any(|pod| uses(pod, claim)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn check(pod: Value, expected: bool) {
        let claim = json!({"metadata": {"name": "p-data", "namespace": "ns", "ownerReferences": [
            {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u", "controller": true},
        ]}});
        let claim: PersistentVolumeClaim = serde_json::from_value(claim).expect("is a claim");
        let typed: Pod = serde_json::from_value(pod.clone()).expect("is a pod");
        assert_eq!(uses(&typed, &claim), expected, "{pod}");
    }

    #[test]
    fn who_keeps_a_claim() {
        let named = json!({"name": "v", "persistentVolumeClaim": {"claimName": "p-data"}});
        let other = json!({"name": "v", "persistentVolumeClaim": {"claimName": "other"}});
        let ephemeral = json!({"name": "data", "ephemeral": {"volumeClaimTemplate": {"spec": {}}}});
        let pod = |node: &str, volume: &Value, meta: Value| {
            let mut meta = meta;
            meta["name"] = json!("p");
            json!({"metadata": meta, "spec": {"nodeName": node, "containers": [], "volumes": [volume]}})
        };
        check(pod("n", &named, json!({})), true);
        check(pod("", &named, json!({})), false);
        check(pod("n", &other, json!({})), false);
        check(pod("n", &ephemeral, json!({"uid": "u"})), true);
        check(pod("n", &ephemeral, json!({"uid": "another"})), false);
        let gone = json!({"uid": "u", "deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 0});
        check(pod("n", &ephemeral, gone.clone()), false);
        // A finished pod that names the claim keeps it, also while it is deleted: upstream waits until it is gone.
        check(pod("n", &named, gone), true);
    }
}
