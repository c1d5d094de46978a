//! Lists: Kubernetes' own library, cel-go's (`ext/lists.go`, version 3), sets, and what comprehensions of two variables need.

use std::cmp::Ordering;

use super::standard;
use crate::ast::op;
use crate::eval::{ELEMENTS_MAX, EvalError, Evaluated};
use crate::meter::Meter;
use crate::value::{List, Map, MapKey, Val};

pub(super) const TABLE: &str = "
isSorted list_int_is_sorted_bool list(int).() -> bool
isSorted list_uint_is_sorted_bool list(uint).() -> bool
isSorted list_double_is_sorted_bool list(double).() -> bool
isSorted list_bool_is_sorted_bool list(bool).() -> bool
isSorted list_duration_is_sorted_bool list(duration).() -> bool
isSorted list_timestamp_is_sorted_bool list(timestamp).() -> bool
isSorted list_string_is_sorted_bool list(string).() -> bool
isSorted list_bytes_is_sorted_bool list(bytes).() -> bool
sum list_int_sum_int list(int).() -> int
sum list_uint_sum_uint list(uint).() -> uint
sum list_double_sum_double list(double).() -> double
sum list_duration_sum_duration list(duration).() -> duration
max list_int_max_int list(int).() -> int
max list_uint_max_uint list(uint).() -> uint
max list_double_max_double list(double).() -> double
max list_bool_max_bool list(bool).() -> bool
max list_duration_max_duration list(duration).() -> duration
max list_timestamp_max_timestamp list(timestamp).() -> timestamp
max list_string_max_string list(string).() -> string
max list_bytes_max_bytes list(bytes).() -> bytes
min list_int_min_int list(int).() -> int
min list_uint_min_uint list(uint).() -> uint
min list_double_min_double list(double).() -> double
min list_bool_min_bool list(bool).() -> bool
min list_duration_min_duration list(duration).() -> duration
min list_timestamp_min_timestamp list(timestamp).() -> timestamp
min list_string_min_string list(string).() -> string
min list_bytes_min_bytes list(bytes).() -> bytes
indexOf list_a_index_of_int list(A).(A) -> int
lastIndexOf list_a_last_index_of_int list(A).(A) -> int
";

/// cel-go's own library of lists.
pub(super) const TABLE_V3: &str = "
slice list_slice list(T).(int, int) -> list(T)
flatten list_flatten list(list(T)).() -> list(T)
flatten list_flatten_int list(dyn).(int) -> list(dyn)
sort list_int_sort list(int).() -> list(int)
sort list_uint_sort list(uint).() -> list(uint)
sort list_double_sort list(double).() -> list(double)
sort list_bool_sort list(bool).() -> list(bool)
sort list_duration_sort list(duration).() -> list(duration)
sort list_timestamp_sort list(timestamp).() -> list(timestamp)
sort list_string_sort list(string).() -> list(string)
sort list_bytes_sort list(bytes).() -> list(bytes)
@sortByAssociatedKeys list_int_sortByAssociatedKeys list(T).(list(int)) -> list(T)
@sortByAssociatedKeys list_uint_sortByAssociatedKeys list(T).(list(uint)) -> list(T)
@sortByAssociatedKeys list_double_sortByAssociatedKeys list(T).(list(double)) -> list(T)
@sortByAssociatedKeys list_bool_sortByAssociatedKeys list(T).(list(bool)) -> list(T)
@sortByAssociatedKeys list_duration_sortByAssociatedKeys list(T).(list(duration)) -> list(T)
@sortByAssociatedKeys list_timestamp_sortByAssociatedKeys list(T).(list(timestamp)) -> list(T)
@sortByAssociatedKeys list_string_sortByAssociatedKeys list(T).(list(string)) -> list(T)
@sortByAssociatedKeys list_bytes_sortByAssociatedKeys list(T).(list(bytes)) -> list(T)
lists.range lists_range (int) -> list(int)
reverse list_reverse list(T).() -> list(T)
distinct list_distinct list(T).() -> list(T)
";

pub(super) const SETS: &str = "
sets.contains list_sets_contains_list (list(T), list(T)) -> bool
sets.equivalent list_sets_equivalent_list (list(T), list(T)) -> bool
sets.intersects list_sets_intersects_list (list(T), list(T)) -> bool
";

