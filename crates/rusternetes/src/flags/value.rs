//! How Go's flag package and pflag read single values.

use std::time::Duration;

/// Go's `strconv.ParseBool`.
pub(super) fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!("{text:?} is not a boolean")),
    }
}

/// A whole number; nothing is zero.
pub(super) fn integer(text: &str) -> Result<i64, String> {
    if text.is_empty() { Ok(0) } else { text.parse().map_err(|_| format!("{text:?} is not a whole number")) }
}

/// A number; nothing is zero.
pub(super) fn float(text: &str) -> Result<f64, String> {
    if text.is_empty() { Ok(0.0) } else { text.parse().map_err(|_| format!("{text:?} is not a number")) }
}

/// Go's `time.ParseDuration` without a sign: `300ms`, `1.5h`, `2h45m`; nothing is zero.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a duration, such as 300ms, 90s or 2h45m");
    let (mut rest, mut total) = (text, Duration::ZERO);
    if matches!(text, "" | "0") {
        return Ok(total);
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let number: f64 = rest[..digits].parse().map_err(|_| wrong())?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let seconds = match &rest[..unit] {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(wrong()),
        };
        total += Duration::try_from_secs_f64(number * seconds).map_err(|_| wrong())?;
        rest = &rest[unit..];
    }
    Ok(total)
}

/// As Go writes a duration: `1m0s`, `1h30m0s`, `500ms`.
pub(crate) fn go_duration(duration: Duration) -> String {
    let (seconds, nanos) = (duration.as_secs(), duration.subsec_nanos());
    if seconds == 0 && nanos > 0 {
        return match nanos {
            ..1_000 => format!("{nanos}ns"),
            1_000..1_000_000 => format!("{}µs", f64::from(nanos) / 1e3),
            _ => format!("{}ms", f64::from(nanos) / 1e6),
        };
    }
    let rest = f64::from(u32::try_from(seconds % 60).unwrap_or(0)) + f64::from(nanos) / 1e9;
    match (seconds / 3600, seconds / 60 % 60) {
        (0, 0) => format!("{rest}s"),
        (0, minutes) => format!("{minutes}m{rest}s"),
        (hours, minutes) => format!("{hours}h{minutes}m{rest}s"),
    }
}

/// One line of comma-separated values (RFC 4180), as pflag reads lists.
pub(super) fn list(text: &str) -> Result<Vec<String>, String> {
    let (mut fields, mut field, mut quoted) = (Vec::new(), String::new(), false);
    if text.is_empty() {
        return Ok(fields);
    }
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => field.extend(chars.next()),
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(std::mem::take(&mut field)),
            c => field.push(c),
        }
    }
    fields.push(field);
    if quoted { Err(format!("a quote is not closed in {text:?}")) } else { Ok(fields) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, seconds) in [("1m0s", 60.0), ("0", 0.0), ("", 0.0), ("1.5h", 5400.0), ("300ms", 0.3), ("2h45m", 9900.0)] {
            assert_eq!(duration(text), Ok(Duration::from_secs_f64(seconds)), "{text}");
        }
        for text in ["5", "-1s", "1d", "s"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_are_written_as_go_writes_them() {
        for text in ["1m0s", "0s", "1h30m0s", "12h0m0s", "500ms", "1.5s", "2m0.25s", "3ns", "1.5µs"] {
            assert_eq!(go_duration(duration(text).unwrap()), text);
        }
    }

    #[test]
    fn lists() {
        assert_eq!(list("a,\"b,c\",\"d\"\"e\"").unwrap(), ["a", "b,c", "d\"e"]);
        assert!(list("").unwrap().is_empty());
        assert!(list("\"a").is_err());
    }
}
