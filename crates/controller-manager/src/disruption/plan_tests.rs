//! Tables for every rule of a budget's status.

use std::sync::Arc;

use client::Store;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::plan::{Counts, counts, fail_safe, needs_scale, plan};
use super::scale::Workloads;

fn from<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("fits the type")
}

fn at(time: &str) -> Timestamp {
    format!("2024-01-01T{time}Z").parse().expect("is a time")
}

fn pod(name: &str, ready: bool, deleting: bool) -> Arc<Pod> {
    let status = if ready { "True" } else { "False" };
    let mut pod = json!({"metadata": {"name": name}, "status": {"conditions": [{"type": "Ready", "status": status}]}});
    if deleting {
        pod["metadata"]["deletionTimestamp"] = json!("2024-01-01T00:00:00Z");
    }
    Arc::new(from(pod))
}

fn pods(text: &str) -> Vec<Arc<Pod>> {
    // r: ready, u: unready, d: ready and being deleted; named by their place.
    text.chars().enumerate().map(|(i, kind)| pod(&format!("p{i}"), kind != 'u', kind == 'd')).collect()
}

fn budget(status: Value) -> PodDisruptionBudget {
    from(json!({"metadata": {"name": "b", "generation": 3}, "spec": {}, "status": status}))
}

#[test]
fn what_a_spec_asks_for() {
    let ok = |expected, desired_healthy| Ok(Counts { expected, desired_healthy });
    for (spec, pods, scale, asks_workloads, expected) in [
        (json!({}), 2, 9, false, ok(0, 0)),
        (json!({"minAvailable": 3}), 2, 9, false, ok(2, 3)),
        (json!({"minAvailable": 0}), 2, 9, false, ok(2, 0)),
        (json!({"minAvailable": "28%"}), 1, 10, true, ok(10, 3)),
        (json!({"minAvailable": "30%"}), 1, 10, true, ok(10, 3)),
        (json!({"minAvailable": "67%"}), 3, 3, true, ok(3, 3)),
        (json!({"minAvailable": "100%"}), 3, 0, true, ok(0, 0)),
        (json!({"maxUnavailable": 1}), 1, 10, true, ok(10, 9)),
        (json!({"maxUnavailable": 12}), 1, 10, true, ok(10, 0)),
        (json!({"maxUnavailable": "10%"}), 1, 10, true, ok(10, 9)),
        (json!({"maxUnavailable": "30%"}), 1, 7, true, ok(7, 4)),
        (json!({"maxUnavailable": "100%"}), 1, 7, true, ok(7, 0)),
    ] {
        let parsed: PodDisruptionBudgetSpec = from(spec.clone());
        assert_eq!(needs_scale(&parsed), asks_workloads, "{spec}");
        assert_eq!(counts(&parsed, pods, scale), expected, "{spec}");
    }
    for malformed in ["7", "x%"] {
        let spec: PodDisruptionBudgetSpec = from(json!({"minAvailable": malformed}));
        let why = counts(&spec, 1, 1).expect_err("is malformed");
        assert!(why.starts_with("invalid value for IntOrString: "), "{why}");
    }
}

#[test]
fn disruptions_that_are_allowed() {
    for (text, expected_pods, desired, allowed, healthy) in [
        ("rrr", 3, 2, 1, 3),
        ("rrr", 3, 3, 0, 3),
        ("rru", 3, 1, 1, 2),
        // Fewer than are asked for: never negative.
        ("ruu", 3, 2, 0, 1),
        // One that is being deleted is no help.
        ("rrd", 3, 2, 0, 2),
        ("rrd", 3, 1, 1, 2),
        // Nothing is expected: nothing is allowed, whatever matches.
        ("rr", 0, 0, 0, 2),
        ("", 0, 0, 0, 0),
        ("rr", 2, 0, 2, 2),
    ] {
        let counts = Counts { expected: expected_pods, desired_healthy: desired };
        let plan = plan(&budget(json!({})), &pods(text), counts, at("00:00:00"));
        let status = plan.status.expect("is written");
        let numbers = [status.current_healthy, status.desired_healthy, status.expected_pods, status.disruptions_allowed];
        assert_eq!(numbers, [healthy, desired, expected_pods, allowed], "{text}");
        assert_eq!(status.observed_generation, Some(3));
        let condition = &status.conditions.expect("are set")[0];
        let (value, reason) = if allowed > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
        assert_eq!((&*condition.type_, &*condition.status, &*condition.reason), ("DisruptionAllowed", value, reason), "{text}");
        assert_eq!(condition.observed_generation, Some(3));
    }
}

