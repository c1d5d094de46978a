//! What to do about a Job's pods, and what the Job's status says afterwards. Pure.

use std::cmp::Ordering;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::assess::{Sync, count};
use super::indexes;
use super::spec::{
    SUCCESS_CRITERIA_MET, SUSPENDED, condition, is_indexed, is_suspended, limits_per_index, parallelism, replaces_only_failed,
    set_condition, spec,
};
use crate::pod_state::{is_ready, node_name, phase, ready_since};

/// Most pods created or deleted in one sync (upstream's MaxPodCreateDeletePerSync).
const BURST: usize = 500;

/// What to do about the pods.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Action {
    /// The Job is over: its active pods end; the finalizers are removed when they are counted.
    End(Vec<Arc<Pod>>),
    /// Pods that are too many go, uncounted.
    Remove(Vec<Arc<Pod>>),
    /// New pods: with these indexes, or as many without.
    Create(Vec<Option<i32>>),
    /// New pods only after this time.
    Wait(Duration),
    /// As many pods as wanted.
    Keep,
    /// The cache is behind or the Job is being deleted: neither pods nor conditions are touched.
    Defer,
}

impl Action {
    /// Value of the label `action` in metrics.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::End(_) | Self::Defer => "reconciling",
            Self::Remove(_) => "pods_deleted",
            Self::Create(_) | Self::Wait(_) => "pods_created",
            Self::Keep => "tracking",
        }
    }
}

/// What became of an action.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Done {
    pub(super) created: i32,
    pub(super) deleted: i32,
    /// Of the deleted ones.
    pub(super) deleted_ready: i32,
}

/// A change that users are told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    Suspended,
    Resumed,
}

pub(super) fn plan(sync: &Sync) -> Action {
    if sync.finished.is_some() {
        return Action::End(sync.active_pods.clone());
    }
    if !sync.cache_is_current || sync.job.metadata.deletion_timestamp.is_some() {
        return Action::Defer;
    }
    if is_suspended(&sync.job) {
        return Action::Remove(expendable(sync, sync.active));
    }
    let wanted = wanted_active(sync);
    let mut surplus = expendable(sync, (sync.active - wanted).max(0));
    surplus.truncate(BURST);
    if !surplus.is_empty() {
        // Creations wait for another sync, even where an index is taken twice and another not at all.
        return Action::Remove(surplus);
    }
    let held = if replaces_only_failed(&sync.job) { sync.terminating } else { 0 };
    let Ok(lacking @ 1..) = usize::try_from(wanted - held - sync.active) else { return Action::Keep };
    create(sync, lacking)
}

fn create(sync: &Sync, lacking: usize) -> Action {
    let per_index = limits_per_index(&sync.job);
    if !per_index {
        let wait = sync.backoff.remaining(sync.now);
        if !wait.is_zero() {
            return Action::Wait(wait);
        }
    }
    let lacking = lacking.min(BURST);
    if !is_indexed(&sync.job) {
        return Action::Create(vec![None; lacking]);
    }
    let pending = indexes::pending(sync, lacking);
    let due = if per_index { indexes::due(pending, &sync.delayed, sync.now) } else { Ok(pending) };
    match due {
        Ok(indexes) => Action::Create(indexes.into_iter().map(Some).collect()),
        Err(wait) => Action::Wait(wait),
    }
}

fn wanted_active(sync: &Sync) -> i32 {
    match spec(&sync.job).completions {
        Some(completions) => (completions - sync.succeeded).min(parallelism(&sync.job)).max(0),
        // A work queue: once a pod has found it empty, those that run may end, and no more start.
        None if sync.succeeded > 0 => sync.active,
        None => parallelism(&sync.job),
    }
}

/// Active pods that have to go: those without a place, and at least this many.
fn expendable(sync: &Sync, at_least: i32) -> Vec<Arc<Pod>> {
    let (mut gone, mut left) = if is_indexed(&sync.job) {
        indexes::split_redundant(&sync.job, &sync.active_pods, |pods| pods.sort_by(|a, b| by_expendability(a, b)))
    } else {
        (Vec::new(), sync.active_pods.clone())
    };
    let more = usize::try_from(at_least).unwrap_or(0).saturating_sub(gone.len());
    if more > 0 {
        left.sort_by(|a, b| by_expendability(a, b));
        gone.extend(left.into_iter().take(more));
    }
    gone
}

