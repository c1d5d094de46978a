//! cronjob-controller: starts Jobs at the times of a schedule, and removes the old ones.
//!
//! [`plan`] and [`times`] decide, and are pure; [`sync`] asks and writes. The name of a Job follows from the minute for which it is started,
//! so that the server refuses a second one whatever is forgotten in between.
//!
//! Invariants: one Job at most for each scheduled time, also when the first is gone before the cache shows that it was; with `Forbid` and
//! `Replace` none is started while the status lists one that runs. Upstream's may start one while its cache is behind: here nothing is
//! started from a copy that is older than the server's.

mod plan;
mod sync;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod times;

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use async_trait::async_trait;
use client::{
    Change, Controller, EventKind, EventRecorder, NamespacedName, Outcome, ReconcileError, Store, WorkQueue, run_workers,
};
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::{Api, ResourceExt};
use prometheus::{Histogram, HistogramOpts, exponential_buckets, register_histogram};

use self::plan::{Told, spec, warning};
use self::sync::Writes;
use crate::context::{Context, now, wait_synced};
use crate::ownership::controller_of;

/// From the scheduled time to the creation of the Job: 1 s to 512 s.
static CREATION_SKEW: LazyLock<Histogram> = LazyLock::new(|| {
    let help = "Time between when a cronjob is scheduled to be run, and when the corresponding job is created";
    let buckets = exponential_buckets(1.0, 2.0, 10).expect("start, factor and count are valid constants");
    let options = HistogramOpts::new("cronjob_controller_job_creation_skew_duration_seconds", help).buckets(buckets);
    register_histogram!(options).expect("registered once per process, under a name of its own")
});

struct CronJobs {
    cron_jobs: Store<CronJob>,
    jobs: Store<Job>,
    io: Io,
}

/// The reads and writes, through the API.
struct Io {
    context: Context,
    events: EventRecorder,
}

pub(crate) async fn run(context: Context) {
    let cron_jobs = context.informers.get::<CronJob>();
    let jobs = context.informers.get::<Job>();
    jobs.store().add_controller_index();
    let queue: WorkQueue<NamespacedName> = WorkQueue::new("cronjob");
    let events = context.events("cronjob-controller");
    let (on_change, to_tell) = (queue.clone(), events.clone());
    cron_jobs.add_handler(move |change| changed(change, &on_change, &to_tell, now()));
    wait_synced!(cron_jobs);
    // Jobs are resolved to CronJobs through the CronJobs' cache, which must therefore be filled first.
    let (on_job, known) = (queue.clone(), cron_jobs.store().clone());
    jobs.add_handler(move |change| job_changed(change, &known, &on_job));
    wait_synced!(jobs);
    let workers = context.config.concurrent_cron_job_syncs;
    let controller = CronJobs {
        cron_jobs: cron_jobs.store().clone(),
        jobs: jobs.store().clone(),
        io: Io { context: context.clone(), events },
    };
    run_workers(Arc::new(controller), queue, workers, context.token).await;
}

/// A new schedule counts from its next time; any other change is looked at now.
fn changed(change: &Change<CronJob>, queue: &WorkQueue<NamespacedName>, events: &EventRecorder, now: Timestamp) {
    let key = NamespacedName::of(&**change.object());
    let Change::Updated { old, new } = change else { return queue.add(key) };
    if spec(old).schedule == spec(new).schedule && spec(old).time_zone == spec(new).time_zone {
        return queue.add(key);
    }
    match times::schedule(new) {
        Ok(schedule) => queue.add_after(key, times::until_next(new, now, &schedule)),
        Err(_) => {
            let message = format!("unparseable schedule for cronjob: {}", spec(new).schedule);
            events.record(&***new, EventKind::Warning, "UnParseableCronJobSchedule", message);
        }
    }
}

fn job_changed(change: &Change<Job>, cron_jobs: &Store<CronJob>, queue: &WorkQueue<NamespacedName>) {
    let wake = |job: &Job| {
        if let Some(owner) = controller_of(&job.metadata).filter(|owner| owner.kind == "CronJob")
            && let Some(cron_job) = cron_jobs.get(job.metadata.namespace.as_deref().unwrap_or(""), &owner.name)
            && cron_job.metadata.uid.as_ref() == Some(&owner.uid)
        {
            queue.add(NamespacedName::of(&*cron_job));
        }
    };
    if let Change::Updated { old, new } = change
        && controller_of(&old.metadata) != controller_of(&new.metadata)
    {
        wake(old);
    }
    wake(change.object());
}

#[async_trait]
impl Controller for CronJobs {
    type Key = NamespacedName;

    fn name(&self) -> &'static str {
        "cronjob-controller"
    }

    async fn reconcile(&self, key: &NamespacedName) -> Result<Outcome, ReconcileError> {
        let Some(cron_job) = self.cron_jobs.get_key(key) else { return Ok(Outcome::Done) };
        let jobs = self.jobs.by_controller(&cron_job.uid().unwrap_or_default());
        sync::sync(&self.io, (*cron_job).clone(), &jobs, now()).await
    }
}

impl Io {
    fn jobs(&self, namespace: Option<&str>) -> Api<Job> {
        self.context.api(namespace.unwrap_or(""))
    }

    fn cron_jobs(&self, namespace: Option<&str>) -> Api<CronJob> {
        self.context.api(namespace.unwrap_or(""))
    }
}

#[async_trait]
impl Writes for Io {
    async fn get_cron_job(&self, cron_job: &CronJob) -> kube::Result<CronJob> {
        self.cron_jobs(cron_job.metadata.namespace.as_deref()).get(&cron_job.name_any()).await
    }

    async fn update_status(&self, cron_job: &CronJob) -> kube::Result<CronJob> {
        let api = self.cron_jobs(cron_job.metadata.namespace.as_deref());
        api.replace_status(&cron_job.name_any(), &PostParams::default(), cron_job).await
    }

    async fn get_job(&self, namespace: &str, name: &str) -> kube::Result<Option<Job>> {
        self.jobs(Some(namespace)).get_opt(name).await
    }

    async fn create_job(&self, namespace: &str, job: &Job, at: Timestamp) -> kube::Result<Job> {
        let created = self.jobs(Some(namespace)).create(&PostParams::default(), job).await?;
        if let Some(time) = &created.metadata.creation_timestamp {
            CREATION_SKEW.observe(time.0.duration_since(at).as_secs_f64());
        }
        Ok(created)
    }

    async fn delete_job(&self, job: &Job) -> kube::Result<()> {
        let params = DeleteParams {
            preconditions: Some(Preconditions { uid: job.uid(), resource_version: None }),
            ..DeleteParams::background()
        };
        self.jobs(job.metadata.namespace.as_deref()).delete(&job.name_any(), &params).await.map(drop)
    }

    fn record(&self, cron_job: &CronJob, Told(kind, reason, message): Told) {
        self.events.record(cron_job, kind, reason, message);
    }
}

/// What became of the key.
fn outcome(next: Option<Duration>) -> Outcome {
    next.map_or(Outcome::Done, Outcome::RequeueAfter)
}

/// A failure that the user is told of.
fn failed(reason: &'static str, what: &str, error: &kube::Error) -> Told {
    warning(reason, format!("{what}: {}", crate::api_errors::message(error)))
}
