//! Tables for the decisions, and syncs against a server that fails between any two writes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use client::Outcome;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use kube::core::response::Status;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::plan::{self, Decision, Told, active, decide, job_name, observe, surplus};
use super::sync::{Writes, sync};
use super::testing::{at, cron_job, job, reference};

fn reasons(told: &[Told]) -> Vec<&'static str> {
    told.iter().map(|told| told.1).collect()
}

fn names<'j>(jobs: impl IntoIterator<Item = &'j Arc<Job>>) -> Vec<String> {
    jobs.into_iter().map(|job| job.name_any()).collect()
}

const TEN: &str = "2024-01-01T10:00:00Z";

#[test]
fn decisions() {
    let wait = |minutes: u64| Decision::Wait(Duration::from_millis(minutes * 60_000 + 100));
    let start = |replace: bool, minutes: u64| Decision::Start {
        at: at(TEN),
        replace,
        next: Duration::from_millis(minutes * 60_000 + 100),
    };
    let running = json!({"active": [reference("cron-1")]});
    let started = json!({"lastScheduleTime": TEN});
    let listed = json!({"active": [reference("cron-28401720")]});
    let spec = |more: Value| json!({"spec": more});
    let with_status = |spec: Value, status: &Value| json!({"spec": spec, "status": status});
    for (fields, now, expected, told) in [
        (json!({}), "2024-01-01T09:45:00Z", wait(15), vec![]),
        (json!({}), TEN, start(false, 60), vec![]),
        (json!({}), "2024-01-01T10:15:00Z", start(false, 45), vec![]),
        (spec(json!({"suspend": true})), TEN, Decision::Idle, vec![]),
        (json!({"metadata": {"deletionTimestamp": TEN}}), TEN, Decision::Idle, vec![]),
        (spec(json!({"timeZone": "Mars/Olympus"})), TEN, Decision::Idle, vec!["UnknownTimeZone"]),
        (spec(json!({"schedule": "* * *"})), TEN, Decision::Idle, vec!["UnparseableSchedule"]),
        (spec(json!({"schedule": "0 0 31 2 *"})), TEN, Decision::Idle, vec!["InvalidSchedule"]),
        (spec(json!({"schedule": "TZ=UTC 0 * * * *"})), TEN, start(false, 60), vec!["UnsupportedSchedule"]),
        (spec(json!({"startingDeadlineSeconds": 60})), "2024-01-01T10:00:30Z", start(false, 59), vec![]),
        (spec(json!({"startingDeadlineSeconds": 60})), "2024-01-01T10:02:00Z", wait(58), vec![]),
        (with_status(json!({}), &started), "2024-01-01T10:00:00Z", wait(60), vec![]),
        (with_status(json!({}), &listed), TEN, wait(60), vec![]),
        (with_status(json!({}), &running), TEN, start(false, 60), vec![]),
        (with_status(json!({"concurrencyPolicy": "Forbid"}), &running), TEN, wait(60), vec!["JobAlreadyActive"]),
        (with_status(json!({"concurrencyPolicy": "Forbid"}), &json!({})), TEN, start(false, 60), vec![]),
        (with_status(json!({"concurrencyPolicy": "Replace"}), &running), TEN, start(true, 60), vec![]),
    ] {
        let (mut decision, events) = decide(&cron_job(fields.clone()), at(now));
        // Half minutes are of no interest here.
        if let Decision::Start { next, .. } = &mut decision {
            *next = Duration::from_millis(u64::try_from(next.as_millis()).expect("is short") / 60_000 * 60_000 + 100);
        }
        assert_eq!((decision, reasons(&events)), (expected, told), "{fields} at {now}");
    }
}

