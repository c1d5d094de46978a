//! Types whose JSON is not the object of their protobuf fields.

use jiff::Timestamp;

use super::{Field, ProtobufError, Result, Wire, message, next_field, parse_kind};
use crate::schema::{self, TypeKind};
use crate::{Value, time};

/// Reads a message of a special type.
pub(super) fn decode(kind: TypeKind, bytes: &[u8], depth: usize) -> Result<Value> {
    match kind {
        TypeKind::Quantity => Ok(first_text(bytes)?.into()),
        TypeKind::IntOrString => int_or_string(bytes),
        TypeKind::Time => Ok(timestamp(bytes)?.map(time::format_time).into()),
        TypeKind::MicroTime => Ok(timestamp(bytes)?.map(time::format_micro_time).into()),
        TypeKind::Duration => {
            let nanoseconds = numbers(bytes)?[0];
            Ok(time::format_duration(nanoseconds).into())
        }
        TypeKind::Fields | TypeKind::Any => json(first_bytes(bytes)?),
        TypeKind::Raw => raw(first_bytes(bytes)?, depth),
        TypeKind::SchemaOrBool => {
            either(bytes, depth, |number, value| Ok(if number == 1 { Some((value.integer()? != 0).into()) } else { None }))
        }
        TypeKind::SchemaOrArray | TypeKind::SchemaOrStrings => schema_or_list(kind, bytes, depth),
        TypeKind::Struct => Err(ProtobufError::Malformed("a type that is not special")),
    }
}

fn first_bytes(mut bytes: &[u8]) -> Result<&[u8]> {
    let mut found = &[][..];
    while let Some(field) = next_field(&mut bytes)? {
        if let Field { number: 1, value: Wire::Bytes(value) } = field {
            found = value;
        }
    }
    Ok(found)
}

fn first_text(bytes: &[u8]) -> Result<&str> {
    Wire::Bytes(first_bytes(bytes)?).text()
}

/// The varints of fields 1 to 3.
fn numbers(mut bytes: &[u8]) -> Result<[i64; 3]> {
    let mut found = [0; 3];
    while let Some(Field { number, value }) = next_field(&mut bytes)? {
        if let (1..=3, Wire::Varint(varint)) = (number, value) {
            found[number as usize - 1] = varint as i64;
        }
    }
    Ok(found)
}

/// `{type, intVal, strVal}`; type 1 is a string.
fn int_or_string(mut bytes: &[u8]) -> Result<Value> {
    let (mut is_string, mut number, mut text) = (false, 0, "");
    while let Some(field) = next_field(&mut bytes)? {
        match field.number {
            1 => is_string = field.value.integer()? == 1,
            2 => number = field.value.integer()?,
            3 => text = field.value.text()?,
            _ => {}
        }
    }
    Ok(if is_string { text.into() } else { i64::from(number as i32).into() })
}

/// Seconds and nanoseconds; all zero is Go's zero time, which JSON writes as null.
fn timestamp(bytes: &[u8]) -> Result<Option<Timestamp>> {
    let [seconds, nanoseconds, _] = numbers(bytes)?;
    if seconds == 0 && nanoseconds == 0 {
        return Ok(None);
    }
    let timestamp = Timestamp::new(seconds, nanoseconds as i32).map_err(|_| ProtobufError::Malformed("a time out of range"))?;
    Ok(Some(timestamp))
}

fn json(bytes: &[u8]) -> Result<Value> {
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    Value::from_slice(bytes).map_err(|_| ProtobufError::Malformed("a JSON value"))
}

/// Any object: JSON, or protobuf with an envelope of its own.
fn raw(bytes: &[u8], depth: usize) -> Result<Value> {
    if depth == 0 {
        return Err(ProtobufError::TooDeep);
    }
    if bytes.starts_with(super::MAGIC) {
        let nobody = parse_kind("", "").ok_or(ProtobufError::NoMagic)?;
        return super::decode(bytes, &nobody);
    }
    json(bytes)
}

fn schema_props(bytes: &[u8], depth: usize) -> Result<Value> {
    let info = schema::type_named("apiextensions.v1.JSONSchemaProps").ok_or(ProtobufError::Malformed("a JSON schema"))?;
    Ok(message(bytes, info, depth)?.into())
}

/// Field 2 is a schema; what field 1 gives counts only without one.
fn either(mut bytes: &[u8], depth: usize, other: impl Fn(u32, Wire<'_>) -> Result<Option<Value>>) -> Result<Value> {
    let (mut schema, mut alternative) = (None, None);
    while let Some(Field { number, value }) = next_field(&mut bytes)? {
        match number {
            2 => schema = Some(schema_props(value.bytes()?, depth)?),
            number => alternative = other(number, value)?.or(alternative),
        }
    }
    Ok(schema.or(alternative).unwrap_or(Value::Bool(false)))
}

/// Field 1 is a schema, field 2 a list of schemas or strings.
fn schema_or_list(kind: TypeKind, mut bytes: &[u8], depth: usize) -> Result<Value> {
    let (mut schema, mut list) = (None, Vec::new());
    while let Some(Field { number, value }) = next_field(&mut bytes)? {
        match (number, kind) {
            (1, _) => schema = Some(schema_props(value.bytes()?, depth)?),
            (2, TypeKind::SchemaOrArray) => list.push(schema_props(value.bytes()?, depth)?),
            (2, _) => list.push(value.text()?.into()),
            _ => {}
        }
    }
    Ok(schema.unwrap_or_else(|| list.into()))
}
