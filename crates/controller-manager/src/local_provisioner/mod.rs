//! local-path-provisioner-controller: volumes that are directories of one node, for claims of the StorageClass `local-path`. It is a
//! provisioner as any other
//! (<https://kubernetes.io/docs/concepts/storage/dynamic-provisioning/>): it hears of its work by annotations, and the binder does the rest.
//!
//! Invariants: a directory exists before its PersistentVolume does, and goes before it; a finalizer keeps the volume until then where the
//! reclaim policy is `Delete`. Nothing outside the configured directory is ever removed.
//!
//! Deliberately absent: quotas (the size of a claim is noted, not enforced), snapshots, expansion, raw blocks.

mod directories;
mod install;
mod plan;

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use client::{
    Change, Controller, EventKind, EventRecorder, NamespacedName, Outcome, ReconcileError, Store, WorkQueue, run_workers,
};
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::{Api, ResourceExt};

use self::directories::{make, remove, remove_unused};
use self::plan::{ClaimStep, FINALIZER, Place, VolumeStep};
use crate::api_errors::{is_conflict, is_not_found};
use crate::config::LocalVolumes;
use crate::context::{Context, wait_synced};
use crate::persistent_volume::matching::claim_class;

pub use self::install::ensure_local_storage;

const NAME: &str = "local-path-provisioner-controller";
const WORKERS: usize = 2;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Key {
    Claim(NamespacedName),
    Volume(String),
}

struct Provisioner {
    context: Context,
    events: EventRecorder,
    local: LocalVolumes,
    claims: Store<PersistentVolumeClaim>,
    volumes: Store<PersistentVolume>,
    classes: Store<StorageClass>,
    nodes: Store<Node>,
}

pub(crate) async fn run(context: Context) {
    let Some(local) = context.config.local_volumes.clone() else {
        tracing::info!(controller = NAME, "no directory of local volumes is configured, none are made");
        return;
    };
    let claims = context.informers.get::<PersistentVolumeClaim>();
    let volumes = context.informers.get::<PersistentVolume>();
    let classes = context.informers.get::<StorageClass>();
    let nodes = context.informers.get::<Node>();
    wait_synced!(classes, nodes);
    let queue: WorkQueue<Key> = WorkQueue::new("local_path_provisioner");
    let on_claim = queue.clone();
    claims.add_handler(move |change| {
        if !matches!(change, Change::Deleted(_)) && plan::asks_us(change.object()) {
            on_claim.add(Key::Claim(NamespacedName::of(&**change.object())));
        }
    });
    let on_volume = queue.clone();
    volumes.add_handler(move |change| {
        if !matches!(change, Change::Deleted(_)) && plan::is_ours(change.object()) {
            on_volume.add(Key::Volume(change.object().name_any()));
        }
    });
    wait_synced!(claims, volumes);
    let controller = Provisioner {
        events: context.events("local-path-provisioner"),
        local,
        claims: claims.store().clone(),
        volumes: volumes.store().clone(),
        classes: classes.store().clone(),
        nodes: nodes.store().clone(),
        context: context.clone(),
    };
    run_workers(Arc::new(controller), queue, WORKERS, context.token).await;
}

#[async_trait]
impl Controller for Provisioner {
    type Key = Key;

    fn name(&self) -> &'static str {
        NAME
    }

    async fn reconcile(&self, key: &Key) -> Result<Outcome, ReconcileError> {
        let Some(node) = self.nodes.get("", &self.local.node_name) else { return Ok(Outcome::Retry) };
        let Some(place) = Place::new(&self.local, &node) else { return Ok(Outcome::Retry) };
        match key {
            Key::Claim(key) => match self.claims.get_key(key) {
                Some(claim) => self.sync_claim(&claim, &place).await,
                None => Ok(Outcome::Done),
            },
            Key::Volume(name) => match self.volumes.get("", name) {
                Some(volume) => self.sync_volume(&volume, &place).await,
                None => Ok(Outcome::Done),
            },
        }
    }
}

/// Work on the disk, apart from the threads that must not wait.
async fn on_disk(what: &'static str, work: impl FnOnce() -> std::io::Result<()> + Send + 'static) -> Result<(), ReconcileError> {
    let done = tokio::task::spawn_blocking(work).await.map_err(|error| error.to_string());
    let failed = |error: String| ReconcileError::Invalid(format!("cannot {what}: {error}"));
    done.map_err(failed)?.map_err(|error| failed(error.to_string()))
}

