//! Which pods of a DaemonSet to make and which to delete. Pure but for the back-off of failed pods, which is handed in.
//!
//! After upstream's `manage`: nodes that should have a pod get one, pods that should not be there go. Only when there is nothing of that to
//! do does a rolling update ([`super::rolling`]) go on.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt;

use super::backoff::FailedPods;
use super::nodes::{Fit, Simulation};
use super::pods::{min_ready_seconds, revision, spec, target_node};
use super::rolling;
use crate::int_or_percent::scaled;
use crate::pod_state::{is_available, is_ready, is_terminal, node_name, phase};

/// Most pods made, and most deleted, in one go (upstream's BurstReplicas).
const BURST: usize = 250;

/// Pods by the node that they are on or meant for.
pub(super) type ByNode = BTreeMap<String, Vec<Arc<Pod>>>;

/// What the plan is made from.
pub(super) struct View<'a> {
    pub(super) set: &'a DaemonSet,
    pub(super) nodes: &'a [Arc<Node>],
    pub(super) pods: &'a ByNode,
    /// Of the present revision.
    pub(super) hash: &'a str,
    pub(super) now: Timestamp,
}

#[derive(Debug, Default, PartialEq)]
pub(super) struct Plan {
    /// Nodes that get a pod.
    pub(super) create: Vec<String>,
    pub(super) delete: Vec<Arc<Pod>>,
    /// What to tell about pods that ended.
    pub(super) ended: Vec<Ended>,
    /// When a failed pod may be replaced.
    pub(super) check_after: Option<Duration>,
}

/// A pod that should run for ever, and does not any more.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Ended {
    pub(super) pod: Arc<Pod>,
    pub(super) node: String,
    pub(super) failed: bool,
}

/// Groups pods by node; those that say no node are left out, and so are ones that ended and are being deleted: nothing more is to be done
/// about them.
pub(super) fn by_node(pods: &[Arc<Pod>]) -> ByNode {
    let mut by_node = ByNode::new();
    for pod in pods.iter().filter(|pod| !(is_terminal(pod) && pod.metadata.deletion_timestamp.is_some())) {
        if let Some(node) = target_node(pod) {
            by_node.entry(node.to_owned()).or_default().push(Arc::clone(pod));
        }
    }
    by_node
}

pub(super) fn plan(view: &View<'_>, failed: &mut FailedPods) -> Plan {
    let simulation = Simulation::new(view.set);
    let mut plan = Plan::default();
    for node in view.nodes {
        plan.node(view, node, simulation.fit(node), failed);
    }
    // The scheduler will never bind them, and pod GC only looks at bound pods.
    let known: HashSet<&str> = view.nodes.iter().filter_map(|node| node.metadata.name.as_deref()).collect();
    for (_, pods) in view.pods.iter().filter(|(node, _)| !known.contains(node.as_str())) {
        plan.delete.extend(pods.iter().filter(|pod| node_name(pod).is_empty()).cloned());
    }
    if plan.create.is_empty() && plan.delete.is_empty() && is_rolling(view.set) {
        let (create, delete) = rolling::plan(view, &simulation);
        (plan.create, plan.delete) = (create, delete);
    }
    plan.create.truncate(BURST);
    plan.delete.truncate(BURST);
    plan
}

fn strategy(set: &DaemonSet) -> Option<&str> {
    spec(set).update_strategy.as_ref().and_then(|strategy| strategy.type_.as_deref())
}

fn is_rolling(set: &DaemonSet) -> bool {
    strategy(set) == Some("RollingUpdate")
}

/// How many nodes may have two pods during an update, of so many that have one.
pub(super) fn max_surge(set: &DaemonSet, nodes: i32) -> i32 {
    let rolling = spec(set).update_strategy.as_ref().and_then(|strategy| strategy.rolling_update.as_ref());
    if is_rolling(set) { scaled(rolling.and_then(|rolling| rolling.max_surge.as_ref()), nodes, true) } else { 0 }
}

