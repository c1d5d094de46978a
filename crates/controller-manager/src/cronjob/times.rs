//! When a CronJob was last due, and when it is due next. Pure.

use std::time::Duration;

use apimachinery::cron::{Schedule, ScheduleError, TimeZoneError, time_zone};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::CronJob;

use super::plan::spec;

/// Added to a wait, so that a clock that is a little fast does not find itself too early (upstream's nextScheduleDelta).
const MARGIN: SignedDuration = SignedDuration::from_millis(100);
/// More missed times than this are worth a warning.
const MISSED_MAX: i64 = 100;

/// A schedule that never comes, such as on 31 February.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("time difference between two schedules is less than 1 second")]
pub(super) struct NeverDue;

/// The last time that a Job should have been started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Due {
    /// From when times count.
    pub(super) since: Timestamp,
    pub(super) latest: Option<Timestamp>,
    /// About how many times were missed; 0 if this is the only one.
    pub(super) missed: i64,
}

impl Due {
    pub(super) fn too_many_missed(&self) -> bool {
        self.missed > MISSED_MAX
    }
}

/// The schedule in its time zone. One that names a zone itself keeps it; new CronJobs may not.
pub(super) fn schedule(cron_job: &CronJob) -> Result<Schedule, ScheduleError> {
    let spec = spec(cron_job);
    match zone(cron_job) {
        Some(Ok(zone)) if !names_zone(cron_job) => Schedule::parse_in(&spec.schedule, zone),
        _ => Schedule::parse(&spec.schedule),
    }
}

pub(super) fn names_zone(cron_job: &CronJob) -> bool {
    spec(cron_job).schedule.contains("TZ")
}

pub(super) fn zone(cron_job: &CronJob) -> Option<Result<jiff::tz::TimeZone, TimeZoneError>> {
    spec(cron_job).time_zone.as_deref().map(time_zone)
}

/// The last time that was due, of those since the last start (or the creation), and with `deadline` of those that may still start.
///
/// How many were missed is estimated from the distance of the first two, so that a clock which is off by years costs nothing.
pub(super) fn due(cron_job: &CronJob, now: Timestamp, schedule: &Schedule, deadline: bool) -> Result<Due, NeverDue> {
    let status = cron_job.status.as_ref();
    let started = status.and_then(|status| status.last_schedule_time.as_ref()).or(cron_job.metadata.creation_timestamp.as_ref());
    let mut since = started.map_or(Timestamp::UNIX_EPOCH, |time| time.0);
    if let Some(seconds) = spec(cron_job).starting_deadline_seconds.filter(|_| deadline) {
        let limit = now.checked_sub(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MIN);
        since = since.max(limit);
    }
    let first = schedule.next(since).ok_or(NeverDue)?;
    if now < first {
        return Ok(Due { since, latest: None, missed: 0 });
    }
    let second = schedule.next(first).ok_or(NeverDue)?;
    if now < second {
        return Ok(Due { since, latest: Some(first), missed: 0 });
    }
    let step = (second.duration_since(first) + SignedDuration::from_millis(500)).as_secs();
    if step < 1 {
        return Err(NeverDue);
    }
    let missed = now.duration_since(first).as_secs() / step + 1;
    // A step back, and from there by the schedule itself, since its steps need not be equal.
    let near = first.checked_add(SignedDuration::from_secs((missed - 2).saturating_mul(step))).map_err(|_| NeverDue)?;
    let mut latest = None;
    let mut next = schedule.next(near);
    while let Some(time) = next.filter(|time| *time <= now) {
        latest = Some(time);
        next = schedule.next(time);
    }
    Ok(Due { since, latest, missed })
}

