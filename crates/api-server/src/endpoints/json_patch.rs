//! JSON Patch (RFC 6902) and JSON Merge Patch (RFC 7386).

use apimachinery::{Reason, Status, Value};

/// A patch may have so many operations (upstream's `maxJSONPatchOperations`).
const OPERATIONS_MAX: usize = 10_000;

/// Merges: `null` removes, objects merge, everything else replaces.
pub(crate) fn merge(mut target: Value, patch: &Value) -> Value {
    let Some(members) = patch.as_object() else { return patch.clone() };
    if target.as_object().is_none() {
        target = Value::object();
    }
    for (key, value) in members.iter() {
        match value {
            Value::Null => {
                target.remove(key);
            }
            Value::Object(_) => {
                let current = target.remove(key).unwrap_or_default();
                target.insert(key, merge(current, value));
            }
            other => {
                target.insert(key, other.clone());
            }
        }
    }
    target
}

/// Applies the operations in order; all or none.
pub(crate) fn apply(target: &Value, patch: &Value) -> Result<Value, Status> {
    let operations = patch.as_array().ok_or_else(|| Status::bad_request("error decoding patch: a JSON patch is a list"))?;
    if operations.len() > OPERATIONS_MAX {
        return Err(Status::request_entity_too_large(&format!(
            "The allowed maximum operations in a JSON patch is {OPERATIONS_MAX}, got {}",
            operations.len()
        )));
    }
    let mut result = target.clone();
    for operation in operations {
        step(&mut result, operation)?;
    }
    Ok(result)
}

fn unprocessable(message: impl Into<String>) -> Status {
    let mut status = Status::new(Reason::Invalid, message.into());
    status.code = 422;
    status
}

fn step(target: &mut Value, operation: &Value) -> Result<(), Status> {
    let path = |member: &str| -> Result<Vec<String>, Status> {
        let text = operation[member].as_str().ok_or_else(|| unprocessable(format!("the operation has no {member}")))?;
        pointer(text)
    };
    let value = || operation.get("value").cloned().ok_or_else(|| unprocessable("the operation has no value"));
    match operation["op"].as_str().unwrap_or_default() {
        "add" => add(target, &path("path")?, value()?),
        "remove" => remove(target, &path("path")?).map(drop),
        "replace" => {
            let path = path("path")?;
            match find(target, &path) {
                Some(_) => replace(target, &path, value()?),
                None => Err(missing("replace", &path)),
            }
        }
        "move" => {
            let moved = remove(target, &path("from")?)?;
            add(target, &path("path")?, moved)
        }
        "copy" => {
            let from = path("from")?;
            let copied = find(target, &from).cloned().ok_or_else(|| missing("copy", &from))?;
            add(target, &path("path")?, copied)
        }
        "test" => {
            let path = path("path")?;
            let expected = operation.get("value").cloned().unwrap_or_default();
            match find(target, &path).cloned().unwrap_or_default() == expected {
                true => Ok(()),
                false => Err(unprocessable(format!("testing value {} failed", text(&path)))),
            }
        }
        other => Err(unprocessable(format!("Unexpected kind: {other}"))),
    }
}

fn missing(operation: &str, path: &[String]) -> Status {
    unprocessable(format!("{operation} operation does not apply: doc is missing key: {}", text(path)))
}

fn text(path: &[String]) -> String {
    path.iter().map(|part| format!("/{}", part.replace('~', "~0").replace('/', "~1"))).collect()
}

/// RFC 6901.
fn pointer(text: &str) -> Result<Vec<String>, Status> {
    match text.strip_prefix('/') {
        None if text.is_empty() => Ok(Vec::new()),
        None => Err(unprocessable(format!("{text:?} is not a JSON pointer"))),
        Some(rest) => Ok(rest.split('/').map(|part| part.replace("~1", "/").replace("~0", "~")).collect()),
    }
}

fn find<'a>(target: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(target, |at, part| match at {
        Value::Object(_) => at.get(part),
        Value::Array(items) => items.get(part.parse::<usize>().ok()?),
        _ => None,
    })
}

