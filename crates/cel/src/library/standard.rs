//! The standard library: operators, sizes, conversions (cel-go's `common/stdlib`, `common/types`).

use std::cmp::Ordering;
use std::sync::Arc;

use jiff::Timestamp;

use super::{text, time};
use crate::ast::op;
use crate::eval::{EvalError, Evaluated};
use crate::meter::Meter;
use crate::types::Type;
use crate::value::{Extension, List, Val};

/// What the standard library declares; comparisons are written out because errors never list them.
pub(super) const TABLE: &str = "
_?_:_ conditional (bool, A, A) -> A
_&&_ logical_and (bool, bool) -> bool
_||_ logical_or (bool, bool) -> bool
!_ logical_not (bool) -> bool
@not_strictly_false not_strictly_false (bool) -> bool
_==_ equals (A, A) -> bool
_!=_ not_equals (A, A) -> bool
_+_ add_bytes (bytes, bytes) -> bytes
_+_ add_double (double, double) -> double
_+_ add_duration_duration (duration, duration) -> duration
_+_ add_duration_timestamp (duration, timestamp) -> timestamp
_+_ add_timestamp_duration (timestamp, duration) -> timestamp
_+_ add_int64 (int, int) -> int
_+_ add_list (list(A), list(A)) -> list(A)
_+_ add_string (string, string) -> string
_+_ add_uint64 (uint, uint) -> uint
_/_ divide_double (double, double) -> double
_/_ divide_int64 (int, int) -> int
_/_ divide_uint64 (uint, uint) -> uint
_%_ modulo_int64 (int, int) -> int
_%_ modulo_uint64 (uint, uint) -> uint
_*_ multiply_double (double, double) -> double
_*_ multiply_int64 (int, int) -> int
_*_ multiply_uint64 (uint, uint) -> uint
-_ negate_double (double) -> double
-_ negate_int64 (int) -> int
_-_ subtract_double (double, double) -> double
_-_ subtract_duration_duration (duration, duration) -> duration
_-_ subtract_int64 (int, int) -> int
_-_ subtract_timestamp_duration (timestamp, duration) -> timestamp
_-_ subtract_timestamp_timestamp (timestamp, timestamp) -> duration
_-_ subtract_uint64 (uint, uint) -> uint
_<_ less_bool (bool, bool) -> bool
_<_ less_int64 (int, int) -> bool
_<_ less_int64_double (int, double) -> bool
_<_ less_int64_uint64 (int, uint) -> bool
_<_ less_uint64 (uint, uint) -> bool
_<_ less_uint64_double (uint, double) -> bool
_<_ less_uint64_int64 (uint, int) -> bool
_<_ less_double (double, double) -> bool
_<_ less_double_int64 (double, int) -> bool
_<_ less_double_uint64 (double, uint) -> bool
_<_ less_string (string, string) -> bool
_<_ less_bytes (bytes, bytes) -> bool
_<_ less_timestamp (timestamp, timestamp) -> bool
_<_ less_duration (duration, duration) -> bool
_<=_ less_equals_bool (bool, bool) -> bool
_<=_ less_equals_int64 (int, int) -> bool
_<=_ less_equals_int64_double (int, double) -> bool
_<=_ less_equals_int64_uint64 (int, uint) -> bool
_<=_ less_equals_uint64 (uint, uint) -> bool
_<=_ less_equals_uint64_double (uint, double) -> bool
_<=_ less_equals_uint64_int64 (uint, int) -> bool
_<=_ less_equals_double (double, double) -> bool
_<=_ less_equals_double_int64 (double, int) -> bool
_<=_ less_equals_double_uint64 (double, uint) -> bool
_<=_ less_equals_string (string, string) -> bool
_<=_ less_equals_bytes (bytes, bytes) -> bool
_<=_ less_equals_timestamp (timestamp, timestamp) -> bool
_<=_ less_equals_duration (duration, duration) -> bool
_>_ greater_bool (bool, bool) -> bool
_>_ greater_int64 (int, int) -> bool
_>_ greater_int64_double (int, double) -> bool
_>_ greater_int64_uint64 (int, uint) -> bool
_>_ greater_uint64 (uint, uint) -> bool
_>_ greater_uint64_double (uint, double) -> bool
_>_ greater_uint64_int64 (uint, int) -> bool
_>_ greater_double (double, double) -> bool
_>_ greater_double_int64 (double, int) -> bool
_>_ greater_double_uint64 (double, uint) -> bool
_>_ greater_string (string, string) -> bool
_>_ greater_bytes (bytes, bytes) -> bool
_>_ greater_timestamp (timestamp, timestamp) -> bool
_>_ greater_duration (duration, duration) -> bool
_>=_ greater_equals_bool (bool, bool) -> bool
_>=_ greater_equals_int64 (int, int) -> bool
_>=_ greater_equals_int64_double (int, double) -> bool
_>=_ greater_equals_int64_uint64 (int, uint) -> bool
_>=_ greater_equals_uint64 (uint, uint) -> bool
_>=_ greater_equals_uint64_double (uint, double) -> bool
_>=_ greater_equals_uint64_int64 (uint, int) -> bool
_>=_ greater_equals_double (double, double) -> bool
_>=_ greater_equals_double_int64 (double, int) -> bool
_>=_ greater_equals_double_uint64 (double, uint) -> bool
_>=_ greater_equals_string (string, string) -> bool
_>=_ greater_equals_bytes (bytes, bytes) -> bool
_>=_ greater_equals_timestamp (timestamp, timestamp) -> bool
_>=_ greater_equals_duration (duration, duration) -> bool
_[_] index_list (list(A), int) -> A
_[_] index_map (map(A, B), A) -> B
@in in_list (A, list(A)) -> bool
@in in_map (A, map(A, B)) -> bool
in in_list (A, list(A)) -> bool
in in_map (A, map(A, B)) -> bool
size size_bytes (bytes) -> int
size bytes_size bytes.() -> int
size size_list (list(A)) -> int
size list_size list(A).() -> int
size size_map (map(A, B)) -> int
size map_size map(A, B).() -> int
size size_string (string) -> int
size string_size string.() -> int
type type (A) -> type(A)
bool bool_to_bool (bool) -> bool
bool string_to_bool (string) -> bool
bytes bytes_to_bytes (bytes) -> bytes
bytes string_to_bytes (string) -> bytes
double double_to_double (double) -> double
double int64_to_double (int) -> double
double string_to_double (string) -> double
double uint64_to_double (uint) -> double
duration duration_to_duration (duration) -> duration
duration int64_to_duration (int) -> duration
duration string_to_duration (string) -> duration
dyn to_dyn (A) -> dyn
int int64_to_int64 (int) -> int
int double_to_int64 (double) -> int
int duration_to_int64 (duration) -> int
int string_to_int64 (string) -> int
int timestamp_to_int64 (timestamp) -> int
int uint64_to_int64 (uint) -> int
string string_to_string (string) -> string
string bool_to_string (bool) -> string
string bytes_to_string (bytes) -> string
string double_to_string (double) -> string
string duration_to_string (duration) -> string
string int64_to_string (int) -> string
string timestamp_to_string (timestamp) -> string
string uint64_to_string (uint) -> string
timestamp timestamp_to_timestamp (timestamp) -> timestamp
timestamp int64_to_timestamp (int) -> timestamp
timestamp string_to_timestamp (string) -> timestamp
uint uint64_to_uint64 (uint) -> uint
uint double_to_uint64 (double) -> uint
uint int64_to_uint64 (int) -> uint
uint string_to_uint64 (string) -> uint
contains contains_string string.(string) -> bool
endsWith ends_with_string string.(string) -> bool
startsWith starts_with_string string.(string) -> bool
matches matches (string, string) -> bool
matches matches_string string.(string) -> bool
";

