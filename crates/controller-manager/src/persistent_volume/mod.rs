//! persistentvolume-binder-controller: binds claims and volumes to each other, and says what becomes of a volume whose claim is gone
//! (<https://kubernetes.io/docs/concepts/storage/persistent-volumes/>).
//!
//! The volume is written first, with its resourceVersion as the precondition, so that two claims cannot get one volume. Whatever is
//! cut off in the middle is finished or undone when either object is looked at again.
//!
//! Absent: drivers that provision, delete or recycle in this process. Provisioners are programs of their own, and hear of their work
//! by annotations.

mod binding;
mod claims;
pub(crate) mod matching;
#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod tests;
mod volumes;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use client::{
    Change, Controller, EventKind, EventRecorder, Informer, NamespacedName, Outcome, ReconcileError, Store, WorkQueue,
    run_workers,
};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::PostParams;
use kube::{Api, Resource, ResourceExt};
use parking_lot::Mutex;
use tokio::time::Instant;

use self::claims::{Note, World};
use self::matching::volume_name;
use crate::api_errors::ignore_not_found;
use crate::context::{Context, wait_synced};
use crate::pod_claims::{CLAIMS_INDEX, claim_keys, is_finished};

/// How often its events are repeated: they live for an hour.
const REMIND: Duration = Duration::from_secs(1800);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Key {
    Claim(NamespacedName),
    Volume(String),
}

struct Binder {
    context: Context,
    events: EventRecorder,
    queue: WorkQueue<Key>,
    volumes: Store<PersistentVolume>,
    claims: Store<PersistentVolumeClaim>,
    classes: Store<StorageClass>,
    pods: Store<Pod>,
    /// What was last told of claims that wait, by their UIDs.
    told: Mutex<HashMap<String, (String, Instant)>>,
}

pub(crate) async fn run(context: Context) {
    let volumes = context.informers.get::<PersistentVolume>();
    let claims = context.informers.get::<PersistentVolumeClaim>();
    let classes = context.informers.get::<StorageClass>();
    let pods = context.informers.get::<Pod>();
    pods.store().add_index(CLAIMS_INDEX, claim_keys);
    let queue: WorkQueue<Key> = WorkQueue::new("persistentvolume_binder");
    watch_volumes(&volumes, claims.store(), &queue);
    let on_claim = queue.clone();
    claims.add_handler(move |change| match change {
        Change::Deleted(claim) if !volume_name(claim).is_empty() => on_claim.add(Key::Volume(volume_name(claim).to_owned())),
        Change::Deleted(_) => {}
        change => on_claim.add(Key::Claim(NamespacedName::of(&**change.object()))),
    });
    let (on_class, waiting) = (queue.clone(), claims.store().clone());
    classes.add_handler(move |_| wake_waiting(&waiting, &on_class));
    wait_synced!(volumes, claims, classes, pods);
    let controller = Binder {
        events: context.events("persistentvolume-controller"),
        queue: queue.clone(),
        volumes: volumes.store().clone(),
        claims: claims.store().clone(),
        classes: classes.store().clone(),
        pods: pods.store().clone(),
        told: Mutex::default(),
        context: context.clone(),
    };
    // One worker: claims choose among the same volumes.
    run_workers(Arc::new(controller), queue, 1, context.token).await;
}

fn watch_volumes(volumes: &Informer<PersistentVolume>, claims: &Store<PersistentVolumeClaim>, queue: &WorkQueue<Key>) {
    let (queue, claims) = (queue.clone(), claims.clone());
    volumes.add_handler(move |change| {
        let volume = change.object();
        let reference = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
        if let Some(reference) = reference {
            let (namespace, name) = (reference.namespace.clone(), reference.name.clone());
            queue.add(Key::Claim(NamespacedName::new(namespace.unwrap_or_default(), name.unwrap_or_default())));
        } else if matching::phase(volume) == "Available" {
            wake_waiting(&claims, &queue);
        }
        if !matches!(change, Change::Deleted(_)) {
            queue.add(Key::Volume(volume.name_any()));
        }
    });
}

/// Queues every claim that has no volume.
fn wake_waiting(claims: &Store<PersistentVolumeClaim>, queue: &WorkQueue<Key>) {
    claims.for_each(|claim| {
        if volume_name(claim).is_empty() {
            queue.add(Key::Claim(NamespacedName::of(&**claim)));
        }
    });
}

#[async_trait]
impl Controller for Binder {
    type Key = Key;

    fn name(&self) -> &'static str {
        "persistentvolume-binder-controller"
    }

    async fn reconcile(&self, key: &Key) -> Result<Outcome, ReconcileError> {
        match key {
            Key::Claim(key) => match self.claims.get_key(key) {
                Some(claim) => self.sync_claim(&claim).await,
                None => Ok(Outcome::Done),
            },
            Key::Volume(name) => match self.volumes.get("", name) {
                Some(volume) => self.sync_volume(&volume).await,
                None => Ok(Outcome::Done),
            },
        }
    }
}

