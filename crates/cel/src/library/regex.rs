//! Regular expressions in Go's syntax (RE2), by the `regex` crate: both match in linear time.
//!
//! The classes `\d`, `\w`, `\s` and `\b` are about ASCII in Go, and are rewritten so; `\Q...\E` and `\C` do not occur in the crate.

use crate::eval::{EvalError, Evaluated};
use crate::value::Val;

pub(super) const TABLE: &str = "
find string_find_string string.(string) -> string
findAll string_find_all_string string.(string) -> list(string)
findAll string_find_all_string_int string.(string, int) -> list(string)
";

/// What a compiled pattern may take.
const SIZE_MAX: usize = 1 << 20;

/// A compiled pattern.
#[derive(Clone, Debug)]
pub(crate) struct Pattern(regex::Regex);

impl Pattern {
    /// Compiles a pattern; the error says why it is none.
    pub(crate) fn new(pattern: &str) -> Result<Pattern, String> {
        let mut builder = regex::RegexBuilder::new(&translated(pattern));
        builder.size_limit(SIZE_MAX).dfa_size_limit(SIZE_MAX).nest_limit(200);
        builder.build().map(Pattern).map_err(|error| error.to_string())
    }
}

/// The pattern in the crate's syntax.
fn translated(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len());
    let mut chars = pattern.chars().peekable();
    let mut class = 0usize;
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('d') => out.push_str("[0-9]"),
                Some('D') => out.push_str("[^0-9]"),
                Some('w') => out.push_str("[0-9A-Za-z_]"),
                Some('W') => out.push_str("[^0-9A-Za-z_]"),
                Some('s') => out.push_str("[\\t\\n\\f\\r ]"),
                Some('S') => out.push_str("[^\\t\\n\\f\\r ]"),
                Some(b @ ('b' | 'B')) if class == 0 => out.push_str(&format!("(?-u:\\{b})")),
                Some('Q') => quoted(&mut chars, &mut out),
                Some(other) => {
                    out.push('\\');
                    out.push(other);
                }
                None => out.push('\\'),
            },
            // Inside a class Go takes an opening bracket, and pairs of `&`, `-` and `~`, for what they are.
            '[' if class > 0 && chars.peek() != Some(&':') => out.push_str("\\["),
            '[' => {
                class += 1;
                out.push('[');
                if class == 1 {
                    open_class(&mut chars, &mut out);
                }
            }
            ']' if class > 0 => {
                class -= 1;
                out.push(']');
            }
            '&' | '~' if class > 0 => {
                out.push('\\');
                out.push(c);
            }
            c => out.push(c),
        }
    }
    out
}

/// A bracket that comes first in a class belongs to it.
fn open_class(chars: &mut std::iter::Peekable<std::str::Chars>, out: &mut String) {
    if chars.peek() == Some(&'^') {
        out.extend(chars.next());
    }
    if chars.peek() == Some(&']') {
        chars.next();
        out.push_str("\\]");
    }
}

fn quoted(chars: &mut std::iter::Peekable<std::str::Chars>, out: &mut String) {
    while let Some(c) = chars.next() {
        if c == '\\' && chars.peek() == Some(&'E') {
            chars.next();
            return;
        }
        out.push_str(&regex::escape(c.encode_utf8(&mut [0; 4])));
    }
}

pub(super) fn invoke(function: &str, args: &[Val], pattern: Option<&Pattern>) -> Evaluated {
    let (Some(Val::String(text)), Some(Val::String(source))) = (args.first(), args.get(1)) else {
        return Err(EvalError::no_overload());
    };
    let compiled;
    let pattern = match pattern {
        Some(pattern) => pattern,
        None => {
            let illegal = |error: String| match function {
                "matches" => EvalError::failed(error),
                _ => EvalError::failed(format!("Illegal regex: {error}")),
            };
            compiled = Pattern::new(source).map_err(illegal)?;
            &compiled
        }
    };
    match (function, args.get(2)) {
        ("matches", None) => Ok(Val::Bool(pattern.0.is_match(text))),
        ("find", None) => Ok(Val::from(pattern.0.find(text).map_or("", |found| found.as_str()))),
        ("findAll", limit @ (None | Some(Val::Int(_)))) => {
            let limit = match limit {
                Some(Val::Int(n)) => usize::try_from(*n).unwrap_or(usize::MAX),
                _ => usize::MAX,
            };
            Ok(pattern.0.find_iter(text).take(limit).map(|found| Val::from(found.as_str())).collect::<Vec<Val>>().into())
        }
        _ => Err(EvalError::no_overload()),
    }
}