#[test]
fn evicted_pods_count_as_gone_for_two_minutes() {
    let evicted = json!({"p0": "2024-01-01T00:00:00Z", "p1": "2024-01-01T00:00:30Z", "gone": "2024-01-01T00:00:30Z"});
    let budget = budget(json!({"disruptedPods": evicted}));
    let counts = Counts { expected: 4, desired_healthy: 1 };
    // (pods, now, still on the list, healthy, pods that were not deleted, seconds until it is looked at again)
    for (text, now, listed, healthy, not_deleted, recheck) in [
        ("rrrr", "00:01:00", "p0,p1", 2, "", Some(60)),
        ("rrrr", "00:02:00", "p0,p1", 2, "", Some(0)),
        ("rrrr", "00:02:01", "p1", 3, "p0", Some(29)),
        ("rrrr", "00:03:00", "", 4, "p0,p1", None),
        ("drrr", "00:01:00", "p1", 2, "", Some(90)),
        ("ddrr", "00:01:00", "", 2, "", None),
        ("urrr", "00:03:00", "", 3, "p0,p1", None),
    ] {
        let plan = plan(&budget, &pods(text), counts, at(now));
        let status = plan.status.expect("is written");
        let names: Vec<String> = status.disrupted_pods.unwrap_or_default().into_keys().collect();
        assert_eq!((names.join(","), status.current_healthy), (listed.to_owned(), healthy), "{text} {now}");
        assert_eq!(plan.not_deleted.join(","), not_deleted, "{text} {now}");
        assert_eq!(plan.recheck.map(|left| left.as_secs()), recheck, "{text} {now}");
    }
}

#[test]
fn a_status_that_is_right_is_not_written() {
    let counts = Counts { expected: 2, desired_healthy: 1 };
    let first = plan(&budget(json!({})), &pods("rr"), counts, at("00:00:00")).status.expect("is written");
    let settled = PodDisruptionBudget { status: Some(first.clone()), ..budget(json!({})) };
    assert_eq!(plan(&settled, &pods("rr"), counts, at("00:09:00")).status, None);
    let mut changed = settled.clone();
    changed.metadata.generation = Some(4);
    let again = plan(&changed, &pods("rr"), counts, at("00:09:00")).status.expect("the generation is observed");
    assert_eq!(again.observed_generation, Some(4));
    // The time of a condition is that of its last transition.
    let time = |status: &k8s_openapi::api::policy::v1::PodDisruptionBudgetStatus| {
        status.conditions.as_ref().expect("are set")[0].last_transition_time.0
    };
    assert_eq!(time(&again), at("00:00:00"));
    let fewer = plan(&settled, &pods("ru"), counts, at("00:09:00")).status.expect("is written");
    assert_eq!(time(&fewer), at("00:09:00"));
}

#[test]
fn conditions_of_others_are_kept() {
    let other =
        json!({"type": "Other", "status": "True", "reason": "R", "message": "m", "lastTransitionTime": "2024-01-01T00:00:00Z"});
    let counts = Counts { expected: 1, desired_healthy: 0 };
    let status = plan(&budget(json!({"conditions": [other]})), &pods("r"), counts, at("00:00:00")).status.expect("is written");
    let types: Vec<String> = status.conditions.expect("are set").into_iter().map(|condition| condition.type_).collect();
    assert_eq!(types, ["Other", "DisruptionAllowed"]);
}

