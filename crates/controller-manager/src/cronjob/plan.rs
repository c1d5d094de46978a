//! What a CronJob's Jobs mean for it, and whether another is to be started. Pure.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use client::EventKind;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, Job, JobCondition};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::ResourceExt;

use super::times;
use crate::ownership::controller_reference;

/// The time for which a Job was started.
const SCHEDULED_AT: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";

static NO_SPEC: LazyLock<CronJobSpec> = LazyLock::new(CronJobSpec::default);

/// An event to be recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Told(pub(super) EventKind, pub(super) &'static str, pub(super) String);

pub(super) fn normal(reason: &'static str, message: impl Into<String>) -> Told {
    Told(EventKind::Normal, reason, message.into())
}

pub(super) fn warning(reason: &'static str, message: impl Into<String>) -> Told {
    Told(EventKind::Warning, reason, message.into())
}

pub(super) fn spec(cron_job: &CronJob) -> &CronJobSpec {
    cron_job.spec.as_ref().unwrap_or(&NO_SPEC)
}

fn uid(job: &Job) -> &str {
    job.metadata.uid.as_deref().unwrap_or("")
}

pub(super) fn active(cron_job: &CronJob) -> impl Iterator<Item = &ObjectReference> {
    cron_job.status.iter().flat_map(|status| status.active.iter().flatten())
}

pub(super) fn is_active(cron_job: &CronJob, uid: &str) -> bool {
    active(cron_job).any(|reference| reference.uid.as_deref() == Some(uid))
}

/// Takes a Job out of the list of those that run.
pub(super) fn deactivate(cron_job: &mut CronJob, uid: &str) {
    if let Some(status) = &mut cron_job.status {
        let active = status.active.take().unwrap_or_default();
        let left: Vec<_> = active.into_iter().filter(|reference| reference.uid.as_deref() != Some(uid)).collect();
        status.active = Some(left).filter(|left| !left.is_empty());
    }
}

fn finished(job: &Job) -> Option<&JobCondition> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|c| matches!(c.type_.as_str(), "Complete" | "Failed") && c.status == "True")
}

/// The time that a Job serves, if the status does not know yet that it was served. Users make Jobs with this annotation as well, by hand
/// or from a copy: it counts only where the name says that this controller made it.
fn unnoted(cron_job: &CronJob, job: &Job) -> Option<Timestamp> {
    let at = job.annotations().get(SCHEDULED_AT)?.parse().ok()?;
    let last = cron_job.status.as_ref().and_then(|status| status.last_schedule_time.as_ref()).map(|time| time.0);
    (job.name_any() == job_name(cron_job, at) && last.is_none_or(|last| at > last)).then_some(at)
}

/// Finished Jobs beyond the history that is kept, the oldest first. One that the status does not know of stays until it does: else its
/// time would be served again.
pub(super) fn surplus(cron_job: &CronJob, jobs: &[Arc<Job>]) -> Vec<Arc<Job>> {
    let spec = spec(cron_job);
    let beyond = |type_: &str, limit: Option<i32>| {
        let Some(limit) = limit else { return Vec::new() };
        let mut ended: Vec<Arc<Job>> =
            jobs.iter().filter(|job| finished(job).is_some_and(|condition| condition.type_ == type_)).cloned().collect();
        let started = |job: &Job| job.status.as_ref().and_then(|status| status.start_time.as_ref()).map(|time| time.0);
        // Those that never started come last.
        ended.sort_by_key(|job| (started(job).is_none(), started(job), job.name_any()));
        ended.truncate(ended.len().saturating_sub(usize::try_from(limit).unwrap_or(0)));
        ended.retain(|job| unnoted(cron_job, job).is_none());
        ended
    };
    let mut all = beyond("Complete", spec.successful_jobs_history_limit);
    all.extend(beyond("Failed", spec.failed_jobs_history_limit));
    all
}

