//! Version 2 of the documents ("Swagger"): what version 3 says, in its predecessor's form. One document for everything; parameters that
//! operations share are defined once.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{Options, Paths, bearer_token, gnostic, info, parameters, paths_of, roots, schemas, write_members};
use crate::{Map, Value, value};

/// Media types in the order that version 2 lists them; others follow.
const ORDER: [&str; 9] = [
    "text/plain",
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
    "application/json;stream=watch",
    "application/vnd.kubernetes.protobuf;stream=watch",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];

const METHODS: [&str; 7] = ["get", "put", "post", "delete", "options", "head", "patch"];

/// The document as JSON.
pub fn document_v2(options: &Options<'_>) -> Vec<u8> {
    let parts = Parts::new(options);
    let mut out = Vec::with_capacity(4 << 20);
    out.push(b'{');
    let definitions = parts.types().map(|info| (schemas::openapi_name(info), definition(info, options)));
    write_members("definitions", definitions, &mut out);
    out.extend_from_slice(b",\"info\":");
    info(options).write_to(&mut out);
    out.push(b',');
    write_members("parameters", parts.parameters(), &mut out);
    out.push(b',');
    write_members("paths", parts.paths.iter().map(|(path, item)| (path.clone(), parts.item(item))), &mut out);
    out.extend_from_slice(b",\"security\":[{\"BearerToken\":[]}],\"securityDefinitions\":");
    value!({"BearerToken": (bearer_token())}).write_to(&mut out);
    out.extend_from_slice(b",\"swagger\":\"2.0\"}");
    out
}

/// The document in the protobuf form of the gnostic project, as upstream makes it from JSON.
pub fn document_v2_protobuf(options: &Options<'_>) -> Vec<u8> {
    let parts = Parts::new(options);
    let mut out = Vec::with_capacity(2 << 20);
    gnostic::begin(&info(options), &mut out);
    gnostic::paths(parts.paths.iter().map(|(path, item)| (path.as_str(), parts.item(item))), &mut out);
    let definitions = parts.types().map(|info| (schemas::openapi_name(info), definition(info, options)));
    gnostic::definitions(definitions, &mut out);
    gnostic::parameters(parts.parameters(), &mut out);
    gnostic::end("BearerToken", &bearer_token(), &mut out);
    out
}

/// What the document is made from.
struct Parts {
    /// Paths as version 3 has them.
    paths: Paths,
    used: BTreeSet<String>,
    /// Shared parameters by their text, with the names of their definitions.
    shared: HashMap<String, &'static str>,
}

impl Parts {
    fn new(options: &Options<'_>) -> Parts {
        let (mut paths, mut used) = (BTreeMap::new(), BTreeSet::new());
        for document in super::document_paths(options) {
            if let Some((more, types)) = paths_of(&document, options) {
                paths.extend(more);
                used.extend(types);
            }
        }
        let mut shared: HashMap<String, &'static str> =
            parameters::shared(options).into_iter().map(|(name, value)| (parameter(&value).to_json(), name)).collect();
        for (name, body) in bodies() {
            shared.insert(body.to_json(), name);
        }
        let mut parts = Parts { paths, used, shared };
        let referred = parts.referred();
        parts.shared.retain(|_, name| referred.contains(&*name));
        parts
    }

