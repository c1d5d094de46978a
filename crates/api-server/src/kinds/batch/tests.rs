use apimachinery::field::ErrorList;
use apimachinery::{Value, value};

use super::{indexes, job, status};
use crate::gates::{Feature, FeatureGates};
use crate::kinds::at::{At, Policy};
use crate::kinds::collect;

/// A valid Job as it is after defaults and the generated selector.
pub(super) fn valid() -> Value {
    let mut job = value!({
        "apiVersion": "batch/v1", "kind": "Job",
        "metadata": {"name": "work", "namespace": "ns", "uid": "u1"},
        "spec": {
            "parallelism": 1, "completions": 1, "completionMode": "NonIndexed", "backoffLimit": 6, "suspend": false,
            "manualSelector": false, "podReplacementPolicy": "TerminatingOrFailed",
            "template": {"spec": {"restartPolicy": "Never", "dnsPolicy": "ClusterFirst", "terminationGracePeriodSeconds": 30,
                "containers": [{"name": "c", "image": "i", "imagePullPolicy": "Always", "terminationMessagePolicy": "File"}]}},
        },
    });
    job::generate_selector(&mut job);
    job
}

/// The valid Job with members set (or removed, by null), by paths joined with dots.
fn with(changes: &[(&str, Value)]) -> Value {
    let mut job = valid();
    set(&mut job, changes);
    job
}

pub(super) fn set(object: &mut Value, changes: &[(&str, Value)]) {
    for (path, value) in changes {
        let path: Vec<&str> = path.split('.').collect();
        if value.is_null() {
            object.remove_path(&path);
        } else {
            object.set_path(&path, value.clone());
        }
    }
}

pub(super) fn texts(errors: &ErrorList) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

fn created(changes: &[(&str, Value)]) -> Vec<String> {
    let object = with(changes);
    texts(&collect(|e| job::create(&At::root(&object), true, e)))
}

