//! What the scheduler watches, and how changes reach cache, queue and nominator.

use std::sync::Arc;

use client::{Change, Informer, Informers, ResyncError};
use k8s_openapi::api::apps::v1::{ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, ReplicationController, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::resource::v1::{DeviceClass, ResourceClaim, ResourceSlice};
use k8s_openapi::api::scheduling::v1alpha1::Workload;
use k8s_openapi::api::storage::v1::{CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment};
use kube::ResourceExt;
use tokio::time::Instant;

use crate::config::FeatureGates;
use crate::framework::{ClusterEvent, Listers, Transition, workload_reference};
use crate::metrics;
use crate::pod_info::{PodInfo, priority};
use crate::resource::pod_request;
use crate::run::{Scheduler, State};

/// All informers of the scheduler.
pub(crate) struct Watches {
    nodes: Informer<Node>,
    pods: Informer<Pod>,
    namespaces: Informer<Namespace>,
    budgets: Informer<PodDisruptionBudget>,
    services: Informer<Service>,
    replication_controllers: Informer<ReplicationController>,
    replica_sets: Informer<ReplicaSet>,
    stateful_sets: Informer<StatefulSet>,
    volumes: Informer<PersistentVolume>,
    claims: Informer<PersistentVolumeClaim>,
    classes: Informer<StorageClass>,
    csi_nodes: Informer<CSINode>,
    csi_drivers: Informer<CSIDriver>,
    csi_capacities: Informer<CSIStorageCapacity>,
    attachments: Informer<VolumeAttachment>,
    resource_claims: Informer<ResourceClaim>,
    device_classes: Informer<DeviceClass>,
    resource_slices: Informer<ResourceSlice>,
    /// Only where gangs are scheduled: other API servers do not serve them.
    workloads: Option<Informer<Workload>>,
}

impl Watches {
    /// Begins to watch.
    pub(crate) fn start(informers: &Informers, gates: FeatureGates) -> Self {
        Self {
            nodes: informers.get(),
            pods: informers.get(),
            namespaces: informers.get(),
            budgets: informers.get(),
            services: informers.get(),
            replication_controllers: informers.get(),
            replica_sets: informers.get(),
            stateful_sets: informers.get(),
            volumes: informers.get(),
            claims: informers.get(),
            classes: informers.get(),
            csi_nodes: informers.get(),
            csi_drivers: informers.get(),
            csi_capacities: informers.get(),
            attachments: informers.get(),
            resource_claims: informers.get(),
            device_classes: informers.get(),
            resource_slices: informers.get(),
            workloads: gates.gang_scheduling.then(|| informers.get()),
        }
    }

    /// The caches.
    pub(crate) fn listers(&self) -> Listers {
        Listers {
            pods: self.pods.store().clone(),
            namespaces: self.namespaces.store().clone(),
            budgets: self.budgets.store().clone(),
            services: self.services.store().clone(),
            replication_controllers: self.replication_controllers.store().clone(),
            replica_sets: self.replica_sets.store().clone(),
            stateful_sets: self.stateful_sets.store().clone(),
            volumes: self.volumes.store().clone(),
            claims: self.claims.store().clone(),
            classes: self.classes.store().clone(),
            csi_nodes: self.csi_nodes.store().clone(),
            csi_drivers: self.csi_drivers.store().clone(),
            csi_capacities: self.csi_capacities.store().clone(),
            attachments: self.attachments.store().clone(),
            resource_claims: self.resource_claims.store().clone(),
            device_classes: self.device_classes.store().clone(),
            resource_slices: self.resource_slices.store().clone(),
            workloads: self.workloads.as_ref().map(|workloads| workloads.store().clone()).unwrap_or_default(),
        }
    }

    /// Lets changes reach the scheduler, and waits until it knows the cluster: what is counted before the first decision cannot be
    /// overcommitted.
    pub(crate) async fn feed(&self, scheduler: &Arc<Scheduler>) -> Result<(), ResyncError> {
        let to = Arc::clone(scheduler);
        self.nodes.add_handler(move |change| to.on_node(change));
        let to = Arc::clone(scheduler);
        self.pods.add_handler(move |change| to.on_pod(change));
        self.namespaces.wait_synced().await?;
        self.budgets.wait_synced().await?;
        self.services.wait_synced().await?;
        self.replication_controllers.wait_synced().await?;
        self.replica_sets.wait_synced().await?;
        self.stateful_sets.wait_synced().await?;
        announce(&self.volumes, scheduler, ClusterEvent::PersistentVolume).await?;
        announce(&self.claims, scheduler, ClusterEvent::PersistentVolumeClaim).await?;
        announce(&self.classes, scheduler, ClusterEvent::StorageClass).await?;
        announce(&self.csi_nodes, scheduler, ClusterEvent::CsiNode).await?;
        announce(&self.csi_drivers, scheduler, ClusterEvent::CsiDriver).await?;
        announce(&self.csi_capacities, scheduler, ClusterEvent::CsiStorageCapacity).await?;
        announce(&self.attachments, scheduler, ClusterEvent::VolumeAttachment).await?;
        announce(&self.device_classes, scheduler, ClusterEvent::DeviceClass).await?;
        announce(&self.resource_slices, scheduler, ClusterEvent::ResourceSlice).await?;
        announce(&self.resource_claims, scheduler, ClusterEvent::ResourceClaim).await?;
        if let Some(workloads) = &self.workloads {
            announce(workloads, scheduler, ClusterEvent::Workload).await?;
        }
        self.nodes.wait_synced().await?;
        self.pods.wait_synced().await
    }
}

fn transition<K>(change: &Change<'_, K>) -> Transition<K> {
    match change {
        Change::Added(object) => Transition { old: None, new: Some(Arc::clone(object)) },
        Change::Updated { old, new } => Transition { old: Some(Arc::clone(old)), new: Some(Arc::clone(new)) },
        Change::Deleted(object) => Transition { old: Some(Arc::clone(object)), new: None },
    }
}

/// Waits for the first list, then tells the queue of changes.
async fn announce<K>(
    informer: &Informer<K>,
    scheduler: &Arc<Scheduler>,
    event: fn(Transition<K>) -> ClusterEvent,
) -> Result<(), ResyncError>
where
    K: kube::Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned + std::fmt::Debug + Send + Sync + 'static,
{
    informer.wait_synced().await?;
    let to = Arc::clone(scheduler);
    informer.add_handler(move |change| to.on_event(event(transition(change))));
    Ok(())
}

fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).filter(|name| !name.is_empty())
}

