//! One sync of a CronJob: clean up, observe, start. The status is written once, at the end.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use client::{Outcome, ReconcileError, object_reference};
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use kube::ResourceExt;

use super::plan::{self, Decision, Told, active, deactivate, decide, is_active, normal, note_start, observe, surplus, warning};
use super::{failed, outcome};
use crate::api_errors::{is_already_exists, is_namespace_terminating, is_not_found};
use crate::ownership::is_controlled_by;

/// The reads and writes of a sync, apart so that they can be made to fail between any two.
#[async_trait]
pub(super) trait Writes: Send + Sync {
    async fn get_cron_job(&self, cron_job: &CronJob) -> kube::Result<CronJob>;
    /// Only if nobody has written the CronJob meanwhile.
    async fn update_status(&self, cron_job: &CronJob) -> kube::Result<CronJob>;
    async fn get_job(&self, namespace: &str, name: &str) -> kube::Result<Option<Job>>;
    /// `at` is the time for which it is made.
    async fn create_job(&self, namespace: &str, job: &Job, at: Timestamp) -> kube::Result<Job>;
    /// In the background, and only if it is still this very Job.
    async fn delete_job(&self, job: &Job) -> kube::Result<()>;
    fn record(&self, cron_job: &CronJob, told: Told);
}

/// How long a cache that is behind is left alone.
const CATCH_UP: Duration = Duration::from_secs(1);

/// The CronJob with the status to be.
struct Working<'a> {
    io: &'a dyn Writes,
    cron_job: CronJob,
    changed: bool,
}

/// Runs a sync on a copy from the cache and the Jobs that the CronJob controls.
pub(super) async fn sync(
    io: &dyn Writes,
    cron_job: CronJob,
    jobs: &[Arc<Job>],
    now: Timestamp,
) -> Result<Outcome, ReconcileError> {
    let mut working = Working { io, cron_job, changed: false };
    for job in surplus(&working.cron_job, jobs) {
        // What fails is told, and tried again with the next change.
        let _removed = working.delete(&job).await;
    }
    let result = working.run(jobs, now).await;
    if working.changed {
        io.update_status(&working.cron_job).await.map_err(ReconcileError::api("update status"))?;
    }
    result.map(outcome)
}

