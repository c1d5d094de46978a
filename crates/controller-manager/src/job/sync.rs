//! One sync of a Job: assess, act on pods, count. The order of the writes is what keeps the counts right.

use std::sync::Arc;

use async_trait::async_trait;
use client::{EventKind, NamespacedName, Outcome, ReconcileError};
use futures::FutureExt;
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use tokio::time::Instant;

use super::assess::{Seen, Sync, assess, count};
use super::memory::Memory;
use super::metrics;
use super::plan::{Action, Done, Told, conclude, plan, ready_count};
use super::pods::pod_of;
use super::spec::{COMPLETE, is_tracked, spec, uid};
use super::track::{Tracking, finish, settle, track};
use crate::api_errors::{is_namespace_terminating, is_not_found, message};

/// The writes of a sync, apart so that they can be made to fail between any two.
#[async_trait]
pub(super) trait Writes: Send + std::marker::Sync {
    async fn create_pod(&self, job: &Job, pod: &Pod) -> kube::Result<Pod>;
    /// Only if it is still this very pod.
    async fn delete_pod(&self, job: &Job, pod: &Pod) -> kube::Result<()>;
    async fn remove_finalizer(&self, pod: &Pod) -> kube::Result<()>;
    /// Only if nobody has written the Job meanwhile; returns it as stored.
    async fn update_status(&self, job: &Job) -> kube::Result<Job>;
    fn record(&self, job: &Job, kind: EventKind, reason: &str, message: &str);
}

/// Runs a sync. `seen` must have been gathered in this order: what is expected, then the pods.
pub(super) async fn sync(io: &dyn Writes, memory: &Memory, key: &NamespacedName, seen: Seen) -> Result<Outcome, ReconcileError> {
    let started = Instant::now();
    let mut label = "reconciling";
    let mut job = seen.job.clone();
    let result = run(io, memory, key, seen, &mut label, &mut job).await;
    metrics::synced(&job, result.is_ok(), label, started.elapsed().as_secs_f64());
    result
}

async fn run(
    io: &dyn Writes,
    memory: &Memory,
    key: &NamespacedName,
    seen: Seen,
    label: &mut &'static str,
    job: &mut Job,
) -> Result<Outcome, ReconcileError> {
    let before = seen.job.status.clone().unwrap_or_default();
    let mut sync = assess(seen);
    let action = plan(&sync);
    *label = action.label();
    let act = Act { io, memory, key, sync: &sync };
    let (done, failure) = act.perform(&action).await;
    let (dirty, told) = conclude(&mut sync, &action, done);
    match told {
        Some(Told::Suspended) => io.record(&sync.job, EventKind::Normal, "Suspended", "Job suspended"),
        Some(Told::Resumed) => io.record(&sync.job, EventKind::Normal, "Resumed", "Job resumed"),
        None => {}
    }
    let result = write_counts(io, memory, key, &mut sync, dirty, before).await;
    *job = sync.job;
    result?;
    failure.map_or(Ok(()), Err)?;
    Ok(sync.wake.map_or(Outcome::Done, Outcome::RequeueAfter))
}

/// Names the finished pods in the status, lets them go, counts them, and ends the Job when all are counted.
async fn write_counts(
    io: &dyn Writes,
    memory: &Memory,
    key: &NamespacedName,
    sync: &mut Sync,
    dirty: bool,
    mut before: JobStatus,
) -> Result<(), ReconcileError> {
    let mut tracking = track(sync, dirty);
    if tracking.dirty {
        sync.job = io.update_status(&sync.job).await.map_err(ReconcileError::api("name finished pods in the Job's status"))?;
        memory.wrote(key, &sync.job);
        memory.set_backoff(key, sync.backoff);
        metrics::pods_finished(&sync.job, &before);
        before = sync.job.status.clone().unwrap_or_default();
    }
    metrics::policy_actions(&tracking);
    let removed = remove_finalizers(io, memory, key, &mut tracking).await;
    let mut dirty = settle(sync.status(), &tracking.tracked);
    if removed.is_err() {
        if dirty {
            let stored = io.update_status(&sync.job).await.map_err(ReconcileError::api("count finished pods"))?;
            memory.wrote(key, &stored);
        }
        return removed;
    }
    let finished = sync.finished.clone();
    let terminating = sync.terminating;
    let ended = !tracking.capped && finish(sync.status(), finished.as_ref(), terminating);
    dirty |= ended;
    if dirty {
        sync.job = io.update_status(&sync.job).await.map_err(ReconcileError::api("count finished pods"))?;
        memory.wrote(key, &sync.job);
        if let Some(end) = finished.filter(|_| ended) {
            tell_end(io, &sync.job, &end);
            memory.set_finished(sync.job.metadata.uid.as_deref().unwrap_or(""));
        }
        metrics::pods_finished(&sync.job, &before);
    }
    Ok(())
}

