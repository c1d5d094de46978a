//! JSON merge patch, RFC 7386.

use crate::Value;

/// Applies a merge patch: objects are merged member by member, `null` removes, anything else replaces.
/// Recursion is bounded by the nesting that the parser admits.
pub fn merge_patch(target: &mut Value, patch: &Value) {
    let Some(members) = patch.as_object() else {
        *target = patch.clone();
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
    }
}
