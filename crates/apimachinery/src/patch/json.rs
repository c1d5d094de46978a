//! JSON patch, RFC 6902, with upstream's limit on operations and the error texts of the library that upstream uses.

use crate::{Map, Value};

/// Upstream's maxJSONPatchOperations.
const OPERATIONS_MAX: usize = 10_000;

/// Why a JSON patch was not applied. The document is as it was.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum JsonPatchError {
    /// The patch itself is malformed.
    #[error("{0}")]
    Malformed(String),
    /// More operations than a request may have.
    #[error("The allowed maximum operations in a JSON patch is {OPERATIONS_MAX}, got {0}")]
    TooManyOperations(usize),
    /// A `test` did not hold, or an operation does not fit the document.
    #[error("{0}")]
    NotApplicable(String),
}

/// A parsed patch.
pub struct JsonPatch {
    operations: Vec<Operation>,
}

enum Operation {
    Add {
        path: String,
        value: Value,
    },
    Remove {
        path: String,
    },
    Replace {
        path: String,
        value: Value,
    },
    Move {
        from: String,
        path: String,
    },
    Copy {
        from: String,
        path: String,
    },
    Test {
        path: String,
        value: Value,
    },
    /// One that the library does not know, which it finds out when it comes to it.
    Unknown(String),
}

impl JsonPatch {
    /// Reads a patch from its JSON form, an array of operations.
    pub fn parse(patch: &Value) -> Result<Self, JsonPatchError> {
        let operations = patch.as_array().ok_or_else(|| {
            JsonPatchError::Malformed(format!(
                "json: cannot unmarshal {} into Go value of type jsonpatch.Patch",
                patch.type_name()
            ))
        })?;
        if operations.len() > OPERATIONS_MAX {
            return Err(JsonPatchError::TooManyOperations(operations.len()));
        }
        for operation in operations.iter().filter(|operation| !operation.is_null()) {
            fits(operation)?;
        }
        let parse = |operation: &Value| {
            // Nothing is an operation without members.
            let operation = operation.as_object().cloned().unwrap_or_default();
            Operation::parse(&operation)
        };
        Ok(Self { operations: operations.iter().map(parse).collect::<Result<_, _>>()? })
    }

    /// Applies all operations, or none.
    pub fn apply(&self, document: &Value) -> Result<Value, JsonPatchError> {
        let mut patched = document.clone();
        for operation in &self.operations {
            operation.apply(&mut patched).map_err(JsonPatchError::NotApplicable)?;
        }
        Ok(patched)
    }
}

impl Operation {
    fn parse(members: &Map) -> Result<Self, JsonPatchError> {
        // Found out when the operation is worked on, not when the patch is read.
        let malformed = |text: String| JsonPatchError::NotApplicable(text);
        let text = |name: &str| members.get(name).and_then(Value::as_str).map(str::to_owned);
        let path = || text("path").ok_or_else(|| malformed("operation missing path field: missing value".to_owned()));
        let from = || text("from").ok_or_else(|| malformed("operation, missing from field: missing value".to_owned()));
        // Without a value it is null.
        let value = || -> Result<Value, JsonPatchError> { Ok(members.get("value").cloned().unwrap_or_default()) };
        match text("op").as_deref() {
            Some("add") => Ok(Self::Add { path: path()?, value: value()? }),
            Some("remove") => Ok(Self::Remove { path: path()? }),
            Some("replace") => Ok(Self::Replace { path: path()?, value: value()? }),
            Some("move") => Ok(Self::Move { from: from()?, path: path()? }),
            Some("copy") => Ok(Self::Copy { from: from()?, path: path()? }),
            Some("test") => Ok(Self::Test { path: path()?, value: value()? }),
            other => Ok(Self::Unknown(other.unwrap_or("unknown").to_owned())),
        }
    }