/// Upstream's `ActivePods`: not assigned, pending, not ready, ready for less time, restarted more often, younger.
fn by_expendability(a: &Pod, b: &Pod) -> Ordering {
    let order = |pod: &Pod| match phase(pod) {
        "Unknown" => 1,
        "Running" => 2,
        _ => 0,
    };
    // A time that is missing comes before any other, and a later one before an earlier one.
    let latest_first = |a: Option<Timestamp>, b: Option<Timestamp>| match (a, b) {
        (Some(a), Some(b)) => b.cmp(&a),
        (a, b) => a.is_some().cmp(&b.is_some()),
    };
    let created = |pod: &Pod| pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
    (!node_name(a).is_empty())
        .cmp(&!node_name(b).is_empty())
        .then_with(|| order(a).cmp(&order(b)))
        .then_with(|| is_ready(a).cmp(&is_ready(b)))
        .then_with(|| latest_first(ready_since(a), ready_since(b)))
        .then_with(|| restarts(b).cmp(&restarts(a)))
        .then_with(|| latest_first(created(a), created(b)))
}

/// Most restarts of a container, then of a sidecar.
fn restarts(pod: &Pod) -> (i32, i32) {
    let Some(status) = &pod.status else { return (0, 0) };
    let init = pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
    let sidecars: Vec<&str> =
        init.filter(|container| container.restart_policy.as_deref() == Some("Always")).map(|c| c.name.as_str()).collect();
    let most = |list: Vec<&ContainerStatus>| list.into_iter().map(|status| status.restart_count).max().unwrap_or(0);
    let sidecar = status.init_container_statuses.iter().flatten().filter(|s| sidecars.contains(&s.name.as_str()));
    (most(status.container_statuses.iter().flatten().collect()), most(sidecar.collect()))
}

/// Brings counts and conditions up to date with what was done. Returns whether the status has to be written for
/// that, and what to tell the user.
pub(super) fn conclude(sync: &mut Sync, action: &Action, done: Done) -> (bool, Option<Told>) {
    let ended = sync.finished.is_some();
    if ended && (done.deleted != sync.active || !sync.cache_is_current) {
        // Pods may be left that are to be counted: the Job ends in a later sync.
        sync.finished = None;
    }
    sync.active += done.created - done.deleted;
    sync.terminating += done.deleted;
    sync.ready -= done.deleted_ready;
    if let Action::Wait(delay) = action {
        // No sooner than upstream's SyncJobBatchPeriod.
        sync.wake_in((*delay).max(Duration::from_secs(1)));
    }
    let mut told = None;
    if !ended {
        // Behind the cache's back a pod may be running that has to end first.
        if is_complete(sync) && sync.cache_is_current {
            let message = "Reached expected number of succeeded pods";
            sync.finished = Some(condition(SUCCESS_CRITERIA_MET, "True", "CompletionsReached", message, sync.now));
        } else if *action != Action::Defer {
            told = tell_suspension(sync);
        }
    }
    let (active, ready, terminating) = (sync.active, sync.ready, sync.terminating);
    let status = sync.status();
    let changed = status.active.unwrap_or(0) != active || status.ready != Some(ready) || status.terminating != Some(terminating);
    status.active = Some(active).filter(|active| *active != 0);
    status.ready = Some(ready);
    status.terminating = Some(terminating);
    (changed || told.is_some(), told)
}

fn is_complete(sync: &Sync) -> bool {
    let enough = match spec(&sync.job).completions {
        Some(completions) => sync.succeeded >= completions,
        None => sync.succeeded > 0,
    };
    enough && sync.active == 0
}

/// Sets the condition `Suspended`. A Job that goes on starts anew, so that its deadline counts only the time it is active.
fn tell_suspension(sync: &mut Sync) -> Option<Told> {
    let (now, suspended) = (sync.now, is_suspended(&sync.job));
    let status = sync.status();
    let mut conditions = status.conditions.take().unwrap_or_default();
    let wanted = if suspended {
        condition(SUSPENDED, "True", "JobSuspended", "Job suspended", now)
    } else {
        condition(SUSPENDED, "False", "JobResumed", "Job resumed", now)
    };
    let changed = set_condition(&mut conditions, wanted);
    status.conditions = Some(conditions).filter(|conditions| !conditions.is_empty());
    if !changed {
        return None;
    }
    if suspended {
        return Some(Told::Suspended);
    }
    status.start_time = Some(Time(now));
    Some(Told::Resumed)
}

/// How many of the pods are ready.
pub(super) fn ready_count<'p>(pods: impl IntoIterator<Item = &'p Arc<Pod>>) -> i32 {
    count(pods.into_iter().filter(|pod| is_ready(pod)).count())
}
