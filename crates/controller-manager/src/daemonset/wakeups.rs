//! Which changes wake which set, and what they say about expectations.

use std::sync::Arc;
use std::time::Duration;

use client::{Change, Informer, NamespacedName, Store, WorkQueue};
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;

use super::matcher;
use super::nodes::{Fit, Simulation};
use super::pods::min_ready_seconds;
use crate::expectations::Expectations;
use crate::node_lifecycle::pods_on_node;
use crate::ownership::{controller_of, resolve_controller};
use crate::pod_state::is_ready;

pub(super) fn watch_sets(sets: &Informer<DaemonSet>, queue: &WorkQueue<NamespacedName>, expectations: &Arc<Expectations>) {
    let (queue, expectations) = (queue.clone(), Arc::clone(expectations));
    sets.add_handler(move |change| {
        let key = NamespacedName::of(&**change.object());
        let replaced = matches!(change, Change::Updated { old, new } if old.uid() != new.uid());
        if replaced || matches!(change, Change::Deleted(_)) {
            expectations.forget(&key);
        }
        queue.add(key);
    });
}

/// What wakes sets. Cheap to clone.
#[derive(Clone)]
pub(super) struct Wakeups {
    pub(super) sets: Store<DaemonSet>,
    pub(super) queue: WorkQueue<NamespacedName>,
    pub(super) expectations: Arc<Expectations>,
}

impl Wakeups {
    fn owner_of(&self, meta: &ObjectMeta) -> Option<(NamespacedName, Arc<DaemonSet>)> {
        let set = resolve_controller(&self.sets, meta)?;
        Some((NamespacedName::of(&*set), set))
    }

    fn wake_owner(&self, meta: &ObjectMeta) {
        if let Some((key, _)) = self.owner_of(meta) {
            self.queue.add(key);
        }
    }

    /// Any set that selects it may adopt it.
    fn wake_matching(&self, meta: &ObjectMeta) {
        for set in self.sets.list_namespace(meta.namespace.as_deref().unwrap_or("")) {
            if matcher(&set).is_some_and(|matcher| matcher.matches(meta)) {
                self.queue.add(NamespacedName::of(&*set));
            }
        }
    }

    /// For what changed hands, or could now.
    fn wake_after(&self, old: &ObjectMeta, new: &ObjectMeta) {
        let controller_changed = controller_of(old) != controller_of(new);
        if controller_changed {
            self.wake_owner(old);
        }
        if controller_of(new).is_some() {
            self.wake_owner(new);
        } else if controller_changed || old.labels != new.labels {
            self.wake_matching(new);
        }
    }

    pub(super) fn watch_revisions(self, revisions: &Informer<ControllerRevision>) {
        revisions.add_handler(move |change| match change {
            Change::Added(revision) if controller_of(&revision.metadata).is_none() => self.wake_matching(&revision.metadata),
            // Made by the set itself.
            Change::Added(_) => {}
            Change::Updated { old, new } => self.wake_after(&old.metadata, &new.metadata),
            Change::Deleted(revision) => self.wake_owner(&revision.metadata),
        });
    }

    pub(super) fn watch_pods(self, pods: &Informer<Pod>) {
        pods.add_handler(move |change| self.pod(change));
    }

    pub(super) fn pod(&self, change: &Change<'_, Pod>) {
        match change {
            Change::Added(pod) if pod.metadata.deletion_timestamp.is_some() => self.pod_deleted(pod),
            Change::Added(pod) => self.pod_added(pod),
            // Deletion counts from its start.
            Change::Updated { new, .. } if new.metadata.deletion_timestamp.is_some() => self.pod_deleted(new),
            Change::Updated { old, new } => self.pod_updated(old, new),
            Change::Deleted(pod) => self.pod_deleted(pod),
        }
    }

    fn pod_added(&self, pod: &Pod) {
        if controller_of(&pod.metadata).is_none() {
            return self.wake_matching(&pod.metadata);
        }
        if let Some((key, _)) = self.owner_of(&pod.metadata) {
            self.expectations.creations_observed(&key, 1);
            self.queue.add(key);
        }
    }

    fn pod_deleted(&self, pod: &Pod) {
        if let Some((key, _)) = self.owner_of(&pod.metadata) {
            self.expectations.deletion_observed(&key, pod.metadata.uid.as_deref().unwrap_or(""));
            self.queue.add(key);
        }
    }

    fn pod_updated(&self, old: &Pod, new: &Pod) {
        self.wake_after(&old.metadata, &new.metadata);
        if is_ready(old) || !is_ready(new) {
            return;
        }
        if let Some((key, set)) = self.owner_of(&new.metadata)
            && min_ready_seconds(&set) > 0
        {
            // A second more, because readiness is noted in whole seconds.
            let seconds = u64::try_from(min_ready_seconds(&set)).unwrap_or(0) + 1;
            self.queue.add_after(key, Duration::from_secs(seconds));
        }
    }
}

pub(super) fn watch_nodes(nodes: &Informer<Node>, queue: &WorkQueue<String>) {
    let queue = queue.clone();
    nodes.add_handler(move |change| {
        let concerned = match change {
            Change::Added(_) => true,
            Change::Updated { old, new } => {
                let taints = |node: &Node| node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
                old.metadata.labels != new.metadata.labels || taints(old) != taints(new)
            }
            // Its pods go by pod GC, and that wakes their sets.
            Change::Deleted(_) => false,
        };
        if concerned {
            queue.add(change.object().name_any());
        }
    });
}

/// Whether a set has to look at a node that changed, given how many of its pods are there.
pub(super) fn concerns(set: &DaemonSet, node: &Node, pods: usize) -> bool {
    let fit = Simulation::new(set).fit(node);
    let astray = set.status.as_ref().map_or(0, |status| status.number_misscheduled);
    if pods == 0 { fit == Fit::Run } else { fit == Fit::Leave || astray > 0 }
}

/// The sets that a changed node concerns.
pub(super) fn concerned(sets: &Store<DaemonSet>, node: &Node, pods: &Store<Pod>) -> Vec<NamespacedName> {
    let here = pods_on_node(pods, &node.name_any());
    let count = |set: &DaemonSet| {
        let of_set = |pod: &&Arc<Pod>| {
            pod.metadata.namespace == set.metadata.namespace
                && controller_of(&pod.metadata).is_some_and(|owner| owner.kind == "DaemonSet" && owner.name == set.name_any())
        };
        here.iter().filter(of_set).count()
    };
    sets.list().iter().filter(|set| concerns(set, node, count(set))).map(|set| NamespacedName::of(&**set)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn which_node_changes_concern_a_set() {
        // Upstream's TestUpdateNode: (node has the label, pods here, misscheduled, concerned).
        for (fits, pods, astray, expected) in [
            (true, 0, 0, true),
            (true, 1, 0, false),
            (true, 1, 1, true),
            (false, 0, 0, false),
            (false, 0, 1, false),
            (false, 1, 0, true),
        ] {
            let set: DaemonSet = serde_json::from_value(json!({
                "spec": {"selector": {}, "template": {"spec": {"containers": [], "nodeSelector": {"a": "b"}}}},
                "status": {"numberMisscheduled": astray, "currentNumberScheduled": 0, "desiredNumberScheduled": 0, "numberReady": 0},
            }))
            .expect("is a set");
            let labels = if fits { json!({"a": "b"}) } else { json!({}) };
            let node: Node = serde_json::from_value(json!({"metadata": {"name": "n", "labels": labels}})).expect("is a node");
            assert_eq!(concerns(&set, &node, pods), expected, "{fits} {pods} {astray}");
        }
    }
}
