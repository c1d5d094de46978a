//! The plugins, one module each, under upstream's names. The registry is their order.

mod balanced_allocation;
mod default_binder;
mod fit;
mod image_locality;
mod node_affinity;
mod node_name;
mod node_ports;
mod node_unschedulable;
mod scheduling_gates;
mod taint_toleration;

use k8s_openapi::api::core::v1::{Pod, Taint, Toleration};

use crate::framework::{Plugin, Profile};

/// How a plugin is made, and what its score weighs.
pub struct Registration {
    /// Makes the plugin.
    pub make: fn() -> Box<dyn Plugin>,
    /// Multiplies its score in the sum; 0 for plugins that do not score.
    pub weight: i64,
}

/// All plugins in the order in which they run, with upstream's default weights.
pub const REGISTRY: &[Registration] = &[
    Registration { make: || Box::new(scheduling_gates::SchedulingGates), weight: 0 },
    Registration { make: || Box::new(node_unschedulable::NodeUnschedulable), weight: 0 },
    Registration { make: || Box::new(node_name::NodeName), weight: 0 },
    Registration { make: || Box::new(taint_toleration::TaintToleration), weight: 3 },
    Registration { make: || Box::new(node_affinity::NodeAffinity), weight: 2 },
    Registration { make: || Box::new(node_ports::NodePorts), weight: 0 },
    Registration { make: || Box::new(fit::Fit), weight: 1 },
    Registration { make: || Box::new(balanced_allocation::BalancedAllocation), weight: 1 },
    Registration { make: || Box::new(image_locality::ImageLocality), weight: 1 },
    Registration { make: || Box::new(default_binder::DefaultBinder), weight: 0 },
];

/// The profile of the default scheduler.
pub(crate) fn default_profile() -> Profile {
    Profile::new(REGISTRY.iter().map(|registration| ((registration.make)(), registration.weight)).collect())
}

/// Brings scores to 0..=100 by the largest; `reverse` makes the smallest the best.
fn normalize_by_largest(scores: &mut [i64], reverse: bool) {
    use crate::framework::NODE_SCORE_MAX;
    let largest = scores.iter().copied().max().unwrap_or_default();
    for score in scores {
        let scaled = if largest == 0 { 0 } else { *score * NODE_SCORE_MAX / largest };
        *score = if reverse { NODE_SCORE_MAX - scaled } else { scaled };
    }
}

/// Whether a toleration covers a taint (core/v1 Toleration).
fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let effect = toleration.effect.as_deref().unwrap_or_default();
    let key = toleration.key.as_deref().unwrap_or_default();
    if !effect.is_empty() && effect != taint.effect || !key.is_empty() && key != taint.key {
        return false;
    }
    let own = toleration.value.as_deref().unwrap_or_default();
    let value = taint.value.as_deref().unwrap_or_default();
    match toleration.operator.as_deref().unwrap_or_default() {
        "" | "Equal" => !key.is_empty() && own == value,
        "Exists" => true,
        _ => false,
    }
}

fn tolerations(pod: &Pod) -> &[Toleration] {
    pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default()
}

#[cfg(test)]
mod testing {
    //! Objects for the plugins' tables.

    use std::sync::Arc;

    use k8s_openapi::api::core::v1::Pod;
    use serde_json::{Value, json};

    use crate::framework::{Code, CycleState, Plugin};
    use crate::node_info::NodeInfo;

    pub(super) fn pod(spec: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "d", "uid": "u"}, "spec": spec})).expect("a pod")
    }

    pub(super) fn node(object: Value) -> NodeInfo {
        NodeInfo::new(Arc::new(serde_json::from_value(object).expect("a node")))
    }

    /// PreFilter, then Filter unless it was left out.
    pub(super) fn filter(plugin: &dyn Plugin, pod: &Pod, node: &NodeInfo) -> Code {
        let mut state = CycleState::default();
        if let Some(point) = plugin.as_pre_filter() {
            match point.pre_filter(&mut state, pod).0.code() {
                Code::Success => {}
                Code::Skip => return Code::Success,
                code => return code,
            }
        }
        plugin.as_filter().expect("a filter").filter(&state, pod, node).code()
    }

    /// PreScore, Score and normalisation over some nodes.
    pub(super) fn scores(plugin: &dyn Plugin, pod: &Pod, nodes: Vec<NodeInfo>) -> Vec<i64> {
        let nodes: Vec<_> = nodes.into_iter().map(Arc::new).collect();
        let mut state = CycleState::default();
        if let Some(point) = plugin.as_pre_score() {
            point.pre_score(&mut state, pod, &nodes);
        }
        let point = plugin.as_score().expect("a score");
        let mut scores: Vec<i64> = nodes.iter().map(|node| point.score(&state, pod, node)).collect();
        point.normalize(&mut scores);
        scores
    }
}
