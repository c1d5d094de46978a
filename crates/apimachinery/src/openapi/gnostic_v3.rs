//! Version 3 in protobuf, `openapi.v3.Document` of the gnostic project (<https://github.com/google/gnostic-models>): message and field
//! numbers are its facts. Made from the pieces of the JSON document, as upstream makes it.

use super::gnostic::{any, extensions, flag, named, text, texts};
use crate::Value;
use crate::protobuf::wire::{bytes, double, integer, nested};

/// Operations of a path, from its fourth field on.
const METHODS: [&str; 8] = ["get", "put", "post", "delete", "options", "head", "patch", "trace"];

/// The document's first fields.
pub(super) fn begin(info: &Value, out: &mut Vec<u8>) {
    bytes(1, b"3.0.0", out);
    nested(2, out, |out| {
        text(1, &info["title"], out);
        text(6, &info["version"], out);
    });
}

/// All paths.
pub(super) fn paths<'a>(paths: impl IntoIterator<Item = (&'a String, &'a Value)>, out: &mut Vec<u8>) {
    nested(4, out, |out| {
        for (path, item) in paths {
            named(1, path, out, |out| path_item(item, out));
        }
    });
}

/// The types, and how clients say who they are.
pub(super) fn components(types: impl Iterator<Item = (String, Value)>, scheme: &str, definition: &Value, out: &mut Vec<u8>) {
    nested(5, out, |out| {
        let mut schemas = types.peekable();
        if schemas.peek().is_some() {
            nested(1, out, |out| {
                for (name, of) in schemas {
                    named(1, &name, out, |out| schema_or_reference(&of, out));
                }
            });
        }
        nested(7, out, |out| {
            named(1, scheme, out, |out| {
                nested(1, out, |out| {
                    text(1, &definition["type"], out);
                    text(2, &definition["description"], out);
                    text(3, &definition["name"], out);
                    text(4, &definition["in"], out);
                });
            });
        });
    });
}

fn path_item(item: &Value, out: &mut Vec<u8>) {
    for (number, method) in (4..).zip(METHODS) {
        if let Some(of) = item.get(method) {
            nested(number, out, |out| operation(of, out));
        }
    }
    parameters(13, item, out);
}

fn operation(of: &Value, out: &mut Vec<u8>) {
    texts(1, &of["tags"], out);
    text(3, &of["description"], out);
    text(5, &of["operationId"], out);
    parameters(6, of, out);
    if let Some(body) = of.get("requestBody") {
        nested(7, out, |out| {
            nested(1, out, |out| {
                text(1, &body["description"], out);
                content(2, body, out);
                flag(3, &body["required"], out);
            });
        });
    }
    nested(8, out, |out| {
        for (code, answer) in of["responses"].as_object().into_iter().flatten() {
            named(2, code, out, |out| {
                nested(1, out, |out| {
                    text(1, &answer["description"], out);
                    content(3, answer, out);
                });
            });
        }
    });
    flag(10, &of["deprecated"], out);
    extensions(13, of, out);
}

fn parameters(number: u16, of: &Value, out: &mut Vec<u8>) {
    for item in of["parameters"].as_array().unwrap_or_default() {
        nested(number, out, |out| {
            nested(1, out, |out| {
                text(1, &item["name"], out);
                text(2, &item["in"], out);
                text(3, &item["description"], out);
                flag(4, &item["required"], out);
                if let Some(of) = item.get("schema") {
                    nested(10, out, |out| schema_or_reference(of, out));
                }
            });
        });
    }
}

/// What there is in which media type.
fn content(number: u16, of: &Value, out: &mut Vec<u8>) {
    let Some(content) = of["content"].as_object() else { return };
    nested(number, out, |out| {
        for (media_type, what) in content {
            named(1, media_type, out, |out| {
                if let Some(of) = what.get("schema") {
                    nested(1, out, |out| schema_or_reference(of, out));
                }
            });
        }
    });
}

fn schema_or_reference(of: &Value, out: &mut Vec<u8>) {
    match of.get("$ref") {
        Some(reference) => nested(2, out, |out| {
            text(1, reference, out);
            text(3, &of["description"], out);
        }),
        None => nested(1, out, |out| schema(of, out)),
    }
}

fn schema(of: &Value, out: &mut Vec<u8>) {
    flag(20, &of["uniqueItems"], out);
    texts(23, &of["required"], out);
    for value in of["enum"].as_array().unwrap_or_default() {
        nested(24, out, |out| any(value, out));
    }
    text(25, &of["type"], out);
    for (number, of) in [(26, &of["allOf"]), (27, &of["oneOf"]), (28, &of["anyOf"])] {
        for inner in of.as_array().unwrap_or_default() {
            nested(number, out, |out| schema_or_reference(inner, out));
        }
    }
    if let Some(inner) = of.get("items") {
        nested(30, out, |out| nested(1, out, |out| schema_or_reference(inner, out)));
    }
    if let Some(properties) = of["properties"].as_object() {
        nested(31, out, |out| {
            for (name, inner) in properties {
                named(1, name, out, |out| schema_or_reference(inner, out));
            }
        });
    }
    if let Some(inner) = of.get("additionalProperties") {
        nested(32, out, |out| match inner.as_bool() {
            Some(any) => integer(2, i64::from(any), out),
            None => nested(1, out, |out| schema_or_reference(inner, out)),
        });
    }
    if let Some(value) = of.get("default") {
        nested(33, out, |out| default(value, out));
    }
    text(34, &of["description"], out);
    text(35, &of["format"], out);
    extensions(36, of, out);
}

/// Only scalars have a field; what else is a default is there, and empty.
fn default(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Int(number) => double(1, *number as f64, out),
        Value::Float(number) => double(1, *number, out),
        Value::Bool(value) => integer(2, i64::from(*value), out),
        Value::String(text) => bytes(3, text.as_bytes(), out),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value;

    #[test]
    fn schemas() {
        let check = |of: Value, expected: &[u8]| {
            let mut out = Vec::new();
            schema_or_reference(&of, &mut out);
            assert_eq!(out, expected, "{of}");
        };
        check(value!({"$ref": "#/a"}), b"\x12\x05\x0a\x03#/a");
        check(value!({"type": "string", "default": ""}), b"\x0a\x0e\xca\x01\x06string\x8a\x02\x02\x1a\x00");
        check(value!({"default": {}}), b"\x0a\x03\x8a\x02\x00");
        check(value!({"default": 1}), b"\x0a\x0c\x8a\x02\x09\x09\0\0\0\0\0\0\xf0\x3f");
        check(value!({"items": {"type": "x"}}), b"\x0a\x0b\xf2\x01\x08\x0a\x06\x0a\x04\xca\x01\x01x");
    }
}
