//! Which changes wake which Job, and what they say about what is expected.
//!
//! Changes of pods, and of a Job's status, wait a second (upstream's SyncJobBatchPeriod) so that many of them cost one sync.

use std::sync::Arc;
use std::time::Duration;

use client::{Change, NamespacedName, Store, WorkQueue};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;

use super::memory::Memory;
use super::metrics;
use super::orphans::{Orphan, job_of};
use super::spec::{external_manager, is_finished, is_tracked, spec, uid};
use crate::label_match::Matcher;
use crate::ownership::controller_of;

const BATCH_PERIOD: Duration = Duration::from_secs(1);

pub(super) struct Wakeups {
    pub(super) jobs: Store<Job>,
    pub(super) queue: WorkQueue<NamespacedName>,
    pub(super) orphans: WorkQueue<Orphan>,
    pub(super) memory: Arc<Memory>,
}

impl Wakeups {
    pub(super) fn job(&self, change: &Change<Job>, now: Timestamp) {
        let job = change.object();
        let key = NamespacedName::of(&**job);
        let uid = job.metadata.uid.as_deref().unwrap_or("");
        match change {
            Change::Added(job) => {
                if let Some(manager) = external_manager(job) {
                    metrics::managed_by(manager);
                }
                self.queue.add(key);
            }
            // Its pods are free by then; this is for those that are not.
            Change::Updated { new, .. } if is_finished(new) => {
                self.orphans.add(Orphan::PodsOf(uid.to_owned()));
                self.queue.add(key);
            }
            Change::Updated { old, new } => {
                let asked = old.metadata.generation != new.metadata.generation;
                self.queue.add_after(key.clone(), if asked { Duration::ZERO } else { BATCH_PERIOD });
                self.deadline(&key, old, new, now);
            }
            Change::Deleted(_) => {
                self.memory.forget_finished(uid);
                self.memory.forget_backoff(&key);
                self.orphans.add(Orphan::PodsOf(uid.to_owned()));
                self.queue.add(key);
            }
        }
    }

    /// Looks again when a deadline that has changed is over.
    fn deadline(&self, key: &NamespacedName, old: &Job, new: &Job, now: Timestamp) {
        let deadline = spec(new).active_deadline_seconds;
        let started = new.status.as_ref().and_then(|status| status.start_time.as_ref());
        if let (Some(seconds), Some(started)) = (deadline, started)
            && deadline != spec(old).active_deadline_seconds
        {
            let left = SignedDuration::from_secs(seconds) - now.duration_since(started.0);
            self.queue.add_after(key.clone(), Duration::try_from(left).unwrap_or(Duration::ZERO));
        }
    }

    pub(super) fn pod(&self, change: &Change<Pod>) {
        match change {
            Change::Added(pod) => {
                metrics::pod_changed(None, Some(pod));
                if pod.metadata.deletion_timestamp.is_some() {
                    self.deleted(pod, false);
                } else {
                    self.added(pod);
                }
            }
            Change::Updated { old, new } => {
                metrics::pod_changed(Some(old), Some(new));
                self.updated(old, new);
            }
            Change::Deleted(pod) => {
                metrics::pod_changed(Some(pod), None);
                self.deleted(pod, true);
            }
        }
    }

    fn wake(&self, job: &Job) -> NamespacedName {
        let key = NamespacedName::of(job);
        self.queue.add_after(key.clone(), BATCH_PERIOD);
        key
    }

    fn added(&self, pod: &Pod) {
        if controller_of(&pod.metadata).is_none() {
            self.orphaned(pod);
            self.wake_matching(pod);
        } else if let Some(job) = job_of(pod, &self.jobs) {
            self.memory.expectations.creations_observed(&NamespacedName::of(&*job), 1);
            self.wake(&job);
        }
    }

    fn updated(&self, old: &Pod, new: &Pod) {
        if new.metadata.deletion_timestamp.is_some() {
            // Deletion counts from its start: the replacement need not wait for the grace period.
            return self.deleted(new, false);
        }
        // Not whether the old pod had the finalizer: it may have been added and removed again for a new owner in between.
        let released = !is_tracked(new);
        let wake = |job: &Job| {
            let key = self.wake(job);
            if released {
                self.memory.removal_observed(&key, uid(new));
            }
        };
        let controller_changed = controller_of(&old.metadata) != controller_of(&new.metadata);
        if controller_changed && let Some(job) = job_of(old, &self.jobs) {
            wake(&job);
        }
        if controller_of(&new.metadata).is_some() {
            if let Some(job) = job_of(new, &self.jobs) {
                wake(&job);
            }
            return;
        }
        self.orphaned(new);
        if controller_changed || old.metadata.labels != new.metadata.labels {
            self.wake_matching(new);
        }
    }

    /// `gone`: not only marked as deleted.
    fn deleted(&self, pod: &Pod, gone: bool) {
        if controller_of(&pod.metadata).is_none() {
            return self.orphaned(pod);
        }
        let Some(job) = job_of(pod, &self.jobs).filter(|job| !is_finished(job)) else {
            return self.orphaned(pod);
        };
        let key = self.wake(&job);
        self.memory.expectations.deletion_observed(&key, uid(pod));
        if gone || !is_tracked(pod) {
            self.memory.removal_observed(&key, uid(pod));
        }
    }

    /// Nobody will count the pod.
    fn orphaned(&self, pod: &Pod) {
        if is_tracked(pod) {
            self.orphans.add(Orphan::Pod(NamespacedName::of(pod)));
        }
    }

    /// A pod without controller may be adopted by whoever selects it.
    fn wake_matching(&self, pod: &Pod) {
        for job in self.jobs.list_namespace(pod.metadata.namespace.as_deref().unwrap_or("")) {
            if spec(&job).selector.as_ref().and_then(Matcher::new).is_some_and(|matcher| matcher.matches(&pod.metadata)) {
                self.wake(&job);
            }
        }
    }
}
