//! What calls cost when they are made: cel-go's `interpreter/runtimecost.go` and Kubernetes' `library/cost.go`.

use crate::ast::op;
use crate::eval::EvalError;
use crate::meter::Meter;
use crate::value::{Extension, Val};

/// Making a list, a map, an object.
pub(crate) const LIST: u64 = 10;
pub(crate) const MAP: u64 = 30;
pub(crate) const STRUCT: u64 = 40;
/// Going through a string once, a character.
pub(crate) const TRAVERSAL: f64 = 0.1;
/// A character of a regular expression, for each unit of the text.
pub(crate) const REGEX: f64 = 0.25;
/// Asking for someone's rights.
pub(crate) const AUTHORIZATION: u64 = 350_000;

/// `size * factor`, rounded up, without overflow.
pub(crate) fn scaled(size: u64, factor: f64) -> u64 {
    // The conversion saturates, as upstream's does.
    (size as f64 * factor).ceil() as u64
}

/// What it costs to go through a value and all that is in it.
fn traversal(value: &Val, meter: &Meter<'_>) -> Result<u64, EvalError> {
    meter.step(1)?;
    Ok(match value {
        Val::String(s) => (s.len() as f64 * TRAVERSAL) as u64,
        Val::Bytes(b) => (b.len() as f64 * TRAVERSAL) as u64,
        Val::List(list) => list.iter().try_fold(0, |sum, item| Ok(traversal(&item, meter)?.saturating_add(sum)))?,
        Val::Map(map) => map.iter().try_fold(0, |sum: u64, (key, value)| {
            Ok(sum.saturating_add(traversal(&key, meter)?).saturating_add(traversal(&value, meter)?))
        })?,
        _ => 1,
    })
}

/// Whether what a call costs depends on its result. The work of these is linear in arguments and result.
pub(crate) fn needs_result(function: &str) -> bool {
    matches!(function, "join" | "slice" | "lists.range" | "reverse")
}

/// The cost of a call. `overload` is empty where it was not known before.
pub(crate) fn call(
    function: &str,
    overload: &str,
    args: &[Val],
    result: Option<&Val>,
    meter: &Meter<'_>,
) -> Result<u64, EvalError> {
    match (function, args) {
        ("isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf", [first, ..]) => traversal(first, meter),
        _ => Ok(flat(function, overload, args, result)),
    }
}

/// The cost of a call that does not depend on what is in lists and maps.
fn flat(function: &str, overload: &str, args: &[Val], result: Option<&Val>) -> u64 {
    let size = |i: usize| args.get(i).map_or(0, Val::cost_size);
    let walk = |i: usize, factor: f64| scaled(size(i), factor);
    match function {
        "url" | "lowerAscii" | "upperAscii" | "substring" | "trim" | "cidr" | "isIP" | "isCIDR" | "quantity" | "isQuantity"
        | "semver" | "isSemver" => walk(0, TRAVERSAL),
        "ip" if overload == "cidr_ip" => 1,
        "ip" => walk(0, TRAVERSAL),
        "replace" | "split" | "ip.isCanonical" => walk(0, 2.0 * TRAVERSAL),
        "join" => result.map_or(0, |result| scaled(result.cost_size(), 2.0 * TRAVERSAL)),
        "find" | "findAll" | "matches" => regex(size(0), size(1)),
        "containsIP" => {
            let other = if overload == "cidr_contains_ip_string" { walk(1, TRAVERSAL) } else { 0 };
            scaled(2 * size(0), TRAVERSAL) + other
        }
        "containsCIDR" => {
            let other = if overload == "cidr_contains_cidr_string" { walk(1, TRAVERSAL) } else { 0 };
            scaled(2 * size(0), TRAVERSAL) + walk(0, TRAVERSAL) + 1 + other
        }
        "validate" => match args.first() {
            Some(Val::Extension(Extension::Format(format))) => regex(size(1), format.regex_size()),
            _ => 1,
        },
        op::EQUALS if matches!(args.first(), Some(Val::Extension(_))) => 1,
        "slice" | "lists.range" | "reverse" => 1 + LIST + result.map_or(0, Val::cost_size),
        "flatten" => {
            let depth = match args.get(1) {
                Some(Val::Int(depth)) => u64::try_from(*depth).unwrap_or_default(),
                _ => 1,
            };
            (1 + LIST).saturating_add(size(0).saturating_mul(depth))
        }
        "distinct" | "sort" => compare_all(args.first()),
        op::SORT_BY_KEYS => compare_all(args.get(1)),
        "sets.contains" | "sets.intersects" => 1 + size(0).saturating_mul(size(1)),
        "sets.equivalent" => 1 + size(0).saturating_mul(size(1)).saturating_mul(2),
        _ => standard(function, overload, args),
    }
}

fn regex(text: u64, pattern: u64) -> u64 {
    scaled(text + 1, TRAVERSAL).saturating_mul(scaled(pattern, REGEX))
}

fn compare_all(list: Option<&Val>) -> u64 {
    let Some(Val::List(list)) = list else { return 1 };
    let factor = match list.get(0) {
        Some(Val::String(_) | Val::Bytes(_)) => 2.0 + TRAVERSAL,
        _ => 2.0,
    };
    let size = list.len() as f64;
    (size * size * factor) as u64 + 1 + LIST
}

fn standard(function: &str, overload: &str, args: &[Val]) -> u64 {
    let size = |i: usize| args.get(i).map_or(0, Val::cost_size);
    match (function, overload) {
        ("startsWith" | "endsWith" | "format" | "strings.quote", _) | (_, "string_to_bytes" | "bytes_to_string") => {
            scaled(size(0), TRAVERSAL)
        }
        (op::IN, "in_list") => size(1),
        (op::EQUALS | op::NOT_EQUALS, _) => scaled(size(0).min(size(1)), TRAVERSAL),
        (op::LESS | op::LESS_EQUALS | op::GREATER | op::GREATER_EQUALS, id)
            if id.ends_with("_string") || id.ends_with("_bytes") =>
        {
            scaled(size(0).min(size(1)), TRAVERSAL)
        }
        (op::ADD, "add_string" | "add_bytes") => scaled(size(0) + size(1), TRAVERSAL),
        ("contains", _) => scaled(size(0), TRAVERSAL).saturating_mul(scaled(size(1), TRAVERSAL)),
        _ => 1,
    }
}
