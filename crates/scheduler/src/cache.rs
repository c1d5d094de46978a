//! The scheduler's picture of the nodes: what the API server says, plus the pods assumed on a node while they are being bound.
//!
//! Copy on write: a scheduling cycle reads a snapshot (`Arc`s), changes touch only the nodes concerned.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};

use crate::node_info::NodeInfo;

/// The snapshot that one scheduling cycle reads.
pub(crate) type Snapshot = Arc<Vec<Arc<NodeInfo>>>;

#[derive(Default)]
pub(crate) struct Cache {
    nodes: Vec<Arc<NodeInfo>>,
    positions: HashMap<String, usize>,
    /// The node of each pod that is counted, by uid.
    placed: HashMap<String, String>,
    /// Pods that were placed before their node was known, by node.
    homeless: HashMap<String, HashMap<String, Arc<Pod>>>,
    snapshot: Option<Snapshot>,
}

impl Cache {
    pub(crate) fn set_node(&mut self, node: Arc<Node>) {
        let name = node.metadata.name.clone().unwrap_or_default();
        self.snapshot = None;
        if let Some(&position) = self.positions.get(&name) {
            Arc::make_mut(&mut self.nodes[position]).set_node(node);
            return;
        }
        let mut info = NodeInfo::new(node);
        for (uid, pod) in self.homeless.remove(&name).unwrap_or_default() {
            info.add_pod(&uid, &pod);
        }
        self.positions.insert(name, self.nodes.len());
        self.nodes.push(Arc::new(info));
    }

    pub(crate) fn remove_node(&mut self, name: &str) {
        let Some(position) = self.positions.remove(name) else { return };
        self.snapshot = None;
        self.nodes.swap_remove(position);
        if let Some(moved) = self.nodes.get(position) {
            self.positions.insert(moved.name().to_owned(), position);
        }
        self.placed.retain(|_, node| node != name);
    }

    /// Counts a pod on its node: assumed, bound, or changed there.
    pub(crate) fn place(&mut self, uid: &str, node: &str, pod: &Arc<Pod>) {
        if self.placed.get(uid).is_some_and(|before| before != node) {
            self.remove_pod(uid);
        }
        self.snapshot = None;
        self.placed.insert(uid.to_owned(), node.to_owned());
        match self.positions.get(node) {
            Some(&position) => Arc::make_mut(&mut self.nodes[position]).add_pod(uid, pod),
            None => {
                self.homeless.entry(node.to_owned()).or_default().insert(uid.to_owned(), Arc::clone(pod));
            }
        }
    }

    /// Stops counting a pod: it is gone, finished, or could not be bound.
    pub(crate) fn remove_pod(&mut self, uid: &str) {
        let Some(node) = self.placed.remove(uid) else { return };
        self.snapshot = None;
        match self.positions.get(&node) {
            Some(&position) => Arc::make_mut(&mut self.nodes[position]).remove_pod(uid),
            None => {
                if let Some(pods) = self.homeless.get_mut(&node) {
                    pods.remove(uid);
                }
            }
        }
    }

    /// All nodes as they are now. Cheap when nothing has changed.
    pub(crate) fn snapshot(&mut self) -> Snapshot {
        Arc::clone(self.snapshot.get_or_insert_with(|| Arc::new(self.nodes.clone())))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(name: &str) -> Arc<Node> {
        Arc::new(serde_json::from_value(json!({"metadata": {"name": name}, "status": {"allocatable": {"cpu": "2"}}})).unwrap())
    }

    fn pod() -> Arc<Pod> {
        let spec = json!({"containers": [{"name": "a", "resources": {"requests": {"cpu": "500m"}}}]});
        Arc::new(serde_json::from_value(json!({"spec": spec})).unwrap())
    }

    fn used(cache: &mut Cache) -> Vec<(String, i64)> {
        let mut found: Vec<_> = cache.snapshot().iter().map(|info| (info.name().to_owned(), info.requested.milli_cpu)).collect();
        found.sort();
        found
    }

    #[test]
    fn sums_follow_the_pods() {
        let mut cache = Cache::default();
        cache.place("early", "a", &pod());
        cache.set_node(node("a"));
        cache.set_node(node("b"));
        assert_eq!(used(&mut cache), [("a".into(), 500), ("b".into(), 0)]);
        cache.place("one", "b", &pod());
        cache.place("one", "b", &pod());
        assert_eq!(used(&mut cache), [("a".into(), 500), ("b".into(), 500)], "placing twice counts once");
        cache.place("one", "a", &pod());
        assert_eq!(used(&mut cache), [("a".into(), 1000), ("b".into(), 0)], "a pod counts on one node");
        cache.remove_pod("early");
        cache.remove_node("b");
        assert_eq!(used(&mut cache), [("a".into(), 500)]);
        cache.remove_node("a");
        assert_eq!(used(&mut cache), []);
    }

    #[test]
    fn a_snapshot_does_not_change() {
        let mut cache = Cache::default();
        cache.set_node(node("a"));
        let before = cache.snapshot();
        cache.place("one", "a", &pod());
        assert_eq!(before[0].requested.milli_cpu, 0);
        assert_eq!(cache.snapshot()[0].requested.milli_cpu, 500);
    }
}
