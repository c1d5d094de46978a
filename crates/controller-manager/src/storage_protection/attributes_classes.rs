//! volumeattributesclass-protection-controller: a VolumeAttributesClass stays while a claim has, had or is getting it, or a volume has it.

use async_trait::async_trait;
use client::{Change, NamespacedName, ReconcileError, Store, WorkQueue};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::VolumeAttributesClass;
use kube::{Api, ResourceExt};

use super::Protected;
use crate::context::{Context, wait_synced};

struct Classes {
    context: Context,
    claims: Store<PersistentVolumeClaim>,
    volumes: Store<PersistentVolume>,
}

pub(crate) async fn run(context: Context) {
    let classes = context.informers.get::<VolumeAttributesClass>();
    let claims = context.informers.get::<PersistentVolumeClaim>();
    let volumes = context.informers.get::<PersistentVolume>();
    wait_synced!(classes, claims, volumes);
    let queue: WorkQueue<NamespacedName> = WorkQueue::new("vacprotection");
    let (on_claim, on_volume) = (queue.clone(), queue.clone());
    claims.add_handler(move |change| freed(change, named_by_claim, &on_claim));
    volumes.add_handler(move |change| freed(change, named_by_volume, &on_volume));
    let protected = Classes { claims: claims.store().clone(), volumes: volumes.store().clone(), context: context.clone() };
    super::run(protected, &classes, queue, context.token).await;
}

/// Queues the classes that an object named and no longer does.
fn freed<K>(change: &Change<'_, K>, named: fn(&K) -> Vec<&str>, queue: &WorkQueue<NamespacedName>) {
    let (before, after) = match change {
        Change::Added(_) => return,
        Change::Updated { old, new } => (named(old), named(new)),
        Change::Deleted(old) => (named(old), Vec::new()),
    };
    before.iter().filter(|name| !after.contains(name)).for_each(|name| queue.add(NamespacedName::new("", *name)));
}

fn named_by_claim(claim: &PersistentVolumeClaim) -> Vec<&str> {
    let wanted = claim.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.as_deref());
    let status = claim.status.as_ref();
    let current = status.and_then(|status| status.current_volume_attributes_class_name.as_deref());
    let target = status
        .and_then(|status| status.modify_volume_status.as_ref())
        .and_then(|modify| modify.target_volume_attributes_class_name.as_deref());
    [wanted, current, target].into_iter().flatten().filter(|name| !name.is_empty()).collect()
}

fn named_by_volume(volume: &PersistentVolume) -> Vec<&str> {
    let name = volume.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.as_deref());
    name.into_iter().filter(|name| !name.is_empty()).collect()
}

#[async_trait]
impl Protected for Classes {
    type Kind = VolumeAttributesClass;
    const NAME: &'static str = "volumeattributesclass-protection-controller";
    const FINALIZER: &'static str = "kubernetes.io/vac-protection";

    fn api(&self, _namespace: &str) -> Api<VolumeAttributesClass> {
        Api::all(self.context.client.clone())
    }

    async fn is_used(&self, class: &VolumeAttributesClass) -> Result<bool, ReconcileError> {
        let name = class.name_any();
        let claims = self.claims.list();
        if claims.iter().any(|claim| named_by_claim(claim).contains(&name.as_str())) {
            return Ok(true);
        }
        Ok(self.volumes.list().iter().any(|volume| named_by_volume(volume).contains(&name.as_str())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn classes_that_a_claim_needs() {
        let claim: PersistentVolumeClaim = serde_json::from_value(json!({
            "metadata": {"name": "c"},
            "spec": {"volumeAttributesClassName": "new"},
            "status": {
                "currentVolumeAttributesClassName": "old",
                "modifyVolumeStatus": {"status": "InProgress", "targetVolumeAttributesClassName": "next"},
            },
        }))
        .expect("is a claim");
        assert_eq!(named_by_claim(&claim), ["new", "old", "next"]);
    }
}
