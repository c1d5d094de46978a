//! `format()`: texts with clauses such as `%s` (cel-go's `ext/formatting.go`), and the check of clauses against literal arguments.

use super::{standard, text, time};
use crate::ast::{Expr, Kind};
use crate::checker::Checked;
use crate::eval::{BYTES_MAX, EvalError, Evaluated};
use crate::meter::{Meter, STEP_BYTES};
use crate::source::Issue;
use crate::types::Type;
use crate::value::{List, Map, Val};

const PRECISION: usize = 6;
/// More digits than this say nothing about a float.
const PRECISION_MAX: usize = 1100;

/// A part of a format.
enum Part<'f> {
    Text(&'f str),
    Clause { kind: char, precision: usize },
}

/// The next part, and what follows it.
fn next(format: &str) -> Result<(Part<'_>, &str), String> {
    let Some(rest) = format.strip_prefix('%') else {
        let end = format.find('%').unwrap_or(format.len());
        return Ok((Part::Text(&format[..end]), &format[end..]));
    };
    if let Some(after) = rest.strip_prefix('%') {
        return Ok((Part::Text("%"), after));
    }
    if rest.is_empty() {
        return Err("unexpected end of string".to_owned());
    }
    let wrong = |why: &str| format!("could not parse formatting clause: {why}");
    let (precision, rest) = match rest.strip_prefix('.') {
        None => (PRECISION, rest),
        Some(after) => {
            let digits = after.bytes().take_while(u8::is_ascii_digit).count();
            if digits == after.len() {
                return Err(wrong("error while parsing precision: could not find end of precision specifier"));
            }
            let number: usize = after[..digits].parse().map_err(|_| {
                let quoted = apimachinery::go_quote(&after[..digits]);
                let why = if digits == 0 { "invalid syntax" } else { "value out of range" };
                wrong(&format!(
                    "error while parsing precision: error while converting precision to integer: strconv.Atoi: parsing {quoted}: {why}"
                ))
            })?;
            (number.min(PRECISION_MAX), &after[digits..])
        }
    };
    let mut chars = rest.chars();
    match chars.next() {
        Some(kind @ ('s' | 'd' | 'f' | 'e' | 'b' | 'x' | 'X' | 'o')) => Ok((Part::Clause { kind, precision }, chars.as_str())),
        Some(other) => Err(wrong(&format!("unrecognized formatting clause \"{other}\""))),
        None => Err("unexpected end of string".to_owned()),
    }
}

/// What a clause cannot be used on.
fn refusal(kind: char, type_name: &str) -> String {
    let only = match kind {
        'd' => "decimal clause can only be used on integers",
        'f' => "fixed-point clause can only be used on doubles",
        'e' => "scientific clause can only be used on doubles",
        'b' => "only integers and bools can be formatted as binary",
        'x' | 'X' => "only integers, byte buffers, and strings can be formatted as hex",
        'o' => "octal clause can only be used on integers",
        _ => {
            "string clause can only be used on strings, bools, bytes, ints, doubles, maps, lists, types, durations, and timestamps"
        }
    };
    format!("error during formatting: {only}, was given {type_name}")
}

/// The text that is written, within what one value and the evaluation may take.
struct Out<'m> {
    text: String,
    /// Of the sub-texts as well that are put in order before they are written.
    bytes: usize,
    meter: &'m Meter<'m>,
}

impl Out<'_> {
    fn count(&mut self, bytes: usize) -> Result<(), EvalError> {
        self.meter.step(1 + bytes / STEP_BYTES)?;
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes > BYTES_MAX { Err(EvalError::CostLimit) } else { Ok(()) }
    }

    fn push(&mut self, text: &str) -> Result<(), EvalError> {
        self.count(text.len())?;
        self.text.push_str(text);
        Ok(())
    }
}

