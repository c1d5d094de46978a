//! What a Job's pods mean for it, before anything is done: counts, indexes, and whether it is to end. Pure.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobStatus, UncountedTerminatedPods};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::backoff::Backoff;
use super::intervals::Indexes;
use super::spec::{
    FAILED, FAILURE_TARGET, SUCCESS_CRITERIA_MET, SUSPENDED, backoff_limit, condition, has_failed, index_count, is_indexed,
    is_suspended, is_tracked, limits_per_index, spec, true_condition, uid,
};
use super::{failure_policy, indexes, success_policy};
use crate::pod_state::{is_active, is_ready, is_terminating, phase};

/// What is known when a sync begins.
pub(super) struct Seen {
    pub(super) job: Job,
    /// The pods that are the Job's own.
    pub(super) pods: Vec<Arc<Pod>>,
    /// UIDs of pods whose finalizer was removed, which the cache has not shown yet.
    pub(super) removals_expected: HashSet<String>,
    /// Whether the cache has shown every pod created or deleted before.
    pub(super) cache_is_current: bool,
    pub(super) backoff: Backoff,
    pub(super) now: Timestamp,
}

/// One sync on its way: the Job with the status to be, and what was found.
pub(super) struct Sync {
    pub(super) job: Job,
    pub(super) pods: Vec<Arc<Pod>>,
    pub(super) active_pods: Vec<Arc<Pod>>,
    pub(super) removals_expected: HashSet<String>,
    pub(super) cache_is_current: bool,
    /// The condition that ends the Job, or that says that it is to end.
    pub(super) finished: Option<JobCondition>,
    /// Pods, or completed indexes, counted and to be counted.
    pub(super) succeeded: i32,
    pub(super) failed: i32,
    pub(super) active: i32,
    pub(super) ready: i32,
    pub(super) terminating: i32,
    /// UIDs that the status names as failed and not counted yet.
    pub(super) uncounted_failed: HashSet<String>,
    pub(super) uncounted_succeeded: HashSet<String>,
    /// Completed indexes as the status had them, and with those of now.
    pub(super) counted_indexes: Indexes,
    pub(super) completed: Indexes,
    /// Only with a limit per index.
    pub(super) failed_indexes: Option<Indexes>,
    pub(super) delayed: BTreeMap<i32, Arc<Pod>>,
    pub(super) backoff: Backoff,
    /// When to look again if nothing changes.
    pub(super) wake: Option<Duration>,
    pub(super) now: Timestamp,
}

impl Sync {
    /// Whether the pod is still to be counted, and the cache is not behind on it.
    pub(super) fn is_uncounted(&self, pod: &Pod) -> bool {
        is_tracked(pod) && !self.removals_expected.contains(uid(pod))
    }

    pub(super) fn status(&mut self) -> &mut JobStatus {
        self.job.status.get_or_insert_default()
    }

    pub(super) fn uncounted(&mut self) -> &mut UncountedTerminatedPods {
        self.status().uncounted_terminated_pods.get_or_insert_default()
    }

    pub(super) fn is_finishing_with(&self, type_: &str) -> bool {
        self.finished.as_ref().is_some_and(|condition| condition.type_ == type_)
    }

    /// Asks to be woken at the latest after this time.
    pub(super) fn wake_in(&mut self, delay: Duration) {
        self.wake = Some(self.wake.map_or(delay, |known| known.min(delay)));
    }

    fn newly(&self, known: &HashSet<String>, finished: impl Fn(&Pod) -> bool) -> Vec<Arc<Pod>> {
        let fresh = self.pods.iter().filter(|pod| self.is_uncounted(pod) && !known.contains(uid(pod)) && finished(pod));
        fresh.filter(|pod| !is_indexed(&self.job) || indexes::valid_index(pod, &self.job).is_some()).cloned().collect()
    }
}

pub(super) fn count(items: usize) -> i32 {
    i32::try_from(items).unwrap_or(i32::MAX)
}

/// The state of the Job, with the decision whether it ends.
///
/// A Job can meet several criteria at once, so their order matters: what an earlier sync decided, failures, successes.
pub(super) fn assess(seen: Seen) -> Sync {
    let mut sync = begin(seen);
    let uncounted = sync.uncounted().clone();
    sync.uncounted_failed = uncounted.failed.into_iter().flatten().collect();
    sync.uncounted_succeeded = uncounted.succeeded.into_iter().flatten().collect();
    let succeeded = sync.newly(&sync.uncounted_succeeded, |pod| phase(pod) == "Succeeded");
    let failed = sync.newly(&sync.uncounted_failed, |pod| has_failed(pod, &sync.job));
    let status = sync.status().clone();
    sync.succeeded = status.succeeded.unwrap_or(0) + count(succeeded.len()) + count(sync.uncounted_succeeded.len());
    let counted = failed.iter().filter(|pod| failure_policy::judge(&sync.job, pod).counts()).count();
    sync.failed = status.failed.unwrap_or(0) + count(counted) + count(sync.uncounted_failed.len());
    if status.start_time.is_none() && !is_suspended(&sync.job) {
        sync.status().start_time = Some(Time(sync.now));
    }
    sync.backoff = sync.backoff.after(&succeeded, &failed);
    sync.finished = decided(&sync);
    if sync.finished.is_none() {
        sync.finished = over_limits(&mut sync);
    }
    if is_indexed(&sync.job) {
        assess_indexes(&mut sync);
    }
    sync
}