#[test]
fn what_is_missed_is_told() {
    let missed = cron_job(json!({"spec": {"schedule": "* * * * *"}}));
    let (decision, told) = decide(&missed, at("2024-01-01T11:11:00Z"));
    assert!(matches!(decision, Decision::Start { at: time, .. } if time == at("2024-01-01T11:11:00Z")), "{decision:?}");
    assert_eq!(reasons(&told), ["TooManyMissedTimes"]);
    let (_, told) = decide(&missed, at("2024-01-01T11:10:00Z"));
    assert!(told.is_empty(), "a hundred are not too many: {told:?}");
    // A deadline shorter than a minute can be over although the time lies within the same second.
    let late = cron_job(json!({"spec": {"schedule": "* * * * *", "startingDeadlineSeconds": 3}}));
    let (decision, told) = decide(&late, at("2024-01-01T10:00:03.5Z"));
    assert!(matches!(decision, Decision::Wait(_)) && told.is_empty(), "{told:?}");
    let unzoned = cron_job(json!({"spec": {"timeZone": "Mars/Olympus"}}));
    let expected = "invalid timeZone: \"Mars/Olympus\": unknown time zone Mars/Olympus";
    assert_eq!(decide(&unzoned, at(TEN)).1[0].2, expected);
}

#[test]
fn history() {
    let jobs = [
        job("c", "Complete", Some("2024-01-01T03:00:00Z")),
        job("a", "Complete", Some("2024-01-01T01:00:00Z")),
        job("b", "Complete", Some("2024-01-01T02:00:00Z")),
        job("never", "Complete", None),
        job("f", "Failed", Some("2024-01-01T02:00:00Z")),
        job("e", "Failed", Some("2024-01-01T02:00:00Z")),
        job("running", "", None),
    ];
    for (succeeded, failed, expected) in [
        (json!(2), json!(1), vec!["a", "b", "e"]),
        (json!(0), json!(null), vec!["a", "b", "c", "never"]),
        (json!(null), json!(0), vec!["e", "f"]),
        (json!(9), json!(9), vec![]),
        (json!(null), json!(null), vec![]),
    ] {
        let limits = json!({"spec": {"successfulJobsHistoryLimit": succeeded, "failedJobsHistoryLimit": failed}});
        assert_eq!(names(&surplus(&cron_job(limits), &jobs)), expected, "{succeeded} {failed}");
    }
}

#[test]
fn observations() {
    let listed = json!({"status": {"active": [reference("done"), reference("lost"), reference("running")],
        "lastSuccessfulTime": "2024-01-01T02:00:00Z"}});
    let mut known = cron_job(listed);
    let jobs = [
        job("done", "Complete", Some("2024-01-01T03:00:00Z")),
        job("earlier", "Complete", Some("2024-01-01T01:00:00Z")),
        job("running", "", None),
        job("stray", "", None),
    ];
    let observed = observe(&mut known, &jobs, at(TEN));
    assert!(observed.changed);
    assert_eq!(observed.told, [plan::normal("SawCompletedJob", "Saw completed job: done, condition: Complete")]);
    assert_eq!(names(&observed.unexpected), ["stray"]);
    assert_eq!(observed.missing.iter().filter_map(|r| r.name.as_deref()).collect::<Vec<_>>(), ["lost"]);
    let left: Vec<_> = active(&known).filter_map(|reference| reference.name.clone()).collect();
    assert_eq!(left, ["lost", "running"]);
    let last = known.status.as_ref().and_then(|status| status.last_successful_time.as_ref());
    assert_eq!(last.map(|time| time.0), Some(at("2024-01-01T03:00:00Z")));
    let again = observe(&mut known, &jobs, at(TEN));
    assert!(!again.changed && again.told.is_empty(), "nothing new: {again:?}");
}

/// A Job serves a time if this controller made it for that time, and the time has come.
#[test]
fn only_own_jobs_serve_times() {
    let own = |time: &str| job_name(&cron_job(json!({})), at(time));
    let (past, next) = ("2024-01-01T09:00:00Z", "2024-01-01T11:00:00Z");
    for (name, time, last, expected, what) in [
        (own(TEN), TEN, None, Some(TEN), "its own"),
        (own(TEN), "2024-01-01T12:00:00+02:00", Some(past), Some(TEN), "its own in another zone"),
        (own(TEN), TEN, Some(next), Some(next), "one that is noted"),
        ("by-hand".to_owned(), TEN, Some(past), Some(past), "another name"),
        (own(past), TEN, None, None, "the name of another time"),
        (own(TEN), "at ten", None, None, "no time"),
        (own(next), next, Some(past), Some(past), "a time to come"),
    ] {
        let mut cron = cron_job(json!({"status": {"lastScheduleTime": last}}));
        let mut made = Job::clone(&job(&name, "Complete", None));
        made.annotations_mut().insert("batch.kubernetes.io/cronjob-scheduled-timestamp".to_owned(), time.to_owned());
        let observed = observe(&mut cron, &[Arc::new(made)], at(TEN));
        let noted = cron.status.and_then(|status| status.last_schedule_time).map(|time| time.0);
        assert_eq!((noted, observed.changed), (expected.map(at), expected != last), "{what}");
    }
}

