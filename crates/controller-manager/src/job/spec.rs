//! A Job's fields as the controller reads them, with the API's defaults where one is unset, and its conditions. Pure.

use std::sync::LazyLock;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::pod_state::phase;

/// Keeps a pod until the Job's status has counted it (KEP-2307).
pub(super) const TRACKING_FINALIZER: &str = "batch.kubernetes.io/job-tracking";
/// `spec.managedBy` of Jobs that are this controller's own (KEP-4368).
const CONTROLLER_NAME: &str = "kubernetes.io/job-controller";

pub(super) const COMPLETE: &str = "Complete";
pub(super) const FAILED: &str = "Failed";
pub(super) const FAILURE_TARGET: &str = "FailureTarget";
pub(super) const SUCCESS_CRITERIA_MET: &str = "SuccessCriteriaMet";
pub(super) const SUSPENDED: &str = "Suspended";

static NO_SPEC: LazyLock<JobSpec> = LazyLock::new(JobSpec::default);

pub(super) fn spec(job: &Job) -> &JobSpec {
    job.spec.as_ref().unwrap_or(&NO_SPEC)
}

pub(super) fn parallelism(job: &Job) -> i32 {
    spec(job).parallelism.unwrap_or(1)
}

pub(super) fn backoff_limit(job: &Job) -> i32 {
    spec(job).backoff_limit.unwrap_or(6)
}

pub(super) fn is_indexed(job: &Job) -> bool {
    spec(job).completion_mode.as_deref() == Some("Indexed")
}

/// Label of metrics.
pub(super) fn completion_mode(job: &Job) -> &'static str {
    if is_indexed(job) { "Indexed" } else { "NonIndexed" }
}

/// How many indexes an Indexed Job has; the API server lets none in without.
pub(super) fn index_count(job: &Job) -> i32 {
    spec(job).completions.unwrap_or(0)
}

pub(super) fn is_suspended(job: &Job) -> bool {
    spec(job).suspend == Some(true)
}

/// Whether each index has a back-off limit of its own (KEP-3850).
pub(super) fn limits_per_index(job: &Job) -> bool {
    spec(job).backoff_limit_per_index.is_some()
}

/// Whether a pod is replaced only when it has ended, not already when its deletion begins (KEP-3939).
pub(super) fn replaces_only_failed(job: &Job) -> bool {
    spec(job).pod_replacement_policy.as_deref() == Some("Failed") || spec(job).pod_failure_policy.is_some()
}

/// The controller that manages the Job instead of this one.
pub(super) fn external_manager(job: &Job) -> Option<&str> {
    spec(job).managed_by.as_deref().filter(|manager| *manager != CONTROLLER_NAME)
}

/// Whether a pod counts as failed. One that is being deleted does, since it may never come to say so itself, unless
/// the Job waits for the end of its pods.
pub(super) fn has_failed(pod: &Pod, job: &Job) -> bool {
    match phase(pod) {
        "Failed" => true,
        "Succeeded" => false,
        _ => pod.metadata.deletion_timestamp.is_some() && !replaces_only_failed(job),
    }
}

pub(super) fn is_tracked(pod: &Pod) -> bool {
    pod.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == TRACKING_FINALIZER)
}

pub(super) fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or("")
}

/// The condition that ended the Job.
pub(super) fn finished_condition(job: &Job) -> Option<&JobCondition> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|c| matches!(c.type_.as_str(), COMPLETE | FAILED) && c.status == "True")
}

pub(super) fn is_finished(job: &Job) -> bool {
    finished_condition(job).is_some()
}

/// A condition of this type that is true.
pub(super) fn true_condition<'a>(job: &'a Job, type_: &str) -> Option<&'a JobCondition> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == type_).filter(|condition| condition.status == "True")
}

pub(super) fn condition(type_: &str, status: &str, reason: &str, message: impl Into<String>, now: Timestamp) -> JobCondition {
    JobCondition {
        type_: type_.into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_probe_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    }
}

/// Sets a condition in the list. One that was never there is not added as false. Returns whether anything changed.
pub(super) fn set_condition(conditions: &mut Vec<JobCondition>, wanted: JobCondition) -> bool {
    match conditions.iter_mut().find(|condition| condition.type_ == wanted.type_) {
        Some(known) => {
            let same = known.status == wanted.status && known.reason == wanted.reason && known.message == wanted.message;
            if !same {
                *known = wanted;
            }
            !same
        }
        None if wanted.status == "False" => false,
        None => {
            conditions.push(wanted);
            true
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{job, now, pod};
    use super::*;
    use serde_json::json;

    #[test]
    fn pods_that_count_as_failed() {
        let deleting = json!({"metadata": {"deletionTimestamp": "2024-01-01T00:00:00Z"}});
        for (pod, policy, expected) in [
            (pod("a", "Failed", json!({})), json!({}), true),
            (pod("a", "Running", json!({})), json!({}), false),
            (pod("a", "Running", deleting.clone()), json!({}), true),
            (pod("a", "Succeeded", deleting.clone()), json!({}), false),
            (pod("a", "Running", deleting.clone()), json!({"podReplacementPolicy": "Failed"}), false),
            (pod("a", "Running", deleting.clone()), json!({"podReplacementPolicy": "TerminatingOrFailed"}), true),
            (pod("a", "Running", deleting.clone()), json!({"podFailurePolicy": {"rules": []}}), false),
            (pod("a", "Failed", deleting), json!({"podReplacementPolicy": "Failed"}), true),
        ] {
            assert_eq!(has_failed(&pod, &job(policy.clone())), expected, "{pod:?} {policy}");
        }
    }

    #[test]
    fn conditions_are_added_true_and_updated_in_place() {
        let mut list = Vec::new();
        assert!(!set_condition(&mut list, condition("Suspended", "False", "JobResumed", "x", now())), "never was true");
        assert!(set_condition(&mut list, condition("Suspended", "True", "JobSuspended", "x", now())));
        assert!(!set_condition(&mut list, condition("Suspended", "True", "JobSuspended", "x", now())));
        assert!(set_condition(&mut list, condition("Suspended", "False", "JobResumed", "x", now())));
        assert_eq!((list.len(), list[0].status.as_str()), (1, "False"));
    }

    #[test]
    fn jobs_of_others() {
        for (manager, expected) in [
            (json!({}), None),
            (json!({"managedBy": "kubernetes.io/job-controller"}), None),
            (json!({"managedBy": "example.com/other"}), Some("example.com/other")),
        ] {
            assert_eq!(external_manager(&job(manager)), expected);
        }
    }
}
