//! Quality of service classes (<https://kubernetes.io/docs/concepts/workloads/pods/pod-qos/>) and what follows from them.

use k8s_openapi::api::core::v1::{Container, Pod};

use crate::pod::access::{PodAccess, is_sidecar};
use crate::pod::resources;
use crate::quantity;

/// A pod's quality of service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Qos {
    Guaranteed,
    Burstable,
    BestEffort,
}

impl Qos {
    /// The API's name of the class.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Qos::Guaranteed => "Guaranteed",
            Qos::Burstable => "Burstable",
            Qos::BestEffort => "BestEffort",
        }
    }
}

/// The class of a pod: Guaranteed when every container has equal, non-zero cpu and memory requests and limits; BestEffort when none has any.
pub(crate) fn class(pod: &Pod) -> Qos {
    let pod_level = pod.pod_spec().resources.as_ref().filter(|r| r.requests.is_some() || r.limits.is_some());
    let containers: Vec<Option<&_>> = match pod_level {
        Some(resources) => vec![Some(resources)],
        None => pod.containers().iter().chain(pod.init_containers()).map(|c| c.resources.as_ref()).collect(),
    };
    let mut any = false;
    let mut guaranteed = !containers.is_empty();
    for resources in containers {
        for name in ["cpu", "memory"] {
            let value = |list: Option<&std::collections::BTreeMap<String, _>>| {
                list.and_then(|l| l.get(name)).map(quantity::milli).filter(|v| *v > 0)
            };
            let limit = value(resources.and_then(|r| r.limits.as_ref()));
            let request = value(resources.and_then(|r| r.requests.as_ref()));
            any |= limit.is_some() || request.is_some();
            guaranteed &= limit.is_some() && (request.is_none() || request == limit);
        }
    }
    match (any, guaranteed) {
        (false, _) => Qos::BestEffort,
        (true, true) => Qos::Guaranteed,
        (true, false) => Qos::Burstable,
    }
}

/// `oom_score_adj` of a container, upstream's numbers (`pkg/kubelet/qos`): -997 critical and Guaranteed, 1000 BestEffort, between by memory request.
pub(crate) fn oom_score_adj(pod: &Pod, container: &Container, memory_capacity_bytes: u64) -> i64 {
    // 2,000,000,000 is where system priorities begin (scheduling.SystemCriticalPriority).
    let critical = pod.is_static() || pod.pod_spec().priority.is_some_and(|priority| priority >= 2_000_000_000);
    if critical && pod.pod_spec().priority_class_name.as_deref() == Some("system-node-critical") {
        return -997;
    }
    match class(pod) {
        Qos::Guaranteed => -997,
        Qos::BestEffort => 1000,
        Qos::Burstable => {
            let capacity = i64::try_from(memory_capacity_bytes.max(1)).unwrap_or(i64::MAX);
            let score = |container: &Container| 1000 - 1000 * (memory_request(container) + unassigned(pod)) / capacity;
            let mut adjusted = score(container);
            if is_sidecar(container) {
                // A sidecar is not killed before the containers that it serves.
                adjusted = adjusted.min(pod.containers().iter().map(score).max().unwrap_or(adjusted));
            }
            // Stays above Guaranteed and below BestEffort.
            adjusted.clamp(3, 999)
        }
    }
}

fn memory_request(container: &Container) -> i64 {
    resources::request(container.resources.as_ref(), "memory", quantity::whole).unwrap_or(0)
}

/// Each container's share of the memory that the pod asks for beyond what its containers do (KEP-2837).
fn unassigned(pod: &Pod) -> i64 {
    let of_pod = resources::request(pod.pod_spec().resources.as_ref(), "memory", quantity::whole).filter(|request| *request > 0);
    let containers = i64::try_from(pod.containers().len() + pod.init_containers().len()).unwrap_or(i64::MAX);
    of_pod.map_or(0, |request| (request - resources::containers_request(pod, "memory")) / containers.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(containers: serde_json::Value) -> Pod {
        serde_json::from_value(serde_json::json!({"metadata": {"name": "p"}, "spec": {"containers": containers}})).unwrap()
    }

    #[test]
    fn classes() {
        let cases = [
            (serde_json::json!([{"name": "a"}]), Qos::BestEffort),
            (serde_json::json!([{"name": "a", "resources": {"requests": {"cpu": "1"}}}]), Qos::Burstable),
            (
                serde_json::json!([{"name": "a", "resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1Gi"}}}]),
                Qos::Guaranteed,
            ),
            (
                serde_json::json!([{"name": "a", "resources": {"limits": {"cpu": "1", "memory": "1Gi"}}}, {"name": "b"}]),
                Qos::Burstable,
            ),
            (
                serde_json::json!([{"name": "a", "resources": {"limits": {"cpu": "2", "memory": "1Gi"}, "requests": {"cpu": "1", "memory": "1Gi"}}}]),
                Qos::Burstable,
            ),
        ];
        for (containers, expected) in cases {
            assert_eq!(class(&pod(containers.clone())), expected, "{containers}");
        }
    }

    #[test]
    fn oom_scores() {
        let guaranteed = pod(serde_json::json!([{"name": "a", "resources": {"limits": {"cpu": "1", "memory": "1Gi"}}}]));
        let burstable = pod(serde_json::json!([{"name": "a", "resources": {"requests": {"memory": "1Gi"}}}]));
        let best_effort = pod(serde_json::json!([{"name": "a"}]));
        for (pod, expected) in [(guaranteed, -997), (burstable, 750), (best_effort, 1000)] {
            assert_eq!(oom_score_adj(&pod, &pod.containers()[0], 4 << 30), expected);
        }
    }

    #[test]
    fn oom_scores_of_sidecars_critical_pods_and_pods_with_requests_of_their_own() {
        let memory = |text: &str| serde_json::json!({"requests": {"memory": text}});
        let spec = |value: serde_json::Value| -> Pod {
            serde_json::from_value(serde_json::json!({"metadata": {"name": "p"}, "spec": value})).unwrap()
        };
        let sidecar = spec(serde_json::json!({
            "initContainers": [{"name": "s", "restartPolicy": "Always"}],
            "containers": [{"name": "a", "resources": memory("1Gi")}, {"name": "b", "resources": memory("2Gi")}]}));
        assert_eq!(oom_score_adj(&sidecar, &sidecar.init_containers()[0], 4 << 30), 750, "as the container that asks for least");
        let whole = spec(serde_json::json!({"resources": memory("3Gi"),
            "containers": [{"name": "a", "resources": memory("1Gi")}, {"name": "b"}]}));
        let scores: Vec<i64> = whole.containers().iter().map(|container| oom_score_adj(&whole, container, 4 << 30)).collect();
        assert_eq!(scores, [500, 750], "1 GiB more for each");
        for (class, expected) in [("system-node-critical", -997), ("system-cluster-critical", 1000)] {
            let critical =
                spec(serde_json::json!({"priority": 2_000_001_000, "priorityClassName": class, "containers": [{"name": "a"}]}));
            assert_eq!(oom_score_adj(&critical, &critical.containers()[0], 4 << 30), expected, "{class}");
        }
    }
}