fn indexed(more: &[(&'static str, Value)]) -> Vec<(&'static str, Value)> {
    let mut changes = vec![("spec.completionMode", value!("Indexed"))];
    changes.extend(more.iter().cloned());
    changes
}

#[test]
fn a_valid_job_is_valid() {
    assert_eq!(created(&[]), Vec::<String>::new());
    assert_eq!(created(&indexed(&[])), Vec::<String>::new());
    let object = valid();
    let labels = &object["spec"]["template"]["metadata"]["labels"];
    for (key, expected) in [
        ("job-name", "work"),
        ("batch.kubernetes.io/job-name", "work"),
        ("controller-uid", "u1"),
        ("batch.kubernetes.io/controller-uid", "u1"),
    ] {
        assert_eq!(labels[key], *expected, "{key}");
    }
    assert_eq!(object["spec"]["selector"]["matchLabels"], value!({"batch.kubernetes.io/controller-uid": "u1"}));
}

#[test]
fn selectors() {
    let label = "labels[controller-uid]";
    for (changes, expected) in [
        (
            vec![("spec.template.metadata.labels.controller-uid", value!("u2"))],
            vec![format!(
                "spec.template.metadata.{label}: Invalid value: {{\"batch.kubernetes.io/controller-uid\":\"u1\",\
                 \"batch.kubernetes.io/job-name\":\"work\",\"controller-uid\":\"u2\",\"job-name\":\"work\"}}: must be 'u1'"
            )],
        ),
        (
            vec![("spec.template.metadata.labels.controller-uid", Value::Null)],
            vec![format!("spec.template.metadata.{label}: Required value: must be 'u1'")],
        ),
        (
            vec![("spec.selector", value!({"matchLabels": {"a": "b"}})), ("spec.template.metadata.labels.a", value!("b"))],
            vec!["spec.selector: Invalid value: {\"matchLabels\":{\"a\":\"b\"}}: `selector` not auto-generated".to_owned()],
        ),
        (
            vec![("spec.manualSelector", value!(true)), ("spec.selector", value!({"matchLabels": {"job-name": "x"}}))],
            vec![
                "spec.template.metadata.labels: Invalid value: {\"batch.kubernetes.io/controller-uid\":\"u1\",\
                 \"batch.kubernetes.io/job-name\":\"work\",\"controller-uid\":\"u1\",\"job-name\":\"work\"}: \
                 `selector` does not match template `labels`"
                    .to_owned(),
            ],
        ),
        (vec![("spec.manualSelector", value!(true)), ("spec.selector", value!({"matchLabels": {"job-name": "work"}}))], vec![]),
    ] {
        assert_eq!(created(&changes), expected, "{changes:?}");
    }
    let mut missing = created(&[("spec.manualSelector", value!(true)), ("spec.selector", Value::Null)]);
    missing.truncate(1);
    assert_eq!(missing, ["spec.selector: Required value"]);
}

#[test]
fn numbers_and_modes() {
    let negative = "must be greater than or equal to 0";
    let long = "x".repeat(64);
    for (changes, expected) in [
        (vec![("spec.parallelism", value!(-1))], vec![format!("spec.parallelism: Invalid value: -1: {negative}")]),
        (vec![("spec.completions", value!(-1))], vec![format!("spec.completions: Invalid value: -1: {negative}")]),
        (
            vec![("spec.activeDeadlineSeconds", value!(-1))],
            vec![format!("spec.activeDeadlineSeconds: Invalid value: -1: {negative}")],
        ),
        (
            vec![("spec.ttlSecondsAfterFinished", value!(-1))],
            vec![format!("spec.ttlSecondsAfterFinished: Invalid value: -1: {negative}")],
        ),
        (
            vec![("spec.backoffLimitPerIndex", value!(1))],
            vec!["spec.backoffLimitPerIndex: Invalid value: 1: requires indexed completion mode".to_owned()],
        ),
        (
            indexed(&[("spec.maxFailedIndexes", value!(1))]),
            vec!["spec.backoffLimitPerIndex: Required value: when maxFailedIndexes is specified".to_owned()],
        ),
        (
            indexed(&[("spec.maxFailedIndexes", value!(2)), ("spec.backoffLimitPerIndex", value!(1))]),
            vec!["spec.maxFailedIndexes: Invalid value: 2: must be less than or equal to completions".to_owned()],
        ),
        (
            indexed(&[("spec.completions", Value::Null)]),
            vec!["spec.completions: Required value: when completion mode is Indexed".to_owned()],
        ),
        (
            indexed(&[("spec.parallelism", value!(100_001))]),
            vec![
                "spec.parallelism: Invalid value: 100001: must be less than or equal to 100000 when completion mode is Indexed"
                    .to_owned(),
            ],
        ),
        (
            indexed(&[("spec.completions", value!(100_001)), ("spec.backoffLimitPerIndex", value!(1))]),
            vec!["spec.maxFailedIndexes: Required value: must be specified when completions is above 100000".to_owned()],
        ),
        (
            vec![("spec.completionMode", value!("Other"))],
            vec!["spec.completionMode: Unsupported value: \"Other\": supported values: \"NonIndexed\", \"Indexed\"".to_owned()],
        ),
        (
            vec![("spec.managedBy", value!("nobody"))],
            vec![
                "spec.managedBy: Invalid value: \"nobody\": must be a domain-prefixed path (such as \"acme.io/foo\")".to_owned(),
            ],
        ),
        (
            vec![("spec.managedBy", Value::from(format!("a.b/{long}")))],
            vec!["spec.managedBy: Too long: may not be more than 63 bytes".to_owned()],
        ),
        (
            vec![("spec.template.spec.restartPolicy", value!("Always"))],
            vec!["spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\"".to_owned()],
        ),
        (
            indexed(&[("metadata.name", Value::from("y".repeat(63))), ("spec.completions", value!(11))]),
            vec![format!(
                "metadata.name: Invalid value: \"{0}\": will not able to create pod with invalid DNS label: {0}-10",
                "y".repeat(63)
            )],
        ),
    ] {
        let mut object = with(&changes);
        // The name is in the labels, too.
        if changes.iter().any(|(path, _)| *path == "metadata.name") {
            object.remove_path(&["spec", "template", "metadata"]);
            job::generate_selector(&mut object);
        }
        assert_eq!(texts(&collect(|e| job::create(&At::root(&object), true, e))), expected, "{changes:?}");
    }
}

#[test]
fn failure_policies() {
    let rule =
        |rule: Value| vec![("spec.podFailurePolicy", value!({"rules": [rule]})), ("spec.podReplacementPolicy", value!("Failed"))];
    let codes = |values: Value| value!({"action": "FailJob", "onExitCodes": {"operator": "In", "values": values}});
    let at = "spec.podFailurePolicy.rules[0]";
    for (changes, expected) in [
        (rule(codes(value!([1, 2]))), vec![]),
        (rule(codes(value!([]))), vec![format!("{at}.onExitCodes.values: Invalid value: []: at least one value is required")]),
        (rule(codes(value!([0, 1]))), vec![format!("{at}.onExitCodes.values[0]: Invalid value: 0: must not be 0 for the In operator")]),
        (rule(codes(value!([2, 1]))), vec![format!("{at}.onExitCodes.values: Invalid value: [2,1]: must be ordered")]),
        (rule(codes(value!([1, 1]))), vec![format!("{at}.onExitCodes.values[1]: Duplicate value: 1")]),
        (
            rule(value!({"onExitCodes": {"operator": "NotIn", "values": [0]}})),
            vec![format!("{at}.action: Required value: valid values: [\"Count\" \"FailIndex\" \"FailJob\" \"Ignore\"]")],
        ),
        (
            rule(value!({"action": "FailIndex", "onExitCodes": {"operator": "NotIn", "values": [0]}})),
            vec![format!("{at}.action: Invalid value: \"FailIndex\": requires the backoffLimitPerIndex to be set")],
        ),
        (
            rule(value!({"action": "Ignore", "onExitCodes": {"containerName": "x", "operator": "NotIn", "values": [0]}})),
            vec![format!(
                "{at}.onExitCodes.containerName: Invalid value: \"x\": must be one of the container or initContainer names in the pod template"
            )],
        ),
        (
            rule(value!({"action": "Ignore"})),
            vec![format!("{at}: Invalid value: specifying one of OnExitCodes and OnPodConditions is required")],
        ),
        (
            rule(value!({"action": "Ignore", "onPodConditions": [{"type": "A", "status": "Maybe"}]})),
            vec![format!(
                "{at}.onPodConditions[0].status: Unsupported value: \"Maybe\": supported values: \"False\", \"True\", \"Unknown\""
            )],
        ),
        (
            vec![("spec.podFailurePolicy", value!({"rules": []}))],
            vec!["spec.podReplacementPolicy: Unsupported value: \"TerminatingOrFailed\": supported values: \"Failed\"".to_owned()],
        ),
        (
            vec![
                ("spec.podFailurePolicy", value!({"rules": []})),
                ("spec.podReplacementPolicy", value!("Failed")),
                ("spec.template.spec.restartPolicy", value!("OnFailure")),
            ],
            vec![
                "spec.template.spec.restartPolicy: Invalid value: \"OnFailure\": only \"Never\" is supported when podFailurePolicy is specified"
                    .to_owned(),
            ],
        ),
    ] {
        assert_eq!(created(&changes), expected, "{changes:?}");
    }
}

#[test]
fn success_policies() {
    let rules = |rules: Value| indexed(&[("spec.completions", value!(5)), ("spec.successPolicy", value!({"rules": rules}))]);
    let at = "spec.successPolicy.rules";
    for (changes, expected) in [
        (rules(value!([{"succeededIndexes": "0,2-4", "succeededCount": 2}])), vec![]),
        (
            rules(value!([])),
            vec![format!("{at}: Required value: at least one rules must be specified when the successPolicy is specified")],
        ),
        (
            rules(value!([{}])),
            vec![format!("{at}[0]: Required value: at least one of succeededCount or succeededIndexes must be specified")],
        ),
        (
            rules(value!([{"succeededIndexes": "0,9"}])),
            vec![format!(
                "{at}[0].succeededIndexes: Invalid value: \"0,9\": error parsing succeededIndexes: too large index: \"9\""
            )],
        ),
        (
            rules(value!([{"succeededCount": 6}])),
            vec![format!(
                "{at}[0].succeededCount: Invalid value: 6: must be less than or equal to 5 (the number of specified completions)"
            )],
        ),
        (
            rules(value!([{"succeededIndexes": "0,1", "succeededCount": 3}])),
            vec![format!(
                "{at}[0].succeededCount: Invalid value: 3: must be less than or equal to 2 (the number of indexes in the specified succeededIndexes field)"
            )],
        ),
    ] {
        assert_eq!(created(&changes), expected, "{changes:?}");
    }
}

#[test]
fn the_text_of_indexes() {
    for (text, expected) in [
        ("", Ok(0)),
        ("0", Ok(1)),
        ("1,3-5,7", Ok(5)),
        ("x", Err("cannot convert string to integer for index: \"x\"")),
        ("1-y", Err("cannot convert string to integer for index: \"y\"")),
        ("10", Err("too large index: \"10\"")),
        ("3-3", Err("non-increasing order, previous: 3, current: 3")),
        ("1,1", Err("non-increasing order, previous: 1, current: 1")),
        (
            "1-2-3",
            Err(
                "the fragment \"1-2-3\" violates the requirement that an index interval can have at most two parts separated by '-'",
            ),
        ),
    ] {
        assert_eq!(indexes::count(text, 10), expected.map_err(str::to_owned), "{text}");
    }
    for (completed, failed, expected) in
        [("", "1", None), ("0,2-4", "1,5", None), ("0,2-4", "1,4-5", Some(4)), ("x,3", "0-5", Some(3)), ("7", "7", Some(7))]
    {
        assert_eq!(indexes::overlap(completed, failed, 10), expected, "{completed} {failed}");
    }
}

#[test]
fn what_may_change() {
    let toleration = value!([{"key": "a", "operator": "Exists"}]);
    let affinity = value!({"nodeAffinity": {}});
    let suspended = [("spec.suspend", value!(true))];
    let image = ("spec.template.spec.schedulerName", value!("other"));
    for (before, after, expected) in [
        (vec![], vec![("spec.parallelism", value!(3)), ("spec.backoffLimit", value!(1)), ("spec.suspend", value!(true))], vec![]),
        (vec![], vec![("spec.completions", value!(2))], vec!["spec.completions"]),
        (indexed(&[]), vec![("spec.completions", value!(2)), ("spec.parallelism", value!(2))], vec![]),
        (indexed(&[]), vec![("spec.completions", value!(2))], vec!["spec.completions"]),
        (vec![], vec![image.clone()], vec!["spec.template"]),
        (vec![], vec![("spec.completionMode", value!("Indexed"))], vec!["spec.completionMode"]),
        (vec![], vec![("spec.managedBy", value!("a.b/c"))], vec!["spec.managedBy"]),
        (vec![], vec![("spec.template.spec.tolerations", toleration.clone())], vec!["spec.template"]),
        (suspended.to_vec(), vec![("spec.template.spec.tolerations", toleration.clone())], vec![]),
        (suspended.to_vec(), vec![("spec.template.spec.affinity", affinity.clone())], vec![]),
        (suspended.to_vec(), vec![("spec.template.metadata.annotations", value!({"a": "b"}))], vec![]),
        (suspended.to_vec(), vec![image], vec!["spec.template"]),
        (
            vec![suspended[0].clone(), ("status.startTime", value!("2024-01-01T00:00:00Z"))],
            vec![("spec.template.spec.tolerations", toleration)],
            vec!["spec.template"],
        ),
        (
            vec![suspended[0].clone(), ("spec.template.spec.affinity", affinity)],
            vec![("spec.template.spec.affinity", Value::Null)],
            vec![],
        ),
    ] {
        let old = with(&before);
        let mut new = old.clone();
        set(&mut new, &after);
        let errors = collect(|e| job::update(&At::root(&new), &old, e));
        let fields: Vec<&str> = errors.iter().map(|error| error.field.as_str()).collect();
        assert_eq!(fields, expected, "{before:?} -> {after:?}: {errors:?}");
    }
    // Jobs of old releases lack the labels with a prefix.
    let mut old = valid();
    for label in ["batch.kubernetes.io/job-name", "batch.kubernetes.io/controller-uid"] {
        old.remove_path(&["spec", "template", "metadata", "labels", label]);
    }
    old.set_path(&["spec", "selector"], value!({"matchLabels": {"controller-uid": "u1"}}));
    assert_eq!(texts(&collect(|e| job::update(&At::root(&old), &old, e))), Vec::<String>::new());
    assert_eq!(collect(|e| job::create(&At::root(&old), true, e)).len(), 2, "new ones need them");
}

/// The alpha gates about suspended Jobs: a Job that goes on may not change any more, though its condition still says that it is suspended.
#[test]
fn what_may_change_of_suspended_jobs() {
    let feature = Feature::MutablePodResourcesForSuspendedJobs;
    let resources = (
        "spec.template.spec.containers",
        value!([{"name": "c", "image": "i", "imagePullPolicy": "Always",
        "terminationMessagePolicy": "File", "resources": {"requests": {"cpu": "2"}}}]),
    );
    let is_suspended = value!([{"type": "Suspended", "status": "True"}]);
    for (on, suspended, active, expected) in [
        (true, true, 0, vec![]),
        (true, true, 1, vec!["spec.template"]),
        (true, false, 0, vec!["spec.template"]),
        (false, true, 0, vec!["spec.template"]),
    ] {
        let before =
            [("spec.suspend", value!(suspended)), ("status.conditions", is_suspended.clone()), ("status.active", value!(active))];
        let old = with(&before);
        let mut new = old.clone();
        set(&mut new, std::slice::from_ref(&resources));
        let policy = Policy { gates: FeatureGates::DEFAULT.with(feature, on), ..Policy::OPEN };
        let errors = collect(|e| job::update(&At::root_under(&new, policy), &old, e));
        let fields: Vec<&str> = errors.iter().map(|error| error.field.as_str()).collect();
        assert_eq!(fields, expected, "{on} {suspended} {active}: {errors:?}");
    }
}

fn conditions(kinds: &[&str]) -> Value {
    let list = kinds.iter().map(|kind| value!({"type": *kind, "status": "True"}));
    Value::from(list.collect::<Vec<Value>>())
}

#[test]
fn what_a_status_may_become() {
    let start = "2024-01-01T00:00:00Z";
    let done = value!({"startTime": start, "completionTime": "2024-01-01T00:01:00Z", "succeeded": 1,
        "conditions": conditions(&["SuccessCriteriaMet", "Complete"])});
    let met = value!({"startTime": start, "conditions": conditions(&["SuccessCriteriaMet"])});
    let running = value!({"startTime": start, "active": 1, "ready": 1, "failed": 2});
    let with = |base: &Value, member: &str, value: Value| {
        let mut status = base.clone();
        status.insert(member, value);
        status
    };
    for (before, after, expected) in [
        (value!({}), running.clone(), vec![]),
        (met.clone(), done.clone(), vec![]),
        (done.clone(), done.clone(), vec![]),
        (
            running.clone(),
            with(&running, "failed", value!(1)),
            vec!["status.failed: Invalid value: 1: cannot decrease the failed counter"],
        ),
        (
            running.clone(),
            with(&running, "ready", value!(2)),
            vec!["status.ready: Invalid value: 2: cannot set more ready pods than active"],
        ),
        (
            running.clone(),
            with(&running, "startTime", value!("2024-01-02T00:00:00Z")),
            vec!["status.startTime: Required value: startTime cannot be removed for unsuspended job"],
        ),
        (
            with(&running, "conditions", value!([{"type": "Suspended", "status": "True"}])),
            with(
                &with(&running, "startTime", value!("2024-01-02T00:00:00Z")),
                "conditions",
                value!([{"type": "Suspended", "status": "False"}]),
            ),
            vec![],
        ),
        (
            done.clone(),
            met.clone(),
            vec![
                "status.conditions: Invalid value: cannot disable the terminal Complete=True condition",
                "status.succeeded: Invalid value: 0: cannot decrease the succeeded counter",
            ],
        ),
        (
            met.clone(),
            with(&done, "completionTime", Value::Null),
            vec!["status.completionTime: Required value: completionTime is required for Complete jobs"],
        ),
        (
            met.clone(),
            with(&done, "active", value!(1)),
            vec!["status.active: Invalid value: 1: active>0 is invalid for finished job"],
        ),
        (
            met.clone(),
            with(&done, "terminating", value!(1)),
            vec!["status.terminating: Invalid value: 1: terminating>0 is invalid for finished job"],
        ),
        (
            met.clone(),
            with(&done, "uncountedTerminatedPods", value!({"failed": ["a"]})),
            vec!["status.uncountedTerminatedPods: Invalid value: {\"failed\":[\"a\"]}: must be empty for finished job"],
        ),
        (
            running.clone(),
            with(&running, "uncountedTerminatedPods", value!({"failed": ["a", ""], "succeeded": ["a"]})),
            vec![
                "status.uncountedTerminatedPods.failed[0]: Duplicate value: \"a\"",
                "status.uncountedTerminatedPods.failed[1]: Invalid value: \"\": must not be empty",
            ],
        ),
        (
            value!({}),
            value!({"startTime": start, "conditions": conditions(&["Failed"])}),
            vec!["status.conditions: Invalid value: cannot set Failed=True condition without the FailureTarget=true condition"],
        ),
        (
            value!({}),
            value!({"conditions": conditions(&["FailureTarget", "Failed"])}),
            vec!["status.startTime: Required value: startTime is required for finished job"],
        ),
        (
            met.clone(),
            value!({"startTime": start, "conditions": conditions(&["SuccessCriteriaMet", "FailureTarget"])}),
            vec!["status.conditions: Invalid value: cannot set SuccessCriteriaMet=True and FailureTarget=true conditions"],
        ),
        (
            running.clone(),
            with(&running, "completedIndexes", value!("0")),
            vec![
                "status.completedIndexes: Invalid value: \"0\": cannot set non-empty completedIndexes when non-indexed completion mode",
            ],
        ),
        (
            running.clone(),
            with(&running, "failedIndexes", value!("")),
            vec![
                "status.failedIndexes: Invalid value: \"\": cannot set non-null failedIndexes when backoffLimitPerIndex is null",
            ],
        ),
        (
            met,
            with(&done, "completionTime", value!("2023-01-01T00:00:00Z")),
            vec!["status.completionTime: Invalid value: \"2023-01-01T00:00:00Z\": must be equal to or after `startTime`"],
        ),
        (
            done.clone(),
            with(&done, "completionTime", value!("2024-01-01T00:02:00Z")),
            vec!["status.completionTime: Invalid value: \"2024-01-01T00:02:00Z\": field is immutable"],
        ),
    ] {
        let (mut old, mut new) = (valid(), valid());
        old.insert("status", before.clone());
        new.insert("status", after.clone());
        let errors = texts(&collect(|e| status::update(&new, &old, crate::gates::FeatureGates::DEFAULT, e)));
        assert_eq!(errors, expected, "{before:?} -> {after:?}");
    }
}

#[test]
fn indexes_of_a_status() {
    let mut old = with(&indexed(&[
        ("spec.completions", value!(5)),
        ("spec.parallelism", value!(5)),
        ("spec.backoffLimitPerIndex", value!(1)),
    ]));
    old.insert("status", value!({"succeeded": 3, "completedIndexes": "0-2", "failedIndexes": ""}));
    for (after, expected) in [
        // It is elastic.
        (value!({"succeeded": 1, "completedIndexes": "0", "failedIndexes": ""}), vec![]),
        (
            value!({"succeeded": 3, "completedIndexes": "0-2", "failedIndexes": "2"}),
            vec!["status.failedIndexes: Invalid value: \"2\": failedIndexes and completedIndexes overlap at index: 2"],
        ),
        (
            value!({"succeeded": 3, "completedIndexes": "0-7", "failedIndexes": ""}),
            vec!["status.completedIndexes: Invalid value: \"0-7\": error parsing completedIndexes: too large index: \"7\""],
        ),
    ] {
        let mut new = old.clone();
        new.insert("status", after.clone());
        assert_eq!(
            texts(&collect(|e| status::update(&new, &old, crate::gates::FeatureGates::DEFAULT, e))),
            expected,
            "{after:?}"
        );
    }
}
