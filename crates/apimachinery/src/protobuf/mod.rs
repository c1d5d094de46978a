//! Reading objects in Kubernetes' protobuf encoding, `application/vnd.kubernetes.protobuf`
//! (<https://kubernetes.io/docs/reference/using-api/api-concepts/#protobuf-encoding>).
//!
//! Driven by the schema facts: field numbers and shapes come from there, so that there is one decoder for every built-in type. The
//! result is the tree that the object's JSON would give. Unknown field numbers are skipped, as protobuf wants. Writing this encoding
//! is not here yet: clients that ask for it accept JSON too.

mod special;

use base64::Engine;
use bytes::Buf;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

use crate::schema::{self, FieldInfo, Shape, TypeInfo, TypeKind};
use crate::{GroupVersionKind, Map, Value};

/// The first four bytes of every object.
const MAGIC: &[u8] = b"k8s\0";
/// How deep messages may be nested; the deepest built-in type that does not contain itself needs a dozen.
const DEPTH_MAX: usize = 100;

/// Why bytes are no object.
#[derive(Debug, thiserror::Error)]
pub enum ProtobufError {
    /// The bytes do not start as an object does.
    #[error("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")]
    NoMagic,
    /// No built-in type has this group, version and kind.
    #[error("no kind {kind:?} is registered for version {api_version:?} in protobuf")]
    UnknownKind {
        /// The kind.
        kind: String,
        /// Group and version.
        api_version: String,
    },
    /// The bytes are cut off, or a field has a wire type that its type does not have.
    #[error("the protobuf message is malformed at {0}")]
    Malformed(&'static str),
    /// Messages are nested deeper than any built-in type.
    #[error("the protobuf message is nested too deeply")]
    TooDeep,
}

type Result<T> = std::result::Result<T, ProtobufError>;

/// Reads one object with its envelope (`runtime.Unknown`). A kind that the envelope leaves out is that of `expected`.
pub fn decode(bytes: &[u8], expected: &GroupVersionKind) -> Result<Value> {
    let mut rest = bytes.strip_prefix(MAGIC).ok_or(ProtobufError::NoMagic)?;
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    while let Some(field) = next_field(&mut rest)? {
        match field {
            Field { number: 1, value: Wire::Bytes(meta) } => (api_version, kind) = type_meta(meta)?,
            Field { number: 2, value: Wire::Bytes(object) } => raw = object,
            _ => {}
        }
    }
    let found = if kind.is_empty() { Some(expected.clone()) } else { parse_kind(&api_version, &kind) };
    let Some((gvk, info)) = found.and_then(|gvk| Some((gvk.clone(), schema::lookup(&gvk)?))) else {
        return Err(ProtobufError::UnknownKind { kind, api_version });
    };
    let mut object = Value::from(message(raw, info, DEPTH_MAX)?);
    object.set_gvk(&gvk);
    Ok(object)
}

fn parse_kind(api_version: &str, kind: &str) -> Option<GroupVersionKind> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    Some(GroupVersionKind::new(group, version, kind))
}

fn type_meta(mut bytes: &[u8]) -> Result<(String, String)> {
    let (mut api_version, mut kind) = (String::new(), String::new());
    while let Some(Field { number, value }) = next_field(&mut bytes)? {
        match number {
            1 => api_version = value.text()?.to_owned(),
            2 => kind = value.text()?.to_owned(),
            _ => {}
        }
    }
    Ok((api_version, kind))
}

/// A field as it is on the wire.
struct Field<'a> {
    number: u32,
    value: Wire<'a>,
}

enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32(u32),
    Bytes(&'a [u8]),
}

impl<'a> Wire<'a> {
    fn bytes(self) -> Result<&'a [u8]> {
        match self {
            Wire::Bytes(bytes) => Ok(bytes),
            _ => Err(ProtobufError::Malformed("a field that should be length-delimited")),
        }
    }

    fn text(self) -> Result<&'a str> {
        std::str::from_utf8(self.bytes()?).map_err(|_| ProtobufError::Malformed("a string that is not UTF-8"))
    }

    fn integer(self) -> Result<i64> {
        match self {
            // Two's complement, as protobuf writes negative int32 and int64.
            Wire::Varint(number) => Ok(number as i64),
            _ => Err(ProtobufError::Malformed("a field that should be a varint")),
        }
    }
}

/// The next field of a message; `None` at its end.
fn next_field<'a>(rest: &mut &'a [u8]) -> Result<Option<Field<'a>>> {
    loop {
        if rest.is_empty() {
            return Ok(None);
        }
        let (number, kind) = decode_key(rest).map_err(|_| ProtobufError::Malformed("a field's key"))?;
        let value = match kind {
            WireType::Varint => Wire::Varint(decode_varint(rest).map_err(|_| ProtobufError::Malformed("a varint"))?),
            WireType::SixtyFourBit if rest.len() >= 8 => Wire::Fixed64(rest.get_u64_le()),
            WireType::ThirtyTwoBit if rest.len() >= 4 => Wire::Fixed32(rest.get_u32_le()),
            WireType::LengthDelimited => {
                let length = decode_varint(rest).ok().and_then(|length| usize::try_from(length).ok());
                let (bytes, after) = length
                    .and_then(|length| rest.split_at_checked(length))
                    .ok_or(ProtobufError::Malformed("a length beyond the end"))?;
                *rest = after;
                Wire::Bytes(bytes)
            }
            WireType::StartGroup => {
                skip_field(kind, number, rest, DecodeContext::default()).map_err(|_| ProtobufError::Malformed("a group"))?;
                continue;
            }
            _ => return Err(ProtobufError::Malformed("the end of the data")),
        };
        return Ok(Some(Field { number, value }));
    }
}

