//! The plugins of a scheduler in their order, and how each extension point is run over them.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use super::state::PluginSet;
use super::{
    ClusterEvent, Code, CycleState, Handle, Hint, Misfit, NODE_SCORE_MAX, Plugin, Point, Points, Remedy, Signature, Signer,
    Status, Wait, Worth, implements,
};
use crate::metrics;
use crate::node_info::NodeInfo;
use crate::pod_info::{PodInfo, priority};
use crate::queue::Rejectors;
use crate::snapshot::Snapshot;

/// An ordered set of plugins with the weights of their scores, under the name that pods choose it by.
pub struct Profile {
    name: String,
    plugins: Vec<(Arc<dyn Plugin>, i64)>,
    /// At each point only plugins that implement it.
    points: Points,
    /// Those that filter or score; `None` if one of them has no part in signatures.
    signers: Option<Vec<usize>>,
    pub(crate) handle: Arc<Handle>,
    /// How many percent of the nodes are scored; `None` for the scheduler's own.
    pub(crate) percentage_of_nodes_to_score: Option<usize>,
}

/// What the filters said.
#[derive(Default)]
pub(crate) struct FilterOutcome {
    pub(crate) feasible: Vec<Arc<NodeInfo>>,
    /// The nodes that were rejected, and why.
    pub(crate) rejected: Vec<(Arc<NodeInfo>, Status)>,
    /// An extender has taken nodes away, with or without a reason.
    pub(crate) by_extender: bool,
}

/// What the PreFilters said.
pub(crate) struct PreFiltered {
    /// Why the pod fits nowhere; success if it may.
    pub(crate) status: Status,
    /// The only nodes that can do, if a plugin named some.
    pub(crate) nodes: Option<BTreeSet<String>>,
    /// The plugins that named them.
    pub(crate) naming: BTreeSet<&'static str>,
}

/// Gives back on drop what was reserved, unless the binding succeeded.
pub(crate) struct Unreserve {
    profile: Arc<Profile>,
    pub(crate) state: CycleState,
    pod: Arc<Pod>,
    node: String,
    keep: bool,
}

impl Unreserve {
    /// The pod is bound: nothing is given back.
    pub(crate) fn keep(mut self) {
        self.keep = true;
    }
}

impl Drop for Unreserve {
    fn drop(&mut self) {
        if !self.keep {
            let profile = Arc::clone(&self.profile);
            profile.timed("Unreserve", || {
                for reserve in profile.at(Point::Reserve).rev().filter_map(|(_, plugin)| plugin.as_reserve()) {
                    reserve.unreserve(&mut self.state, &self.pod, &self.node);
                }
                ((), Code::Success)
            });
        }
    }
}

/// A rejection as it is; a failure in upstream's words.
fn running(point: &str, plugin: &dyn Plugin, status: Status) -> Status {
    if status.is_rejected() {
        return status.by(plugin.name());
    }
    let reason = format!("running {point} plugin {:?}: {}", plugin.name(), status.message());
    Status::new(Code::Error, [reason]).by(plugin.name())
}

impl Profile {
    /// Plugins in the order in which they run, at every point that they have; the weight counts for those that score.
    pub fn new(name: impl Into<String>, plugins: Vec<(Arc<dyn Plugin>, i64)>, handle: Arc<Handle>) -> Self {
        assert!(plugins.len() <= PluginSet::MAX, "the registry has fewer plugins");
        let points = Points::all(plugins.len());
        let profile = Self {
            name: name.into(),
            plugins,
            points: Points::default(),
            signers: None,
            handle,
            percentage_of_nodes_to_score: None,
        };
        profile.with_points(points)
    }

    /// The same with plugins chosen for each point.
    pub(crate) fn with_points(mut self, mut points: Points) -> Self {
        points.retain(|point, index| implements(self.plugins[index].0.as_ref(), point));
        let judging = [Point::PreFilter, Point::Filter, Point::PreScore, Point::Score];
        let judges: BTreeSet<usize> = judging.iter().flat_map(|point| points.at(*point)).copied().collect();
        self.signers = judges.into_iter().map(|index| self.plugins[index].0.as_sign().map(|_| index)).collect();
        self.points = points;
        self
    }

