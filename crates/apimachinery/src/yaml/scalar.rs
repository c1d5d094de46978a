//! What a plain scalar means.

use crate::Value;

/// Resolves an unquoted scalar as go-yaml v2 does.
pub(super) fn resolve(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" | "true" | "True" | "TRUE" => return Value::Bool(true),
        "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" | "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    if !text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.')) || looks_like_date(text) {
        return Value::from(text);
    }
    number(text).unwrap_or_else(|| Value::from(text))
}

/// Whether go-yaml would see a timestamp, which it then leaves a string.
fn looks_like_date(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() >= 8 && bytes[..4].iter().all(u8::is_ascii_digit) && bytes[4] == b'-'
}

fn number(text: &str) -> Option<Value> {
    let plain = text.replace('_', "");
    let (negative, digits) = match plain.as_bytes().first()? {
        b'-' => (true, &plain[1..]),
        b'+' => (false, &plain[1..]),
        _ => (false, plain.as_str()),
    };
    if let Some(magnitude) = integer(digits) {
        let value = if negative { -magnitude } else { magnitude };
        return Some(i64::try_from(value).map_or(Value::Float(value as f64), Value::Int));
    }
    let float: f64 = is_float(digits).then(|| plain.parse().ok()).flatten().filter(|f: &f64| f.is_finite())?;
    // A float without a fraction is an integer in JSON.
    Some(if float.fract() == 0.0 && float.abs() < 9.0e15 { Value::Int(float as i64) } else { Value::Float(float) })
}

/// Go's `ParseInt` with base 0: `0x`, `0b`, `0o`, or a leading zero for octal.
fn integer(digits: &str) -> Option<i128> {
    let lower = digits.to_ascii_lowercase();
    let (base, digits) = if let Some(rest) = lower.strip_prefix("0x") {
        (16, rest)
    } else if let Some(rest) = lower.strip_prefix("0b") {
        (2, rest)
    } else if let Some(rest) = lower.strip_prefix("0o") {
        (8, rest)
    } else if lower.len() > 1 && lower.starts_with('0') {
        (8, &lower[1..])
    } else {
        (10, lower.as_str())
    };
    let valid = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_alphanumeric());
    // What does not fit into 64 bits is a float.
    valid.then(|| i128::from_str_radix(digits, base).ok()).flatten().filter(|i| *i <= i128::from(u64::MAX))
}

/// `.5`, `1.`, `1.5e3`
fn is_float(digits: &str) -> bool {
    let (mantissa, exponent) = match digits.find(['e', 'E']) {
        Some(at) => (&digits[..at], Some(digits[at + 1..].trim_start_matches(['+', '-']))),
        None => (digits, None),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let all_digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    all_digits(whole)
        && all_digits(fraction)
        && !(whole.is_empty() && fraction.is_empty())
        && exponent.is_none_or(|e| !e.is_empty() && all_digits(e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalars_resolve_as_in_go() {
        let cases = [
            ("yes", "true"),
            ("Off", "false"),
            ("~", "null"),
            ("", "null"),
            ("1", "1"),
            ("-1", "-1"),
            ("0777", "511"),
            ("0o17", "15"),
            ("0x1F", "31"),
            ("1_000", "1000"),
            ("1.0", "1"),
            ("1.5", "1.5"),
            (".5", "0.5"),
            ("1e3", "1000"),
            ("1.2.3", "\"1.2.3\""),
            ("1Gi", "\"1Gi\""),
            ("100m", "\"100m\""),
            ("2001-01-01", "\"2001-01-01\""),
            ("10:30", "\"10:30\""),
            ("08", "8"),
            ("tRue", "\"tRue\""),
            ("+5", "5"),
            ("-", "\"-\""),
            (".", "\".\""),
            ("1e", "\"1e\""),
            ("9223372036854775808", "9223372036854776000"),
            ("0b101", "5"),
            ("nan", "\"nan\""),
            (".inf", "\".inf\""),
        ];
        for (text, json) in cases {
            assert_eq!(resolve(text).to_json(), json, "{text}");
        }
    }
}
