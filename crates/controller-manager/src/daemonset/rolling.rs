//! One step of a DaemonSet's rolling update: which pods to delete, and which nodes to surge onto. Pure.
//!
//! Invariants: without surge, no pod that is available is deleted unless fewer than `maxUnavailable` nodes lack one; with surge, no more
//! than `maxSurge` nodes have a second pod for one that is available.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use super::nodes::Simulation;
use super::plan::{View, max_surge, max_unavailable};
use super::pods::{is_updated, min_ready_seconds};
use crate::pod_state::is_available;

/// The pods of one node that are not going: at most one of each, or too many.
enum OnNode<'a> {
    Pods { new: Option<&'a Arc<Pod>>, old: Option<&'a Arc<Pod>> },
    TooMany,
}

struct Rolling<'a> {
    view: &'a View<'a>,
    /// All nodes with a pod, and all that should have one.
    nodes: Vec<(&'a str, OnNode<'a>)>,
    /// Nodes that should have a pod.
    wanted: HashMap<&'a str, bool>,
}

/// Nodes to make pods on, and pods to delete.
pub(super) fn plan(view: &View<'_>, simulation: &Simulation) -> (Vec<String>, Vec<Arc<Pod>>) {
    let wanted: HashMap<&str, bool> =
        view.nodes.iter().map(|node| (node.metadata.name.as_deref().unwrap_or_default(), simulation.should_run(node))).collect();
    let desired = i32::try_from(wanted.values().filter(|wanted| **wanted).count()).unwrap_or(i32::MAX);
    let mut nodes: Vec<(&str, OnNode<'_>)> = view.pods.iter().map(|(node, pods)| (node.as_str(), on_node(view, pods))).collect();
    let without = wanted.iter().filter(|(node, wanted)| **wanted && !view.pods.contains_key(**node));
    nodes.extend(without.map(|(node, _)| (*node, OnNode::Pods { new: None, old: None })));
    nodes.sort_by_key(|(node, _)| *node);
    let (surge, mut unavailable) = (max_surge(view.set, desired), max_unavailable(view.set, desired));
    if desired > 0 && surge == 0 && unavailable == 0 {
        unavailable = 1;
    }
    let rolling = Rolling { view, nodes, wanted };
    if surge == 0 { (Vec::new(), rolling.replace(unavailable)) } else { rolling.surge(surge, desired) }
}

fn on_node<'a>(view: &View<'_>, pods: &'a [Arc<Pod>]) -> OnNode<'a> {
    let (mut new, mut old) = (None, None);
    for pod in pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()) {
        let place = if is_updated(view.set, pod, view.hash) { &mut new } else { &mut old };
        if place.replace(pod).is_some() {
            return OnNode::TooMany;
        }
    }
    OnNode::Pods { new, old }
}

fn take<T>(items: Vec<T>, count: i32) -> impl Iterator<Item = T> {
    items.into_iter().take(usize::try_from(count).unwrap_or(0))
}

impl Rolling<'_> {
    fn available(&self, pod: &Pod) -> bool {
        is_available(pod, min_ready_seconds(self.view.set), self.view.now)
    }

    /// Without surge: old pods that are not available go at once, others as far as `allowed` goes.
    fn replace(&self, allowed: i32) -> Vec<Arc<Pod>> {
        let mut unavailable = 0;
        let (mut at_once, mut candidates) = (Vec::new(), Vec::new());
        for (_, pods) in &self.nodes {
            match pods {
                // The next plan tidies up, or makes the pod.
                OnNode::TooMany | OnNode::Pods { new: None, old: None } | OnNode::Pods { new: Some(_), old: Some(_) } => {
                    unavailable += 1
                }
                OnNode::Pods { new: Some(new), old: None } => unavailable += i32::from(!self.available(new)),
                OnNode::Pods { new: None, old: Some(old) } if self.available(old) => candidates.push(Arc::clone(old)),
                OnNode::Pods { new: None, old: Some(old) } => {
                    at_once.push(Arc::clone(old));
                    unavailable += 1;
                }
            }
        }
        at_once.extend(take(candidates, allowed - unavailable));
        at_once
    }

    /// With surge: a new pod is made beside the old one, which goes when the new one is available.
    fn surge(&self, allowed: i32, desired: i32) -> (Vec<String>, Vec<Arc<Pod>>) {
        let (mut surging, mut available) = (0, 0);
        let (mut at_once, mut candidates) = (Vec::new(), Vec::new());
        let (mut delete, mut astray) = (Vec::new(), Vec::new());
        for (node, pods) in &self.nodes {
            let OnNode::Pods { new, old } = pods else {
                surging += 1;
                continue;
            };
            available += i32::from(old.or(*new).is_some_and(|pod| self.available(pod)));
            let Some(old) = old else { continue };
            match new {
                Some(new) if self.available(new) => delete.push(Arc::clone(old)),
                Some(_) => surging += 1,
                None => {
                    // A node that is gone is left to pod GC.
                    let Some(wanted) = self.wanted.get(node) else { continue };
                    match (self.available(old), wanted) {
                        (false, false) => delete.push(Arc::clone(old)),
                        (false, true) => at_once.push((*node).to_owned()),
                        (true, false) => astray.push(Arc::clone(old)),
                        (true, true) => candidates.push((*node).to_owned()),
                    }
                }
            }
        }
        // With surge, availability is kept: one that no longer belongs where it is goes only when there are enough others.
        delete.extend(take(astray, available - desired));
        at_once.extend(take(candidates, allowed - surging));
        (at_once, delete)
    }
}

#[cfg(test)]
#[path = "rolling_tests.rs"]
mod tests;
