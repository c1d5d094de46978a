//! One scheduling cycle: from a pod and a snapshot of the nodes to the node that it shall run on, or why there is none. No I/O but
//! that of PostFilter plugins.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use rand::Rng;

use crate::cache::Snapshot;
use crate::framework::{CycleState, FilterOutcome, Profile, Status};
use crate::node_info::NodeInfo;

/// Below this number all nodes are looked at.
const NODES_MIN: usize = 100;

/// Why a pod has no node.
pub(crate) struct Rejection {
    /// The message of the event FailedScheduling and of the condition PodScheduled.
    pub(crate) message: String,
    /// The plugins whose opinion it was; empty for a failure.
    pub(crate) plugins: BTreeSet<&'static str>,
    /// The node that a PostFilter made room on.
    pub(crate) nominated: Option<String>,
}

/// The node that was chosen, with what the plugins remember for the binding.
pub(crate) struct Placement {
    pub(crate) node: String,
    pub(crate) state: CycleState,
}

/// Chooses a node. `start` is where the round robin over the nodes begins; it is moved on.
pub(crate) async fn schedule(profile: &Profile, pod: &Pod, nodes: &Snapshot, start: &mut usize) -> Result<Placement, Rejection> {
    let mut state = CycleState::default();
    if nodes.is_empty() {
        return Err(Rejection {
            message: "no nodes available to schedule pods".to_owned(),
            plugins: BTreeSet::new(),
            nominated: None,
        });
    }
    let outcome = match feasible(profile, &mut state, pod, nodes, start) {
        Ok(outcome) => outcome,
        Err(status) => return Err(rejected_before_filter(&status, nodes.len())),
    };
    if outcome.feasible.is_empty() {
        let (nominated, help) = profile.post_filter(&state, pod, &outcome.rejected).await;
        let plugins =
            outcome.rejected.iter().filter(|(_, status)| status.is_rejected()).map(|(_, status)| status.plugin()).collect();
        return Err(Rejection { message: message(&outcome.rejected, nodes.len(), &help), plugins, nominated });
    }
    let node = match outcome.feasible.as_slice() {
        [only] => only.name().to_owned(),
        several => {
            let scores =
                profile.score(&mut state, pod, several).map_err(|status| rejected_before_filter(&status, nodes.len()))?;
            best(several, &scores, &mut rand::rng()).name().to_owned()
        }
    };
    Ok(Placement { node, state })
}

fn feasible(
    profile: &Profile,
    state: &mut CycleState,
    pod: &Pod,
    nodes: &Snapshot,
    start: &mut usize,
) -> Result<FilterOutcome, Status> {
    let only = profile.pre_filter(state, pod)?;
    if let Some(names) = only {
        let named: Vec<_> = nodes.iter().filter(|node| names.contains(node.name())).cloned().collect();
        let (outcome, _) = profile.filter(state, pod, &named, 0, named.len());
        return Ok(outcome);
    }
    let (outcome, looked_at) = profile.filter(state, pod, nodes, *start % nodes.len(), nodes_wanted(nodes.len()));
    *start = (*start + looked_at) % nodes.len();
    Ok(outcome)
}

/// How many feasible nodes are enough (upstream's adaptive percentageOfNodesToScore): all of a small cluster, 5% of a huge one.
fn nodes_wanted(nodes: usize) -> usize {
    if nodes < NODES_MIN {
        return nodes;
    }
    let percent = 50usize.saturating_sub(nodes / 125).max(5);
    (nodes * percent / 100).max(NODES_MIN)
}

/// The best score; among equals by chance.
fn best<'a>(nodes: &'a [Arc<NodeInfo>], scores: &[i64], random: &mut impl Rng) -> &'a Arc<NodeInfo> {
    let top = scores.iter().max().copied().unwrap_or_default();
    let equals: Vec<usize> = (0..nodes.len()).filter(|&index| scores[index] == top).collect();
    &nodes[equals[random.random_range(0..equals.len())]]
}

fn rejected_before_filter(status: &Status, nodes: usize) -> Rejection {
    let reasons = status.reasons().join(", ");
    let plugins = if status.is_rejected() { BTreeSet::from([status.plugin()]) } else { BTreeSet::new() };
    let message = if status.is_rejected() { format!("0/{nodes} nodes are available: {reasons}.") } else { reasons };
    Rejection { message, plugins, nominated: None }
}

/// Upstream's text: how many nodes were rejected for which reason.
fn message(rejected: &[(String, Status)], nodes: usize, help: &str) -> String {
    let mut histogram: BTreeMap<&str, usize> = BTreeMap::new();
    for reason in rejected.iter().flat_map(|(_, status)| status.reasons()) {
        *histogram.entry(reason).or_default() += 1;
    }
    if histogram.is_empty() {
        histogram.insert("node(s) didn't satisfy plugin(s) [NodeAffinity]", nodes);
    }
    let mut reasons: Vec<String> = histogram.into_iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    reasons.sort();
    let mut text = format!("0/{nodes} nodes are available: {}.", reasons.join(", "));
    if !help.is_empty() {
        text.push(' ');
        text.push_str(help);
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::plugins::default_profile;

    fn nodes(objects: Vec<Value>) -> Snapshot {
        let make = |object| Arc::new(NodeInfo::new(Arc::new(serde_json::from_value(object).unwrap())));
        Arc::new(objects.into_iter().map(make).collect())
    }

    fn machine(name: &str, cpu: &str) -> Value {
        json!({"metadata": {"name": name}, "status": {"allocatable": {"cpu": cpu, "memory": "1Gi", "pods": "10"}}})
    }

    async fn place(spec: Value, nodes: Snapshot) -> Result<String, String> {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap();
        schedule(&default_profile(), &pod, &nodes, &mut 0).await.map(|placed| placed.node).map_err(|rejection| rejection.message)
    }

    fn asks(cpu: &str) -> Value {
        json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]})
    }

    #[tokio::test]
    async fn the_pod_goes_where_it_fits_best() {
        assert_eq!(place(asks("2"), nodes(vec![machine("small", "1"), machine("big", "4")])).await, Ok("big".into()));
        assert_eq!(place(asks("1"), nodes(vec![machine("small", "1"), machine("big", "4")])).await, Ok("big".into()));
    }

    #[tokio::test]
    async fn a_rejection_counts_the_reasons() {
        let mut cordoned = machine("cordoned", "8");
        cordoned["spec"] = json!({"unschedulable": true});
        let all = nodes(vec![machine("one", "1"), machine("two", "1"), cordoned]);
        let message = "0/3 nodes are available: 1 node(s) were unschedulable, 2 Insufficient cpu.";
        assert_eq!(place(asks("2"), all).await, Err(message.into()));
        assert_eq!(place(asks("2"), nodes(vec![])).await, Err("no nodes available to schedule pods".into()));
    }

    #[test]
    fn large_clusters_are_sampled() {
        let check = |nodes, expected| assert_eq!(nodes_wanted(nodes), expected);
        check(1, 1);
        check(99, 99);
        check(100, 100);
        check(1000, 420);
        check(5000, 500);
        check(10_000, 500);
    }
}
