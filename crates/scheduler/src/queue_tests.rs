//! What the queue does with pods that are rejected, gated, changed or gone.

use serde_json::json;

use super::*;
use crate::plugins::default_profile;

fn pod(name: &str, priority: i32) -> Arc<PodInfo> {
    let object = json!({"metadata": {"name": name, "uid": name}, "spec": {"priority": priority, "containers": []}});
    Arc::new(PodInfo::new(Arc::new(serde_json::from_value(object).unwrap())))
}

fn default_profiles() -> Profiles {
    let profile = default_profile("default-scheduler", &Arc::default());
    Profiles::from([("default-scheduler".to_owned(), Arc::new(profile))])
}

fn node_event() -> ClusterEvent {
    let node = json!({"metadata": {"name": "n"}, "status": {"allocatable": {"cpu": "1", "pods": "10"}}});
    ClusterEvent::Node { old: None, new: Arc::new(serde_json::from_value(node).unwrap()) }
}

fn pop_name(queue: &mut Queue) -> Option<String> {
    queue.pop().and_then(|waiting| waiting.pod.pod.metadata.name.clone())
}

fn by(plugin: &'static str) -> Rejectors {
    Rejectors { rejected: BTreeSet::from([plugin]), ..Rejectors::default() }
}

fn rejected() -> Rejectors {
    by("NodeResourcesFit")
}

#[test]
fn priority_then_age() {
    let (profile, mut queue, now) = (default_profiles(), Queue::default(), Instant::now());
    queue.add(&profile, pod("first", 0), now);
    queue.add(&profile, pod("second", 0), now + Duration::from_millis(1));
    queue.add(&profile, pod("urgent", 10), now + Duration::from_millis(2));
    assert_eq!(pop_name(&mut queue).as_deref(), Some("urgent"));
    assert_eq!(pop_name(&mut queue).as_deref(), Some("first"));
    assert_eq!(pop_name(&mut queue).as_deref(), Some("second"));
    assert_eq!(pop_name(&mut queue), None);
}

#[test]
fn an_event_that_helps_brings_a_pod_back_after_its_backoff() {
    let (profile, mut queue, now) = (default_profiles(), Queue::default(), Instant::now());
    queue.add(&profile, pod("a", 0), now);
    queue.pop();
    queue.reject(&profile, "a", rejected(), now);
    assert_eq!(queue.counts()["unschedulable"], 1);
    queue.on_event(&profile, ClusterEvent::AssignedPod { old: None, new: Some(Arc::clone(&pod("b", 0).pod)) }, now);
    assert_eq!(queue.counts()["unschedulable"], 1, "a pod more does not help");
    queue.on_event(&profile, node_event(), now);
    assert_eq!(queue.counts()["backoff"], 1);
    assert_eq!(queue.advance(&profile, now), Some(now + Duration::from_secs(1)));
    queue.advance(&profile, now + Duration::from_secs(1));
    assert_eq!(queue.counts()["active"], 1);
    assert_eq!(pop_name(&mut queue).as_deref(), Some("a"));
}

#[test]
fn an_event_during_the_attempt_is_not_missed() {
    let (profile, mut queue, now) = (default_profiles(), Queue::default(), Instant::now());
    queue.add(&profile, pod("a", 0), now);
    queue.pop();
    queue.on_event(&profile, node_event(), now);
    queue.reject(&profile, "a", rejected(), now);
    assert_eq!(queue.counts()["backoff"], 1);
    assert!(queue.events.is_empty(), "events are kept only while somebody is in flight");
}

#[test]
fn a_gated_pod_waits_for_its_own_change() {
    let (profile, mut queue, now) = (default_profiles(), Queue::default(), Instant::now());
    let gated = json!({"metadata": {"name": "g", "uid": "g"}, "spec": {"containers": [], "schedulingGates": [{"name": "wait"}]}});
    let gated = Arc::new(PodInfo::new(Arc::new(serde_json::from_value(gated).unwrap())));
    queue.add(&profile, gated, now);
    queue.on_event(&profile, node_event(), now);
    assert_eq!(queue.counts()["gated"], 1);
    queue.add(&profile, pod("g", 0), now);
    assert_eq!(pop_name(&mut queue).as_deref(), Some("g"));
}

#[test]
fn nobody_waits_for_ever_and_the_deleted_do_not_come_back() {
    let (profile, mut queue, now) = (default_profiles(), Queue::default(), Instant::now());
    for name in ["a", "b"] {
        queue.add(&profile, pod(name, 0), now);
        queue.pop();
        queue.reject(&profile, name, rejected(), now);
    }
    queue.delete("b");
    assert_eq!(queue.advance(&profile, now), Some(now + UNSCHEDULABLE_MAX));
    queue.advance(&profile, now + UNSCHEDULABLE_MAX);
    assert_eq!(pop_name(&mut queue).as_deref(), Some("a"));
    assert_eq!(pop_name(&mut queue), None);
    queue.delete("a");
    queue.reject(&profile, "a", rejected(), now);
    assert_eq!(queue.counts().values().sum::<usize>(), 0);
}

