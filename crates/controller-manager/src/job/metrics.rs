//! Metrics of the job-controller, with upstream's names, in the process's default Prometheus registry.

use std::sync::LazyLock;

use k8s_openapi::api::batch::v1::{Job, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use prometheus::{
    HistogramOpts, HistogramVec, IntCounterVec, Opts, exponential_buckets, register_histogram_vec, register_int_counter_vec,
};

use super::intervals::Indexes;
use super::spec::{completion_mode, index_count, is_indexed, is_tracked, limits_per_index, spec};
use super::track::Tracking;
use crate::pod_state::is_terminal;

struct Families {
    sync_seconds: HistogramVec,
    syncs: IntCounterVec,
    finished: IntCounterVec,
    external: IntCounterVec,
    pods_finished: IntCounterVec,
    policy_failures: IntCounterVec,
    terminated_tracked: IntCounterVec,
    indexes_finished: IntCounterVec,
    creations: IntCounterVec,
}

static FAMILIES: LazyLock<Families> = LazyLock::new(|| {
    let registered = "registered once per process, under a name of its own";
    let counter = |name: &str, help: &str, labels: &[&str]| {
        register_int_counter_vec!(Opts::new(format!("job_controller_{name}"), help), labels).expect(registered)
    };
    // 4 ms to 65 s.
    let buckets = exponential_buckets(0.004, 2.0, 15).expect("start, factor and count are valid constants");
    let seconds =
        HistogramOpts::new("job_controller_job_sync_duration_seconds", "The time it took to sync a job").buckets(buckets);
    Families {
        sync_seconds: register_histogram_vec!(seconds, &["completion_mode", "result", "action"]).expect(registered),
        syncs: counter("job_syncs_total", "The number of job syncs", &["completion_mode", "result", "action"]),
        finished: counter("jobs_finished_total", "The number of finished jobs", &["completion_mode", "result", "reason"]),
        external: counter(
            "jobs_by_external_controller_total",
            "The number of Jobs managed by an external controller",
            &["controller_name"],
        ),
        pods_finished: counter(
            "job_pods_finished_total",
            "The number of finished Pods that are fully tracked",
            &["completion_mode", "result"],
        ),
        policy_failures: counter(
            "pod_failures_handled_by_failure_policy_total",
            "The number of failed Pods handled by failure policy, by the action of the rule that fits",
            &["action"],
        ),
        terminated_tracked: counter(
            "terminated_pods_tracking_finalizer_total",
            "The number of terminated pods that have the finalizer batch.kubernetes.io/job-tracking, added or deleted",
            &["event"],
        ),
        indexes_finished: counter("job_finished_indexes_total", "The number of finished indexes", &["status", "backoffLimit"]),
        creations: counter("job_pods_creation_total", "The number of Pods created, by reason and status", &["reason", "status"]),
    }
});

pub(super) fn synced(job: &Job, success: bool, action: &str, seconds: f64) {
    let labels = [completion_mode(job), if success { "success" } else { "error" }, action];
    FAMILIES.sync_seconds.with_label_values(&labels).observe(seconds);
    FAMILIES.syncs.with_label_values(&labels).inc();
}

pub(super) fn job_finished(job: &Job, success: bool, reason: &str) {
    let result = if success { "succeeded" } else { "failed" };
    FAMILIES.finished.with_label_values(&[completion_mode(job), result, reason]).inc();
}

pub(super) fn managed_by(controller: &str) {
    FAMILIES.external.with_label_values(&[controller]).inc();
}

fn add(counter: &IntCounterVec, labels: &[&str], more: i32) {
    if let Ok(more @ 1..) = u64::try_from(more) {
        counter.with_label_values(labels).inc_by(more);
    }
}

/// What the status counts more than before.
pub(super) fn pods_finished(job: &Job, before: &JobStatus) {
    let Some(status) = &job.status else { return };
    let count = |text: &Option<String>| Indexes::parse(text.as_deref().unwrap_or(""), index_count(job)).count();
    let succeeded = if is_indexed(job) {
        let limit = if limits_per_index(job) { "perIndex" } else { "global" };
        let completed = count(&status.completed_indexes) - count(&before.completed_indexes);
        add(&FAMILIES.indexes_finished, &["succeeded", limit], completed);
        let failed = count(&status.failed_indexes) - count(&before.failed_indexes);
        add(&FAMILIES.indexes_finished, &["failed", limit], failed);
        completed
    } else {
        status.succeeded.unwrap_or(0) - before.succeeded.unwrap_or(0)
    };
    add(&FAMILIES.pods_finished, &[completion_mode(job), "succeeded"], succeeded);
    let failed = status.failed.unwrap_or(0) - before.failed.unwrap_or(0);
    add(&FAMILIES.pods_finished, &[completion_mode(job), "failed"], failed);
}

pub(super) fn policy_actions(tracking: &Tracking) {
    for (action, count) in &tracking.policy_actions {
        FAMILIES.policy_failures.with_label_values(&[action]).inc_by(*count);
    }
}

/// `failed` and `terminating` are the Job's pods before.
pub(super) fn pods_created(job: &Job, failed: i32, terminating: i32, created: i32, refused: i32) {
    let reason = if spec(job).pod_replacement_policy.as_deref() == Some("Failed") && failed > 0 {
        "recreate_failed"
    } else if failed > 0 || terminating > 0 {
        "recreate_terminating_or_failed"
    } else {
        "new"
    };
    add(&FAMILIES.creations, &[reason, "succeeded"], created);
    add(&FAMILIES.creations, &[reason, "failed"], refused);
}

/// A pod came to be, or ceased to be, finished with the finalizer still on it.
pub(super) fn pod_changed(old: Option<&Pod>, new: Option<&Pod>) {
    let kept = |pod: Option<&Pod>| pod.is_some_and(|pod| is_terminal(pod) && is_tracked(pod));
    match (kept(old), kept(new)) {
        (false, true) => FAMILIES.terminated_tracked.with_label_values(&["add"]).inc(),
        (true, false) => FAMILIES.terminated_tracked.with_label_values(&["delete"]).inc(),
        _ => {}
    }
}
