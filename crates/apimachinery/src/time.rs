//! Times and durations as the API writes them: metav1.Time (RFC 3339, whole seconds, UTC), metav1.MicroTime (six digits),
//! metav1.Duration (Go's duration syntax). Go's parse errors, because clients see them.

use jiff::Timestamp;

use crate::go_quote;

/// A text that is not a time or duration; the message is Go's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TimeError(String);

const LAYOUT: &str = "2006-01-02T15:04:05Z07:00";
const LAYOUT_MICRO: &str = "2006-01-02T15:04:05.000000Z07:00";

/// Parses RFC 3339, with any fraction of a second and any offset.
pub fn parse_time(text: &str) -> Result<Timestamp, TimeError> {
    parse(text, LAYOUT)
}

/// Parses RFC 3339 with exactly six digits of fraction, as metav1.MicroTime requires.
pub fn parse_micro_time(text: &str) -> Result<Timestamp, TimeError> {
    let fraction =
        text.get(19..).and_then(|rest| rest.strip_prefix('.')).map(|rest| rest.bytes().take_while(u8::is_ascii_digit).count());
    if fraction != Some(6) && parse(text, LAYOUT).is_ok() {
        let rest = text.get(19..).unwrap_or_default();
        return Err(cannot_parse(text, LAYOUT_MICRO, rest, ".000000"));
    }
    parse(text, LAYOUT_MICRO)
}

fn cannot_parse(text: &str, layout: &str, rest: &str, expected: &str) -> TimeError {
    TimeError(format!(
        "parsing time {} as {}: cannot parse {} as {}",
        go_quote(text),
        go_quote(layout),
        go_quote(rest),
        go_quote(expected)
    ))
}

/// Checks the shape `2006-01-02T15:04:05[.fraction](Z|+07:00)` itself (jiff alone accepts more), then lets jiff compute.
fn parse(text: &str, layout: &str) -> Result<Timestamp, TimeError> {
    const SHAPE: [(&str, usize); 6] = [("2006", 4), ("01", 2), ("02", 2), ("15", 2), ("04", 2), ("05", 2)];
    const SEPARATORS: [&str; 6] = ["", "-", "-", "T", ":", ":"];
    let mut rest = text;
    for ((element, width), separator) in SHAPE.into_iter().zip(SEPARATORS) {
        rest = rest.strip_prefix(separator).ok_or_else(|| cannot_parse(text, layout, rest, separator))?;
        let digits = rest.get(..width).filter(|d| d.bytes().all(|b| b.is_ascii_digit()));
        digits.ok_or_else(|| cannot_parse(text, layout, rest, element))?;
        rest = &rest[width..];
    }
    if let Some(fraction) = rest.strip_prefix('.') {
        let digits = fraction.bytes().take_while(u8::is_ascii_digit).count();
        if digits == 0 {
            return Err(cannot_parse(text, layout, rest, "Z07:00"));
        }
        rest = &fraction[digits..];
    }
    let offset = rest.as_bytes();
    let valid_offset = rest == "Z"
        || (offset.len() == 6
            && matches!(offset[0], b'+' | b'-')
            && offset[3] == b':'
            && [1, 2, 4, 5].iter().all(|i| offset[*i].is_ascii_digit()));
    if !valid_offset {
        return Err(cannot_parse(text, layout, rest, "Z07:00"));
    }
    text.parse::<Timestamp>().map_err(|_| {
        let component = out_of_range(text);
        TimeError(format!("parsing time {}: {component} out of range", go_quote(text)))
    })
}

fn out_of_range(text: &str) -> &'static str {
    let number = |range: std::ops::Range<usize>| text.get(range).and_then(|d| d.parse::<u32>().ok()).unwrap_or_default();
    if !(1..=12).contains(&number(5..7)) {
        "month"
    } else if number(11..13) > 23 {
        "hour"
    } else if number(14..16) > 59 {
        "minute"
    } else if number(17..19) > 59 {
        "second"
    } else {
        "day"
    }
}

