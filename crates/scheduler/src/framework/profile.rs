//! The plugins of a scheduler in their order, and how each extension point is run over them.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use super::{ClusterEvent, Code, CycleState, Hint, NODE_SCORE_MAX, Plugin, Status};
use crate::node_info::NodeInfo;

/// An ordered set of plugins with the weights of their scores.
pub struct Profile {
    plugins: Vec<(Box<dyn Plugin>, i64)>,
}

/// What the filters said.
pub(crate) struct FilterOutcome {
    pub(crate) feasible: Vec<Arc<NodeInfo>>,
    /// The nodes that were rejected, and why.
    pub(crate) rejected: Vec<(String, Status)>,
}

/// Gives back on drop what was reserved, unless the binding succeeded.
pub(crate) struct Unreserve<'a> {
    profile: &'a Profile,
    pub(crate) state: CycleState,
    pod: &'a Pod,
    node: &'a str,
    keep: bool,
}

impl Unreserve<'_> {
    /// The pod is bound: nothing is given back.
    pub(crate) fn keep(mut self) {
        self.keep = true;
    }
}

impl Drop for Unreserve<'_> {
    fn drop(&mut self) {
        if !self.keep {
            for reserve in self.profile.plugins.iter().rev().filter_map(|(plugin, _)| plugin.as_reserve()) {
                reserve.unreserve(&mut self.state, self.pod, self.node);
            }
        }
    }
}

impl Profile {
    /// Plugins in the order in which they run; the weight counts for those that score.
    pub fn new(plugins: Vec<(Box<dyn Plugin>, i64)>) -> Self {
        Self { plugins }
    }

    fn plugins(&self) -> impl Iterator<Item = &dyn Plugin> {
        self.plugins.iter().map(|(plugin, _)| plugin.as_ref())
    }

    /// The first rejection, or success.
    pub(crate) fn pre_enqueue(&self, pod: &Pod) -> Status {
        self.plugins()
            .filter_map(|plugin| Some((plugin.name(), plugin.as_pre_enqueue()?)))
            .map(|(name, point)| point.pre_enqueue(pod).by(name))
            .find(|status| !status.is_success())
            .unwrap_or_else(Status::success)
    }

    /// Whether one of the plugins that rejected the pod wants another attempt because of the event.
    pub(crate) fn wants(&self, pod: &Pod, rejected_by: &BTreeSet<&'static str>, event: &ClusterEvent) -> bool {
        // Nobody in particular rejected it: a failure, which any change may mend.
        rejected_by.is_empty()
            || self.plugins().any(|plugin| rejected_by.contains(plugin.name()) && plugin.hint(pod, event) == Hint::Queue)
    }

    /// Runs all PreFilters. `Err` is the rejection that ends the cycle; otherwise the only nodes that can do, if a plugin named some.
    pub(crate) fn pre_filter(&self, state: &mut CycleState, pod: &Pod) -> Result<Option<BTreeSet<String>>, Status> {
        let mut nodes: Option<BTreeSet<String>> = None;
        for plugin in self.plugins() {
            let Some(point) = plugin.as_pre_filter() else { continue };
            let (status, only) = point.pre_filter(state, pod);
            match status.code() {
                Code::Success => {}
                Code::Skip => {
                    state.filters_skipped.insert(plugin.name());
                }
                _ => return Err(status.by(plugin.name())),
            }
            if let Some(only) = only {
                let only: BTreeSet<String> = only.into_iter().collect();
                nodes = Some(nodes.map_or_else(|| only.clone(), |nodes| nodes.intersection(&only).cloned().collect()));
            }
        }
        Ok(nodes)
    }

    /// Runs the filters over the nodes from `start` on, round robin, until `wanted` feasible ones are found. Returns how many
    /// nodes were looked at too.
    pub(crate) fn filter(
        &self,
        state: &CycleState,
        pod: &Pod,
        nodes: &[Arc<NodeInfo>],
        start: usize,
        wanted: usize,
    ) -> (FilterOutcome, usize) {
        let filters: Vec<_> = self
            .plugins()
            .filter(|plugin| !state.filters_skipped.contains(plugin.name()))
            .filter_map(|plugin| Some((plugin.name(), plugin.as_filter()?)))
            .collect();
        let mut outcome = FilterOutcome { feasible: Vec::new(), rejected: Vec::new() };
        let mut looked_at = 0;
        for offset in 0..nodes.len() {
            if outcome.feasible.len() >= wanted {
                break;
            }
            looked_at += 1;
            let node = &nodes[(start + offset) % nodes.len()];
            let rejection =
                filters.iter().map(|(name, point)| point.filter(state, pod, node).by(name)).find(|status| !status.is_success());
            match rejection {
                None => outcome.feasible.push(Arc::clone(node)),
                Some(status) => outcome.rejected.push((node.name().to_owned(), status)),
            }
        }
        (outcome, looked_at)
    }

