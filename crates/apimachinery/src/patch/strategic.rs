//! Strategic merge patch: lists of objects are merged by a key that the schema names, with directives for what a merge cannot say.

use super::order::{Identity, arrange};
use crate::{Map, Value};

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const ELEMENT_ORDER: &str = "$setElementOrder/";
const DELETE_PRIMITIVE: &str = "$deleteFromPrimitiveList/";

/// What the schema says of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListRule<'a> {
    /// The patch's list takes the place of the other (the default).
    Replace,
    /// Elements are merged; objects by this key, primitives as a set.
    Merge {
        /// The merge key of objects; `None` for primitives.
        key: Option<&'a str>,
    },
}

/// What the schema says of a field.
#[derive(Clone, Copy)]
pub struct FieldRule<'a> {
    /// How a list is patched.
    pub list: ListRule<'a>,
    /// An object is replaced as a whole (patch strategy `replace`).
    pub replace: bool,
    /// The schema of the object, or of the list's or map's elements; `None` when it has no named fields.
    pub inner: Option<&'a dyn PatchSchema>,
}

/// The part of a type's schema that a strategic merge needs.
pub trait PatchSchema: Sync {
    /// The rule of a field; `None` when the type has no such field.
    fn field(&self, name: &str) -> Option<FieldRule<'_>>;
}

/// Why a strategic merge patch was not applied. The document is as it was.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum StrategicError {
    /// An element of a list that is merged by key has no key.
    #[error("map: {element} does not contain declared merge key: {key}")]
    NoMergeKey {
        /// The element.
        element: String,
        /// The key.
        key: String,
    },
    /// A `$patch` that is none of `replace`, `delete` and `merge`.
    #[error("unknown patch type: {directive} in map: {element}")]
    UnknownDirective {
        /// What it says.
        directive: String,
        /// Where it says so.
        element: String,
    },
    /// `$patch: merge` in a list.
    #[error("merging lists cannot yet be specified in the patch")]
    MergeDirectiveInList,
    /// `$retainKeys` is not a list of all the patch's keys.
    #[error("invalid patch format of retainKeys")]
    RetainKeys,
    /// `$setElementOrder/...` is not a list.
    #[error("invalid patch format of setElementOrder list")]
    ElementOrder,
    /// The patch's elements are not in the order that `$setElementOrder/...` gives.
    #[error("The order in patch list:\n{patch}\n doesn't match $setElementOrder list:\n{order}\n")]
    OrderMismatch {
        /// The patch's list.
        patch: String,
        /// The order given.
        order: String,
    },
    /// `$deleteFromPrimitiveList/...` is not a list.
    #[error("invalid patch format of deleteFromPrimitiveList")]
    DeletePrimitives,
    /// A list that is to be merged holds things of several types.
    #[error("list element types are not identical: {lists}")]
    MixedList {
        /// Both lists, as Go prints them.
        lists: String,
    },
}

/// Applies a strategic merge patch.
pub fn strategic_merge_patch(document: &Value, patch: &Value, schema: Option<&dyn PatchSchema>) -> Result<Value, StrategicError> {
    let empty = Map::default();
    let merged = merge_object(document.as_object().unwrap_or(&empty), patch.as_object().unwrap_or(&empty), schema)?;
    Ok(merged.into())
}

/// A tree as Go's `%v` prints it.
pub fn go_text(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.to_string(),
        Value::Array(items) => format!("[{}]", items.iter().map(go_text).collect::<Vec<_>>().join(" ")),
        Value::Object(members) => {
            let members: Vec<String> =
                members.iter().map(|(key, member)| format!("{}:{}", key.as_str(), go_text(member))).collect();
            format!("map[{}]", members.join(" "))
        }
        other => other.to_json(),
    }
}

fn rule<'a>(schema: Option<&'a dyn PatchSchema>, name: &str) -> FieldRule<'a> {
    let unknown = FieldRule { list: ListRule::Replace, replace: false, inner: None };
    schema.and_then(|schema| schema.field(name)).unwrap_or(unknown)
}

