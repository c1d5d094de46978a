//! One scheduling cycle: from a pod and a snapshot of the nodes to the node that it shall run on, or why there is none. No I/O, but for
//! extenders, which are asked through a seam.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use rand::Rng;
use tokio::time::Instant;

use crate::batch::{Batches, Candidate, Hinted, Ranking};
use crate::extender::Extender;
use crate::framework::{Code, CycleState, EXTENDER, Eviction, FilterOutcome, Misfit, PreFiltered, Profile, Status};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use crate::queue::Rejectors;
use crate::snapshot::Snapshot;

/// Below this number all nodes are looked at.
const NODES_MIN: usize = 100;

/// What a cycle does not take from the profile.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Settings {
    /// `percentageOfNodesToScore`; 0 adapts to the size of the cluster.
    pub(crate) percentage_of_nodes_to_score: usize,
    /// Whether equal pods share the results of one cycle (the gate OpportunisticBatching).
    pub(crate) batching: bool,
}

/// What cycles leave to those after them.
#[derive(Default)]
pub(crate) struct Course {
    /// Where the round robin over the nodes begins.
    start: usize,
    pub(crate) batches: Batches,
}

/// Why a pod has no node.
#[derive(Debug, Default)]
pub(crate) struct Rejection {
    /// The message of the event FailedScheduling and of the condition PodScheduled.
    pub(crate) message: String,
    /// The plugins whose opinion it was; none for a failure.
    pub(crate) by: Rejectors,
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

impl Rejectors {
    /// Notes who said so.
    fn note(&mut self, status: &Status) {
        if !status.plugin().is_empty() {
            let pending = status.code() == Code::Pending;
            if pending { &mut self.pending } else { &mut self.rejected }.insert(status.plugin());
        }
    }
}

impl Rejection {
    /// What one plugin said about the node that had been chosen already; the nomination is withdrawn.
    pub(crate) fn of_node(status: &Status) -> Self {
        if !status.is_rejected() {
            return Self::failure(status);
        }
        let mut by = Rejectors::default();
        by.note(status);
        let reasons: Vec<String> = status.reasons().iter().map(|reason| format!("1 {reason}")).collect();
        let message = format!("0/1 nodes are available: {}.", reasons.join(", "));
        Self { message, by, nominate: Some(String::new()), ..Self::default() }
    }

    /// Something went wrong.
    pub(crate) fn failure(status: &Status) -> Self {
        Self { message: status.message(), is_failure: true, nominate: Some(String::new()), ..Self::default() }
    }
}

/// What all cycles of a scheduler have in common.
#[derive(Clone, Copy)]
pub(crate) struct Surroundings<'a> {
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) settings: Settings,
    pub(crate) extenders: &'a [Arc<dyn Extender>],
}

impl<'a> Surroundings<'a> {
    /// Only nodes.
    #[cfg(test)]
    pub(crate) fn of(snapshot: &'a Snapshot) -> Self {
        Self { snapshot, settings: Settings::default(), extenders: &[] }
    }
}

/// Chooses a node.
pub(crate) fn schedule(
    profile: &Profile,
    pod: &Arc<PodInfo>,
    around: Surroundings<'_>,
    course: &mut Course,
) -> Result<Placement, Rejection> {
    let mut state = CycleState::new(Arc::clone(pod));
    let snapshot = around.snapshot;
    if snapshot.is_empty() {
        let message = "no nodes available to schedule pods".to_owned();
        return Err(Rejection { message, nominate: Some(String::new()), ..Rejection::default() });
    }
    let pre_filtered = profile.timed("PreFilter", || {
        let result = profile.pre_filter(&mut state, &pod.pod, snapshot);
        let code = result.as_ref().map_or(Code::Error, |result| result.status.code());
        (result, code)
    });
    let pre_filtered = pre_filtered.map_err(|status| Rejection::failure(&status))?;
    if !pre_filtered.status.is_success() {
        return Err(misfit(profile, &state, pod, around, &pre_filtered, &FilterOutcome::default()));
    }
    let hinted = around.settings.batching.then(|| {
        let candidate = Candidate { profile, state: &state, pod, snapshot };
        let sign = || if around.extenders.is_empty() { profile.sign(pod) } else { None };
        course.batches.hint(candidate, sign, Instant::now())
    });
    let first = first_to_try(&pod.pod, hinted.as_ref());
    let outcome = feasible(profile, &state, pod, around, (&pre_filtered, first), &mut course.start)
        .map_err(|status| Rejection::failure(&status))?;
    let (node, others) = match outcome.feasible.as_slice() {
        [] => return Err(misfit(profile, &state, pod, around, &pre_filtered, &outcome)),
        [only] => (only.name().to_owned(), None),
        several => {
            let scores = scores(profile, &mut state, pod, several, around).map_err(|status| Rejection::failure(&status))?;
            let ranked = hinted.as_ref().is_some_and(|hinted| hinted.signature.is_some());
            choose(several, &scores, ranked, &mut *profile.handle.random.lock())
        }
    };
    if let Some(hinted) = hinted {
        course.batches.store(profile.name(), hinted, &node, others, Instant::now());
    }
    Ok(Placement { node, state })
}