fn begin(seen: Seen) -> Sync {
    let Seen { job, pods, removals_expected, cache_is_current, backoff, now } = seen;
    let active_pods: Vec<_> = pods.iter().filter(|pod| is_active(pod)).cloned().collect();
    Sync {
        finished: None,
        succeeded: 0,
        failed: 0,
        active: count(active_pods.len()),
        ready: count(active_pods.iter().filter(|pod| is_ready(pod)).count()),
        terminating: count(pods.iter().filter(|pod| is_terminating(pod)).count()),
        uncounted_failed: HashSet::new(),
        uncounted_succeeded: HashSet::new(),
        counted_indexes: Indexes::default(),
        completed: Indexes::default(),
        failed_indexes: None,
        delayed: BTreeMap::new(),
        wake: None,
        job,
        pods,
        active_pods,
        removals_expected,
        cache_is_current,
        backoff,
        now,
    }
}

/// What an earlier sync decided, or a pod's failure decides now.
fn decided(sync: &Sync) -> Option<JobCondition> {
    if let Some(met) = true_condition(&sync.job, SUCCESS_CRITERIA_MET) {
        return Some(met.clone());
    }
    if let Some(target) = true_condition(&sync.job, FAILURE_TARGET) {
        return Some(failed_after(target, sync.now));
    }
    let message = failure_policy::fail_job_message(&sync.job, sync.pods.iter().map(AsRef::as_ref))?;
    Some(failure("PodFailurePolicy", &message, sync.now))
}

fn failure(reason: &str, message: &str, now: Timestamp) -> JobCondition {
    condition(FAILURE_TARGET, "True", reason, message, now)
}

/// `Failed` for the reasons of a `FailureTarget`.
pub(super) fn failed_after(target: &JobCondition, now: Timestamp) -> JobCondition {
    JobCondition {
        type_: FAILED.into(),
        last_probe_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
        ..target.clone()
    }
}

/// Failures beyond the limit, or too much time.
fn over_limits(sync: &mut Sync) -> Option<JobCondition> {
    if sync.failed > backoff_limit(&sync.job) || restarts_exceed_limit(&sync.job, &sync.pods) {
        return Some(failure("BackoffLimitExceeded", "Job has reached the specified backoff limit", sync.now));
    }
    let limit = SignedDuration::from_secs(spec(&sync.job).active_deadline_seconds?);
    if is_suspended(&sync.job) {
        return None;
    }
    // One that just goes on is about to be given a new start: the time that it was suspended does not count.
    let resumed = true_condition(&sync.job, SUSPENDED).is_some();
    let started = if resumed { sync.now } else { sync.status().start_time.as_ref()?.0 };
    let left = limit - sync.now.duration_since(started);
    match Duration::try_from(left) {
        Ok(left) if !left.is_zero() => {
            sync.wake_in(left);
            None
        }
        _ => Some(failure("DeadlineExceeded", "Job was active longer than specified deadline", sync.now)),
    }
}

/// With `restartPolicy: OnFailure` the restarts of containers are what fails.
fn restarts_exceed_limit(job: &Job, pods: &[Arc<Pod>]) -> bool {
    let policy = spec(job).template.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref());
    if policy != Some("OnFailure") {
        return false;
    }
    let running = pods.iter().filter(|pod| matches!(phase(pod), "Running" | "Pending")).filter_map(|pod| pod.status.as_ref());
    let statuses = running
        .flat_map(|status| status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten()));
    let restarts = statuses.fold(0i32, |sum, status| sum.saturating_add(status.restart_count));
    restarts >= backoff_limit(job).max(1)
}

fn assess_indexes(sync: &mut Sync) {
    let end = index_count(&sync.job);
    let status = sync.status().clone();
    sync.counted_indexes = Indexes::parse(status.completed_indexes.as_deref().unwrap_or(""), end);
    sync.completed = sync.counted_indexes.union(&indexes::newly_succeeded(&sync.job, &sync.pods));
    sync.succeeded = sync.completed.count();
    if limits_per_index(&sync.job) {
        let before = Indexes::parse(status.failed_indexes.as_deref().unwrap_or(""), end);
        let failed = before.union(&indexes::newly_failed(&sync.job, &sync.pods));
        let lost = failed.count();
        sync.failed_indexes = Some(failed);
        if sync.finished.is_none() {
            if spec(&sync.job).max_failed_indexes.is_some_and(|max| lost > max) {
                let message = "Job has exceeded the specified maximal number of failed indexes";
                sync.finished = Some(failure("MaxFailedIndexesExceeded", message, sync.now));
            } else if lost > 0 && lost + sync.completed.count() >= end {
                sync.finished = Some(failure("FailedIndexes", "Job has failed indexes", sync.now));
            }
        }
        sync.delayed = indexes::delayed(sync);
    }
    if sync.finished.is_none()
        && let Some(message) = success_policy::met(&sync.job, &sync.completed)
    {
        sync.finished = Some(condition(SUCCESS_CRITERIA_MET, "True", "SuccessPolicy", message, sync.now));
    }
}