/// How many nodes may be without an available pod during an update, of so many that should have one.
pub(super) fn max_unavailable(set: &DaemonSet, nodes: i32) -> i32 {
    let rolling = spec(set).update_strategy.as_ref().and_then(|strategy| strategy.rolling_update.as_ref());
    if is_rolling(set) { scaled(rolling.and_then(|rolling| rolling.max_unavailable.as_ref()), nodes, true) } else { 0 }
}

/// Bound ones first, then the oldest.
pub(super) fn sort_by_age(pods: &mut [&Arc<Pod>]) {
    let key = |pod: &Pod| {
        let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
        (node_name(pod).is_empty(), created, pod.name_any())
    };
    pods.sort_by_key(|pod| key(pod));
}

impl Plan {
    fn node(&mut self, view: &View<'_>, node: &Node, fit: Fit, failed: &mut FailedPods) {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let pods = view.pods.get(name).map(Vec::as_slice).unwrap_or_default();
        match fit {
            Fit::Run if pods.is_empty() => self.create.push(name.to_owned()),
            Fit::Run | Fit::Continue => self.keep_one(view, name, fit, pods, failed),
            Fit::Leave => self.delete.extend(pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).cloned()),
        }
    }

    /// A node that has pods, and may: what ended goes, and what is too many.
    fn keep_one(&mut self, view: &View<'_>, node: &str, fit: Fit, pods: &[Arc<Pod>], failed: &mut FailedPods) {
        let mut running = Vec::new();
        for pod in pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()) {
            match phase(pod) {
                "Failed" => self.replace_failed(view, node, pod, failed),
                "Succeeded" => {
                    self.ended.push(Ended { pod: Arc::clone(pod), node: node.to_owned(), failed: false });
                    self.delete.push(Arc::clone(pod));
                }
                _ => running.push(pod),
            }
        }
        sort_by_age(&mut running);
        // Whether the set surges is asked with one node, as upstream does.
        if max_surge(view.set, 1) == 0 {
            self.delete.extend(running.into_iter().skip(1).cloned());
        } else if running.is_empty() {
            // With surge a pod that is going does not stand in the way of its successor.
            if fit == Fit::Run {
                self.create.push(node.to_owned());
            }
        } else if running.len() > 1 {
            self.keep_old_and_new(view, &running);
        }
    }

    fn replace_failed(&mut self, view: &View<'_>, node: &str, pod: &Arc<Pod>, failed: &mut FailedPods) {
        let uid = view.set.metadata.uid.as_deref().unwrap_or_default();
        let generation = view.set.status.as_ref().and_then(|status| status.observed_generation).unwrap_or(0);
        match failed.replace(uid, generation, node, view.now) {
            Ok(()) => {
                self.ended.push(Ended { pod: Arc::clone(pod), node: node.to_owned(), failed: true });
                self.delete.push(Arc::clone(pod));
            }
            Err(wait) => self.check_after = Some(self.check_after.map_or(wait, |known| known.min(wait))),
        }
    }

    /// With surge a node may have two pods, an old and a new one, while the old one is ready and the new one not yet available. Of several
    /// old or new ones the oldest stays; an available one before that (upstream: the oldest, which of pods made in the same second may be the
    /// one that never came up).
    fn keep_old_and_new(&mut self, view: &View<'_>, by_age: &[&Arc<Pod>]) {
        let available = |pod: &Pod| is_available(pod, min_ready_seconds(view.set), view.now);
        let (mut new, mut old) = (None, None);
        let (first, last): (Vec<_>, Vec<_>) = by_age.iter().copied().partition(|pod| available(pod));
        for pod in first.into_iter().chain(last) {
            let oldest = if revision(pod) == view.hash { &mut new } else { &mut old };
            if oldest.is_none() {
                *oldest = Some(pod);
            } else {
                self.delete.push(Arc::clone(pod));
            }
        }
        if let (Some(new), Some(old)) = (new, old)
            && (!is_ready(old) || available(new))
        {
            self.delete.push(Arc::clone(old));
        }
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
pub(super) mod tests;