/// What the Jobs change in the CronJob's status, and what is to be asked of the server because the cache does not know.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Observed {
    pub(super) changed: bool,
    pub(super) told: Vec<Told>,
    /// Jobs that run and are not in the list.
    pub(super) unexpected: Vec<Arc<Job>>,
    /// In the list, but not in the cache.
    pub(super) missing: Vec<ObjectReference>,
}

pub(super) fn observe(cron_job: &mut CronJob, jobs: &[Arc<Job>], now: Timestamp) -> Observed {
    let mut observed = Observed::default();
    for job in jobs {
        // A time that is yet to come would keep all before it from being served.
        if let Some(at) = unnoted(cron_job, job).filter(|at| *at <= now) {
            // The process ended between the Job and the status.
            cron_job.status.get_or_insert_default().last_schedule_time = Some(Time(at));
            observed.changed = true;
        }
        let listed = is_active(cron_job, uid(job));
        let Some(end) = finished(job) else {
            if !listed {
                observed.unexpected.push(Arc::clone(job));
            }
            continue;
        };
        if listed {
            deactivate(cron_job, uid(job));
            let message = format!("Saw completed job: {}, condition: {}", job.name_any(), end.type_);
            observed.told.push(normal("SawCompletedJob", message));
            observed.changed = true;
        }
        if end.type_ == "Complete" {
            observed.changed |= note_success(cron_job, job);
        }
    }
    let known = |reference: &ObjectReference| jobs.iter().any(|job| reference.uid.as_deref() == Some(uid(job)));
    observed.missing = active(cron_job).filter(|reference| !known(reference)).cloned().collect();
    observed
}

/// Whether this was the latest success.
fn note_success(cron_job: &mut CronJob, job: &Job) -> bool {
    let Some(ended) = job.status.as_ref().and_then(|status| status.completion_time.clone()) else { return false };
    let status = cron_job.status.get_or_insert_default();
    let later = status.last_successful_time.as_ref().is_none_or(|known| ended.0 > known.0);
    if later {
        status.last_successful_time = Some(ended);
    }
    later
}

/// What to do now.
#[derive(Debug, PartialEq)]
pub(super) enum Decision {
    /// Nothing until the CronJob changes.
    Idle,
    /// Nothing until the next time.
    Wait(Duration),
    /// Start the Job of this time, after those that run are deleted if it is to replace them; then wait.
    Start { at: Timestamp, replace: bool, next: Duration },
}

/// What to do, and what to tell.
pub(super) fn decide(cron_job: &CronJob, now: Timestamp) -> (Decision, Vec<Told>) {
    let mut told = Vec::new();
    let decision = decide_telling(cron_job, now, &mut told).unwrap_or_else(|why| {
        told.push(why);
        Decision::Idle
    });
    (decision, told)
}

