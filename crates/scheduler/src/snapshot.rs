//! What one scheduling cycle reads: all nodes as they were when it began, and the indexes over them that plugins share.
//!
//! The scheduling loop owns the snapshot; [`crate::cache::Cache::refresh`] replaces only the nodes that changed since, so that its cost
//! grows with the change, not with the cluster. Invariant: an index holds exactly what a walk over the nodes would find.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::label_selector::Selector;
use crate::labelled::{Labelled, Where};
use crate::node_info::NodeInfo;

/// See the module.
#[derive(Debug)]
pub struct Snapshot {
    nodes: Vec<Arc<NodeInfo>>,
    positions: HashMap<String, usize>,
    /// The positions of nodes with pods that have affinity terms.
    with_affinity: BTreeSet<usize>,
    /// How many pods use a claim, by `namespace/name`.
    claims: HashMap<String, usize>,
    /// How many nodes have an image, by name.
    images: HashMap<String, usize>,
    /// The nodes' pods by their labels.
    labelled: Labelled,
    /// Tells snapshots apart that were made from scratch.
    epoch: u64,
    /// How often a node was put in or taken out so far.
    changes: u64,
    /// The last of these: what was at its position before, and after.
    recent: VecDeque<(Occupant, Occupant)>,
}

/// What is at a position, if anything.
type Occupant = Option<Arc<NodeInfo>>;

/// So many changes are remembered: who sums something up over all nodes need not walk them all again each cycle.
const RECENT_MAX: usize = 256;

static EPOCHS: AtomicU64 = AtomicU64::new(0);

/// A state of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moment {
    epoch: u64,
    changes: u64,
}

impl Default for Snapshot {
    fn default() -> Self {
        Self {
            nodes: Vec::new(),
            positions: HashMap::new(),
            with_affinity: BTreeSet::new(),
            claims: HashMap::new(),
            images: HashMap::new(),
            labelled: Labelled::default(),
            epoch: EPOCHS.fetch_add(1, Ordering::Relaxed),
            changes: 0,
            recent: VecDeque::new(),
        }
    }
}

impl Snapshot {
    /// A snapshot of these nodes.
    #[cfg(test)]
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

    /// The state as it is now.
    pub(crate) fn moment(&self) -> Moment {
        Moment { epoch: self.epoch, changes: self.changes }
    }

    /// What was at the positions that changed since a moment, before and after; `None` if too much has happened.
    pub(crate) fn changes_since(&self, moment: Moment) -> Option<impl Iterator<Item = (Option<&NodeInfo>, Option<&NodeInfo>)>> {
        let count = usize::try_from(self.changes.checked_sub(moment.changes)?).ok()?;
        let skip = self.recent.len().checked_sub(count).filter(|_| moment.epoch == self.epoch)?;
        Some(self.recent.iter().skip(skip).map(|(before, after)| (before.as_deref(), after.as_deref())))
    }

    fn note(&mut self, before: Occupant, after: Occupant) {
        self.changes += 1;
        if self.recent.len() == RECENT_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back((before, after));
    }

    /// The nodes that may have pods of a namespace that a selector matches.
    pub(crate) fn nodes_with_pods(&self, namespace: &str, selector: &Selector) -> Vec<&Arc<NodeInfo>> {
        match self.labelled.places(namespace, selector) {
            Where::Anywhere => self.nodes.iter().collect(),
            Where::Positions(positions) => positions.into_iter().filter_map(|position| self.nodes.get(position)).collect(),
        }
    }

    /// How many nodes have an image.
    pub(crate) fn nodes_with_image(&self, image: &str) -> usize {
        self.images.get(image).copied().unwrap_or_default()
    }

    /// Puts a node at a position: that of an older version, or the next after the last.
    pub(crate) fn set(&mut self, position: usize, node: Arc<NodeInfo>) {
        count_claims(&mut self.claims, &node, 1);
        let put = Arc::clone(&node);
        if node.pods_with_affinity().is_empty() {
            self.with_affinity.remove(&position);
        } else {
            self.with_affinity.insert(position);
        }
        match self.nodes.get_mut(position) {
            Some(place) => {
                let before = std::mem::replace(place, node);
                count_claims(&mut self.claims, &before, -1);
                let after = &self.nodes[position];
                if !Arc::ptr_eq(&before.images, &after.images) {
                    count(&mut self.images, after.images.keys(), 1);
                    count(&mut self.images, before.images.keys(), -1);
                }
                self.labelled.replace(position, before.pods(), after.pods());
                if before.name() != after.name() {
                    let after = after.name().to_owned();
                    self.leave(before.name(), position);
                    self.positions.insert(after, position);
                }
                self.note(Some(before), Some(put));
            }
            None => {
                count(&mut self.images, node.images.keys(), 1);
                self.positions.insert(node.name().to_owned(), position);
                self.labelled.replace(position, &[], node.pods());
                self.nodes.push(node);
                self.note(None, Some(put));
            }
        }
    }

    /// Brings it up to date with nodes that may have changed their positions. What is the same as before costs a look.
    pub(crate) fn set_all(&mut self, nodes: &[Arc<NodeInfo>]) {
        for (position, node) in nodes.iter().enumerate() {
            if self.nodes.get(position).is_none_or(|before| !Arc::ptr_eq(before, node)) {
                self.set(position, Arc::clone(node));
            }
        }
        while self.nodes.len() > nodes.len() {
            self.pop();
        }
    }

    /// Takes the last node out.
    fn pop(&mut self) {
        let Some(gone) = self.nodes.pop() else { return };
        let position = self.nodes.len();
        self.leave(gone.name(), position);
        self.with_affinity.remove(&position);
        count_claims(&mut self.claims, &gone, -1);
        count(&mut self.images, gone.images.keys(), -1);
        self.labelled.replace(position, gone.pods(), &[]);
        self.note(Some(gone), None);
    }

    /// A node is no longer at a position. It may be at another already.
    fn leave(&mut self, name: &str, position: usize) {
        if self.positions.get(name) == Some(&position) {
            self.positions.remove(name);
        }
    }
}

fn count_claims(claims: &mut HashMap<String, usize>, node: &NodeInfo, by: isize) {
    count(claims, node.pods_with_claims().iter().flat_map(|pod| &pod.claims), by);
}

fn count<'a>(counts: &mut HashMap<String, usize>, names: impl Iterator<Item = &'a String>, by: isize) {
    for name in names {
        match counts.get_mut(name) {
            Some(count) => {
                *count = count.saturating_add_signed(by);
                if *count == 0 {
                    counts.remove(name);
                }
            }
            None if by > 0 => {
                counts.insert(name.clone(), by.unsigned_abs());
            }
            None => {}
        }
    }
}
