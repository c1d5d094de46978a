//! Opportunistic batching (KEP-5598): a pod that equals the one before, and for which that one's node is full now, goes to the next best node
//! of that one's cycle. Its own cycle then looks at a single node instead of at hundreds.
//!
//! Invariant: what is handed out is a hint. The node passes the pod's filters like any other before the pod is placed there, and if it does
//! not, all nodes are looked at. Upstream's flush reason `pod_failed` does not occur: a pod that failed leaves a gap in the cycles' numbers.

use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use rand::Rng;
use tokio::time::Instant;

use crate::framework::{CycleState, Profile, Signature};
use crate::metrics;
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use crate::snapshot::Snapshot;

/// Scores older than this are not relied on.
const AGE_MAX: Duration = Duration::from_millis(500);

/// The feasible nodes of a cycle, the best first; equals come in any order.
pub(crate) struct Ranking(BinaryHeap<Ranked>);

struct Ranked {
    score: i64,
    chance: u64,
    /// Without the pods, which would be old soon.
    node: Arc<Node>,
}

impl Ord for Ranked {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.score, self.chance).cmp(&(other.score, other.chance))
    }
}

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Ranked {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Ranked {}

impl Ranking {
    /// Nodes with their scores.
    pub(crate) fn new(nodes: &[Arc<NodeInfo>], scores: &[i64], random: &mut impl Rng) -> Self {
        let ranked = |(node, score): (&Arc<NodeInfo>, &i64)| Ranked {
            score: *score,
            chance: random.random(),
            node: Arc::clone(node.shared_node()),
        };
        Self(nodes.iter().zip(scores).map(ranked).collect())
    }

    /// Takes the best out.
    pub(crate) fn pop(&mut self) -> Option<String> {
        self.0.pop().map(|ranked| ranked.node.metadata.name.clone().unwrap_or_default())
    }
}

/// Why what an earlier cycle left over cannot be used: upstream's reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flush {
    /// Another pod's cycle came between.
    PodSkipped,
    /// The pods differ.
    PodIncompatible,
    /// It is too old.
    Expired,
    /// The earlier pod's node is gone.
    NodeMissing,
    /// This pod would fit there too: it may be the best node again, which nobody knows without scores.
    NodeNotFull,
    /// There was no other node.
    EmptyList,
    /// The pod has no signature.
    PodNotBatchable,
}

impl Flush {
    fn label(self) -> &'static str {
        match self {
            Self::PodSkipped => "pod_skipped",
            Self::PodIncompatible => "pod_incompatible",
            Self::Expired => "expired",
            Self::NodeMissing => "node_missing",
            Self::NodeNotFull => "node_not_full",
            Self::EmptyList => "empty_list",
            Self::PodNotBatchable => "pod_not_batchable",
        }
    }
}

/// What one profile's cycles leave over.
#[derive(Default)]
struct Batch {
    leftovers: Option<Leftovers>,
    /// The number of the last cycle that chose a node, and the node.
    last: (u64, String),
}

struct Leftovers {
    signature: Signature,
    nodes: Ranking,
    since: Instant,
}

/// What a pod gets of an earlier one's cycle.
#[derive(Debug, Default)]
pub(crate) struct Hinted {
    /// The pod's own signature, if it has one.
    pub(crate) signature: Option<Signature>,
    /// The node to try first.
    pub(crate) node: Option<String>,
}

/// What all profiles' cycles leave over.
#[derive(Default)]
pub(crate) struct Batches {
    /// The number of the cycle.
    cycle: u64,
    by_profile: HashMap<String, Batch>,
}

/// A pod in its cycle, after PreFilter.
#[derive(Clone, Copy)]
pub(crate) struct Candidate<'a> {
    pub(crate) profile: &'a Profile,
    pub(crate) state: &'a CycleState,
    pub(crate) pod: &'a PodInfo,
    pub(crate) snapshot: &'a Snapshot,
}

impl Batches {
    /// A pod is taken from the queue.
    pub(crate) fn begin_cycle(&mut self) {
        self.cycle += 1;
    }

    /// The node to try first. `signature` is that of the pod, if it has one.
    pub(crate) fn hint(&mut self, candidate: Candidate<'_>, sign: impl FnOnce() -> Option<Signature>, now: Instant) -> Hinted {
        let began = Instant::now();
        let (signature, profile, cycle) = (sign(), candidate.profile.name(), self.cycle);
        let node =
            self.by_profile.get_mut(profile).and_then(|batch| match batch.check(candidate, signature.as_ref(), cycle, now) {
                Ok(()) => batch.leftovers.as_mut().and_then(|leftovers| leftovers.nodes.pop()),
                Err(reason) => {
                    if let Some(reason) = reason {
                        metrics::batch_flushed(profile, reason.label());
                    }
                    None
                }
            });
        if node.is_none() {
            metrics::batch_attempt(profile, "no_hint");
        }
        metrics::node_hint(node.is_some(), profile, began.elapsed());
        Hinted { signature, node }
    }

    /// A node was chosen; `others` are the feasible ones beside it.
    pub(crate) fn store(&mut self, profile: &str, hinted: Hinted, chosen: &str, others: Option<Ranking>, now: Instant) {
        let began = Instant::now();
        if !self.by_profile.contains_key(profile) {
            self.by_profile.insert(profile.to_owned(), Batch::default());
        }
        let Some(batch) = self.by_profile.get_mut(profile) else { return };
        batch.last = (self.cycle, chosen.to_owned());
        if hinted.node.as_deref() == Some(chosen) {
            metrics::batch_attempt(profile, "hint_used");
        } else {
            if hinted.node.is_some() {
                metrics::batch_attempt(profile, "hint_not_used");
            }
            let others = others.filter(|nodes| !nodes.0.is_empty()).ok_or(Flush::EmptyList);
            let made = others.and_then(|nodes| Ok((nodes, hinted.signature.ok_or(Flush::PodNotBatchable)?)));
            batch.leftovers = match made {
                Ok((nodes, signature)) => Some(Leftovers { signature, nodes, since: now }),
                Err(reason) => {
                    metrics::batch_flushed(profile, reason.label());
                    None
                }
            };
        }
        metrics::results_stored(profile, began.elapsed());
    }
}

impl Batch {
    /// Whether the next of the nodes left over is the best for this pod. `Err(None)` if there are none.
    fn check(&self, of: Candidate<'_>, signature: Option<&Signature>, cycle: u64, now: Instant) -> Result<(), Option<Flush>> {
        let Some(leftovers) = self.leftovers.as_ref().filter(|leftovers| !leftovers.nodes.0.is_empty()) else { return Err(None) };
        let (last_cycle, last_node) = &self.last;
        if cycle != last_cycle + 1 {
            return Err(Some(Flush::PodSkipped));
        }
        if signature != Some(&leftovers.signature) {
            return Err(Some(Flush::PodIncompatible));
        }
        if now > leftovers.since + AGE_MAX {
            return Err(Some(Flush::Expired));
        }
        let node = of.snapshot.get(last_node).ok_or(Some(Flush::NodeMissing))?;
        if !of.profile.filters(of.state, &of.pod.pod, node).is_rejected() {
            return Err(Some(Flush::NodeNotFull));
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "batch_tests.rs"]
mod tests;
