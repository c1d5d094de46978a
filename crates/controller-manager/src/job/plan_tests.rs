//! Tables over a whole sync without its writes: what the pods mean, what is done, what the status says.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde_json::{Value, json};

use super::assess::{Seen, Sync, assess};
use super::backoff::Backoff;
use super::indexes::FAILURE_COUNT;
use super::plan::{Action, Done, Told, conclude, plan};
use super::testing::{indexed, job, job_with, now, pod};
use super::track::{Tracking, finish, settle, track};

fn seen(job: Job, pods: Vec<Arc<Pod>>) -> Seen {
    let backoff = Backoff::default();
    Seen { job, pods, removals_expected: HashSet::new(), cache_is_current: true, backoff, now: now() }
}

fn plan_for(job: Job, pods: Vec<Arc<Pod>>) -> Action {
    plan(&assess(seen(job, pods)))
}

fn pods(phase: &str, count: usize) -> Vec<Arc<Pod>> {
    (0..count).map(|i| pod(&format!("{phase}{i}"), phase, json!({}))).collect()
}

fn create(count: usize) -> Action {
    Action::Create(vec![None; count])
}

fn names(pods: &[Arc<Pod>]) -> Vec<String> {
    pods.iter().map(|pod| pod.name_any()).collect()
}

/// A failed pod that ended so long ago that nothing waits for it.
fn old_failure(name: &str) -> Arc<Pod> {
    let ready = json!([{"type": "Ready", "status": "False", "lastTransitionTime": "2024-01-01T01:00:00Z"}]);
    pod(name, "Failed", json!({"status": {"conditions": ready}}))
}

#[test]
fn how_many_pods() {
    let status = |status: Value| job_with(json!({"status": status}));
    for (job, pods, expected) in [
        (job(json!({})), pods("Running", 0), create(2)),
        (job(json!({})), pods("Running", 1), create(1)),
        (job(json!({})), pods("Pending", 2), Action::Keep),
        (job(json!({"parallelism": 1000, "completions": 1000})), vec![], create(500)),
        (job(json!({"parallelism": 9})), pods("Running", 0), create(4)),
        (job(json!({"parallelism": 0})), vec![], Action::Keep),
        // No more than what is lacking.
        (status(json!({"succeeded": 3})), pods("Running", 1), Action::Keep),
        (status(json!({"succeeded": 3})), pods("Running", 0), create(1)),
        (job(json!({})), pods("Succeeded", 3), create(1)),
        // A work queue: as many as may run at once, until the first has succeeded.
        (job(json!({"completions": null, "parallelism": 3})), pods("Running", 1), create(2)),
        (job(json!({"completions": null, "parallelism": 3})), [pods("Running", 1), pods("Succeeded", 1)].concat(), Action::Keep),
    ] {
        assert_eq!(plan_for(job.clone(), pods.clone()), expected, "{:?} with {:?}", job.spec, names(&pods));
    }
}

#[test]
fn pods_that_are_too_many_go() {
    let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2024-01-01T01:00:00Z"}]},
        "spec": {"nodeName": "n", "containers": []}});
    let assigned = json!({"spec": {"nodeName": "n", "containers": []}});
    let many = vec![
        pod("ready", "Running", ready),
        pod("running", "Running", assigned.clone()),
        pod("pending", "Pending", assigned),
        pod("unassigned", "Pending", json!({})),
    ];
    for (parallelism, expected) in [
        (3, vec!["unassigned"]),
        (1, vec!["unassigned", "pending", "running"]),
        (0, vec!["unassigned", "pending", "running", "ready"]),
    ] {
        let Action::Remove(gone) = plan_for(job(json!({"parallelism": parallelism})), many.clone()) else { panic!("removes") };
        assert_eq!(names(&gone), expected, "{parallelism}");
    }
    let Action::Remove(gone) = plan_for(job(json!({"suspend": true})), many) else { panic!("removes") };
    assert_eq!(gone.len(), 4, "a suspended Job runs nothing");
}

#[test]
fn nothing_is_done_while_the_cache_is_behind() {
    let mut behind = seen(job(json!({})), vec![]);
    behind.cache_is_current = false;
    assert_eq!(plan(&assess(behind)), Action::Defer);
    let deleted = job_with(json!({"metadata": {"deletionTimestamp": "2024-01-01T12:00:00Z"}}));
    assert_eq!(plan_for(deleted, vec![]), Action::Defer);
}

