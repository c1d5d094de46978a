//! persistentvolume-expander-controller: says of a claim that asks for more than it has who is to give it. Volumes are expanded by the
//! drivers' external-resizer; what upstream's controller did itself it does no more.
//!
//! A volume of a type that was handed on to a CSI driver is marked with that driver's name, so that its resizer acts
//! (<https://kubernetes.io/docs/concepts/storage/persistent-volumes/#expanding-persistent-volumes-claims>).

use std::sync::Arc;

use apimachinery::{MIGRATED_VOLUMES, MigratedVolume, Quantity};
use async_trait::async_trait;
use client::{
    Change, Controller, EventKind, EventRecorder, NamespacedName, Outcome, ReconcileError, Store, WorkQueue, run_workers,
};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Amount;
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::api_errors::ignore_not_found;
use crate::context::{Context, wait_synced};

const RESIZER: &str = "volume.kubernetes.io/storage-resizer";
const PRE_RESIZE_CAPACITY: &str = "volume.alpha.kubernetes.io/pre-resize-capacity";
/// Upstream's defaultWorkerCount.
const WORKERS: usize = 10;

struct Expander {
    context: Context,
    events: EventRecorder,
    claims: Store<PersistentVolumeClaim>,
}

/// The storage that a claim asks for, and what it has.
fn sizes(claim: &PersistentVolumeClaim) -> (Quantity, Quantity) {
    let quantity = |amount: Option<&Amount>| amount.and_then(|amount| Quantity::parse(&amount.0).ok()).unwrap_or_default();
    let requests = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref()).and_then(|r| r.requests.as_ref());
    let capacity = claim.status.as_ref().and_then(|status| status.capacity.as_ref());
    (quantity(requests.and_then(|r| r.get("storage"))), quantity(capacity.and_then(|c| c.get("storage"))))
}

fn is_bound(claim: &PersistentVolumeClaim) -> bool {
    claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound")
}

/// Upstream's condition: a bound claim that is new here, asks for more than before, or has more than before.
fn concerns(change: &Change<'_, PersistentVolumeClaim>) -> bool {
    match change {
        Change::Added(claim) => is_bound(claim),
        Change::Updated { old, new } => {
            let ((asked, had), (asks, has)) = (sizes(old), sizes(new));
            is_bound(new) && (asks > asked || has > had)
        }
        Change::Deleted(_) => false,
    }
}

/// What the volume is, if it is of a type that upstream handed on.
fn migrated(volume: &PersistentVolume) -> Option<MigratedVolume> {
    let spec = volume.spec.as_ref()?;
    let members = [
        (spec.aws_elastic_block_store.is_some(), "awsElasticBlockStore"),
        (spec.azure_disk.is_some(), "azureDisk"),
        (spec.azure_file.is_some(), "azureFile"),
        (spec.cinder.is_some(), "cinder"),
        (spec.gce_persistent_disk.is_some(), "gcePersistentDisk"),
        (spec.portworx_volume.is_some(), "portworxVolume"),
        (spec.vsphere_volume.is_some(), "vsphereVolume"),
    ];
    let (_, member) = members.into_iter().find(|(is_set, _)| *is_set)?;
    MIGRATED_VOLUMES.into_iter().find(|kind| kind.member == member)
}

/// What is to be said about a claim, and whom it is to be marked for.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    message: String,
    resizer: Option<&'static str>,
}