/// A result with the code that the metrics show.
fn coded<R>(result: Result<R, Status>) -> (Result<R, Status>, Code) {
    let code = result.as_ref().map_or(Code::Error, |_| Code::Success);
    (result, code)
}

/// The filters of the plugins, then those of the extenders.
fn filter(
    profile: &Profile,
    state: &CycleState,
    pod: &PodInfo,
    nodes: (&[Arc<NodeInfo>], usize, usize),
    extenders: &[Arc<dyn Extender>],
) -> Result<FilterOutcome, Status> {
    let (nodes, start, wanted) = nodes;
    let mut outcome = profile.timed("Filter", || coded(profile.filter(state, &pod.pod, nodes, start, wanted)))?;
    for extender in extenders.iter().filter(|extender| extender.is_interested(&pod.pod)) {
        if outcome.feasible.is_empty() {
            break;
        }
        let filtered = match extender.filter(&pod.pod, &outcome.feasible) {
            Ok(filtered) => filtered,
            Err(error) if extender.is_ignorable() => {
                tracing::info!(extender = extender.name(), %error, "an extender that may be ignored does not answer");
                continue;
            }
            Err(error) => return Err(Status::new(Code::Error, [error])),
        };
        for node in &outcome.feasible {
            let refused = |code, reasons: &BTreeMap<String, String>| {
                reasons.get(node.name()).map(|reason| Status::new(code, [reason.clone()]))
            };
            let status = refused(Code::UnschedulableAndUnresolvable, &filtered.unresolvable)
                .or_else(|| refused(Code::Unschedulable, &filtered.failed));
            outcome.rejected.extend(status.map(|status| (Arc::clone(node), status)));
        }
        let before = outcome.feasible.len();
        outcome.feasible.retain(|node| filtered.feasible.contains(node.name()));
        outcome.by_extender |= outcome.feasible.len() < before;
    }
    Ok(outcome)
}

fn feasible(
    profile: &Profile,
    state: &CycleState,
    pod: &PodInfo,
    around: Surroundings<'_>,
    (pre_filtered, first): (&PreFiltered, Option<&str>),
    start: &mut usize,
) -> Result<FilterOutcome, Status> {
    let (snapshot, extenders) = (around.snapshot, around.extenders);
    if let Some(node) = first.and_then(|name| snapshot.get(name)) {
        match filter(profile, state, pod, (std::slice::from_ref(node), 0, 1), extenders) {
            Ok(outcome) if !outcome.feasible.is_empty() => return Ok(outcome),
            Ok(_) => {}
            Err(status) => {
                tracing::warn!(node = node.name(), reason = status.message(), "the node to try first cannot be judged")
            }
        }
    }
    if let Some(names) = &pre_filtered.nodes {
        let named: Vec<_> = names.iter().filter_map(|name| snapshot.get(name)).cloned().collect();
        return filter(profile, state, pod, (&named, 0, named.len()), extenders);
    }
    let percentage = profile.percentage_of_nodes_to_score.unwrap_or(around.settings.percentage_of_nodes_to_score);
    let compared = profile.has_score() || extenders.iter().any(|extender| extender.is_filter() || extender.is_prioritizer());
    let wanted = if compared { nodes_wanted(snapshot.len(), percentage) } else { 1 };
    let outcome = filter(profile, state, pod, (snapshot.nodes(), *start % snapshot.len(), wanted), extenders)?;
    *start = (*start + outcome.feasible.len() + outcome.rejected.len()) % snapshot.len();
    Ok(outcome)
}

/// The scores of the plugins and of the extenders.
fn scores(
    profile: &Profile,
    state: &mut CycleState,
    pod: &PodInfo,
    nodes: &[Arc<NodeInfo>],
    around: Surroundings<'_>,
) -> Result<Vec<i64>, Status> {
    profile.timed("PreScore", || coded(profile.pre_score(state, &pod.pod, nodes, around.snapshot)))?;
    let mut scores = profile.timed("Score", || coded(profile.score(state, &pod.pod, nodes)))?;
    for extender in around.extenders.iter().filter(|one| one.is_prioritizer() && one.is_interested(&pod.pod)) {
        match extender.prioritize(&pod.pod, nodes) {
            Ok(given) => {
                for (node, score) in nodes.iter().zip(&mut scores) {
                    *score += given.get(node.name()).copied().unwrap_or_default();
                }
            }
            // The others decide then.
            Err(error) => tracing::debug!(extender = extender.name(), %error, "an extender gives no scores"),
        }
    }
    Ok(scores)
}