pub(super) const TWO_VARIABLES: &str = "
cel.@mapInsert @mapInsert_map_key_value (map(K, V), K, V) -> map(K, V)
cel.@mapInsert @mapInsert_map_map (map(K, V), map(K, V)) -> map(K, V)
";

/// The first among these places at which the list holds the value.
fn position(
    list: &List,
    mut places: impl Iterator<Item = usize>,
    value: &Val,
    meter: &Meter<'_>,
) -> Result<Option<usize>, EvalError> {
    let is_there = |at: &usize| list.get(*at).map_or(Ok(false), |element| element.equals(value, meter));
    places.find_map(|at| is_there(&at).map(|found| found.then_some(at)).transpose()).transpose()
}

pub(super) fn contains(list: &List, value: &Val, meter: &Meter<'_>) -> Result<bool, EvalError> {
    Ok(position(list, 0..list.len(), value, meter)?.is_some())
}

fn contains_all(list: &List, part: &List, meter: &Meter<'_>) -> Result<bool, EvalError> {
    for element in part.iter() {
        if !contains(list, &element, meter)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn intersects(a: &List, b: &List, meter: &Meter<'_>) -> Result<bool, EvalError> {
    for element in a.iter() {
        if contains(b, &element, meter)? {
            return Ok(true);
        }
    }
    Ok(false)
}

pub(super) fn invoke(function: &str, args: &[Val], meter: &Meter<'_>) -> Evaluated {
    match (function, args) {
        ("isSorted", [Val::List(list)]) => {
            let items: Vec<Val> = list.iter().collect();
            let out_of_order = |pair: &[Val]| pair[0].compare(&pair[1]) == Some(Ordering::Greater);
            Ok(Val::Bool(!items.windows(2).any(out_of_order)))
        }
        ("sum", [Val::List(list)]) => sum(list),
        ("max", [Val::List(list)]) => extreme(function, list, Ordering::Less),
        ("min", [Val::List(list)]) => extreme(function, list, Ordering::Greater),
        ("indexOf", [Val::List(list), item]) => {
            Ok(Val::Int(position(list, 0..list.len(), item, meter)?.map_or(-1, |at| at as i64)))
        }
        ("lastIndexOf", [Val::List(list), item]) => {
            Ok(Val::Int(position(list, (0..list.len()).rev(), item, meter)?.map_or(-1, |at| at as i64)))
        }
        ("slice", [Val::List(list), Val::Int(start), Val::Int(end)]) => slice(list, *start, *end),
        ("flatten", [Val::List(list)]) => flatten(list, 1),
        ("flatten", [Val::List(_), Val::Int(depth)]) if *depth < 0 => Err(EvalError::failed("level must be non-negative")),
        ("flatten", [Val::List(list), Val::Int(depth)]) => flatten(list, *depth),
        ("sort", [Val::List(list)]) => sort(list, list, meter),
        (op::SORT_BY_KEYS, [Val::List(list), Val::List(keys)]) => sort(list, keys, meter),
        ("lists.range", [Val::Int(n)]) => Ok((0..*n).take(ELEMENTS_MAX + 1).map(Val::Int).collect::<Vec<Val>>().into()),
        ("reverse", [Val::List(list)]) => Ok((0..list.len()).rev().filter_map(|at| list.get(at)).collect::<Vec<Val>>().into()),
        ("distinct", [Val::List(list)]) => distinct(list, meter),
        ("sets.contains", [Val::List(list), Val::List(part)]) => Ok(Val::Bool(contains_all(list, part, meter)?)),
        ("sets.equivalent", [Val::List(a), Val::List(b)]) => {
            Ok(Val::Bool(contains_all(a, b, meter)? && contains_all(b, a, meter)?))
        }
        ("sets.intersects", [Val::List(a), Val::List(b)]) => Ok(Val::Bool(intersects(a, b, meter)?)),
        _ => Err(EvalError::no_overload()),
    }
}

/// The sum; an empty list of any type is the integer 0 here, which compares as every zero does.
fn sum(list: &List) -> Evaluated {
    let mut items = list.iter();
    let first = items.next().unwrap_or(Val::Int(0));
    items.try_fold(first, |sum, item| standard::operator(op::ADD, &[sum, item]))
}

fn extreme(function: &str, list: &List, replaced: Ordering) -> Evaluated {
    let mut items = list.iter();
    let first = items.next().ok_or_else(|| EvalError::failed(format!("{function} called on empty list")))?;
    items.try_fold(first, |best, item| match best.compare(&item) {
        Some(order) if order == replaced => Ok(item),
        Some(_) => Ok(best),
        None => Err(EvalError::no_overload()),
    })
}

fn slice(list: &List, start: i64, end: i64) -> Evaluated {
    let why = if start < 0 || end < 0 {
        "negative indexes not supported".to_owned()
    } else if start > end {
        "start index must be less than or equal to end index".to_owned()
    } else if end > list.len() as i64 {
        format!("list is length {}", list.len())
    } else {
        return Ok((start..end).filter_map(|at| list.get(at as usize)).collect::<Vec<Val>>().into());
    };
    Err(EvalError::failed(format!("cannot slice({start}, {end}), {why}")))
}

fn flatten(list: &List, depth: i64) -> Evaluated {
    let mut out: Vec<Val> = list.iter().collect();
    // Level by level; a level without lists ends it, so that the depth asked for costs nothing.
    for _ in 0..depth {
        if !out.iter().any(|item| matches!(item, Val::List(_))) {
            break;
        }
        let mut next = Vec::with_capacity(out.len());
        for item in out {
            match item {
                Val::List(inner) => next.extend(inner.iter()),
                other => next.push(other),
            }
            if next.len() > ELEMENTS_MAX {
                return Err(EvalError::CostLimit);
            }
        }
        out = next;
    }
    Ok(out.into())
}

fn sort(list: &List, keys: &List, meter: &Meter<'_>) -> Evaluated {
    if list.len() != keys.len() {
        return Err(EvalError::failed(format!(
            "@sortByAssociatedKeys() expected a list of the same size as the associated keys list, but got {} and {} elements respectively",
            list.len(),
            keys.len()
        )));
    }
    let mut pairs: Vec<(Val, Val)> = keys.iter().zip(list.iter()).collect();
    let Some((first, _)) = pairs.first() else { return Ok(Val::List(list.clone())) };
    let kind = std::mem::discriminant(first);
    if pairs.iter().any(|(key, _)| std::mem::discriminant(key) != kind) {
        return Err(EvalError::failed("list elements must have the same type"));
    }
    if first.compare(first).is_none() && !matches!(first, Val::Double(_)) {
        return Err(EvalError::failed("list elements must be comparable"));
    }
    // Each is compared about as often as a list of this length can be halved.
    let halves = usize::BITS - pairs.len().leading_zeros();
    for (key, _) in &pairs {
        (0..halves).try_for_each(|_| meter.visit(key))?;
    }
    pairs.sort_by(|(a, _), (b, _)| a.compare(b).unwrap_or(Ordering::Equal));
    Ok(pairs.into_iter().map(|(_, value)| value).collect::<Vec<Val>>().into())
}

fn distinct(list: &List, meter: &Meter<'_>) -> Evaluated {
    let mut out: Vec<Val> = Vec::new();
    let mut keys = std::collections::BTreeSet::new();
    for item in list.iter() {
        meter.visit(&item)?;
        let is_new = match MapKey::of(&item) {
            Some(key) => keys.insert(key),
            None => {
                let mut is_new = true;
                for other in &out {
                    if other.equals(&item, meter)? {
                        is_new = false;
                        break;
                    }
                }
                is_new
            }
        };
        if is_new {
            out.push(item);
        }
    }
    Ok(out.into())
}

/// Inserting where the evaluator could not do it in place.
pub(super) fn map_insert(args: &[Val]) -> Evaluated {
    let (map, added) = match args {
        [Val::Map(map), key, value] => (map, vec![(key.clone(), value.clone())]),
        [Val::Map(map), Val::Map(more)] => (map, more.iter().collect()),
        _ => return Err(EvalError::no_overload()),
    };
    let mut members = std::collections::BTreeMap::new();
    for (key, value) in map.iter().chain(added) {
        let key = MapKey::of(&key).ok_or_else(|| EvalError::failed("unsupported key type"))?;
        if members.insert(key, value).is_some() {
            return Err(EvalError::failed("insert failed: key already exists"));
        }
    }
    Ok(Val::Map(Map::Own(std::sync::Arc::new(members))))
}
