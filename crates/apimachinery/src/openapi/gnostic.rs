//! Version 2 in protobuf, `openapi.v2.Document` of the gnostic project (<https://github.com/google/gnostic-models>): message and field
//! numbers are its facts. What has no field of its own, defaults and extensions, is YAML in it.

use crate::Value;
use crate::protobuf::wire::{bytes, nested};

/// A field that is text, if it is there.
pub(super) fn text(number: u16, value: &Value, out: &mut Vec<u8>) {
    if let Some(text) = value.as_str().filter(|text| !text.is_empty()) {
        bytes(number, text.as_bytes(), out);
    }
}

pub(super) fn texts(number: u16, value: &Value, out: &mut Vec<u8>) {
    for item in value.as_array().unwrap_or_default() {
        bytes(number, item.as_str().unwrap_or_default().as_bytes(), out);
    }
}

pub(super) fn flag(number: u16, value: &Value, out: &mut Vec<u8>) {
    if value.as_bool() == Some(true) {
        crate::protobuf::wire::integer(number, 1, out);
    }
}

/// A map's member: its name, then its value.
pub(super) fn named(number: u16, name: &str, out: &mut Vec<u8>, value: impl FnOnce(&mut Vec<u8>)) {
    nested(number, out, |out| {
        bytes(1, name.as_bytes(), out);
        nested(2, out, value);
    });
}

/// Any: its YAML.
pub(super) fn any(value: &Value, out: &mut Vec<u8>) {
    let mut yaml = String::new();
    write_yaml(value, 0, &mut yaml);
    if !yaml.ends_with('\n') {
        yaml.push('\n');
    }
    bytes(2, yaml.as_bytes(), out);
}

pub(super) fn extensions(number: u16, of: &Value, out: &mut Vec<u8>) {
    for (key, member) in of.as_object().into_iter().flatten().filter(|(key, _)| key.starts_with("x-")) {
        named(number, key, out, |out| any(member, out));
    }
}

/// YAML in blocks, indented by four as gnostic's library does, lists by two in a list's item.
fn write_yaml(value: &Value, indent: usize, out: &mut String) {
    let pad = |out: &mut String, indent: usize| out.extend(std::iter::repeat_n(' ', indent));
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (i, (key, member)) in map.iter().enumerate() {
                if i > 0 {
                    pad(out, indent);
                }
                out.push_str(&scalar(&Value::from(key.as_str())));
                out.push(':');
                if is_block(member) {
                    out.push('\n');
                    // The next multiple of four, also from within a list's item.
                    let inner = (indent / 4 + 1) * 4;
                    pad(out, inner);
                    write_yaml(member, inner, out);
                } else {
                    out.push(' ');
                    write_yaml(member, 0, out);
                    out.push('\n');
                }
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    pad(out, indent);
                }
                out.push_str("- ");
                write_yaml(item, indent + 2, out);
                if !is_block(item) {
                    out.push('\n');
                }
            }
        }
        other => out.push_str(&scalar(other)),
    }
}

fn is_block(value: &Value) -> bool {
    value.as_object().is_some_and(|map| !map.is_empty()) || value.as_array().is_some_and(|items| !items.is_empty())
}

/// As YAML writes it: quoted only where it must be.
fn scalar(value: &Value) -> String {
    crate::yaml::to_yaml(value).trim_end_matches('\n').to_owned()
}

/// The document's first fields.
pub(super) fn begin(info: &Value, out: &mut Vec<u8>) {
    bytes(1, b"2.0", out);
    nested(2, out, |out| {
        text(1, &info["title"], out);
        text(2, &info["version"], out);
    });
}

/// The document's last fields: how clients say who they are.
pub(super) fn end(scheme: &str, definition: &Value, out: &mut Vec<u8>) {
    nested(12, out, |out| named(1, scheme, out, |_| {}));
    nested(13, out, |out| {
        named(1, scheme, out, |out| {
            nested(2, out, |out| {
                text(1, &definition["type"], out);
                text(2, &definition["name"], out);
                text(3, &definition["in"], out);
                text(4, &definition["description"], out);
            });
        });
    });
}

/// All paths.
pub(super) fn paths<'a>(paths: impl Iterator<Item = (&'a str, Value)>, out: &mut Vec<u8>) {
    nested(8, out, |out| {
        for (path, item) in paths {
            named(2, path, out, |out| path_item(&item, out));
        }
    });
}

fn path_item(item: &Value, out: &mut Vec<u8>) {
    let methods = ["get", "put", "post", "delete", "options", "head", "patch"];
    for (number, method) in (2..).zip(methods) {
        if let Some(of) = item.get(method) {
            nested(number, out, |out| operation(of, out));
        }
    }
    parameter_items(9, item, out);
}