fn merge_object(original: &Map, patch: &Map, schema: Option<&dyn PatchSchema>) -> Result<Map, StrategicError> {
    if let Some(directive) = patch.get(PATCH) {
        return apply_object_directive(directive, patch);
    }
    let mut merged = original.clone();
    retain_keys(&mut merged, patch)?;
    for (key, order) in patch.iter().filter_map(|(key, order)| Some((key.strip_prefix(ELEMENT_ORDER)?, order))) {
        merge_ordered_list(&mut merged, patch, key, order, rule(schema, key))?;
    }
    for (key, change) in patch {
        if key.as_str() == RETAIN_KEYS
            || key.starts_with(ELEMENT_ORDER)
            || patch.contains_key(&format!("{ELEMENT_ORDER}{key}")) && change.as_array().is_some()
        {
            continue;
        }
        if let Some(name) = key.strip_prefix(DELETE_PRIMITIVE) {
            delete_primitives(&mut merged, name, change)?;
            continue;
        }
        if change.is_null() {
            merged.remove(key);
            continue;
        }
        let rule = rule(schema, key);
        let value = match (merged.get(key), change) {
            (Some(Value::Object(original)), Value::Object(patch)) if !rule.replace => {
                Some(merge_object(original, patch, rule.inner)?.into())
            }
            (Some(Value::Array(original)), Value::Array(patch)) => match rule.list {
                ListRule::Merge { key } => Some(merge_list(original, patch, key, rule.inner)?.into()),
                ListRule::Replace => Some(change.clone()),
            },
            (Some(Value::Object(_)), Value::Object(_)) => Some(change.clone()),
            _ => without_directives(change),
        };
        match value {
            Some(value) => merged.insert(key, value),
            None => merged.remove(key),
        };
    }
    Ok(merged)
}

fn apply_object_directive(directive: &Value, patch: &Map) -> Result<Map, StrategicError> {
    match directive.as_str() {
        Some("replace") => {
            let mut replacement = patch.clone();
            replacement.remove(PATCH);
            Ok(replacement)
        }
        Some("delete") => Ok(Map::default()),
        _ => Err(unknown_directive(directive, patch)),
    }
}

fn unknown_directive(directive: &Value, element: &Map) -> StrategicError {
    StrategicError::UnknownDirective { directive: go_text(directive), element: go_text(&Value::from(element.clone())) }
}

/// `$retainKeys`: what is not named goes; everything in the patch must be named.
fn retain_keys(merged: &mut Map, patch: &Map) -> Result<(), StrategicError> {
    let Some(keys) = patch.get(RETAIN_KEYS) else { return Ok(()) };
    let keys = keys.as_array().ok_or(StrategicError::RetainKeys)?;
    let is_named = |key: &str| keys.iter().any(|name| name.as_str() == Some(key));
    let is_directive = |key: &str| key == RETAIN_KEYS || key.starts_with(ELEMENT_ORDER) || key.starts_with(DELETE_PRIMITIVE);
    if patch.iter().any(|(key, value)| !value.is_null() && !is_directive(key) && !is_named(key)) {
        return Err(StrategicError::RetainKeys);
    }
    merged.retain(|key, _| is_named(key));
    Ok(())
}

/// A list with `$setElementOrder`: merged with the patch's elements, if any, then put in order.
fn merge_ordered_list(
    merged: &mut Map,
    patch: &Map,
    name: &str,
    order: &Value,
    rule: FieldRule<'_>,
) -> Result<(), StrategicError> {
    let order = order.as_array().ok_or(StrategicError::ElementOrder)?;
    let list = |map: &Map| match map.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => value.as_array().map(|list| Some(list.to_vec())).ok_or(StrategicError::ElementOrder),
    };
    let (original, changes) = (list(merged)?, list(patch)?);
    let key = match rule.list {
        ListRule::Merge { key } => key,
        ListRule::Replace => None,
    };
    let identity = key.map_or(Identity::Value, Identity::Key);
    check_order(changes.as_deref().unwrap_or_default(), order, identity)?;
    let elements = match (&original, &changes) {
        (None, None) => return Ok(()),
        (Some(original), None) => original.clone(),
        (None, Some(changes)) => changes.iter().filter_map(without_directives).collect(),
        (Some(original), Some(changes)) => match rule.list {
            ListRule::Merge { key } => merge_list(original, changes, key, rule.inner)?,
            ListRule::Replace => changes.clone(),
        },
    };
    require_keys(&elements, key)?;
    let arranged = arrange(elements, order, original.as_deref().unwrap_or_default(), identity);
    merged.insert(name, arranged);
    Ok(())
}

/// The patch's elements (deletions aside) must appear in the given order.
fn check_order(patch: &[Value], order: &[Value], identity: Identity<'_>) -> Result<(), StrategicError> {
    if order.is_empty() {
        return Ok(());
    }
    let mut rest = order.iter();
    for element in patch.iter().filter(|element| element.get(PATCH).is_none()) {
        if !rest.any(|candidate| identity.same(candidate, element)) {
            let text = |list: &[Value]| go_text(&Value::from(list.to_vec()));
            return Err(StrategicError::OrderMismatch { patch: text(patch), order: text(order) });
        }
    }
    Ok(())
}

fn require_keys(elements: &[Value], key: Option<&str>) -> Result<(), StrategicError> {
    let Some(key) = key else { return Ok(()) };
    match elements.iter().find(|element| element.get(key).is_none()) {
        Some(element) => Err(StrategicError::NoMergeKey { element: go_text(element), key: key.to_owned() }),
        None => Ok(()),
    }
}