#[test]
fn what_cannot_be_counted_allows_nothing() {
    let known = budget(
        json!({"disruptionsAllowed": 2, "currentHealthy": 4, "desiredHealthy": 2, "expectedPods": 4, "observedGeneration": 2}),
    );
    let status = fail_safe(&known, "why", at("00:00:00")).expect("is written");
    assert_eq!((status.disruptions_allowed, status.current_healthy, status.observed_generation), (0, 4, Some(2)));
    let condition = &status.conditions.as_ref().expect("are set")[0];
    assert_eq!((&*condition.status, &*condition.reason, &*condition.message), ("False", "SyncFailed", "why"));
    let settled = PodDisruptionBudget { status: Some(status), ..known };
    assert_eq!(fail_safe(&settled, "why", at("00:01:00")), None);
    let recovered = plan(&settled, &pods("rr"), Counts { expected: 2, desired_healthy: 1 }, at("00:01:00"));
    assert_eq!(recovered.status.expect("is written").disruptions_allowed, 1);
}

fn workloads() -> Workloads {
    let owned = |kind: &str, api: &str, name: &str, uid: &str| json!([{"apiVersion": api, "kind": kind, "name": name, "uid": uid, "controller": true}]);
    let meta = |name: &str, owners: Value| json!({"namespace": "ns", "name": name, "uid": format!("{name}-uid"), "ownerReferences": owners});
    let set = |name: &str, owners: Value| from(json!({"metadata": meta(name, owners), "spec": {"replicas": 4, "selector": {}}}));
    Workloads {
        replication_controllers: Store::from_objects([from(json!({"metadata": meta("rc", json!([])), "spec": {"replicas": 2}}))]),
        replica_sets: Store::from_objects([
            set("bare", json!([])),
            set("rs", owned("Deployment", "apps/v1", "web", "web-uid")),
            set("orphan", owned("Deployment", "apps/v1", "lost", "lost-uid")),
            set("custom", owned("Rollout", "example.com/v1", "r", "r-uid")),
            set("lookalike", owned("Deployment", "example.com/v1", "web", "web-uid")),
        ]),
        deployments: Store::from_objects([from(
            json!({"metadata": meta("web", json!([])), "spec": {"replicas": 5, "selector": {}, "template": {}}}),
        )]),
        stateful_sets: Store::from_objects([from(
            json!({"metadata": meta("db", json!([])), "spec": {"selector": {}, "serviceName": "", "template": {}}}),
        )]),
    }
}

#[test]
fn workloads_of_pods() {
    let workloads = workloads();
    for (api, kind, name, uid, expected) in [
        ("v1", "ReplicationController", "rc", "rc-uid", Some("rc-uid 2")),
        ("v1", "ReplicationController", "rc", "other", None),
        ("apps/v1", "ReplicationController", "rc", "rc-uid", None),
        ("apps/v1", "ReplicaSet", "bare", "bare-uid", Some("bare-uid 4")),
        ("extensions/v1beta1", "ReplicaSet", "bare", "bare-uid", Some("bare-uid 4")),
        ("example.com/v1", "ReplicaSet", "bare", "bare-uid", None),
        // Of a deployment, all of whose sets count once.
        ("apps/v1", "ReplicaSet", "rs", "rs-uid", Some("web-uid 5")),
        ("apps/v1", "ReplicaSet", "orphan", "orphan-uid", None),
        ("apps/v1", "ReplicaSet", "custom", "custom-uid", Some("custom-uid 4")),
        ("apps/v1", "ReplicaSet", "lookalike", "lookalike-uid", None),
        ("apps/v1", "StatefulSet", "db", "db-uid", Some("db-uid 1")),
        ("apps/v1", "StatefulSet", "db", "older", None),
        ("apps/v1", "DaemonSet", "ds", "ds-uid", None),
    ] {
        let owner = OwnerReference {
            api_version: api.into(),
            kind: kind.into(),
            name: name.into(),
            uid: uid.into(),
            controller: Some(true),
            block_owner_deletion: None,
        };
        let found = workloads.find("ns", &owner).map(|found| found.to_string());
        assert_eq!(found.as_deref(), expected, "{api} {kind} {name} {uid}");
        assert_eq!(workloads.find("other", &owner), None, "another namespace");
    }
}
