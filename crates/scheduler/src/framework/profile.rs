//! The plugins of a scheduler in their order, and how each extension point is run over them.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use super::{ClusterEvent, Code, CycleState, Handle, Hint, Misfit, NODE_SCORE_MAX, Plugin, Point, Points, Remedy, Status, Wait};
use crate::node_info::NodeInfo;
use crate::pod_info::{PodInfo, priority};
use crate::snapshot::Snapshot;

/// An ordered set of plugins with the weights of their scores, under the name that pods choose it by.
pub struct Profile {
    name: String,
    plugins: Vec<(Arc<dyn Plugin>, i64)>,
    points: Points,
    handle: Arc<Handle>,
    /// How many percent of the nodes are scored; `None` for the scheduler's own.
    pub(crate) percentage_of_nodes_to_score: Option<usize>,
}

/// What the filters said.
#[derive(Default)]
pub(crate) struct FilterOutcome {
    pub(crate) feasible: Vec<Arc<NodeInfo>>,
    /// The nodes that were rejected, and why.
    pub(crate) rejected: Vec<(String, Status)>,
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
            for reserve in self.profile.at(Point::Reserve).rev().filter_map(|plugin| plugin.as_reserve()) {
                reserve.unreserve(&mut self.state, &self.pod, &self.node);
            }
        }
    }
}

impl Profile {
    /// Plugins in the order in which they run, at every point that they have; the weight counts for those that score.
    pub fn new(name: impl Into<String>, plugins: Vec<(Arc<dyn Plugin>, i64)>, handle: Arc<Handle>) -> Self {
        let points = Points::all(plugins.len());
        Self { name: name.into(), plugins, points, handle, percentage_of_nodes_to_score: None }
    }

    /// The same with plugins chosen for each point.
    pub(crate) fn with_points(mut self, points: Points) -> Self {
        self.points = points;
        self
    }

