//! Field paths and field errors (upstream's `util/validation/field`), with upstream's message texts.

use std::collections::HashSet;
use std::fmt;

use crate::{StatusCause, Value, go_quote};

/// Where a field is: `spec.containers[0].name`, `metadata.labels[app]`.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Path(String);

impl Path {
    /// A path that starts with this name.
    pub fn new(name: &str) -> Path {
        Path(name.into())
    }

    /// The object itself; its children start a path.
    pub fn root() -> Path {
        Path::default()
    }

    /// A path that starts with no name, which upstream prints like a list's element without an index.
    pub fn nameless() -> Path {
        Path::root().key("")
    }

    /// A member.
    #[must_use]
    pub fn child(&self, name: &str) -> Path {
        if self.0.is_empty() { Path::new(name) } else { Path(format!("{}.{name}", self.0)) }
    }

    /// A list element.
    #[must_use]
    pub fn index(&self, index: usize) -> Path {
        Path(format!("{}[{index}]", self.0))
    }

    /// A map entry.
    #[must_use]
    pub fn key(&self, key: &str) -> Path {
        Path(format!("{}[{key}]", self.0))
    }

    /// The path's text; empty for the root.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "<nil>" } else { &self.0 })
    }
}

/// What is wrong with a field; printed as the cause's type in a `Status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorType {
    /// A value that should exist was not found.
    NotFound,
    /// A value is required.
    Required,
    /// A value must be unique.
    Duplicate,
    /// A value breaks a rule.
    Invalid,
    /// A value is not one of those supported.
    NotSupported,
    /// A value is not permitted here.
    Forbidden,
    /// A text is too long.
    TooLong,
    /// A list has too many items.
    TooMany,
    /// Not the user's fault.
    Internal,
    /// A value has the wrong type.
    TypeInvalid,
}

impl ErrorType {
    /// The machine-readable name (metav1.CauseType).
    pub fn cause(self) -> &'static str {
        match self {
            ErrorType::NotFound => "FieldValueNotFound",
            ErrorType::Required => "FieldValueRequired",
            ErrorType::Duplicate => "FieldValueDuplicate",
            ErrorType::Invalid => "FieldValueInvalid",
            ErrorType::NotSupported => "FieldValueNotSupported",
            ErrorType::Forbidden => "FieldValueForbidden",
            ErrorType::TooLong => "FieldValueTooLong",
            ErrorType::TooMany => "FieldValueTooMany",
            ErrorType::Internal => "InternalError",
            ErrorType::TypeInvalid => "FieldValueTypeInvalid",
        }
    }

    fn text(self) -> &'static str {
        match self {
            ErrorType::NotFound => "Not found",
            ErrorType::Required => "Required value",
            ErrorType::Duplicate => "Duplicate value",
            ErrorType::Invalid | ErrorType::TypeInvalid => "Invalid value",
            ErrorType::NotSupported => "Unsupported value",
            ErrorType::Forbidden => "Forbidden",
            ErrorType::TooLong => "Too long",
            ErrorType::TooMany => "Too many",
            ErrorType::Internal => "Internal error",
        }
    }
}

/// One thing wrong with one field.
#[derive(Clone, Debug, PartialEq)]
pub struct Error {
    /// What is wrong.
    pub error_type: ErrorType,
    /// Where.
    pub field: String,
    /// The offending value, when it is shown.
    pub bad_value: Option<Value>,
    /// More about it; may be empty.
    pub detail: String,
    /// Where in the object the value is that is shown, if it is not the field's own.
    pub place: Option<String>,
    /// The change that the detail ends with, if it does.
    pub change: Option<Box<Change>>,
}

/// Two texts whose difference an error shows.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// As it was.
    pub before: String,
    /// As it would be.
    pub after: String,
    /// Members of the value that are not shown as they were sent.
    pub unsent: &'static [&'static str],
}

/// All that is wrong with an object.
pub type ErrorList = Vec<Error>;

impl Error {
    fn new(error_type: ErrorType, path: &Path, bad_value: Option<Value>, detail: impl Into<String>) -> Error {
        Error { error_type, field: path.to_string(), bad_value, detail: detail.into(), place: None, change: None }
    }

    /// A value that should exist was not found.
    pub fn not_found(path: &Path, value: impl Into<Value>) -> Error {
        Error::new(ErrorType::NotFound, path, Some(value.into()), "")
    }

    /// A value is required; `detail` may be empty.
    pub fn required(path: &Path, detail: impl Into<String>) -> Error {
        Error::new(ErrorType::Required, path, None, detail)
    }

    /// A value must be unique.
    pub fn duplicate(path: &Path, value: impl Into<Value>) -> Error {
        Error::new(ErrorType::Duplicate, path, Some(value.into()), "")
    }

    /// A value breaks a rule.
    pub fn invalid(path: &Path, value: impl Into<Value>, detail: impl Into<String>) -> Error {
        Error::new(ErrorType::Invalid, path, Some(value.into()), detail)
    }

    /// A value has the wrong type.
    pub fn type_invalid(path: &Path, value: impl Into<Value>, detail: impl Into<String>) -> Error {
        Error::new(ErrorType::TypeInvalid, path, Some(value.into()), detail)
    }

