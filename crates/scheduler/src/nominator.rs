//! The pods that a node is meant for although they do not run there yet: room was made for them, or their status says so.
//!
//! Other pods of lower or equal priority must leave that room (KEP-4832, `status.nominatedNodeName`).

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::RwLock;

use crate::pod_info::PodInfo;

#[derive(Default)]
struct Inner {
    by_node: HashMap<String, Vec<Arc<PodInfo>>>,
    node_of: HashMap<String, String>,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Nominator {
    inner: RwLock<Inner>,
    /// How many pods there are: asked for each node and filter.
    count: AtomicUsize,
}

impl Nominator {
    /// Notes that a node is meant for a pod, instead of what was noted before.
    pub(crate) fn set(&self, pod: &Arc<PodInfo>, node: &str) {
        let mut inner = self.inner.write();
        inner.remove(&pod.uid);
        if !node.is_empty() {
            inner.node_of.insert(pod.uid.clone(), node.to_owned());
            inner.by_node.entry(node.to_owned()).or_default().push(Arc::clone(pod));
        }
        self.count.store(inner.node_of.len(), Ordering::Release);
    }

    /// Whether no node is meant for anybody.
    pub(crate) fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    /// Forgets a pod: it is assumed, bound or gone.
    pub(crate) fn remove(&self, uid: &str) {
        if self.is_empty() {
            return;
        }
        let mut inner = self.inner.write();
        inner.remove(uid);
        self.count.store(inner.node_of.len(), Ordering::Release);
    }

    /// The pods that a node is meant for.
    pub(crate) fn on(&self, node: &str) -> Vec<Arc<PodInfo>> {
        self.inner.read().by_node.get(node).cloned().unwrap_or_default()
    }

    /// The node that is meant for a pod.
    pub(crate) fn node_of(&self, uid: &str) -> Option<String> {
        self.inner.read().node_of.get(uid).cloned()
    }
}

impl Inner {
    fn remove(&mut self, uid: &str) {
        let Some(node) = self.node_of.remove(uid) else { return };
        if let Some(pods) = self.by_node.get_mut(&node) {
            pods.retain(|pod| pod.uid != uid);
            if pods.is_empty() {
                self.by_node.remove(&node);
            }
        }
    }
}