/// `Err`: claim and volume do not belong together.
fn plan(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Result<Option<Plan>, String> {
    let reference = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    if reference.is_none_or(|reference| reference.uid != claim.uid() || reference.namespace != claim.namespace()) {
        let key = NamespacedName::of(claim);
        return Err(format!("persistent Volume is not bound to PVC being updated : {key}"));
    }
    let (asks, has) = sizes(claim);
    if asks <= has && !volume.annotations().contains_key(PRE_RESIZE_CAPACITY) {
        return Ok(None);
    }
    Ok(Some(match migrated(volume) {
        Some(MigratedVolume { plugin, driver, .. }) => {
            let message = format!("CSI migration enabled for {plugin}; waiting for external resizer to expand the pvc");
            let marked = claim.annotations().get(RESIZER).is_some_and(|have| have == driver);
            Plan { message, resizer: (!marked).then_some(driver) }
        }
        None => Plan { message: "waiting for an external controller to expand this PVC".to_owned(), resizer: None },
    }))
}

pub(crate) async fn run(context: Context) {
    let claims = context.informers.get::<PersistentVolumeClaim>();
    let queue: WorkQueue<NamespacedName> = WorkQueue::new("volume_expand");
    let on_claim = queue.clone();
    claims.add_handler(move |change| {
        if concerns(change) {
            on_claim.add(NamespacedName::of(&**change.object()));
        }
    });
    wait_synced!(claims);
    let events = context.events("volume_expand");
    let controller = Expander { events, claims: claims.store().clone(), context: context.clone() };
    run_workers(Arc::new(controller), queue, WORKERS, context.token).await;
}

#[async_trait]
impl Controller for Expander {
    type Key = NamespacedName;

    fn name(&self) -> &'static str {
        "persistentvolume-expander-controller"
    }

    async fn reconcile(&self, key: &NamespacedName) -> Result<Outcome, ReconcileError> {
        let Some(claim) = self.claims.get_key(key) else { return Ok(Outcome::Done) };
        // Nothing asks the server about claims that have what they want: that is every claim when this process starts.
        let (asks, has) = sizes(&claim);
        if asks <= has {
            return Ok(Outcome::Done);
        }
        let Some(name) = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()) else { return Ok(Outcome::Done) };
        let volumes: Api<PersistentVolume> = Api::all(self.context.client.clone());
        let volume = volumes.get(name).await.map_err(ReconcileError::api("get persistent volume"))?;
        let Some(Plan { message, resizer }) = plan(&claim, &volume).map_err(ReconcileError::Invalid)? else {
            return Ok(Outcome::Done);
        };
        self.events.record(&*claim, EventKind::Normal, "ExternalExpanding", message);
        if let Some(resizer) = resizer {
            let annotations = json!({RESIZER: resizer});
            let patch = Patch::Merge(json!({"metadata": {"annotations": annotations, "uid": claim.uid()}}));
            let api: Api<PersistentVolumeClaim> = self.context.api(&key.namespace);
            let written = api.patch_status(&key.name, &PatchParams::default(), &patch).await;
            ignore_not_found(written).map_err(ReconcileError::api("set resizer of persistent volume claim"))?;
        }
        Ok(Outcome::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn claim(asks: &str, has: &str, annotations: Value) -> Arc<PersistentVolumeClaim> {
        let value = json!({"metadata": {"name": "c", "namespace": "n", "uid": "u", "annotations": annotations},
            "spec": {"volumeName": "v", "resources": {"requests": {"storage": asks}}},
            "status": {"phase": "Bound", "capacity": {"storage": has}}});
        Arc::new(serde_json::from_value(value).expect("is a claim"))
    }

    fn volume(source: Value) -> PersistentVolume {
        let mut value = json!({"metadata": {"name": "v"}, "spec": {"claimRef": {"namespace": "n", "name": "c", "uid": "u"}}});
        value["spec"].as_object_mut().expect("is an object").extend(source.as_object().expect("is an object").clone());
        serde_json::from_value(value).expect("is a volume")
    }

    #[test]
    fn who_is_to_expand_a_volume() {
        let external = Plan { message: "waiting for an external controller to expand this PVC".to_owned(), resizer: None };
        let ebs = || volume(json!({"awsElasticBlockStore": {"volumeID": "x"}}));
        let message =
            "CSI migration enabled for kubernetes.io/aws-ebs; waiting for external resizer to expand the pvc".to_owned();
        let migrated = |resizer| Plan { message: message.clone(), resizer };
        let csi = || volume(json!({"csi": {"driver": "d", "volumeHandle": "h"}}));
        for (claim, volume, expected) in [
            (claim("1Gi", "1Gi", json!({})), csi(), None),
            (claim("2Gi", "1024Mi", json!({})), csi(), Some(external)),
            (claim("2Gi", "1Gi", json!({})), ebs(), Some(migrated(Some("ebs.csi.aws.com")))),
            (claim("2Gi", "1Gi", json!({RESIZER: "ebs.csi.aws.com"})), ebs(), Some(migrated(None))),
        ] {
            assert_eq!(plan(&claim, &volume), Ok(expected), "{claim:?}");
        }
        let mut other = csi();
        other.spec.as_mut().expect("is there").claim_ref.as_mut().expect("is there").uid = Some("other".to_owned());
        assert!(plan(&claim("2Gi", "1Gi", json!({})), &other).is_err());
    }

    #[test]
    fn only_growth_counts() {
        let (small, large) = (claim("1Gi", "1Gi", json!({})), claim("2Gi", "1Gi", json!({})));
        assert!(concerns(&Change::Updated { old: &small, new: &large }));
        assert!(!concerns(&Change::Updated { old: &large, new: &large }));
        assert!(concerns(&Change::Added(&small)));
        assert!(!concerns(&Change::Deleted(&large)));
    }
}