/// A pod that has ended holds nothing.
fn has_ended(pod: &Pod) -> bool {
    matches!(pod.status.as_ref().and_then(|status| status.phase.as_deref()), Some("Succeeded" | "Failed"))
}

fn nominated_node(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.nominated_node_name.as_deref()).unwrap_or_default()
}

/// Whether two versions of a pod on a node differ in what may make others schedulable.
fn scheduling_differs(old: &Pod, new: &Pod) -> bool {
    let resized = || {
        let specs = |pod: &Pod| pod.spec.as_ref().map(|spec| (spec.containers.clone(), spec.init_containers.clone()));
        let statuses = |pod: &Pod| {
            let status = pod.status.as_ref();
            status.map(|status| (status.container_statuses.clone(), status.init_container_statuses.clone()))
        };
        (specs(old) != specs(new) || statuses(old) != statuses(new)) && pod_request(old) != pod_request(new)
    };
    old.metadata.labels != new.metadata.labels
        // One that leaves no longer counts for topology spread.
        || old.metadata.deletion_timestamp.is_some() != new.metadata.deletion_timestamp.is_some()
        || resized()
}

/// Whether two versions of a node differ in what scheduling depends on; heartbeats do not.
fn matters(old: &Node, new: &Node) -> bool {
    let allocatable = |node: &Node| node.status.as_ref().and_then(|status| status.allocatable.clone());
    let conditions = |node: &Node| -> Vec<(String, String)> {
        let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref()).into_iter().flatten();
        conditions.map(|condition| (condition.type_.clone(), condition.status.clone())).collect()
    };
    old.spec != new.spec
        || old.metadata.labels != new.metadata.labels
        || old.metadata.annotations != new.metadata.annotations
        || allocatable(old) != allocatable(new)
        || conditions(old) != conditions(new)
}

impl Scheduler {
    pub(crate) fn on_node(&self, change: &Change<'_, Node>) {
        let event = match change {
            Change::Added(node) => {
                self.state.lock().cache.set_node(Arc::clone(node));
                ClusterEvent::Node { old: None, new: Arc::clone(node) }
            }
            Change::Updated { old, new } => {
                self.state.lock().cache.set_node(Arc::clone(new));
                if !matters(old, new) {
                    return;
                }
                ClusterEvent::Node { old: Some(Arc::clone(old)), new: Arc::clone(new) }
            }
            Change::Deleted(node) => {
                self.state.lock().cache.remove_node(&node.name_any());
                ClusterEvent::NodeGone(Arc::clone(node))
            }
        };
        self.on_event(event);
    }