    fn apply(&self, document: &mut Value) -> Result<(), String> {
        match self {
            Self::Add { path, value } => add(document, "add", path, value.clone()),
            Self::Remove { path } => remove(document, "remove", path).map(drop),
            Self::Replace { path, value } => replace(document, path, value.clone()),
            Self::Move { from, path } => {
                let value = remove(document, "move", from)?;
                add(document, "move", path, value)
            }
            Self::Copy { from, path } => {
                let missing = || format!("copy operation does not apply: doc is missing from path: {from}: missing value");
                let value = lookup(document, from).filter(|_| from.contains('/')).cloned().ok_or_else(missing)?;
                add(document, "copy", path, value)
            }
            Self::Unknown(kind) => Err(format!("Unexpected kind: {kind}")),
            Self::Test { path, value } => {
                let parent = path.rsplit_once('/').and_then(|(parent, _)| lookup(document, parent));
                if parent.is_none() && !path.is_empty() {
                    return Err(format!("test operation for path {path} failed: missing value"));
                }
                // A member that is not there equals null.
                let found = lookup(document, path).unwrap_or(&Value::Null);
                if found == value { Ok(()) } else { Err(format!("testing value {path} failed: test failed")) }
            }
        }
    }
}

/// Whether an operation is of the type that upstream's strict decoding has for it.
fn fits(operation: &Value) -> Result<(), JsonPatchError> {
    let mismatch = |found: &Value, wanted: String| {
        let why = format!("error decoding patch: json: cannot unmarshal {} into Go {wanted}", found.type_name());
        Err(JsonPatchError::Malformed(why))
    };
    if operation.as_object().is_none() {
        return mismatch(operation, "value of type handlers.jsonPatchOp".to_owned());
    }
    for member in ["op", "path", "from"] {
        let value = &operation[member];
        if !value.is_null() && value.as_str().is_none() {
            return mismatch(value, format!("struct field jsonPatchOp.{member} of type string"));
        }
    }
    Ok(())
}

/// A reference token with `~1` and `~0` resolved (RFC 6901).
fn unescape(token: &str) -> String {
    token.replace("~1", "/").replace("~0", "~")
}

/// The parent's pointer and the last token; `None` for the whole document, which the library cannot address.
fn split(path: &str) -> Option<(&str, String)> {
    // What stands before the first slash does not matter to the library.
    let (parent, last) = path.rsplit_once('/')?;
    Some((parent, unescape(last)))
}

/// An index into an array of this length, which may be negative (counted from the end), as the library has it.
fn index(token: &str, len: usize) -> Result<usize, String> {
    let invalid = |number: i64| format!("Unable to access invalid index: {number}: invalid index referenced");
    let number: i64 = token
        .parse()
        .map_err(|_| format!("value was not a proper array index: '{token}': strconv.Atoi: parsing {token:?}: invalid syntax"))?;
    let from_end = i64::try_from(len).unwrap_or(i64::MAX) + number;
    let position = if number < 0 { from_end } else { number };
    usize::try_from(position).ok().filter(|position| *position <= len).ok_or_else(|| invalid(number))
}

fn lookup<'a>(document: &'a Value, path: &str) -> Option<&'a Value> {
    let mut value = document;
    for token in path.split('/').skip(1).map(unescape) {
        value = match value {
            Value::Object(members) => members.get(&token)?,
            Value::Array(elements) => elements.get(index(&token, elements.len()).ok()?)?,
            _ => return None,
        };
    }
    Some(value)
}

fn lookup_mut<'a>(document: &'a mut Value, path: &str) -> Option<&'a mut Value> {
    let mut value = document;
    for token in path.split('/').skip(1).map(unescape) {
        value = match value {
            Value::Object(_) => value.as_object_mut()?.get_mut(&token)?,
            Value::Array(elements) => {
                let position = index(&token, elements.len()).ok()?;
                value.as_array_mut()?.get_mut(position)?
            }
            _ => return None,
        };
    }
    Some(value)
}

