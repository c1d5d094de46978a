//! Steps from an object to a field in it, and their text: `f:name`, `k:{"name":"x"}`, `v:"x"`, `i:0` in the stored form,
//! `.spec.containers[name="x"]` in messages.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use crate::{Key, Map, Value, go_quote};

/// One step.
#[derive(Clone, Debug)]
pub enum PathElement {
    /// Into a member of an object.
    Field(Key),
    /// Into the element of a list that has these values at its keys.
    Key(Arc<Map>),
    /// Into the element of a set that is this value.
    Value(Value),
    /// Into the element at this place of a list.
    Index(i64),
}

/// Why a step's text is not one.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PathError {
    /// Shorter than a letter and a colon.
    #[error("key must be 2 characters long:")]
    TooShort,
    /// No colon after the letter.
    #[error("missing colon: {0}")]
    NoColon(String),
    /// What follows the colon is not JSON of the right type, or not a number.
    #[error("parsing key as path element: {0}")]
    Malformed(String),
}

impl PathElement {
    /// Into a member of an object.
    pub fn field(name: &str) -> PathElement {
        PathElement::Field(Key::new(name))
    }

    /// Parses the stored form; `None` for a kind of step that this version does not know, which readers skip.
    pub fn parse(text: &str) -> Result<Option<PathElement>, PathError> {
        let (letter, rest) = match text.as_bytes() {
            [_, b':', ..] => (text.as_bytes()[0], &text[2..]),
            [_, _, ..] => return Err(PathError::NoColon(text.to_owned())),
            _ => return Err(PathError::TooShort),
        };
        let malformed = || PathError::Malformed(text.to_owned());
        Ok(Some(match letter {
            b'f' => PathElement::field(rest),
            b'v' => PathElement::Value(Value::from_slice(rest.as_bytes()).map_err(|_| malformed())?),
            b'k' => match Value::from_slice(rest.as_bytes()) {
                Ok(Value::Object(keys)) => PathElement::Key(keys),
                _ => return Err(malformed()),
            },
            b'i' => PathElement::Index(rest.parse().map_err(|_| malformed())?),
            _ => return Ok(None),
        }))
    }

    /// The stored form.
    pub fn to_text(&self) -> String {
        match self {
            PathElement::Field(name) => format!("f:{name}"),
            PathElement::Key(keys) => format!("k:{}", Value::Object(keys.clone()).to_json()),
            PathElement::Value(value) => format!("v:{}", value.to_json()),
            PathElement::Index(index) => format!("i:{index}"),
        }
    }

    fn rank(&self) -> u8 {
        match self {
            PathElement::Field(_) => 0,
            PathElement::Key(_) => 1,
            PathElement::Value(_) => 2,
            PathElement::Index(_) => 3,
        }
    }
}

impl fmt::Display for PathElement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PathElement::Field(name) => write!(f, ".{name}"),
            PathElement::Key(keys) => {
                let keys: Vec<String> = keys.iter().map(|(name, value)| format!("{name}={}", show(value))).collect();
                write!(f, "[{}]", keys.join(","))
            }
            PathElement::Value(value) => write!(f, "[={}]", show(value)),
            PathElement::Index(index) => write!(f, "[{index}]"),
        }
    }
}

/// A path as messages show it.
pub(super) fn show_path(path: &[PathElement]) -> String {
    path.iter().map(PathElement::to_string).collect()
}

fn show(value: &Value) -> String {
    match value {
        Value::String(text) => go_quote(text),
        Value::Array(items) => format!("[{}]", items.iter().map(show).collect::<Vec<_>>().join(",")),
        // Upstream joins members with nothing.
        Value::Object(members) => members.iter().map(|(key, member)| format!("{key}={}", show(member))).collect(),
        other => other.to_json(),
    }
}

impl Ord for PathElement {
    fn cmp(&self, other: &PathElement) -> Ordering {
        match (self, other) {
            (PathElement::Field(a), PathElement::Field(b)) => a.cmp(b),
            (PathElement::Key(a), PathElement::Key(b)) => compare_members(a, b),
            (PathElement::Value(a), PathElement::Value(b)) => compare_values(a, b),
            (PathElement::Index(a), PathElement::Index(b)) => a.cmp(b),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

impl PartialOrd for PathElement {
    fn partial_cmp(&self, other: &PathElement) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for PathElement {
    fn eq(&self, other: &PathElement) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for PathElement {}

fn compare_members(a: &Map, b: &Map) -> Ordering {
    let members = a.iter().zip(b.iter());
    let first = members.map(|((k1, v1), (k2, v2))| k1.cmp(k2).then_with(|| compare_values(v1, v2))).find(|order| order.is_ne());
    first.unwrap_or_else(|| a.len().cmp(&b.len()))
}

/// Upstream's order of values: numbers, strings, booleans, lists, objects, null.
pub(super) fn compare_values(a: &Value, b: &Value) -> Ordering {
    let rank = |value: &Value| match value {
        Value::Int(_) | Value::Float(_) => 0,
        Value::String(_) => 1,
        Value::Bool(_) => 2,
        Value::Array(_) => 3,
        Value::Object(_) => 4,
        Value::Null => 5,
    };
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => a.cmp(b),
        (Value::Int(_) | Value::Float(_), Value::Int(_) | Value::Float(_)) => {
            a.as_f64().unwrap_or_default().total_cmp(&b.as_f64().unwrap_or_default())
        }
        (Value::String(a), Value::String(b)) => a.cmp(b),
        (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
        (Value::Array(a), Value::Array(b)) => {
            let first = a.iter().zip(b.iter()).map(|(a, b)| compare_values(a, b)).find(|order| order.is_ne());
            first.unwrap_or_else(|| a.len().cmp(&b.len()))
        }
        (Value::Object(a), Value::Object(b)) => compare_members(a, b),
        _ => rank(a).cmp(&rank(b)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        for (text, shown) in [
            ("f:spec", ".spec"),
            ("f:example.com/a.b", ".example.com/a.b"),
            (r#"k:{"containerPort":80,"protocol":"TCP"}"#, r#"[containerPort=80,protocol="TCP"]"#),
            (r#"v:"finalizer""#, r#"[="finalizer"]"#),
            ("v:3", "[=3]"),
            ("i:4", "[4]"),
        ] {
            let element = PathElement::parse(text).unwrap().unwrap();
            assert_eq!((element.to_text().as_str(), element.to_string().as_str()), (text, shown));
        }
        // Keys are sorted whatever their order was.
        let element = PathElement::parse(r#"k:{"protocol":"TCP","port":1}"#).unwrap().unwrap();
        assert_eq!(element.to_text(), r#"k:{"port":1,"protocol":"TCP"}"#);
        assert_eq!(PathElement::parse("x:what"), Ok(None));
        for bad in ["", "f", "ff", "k:[]", "k:{", "v:", "i:x"] {
            assert!(PathElement::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn upstream_order() {
        let texts = [
            "f:a",
            "f:b",
            r#"k:{"p":80}"#,
            r#"k:{"p":443}"#,
            r#"k:{"p":"x"}"#,
            "v:1",
            "v:1.5",
            "v:2",
            r#"v:"1""#,
            "v:true",
            "i:0",
        ];
        let elements: Vec<PathElement> = texts.iter().map(|text| PathElement::parse(text).unwrap().unwrap()).collect();
        assert!(elements.is_sorted_by(|a, b| a < b));
        assert_eq!(compare_values(&Value::Int(1), &Value::Float(1.0)), Ordering::Equal);
    }
}