    /// What the pod's placement depends on, if it is the pod alone, and every plugin that filters or scores can say so.
    pub(crate) fn sign(&self, pod: &PodInfo) -> Option<Signature> {
        let sign = |signers: &Vec<usize>| {
            let signers = || signers.iter().filter_map(|index| self.plugins[*index].0.as_sign());
            if !signers().all(|plugin| plugin.is_signable(&pod.pod)) {
                return None;
            }
            let mut signer = Signer::default();
            signer.add("v1.Pod.Namespace", || Ok(&pod.pod.metadata.namespace));
            signers().for_each(|plugin| plugin.sign(pod, &mut signer));
            signer.finish()
        };
        self.timed("Sign", || (self.signers.as_ref().and_then(sign), Code::Success))
    }

    /// The plugins that run at a point.
    #[cfg(test)]
    pub(crate) fn names_at(&self, point: Point) -> Vec<&'static str> {
        self.at(point).map(|(_, plugin)| plugin.name()).collect()
    }

    /// The `spec.schedulerName` of the pods that it is for.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn at(&self, point: Point) -> impl DoubleEndedIterator<Item = (usize, &dyn Plugin)> {
        self.points.at(point).iter().map(|index| (*index, self.plugins[*index].0.as_ref()))
    }

    /// Runs an extension point over all its plugins, and notes how long it took.
    pub(crate) fn timed<R>(&self, point: &str, run: impl FnOnce() -> (R, Code)) -> R {
        let since = tokio::time::Instant::now();
        let (result, code) = run();
        metrics::extension_point(point, code.label(), &self.name, since.elapsed());
        result
    }

    /// The same for an extension point that waits.
    pub(crate) async fn timed_async<R>(&self, point: &str, run: impl Future<Output = Result<R, Status>>) -> Result<R, Status> {
        let since = tokio::time::Instant::now();
        let result = run.await;
        let code = result.as_ref().map_or_else(Status::code, |_| Code::Success);
        metrics::extension_point(point, code.label(), &self.name, since.elapsed());
        result
    }

    /// The first rejection, or success.
    pub(crate) fn pre_enqueue(&self, pod: &Pod) -> Status {
        self.at(Point::PreEnqueue)
            .filter_map(|(_, plugin)| Some((plugin.name(), plugin.as_pre_enqueue()?)))
            .map(|(name, point)| point.pre_enqueue(pod).by(name))
            .find(|status| !status.is_success())
            .unwrap_or_else(Status::success)
    }

    /// Whether a plugin cares for such events at all. An extender cannot say what helps it: everything may.
    pub(crate) fn listens(&self, plugin: &str, event: &ClusterEvent) -> bool {
        plugin == super::EXTENDER
            || self.plugins.iter().any(|(known, _)| known.name() == plugin && known.events().meets(event.kind()))
    }

    /// What an event is worth to a pod, by the plugins on whose account it waits.
    pub(crate) fn worth(&self, pod: &PodInfo, by: &Rejectors, event: &ClusterEvent) -> Worth {
        let mut best = if by.rejected.contains(super::EXTENDER) { Worth::AfterBackoff } else { Worth::Nothing };
        for (plugin, _) in &self.plugins {
            let (pending, rejected) = (by.pending.contains(plugin.name()), by.rejected.contains(plugin.name()));
            let worth = if pending { Worth::AtOnce } else { Worth::AfterBackoff };
            if (pending || rejected)
                && worth > best
                && plugin.events().meets(event.kind())
                && plugin.hint(pod, event) == Hint::Queue
            {
                best = worth;
            }
        }
        best
    }

    /// Runs all PreFilters. `Err` is a failure.
    pub(crate) fn pre_filter(&self, state: &mut CycleState, pod: &Pod, snapshot: &Snapshot) -> Result<PreFiltered, Status> {
        let mut result = PreFiltered { status: Status::success(), nodes: None, naming: BTreeSet::new() };
        for (index, plugin) in self.at(Point::PreFilter) {
            let Some(point) = plugin.as_pre_filter() else { continue };
            let (status, only) = point.pre_filter(state, pod, snapshot);
            match status.code() {
                Code::Success => {}
                Code::Skip => {
                    state.filters_skipped.insert(index);
                    continue;
                }
                // Removing pods may help, so the others must prepare themselves for the question.
                Code::Unschedulable => {
                    result.status = status.by(plugin.name());
                    continue;
                }
                Code::UnschedulableAndUnresolvable => {
                    result.status = status.by(plugin.name());
                    return Ok(result);
                }
                _ => return Err(running("PreFilter", plugin, status)),
            }
            let Some(only) = only else { continue };
            result.naming.insert(plugin.name());
            let only: BTreeSet<String> = only.into_iter().collect();
            let left = result.nodes.map_or_else(|| only.clone(), |nodes| nodes.intersection(&only).cloned().collect());
            if left.is_empty() {
                let names: Vec<&str> = result.naming.iter().copied().collect();
                let reason = match names.as_slice() {
                    [one] => format!("node(s) didn't satisfy plugin {one}"),
                    several => format!("node(s) didn't satisfy plugin(s) [{}] simultaneously", several.join(" ")),
                };
                result.status = Status::new(Code::UnschedulableAndUnresolvable, [reason]);
                result.nodes = Some(left);
                return Ok(result);
            }
            result.nodes = Some(left);
        }
        Ok(result)
    }

    /// What if another pod ran on the node too?
    pub(crate) fn add_pod(&self, state: &mut CycleState, pod: &Pod, other: &Arc<PodInfo>, node: &mut NodeInfo) {
        node.add_pod(other);
        self.for_pre_filters(state, |state, point| point.add_pod(state, pod, other, node));
    }

    /// What if another pod did not run on the node?
    pub(crate) fn remove_pod(&self, state: &mut CycleState, pod: &Pod, other: &Arc<PodInfo>, node: &mut NodeInfo) {
        node.remove_pod(&other.uid);
        self.for_pre_filters(state, |state, point| point.remove_pod(state, pod, other, node));
    }

    fn for_pre_filters(&self, state: &mut CycleState, run: impl Fn(&mut CycleState, &dyn super::PreFilter)) {
        for (index, plugin) in self.at(Point::PreFilter) {
            if let Some(point) = plugin.as_pre_filter().filter(|_| !state.filters_skipped.contains(index)) {
                run(state, point);
            }
        }
    }

    /// The filters alone; the first rejection, or success.
    pub(crate) fn filters(&self, state: &CycleState, pod: &Pod, node: &NodeInfo) -> Status {
        for (index, plugin) in self.at(Point::Filter) {
            if state.filters_skipped.contains(index) {
                continue;
            }
            let Some(point) = plugin.as_filter() else { continue };
            let status = point.filter(state, pod, node);
            if !status.is_success() {
                return status.by(plugin.name());
            }
        }
        Status::success()
    }

    /// Whether the pod can run on the node: with the pods of no lower priority that are nominated for it, and without them.
    pub(crate) fn filter_node(&self, state: &CycleState, pod: &Pod, node: &NodeInfo) -> Status {
        if self.handle.nominator.is_empty() {
            return self.filters(state, pod, node);
        }
        let mut nominated = self.handle.nominator.on(node.name());
        nominated.retain(|other| other.priority() >= priority(pod) && other.uid != state.pod().uid);
        if !nominated.is_empty() {
            let (mut fuller, mut state) = (node.clone(), state.clone());
            for other in &nominated {
                self.add_pod(&mut state, pod, other, &mut fuller);
            }
            let status = self.filters(&state, pod, &fuller);
            if !status.is_success() {
                return status;
            }
        }
        self.filters(state, pod, node)
    }

    /// Runs the filters over the nodes from `start` on, round robin, until `wanted` feasible ones are found. `Err` is a failure.
    pub(crate) fn filter(
        &self,
        state: &CycleState,
        pod: &Pod,
        nodes: &[Arc<NodeInfo>],
        start: usize,
        wanted: usize,
    ) -> Result<FilterOutcome, Status> {
        let mut outcome = FilterOutcome { feasible: Vec::with_capacity(wanted.min(nodes.len())), ..FilterOutcome::default() };
        let (before, after) = nodes.split_at(start.min(nodes.len()));
        for node in after.iter().chain(before) {
            if outcome.feasible.len() >= wanted {
                break;
            }
            let status = self.filter_node(state, pod, node);
            match status.code() {
                Code::Success => outcome.feasible.push(Arc::clone(node)),
                _ if status.is_rejected() => outcome.rejected.push((Arc::clone(node), status)),
                _ => return Err(status),
            }
        }
        Ok(outcome)
    }

    /// Whether there is something to run when a pod fits nowhere.
    pub(crate) fn has_post_filter(&self) -> bool {
        !self.points.at(Point::PostFilter).is_empty()
    }

    /// Whether any plugin scores nodes.
    pub(crate) fn has_score(&self) -> bool {
        !self.points.at(Point::Score).is_empty()
    }

    /// Runs the PostFilters until one finds a way.
    pub(crate) fn post_filter(&self, state: &CycleState, pod: &Pod, misfit: &Misfit<'_>) -> (Status, Remedy) {
        let mut result = Remedy::default();
        let mut reasons = Vec::new();
        for (_, plugin) in self.at(Point::PostFilter) {
            let Some(point) = plugin.as_post_filter() else { continue };
            let (status, remedy) = point.post_filter(state, pod, misfit);
            match status.code() {
                Code::Unschedulable | Code::Pending => {}
                Code::Success | Code::UnschedulableAndUnresolvable => return (status.by(plugin.name()), remedy),
                _ => return (status.by(plugin.name()), Remedy::default()),
            }
            if remedy.nominate.is_some() {
                result = remedy;
            }
            reasons.extend_from_slice(status.reasons());
        }
        (Status::new(Code::Unschedulable, reasons), result)
    }

    /// Runs PreScore.
    pub(crate) fn pre_score(
        &self,
        state: &mut CycleState,
        pod: &Pod,
        nodes: &[Arc<NodeInfo>],
        snapshot: &Snapshot,
    ) -> Result<(), Status> {
        for (index, plugin) in self.at(Point::PreScore) {
            let Some(point) = plugin.as_pre_score() else { continue };
            let status = point.pre_score(state, pod, nodes, snapshot);
            match status.code() {
                Code::Success => {}
                Code::Skip => state.scores_skipped.insert(index),
                _ => return Err(status.by(plugin.name())),
            }
        }
        Ok(())
    }

    /// The weighted sum of all scores, for each node.
    pub(crate) fn score(&self, state: &CycleState, pod: &Pod, nodes: &[Arc<NodeInfo>]) -> Result<Vec<i64>, Status> {
        let (mut totals, mut scores) = (vec![0; nodes.len()], vec![0; nodes.len()]);
        for (index, plugin) in self.at(Point::Score) {
            let Some(point) = plugin.as_score().filter(|_| !state.scores_skipped.contains(index)) else { continue };
            for (node, score) in nodes.iter().zip(&mut scores) {
                *score = point.score(state, pod, node);
            }
            point.normalize(state, nodes, &mut scores);
            if let Some(score) = scores.iter().find(|score| !(0..=NODE_SCORE_MAX).contains(*score)) {
                let reason = format!(
                    "plugin {:?} returns an invalid score {score}, it should in the range of [0, {NODE_SCORE_MAX}] after normalizing",
                    plugin.name()
                );
                return Err(Status::new(Code::Error, [reason]).by(plugin.name()));
            }
            let weight = self.plugins[index].1;
            for (total, score) in totals.iter_mut().zip(&scores) {
                *total += score * weight;
            }
        }
        Ok(totals)
    }

    /// Runs Reserve. What was reserved is given back when the result is dropped, unless it is kept.
    pub(crate) fn reserve(self: &Arc<Self>, state: CycleState, node: &str) -> Result<Unreserve, Status> {
        let pod = Arc::clone(&state.pod().pod);
        let mut reserved = Unreserve { profile: Arc::clone(self), state, pod, node: node.to_owned(), keep: false };
        for (_, plugin) in self.at(Point::Reserve) {
            if let Some(point) = plugin.as_reserve() {
                let status = point.reserve(&mut reserved.state, &reserved.pod, node);
                if !status.is_success() {
                    return Err(running("Reserve", plugin, status));
                }
            }
        }
        Ok(reserved)
    }

    /// Runs Permit. `Ok(Some)` if the pod has to wait.
    pub(crate) fn permit(&self, state: &CycleState, pod: &Pod, node: &str) -> Result<Option<Wait>, Status> {
        let mut waiting_for = Vec::new();
        for (_, plugin) in self.at(Point::Permit) {
            let Some(point) = plugin.as_permit() else { continue };
            let (status, patience) = point.permit(state, pod, node);
            match status.code() {
                Code::Success => {}
                Code::Wait => waiting_for.push((plugin.name(), patience)),
                _ => return Err(running("Permit", plugin, status)),
            }
        }
        Ok(self.handle.waiting.add(&state.pod().uid, waiting_for))
    }

    /// Asks the PreBind plugins whether they have anything to do; those that have not are left out (KEP-5278).
    pub(crate) fn pre_bind_pre_flight(&self, state: &mut CycleState, pod: &Pod, node: &str) -> Result<bool, Status> {
        let mut any = false;
        for (index, plugin) in self.at(Point::PreBind) {
            let Some(point) = plugin.as_pre_bind() else { continue };
            let status = point.pre_flight(state, pod, node);
            match status.code() {
                Code::Success => any = true,
                Code::Skip => state.pre_binds_skipped.insert(index),
                _ => {
                    let reason = format!("running PreBindPreFlight {:?}: {}", plugin.name(), status.message());
                    return Err(Status::new(Code::Error, [reason]).by(plugin.name()));
                }
            }
        }
        Ok(any)
    }

    /// Runs PreBind.
    pub(crate) async fn pre_bind(&self, state: &CycleState, client: &kube::Client, pod: &Pod, node: &str) -> Result<(), Status> {
        for (index, plugin) in self.at(Point::PreBind) {
            if let Some(point) = plugin.as_pre_bind().filter(|_| !state.pre_binds_skipped.contains(index)) {
                let status = point.pre_bind(client, state, pod, node).await;
                if !status.is_success() {
                    return Err(running("PreBind", plugin, status));
                }
            }
        }
        Ok(())
    }

    /// Runs Bind and, if a plugin took the pod, PostBind.
    pub(crate) async fn bind(&self, client: &kube::Client, pod: &Pod, node: &str) -> Result<(), Status> {
        for (_, plugin) in self.at(Point::Bind) {
            let Some(point) = plugin.as_bind() else { continue };
            let status = point.bind(client, pod, node).await;
            match status.code() {
                Code::Skip => {}
                Code::Success => {
                    self.post_bind(pod, node);
                    return Ok(());
                }
                _ => return Err(running("Bind", plugin, status)),
            }
        }
        Err(Status::new(Code::Error, ["no Bind plugin took the pod"]))
    }

    /// Runs PostBind.
    pub(crate) fn post_bind(&self, pod: &Pod, node: &str) {
        self.at(Point::PostBind).filter_map(|(_, plugin)| plugin.as_post_bind()).for_each(|post| post.post_bind(pod, node));
    }
}
