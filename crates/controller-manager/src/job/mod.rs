//! job-controller: runs pods to completion (KEP-2214 Indexed Jobs, KEP-2307 tracking with finalizers, and those named beside each rule).
//!
//! [`assess`](assess::assess) says what the pods mean, [`plan`](plan::plan) what to do about them, [`track`](track::track) how to count
//! them; all are pure. [`sync`](sync::sync) performs it in an order that may stop anywhere.
//!
//! Invariants: no finished pod is counted twice or forgotten; counts never go back (but for an Indexed Job that is made smaller);
//! never more pods than `parallelism` are active by our doing. `model.rs` tries them with conflicts, restarts and a cache that lags.
//!
//! Two things differ from upstream, where it contradicts its own API documentation: the deadline of a Job that was suspended counts
//! from when it goes on, and `status.active` is not 0 while a replacement waits for its back-off.

mod assess;
mod backoff;
mod failure_policy;
mod indexes;
mod intervals;
mod memory;
mod metrics;
#[cfg(test)]
mod model;
mod orphans;
mod plan;
#[cfg(test)]
mod plan_tests;
mod pods;
mod spec;
mod success_policy;
mod sync;
#[cfg(test)]
mod testing;
mod track;
mod wakeups;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use client::{
    Controller, EventKind, EventRecorder, NamespacedName, Outcome, RateLimiter, ReconcileError, Store, WorkQueue, run_workers,
};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, ResourceExt};
use serde_json::json;

use self::assess::Seen;
use self::memory::Memory;
use self::orphans::{Orphan, Orphans};
use self::spec::{TRACKING_FINALIZER, external_manager, is_finished};
use self::sync::Writes;
use crate::api_errors::{is_namespace_terminating, is_not_found};
use crate::context::{Context, now, wait_synced};
use crate::label_match::Matcher;
use crate::ownership::claim_all_with_finalizer;

/// Back-off of a failed sync (upstream's DefaultJobApiBackOff and MaxJobApiBackOff).
const RETRY: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);

struct Jobs {
    jobs: Store<Job>,
    pods: Store<Pod>,
    memory: Arc<Memory>,
    io: Io,
}

/// The writes, through the API.
#[derive(Clone)]
struct Io {
    context: Context,
    events: EventRecorder,
}

pub(crate) async fn run(context: Context) {
    let jobs = context.informers.get::<Job>();
    let pods = context.informers.get::<Pod>();
    pods.store().add_controller_index();
    let queue = WorkQueue::with_limiter("job", RateLimiter::item(RETRY, RETRY_MAX));
    let orphan_queue: WorkQueue<Orphan> = WorkQueue::with_limiter("job_orphan_pod", RateLimiter::item(RETRY, RETRY_MAX));
    let memory = Arc::new(Memory::default());
    let wakeups = Arc::new(wakeups::Wakeups {
        jobs: jobs.store().clone(),
        queue: queue.clone(),
        orphans: orphan_queue.clone(),
        memory: Arc::clone(&memory),
    });
    let on_job = Arc::clone(&wakeups);
    jobs.add_handler(move |change| on_job.job(change, now()));
    wait_synced!(jobs);
    // Pods are resolved to Jobs through the Jobs' cache, which must therefore be filled first.
    pods.add_handler(move |change| wakeups.pod(change));
    wait_synced!(pods);
    let io = Io { events: context.events("job-controller"), context: context.clone() };
    let (jobs, pods) = (jobs.store().clone(), pods.store().clone());
    let orphans = Orphans { jobs: jobs.clone(), pods: pods.clone(), io: Arc::new(io.clone()) };
    let workers = context.config.concurrent_job_syncs;
    let controller = Jobs { jobs, pods, memory, io };
    tokio::join!(
        run_workers(Arc::new(controller), queue, workers, context.token.clone()),
        run_workers(Arc::new(orphans), orphan_queue, workers, context.token.clone()),
    );
}

#[async_trait]
impl Controller for Jobs {
    type Key = NamespacedName;