impl Binder {
    fn volumes_api(&self) -> Api<PersistentVolume> {
        Api::all(self.context.client.clone())
    }

    fn claims_api(&self, claim: &PersistentVolumeClaim) -> Api<PersistentVolumeClaim> {
        self.context.api(claim.metadata.namespace.as_deref().unwrap_or_default())
    }

    fn tell<K: Resource<DynamicType = ()>>(&self, object: &K, note: Note) {
        let kind = if note.warning { EventKind::Warning } else { EventKind::Normal };
        self.events.record(object, kind, note.reason, note.message);
    }

    /// Tells of a claim that waits; the same thing again only before its event expires, so that a cluster in which nothing changes is still.
    fn remind(&self, claim: &PersistentVolumeClaim, note: Note) {
        let (uid, now) = (claim.uid().unwrap_or_default(), Instant::now());
        let text = note.message.clone();
        let mut told = self.told.lock();
        if told.get(&uid).is_some_and(|(before, at)| *before == text && now.duration_since(*at) < REMIND) {
            return;
        }
        told.retain(|_, (_, at)| now.duration_since(*at) < REMIND);
        told.insert(uid, (text, now));
        drop(told);
        self.tell(claim, note);
    }

    async fn sync_claim(&self, claim: &PersistentVolumeClaim) -> Result<Outcome, ReconcileError> {
        let key = NamespacedName::of(claim).to_string();
        let unscheduled_pods = || self.unscheduled_pods(&key);
        let world = World { volumes: &self.volumes, classes: &self.classes, unscheduled_pods: &unscheduled_pods };
        match claims::plan(claim, &world) {
            claims::Step::Bind(volume) => self.bind(&volume, claim).await.map(|()| Outcome::Done),
            claims::Step::AssignClass(class) => {
                let mut changed = claim.clone();
                changed.spec.get_or_insert_default().storage_class_name = Some(class);
                self.replace_claim(&changed).await.map(|_| Outcome::Done)
            }
            claims::Step::Provision(provisioner) => self.ask_provisioner(claim, &provisioner).await,
            claims::Step::Tell(note) => {
                self.remind(claim, note);
                Ok(Outcome::RequeueAfter(self.context.config.pvclaimbinder_sync_period))
            }
            claims::Step::Pending(note) => {
                if let Some(note) = note {
                    self.remind(claim, note);
                }
                self.set_claim_phase(claim, "Pending", None).await?;
                Ok(Outcome::RequeueAfter(self.context.config.pvclaimbinder_sync_period))
            }
            claims::Step::Lost(note) => self.lose(claim, note).await,
            claims::Step::Fail(note) => {
                let message = note.message.clone();
                self.tell(claim, note);
                Err(ReconcileError::Invalid(message))
            }
        }
    }

    fn unscheduled_pods(&self, claim: &str) -> Vec<String> {
        let waits = |pod: &Arc<Pod>| {
            !is_finished(pod) && pod.spec.as_ref().is_none_or(|spec| spec.node_name.as_deref().unwrap_or_default().is_empty())
        };
        self.pods.by_index(CLAIMS_INDEX, claim).iter().filter(|pod| waits(pod)).map(|pod| pod.name_any()).collect()
    }

    /// A claim whose volume is gone. The cache of volumes may lag behind that of claims: the server has the last word.
    async fn lose(&self, claim: &PersistentVolumeClaim, note: Note) -> Result<Outcome, ReconcileError> {
        let name = volume_name(claim);
        if !name.is_empty() && self.volumes.get("", name).is_none() {
            let found = self.volumes_api().get_opt(name).await.map_err(ReconcileError::api("get persistent volume"))?;
            if found.is_some() {
                return Ok(Outcome::Retry);
            }
        }
        if claim.status.as_ref().and_then(|status| status.phase.as_deref()) != Some("Lost") {
            self.set_claim_phase(claim, "Lost", None).await?;
            self.tell(claim, note);
        }
        Ok(Outcome::Done)
    }

    async fn ask_provisioner(&self, claim: &PersistentVolumeClaim, provisioner: &str) -> Result<Outcome, ReconcileError> {
        if let Some(asking) = binding::with_provisioner(claim, provisioner) {
            self.replace_claim(&asking).await?;
        }
        let message = format!(
            "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by the system \
             administrator. If volume creation is delayed, please verify that the provisioner is running and correctly registered."
        );
        self.remind(claim, Note::normal("ExternalProvisioning", message));
        Ok(Outcome::RequeueAfter(self.context.config.pvclaimbinder_sync_period))
    }

