//! Which CronJobs are valid.

use apimachinery::Value;
use apimachinery::cron::{Schedule, time_zone};
use apimachinery::field::{Error, ErrorList};

use super::job;
use crate::kinds::at::At;

/// A Job's name is this one's, a dash and ten digits, and fits into a label.
const NAME_BYTES_MAX: usize = 63 - 11;

pub(super) fn create(root: &At, e: &mut ErrorList) {
    check(&root.get("spec"), None, e);
    let meta = root.get("metadata");
    if root.value.meta().name().len() > NAME_BYTES_MAX {
        meta.get("name").invalid(e, "must be no more than 52 characters");
    }
}

/// Names that are too long stay: such CronJobs come from older releases.
pub(super) fn update(root: &At, old: &Value, e: &mut ErrorList) {
    check(&root.get("spec"), Some(&old["spec"]), e);
}

fn check(spec: &At, old: Option<&Value>, e: &mut ErrorList) {
    schedule(spec, old, e);
    if let Some(seconds) = spec.set("startingDeadlineSeconds") {
        seconds.non_negative(e);
    }
    let zone = spec.get("timeZone");
    if zone.is_set() && old.is_none_or(|old| old["timeZone"] != *zone.value) {
        check_zone(&zone, e);
    }
    spec.get("concurrencyPolicy").required_one_of(e, &["Allow", "Forbid", "Replace"]);
    let template = spec.get("jobTemplate");
    let of_job = template.get("spec");
    job::spec(&of_job, e);
    if let Some(selector) = of_job.set("selector") {
        selector.invalid_selector(e, "`selector` will be auto-generated");
    }
    let manual = of_job.get("manualSelector");
    if manual.is_true() {
        e.push(Error::not_supported(&manual.path(), manual.value.clone(), &["nil", "false"]));
    }
    for limit in ["successfulJobsHistoryLimit", "failedJobsHistoryLimit"] {
        if let Some(limit) = spec.set(limit) {
            limit.non_negative(e);
        }
    }
}

fn schedule(spec: &At, old: Option<&Value>, e: &mut ErrorList) {
    let schedule = spec.get("schedule");
    if schedule.text().is_empty() {
        return schedule.require(e, "");
    }
    if let Err(why) = Schedule::parse(schedule.text()) {
        schedule.invalid(e, why.to_string());
    }
    // Those that have it may keep it.
    let had_zone = old.is_some_and(|old| old["schedule"].as_str().is_some_and(|schedule| schedule.contains("TZ")));
    match schedule.text().contains("TZ") {
        true if !had_zone => schedule.invalid(e, "cannot use TZ or CRON_TZ in schedule, use timeZone field instead"),
        true if spec.get("timeZone").is_set() => {
            schedule.invalid(e, "cannot use both timeZone field and TZ or CRON_TZ in schedule");
        }
        _ => {}
    }
}

fn check_zone(zone: &At, e: &mut ErrorList) {
    let name = zone.text();
    if name.is_empty() {
        return zone.invalid(e, "timeZone must be nil or non-empty string");
    }
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_+".contains(&byte);
    let odd = |part: &str| {
        part == "." || part == ".." || part.starts_with('-') || !(1..=14).contains(&part.len()) || !part.bytes().all(allowed)
    };
    if name.split('/').any(odd) {
        return zone.invalid(e, format!("unknown time zone {name}"));
    }
    if name.eq_ignore_ascii_case("Local") {
        zone.invalid(e, "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones");
    }
    if let Err(why) = time_zone(name) {
        zone.invalid(e, why.to_string());
    }
}
