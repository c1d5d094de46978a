//! One scheduling cycle: from a pod and a snapshot of the nodes to the node that it shall run on, or why there is none. No I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use rand::Rng;
use tokio::time::Instant;

use crate::framework::{Code, CycleState, Eviction, FilterOutcome, Misfit, PreFiltered, Profile, Status};
use crate::metrics;
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use crate::snapshot::Snapshot;

/// Below this number all nodes are looked at.
const NODES_MIN: usize = 100;

/// What a cycle does not take from the profile.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Settings {
    /// `percentageOfNodesToScore`; 0 adapts to the size of the cluster.
    pub(crate) percentage_of_nodes_to_score: usize,
}

/// Why a pod has no node.
#[derive(Debug, Default)]
pub(crate) struct Rejection {
    /// The message of the event FailedScheduling and of the condition PodScheduled.
    pub(crate) message: String,
    /// The plugins whose opinion it was; empty for a failure.
    pub(crate) plugins: BTreeSet<&'static str>,
    /// Something went wrong, as opposed to: the pod fits nowhere.
    pub(crate) is_failure: bool,
    /// The node to nominate; empty to withdraw the nomination; `None` to leave it.
    pub(crate) nominate: Option<String>,
    /// Who has to go so that the pod fits there.
    pub(crate) eviction: Option<Box<Eviction>>,
}

/// The node that was chosen, with what the plugins remember for the binding.
pub(crate) struct Placement {
    pub(crate) node: String,
    pub(crate) state: CycleState,
}

impl Rejection {
    /// What one plugin said outside of the filters.
    pub(crate) fn by(status: &Status) -> Self {
        let plugins = if status.is_rejected() { BTreeSet::from([status.plugin()]) } else { BTreeSet::new() };
        Self { message: status.reasons().join(", "), plugins, is_failure: !status.is_rejected(), ..Self::default() }
    }

    fn failure(status: &Status) -> Self {
        Self { nominate: Some(String::new()), ..Self::by(status) }
    }
}

/// Chooses a node. `start` is where the round robin over the nodes begins; it is moved on.
pub(crate) fn schedule(
    profile: &Profile,
    pod: &Arc<PodInfo>,
    snapshot: &Snapshot,
    settings: Settings,
    start: &mut usize,
) -> Result<Placement, Rejection> {
    let mut state = CycleState::new(Arc::clone(pod));
    if snapshot.is_empty() {
        let message = "no nodes available to schedule pods".to_owned();
        return Err(Rejection { message, nominate: Some(String::new()), ..Rejection::default() });
    }
    let pre_filtered = timed(profile, "PreFilter", || profile.pre_filter(&mut state, &pod.pod, snapshot));
    let pre_filtered = pre_filtered.map_err(|status| Rejection::failure(&status))?;
    if !pre_filtered.status.is_success() {
        return Err(misfit(profile, &state, pod, snapshot, &pre_filtered, &FilterOutcome::default()));
    }
    let outcome = timed(profile, "Filter", || feasible(profile, &state, pod, snapshot, (&pre_filtered, settings), start));
    let outcome = outcome.map_err(|status| Rejection::failure(&status))?;
    let node = match outcome.feasible.as_slice() {
        [] => return Err(misfit(profile, &state, pod, snapshot, &pre_filtered, &outcome)),
        [only] => only.name().to_owned(),
        several => {
            let scores = timed(profile, "Score", || profile.score(&mut state, &pod.pod, several, snapshot));
            let scores = scores.map_err(|status| Rejection::failure(&status))?;
            best(several, &scores, &mut rand::rng()).name().to_owned()
        }
    };
    Ok(Placement { node, state })
}

/// Runs an extension point over all its plugins, and notes how long it took.
fn timed<R>(profile: &Profile, point: &str, run: impl FnOnce() -> Result<R, Status>) -> Result<R, Status> {
    let since = Instant::now();
    let result = run();
    let status = if result.is_ok() { "Success" } else { "Error" };
    metrics::extension_point(point, status, profile.name(), since.elapsed());
    result
}

