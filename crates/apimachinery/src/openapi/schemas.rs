//! Schemas of types.

use std::collections::BTreeSet;

use super::Options;
use crate::schema::{FieldInfo, Shape, TypeInfo, TypeKind, type_named};
use crate::{Value, value};

/// Our prefixes of type names, with upstream's.
const PREFIXES: [(&str, &str); 7] = [
    ("meta.", "io.k8s.apimachinery.pkg.apis.meta."),
    ("resource.Quantity", "io.k8s.apimachinery.pkg.api.resource.Quantity"),
    ("intstr.", "io.k8s.apimachinery.pkg.util.intstr."),
    ("runtime.", "io.k8s.apimachinery.pkg.runtime."),
    ("version.", "io.k8s.apimachinery.pkg.version."),
    ("apiextensions.", "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions."),
    ("apiregistration.", "io.k8s.kube-aggregator.pkg.apis.apiregistration."),
];

/// The name of a type in OpenAPI documents.
pub(super) fn openapi_name(info: &TypeInfo) -> String {
    let known = PREFIXES.iter().find_map(|(ours, theirs)| Some(format!("{theirs}{}", info.name.strip_prefix(ours)?)));
    known.unwrap_or_else(|| format!("io.k8s.api.{}", info.name))
}

/// A reference to a type's schema.
pub(super) fn reference(info: &TypeInfo) -> Value {
    value!({"$ref": (format!("#/components/schemas/{}", openapi_name(info)))})
}

/// The types with these names and all that they are made of, in the order of their OpenAPI names.
pub(super) fn reachable(names: &BTreeSet<String>) -> Vec<&'static TypeInfo> {
    let mut pending: Vec<&'static TypeInfo> = names.iter().filter_map(|name| type_named(name)).collect();
    let mut found = BTreeSet::new();
    let mut types = Vec::new();
    while let Some(info) = pending.pop() {
        if !found.insert(info.name) {
            continue;
        }
        types.push(info);
        pending.extend(info.fields.iter().filter_map(|f| inner_type(f.shape)));
    }
    types.sort_by_cached_key(|info| openapi_name(info));
    types
}

fn inner_type(shape: &Shape) -> Option<&'static TypeInfo> {
    match shape {
        Shape::List(inner) | Shape::Map(inner) => inner_type(inner),
        Shape::Type(id) => Some(id.info()),
        _ => None,
    }
}

/// The schema of a type.
pub(super) fn of_type(info: &'static TypeInfo, options: &Options<'_>) -> Value {
    let mut schema = match info.kind {
        TypeKind::Struct => of_struct(info, options),
        TypeKind::Quantity => value!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
        TypeKind::IntOrString => value!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]}),
        TypeKind::Time | TypeKind::MicroTime => value!({"format": "date-time", "type": "string"}),
        TypeKind::Duration => value!({"type": "string"}),
        TypeKind::Fields | TypeKind::Raw => value!({"type": "object"}),
        TypeKind::Any if info.name == "meta.v1.Patch" => value!({"type": "object"}),
        TypeKind::Any | TypeKind::SchemaOrBool | TypeKind::SchemaOrArray | TypeKind::SchemaOrStrings => Value::object(),
    };
    if let Some(description) = (options.describe)(info, None) {
        schema.insert("description", description);
    }
    if !info.gvks.is_empty() {
        let gvks: Value = info.gvks.iter().map(|gvk| gvk_value(gvk)).collect();
        schema.insert("x-kubernetes-group-version-kind", gvks);
    }
    if let Some(map_type) = info.map_type {
        schema.insert("x-kubernetes-map-type", map_type);
    }
    if let Some(unions) = info.unions.and_then(|u| Value::from_slice(u.as_bytes()).ok()) {
        schema.insert("x-kubernetes-unions", unions);
    }
    schema
}

fn gvk_value(gvk: &str) -> Value {
    let mut parts = gvk.splitn(3, '/');
    let mut part = || parts.next().unwrap_or_default();
    value!({"group": (part()), "version": (part()), "kind": (part())})
}

