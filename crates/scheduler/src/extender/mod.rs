//! Extenders: programs outside of the scheduler that are asked over HTTP which nodes may take a pod, which are better, who may be
//! preempted, and that may bind (<https://github.com/kubernetes/design-proposals-archive/blob/main/scheduling/scheduler_extender.md>).
//!
//! Owns: the seam that the cycle asks, upstream's settings of it, the HTTP client behind it. Invariant: an extender can only take nodes
//! away; a node that it names and was not asked about is an error. Calls block: a scheduler with extenders runs its cycles on a thread
//! that may.

mod http;
mod settings;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

pub(crate) use http::HttpExtender;
pub(crate) use settings::{ExtenderFile, check, ignored_resources};

use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;

/// What an extender says of nodes, by name.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Filtered {
    /// They may take the pod.
    pub(crate) feasible: BTreeSet<String>,
    /// They may not, for this reason; removing pods may help.
    pub(crate) failed: BTreeMap<String, String>,
    /// They may not, and removing pods would not help.
    pub(crate) unresolvable: BTreeMap<String, String>,
}

/// Who would have to go from a node, and how many budgets that breaks.
#[derive(Clone, Debug)]
pub(crate) struct Victims {
    /// The most important first.
    pub(crate) pods: Vec<Arc<PodInfo>>,
    pub(crate) violations: usize,
}

/// One extender. An error is a text for people.
pub(crate) trait Extender: Send + Sync {
    /// Its URL.
    fn name(&self) -> &str;
    /// Whether pods are scheduled without it when it does not answer.
    fn is_ignorable(&self) -> bool;
    /// Whether the pod asks for any resource that it manages; one that manages none cares for every pod.
    fn is_interested(&self, pod: &Pod) -> bool;
    /// Whether it filters nodes.
    fn is_filter(&self) -> bool;
    /// Whether it scores nodes.
    fn is_prioritizer(&self) -> bool;
    /// Whether it binds pods.
    fn is_binder(&self) -> bool;
    /// Whether it has a say in preemption.
    fn is_preemptor(&self) -> bool;
    /// Which of the nodes may take the pod.
    fn filter(&self, pod: &Pod, nodes: &[Arc<NodeInfo>]) -> Result<Filtered, String>;
    /// What to add to the nodes' scores, by name: weighted, and in the scheduler's range.
    fn prioritize(&self, pod: &Pod, nodes: &[Arc<NodeInfo>]) -> Result<BTreeMap<String, i64>, String>;
    /// The candidates that are left, with the victims as it sees them.
    fn preempt(
        &self,
        pod: &Pod,
        candidates: &BTreeMap<String, Victims>,
        node: &dyn Fn(&str) -> Option<Arc<NodeInfo>>,
    ) -> Result<BTreeMap<String, Victims>, String>;
    /// Binds.
    fn bind(&self, pod: &Pod, node: &str) -> Result<(), String>;
}