    fn name(&self) -> &'static str {
        "job-controller"
    }

    async fn reconcile(&self, key: &NamespacedName) -> Result<Outcome, ReconcileError> {
        let Some(job) = self.jobs.get_key(key) else {
            self.memory.forget(key);
            return Ok(Outcome::Done);
        };
        if external_manager(&job).is_some() {
            return Ok(Outcome::Done);
        }
        let uid = job.uid().unwrap_or_default();
        if is_finished(&job) {
            self.memory.forget_backoff(key);
            self.memory.forget_finished(&uid);
            return Ok(Outcome::Done);
        }
        // Either way the cache has still to show what was written, and wakes the Job then.
        if self.memory.is_finished(&uid) || self.memory.is_behind(key, &job) {
            return Ok(Outcome::Done);
        }
        if !matches!(spec::spec(&job).completion_mode.as_deref(), None | Some("NonIndexed" | "Indexed")) {
            let message = "Skipped Job sync because completion mode is unknown";
            self.io.events.record(&*job, EventKind::Warning, "UnknownCompletionMode", message);
            return Ok(Outcome::Done);
        }
        // What is expected must be read before the pods: what shows up in between is then only expected in vain.
        let cache_is_current = self.memory.expectations.satisfied(key);
        let removals_expected = self.memory.removals_expected(key);
        let pods = self.claim(&job, &uid, &key.namespace).await?;
        let backoff = self.memory.backoff(key);
        let seen = Seen { job: (*job).clone(), pods, removals_expected, cache_is_current, backoff, now: now() };
        sync::sync(&self.io, &self.memory, key, seen).await
    }
}

impl Jobs {
    /// The Job's pods, after adoption of those that match and release of those that do not.
    async fn claim(&self, job: &Job, uid: &str, namespace: &str) -> Result<Vec<Arc<Pod>>, ReconcileError> {
        let Some(matcher) = spec::spec(job).selector.as_ref().and_then(Matcher::new) else {
            return Err(ReconcileError::Invalid("selector cannot be parsed".into()));
        };
        let mut candidates = self.pods.by_controller(uid);
        candidates.extend(self.pods.orphans(namespace));
        let client = &self.io.context.client;
        claim_all_with_finalizer(client, job, |meta| matcher.matches(meta), candidates, Some(TRACKING_FINALIZER)).await
    }
}

impl Io {
    fn pods(&self, namespace: Option<&str>) -> Api<Pod> {
        self.context.api(namespace.unwrap_or(""))
    }
}

#[async_trait]
impl Writes for Io {
    async fn create_pod(&self, job: &Job, pod: &Pod) -> kube::Result<Pod> {
        let result = self.pods(job.metadata.namespace.as_deref()).create(&PostParams::default(), pod).await;
        match &result {
            Ok(pod) => {
                self.record(job, EventKind::Normal, "SuccessfulCreate", &format!("Created pod: {}", pod.name_any()));
            }
            Err(error) if is_namespace_terminating(error) => {}
            Err(error) => self.record(job, EventKind::Warning, "FailedCreate", &sync::failure_text("creating", error)),
        }
        result
    }

    async fn delete_pod(&self, job: &Job, pod: &Pod) -> kube::Result<()> {
        let params =
            DeleteParams { preconditions: Some(Preconditions { uid: pod.uid(), resource_version: None }), ..Default::default() };
        let result = self.pods(pod.metadata.namespace.as_deref()).delete(&pod.name_any(), &params).await;
        match &result {
            Ok(_) => self.record(job, EventKind::Normal, "SuccessfulDelete", &format!("Deleted pod: {}", pod.name_any())),
            Err(error) if is_not_found(error) => {}
            Err(error) => self.record(job, EventKind::Warning, "FailedDelete", &sync::failure_text("deleting", error)),
        }
        result.map(drop)
    }

    async fn remove_finalizer(&self, pod: &Pod) -> kube::Result<()> {
        // The UID makes the patch fail if the name was taken over by another pod.
        let patch = json!({"metadata": {"uid": pod.uid(), "$deleteFromPrimitiveList/finalizers": [TRACKING_FINALIZER]}});
        let api = self.pods(pod.metadata.namespace.as_deref());
        api.patch(&pod.name_any(), &PatchParams::default(), &Patch::Strategic(patch)).await.map(drop)
    }

    async fn update_status(&self, job: &Job) -> kube::Result<Job> {
        let api: Api<Job> = self.context.api(job.metadata.namespace.as_deref().unwrap_or(""));
        api.replace_status(&job.name_any(), &PostParams::default(), job).await
    }

    fn record(&self, job: &Job, kind: EventKind, reason: &str, message: &str) {
        self.events.record(job, kind, reason, message);
    }
}