fn overflow<T>(kind: &str) -> Result<T, EvalError> {
    Err(EvalError::failed(format!("{kind} overflow")))
}

pub(super) fn operator(function: &str, args: &[Val]) -> Evaluated {
    match (function, args) {
        (op::NOT, [Val::Bool(b)]) => Ok(Val::Bool(!b)),
        (op::NEGATE, [Val::Int(i)]) => i.checked_neg().map_or_else(|| overflow("integer"), |i| Ok(Val::Int(i))),
        (op::NEGATE, [Val::Double(d)]) => Ok(Val::Double(-d)),
        (_, [Val::Int(a), Val::Int(b)]) => integers(function, *a, *b),
        (_, [Val::Uint(a), Val::Uint(b)]) => unsigned(function, *a, *b),
        (_, [Val::Double(a), Val::Double(b)]) => Ok(Val::Double(match function {
            op::ADD => a + b,
            op::SUBTRACT => a - b,
            op::MULTIPLY => a * b,
            op::DIVIDE => a / b,
            _ => return Err(EvalError::no_overload()),
        })),
        (op::ADD, [Val::String(a), Val::String(b)]) => Ok(Val::String(format!("{a}{b}").into())),
        (op::ADD, [Val::Bytes(a), Val::Bytes(b)]) => Ok(Val::Bytes([&a[..], &b[..]].concat().into())),
        (op::ADD, [Val::List(a), Val::List(b)]) => Ok(concat(a, b)),
        _ => time::arithmetic(function, args),
    }
}

