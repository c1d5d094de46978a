//! Objects seen through their schema: are they what it says, which fields do they have, and in which do two of them differ.

use std::collections::BTreeMap;

use super::path::PathElement;
use super::schema::{Atom, Node, Scalar};
use super::set::Set;
use crate::{Key, Map, Value, go_quote};

/// How a place is handled, given what is there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// As one thing.
    Leaf,
    Object,
    List,
}

/// A value of the type that the schema says; `null` and absence count as empty.
pub(super) fn form(node: Node<'_>, value: Option<&Value>) -> Form {
    match (node.atom(), value) {
        (Atom::Object, _) | (Atom::Deduced, Some(Value::Object(_))) => Form::Object,
        (Atom::Set | Atom::Keyed, _) => Form::List,
        _ => Form::Leaf,
    }
}

pub(super) fn members(value: Option<&Value>) -> Option<&Map> {
    value.and_then(Value::as_object).filter(|members| !members.is_empty())
}

pub(super) fn elements(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).unwrap_or_default()
}

/// All keys of two objects.
pub(super) fn keys_of_both<'a>(left: Option<&'a Map>, right: Option<&'a Map>) -> impl Iterator<Item = &'a Key> {
    let only_right = right.into_iter().flat_map(Map::keys).filter(move |key| !left.is_some_and(|left| left.contains_key(key)));
    left.into_iter().flat_map(Map::keys).chain(only_right)
}

/// Checks an object; the errors are upstream's, all of them.
pub(super) fn validate(value: &Value, node: Node<'_>, allow_duplicates: bool) -> Result<(), String> {
    let mut errors = Vec::new();
    Validator { allow_duplicates, errors: &mut errors }.check(value, node, "");
    match errors.as_slice() {
        [] => Ok(()),
        [one] => Err(one.clone()),
        many => Err(many.iter().fold("errors:".to_owned(), |text, error| format!("{text}\n  {error}"))),
    }
}

struct Validator<'a> {
    allow_duplicates: bool,
    errors: &'a mut Vec<String>,
}

impl Validator<'_> {
    fn error(&mut self, path: &str, message: impl std::fmt::Display) {
        self.errors.push(if path.is_empty() { message.to_string() } else { format!("{path}: {message}") });
    }

    fn check(&mut self, value: &Value, node: Node<'_>, path: &str) {
        if value.is_null() {
            return;
        }
        match node.atom() {
            Atom::Scalar(scalar) => self.check_scalar(value, scalar, path),
            Atom::Atomic if node.element().is_some() && value.as_array().is_none() => {
                self.error(path, format_args!("expected list, got &{{{}}}", go_value(value)));
            }
            Atom::Atomic if node.is_struct() && value.as_object().is_none() => {
                self.error(path, format_args!("expected map, got &{{{}}}", go_value(value)));
            }
            Atom::Atomic | Atom::Deduced => match value {
                Value::Object(members) if node.atom() == Atom::Atomic => {
                    for (name, value) in members.iter() {
                        let path = format!("{path}.{name}");
                        match node.member(name) {
                            Some(node) => self.check(value, node, &path),
                            None if node.is_struct() => self.error(&path, "field not declared in schema"),
                            None => {}
                        }
                    }
                }
                Value::Array(elements) => {
                    for (i, value) in elements.iter().enumerate() {
                        if let Some(node) = node.element() {
                            self.check(value, node, &format!("{path}[{i}]"));
                        }
                    }
                }
                _ => {}
            },
            Atom::Object => match value {
                Value::Object(members) => {
                    for (name, value) in members.iter() {
                        let path = format!("{path}.{name}");
                        match node.member(name) {
                            Some(node) => self.check(value, node, &path),
                            None => self.error(&path, "field not declared in schema"),
                        }
                    }
                }
                other => self.error(path, format_args!("expected map, got &{{{}}}", go_value(other))),
            },
            Atom::Set | Atom::Keyed => match value {
                Value::Array(elements) => self.check_elements(elements, node, path),
                other => self.error(path, format_args!("expected list, got &{{{}}}", go_value(other))),
            },
        }
    }

    fn check_scalar(&mut self, value: &Value, scalar: Scalar, path: &str) {
        let (fits, expected) = match scalar {
            Scalar::Number => (matches!(value, Value::Int(_) | Value::Float(_)), "numeric (int or float)"),
            Scalar::String => (matches!(value, Value::String(_)), "string"),
            Scalar::Boolean => (matches!(value, Value::Bool(_)), "boolean"),
            Scalar::Any => (!matches!(value, Value::Array(_) | Value::Object(_)), "any scalar"),
        };
        if !fits {
            let got = match (scalar, value) {
                (Scalar::Number, Value::String(_)) => "string".to_owned(),
                (Scalar::Number, Value::Bool(_)) => "bool".to_owned(),
                (Scalar::String, other) => format!("&value.valueUnstructured{{Value:{}}}", go_syntax(other)),
                (Scalar::Number, Value::Array(_)) => "[]interface {}".to_owned(),
                (Scalar::Number, Value::Object(_)) => "map[string]interface {}".to_owned(),
                (_, other) => format!("&{{{}}}", go_value(other)),
            };
            self.error(path, format_args!("expected {expected}, got {got}"));
        }
    }

    fn check_elements(&mut self, elements: &[Value], node: Node<'_>, path: &str) {
        let mut seen = std::collections::BTreeSet::new();
        for (i, value) in elements.iter().enumerate() {
            let element = match node.path_element(value) {
                Ok(element) => element,
                Err(why) => return self.error(path, format_args!("element {i}: {why}")),
            };
            let here = format!("{path}{element}");
            if !seen.insert(element.clone()) && !self.allow_duplicates {
                self.error(path, format_args!("duplicate entries for key {element}"));
            }
            if let Some(node) = node.element() {
                self.check(value, node, &here);
            }
        }
    }
}

