//! What plugins may look at beside the snapshot: the caches of other kinds of objects, and who is nominated, preempting or waiting.

use std::collections::HashMap;

use client::{NamespacedName, Store};
use k8s_openapi::api::apps::v1::{ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Namespace, PersistentVolume, PersistentVolumeClaim, Pod, ReplicationController, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::resource::v1::{DeviceClass, ResourceClaim, ResourceSlice};
use k8s_openapi::api::scheduling::v1alpha1::Workload;
use k8s_openapi::api::storage::v1::{CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment};
use parking_lot::Mutex;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::watch;

use super::gangs::Gangs;
use super::release::ClaimRelease;
use super::waiting::WaitingPods;
use crate::label_selector::Labels;
use crate::nominator::Nominator;

/// Readers of the informers' caches. Empty ones are for tests.
#[derive(Clone, Default)]
pub struct Listers {
    /// Pods.
    pub pods: Store<Pod>,
    /// Namespaces, for the selectors of affinity terms.
    pub namespaces: Store<Namespace>,
    /// Budgets, for preemption.
    pub budgets: Store<PodDisruptionBudget>,
    /// Services, for the default topology spread.
    pub services: Store<Service>,
    /// Replication controllers, likewise.
    pub replication_controllers: Store<ReplicationController>,
    /// Replica sets, likewise.
    pub replica_sets: Store<ReplicaSet>,
    /// Stateful sets, likewise.
    pub stateful_sets: Store<StatefulSet>,
    /// Volumes.
    pub volumes: Store<PersistentVolume>,
    /// Claims.
    pub claims: Store<PersistentVolumeClaim>,
    /// Storage classes.
    pub classes: Store<StorageClass>,
    /// What CSI drivers are on which node.
    pub csi_nodes: Store<CSINode>,
    /// CSI drivers.
    pub csi_drivers: Store<CSIDriver>,
    /// Free storage.
    pub csi_capacities: Store<CSIStorageCapacity>,
    /// Volumes that are attached to nodes.
    pub attachments: Store<VolumeAttachment>,
    /// Claims to devices.
    pub resource_claims: Store<ResourceClaim>,
    /// Classes of devices.
    pub device_classes: Store<DeviceClass>,
    /// Devices.
    pub resource_slices: Store<ResourceSlice>,
    /// What gangs pods are in; empty unless gangs are scheduled.
    pub workloads: Store<Workload>,
}

impl Listers {
    /// Calls `visit` with the labels of a namespace; one that is not known has none.
    pub(crate) fn with_namespace_labels<R>(&self, namespace: &str, visit: impl FnOnce(Option<&Labels>) -> R) -> R {
        let object = self.namespaces.get("", namespace);
        visit(object.as_ref().and_then(|object| object.metadata.labels.as_ref()))
    }
}

/// Shared by all plugins of all profiles.
pub struct Handle {
    /// The caches.
    pub listers: Listers,
    pub(crate) nominator: Nominator,
    /// The pods, by uid, whose victims are being evicted at the moment: they are not tried again meanwhile.
    /// With the last victim, once only that one is left.
    pub(crate) preempting: Mutex<HashMap<String, Option<NamespacedName>>>,
    /// Moves on whenever a claim or a volume changes.
    pub(crate) storage_changed: watch::Sender<u64>,
    /// The pods that a Permit plugin told to wait.
    pub(crate) waiting: WaitingPods,
    /// The pods of each gang.
    pub(crate) gangs: Gangs,
    /// The pods, by uid, that a plugin wants to be tried at once; the scheduler takes them when the cycle is over.
    pub(crate) activations: Mutex<Vec<String>>,
    /// Claims to devices that are to be given back, by whoever comes to it next: plugins that find out do no I/O.
    pub(crate) releases: Mutex<Vec<ClaimRelease>>,
    /// What decides among equals. A test that needs to know its answers seeds it.
    pub(crate) random: Mutex<StdRng>,
}

impl Default for Handle {
    fn default() -> Self {
        Self {
            listers: Listers::default(),
            nominator: Nominator::default(),
            preempting: Mutex::default(),
            storage_changed: watch::Sender::default(),
            waiting: WaitingPods::default(),
            gangs: Gangs::default(),
            activations: Mutex::default(),
            releases: Mutex::default(),
            random: Mutex::new(StdRng::from_rng(&mut rand::rng())),
        }
    }
}

impl Handle {
    /// A Permit plugin has nothing more against a pod (by uid) that it told to wait.
    pub fn allow_waiting_pod(&self, uid: &str, plugin: &str) {
        self.waiting.allow(uid, plugin);
    }

    /// Has a claim given back; at most one entry a claim and pod.
    pub(crate) fn release(&self, release: ClaimRelease) {
        let mut releases = self.releases.lock();
        if !releases.contains(&release) {
            releases.push(release);
        }
    }

    /// Whether the eviction of a pod's victims is under way. It is over when the last has begun to terminate.
    pub(crate) fn is_preempting(&self, uid: &str) -> bool {
        match self.preempting.lock().get(uid) {
            None => false,
            Some(None) => true,
            Some(Some(last)) => {
                self.listers.pods.get_key(last).is_some_and(|victim| victim.metadata.deletion_timestamp.is_none())
            }
        }
    }
}
