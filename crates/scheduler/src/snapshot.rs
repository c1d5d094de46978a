//! What one scheduling cycle reads: all nodes as they were when it began, and the indexes over them that plugins share.
//!
//! The scheduling loop owns the snapshot; [`crate::cache::Cache::refresh`] replaces only the nodes that changed since, so that its cost
//! grows with the change, not with the cluster. Invariant: an index holds exactly what a walk over the nodes would find.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    nodes: Vec<Arc<NodeInfo>>,
    positions: HashMap<String, usize>,
    /// The positions of nodes with pods that have affinity terms.
    with_affinity: BTreeSet<usize>,
    /// How many pods use a claim, by `namespace/name`.
    claims: HashMap<String, usize>,
}

impl Snapshot {
    /// A snapshot of these nodes.
    pub(crate) fn of(nodes: impl IntoIterator<Item = Arc<NodeInfo>>) -> Self {
        let mut snapshot = Self::default();
        for node in nodes {
            snapshot.set(snapshot.nodes.len(), node);
        }
        snapshot
    }

    /// All nodes.
    pub(crate) fn nodes(&self) -> &[Arc<NodeInfo>] {
        &self.nodes
    }

    /// How many nodes there are.
    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there is no node.
    pub(crate) fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// A node by its name.
    pub(crate) fn get(&self, name: &str) -> Option<&Arc<NodeInfo>> {
        self.positions.get(name).map(|position| &self.nodes[*position])
    }

    /// The nodes with pods that have affinity terms of any kind.
    pub(crate) fn nodes_with_affinity(&self) -> impl Iterator<Item = &Arc<NodeInfo>> {
        self.with_affinity.iter().map(|position| &self.nodes[*position])
    }

    /// Whether a pod on some node uses the claim `namespace/name`.
    pub(crate) fn is_claim_used(&self, claim: &str) -> bool {
        self.claims.contains_key(claim)
    }

    /// Puts a node at a position: that of an older version, or the next after the last.
    pub(crate) fn set(&mut self, position: usize, node: Arc<NodeInfo>) {
        self.count(&node, 1);
        if node.pods_with_affinity().is_empty() {
            self.with_affinity.remove(&position);
        } else {
            self.with_affinity.insert(position);
        }
        match self.nodes.get_mut(position) {
            Some(place) => {
                let before = std::mem::replace(place, node);
                self.count(&before, -1);
                let after = &self.nodes[position];
                if before.name() != after.name() {
                    self.positions.remove(before.name());
                    self.positions.insert(after.name().to_owned(), position);
                }
            }
            None => {
                self.positions.insert(node.name().to_owned(), position);
                self.nodes.push(node);
            }
        }
    }

    fn count(&mut self, node: &NodeInfo, by: isize) {
        for claim in node.pods().iter().flat_map(|pod: &Arc<PodInfo>| &pod.claims) {
            let users = self.claims.entry(claim.clone()).or_default();
            *users = users.saturating_add_signed(by);
            if *users == 0 {
                self.claims.remove(claim);
            }
        }
    }
}
