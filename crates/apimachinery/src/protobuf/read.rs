//! Messages to objects. What comes out still has to be made to conform.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;

use super::ProtobufError;
use super::message::{Entry, Message, of_type, wrapped_list};
use super::wire::{Field, Reader};
use crate::decode::zero;
use crate::schema::{FieldInfo, Shape, TypeInfo, TypeKind, type_named};
use crate::{Key, Map, Value, time};

/// The deepest nesting of messages; each level needs some stack. Real objects stay below 30, JSON schemas in a CRD below 100.
const DEPTH_MAX: usize = 150;

/// Reads an object's fields.
pub(super) fn message(raw: &[u8], info: &'static TypeInfo, depth: usize) -> Result<Value, ProtobufError> {
    if depth > DEPTH_MAX {
        return Err(ProtobufError::TooDeep);
    }
    if info.kind != TypeKind::Struct {
        return special(raw, info, depth);
    }
    let mut object = Map::new();
    entries(&mut object, raw, info, of_type(info), depth)?;
    Ok(Value::Object(Arc::new(object)))
}

fn entries(object: &mut Map, raw: &[u8], info: &TypeInfo, message: &Message, depth: usize) -> Result<(), ProtobufError> {
    let mut reader = Reader::new(raw);
    while let Some((number, content)) = reader.field()? {
        let Ok(at) = message.binary_search_by_key(&number, |(n, _)| *n) else { continue };
        match &message[at].1 {
            Entry::Field(_, field) => read_field(object, info, field, content, depth)?,
            Entry::Embedded(inner) => entries(object, expect_bytes(content, "an embedded message")?, info, inner, depth)?,
        }
    }
    Ok(())
}

fn expect_bytes<'a>(content: Field<'a>, field: &str) -> Result<&'a [u8], ProtobufError> {
    match content {
        Field::Bytes(raw) => Ok(raw),
        other => Err(ProtobufError::WireType { wire_type: other.wire_type(), field: field.to_owned() }),
    }
}

fn read_field(
    object: &mut Map,
    info: &TypeInfo,
    field: &FieldInfo,
    content: Field<'_>,
    depth: usize,
) -> Result<(), ProtobufError> {
    match field.shape {
        Shape::List(inner) if wrapped_list(info, field) => {
            let items = wrapped(content, inner, field.name, depth)?;
            object.insert(Key::constant(field.name), items);
        }
        Shape::List(inner) => read_items(object.entry(field.name), inner, content, field.name, depth)?,
        Shape::Map(inner) => {
            let (key, value) = read_entry(inner, content, field.name, depth)?;
            object.entry(field.name).insert(key.as_str(), value);
        }
        // Upstream writes zeros that JSON leaves out, by the dozen; one may still follow another value.
        shape if is_zero(content, shape) && zero::is_left_out(field) && !object.contains_key(field.name) => {}
        shape => {
            let value = single(content, shape, field.name, depth)?;
            object.insert(Key::constant(field.name), value);
        }
    }
    Ok(())
}

fn is_zero(content: Field<'_>, shape: &Shape) -> bool {
    match content {
        Field::Varint(0) => matches!(shape, Shape::Bool | Shape::Int32(_) | Shape::Int64(_)),
        Field::Bytes([]) => matches!(shape, Shape::String(_) | Shape::Bytes),
        _ => false,
    }
}

/// One more item of a repeated field; numbers may also come packed.
fn read_items(
    list: &mut Value,
    inner: &'static Shape,
    content: Field<'_>,
    name: &str,
    depth: usize,
) -> Result<(), ProtobufError> {
    match (inner, content) {
        (Shape::Int32(_) | Shape::Int64(_) | Shape::Bool, Field::Bytes(packed)) => {
            let mut reader = Reader::new(packed);
            while !reader.is_empty() {
                let number = reader.varint()?;
                list.push(single(Field::Varint(number), inner, name, depth)?);
            }
        }
        _ => list.push(single(content, inner, name, depth)?),
    }
    Ok(())
}

/// A list in a message of its own.
fn wrapped(content: Field<'_>, inner: &'static Shape, name: &str, depth: usize) -> Result<Value, ProtobufError> {
    let mut list = Value::array();
    let mut reader = Reader::new(expect_bytes(content, name)?);
    while let Some((number, content)) = reader.field()? {
        if number == 1 {
            read_items(&mut list, inner, content, name, depth)?;
        }
    }
    Ok(list)
}

