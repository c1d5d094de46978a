//! Bytes to objects, checked against the schema as upstream's typed decoding checks them.
//!
//! An object comes out as upstream would write it back: unknown fields pruned (and reported), `null` dropped, empty
//! `omitempty` fields dropped, structs that Go always writes filled in, quantities, times, durations and base64 canonical.
//! Error texts are those of Go's decoders, because clients match them.

mod conform;
mod empty;
mod order;
mod repeated;
pub(crate) mod zero;

use crate::schema::TypeInfo;
use crate::value::parse_reporting_duplicates;
use crate::{Value, yaml};

pub use conform::{conform, conform_sent, conform_written, restore};
pub use empty::{EmptyMember, drop_empty};
pub use order::in_document_order;
pub use repeated::merge_repeated;

/// What Go writes for a field of a type that was never set; `None` when it leaves it out.
pub fn zero_field(info: &TypeInfo, field: &str) -> Option<Value> {
    zero::of_field(info.field(field)?)
}

/// The text formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `application/json`
    Json,
    /// `application/yaml`
    Yaml,
}

/// Why bytes are not an object of a type. The text is Go's, without the sentence that the server puts around it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not JSON or YAML.
    #[error("{0}")]
    Syntax(String),
    /// A value of the wrong type, or one that its type does not accept.
    #[error("{0}")]
    Type(String),
}

/// A decoded object.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    /// The object, as upstream would write it back.
    pub object: Value,
    /// What strict decoding complains about, one message each: `unknown field "spec.foo"`, `duplicate field "spec.x"`.
    pub strict: Vec<String>,
}

/// The most strict messages that are collected, as upstream.
const STRICT_MAX: usize = 100;

/// Parses without a schema. Returns the value and the strict messages for duplicate fields.
pub fn parse(bytes: &[u8], format: Format) -> Result<(Value, Vec<String>), DecodeError> {
    let (value, strict) = match format {
        Format::Json => {
            let (value, duplicates) = parse_reporting_duplicates(bytes).map_err(|e| DecodeError::Syntax(e.to_string()))?;
            (value, duplicates.iter().map(|path| format!("duplicate field \"{path}\"")).collect())
        }
        Format::Yaml => {
            let document =
                yaml::parse_one(bytes).map_err(|e| DecodeError::Syntax(format!("error converting YAML to JSON: {e}")))?;
            // All that are wrong are one complaint of go-yaml's.
            let duplicates = document.duplicates.join("\n  ");
            let complaint = (!duplicates.is_empty()).then(|| format!("yaml: unmarshal errors:\n  {duplicates}"));
            (document.value, complaint.into_iter().collect())
        }
    };
    Ok((value, strict))
}

/// Parses an object and makes it conform to its type.
pub fn decode(bytes: &[u8], format: Format, info: &'static TypeInfo) -> Result<Decoded, DecodeError> {
    let (value, mut strict) = parse(bytes, format)?;
    let mut object = value;
    strict.extend(conform(&mut object, info)?);
    strict.truncate(STRICT_MAX);
    Ok(Decoded { object, strict })
}

/// The text of a strict decoding error; `None` when there is nothing to complain about.
pub fn strict_error(messages: &[String]) -> Option<String> {
    (!messages.is_empty()).then(|| format!("strict decoding error: {}", messages.join(", ")))
}

#[cfg(test)]
mod tests;
