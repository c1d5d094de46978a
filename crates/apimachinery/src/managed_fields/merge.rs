//! Merging an applied configuration into an object, and taking fields out of one.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::path::PathElement;
use super::schema::{Atom, Node};
use super::set::Set;
use super::typed::{Form, elements, form, keys_of_both, members};
use crate::{Map, Value};

/// The object with everything that the configuration says. Lists keep the configuration's order where it has an opinion.
pub(super) fn merge(live: &Value, config: &Value, node: Node<'_>) -> Value {
    merge_at(Some(live), Some(config), node).unwrap_or_default()
}

fn merge_at(live: Option<&Value>, config: Option<&Value>, node: Node<'_>) -> Option<Value> {
    let keep = || config.or(live).cloned();
    let form = form(node, config.or(live));
    let is_empty = |value: Option<&Value>| members(value).is_none() && elements(value).is_empty();
    if form == Form::Leaf || (is_empty(live) && is_empty(config)) {
        return keep();
    }
    match form {
        Form::Object => {
            let (live, config) = (members(live), members(config));
            let merged = keys_of_both(live, config).filter_map(|name| {
                let get = |members: Option<&Map>| members.and_then(|members| members.get(name)).cloned();
                let inner = node.member(name).unwrap_or(Node::Deduced);
                Some((name.clone(), merge_at(get(live).as_ref(), get(config).as_ref(), inner)?))
            });
            let merged: Map = merged.collect();
            (!merged.is_empty()).then(|| merged.into())
        }
        _ => {
            let merged = merge_elements(elements(live), elements(config), node);
            (!merged.is_empty()).then(|| merged.into())
        }
    }
}

/// Elements that are in both lists keep the configuration's order relative to each other; elements only in the live list stay near
/// their neighbours.
fn merge_elements(live: &[Value], config: &[Value], node: Node<'_>) -> Vec<Value> {
    let inner = node.element().unwrap_or(Node::Deduced);
    let identify = |list: &[Value]| -> Vec<(PathElement, Value)> {
        list.iter().filter_map(|value| Some((node.path_element(value).ok()?, value.clone()))).collect()
    };
    let (left, right) = (identify(live), identify(config));
    let mut in_left: BTreeMap<&PathElement, Option<&Value>> = BTreeMap::new();
    for (element, value) in &left {
        // Of duplicates none is the one to merge with.
        in_left.entry(element).and_modify(|known| *known = None).or_insert(Some(value));
    }
    let in_right: BTreeMap<&PathElement, &Value> = right.iter().map(|(element, value)| (element, value)).collect();
    let mut shared: VecDeque<&PathElement> =
        right.iter().map(|(element, _)| element).filter(|e| in_left.contains_key(e)).collect();
    let mut next_shared = shared.pop_front();
    let mut done: BTreeSet<&PathElement> = BTreeSet::new();
    let mut merged = Vec::with_capacity(left.len().max(right.len()));
    let both = |element: &PathElement| merge_at(in_left.get(element).copied().flatten(), in_right.get(element).copied(), inner);
    let (mut l, mut r) = (0, 0);
    while l < left.len() || r < right.len() {
        if let (Some((element, _)), Some((theirs, _))) = (left.get(l), right.get(r)) {
            if element == theirs {
                done.insert(element);
                merged.extend(both(element));
                l += 1;
                r += 1;
                next_shared = shared.pop_front();
                continue;
            }
            if in_right.contains_key(element) && next_shared.is_some_and(|next| next != element) {
                // It comes later, where the configuration has it.
                l += 1;
                continue;
            }
        }
        if let Some((element, value)) = left.get(l) {
            if !in_right.contains_key(element) {
                merged.extend(merge_at(Some(value), None, inner));
                l += 1;
                continue;
            }
            if done.contains(element) {
                l += 1;
            }
        }
        if let Some((element, _)) = right.get(r) {
            done.insert(element);
            merged.extend(both(element));
            r += 1;
            if next_shared == Some(element) {
                next_shared = shared.pop_front();
            }
        }
    }
    merged
}

/// The object without some fields. What becomes empty is `null`.
pub(super) fn remove(value: &Value, fields: &Set, node: Node<'_>) -> Value {
    take_out(value, fields, node, false)
}

/// Only some fields of an object: what a manager owns of it. `null` when there are none.
pub fn extract(value: &Value, fields: &Set, node: Node<'_>) -> Value {
    take_out(value, fields, node, true)
}

fn take_out(value: &Value, fields: &Set, node: Node<'_>, extract: bool) -> Value {
    match node.atom() {
        Atom::Scalar(_) => return value.clone(),
        Atom::Atomic => return if extract { value.clone() } else { Value::Null },
        Atom::Deduced if value.as_object().is_none() => {
            let scalar = value.as_array().is_none();
            return if extract || scalar { value.clone() } else { Value::Null };
        }
        _ => {}
    }
    match form(node, Some(value)) {
        Form::Object => {
            let kept = members(Some(value)).into_iter().flatten().filter_map(|(name, value)| {
                let element = PathElement::Field(name.clone());
                let inner = node.member(name).unwrap_or(Node::Deduced);
                Some((name.clone(), take_out_at(value, &element, fields, inner, extract)?))
            });
            let kept: Map = kept.collect();
            if kept.is_empty() { Value::Null } else { kept.into() }
        }
        _ => {
            let inner = node.element().unwrap_or(Node::Deduced);
            let kept = elements(Some(value)).iter().filter_map(|value| match node.path_element(value) {
                Ok(element) => take_out_at(value, &element, fields, inner, extract),
                Err(_) => (!extract).then(|| value.clone()),
            });
            let kept: Vec<Value> = kept.collect();
            if kept.is_empty() { Value::Null } else { kept.into() }
        }
    }
}

