//! Counting finished pods exactly once (KEP-2307). Pure.
//!
//! The order makes it safe to stop anywhere: first the status names the pods that are about to be counted, then their finalizers are
//! removed, then the status counts those without finalizer and names them no more. A pod is never gone before it is named, and never
//! counted while it could be seen again. Of Indexed Jobs the completed indexes need no naming: an index counts once anyway.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use k8s_openapi::api::batch::v1::{JobCondition, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::assess::{Sync, failed_after};
use super::failure_policy;
use super::indexes;
use super::intervals::Indexes;
use super::spec::{
    COMPLETE, FAILURE_TARGET, SUCCESS_CRITERIA_MET, condition, has_failed, is_indexed, limits_per_index, set_condition,
    true_condition, uid,
};
use crate::pod_state::phase;

/// Most pods that the status names at once (upstream's MaxUncountedPods), which keeps it below some 20 KB.
const UNCOUNTED_MAX: usize = 500;

/// What to write, in this order: the status, the removal of finalizers, the status.
pub(super) struct Tracking {
    /// The status differs from the stored one.
    pub(super) dirty: bool,
    pub(super) release: Vec<Arc<Pod>>,
    /// UIDs of pods that the server still keeps for us.
    pub(super) tracked: HashSet<String>,
    /// More pods than one status may name; the rest is for the next sync.
    pub(super) capped: bool,
    /// For metrics: failures by the action of the policy.
    pub(super) policy_actions: BTreeMap<&'static str, u64>,
}

pub(super) fn track(sync: &mut Sync, dirty: bool) -> Tracking {
    if is_indexed(&sync.job) {
        indexes::sort_by_index(&mut sync.pods);
    }
    let tracked = sync.pods.iter().filter(|pod| sync.is_uncounted(pod)).map(|pod| uid(pod).to_owned()).collect();
    let mut tracking = Tracking { dirty, release: Vec::new(), tracked, capped: false, policy_actions: BTreeMap::new() };
    tracking.dirty |= settle(sync.status(), &tracking.tracked);
    let mut new_indexes = Vec::new();
    for pod in sync.pods.clone() {
        if !sync.is_uncounted(&pod) || !may_release(sync, &pod) {
            continue;
        }
        tracking.release.push(Arc::clone(&pod));
        name(sync, &mut tracking, &mut new_indexes, &pod);
        let uncounted = sync.uncounted();
        let named = uncounted.succeeded.iter().flatten().count() + uncounted.failed.iter().flatten().count();
        if new_indexes.len() + named >= UNCOUNTED_MAX {
            tracking.capped = true;
            break;
        }
    }
    if is_indexed(&sync.job) {
        tracking.dirty |= write_indexes(sync, &new_indexes);
    }
    tracking.dirty |= announce_end(sync);
    tracking
}

/// Moves pods that the server no longer keeps from the list into the counters. Returns whether there were any.
pub(super) fn settle(status: &mut JobStatus, tracked: &HashSet<String>) -> bool {
    let Some(uncounted) = &mut status.uncounted_terminated_pods else { return false };
    let gone = |list: &mut Option<Vec<String>>| {
        let before = list.iter().flatten().count();
        if let Some(list) = list.as_mut() {
            list.retain(|uid| tracked.contains(uid));
        }
        *list = list.take().filter(|list| !list.is_empty());
        super::assess::count(before - list.iter().flatten().count())
    };
    let (succeeded, failed) = (gone(&mut uncounted.succeeded), gone(&mut uncounted.failed));
    let add = |counter: &mut Option<i32>, more: i32| {
        if more > 0 {
            *counter = Some(counter.unwrap_or(0).saturating_add(more));
        }
    };
    add(&mut status.succeeded, succeeded);
    add(&mut status.failed, failed);
    succeeded + failed > 0
}

/// Whether a pod needs its finalizer no more.
fn may_release(sync: &Sync, pod: &Pod) -> bool {
    if sync.job.metadata.deletion_timestamp.is_some() || sync.finished.is_some() || phase(pod) == "Succeeded" {
        return true;
    }
    if !has_failed(pod, &sync.job) {
        return false;
    }
    let waits = |index: i32| sync.delayed.get(&index).is_some_and(|waiting| uid(waiting) == uid(pod));
    !limits_per_index(&sync.job) || !indexes::completion_index(pod).is_some_and(waits)
}