/// Errors are what the user did wrong.
fn decide_telling(cron_job: &CronJob, now: Timestamp, told: &mut Vec<Told>) -> Result<Decision, Told> {
    let spec = spec(cron_job);
    if cron_job.metadata.deletion_timestamp.is_some() {
        return Ok(Decision::Idle);
    }
    if let Some(Err(why)) = times::zone(cron_job) {
        let name = apimachinery::go_quote(spec.time_zone.as_deref().unwrap_or(""));
        return Err(warning("UnknownTimeZone", format!("invalid timeZone: {name}: {why}")));
    }
    if spec.suspend == Some(true) {
        return Ok(Decision::Idle);
    }
    if times::names_zone(cron_job) {
        told.push(warning("UnsupportedSchedule", unsupported(&spec.schedule)));
    }
    let quoted = apimachinery::go_quote(&spec.schedule);
    let schedule = times::schedule(cron_job)
        .map_err(|why| warning("UnparseableSchedule", format!("unparseable schedule: {quoted} : {why}")))?;
    let due = times::due(cron_job, now, &schedule, true)
        .map_err(|why| warning("InvalidSchedule", format!("invalid schedule: {} : {why}", spec.schedule)))?;
    let next = times::until_next(cron_job, now, &schedule);
    let Some(at) = due.latest.filter(|latest| *latest <= now) else { return Ok(Decision::Wait(next)) };
    if due.too_many_missed() {
        let message = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
        told.push(warning("TooManyMissedTimes", message));
    }
    let late = |seconds: i64| now.duration_since(at) > SignedDuration::from_secs(seconds);
    if spec.starting_deadline_seconds.is_some_and(late) {
        let time = jiff::fmt::strtime::format("%a, %d %b %Y %H:%M:%S +0000", at).unwrap_or_else(|_| at.to_string());
        told.push(warning("MissSchedule", format!("Missed scheduled time to start a job: {time}")));
        return Ok(Decision::Wait(next));
    }
    if is_started(cron_job, at) {
        return Ok(Decision::Wait(next));
    }
    if forbids_concurrency(cron_job) && active(cron_job).next().is_some() {
        let message = "Not starting job because prior execution is running and concurrency policy is Forbid";
        told.push(normal("JobAlreadyActive", message));
        return Ok(Decision::Wait(next));
    }
    Ok(Decision::Start { at, replace: spec.concurrency_policy.as_deref() == Some("Replace"), next })
}

fn forbids_concurrency(cron_job: &CronJob) -> bool {
    spec(cron_job).concurrency_policy.as_deref() == Some("Forbid")
}

fn unsupported(schedule: &str) -> String {
    let page = "https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/";
    let quoted = apimachinery::go_quote(schedule);
    format!("CRON_TZ or TZ used in schedule {quoted} is not officially supported, see {page} for more details")
}

/// Whether the Job of this time was started already.
fn is_started(cron_job: &CronJob, at: Timestamp) -> bool {
    let name = job_name(cron_job, at);
    let last = cron_job.status.as_ref().and_then(|status| status.last_schedule_time.as_ref());
    let named = |reference: &ObjectReference| {
        reference.name.as_ref() == Some(&name) && reference.namespace == cron_job.metadata.namespace
    };
    last.is_some_and(|last| last.0 == at) || active(cron_job).any(named)
}

/// One name for each minute, so that the Job of a time can be made once only.
pub(super) fn job_name(cron_job: &CronJob, at: Timestamp) -> String {
    format!("{}-{}", cron_job.name_any(), at.as_second().div_euclid(60))
}

/// The Job to start for a time.
pub(super) fn job(cron_job: &CronJob, at: Timestamp) -> Job {
    let template = &spec(cron_job).job_template;
    let meta = template.metadata.clone().unwrap_or_default();
    let mut annotations = meta.annotations.unwrap_or_default();
    annotations.insert(SCHEDULED_AT.into(), scheduled_at(cron_job, at));
    Job {
        metadata: ObjectMeta {
            name: Some(job_name(cron_job, at)),
            labels: meta.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![controller_reference(cron_job)]),
            ..Default::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// RFC 3339 in the CronJob's time zone.
fn scheduled_at(cron_job: &CronJob, at: Timestamp) -> String {
    let zone = times::zone(cron_job).and_then(Result::ok).unwrap_or(jiff::tz::TimeZone::UTC);
    let offset = zone.to_offset(at);
    let format = if offset.is_zero() { "%Y-%m-%dT%H:%M:%SZ" } else { "%Y-%m-%dT%H:%M:%S%:z" };
    jiff::fmt::strtime::format(format, &at.to_zoned(zone)).unwrap_or_else(|_| at.to_string())
}

/// The Job runs: into the status with it.
pub(super) fn note_start(cron_job: &mut CronJob, reference: ObjectReference, at: Timestamp) {
    let status = cron_job.status.get_or_insert_default();
    status.active.get_or_insert_default().push(reference);
    status.last_schedule_time = Some(Time(at));
}