fn merge_list(
    original: &[Value],
    patch: &[Value],
    key: Option<&str>,
    schema: Option<&dyn PatchSchema>,
) -> Result<Vec<Value>, StrategicError> {
    let objects = original.iter().chain(patch).filter(|element| element.as_object().is_some()).count();
    let mut elements = original.iter().chain(patch).map(std::mem::discriminant);
    if let Some(first) = elements.next()
        && elements.any(|other| other != first)
    {
        let lists = go_text(&Value::from(vec![Value::from(original), Value::from(patch)]));
        return Err(StrategicError::MixedList { lists });
    }
    match key {
        Some(key) if objects > 0 => merge_objects_by_key(original, patch, key, schema),
        _ => Ok(merge_primitives(original, patch)),
    }
}

/// A union in which each value stands once.
fn merge_primitives(original: &[Value], patch: &[Value]) -> Vec<Value> {
    let mut union: Vec<Value> = Vec::with_capacity(original.len() + patch.len());
    for element in original.iter().chain(patch) {
        if !union.contains(element) {
            union.push(element.clone());
        }
    }
    arrange(union, patch, original, Identity::Value)
}

fn merge_objects_by_key(
    original: &[Value],
    patch: &[Value],
    key: &str,
    schema: Option<&dyn PatchSchema>,
) -> Result<Vec<Value>, StrategicError> {
    let identity = Identity::Key(key);
    let mut merged = original.to_vec();
    let mut changes = Vec::new();
    let mut replace = false;
    for element in patch {
        let Some(members) = element.as_object() else { continue };
        match members.get(PATCH) {
            None => changes.push(element),
            Some(directive) => match directive.as_str() {
                Some("delete") => {
                    require_keys(std::slice::from_ref(element), Some(key))?;
                    merged.retain(|candidate| !identity.same(candidate, element));
                }
                Some("replace") => replace = true,
                Some("merge") => return Err(StrategicError::MergeDirectiveInList),
                _ => return Err(unknown_directive(directive, members)),
            },
        }
    }
    if replace {
        return Ok(changes.into_iter().cloned().collect());
    }
    for element in &changes {
        require_keys(std::slice::from_ref(element), Some(key))?;
        match identity.position(&merged, element) {
            Some(position) => {
                let empty = Map::default();
                let (before, change) = (merged[position].as_object().unwrap_or(&empty), element.as_object().unwrap_or(&empty));
                merged[position] = merge_object(before, change, schema)?.into();
            }
            None => merged.push((*element).clone()),
        }
    }
    require_keys(&merged, Some(key))?;
    let wanted: Vec<Value> = changes.into_iter().cloned().collect();
    Ok(arrange(merged, &wanted, original, identity).into_iter().filter_map(|element| without_directives(&element)).collect())
}

fn delete_primitives(merged: &mut Map, name: &str, values: &Value) -> Result<(), StrategicError> {
    let values = values.as_array().ok_or(StrategicError::DeletePrimitives)?;
    if let Some(list) = merged.get_mut(name).and_then(Value::as_array_mut) {
        list.retain(|element| !values.contains(element));
    }
    Ok(())
}