fn of_struct(info: &'static TypeInfo, options: &Options<'_>) -> Value {
    let mut schema = value!({"type": "object"});
    for field in &info.fields {
        let mut property = of_field(field, options);
        if let Some(description) = (options.describe)(info, Some(field.name)) {
            property.insert("description", description);
        }
        // A reference cannot have siblings in OpenAPI 3.0.
        if property.as_object().is_some_and(|p| p.len() > 1)
            && let Some(target) = property.remove("$ref")
        {
            property.insert("allOf", value!([{"$ref": target}]));
        }
        schema.path_mut(&["properties"]).insert(field.name, property);
    }
    let mut required: Vec<_> = info.fields.iter().filter(|field| field.required()).collect();
    required.sort_by_key(|field| field.position());
    if !required.is_empty() {
        schema.insert("required", required.into_iter().map(|field| field.name).collect::<Vec<_>>());
    }
    schema
}

fn of_field(field: &'static FieldInfo, options: &Options<'_>) -> Value {
    let mut property = of_shape(field.shape, options);
    let default = match field.default_json() {
        Some(json) => Value::from_slice(json.as_bytes()).ok(),
        None if field.pointer() => None,
        None => zero_default(field.shape).filter(|d| d.as_object().is_some() || !field.omit_empty()),
    };
    if let Some(default) = default {
        property.insert("default", default);
    }
    if let Some(list_type) = field.list_type() {
        property.insert("x-kubernetes-list-type", list_type);
    }
    let keys: Vec<&str> = field.list_map_keys().collect();
    if !keys.is_empty() {
        property.insert("x-kubernetes-list-map-keys", keys);
    }
    for (key, attribute) in [
        ("x-kubernetes-map-type", field.map_type()),
        ("x-kubernetes-patch-strategy", field.patch_strategy()),
        ("x-kubernetes-patch-merge-key", field.patch_merge_key()),
    ] {
        if let Some(attribute) = attribute {
            property.insert(key, attribute);
        }
    }
    property
}

/// Go's zero value, where it is published as a default.
fn zero_default(shape: &Shape) -> Option<Value> {
    match shape {
        Shape::String(_) => Some(Value::from("")),
        Shape::Bool => Some(Value::Bool(false)),
        Shape::Int32(_) | Shape::Int64(_) | Shape::Float => Some(Value::Int(0)),
        Shape::Type(id) if id.info().kind == TypeKind::Struct => Some(Value::object()),
        _ => None,
    }
}

fn of_shape(shape: &'static Shape, options: &Options<'_>) -> Value {
    match shape {
        Shape::String(name) => {
            let mut schema = value!({"type": "string"});
            if options.enums
                && let Some(values) = name.enum_values()
            {
                schema.insert("enum", values.collect::<Value>());
            }
            schema
        }
        Shape::Bool => value!({"type": "boolean"}),
        Shape::Int32(_) => value!({"format": "int32", "type": "integer"}),
        Shape::Int64(_) => value!({"format": "int64", "type": "integer"}),
        Shape::Float => value!({"format": "double", "type": "number"}),
        Shape::Bytes => value!({"format": "byte", "type": "string"}),
        Shape::List(inner) => value!({"type": "array", "items": (element(inner, options))}),
        Shape::Map(inner) => value!({"type": "object", "additionalProperties": (element(inner, options))}),
        Shape::Type(id) => reference(id.info()),
    }
}

/// A list's element or a map's value: never a pointer, so that its zero value is its default.
fn element(shape: &'static Shape, options: &Options<'_>) -> Value {
    let mut schema = of_shape(shape, options);
    if let Some(default) = zero_default(shape) {
        if let Some(target) = schema.remove("$ref") {
            schema.insert("allOf", value!([{"$ref": target}]));
        }
        schema.insert("default", default);
    }
    schema
}
