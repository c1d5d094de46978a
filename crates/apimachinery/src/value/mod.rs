//! The dynamic object tree. Nodes are shared (`Arc`), so that a clone costs one reference count and an edit copies only
//! the path to what it changes. Keys are sorted, which makes every encoding deterministic.
//!
//! Numbers follow Kubernetes' JSON rules: an integer that fits is [`Value::Int`], everything else [`Value::Float`].

mod json;
mod macros;
mod map;
mod parse;
mod repeated;
mod typed;

use std::sync::Arc;

pub use json::{JsonError, go_quote};
pub use map::{Key, Map};
pub(crate) use parse::DEPTH_MAX;
pub use parse::Wanted;
pub(crate) use parse::parse_with_repeated;
pub(crate) use repeated::{Place, REPEATED_MAX};
pub use typed::TypedError;

/// A JSON-like value.
#[derive(Clone, PartialEq, Debug, Default)]
pub enum Value {
    /// `null`.
    #[default]
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// An integer that fits into 64 bits with sign.
    Int(i64),
    /// Any other number; never NaN or infinite when it came from JSON.
    Float(f64),
    /// A string.
    String(Arc<str>),
    /// A list.
    Array(Arc<Vec<Value>>),
    /// An object.
    Object(Arc<Map>),
}

static NULL: Value = Value::Null;

/// Parses JSON and reports the paths of repeated members.
pub(crate) fn parse_reporting_duplicates(json: &[u8]) -> Result<(Value, Vec<String>), JsonError> {
    parse::parse(json, true)
}

impl Value {
    /// An empty object.
    pub fn object() -> Value {
        Value::Object(Arc::new(Map::new()))
    }

    /// An empty list.
    pub fn array() -> Value {
        Value::Array(Arc::new(Vec::new()))
    }

