//! The text form of schedules. Error texts are those of robfig/cron v3 and of Go's packages under it: users see them.

use std::time::Duration;

use jiff::tz::TimeZone;

use super::{Fields, Kind, STAR, time_zone};
use crate::go_quote;
use crate::time::parse_duration;

/// Why a text is no schedule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ScheduleError(String);

fn error<T>(text: impl Into<String>) -> Result<T, ScheduleError> {
    Err(ScheduleError(text.into()))
}

/// What a field may hold.
struct Bounds {
    min: u64,
    max: u64,
    names: &'static [&'static str],
    /// The number of the first name.
    first: u64,
}

const MINUTES: Bounds = Bounds { min: 0, max: 59, names: &[], first: 0 };
const HOURS: Bounds = Bounds { min: 0, max: 23, names: &[], first: 0 };
const DAYS: Bounds = Bounds { min: 1, max: 31, names: &[], first: 0 };
const MONTHS: Bounds = Bounds {
    min: 1,
    max: 12,
    names: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
    first: 1,
};
const WEEKDAYS: Bounds = Bounds { min: 0, max: 6, names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"], first: 0 };

pub(super) fn schedule(text: &str, zone: Option<TimeZone>) -> Result<Kind, ScheduleError> {
    if text.is_empty() {
        return error("empty spec string");
    }
    let (text, zone) = split_zone(text, zone)?;
    if text.starts_with('@') {
        return descriptor(text, zone);
    }
    let fields: Vec<&str> = text.split_whitespace().collect();
    let [minute, hour, day, month, weekday] = fields[..] else {
        return error(format!("expected exactly 5 fields, found {}: [{}]", fields.len(), fields.join(" ")));
    };
    Ok(Kind::Fields(Fields {
        minute: field(minute, &MINUTES)?,
        hour: field(hour, &HOURS)?,
        day: field(day, &DAYS)?,
        month: field(month, &MONTHS)?,
        weekday: field(weekday, &WEEKDAYS)?,
        zone,
    }))
}

fn split_zone(text: &str, zone: Option<TimeZone>) -> Result<(&str, TimeZone), ScheduleError> {
    let Some(rest) = text.strip_prefix("TZ=").or_else(|| text.strip_prefix("CRON_TZ=")) else {
        return Ok((text, zone.unwrap_or(TimeZone::UTC)));
    };
    let Some((name, rest)) = rest.split_once(' ') else {
        // Where robfig panics, and upstream catches it.
        return error("invalid schedule format: runtime error: slice bounds out of range [:-1]");
    };
    match time_zone(name) {
        Ok(zone) => Ok((rest.trim(), zone)),
        Err(why) => error(format!("provided bad location {name}: {why}")),
    }
}

fn descriptor(text: &str, zone: TimeZone) -> Result<Kind, ScheduleError> {
    let all = |bounds: &Bounds| bits(bounds.min, bounds.max, 1) | STAR;
    let first = |bounds: &Bounds| 1u64 << bounds.min;
    let at = |hour, day, month, weekday| {
        Ok(Kind::Fields(Fields { minute: first(&MINUTES), hour, day, month, weekday, zone: zone.clone() }))
    };
    let midnight = first(&HOURS);
    match text {
        "@yearly" | "@annually" => at(midnight, first(&DAYS), first(&MONTHS), all(&WEEKDAYS)),
        "@monthly" => at(midnight, first(&DAYS), all(&MONTHS), all(&WEEKDAYS)),
        "@weekly" => at(midnight, all(&DAYS), all(&MONTHS), first(&WEEKDAYS)),
        "@daily" | "@midnight" => at(midnight, all(&DAYS), all(&MONTHS), all(&WEEKDAYS)),
        "@hourly" => at(all(&HOURS), all(&DAYS), all(&MONTHS), all(&WEEKDAYS)),
        _ => {
            let Some(delay) = text.strip_prefix("@every ") else {
                return error(format!("unrecognized descriptor: {text}"));
            };
            let nanoseconds = match parse_duration(delay) {
                Ok(nanoseconds) => u64::try_from(nanoseconds).unwrap_or(0),
                Err(why) => return error(format!("failed to parse duration {text}: {why}")),
            };
            // Whole seconds, and at least one.
            Ok(Kind::Every(Duration::from_secs((nanoseconds / 1_000_000_000).max(1))))
        }
    }
}

/// A list of ranges.
fn field(text: &str, bounds: &Bounds) -> Result<u64, ScheduleError> {
    let ranges = text.split(',').filter(|range| !range.is_empty());
    ranges.map(|expression| range(expression, bounds)).try_fold(0, |all, bits| Ok(all | bits?))
}

/// `number`, `number-number`, `*` or `?`, each perhaps with `/step`.
fn range(text: &str, bounds: &Bounds) -> Result<u64, ScheduleError> {
    let parts: Vec<&str> = text.split('/').collect();
    let ends: Vec<&str> = parts[0].split('-').collect();
    let (start, mut end, mut star) = if matches!(ends[0], "*" | "?") {
        (bounds.min, bounds.max, STAR)
    } else {
        let start = number_or_name(ends[0], bounds)?;
        match ends[..] {
            [_] => (start, start, 0),
            [_, end] => (start, number_or_name(end, bounds)?, 0),
            _ => return error(format!("too many hyphens: {text}")),
        }
    };
    let step = match parts[..] {
        [_] => 1,
        [_, step] => {
            let step = number(step)?;
            if ends.len() == 1 {
                end = bounds.max;
            }
            if step > 1 {
                star = 0;
            }
            step
        }
        _ => return error(format!("too many slashes: {text}")),
    };
    if start < bounds.min {
        return error(format!("beginning of range ({start}) below minimum ({}): {text}", bounds.min));
    }
    if end > bounds.max {
        return error(format!("end of range ({end}) above maximum ({}): {text}", bounds.max));
    }
    if start > end {
        return error(format!("beginning of range ({start}) beyond end of range ({end}): {text}"));
    }
    if step == 0 {
        return error(format!("step of range should be a positive number: {text}"));
    }
    Ok(bits(start, end, step) | star)
}

fn number_or_name(text: &str, bounds: &Bounds) -> Result<u64, ScheduleError> {
    let lower = text.to_lowercase();
    let named = bounds.names.iter().zip(bounds.first..).find(|(name, _)| **name == lower);
    named.map_or_else(|| number(text), |(_, number)| Ok(number))
}

/// As Go's `strconv.Atoi`, with its errors.
fn number(text: &str) -> Result<u64, ScheduleError> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return error(format!("failed to parse int from {text}: strconv.Atoi: parsing {}: invalid syntax", go_quote(text)));
    }
    let Ok(number) = text.parse::<i64>() else {
        return error(format!("failed to parse int from {text}: strconv.Atoi: parsing {}: value out of range", go_quote(text)));
    };
    u64::try_from(number).or_else(|_| error(format!("negative number ({number}) not allowed: {text}")))
}

/// From start to end, both included.
fn bits(start: u64, end: u64, step: u64) -> u64 {
    let step = usize::try_from(step).unwrap_or(usize::MAX);
    (start..=end).step_by(step).fold(0, |bits, value| bits | (1 << value))
}