async fn remove_finalizers(
    io: &dyn Writes,
    memory: &Memory,
    key: &NamespacedName,
    tracking: &mut Tracking,
) -> Result<(), ReconcileError> {
    memory.expect_removals(key, tracking.release.iter().map(|pod| uid(pod).to_owned()));
    let removals = tracking.release.iter().map(|pod| async move { (pod, io.remove_finalizer(pod).await) }.boxed());
    let mut errors = Vec::new();
    for (pod, result) in futures::future::join_all(removals).await {
        let Err(error) = result else {
            tracking.tracked.remove(uid(pod));
            continue;
        };
        memory.removal_observed(key, uid(pod));
        if is_not_found(&error) {
            tracking.tracked.remove(uid(pod));
        } else {
            errors.push(ReconcileError::api("remove the finalizer of a finished pod")(error));
        }
    }
    ReconcileError::collect(errors)
}

fn tell_end(io: &dyn Writes, job: &Job, end: &JobCondition) {
    let reason = end.reason.as_deref().unwrap_or("");
    let complete = end.type_ == COMPLETE;
    if complete {
        let succeeded = job.status.as_ref().and_then(|status| status.succeeded).unwrap_or(0);
        if spec(job).completions.is_some_and(|completions| succeeded > completions) {
            let text = "Too many succeeded pods running after completion count reached";
            io.record(job, EventKind::Warning, "TooManySucceededPods", text);
        }
        io.record(job, EventKind::Normal, "Completed", "Job completed");
    } else {
        io.record(job, EventKind::Warning, reason, end.message.as_deref().unwrap_or(""));
    }
    metrics::job_finished(job, complete, reason);
}

/// The writes about pods.
struct Act<'a> {
    io: &'a dyn Writes,
    memory: &'a Memory,
    key: &'a NamespacedName,
    sync: &'a Sync,
}

impl Act<'_> {
    async fn perform(&self, action: &Action) -> (Done, Option<ReconcileError>) {
        match action {
            Action::End(pods) => self.delete(pods, false).await,
            Action::Remove(pods) => self.delete(pods, true).await,
            Action::Create(indexes) => self.create(indexes).await,
            Action::Wait(_) | Action::Keep | Action::Defer => (Done::default(), None),
        }
    }

    /// Deletes pods. Those that were too many are not counted, so that their finalizer goes first and deletions are expected.
    async fn delete(&self, pods: &[Arc<Pod>], uncounted: bool) -> (Done, Option<ReconcileError>) {
        if uncounted && !pods.is_empty() {
            self.memory.expectations.expect_deletions(self.key, pods.iter().map(|pod| uid(pod).to_owned()));
        }
        let deletions = pods.iter().map(|pod| {
            let deletion = async move {
                if uncounted && is_tracked(pod) {
                    self.io.remove_finalizer(pod).await?;
                }
                self.io.delete_pod(&self.sync.job, pod).await
            };
            deletion.boxed()
        });
        let results = futures::future::join_all(deletions).await;
        let mut deleted = Vec::new();
        let mut errors = Vec::new();
        for (pod, result) in pods.iter().zip(results) {
            if uncounted && result.is_err() {
                self.memory.expectations.deletion_observed(self.key, uid(pod));
            }
            match result {
                Err(error) if !is_not_found(&error) => errors.push(ReconcileError::api("delete pod")(error)),
                _ => deleted.push(pod),
            }
        }
        let done = Done { created: 0, deleted: count(deleted.len()), deleted_ready: ready_count(deleted) };
        (done, ReconcileError::collect(errors).err())
    }

    /// Creates in batches of 1, 2, 4, ... and stops at the first batch with a failure, so that a quota that is used up costs one
    /// request and not hundreds.
    async fn create(&self, indexes: &[Option<i32>]) -> (Done, Option<ReconcileError>) {
        if indexes.is_empty() {
            return (Done::default(), None);
        }
        let job = &self.sync.job;
        let observed = |count: usize| self.memory.expectations.creations_observed(self.key, count);
        self.memory.expectations.expect_creations(self.key, indexes.len());
        let (mut left, mut batch) = (indexes, 1);
        let (mut created, mut refused) = (0, 0);
        let mut failure = None;
        while failure.is_none() && !left.is_empty() {
            let (now, later) = left.split_at(batch.min(left.len()));
            let requests = now.iter().map(|index| {
                let replaced = index.and_then(|index| self.sync.delayed.get(&index));
                let pod = pod_of(job, *index, replaced.map(AsRef::as_ref));
                async move { self.io.create_pod(job, &pod).await }.boxed()
            });
            for result in futures::future::join_all(requests).await {
                match result {
                    Ok(_) => created += 1,
                    // Nothing can be created there any more: no error, and nothing to try again.
                    Err(error) if is_namespace_terminating(&error) => {}
                    Err(error) => {
                        observed(1);
                        refused += 1;
                        failure = Some(ReconcileError::api("create pod")(error));
                    }
                }
            }
            left = later;
            batch *= 2;
        }
        observed(left.len());
        metrics::pods_created(job, self.sync.failed, self.sync.terminating, created, refused);
        (Done { created, ..Done::default() }, failure)
    }
}

/// The server's own words about a pod that could not be created or deleted.
pub(super) fn failure_text(action: &str, error: &kube::Error) -> String {
    format!("Error {action}: {}", message(error))
}