    /// The plugins that run at a point.
    #[cfg(test)]
    pub(crate) fn names_at(&self, point: Point) -> Vec<&'static str> {
        let all = self.at(point).filter(|plugin| crate::config::implements(*plugin, point));
        all.map(|plugin| plugin.name()).collect()
    }

    /// The `spec.schedulerName` of the pods that it is for.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn at(&self, point: Point) -> impl DoubleEndedIterator<Item = &dyn Plugin> {
        self.points.at(point).iter().map(|index| self.plugins[*index].0.as_ref())
    }

    /// The first rejection, or success.
    pub(crate) fn pre_enqueue(&self, pod: &Pod) -> Status {
        self.at(Point::PreEnqueue)
            .filter_map(|plugin| Some((plugin.name(), plugin.as_pre_enqueue()?)))
            .map(|(name, point)| point.pre_enqueue(pod).by(name))
            .find(|status| !status.is_success())
            .unwrap_or_else(Status::success)
    }

    /// Whether one of the plugins that rejected the pod wants another attempt because of the event.
    pub(crate) fn wants(&self, pod: &Pod, rejected_by: &BTreeSet<&'static str>, event: &ClusterEvent) -> bool {
        // Nobody in particular rejected it: a failure, which any change may mend. An extender cannot say what helps it.
        rejected_by.is_empty()
            || rejected_by.contains(super::EXTENDER)
            || self
                .plugins
                .iter()
                .any(|(plugin, _)| rejected_by.contains(plugin.name()) && plugin.hint(pod, event) == Hint::Queue)
    }

    /// Runs all PreFilters. `Err` is a failure.
    pub(crate) fn pre_filter(&self, state: &mut CycleState, pod: &Pod, snapshot: &Snapshot) -> Result<PreFiltered, Status> {
        let mut result = PreFiltered { status: Status::success(), nodes: None, naming: BTreeSet::new() };
        for plugin in self.at(Point::PreFilter) {
            let Some(point) = plugin.as_pre_filter() else { continue };
            let (status, only) = point.pre_filter(state, pod, snapshot);
            match status.code() {
                Code::Success => {}
                Code::Skip => {
                    state.filters_skipped.insert(plugin.name());
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
                _ => return Err(status.by(plugin.name())),
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
        for plugin in self.at(Point::PreFilter) {
            if let Some(point) = plugin.as_pre_filter().filter(|_| !state.filters_skipped.contains(plugin.name())) {
                run(state, point);
            }
        }
    }

    fn filters(&self, state: &CycleState, pod: &Pod, node: &NodeInfo) -> Status {
        self.at(Point::Filter)
            .filter(|plugin| !state.filters_skipped.contains(plugin.name()))
            .filter_map(|plugin| Some((plugin.name(), plugin.as_filter()?)))
            .map(|(name, point)| point.filter(state, pod, node).by(name))
            .find(|status| !status.is_success())
            .unwrap_or_else(Status::success)
    }

    /// Whether the pod can run on the node: with the pods of no lower priority that are nominated for it, and without them.
    pub(crate) fn filter_node(&self, state: &CycleState, pod: &Pod, node: &NodeInfo) -> Status {
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
        let mut outcome = FilterOutcome::default();
        for offset in 0..nodes.len() {
            if outcome.feasible.len() >= wanted {
                break;
            }
            let node = &nodes[(start + offset) % nodes.len()];
            let status = self.filter_node(state, pod, node);
            match status.code() {
                Code::Success => outcome.feasible.push(Arc::clone(node)),
                _ if status.is_rejected() => outcome.rejected.push((node.name().to_owned(), status)),
                _ => return Err(status),
            }
        }
        Ok(outcome)
    }

    /// Whether there is something to run when a pod fits nowhere.
    pub(crate) fn has_post_filter(&self) -> bool {
        self.at(Point::PostFilter).any(|plugin| plugin.as_post_filter().is_some())
    }

    /// Runs the PostFilters until one finds a way.
    pub(crate) fn post_filter(&self, state: &CycleState, pod: &Pod, misfit: &Misfit<'_>) -> (Status, Remedy) {
        let mut result = Remedy::default();
        let mut reasons = Vec::new();
        for plugin in self.at(Point::PostFilter) {
            let Some(point) = plugin.as_post_filter() else { continue };
            let (status, remedy) = point.post_filter(state, pod, misfit);
            if status.code() != Code::Unschedulable {
                return (status.by(plugin.name()), remedy);
            }
            if remedy.nominate.is_some() {
                result = remedy;
            }
            reasons.extend_from_slice(status.reasons());
        }
        (Status::new(Code::Unschedulable, reasons), result)
    }

    /// The weighted sum of all scores, for each node.
    pub(crate) fn score(
        &self,
        state: &mut CycleState,
        pod: &Pod,
        nodes: &[Arc<NodeInfo>],
        snapshot: &Snapshot,
    ) -> Result<Vec<i64>, Status> {
        for plugin in self.at(Point::PreScore) {
            let Some(point) = plugin.as_pre_score() else { continue };
            let status = point.pre_score(state, pod, nodes, snapshot);
            match status.code() {
                Code::Success => {}
                Code::Skip => {
                    state.scores_skipped.insert(plugin.name());
                }
                _ => return Err(status.by(plugin.name())),
            }
        }
        let mut totals = vec![0; nodes.len()];
        for (plugin, weight) in self.points.at(Point::Score).iter().map(|index| &self.plugins[*index]) {
            let Some(point) = plugin.as_score().filter(|_| !state.scores_skipped.contains(plugin.name())) else { continue };
            let mut scores: Vec<i64> = nodes.iter().map(|node| point.score(state, pod, node)).collect();
            point.normalize(state, nodes, &mut scores);
            if let Some(score) = scores.iter().find(|score| !(0..=NODE_SCORE_MAX).contains(*score)) {
                let reason = format!(
                    "plugin {:?} returns an invalid score {score}, it should in the range of [0, {NODE_SCORE_MAX}] after normalizing",
                    plugin.name()
                );
                return Err(Status::new(Code::Error, [reason]).by(plugin.name()));
            }
            for (total, score) in totals.iter_mut().zip(scores) {
                *total += score * weight;
            }
        }
        Ok(totals)
    }

    /// Runs Reserve. What was reserved is given back when the result is dropped, unless it is kept.
    pub(crate) fn reserve(self: &Arc<Self>, state: CycleState, node: &str) -> Result<Unreserve, Status> {
        let pod = Arc::clone(&state.pod().pod);
        let mut reserved = Unreserve { profile: Arc::clone(self), state, pod, node: node.to_owned(), keep: false };
        for plugin in self.at(Point::Reserve) {
            if let Some(point) = plugin.as_reserve() {
                let status = point.reserve(&mut reserved.state, &reserved.pod, node);
                if !status.is_success() {
                    return Err(status.by(plugin.name()));
                }
            }
        }
        Ok(reserved)
    }

    /// Runs Permit. `Ok(Some)` if the pod has to wait.
    pub(crate) fn permit(&self, state: &CycleState, pod: &Pod, node: &str) -> Result<Option<Wait>, Status> {
        let mut waiting_for = Vec::new();
        for plugin in self.at(Point::Permit) {
            let Some(point) = plugin.as_permit() else { continue };
            let (status, patience) = point.permit(state, pod, node);
            match status.code() {
                Code::Success => {}
                Code::Wait => waiting_for.push((plugin.name(), patience)),
                _ => return Err(status.by(plugin.name())),
            }
        }
        Ok(self.handle.waiting.add(&state.pod().uid, waiting_for))
    }

    /// Runs PreBind, Bind and PostBind.
    pub(crate) async fn bind(&self, state: &CycleState, client: &kube::Client, pod: &Pod, node: &str) -> Result<(), Status> {
        for plugin in self.at(Point::PreBind) {
            if let Some(point) = plugin.as_pre_bind() {
                let status = point.pre_bind(client, state, pod, node).await;
                if !status.is_success() {
                    return Err(status.by(plugin.name()));
                }
            }
        }
        for plugin in self.at(Point::Bind) {
            let Some(point) = plugin.as_bind() else { continue };
            let status = point.bind(client, pod, node).await;
            match status.code() {
                Code::Skip => {}
                Code::Success => {
                    self.at(Point::PostBind)
                        .filter_map(|plugin| plugin.as_post_bind())
                        .for_each(|post| post.post_bind(pod, node));
                    return Ok(());
                }
                _ => return Err(status.by(plugin.name())),
            }
        }
        Err(Status::new(Code::Error, ["no Bind plugin took the pod"]))
    }
}
