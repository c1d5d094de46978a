//! Sets of fields: which paths of an object someone owns, or a comparison found changed.
//!
//! A path can be in the set without its children, and the other way round. Entries that hold nothing are never kept, so that equal
//! sets are equal trees.

use std::collections::BTreeMap;

use super::path::{PathElement, PathError};
use super::schema::Node;
use crate::{Map, Value};

/// A set of paths.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Set {
    entries: BTreeMap<PathElement, Entry>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Entry {
    /// The path that ends here is in the set.
    member: bool,
    children: Set,
}

impl Entry {
    fn is_empty(&self) -> bool {
        !self.member && self.children.is_empty()
    }
}

/// Why JSON is not a set of fields.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SetError {
    /// A key is not a path element.
    #[error(transparent)]
    Path(#[from] PathError),
    /// Something other than an object.
    #[error("fields are objects, found {0}")]
    NotAnObject(&'static str),
}

impl Set {
    /// The empty set.
    pub fn new() -> Set {
        Set::default()
    }

    /// A set of paths that consist of names only.
    pub fn of_fields(paths: &[&[&str]]) -> Set {
        let mut set = Set::new();
        for path in paths {
            set.insert(&path.iter().map(|name| PathElement::field(name)).collect::<Vec<_>>());
        }
        set
    }

    /// Whether nothing is in the set.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The number of paths.
    pub fn len(&self) -> usize {
        self.entries.values().map(|entry| usize::from(entry.member) + entry.children.len()).sum()
    }

    /// Adds a path; the empty path is not one.
    pub fn insert(&mut self, path: &[PathElement]) {
        if let Some((first, rest)) = path.split_first() {
            let entry = self.entries.entry(first.clone()).or_default();
            match rest.is_empty() {
                true => entry.member = true,
                false => entry.children.insert(rest),
            }
        }
    }

    /// Whether a path is in the set.
    pub fn contains(&self, path: &[PathElement]) -> bool {
        path.split_first().is_some_and(|(first, rest)| {
            let entry = self.entries.get(first);
            entry.is_some_and(|entry| if rest.is_empty() { entry.member } else { entry.children.contains(rest) })
        })
    }

    pub(super) fn has_member(&self, element: &PathElement) -> bool {
        self.entries.get(element).is_some_and(|entry| entry.member)
    }

    /// The paths below an element.
    pub(super) fn below(&self, element: &PathElement) -> Option<&Set> {
        self.entries.get(element).map(|entry| &entry.children).filter(|children| !children.is_empty())
    }

    /// The paths of either.
    #[must_use]
    pub fn union(&self, other: &Set) -> Set {
        let mut union = self.clone();
        for (element, theirs) in &other.entries {
            let entry = union.entries.entry(element.clone()).or_default();
            entry.member |= theirs.member;
            entry.children = match entry.children.is_empty() {
                true => theirs.children.clone(),
                false => entry.children.union(&theirs.children),
            };
        }
        union
    }

    fn keep(&self, mut keep: impl FnMut(&PathElement, &Entry) -> Entry) -> Set {
        let entries = self.entries.iter().map(|(element, entry)| (element.clone(), keep(element, entry)));
        Set { entries: entries.filter(|(_, entry)| !entry.is_empty()).collect() }
    }

    /// The paths of both.
    #[must_use]
    pub fn intersection(&self, other: &Set) -> Set {
        self.keep(|element, entry| match other.entries.get(element) {
            Some(theirs) => {
                Entry { member: entry.member && theirs.member, children: entry.children.intersection(&theirs.children) }
            }
            None => Entry::default(),
        })
    }

    /// The paths of this set that are not in the other.
    #[must_use]
    pub fn difference(&self, other: &Set) -> Set {
        self.keep(|element, entry| match other.entries.get(element) {
            Some(theirs) => {
                Entry { member: entry.member && !theirs.member, children: entry.children.difference(&theirs.children) }
            }
            None => entry.clone(),
        })
    }

    /// The paths of this set that neither are in the other nor have a prefix there.
    #[must_use]
    pub fn recursive_difference(&self, other: &Set) -> Set {
        self.keep(|element, entry| match other.entries.get(element) {
            Some(theirs) if theirs.member => Entry::default(),
            Some(theirs) => Entry { member: entry.member, children: entry.children.recursive_difference(&theirs.children) },
            None => entry.clone(),
        })
    }

    /// The paths of which nothing below is in the set.
    #[must_use]
    pub fn leaves(&self) -> Set {
        self.keep(|_, entry| Entry { member: entry.member && entry.children.is_empty(), children: entry.children.leaves() })
    }

    /// With every named field of the schema that has paths below it as a path of its own.
    #[must_use]
    pub(super) fn with_named_fields(&self, node: Node<'_>) -> Set {
        self.keep(|element, entry| {
            let inner = match element {
                PathElement::Field(name) => node.member(name),
                PathElement::Index(_) => None,
                PathElement::Key(_) | PathElement::Value(_) => node.element(),
            };
            let named = matches!(element, PathElement::Field(name) if node.has_field(name)) && !entry.children.is_empty();
            let children = entry.children.with_named_fields(inner.unwrap_or(Node::Deduced));
            Entry { member: entry.member || named, children }
        })
    }

    /// All paths in upstream's order: at each level those that end there, then those that go on.
    pub fn paths(&self) -> Vec<Vec<PathElement>> {
        let mut paths = Vec::with_capacity(self.len());
        self.collect(&mut Vec::new(), &mut paths);
        paths
    }

    fn collect(&self, prefix: &mut Vec<PathElement>, paths: &mut Vec<Vec<PathElement>>) {
        for (element, _) in self.entries.iter().filter(|(_, entry)| entry.member) {
            paths.push(prefix.iter().chain([element]).cloned().collect());
        }
        for (element, entry) in &self.entries {
            prefix.push(element.clone());
            entry.children.collect(prefix, paths);
            prefix.pop();
        }
    }

    /// Parses `fieldsV1`.
    pub fn parse(fields: &Value) -> Result<Set, SetError> {
        let members = match fields {
            Value::Null => return Ok(Set::new()),
            Value::Object(members) => members,
            other => return Err(SetError::NotAnObject(other.type_name())),
        };
        let mut set = Set::new();
        for (key, below) in members.iter().filter(|(key, _)| *key != ".") {
            let Some(element) = PathElement::parse(key)? else { continue };
            let children = Set::parse(below)?;
            let member = below.get(".").is_some() || children.is_empty();
            set.entries.insert(element, Entry { member, children });
        }
        Ok(set)
    }

    /// `fieldsV1`.
    pub fn to_value(&self) -> Value {
        self.members(false).into()
    }

    fn members(&self, with_self: bool) -> Map {
        let own = (with_self && !self.is_empty()).then(|| (".".to_owned(), Value::object()));
        let below = self.entries.iter().map(|(element, entry)| (element.to_text(), entry.children.members(entry.member).into()));
        own.into_iter().chain(below).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn set(json: &str) -> Set {
        Set::parse(&Value::from_slice(json.as_bytes()).unwrap()).unwrap()
    }

    #[test]
    fn stored_form_and_back() {
        for json in [
            "{}",
            r#"{"f:a":{}}"#,
            r#"{"f:a":{".":{},"f:b":{}},"f:c":{"k:{\"name\":\"x\"}":{".":{},"f:image":{}},"v:\"y\"":{}}}"#,
        ] {
            assert_eq!(set(json).to_value().to_json(), json);
        }
        assert_eq!(set(r#"{"f:a":{"f:b":{}},"x:unknown":{"f:c":{}}}"#).paths().len(), 1);
        assert!(Set::parse(&Value::from("x")).is_err());
        assert!(Set::parse(&crate::value!({"broken": {}})).is_err());
    }

    #[test]
    fn differences() {
        let all = set(r#"{"f:a":{".":{},"f:b":{},"f:c":{}},"f:d":{}}"#);
        let a = set(r#"{"f:a":{}}"#);
        assert_eq!(all.difference(&a), set(r#"{"f:a":{"f:b":{},"f:c":{}},"f:d":{}}"#));
        assert_eq!(all.recursive_difference(&a), set(r#"{"f:d":{}}"#));
        assert_eq!(all.leaves(), set(r#"{"f:a":{"f:b":{},"f:c":{}},"f:d":{}}"#));
        assert_eq!(
            all.paths().iter().map(|path| super::super::path::show_path(path)).collect::<Vec<_>>(),
            [".a", ".d", ".a.b", ".a.c"]
        );
    }

    fn any_set() -> impl Strategy<Value = Set> {
        let element = prop_oneof![
            "[a-c]".prop_map(|name| PathElement::field(&name)),
            (0..3i64).prop_map(|i| PathElement::Value(Value::Int(i))),
        ];
        prop::collection::vec(prop::collection::vec(element, 1..4), 0..12).prop_map(|paths| {
            let mut set = Set::new();
            paths.iter().for_each(|path| set.insert(path));
            set
        })
    }

    proptest! {
        #[test]
        fn algebra(a in any_set(), b in any_set(), c in any_set()) {
            prop_assert_eq!(a.union(&b), b.union(&a));
            prop_assert_eq!(a.intersection(&b), b.intersection(&a));
            prop_assert_eq!(a.union(&b.union(&c)), a.union(&b).union(&c));
            prop_assert_eq!(a.intersection(&b.union(&c)), a.intersection(&b).union(&a.intersection(&c)));
            prop_assert_eq!(a.difference(&b).union(&a.intersection(&b)), a.clone());
            prop_assert!(a.difference(&b).intersection(&b).is_empty());
            prop_assert_eq!(a.recursive_difference(&b).difference(&a.difference(&b)), Set::new());
            prop_assert_eq!(Set::parse(&a.to_value()).unwrap(), a.clone());
            prop_assert_eq!(a.union(&b).len() + a.intersection(&b).len(), a.len() + b.len());
            for path in a.paths() {
                prop_assert!(a.contains(&path));
                prop_assert_eq!(a.difference(&b).contains(&path), !b.contains(&path));
            }
        }
    }
}
