use super::*;
use crate::daemonset::status::{differs, status};
use serde_json::{Value, json};

pub(in crate::daemonset) const NOW: &str = "2024-01-01T12:00:00Z";

/// A pod in one word: `name@node:revision state`, with states `p`ending and bound, `u`nbound, `s`tarting, `r`eady, `j`ust ready, `f`ailed,
/// `d`one, `t`erminating (and ready), `g`one (failed and terminating).
pub(in crate::daemonset) fn pod(word: &str) -> Arc<Pod> {
    let (name, rest) = word.split_once('@').expect("has a node");
    let (node, rest) = rest.split_once(':').expect("has a revision");
    let (revision, state) = rest.split_at(rest.len() - 1);
    let phase = match state {
        "p" | "u" => "Pending",
        "f" | "g" => "Failed",
        "d" => "Succeeded",
        _ => "Running",
    };
    let since = if state == "j" { "2024-01-01T11:59:55Z" } else { "2024-01-01T00:00:00Z" };
    let conditions = match state {
        "r" | "j" | "t" => json!([{"type": "Ready", "status": "True", "lastTransitionTime": since}]),
        _ => json!([]),
    };
    let pinned = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
        {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}]}}});
    let mut value = json!({
        "metadata": {"name": name, "uid": name, "creationTimestamp": "2024-01-01T00:00:00Z",
            "labels": {"app": "agent", "controller-revision-hash": revision}},
        "spec": {"containers": [], "affinity": pinned},
        "status": {"phase": phase, "conditions": conditions},
    });
    if state != "u" {
        value["spec"]["nodeName"] = node.into();
    }
    if matches!(state, "t" | "g") {
        value["metadata"]["deletionTimestamp"] = NOW.into();
    }
    Arc::new(serde_json::from_value(value).expect("is a pod"))
}

/// A node in one word: its name, with `!` for a taint that keeps new pods off and `!!` for one that evicts.
pub(in crate::daemonset) fn node(word: &str) -> Arc<Node> {
    let name = word.trim_end_matches('!');
    let taints = match word.len() - name.len() {
        0 => json!([]),
        1 => json!([{"key": "k", "effect": "NoSchedule"}]),
        _ => json!([{"key": "k", "effect": "NoExecute"}]),
    };
    Arc::new(serde_json::from_value(json!({"metadata": {"name": name}, "spec": {"taints": taints}})).expect("is a node"))
}

pub(in crate::daemonset) fn set(strategy: Value) -> DaemonSet {
    serde_json::from_value(json!({"metadata": {"name": "agent", "namespace": "ns", "uid": "u", "generation": 2},
        "spec": {"selector": {"matchLabels": {"app": "agent"}}, "minReadySeconds": 10, "updateStrategy": strategy,
            "template": {"metadata": {"labels": {"app": "agent"}}, "spec": {"containers": []}}}}))
    .expect("is a set")
}

pub(in crate::daemonset) fn rolling(surge: Value, unavailable: Value) -> DaemonSet {
    set(json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}}))
}

pub(in crate::daemonset) fn words(plan: &Plan) -> String {
    let create = plan.create.iter().map(|node| format!("+{node}"));
    let mut delete: Vec<String> = plan.delete.iter().map(|pod| format!("-{}", pod.name_any())).collect();
    delete.sort();
    create.chain(delete).collect::<Vec<_>>().join(" ")
}

pub(in crate::daemonset) fn plan_of(set: &DaemonSet, nodes: &str, pods: &str, failed: &mut FailedPods) -> Plan {
    let nodes: Vec<_> = nodes.split_whitespace().map(node).collect();
    let pods: Vec<_> = pods.split_whitespace().map(pod).collect();
    let by_node = by_node(&pods);
    plan(&View { set, nodes: &nodes, pods: &by_node, hash: "b", now: NOW.parse().expect("is a time") }, failed)
}

fn check(set: &DaemonSet, cases: &[(&str, &str, &str)]) {
    for (nodes, pods, expected) in cases {
        let plan = plan_of(set, nodes, pods, &mut FailedPods::default());
        assert_eq!(words(&plan), *expected, "{nodes:?} {pods:?}");
    }
}

#[test]
fn every_fitting_node_has_one_pod() {
    let on_delete = set(json!({"type": "OnDelete"}));
    check(
        &on_delete,
        &[
            ("", "", ""),
            ("n1 n2", "", "+n1 +n2"),
            ("n1 n2", "x@n1:br", "+n2"),
            ("n1 n2", "x@n1:bu", "+n2"),
            ("n1", "x@n1:br y@n1:br", "-y"),
            ("n1", "x@n1:bu y@n1:br", "-x"),
            ("n1", "x@n1:br y@n1:bt", ""),
            // The successor waits until the pod is gone.
            ("n1", "x@n1:bt", ""),
            ("n1", "x@n1:bg", "+n1"),
            ("n1!", "", ""),
            ("n1!", "x@n1:br", ""),
            ("n1!", "x@n1:bf", "-x"),
            ("n1!!", "x@n1:br y@n1:bt", "-x"),
            // On a node that is gone only what was never bound is ours to delete.
            ("", "x@n1:br y@n1:bu", "-y"),
            ("n1", "x@n1:ar", ""),
        ],
    );
}