    /// Runs the PostFilters until one finds a way. Returns the node to nominate and the messages of those that did not.
    pub(crate) async fn post_filter(
        &self,
        state: &CycleState,
        pod: &Pod,
        rejected: &[(String, Status)],
    ) -> (Option<String>, String) {
        let mut messages = Vec::new();
        for plugin in self.plugins() {
            let Some(point) = plugin.as_post_filter() else { continue };
            let (status, nominated) = point.post_filter(state, pod, rejected).await;
            if status.is_success() {
                return (nominated, String::new());
            }
            messages.extend(status.reasons().iter().cloned());
        }
        (None, messages.join(", "))
    }

    /// The weighted sum of all scores, for each node.
    pub(crate) fn score(&self, state: &mut CycleState, pod: &Pod, nodes: &[Arc<NodeInfo>]) -> Result<Vec<i64>, Status> {
        for plugin in self.plugins() {
            let Some(point) = plugin.as_pre_score() else { continue };
            let status = point.pre_score(state, pod, nodes);
            match status.code() {
                Code::Success => {}
                Code::Skip => {
                    state.scores_skipped.insert(plugin.name());
                }
                _ => return Err(status.by(plugin.name())),
            }
        }
        let mut totals = vec![0; nodes.len()];
        for (plugin, weight) in &self.plugins {
            let Some(point) = plugin.as_score().filter(|_| !state.scores_skipped.contains(plugin.name())) else { continue };
            let mut scores: Vec<i64> = nodes.iter().map(|node| point.score(state, pod, node)).collect();
            point.normalize(&mut scores);
            if let Some(score) = scores.iter().find(|score| !(0..=NODE_SCORE_MAX).contains(*score)) {
                let reason = format!(
                    "plugin {:?} returned an invalid score {score}, it should be in the range of [0, 100] after normalizing",
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

    /// Runs Reserve and Permit. What was reserved is given back when the result is dropped, unless it is kept.
    pub(crate) fn reserve<'a>(&'a self, state: CycleState, pod: &'a Pod, node: &'a str) -> Result<Unreserve<'a>, Status> {
        let mut reserved = Unreserve { profile: self, state, pod, node, keep: false };
        for plugin in self.plugins() {
            if let Some(point) = plugin.as_reserve() {
                let status = point.reserve(&mut reserved.state, pod, node);
                if !status.is_success() {
                    return Err(status.by(plugin.name()));
                }
            }
        }
        for plugin in self.plugins() {
            if let Some(point) = plugin.as_permit() {
                let status = point.permit(&reserved.state, pod, node);
                if !status.is_success() {
                    return Err(status.by(plugin.name()));
                }
            }
        }
        Ok(reserved)
    }

    /// Runs PreBind, Bind and PostBind.
    pub(crate) async fn bind(&self, state: &CycleState, client: &kube::Client, pod: &Pod, node: &str) -> Result<(), Status> {
        for plugin in self.plugins() {
            if let Some(point) = plugin.as_pre_bind() {
                let status = point.pre_bind(state, pod, node).await;
                if !status.is_success() {
                    return Err(status.by(plugin.name()));
                }
            }
        }
        for plugin in self.plugins() {
            let Some(point) = plugin.as_bind() else { continue };
            let status = point.bind(client, pod, node).await;
            match status.code() {
                Code::Skip => {}
                Code::Success => {
                    for post in self.plugins().filter_map(|plugin| plugin.as_post_bind()) {
                        post.post_bind(pod, node);
                    }
                    return Ok(());
                }
                _ => return Err(status.by(plugin.name())),
            }
        }
        Err(Status::new(Code::Error, ["no Bind plugin took the pod"]))
    }
}