fn feasible(
    profile: &Profile,
    state: &CycleState,
    pod: &PodInfo,
    snapshot: &Snapshot,
    (pre_filtered, settings): (&PreFiltered, Settings),
    start: &mut usize,
) -> Result<FilterOutcome, Status> {
    // Room may have been made there for this very pod: if it fits now, nothing else needs to be looked at.
    if let Some(node) = nominated_node(&pod.pod).and_then(|name| snapshot.get(name))
        && pre_filtered.nodes.as_ref().is_none_or(|names| names.contains(node.name()))
    {
        let outcome = profile.filter(state, &pod.pod, std::slice::from_ref(node), 0, 1)?;
        if !outcome.feasible.is_empty() {
            return Ok(outcome);
        }
    }
    if let Some(names) = &pre_filtered.nodes {
        let named: Vec<_> = names.iter().filter_map(|name| snapshot.get(name)).cloned().collect();
        return profile.filter(state, &pod.pod, &named, 0, named.len());
    }
    let percentage = profile.percentage_of_nodes_to_score.unwrap_or(settings.percentage_of_nodes_to_score);
    let wanted = nodes_wanted(snapshot.len(), percentage);
    let outcome = profile.filter(state, &pod.pod, snapshot.nodes(), *start % snapshot.len(), wanted)?;
    *start = (*start + outcome.feasible.len() + outcome.rejected.len()) % snapshot.len();
    Ok(outcome)
}

fn nominated_node(pod: &Pod) -> Option<&str> {
    pod.status.as_ref()?.nominated_node_name.as_deref().filter(|name| !name.is_empty())
}

/// The pod fits nowhere: asks the PostFilters for help, and says why.
fn misfit(
    profile: &Profile,
    state: &CycleState,
    pod: &PodInfo,
    snapshot: &Snapshot,
    pre_filtered: &PreFiltered,
    outcome: &FilterOutcome,
) -> Rejection {
    let mut plugins: BTreeSet<&'static str> = pre_filtered.naming.clone();
    plugins.extend(outcome.rejected.iter().map(|(_, status)| status.plugin()));
    let refused_before = !pre_filtered.status.is_success();
    let others = if refused_before {
        plugins.extend(Some(pre_filtered.status.plugin()).filter(|name| !name.is_empty()));
        pre_filtered.status.clone()
    } else if pre_filtered.nodes.is_some() {
        let names: Vec<&str> = pre_filtered.naming.iter().copied().collect();
        let reason = format!("node(s) didn't satisfy plugin(s) [{}]", names.join(" "));
        Status::new(Code::UnschedulableAndUnresolvable, [reason])
    } else {
        Status::new(Code::UnschedulableAndUnresolvable, [""; 0])
    };
    let mut message = if refused_before {
        format!("0/{} nodes are available: {}.", snapshot.len(), others.reasons().join(", "))
    } else {
        misfit_message(&outcome.rejected, others.reasons(), snapshot.len())
    };
    let mut rejection = Rejection { plugins, nominate: Some(String::new()), ..Rejection::default() };
    if profile.has_post_filter() {
        let misfit = Misfit { profile, snapshot, rejected: &outcome.rejected, others };
        let (status, remedy) = profile.post_filter(state, &pod.pod, &misfit);
        if status.code() == Code::Error {
            tracing::debug!(reasons = status.reasons().join(", "), "a PostFilter plugin failed");
        }
        if !status.reasons().is_empty() {
            message.push(' ');
            message.push_str(&status.reasons().join(", "));
        }
        (rejection.nominate, rejection.eviction) = (remedy.nominate, remedy.eviction.map(Box::new));
    }
    Rejection { message, ..rejection }
}

