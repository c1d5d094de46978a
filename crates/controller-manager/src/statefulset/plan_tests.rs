use super::*;
use kube::ResourceExt;
use serde_json::{Value, json};

const NOW: &str = "2024-01-01T12:00:00Z";

/// A pod in one word: ordinal, revision, state. States: `p`ending, `s`tarting (running, not ready), `r`eady, `j`ust ready, `f`ailed,
/// `d`one (succeeded), `t`erminating (and ready).
fn pod(word: &str) -> Arc<Pod> {
    let (ordinal, rest) = word.split_at(word.len() - 2);
    let (revision, state) = rest.split_at(1);
    let phase = match state {
        "p" => "Pending",
        "f" => "Failed",
        "d" => "Succeeded",
        _ => "Running",
    };
    let since = if state == "j" { "2024-01-01T11:59:55Z" } else { "2024-01-01T00:00:00Z" };
    let conditions = match state {
        "r" | "j" | "t" => json!([{"type": "Ready", "status": "True", "lastTransitionTime": since}]),
        _ => json!([]),
    };
    let mut value = json!({
        "metadata": {"name": format!("web-{ordinal}"), "uid": format!("uid-{ordinal}"), "labels": {
            "app": "web", "controller-revision-hash": revision, "statefulset.kubernetes.io/pod-name": format!("web-{ordinal}")}},
        "spec": {"containers": []},
        "status": {"phase": phase, "conditions": conditions},
    });
    if state == "t" {
        value["metadata"]["deletionTimestamp"] = NOW.into();
    }
    Arc::new(serde_json::from_value(value).expect("is a pod"))
}

