//! The types of expressions for what a schema of the API server's OpenAPI document describes (upstream's `cel/common` and
//! `cel/openapi/resolver`).

use std::collections::BTreeMap;

use cel::Type;
use cel::names::escape;
use serde_json::{Map, Value};

/// No schema of the API server's is nested deeper; what lies below has no type.
const DEPTH_MAX: usize = 64;
const REFERENCE: &str = "#/components/schemas/";

/// Object types by name, with their fields.
pub(super) type Objects = BTreeMap<String, BTreeMap<String, Type>>;

/// Turns the schemas of one document into types.
struct Reader<'a> {
    schemas: &'a Map<String, Value>,
    /// The references on the way to this schema.
    open: Vec<&'a str>,
    objects: &'a mut Objects,
}

/// The type of a kind, which is called `name`, with the types of its fields below; `None` if the document does not know it.
pub(super) fn of_kind(document: &Value, [group, version, kind]: [&str; 3], name: &str, objects: &mut Objects) -> Option<Type> {
    let schemas = document["components"]["schemas"].as_object()?;
    let is_it = |id: &Value| id["group"] == group && id["version"] == version && id["kind"] == kind;
    let has_it = |schema: &Value| schema["x-kubernetes-group-version-kind"].as_array().is_some_and(|ids| ids.iter().any(is_it));
    let (reference, root) = schemas.iter().find(|(_, schema)| has_it(schema))?;
    let mut reader = Reader { schemas, open: vec![reference], objects };
    reader.convert(root, name, true)
}

/// The reference that the schema is, by itself or wrapped in `allOf` to keep a description.
fn reference(schema: &Value) -> Option<&str> {
    if let Some(reference) = schema["$ref"].as_str() {
        return Some(reference.strip_prefix(REFERENCE).unwrap_or(reference));
    }
    schema["allOf"].as_array()?.iter().find_map(reference)
}

impl<'a> Reader<'a> {
    fn convert(&mut self, schema: &'a Value, name: &str, is_root: bool) -> Option<Type> {
        if name.split('.').count() > DEPTH_MAX {
            return None;
        }
        let Some(reference) = reference(schema) else { return self.resolved(schema, name, is_root) };
        if self.open.contains(&reference) {
            // A type that contains itself is taken for an object without fields from there on.
            self.objects.entry(name.to_owned()).or_default();
            return Some(Type::object(name));
        }
        let target = self.schemas.get(reference)?;
        self.open.push(reference);
        let converted = self.resolved(target, name, is_root);
        self.open.pop();
        converted
    }

    fn resolved(&mut self, schema: &'a Value, name: &str, is_root: bool) -> Option<Type> {
        if schema["format"] == "int-or-string" || schema["x-kubernetes-int-or-string"] == true {
            return Some(Type::Dyn);
        }
        match schema["type"].as_str()? {
            "array" => Some(Type::list(self.below(schema.get("items")?, &format!("{name}.@idx"))?)),
            "object" => match schema.get("additionalProperties").filter(|more| more.is_object()) {
                Some(more) => Some(Type::map(Type::String, self.below(more, &format!("{name}.@elem"))?)),
                None => Some(self.object(schema, name, is_root)),
            },
            "string" => Some(match schema["format"].as_str() {
                Some("byte") => Type::Bytes,
                Some("duration") => Type::Duration,
                Some("date" | "date-time") => Type::Timestamp,
                _ => Type::String,
            }),
            "boolean" => Some(Type::Bool),
            "number" => Some(Type::Double),
            "integer" => Some(Type::Int),
            _ => None,
        }
    }

    fn below(&mut self, schema: &'a Value, name: &str) -> Option<Type> {
        self.convert(schema, name, schema["x-kubernetes-embedded-resource"] == true)
    }

    fn object(&mut self, schema: &'a Value, name: &str, is_root: bool) -> Type {
        let mut fields = BTreeMap::new();
        for (field, property) in schema["properties"].as_object().into_iter().flatten() {
            let Some(field) = escape(field) else { continue };
            if let Some(t) = self.below(property, &format!("{name}.{field}")) {
                fields.insert(field, t);
            }
        }
        if is_root {
            self.root(&mut fields, name);
        }
        self.objects.insert(name.to_owned(), fields);
        Type::object(name)
    }

    /// What every object has, also where its schema does not say so.
    fn root(&mut self, fields: &mut BTreeMap<String, Type>, name: &str) {
        let metadata = format!("{name}.metadata");
        let known = self.objects.get(&metadata);
        let has = |field: &str| known.is_some_and(|known| known.get(field) == Some(&Type::String));
        let is_whole = ["kind", "apiVersion"].iter().all(|field| fields.get(*field) == Some(&Type::String));
        if is_whole && has("name") && has("generateName") {
            return;
        }
        for field in ["kind", "apiVersion"] {
            fields.insert(field.to_owned(), Type::String);
        }
        let names = ["name", "generateName"].map(|field| (field.to_owned(), Type::String));
        self.objects.insert(metadata.clone(), BTreeMap::from(names));
        fields.insert("metadata".to_owned(), Type::object(&metadata));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn schemas() {
        let document = json!({"components": {"schemas": {
            "x.Thing": {
                "type": "object",
                "x-kubernetes-group-version-kind": [{"group": "x", "version": "v1", "kind": "Thing"}],
                "properties": {
                    "spec": {"allOf": [{"$ref": "#/components/schemas/x.Spec"}], "default": {}},
                    "labels": {"type": "object", "additionalProperties": {"type": "string"}},
                    "free": {"x-kubernetes-preserve-unknown-fields": true},
                },
            },
            "x.Spec": {
                "type": "object",
                "properties": {
                    "port": {"$ref": "#/components/schemas/x.Port"},
                    "times": {"type": "array", "items": {"type": "string", "format": "date-time"}},
                    "self": {"$ref": "#/components/schemas/x.Spec"},
                },
            },
            "x.Port": {"oneOf": [{"type": "integer"}, {"type": "string"}], "format": "int-or-string"},
        }}});
        let mut objects = Objects::new();
        assert_eq!(of_kind(&document, ["x", "v1", "Other"], "T", &mut objects), None);
        assert_eq!(of_kind(&document, ["x", "v1", "Thing"], "T", &mut objects), Some(Type::object("T")));
        let fields = |name: &str| -> Vec<_> { objects[name].iter().map(|(field, t)| format!("{field}: {t}")).collect() };
        let root = ["apiVersion: string", "kind: string", "labels: map(string, string)", "metadata: T.metadata", "spec: T.spec"];
        assert_eq!(fields("T"), root);
        assert_eq!(fields("T.spec"), ["port: dyn", "self: T.spec.self", "times: list(google.protobuf.Timestamp)"]);
        assert!(fields("T.spec.self").is_empty());
        assert_eq!(fields("T.metadata"), ["generateName: string", "name: string"]);
    }
}