fn take_out_at(value: &Value, element: &PathElement, fields: &Set, inner: Node<'_>, extract: bool) -> Option<Value> {
    if fields.has_member(element) {
        let empty = Set::new();
        return extract.then(|| match fields.below(element) {
            Some(below) => take_out(value, below, inner, true),
            None => take_out(value, &empty, inner, true),
        });
    }
    match fields.below(element) {
        Some(below) => Some(take_out(value, below, inner, extract)),
        None => (!extract).then(|| value.clone()),
    }
}

/// Without the `null`s that removals left in structs: upstream's typed objects have none there. In maps and lists they become Go's zero
/// values when the object is restored.
pub(super) fn without_nulls(value: Value, node: Node<'_>) -> Value {
    match (form(node, Some(&value)), value) {
        (Form::Object, Value::Object(members)) => {
            let keeps = !node.is_struct() && node.atom() == Atom::Object;
            let kept = members.iter().filter(|(_, value)| keeps || !value.is_null());
            let kept = kept
                .map(|(name, value)| (name.clone(), without_nulls(value.clone(), node.member(name).unwrap_or(Node::Deduced))));
            kept.collect::<Map>().into()
        }
        (Form::List, Value::Array(elements)) => {
            let inner = node.element().unwrap_or(Node::Deduced);
            elements.iter().filter(|value| !value.is_null()).map(|value| without_nulls(value.clone(), inner)).collect()
        }
        (_, value) => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::managed_fields::typed::to_set;
    use crate::{GroupVersionKind, value};

    fn pod() -> Node<'static> {
        Node::Kind(crate::schema::lookup(&GroupVersionKind::new("", "v1", "Pod")).expect("a built-in kind"))
    }

    fn names(list: &[&str]) -> Value {
        let list: Vec<Value> = list.iter().map(|name| value!({"name": *name})).collect();
        value!({"spec": {"containers": list}})
    }

    #[test]
    fn order_of_merged_lists() {
        for (live, config, merged) in [
            (&["a", "b", "c"][..], &["c", "a"][..], &["b", "c", "a"][..]),
            (&["a", "b"], &["x", "b"], &["a", "x", "b"]),
            (&["a", "b", "c", "d"], &["b", "x", "d"], &["a", "b", "c", "x", "d"]),
            (&[], &["b", "a"], &["b", "a"]),
            (&["b", "a"], &[], &["b", "a"]),
        ] {
            assert_eq!(merge(&names(live), &names(config), pod()), names(merged), "{live:?} + {config:?}");
        }
    }

    #[test]
    fn merges_by_schema() {
        let live = value!({"metadata": {"labels": {"a": "1"}, "finalizers": ["x/1"]},
            "spec": {"nodeSelector": {"a": "1"}, "containers": [{"name": "c", "image": "i", "args": ["1"]}]}});
        let config = value!({"metadata": {"labels": {"b": "2"}, "finalizers": ["x/2"]},
            "spec": {"nodeSelector": {"b": "2"}, "containers": [{"name": "c", "args": ["2"]}]}});
        assert_eq!(
            merge(&live, &config, pod()),
            value!({"metadata": {"labels": {"a": "1", "b": "2"}, "finalizers": ["x/1", "x/2"]},
                "spec": {"nodeSelector": {"b": "2"}, "containers": [{"name": "c", "image": "i", "args": ["2"]}]}})
        );
    }

    #[test]
    fn removes_and_extracts() {
        let object =
            value!({"metadata": {"labels": {"a": "1", "b": "2"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
        let fields = Set::parse(&value!({"f:metadata": {"f:labels": {"f:a": {}}},
            "f:spec": {"f:containers": {"k:{\"name\":\"c\"}": {"f:image": {}}}}}));
        let fields = fields.expect("a set");
        assert_eq!(
            remove(&object, &fields, pod()),
            value!({"metadata": {"labels": {"b": "2"}}, "spec": {"containers": [{"name": "c"}]}})
        );
        assert_eq!(
            extract(&object, &fields, pod()),
            value!({"metadata": {"labels": {"a": "1"}}, "spec": {"containers": [{"image": "i"}]}})
        );
        let nothing = remove(&object, &to_set(&object, pod()).leaves(), pod());
        assert_eq!(without_nulls(nothing, pod()), value!({"metadata": {}, "spec": {"containers": []}}));
    }

    #[test]
    fn nulls_of_a_configuration() {
        let nulls = value!({"metadata": {"labels": {"a": null}}, "spec": {"hostname": null}});
        assert_eq!(without_nulls(nulls, pod()), value!({"metadata": {"labels": {"a": null}}, "spec": {}}));
    }
}
