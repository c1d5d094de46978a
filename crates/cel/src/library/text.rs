//! Strings (cel-go's `ext/strings.go`, version 2), and how values are written.

use std::sync::Arc;

use super::standard;
use crate::eval::{BYTES_MAX, ELEMENTS_MAX, EvalError, Evaluated};
use crate::value::Val;

pub(super) const TABLE: &str = "
charAt string_char_at_int string.(int) -> string
indexOf string_index_of_string string.(string) -> int
indexOf string_index_of_string_int string.(string, int) -> int
lastIndexOf string_last_index_of_string string.(string) -> int
lastIndexOf string_last_index_of_string_int string.(string, int) -> int
lowerAscii string_lower_ascii string.() -> string
replace string_replace_string_string string.(string, string) -> string
replace string_replace_string_string_int string.(string, string, int) -> string
split string_split_string string.(string) -> list(string)
split string_split_string_int string.(string, int) -> list(string)
substring string_substring_int string.(int) -> string
substring string_substring_int_int string.(int, int) -> string
trim string_trim string.() -> string
upperAscii string_upper_ascii string.() -> string
join list_join list(string).() -> string
join list_join_string list(string).(string) -> string
";

/// What version 2 of the library added.
pub(super) const TABLE_V2: &str = "
format string_format string.(list(dyn)) -> string
strings.quote strings_quote (string) -> string
";

fn out_of_range(index: i64) -> EvalError {
    EvalError::failed(format!("index out of range: {index}"))
}

pub(super) fn invoke(function: &str, args: &[Val]) -> Evaluated {
    let text = |text: String| Ok(Val::String(text.into()));
    match (function, args) {
        ("contains", [Val::String(s), Val::String(part)]) => Ok(Val::Bool(s.contains(&**part))),
        ("startsWith", [Val::String(s), Val::String(part)]) => Ok(Val::Bool(s.starts_with(&**part))),
        ("endsWith", [Val::String(s), Val::String(part)]) => Ok(Val::Bool(s.ends_with(&**part))),
        ("lowerAscii", [Val::String(s)]) => text(s.to_ascii_lowercase()),
        ("upperAscii", [Val::String(s)]) => text(s.to_ascii_uppercase()),
        ("trim", [Val::String(s)]) => text(s.trim_matches(is_space).to_owned()),
        ("charAt", [Val::String(s), Val::Int(at)]) => char_at(s, *at),
        ("indexOf", [Val::String(s), Val::String(part)]) => index_of(s, part, 0),
        ("indexOf", [Val::String(s), Val::String(part), Val::Int(from)]) => index_of(s, part, *from),
        ("lastIndexOf", [Val::String(s), Val::String(part)]) => {
            let len = s.chars().count() as i64;
            match (part.is_empty(), s.len() < part.len()) {
                (true, _) => Ok(Val::Int(len)),
                (_, true) => Ok(Val::Int(-1)),
                _ => last_index_of(s, part, len - 1),
            }
        }
        ("lastIndexOf", [Val::String(s), Val::String(part), Val::Int(from)]) => last_index_of(s, part, *from),
        ("replace", [Val::String(s), Val::String(old), Val::String(new)]) => replace(s, old, new, -1),
        ("replace", [Val::String(s), Val::String(old), Val::String(new), Val::Int(n)]) => replace(s, old, new, *n),
        ("split", [Val::String(s), Val::String(separator)]) => Ok(split(s, separator, -1)),
        ("split", [Val::String(s), Val::String(separator), Val::Int(n)]) => Ok(split(s, separator, *n)),
        ("substring", [Val::String(s), Val::Int(start)]) => {
            let len = s.chars().count() as i64;
            if *start < 0 || *start > len { Err(out_of_range(*start)) } else { Ok(slice(s, *start, len)) }
        }
        ("substring", [Val::String(s), Val::Int(start), Val::Int(end)]) => substring(s, *start, *end),
        ("strings.quote", [Val::String(s)]) => text(quote(s)),
        ("join", [Val::List(list)]) => join(list.iter(), ""),
        ("join", [Val::List(list), Val::String(separator)]) => join(list.iter(), separator),
        _ => Err(EvalError::no_overload()),
    }
}

/// Go's `unicode.IsSpace`.
fn is_space(c: char) -> bool {
    c.is_whitespace()
}

fn slice(s: &str, start: i64, end: i64) -> Val {
    let (start, count) = (start as usize, (end - start) as usize);
    Val::String(s.chars().skip(start).take(count).collect::<String>().into())
}

fn char_at(s: &str, at: i64) -> Evaluated {
    let len = s.chars().count() as i64;
    if at < 0 || at > len { Err(out_of_range(at)) } else { Ok(slice(s, at, (at + 1).min(len))) }
}

