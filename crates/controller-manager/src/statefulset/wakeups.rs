//! Which changes of pods and claims wake which set.

use std::time::Duration;

use client::{Change, Informer, NamespacedName, Store, WorkQueue};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};

use super::identity::{is_claim_of, min_ready_seconds};
use super::matcher;
use crate::ownership::{controller_of, resolve_controller};
use crate::pod_state::is_ready;

pub(super) fn watch_pods(pods: &Informer<Pod>, sets: &Store<StatefulSet>, queue: &WorkQueue<NamespacedName>) {
    let wakeups = Wakeups { sets: sets.clone(), queue: queue.clone() };
    pods.add_handler(move |change| match change {
        Change::Added(pod) if pod.metadata.deletion_timestamp.is_none() && controller_of(&pod.metadata).is_none() => {
            wakeups.orphan(pod);
        }
        Change::Added(pod) | Change::Deleted(pod) => wakeups.owner(pod),
        Change::Updated { old, new } => wakeups.updated(old, new),
    });
}

/// A pod may wait for its claim of an earlier pod to go. (Upstream does not watch claims; such a pod waits for any other event.)
pub(super) fn watch_claims(
    claims: &Informer<PersistentVolumeClaim>,
    sets: &Store<StatefulSet>,
    queue: &WorkQueue<NamespacedName>,
) {
    let (sets, queue) = (sets.clone(), queue.clone());
    claims.add_handler(move |change| {
        let Change::Deleted(claim) = change else { return };
        let name = claim.metadata.name.as_deref().unwrap_or_default();
        for set in sets.list_namespace(claim.metadata.namespace.as_deref().unwrap_or("")) {
            if is_claim_of(&set, name) {
                queue.add(NamespacedName::of(&*set));
            }
        }
    });
}

struct Wakeups {
    sets: Store<StatefulSet>,
    queue: WorkQueue<NamespacedName>,
}

impl Wakeups {
    fn owner(&self, pod: &Pod) {
        if let Some(set) = resolve_controller(&self.sets, &pod.metadata) {
            self.queue.add(NamespacedName::of(&*set));
        }
    }

    /// Any set that selects the pod may adopt it.
    fn orphan(&self, pod: &Pod) {
        for set in self.sets.list_namespace(pod.metadata.namespace.as_deref().unwrap_or("")) {
            if matcher(&set).is_some_and(|matcher| matcher.matches(&pod.metadata)) {
                self.queue.add(NamespacedName::of(&*set));
            }
        }
    }

    fn updated(&self, old: &Pod, new: &Pod) {
        let controller_changed = controller_of(&old.metadata) != controller_of(&new.metadata);
        if controller_changed {
            self.owner(old);
        }
        if controller_of(&new.metadata).is_none() {
            if controller_changed || old.metadata.labels != new.metadata.labels {
                self.orphan(new);
            }
            return;
        }
        let Some(set) = resolve_controller(&self.sets, &new.metadata) else { return };
        let key = NamespacedName::of(&*set);
        let seconds = u64::try_from(min_ready_seconds(&set)).unwrap_or(0);
        if seconds > 0 && !is_ready(old) && is_ready(new) {
            self.queue.add_after(key.clone(), Duration::from_secs(seconds));
        }
        self.queue.add(key);
    }
}