fn read_entry(inner: &'static Shape, content: Field<'_>, name: &str, depth: usize) -> Result<(String, Value), ProtobufError> {
    let mut reader = Reader::new(expect_bytes(content, name)?);
    let (mut key, mut value) = (String::new(), Value::Null);
    while let Some((number, content)) = reader.field()? {
        match (number, inner) {
            (1, _) => key = String::from_utf8_lossy(expect_bytes(content, name)?).into_owned(),
            (2, Shape::List(items)) => value = wrapped(content, items, name, depth)?,
            (2, shape) => value = single(content, shape, name, depth)?,
            _ => {}
        }
    }
    Ok((key, value))
}

fn single(content: Field<'_>, shape: &'static Shape, name: &str, depth: usize) -> Result<Value, ProtobufError> {
    Ok(match (shape, content) {
        (Shape::String(_), Field::Bytes(text)) => Value::from(&*String::from_utf8_lossy(text)),
        (Shape::Bool, Field::Varint(v)) => Value::Bool(v != 0),
        (Shape::Int32(_), Field::Varint(v)) => Value::Int(i64::from(v as i32)),
        (Shape::Int64(_), Field::Varint(v)) => Value::Int(v as i64),
        (Shape::Float, Field::Fixed64(v)) => float(f64::from_bits(v)),
        (Shape::Bytes, Field::Bytes(content)) => Value::from(STANDARD.encode(content)),
        (Shape::Type(id), Field::Bytes(raw)) => message(raw, id.info(), depth + 1)?,
        (_, other) => return Err(ProtobufError::WireType { wire_type: other.wire_type(), field: name.to_owned() }),
    })
}

/// As JSON has it: a number without a fraction is an integer.
fn float(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 9.0e15 { Value::Int(value as i64) } else { Value::Float(value) }
}

/// Types whose JSON form is not that of their message.
fn special(raw: &[u8], info: &TypeInfo, depth: usize) -> Result<Value, ProtobufError> {
    let mut reader = Reader::new(raw);
    let (mut first, mut second, mut texts) = (0i64, 0i64, Vec::<(u16, &[u8])>::new());
    while let Some((number, content)) = reader.field()? {
        match content {
            Field::Varint(v) if number == 1 => first = v as i64,
            Field::Varint(v) if number == 2 => second = v as i64,
            Field::Bytes(content) => texts.push((number, content)),
            _ => {}
        }
    }
    let text = |wanted: u16| texts.iter().rev().find(|(number, _)| *number == wanted).map(|(_, text)| *text);
    let string = |wanted: u16| Value::from(&*String::from_utf8_lossy(text(wanted).unwrap_or_default()));
    let schema = |raw: &[u8]| {
        let info = type_named("apiextensions.v1.JSONSchemaProps").expect("the facts have the type");
        message(raw, info, depth + 1)
    };
    match info.kind {
        TypeKind::Quantity => Ok(if text(1).unwrap_or_default().is_empty() { Value::from("0") } else { string(1) }),
        TypeKind::IntOrString => Ok(if first == 0 { Value::Int(i64::from(second as i32)) } else { string(3) }),
        TypeKind::Time | TypeKind::MicroTime if raw.is_empty() => Ok(Value::Null),
        TypeKind::Time => timestamp(first, 0).map(|t| Value::from(time::format_time(t))),
        TypeKind::MicroTime => timestamp(first, second as i32).map(|t| Value::from(time::format_micro_time(t))),
        TypeKind::Duration => Ok(Value::from(time::format_duration(first))),
        TypeKind::Struct | TypeKind::Fields | TypeKind::Raw | TypeKind::Any => match text(1) {
            Some(json) if !json.is_empty() => Value::from_slice(json).map_err(|e| ProtobufError::Invalid(e.to_string())),
            _ => Ok(Value::Null),
        },
        TypeKind::SchemaOrBool => text(2).map_or(Ok(Value::Bool(first != 0)), schema),
        TypeKind::SchemaOrArray | TypeKind::SchemaOrStrings => match text(1) {
            Some(raw) => schema(raw),
            None => {
                let items = texts.iter().filter(|(number, _)| *number == 2);
                let strings = info.kind == TypeKind::SchemaOrStrings;
                let item = |raw: &[u8]| if strings { Ok(Value::from(&*String::from_utf8_lossy(raw))) } else { schema(raw) };
                let items: Result<Vec<Value>, _> = items.map(|(_, raw)| item(raw)).collect();
                Ok(Value::Array(Arc::new(items?)))
            }
        },
    }
}

fn timestamp(seconds: i64, nanos: i32) -> Result<Timestamp, ProtobufError> {
    Timestamp::new(seconds, nanos).map_err(|e| ProtobufError::Invalid(e.to_string()))
}