fn find_mut<'a>(target: &'a mut Value, path: &[String]) -> Option<&'a mut Value> {
    let mut at = target;
    for part in path {
        at = match at {
            Value::Object(_) => at.get_mut(part)?,
            Value::Array(_) => {
                let index = part.parse::<usize>().ok()?;
                at.as_array_mut()?.get_mut(index)?
            }
            _ => return None,
        };
    }
    Some(at)
}

fn replace(target: &mut Value, path: &[String], value: Value) -> Result<(), Status> {
    match find_mut(target, path) {
        Some(at) => {
            *at = value;
            Ok(())
        }
        None => Err(missing("replace", path)),
    }
}

fn add(target: &mut Value, path: &[String], value: Value) -> Result<(), Status> {
    let Some((last, parents)) = path.split_last() else {
        *target = value;
        return Ok(());
    };
    let parent = find_mut(target, parents).ok_or_else(|| missing("add", path))?;
    match parent {
        Value::Object(_) => {
            parent.insert(last.as_str(), value);
            Ok(())
        }
        Value::Array(items) => {
            let len = items.len();
            let index = if last == "-" { Some(len) } else { last.parse::<usize>().ok().filter(|index| *index <= len) };
            match (index, parent.as_array_mut()) {
                (Some(index), Some(items)) => {
                    items.insert(index, value);
                    Ok(())
                }
                _ => Err(unprocessable(format!("Unable to access invalid index: {last}"))),
            }
        }
        _ => Err(missing("add", path)),
    }
}

fn remove(target: &mut Value, path: &[String]) -> Result<Value, Status> {
    let (last, parents) = path.split_last().ok_or_else(|| unprocessable("the whole document cannot be removed"))?;
    let parent = find_mut(target, parents).ok_or_else(|| missing("remove", path))?;
    let removed = match parent {
        Value::Object(_) => parent.remove(last),
        Value::Array(items) => {
            let index = last.parse::<usize>().ok().filter(|index| *index < items.len());
            index.and_then(|index| parent.as_array_mut().map(|items| items.remove(index)))
        }
        _ => None,
    };
    removed.ok_or_else(|| missing("remove", path))
}

#[cfg(test)]
mod tests {
    use apimachinery::value;

    use super::*;

    #[test]
    fn json_patches() {
        let target = value!({"a": {"b": [1, 2]}, "c~d": {"e/f": 1}});
        let cases = [
            (value!([{"op": "add", "path": "/a/b/1", "value": 9}]), Some(value!({"a": {"b": [1, 9, 2]}, "c~d": {"e/f": 1}}))),
            (value!([{"op": "add", "path": "/a/b/-", "value": 9}]), Some(value!({"a": {"b": [1, 2, 9]}, "c~d": {"e/f": 1}}))),
            (value!([{"op": "remove", "path": "/c~0d/e~1f"}]), Some(value!({"a": {"b": [1, 2]}, "c~d": {}}))),
            (value!([{"op": "move", "from": "/a/b", "path": "/b"}]), Some(value!({"a": {}, "b": [1, 2], "c~d": {"e/f": 1}}))),
            (value!([{"op": "test", "path": "/a/b/0", "value": 1}, {"op": "replace", "path": "/a", "value": 1}]),
             Some(value!({"a": 1, "c~d": {"e/f": 1}}))),
            (value!([{"op": "test", "path": "/a/b/0", "value": 2}]), None),
            (value!([{"op": "remove", "path": "/x"}]), None),
            (value!([{"op": "add", "path": "/a/b/5", "value": 1}]), None),
            (value!([{"op": "replace", "path": "/x", "value": 1}]), None),
            (value!([{"op": "frobnicate", "path": "/x"}]), None),
        ];
        for (patch, expected) in cases {
            assert_eq!(apply(&target, &patch).ok(), expected, "{patch}");
        }
    }

    #[test]
    fn merge_patches() {
        let merged = merge(value!({"a": {"b": 1, "c": 2}, "d": [1]}), &value!({"a": {"b": null, "x": {"y": null, "z": 1}}, "d": [2]}));
        assert_eq!(merged, value!({"a": {"c": 2, "x": {"z": 1}}, "d": [2]}));
    }
}