/// If the pod fits here, nothing else needs to be looked at: where room may have been made for this very pod, or the next best of a pod
/// just like it.
fn first_to_try<'a>(pod: &'a Pod, hinted: Option<&'a Hinted>) -> Option<&'a str> {
    let nominated = pod.status.as_ref().and_then(|status| status.nominated_node_name.as_deref()).filter(|name| !name.is_empty());
    nominated.or_else(|| hinted?.node.as_deref())
}

/// The pod fits nowhere: asks the PostFilters for help, and says why.
fn misfit(
    profile: &Profile,
    state: &CycleState,
    pod: &PodInfo,
    around: Surroundings<'_>,
    pre_filtered: &PreFiltered,
    outcome: &FilterOutcome,
) -> Rejection {
    let snapshot = around.snapshot;
    let mut by = Rejectors { rejected: pre_filtered.naming.clone(), ..Rejectors::default() };
    outcome.rejected.iter().for_each(|(_, status)| by.note(status));
    if outcome.by_extender {
        by.rejected.insert(EXTENDER);
    }
    let refused_before = !pre_filtered.status.is_success();
    let others = if refused_before {
        by.note(&pre_filtered.status);
        pre_filtered.status.clone()
    } else if pre_filtered.nodes.is_some() {
        let names: Vec<&str> = pre_filtered.naming.iter().copied().collect();
        let reason = format!("node(s) didn't satisfy plugin(s) [{}]", names.join(" "));
        Status::new(Code::UnschedulableAndUnresolvable, [reason])
    } else {
        Status::new(Code::UnschedulableAndUnresolvable, [""; 0])
    };
    let mut message = if refused_before {
        format!("0/{} nodes are available: {}.", snapshot.len(), others.message())
    } else {
        let refused = outcome.rejected.iter().map(|(_, status)| status);
        misfit_message(refused, others.reasons(), snapshot.len())
    };
    let mut rejection = Rejection { by, nominate: Some(String::new()), ..Rejection::default() };
    if profile.has_post_filter() {
        let misfit = Misfit { profile, snapshot, rejected: &outcome.rejected, others, extenders: around.extenders };
        let (status, remedy) = profile.timed("PostFilter", || {
            let (status, remedy) = profile.post_filter(state, &pod.pod, &misfit);
            let code = status.code();
            ((status, remedy), code)
        });
        if status.code() == Code::Error {
            tracing::debug!(reasons = status.message(), "a PostFilter plugin failed");
        }
        if !status.reasons().is_empty() {
            message.push(' ');
            message.push_str(&status.message());
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

/// The node with the best score and, if it is asked for, the order of the others.
fn choose(nodes: &[Arc<NodeInfo>], scores: &[i64], ranked: bool, random: &mut impl Rng) -> (String, Option<Ranking>) {
    if ranked {
        let mut ranking = Ranking::new(nodes, scores, random);
        if let Some(node) = ranking.pop() {
            return (node, Some(ranking));
        }
    }
    (best(nodes, scores, random).name().to_owned(), None)
}

/// The best score; among equals by chance.
fn best<'a>(nodes: &'a [Arc<NodeInfo>], scores: &[i64], random: &mut impl Rng) -> &'a Arc<NodeInfo> {
    let top = scores.iter().max().copied().unwrap_or_default();
    let equals = scores.iter().filter(|score| **score == top).count();
    let chosen = random.random_range(0..equals.max(1));
    let found = nodes.iter().zip(scores).filter(|(_, score)| **score == top).nth(chosen);
    found.map_or(&nodes[0], |(node, _)| node)
}

/// Upstream's text: how many nodes were rejected for which reason, and why the others do not come into question.
pub(crate) fn misfit_message<'a>(
    refused: impl Iterator<Item = &'a Status>,
    others: &[Cow<'static, str>],
    nodes: usize,
) -> String {
    let mut histogram: BTreeMap<&str, usize> = BTreeMap::new();
    let mut explicit = 0;
    for status in refused {
        explicit += 1;
        for reason in status.reasons() {
            *histogram.entry(reason).or_default() += 1;
        }
    }
    if explicit < nodes {
        for reason in others {
            *histogram.entry(reason).or_default() += nodes - explicit;
        }
    }
    let mut reasons: Vec<String> = histogram.into_iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    reasons.sort();
    let text = format!("0/{nodes} nodes are available:");
    if reasons.is_empty() { text } else { format!("{text} {}.", reasons.join(", ")) }
}

#[cfg(test)]
#[path = "cycle_tests.rs"]
mod tests;
