//! Turning bytes into trees, and trees into what their kind's schema says: unknown fields out, defaults in.
//!
//! How strictly, `fieldValidation` says (<https://kubernetes.io/docs/reference/using-api/api-concepts/#field-validation>): unknown and
//! duplicate fields are ignored, make warnings, or refuse the request. They are never stored.

use apimachinery::decode::{self, DecodeError, Format};
use apimachinery::{GroupVersionKind, Status, Value, cbor, defaults, protobuf, schema};

use super::body::Encoding;
use crate::http::RequestContext;
use crate::registry::FieldValidation;

/// What strict decoding complains about.
type Complaints = Vec<String>;

/// Parses bytes. Only protobuf needs a schema for it: that of the kind that it names, or else of `kind`.
pub(crate) fn parse(bytes: &[u8], encoding: Encoding, kind: &GroupVersionKind) -> Result<(Value, Complaints), Status> {
    let format = match encoding {
        Encoding::Json => Format::Json,
        Encoding::Yaml => Format::Yaml,
        Encoding::Protobuf => {
            let decoded = protobuf::decode(bytes, kind).map_err(|error| Status::bad_request(error.to_string()));
            return decoded.map(|object| (object, Vec::new()));
        }
        Encoding::Cbor => {
            let decoded = cbor::decode(bytes).map_err(|error| Status::bad_request(error.to_string()));
            return decoded.map(|object| (object, Vec::new()));
        }
    };
    decode::parse(bytes, format).map_err(|error| Status::bad_request(error.to_string()))
}

/// How a tree becomes one of its type.
type Decode = fn(&mut Value, &'static schema::TypeInfo) -> Result<Complaints, DecodeError>;

/// Makes an object what its kind's schema says, and fills in defaults. Kinds without a schema stay as they are.
fn conform_by(decode: Decode, object: &mut Value, kind: &GroupVersionKind) -> Result<Complaints, DecodeError> {
    let Some(info) = schema::lookup(kind) else { return Ok(Vec::new()) };
    let complaints = decode(object, info)?;
    defaults::apply(object, info);
    object.set_gvk(kind);
    Ok(complaints)
}

/// Makes a tree that upstream converts to its type, rather than decodes it, what the schema says, and fills in defaults. Empty lists and maps
/// stay. Kinds without a schema stay as they are.
pub(crate) fn restored(object: &mut Value, kind: &GroupVersionKind) -> Result<Complaints, DecodeError> {
    conform_by(decode::restore, object, kind)
}

/// As [`conform_by`], for what a client sends: empty lists and maps stay, and so does its wish to forget all owners of fields.
pub(crate) fn conform_sent(object: &mut Value, kind: &GroupVersionKind) -> Result<Complaints, DecodeError> {
    conform_sent_by(decode::conform_sent, object, kind)
}

fn conform_sent_by(decode: Decode, object: &mut Value, kind: &GroupVersionKind) -> Result<Complaints, DecodeError> {
    let owners = object.get_path(&["metadata", "managedFields"]);
    let forgets = owners.and_then(Value::as_array).is_some_and(<[Value]>::is_empty);
    let complaints = conform_by(decode, object, kind)?;
    if forgets {
        object.meta_mut().set("managedFields", vec![Value::object()]);
    }
    Ok(complaints)
}

/// Warns of complaints, or returns those that refuse the request.
pub(crate) fn judge(complaints: Complaints, mode: FieldValidation, context: &RequestContext) -> Result<(), String> {
    match mode {
        FieldValidation::Ignore => Ok(()),
        FieldValidation::Warn => {
            warn(&complaints, context);
            Ok(())
        }
        FieldValidation::Strict => decode::strict_error(&complaints).map_or(Ok(()), Err),
    }
}

/// A warning for each complaint, and for each line of an error of go-yaml's.
pub(super) fn warn(complaints: &[String], context: &RequestContext) {
    let lines = complaints.iter().flat_map(|complaint| match complaint.split_once("unmarshal errors:\n  ") {
        Some((_, lines)) => lines.split("\n  ").collect(),
        None => vec![complaint.as_str()],
    });
    lines.for_each(|line| context.warnings.add(line));
}

/// Upstream's answer to a body that is not an object of the kind.
pub(crate) fn unfit(kind: &GroupVersionKind, why: impl std::fmt::Display) -> Status {
    let name = &kind.kind;
    Status::bad_request(format!("{name} in version \"{}\" cannot be handled as a {name}: {why}", kind.version))
}

/// The result of a patch as an object of its kind; empty lists and maps stay. `complaints` are those about the patch itself. `merged`: by a
/// strategic merge, whose result is not decoded. The error says why it is none.
pub(crate) fn patched(
    mut object: Value,
    kind: &GroupVersionKind,
    mode: FieldValidation,
    context: &RequestContext,
    mut complaints: Complaints,
    merged: bool,
) -> Result<Value, String> {
    let decode = if merged { decode::restore } else { decode::conform_sent };
    complaints.extend(conform_sent_by(decode, &mut object, kind).map_err(|error| error.to_string())?);
    judge(complaints, mode, context)?;
    Ok(object)
}