pub(super) fn invoke(args: &[Val], meter: &Meter<'_>) -> Evaluated {
    let [Val::String(format), Val::List(values)] = args else { return Err(EvalError::no_overload()) };
    let (mut rest, mut out, mut at) = (&**format, Out { text: String::new(), bytes: 0, meter }, 0);
    while !rest.is_empty() {
        let (part, after) = next(rest).map_err(EvalError::failed)?;
        match part {
            Part::Text(text) => out.push(text)?,
            Part::Clause { kind, precision } => {
                let value = values.get(at).ok_or_else(|| EvalError::failed(format!("index {at} out of range")))?;
                let is_written = match kind {
                    's' => string(&value, &mut out)?,
                    _ => match clause(kind, precision, &value) {
                        Some(text) => out.push(&text).map(|()| true)?,
                        None => false,
                    },
                };
                if !is_written {
                    return Err(EvalError::failed(refusal(kind, &standard::type_name(&value))));
                }
                at += 1;
            }
        }
        rest = after;
    }
    Ok(Val::String(out.text.into()))
}

fn hex(bytes: &[u8], upper: bool) -> String {
    bytes.iter().map(|b| if upper { format!("{b:02X}") } else { format!("{b:02x}") }).collect()
}

/// An integer in a base, with its sign before it.
fn signed(i: i64, digits: impl Fn(u64) -> String) -> String {
    format!("{}{}", if i < 0 { "-" } else { "" }, digits(i.unsigned_abs()))
}

fn clause(kind: char, precision: usize, value: &Val) -> Option<String> {
    let upper = kind == 'X';
    let radix = |u: u64| match kind {
        'b' => format!("{u:b}"),
        'o' => format!("{u:o}"),
        'X' => format!("{u:X}"),
        _ => format!("{u:x}"),
    };
    Some(match (kind, value) {
        ('d', Val::Int(i)) => i.to_string(),
        ('d', Val::Uint(u)) => u.to_string(),
        ('f', Val::Double(d)) if d.is_finite() => grouped(&format!("{d:.precision$}")),
        ('e', Val::Double(d)) if d.is_finite() => scientific(*d, precision),
        ('f' | 'e', Val::Double(d)) => not_finite(*d),
        ('f' | 'e', Val::String(s)) if matches!(&**s, "NaN" | "Infinity" | "-Infinity") => not_finite(if **s == *"NaN" {
            f64::NAN
        } else if s.starts_with('-') {
            f64::NEG_INFINITY
        } else {
            f64::INFINITY
        }),
        ('b', Val::Bool(b)) => if *b { "1" } else { "0" }.to_owned(),
        ('b' | 'o' | 'x' | 'X', Val::Int(i)) => signed(*i, radix),
        ('b' | 'o' | 'x' | 'X', Val::Uint(u)) => radix(*u),
        ('x' | 'X', Val::String(s)) => hex(s.as_bytes(), upper),
        ('x' | 'X', Val::Bytes(b)) => hex(b, upper),
        _ => return None,
    })
}

fn not_finite(d: f64) -> String {
    if d.is_nan() {
        "NaN"
    } else if d > 0.0 {
        "∞"
    } else {
        "-∞"
    }
    .to_owned()
}

