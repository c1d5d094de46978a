//! Objects for the plugins' tables.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use crate::framework::{Code, CycleState, Plugin};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use crate::snapshot::Snapshot;

pub(super) fn pod(spec: Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "d", "uid": "u"}, "spec": spec})).expect("a pod")
}

pub(super) fn node(object: Value) -> NodeInfo {
    NodeInfo::new(Arc::new(serde_json::from_value(object).expect("a node")))
}

pub(super) fn info(pod: Pod) -> Arc<PodInfo> {
    Arc::new(PodInfo::new(Arc::new(pod)))
}

pub(super) fn state(pod: &Pod) -> CycleState {
    CycleState::new(info(pod.clone()))
}

/// PreFilter, then Filter unless it was left out.
pub(super) fn filter(plugin: &dyn Plugin, pod: &Pod, node: &NodeInfo) -> Code {
    filter_among(plugin, pod, vec![node.clone()])[0]
}

/// The same for each of some nodes.
pub(super) fn filter_among(plugin: &dyn Plugin, pod: &Pod, nodes: Vec<NodeInfo>) -> Vec<Code> {
    let snapshot = Snapshot::of(nodes.into_iter().map(Arc::new));
    let mut state = state(pod);
    if let Some(point) = plugin.as_pre_filter() {
        match point.pre_filter(&mut state, pod, &snapshot).0.code() {
            Code::Success => {}
            Code::Skip => return vec![Code::Success; snapshot.len()],
            code => return vec![code; snapshot.len()],
        }
    }
    let point = plugin.as_filter().expect("a filter");
    snapshot.nodes().iter().map(|node| point.filter(&state, pod, node).code()).collect()
}

/// PreScore, Score and normalisation over some nodes; all zero if the plugin leaves itself out.
pub(super) fn scores(plugin: &dyn Plugin, pod: &Pod, nodes: Vec<NodeInfo>) -> Vec<i64> {
    let snapshot = Snapshot::of(nodes.into_iter().map(Arc::new));
    let nodes = snapshot.nodes();
    let mut state = state(pod);
    if let Some(point) = plugin.as_pre_score()
        && point.pre_score(&mut state, pod, nodes, &snapshot).code() == Code::Skip
    {
        return vec![0; nodes.len()];
    }
    let point = plugin.as_score().expect("a score");
    let mut scores: Vec<i64> = nodes.iter().map(|node| point.score(&state, pod, node)).collect();
    point.normalize(&state, nodes, &mut scores);
    scores
}