impl Provisioner {
    fn volumes_api(&self) -> Api<PersistentVolume> {
        Api::all(self.context.client.clone())
    }

    async fn sync_claim(&self, claim: &PersistentVolumeClaim, place: &Place<'_>) -> Result<Outcome, ReconcileError> {
        let class = self.classes.get("", claim_class(claim));
        let (volume, path) = match plan::claim(claim, class.as_deref(), place) {
            ClaimStep::Nothing => return Ok(Outcome::Done),
            ClaimStep::Refuse(why) => {
                self.tell_failure(claim, &why);
                return Ok(Outcome::Done);
            }
            ClaimStep::Provision(volume, path) => (volume, path),
        };
        if self.volumes.get("", &volume.name_any()).is_some() {
            return Ok(Outcome::Done);
        }
        let name = NamespacedName::of(claim);
        let begun = format!("External provisioner is provisioning volume for claim \"{name}\"");
        self.events.record(claim, EventKind::Normal, "Provisioning", begun);
        if let Err(error) = self.provision(&volume, path).await {
            self.tell_failure(claim, &error.to_string());
            return Err(error);
        }
        let done = format!("Successfully provisioned volume {}", volume.name_any());
        self.events.record(claim, EventKind::Normal, "ProvisioningSucceeded", done);
        Ok(Outcome::Done)
    }

    fn tell_failure(&self, claim: &PersistentVolumeClaim, why: &str) {
        let message = format!("failed to provision volume with StorageClass {:?}: {why}", claim_class(claim));
        self.events.record(claim, EventKind::Warning, "ProvisioningFailed", message);
    }

    async fn provision(&self, volume: &PersistentVolume, path: PathBuf) -> Result<(), ReconcileError> {
        let made = path.clone();
        on_disk("make the volume's directory", move || make(&made)).await?;
        match self.volumes_api().create(&PostParams::default(), volume).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
            Err(error) => {
                // A volume that was refused has no directory. After other errors it may be there all the same.
                if matches!(&error, kube::Error::Api(status) if (400..500).contains(&status.code)) {
                    on_disk("remove the volume's directory", move || remove_unused(&path)).await?;
                }
                Err(ReconcileError::api("create persistent volume")(error))
            }
        }
    }

    async fn sync_volume(&self, volume: &PersistentVolume, place: &Place<'_>) -> Result<Outcome, ReconcileError> {
        match plan::volume(volume, place) {
            VolumeStep::Nothing => {}
            VolumeStep::LetGo => self.let_go(volume).await?,
            VolumeStep::Delete(path) => {
                let removed = on_disk("remove the volume's directory", move || remove(&path)).await;
                if let Err(error) = removed {
                    self.events.record(volume, EventKind::Warning, "VolumeFailedDelete", error.to_string());
                    return Err(error);
                }
                let preconditions = Preconditions { uid: volume.uid(), resource_version: None };
                let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
                match self.volumes_api().delete(&volume.name_any(), &params).await {
                    Ok(_) => {}
                    Err(error) if is_not_found(&error) || is_conflict(&error) => return Ok(Outcome::Done),
                    Err(error) => return Err(ReconcileError::api("delete persistent volume")(error)),
                }
                self.let_go(volume).await?;
            }
        }
        Ok(Outcome::Done)
    }

    /// Takes the finalizer off. The volume may have changed since it was cached, if only by being deleted.
    async fn let_go(&self, volume: &PersistentVolume) -> Result<(), ReconcileError> {
        let name = volume.name_any();
        let current = self.volumes_api().get_opt(&name).await.map_err(ReconcileError::api("get persistent volume"))?;
        let Some(mut current) = current.filter(|current| current.uid() == volume.uid()) else { return Ok(()) };
        if !current.finalizers().iter().any(|finalizer| finalizer == FINALIZER) {
            return Ok(());
        }
        current.finalizers_mut().retain(|finalizer| finalizer != FINALIZER);
        match self.volumes_api().replace(&name, &PostParams::default(), &current).await {
            Ok(_) => Ok(()),
            Err(error) if is_not_found(&error) => Ok(()),
            Err(error) => Err(ReconcileError::api("update persistent volume")(error)),
        }
    }
}
