//! JSON merge patch, RFC 7386.

use crate::{Map, Value};

/// Applies a merge patch: objects are merged member by member, `null` removes, anything else replaces.
/// Recursion is bounded by the nesting that the parser admits.
pub fn merge_patch(target: &mut Value, patch: &Value) {
    let Some(members) = patch.as_object() else {
        // As upstream's library has it, the objects in a list lose their nulls, unless the list takes the place of an object.
        *target = if target.as_object().is_some() { patch.clone() } else { without_nulls(patch) };
        return;
    };
    let target = target.object_mut();
    for (key, change) in members {
        if change.is_null() {
            target.remove(key);
        } else {
            if !target.contains_key(key) {
                target.insert(key, Value::Null);
            }
            if let Some(member) = target.get_mut(key) {
                merge_patch(member, change);
            }
        }
    }
}

/// A value without the members that are `null`, at any depth.
pub fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(members) => {
            let left = members.iter().filter(|(_, member)| !member.is_null());
            left.map(|(key, member)| (key.clone(), without_nulls(member))).collect::<Map>().into()
        }
        Value::Array(items) => items.iter().map(without_nulls).collect(),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of RFC 7386, appendix A.
    #[test]
    fn examples_of_the_rfc() {
        let check = |target: &str, patch: &str, expected: &str| {
            let parse = |text: &str| Value::from_slice(text.as_bytes()).unwrap();
            let mut value = parse(target);
            merge_patch(&mut value, &parse(patch));
            assert_eq!(value, parse(expected), "{target} + {patch}");
        };
        check(r#"{"a":"b"}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#);
        check(r#"{"a":"b"}"#, r#"{"b":"c"}"#, r#"{"a":"b","b":"c"}"#);
        check(r#"{"a":"b"}"#, r#"{"a":null}"#, "{}");
        check(r#"{"a":"b","b":"c"}"#, r#"{"a":null}"#, r#"{"b":"c"}"#);
        check(r#"{"a":["b"]}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#);
        check(r#"{"a":"c"}"#, r#"{"a":["b"]}"#, r#"{"a":["b"]}"#);
        check(r#"{"a":{"b":"c"}}"#, r#"{"a":{"b":"d","c":null}}"#, r#"{"a":{"b":"d"}}"#);
        check(r#"{"a":[{"b":"c"}]}"#, r#"{"a":[1]}"#, r#"{"a":[1]}"#);
        check(r#"["a","b"]"#, r#"["c","d"]"#, r#"["c","d"]"#);
        check(r#"{"a":"b"}"#, r#"["c"]"#, r#"["c"]"#);
        check(r#"{"a":"foo"}"#, "null", "null");
        check(r#"{"e":null}"#, r#"{"a":1}"#, r#"{"e":null,"a":1}"#);
        check("[1,2]", r#"{"a":"b","c":null}"#, r#"{"a":"b"}"#);
        check("{}", r#"{"a":{"bb":{"ccc":null}}}"#, r#"{"a":{"bb":{}}}"#);
        // Beyond the RFC.
        check(r#"{"a":[1],"b":{}}"#, r#"{"a":[{"c":null},null],"b":[{"c":null}]}"#, r#"{"a":[{},null],"b":[{"c":null}]}"#);
    }
}
