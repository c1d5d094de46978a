//! Which taints a node should have for its conditions. Pure.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

pub(super) const NOT_READY: &str = "node.kubernetes.io/not-ready";
pub(super) const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// Condition, its status, and the key of the taint for it.
const TAINTED: [(&str, &str, &str); 6] = [
    ("Ready", "False", NOT_READY),
    ("Ready", "Unknown", UNREACHABLE),
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
];

fn taints(node: &Node) -> &[Taint] {
    let spec = node.spec.as_ref();
    spec.and_then(|spec| spec.taints.as_deref()).unwrap_or_default()
}

fn taint(key: &str, effect: &str, now: Timestamp) -> Taint {
    Taint { key: key.into(), effect: effect.into(), value: None, time_added: Some(Time(now)) }
}

/// All taints of the node with those of effect NoSchedule brought in line with its conditions; `None` if they are.
pub(super) fn no_schedule(node: &Node, now: Timestamp) -> Option<Vec<Taint>> {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_deref());
    let conditions = conditions.unwrap_or_default();
    let holds = |type_: &str, status: &str| conditions.iter().any(|c| c.type_ == type_ && c.status == status);
    let mut wanted: Vec<&str> =
        TAINTED.iter().filter(|(type_, status, _)| holds(type_, status)).map(|(_, _, key)| *key).collect();
    if node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true) {
        wanted.push(UNSCHEDULABLE);
    }
    let is_ours = |taint: &Taint| {
        taint.effect == "NoSchedule" && (taint.key == UNSCHEDULABLE || TAINTED.iter().any(|(_, _, key)| *key == taint.key))
    };
    let current = taints(node);
    let mut updated: Vec<Taint> =
        current.iter().filter(|taint| !is_ours(taint) || wanted.contains(&taint.key.as_str())).cloned().collect();
    for key in wanted {
        if !updated.iter().any(|taint| taint.key == key && taint.effect == "NoSchedule") {
            updated.push(taint(key, "NoSchedule", now));
        }
    }
    (updated != current).then_some(updated)
}

/// What to do about the taints that evict.
#[derive(Debug, PartialEq)]
pub(super) enum NoExecute {
    /// They are as they should be.
    Fine,
    /// Write these now.
    Set(Vec<Taint>),
    /// The node must be tainted, at the pace that the zone allows.
    Enqueue,
}

/// `ready` is the status of the Ready condition.
pub(super) fn no_execute(node: &Node, ready: &str, now: Timestamp) -> NoExecute {
    let (wanted, opposite) = match ready {
        "True" => return without(node, &[NOT_READY, UNREACHABLE]).map_or(NoExecute::Fine, NoExecute::Set),
        "False" => (NOT_READY, UNREACHABLE),
        "Unknown" => (UNREACHABLE, NOT_READY),
        _ => return NoExecute::Fine,
    };
    let has = |key: &str| taints(node).iter().any(|taint| taint.key == key && taint.effect == "NoExecute");
    match (has(wanted), has(opposite)) {
        // It evicts already: only the reason changed.
        (_, true) => NoExecute::Set(with_swapped(node, wanted, opposite, now)),
        (true, false) => NoExecute::Fine,
        (false, false) => NoExecute::Enqueue,
    }
}

/// The node's taints with the one for its Ready condition; `None` if it is ready or tainted already.
pub(super) fn tainted(node: &Node, ready: &str, now: Timestamp) -> Option<Vec<Taint>> {
    match no_execute(node, ready, now) {
        NoExecute::Enqueue => {
            let (wanted, opposite) = if ready == "False" { (NOT_READY, UNREACHABLE) } else { (UNREACHABLE, NOT_READY) };
            Some(with_swapped(node, wanted, opposite, now))
        }
        NoExecute::Fine | NoExecute::Set(_) => None,
    }
}

fn with_swapped(node: &Node, wanted: &str, opposite: &str, now: Timestamp) -> Vec<Taint> {
    let mut updated = without(node, &[opposite]).unwrap_or_else(|| taints(node).to_vec());
    if !updated.iter().any(|taint| taint.key == wanted && taint.effect == "NoExecute") {
        updated.push(taint(wanted, "NoExecute", now));
    }
    updated
}

/// The node's taints without the evicting ones of these keys; `None` if it has none of them.
pub(super) fn without(node: &Node, keys: &[&str]) -> Option<Vec<Taint>> {
    let current = taints(node);
    let left: Vec<Taint> =
        current.iter().filter(|taint| !(taint.effect == "NoExecute" && keys.contains(&taint.key.as_str()))).cloned().collect();
    (left.len() != current.len()).then_some(left)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn now() -> Timestamp {
        Timestamp::UNIX_EPOCH
    }

    fn node(conditions: &[(&str, &str)], taints: &[(&str, &str)], unschedulable: bool) -> Node {
        let conditions: Vec<Value> = conditions.iter().map(|(t, s)| json!({"type": t, "status": s})).collect();
        let taints: Vec<Value> = taints.iter().map(|(k, e)| json!({"key": k, "effect": e})).collect();
        serde_json::from_value(json!({
            "spec": {"taints": taints, "unschedulable": unschedulable}, "status": {"conditions": conditions},
        }))
        .expect("is a node")
    }

    fn names(taints: &[Taint]) -> Vec<(&str, &str)> {
        taints.iter().map(|taint| (taint.key.as_str(), taint.effect.as_str())).collect()
    }

    #[test]
    fn conditions_become_no_schedule_taints() {
        let own = ("example.com/x", "NoSchedule");
        for (node, expected) in [
            // A node that registers with the taint and becomes ready.
            (node(&[("Ready", "True")], &[(NOT_READY, "NoSchedule"), own], false), Some(vec![own])),
            (node(&[("Ready", "True")], &[own], false), None),
            (node(&[("Ready", "False")], &[], false), Some(vec![(NOT_READY, "NoSchedule")])),
            (node(&[("Ready", "Unknown")], &[(NOT_READY, "NoSchedule")], false), Some(vec![(UNREACHABLE, "NoSchedule")])),
            (
                node(&[("Ready", "True"), ("DiskPressure", "True")], &[], true),
                Some(vec![("node.kubernetes.io/disk-pressure", "NoSchedule"), (UNSCHEDULABLE, "NoSchedule")]),
            ),
            (node(&[("Ready", "True")], &[(UNSCHEDULABLE, "NoSchedule")], false), Some(vec![])),
            // Evicting taints are not this function's.
            (node(&[("Ready", "True")], &[(NOT_READY, "NoExecute")], false), None),
        ] {
            let got = no_schedule(&node, now());
            assert_eq!(got.as_deref().map(names), expected, "{node:?}");
        }
    }

    #[test]
    fn evicting_taints() {
        let evict = |key| (key, "NoExecute");
        for (ready, taints, expected) in [
            ("True", vec![], NoExecute::Fine),
            ("True", vec![evict(UNREACHABLE)], NoExecute::Set(vec![])),
            ("False", vec![], NoExecute::Enqueue),
            ("False", vec![evict(NOT_READY)], NoExecute::Fine),
            ("Unknown", vec![evict(NOT_READY)], NoExecute::Set(vec![taint(UNREACHABLE, "NoExecute", now())])),
            ("Unknown", vec![], NoExecute::Enqueue),
            ("", vec![], NoExecute::Fine),
        ] {
            assert_eq!(no_execute(&node(&[], &taints, false), ready, now()), expected, "{ready} {taints:?}");
        }
        let tainted = tainted(&node(&[], &[], false), "Unknown", now()).expect("is tainted");
        assert_eq!(names(&tainted), [evict(UNREACHABLE)]);
    }
}