/// How many feasible nodes are enough: all of a small cluster, 5% of a huge one unless told otherwise.
fn nodes_wanted(nodes: usize, percentage: usize) -> usize {
    if nodes < NODES_MIN {
        return nodes;
    }
    let adaptive = || 50usize.saturating_sub(nodes / 125).max(5);
    let percent = if percentage == 0 { adaptive() } else { percentage.min(100) };
    (nodes * percent / 100).max(NODES_MIN)
}

/// The best score; among equals by chance.
fn best<'a>(nodes: &'a [Arc<NodeInfo>], scores: &[i64], random: &mut impl Rng) -> &'a Arc<NodeInfo> {
    let top = scores.iter().max().copied().unwrap_or_default();
    let equals: Vec<usize> = (0..nodes.len()).filter(|&index| scores[index] == top).collect();
    &nodes[equals[random.random_range(0..equals.len())]]
}

/// Upstream's text: how many nodes were rejected for which reason, and why the others do not come into question.
pub(crate) fn misfit_message(rejected: &[(String, Status)], others: &[String], nodes: usize) -> String {
    let mut histogram: BTreeMap<&str, usize> = BTreeMap::new();
    for reason in rejected.iter().flat_map(|(_, status)| status.reasons()) {
        *histogram.entry(reason).or_default() += 1;
    }
    if rejected.len() < nodes {
        for reason in others {
            *histogram.entry(reason).or_default() += nodes - rejected.len();
        }
    }
    let mut reasons: Vec<String> = histogram.into_iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    reasons.sort();
    let text = format!("0/{nodes} nodes are available:");
    if reasons.is_empty() { text } else { format!("{text} {}.", reasons.join(", ")) }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::plugins::default_profile;

    fn nodes(objects: Vec<Value>) -> Snapshot {
        let make = |object| Arc::new(NodeInfo::new(Arc::new(serde_json::from_value(object).unwrap())));
        Snapshot::of(objects.into_iter().map(make))
    }

    fn machine(name: &str, cpu: &str) -> Value {
        json!({"metadata": {"name": name}, "status": {"allocatable": {"cpu": cpu, "memory": "1Gi", "pods": "10"}}})
    }

    fn place(spec: Value, nodes: Snapshot) -> Result<String, String> {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap();
        let (pod, profile) = (Arc::new(PodInfo::new(Arc::new(pod))), default_profile("s", &Arc::default()));
        schedule(&profile, &pod, &nodes, Settings::default(), &mut 0)
            .map(|placed| placed.node)
            .map_err(|rejection| rejection.message)
    }

    fn asks(cpu: &str) -> Value {
        json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]})
    }

    #[test]
    fn the_pod_goes_where_it_fits_best() {
        assert_eq!(place(asks("2"), nodes(vec![machine("small", "1"), machine("big", "4")])), Ok("big".into()));
        assert_eq!(place(asks("1"), nodes(vec![machine("small", "1"), machine("big", "4")])), Ok("big".into()));
    }

    #[test]
    fn a_rejection_counts_the_reasons() {
        let mut cordoned = machine("cordoned", "8");
        cordoned["spec"] = json!({"unschedulable": true});
        let all = nodes(vec![machine("one", "1"), machine("two", "1"), cordoned]);
        let message = "0/3 nodes are available: 1 node(s) were unschedulable, 2 Insufficient cpu. no new claims to deallocate, preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling.";
        assert_eq!(place(asks("2"), all), Err(message.into()));
        assert_eq!(place(asks("2"), nodes(vec![])), Err("no nodes available to schedule pods".into()));
    }

    #[test]
    fn large_clusters_are_sampled() {
        let check = |nodes, expected| assert_eq!(nodes_wanted(nodes, 0), expected);
        check(1, 1);
        check(99, 99);
        check(100, 100);
        check(1000, 420);
        check(5000, 500);
        check(10_000, 500);
        assert_eq!(nodes_wanted(1000, 70), 700);
    }
}