fn concat(a: &List, b: &List) -> Val {
    match (a.is_empty(), b.is_empty()) {
        (_, true) => Val::List(a.clone()),
        (true, _) => Val::List(b.clone()),
        // Beyond what a list may be, it is enough to know so.
        _ => a.iter().chain(b.iter()).take(crate::eval::ELEMENTS_MAX + 1).collect::<Vec<Val>>().into(),
    }
}

fn integers(function: &str, a: i64, b: i64) -> Evaluated {
    let result = match function {
        op::ADD => a.checked_add(b),
        op::SUBTRACT => a.checked_sub(b),
        op::MULTIPLY => a.checked_mul(b),
        op::DIVIDE if b == 0 => return Err(EvalError::failed("division by zero")),
        op::MODULO if b == 0 => return Err(EvalError::failed("modulus by zero")),
        op::DIVIDE => a.checked_div(b),
        op::MODULO => a.checked_rem(b),
        _ => return Err(EvalError::no_overload()),
    };
    result.map_or_else(|| overflow("integer"), |i| Ok(Val::Int(i)))
}

fn unsigned(function: &str, a: u64, b: u64) -> Evaluated {
    let result = match function {
        op::ADD => a.checked_add(b),
        op::SUBTRACT => a.checked_sub(b),
        op::MULTIPLY => a.checked_mul(b),
        op::DIVIDE if b == 0 => return Err(EvalError::failed("division by zero")),
        op::MODULO if b == 0 => return Err(EvalError::failed("modulus by zero")),
        op::DIVIDE => a.checked_div(b),
        op::MODULO => a.checked_rem(b),
        _ => return Err(EvalError::no_overload()),
    };
    result.map_or_else(|| overflow("unsigned integer"), |i| Ok(Val::Uint(i)))
}

pub(super) fn relation(function: &str, args: &[Val], meter: &Meter<'_>) -> Evaluated {
    let [a, b] = args else { return Err(EvalError::no_overload()) };
    let holds = match function {
        op::EQUALS => a.equals(b, meter)?,
        op::NOT_EQUALS => !a.equals(b, meter)?,
        op::IN => match b {
            Val::List(list) => super::lists::contains(list, a, meter)?,
            Val::Map(map) => map.get(a).is_some(),
            _ => return Err(EvalError::no_overload()),
        },
        _ => {
            let order = a.compare(b).ok_or_else(|| match (a, b) {
                (Val::Double(d), _) | (_, Val::Double(d)) if d.is_nan() => EvalError::failed("NaN values cannot be ordered"),
                _ => EvalError::no_overload(),
            })?;
            match function {
                op::LESS => order == Ordering::Less,
                op::LESS_EQUALS => order != Ordering::Greater,
                op::GREATER => order == Ordering::Greater,
                _ => order != Ordering::Less,
            }
        }
    };
    Ok(Val::Bool(holds))
}

pub(super) fn size(args: &[Val]) -> Evaluated {
    match args {
        [value @ (Val::String(_) | Val::Bytes(_) | Val::List(_) | Val::Map(_))] => {
            Ok(Val::Int(i64::try_from(value.cost_size()).unwrap_or(i64::MAX)))
        }
        _ => Err(EvalError::no_overload()),
    }
}

pub(super) fn convert(function: &str, args: &[Val]) -> Evaluated {
    let [value] = args else { return Err(EvalError::no_overload()) };
    match (function, value) {
        ("dyn", value) => Ok(value.clone()),
        ("type", value) => Ok(Val::Type(value.type_of())),
        ("bool", Val::Bool(_))
        | ("bytes", Val::Bytes(_))
        | ("double", Val::Double(_))
        | ("duration", Val::Duration(_))
        | ("int", Val::Int(_))
        | ("string", Val::String(_))
        | ("timestamp", Val::Timestamp(_))
        | ("uint", Val::Uint(_)) => Ok(value.clone()),
        ("bytes", Val::String(s)) => Ok(Val::Bytes(s.as_bytes().into())),
        ("bool", Val::String(s)) => match &**s {
            "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(Val::Bool(true)),
            "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(Val::Bool(false)),
            _ => cannot("string", "bool"),
        },
        ("int", value) => to_int(value),
        ("uint", value) => to_uint(value),
        ("double", value) => to_double(value),
        ("string", value) => to_string(value).map(|text| Val::String(text.into())),
        ("duration", Val::Int(i)) => Ok(Val::Duration(*i)),
        ("duration", Val::String(s)) => match apimachinery::time::parse_duration(s) {
            Ok(nanoseconds) => Ok(Val::Duration(nanoseconds)),
            Err(_) => cannot("string", "google.protobuf.Duration"),
        },
        ("timestamp", Val::Int(seconds)) => time::timestamp(i128::from(*seconds) * 1_000_000_000),
        ("timestamp", Val::String(s)) => match apimachinery::time::parse_time(s) {
            Ok(at) => time::timestamp(at.as_nanosecond()),
            Err(_) => cannot("string", "google.protobuf.Timestamp"),
        },
        _ => Err(EvalError::no_overload()),
    }
}