fn set(replicas: i32, extra: Value) -> StatefulSet {
    let mut value = json!({"metadata": {"name": "web", "namespace": "ns", "uid": "u", "generation": 4}, "status": {"replicas": 0},
        "spec": {"serviceName": "web", "replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
            "podManagementPolicy": "OrderedReady",
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": []}}}});
    for (key, field) in extra.as_object().expect("is an object") {
        value["spec"][key] = field.clone();
    }
    serde_json::from_value(value).expect("is a set")
}

fn plan_with(set: &StatefulSet, pods: &str, gate: bool, claims: &Claims<'_>) -> Plan {
    let pods: Vec<_> = pods.split_whitespace().map(pod).collect();
    let version = |name: &str| Version { name: name.into(), set: set.clone() };
    plan(&View {
        set,
        current: version("a"),
        update: version("b"),
        collisions: 0,
        pods: &pods,
        claims,
        now: NOW.parse().expect("is a time"),
        max_unavailable: gate,
    })
}

fn word(action: &Action) -> String {
    match action {
        Action::Create { pod, .. } => format!("+{}{}", ordinal(pod).expect("has one"), identity::revision(pod)),
        Action::Claims { pod, .. } => format!("claims {}", ordinal(pod).expect("has one")),
        Action::Repair { pod, .. } => format!("repair {}", ordinal(pod).expect("has one")),
        Action::Retain { pod, .. } => format!("retain {}", ordinal(pod).expect("has one")),
        Action::Delete(pod) => format!("-{}", ordinal(pod).expect("has one")),
    }
}

/// The plan in words.
fn words(plan: &Plan) -> String {
    let step = |step: &Step| match step {
        Step::InOrder(actions) => actions.iter().map(word).collect::<Vec<_>>().join(" "),
        Step::AtOnce(pods) => {
            let pods: Vec<_> = pods.iter().map(|actions| actions.iter().map(word).collect::<Vec<_>>().join(" ")).collect();
            format!("[{}]", pods.join(" "))
        }
    };
    plan.steps.iter().map(step).collect::<Vec<_>>().join(" ")
}

fn check(set: &StatefulSet, cases: &[(&str, &str)]) {
    for (pods, expected) in cases {
        assert_eq!(words(&plan_with(set, pods, false, &|_| None)), *expected, "{pods:?} of {:?}", set.spec);
    }
}

#[test]
fn ordered_pods_come_one_after_the_other() {
    check(
        &set(3, json!({})),
        &[
            ("", "+0b"),
            ("0bp", ""),
            ("0bs", ""),
            ("0br", "+1b"),
            ("0br 2br", "+1b"),
            ("0bt 1br", ""),
            ("0bf 1br", "-0"),
            ("0bd", "-0"),
            ("0br 1br 2bf", "-2"),
            ("0br 1br 2br", ""),
        ],
    );
    check(&set(2, json!({"minReadySeconds": 10})), &[("0bj", ""), ("0br", "+1b"), ("0br 1bj", "")]);
}

#[test]
fn ordered_pods_go_one_after_the_other_from_the_top() {
    check(
        &set(1, json!({})),
        &[
            ("0br 1br 2br", "-2"),
            ("0br 1br 2bt", ""),
            ("0br 1br 2bs", "-2"),
            ("0br 1bs 2bs", ""),
            ("0br 1bs 2br", "-2"),
            ("0bs 1br 2br", ""),
            ("0br 1bs", "-1"),
            ("0br 1bf", "-1"),
            ("1br", "+0b"),
        ],
    );
    check(&set(0, json!({})), &[("0br", "-0"), ("0bt", "")]);
    check(&set(0, json!({"minReadySeconds": 10})), &[("0br 1bj", "-1"), ("0bj 1bj", ""), ("0bj 1br", "-1")]);
}

#[test]
fn parallel_pods_come_and_go_at_once() {
    let parallel = json!({"podManagementPolicy": "Parallel"});
    check(
        &set(3, parallel.clone()),
        &[
            ("", "[+0b +1b +2b]"),
            ("0bs 2bf", "[+1b -2]"),
            ("0bt 1br 2br", ""),
            ("0br 1br 2br 3br 4bs 5bt", "[-4 -3]"),
            ("1br 2br 4br", "[+0b] [-4]"),
        ],
    );
    check(&set(0, parallel), &[("0br 1bs 2bp", "[-2 -1 -0]")]);
}

#[test]
fn a_rolling_update_replaces_from_the_top() {
    check(
        &set(3, json!({})),
        &[
            ("0ar 1ar 2ar", "-2"),
            ("0ar 1ar 2at", ""),
            ("0ar 1ar", "+2b"),
            ("0ar 1ar 2bs", ""),
            ("0ar 1ar 2br", "-1"),
            ("0ar 1br 2br", "-0"),
            // Stuck: an ordered set waits for the pod that does not become ready, of whichever revision.
            ("0ar 1ar 2as", ""),
        ],
    );
    check(&set(3, json!({"minReadySeconds": 10})), &[("0ar 1ar 2bj", ""), ("0ar 1ar 2br", "-1")]);
    // Also after a repair of the template: parallel pods that do not become ready are replaced.
    let parallel = json!({"podManagementPolicy": "Parallel"});
    check(
        &set(3, parallel),
        &[("0ar 1ar 2as", "-2"), ("0as 1as 2as", "-2"), ("0ar 1ar 2bs", ""), ("0ar 1ar 2at", ""), ("0ar 1ar 2br", "-1")],
    );
}

#[test]
fn a_partition_holds_the_lower_pods_back() {
    let partition =
        |partition: i32| json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": partition}}});
    check(&set(3, partition(2)), &[("0ar 1ar 2ar", "-2"), ("0ar 1ar 2br", ""), ("0ar 2br", "+1a"), ("0ar 1ar", "+2b")]);
    check(&set(3, partition(3)), &[("0ar 1ar 2ar", ""), ("0ar 1ar", "+2a")]);
    check(&set(3, partition(9)), &[("0ar 1ar 2ar", "")]);
    let mut from_five = partition(1);
    from_five["ordinals"] = json!({"start": 5});
    check(&set(2, from_five), &[("5ar 6ar", "-6"), ("5ar 6br", ""), ("", "+5a"), ("5ar", "+6b")]);
}

#[test]
fn on_delete_leaves_the_update_to_the_user() {
    let on_delete = json!({"updateStrategy": {"type": "OnDelete"}});
    check(&set(2, on_delete), &[("0ar 1ar", ""), ("0ar", "+1b"), ("0ar 1br 2br", "-2")]);
}

#[test]
fn ordinals_may_start_elsewhere() {
    let start = |start: i32| json!({"ordinals": {"start": start}});
    check(
        &set(2, start(3)),
        &[("", "+3b"), ("3br", "+4b"), ("0br 1br", "+3b"), ("0br 1br 3br 4br", "-1"), ("0br 3br 4br 5br", "-5")],
    );
    check(&set(2, start(0)), &[("3br 4br", "+0b"), ("0br 1br 3br 4br", "-4")]);
}

#[test]
fn max_unavailable_counts_with_its_gate() {
    let unavailable = |value: Value, partition: i32| {
        json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": partition, "maxUnavailable": value}},
            "podManagementPolicy": "Parallel"})
    };
    for (value, partition, pods, expected) in [
        (json!(2), 0, "0ar 1ar 2ar 3ar", "-3 -2"),
        (json!(2), 0, "0ar 1ar 2ar 3bs", "-2"),
        (json!(2), 0, "0ar 1ar 2at 3bs", ""),
        (json!(2), 0, "0as 1ar 2ar 3br", "-2"),
        (json!(2), 3, "0ar 1ar 2ar 3ar", "-3"),
        (json!("50%"), 0, "0ar 1ar 2ar 3ar", "-3 -2"),
        (json!("10%"), 0, "0ar 1ar 2ar 3ar", "-3"),
        (Value::Null, 0, "0ar 1ar 2ar 3ar", "-3"),
        (json!(3), 0, "0ar 1ar 3ar", "[+2b] -3 -1"),
    ] {
        let set = set(4, unavailable(value.clone(), partition));
        assert_eq!(words(&plan_with(&set, pods, true, &|_| None)), expected, "{value} {partition} {pods}");
    }
    let set = set(4, unavailable(json!(2), 0));
    assert_eq!(words(&plan_with(&set, "0ar 1ar 2ar 3ar", false, &|_| None)), "-3", "without the gate it is 1");
}

#[test]
fn nothing_is_done_for_a_set_that_is_being_deleted() {
    let mut set = set(3, json!({}));
    set.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::UNIX_EPOCH));
    let plan = plan_with(&set, "0br 1bf", false, &|_| None);
    assert_eq!((words(&plan).as_str(), plan.status.replicas), ("", 2));
}