#[test]
fn backoff_doubles_up_to_ten_seconds() {
    let seconds: Vec<u64> = (0..7).map(|attempts| Backoff::default().after(attempts).as_secs()).collect();
    assert_eq!(seconds, [0, 1, 2, 4, 8, 10, 10]);
}

#[test]
fn with_nothing_else_to_do_a_backoff_is_cut_short() {
    let (profile, mut queue, now) = (default_profiles(), Queue::default(), Instant::now());
    for (name, plugins) in [("failed", Rejectors::default()), ("rejected", rejected())] {
        queue.add(&profile, pod(name, 0), now);
        queue.pop();
        queue.on_event(&profile, node_event(), now);
        queue.reject(&profile, name, plugins, now);
    }
    assert_eq!(queue.counts()["backoff"], 2);
    assert_eq!(pop_name(&mut queue).as_deref(), Some("rejected"));
    assert_eq!(pop_name(&mut queue), None, "after a failure the back-off is kept");
}

#[test]
fn failures_and_rejections_back_off_apart() {
    let (profile, mut queue, now) = (default_profiles(), Queue::default(), Instant::now());
    queue.add(&profile, pod("a", 0), now);
    // Each row: how the attempt ends, and how many seconds the pod backs off then.
    let rows =
        [(rejected(), 1), (Rejectors::default(), 1), (Rejectors::default(), 2), (rejected(), 2), (Rejectors::default(), 1)];
    for (number, (by, seconds)) in rows.into_iter().enumerate() {
        assert_eq!(pop_name(&mut queue).as_deref(), Some("a"), "attempt {number}");
        queue.on_event(&profile, node_event(), now);
        queue.reject(&profile, "a", by, now);
        assert_eq!(queue.advance(&profile, now), Some(now + Duration::from_secs(seconds)), "attempt {number}");
        queue.advance(&profile, now + Duration::from_secs(seconds));
    }
}

#[test]
fn what_is_pending_is_tried_at_once() {
    let (profile, mut queue, now) = (default_profiles(), Queue::default(), Instant::now());
    queue.add(&profile, pod("a", 0), now);
    queue.pop();
    let pending = Rejectors { pending: BTreeSet::from(["NodeResourcesFit"]), ..Rejectors::default() };
    queue.reject(&profile, "a", pending, now);
    assert_eq!(queue.counts()["unschedulable"], 1);
    queue.on_event(&profile, node_event(), now);
    assert_eq!(queue.counts()["active"], 1);
}

#[test]
fn an_activation_during_the_attempt_is_not_lost() {
    let (profile, mut queue, now) = (default_profiles(), Queue::default(), Instant::now());
    for name in ["a", "b"] {
        queue.add(&profile, pod(name, 0), now);
        queue.pop();
    }
    queue.activate_now(&profile, "a", now);
    queue.reject(&profile, "a", rejected(), now);
    queue.reject(&profile, "b", rejected(), now);
    assert_eq!((queue.counts()["backoff"], queue.counts()["unschedulable"]), (1, 1), "it was meant for one of them");
}

#[test]
fn a_pod_that_binds_does_not_hold_events() {
    let (profile, mut queue, now) = (default_profiles(), Queue::default(), Instant::now());
    queue.add(&profile, pod("a", 0), now);
    queue.pop();
    queue.binds("a");
    queue.on_event(&profile, node_event(), now);
    assert!(queue.events.is_empty());
    assert!(queue.is_in_flight("a"));
    queue.reject(&profile, "a", Rejectors::default(), now);
    assert_eq!(queue.counts()["backoff"], 1);
}

#[test]
fn a_gate_that_falls_alone_is_not_enough() {
    let (profile, mut queue, now) = (default_profiles(), Queue::default(), Instant::now());
    let gated = |gates: &[&str]| {
        let gates: Vec<_> = gates.iter().map(|name| json!({"name": name})).collect();
        let object = json!({"metadata": {"name": "g", "uid": "g"}, "spec": {"containers": [], "schedulingGates": gates}});
        Arc::new(PodInfo::new(Arc::new(serde_json::from_value(object).unwrap())))
    };
    queue.add(&profile, gated(&["one", "two"]), now);
    queue.add(&profile, gated(&["two"]), now);
    assert_eq!(queue.counts()["gated"], 1);
    queue.add(&profile, gated(&[]), now);
    assert_eq!(queue.counts()["gated"], 0);
    assert_eq!(pop_name(&mut queue).as_deref(), Some("g"));
}

#[test]
fn only_who_listens_is_asked() {
    let (profile, mut queue, now) = (default_profiles(), Queue::default(), Instant::now());
    let bound = || ClusterEvent::AssignedPod { old: None, new: Some(Arc::clone(&pod("other", 0).pod)) };
    queue.add(&profile, pod("a", 0), now);
    queue.pop();
    queue.reject(&profile, "a", rejected(), now);
    assert!(!queue.is_of_interest(&profile, &bound()), "room never comes from one more pod");
    assert!(queue.is_of_interest(&profile, &node_event()));
    queue.delete("a");
    assert!(!queue.is_of_interest(&profile, &node_event()));
}
