//! Which changes wake which owner, and what they say about expectations.

use std::sync::Arc;
use std::time::Duration;

use client::{Change, Informer, NamespacedName, Store, WorkQueue};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use super::owner::ReplicaOwner;
use crate::expectations::Expectations;
use crate::ownership::{controller_of, resolve_controller};
use crate::pod_state::is_ready;

pub(super) fn watch_owners<K: ReplicaOwner>(
    owners: &Informer<K>,
    queue: &WorkQueue<NamespacedName>,
    expectations: &Arc<Expectations>,
) {
    let (queue, expectations) = (queue.clone(), Arc::clone(expectations));
    owners.add_handler(move |change| {
        let key = NamespacedName::of(&**change.object());
        let replaced = matches!(change, Change::Updated { old, new } if old.uid() != new.uid());
        if replaced || matches!(change, Change::Deleted(_)) {
            expectations.forget(&key);
        }
        queue.add(key);
    });
}

pub(super) fn watch_pods<K: ReplicaOwner>(
    pods: &Informer<Pod>,
    owners: &Store<K>,
    queue: &WorkQueue<NamespacedName>,
    expectations: &Arc<Expectations>,
) {
    let wakeups = Wakeups { owners: owners.clone(), queue: queue.clone(), expectations: Arc::clone(expectations) };
    pods.add_handler(move |change| wakeups.pod(change));
}

pub(super) struct Wakeups<K> {
    pub(super) owners: Store<K>,
    pub(super) queue: WorkQueue<NamespacedName>,
    pub(super) expectations: Arc<Expectations>,
}

impl<K: ReplicaOwner> Wakeups<K> {
    pub(super) fn pod(&self, change: &Change<'_, Pod>) {
        match change {
            Change::Added(pod) if pod.metadata.deletion_timestamp.is_some() => self.deleted(pod),
            Change::Added(pod) => self.added(pod),
            Change::Updated { old, new } => self.updated(old, new),
            Change::Deleted(pod) => self.deleted(pod),
        }
    }

    fn owner_of(&self, pod: &Pod) -> Option<Arc<K>> {
        resolve_controller(&self.owners, &pod.metadata)
    }

    fn added(&self, pod: &Pod) {
        if controller_of(&pod.metadata).is_none() {
            return self.wake_matching(pod);
        }
        if let Some(owner) = self.owner_of(pod) {
            let key = NamespacedName::of(&*owner);
            self.expectations.creations_observed(&key, 1);
            self.queue.add(key);
        }
    }

    fn updated(&self, old: &Pod, new: &Pod) {
        let relabeled = old.metadata.labels != new.metadata.labels;
        if new.metadata.deletion_timestamp.is_some() {
            // Deletion counts from its start: the replacement need not wait for the grace period.
            self.deleted(new);
            if relabeled {
                self.deleted(old);
            }
            return;
        }
        let controller_changed = controller_of(&old.metadata) != controller_of(&new.metadata);
        if controller_changed && let Some(owner) = self.owner_of(old) {
            self.queue.add(NamespacedName::of(&*owner));
        }
        if controller_of(&new.metadata).is_none() {
            if relabeled || controller_changed {
                self.wake_matching(new);
            }
            return;
        }
        let Some(owner) = self.owner_of(new) else { return };
        let key = NamespacedName::of(&*owner);
        if !is_ready(old) && is_ready(new) && owner.min_ready_seconds() > 0 {
            let seconds = u64::try_from(owner.min_ready_seconds()).unwrap_or(0);
            self.queue.add_after(key.clone(), Duration::from_secs(seconds));
        }
        self.queue.add(key);
    }

    fn deleted(&self, pod: &Pod) {
        if let Some(owner) = self.owner_of(pod) {
            let key = NamespacedName::of(&*owner);
            self.expectations.deletion_observed(&key, pod.metadata.uid.as_deref().unwrap_or(""));
            self.queue.add(key);
        }
    }

    /// A pod without controller may be adopted by whoever selects it.
    fn wake_matching(&self, pod: &Pod) {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or("");
        for owner in self.owners.list_namespace(namespace) {
            if owner.matcher().is_some_and(|matcher| matcher.matches(&pod.metadata)) {
                self.queue.add(NamespacedName::of(&*owner));
            }
        }
    }
}