    /// The member `key` of an object; `None` for anything else.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.as_object()?.get(key)
    }

    /// The member at a path of object keys.
    pub fn get_path(&self, path: &[&str]) -> Option<&Value> {
        path.iter().try_fold(self, |value, key| value.get(key))
    }

    /// The string at a path of object keys.
    pub fn str_at(&self, path: &[&str]) -> Option<&str> {
        self.get_path(path)?.as_str()
    }

    /// The integer at a path of object keys.
    pub fn i64_at(&self, path: &[&str]) -> Option<i64> {
        self.get_path(path)?.as_i64()
    }

    /// The boolean at a path of object keys.
    pub fn bool_at(&self, path: &[&str]) -> Option<bool> {
        self.get_path(path)?.as_bool()
    }

    /// The list at a path of object keys; empty when there is none.
    pub fn array_at(&self, path: &[&str]) -> &[Value] {
        self.get_path(path).and_then(Value::as_array).unwrap_or_default()
    }

    /// The string, if it is one.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::String(s) => Some(s),
            _ => None,
        }
    }

    /// The integer, if it is one (a float without a fraction counts).
    pub fn as_i64(&self) -> Option<i64> {
        match self {
            Value::Int(i) => Some(*i),
            Value::Float(f) if f.fract() == 0.0 && f.abs() < 9.0e15 => Some(*f as i64),
            _ => None,
        }
    }

    /// The number as a float, if it is a number.
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Value::Int(i) => Some(*i as f64),
            Value::Float(f) => Some(*f),
            _ => None,
        }
    }

    /// The boolean, if it is one.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Value::Bool(b) => Some(*b),
            _ => None,
        }
    }

    /// The elements, if it is a list.
    pub fn as_array(&self) -> Option<&[Value]> {
        match self {
            Value::Array(a) => Some(a),
            _ => None,
        }
    }

    /// The members, if it is an object.
    pub fn as_object(&self) -> Option<&Map> {
        match self {
            Value::Object(o) => Some(o),
            _ => None,
        }
    }

    /// Whether it is `null`.
    pub fn is_null(&self) -> bool {
        matches!(self, Value::Null)
    }

    /// Whether it is `null`, an empty string, an empty list or an empty object.
    pub fn is_empty(&self) -> bool {
        match self {
            Value::Null => true,
            Value::String(s) => s.is_empty(),
            Value::Array(a) => a.is_empty(),
            Value::Object(o) => o.is_empty(),
            _ => false,
        }
    }

    /// Whether it is Go's zero value: as [`is_empty`](Self::is_empty), or `false`, or 0.
    pub fn is_zero(&self) -> bool {
        match self {
            Value::Bool(b) => !b,
            Value::Int(i) => *i == 0,
            Value::Float(f) => *f == 0.0,
            other => other.is_empty(),
        }
    }

    /// The JSON name of the value's type, as Go's decoder says it: "null", "bool", "number", "string", "array", "object".
    pub fn type_name(&self) -> &'static str {
        match self {
            Value::Null => "null",
            Value::Bool(_) => "bool",
            Value::Int(_) | Value::Float(_) => "number",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        }
    }

    /// The members for editing; `None` when it is not an object. Copies the node if it is shared.
    pub fn as_object_mut(&mut self) -> Option<&mut Map> {
        match self {
            Value::Object(o) => Some(Arc::make_mut(o)),
            _ => None,
        }
    }

    /// The elements for editing; `None` when it is not a list. Copies the node if it is shared.
    pub fn as_array_mut(&mut self) -> Option<&mut Vec<Value>> {
        match self {
            Value::Array(a) => Some(Arc::make_mut(a)),
            _ => None,
        }
    }

    /// The members for editing; anything that is not an object becomes an empty one first.
    pub fn object_mut(&mut self) -> &mut Map {
        if !matches!(self, Value::Object(_)) {
            *self = Value::object();
        }
        self.as_object_mut().expect("made an object just above")
    }

    /// The elements for editing; anything that is not a list becomes an empty one first.
    pub fn array_mut(&mut self) -> &mut Vec<Value> {
        if !matches!(self, Value::Array(_)) {
            *self = Value::array();
        }
        self.as_array_mut().expect("made a list just above")
    }

    /// The member `key` of an object, for editing.
    pub fn get_mut(&mut self, key: &str) -> Option<&mut Value> {
        self.as_object_mut()?.get_mut(key)
    }

    /// The member at a path, for editing; `None` when it is not there (nothing is created, nothing is copied).
    pub fn get_path_mut(&mut self, path: &[&str]) -> Option<&mut Value> {
        self.get_path(path)?;
        path.iter().try_fold(self, |value, key| value.get_mut(key))
    }

    /// The member at a path, for editing; objects (and a final `null`) are created on the way.
    pub fn path_mut(&mut self, path: &[&str]) -> &mut Value {
        path.iter().fold(self, |value, key| value.object_mut().entry(key))
    }

    /// Sets the member at a path; objects are created on the way.
    pub fn set_path(&mut self, path: &[&str], value: impl Into<Value>) {
        *self.path_mut(path) = value.into();
    }

    /// Removes the member at a path and returns it.
    pub fn remove_path(&mut self, path: &[&str]) -> Option<Value> {
        let (last, parents) = path.split_last()?;
        self.get_path(path)?;
        self.get_path_mut(parents)?.remove(last)
    }

    /// Sets a member (of an object; anything else becomes one) and returns the one it replaced.
    pub fn insert(&mut self, key: impl Into<Key>, value: impl Into<Value>) -> Option<Value> {
        self.object_mut().insert(key, value)
    }

    /// Removes a member of an object and returns it.
    pub fn remove(&mut self, key: &str) -> Option<Value> {
        self.get(key)?;
        self.as_object_mut()?.remove(key)
    }

    /// Appends to a list (anything else becomes one).
    pub fn push(&mut self, value: impl Into<Value>) {
        self.array_mut().push(value.into());
    }

    /// Takes the value out, leaving `null`.
    pub fn take(&mut self) -> Value {
        std::mem::take(self)
    }

    /// Whether both share the same node in memory (a cheap, sufficient test of equality).
    pub fn same_node(&self, other: &Value) -> bool {
        match (self, other) {
            (Value::String(a), Value::String(b)) => Arc::ptr_eq(a, b),
            (Value::Array(a), Value::Array(b)) => Arc::ptr_eq(a, b),
            (Value::Object(a), Value::Object(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }
}

impl std::ops::Index<&str> for Value {
    type Output = Value;

    /// The member, or `null` when there is none.
    fn index(&self, key: &str) -> &Value {
        self.get(key).unwrap_or(&NULL)
    }
}

impl std::ops::Index<usize> for Value {
    type Output = Value;

    /// The element, or `null` when there is none.
    fn index(&self, index: usize) -> &Value {
        self.as_array().and_then(|a| a.get(index)).unwrap_or(&NULL)
    }
}

impl PartialEq<str> for Value {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == Some(other)
    }
}

impl PartialEq<&str> for Value {
    fn eq(&self, other: &&str) -> bool {
        self.as_str() == Some(*other)
    }
}

macro_rules! from_int {
    ($($t:ty),*) => { $(impl From<$t> for Value {
        fn from(i: $t) -> Value { Value::Int(i64::from(i)) }
    })* };
}
from_int!(i8, i16, i32, i64, u8, u16, u32);

impl From<u64> for Value {
    fn from(i: u64) -> Value {
        i64::try_from(i).map_or(Value::Float(i as f64), Value::Int)
    }
}

impl From<usize> for Value {
    fn from(i: usize) -> Value {
        Value::from(i as u64)
    }
}

impl From<bool> for Value {
    fn from(b: bool) -> Value {
        Value::Bool(b)
    }
}

impl From<f64> for Value {
    fn from(f: f64) -> Value {
        Value::Float(f)
    }
}

impl From<&str> for Value {
    fn from(s: &str) -> Value {
        Value::String(Arc::from(s))
    }
}

impl From<String> for Value {
    fn from(s: String) -> Value {
        Value::String(Arc::from(s))
    }
}

impl From<&String> for Value {
    fn from(s: &String) -> Value {
        Value::from(s.as_str())
    }
}

impl From<Arc<str>> for Value {
    fn from(s: Arc<str>) -> Value {
        Value::String(s)
    }
}

impl From<&Value> for Value {
    fn from(v: &Value) -> Value {
        v.clone()
    }
}

impl From<Map> for Value {
    fn from(m: Map) -> Value {
        Value::Object(Arc::new(m))
    }
}

impl<T: Into<Value>> From<Vec<T>> for Value {
    fn from(v: Vec<T>) -> Value {
        v.into_iter().collect()
    }
}

impl<T: Into<Value> + Clone> From<&[T]> for Value {
    fn from(v: &[T]) -> Value {
        v.iter().cloned().collect()
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(v: Option<T>) -> Value {
        v.map_or(Value::Null, Into::into)
    }
}

impl<T: Into<Value>> FromIterator<T> for Value {
    fn from_iter<I: IntoIterator<Item = T>>(iter: I) -> Value {
        Value::Array(Arc::new(iter.into_iter().map(Into::into).collect()))
    }
}

impl<K: Into<Key>, V: Into<Value>> FromIterator<(K, V)> for Map {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(iter: I) -> Map {
        Map::from_unsorted(iter.into_iter().map(|(k, v)| (k.into(), v.into())).collect())
    }
}

impl std::fmt::Display for Value {
    /// Compact JSON.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.to_json())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value;

    #[test]
    fn edits_copy_only_what_they_touch() {
        let original = value!({"a": {"b": 1}, "c": {"d": [1, null, "x", {"e": 1.5}]}});
        let mut edited = original.clone();
        edited.set_path(&["a", "b"], 2);
        assert_eq!(original["a"]["b"], Value::Int(1));
        assert_eq!(edited["a"]["b"], Value::Int(2));
        assert!(original["c"].same_node(&edited["c"]));
        assert_eq!(edited.remove_path(&["c", "d"]).map(|v| v.as_array().map(<[Value]>::len)), Some(Some(4)));
        assert_eq!(edited.to_json(), r#"{"a":{"b":2},"c":{}}"#);
        assert_eq!(edited.remove_path(&["nope", "d"]), None);
        edited.set_path(&["x", "y", "z"], vec!["1", "2"]);
        assert_eq!(edited["x"].to_json(), r#"{"y":{"z":["1","2"]}}"#);
        assert_eq!(edited["missing"]["deeper"][3], Value::Null);
    }

    #[test]
    fn the_macro_takes_expressions_and_nested_literals() {
        let name = String::from("n");
        let count = 3;
        let v = value!({"name": name.clone(), "n": count + 1, "list": [count, "b", [true], {}], ("dyn".to_string()): null,});
        assert_eq!(v.to_json(), r#"{"dyn":null,"list":[3,"b",[true],{}],"n":4,"name":"n"}"#);
    }
}