fn substring(s: &str, start: i64, end: i64) -> Evaluated {
    if start > end {
        return Err(EvalError::failed(format!("invalid substring range. start: {start}, end: {end}")));
    }
    let len = s.chars().count() as i64;
    for at in [start, end] {
        if at < 0 || at > len {
            return Err(out_of_range(at));
        }
    }
    Ok(slice(s, start, end))
}

/// The byte at which a character starts.
fn byte_of(s: &str, at: usize) -> usize {
    s.char_indices().nth(at).map_or(s.len(), |(byte, _)| byte)
}

fn index_of(s: &str, part: &str, from: i64) -> Evaluated {
    if part.is_empty() {
        return Ok(Val::Int(from));
    }
    let start = usize::try_from(from).map_err(|_| out_of_range(from))?;
    let start = byte_of(s, start);
    let found = s[start..].find(part);
    Ok(Val::Int(found.map_or(-1, |at| s[..start + at].chars().count() as i64)))
}

fn last_index_of(s: &str, part: &str, from: i64) -> Evaluated {
    if part.is_empty() {
        return Ok(Val::Int(from));
    }
    let from_chars = usize::try_from(from).map_err(|_| out_of_range(from))?;
    if from_chars >= s.chars().count() {
        return Ok(Val::Int(-1));
    }
    let end = (byte_of(s, from_chars) + part.len()).min(s.len());
    // The end may fall into a character, which then cannot be the last one of a match.
    let end = (0..=end).rev().find(|end| s.is_char_boundary(*end)).unwrap_or_default();
    let found = s[..end].rfind(part);
    Ok(Val::Int(found.map_or(-1, |at| s[..at].chars().count() as i64)))
}

fn replace(s: &str, old: &str, new: &str, n: i64) -> Evaluated {
    let count = usize::try_from(n).unwrap_or(usize::MAX);
    let matches = if old.is_empty() { s.chars().count() + 1 } else { s.matches(old).count() }.min(count);
    if matches.saturating_mul(new.len()) > BYTES_MAX {
        return Err(EvalError::CostLimit);
    }
    Ok(Val::String(s.replacen(old, new, count).into()))
}

fn split(s: &str, separator: &str, n: i64) -> Val {
    // Beyond what a list may be, it is enough to know so.
    let most = ELEMENTS_MAX + 1;
    let parts: Vec<&str> = match (n, separator.is_empty()) {
        (0, _) => Vec::new(),
        (n, false) if n < 0 => s.split(separator).take(most).collect(),
        (n, false) => s.splitn(usize::try_from(n).unwrap_or(usize::MAX).min(most), separator).collect(),
        // Go splits into characters, the rest in the last part.
        (n, true) => {
            let limit = usize::try_from(n).unwrap_or(usize::MAX).min(most);
            let mut rest = s;
            let mut parts = Vec::new();
            while let Some(c) = rest.chars().next() {
                if parts.len() + 1 == limit {
                    parts.push(rest);
                    break;
                }
                let (one, more) = rest.split_at(c.len_utf8());
                parts.push(one);
                rest = more;
            }
            parts
        }
    };
    parts.into_iter().map(Val::from).collect::<Vec<Val>>().into()
}

fn join(items: impl Iterator<Item = Val>, separator: &str) -> Evaluated {
    let mut out = String::new();
    for (i, item) in items.enumerate() {
        let Val::String(text) = &item else {
            return Err(EvalError::failed(format!("join: invalid input: {}", shown(&item))));
        };
        if i > 0 {
            out.push_str(separator);
        }
        out.push_str(text);
        if out.len() > BYTES_MAX {
            return Err(EvalError::CostLimit);
        }
    }
    Ok(Val::String(out.into()))
}

fn quote(s: &str) -> String {
    let mut out = String::with_capacity(s.len() + 2);
    out.push('"');
    for c in s.chars() {
        match c {
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A value within an error.
pub(crate) fn shown(value: &Val) -> Arc<str> {
    standard::to_string(value).map_or_else(|_| standard::type_name(value), Into::into)
}

/// Go's shortest float with an exponent where that is shorter (`strconv.FormatFloat(f, 'g', -1, 64)`).
pub(super) fn go_float(d: f64) -> String {
    if !d.is_finite() {
        return match (d.is_nan(), d > 0.0) {
            (true, _) => "NaN".to_owned(),
            (_, true) => "+Inf".to_owned(),
            _ => "-Inf".to_owned(),
        };
    }
    let scientific = format!("{d:e}");
    let Some((mantissa, exponent)) = scientific.split_once('e') else { return scientific };
    let exponent: i32 = exponent.parse().unwrap_or_default();
    if d != 0.0 && !(-4..6).contains(&exponent) {
        return go_exponent(mantissa, exponent);
    }
    format!("{d}")
}

/// Go writes at least two digits of an exponent, and its sign.
pub(super) fn go_exponent(mantissa: &str, exponent: i32) -> String {
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.unsigned_abs())
}
