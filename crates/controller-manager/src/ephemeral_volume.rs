//! ephemeral-volume-controller: makes the PersistentVolumeClaims of generic ephemeral volumes (KEP-1698). They go with their pod by the
//! garbage collector.

use std::sync::Arc;

use async_trait::async_trait;
use client::{
    Change, Controller, EventKind, EventRecorder, NamespacedName, Outcome, ReconcileError, Store, WorkQueue, run_workers,
};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::{Api, ResourceExt};

use crate::api_errors::{is_already_exists, is_namespace_terminating, message};
use crate::context::{Context, wait_synced};
use crate::ownership::{controller_reference, is_controlled_by};
use crate::pod_claims::{CLAIMS_INDEX, claim_keys};

struct EphemeralVolumes {
    context: Context,
    events: EventRecorder,
    pods: Store<Pod>,
    claims: Store<PersistentVolumeClaim>,
}

fn has_ephemeral_volume(pod: &Pod) -> bool {
    let mut volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    pod.metadata.deletion_timestamp.is_none() && volumes.any(|volume| volume.ephemeral.is_some())
}

pub(crate) async fn run(context: Context) {
    let pods = context.informers.get::<Pod>();
    let claims = context.informers.get::<PersistentVolumeClaim>();
    pods.store().add_index(CLAIMS_INDEX, claim_keys);
    let queue: WorkQueue<NamespacedName> = WorkQueue::new("ephemeral_volume");
    let on_pod = queue.clone();
    pods.add_handler(move |change| {
        // Volumes of a pod do not change.
        if matches!(change, Change::Added(_)) && has_ephemeral_volume(change.object()) {
            on_pod.add(NamespacedName::of(&**change.object()));
        }
    });
    let (on_claim, known) = (queue.clone(), pods.store().clone());
    claims.add_handler(move |change| {
        if let Change::Deleted(claim) = change {
            let users = known.by_index(CLAIMS_INDEX, &NamespacedName::of(&***claim).to_string());
            users.iter().filter(|pod| has_ephemeral_volume(pod)).for_each(|pod| on_claim.add(NamespacedName::of(&**pod)));
        }
    });
    wait_synced!(pods, claims);
    let controller = EphemeralVolumes {
        events: context.events("ephemeral_volume"),
        pods: pods.store().clone(),
        claims: claims.store().clone(),
        context: context.clone(),
    };
    let workers = context.config.concurrent_ephemeralvolume_syncs;
    run_workers(Arc::new(controller), queue, workers, context.token).await;
}

/// The claims to make, by the name of their volume, or why a volume cannot have its own.
fn plan(
    pod: &Pod,
    claim: impl Fn(&str) -> Option<Arc<PersistentVolumeClaim>>,
) -> Vec<(String, Result<PersistentVolumeClaim, String>)> {
    if pod.metadata.deletion_timestamp.is_some() {
        return Vec::new();
    }
    let (pod_name, uid) = (pod.name_any(), pod.uid().unwrap_or_default());
    let namespace = pod.namespace().unwrap_or_default();
    let mut planned = Vec::new();
    for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
        let template = volume.ephemeral.as_ref().and_then(|ephemeral| ephemeral.volume_claim_template.as_ref());
        let Some(template) = template else { continue };
        let name = format!("{pod_name}-{}", volume.name);
        match claim(&name) {
            Some(found) if is_controlled_by(&found.metadata, &uid) => {}
            Some(_) => {
                let why = format!("PVC {namespace}/{name} was not created for pod {namespace}/{pod_name} (pod is not owner)");
                planned.push((volume.name.clone(), Err(why)));
            }
            None => {
                let meta = template.metadata.clone().unwrap_or_default();
                let metadata = ObjectMeta {
                    name: Some(name),
                    labels: meta.labels,
                    annotations: meta.annotations,
                    owner_references: Some(vec![controller_reference(pod)]),
                    ..Default::default()
                };
                let claim = PersistentVolumeClaim { metadata, spec: Some(template.spec.clone()), status: None };
                planned.push((volume.name.clone(), Ok(claim)));
            }
        }
    }
    planned
}

#[async_trait]
impl Controller for EphemeralVolumes {
    type Key = NamespacedName;

    fn name(&self) -> &'static str {
        "ephemeral-volume-controller"
    }

    async fn reconcile(&self, key: &NamespacedName) -> Result<Outcome, ReconcileError> {
        let Some(pod) = self.pods.get_key(key) else { return Ok(Outcome::Done) };
        let api: Api<PersistentVolumeClaim> = self.context.api(&key.namespace);
        for (volume, wanted) in plan(&pod, |name| self.claims.get(&key.namespace, name)) {
            let failed = |why: String| {
                let text = format!("ephemeral volume {volume}: {why}");
                self.events.record(&*pod, EventKind::Warning, "FailedBinding", text);
            };
            let claim = match wanted {
                Ok(claim) => claim,
                Err(why) => {
                    failed(why.clone());
                    return Err(ReconcileError::Invalid(why));
                }
            };
            match api.create(&PostParams::default(), &claim).await {
                Ok(_) => {}
                Err(error) if is_namespace_terminating(&error) => return Ok(Outcome::Done),
                // The cache does not have it yet; whose it is will be seen then.
                Err(error) if is_already_exists(&error) => return Ok(Outcome::Retry),
                Err(error) => {
                    failed(format!("create PVC {}: {}", claim.name_any(), message(&error)));
                    return Err(ReconcileError::api("create claim of an ephemeral volume")(error));
                }
            }
        }
        Ok(Outcome::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn claims_of_ephemeral_volumes() {
        let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"storageClassName": "fast"}});
        let pod = |deleting: bool, volumes: Value| -> Pod {
            let mut pod =
                json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u"}, "spec": {"containers": [], "volumes": volumes}});
            if deleting {
                pod["metadata"]["deletionTimestamp"] = json!("2024-01-01T00:00:00Z");
            }
            serde_json::from_value(pod).expect("is a pod")
        };
        let ephemeral = json!([{"name": "v", "ephemeral": {"volumeClaimTemplate": template}}]);
        let claim = |owner: &str| -> Arc<PersistentVolumeClaim> {
            let owners = json!([{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": owner, "controller": true}]);
            Arc::new(serde_json::from_value(json!({"metadata": {"name": "p-v", "ownerReferences": owners}})).expect("is a claim"))
        };
        let foreign = "v: PVC ns/p-v was not created for pod ns/p (pod is not owner)";
        for (pod, found, expected) in [
            (pod(false, json!([{"name": "v", "emptyDir": {}}])), None, ""),
            (pod(true, ephemeral.clone()), None, ""),
            (pod(false, ephemeral.clone()), None, "v: make p-v"),
            (pod(false, ephemeral.clone()), Some(claim("u")), ""),
            (pod(false, ephemeral.clone()), Some(claim("another")), foreign),
        ] {
            let planned = plan(&pod, |name| found.clone().filter(|_| name == "p-v"));
            let text = planned.iter().map(|(volume, wanted)| match wanted {
                Ok(claim) => format!("{volume}: make {}", claim.name_any()),
                Err(why) => format!("{volume}: {why}"),
            });
            assert_eq!(text.collect::<Vec<_>>().join(","), expected);
        }
        let (_, made) = plan(&pod(false, ephemeral), |_| None).remove(0);
        let made = made.expect("is made");
        assert_eq!(made.labels().get("a").map(String::as_str), Some("b"));
        assert_eq!(made.spec.expect("is set").storage_class_name.as_deref(), Some("fast"));
        assert!(is_controlled_by(&made.metadata, "u"));
    }
}