/// A value as Go writes it in a program (`%#v`).
fn go_syntax(value: &Value) -> String {
    match value {
        Value::Object(members) => {
            let members = members.iter().map(|(key, member)| format!("{}:{}", go_quote(key.as_str()), go_syntax(member)));
            format!("map[string]interface {{}}{{{}}}", members.collect::<Vec<_>>().join(", "))
        }
        Value::Array(items) => {
            format!("[]interface {{}}{{{}}}", items.iter().map(go_syntax).collect::<Vec<_>>().join(", "))
        }
        Value::String(text) => go_quote(text),
        Value::Null => "interface {}(nil)".to_owned(),
        other => other.to_string(),
    }
}

/// A value as Go prints it.
fn go_value(value: &Value) -> String {
    match value {
        Value::Object(members) => {
            let members = members.iter().map(|(key, member)| format!("{}:{}", key.as_str(), go_value(member)));
            format!("map[{}]", members.collect::<Vec<_>>().join(" "))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(go_value).collect::<Vec<_>>().join(" ")),
        Value::String(text) => text.to_string(),
        Value::Null => "<nil>".to_owned(),
        other => other.to_string(),
    }
}

/// All fields that an object has.
pub(super) fn to_set(value: &Value, node: Node<'_>) -> Set {
    let mut set = Set::new();
    FieldWalk { set: &mut set, path: Vec::new() }.walk(value, node);
    set
}

struct FieldWalk<'a> {
    set: &'a mut Set,
    path: Vec<PathElement>,
}

impl FieldWalk<'_> {
    fn walk(&mut self, value: &Value, node: Node<'_>) {
        match form(node, Some(value)) {
            Form::Leaf => self.set.insert(&self.path),
            Form::Object => {
                for (name, value) in members(Some(value)).into_iter().flatten() {
                    self.path.push(PathElement::Field(name.clone()));
                    self.walk(value, node.member(name).unwrap_or(Node::Deduced));
                    let empty = value.is_null() || value.as_object().is_some_and(Map::is_empty);
                    if empty || !node.has_field(name) {
                        self.set.insert(&self.path);
                    }
                    self.path.pop();
                }
            }
            Form::List => self.walk_elements(elements(Some(value)), node),
        }
    }

    fn walk_elements(&mut self, elements: &[Value], node: Node<'_>) {
        for (element, values) in by_element(elements, node) {
            self.path.push(element);
            if let ([value], Some(inner)) = (values.as_slice(), node.element()) {
                self.walk(value, inner);
            }
            self.set.insert(&self.path);
            self.path.pop();
        }
    }
}

