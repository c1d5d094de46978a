//! How many pods to create, or which to delete. Pure.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::ResourceExt;

use crate::pod_state::{is_active, is_ready, node_name, phase, ready_since};

/// Most pods created or deleted in one go (upstream's BurstReplicas).
const BURST: usize = 500;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Plan {
    Nothing,
    Create(usize),
    Delete(Vec<Arc<Pod>>),
}

/// `active` are the owned pods that count; `related` yields the pods of all ReplicaSets of the same owner, which
/// weigh in so that a rolling update does not leave a node with all of the pods.
pub(super) fn plan(replicas: i32, mut active: Vec<Arc<Pod>>, related: impl FnOnce() -> Vec<Arc<Pod>>, now: Timestamp) -> Plan {
    let wanted = usize::try_from(replicas).unwrap_or(0);
    match active.len().cmp(&wanted) {
        Ordering::Equal => Plan::Nothing,
        Ordering::Less => Plan::Create((wanted - active.len()).min(BURST)),
        Ordering::Greater => {
            let surplus = (active.len() - wanted).min(BURST);
            if surplus < active.len() {
                sort_by_expendability(&mut active, &related(), now);
            }
            active.truncate(surplus);
            Plan::Delete(active)
        }
    }
}

/// Upstream's `ActivePodsWithRanks`: the pod that is missed least comes first.
pub(crate) fn sort_by_expendability(pods: &mut [Arc<Pod>], related: &[Arc<Pod>], now: Timestamp) {
    let mut per_node: HashMap<&str, usize> = HashMap::new();
    for pod in related.iter().filter(|pod| is_active(pod)) {
        *per_node.entry(node_name(pod)).or_default() += 1;
    }
    pods.sort_by(|a, b| {
        let rank = |pod: &Pod| per_node.get(node_name(pod)).copied().unwrap_or(0);
        compare(a, b, rank(a), rank(b), now)
    });
}

fn compare(a: &Pod, b: &Pod, rank_a: usize, rank_b: usize, now: Timestamp) -> Ordering {
    // Unassigned first, then Pending, Unknown, Running, then not ready, then lower deletion cost, then crowded nodes.
    let assigned = |pod: &Pod| !node_name(pod).is_empty();
    let order = assigned(a)
        .cmp(&assigned(b))
        .then_with(|| phase_order(a).cmp(&phase_order(b)))
        .then_with(|| is_ready(a).cmp(&is_ready(b)))
        .then_with(|| deletion_cost(a).cmp(&deletion_cost(b)))
        .then_with(|| rank_b.cmp(&rank_a));
    if order != Ordering::Equal {
        return order;
    }
    if is_ready(a) && is_ready(b) {
        let (ready_a, ready_b) = (ready_since(a), ready_since(b));
        if ready_a != ready_b {
            return younger_first(a, b, ready_a, ready_b, now);
        }
    }
    let order = restarts(b).cmp(&restarts(a));
    if order != Ordering::Equal {
        return order;
    }
    let created = |pod: &Pod| pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
    if created(a) != created(b) {
        return younger_first(a, b, created(a), created(b), now);
    }
    Ordering::Equal
}

fn phase_order(pod: &Pod) -> u8 {
    match phase(pod) {
        "Unknown" => 1,
        "Running" => 2,
        _ => 0,
    }
}

/// `controller.kubernetes.io/pod-deletion-cost` (KEP-2255); 0 when absent or malformed.
fn deletion_cost(pod: &Pod) -> i32 {
    pod.annotations()
        .get("controller.kubernetes.io/pod-deletion-cost")
        .filter(|cost| !cost.starts_with('+') && (*cost == "0" || !cost.starts_with('0')))
        .and_then(|cost| cost.parse().ok())
        .unwrap_or(0)
}

/// Ages are compared by their logarithm and ties broken by UID, so that scale-down is spread over pods of similar
/// age (KEP-2185). A missing time counts as youngest.
fn younger_first(a: &Pod, b: &Pod, time_a: Option<Timestamp>, time_b: Option<Timestamp>, now: Timestamp) -> Ordering {
    let (Some(time_a), Some(time_b)) = (time_a, time_b) else {
        return time_a.is_some().cmp(&time_b.is_some());
    };
    log_age(time_a, now).cmp(&log_age(time_b, now)).then_with(|| a.metadata.uid.cmp(&b.metadata.uid))
}

fn log_age(time: Timestamp, now: Timestamp) -> i64 {
    let nanoseconds = now.duration_since(time).as_nanos();
    u128::try_from(nanoseconds).ok().and_then(u128::checked_ilog2).map_or(-1, i64::from)
}

