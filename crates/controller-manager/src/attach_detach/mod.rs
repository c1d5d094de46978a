//! persistentvolume-attach-detach-controller: attaches the volumes of CSI drivers to the nodes whose pods need them, and takes them off
//! when none does (VolumeAttachment objects; the drivers' external-attacher acts on them).
//!
//! Two promises. A volume that may be on one node only is never attached to two: it is asked for on the second when the attachment to the
//! first is gone. And a node that mounts knows that it may: before an attachment is deleted the volume is off the node's
//! `status.volumesAttached`, and the node has been asked anew whether it uses it.
//!
//! Absent: volume types that upstream hands on to CSI drivers (in-tree volumes), and attachments whose PersistentVolume is gone, which
//! upstream leaves alone as well.

#[cfg(test)]
mod model_tests;
mod perform;
mod plan;
#[cfg(test)]
mod plan_tests;
mod volumes;
mod wakeups;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use async_trait::async_trait;
use client::{Controller, EventRecorder, Outcome, ReconcileError, Store, WorkQueue, run_workers};
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::{CSIDriver, VolumeAttachment};
use kube::{Api, ResourceExt};
use parking_lot::Mutex;
use prometheus::{IntCounterVec, register_int_counter_vec};
use tokio::time::Instant;

use self::plan::{Attachment, World, plan};
use self::volumes::{Storage, Volume, needed};
use crate::context::{Context, wait_synced};
use crate::node_lifecycle::{index_by_node, pods_on_node};
use crate::pod_claims::{CLAIMS_INDEX, claim_keys};

/// Nodes with this annotation leave attaching to the controller.
const MANAGED: &str = "volumes.kubernetes.io/controller-managed-attach-detach";
/// What was asked for should be in the cache after so long; the server is asked where it is not.
const ASKED_MAX: Duration = Duration::from_secs(10);
const BY_NODE: &str = "attachmentsByNode";
const BY_VOLUME: &str = "attachmentsByVolume";

static FORCED: LazyLock<Option<IntCounterVec>> = LazyLock::new(|| {
    let name = "attach_detach_controller_attachdetach_controller_forced_detaches";
    register_int_counter_vec!(name, "Number of times the A/D Controller performed a forced detach", &["reason"]).ok()
});

/// What is remembered between two looks. A new process begins without it: what it lists is enough, or it waits longer.
#[derive(Default)]
struct Memory {
    /// Since when no pod has needed an attachment, by its name.
    unneeded: HashMap<String, Instant>,
    /// Attachments that were asked for and are not in the cache yet, by name.
    asked: HashMap<String, Asked>,
    /// UIDs of attachments that were asked to go, which the cache may not know yet.
    going: HashSet<String>,
    /// What nodes that are gone used at last, by their names; so long as something is attached to them.
    last_in_use: HashMap<String, HashSet<String>>,
    /// What users were told, by node and volume: once is enough.
    told: HashMap<(String, String), String>,
}

/// An attachment that was asked for.
#[derive(Clone)]
struct Asked {
    unique_name: String,
    volume: String,
    node: String,
    at: Instant,
}

struct AttachDetach {
    context: Context,
    events: EventRecorder,
    nodes: Store<Node>,
    pods: Store<Pod>,
    claims: Store<PersistentVolumeClaim>,
    volumes: Store<PersistentVolume>,
    drivers: Store<CSIDriver>,
    attachments: Store<VolumeAttachment>,
    memory: Arc<Mutex<Memory>>,
}

impl Storage for AttachDetach {
    fn claim(&self, namespace: &str, name: &str) -> Option<Arc<PersistentVolumeClaim>> {
        self.claims.get(namespace, name)
    }

    fn volume(&self, name: &str) -> Option<Arc<PersistentVolume>> {
        self.volumes.get("", name)
    }

    fn attaches(&self, driver: &str) -> bool {
        let driver = self.drivers.get("", driver);
        driver.is_none_or(|driver| driver.spec.attach_required != Some(false))
    }
}

fn index(attachments: &Store<VolumeAttachment>) {
    attachments.add_index(BY_NODE, |attachment| vec![attachment.spec.node_name.clone()]);
    attachments.add_index(BY_VOLUME, |attachment| attachment.spec.source.persistent_volume_name.iter().cloned().collect());
}

pub(crate) async fn run(context: Context) {
    let nodes = context.informers.get::<Node>();
    let pods = context.informers.get::<Pod>();
    let claims = context.informers.get::<PersistentVolumeClaim>();
    let volumes = context.informers.get::<PersistentVolume>();
    let drivers = context.informers.get::<CSIDriver>();
    let attachments = context.informers.get::<VolumeAttachment>();
    index_by_node(pods.store());
    pods.store().add_index(CLAIMS_INDEX, claim_keys);
    index(attachments.store());
    wait_synced!(claims, volumes, drivers, attachments, pods, nodes);
    let queue: WorkQueue<String> = WorkQueue::new("attach_detach");
    let memory: Arc<Mutex<Memory>> = Arc::default();
    wakeups::watch_pods(&pods, &queue);
    wakeups::watch_nodes(&nodes, &memory, &queue);
    wakeups::watch_storage(&claims, &volumes, pods.store(), &queue);
    wakeups::watch_drivers(&drivers, nodes.store(), &queue);
    wakeups::watch_attachments(&attachments, volumes.store(), pods.store(), &memory, &queue);
    let controller = AttachDetach {
        events: context.events("attachdetach-controller"),
        nodes: nodes.store().clone(),
        pods: pods.store().clone(),
        claims: claims.store().clone(),
        volumes: volumes.store().clone(),
        drivers: drivers.store().clone(),
        attachments: attachments.store().clone(),
        memory,
        context: context.clone(),
    };
    // One worker: who gets a volume that may be on one node only is decided in one place.
    run_workers(Arc::new(controller), queue, 1, context.token).await;
}