    /// The shared parameters that some path has.
    fn referred(&self) -> BTreeSet<&'static str> {
        let mut found = BTreeSet::new();
        for item in self.paths.values() {
            let lists = METHODS.iter().map(|method| &item[*method]).chain([item]);
            for list in lists {
                let own = list["parameters"].as_array().unwrap_or_default().iter().map(parameter);
                let all = own.chain(body(list));
                found.extend(all.filter_map(|parameter| self.shared.get(&parameter.to_json()).copied()));
            }
        }
        found
    }

    fn types(&self) -> impl Iterator<Item = &'static crate::schema::TypeInfo> {
        schemas::reachable(&self.used).into_iter()
    }

    /// The definitions of shared parameters, by name.
    fn parameters(&self) -> BTreeMap<String, Value> {
        let parse = |text: &String| Value::from_slice(text.as_bytes()).unwrap_or_default();
        self.shared.iter().map(|(text, name)| ((*name).to_owned(), parse(text))).collect()
    }

    fn referring(&self, parameter: Value) -> Value {
        match self.shared.get(&parameter.to_json()) {
            Some(name) => value!({"$ref": (format!("#/parameters/{name}"))}),
            None => parameter,
        }
    }

    /// A path's operations.
    fn item(&self, item: &Value) -> Value {
        let mut out = Value::object();
        for method in METHODS {
            if let Some(operation) = item.get(method) {
                out.insert(method, self.operation(operation));
            }
        }
        let shared: Vec<Value> = self.list(item, None);
        if !shared.is_empty() {
            out.insert("parameters", shared);
        }
        out
    }

    /// The parameters of a path or operation, the body first.
    fn list(&self, of: &Value, body: Option<Value>) -> Vec<Value> {
        let own = of["parameters"].as_array().unwrap_or_default().iter().map(parameter);
        body.into_iter().chain(own).map(|parameter| self.referring(parameter)).collect()
    }

    fn operation(&self, operation: &Value) -> Value {
        let mut out = Value::object();
        for key in ["description", "operationId", "tags", "x-kubernetes-action", "x-kubernetes-group-version-kind"] {
            if let Some(member) = operation.get(key) {
                out.insert(key, member.clone());
            }
        }
        let produces = media_types(&operation["responses"]["200"]["content"]);
        let kubernetes = operation.get("x-kubernetes-action").is_some();
        match (kubernetes, operation["x-kubernetes-action"] == "patch") {
            (_, true) => drop(out.insert("consumes", media_types(&operation["requestBody"]["content"]))),
            (true, false) => drop(out.insert("consumes", vec!["*/*"])),
            (false, false) if roots::consumes(operation) => drop(out.insert("consumes", produces.clone())),
            (false, false) => {}
        }
        out.insert("produces", produces);
        out.insert("schemes", vec!["https"]);
        let parameters = self.list(operation, body(operation));
        if !parameters.is_empty() {
            out.insert("parameters", parameters);
        }
        let answers = operation["responses"].as_object();
        let answers = answers.into_iter().flatten().map(|(code, answer)| (code.clone(), response(answer)));
        out.insert("responses", Value::from(answers.collect::<Map>()));
        out
    }
}

fn response(answer: &Value) -> Value {
    let mut out = value!({"description": (answer["description"].clone())});
    if let Some((_, content)) = answer["content"].as_object().and_then(|content| content.iter().next()) {
        out.insert("schema", schema(&content["schema"]));
    }
    out
}

/// An operation's body as a parameter.
fn body(operation: &Value) -> Option<Value> {
    let body = operation.get("requestBody")?;
    let (_, content) = body["content"].as_object()?.iter().next()?;
    let mut out = value!({"in": "body", "name": "body", "schema": (schema(&content["schema"]))});
    if body["required"].as_bool() == Some(true) {
        out.insert("required", true);
    }
    Some(out)
}

/// The bodies that do not depend on a kind, with the names of their definitions.
fn bodies() -> [(&'static str, Value); 2] {
    let of = |name: &str, required: bool| {
        let reference = format!("#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.{name}");
        let content = value!({"*/*": {"schema": {"$ref": reference}}});
        body(&value!({"requestBody": {"content": content, "required": required}})).unwrap_or_default()
    };
    [("body-2Y1dVQaQ", of("DeleteOptions", false)), ("body-78PwaGsr", of("Patch", true))]
}

fn media_types(content: &Value) -> Vec<String> {
    let mut found: Vec<String> = content.as_object().into_iter().flatten().map(|(name, _)| name.to_string()).collect();
    found.sort_by_key(|name| ORDER.iter().position(|known| known == name).unwrap_or(ORDER.len()));
    found
}

/// A query or path parameter: its type stands in it, not in a schema.
fn parameter(v3: &Value) -> Value {
    let mut out = v3.clone();
    if let Some(schema) = out.remove("schema") {
        for (key, member) in schema.as_object().into_iter().flatten() {
            out.insert(key.clone(), member.clone());
        }
    }
    out
}

fn definition(info: &'static crate::schema::TypeInfo, options: &Options<'_>) -> Value {
    schema(&schemas::of_type(info, options))
}

/// A schema: references may have siblings, there are no alternatives, and defaults are left out.
fn schema(v3: &Value) -> Value {
    let Some(members) = v3.as_object() else { return v3.clone() };
    let mut out = Value::object();
    for (key, member) in members {
        match key.as_str() {
            "default" => {}
            "$ref" => {
                let name = member.as_str().unwrap_or_default().trim_start_matches("#/components/schemas/");
                out.insert("$ref", format!("#/definitions/{name}"));
            }
            "allOf" => {
                let inner = schema(&member[0]);
                for (key, member) in inner.as_object().into_iter().flatten() {
                    out.insert(key.clone(), member.clone());
                }
            }
            "oneOf" => drop(out.insert("type", "string")),
            "items" | "additionalProperties" => drop(out.insert(key.clone(), schema(member))),
            "properties" => {
                let properties = member.as_object().into_iter().flatten().map(|(name, of)| (name.clone(), schema(of)));
                out.insert("properties", Value::from(properties.collect::<Map>()));
            }
            _ => drop(out.insert(key.clone(), member.clone())),
        }
    }
    out
}
