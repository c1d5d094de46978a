//! The pods of each gang, and how far they are (KEP-4671): all that are known, those that have been given a node, those that are bound.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, WorkloadReference};
use parking_lot::Mutex;
use tokio::time::Instant;

/// Upstream's DefaultSchedulingTimeoutDuration: so long the first pods of a gang hold their nodes for the others.
const PATIENCE: Duration = Duration::from_secs(5 * 60);

/// A replica of a group of a Workload's pods: namespace, Workload, group, key of the replica.
type Key = (String, String, String, String);

/// All of them. One that has no pods is forgotten.
#[derive(Default)]
pub(crate) struct Gangs(Mutex<HashMap<Key, Group>>);

/// One gang; pods are known by uid.
#[derive(Default)]
pub(crate) struct Group {
    all: HashSet<String>,
    /// They have been given a node, and wait for the others or are being bound.
    assumed: HashSet<String>,
    /// Their node is in their spec.
    assigned: HashSet<String>,
    /// When those that wait are sent back.
    deadline: Option<Instant>,
}

/// The reference of a pod to its Workload, if it has one.
pub(crate) fn workload_reference(pod: &Pod) -> Option<&WorkloadReference> {
    pod.spec.as_ref()?.workload_ref.as_ref()
}

fn key(pod: &Pod) -> Option<Key> {
    let reference = workload_reference(pod)?;
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let replica = reference.pod_group_replica_key.clone().unwrap_or_default();
    Some((namespace, reference.name.clone(), reference.pod_group.clone(), replica))
}

impl Gangs {
    /// A pod has come or changed; with `exists` false it is gone, or has ended.
    pub(crate) fn on_pod(&self, pod: &Pod, exists: bool) {
        let (Some(key), Some(uid)) = (key(pod), pod.metadata.uid.clone()) else { return };
        let mut gangs = self.0.lock();
        if exists {
            let group = gangs.entry(key).or_default();
            if pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).is_some_and(|node| !node.is_empty()) {
                group.assumed.remove(&uid);
                group.assigned.insert(uid.clone());
            }
            group.all.insert(uid);
        } else if let Some(group) = gangs.get_mut(&key) {
            for pods in [&mut group.all, &mut group.assumed, &mut group.assigned] {
                pods.remove(&uid);
            }
            if group.all.is_empty() {
                gangs.remove(&key);
            }
        }
    }

    /// Calls `visit` with the gang of a pod. `None` if nothing is known of it.
    pub(crate) fn with<R>(&self, pod: &Pod, visit: impl FnOnce(&mut Group, &str) -> R) -> Option<R> {
        let (key, uid) = (key(pod)?, pod.metadata.uid.as_deref()?);
        self.0.lock().get_mut(&key).map(|group| visit(group, uid))
    }
}

impl Group {
    /// How many pods there are, whether or not they have a node.
    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    /// The pod has been given a node.
    pub(crate) fn assume(&mut self, uid: &str) {
        if self.all.contains(uid) && !self.assigned.contains(uid) {
            self.assumed.insert(uid.to_owned());
        }
    }

    /// It has not, after all.
    pub(crate) fn forget(&mut self, uid: &str) {
        self.assumed.remove(uid);
    }

    /// How many have a node.
    pub(crate) fn placed(&self) -> usize {
        self.assumed.len() + self.assigned.len()
    }

    /// Those that have been given a node and are not known to be bound.
    pub(crate) fn assumed(&self) -> impl Iterator<Item = &String> {
        self.assumed.iter()
    }

    /// Those without a node.
    pub(crate) fn unscheduled(&self) -> impl Iterator<Item = &String> {
        self.all.iter().filter(|uid| !self.assumed.contains(*uid) && !self.assigned.contains(*uid))
    }

    /// How long those that wait may go on doing so: all of a gang give up at the same time, and after that another attempt begins.
    pub(crate) fn patience(&mut self) -> Duration {
        let now = Instant::now();
        let deadline = match self.deadline {
            Some(deadline) if deadline >= now => deadline,
            _ => now + PATIENCE,
        };
        self.deadline = Some(deadline);
        deadline - now
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(uid: &str, group: &str, node: Option<&str>) -> Pod {
        let spec = json!({"containers": [], "nodeName": node, "workloadRef": {"name": "w", "podGroup": group}});
        serde_json::from_value(json!({"metadata": {"name": uid, "namespace": "d", "uid": uid}, "spec": spec})).expect("a pod")
    }

    #[test]
    fn a_pod_is_in_one_state() {
        let gangs = Gangs::default();
        for uid in ["a", "b"] {
            gangs.on_pod(&pod(uid, "g", None), true);
        }
        gangs.on_pod(&pod("other", "h", None), true);
        let states = |uid: &str| {
            gangs.with(&pod(uid, "g", None), |group, _| (group.len(), group.placed(), group.unscheduled().count())).unwrap()
        };
        assert_eq!(states("a"), (2, 0, 2));
        gangs.with(&pod("a", "g", None), Group::assume);
        assert_eq!(states("a"), (2, 1, 1));
        gangs.with(&pod("a", "g", None), Group::forget);
        assert_eq!(states("a"), (2, 0, 2));
        gangs.with(&pod("a", "g", None), Group::assume);
        gangs.on_pod(&pod("a", "g", Some("n")), true);
        gangs.with(&pod("a", "g", None), Group::assume);
        assert_eq!(states("a"), (2, 1, 1), "bound, and not counted twice");
        gangs.on_pod(&pod("a", "g", Some("n")), false);
        gangs.with(&pod("a", "g", None), Group::assume);
        assert_eq!(states("b"), (1, 0, 1), "one that is gone does not count");
        gangs.on_pod(&pod("b", "g", None), false);
        assert!(gangs.with(&pod("b", "g", None), |_, _| ()).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_gang_gives_up_together() {
        let mut group = Group::default();
        assert_eq!(group.patience(), PATIENCE);
        tokio::time::advance(Duration::from_secs(200)).await;
        assert_eq!(group.patience(), Duration::from_secs(100));
        tokio::time::advance(Duration::from_secs(101)).await;
        assert_eq!(group.patience(), PATIENCE, "another attempt");
    }
}
