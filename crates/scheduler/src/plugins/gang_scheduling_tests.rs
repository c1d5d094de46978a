//! What GangScheduling says of a pod, and which events it thinks worth another attempt.

use serde_json::{Value, json};

use super::*;
use crate::framework::Transition;
use crate::plugins::testing::{info, state};

fn pod(uid: &str, group: &str) -> Pod {
    let spec = json!({"containers": [], "workloadRef": {"name": "w", "podGroup": group}});
    serde_json::from_value(json!({"metadata": {"name": uid, "namespace": "d", "uid": uid}, "spec": spec})).expect("a pod")
}

fn workload(namespace: &str, name: &str) -> Workload {
    let groups = json!([{"name": "g", "policy": {"gang": {"minCount": 2}}}, {"name": "free", "policy": {"basic": {}}}]);
    let object: Value = json!({"metadata": {"name": name, "namespace": namespace}, "spec": {"podGroups": groups}});
    serde_json::from_value(object).expect("a workload")
}

fn plugin(workloads: Vec<Workload>) -> GangScheduling {
    let mut handle = Handle::default();
    handle.listers.workloads = client::Store::from_objects(workloads);
    GangScheduling { handle: Arc::new(handle) }
}

#[test]
fn who_is_let_in() {
    let without = plugin(Vec::new());
    let message = |plugin: &GangScheduling, pod: &Pod| plugin.pre_enqueue(pod).message();
    assert_eq!(message(&without, &pod("a", "g")), r#"waiting for pods's workload "w" to appear in scheduling queue"#);
    let plain = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {"containers": []}})).expect("a pod");
    assert!(without.pre_enqueue(&plain).is_success());
    let plugin = plugin(vec![workload("d", "w")]);
    assert_eq!(message(&plugin, &pod("a", "h")), r#"pod group "h" doesn't exist for a workload "w""#);
    assert!(plugin.pre_enqueue(&pod("a", "free")).is_success());
    assert_eq!(plugin.pre_enqueue(&pod("a", "g")).code(), Code::Error, "nobody told of the pod");
    plugin.handle.gangs.on_pod(&pod("a", "g"), true);
    assert_eq!(message(&plugin, &pod("a", "g")), "waiting for minCount pods from a gang to appear in scheduling queue");
    plugin.handle.gangs.on_pod(&pod("b", "g"), true);
    assert!(plugin.pre_enqueue(&pod("a", "g")).is_success());
}

#[test]
fn the_last_of_a_gang_lets_all_of_it_go() {
    let plugin = plugin(vec![workload("d", "w")]);
    let (first, second) = (pod("a", "g"), pod("b", "g"));
    [&first, &second].into_iter().for_each(|pod| plugin.handle.gangs.on_pod(pod, true));
    let permit = |pod: &Pod| {
        assert!(plugin.reserve(&mut state(pod), pod, "n").is_success());
        plugin.permit(&state(pod), pod, "n")
    };
    let (status, patience) = permit(&first);
    assert_eq!((status.code(), patience), (Code::Wait, Duration::from_secs(300)));
    assert_eq!(std::mem::take(&mut *plugin.handle.activations.lock()), ["b"], "the other is tried at once");
    assert!(permit(&second).0.is_success());
    plugin.unreserve(&mut state(&first), &first, "n");
    assert_eq!(plugin.permit(&state(&second), &second, "n").0.code(), Code::Wait, "one alone is not enough");
    let gone = self::plugin(Vec::new());
    assert_eq!(
        gone.permit(&state(&first), &first, "n").0.message(),
        r#"failed to get workload d/w: workload.scheduling.k8s.io "w" not found"#
    );
}

#[test]
fn what_is_worth_another_attempt() {
    let plugin = plugin(Vec::new());
    let waiting = info(pod("a", "g"));
    let hint = |event: ClusterEvent| plugin.hint(&waiting, &event) == Hint::Queue;
    let new_pod = |group: &str| ClusterEvent::UnscheduledPodAdd(Arc::new(pod("b", group)));
    assert!(hint(new_pod("g")) && !hint(new_pod("free")));
    assert!(hint(ClusterEvent::AssignedPod { old: None, new: Some(Arc::new(pod("b", "g"))) }));
    let added = |namespace: &str, name: &str| {
        ClusterEvent::Workload(Transition { old: None, new: Some(Arc::new(workload(namespace, name))) })
    };
    assert!(hint(added("d", "w")) && !hint(added("e", "w")) && !hint(added("d", "v")));
    let deleted = ClusterEvent::Workload(Transition { old: Some(Arc::new(workload("d", "w"))), new: None });
    assert!(!hint(deleted));
}