/// Prints as metav1.Time: whole seconds, UTC.
pub fn format_time(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Prints as metav1.MicroTime: six digits of fraction, UTC.
pub fn format_micro_time(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

/// Parses Go's duration syntax (`1h30m`, `-1.5s`, `0`) to nanoseconds.
pub fn parse_duration(text: &str) -> Result<i64, TimeError> {
    let invalid = || TimeError(format!("time: invalid duration {}", go_quote(text)));
    let (negative, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let digits = |s: &str| s.bytes().take_while(u8::is_ascii_digit).count();
        let (whole, after) = rest.split_at(digits(rest));
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => after.split_at(digits(after)),
            None => ("", after),
        };
        if whole.is_empty() && fraction.is_empty() {
            return Err(invalid());
        }
        let unit_length = after.bytes().take_while(|b| *b != b'.' && !b.is_ascii_digit()).count();
        let (unit, after) = after.split_at(unit_length);
        let scale: i128 = match unit {
            "" => return Err(TimeError(format!("time: missing unit in duration {}", go_quote(text)))),
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60 * 1_000_000_000,
            "h" => 3_600 * 1_000_000_000,
            other => return Err(TimeError(format!("time: unknown unit {} in duration {}", go_quote(other), go_quote(text)))),
        };
        // 18 digits of fraction are far below a nanosecond, even of hours.
        let kept = &fraction[..fraction.len().min(18)];
        let part =
            |digits: &str| if digits.is_empty() { Ok(0) } else { digits.parse::<i64>().map(i128::from).map_err(|_| invalid()) };
        total += part(whole)? * scale + part(kept)? * scale / 10i128.pow(kept.len() as u32);
        rest = after;
    }
    i64::try_from(if negative { -total } else { total }).map_err(|_| invalid())
}

/// Prints nanoseconds as Go prints a duration: `1h30m0s`, `1.5s`, `10ms`, `0s`.
pub fn format_duration(nanoseconds: i64) -> String {
    let sign = if nanoseconds < 0 { "-" } else { "" };
    let n = nanoseconds.unsigned_abs();
    let decimal = |value: u64, unit: u64| {
        let fraction = format!("{:0width$}", value % unit, width = unit.ilog10() as usize);
        let fraction = fraction.trim_end_matches('0');
        if unit == 1 || fraction.is_empty() { format!("{}", value / unit) } else { format!("{}.{fraction}", value / unit) }
    };
    match n {
        0 => "0s".into(),
        1..1_000 => format!("{sign}{n}ns"),
        1_000..1_000_000 => format!("{sign}{}µs", decimal(n, 1_000)),
        1_000_000..1_000_000_000 => format!("{sign}{}ms", decimal(n, 1_000_000)),
        _ => {
            let (hours, minutes) = (n / 3_600_000_000_000, n / 60_000_000_000 % 60);
            let seconds = decimal(n % 60_000_000_000, 1_000_000_000);
            match (hours, minutes) {
                (0, 0) => format!("{sign}{seconds}s"),
                (0, _) => format!("{sign}{minutes}m{seconds}s"),
                _ => format!("{sign}{hours}h{minutes}m{seconds}s"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        let cases = [
            ("2020-01-02T03:04:05Z", "2020-01-02T03:04:05Z"),
            ("2020-01-02T03:04:05.999999999Z", "2020-01-02T03:04:05Z"),
            ("2020-01-02T03:04:05+02:00", "2020-01-02T01:04:05Z"),
            ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z"),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_time(text).map(format_time).as_deref(), Ok(expected));
        }
        let micro = parse_micro_time("2020-01-02T03:04:05.123456Z").map(format_micro_time);
        assert_eq!(micro.as_deref(), Ok("2020-01-02T03:04:05.123456Z"));
        let errors = [
            ("", r#"parsing time "" as "2006-01-02T15:04:05Z07:00": cannot parse "" as "2006""#),
            ("tomorrow", r#"parsing time "tomorrow" as "2006-01-02T15:04:05Z07:00": cannot parse "tomorrow" as "2006""#),
            ("2020-01-02", r#"parsing time "2020-01-02" as "2006-01-02T15:04:05Z07:00": cannot parse "" as "T""#),
            ("2020-13-02T03:04:05Z", r#"parsing time "2020-13-02T03:04:05Z": month out of range"#),
        ];
        for (text, message) in errors {
            assert_eq!(parse_time(text).expect_err(text).to_string(), message);
        }
        assert_eq!(
            parse_micro_time("2020-01-02T03:04:05Z").expect_err("no fraction").to_string(),
            r#"parsing time "2020-01-02T03:04:05Z" as "2006-01-02T15:04:05.000000Z07:00": cannot parse "Z" as ".000000""#
        );
    }

    #[test]
    fn durations() {
        let cases = [
            ("1h30m", "1h30m0s"),
            ("90s", "1m30s"),
            ("1.5s", "1.5s"),
            ("-1.5h", "-1h30m0s"),
            ("10ms", "10ms"),
            ("1500us", "1.5ms"),
            ("0", "0s"),
            ("3ns", "3ns"),
            ("1µs", "1µs"),
            ("24h", "24h0m0s"),
            (".5m", "30s"),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_duration(text).map(format_duration).as_deref(), Ok(expected), "{text}");
        }
        let errors = [
            ("", r#"time: invalid duration """#),
            ("3", r#"time: missing unit in duration "3""#),
            ("3x", r#"time: unknown unit "x" in duration "3x""#),
            ("h", r#"time: invalid duration "h""#),
            ("9999999h", r#"time: invalid duration "9999999h""#),
        ];
        for (text, message) in errors {
            assert_eq!(parse_duration(text).expect_err(text).to_string(), message);
        }
    }
}