#[test]
fn replacements_wait() {
    let recent = || {
        let ready = json!([{"type": "Ready", "status": "False", "lastTransitionTime": "2024-01-01T11:59:56Z"}]);
        pod("failed", "Failed", json!({"status": {"conditions": ready}}))
    };
    assert_eq!(plan_for(job(json!({})), vec![recent()]), Action::Wait(Duration::from_secs(6)));
    assert_eq!(plan_for(job(json!({})), vec![old_failure("old")]), create(2));
    // Those that are being deleted are replaced at once, or when they have ended.
    let deleting = |name: &str| {
        let meta = json!({"metadata": {"deletionTimestamp": "2024-01-01T11:00:00Z", "deletionGracePeriodSeconds": 0}});
        pod(name, "Running", meta)
    };
    let failed = json!({"podReplacementPolicy": "Failed"});
    assert_eq!(plan_for(job(json!({})), vec![deleting("a")]), create(2));
    assert_eq!(plan_for(job(failed.clone()), vec![deleting("a")]), create(1));
    assert_eq!(plan_for(job(failed), vec![deleting("a"), deleting("b")]), Action::Keep);
}

#[test]
fn indexes_are_filled_from_below() {
    let spec = |more: Value| {
        let mut spec = json!({"completionMode": "Indexed", "completions": 5, "parallelism": 3});
        spec.as_object_mut().expect("is an object").extend(more.as_object().cloned().unwrap_or_default());
        job(spec)
    };
    let created = |indexes: &[i32]| Action::Create(indexes.iter().map(|index| Some(*index)).collect());
    let deleting = |index: i32| {
        let mut pod = (*indexed("deleting", index, "Running")).clone();
        pod.metadata.deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(super::testing::at("2024-01-01T11:00:00Z")));
        Arc::new(pod)
    };
    for (job, pods, expected) in [
        (spec(json!({})), vec![], created(&[0, 1, 2])),
        (spec(json!({})), vec![indexed("a", 1, "Running")], created(&[0, 2])),
        (spec(json!({})), vec![indexed("a", 0, "Succeeded"), indexed("b", 1, "Running")], created(&[2, 3])),
        (spec(json!({"podReplacementPolicy": "Failed"})), vec![deleting(0)], created(&[1, 2])),
        (spec(json!({"podReplacementPolicy": "TerminatingOrFailed"})), vec![deleting(0)], created(&[0, 1, 2])),
    ] {
        assert_eq!(plan_for(job, pods.clone()), expected, "{:?}", names(&pods));
    }
    // Twins, strays and indexes that the Job does not have go first.
    let odd =
        vec![indexed("a", 0, "Running"), indexed("b", 0, "Running"), indexed("c", 7, "Running"), pod("d", "Running", json!({}))];
    let Action::Remove(gone) = plan_for(spec(json!({})), odd) else { panic!("removes") };
    let mut gone = names(&gone);
    gone.sort();
    assert!(gone.len() == 3 && gone.contains(&"c".to_owned()) && gone.contains(&"d".to_owned()), "{gone:?}");
}

/// The condition that ends the Job: type, reason.
fn end(job: Job, pods: Vec<Arc<Pod>>) -> Option<(String, String)> {
    let finished = assess(seen(job, pods)).finished?;
    Some((finished.type_, finished.reason.unwrap_or_default()))
}

fn restarted(count: i32) -> Arc<Pod> {
    pod(
        "p",
        "Running",
        json!({"status": {"containerStatuses": [
        {"name": "c", "image": "", "imageID": "", "ready": true, "restartCount": count}]}}),
    )
}