#[async_trait]
impl Controller for AttachDetach {
    type Key = String;

    fn name(&self) -> &'static str {
        "persistentvolume-attach-detach-controller"
    }

    async fn reconcile(&self, name: &String) -> Result<Outcome, ReconcileError> {
        let node = self.nodes.get("", name);
        let managed = node.as_ref().is_some_and(|node| node.annotations().contains_key(MANAGED));
        if node.is_some() && !managed {
            // Its kubelet attaches and detaches: what is there is not for this controller to judge.
            return Ok(Outcome::Done);
        }
        let needed = if managed { needed(&pods_on_node(&self.pods, name), self) } else { BTreeMap::new() };
        let objects = self.attachments.by_index(BY_NODE, name);
        let known: Vec<_> = objects.iter().filter_map(|object| Some((object, self.volume_of(object)?))).collect();
        let attachments: Vec<Attachment<'_>> = {
            let mut memory = self.memory.lock();
            known
                .iter()
                .map(|(object, volume)| Attachment {
                    object,
                    volume: volume.clone(),
                    going: object.metadata.deletion_timestamp.is_some()
                        || object.uid().is_some_and(|uid| memory.going.contains(&uid)),
                    unneeded_for: memory.unneeded_for(&object.name_any(), needed.contains_key(&volume.unique_name)),
                })
                .collect()
        };
        let volumes: BTreeSet<&str> = needed.values().map(|needed| needed.volume.persistent_volume.as_str()).collect();
        let elsewhere = volumes.iter().map(|volume| ((*volume).to_owned(), self.elsewhere(volume, name))).collect();
        self.check_asked(name).await?;
        let (asked, last_in_use) = {
            let mut memory = self.memory.lock();
            let asked = memory.asked_for(name);
            if node.is_none() && objects.is_empty() && asked.is_empty() {
                memory.last_in_use.remove(name);
            }
            (asked, memory.last_in_use.get(name).cloned())
        };
        let world = World {
            node: node.as_deref(),
            last_in_use: last_in_use.as_ref(),
            needed: &needed,
            attachments: &attachments,
            elsewhere: &elsewhere,
            asked: &asked,
            never_force: self.context.config.disable_force_detach_on_timeout,
        };
        let plan = plan(&world);
        let wait = (!asked.is_empty()).then_some(ASKED_MAX);
        let look_again = [plan.look_again, wait].into_iter().flatten().min();
        self.perform(name, node.as_deref(), plan).await?;
        Ok(look_again.map_or(Outcome::Done, Outcome::RequeueAfter))
    }
}

impl AttachDetach {
    fn volume_of(&self, attachment: &VolumeAttachment) -> Option<Volume> {
        let name = attachment.spec.source.persistent_volume_name.as_deref()?;
        Volume::of(&*self.volumes.get("", name)?).filter(|volume| volume.driver == attachment.spec.attacher)
    }

    /// Forgets what was asked for and went before the cache saw it.
    async fn check_asked(&self, node: &str) -> Result<(), ReconcileError> {
        let old = |(_, asked): &(&String, &Asked)| asked.node == node && asked.at.elapsed() >= ASKED_MAX;
        let old: Vec<String> = self.memory.lock().asked.iter().filter(old).map(|(name, _)| name.clone()).collect();
        let api: Api<VolumeAttachment> = Api::all(self.context.client.clone());
        for name in old {
            let found = api.get_opt(&name).await.map_err(ReconcileError::api("get volume attachment"))?;
            if found.is_none() {
                self.memory.lock().asked.remove(&name);
            }
        }
        Ok(())
    }

    /// Other nodes that a volume is attached to, or being attached to or detached from.
    fn elsewhere(&self, volume: &str, node: &str) -> Vec<String> {
        let attachments = self.attachments.by_index(BY_VOLUME, volume);
        let mut nodes: BTreeSet<String> = attachments.iter().map(|attachment| attachment.spec.node_name.clone()).collect();
        nodes.extend(self.memory.lock().asked.values().filter(|asked| asked.volume == volume).map(|asked| asked.node.clone()));
        nodes.into_iter().filter(|other| other != node).collect()
    }
}

impl Memory {
    fn unneeded_for(&mut self, attachment: &str, is_needed: bool) -> Option<Duration> {
        if is_needed {
            self.unneeded.remove(attachment);
            return None;
        }
        Some(self.unneeded.entry(attachment.to_owned()).or_insert_with(Instant::now).elapsed())
    }

    fn asked_for(&self, node: &str) -> Vec<String> {
        self.asked.values().filter(|asked| asked.node == node).map(|asked| asked.unique_name.clone()).collect()
    }

    /// Whether a user was not told this before.
    fn is_news(&mut self, node: &str, volume: &str, text: &str) -> bool {
        let key = (node.to_owned(), volume.to_owned());
        self.told.insert(key, text.to_owned()).is_none_or(|before| before != text)
    }

    fn forget_told(&mut self, node: &str, volume: &str) {
        self.told.remove(&(node.to_owned(), volume.to_owned()));
    }
}