fn cannot<T>(from: &str, to: &str) -> Result<T, EvalError> {
    Err(EvalError::failed(format!("type conversion error from '{from}' to '{to}'")))
}

fn to_int(value: &Val) -> Evaluated {
    let number = match value {
        Val::Uint(u) => i64::try_from(*u).ok(),
        // The bounds themselves are not exact as floats: cel-go excludes them.
        Val::Double(d) if *d > -9_223_372_036_854_775_808.0 && *d < 9_223_372_036_854_775_807.0 => Some(*d as i64),
        Val::Double(_) => None,
        Val::Duration(d) => Some(*d),
        Val::Timestamp(at) => Some(at.as_nanosecond().div_euclid(1_000_000_000) as i64),
        Val::String(s) => return s.parse().map_or_else(|_| cannot("string", "int"), |i| Ok(Val::Int(i))),
        _ => return Err(EvalError::no_overload()),
    };
    number.map_or_else(|| overflow("integer"), |i| Ok(Val::Int(i)))
}

fn to_uint(value: &Val) -> Evaluated {
    let number = match value {
        Val::Int(i) => u64::try_from(*i).ok(),
        Val::Double(d) if *d >= 0.0 && *d < 18_446_744_073_709_551_615.0 => Some(*d as u64),
        Val::Double(_) => None,
        Val::String(s) => return s.parse().map_or_else(|_| cannot("string", "uint"), |u| Ok(Val::Uint(u))),
        _ => return Err(EvalError::no_overload()),
    };
    number.map_or_else(|| overflow("unsigned integer"), |u| Ok(Val::Uint(u)))
}

fn to_double(value: &Val) -> Evaluated {
    match value {
        Val::Int(i) => Ok(Val::Double(*i as f64)),
        Val::Uint(u) => Ok(Val::Double(*u as f64)),
        Val::String(s) => s.parse().map_or_else(|_| cannot("string", "double"), |d| Ok(Val::Double(d))),
        _ => Err(EvalError::no_overload()),
    }
}

/// What `string()` makes of a value.
pub(super) fn to_string(value: &Val) -> Result<String, EvalError> {
    Ok(match value {
        Val::String(s) => s.to_string(),
        Val::Bool(b) => b.to_string(),
        Val::Int(i) => i.to_string(),
        Val::Uint(u) => u.to_string(),
        Val::Double(d) => text::go_float(*d),
        Val::Bytes(bytes) => String::from_utf8(bytes.to_vec())
            .map_err(|_| EvalError::failed("invalid UTF-8 in bytes, cannot convert to string"))?,
        Val::Duration(d) => time::seconds(*d),
        Val::Timestamp(at) => rfc3339(*at),
        Val::Type(t) => t.name().to_owned(),
        Val::Extension(Extension::Ip(ip)) => ip.to_string(),
        Val::Extension(Extension::Cidr(ip, bits)) => format!("{ip}/{bits}"),
        _ => return Err(EvalError::no_overload()),
    })
}

/// Go's RFC3339Nano: no trailing zeros.
pub(super) fn rfc3339(at: Timestamp) -> String {
    let text = at.strftime("%Y-%m-%dT%H:%M:%S").to_string();
    let nanoseconds = at.as_nanosecond().rem_euclid(1_000_000_000);
    match nanoseconds {
        0 => format!("{text}Z"),
        n => format!("{text}.{}Z", format!("{n:09}").trim_end_matches('0')),
    }
}

/// The name of the type that a value has, for errors.
pub(super) fn type_name(value: &Val) -> Arc<str> {
    let t: Type = value.type_of();
    t.name().into()
}
