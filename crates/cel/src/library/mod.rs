//! The functions of CEL and of Kubernetes: their declarations, each with the minor version that introduced it, and what they do.
//!
//! A module a library: a table of declarations, and a function that answers for its names. What a function may not do with the types
//! that it is given is cel-go's `no such overload`.

mod authz;
pub(crate) mod format;
mod format_string;
mod lists;
mod net;
mod optional;
mod quantity;
pub(crate) mod regex;
pub(crate) mod semver;
mod standard;
pub(crate) mod text;
mod time;
mod urls;

pub(crate) use format_string::check as check_format;

use crate::ast::op;
use crate::eval::{BYTES_MAX, ELEMENTS_MAX, EvalError, Evaluated};
use crate::meter::Meter;
use crate::value::{MapKey, Val};
use regex::Pattern;

/// The tables of all libraries, in upstream's order, with the minor version of Kubernetes that they are there from.
pub(crate) const TABLES: &[(u8, &str)] = &[
    (0, standard::TABLE),
    (0, time::TABLE),
    (0, urls::TABLE),
    (0, regex::TABLE),
    (0, lists::TABLE),
    (27, authz::TABLE),
    (28, optional::TABLE),
    (28, quantity::TABLE),
    (0, text::TABLE),
    (29, text::TABLE_V2),
    (29, lists::SETS),
    (30, net::TABLE),
    (31, format::TABLE),
    (31, authz::SELECTORS),
    (32, lists::TWO_VARIABLES),
    (33, semver::TABLE),
    (34, lists::TABLE_V3),
];

/// Calls a function. `pattern` is the pattern among the arguments, where it was known beforehand.
pub(crate) fn invoke(function: &str, args: &[Val], pattern: Option<&Pattern>, meter: &Meter<'_>) -> Evaluated {
    args.iter().try_for_each(|arg| meter.visit(arg))?;
    let value = within_bounds(dispatch(function, args, pattern, meter)?)?;
    // These give a part of what they were given.
    if !matches!(function, "value" | "first" | "last" | "max" | "min") {
        meter.made(&value, args, matches!(function, "split" | "findAll" | "getQuery"))?;
    }
    Ok(value)
}

fn dispatch(function: &str, args: &[Val], pattern: Option<&Pattern>, meter: &Meter<'_>) -> Evaluated {
    match function {
        op::NOT | op::NEGATE | op::ADD | op::SUBTRACT | op::MULTIPLY | op::DIVIDE | op::MODULO => {
            standard::operator(function, args)
        }
        op::EQUALS | op::NOT_EQUALS | op::LESS | op::LESS_EQUALS | op::GREATER | op::GREATER_EQUALS | op::IN => {
            standard::relation(function, args, meter)
        }
        "size" => standard::size(args),
        "type" | "bool" | "bytes" | "double" | "dyn" | "duration" | "int" | "string" | "timestamp" | "uint" => {
            standard::convert(function, args)
        }
        "matches" | "find" | "findAll" => regex::invoke(function, args, pattern, meter),
        "contains" | "endsWith" | "startsWith" | "charAt" | "lowerAscii" | "upperAscii" | "replace" | "split" | "substring"
        | "trim" | "strings.quote" | "join" => text::invoke(function, args),
        "indexOf" | "lastIndexOf" => match args {
            [Val::String(_), ..] => text::invoke(function, args),
            _ => lists::invoke(function, args, meter),
        },
        "format" => format_string::invoke(args, meter),
        "isSorted"
        | "sum"
        | "max"
        | "min"
        | "slice"
        | "flatten"
        | "sort"
        | op::SORT_BY_KEYS
        | "lists.range"
        | "reverse"
        | "distinct"
        | "sets.contains"
        | "sets.equivalent"
        | "sets.intersects" => lists::invoke(function, args, meter),
        op::MAP_INSERT => lists::map_insert(args),
        "optional.of"
        | "optional.ofNonZeroValue"
        | "optional.none"
        | "value"
        | "hasValue"
        | "last"
        | "first"
        | "optional.unwrap"
        | "unwrapOpt" => optional::invoke(function, args),
        "getFullYear" | "getMonth" | "getDayOfYear" | "getDayOfMonth" | "getDate" | "getDayOfWeek" | "getHours"
        | "getMinutes" | "getSeconds" | "getMilliseconds" => time::invoke(function, args),
        _ => kubernetes(function, args),
    }
}

/// Functions of Kubernetes' own types.
fn kubernetes(function: &str, args: &[Val]) -> Evaluated {
    match function {
        "url" | "isURL" | "getScheme" | "getHost" | "getHostname" | "getPort" | "getEscapedPath" | "getQuery" => {
            urls::invoke(function, args)
        }
        "isGreaterThan" | "isLessThan" | "compareTo" => match args {
            [Val::Extension(crate::value::Extension::Semver(_)), ..] => semver::invoke(function, args),
            _ => quantity::invoke(function, args),
        },
        "quantity" | "isQuantity" | "sign" | "asApproximateFloat" | "asInteger" | "isInteger" | "add" | "sub" => {
            quantity::invoke(function, args)
        }
        "semver" | "isSemver" | "major" | "minor" | "patch" => semver::invoke(function, args),
        "ip"
        | "family"
        | "ip.isCanonical"
        | "isUnspecified"
        | "isLoopback"
        | "isLinkLocalMulticast"
        | "isLinkLocalUnicast"
        | "isGlobalUnicast"
        | "isIP"
        | "cidr"
        | "containsIP"
        | "containsCIDR"
        | "prefixLength"
        | "masked"
        | "isCIDR" => net::invoke(function, args),
        "validate" | "format.named" => format::invoke(function, args),
        _ if function.starts_with("format.") => format::invoke(function, args),
        _ => Err(EvalError::failed(format!("no such overload: {function}"))),
    }
}

/// The value, unless it grew beyond what one value may be.
pub(crate) fn within_bounds(value: Val) -> Evaluated {
    let fits = match &value {
        Val::String(s) => s.len() <= BYTES_MAX,
        Val::Bytes(b) => b.len() <= BYTES_MAX,
        Val::List(list) => list.len() <= ELEMENTS_MAX,
        Val::Map(map) => map.len() <= ELEMENTS_MAX,
        _ => true,
    };
    if fits { Ok(value) } else { Err(EvalError::CostLimit) }
}

/// A map with strings as keys.
fn string_map(members: impl IntoIterator<Item = (String, Val)>) -> Val {
    let members: std::collections::BTreeMap<MapKey, Val> =
        members.into_iter().map(|(key, value)| (MapKey::String(key.into()), value)).collect();
    members.into()
}