/// A list's elements by what tells them apart. Elements that cannot be told apart at all are left out; validation has reported them.
fn by_element<'a>(elements: &'a [Value], node: Node<'_>) -> BTreeMap<PathElement, Vec<&'a Value>> {
    let mut by_element: BTreeMap<PathElement, Vec<&Value>> = BTreeMap::new();
    for value in elements {
        if let Ok(element) = node.path_element(value) {
            by_element.entry(element).or_default().push(value);
        }
    }
    by_element
}

/// In which fields two objects differ.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Only the first has them.
    pub removed: Set,
    /// Both have them, with different values.
    pub modified: Set,
    /// Only the second has them.
    pub added: Set,
    /// A list has elements that nothing tells apart, so that the objects are not of their type.
    pub untyped: bool,
}

impl Comparison {
    /// Compares two objects of one type.
    pub fn of(left: &Value, right: &Value, node: Node<'_>) -> Comparison {
        let mut comparison = Comparison::default();
        CompareWalk { found: &mut comparison, path: Vec::new() }.compare(Some(left), Some(right), node);
        comparison
    }

    /// Without some fields and everything in them.
    #[must_use]
    pub fn excluding(self, fields: &Set) -> Comparison {
        if fields.is_empty() {
            return self;
        }
        Comparison {
            removed: self.removed.recursive_difference(fields),
            modified: self.modified.recursive_difference(fields),
            added: self.added.recursive_difference(fields),
            untyped: self.untyped,
        }
    }
}

struct CompareWalk<'a> {
    found: &'a mut Comparison,
    path: Vec<PathElement>,
}