fn add(document: &mut Value, operation: &str, path: &str, value: Value) -> Result<(), String> {
    let missing = || format!("{operation} operation does not apply: doc is missing path: {path:?}: missing value");
    let (parent, last) = split(path).ok_or_else(missing)?;
    let parent = lookup_mut(document, parent).ok_or_else(missing)?;
    if let Some(members) = parent.as_object_mut() {
        members.insert(last, value);
        return Ok(());
    }
    let elements = parent.as_array_mut().ok_or_else(missing)?;
    let position = match last.as_str() {
        "-" => Ok(elements.len()),
        // Counted from the end that the list will have.
        negative if negative.starts_with('-') => index(negative, elements.len() + 1),
        last => index(last, elements.len()),
    };
    let position = position.map_err(|error| format!("error in {operation} for path: '{path}': {error}"))?;
    elements.insert(position, value);
    Ok(())
}

/// A member that is not there is added, which the RFC forbids and the library does.
fn replace(document: &mut Value, path: &str, value: Value) -> Result<(), String> {
    if path.is_empty() {
        if value.as_object().is_none() && value.as_array().is_none() {
            return Err("replace operation value must be object or array: %!w(<nil>)".to_owned());
        }
        *document = value;
        return Ok(());
    }
    let missing = |what: &str| format!("replace operation does not apply: doc is missing {what}: {path}: missing value");
    let (parent, last) = split(path).ok_or_else(|| missing("path"))?;
    let parent = lookup_mut(document, parent).ok_or_else(|| missing("path"))?;
    if let Some(members) = parent.as_object_mut() {
        members.insert(last, value);
        return Ok(());
    }
    let elements = parent.as_array_mut().ok_or_else(|| missing("path"))?;
    let position = index(&last, elements.len()).map_err(|_| missing("key"))?;
    *elements.get_mut(position).ok_or_else(|| missing("key"))? = value;
    Ok(())
}