fn operation(of: &Value, out: &mut Vec<u8>) {
    texts(1, &of["tags"], out);
    text(3, &of["description"], out);
    text(5, &of["operationId"], out);
    texts(6, &of["produces"], out);
    texts(7, &of["consumes"], out);
    parameter_items(8, of, out);
    nested(9, out, |out| {
        for (code, answer) in of["responses"].as_object().into_iter().flatten() {
            named(1, code, out, |out| nested(1, out, |out| response(answer, out)));
        }
    });
    texts(10, &of["schemes"], out);
    extensions(13, of, out);
}

fn response(answer: &Value, out: &mut Vec<u8>) {
    text(1, &answer["description"], out);
    if let Some(of) = answer.get("schema") {
        nested(2, out, |out| nested(1, out, |out| schema(of, out)));
    }
}

fn parameter_items(number: u16, of: &Value, out: &mut Vec<u8>) {
    for item in of["parameters"].as_array().unwrap_or_default() {
        nested(number, out, |out| match item.get("$ref") {
            Some(reference) => nested(2, out, |out| text(1, reference, out)),
            None => nested(1, out, |out| parameter(item, out)),
        });
    }
}

fn parameter(of: &Value, out: &mut Vec<u8>) {
    let place = of["in"].as_str().unwrap_or_default();
    if place == "body" {
        return nested(1, out, |out| {
            text(1, &of["description"], out);
            text(2, &of["name"], out);
            text(3, &of["in"], out);
            flag(4, &of["required"], out);
            nested(5, out, |out| schema(&of["schema"], out));
        });
    }
    // Query parameters have one field more, before the type.
    let (kind, shift) = if place == "query" { (3, 1) } else { (4, 0) };
    nested(2, out, |out| {
        nested(kind, out, |out| {
            flag(1, &of["required"], out);
            text(2, &of["in"], out);
            text(3, &of["description"], out);
            text(4, &of["name"], out);
            text(5 + shift, &of["type"], out);
            flag(19 + shift, &of["uniqueItems"], out);
        });
    });
}

/// The definitions of types.
pub(super) fn definitions(definitions: impl Iterator<Item = (String, Value)>, out: &mut Vec<u8>) {
    nested(9, out, |out| {
        for (name, of) in definitions {
            named(1, &name, out, |out| schema(&of, out));
        }
    });
}

/// The definitions of parameters.
pub(super) fn parameters(definitions: impl IntoIterator<Item = (String, Value)>, out: &mut Vec<u8>) {
    nested(10, out, |out| {
        for (name, of) in definitions {
            named(1, &name, out, |out| parameter(&of, out));
        }
    });
}

fn schema(of: &Value, out: &mut Vec<u8>) {
    text(1, &of["$ref"], out);
    text(2, &of["format"], out);
    text(4, &of["description"], out);
    texts(19, &of["required"], out);
    for value in of["enum"].as_array().unwrap_or_default() {
        nested(20, out, |out| any(value, out));
    }
    if let Some(inner) = of.get("additionalProperties") {
        nested(21, out, |out| nested(1, out, |out| schema(inner, out)));
    }
    if let Some(kind) = of.get("type") {
        nested(22, out, |out| text(1, kind, out));
    }
    if let Some(inner) = of.get("items") {
        nested(23, out, |out| nested(1, out, |out| schema(inner, out)));
    }
    if let Some(properties) = of["properties"].as_object() {
        nested(25, out, |out| {
            for (name, inner) in properties {
                named(1, name, out, |out| schema(inner, out));
            }
        });
    }
    extensions(31, of, out);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value;

    #[test]
    fn yaml_as_gnostic_writes_it() {
        let check = |value: Value, expected: &str| {
            let mut out = Vec::new();
            any(&value, &mut out);
            assert_eq!(&out[2..], expected.as_bytes(), "{value}");
        };
        check(value!("get"), "get\n");
        check(value!(true), "true\n");
        check(value!([{"group": "", "kind": "Pod", "version": "v1"}]), "- group: \"\"\n  kind: Pod\n  version: v1\n");
        check(value!({"group": "apps", "kind": "Scale"}), "group: apps\nkind: Scale\n");
        check(value!(["port", "protocol"]), "- port\n- protocol\n");
        check(
            value!([{"discriminator": "type", "fields": {"a": "A", "b": "B"}}]),
            "- discriminator: type\n  fields:\n    a: A\n    b: B\n",
        );
        check(value!({"a": {"b": "c"}, "l": ["x", {"k": "z"}]}), "a:\n    b: c\nl:\n    - x\n    - k: z\n");
    }
}