impl Working<'_> {
    fn tell(&self, told: impl IntoIterator<Item = Told>) {
        told.into_iter().for_each(|told| self.io.record(&self.cron_job, told));
    }

    fn namespace(&self) -> String {
        self.cron_job.namespace().unwrap_or_default()
    }

    async fn delete(&mut self, job: &Job) -> Result<(), ReconcileError> {
        if let Err(error) = self.io.delete_job(job).await
            && !is_not_found(&error)
        {
            self.tell([failed("FailedDelete", "Deleted job", &error)]);
            return Err(ReconcileError::api("delete job")(error));
        }
        deactivate(&mut self.cron_job, job.metadata.uid.as_deref().unwrap_or(""));
        self.tell([normal("SuccessfulDelete", format!("Deleted job {}", job.name_any()))]);
        self.changed = true;
        Ok(())
    }

    /// Returns how long to wait.
    async fn run(&mut self, jobs: &[Arc<Job>], now: Timestamp) -> Result<Option<Duration>, ReconcileError> {
        let observed = observe(&mut self.cron_job, jobs, now);
        self.changed |= observed.changed;
        self.tell(observed.told);
        for job in observed.unexpected {
            self.explain(&job, jobs, now).await?;
        }
        for reference in observed.missing {
            let (namespace, name) = (reference.namespace.as_deref().unwrap_or(""), reference.name.as_deref().unwrap_or(""));
            // The cache may only be late.
            let found = self.io.get_job(namespace, name).await.map_err(ReconcileError::api("get job"))?;
            if found.is_none() {
                self.tell([normal("MissingJob", format!("Active job went missing: {name}"))]);
                deactivate(&mut self.cron_job, reference.uid.as_deref().unwrap_or(""));
                self.changed = true;
            }
        }
        let (decision, told) = decide(&self.cron_job, now);
        self.tell(told);
        match decision {
            Decision::Idle => Ok(None),
            Decision::Wait(next) => Ok(Some(next)),
            Decision::Start { at, replace, next } => {
                if self.is_behind().await? {
                    // The cache's next change wakes this one; the time is for a change that was seen just now.
                    return Ok(Some(CATCH_UP));
                }
                if replace {
                    self.replace_active().await?;
                }
                self.start(at).await.map(|()| Some(next))
            }
        }
    }

    /// A Job runs that the status does not list: either the cache is behind on the status, or this is news.
    async fn explain(&mut self, job: &Job, jobs: &[Arc<Job>], now: Timestamp) -> Result<(), ReconcileError> {
        let uid = job.metadata.uid.as_deref().unwrap_or("");
        if is_active(&self.cron_job, uid) {
            return Ok(());
        }
        let fresh = self.io.get_cron_job(&self.cron_job).await.map_err(ReconcileError::api("get cron job"))?;
        if !is_active(&fresh, uid) {
            let message = format!("Saw a job that the controller did not create or forgot: {}", job.name_any());
            self.tell([warning("UnexpectedJob", message)]);
            return Ok(());
        }
        self.cron_job = fresh;
        // What was observed belongs to the copy that was too old.
        self.changed = observe(&mut self.cron_job, jobs, now).changed;
        Ok(())
    }

    /// Whether the copy from the cache is older than the server's, which may list a Job that runs, or say that the time was served by one
    /// that is gone already.
    async fn is_behind(&self) -> Result<bool, ReconcileError> {
        let fresh = self.io.get_cron_job(&self.cron_job).await.map_err(ReconcileError::api("get cron job"))?;
        Ok(fresh.metadata.resource_version != self.cron_job.metadata.resource_version)
    }

    async fn replace_active(&mut self) -> Result<(), ReconcileError> {
        let running: Vec<_> = active(&self.cron_job).cloned().collect();
        for reference in running {
            let (namespace, name) = (reference.namespace.as_deref().unwrap_or(""), reference.name.as_deref().unwrap_or(""));
            match self.io.get_job(namespace, name).await {
                Ok(Some(job)) => self.delete(&job).await?,
                Ok(None) => {
                    deactivate(&mut self.cron_job, reference.uid.as_deref().unwrap_or(""));
                    self.changed = true;
                }
                Err(error) => {
                    self.tell([failed("FailedGet", "Get job", &error)]);
                    return Err(ReconcileError::api("get job")(error));
                }
            }
        }
        Ok(())
    }

    async fn start(&mut self, at: Timestamp) -> Result<(), ReconcileError> {
        let wanted = plan::job(&self.cron_job, at);
        let namespace = self.namespace();
        let job = match self.io.create_job(&namespace, &wanted, at).await {
            Ok(job) => {
                self.tell([normal("SuccessfulCreate", format!("Created job {}", job.name_any()))]);
                job
            }
            Err(error) if is_already_exists(&error) => {
                let found = self.io.get_job(&namespace, &wanted.name_any()).await.map_err(ReconcileError::api("get job"))?;
                let own = |job: &Job| is_controlled_by(&job.metadata, self.cron_job.metadata.uid.as_deref().unwrap_or(""));
                // It was made before the status could be written; one of somebody else is theirs.
                let Some(job) = found.filter(own) else { return Ok(()) };
                if is_active(&self.cron_job, job.metadata.uid.as_deref().unwrap_or("")) {
                    return Ok(());
                }
                job
            }
            Err(error) => {
                if !is_namespace_terminating(&error) {
                    self.tell([failed("FailedCreate", "Error creating job", &error)]);
                }
                return Err(ReconcileError::api("create job")(error));
            }
        };
        note_start(&mut self.cron_job, object_reference(&job), at);
        self.changed = true;
        Ok(())
    }
}
