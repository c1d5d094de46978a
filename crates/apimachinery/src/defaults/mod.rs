//! Default values of the built-in types, as upstream's defaulting functions set them in v1.35 with the default feature gates.
//!
//! A default belongs to a type, wherever the type occurs: a walk over the object calls, for each node, the rule of its type
//! (the outer one first, as upstream), then sets what the schema publishes as default of a field. What upstream does in
//! conversion between versions and clients can see (stringData, serviceAccount) is done here too.
//!
//! Objects must have been made to conform to their type before. The functions only add; they are idempotent.

mod admissionregistration;
mod apiextensions;
mod apps;
mod autoscaling;
mod batch;
mod containers;
mod core;
mod flowcontrol;
mod networking;
mod pod_resources;
mod rbac;
mod resource;
mod storage;

use std::collections::HashMap;
use std::sync::OnceLock;

use crate::schema::{FieldInfo, Shape, TypeInfo, TypeKind, types};
use crate::{Key, Quantity, Value};

/// Sets the defaults of one node.
type Rule = fn(&mut Value);

/// What a type's nodes get.
struct Rules {
    rule: Option<Rule>,
    /// Fields with a published default, parsed.
    fields: Vec<(&'static FieldInfo, Value)>,
}

/// Sets all defaults of an object of this type.
pub fn apply(object: &mut Value, info: &'static TypeInfo) {
    if object.as_object().is_none() {
        return;
    }
    if let Some(rules) = table().get(info.name) {
        if let Some(rule) = rules.rule {
            rule(object);
        }
        for (field, default) in &rules.fields {
            let unset = object.get(field.name).is_none_or(|v| v.is_null() || (!field.pointer() && v.is_zero()));
            if unset && (field.pointer() || !default.is_zero()) {
                object.insert(Key::constant(field.name), default);
            }
        }
    }
    let round = info.name.starts_with("core.v1.");
    for (key, child) in object.as_object_mut().into_iter().flat_map(|map| map.iter_mut()) {
        let Some(field) = info.field(key) else { continue };
        match field.shape {
            Shape::Map(Shape::Type(id)) if round && id.info().kind == TypeKind::Quantity => round_up_to_milli(child),
            shape => descend(child, shape),
        }
    }
}

fn descend(value: &mut Value, shape: &'static Shape) {
    match shape {
        Shape::Type(id) if id.info().kind == TypeKind::Struct && !id.info().name.starts_with("meta.") => apply(value, id.info()),
        Shape::List(inner) if holds_types(inner) => {
            value.as_array_mut().into_iter().flatten().for_each(|item| descend(item, inner))
        }
        Shape::Map(inner) if holds_types(inner) => {
            value.as_object_mut().into_iter().flat_map(|map| map.iter_mut()).for_each(|(_, item)| descend(item, inner));
        }
        _ => {}
    }
}

fn holds_types(shape: &Shape) -> bool {
    match shape {
        Shape::Type(id) => id.info().kind == TypeKind::Struct,
        Shape::List(inner) | Shape::Map(inner) => holds_types(inner),
        _ => false,
    }
}

/// Amounts of resources have thousandths at the finest.
fn round_up_to_milli(amounts: &mut Value) {
    let too_fine = |v: &Value| Quantity::from_value(v).is_ok_and(|q| q != q.rounded_up_to_milli());
    if !amounts.as_object().is_some_and(|m| m.values().any(too_fine)) {
        return;
    }
    for (_, amount) in amounts.as_object_mut().into_iter().flat_map(|m| m.iter_mut()) {
        if let Ok(quantity) = Quantity::from_value(amount)
            && too_fine(amount)
        {
            *amount = Value::from(quantity.rounded_up_to_milli());
        }
    }
}

fn table() -> &'static HashMap<&'static str, Rules> {
    static TABLE: OnceLock<HashMap<&'static str, Rules>> = OnceLock::new();
    TABLE.get_or_init(|| {
        let groups: [&[(&'static str, Rule)]; 12] = [
            core::RULES,
            containers::RULES,
            apps::RULES,
            batch::RULES,
            networking::RULES,
            rbac::RULES,
            autoscaling::RULES,
            storage::RULES,
            admissionregistration::RULES,
            flowcontrol::RULES,
            resource::RULES,
            apiextensions::RULES,
        ];
        let rules: HashMap<&'static str, Rule> = groups.into_iter().flatten().copied().collect();
        let mut table = HashMap::new();
        for info in types() {
            let parse = |f: &'static FieldInfo| Some((f, Value::from_slice(f.default_json()?.as_bytes()).ok()?));
            let fields: Vec<_> = info.fields.iter().filter_map(parse).collect();
            let rule = rules.get(info.name).copied();
            if rule.is_some() || !fields.is_empty() {
                table.insert(info.name, Rules { rule, fields });
            }
        }
        debug_assert!(rules.keys().all(|name| table.contains_key(name)), "a rule for a type that does not exist");
        table
    })
}

/// Sets a member that is not there (Go: a nil pointer).
fn absent(object: &mut Value, key: &'static str, default: impl Into<Value>) {
    if object.get(key).is_none_or(Value::is_null) {
        object.insert(Key::constant(key), default);
    }
}

/// Sets a member that is not there or has Go's zero value.
fn zero(object: &mut Value, key: &'static str, default: impl Into<Value>) {
    if object.get(key).is_none_or(Value::is_zero) {
        object.insert(Key::constant(key), default);
    }
}

/// Whether a member is not there.
fn is_absent(object: &Value, key: &str) -> bool {
    object.get(key).is_none_or(Value::is_null)
}

#[cfg(test)]
mod tests;