/// The fields of a message of a type.
fn message(bytes: &[u8], info: &'static TypeInfo, depth: usize) -> Result<Map> {
    let mut object = Map::new();
    fields(bytes, info, 0, &mut object, depth)?;
    Ok(object)
}

/// Reads the fields that are in the message itself (`holder` 0) or in an embedded message.
fn fields(bytes: &[u8], info: &'static TypeInfo, holder: u16, object: &mut Map, depth: usize) -> Result<()> {
    let depth = depth.checked_sub(1).ok_or(ProtobufError::TooDeep)?;
    // A message may be embedded in an embedded one (`FieldInfo::embedded_in`).
    let is_holder = |inner: &u16| info.fields.iter().any(|field| field.embedded_in == *inner || field.embedded_in >> 8 == *inner);
    let mut rest = bytes;
    while let Some(Field { number, value }) = next_field(&mut rest)? {
        let is_it = |field: &&FieldInfo| u32::from(field.number) == number && field.number != 0 && field.embedded_in == holder;
        if let Some(field) = info.fields.iter().find(is_it) {
            add(object, field, value, depth)?;
        } else if let Some(inner) = u8::try_from(number).ok().map(|number| holder << 8 | u16::from(number)).filter(is_holder) {
            fields(value.bytes()?, info, inner, object, depth)?;
        }
    }
    Ok(())
}

/// Adds a field's value: lists and maps come one element at a time.
fn add(object: &mut Map, field: &FieldInfo, value: Wire<'_>, depth: usize) -> Result<()> {
    match field.shape {
        Shape::List(element) => {
            let list = object.entry(field.name);
            if list.is_null() {
                *list = Value::array();
            }
            for value in elements(element, value) {
                list.push(single(element, value?, depth)?);
            }
        }
        Shape::Map(element) => {
            let (key, value) = entry(value.bytes()?, element, depth)?;
            let map = object.entry(field.name);
            if map.is_null() {
                *map = Value::object();
            }
            map.insert(key, value);
        }
        shape => {
            let value = single(shape, value, depth)?;
            object.insert(field.name, value);
        }
    }
    Ok(())
}

/// Numbers may come packed: several in one field.
fn elements<'a>(shape: &Shape, value: Wire<'a>) -> Vec<Result<Wire<'a>>> {
    match (shape, value) {
        (Shape::Int32(_) | Shape::Int64(_) | Shape::Bool, Wire::Bytes(mut packed)) => {
            let mut numbers = Vec::new();
            while !packed.is_empty() {
                let number = decode_varint(&mut packed).map(Wire::Varint).map_err(|_| ProtobufError::Malformed("a varint"));
                let failed = number.is_err();
                numbers.push(number);
                if failed {
                    break;
                }
            }
            numbers
        }
        (_, value) => vec![Ok(value)],
    }
}

/// A map's entry: key and value are fields 1 and 2. A missing value is the zero one.
fn entry(mut bytes: &[u8], shape: &'static Shape, depth: usize) -> Result<(String, Value)> {
    let (mut key, mut value) = (String::new(), None);
    while let Some(Field { number, value: wire }) = next_field(&mut bytes)? {
        match number {
            1 => key = wire.text()?.to_owned(),
            2 => value = Some(single(shape, wire, depth)?),
            _ => {}
        }
    }
    let zero = match shape {
        Shape::String(_) | Shape::Bytes | Shape::Type(_) | Shape::List(_) | Shape::Map(_) => Wire::Bytes(&[]),
        Shape::Float => Wire::Fixed64(0),
        Shape::Bool | Shape::Int32(_) | Shape::Int64(_) => Wire::Varint(0),
    };
    let value = match value {
        Some(value) => value,
        None => single(shape, zero, depth)?,
    };
    Ok((key, value))
}

/// One value that is no list or map of a field's own.
fn single(shape: &'static Shape, value: Wire<'_>, depth: usize) -> Result<Value> {
    Ok(match shape {
        Shape::String(_) => value.text()?.into(),
        Shape::Bool => (value.integer()? != 0).into(),
        // An int32 is written as the 64 bits that it extends to.
        Shape::Int32(_) => i64::from(value.integer()? as i32).into(),
        Shape::Int64(_) => value.integer()?.into(),
        Shape::Float => match value {
            Wire::Fixed64(bits) => f64::from_bits(bits).into(),
            Wire::Fixed32(bits) => f64::from(f32::from_bits(bits)).into(),
            _ => return Err(ProtobufError::Malformed("a floating-point number")),
        },
        Shape::Bytes => base64::engine::general_purpose::STANDARD.encode(value.bytes()?).into(),
        // A list or map inside a list or map is a message around it (`authorization.v1.ExtraValue`).
        Shape::List(element) => {
            let mut bytes = value.bytes()?;
            let mut list = Vec::new();
            while let Some(Field { value, .. }) = next_field(&mut bytes)? {
                list.push(single(element, value, depth)?);
            }
            list.into()
        }
        Shape::Map(element) => {
            let mut bytes = value.bytes()?;
            let mut map = Map::new();
            while let Some(Field { value, .. }) = next_field(&mut bytes)? {
                let (key, value) = entry(value.bytes()?, element, depth)?;
                map.insert(key, value);
            }
            map.into()
        }
        Shape::Type(id) => {
            let info = id.info();
            match info.kind {
                TypeKind::Struct => message(value.bytes()?, info, depth)?.into(),
                kind => special::decode(kind, value.bytes()?, depth)?,
            }
        }
    })
}

#[cfg(test)]
mod tests;
