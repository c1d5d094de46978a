//! Kubernetes' protobuf form of objects, driven by the numbers in the schema facts
//! (<https://kubernetes.io/docs/reference/using-api/api-concepts/#protobuf-encoding>).
//!
//! Byte for byte what upstream's generated code writes: every field that is no pointer, also when it is zero, in order of
//! its number; map entries sorted. Reading takes fields in any order and skips unknown ones. Objects must conform to their
//! type when they are written, and do when they were read.

mod message;
mod read;
pub(crate) mod wire;
mod write;

use crate::schema::TypeInfo;
use crate::{GroupVersionKind, Value};

/// What every object in protobuf starts with.
pub const MAGIC: &[u8; 4] = b"k8s\0";

/// The media type.
pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";

/// Why bytes are not an object in protobuf.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtobufError {
    /// The first four bytes are not Kubernetes'.
    #[error("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")]
    NoPrefix,
    /// The bytes end in the middle of something, or a number is too long.
    #[error("unexpected EOF")]
    Truncated,
    /// A field's wire type is not that of its type.
    #[error("proto: wrong wireType = {wire_type} for field {field}")]
    WireType {
        /// What was found.
        wire_type: u8,
        /// The field's JSON name.
        field: String,
    },
    /// No built-in type has this kind.
    #[error("no kind {:?} is registered for version {:?}", .0.kind, .0.api_version())]
    UnknownKind(GroupVersionKind),
    /// Messages nested too deeply.
    #[error("exceeded max depth")]
    TooDeep,
    /// A value that its type does not accept.
    #[error("{0}")]
    Invalid(String),
}

/// The envelope around an object: its kind, and the message itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// The kind, as far as the envelope tells; `None` when it is malformed or empty.
    pub gvk: Option<GroupVersionKind>,
    /// The message.
    pub raw: &'a [u8],
}

/// Writes an object with its envelope.
pub fn encode(object: &Value, info: &'static TypeInfo) -> Vec<u8> {
    seal(object.api_version(), object.kind(), &encode_message(object, info))
}

/// Writes the message alone.
pub fn encode_message(object: &Value, info: &'static TypeInfo) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    write::message(object, info, &mut out);
    out
}

/// contentEncoding and contentType, which upstream writes though they are empty.
const SEAL_END: &[u8] = &[0x1a, 0, 0x22, 0];

/// The envelope up to a message of this length.
fn begin_seal(api_version: &str, kind: &str, length: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(MAGIC);
    wire::nested(1, out, |out| {
        wire::bytes(1, api_version.as_bytes(), out);
        wire::bytes(2, kind.as_bytes(), out);
    });
    wire::begin_bytes(2, length, out);
}

/// Puts the envelope around a message that is encoded already.
pub fn seal(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(raw.len() + 96);
    begin_seal(api_version, kind, raw.len(), &mut out);
    out.extend_from_slice(raw);
    out.extend_from_slice(SEAL_END);
    out
}

/// What stands around the items of a list that is sent in pieces: write `head`, then each item by [`list_item`], then `tail`.
pub struct ListFrame {
    /// The envelope's beginning and the list's metadata.
    pub head: Vec<u8>,
    /// The envelope's end.
    pub tail: Vec<u8>,
}

/// The frame of a list whose items' messages (see [`Envelope::raw`]) have these lengths; `metadata` is a ListMeta.
pub fn list_frame(api_version: &str, kind: &str, metadata: &Value, lengths: impl Iterator<Item = usize>) -> ListFrame {
    let mut meta = Vec::with_capacity(64);
    if let Some(info) = crate::schema::type_named("meta.v1.ListMeta") {
        wire::nested(1, &mut meta, |out| write::message(metadata, info, out));
    }
    let items: usize = lengths.map(|length| 1 + wire::varint_len(length as u64) + length).sum();
    let mut head = Vec::with_capacity(meta.len() + 64);
    begin_seal(api_version, kind, meta.len() + items, &mut head);
    head.extend_from_slice(&meta);
    ListFrame { head, tail: SEAL_END.to_vec() }
}

/// One item of a list that is sent in pieces.
pub fn list_item(message: &[u8], out: &mut Vec<u8>) {
    wire::bytes(2, message, out);
}

/// One watch event as it stands in a stream: its length in four bytes, then a WatchEvent (without an envelope, as upstream's
/// streams have it) around an object, which has one.
pub fn watch_frame(event_type: &str, object: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(object.len() + 32);
    frame.extend_from_slice(&[0; 4]);
    wire::bytes(1, event_type.as_bytes(), &mut frame);
    wire::nested(2, &mut frame, |out| wire::bytes(1, object, out));
    let length = u32::try_from(frame.len() - 4).expect("objects are limited to a few megabytes");
    frame[..4].copy_from_slice(&length.to_be_bytes());
    frame
}

/// The message of a PartialObjectMetadata (which no published schema describes) of an object.
pub fn partial_metadata_message(object: &Value) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    if let Some(info) = crate::schema::type_named("meta.v1.ObjectMeta") {
        wire::nested(1, &mut out, |out| write::message(&object["metadata"], info, out));
    }
    out
}

/// Opens the envelope.
pub fn open(bytes: &[u8]) -> Result<Envelope<'_>, ProtobufError> {
    let mut rest = wire::Reader::new(bytes.strip_prefix(MAGIC).ok_or(ProtobufError::NoPrefix)?);
    let mut envelope = Envelope { gvk: None, raw: &[] };
    while let Some((number, field)) = rest.field()? {
        match (number, field) {
            (1, wire::Field::Bytes(meta)) => {
                let mut meta = wire::Reader::new(meta);
                let (mut api_version, mut kind) = (String::new(), String::new());
                while let Some((number, field)) = meta.field()? {
                    match (number, field) {
                        (1, wire::Field::Bytes(text)) => api_version = String::from_utf8_lossy(text).into_owned(),
                        (2, wire::Field::Bytes(text)) => kind = String::from_utf8_lossy(text).into_owned(),
                        _ => {}
                    }
                }
                let gvk = GroupVersionKind::from_api_version(&api_version, &kind).ok();
                envelope.gvk = gvk.filter(|gvk| !gvk.version.is_empty() && !gvk.kind.is_empty());
            }
            (2, wire::Field::Bytes(raw)) => envelope.raw = raw,
            _ => {}
        }
    }
    Ok(envelope)
}

/// Reads an object with its envelope. A kind that the envelope leaves out is that of `expected`; one that it names must be
/// built in.
pub fn decode(bytes: &[u8], expected: &GroupVersionKind) -> Result<Value, ProtobufError> {
    let envelope = open(bytes)?;
    let gvk = envelope.gvk.unwrap_or_else(|| expected.clone());
    let info = crate::schema::lookup(&gvk).ok_or_else(|| ProtobufError::UnknownKind(gvk.clone()))?;
    let mut object = decode_message(envelope.raw, info)?;
    // A watch event is sent as an object and has no room for its kind.
    if info.field("kind").is_some() {
        object.set_gvk(&gvk);
    }
    Ok(object)
}

/// Reads a message alone.
pub fn decode_message(raw: &[u8], info: &'static TypeInfo) -> Result<Value, ProtobufError> {
    let mut object = read::message(raw, info, 0)?;
    crate::decode::conform(&mut object, info).map_err(|e| ProtobufError::Invalid(e.to_string()))?;
    Ok(object)
}

#[cfg(test)]
mod tests;
