//! Go's zero values, as its encoder writes them.

use crate::schema::{FieldInfo, Shape, TypeInfo, TypeKind};
use crate::{Key, Map, Value};

/// What Go writes for a variable of this shape that was never set.
pub(super) fn of_shape(shape: &'static Shape) -> Value {
    match shape {
        Shape::String(_) => Value::from(""),
        Shape::Bool => Value::Bool(false),
        Shape::Int32(_) | Shape::Int64(_) | Shape::Float => Value::Int(0),
        Shape::Bytes | Shape::List(_) | Shape::Map(_) => Value::Null,
        Shape::Type(id) => of_type(id.info()),
    }
}

fn of_type(info: &'static TypeInfo) -> Value {
    match info.kind {
        TypeKind::Struct => {
            let members = info.fields.iter().filter_map(|f| Some((Key::constant(f.name), of_field(f)?))).collect();
            Value::from(Map::from_sorted(members))
        }
        TypeKind::Quantity => Value::from("0"),
        TypeKind::IntOrString => Value::Int(0),
        TypeKind::Duration => Value::from("0s"),
        _ => Value::Null,
    }
}

/// What Go writes for a field that was never set; `None` when it leaves it out.
pub(super) fn of_field(field: &FieldInfo) -> Option<Value> {
    if field.omit_zero() || (field.omit_empty() && (field.pointer() || !matches!(field.shape, Shape::Type(_)))) {
        return None;
    }
    Some(if field.pointer() { Value::Null } else { of_shape(field.shape) })
}

/// What becomes of an empty list or map in a field of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Empty {
    /// It is none: upstream's storage is protobuf, which does not tell them apart.
    #[default]
    None,
    /// It stays, as in Go's variables.
    Kept,
    /// It stays where Go's encoder writes it.
    Written,
}

/// Whether Go leaves a scalar field out when it is zero.
pub(crate) fn is_left_out(field: &FieldInfo) -> bool {
    let scalar = !matches!(field.shape, Shape::Type(_) | Shape::List(_) | Shape::Map(_));
    scalar && !field.pointer() && (field.omit_empty() || field.omit_zero())
}

/// What Go writes for a field with this value; `None` when it leaves it out.
pub(super) fn emitted(field: &FieldInfo, value: Value, empty: Empty) -> Option<Value> {
    if value.is_null() {
        return of_field(field);
    }
    if matches!(field.shape, Shape::List(_) | Shape::Map(_)) && value.is_empty() {
        return match empty {
            Empty::Kept => Some(value),
            Empty::Written if !field.omit_empty() => Some(value),
            _ => of_field(field),
        };
    }
    if empty == Empty::Kept && matches!(field.shape, Shape::Bytes) {
        return Some(value);
    }
    let is_struct = matches!(field.shape, Shape::Type(_));
    if field.pointer() || (is_struct && !field.omit_zero()) {
        return Some(value);
    }
    let left_out =
        if is_struct { value == of_shape(field.shape) } else { (field.omit_empty() || field.omit_zero()) && value.is_zero() };
    (!left_out).then_some(value)
}