    /// A value is not one of `supported` (upstream sorts them).
    pub fn not_supported<S: AsRef<str>>(path: &Path, value: impl Into<Value>, supported: &[S]) -> Error {
        let quoted: Vec<String> = supported.iter().map(|s| go_quote(s.as_ref())).collect();
        let detail = if quoted.is_empty() { String::new() } else { format!("supported values: {}", quoted.join(", ")) };
        Error::new(ErrorType::NotSupported, path, Some(value.into()), detail)
    }

    /// A value is not permitted here.
    pub fn forbidden(path: &Path, detail: impl Into<String>) -> Error {
        Error::new(ErrorType::Forbidden, path, None, detail)
    }

    /// A text is longer than `length_max_bytes`.
    pub fn too_long(path: &Path, length_max_bytes: usize) -> Error {
        let unit = if length_max_bytes == 1 { "byte" } else { "bytes" };
        Error::new(ErrorType::TooLong, path, None, format!("may not be more than {length_max_bytes} {unit}"))
    }

    /// A list has more than `count_max` items.
    pub fn too_many(path: &Path, count: usize, count_max: usize) -> Error {
        let unit = if count_max == 1 { "item" } else { "items" };
        Error::new(ErrorType::TooMany, path, Some(Value::from(count)), format!("must have at most {count_max} {unit}"))
    }

    /// Shows a value that is at another place.
    #[must_use]
    pub fn of_place(mut self, place: &Path) -> Error {
        self.place = Some(place.to_string());
        self
    }

    /// Not the user's fault.
    pub fn internal(path: &Path, error: impl fmt::Display) -> Error {
        Error::new(ErrorType::Internal, path, None, error.to_string())
    }

    /// The message without the field.
    pub fn body(&self) -> String {
        let kind = self.error_type.text();
        let mut text = match &self.bad_value {
            Some(Value::String(s)) => format!("{kind}: {}", go_quote(s)),
            Some(other) => format!("{kind}: {}", other.to_json()),
            None => kind.to_owned(),
        };
        if !self.detail.is_empty() {
            text.push_str(": ");
            text.push_str(&self.detail);
        }
        text
    }

    /// As a cause in a `Status`.
    pub fn to_cause(&self) -> StatusCause {
        StatusCause { reason: self.error_type.cause().into(), message: self.body(), field: self.field.clone() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.body())
    }
}

impl std::error::Error for Error {}

/// All errors in one text as upstream's aggregate prints them (each once; in brackets when there are several); `None`
/// when there are none.
pub fn aggregate(errors: &[Error]) -> Option<String> {
    let all: Vec<String> = errors.iter().map(ToString::to_string).collect();
    let mut seen = HashSet::with_capacity(all.len());
    let messages: Vec<&str> = all.iter().map(String::as_str).filter(|message| seen.insert(*message)).collect();
    match messages.len() {
        0 => None,
        1 => messages.first().map(|message| (*message).to_owned()),
        _ => Some(format!("[{}]", messages.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value;

    #[test]
    fn what_is_said_twice_is_said_once_among_many() {
        let errors: Vec<Error> = (0..100_000).map(|at| Error::required(&Path::new("a").index(at % 99_999), "")).collect();
        let text = aggregate(&errors).expect("errors");
        assert_eq!(text.matches("Required").count(), 99_999);
    }

    #[test]
    fn texts_are_upstreams() {
        let path = Path::new("spec").child("ports").index(1).child("port");
        let label = Path::root().child("metadata").child("labels").key("app");
        let cases = [
            (Error::required(&path, ""), "spec.ports[1].port: Required value"),
            (Error::required(&path, "why"), "spec.ports[1].port: Required value: why"),
            (
                Error::invalid(&path, 0, "must be between 1 and 65535, inclusive"),
                "spec.ports[1].port: Invalid value: 0: must be between 1 and 65535, inclusive",
            ),
            (Error::invalid(&label, "a\"b", "bad"), r#"metadata.labels[app]: Invalid value: "a\"b": bad"#),
            (Error::invalid(&path, value!({"a": [1, null]}), "bad"), r#"spec.ports[1].port: Invalid value: {"a":[1,null]}: bad"#),
            (Error::invalid(&path, Value::Null, "bad"), "spec.ports[1].port: Invalid value: null: bad"),
            (
                Error::not_supported(&path, "x", &["A", "B"]),
                r#"spec.ports[1].port: Unsupported value: "x": supported values: "A", "B""#,
            ),
            (Error::duplicate(&path, "x"), r#"spec.ports[1].port: Duplicate value: "x""#),
            (Error::forbidden(&path, "no"), "spec.ports[1].port: Forbidden: no"),
            (Error::too_long(&path, 63), "spec.ports[1].port: Too long: may not be more than 63 bytes"),
            (Error::too_many(&path, 5, 1), "spec.ports[1].port: Too many: 5: must have at most 1 item"),
            (Error::not_found(&path, "x"), r#"spec.ports[1].port: Not found: "x""#),
            (Error::internal(&Path::root(), "oh"), "<nil>: Internal error: oh"),
        ];
        for (error, expected) in cases {
            assert_eq!(error.to_string(), expected);
        }
    }

    #[test]
    fn aggregates() {
        let a = Error::required(&Path::new("a"), "");
        let b = Error::required(&Path::new("b"), "");
        assert_eq!(aggregate(&[]), None);
        assert_eq!(aggregate(&[a.clone(), a.clone()]).as_deref(), Some("a: Required value"));
        assert_eq!(aggregate(&[a, b]).as_deref(), Some("[a: Required value, b: Required value]"));
    }
}