/// Puts the pod into the status as one to be counted.
fn name(sync: &mut Sync, tracking: &mut Tracking, new_indexes: &mut Vec<i32>, pod: &Pod) {
    let id = uid(pod).to_owned();
    let index = indexes::valid_index(pod, &sync.job);
    let indexed = is_indexed(&sync.job);
    if phase(pod) == "Succeeded" && !sync.uncounted_failed.contains(&id) {
        match index {
            Some(index) if indexed && !sync.counted_indexes.contains(index) => {
                new_indexes.push(index);
                tracking.dirty = true;
            }
            _ if !indexed && !sync.uncounted_succeeded.contains(&id) => {
                sync.uncounted().succeeded.get_or_insert_default().push(id);
                tracking.dirty = true;
            }
            _ => {}
        }
        return;
    }
    // When a Job fails, so do the pods that have not come to an end.
    let fails = sync.finished.is_some() && !sync.is_finishing_with(SUCCESS_CRITERIA_MET);
    let counts = has_failed(pod, &sync.job) || fails;
    if !counts || sync.uncounted_failed.contains(&id) || (indexed && index.is_none()) {
        return;
    }
    let verdict = failure_policy::judge(&sync.job, pod);
    if let Some(action) = verdict.action {
        *tracking.policy_actions.entry(action.name()).or_default() += 1;
    }
    if verdict.counts() {
        sync.uncounted().failed.get_or_insert_default().push(id);
        tracking.dirty = true;
    }
}

/// Writes the completed and failed indexes into the status. Returns whether they changed.
fn write_indexes(sync: &mut Sync, new_indexes: &[i32]) -> bool {
    sync.completed = sync.completed.union(&Indexes::of(new_indexes.iter().copied()));
    let succeeded = Some(sync.completed.count()).filter(|count| *count != 0);
    let completed = Some(sync.completed.to_string()).filter(|text| !text.is_empty());
    let failed = sync.failed_indexes.as_ref().map(ToString::to_string);
    let status = sync.status();
    let changed = status.completed_indexes.as_deref().unwrap_or("") != completed.as_deref().unwrap_or("")
        || status.failed_indexes != failed;
    status.succeeded = succeeded;
    status.completed_indexes = completed;
    status.failed_indexes = failed;
    changed
}

/// Says in the status that the Job is to end, before any pod is let go, and turns the condition into the one of the end. Returns
/// whether that is news.
fn announce_end(sync: &mut Sync) -> bool {
    let Some(finished) = sync.finished.take() else { return false };
    let (end, news) = match finished.type_.as_str() {
        FAILURE_TARGET => (failed_after(&finished, sync.now), true),
        SUCCESS_CRITERIA_MET => {
            let (reason, message) = (finished.reason.clone().unwrap_or_default(), finished.message.clone().unwrap_or_default());
            let news = true_condition(&sync.job, SUCCESS_CRITERIA_MET).is_none();
            (condition(COMPLETE, "True", &reason, message, sync.now), news)
        }
        _ => (finished.clone(), false),
    };
    if news {
        sync.status().conditions.get_or_insert_default().push(finished);
    }
    sync.finished = Some(end);
    news
}

/// Ends the Job, if it is to end and nothing is left to count or to wait for. Returns whether it did.
pub(super) fn finish(status: &mut JobStatus, finished: Option<&JobCondition>, terminating: i32) -> bool {
    let Some(finished) = finished else { return false };
    let uncounted = status.uncounted_terminated_pods.iter();
    let left: usize = uncounted.map(|pods| pods.succeeded.iter().flatten().count() + pods.failed.iter().flatten().count()).sum();
    if left > 0 || terminating > 0 {
        return false;
    }
    set_condition(status.conditions.get_or_insert_default(), finished.clone());
    if finished.type_ == COMPLETE {
        status.completion_time = finished.last_transition_time.as_ref().map(|time| Time(time.0));
    }
    true
}