    pub(crate) fn on_pod(&self, change: &Change<'_, Pod>) {
        let Transition { old, new } = transition(change);
        let Some(uid) = change.object().metadata.uid.clone() else { return };
        let started = Instant::now();
        // Before the queue asks whether its gang is complete.
        self.handle.gangs.on_pod(change.object(), new.as_ref().is_some_and(|pod| !has_ended(pod)));
        let mut state = self.state.lock();
        let placed = new.as_ref().filter(|pod| !has_ended(pod)).and_then(|pod| Some((pod, node_of(pod)?)));
        let was_placed = old.as_ref().is_some_and(|old| node_of(old).is_some() && !has_ended(old));
        let label;
        if let Some((pod, node)) = placed {
            label = if was_placed { "AssignedPodUpdate" } else { "AssignedPodAdd" };
            let before = state.cache.placed_pod(&uid);
            state.cache.place(node, &Arc::new(PodInfo::update(before.as_deref(), Arc::clone(pod))));
            if !was_placed {
                state.queue.delete(&uid);
                self.handle.nominator.remove(&uid);
            }
            let old = old.filter(|_| was_placed);
            // What a node reports of its pods helps nobody.
            if old.as_ref().is_none_or(|old| scheduling_differs(old, pod)) {
                state.queue.on_event(self.profiles(), ClusterEvent::AssignedPod { old, new: new.clone() }, started);
            }
        } else if was_placed {
            label = "AssignedPodDelete";
            state.cache.remove_pod(&uid);
            state.queue.on_event(self.profiles(), ClusterEvent::AssignedPod { old, new: None }, started);
        } else {
            label = match (&old, &new) {
                (None, _) => "UnschedulablePodAdd",
                (_, None) => "UnschedulablePodDelete",
                _ => "UnschedulablePodUpdate",
            };
            self.on_unassigned_pod(&mut state, &uid, old, new, started);
        }
        drop(state);
        metrics::event_handled(label, started.elapsed());
        self.changed.notify_one();
    }

    /// A pod without a node is new, has changed or is gone.
    fn on_unassigned_pod(&self, state: &mut State, uid: &str, old: Option<Arc<Pod>>, new: Option<Arc<Pod>>, now: Instant) {
        let of_ours = new.filter(|pod| self.profile_of(pod).is_some() && !has_ended(pod));
        let is_placed = state.cache.is_placed(uid);
        let is_leaving = |pod: &Arc<Pod>| pod.metadata.deletion_timestamp.is_some();
        // By its status, or by our own decision that the status does not say yet.
        let kept = self.handle.nominator.node_of(uid);
        let had_room = old.as_ref().filter(|old| kept.is_some() || !nominated_node(old).is_empty()).cloned();
        match of_ours {
            // What somebody was told to wait for may not come: a pod that had been given a node is gone, or about to go.
            None if is_placed => {
                state.queue.delete(uid);
                self.on_assumed_deleted(state, uid, old, now);
            }
            Some(pod) if is_placed && is_leaving(&pod) => {
                if !old.as_ref().is_some_and(is_leaving) {
                    self.on_assumed_deleted(state, uid, Some(pod), now);
                }
            }
            None => {
                state.queue.delete(uid);
                self.handle.nominator.remove(uid);
                self.on_room_left(state, had_room, now);
            }
            Some(pod) => {
                let info = Arc::new(PodInfo::new(pod));
                let completes = old.is_none() && workload_reference(&info.pod).is_some();
                self.note_nomination(old.as_deref(), &info);
                let moved = had_room.filter(|_| self.handle.nominator.node_of(uid) != kept);
                if is_leaving(&info.pod) && !is_placed {
                    state.queue.delete(uid);
                // An old version of one that is bound already must not bring it back.
                } else if !is_placed || state.queue.is_in_flight(uid) {
                    state.queue.add(self.profiles(), Arc::clone(&info), now);
                }
                if completes {
                    state.queue.on_event(self.profiles(), ClusterEvent::UnscheduledPodAdd(Arc::clone(&info.pod)), now);
                }
                self.on_room_left(state, moved, now);
            }
        }
    }

    /// A pod that has a node, but is not bound yet, goes: its room is free at once. If it waits for permission it need not wait any longer,
    /// and its binding cycle gives up what it holds; later its binding fails by itself.
    fn on_assumed_deleted(&self, state: &mut State, uid: &str, pod: Option<Arc<Pod>>, now: Instant) {
        state.cache.remove_pod(uid);
        self.handle.waiting.reject(uid, "", "the pod is gone");
        self.handle.nominator.remove(uid);
        if let Some(pod) = pod {
            state.queue.on_event(self.profiles(), ClusterEvent::AssignedPod { old: Some(pod), new: None }, now);
        }
    }

    /// A node is no longer meant for a pod: those that had to leave it its room may have it.
    fn on_room_left(&self, state: &mut State, pod: Option<Arc<Pod>>, now: Instant) {
        let Some(pod) = pod else { return };
        let most = priority(&pod);
        let event = ClusterEvent::AssignedPod { old: Some(pod), new: None };
        state.queue.on_event_for(self.profiles(), event, now, |other| other.priority() <= most);
    }

    /// The status says which node is meant for the pod; where it does not (yet), our own decision stands.
    fn note_nomination(&self, old: Option<&Pod>, pod: &Arc<PodInfo>) {
        let (before, after) = (old.map(nominated_node).unwrap_or_default(), nominated_node(&pod.pod));
        if !after.is_empty() || !before.is_empty() {
            self.handle.nominator.set(pod, after);
        } else if let Some(node) = self.handle.nominator.node_of(&pod.uid) {
            self.handle.nominator.set(pod, &node);
        }
    }
}