#[test]
fn what_ends_a_job() {
    let target = |reason: &str| Some(("FailureTarget".to_owned(), reason.to_owned()));
    let on_failure =
        |limit: i32| job(json!({"backoffLimit": limit, "template": {"spec": {"restartPolicy": "OnFailure", "containers": []}}}));
    let started = |spec: Value, start: &str| job_with(json!({"spec": spec, "status": {"startTime": start}}));
    let index = |more: Value| {
        let mut spec = json!({"completionMode": "Indexed", "completions": 3, "parallelism": 3, "backoffLimitPerIndex": 0, "backoffLimit": 100});
        spec.as_object_mut().expect("is an object").extend(more.as_object().cloned().unwrap_or_default());
        job(spec)
    };
    let lost = |i: i32| indexed(&format!("lost{i}"), i, "Failed");
    let rules = json!([{"action": "FailJob", "onPodConditions": [{"type": "X", "status": "True"}]}]);
    let hit = pod("p", "Failed", json!({"status": {"conditions": [{"type": "X", "status": "True"}]}}));
    let success = json!({"completionMode": "Indexed", "completions": 3, "successPolicy": {"rules": [{"succeededIndexes": "1"}]}});
    let condition = |kind: &str| {
        let list = json!([{"type": kind, "status": "True", "reason": "Earlier"}]);
        job_with(json!({"spec": {"podFailurePolicy": {"rules": rules}}, "status": {"conditions": list}}))
    };
    for (job, pods, expected) in [
        (job(json!({"backoffLimit": 1})), vec![old_failure("a")], None),
        (job(json!({"backoffLimit": 1})), vec![old_failure("a"), old_failure("b")], target("BackoffLimitExceeded")),
        (
            job_with(json!({"spec": {"backoffLimit": 1}, "status": {"failed": 1}})),
            vec![old_failure("a")],
            target("BackoffLimitExceeded"),
        ),
        (job(json!({"backoffLimit": 0})), vec![old_failure("a")], target("BackoffLimitExceeded")),
        (on_failure(2), vec![restarted(1)], None),
        (on_failure(2), vec![restarted(2)], target("BackoffLimitExceeded")),
        (on_failure(0), vec![restarted(0)], None),
        (on_failure(0), vec![restarted(1)], target("BackoffLimitExceeded")),
        (started(json!({"activeDeadlineSeconds": 60}), "2024-01-01T11:59:01Z"), vec![], None),
        (started(json!({"activeDeadlineSeconds": 60}), "2024-01-01T11:59:00Z"), vec![], target("DeadlineExceeded")),
        (started(json!({"activeDeadlineSeconds": 60, "suspend": true}), "2024-01-01T01:00:00Z"), vec![], None),
        (index(json!({})), vec![lost(0), lost(1)], None),
        (index(json!({})), vec![lost(0), lost(1), lost(2)], target("FailedIndexes")),
        (index(json!({})), vec![lost(0), indexed("a", 1, "Succeeded"), indexed("b", 2, "Succeeded")], target("FailedIndexes")),
        (index(json!({"maxFailedIndexes": 1})), vec![lost(0), lost(1)], target("MaxFailedIndexesExceeded")),
        (index(json!({"maxFailedIndexes": 2})), vec![lost(0), lost(1)], None),
        (job(json!({"podFailurePolicy": {"rules": rules}})), vec![hit.clone()], target("PodFailurePolicy")),
        (job(success.clone()), vec![indexed("a", 0, "Succeeded")], None),
        (job(success), vec![indexed("a", 1, "Succeeded")], Some(("SuccessCriteriaMet".into(), "SuccessPolicy".into()))),
        // What was decided stays decided.
        (condition("FailureTarget"), vec![], Some(("Failed".into(), "Earlier".into()))),
        (condition("SuccessCriteriaMet"), vec![hit], Some(("SuccessCriteriaMet".into(), "Earlier".into()))),
    ] {
        assert_eq!(end(job.clone(), pods.clone()), expected, "{:?} with {:?}", job.spec, names(&pods));
    }
}

#[test]
fn a_deadline_counts_from_the_resumption() {
    let job = job_with(json!({"spec": {"activeDeadlineSeconds": 60, "suspend": false},
        "status": {"startTime": "2024-01-01T01:00:00Z", "conditions": [{"type": "Suspended", "status": "True"}]}}));
    let mut sync = assess(seen(job, vec![]));
    assert_eq!((sync.finished.is_none(), sync.wake), (true, Some(Duration::from_secs(60))));
    let (_, told) = conclude(&mut sync, &Action::Keep, Done::default());
    assert_eq!(told, Some(Told::Resumed));
    let status = sync.status();
    assert_eq!(status.start_time.as_ref().map(|time| time.0), Some(now()));
    let conditions = status.conditions.as_ref().expect("has some");
    assert_eq!((conditions[0].status.as_str(), conditions[0].reason.as_deref()), ("False", Some("JobResumed")));
}

