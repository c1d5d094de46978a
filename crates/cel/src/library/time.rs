//! Timestamps and durations (cel-go's `common/types/timestamp.go` and `duration.go`); the time zone is UTC unless one is named.

use jiff::tz::{Offset, TimeZone};
use jiff::{Timestamp, Zoned};

use crate::ast::op;
use crate::eval::{EvalError, Evaluated};
use crate::value::Val;

pub(super) const TABLE: &str = "
getFullYear timestamp_to_year timestamp.() -> int
getFullYear timestamp_to_year_with_tz timestamp.(string) -> int
getMonth timestamp_to_month timestamp.() -> int
getMonth timestamp_to_month_with_tz timestamp.(string) -> int
getDayOfYear timestamp_to_day_of_year timestamp.() -> int
getDayOfYear timestamp_to_day_of_year_with_tz timestamp.(string) -> int
getDayOfMonth timestamp_to_day_of_month timestamp.() -> int
getDayOfMonth timestamp_to_day_of_month_with_tz timestamp.(string) -> int
getDate timestamp_to_day_of_month_1_based timestamp.() -> int
getDate timestamp_to_day_of_month_1_based_with_tz timestamp.(string) -> int
getDayOfWeek timestamp_to_day_of_week timestamp.() -> int
getDayOfWeek timestamp_to_day_of_week_with_tz timestamp.(string) -> int
getHours timestamp_to_hours timestamp.() -> int
getHours timestamp_to_hours_with_tz timestamp.(string) -> int
getHours duration_to_hours duration.() -> int
getMinutes timestamp_to_minutes timestamp.() -> int
getMinutes timestamp_to_minutes_with_tz timestamp.(string) -> int
getMinutes duration_to_minutes duration.() -> int
getSeconds timestamp_to_seconds timestamp.() -> int
getSeconds timestamp_to_seconds_tz timestamp.(string) -> int
getSeconds duration_to_seconds duration.() -> int
getMilliseconds timestamp_to_milliseconds timestamp.() -> int
getMilliseconds timestamp_to_milliseconds_with_tz timestamp.(string) -> int
getMilliseconds duration_to_milliseconds duration.() -> int
";

const SECOND: i128 = 1_000_000_000;
/// 0001-01-01T00:00:00Z and 9999-12-31T23:59:59Z.
const SECONDS: std::ops::RangeInclusive<i128> = -62_135_596_800..=253_402_300_799;

/// The point in time that this many nanoseconds since 1970 are.
pub(super) fn timestamp(nanoseconds: i128) -> Evaluated {
    let fits = SECONDS.contains(&nanoseconds.div_euclid(SECOND));
    let at = Timestamp::from_nanosecond(nanoseconds).ok().filter(|_| fits);
    at.map(Val::Timestamp).ok_or_else(|| EvalError::failed("timestamp overflow"))
}

fn duration(nanoseconds: i128) -> Evaluated {
    i64::try_from(nanoseconds).map(Val::Duration).map_err(|_| EvalError::failed("duration overflow"))
}

/// Seconds as cel-go writes a duration: `1.5s`.
pub(super) fn seconds(nanoseconds: i64) -> String {
    let (sign, n) = (if nanoseconds < 0 { "-" } else { "" }, nanoseconds.unsigned_abs());
    let fraction = format!("{:09}", n % 1_000_000_000);
    match fraction.trim_end_matches('0') {
        "" => format!("{sign}{}s", n / 1_000_000_000),
        fraction => format!("{sign}{}.{fraction}s", n / 1_000_000_000),
    }
}

pub(super) fn arithmetic(function: &str, args: &[Val]) -> Evaluated {
    match (function, args) {
        (op::ADD, [Val::Duration(a), Val::Duration(b)]) => duration(i128::from(*a) + i128::from(*b)),
        (op::SUBTRACT, [Val::Duration(a), Val::Duration(b)]) => duration(i128::from(*a) - i128::from(*b)),
        (op::ADD, [Val::Timestamp(at), Val::Duration(d)] | [Val::Duration(d), Val::Timestamp(at)]) => {
            timestamp(at.as_nanosecond() + i128::from(*d))
        }
        (op::SUBTRACT, [Val::Timestamp(at), Val::Duration(d)]) => timestamp(at.as_nanosecond() - i128::from(*d)),
        (op::SUBTRACT, [Val::Timestamp(a), Val::Timestamp(b)]) => duration(a.as_nanosecond() - b.as_nanosecond()),
        _ => Err(EvalError::no_overload()),
    }
}

pub(super) fn invoke(function: &str, args: &[Val]) -> Evaluated {
    match args {
        [Val::Duration(d)] => {
            let unit = match function {
                "getHours" => 3_600_000_000_000,
                "getMinutes" => 60_000_000_000,
                "getSeconds" => 1_000_000_000,
                "getMilliseconds" => 1_000_000,
                _ => return Err(EvalError::no_overload()),
            };
            Ok(Val::Int(d / unit))
        }
        [Val::Timestamp(at)] => part(function, &at.to_zoned(TimeZone::UTC)),
        [Val::Timestamp(at), Val::String(zone)] => part(function, &at.to_zoned(time_zone(zone)?)),
        _ => Err(EvalError::no_overload()),
    }
}

fn time_zone(name: &str) -> Result<TimeZone, EvalError> {
    let Some((hours, minutes)) = name.split_once(':') else {
        return apimachinery::cron::time_zone(name).map_err(|error| EvalError::failed(error.to_string()));
    };
    let invalid = || EvalError::failed(format!("invalid time zone {name}"));
    let h: i32 = hours.parse().map_err(|_| invalid())?;
    let m: i32 = minutes.parse().map_err(|_| invalid())?;
    let negative = hours.starts_with('-');
    let total = h.checked_mul(60).and_then(|h| if negative { h.checked_sub(m) } else { h.checked_add(m) });
    let offset = total.and_then(|minutes| Offset::from_seconds(minutes.checked_mul(60)?).ok());
    offset.map(TimeZone::fixed).ok_or_else(invalid)
}

fn part(function: &str, at: &Zoned) -> Evaluated {
    Ok(Val::Int(match function {
        "getFullYear" => i64::from(at.year()),
        "getMonth" => i64::from(at.month()) - 1,
        "getDayOfYear" => i64::from(at.day_of_year()) - 1,
        "getDayOfMonth" => i64::from(at.day()) - 1,
        "getDate" => i64::from(at.day()),
        "getDayOfWeek" => i64::from(at.weekday().to_sunday_zero_offset()),
        "getHours" => i64::from(at.hour()),
        "getMinutes" => i64::from(at.minute()),
        "getSeconds" => i64::from(at.second()),
        "getMilliseconds" => i64::from(at.millisecond()),
        _ => return Err(EvalError::no_overload()),
    }))
}