/// A value of the patch that meets nothing to merge with: nulls in it have done their work; `$retainKeys` and the parallel lists stay,
/// as members that nobody knows. `None` when the value itself is a directive.
fn without_directives(value: &Value) -> Option<Value> {
    match value {
        Value::Object(members) if members.contains_key(PATCH) => None,
        Value::Object(members) => {
            let kept = members.iter().filter(|(_, value)| !value.is_null());
            Some(kept.filter_map(|(key, value)| Some((key.clone(), without_directives(value)?))).collect::<Map>().into())
        }
        Value::Array(elements) => Some(elements.iter().filter_map(without_directives).collect::<Vec<_>>().into()),
        _ => Some(value.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `containers` merged by name with `env` inside merged by name, `finalizers` merged as a set, `args` replaced, `strategy`.
    struct Root;
    struct Container;

    impl PatchSchema for Root {
        fn field(&self, name: &str) -> Option<FieldRule<'_>> {
            let list = match name {
                "containers" => ListRule::Merge { key: Some("name") },
                "finalizers" => ListRule::Merge { key: None },
                _ => ListRule::Replace,
            };
            Some(FieldRule { list, replace: name == "atomic", inner: (name == "containers").then_some(&Container) })
        }
    }

    impl PatchSchema for Container {
        fn field(&self, name: &str) -> Option<FieldRule<'_>> {
            let list = if name == "env" { ListRule::Merge { key: Some("name") } } else { ListRule::Replace };
            Some(FieldRule { list, replace: false, inner: None })
        }
    }

    fn parse(text: &str) -> Value {
        Value::from_slice(text.as_bytes()).unwrap()
    }

    fn check(document: &str, patch: &str, expected: &str) {
        let patched = strategic_merge_patch(&parse(document), &parse(patch), Some(&Root));
        assert_eq!(patched, Ok(parse(expected)), "{document} + {patch}");
    }

    #[test]
    fn objects_merge_and_nulls_remove() {
        check(r#"{"a":{"b":1,"c":2}}"#, r#"{"a":{"b":3,"c":null,"d":null}}"#, r#"{"a":{"b":3}}"#);
        check(r#"{}"#, r#"{"a":{"b":{"c":null,"d":1}}}"#, r#"{"a":{"b":{"d":1}}}"#);
        check(r#"{"a":{"b":1}}"#, r#"{"a":{"$patch":"replace","c":1}}"#, r#"{"a":{"c":1}}"#);
        check(r#"{"a":{"b":1}}"#, r#"{"a":{"$patch":"delete"}}"#, r#"{"a":{}}"#);
        check(r#"{"atomic":{"b":1}}"#, r#"{"atomic":{"c":1}}"#, r#"{"atomic":{"c":1}}"#);
        check(r#"{"args":[1,2]}"#, r#"{"args":[3]}"#, r#"{"args":[3]}"#);
    }

    #[test]
    fn lists_merge_by_key() {
        let document = r#"{"containers":[{"name":"a","image":"1","env":[{"name":"X","value":"1"}]},{"name":"b","image":"1"}]}"#;
        check(
            document,
            r#"{"containers":[{"name":"a","env":[{"name":"Y","value":"2"}]},{"name":"c"}]}"#,
            r#"{"containers":[{"name":"a","image":"1","env":[{"name":"Y","value":"2"},{"name":"X","value":"1"}]},{"name":"c"},{"name":"b","image":"1"}]}"#,
        );
        check(document, r#"{"containers":[{"name":"a","$patch":"delete"}]}"#, r#"{"containers":[{"name":"b","image":"1"}]}"#);
        check(document, r#"{"containers":[{"$patch":"replace"},{"name":"z"}]}"#, r#"{"containers":[{"name":"z"}]}"#);
        check(
            document,
            r#"{"$setElementOrder/containers":[{"name":"b"},{"name":"a"}],"containers":[{"name":"b","image":"2"}]}"#,
            r#"{"containers":[{"name":"b","image":"2"},{"name":"a","image":"1","env":[{"name":"X","value":"1"}]}]}"#,
        );
        check(
            r#"{"containers":[{"name":"server"},{"name":"a"}]}"#,
            r#"{"$setElementOrder/containers":[{"name":"new"},{"name":"a"}],"containers":[{"name":"new"}]}"#,
            r#"{"containers":[{"name":"new"},{"name":"server"},{"name":"a"}]}"#,
        );
    }

    #[test]
    fn primitive_lists_are_sets() {
        check(r#"{"finalizers":["a","b"]}"#, r#"{"finalizers":["c","a"]}"#, r#"{"finalizers":["c","a","b"]}"#);
        check(r#"{"finalizers":["a","b"]}"#, r#"{"$deleteFromPrimitiveList/finalizers":["a"]}"#, r#"{"finalizers":["b"]}"#);
    }

    #[test]
    fn retain_keys_clears_the_rest() {
        check(
            r#"{"strategy":{"type":"RollingUpdate","rollingUpdate":{"maxSurge":1}}}"#,
            r#"{"strategy":{"$retainKeys":["type"],"type":"Recreate"}}"#,
            r#"{"strategy":{"type":"Recreate"}}"#,
        );
        check("{}", r#"{"strategy":{"$retainKeys":["x"],"x":1}}"#, r#"{"strategy":{"$retainKeys":["x"],"x":1}}"#);
    }

    #[test]
    fn mistakes_are_errors() {
        let fails = |document: &str, patch: &str, expected: &str| {
            let error = strategic_merge_patch(&parse(document), &parse(patch), Some(&Root)).unwrap_err();
            assert_eq!(error.to_string(), expected);
        };
        let document = r#"{"containers":[{"name":"a"}],"a":{}}"#;
        fails(document, r#"{"containers":[{"image":"x"}]}"#, "map: map[image:x] does not contain declared merge key: name");
        fails(document, r#"{"a":{"$patch":"jump"}}"#, "unknown patch type: jump in map: map[$patch:jump]");
        fails(
            document,
            r#"{"containers":[{"name":"a","$patch":"merge"}]}"#,
            "merging lists cannot yet be specified in the patch",
        );
        fails(document, r#"{"a":{"$retainKeys":["x"],"y":1}}"#, "invalid patch format of retainKeys");
        fails(document, r#"{"$setElementOrder/containers":1}"#, "invalid patch format of setElementOrder list");
    }
}
