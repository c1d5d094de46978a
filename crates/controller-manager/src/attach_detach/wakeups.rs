//! Which nodes to look at when something changes.

use std::sync::Arc;

use client::{Change, Informer, Store, WorkQueue};
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::{CSIDriver, VolumeAttachment};
use kube::ResourceExt;
use parking_lot::Mutex;

use super::{MANAGED, Memory};
use crate::pod_claims::{CLAIMS_INDEX, claim_keys};
use crate::pod_state::node_name;

/// Pods with claims, when they are placed, finish or go.
pub(super) fn watch_pods(pods: &Informer<Pod>, queue: &WorkQueue<String>) {
    let queue = queue.clone();
    pods.add_handler(move |change| {
        let pod = change.object();
        if !node_name(pod).is_empty() && !claim_keys(pod).is_empty() {
            queue.add(node_name(pod).to_owned());
        }
    });
}

/// What of a node counts here; heartbeats do not.
fn essence(node: &Node) -> impl PartialEq {
    let status = node.status.as_ref();
    let ready = status.and_then(|status| status.conditions.as_ref()).into_iter().flatten().find(|c| c.type_ == "Ready");
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    (
        node.annotations().contains_key(MANAGED),
        status.and_then(|status| status.volumes_in_use.clone()),
        status.and_then(|status| status.volumes_attached.clone()),
        ready.map(|condition| condition.status.clone()),
        taints.map(|taint| taint.key.clone()).collect::<Vec<_>>(),
    )
}

pub(super) fn watch_nodes(nodes: &Informer<Node>, memory: &Arc<Mutex<Memory>>, queue: &WorkQueue<String>) {
    let (memory, queue) = (memory.clone(), queue.clone());
    nodes.add_handler(move |change| {
        memory.lock().seen_node(change);
        match change {
            Change::Updated { old, new } if essence(old) == essence(new) => {}
            change => queue.add(change.object().name_any()),
        }
    });
}

/// Queues the nodes of the pods that use a claim.
fn wake_users(pods: &Store<Pod>, claim: &str, queue: &WorkQueue<String>) {
    for pod in pods.by_index(CLAIMS_INDEX, claim) {
        if !node_name(&pod).is_empty() {
            queue.add(node_name(&pod).to_owned());
        }
    }
}

/// The claim of a volume, as `NAMESPACE/NAME`.
fn claim_of(volume: &PersistentVolume) -> Option<String> {
    let reference = volume.spec.as_ref()?.claim_ref.as_ref()?;
    Some(format!("{}/{}", reference.namespace.as_deref()?, reference.name.as_deref()?))
}

pub(super) fn watch_storage(
    claims: &Informer<PersistentVolumeClaim>,
    volumes: &Informer<PersistentVolume>,
    pods: &Store<Pod>,
    queue: &WorkQueue<String>,
) {
    let (known, on_claim) = (pods.clone(), queue.clone());
    claims.add_handler(move |change| {
        let claim = change.object();
        let key = format!("{}/{}", claim.namespace().unwrap_or_default(), claim.name_any());
        wake_users(&known, &key, &on_claim);
    });
    let (known, on_volume) = (pods.clone(), queue.clone());
    volumes.add_handler(move |change| {
        if let Some(claim) = claim_of(change.object()) {
            wake_users(&known, &claim, &on_volume);
        }
    });
}

/// Drivers come seldom; what they say may be about any node.
pub(super) fn watch_drivers(drivers: &Informer<CSIDriver>, nodes: &Store<Node>, queue: &WorkQueue<String>) {
    let (nodes, queue) = (nodes.clone(), queue.clone());
    drivers.add_handler(move |_| nodes.for_each(|node| queue.add(node.name_any())));
}

/// An attachment concerns its node, and when it goes those who wait for the volume.
pub(super) fn watch_attachments(
    attachments: &Informer<VolumeAttachment>,
    volumes: &Store<PersistentVolume>,
    pods: &Store<Pod>,
    memory: &Arc<Mutex<Memory>>,
    queue: &WorkQueue<String>,
) {
    let (volumes, pods, memory, queue) = (volumes.clone(), pods.clone(), memory.clone(), queue.clone());
    attachments.add_handler(move |change| {
        let attachment = change.object();
        memory.lock().seen(change);
        queue.add(attachment.spec.node_name.clone());
        let volume = attachment.spec.source.persistent_volume_name.as_deref().and_then(|name| volumes.get("", name));
        if let (Change::Deleted(_), Some(claim)) = (change, volume.and_then(|volume| claim_of(&volume))) {
            wake_users(&pods, &claim, &queue);
        }
    });
}

impl Memory {
    /// A node that goes leaves behind what it used.
    pub(super) fn seen_node(&mut self, change: &Change<'_, Node>) {
        let node = change.object();
        if matches!(change, Change::Deleted(_)) {
            let used = node.status.as_ref().and_then(|status| status.volumes_in_use.clone()).unwrap_or_default();
            self.last_in_use.insert(node.name_any(), used.into_iter().collect());
        } else {
            self.last_in_use.remove(&node.name_any());
        }
    }

    /// The cache has what was asked for, or it is gone.
    pub(super) fn seen(&mut self, change: &Change<'_, VolumeAttachment>) {
        let name = change.object().name_any();
        self.asked.remove(&name);
        if matches!(change, Change::Deleted(_)) {
            self.unneeded.remove(&name);
            self.going.remove(&change.object().uid().unwrap_or_default());
        }
    }
}
