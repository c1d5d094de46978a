//! ttl-after-finished-controller: deletes finished Jobs after `ttlSecondsAfterFinished` (KEP-592).

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use async_trait::async_trait;
use client::{Change, Controller, NamespacedName, Outcome, ReconcileError, Store, WorkQueue, run_workers};
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use kube::api::{DeleteParams, Preconditions};
use kube::{Api, ResourceExt};
use prometheus::{Histogram, HistogramOpts, exponential_buckets, register_histogram};

use crate::api_errors::ignore_not_found;
use crate::context::{Context, now, wait_synced};

/// 100 ms to 14 minutes.
static DELETION_SECONDS: LazyLock<Histogram> = LazyLock::new(|| {
    let help = "The time it took to delete the job since it became eligible for deletion";
    let buckets = exponential_buckets(0.1, 2.0, 14).expect("start, factor and count are valid constants");
    let options = HistogramOpts::new("ttl_after_finished_controller_job_deletion_duration_seconds", help).buckets(buckets);
    register_histogram!(options).expect("registered once per process, under a name of its own")
});

struct TtlAfterFinished {
    context: Context,
    jobs: Store<Job>,
}

pub(crate) async fn run(context: Context) {
    let jobs = context.informers.get::<Job>();
    let queue: WorkQueue<NamespacedName> = WorkQueue::new("ttl_jobs_to_delete");
    let on_job = queue.clone();
    jobs.add_handler(move |change| {
        let job = change.object();
        if !matches!(change, Change::Deleted(_)) && plan(job, now()) != Plan::Keep {
            on_job.add(NamespacedName::of(&**job));
        }
    });
    wait_synced!(jobs);
    let controller = TtlAfterFinished { jobs: jobs.store().clone(), context: context.clone() };
    let workers = context.config.concurrent_ttl_after_finished_syncs;
    run_workers(Arc::new(controller), queue, workers, context.token).await;
}

#[derive(Debug, PartialEq)]
enum Plan {
    Keep,
    Wait(Duration),
    /// It could have been deleted for so long.
    Delete(Duration),
}

fn plan(job: &Job, now: Timestamp) -> Plan {
    let Some(ttl) = job.spec.as_ref().and_then(|spec| spec.ttl_seconds_after_finished) else {
        return Plan::Keep;
    };
    let Some(finished) = finished_at(job).filter(|_| job.metadata.deletion_timestamp.is_none()) else {
        return Plan::Keep;
    };
    let left_ms = i128::from(ttl) * 1000 - now.duration_since(finished).as_millis();
    let milliseconds = |ms: u128| Duration::from_millis(u64::try_from(ms).unwrap_or(u64::MAX));
    if left_ms > 0 {
        Plan::Wait(milliseconds(left_ms.unsigned_abs()))
    } else {
        Plan::Delete(milliseconds(left_ms.unsigned_abs()))
    }
}

fn finished_at(job: &Job) -> Option<Timestamp> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    let finished = conditions
        .iter()
        .find(|condition| matches!(condition.type_.as_str(), "Complete" | "Failed") && condition.status == "True")?;
    finished.last_transition_time.as_ref().map(|time| time.0)
}

#[async_trait]
impl Controller for TtlAfterFinished {
    type Key = NamespacedName;

    fn name(&self) -> &'static str {
        "ttl-after-finished-controller"
    }

    async fn reconcile(&self, key: &NamespacedName) -> Result<Outcome, ReconcileError> {
        let Some(cached) = self.jobs.get_key(key) else { return Ok(Outcome::Done) };
        match plan(&cached, now()) {
            Plan::Keep => return Ok(Outcome::Done),
            Plan::Wait(left) => return Ok(Outcome::RequeueAfter(left)),
            Plan::Delete(_) => {}
        }
        // The TTL may have been raised since: ask the server before deleting.
        let api: Api<Job> = self.context.api(&key.namespace);
        let fresh = api.get_opt(&key.name).await.map_err(ReconcileError::api("get job"))?;
        let Some(fresh) = fresh else { return Ok(Outcome::Done) };
        match plan(&fresh, now()) {
            Plan::Keep => Ok(Outcome::Done),
            Plan::Wait(left) => Ok(Outcome::RequeueAfter(left)),
            Plan::Delete(late) => {
                let params = DeleteParams {
                    preconditions: Some(Preconditions { uid: fresh.uid(), resource_version: None }),
                    ..DeleteParams::foreground()
                };
                let result = api.delete(&key.name, &params).await;
                ignore_not_found(result).map_err(ReconcileError::api("delete finished job"))?;
                DELETION_SECONDS.observe(late.as_secs_f64());
                Ok(Outcome::Done)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn finished_jobs_go_after_their_time() {
        let condition = |type_: &str| json!([{"type": type_, "status": "True", "lastTransitionTime": "2024-01-01T00:00:00Z"}]);
        let job = |ttl: Value, conditions: Value| -> Job {
            let value = json!({"spec": {"template": {}, "ttlSecondsAfterFinished": ttl}, "status": {"conditions": conditions}});
            serde_json::from_value(value).expect("is a job")
        };
        for (job, now, expected) in [
            (job(json!(null), condition("Complete")), "2024-01-01T00:01:40Z", Plan::Keep),
            (job(json!(100), condition("Suspended")), "2024-01-01T00:01:40Z", Plan::Keep),
            (job(json!(100), condition("Complete")), "2024-01-01T00:01:30Z", Plan::Wait(Duration::from_secs(10))),
            (job(json!(100), condition("Failed")), "2024-01-01T00:01:40Z", Plan::Delete(Duration::ZERO)),
            (job(json!(0), condition("Complete")), "2024-01-01T00:00:05Z", Plan::Delete(Duration::from_secs(5))),
        ] {
            assert_eq!(plan(&job, now.parse().expect("is a time")), expected, "{job:?}");
        }
    }
}