#[test]
fn pods_that_ended_are_replaced_and_told_of() {
    let set = set(json!({"type": "OnDelete"}));
    let mut failed = FailedPods::default();
    let plan = plan_of(&set, "n1 n2 n3", "x@n1:bf y@n2:bd z@n3:br", &mut failed);
    assert_eq!(words(&plan), "-x -y");
    let ended: Vec<_> = plan.ended.iter().map(|ended| (ended.pod.name_any(), ended.node.as_str(), ended.failed)).collect();
    assert_eq!(ended, [("x".to_owned(), "n1", true), ("y".to_owned(), "n2", false)]);
    let again = plan_of(&set, "n1 n2", "x2@n1:bf w@n2:bf", &mut failed);
    assert_eq!((words(&again).as_str(), again.check_after), ("-w", Some(Duration::from_secs(1))), "only n1 has to wait");
    let two = plan_of(&set, "n1", "x@n1:bf y@n1:bf", &mut FailedPods::default());
    assert_eq!(words(&two), "-x", "one at a time");
}

#[test]
fn with_surge_old_and_new_may_be_side_by_side() {
    check(
        &rolling(json!(1), json!(0)),
        &[
            ("n1", "", "+n1"),
            ("n1", "x@n1:bt", "+n1"),
            ("n1!", "x@n1:bt", ""),
            ("n1", "x@n1:ar y@n1:bs", ""),
            ("n1", "x@n1:ar y@n1:bj", ""),
            ("n1", "x@n1:ar y@n1:br", "-x"),
            ("n1", "x@n1:as y@n1:bs", "-x"),
            ("n1", "x@n1:ar y@n1:bs z@n1:as", "-z"),
            ("n1", "x@n1:as y@n1:bs z@n1:ar", "-x"),
            ("n1", "x@n1:br y@n1:br", "-y"),
        ],
    );
}

#[test]
fn no_more_than_a_burst_at_a_time() {
    let set = set(json!({"type": "OnDelete"}));
    let nodes: Vec<String> = (0..300).map(|i| format!("n{i}")).collect();
    let plan = plan_of(&set, &nodes.join(" "), "", &mut FailedPods::default());
    assert_eq!(plan.create.len(), 250);
    let pods: Vec<String> = (0..300).map(|i| format!("p{i}@n{i}:br")).collect();
    let evicting: Vec<String> = nodes.iter().map(|node| format!("{node}!!")).collect();
    let plan = plan_of(&set, &evicting.join(" "), &pods.join(" "), &mut FailedPods::default());
    assert_eq!(plan.delete.len(), 250);
}

#[test]
fn surge_and_unavailable_are_of_the_wanted_nodes() {
    for (surge, unavailable, nodes, expected) in [
        (json!(0), json!(1), 10, (0, 1)),
        (json!("25%"), json!(0), 10, (3, 0)),
        (json!(0), json!("25%"), 10, (0, 3)),
        (json!(0), json!("1%"), 10, (0, 1)),
        (json!("1%"), json!(0), 1, (1, 0)),
    ] {
        let set = rolling(surge.clone(), unavailable.clone());
        assert_eq!((max_surge(&set, nodes), max_unavailable(&set, nodes)), expected, "{surge} {unavailable} {nodes}");
    }
    let on_delete = set(json!({"type": "OnDelete"}));
    assert_eq!((max_surge(&on_delete, 10), max_unavailable(&on_delete, 10)), (0, 0));
}

#[test]
fn the_status_counts_the_oldest_pod_of_each_node() {
    // (nodes, pods, [desired, current, misscheduled, ready, available, updated, unavailable])
    for (nodes, pods, expected) in [
        ("", "", [0, 0, 0, 0, 0, 0, 0]),
        ("n1 n2", "", [2, 0, 0, 0, 0, 0, 2]),
        ("n1 n2", "x@n1:br", [2, 1, 0, 1, 1, 1, 1]),
        ("n1", "x@n1:bj", [1, 1, 0, 1, 0, 1, 1]),
        ("n1", "x@n1:ar y@n1:bs", [1, 1, 0, 1, 1, 0, 0]),
        ("n1", "x@n1:bu y@n1:ar", [1, 1, 0, 1, 1, 0, 0]),
        ("n1! n2!!", "x@n1:br y@n2:br", [0, 0, 2, 0, 0, 0, 0]),
        ("n1", "x@n1:bg", [1, 0, 0, 0, 0, 0, 1]),
        ("n1", "x@n1:bf", [1, 1, 0, 0, 0, 1, 1]),
    ] {
        let set = set(json!({"type": "OnDelete"}));
        let nodes_of: Vec<_> = nodes.split_whitespace().map(node).collect();
        let pods_of: Vec<_> = pods.split_whitespace().map(pod).collect();
        let by_node = by_node(&pods_of);
        let mut view = View { set: &set, nodes: &nodes_of, pods: &by_node, hash: "b", now: NOW.parse().expect("is a time") };
        let s = status(&view, true);
        let got = [
            s.desired_number_scheduled,
            s.current_number_scheduled,
            s.number_misscheduled,
            s.number_ready,
            s.number_available.unwrap_or(0),
            s.updated_number_scheduled.unwrap_or(0),
            s.number_unavailable.unwrap_or(0),
        ];
        assert_eq!(got, expected, "{nodes} {pods}");
        assert_eq!(s.observed_generation, Some(2));
        assert!(differs(&view, &s));
        let written = DaemonSet { status: Some(s.clone()), ..set.clone() };
        view.set = &written;
        assert!(!differs(&view, &s));
        let not_observed = status(&View { set: &set, ..view }, false);
        assert_eq!(not_observed.observed_generation, None);
    }
}