impl CompareWalk<'_> {
    fn compare(&mut self, left: Option<&Value>, right: Option<&Value>, node: Node<'_>) {
        if let (Some(left), Some(right)) = (left, right)
            && left.same_node(right)
        {
            return;
        }
        let form = form(node, right.or(left));
        let is_empty = |value: Option<&Value>| members(value).is_none() && elements(value).is_empty();
        // Without a schema a place may hold different types of things in the two objects; it is one thing then.
        let mixed = matches!(node.atom(), Atom::Deduced) && left.is_some() && self::form(node, left) != form;
        if form == Form::Leaf || mixed || (is_empty(left) && is_empty(right)) {
            return self.leaf(left, right);
        }
        match form {
            Form::Object => {
                let (left, right) = (members(left), members(right));
                for name in keys_of_both(left, right) {
                    let get = |members: Option<&'_ Map>| members.and_then(|members| members.get(name)).cloned();
                    let (left, right) = (get(left), get(right));
                    self.path.push(PathElement::Field(name.clone()));
                    self.compare(left.as_ref(), right.as_ref(), node.member(name).unwrap_or(Node::Deduced));
                    self.path.pop();
                }
            }
            _ => self.compare_elements(elements(left), elements(right), node),
        }
        match (left, right) {
            (None, _) => self.found.added.insert(&self.path),
            (_, None) => self.found.removed.insert(&self.path),
            _ => {}
        }
    }

    fn leaf(&mut self, left: Option<&Value>, right: Option<&Value>) {
        match (left, right) {
            (None, _) => self.found.added.insert(&self.path),
            (_, None) => self.found.removed.insert(&self.path),
            (Some(left), Some(right)) if left != right => self.found.modified.insert(&self.path),
            _ => {}
        }
    }

    fn compare_elements(&mut self, left: &[Value], right: &[Value], node: Node<'_>) {
        let inner = node.element().unwrap_or(Node::Deduced);
        let count = right.len();
        let (left, right) = (by_element(left, node), by_element(right, node));
        self.found.untyped |= right.values().map(Vec::len).sum::<usize>() < count;
        let none = Vec::new();
        for element in left.keys().chain(right.keys().filter(|element| !left.contains_key(element))) {
            let (left, right) = (left.get(element).unwrap_or(&none), right.get(element).unwrap_or(&none));
            self.path.push(element.clone());
            match (left.as_slice(), right.as_slice()) {
                ([] | [_], [] | [_]) => self.compare(left.first().copied(), right.first().copied(), inner),
                ([_, _, ..], [_, _, ..]) => {
                    if left != right {
                        self.found.modified.insert(&self.path);
                    }
                }
                ([_, _, ..], _) => {
                    if let Some(one) = right.first() {
                        self.compare(None, Some(one), inner);
                    }
                    self.found.removed.insert(&self.path);
                }
                (_, _) => {
                    if let Some(one) = left.first() {
                        self.compare(Some(one), None, inner);
                    }
                    self.found.added.insert(&self.path);
                }
            }
            self.path.pop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::schema::Tree;
    use super::*;
    use crate::{GroupVersionKind, value};

    fn pod() -> Node<'static> {
        Node::Kind(crate::schema::lookup(&GroupVersionKind::new("", "v1", "Pod")).expect("a built-in kind"))
    }

    #[test]
    fn fields_of_an_object() {
        let object = value!({"metadata": {"labels": {"a": "b"}, "finalizers": ["x/y"]},
            "spec": {"containers": [{"name": "c", "args": ["1"], "ports": [{"containerPort": 80}], "resources": {}}]}});
        assert_eq!(
            to_set(&object, pod()).to_value(),
            value!({"f:metadata": {"f:labels": {"f:a": {}}, "f:finalizers": {"v:\"x/y\"": {}}},
                "f:spec": {"f:containers": {"k:{\"name\":\"c\"}": {".": {}, "f:name": {}, "f:args": {}, "f:resources": {},
                    "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}}}}}})
        );
    }

    #[test]
    fn differences_of_objects() {
        let left = value!({"metadata": {"labels": {"a": "1", "b": "1"}}, "spec": {"containers": [{"name": "x", "image": "i"}]}});
        let right = value!({"metadata": {"labels": {"a": "2", "c": "1"}},
            "spec": {"nodeSelector": {"k": "v"}, "containers": [{"name": "x", "image": "j"}, {"name": "y"}]}});
        let found = Comparison::of(&left, &right, pod());
        assert_eq!(found.removed.to_value(), value!({"f:metadata": {"f:labels": {"f:b": {}}}}));
        assert_eq!(
            found.modified.to_value(),
            value!({"f:metadata": {"f:labels": {"f:a": {}}}, "f:spec": {"f:containers": {"k:{\"name\":\"x\"}": {"f:image": {}}}}})
        );
        assert_eq!(
            found.added.to_value(),
            value!({"f:metadata": {"f:labels": {"f:c": {}}},
                "f:spec": {"f:nodeSelector": {}, "f:containers": {"k:{\"name\":\"y\"}": {".": {}, "f:name": {}}}}})
        );
        assert_eq!(Comparison::of(&right, &right.clone(), pod()), Comparison::default());
    }

    #[test]
    fn elements_without_a_key_have_no_type() {
        let tree =
            Tree::root(&value!({"type": "object", "properties": {"list": {"type": "array", "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["a"], "items": {"type": "object", "properties": {"a": {"type": "string"}}}}}}));
        for (element, untyped) in [(value!({"a": "x"}), false), (value!({"b": "x"}), true)] {
            assert_eq!(Comparison::of(&value!({}), &value!({"list": [element]}), Node::Tree(&tree)).untyped, untyped);
        }
        // A container's name is always written, so that none is the empty one.
        let unnamed = value!({"spec": {"containers": [{"image": "a"}]}});
        assert!(!Comparison::of(&value!({}), &unnamed, pod()).untyped);
    }

    #[test]
    fn what_is_not_in_the_schema() {
        let check = |object: Value, expected: &str| assert_eq!(validate(&object, pod(), false), Err(expected.to_owned()));
        check(value!({"spec": {"foo": 1}}), ".spec.foo: field not declared in schema");
        check(
            value!({"spec": {"containers": [{"name": "a"}, {"name": "a"}]}}),
            ".spec.containers: duplicate entries for key [name=\"a\"]",
        );
        assert!(validate(&value!({"spec": {"containers": [{"name": "a"}, {"name": "a"}]}}), pod(), true).is_ok());
        check(
            value!({"metadata": {"name": []}}),
            ".metadata.name: expected string, got &value.valueUnstructured{Value:[]interface {}{}}",
        );
        check(value!({"spec": {"hostNetwork": "x"}}), ".spec.hostNetwork: expected boolean, got &{x}");
    }
}