#[test]
fn the_job_of_a_time() {
    let template =
        json!({"metadata": {"labels": {"a": "b"}, "annotations": {"x": "y"}}, "spec": {"parallelism": 3, "template": {}}});
    for (zone, expected) in [
        (json!(null), "2024-07-01T10:00:00Z"),
        (json!("UTC"), "2024-07-01T10:00:00Z"),
        (json!("America/New_York"), "2024-07-01T06:00:00-04:00"),
        (json!("Asia/Kathmandu"), "2024-07-01T15:45:00+05:45"),
    ] {
        let cron = cron_job(json!({"spec": {"timeZone": zone, "jobTemplate": template}}));
        let made = plan::job(&cron, at("2024-07-01T10:00:00Z"));
        assert_eq!(made.name_any(), "cron-28663800");
        let annotation = "batch.kubernetes.io/cronjob-scheduled-timestamp";
        assert_eq!(made.annotations().get(annotation).map(String::as_str), Some(expected));
        assert_eq!(made.annotations().get("x").map(String::as_str), Some("y"));
        assert_eq!(made.labels().get("a").map(String::as_str), Some("b"));
        assert_eq!(made.owner_references()[0].uid, "cron-uid");
        assert_eq!(made.spec.and_then(|spec| spec.parallelism), Some(3));
    }
}

/// A server that fails now and then, and sometimes after the write.
struct Server {
    random: u64,
    faults: bool,
    cron_job: CronJob,
    jobs: BTreeMap<String, Job>,
    /// Names of all Jobs ever made.
    made: Vec<String>,
    version: u64,
    /// Whether none may be started while another runs.
    alone: bool,
    now: Timestamp,
}

struct Api(Mutex<Server>);

fn error(code: u16, reason: &str) -> kube::Error {
    kube::Error::Api(Box::new(Status { code, reason: reason.into(), message: reason.into(), ..Default::default() }))
}

impl Server {
    fn below(&mut self, end: u64) -> u64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        (self.random.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % end
    }

    /// Whether the write is done although the answer will be an error; an error if it is not done.
    fn lost(&mut self) -> kube::Result<bool> {
        if !self.faults {
            return Ok(false);
        }
        match self.below(6) {
            0 => Err(error(500, "Refused")),
            1 => Ok(true),
            _ => Ok(false),
        }
    }
}

fn answer<T>(lost: bool, value: T) -> kube::Result<T> {
    if lost { Err(error(504, "Lost")) } else { Ok(value) }
}

#[async_trait]
impl Writes for Api {
    async fn get_cron_job(&self, _cron_job: &CronJob) -> kube::Result<CronJob> {
        Ok(self.0.lock().cron_job.clone())
    }

    async fn update_status(&self, cron_job: &CronJob) -> kube::Result<CronJob> {
        let mut server = self.0.lock();
        let lost = server.lost()?;
        if cron_job.metadata.resource_version != server.cron_job.metadata.resource_version {
            return Err(error(409, "Conflict"));
        }
        let last = |cron_job: &CronJob| cron_job.status.as_ref().and_then(|s| s.last_schedule_time.as_ref()).map(|time| time.0);
        assert!(last(cron_job) >= last(&server.cron_job), "the time of the last start never goes back");
        server.version += 1;
        server.cron_job = cron_job.clone();
        server.cron_job.metadata.resource_version = Some(server.version.to_string());
        answer(lost, server.cron_job.clone())
    }

    async fn get_job(&self, _namespace: &str, name: &str) -> kube::Result<Option<Job>> {
        Ok(self.0.lock().jobs.get(name).cloned())
    }