fn remove(document: &mut Value, operation: &str, path: &str) -> Result<Value, String> {
    let missing = || format!("{operation} operation does not apply: doc is missing path: {path:?}: missing value");
    let wrong = |error: String| format!("error in {operation} for path: '{path}': {error}");
    let (parent, last) = split(path).ok_or_else(missing)?;
    let parent = lookup_mut(document, parent).ok_or_else(missing)?;
    if let Some(members) = parent.as_object_mut() {
        return members.remove(&last).ok_or_else(|| wrong(format!("Unable to remove nonexistent key: {last}: missing value")));
    }
    let elements = parent.as_array_mut().ok_or_else(missing)?;
    let position = index(&last, elements.len()).map_err(wrong)?;
    if position >= elements.len() {
        return Err(wrong(format!("Unable to access invalid index: {position}: invalid index referenced")));
    }
    Ok(elements.remove(position))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Value {
        Value::from_slice(text.as_bytes()).unwrap()
    }

    fn apply(document: &str, patch: &str) -> Result<Value, String> {
        let patch = JsonPatch::parse(&parse(patch)).map_err(|error| error.to_string())?;
        patch.apply(&parse(document)).map_err(|error| error.to_string())
    }

    /// The examples of RFC 6902, appendix A.
    #[test]
    fn examples_of_the_rfc() {
        let check = |document: &str, patch: &str, expected: &str| {
            assert_eq!(apply(document, patch), Ok(parse(expected)), "{document} {patch}");
        };
        check(r#"{"foo":"bar"}"#, r#"[{"op":"add","path":"/baz","value":"qux"}]"#, r#"{"baz":"qux","foo":"bar"}"#);
        check(r#"{"foo":["bar","baz"]}"#, r#"[{"op":"add","path":"/foo/1","value":"qux"}]"#, r#"{"foo":["bar","qux","baz"]}"#);
        check(r#"{"baz":"qux","foo":"bar"}"#, r#"[{"op":"remove","path":"/baz"}]"#, r#"{"foo":"bar"}"#);
        check(r#"{"foo":["bar","qux","baz"]}"#, r#"[{"op":"remove","path":"/foo/1"}]"#, r#"{"foo":["bar","baz"]}"#);
        check(r#"{"baz":"qux"}"#, r#"[{"op":"replace","path":"/baz","value":"boo"}]"#, r#"{"baz":"boo"}"#);
        check(
            r#"{"foo":{"bar":"baz","waldo":"fred"},"qux":{"corge":"grault"}}"#,
            r#"[{"op":"move","from":"/foo/waldo","path":"/qux/thud"}]"#,
            r#"{"foo":{"bar":"baz"},"qux":{"corge":"grault","thud":"fred"}}"#,
        );
        check(
            r#"{"foo":["all","grass","cows","eat"]}"#,
            r#"[{"op":"move","from":"/foo/1","path":"/foo/3"}]"#,
            r#"{"foo":["all","cows","eat","grass"]}"#,
        );
        check(r#"{"baz":"qux"}"#, r#"[{"op":"test","path":"/baz","value":"qux"}]"#, r#"{"baz":"qux"}"#);
        check(
            r#"{"foo":"bar"}"#,
            r#"[{"op":"add","path":"/child","value":{"grandchild":{}}}]"#,
            r#"{"foo":"bar","child":{"grandchild":{}}}"#,
        );
        // Not the RFC's, but the library's.
        check("{}", r#"[{"op":"replace","path":"/a","value":1}]"#, r#"{"a":1}"#);
        check("{}", r#"[{"op":"replace","path":"","value":{"b":1}}]"#, r#"{"b":1}"#);
        check(r#"{"/":9,"~1":10}"#, r#"[{"op":"test","path":"/~01","value":10}]"#, r#"{"/":9,"~1":10}"#);
        check(r#"{"foo":["bar"]}"#, r#"[{"op":"add","path":"/foo/-","value":["abc"]}]"#, r#"{"foo":["bar",["abc"]]}"#);
        check(r#"{"a":{"b":1}}"#, r#"[{"op":"copy","from":"/a","path":"/c"}]"#, r#"{"a":{"b":1},"c":{"b":1}}"#);
    }

    #[test]
    fn what_does_not_fit_is_an_error_and_changes_nothing() {
        let check = |document: &str, patch: &str, expected: &str| {
            assert_eq!(apply(document, patch), Err(expected.to_owned()), "{document} {patch}");
        };
        check(r#"{"a":1}"#, r#"[{"op":"test","path":"/a","value":2}]"#, "testing value /a failed: test failed");
        check(
            "{}",
            r#"[{"op":"remove","path":"/a"}]"#,
            "error in remove for path: '/a': Unable to remove nonexistent key: a: missing value",
        );
        check(
            r#"{"a":[1]}"#,
            r#"[{"op":"replace","path":"/a/1","value":1}]"#,
            "replace operation does not apply: doc is missing key: /a/1: missing value",
        );
        check(
            "{}",
            r#"[{"op":"replace","path":"/a/b","value":1}]"#,
            "replace operation does not apply: doc is missing path: /a/b: missing value",
        );
        check(
            "{}",
            r#"[{"op":"add","path":"/a/b","value":1}]"#,
            "add operation does not apply: doc is missing path: \"/a/b\": missing value",
        );
        check("{}", r#"[{"op":"jump","path":"/a"}]"#, "Unexpected kind: jump");
        check(
            r#"{"a":[1]}"#,
            r#"[{"op":"add","path":"/a/3","value":1}]"#,
            "error in add for path: '/a/3': Unable to access invalid index: 3: invalid index referenced",
        );
    }

    #[test]
    fn operations_are_limited() {
        let operation = r#"{"op":"test","path":"","value":{}}"#;
        let patch = format!("[{}]", vec![operation; OPERATIONS_MAX + 1].join(","));
        assert_eq!(JsonPatch::parse(&parse(&patch)).err(), Some(JsonPatchError::TooManyOperations(OPERATIONS_MAX + 1)));
    }
}
