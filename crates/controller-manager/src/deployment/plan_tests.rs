use super::*;
use serde_json::{Value, json};

fn now() -> Timestamp {
    "2024-01-01T12:00:00Z".parse().expect("is a time")
}

fn deployment(replicas: i32, image: &str, extra: Value) -> Deployment {
    let mut value = json!({
        "metadata": {"name": "web", "namespace": "default", "uid": "d", "generation": 1},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "web"}},
            "progressDeadlineSeconds": 600,
            "revisionHistoryLimit": 10,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 1}},
            "template": template(image),
        },
    });
    merge(&mut value, extra);
    serde_json::from_value(value).expect("is a deployment")
}

fn template(image: &str) -> Value {
    json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": image}]}})
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

/// A set made from `image`, with `replicas` wanted and `available` of them available.
fn set(image: &str, revision: i64, replicas: i32, available: i32, desired: i32) -> Arc<ReplicaSet> {
    let value = json!({
        "metadata": {
            "name": format!("web-{image}"), "namespace": "default", "uid": format!("uid-{image}"), "generation": 1,
            "creationTimestamp": format!("2024-01-01T00:00:{revision:02}Z"),
            "annotations": {
                "deployment.kubernetes.io/revision": revision.to_string(),
                "deployment.kubernetes.io/desired-replicas": desired.to_string(),
                "deployment.kubernetes.io/max-replicas": (desired + 1).to_string(),
            },
        },
        "spec": {"replicas": replicas, "selector": {}, "template": template(image)},
        "status": {"replicas": replicas, "readyReplicas": available, "availableReplicas": available,
            "observedGeneration": 1, "terminatingReplicas": 0},
    });
    Arc::new(serde_json::from_value(value).expect("is a replica set"))
}

fn run(deployment: &Deployment, sets: Vec<Arc<ReplicaSet>>) -> Plan {
    plan(deployment, sets, |_| false, now())
}

fn sizes(plan: &Plan) -> Vec<(String, i32)> {
    plan.sets.iter().map(|set| (set.name(), set.replicas())).collect()
}

fn reason(plan: &Plan, type_: &str) -> Option<String> {
    condition(plan.status.as_ref()?, type_)?.reason.clone()
}

#[test]
fn a_new_deployment_gets_a_full_set_with_revision_1() {
    let plan = run(&deployment(3, "a", json!({})), vec![]);
    assert_eq!(plan.sets.len(), 1);
    let set = &plan.sets[0];
    assert!(set.current.is_none());
    assert_eq!(set.replicas(), 3);
    let labels = set.wanted.metadata.labels.clone().expect("has labels");
    let hash = labels.get("pod-template-hash").expect("has the hash");
    assert_eq!(set.name(), format!("web-{hash}"));
    assert_eq!(set.wanted.annotations()["deployment.kubernetes.io/desired-replicas"], "3");
    assert_eq!(set.wanted.annotations()["deployment.kubernetes.io/max-replicas"], "4");
    assert_eq!(set.event.as_deref(), Some(format!("Scaled up replica set web-{hash} from 0 to 3").as_str()));
    assert_eq!(plan.revision.as_deref(), Some("1"));
    assert_eq!(reason(&plan, "Progressing").as_deref(), Some("NewReplicaSetCreated"));
    assert_eq!(reason(&plan, "Available").as_deref(), Some("MinimumReplicasUnavailable"));
    assert_eq!(plan.check_after, Some(Duration::from_secs(601)));
}

#[test]
fn a_rolling_update_step_by_step() {
    // (old wanted, old available, new wanted, new available) -> sizes after the step, with surge 1 and unavailable 1.
    for (state, expected) in [
        ((3, 3, 1, 0), vec![("web-a", 2)]),
        ((2, 2, 1, 0), vec![("web-b", 2)]),
        ((2, 2, 2, 1), vec![("web-a", 1)]),
        ((1, 1, 3, 3), vec![("web-a", 0)]),
        // Unhealthy old replicas go although availability does not allow healthy ones to.
        ((3, 0, 1, 1), vec![("web-a", 1)]),
        // Nothing may go: three wanted, two available, one of the new ones not.
        ((2, 1, 2, 1), vec![("web-a", 1)]),
        ((0, 0, 3, 2), vec![]),
    ] {
        let (old, old_available, new, new_available) = state;
        let sets = vec![set("a", 1, old, old_available, 3), set("b", 2, new, new_available, 3)];
        let plan = run(&deployment(3, "b", json!({})), sets);
        let expected: Vec<_> = expected.into_iter().map(|(name, size)| (name.to_owned(), size)).collect();
        assert_eq!(sizes(&plan), expected, "{state:?}");
    }
}

#[test]
fn undo_raises_the_revision_of_the_set_that_comes_back() {
    let sets = vec![set("a", 1, 0, 0, 3), set("b", 2, 3, 3, 3)];
    let plan = run(&deployment(3, "a", json!({})), sets);
    let back = plan.sets.iter().find(|set| set.name() == "web-a").expect("is written");
    assert_eq!(back.wanted.annotations()["deployment.kubernetes.io/revision"], "3");
    assert_eq!(back.wanted.annotations()["deployment.kubernetes.io/revision-history"], "1");
    assert_eq!(back.replicas(), 1);
    assert_eq!(plan.revision.as_deref(), Some("3"));
}

#[test]
fn a_scaled_deployment_scales_before_it_rolls() {
    let one = run(&deployment(5, "a", json!({})), vec![set("a", 1, 3, 3, 3)]);
    assert_eq!(sizes(&one), [("web-a".to_owned(), 5)]);
    assert_eq!(one.sets[0].event.as_deref(), Some("Scaled up replica set web-a from 3 to 5"));
    let two = run(&deployment(7, "b", json!({})), vec![set("a", 1, 2, 2, 3), set("b", 2, 2, 2, 3)]);
    assert_eq!(sizes(&two), [("web-a".to_owned(), 4), ("web-b".to_owned(), 4)]);
}

#[test]
fn a_paused_deployment_scales_but_does_not_roll() {
    let paused = json!({"spec": {"paused": true}});
    let plan = run(&deployment(5, "b", paused), vec![set("a", 1, 3, 3, 3)]);
    assert_eq!(sizes(&plan), [("web-a".to_owned(), 5)], "no set is made for the new template");
    assert_eq!(reason(&plan, "Progressing").as_deref(), Some("DeploymentPaused"));
}

#[test]
fn recreate_waits_for_the_old_pods() {
    let recreate = || deployment(3, "b", json!({"spec": {"strategy": {"type": "Recreate", "rollingUpdate": null}}}));
    let down = run(&recreate(), vec![set("a", 1, 3, 3, 3)]);
    assert_eq!(sizes(&down), [("web-a".to_owned(), 0)]);
    let waiting = plan(&recreate(), vec![set("a", 1, 0, 0, 3)], |_| true, now());
    assert!(waiting.sets.is_empty());
    let up = run(&recreate(), vec![set("a", 1, 0, 0, 3)]);
    assert_eq!(up.sets.len(), 1);
    assert_eq!(up.sets[0].replicas(), 3);
}

#[test]
fn progress_is_reported_and_missed_deadlines_too() {
    let progressing = |updated: &str, reason: &str| {
        json!({"metadata": {"annotations": {"deployment.kubernetes.io/revision": "1"}}, "status": {
            "observedGeneration": 1, "replicas": 3, "updatedReplicas": 3, "unavailableReplicas": 3, "terminatingReplicas": 0,
            "conditions": [{"type": "Progressing", "status": "True", "reason": reason, "lastUpdateTime": updated,
                "lastTransitionTime": updated}],
        }})
    };
    let late = run(&deployment(3, "a", progressing("2024-01-01T11:49:00Z", "ReplicaSetUpdated")), vec![set("a", 1, 3, 0, 3)]);
    assert_eq!(reason(&late, "Progressing").as_deref(), Some("ProgressDeadlineExceeded"));
    assert_eq!(late.check_after, None);
    let in_time = run(&deployment(3, "a", progressing("2024-01-01T11:51:00Z", "ReplicaSetUpdated")), vec![set("a", 1, 3, 0, 3)]);
    assert_eq!(in_time.check_after, Some(Duration::from_secs(61)));
    let done = run(&deployment(3, "a", progressing("2024-01-01T11:51:00Z", "ReplicaSetUpdated")), vec![set("a", 1, 3, 3, 3)]);
    assert_eq!(reason(&done, "Progressing").as_deref(), Some("NewReplicaSetAvailable"));
    let done = condition(done.status.as_ref().expect("changes"), "Progressing").cloned().expect("is set");
    assert_eq!(done.message.as_deref(), Some("ReplicaSet \"web-a\" has successfully progressed."));
}

#[test]
fn old_sets_beyond_the_limit_are_deleted_when_complete() {
    let complete = json!({"spec": {"revisionHistoryLimit": 1}, "status": {
        "observedGeneration": 1, "replicas": 3, "updatedReplicas": 3, "availableReplicas": 3, "readyReplicas": 3}});
    let sets = vec![set("b", 2, 0, 0, 3), set("a", 1, 0, 0, 3), set("c", 3, 3, 3, 3)];
    let plan = run(&deployment(3, "c", complete), sets);
    let names: Vec<_> = plan.delete.iter().map(|set| set.name_any()).collect();
    assert_eq!(names, ["web-a"]);
}

#[test]
fn a_settled_deployment_needs_nothing() {
    let first = run(&deployment(3, "a", json!({})), vec![set("a", 1, 3, 3, 3)]);
    let mut settled = deployment(3, "a", json!({}));
    settled.status = first.status;
    settled.metadata.annotations = Some([("deployment.kubernetes.io/revision".to_owned(), "1".to_owned())].into());
    let second = run(&settled, vec![set("a", 1, 3, 3, 3)]);
    assert!(second.sets.is_empty() && second.status.is_none() && second.revision.is_none(), "{second:?}");
    assert_eq!(second.check_after, None);
}

#[test]
fn an_empty_selector_selects_nothing() {
    let plan = run(&deployment(3, "a", json!({"spec": {"selector": {"matchLabels": null}}})), vec![]);
    assert!(plan.selects_everything && plan.sets.is_empty());
    assert_eq!(plan.status.and_then(|status| status.observed_generation), Some(1));
}
