//! Values as upstream shows them in errors where the value is one of its internal structs: those have no JSON tags, so that Go writes every
//! field, under its Go name, in the order of declaration.

use std::fmt::Write;

use apimachinery::field::Error;
use apimachinery::schema::{self, Shape, TypeInfo, TypeKind};
use apimachinery::{Value, go_quote};

/// The value as a struct of upstream's internal type that corresponds to the published type of this name (`storage.v1.CSINodeDriver`).
pub(super) fn internal(value: &Value, type_name: &str) -> String {
    let mut out = String::new();
    match schema::type_named(type_name) {
        Some(info) => write_struct(&mut out, value, info),
        None => out.push_str(&value.to_json()),
    }
    out
}

/// The value as a type of apimachinery, which has JSON tags: the members that are there, in the order of declaration.
pub(super) fn tagged(value: &Value, type_name: &str) -> String {
    let mut out = String::new();
    match schema::type_named(type_name) {
        Some(info) if value.is_null() || info.kind != TypeKind::Struct => out.push_str(&value.to_json()),
        Some(info) => write_tagged(&mut out, value, info),
        None => out.push_str(&value.to_json()),
    }
    out
}

/// An error that shows its value as a text of our own making.
pub(super) trait Shown {
    /// Shows this instead of the value's JSON.
    fn shown_as(self, text: String) -> Error;
}

impl Shown for Error {
    fn shown_as(mut self, text: String) -> Error {
        self.bad_value = None;
        self.detail = if self.detail.is_empty() { text } else { format!("{text}: {}", self.detail) };
        self
    }
}

/// The Go name of a field: its first letter is upper case, and abbreviations are as upstream's internal types write them.
fn go_name(name: &str) -> String {
    match name {
        "uid" => return "UID".to_owned(),
        "cel" => return "CEL".to_owned(),
        "apiVersion" => return "APIVersion".to_owned(),
        "apiGroup" => return "APIGroup".to_owned(),
        _ => {}
    }
    let mut letters = name.chars();
    let first = letters.next().map(|c| c.to_ascii_uppercase());
    first.into_iter().chain(letters).collect()
}

fn write_struct(out: &mut String, value: &Value, info: &'static TypeInfo) {
    let mut fields: Vec<_> = info.fields.iter().collect();
    fields.sort_by_key(|field| (field.embedded_in, field.number));
    out.push('{');
    let mut first = true;
    for field in fields {
        let member = &value[field.name];
        // ObjectMeta is embedded, and its members, which have JSON tags, are the struct's own.
        if field.name == "metadata" {
            let json = member.to_json();
            let members = json.strip_prefix('{').and_then(|json| json.strip_suffix('}')).unwrap_or_default();
            if !member.is_null() && !members.is_empty() {
                out.push_str(if first { "" } else { "," });
                out.push_str(members);
                first = false;
            }
            continue;
        }
        // Writing to a string cannot fail.
        let _ = write!(out, "{}\"{}\":", if first { "" } else { "," }, go_name(field.name));
        first = false;
        match member.is_null() && field.pointer() {
            true => out.push_str("null"),
            false => write_shape(out, member, field.shape),
        }
    }
    out.push('}');
}

fn write_tagged(out: &mut String, value: &Value, info: &'static TypeInfo) {
    let mut fields: Vec<_> = info.fields.iter().filter(|field| !value[field.name].is_null()).collect();
    fields.sort_by_key(|field| field.number);
    out.push('{');
    for (index, field) in fields.into_iter().enumerate() {
        let _ = write!(out, "{}\"{}\":", if index == 0 { "" } else { "," }, field.name);
        write_shape(out, &value[field.name], field.shape);
    }
    out.push('}');
}

fn write_shape(out: &mut String, value: &Value, shape: &'static Shape) {
    match shape {
        Shape::Type(id) if id.info().kind == TypeKind::Struct && !value.is_null() && id.info().name.starts_with("meta.") => {
            write_tagged(out, value, id.info());
        }
        Shape::Type(id) if id.info().kind == TypeKind::Struct && !id.info().name.starts_with("meta.") => {
            write_struct(out, value, id.info());
        }
        Shape::List(of) => match value.as_array() {
            None => out.push_str("null"),
            Some(items) => {
                out.push('[');
                for (index, item) in items.iter().enumerate() {
                    out.push_str(if index == 0 { "" } else { "," });
                    write_shape(out, item, of);
                }
                out.push(']');
            }
        },
        Shape::Map(of) => match value.as_object() {
            None => out.push_str("null"),
            Some(entries) => {
                out.push('{');
                for (index, (key, entry)) in entries.iter().enumerate() {
                    out.push_str(if index == 0 { "" } else { "," });
                    out.push_str(&go_quote(key.as_str()));
                    out.push(':');
                    write_shape(out, entry, of);
                }
                out.push('}');
            }
        },
        _ if !value.is_null() => out.push_str(&value.to_json()),
        Shape::String(_) => out.push_str("\"\""),
        Shape::Bool => out.push_str("false"),
        Shape::Int32(_) | Shape::Int64(_) | Shape::Float => out.push('0'),
        Shape::Type(id) if id.info().kind == TypeKind::Quantity => out.push_str("\"0\""),
        _ => out.push_str("null"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apimachinery::value;

    #[test]
    fn members_in_the_order_of_declaration() {
        let selector = value!({"matchExpressions": [{"operator": "In", "key": "k", "values": ["v"]}], "matchLabels": {"a": "b"}});
        assert_eq!(
            tagged(&selector, "meta.v1.LabelSelector"),
            r#"{"matchLabels":{"a":"b"},"matchExpressions":[{"key":"k","operator":"In","values":["v"]}]}"#
        );
        let parent = value!({"name": "web", "resource": "services"});
        assert_eq!(
            internal(&parent, "networking.v1.ParentReference"),
            r#"{"Group":"","Resource":"services","Namespace":"","Name":"web"}"#
        );
    }
}