    async fn create_job(&self, _namespace: &str, job: &Job, _at: Timestamp) -> kube::Result<Job> {
        let mut server = self.0.lock();
        let lost = server.lost()?;
        let name = job.name_any();
        if server.jobs.contains_key(&name) {
            return Err(error(409, "AlreadyExists"));
        }
        let runs = |name: &String| server.jobs.get(name).is_some_and(|job| job.status.is_none());
        let running = active(&server.cron_job).filter_map(|reference| reference.name.as_ref()).any(runs);
        assert!(!server.alone || !running, "with Forbid and Replace none is started while the status lists one that runs");
        assert!(!server.made.contains(&name), "one Job at most for each time: {name}");
        server.made.push(name.clone());
        let mut job = job.clone();
        job.metadata.uid = Some(format!("uid-{name}"));
        job.metadata.namespace = Some("ns".into());
        job.metadata.creation_timestamp = Some(Time(server.now));
        server.jobs.insert(name, job.clone());
        answer(lost, job)
    }

    async fn delete_job(&self, job: &Job) -> kube::Result<()> {
        let mut server = self.0.lock();
        let lost = server.lost()?;
        server.jobs.remove(&job.name_any()).ok_or_else(|| error(404, "NotFound"))?;
        answer(lost, ())
    }

    fn record(&self, _cron_job: &CronJob, told: Told) {
        assert_ne!(told.1, "TooManyMissedTimes");
    }
}

/// Every minute for some hours, with a cache that is as old as it pleases, Jobs that end at once or late and are deleted by hand, and
/// syncs that fail anywhere.
async fn explore(seed: u64, policy: &str) {
    let cron = cron_job(json!({"metadata": {"resourceVersion": "0"},
        "spec": {"schedule": "*/10 * * * *", "concurrencyPolicy": policy, "successfulJobsHistoryLimit": 2 * (seed % 2)}}));
    let mut now = at(TEN);
    let server = Server {
        random: seed * 7919 + 1,
        faults: true,
        cron_job: cron.clone(),
        jobs: BTreeMap::new(),
        made: Vec::new(),
        version: 0,
        alone: policy != "Allow",
        now,
    };
    let api = Api(Mutex::new(server));
    let (mut seen_cron, mut seen_jobs) = (cron, Vec::new());
    for minute in 0..180 {
        now += SignedDuration::from_secs(60);
        {
            let mut server = api.0.lock();
            server.now = now;
            server.faults = minute < 150;
            let caught_up = minute >= 150;
            if caught_up || server.below(3) > 0 {
                seen_cron = server.cron_job.clone();
            }
            if server.below(4) == 0 {
                let end: Time = Time(now);
                let running = server.jobs.values_mut().find(|job| job.status.is_none());
                if let Some(job) = running {
                    job.status = serde_json::from_value(json!({"conditions": [{"type": "Complete", "status": "True"}],
                        "startTime": end, "completionTime": end}))
                    .expect("is a status");
                }
            }
            if !caught_up && server.below(15) == 0 {
                // By hand; one of which nothing says that it was is made again.
                let last = server.cron_job.status.as_ref().and_then(|status| status.last_schedule_time.as_ref());
                let noted = last.map(|last| job_name(&server.cron_job, last.0)).unwrap_or_default();
                if server.jobs.first_key_value().is_some_and(|(name, _)| *name <= noted) {
                    server.jobs.pop_first();
                }
            }
            if caught_up || server.below(3) > 0 {
                seen_jobs = server.jobs.values().cloned().map(Arc::new).collect();
            }
        }
        let result = sync(&api, seen_cron.clone(), &seen_jobs, now).await;
        if minute >= 150 {
            assert!(matches!(result, Ok(Outcome::RequeueAfter(_))), "without faults it waits for the next time: {result:?}");
        }
    }
    let server = api.0.lock();
    let last = server.cron_job.status.as_ref().and_then(|s| s.last_schedule_time.as_ref()).map(|time| time.0);
    let last = last.expect("has started some");
    if policy != "Forbid" {
        assert_eq!(last, at("2024-01-01T13:00:00Z"), "every time is served in the end");
        assert!(server.made.contains(&job_name(&server.cron_job, last)));
    }
    let done = server.jobs.values().filter(|job| job.status.is_some()).count();
    assert!(done <= 3, "old Jobs go: {done} are left");
}

#[tokio::test]
async fn no_time_is_served_twice_whatever_fails() {
    for seed in 1..=200 {
        for policy in ["Allow", "Forbid", "Replace"] {
            explore(seed, policy).await;
        }
    }
}
