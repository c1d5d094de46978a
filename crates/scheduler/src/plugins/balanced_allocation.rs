//! NodeResourcesBalancedAllocation: nodes whose CPU and memory would be used to the same share score better.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use crate::framework::{ClusterEvent, CycleState, EventSet, Hint, NODE_SCORE_MAX, Plugin, PreScore, Score, Sign, Signer, Status};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use crate::resource::{Resources, pod_request};
use crate::snapshot::Snapshot;

pub(super) struct BalancedAllocation;

/// The pod's real request: here a container without one counts nothing.
#[derive(Clone)]
struct Wanted(Resources);

impl Plugin for BalancedAllocation {
    fn name(&self) -> &'static str {
        "NodeResourcesBalancedAllocation"
    }

    fn events(&self) -> EventSet {
        EventSet::NONE
    }

    /// It never rejects a pod.
    fn hint(&self, _pod: &PodInfo, _event: &ClusterEvent) -> Hint {
        Hint::Skip
    }

    fn as_pre_score(&self) -> Option<&dyn PreScore> {
        Some(self)
    }

    fn as_score(&self) -> Option<&dyn Score> {
        Some(self)
    }

    fn as_sign(&self) -> Option<&dyn Sign> {
        Some(self)
    }
}

impl Sign for BalancedAllocation {
    fn sign(&self, pod: &PodInfo, signer: &mut Signer) {
        signer.requests(pod);
    }
}

impl PreScore for BalancedAllocation {
    /// A pod that asks for nothing would only be drawn to nodes by what others use.
    fn pre_score(&self, state: &mut CycleState, pod: &Pod, _nodes: &[Arc<NodeInfo>], _snapshot: &Snapshot) -> Status {
        let wanted = pod_request(pod).requested;
        if wanted.milli_cpu == 0 && wanted.memory_bytes == 0 {
            return Status::skip();
        }
        state.put(Wanted(wanted));
        Status::success()
    }
}

impl Score for BalancedAllocation {
    fn score(&self, state: &CycleState, _pod: &Pod, node: &NodeInfo) -> i64 {
        let Some(Wanted(wanted)) = state.get() else { return 0 };
        let share = |allocatable: i64, used: i64| (allocatable > 0).then(|| (used as f64 / allocatable as f64).min(1.0));
        let cpu = share(node.allocatable.milli_cpu, node.requested.milli_cpu + wanted.milli_cpu);
        let memory = share(node.allocatable.memory_bytes, node.requested.memory_bytes + wanted.memory_bytes);
        // The standard deviation of two values is half their distance.
        let deviation = cpu.zip(memory).map_or(0.0, |(cpu, memory)| (cpu - memory).abs() / 2.0);
        ((1.0 - deviation) * NODE_SCORE_MAX as f64) as i64
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plugins::testing::{node, pod, scores};

    #[test]
    fn balance_scores_better() {
        let machine =
            |cpu: &str| node(json!({"metadata": {"name": "n"}, "status": {"allocatable": {"cpu": cpu, "memory": "1Gi"}}}));
        let pod = pod(json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "1", "memory": "512Mi"}}}]}));
        assert_eq!(scores(&BalancedAllocation, &pod, vec![machine("2"), machine("1"), machine("10")]), [100, 75, 80]);
    }
}
