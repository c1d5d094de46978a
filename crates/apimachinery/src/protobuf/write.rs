//! Objects to messages.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::message::{Entry, Message, of_type, wrapped_list};
use super::wire;
use crate::schema::{FieldInfo, Shape, TypeInfo, TypeKind, type_named};
use crate::{Quantity, Value, time};

/// Writes an object's fields.
pub(super) fn message(object: &Value, info: &'static TypeInfo, out: &mut Vec<u8>) {
    if info.kind != TypeKind::Struct {
        return special(object, info, out);
    }
    let mut values = [None; FIELDS_MAX];
    find(object, info, &mut values);
    entries(&values, info, of_type(info), out);
}

/// No type has more fields.
const FIELDS_MAX: usize = 64;

/// Fills in what an object has for each of its type's fields. Both are sorted by name.
fn find<'a>(object: &'a Value, info: &TypeInfo, values: &mut [Option<&'a Value>; FIELDS_MAX]) {
    let mut fields = info.fields.iter().zip(values).peekable();
    for (key, value) in object.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null()) {
        while fields.next_if(|(field, _)| field.name < key.as_str()).is_some() {}
        if let Some((_, place)) = fields.next_if(|(field, _)| field.name == key.as_str()) {
            *place = Some(value);
        }
    }
}

fn entries(values: &[Option<&Value>; FIELDS_MAX], info: &TypeInfo, message: &Message, out: &mut Vec<u8>) {
    for (number, entry) in message {
        match entry {
            Entry::Field(at, field) => write_field(values[*at], info, field, out),
            Entry::Embedded(inner) => wire::nested(*number, out, |out| entries(values, info, inner, out)),
        }
    }
}

fn write_field(value: Option<&Value>, info: &TypeInfo, field: &FieldInfo, out: &mut Vec<u8>) {
    match (value, field.shape) {
        (Some(value), Shape::List(inner)) if wrapped_list(info, field) => {
            wire::nested(field.number, out, |out| list(1, value, inner, out))
        }
        (Some(value), Shape::List(inner)) => list(field.number, value, inner, out),
        (Some(value), Shape::Map(inner)) => map(field.number, value, inner, out),
        (Some(value), shape) => single(field.number, value, shape, out),
        // No pointer is ever nil on the wire: what is not there is zero.
        (None, Shape::List(_) | Shape::Map(_) | Shape::Bytes) => {}
        (None, shape) if !field.pointer() => single(field.number, &Value::Null, shape, out),
        (None, _) => {}
    }
}

fn list(number: u16, value: &Value, inner: &'static Shape, out: &mut Vec<u8>) {
    for item in value.as_array().unwrap_or_default() {
        single(number, item, inner, out);
    }
}

fn map(number: u16, value: &Value, inner: &'static Shape, out: &mut Vec<u8>) {
    for (key, member) in value.as_object().into_iter().flatten() {
        wire::nested(number, out, |out| {
            wire::bytes(1, key.as_bytes(), out);
            match inner {
                Shape::List(items) => wire::nested(2, out, |out| list(1, member, items, out)),
                shape => single(2, member, shape, out),
            }
        });
    }
}

/// One value; `null` is zero.
fn single(number: u16, value: &Value, shape: &'static Shape, out: &mut Vec<u8>) {
    match shape {
        Shape::String(_) => wire::bytes(number, value.as_str().unwrap_or_default().as_bytes(), out),
        Shape::Bool => wire::integer(number, i64::from(value.as_bool().unwrap_or_default()), out),
        Shape::Int32(_) | Shape::Int64(_) => wire::integer(number, value.as_i64().unwrap_or_default(), out),
        Shape::Float => wire::double(number, value.as_f64().unwrap_or_default(), out),
        Shape::Bytes => {
            // A conforming object's base64 is valid.
            let content = value.as_str().and_then(|text| STANDARD.decode(text).ok()).unwrap_or_default();
            wire::bytes(number, &content, out);
        }
        Shape::Type(id) => wire::nested(number, out, |out| message(value, id.info(), out)),
        // There are no lists of lists.
        Shape::List(_) | Shape::Map(_) => {}
    }
}

/// Types whose JSON form is not that of their message.
fn special(value: &Value, info: &TypeInfo, out: &mut Vec<u8>) {
    let text = value.as_str();
    match info.kind {
        TypeKind::Struct => {}
        TypeKind::Quantity => {
            let number = || Some(Quantity::from_value(value).ok()?.to_string());
            let amount = text.map(Cow::Borrowed).or_else(|| number().map(Cow::Owned)).unwrap_or(Cow::Borrowed("0"));
            wire::bytes(1, amount.as_bytes(), out);
        }
        TypeKind::IntOrString => {
            wire::integer(1, i64::from(text.is_some()), out);
            wire::integer(2, value.as_i64().unwrap_or_default(), out);
            wire::bytes(3, text.unwrap_or_default().as_bytes(), out);
        }
        TypeKind::Time | TypeKind::MicroTime => {
            let micro = info.kind == TypeKind::MicroTime;
            let parsed = text.and_then(|t| if micro { time::parse_micro_time(t) } else { time::parse_time(t) }.ok());
            if let Some(parsed) = parsed {
                let nanos = parsed.as_nanosecond();
                wire::integer(1, nanos.div_euclid(1_000_000_000) as i64, out);
                wire::integer(2, if micro { nanos.rem_euclid(1_000_000_000) as i64 } else { 0 }, out);
            }
        }
        TypeKind::Duration => wire::integer(1, text.and_then(|t| time::parse_duration(t).ok()).unwrap_or_default(), out),
        TypeKind::Fields | TypeKind::Raw | TypeKind::Any => {
            if !value.is_null() {
                wire::bytes(1, &value.to_vec(), out);
            }
        }
        TypeKind::SchemaOrBool => {
            wire::integer(1, i64::from(value.as_bool().unwrap_or(true)), out);
            schema(1 + 1, value, out);
        }
        TypeKind::SchemaOrArray => {
            schema(1, value, out);
            for item in value.as_array().unwrap_or_default() {
                schema(2, item, out);
            }
        }
        TypeKind::SchemaOrStrings => {
            schema(1, value, out);
            for item in value.as_array().unwrap_or_default() {
                wire::bytes(2, item.as_str().unwrap_or_default().as_bytes(), out);
            }
        }
    }
}

/// A JSONSchemaProps, if the value is one.
fn schema(number: u16, value: &Value, out: &mut Vec<u8>) {
    if let (Value::Object(_), Some(info)) = (value, type_named("apiextensions.v1.JSONSchemaProps")) {
        wire::nested(number, out, |out| message(value, info, out));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_fit() {
        for info in crate::schema::types() {
            assert!(info.fields.len() <= FIELDS_MAX, "{} has {} fields", info.name, info.fields.len());
        }
    }
}
