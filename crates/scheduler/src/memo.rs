//! Sums over all nodes that are kept from cycle to cycle, and brought up to date by what has changed instead of by another walk.
//!
//! Invariant: what is handed out equals what a walk over the snapshot would give. The sums must be additive: a node counts by itself, and
//! counting it with the opposite sign takes it out again. Handing out is a clone: use persistent maps.

use parking_lot::Mutex;

use crate::node_info::NodeInfo;
use crate::snapshot::{Moment, Snapshot};

/// Different questions that are remembered: pods of so many kinds may alternate.
const ENTRIES_MAX: usize = 16;

/// The answers to questions of one kind. `K` is all that the sums depend on besides the nodes.
pub(crate) struct Memo<K, V> {
    /// The one used last is the last.
    entries: Mutex<Vec<(K, Moment, V)>>,
}

impl<K, V> Default for Memo<K, V> {
    fn default() -> Self {
        Self { entries: Mutex::default() }
    }
}

/// Which nodes count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Over {
    /// All.
    Nodes,
    /// Those with pods that have affinity terms; others count nothing.
    NodesWithAffinity,
}

impl<K: PartialEq, V: Clone + Default> Memo<K, V> {
    /// The sums over nodes. `count` adds a node (1) to them, or takes it out (-1).
    pub(crate) fn get(&self, key: K, over: Over, snapshot: &Snapshot, count: impl Fn(&mut V, &NodeInfo, i64)) -> V {
        if over == Over::NodesWithAffinity && snapshot.nodes_with_affinity().next().is_none() {
            return V::default();
        }
        let mut entries = self.entries.lock();
        let known = entries.iter().position(|(known, _, _)| *known == key).map(|index| entries.remove(index));
        let sums = known.and_then(|(_, moment, mut sums)| {
            for (before, after) in snapshot.changes_since(moment)? {
                if let Some(before) = before {
                    count(&mut sums, before, -1);
                }
                if let Some(after) = after {
                    count(&mut sums, after, 1);
                }
            }
            Some(sums)
        });
        let sums = sums.unwrap_or_else(|| {
            let mut sums = V::default();
            match over {
                Over::Nodes => snapshot.nodes().iter().for_each(|node| count(&mut sums, node, 1)),
                Over::NodesWithAffinity => snapshot.nodes_with_affinity().for_each(|node| count(&mut sums, node, 1)),
            }
            sums
        });
        if entries.len() == ENTRIES_MAX {
            entries.remove(0);
        }
        entries.push((key, snapshot.moment(), sums.clone()));
        sums
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use k8s_openapi::api::core::v1::Node;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};
    use serde_json::json;

    use super::*;

    fn node(name: usize, cpu: u32) -> Arc<NodeInfo> {
        let object = json!({"metadata": {"name": format!("n{name}")}, "status": {"allocatable": {"cpu": cpu.to_string()}}});
        Arc::new(NodeInfo::new(Arc::new(serde_json::from_value::<Node>(object).unwrap())))
    }

    #[test]
    fn what_changed_is_enough() {
        let mut random = StdRng::seed_from_u64(1);
        let memo = Memo::<u8, i64>::default();
        let mut snapshot = Snapshot::of((0..5).map(|name| node(name, 1)));
        for step in 0..500 {
            // Now and then more changes at once than are remembered, or another snapshot.
            let changes = if random.random_bool(0.02) { 300 } else { random.random_range(0..4) };
            for _ in 0..changes {
                let position = random.random_range(0..=snapshot.len().min(9));
                snapshot.set(position, node(position, random.random_range(1..9)));
            }
            if random.random_bool(0.05) {
                snapshot = Snapshot::of(snapshot.nodes().to_vec());
            }
            let key = random.random_range(0..3);
            let sums =
                memo.get(key, Over::Nodes, &snapshot, |sums, node, by| *sums += by * i64::from(key) * node.allocatable.milli_cpu);
            let walked: i64 = snapshot.nodes().iter().map(|node| i64::from(key) * node.allocatable.milli_cpu).sum();
            assert_eq!(sums, walked, "step {step}");
        }
    }
}