/// Most restarts of a container, then of a sidecar.
fn restarts(pod: &Pod) -> (i32, i32) {
    let most =
        |statuses: &mut dyn Iterator<Item = &ContainerStatus>| statuses.map(|status| status.restart_count).max().unwrap_or(0);
    let Some(status) = &pod.status else { return (0, 0) };
    let sidecars: Vec<&str> = pod
        .spec
        .iter()
        .flat_map(|spec| spec.init_containers.iter().flatten())
        .filter(|container| container.restart_policy.as_deref() == Some("Always"))
        .map(|container| container.name.as_str())
        .collect();
    let regular = most(&mut status.container_statuses.iter().flatten());
    let sidecar =
        most(&mut status.init_container_statuses.iter().flatten().filter(|status| sidecars.contains(&status.name.as_str())));
    (regular, sidecar)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn now() -> Timestamp {
        "2024-01-01T12:00:00Z".parse().expect("is a time")
    }

    fn pod(name: &str, node: &str, phase: &str, ready: Option<&str>, extra: Value) -> Arc<Pod> {
        let mut value = json!({
            "metadata": {"name": name, "uid": name, "creationTimestamp": "2024-01-01T00:00:00Z"},
            "spec": {"containers": [], "nodeName": node},
            "status": {"phase": phase, "conditions": []},
        });
        if let Some(since) = ready {
            value["status"]["conditions"] = json!([{"type": "Ready", "status": "True", "lastTransitionTime": since}]);
        }
        merge(&mut value, extra);
        Arc::new(serde_json::from_value(value).expect("is a pod"))
    }

    fn merge(into: &mut Value, from: Value) {
        match (into, from) {
            (Value::Object(into), Value::Object(from)) => {
                for (key, value) in from {
                    merge(into.entry(key).or_insert(Value::Null), value);
                }
            }
            (into, from) => *into = from,
        }
    }

    #[test]
    fn the_least_missed_pod_goes_first() {
        let ready = "2024-01-01T11:00:00Z";
        let cost = |cost: &str| json!({"metadata": {"annotations": {"controller.kubernetes.io/pod-deletion-cost": cost}}});
        let restarts = json!({"status": {"containerStatuses": [
            {"name": "c", "image": "", "imageID": "", "ready": true, "restartCount": 3}]}});
        // In each pair the first is deleted before the second.
        let pairs = [
            (pod("a", "", "Pending", None, json!({})), pod("b", "n", "Pending", None, json!({}))),
            (pod("a", "n", "Pending", None, json!({})), pod("b", "n", "Unknown", None, json!({}))),
            (pod("a", "n", "Unknown", None, json!({})), pod("b", "n", "Running", None, json!({}))),
            (pod("a", "n", "Running", None, json!({})), pod("b", "n", "Running", Some(ready), json!({}))),
            (pod("z", "n", "Running", Some(ready), cost("-5")), pod("b", "n", "Running", Some(ready), json!({}))),
            (pod("z", "n", "Running", Some(ready), json!({})), pod("b", "n", "Running", Some(ready), cost("5"))),
            (pod("z", "n", "Running", Some("2024-01-01T11:59:59Z"), json!({})), pod("b", "n", "Running", Some(ready), json!({}))),
            (pod("z", "n", "Running", Some(ready), restarts), pod("b", "n", "Running", Some(ready), json!({}))),
            (
                pod("z", "n", "Running", Some(ready), json!({"metadata": {"creationTimestamp": "2024-01-01T11:00:00Z"}})),
                pod("b", "n", "Running", Some(ready), json!({})),
            ),
            // Ages within a factor of two are equal; the UID decides.
            (
                pod("a", "n", "Running", Some("2024-01-01T11:00:00Z"), json!({})),
                pod("b", "n", "Running", Some("2024-01-01T11:00:10Z"), json!({})),
            ),
        ];
        for (first, second) in pairs {
            let mut pods = [Arc::clone(&second), Arc::clone(&first)];
            sort_by_expendability(&mut pods, &[], now());
            assert_eq!(pods[0].name_any(), first.name_any(), "{first:?} before {second:?}");
        }
    }

    #[test]
    fn crowded_nodes_lose_pods_first() {
        let ready = Some("2024-01-01T11:00:00Z");
        let on = |name: &str, node: &str| pod(name, node, "Running", ready, json!({}));
        let active = vec![on("a", "quiet"), on("b", "busy")];
        let related = vec![on("a", "quiet"), on("b", "busy"), on("c", "busy")];
        let Plan::Delete(deleted) = plan(1, active, || related, now()) else {
            panic!("deletes");
        };
        assert_eq!(deleted[0].name_any(), "b");
    }

    #[test]
    fn counts() {
        let pods = |n: usize| (0..n).map(|i| pod(&format!("p{i}"), "", "Pending", None, json!({}))).collect::<Vec<_>>();
        for (replicas, active, expected) in
            [(3, 3, Plan::Nothing), (3, 1, Plan::Create(2)), (1000, 0, Plan::Create(500)), (0, 0, Plan::Nothing)]
        {
            assert_eq!(plan(replicas, pods(active), Vec::new, now()), expected, "{replicas} {active}");
        }
        let Plan::Delete(all) = plan(0, pods(2), || panic!("no ranking when all go"), now()) else {
            panic!("deletes");
        };
        assert_eq!(all.len(), 2);
    }
}
