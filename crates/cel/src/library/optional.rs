//! Optional values (cel-go's `cel/library.go`). Selecting and indexing with a question mark is the evaluator's.

use std::sync::Arc;

use crate::eval::{EvalError, Evaluated};
use crate::value::Val;

pub(super) const TABLE: &str = "
optional.of optional_of (V) -> optional(V)
optional.ofNonZeroValue optional_ofNonZeroValue (V) -> optional(V)
optional.none optional_none () -> optional(V)
value optional_value optional(V).() -> V
hasValue optional_hasValue optional(V).() -> bool
or optional_or_optional optional(V).(optional(V)) -> optional(V)
orValue optional_orValue_value optional(V).(V) -> V
_?._ select_optional_field (dyn, string) -> optional(V)
_[?_] list_optindex_optional_int (list(V), int) -> optional(V)
_[?_] optional_list_optindex_optional_int (optional(list(V)), int) -> optional(V)
_[?_] map_optindex_optional_value (map(K, V), K) -> optional(V)
_[?_] optional_map_optindex_optional_value (optional(map(K, V)), K) -> optional(V)
_[_] optional_list_index_int (optional(list(V)), int) -> optional(V)
_[_] optional_map_index_value (optional(map(K, V)), K) -> optional(V)
last list_last list(V).() -> optional(V)
first list_first list(V).() -> optional(V)
optional.unwrap optional_unwrap (list(optional(V))) -> list(V)
unwrapOpt optional_unwrapOpt list(optional(V)).() -> list(V)
";

pub(super) fn invoke(function: &str, args: &[Val]) -> Evaluated {
    let some = |value: &Val| Val::Optional(Some(Arc::new(value.clone())));
    match (function, args) {
        ("optional.of", [value]) => Ok(some(value)),
        ("optional.ofNonZeroValue", [value]) => Ok(if value.is_zero() { Val::Optional(None) } else { some(value) }),
        ("optional.none", []) => Ok(Val::Optional(None)),
        ("value", [Val::Optional(Some(value))]) => Ok((**value).clone()),
        ("value", [Val::Optional(None)]) => Err(EvalError::failed("optional.none() dereference")),
        ("hasValue", [Val::Optional(value)]) => Ok(Val::Bool(value.is_some())),
        ("last", [Val::List(list)]) => Ok(Val::Optional(list.len().checked_sub(1).and_then(|at| list.get(at)).map(Arc::new))),
        ("first", [Val::List(list)]) => Ok(Val::Optional(list.get(0).map(Arc::new))),
        ("optional.unwrap" | "unwrapOpt", [Val::List(list)]) => {
            let mut out = Vec::new();
            for item in list.iter() {
                match item {
                    Val::Optional(value) => out.extend(value.map(Arc::unwrap_or_clone)),
                    other => return Err(EvalError::failed(format!("value {} is not optional", super::text::shown(&other)))),
                }
            }
            Ok(out.into())
        }
        _ => Err(EvalError::no_overload()),
    }
}