/// Digits in groups of three, as the English locale has them.
fn grouped(text: &str) -> String {
    let (sign, digits) = text.strip_prefix('-').map_or(("", text), |digits| ("-", digits));
    let (whole, fraction) = digits.split_once('.').map_or((digits, None), |(whole, fraction)| (whole, Some(fraction)));
    let mut out = String::from(sign);
    for (i, digit) in whole.chars().enumerate() {
        if i > 0 && (whole.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    if let Some(fraction) = fraction {
        out.push('.');
        out.push_str(fraction);
    }
    out
}

/// As the English locale has it: `1.5\u{202f}×\u{202f}10⁰³`.
fn scientific(d: f64, precision: usize) -> String {
    let text = format!("{d:.precision$e}");
    let Some((mantissa, exponent)) = text.split_once('e') else { return text };
    let exponent: i32 = exponent.parse().unwrap_or_default();
    let digits: String = format!("{:02}", exponent.unsigned_abs())
        .chars()
        .map(|c| ['⁰', '¹', '²', '³', '⁴', '⁵', '⁶', '⁷', '⁸', '⁹'][c.to_digit(10).unwrap_or_default() as usize])
        .collect();
    format!("{mantissa}\u{202f}×\u{202f}10{}{digits}", if exponent < 0 { "⁻" } else { "" })
}

/// Writes a value as `%s` does; `false` for what cannot be written so.
fn string(value: &Val, out: &mut Out<'_>) -> Result<bool, EvalError> {
    match value {
        Val::Null => out.push("null")?,
        Val::List(list) => return within_list(list, out),
        Val::Map(map) => return within_map(map, out),
        Val::Extension(_) | Val::Optional(_) => return Ok(false),
        Val::String(text) => out.push(text)?,
        value => match standard::to_string(value) {
            Ok(text) => out.push(&text)?,
            Err(_) => return Ok(false),
        },
    }
    Ok(true)
}

fn within_list(list: &List, out: &mut Out<'_>) -> Result<bool, EvalError> {
    out.push("[")?;
    for (i, item) in list.iter().enumerate() {
        if i > 0 {
            out.push(", ")?;
        }
        if !within(&item, out)? {
            return Ok(false);
        }
    }
    out.push("]").map(|()| true)
}

fn within_map(map: &Map, out: &mut Out<'_>) -> Result<bool, EvalError> {
    // In the order of the keys as they are written, which differ where the keys do.
    let mut entries = Vec::new();
    for (key, value) in map.iter() {
        let start = out.text.len();
        if !within(&key, out)? {
            return Ok(false);
        }
        entries.push((out.text.split_off(start), value));
    }
    entries.sort_by(|(a, _), (b, _)| a.cmp(b));
    out.push("{")?;
    for (i, (key, value)) in entries.iter().enumerate() {
        if i > 0 {
            out.push(", ")?;
        }
        out.push(key)?;
        out.push(":")?;
        if !within(value, out)? {
            return Ok(false);
        }
    }
    out.push("}").map(|()| true)
}

/// A value inside a list or map, written so that its type shows.
fn within(value: &Val, out: &mut Out<'_>) -> Result<bool, EvalError> {
    let text = match value {
        Val::String(s) => apimachinery::go_quote(s),
        Val::Bytes(b) => format!("b{}", apimachinery::go_quote(&String::from_utf8_lossy(b))),
        Val::Double(d) if d.is_finite() => format!("{d:.PRECISION$}"),
        Val::Double(d) => apimachinery::go_quote(&text::go_float(*d)),
        Val::Timestamp(at) => format!("timestamp({})", apimachinery::go_quote(&standard::rfc3339(*at))),
        Val::Duration(d) => format!("duration({})", apimachinery::go_quote(&time::seconds(*d))),
        other => return string(other, out),
    };
    out.push(&text).map(|()| true)
}

/// Checks the clauses of a literal format against a literal list of arguments.
pub(crate) fn check(checked: &Checked, call: &Expr, format: &str, args: &[Expr]) -> Option<Issue> {
    let at = |expr: &Expr, message: String| Some(Issue { offset: expr.pos, message });
    let (mut rest, mut used) = (format, 0);
    while !rest.is_empty() {
        let (part, after) = match next(rest) {
            Ok(next) => next,
            Err(message) => return at(call, message),
        };
        if let Part::Clause { kind, .. } = part {
            let Some(arg) = args.get(used) else { return at(call, format!("index {used} out of range")) };
            if let Some(bad) = misfit(checked, kind, arg) {
                return at(bad, refusal(kind, checked.type_of(bad).name()));
            }
            used += 1;
        }
        rest = after;
    }
    let given = args.len();
    if given > used {
        return at(call, format!("too many arguments supplied to string.format (expected {used}, got {given})"));
    }
    None
}

/// The expression that a clause cannot be used on.
fn misfit<'e>(checked: &Checked, kind: char, arg: &'e Expr) -> Option<&'e Expr> {
    let t = checked.type_of(arg);
    let fits = match (kind, t) {
        (_, Type::Dyn) => true,
        ('s', t) => !matches!(t, Type::Opaque(..) | Type::Struct(_) | Type::Error | Type::Any),
        ('d' | 'o', t) => matches!(t, Type::Int | Type::Uint),
        ('f' | 'e', t) => matches!(t, Type::Double),
        ('b', t) => matches!(t, Type::Bool | Type::Int | Type::Uint),
        (_, t) => matches!(t, Type::Int | Type::Uint | Type::String | Type::Bytes),
    };
    if !fits {
        return Some(arg);
    }
    match (kind, &*arg.kind) {
        ('s', Kind::List(elements, _)) => elements.iter().find_map(|element| misfit(checked, kind, element)),
        ('s', Kind::Map(entries)) => {
            entries.iter().find_map(|entry| misfit(checked, kind, &entry.key).or_else(|| misfit(checked, kind, &entry.value)))
        }
        _ => None,
    }
}