/// How long until the next time.
pub(super) fn until_next(cron_job: &CronJob, now: Timestamp, schedule: &Schedule) -> Duration {
    let from = match due(cron_job, now, schedule, false) {
        Ok(Due { latest: Some(latest), .. }) => latest,
        Ok(Due { since, missed: 0, .. }) => since,
        Ok(_) | Err(NeverDue) => now,
    };
    let next = schedule.next(from).map(|next| next.duration_since(now) + MARGIN);
    next.and_then(|left| Duration::try_from(left).ok()).unwrap_or(Duration::ZERO)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{at, cron_job};
    use super::*;
    use serde_json::json;

    fn check_due(fields: serde_json::Value, now: &str, expected: Result<(Option<&str>, i64), NeverDue>) {
        let cron_job = cron_job(fields.clone());
        let schedule = schedule(&cron_job).expect("is a schedule");
        let found = due(&cron_job, at(now), &schedule, true).map(|due| (due.latest, due.missed));
        assert_eq!(found, expected.map(|(latest, missed)| (latest.map(at), missed)), "{fields} at {now}");
    }

    #[test]
    fn the_last_time() {
        let hourly = |more: serde_json::Value| {
            let mut fields =
                json!({"metadata": {"creationTimestamp": "2024-01-01T09:30:00Z"}, "spec": {"schedule": "0 * * * *"}});
            fields.as_object_mut().expect("is an object").extend(more.as_object().cloned().unwrap_or_default());
            fields
        };
        let started = |time: &str| json!({"status": {"lastScheduleTime": time}});
        check_due(hourly(json!({})), "2024-01-01T09:59:59Z", Ok((None, 0)));
        check_due(hourly(json!({})), "2024-01-01T10:00:00Z", Ok((Some("2024-01-01T10:00:00Z"), 0)));
        check_due(hourly(json!({})), "2024-01-01T10:59:00Z", Ok((Some("2024-01-01T10:00:00Z"), 0)));
        check_due(hourly(json!({})), "2024-01-01T12:10:00Z", Ok((Some("2024-01-01T12:00:00Z"), 3)));
        check_due(hourly(started("2024-01-01T12:00:00Z")), "2024-01-01T12:10:00Z", Ok((None, 0)));
        check_due(hourly(started("2024-01-01T12:00:00Z")), "2024-01-09T12:10:00Z", Ok((Some("2024-01-09T12:00:00Z"), 192)));
        // The deadline cuts off what is too late to start.
        let deadline = |seconds: i64| {
            json!({"metadata": {"creationTimestamp": "2024-01-01T09:30:00Z"},
                "spec": {"schedule": "0 * * * *", "startingDeadlineSeconds": seconds}})
        };
        check_due(deadline(300), "2024-01-05T10:10:00Z", Ok((None, 0)));
        check_due(deadline(700), "2024-01-05T10:10:00Z", Ok((Some("2024-01-05T10:00:00Z"), 0)));
        check_due(deadline(7300), "2024-01-05T10:00:00Z", Ok((Some("2024-01-05T10:00:00Z"), 3)));
    }

    #[test]
    fn uneven_and_impossible_schedules() {
        let on =
            |schedule: &str| json!({"metadata": {"creationTimestamp": "2024-01-01T00:00:00Z"}, "spec": {"schedule": schedule}});
        // The first two times are four hours apart, then a weekend follows, over which the estimate is too high: nothing is due.
        check_due(on("30 6-16/4 * * 1-5"), "2024-01-05T15:00:00Z", Ok((Some("2024-01-05T14:30:00Z"), 27)));
        check_due(on("30 6-16/4 * * 1-5"), "2024-01-08T06:00:00Z", Ok((None, 42)));
        check_due(on("@every 1h30m"), "2024-01-01T05:00:00Z", Ok((Some("2024-01-01T04:30:00Z"), 3)));
        check_due(on("59 23 31 2 *"), "2024-03-01T00:00:00Z", Err(NeverDue));
    }

    #[test]
    fn the_next_time() {
        let check = |fields: serde_json::Value, now: &str, expected_ms: u128| {
            let cron_job = cron_job(fields.clone());
            let left = until_next(&cron_job, at(now), &schedule(&cron_job).expect("is a schedule"));
            assert_eq!(left.as_millis(), expected_ms, "{fields} at {now}");
        };
        let on =
            |schedule: &str| json!({"metadata": {"creationTimestamp": "2024-01-01T00:00:00Z"}, "spec": {"schedule": schedule}});
        check(on("0 * * * *"), "2024-01-01T00:10:00Z", 50 * 60_000 + 100);
        check(on("0 * * * *"), "2024-01-01T05:10:00Z", 50 * 60_000 + 100);
        check(on("@every 1h30m"), "2024-01-01T05:00:00Z", 60 * 60_000 + 100);
        check(on("59 23 31 2 *"), "2024-03-01T00:00:00Z", 0);
        let zoned = json!({"metadata": {"creationTimestamp": "2024-01-01T00:00:00Z"},
            "spec": {"schedule": "0 9 * * *", "timeZone": "Asia/Tokyo"}});
        check(zoned, "2024-01-01T23:00:00Z", 60 * 60_000 + 100);
    }
}