#[test]
fn ignored_failures_count_for_nothing() {
    let rules = json!([{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]);
    let hit = pod(
        "p",
        "Failed",
        json!({"status": {"conditions": [
        {"type": "DisruptionTarget", "status": "True"}, {"type": "Ready", "status": "False", "lastTransitionTime": "2024-01-01T01:00:00Z"}]}}),
    );
    let (mut sync, tracking) = tracked(job(json!({"backoffLimit": 0, "podFailurePolicy": {"rules": rules}})), vec![hit]);
    assert_eq!((sync.failed, names(&tracking.release)), (0, vec!["p".to_owned()]));
    assert!(sync.uncounted().failed.is_none());
    assert_eq!(tracking.policy_actions.get("Ignore"), Some(&1));
}

/// A sync up to the first write of the status.
fn tracked(job: Job, pods: Vec<Arc<Pod>>) -> (Sync, Tracking) {
    let mut sync = assess(seen(job, pods));
    let action = plan(&sync);
    let deleted = match &action {
        Action::End(pods) | Action::Remove(pods) => pods.len(),
        _ => 0,
    };
    let done = Done { deleted: i32::try_from(deleted).expect("is small"), ..Done::default() };
    let (dirty, _) = conclude(&mut sync, &action, done);
    let tracking = track(&mut sync, dirty);
    (sync, tracking)
}

#[test]
fn pods_are_named_then_let_go_then_counted() {
    let all = vec![pod("a", "Succeeded", json!({})), old_failure("b"), pod("c", "Running", json!({}))];
    let (mut sync, mut tracking) = tracked(job(json!({"parallelism": 1})), all);
    let uncounted = sync.uncounted().clone();
    assert_eq!((uncounted.succeeded, uncounted.failed), (Some(vec!["uid-a".to_owned()]), Some(vec!["uid-b".to_owned()])));
    assert_eq!((tracking.dirty, names(&tracking.release)), (true, vec!["a".to_owned(), "b".to_owned()]));
    assert_eq!((sync.status().succeeded, sync.status().failed), (None, None), "not counted while the server keeps them");
    // One of them is let go.
    tracking.tracked.remove("uid-a");
    assert!(settle(sync.status(), &tracking.tracked));
    assert_eq!((sync.status().succeeded, sync.status().failed), (Some(1), None));
    let left = sync.uncounted().clone();
    assert_eq!((left.succeeded, left.failed), (None, Some(vec!["uid-b".to_owned()])));
}

#[test]
fn what_is_named_already_is_not_named_again() {
    let named = job_with(
        json!({"spec": {"parallelism": 0}, "status": {"startTime": "2024-01-01T11:00:00Z", "ready": 0, "terminating": 0,
        "uncountedTerminatedPods": {"succeeded": ["uid-a", "uid-gone"]}}}),
    );
    let (mut sync, tracking) = tracked(named.clone(), vec![pod("a", "Succeeded", json!({}))]);
    assert_eq!(sync.succeeded, 2);
    assert_eq!(sync.uncounted().succeeded, Some(vec!["uid-a".to_owned()]));
    assert_eq!(sync.status().succeeded, Some(1), "what is gone is counted");
    assert_eq!(names(&tracking.release), ["a"]);
    // A cache that still shows the finalizer which was removed.
    let mut stale = seen(named, vec![pod("a", "Succeeded", json!({}))]);
    stale.removals_expected = HashSet::from(["uid-a".to_owned()]);
    let mut sync = assess(stale);
    let tracking = track(&mut sync, false);
    assert!(tracking.release.is_empty());
    assert_eq!((sync.status().succeeded, sync.uncounted().succeeded.clone()), (Some(2), None));
}

#[test]
fn a_status_names_five_hundred() {
    let (mut sync, tracking) = tracked(job(json!({"parallelism": 0, "completions": 1000})), pods("Succeeded", 600));
    assert_eq!((tracking.capped, tracking.release.len()), (true, 500));
    assert_eq!(sync.uncounted().succeeded.as_ref().map(Vec::len), Some(500));
}

#[test]
fn completed_and_failed_indexes() {
    let spec =
        json!({"completionMode": "Indexed", "completions": 6, "parallelism": 6, "backoffLimitPerIndex": 1, "backoffLimit": 100});
    let job = job_with(json!({"spec": spec, "status": {"completedIndexes": "0", "succeeded": 1, "failedIndexes": "5"}}));
    let again = |name: &str, index: i32, failures: &str| {
        let mut pod = (*indexed(name, index, "Failed")).clone();
        pod.metadata.annotations.get_or_insert_default().insert(FAILURE_COUNT.into(), failures.into());
        Arc::new(pod)
    };
    let all = vec![indexed("a", 0, "Succeeded"), indexed("b", 1, "Succeeded"), again("c", 2, "1"), again("d", 3, "0")];
    let (mut sync, tracking) = tracked(job, all);
    let status = sync.status().clone();
    assert_eq!(
        (status.succeeded, status.completed_indexes.as_deref(), status.failed_indexes.as_deref()),
        (Some(2), Some("0,1"), Some("2,5"))
    );
    assert_eq!(sync.uncounted().failed, Some(vec!["uid-c".to_owned()]));
    assert_eq!(names(&tracking.release), ["a", "b", "c"], "d waits for its replacement, which takes over the count");
}

#[test]
fn interim_conditions_come_first() {
    let kinds = |sync: &mut Sync| {
        let conditions = sync.status().conditions.clone().unwrap_or_default();
        conditions.into_iter().map(|condition| condition.type_).collect::<Vec<_>>()
    };
    // The end of the pods has to be seen before the end of the Job.
    let (mut sync, tracking) = tracked(job(json!({"backoffLimit": 0})), vec![old_failure("a"), pod("b", "Running", json!({}))]);
    assert_eq!(kinds(&mut sync), ["FailureTarget"]);
    assert_eq!(names(&tracking.release), ["a", "b"]);
    assert_eq!(sync.uncounted().failed.as_ref().map(Vec::len), Some(2), "what was running failed with the Job");
    let end = sync.finished.clone();
    settle(sync.status(), &HashSet::new());
    assert!(!finish(sync.status(), end.as_ref(), 1), "one pod still terminates");
    assert!(finish(sync.status(), end.as_ref(), 0));
    assert_eq!(kinds(&mut sync), ["FailureTarget", "Failed"]);
    assert_eq!(sync.status().completion_time, None);
    let (mut sync, tracking) = tracked(job(json!({"completions": 1})), vec![pod("a", "Succeeded", json!({}))]);
    assert_eq!(kinds(&mut sync), ["SuccessCriteriaMet"]);
    let end = sync.finished.clone();
    assert!(!finish(sync.status(), end.as_ref(), 0), "a pod is still to be counted");
    settle(sync.status(), &HashSet::new());
    assert!(finish(sync.status(), end.as_ref(), 0) && tracking.dirty);
    assert_eq!(kinds(&mut sync), ["SuccessCriteriaMet", "Complete"]);
    assert_eq!(sync.status().completion_time.as_ref().map(|time| time.0), Some(now()));
}

#[test]
fn pods_left_over_by_a_success_are_not_failures() {
    let spec = json!({"completionMode": "Indexed", "completions": 3, "parallelism": 3, "successPolicy": {"rules": [{"succeededCount": 1}]}});
    let (mut sync, tracking) = tracked(job(spec), vec![indexed("a", 1, "Succeeded"), indexed("b", 0, "Running")]);
    assert_eq!(names(&tracking.release), ["b", "a"]);
    assert!(sync.uncounted().failed.is_none());
    assert_eq!(sync.status().completed_indexes.as_deref(), Some("1"));
}

#[test]
fn a_job_does_not_end_before_its_pods_are_deleted() {
    let failing = || seen(job(json!({"backoffLimit": 0})), vec![old_failure("a"), pod("b", "Running", json!({}))]);
    let mut sync = assess(failing());
    let action = plan(&sync);
    conclude(&mut sync, &action, Done::default());
    assert!(sync.finished.is_none(), "the deletion failed");
    let mut behind = assess(Seen { cache_is_current: false, ..failing() });
    let action = plan(&behind);
    conclude(&mut behind, &action, Done { deleted: 1, ..Done::default() });
    assert!(behind.finished.is_none(), "there may be pods that the cache does not show");
}

#[test]
fn suspension_is_told_once() {
    let suspended = job_with(json!({"spec": {"suspend": true}}));
    let mut sync = assess(seen(suspended, vec![]));
    assert_eq!(sync.status().start_time, None, "it has not started");
    let (dirty, told) = conclude(&mut sync, &Action::Remove(vec![]), Done::default());
    assert_eq!((dirty, told), (true, Some(Told::Suspended)));
    let mut again = assess(seen(sync.job.clone(), vec![]));
    assert_eq!(conclude(&mut again, &Action::Remove(vec![]), Done::default()), (false, None));
    // While the cache is behind, the condition is left alone.
    let mut deferred = assess(seen(job(json!({"suspend": true})), vec![]));
    assert_eq!(conclude(&mut deferred, &Action::Defer, Done::default()).1, None);
}