#[test]
fn labels_and_volumes_are_repaired() {
    let templates = json!({"volumeClaimTemplates": [{"metadata": {"name": "data"}}]});
    let plain = set(1, json!({}));
    let mut stray = Pod::clone(&pod("0br"));
    stray.metadata.labels.get_or_insert_default().remove(identity::POD_NAME);
    let version = |set: &StatefulSet, name: &str| Version { name: name.into(), set: set.clone() };
    let with = |set: &StatefulSet, pod: Pod| {
        let view = View {
            set,
            current: version(set, "b"),
            update: version(set, "b"),
            collisions: 0,
            pods: &[Arc::new(pod)],
            claims: &|_| None,
            now: NOW.parse().expect("is a time"),
            max_unavailable: false,
        };
        words(&plan(&view))
    };
    assert_eq!(with(&plain, stray.clone()), "repair 0");
    assert_eq!(with(&plain, Pod::clone(&pod("0br"))), "");
    assert_eq!(with(&set(1, templates.clone()), Pod::clone(&pod("0br"))), "repair 0", "a volume is missing");
    stray.status.get_or_insert_default().phase = Some("Pending".into());
    assert_eq!(with(&plain, stray), "", "an ordered set waits until it is ready");
    assert_eq!(words(&plan_with(&set(1, templates), "0bp", false, &|_| None)), "claims 0", "its claim is missing");
}