    /// Binds the two to each other, the volume first.
    async fn bind(&self, volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Result<(), ReconcileError> {
        let mut volume = volume.clone();
        if let Some(bound) = binding::bound_volume(&volume, claim) {
            volume = self.replace_volume(&bound).await?;
        }
        volume = self.set_volume_phase(volume, "Bound", None).await?;
        let mut claim = claim.clone();
        if let Some(bound) = binding::bound_claim(&claim, &volume) {
            claim = self.replace_claim(&bound).await?;
        }
        self.set_claim_phase(&claim, "Bound", Some(&volume)).await
    }

    async fn sync_volume(&self, volume: &Arc<PersistentVolume>) -> Result<Outcome, ReconcileError> {
        let claim = self.claim_of(volume).await?;
        match volumes::plan(volume, claim.as_deref()) {
            volumes::Step::Available => {
                self.set_volume_phase((**volume).clone(), "Available", None).await?;
            }
            volumes::Step::Bound => {
                self.set_volume_phase((**volume).clone(), "Bound", None).await?;
            }
            volumes::Step::Release => return self.release(volume).await,
            volumes::Step::Unbind => {
                let free = self.replace_volume(&volumes::unbound(volume)).await?;
                self.set_volume_phase(free, "Available", None).await?;
            }
            volumes::Step::WakeClaim => {
                claim.iter().for_each(|claim| self.queue.add(Key::Claim(NamespacedName::of(&**claim))));
            }
            volumes::Step::Mismatch(of_volume, of_claim) => {
                self.tell(&**volume, of_volume);
                claim.iter().for_each(|claim| self.tell(&**claim, of_claim.clone()));
            }
        }
        Ok(Outcome::Done)
    }

    /// The claim that a volume refers to. Before a volume is given up the server is asked: the cache may not know a new claim yet.
    async fn claim_of(&self, volume: &PersistentVolume) -> Result<Option<Arc<PersistentVolumeClaim>>, ReconcileError> {
        let Some(reference) = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()) else { return Ok(None) };
        let (namespace, name) =
            (reference.namespace.as_deref().unwrap_or_default(), reference.name.as_deref().unwrap_or_default());
        let cached = self.claims.get(namespace, name);
        let given_up = matches!(matching::phase(volume), "Released" | "Failed");
        let settled = match &cached {
            Some(claim) => claim.metadata.uid == reference.uid,
            None => given_up,
        };
        if settled || reference.uid.as_deref().unwrap_or_default().is_empty() {
            return Ok(cached);
        }
        let api: Api<PersistentVolumeClaim> = self.context.api(namespace);
        let claim = api.get_opt(name).await.map_err(ReconcileError::api("get persistent volume claim"))?;
        Ok(claim.map(Arc::new))
    }

    async fn release(&self, volume: &PersistentVolume) -> Result<Outcome, ReconcileError> {
        let mut volume = volume.clone();
        if !matches!(matching::phase(&volume), "Released" | "Failed") {
            volume = self.set_volume_phase(volume, "Released", None).await?;
        }
        let Some(note) = volumes::reclaim(&volume) else { return Ok(Outcome::Done) };
        if matching::phase(&volume) != "Failed" {
            let failed = self.set_volume_phase(volume, "Failed", Some(&note.message)).await?;
            self.tell(&failed, note);
        }
        Ok(Outcome::Done)
    }

    async fn replace_volume(&self, volume: &PersistentVolume) -> Result<PersistentVolume, ReconcileError> {
        let result = self.volumes_api().replace(&volume.name_any(), &PostParams::default(), volume).await;
        result.map_err(ReconcileError::api("update persistent volume"))
    }

    async fn replace_claim(&self, claim: &PersistentVolumeClaim) -> Result<PersistentVolumeClaim, ReconcileError> {
        let result = self.claims_api(claim).replace(&claim.name_any(), &PostParams::default(), claim).await;
        result.map_err(ReconcileError::api("update persistent volume claim"))
    }

    async fn set_volume_phase(
        &self,
        volume: PersistentVolume,
        phase: &str,
        message: Option<&str>,
    ) -> Result<PersistentVolume, ReconcileError> {
        let Some(changed) = binding::in_phase(&volume, phase, message) else { return Ok(volume) };
        let result = self.volumes_api().replace_status(&changed.name_any(), &PostParams::default(), &changed).await;
        result.map_err(ReconcileError::api("update persistent volume status"))
    }

    async fn set_claim_phase(
        &self,
        claim: &PersistentVolumeClaim,
        phase: &str,
        volume: Option<&PersistentVolume>,
    ) -> Result<(), ReconcileError> {
        let Some(changed) = binding::claim_in_phase(claim, phase, volume) else { return Ok(()) };
        let result = self.claims_api(claim).replace_status(&claim.name_any(), &PostParams::default(), &changed).await;
        ignore_not_found(result).map_err(ReconcileError::api("update persistent volume claim status"))
    }
}