#[test]
fn owners_of_claims_are_put_right() {
    let templates = json!({"volumeClaimTemplates": [{"metadata": {"name": "data"}}],
        "persistentVolumeClaimRetentionPolicy": {"whenScaled": "Delete", "whenDeleted": "Delete"}});
    let claim = |owner: Option<(&str, &str, &str)>| {
        let owners: Vec<_> = owner
            .iter()
            .map(|(kind, name, uid)| {
                let version = if *kind == "Pod" { "v1" } else { "apps/v1" };
                json!({"apiVersion": version, "kind": kind, "name": name, "uid": uid, "controller": true})
            })
            .collect();
        let claim = serde_json::from_value(json!({"metadata": {"name": "data-web-1", "ownerReferences": owners}}));
        Some(Arc::new(claim.expect("is a claim")))
    };
    let volumes = json!([{"name": "data", "persistentVolumeClaim": {"claimName": "data-web-1"}}]);
    let words_of = |replicas: i32, owner: Option<(&str, &str, &str)>, pods: &str| {
        let set = set(replicas, templates.clone());
        let pods: Vec<_> = pods
            .split_whitespace()
            .map(|word| {
                let mut pod = Pod::clone(&pod(word));
                let volumes = volumes.to_string().replace("data-web-1", &format!("data-{}", pod.name_any()));
                pod.spec.get_or_insert_default().volumes = Some(serde_json::from_str(&volumes).expect("are volumes"));
                Arc::new(pod)
            })
            .collect();
        let version = |name: &str| Version { name: name.into(), set: set.clone() };
        let view = View {
            set: &set,
            current: version("b"),
            update: version("b"),
            collisions: 0,
            pods: &pods,
            claims: &|name| if name == "data-web-1" { claim(owner) } else { None },
            now: NOW.parse().expect("is a time"),
            max_unavailable: false,
        };
        words(&plan(&view))
    };
    let (by_set, by_pod) = (Some(("StatefulSet", "web", "u")), Some(("Pod", "web-1", "uid-1")));
    assert_eq!(words_of(2, by_set, "0br 1br"), "");
    assert_eq!(words_of(2, None, "0br 1br"), "repair 1");
    assert_eq!(words_of(2, by_pod, "0br 1br"), "repair 1", "scaled up again");
    assert_eq!(words_of(1, by_set, "0br 1br"), "retain 1 -1", "scaled down");
    assert_eq!(words_of(1, by_pod, "0br 1br"), "-1");
    assert_eq!(words_of(2, Some(("Pod", "web-1", "earlier")), "0br"), "", "the claim of the earlier pod is going");
    assert_eq!(words_of(2, by_set, "0br"), "+1b");
}

#[test]
fn the_status_counts() {
    // (pods, [replicas, ready, available, current, updated], current revision)
    for (pods, counts, current) in [
        ("", [0, 0, 0, 0, 0], "a"),
        ("0ar 1ar 2as", [3, 2, 2, 3, 0], "a"),
        ("0ar 1aj 2bp", [3, 2, 1, 2, 1], "a"),
        ("0ar 1at 2br", [3, 3, 3, 1, 1], "a"),
        ("0br 1br 2bj", [3, 3, 2, 3, 3], "b"),
        ("0br 1br 2bs", [3, 2, 2, 0, 3], "a"),
        ("0ar 1br 2br 3br", [4, 4, 4, 1, 3], "a"),
    ] {
        let set = set(
            3,
            json!({"minReadySeconds": 10, "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 3}}}),
        );
        let status = plan_with(&set, pods, false, &|_| None).status;
        let got = [
            status.replicas,
            status.ready_replicas.unwrap_or(0),
            status.available_replicas.unwrap_or(0),
            status.current_replicas.unwrap_or(0),
            status.updated_replicas.unwrap_or(0),
        ];
        assert_eq!((got, status.current_revision.as_deref()), (counts, Some(current)), "{pods}");
        assert_eq!((status.update_revision.as_deref(), status.observed_generation), (Some("b"), Some(4)), "{pods}");
    }
}

#[test]
fn a_replaced_pod_leaves_the_current_revision_unless_it_stays() {
    let plan = plan_with(&set(3, json!({})), "0ar 1ar 2ar", false, &|_| None);
    assert_eq!((plan.status.current_replicas, plan.status_on_failure.current_replicas), (Some(2), Some(3)));
}

#[test]
fn when_the_status_is_written() {
    let mut set = set(1, json!({}));
    let status = plan_with(&set, "0br", false, &|_| None).status;
    assert!(status::differs(&set, &status));
    set.status = Some(status.clone());
    assert!(!status::differs(&set, &status));
    set.status.get_or_insert_default().observed_generation = Some(3);
    assert!(status::differs(&set, &status), "the generation was not observed");
    set.status = Some(StatefulSetStatus { update_revision: Some("a".into()), ..status.clone() });
    assert!(status::differs(&set, &status));
}
