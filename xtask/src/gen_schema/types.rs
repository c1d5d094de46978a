//! Type facts: what Go's struct tags say about a field (JSON name, omitempty, protobuf number, pointer or not) joined with
//! what the OpenAPI documents say (required, defaults, list and map types, merge keys).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::go::{Definition, Field, Sources};

/// Prefixes of OpenAPI names, with the prefix of ours and the Go package that it stands for.
const NAME_PREFIXES: [(&str, &str, &str); 7] = [
    ("io.k8s.api.", "", "k8s.io/api/"),
    ("io.k8s.apimachinery.pkg.apis.meta.", "meta.", "k8s.io/apimachinery/pkg/apis/meta/"),
    ("io.k8s.apimachinery.pkg.api.resource.", "resource.", "k8s.io/apimachinery/pkg/api/resource"),
    ("io.k8s.apimachinery.pkg.util.intstr.", "intstr.", "k8s.io/apimachinery/pkg/util/intstr"),
    ("io.k8s.apimachinery.pkg.", "", "k8s.io/apimachinery/pkg/"),
    ("io.k8s.apiextensions-apiserver.pkg.apis.", "", "k8s.io/apiextensions-apiserver/pkg/apis/"),
    ("io.k8s.kube-aggregator.pkg.apis.", "", "k8s.io/kube-aggregator/pkg/apis/"),
];

/// Types whose JSON form is not that of a struct.
const SPECIAL: [(&str, &str); 13] = [
    ("resource.Quantity", "quantity"),
    ("intstr.IntOrString", "int-or-string"),
    ("meta.v1.Time", "time"),
    ("meta.v1.MicroTime", "micro-time"),
    ("meta.v1.Duration", "duration"),
    ("meta.v1.FieldsV1", "fields"),
    ("meta.v1.Patch", "any-object"),
    ("runtime.RawExtension", "raw"),
    ("apiextensions.v1.JSON", "any"),
    ("apiextensions.v1.JSONSchemaPropsOrBool", "schema-or-bool"),
    ("apiextensions.v1.JSONSchemaPropsOrArray", "schema-or-array"),
    ("apiextensions.v1.JSONSchemaPropsOrStringArray", "schema-or-strings"),
    ("version.Info", "no-source"),
];

fn short_name(openapi: &str) -> Result<(String, String, String)> {
    for (prefix, ours, package) in NAME_PREFIXES {
        let Some(rest) = openapi.strip_prefix(prefix) else { continue };
        let Some((path, type_name)) = rest.rsplit_once('.').or(Some(("", rest))) else { continue };
        let package = if path.is_empty() {
            package.trim_end_matches('/').to_owned()
        } else {
            format!("{package}{}", path.replace('.', "/"))
        };
        return Ok((format!("{ours}{rest}"), package, type_name.to_owned()));
    }
    bail!("no name rule for the OpenAPI type {openapi}")
}

fn name_of(package: &str, type_name: &str) -> Option<String> {
    NAME_PREFIXES.iter().find_map(|(_, ours, prefix)| {
        let rest = package.strip_prefix(prefix)?;
        let dotted = rest.trim_start_matches('/').replace('/', ".");
        Some(if dotted.is_empty() { format!("{ours}{type_name}") } else { format!("{ours}{dotted}.{type_name}") })
    })
}

/// Everything about types, ready to be printed.
pub(super) struct Types<'a> {
    sources: &'a mut Sources,
    schemas: &'a BTreeMap<String, Value>,
    /// Names of ours to OpenAPI names.
    known: BTreeMap<String, String>,
    enums: BTreeMap<String, Vec<String>>,
}

/// A field's type in our notation, and what it is made of.
struct Expression {
    text: String,
    pointer: bool,
}

impl<'a> Types<'a> {
    /// For all types of the OpenAPI documents.
    pub(super) fn new(sources: &'a mut Sources, schemas: &'a BTreeMap<String, Value>) -> Result<Types<'a>> {
        let mut known = BTreeMap::new();
        for openapi in schemas.keys() {
            known.insert(short_name(openapi)?.0, openapi.clone());
        }
        Ok(Types { sources, schemas, known, enums: BTreeMap::new() })
    }

    /// Prints the type section: the published types, then those of unserved kinds.
    pub(super) fn print(&mut self, unserved: Vec<(String, Value)>, out: &mut String) -> Result<()> {
        let known = self.known.clone();
        let mut body = String::new();
        // A type that is only ever inlined has no schema of its own: that of the type around it describes its fields.
        let mut hidden = BTreeMap::new();
        for (name, openapi) in &known {
            let schema = &self.schemas[openapi];
            let inlined = self.print_type(name, schema, false, &mut body).with_context(|| format!("type {name}"))?;
            hidden.extend(inlined.into_iter().map(|inlined| (inlined, schema)));
        }
        for (name, schema) in &hidden {
            self.print_type(name, schema, true, &mut body).with_context(|| format!("type {name}"))?;
        }
        let printed = known.into_keys().chain(hidden.into_keys()).collect();
        self.print_unserved(unserved, printed, &mut body)?;
        for (name, values) in self.enums.iter().filter(|(_, values)| !values.is_empty()) {
            writeln!(out, "E {name} {}", values.join(","))?;
        }
        out.push_str(&body);
        Ok(())
    }

    /// Prints the types of kinds that are not published, and all that these are made of.
    fn print_unserved(&mut self, kinds: Vec<(String, Value)>, mut printed: BTreeSet<String>, out: &mut String) -> Result<()> {
        let mut pending: BTreeMap<String, Value> = kinds.into_iter().collect();
        while let Some((name, schema)) = pending.pop_first() {
            if !printed.insert(name.clone()) {
                continue;
            }
            let start = out.len();
            let inlined = self.print_type(&name, &schema, false, out).with_context(|| format!("type {name}"))?;
            let fields = out[start..].lines().skip(1).filter_map(|line| Some(line.split(' ').nth(1)?.split_once('@')?.1));
            for part in inlined.iter().map(String::as_str).chain(fields) {
                pending.entry(part.to_owned()).or_insert(Value::Null);
            }
        }
        Ok(())
    }

    fn print_type(&mut self, name: &str, schema: &Value, hidden: bool, out: &mut String) -> Result<Vec<String>> {
        write!(out, "T {name}")?;
        if hidden {
            out.push_str(" hidden\n");
            return self.print_fields(name, schema, out);
        }
        let special = SPECIAL.iter().find(|(n, _)| *n == name).map(|(_, kind)| *kind);
        if let Some(kind) = special.filter(|k| *k != "no-source") {
            write!(out, " ={kind}")?;
        }
        if let Some(map_type) = schema["x-kubernetes-map-type"].as_str() {
            write!(out, " M={map_type}")?;
        }
        if let Some(unions) = schema.get("x-kubernetes-unions") {
            write!(out, " U={unions}")?;
        }
        out.push('\n');
        for gvk in schema["x-kubernetes-group-version-kind"].as_array().into_iter().flatten() {
            let text = |key: &str| gvk[key].as_str().unwrap_or_default();
            writeln!(out, "g {}/{}/{}", text("group"), text("version"), text("kind"))?;
        }
        match special {
            Some("no-source") => self.print_openapi_only(schema, out).map(|()| Vec::new()),
            Some(_) => Ok(Vec::new()),
            None => self.print_fields(name, schema, out),
        }
    }

    /// A type that we have no Go source rule for: all its fields are strings. Those that are required come first, in Go's order, which
    /// the list of them keeps.
    fn print_openapi_only(&mut self, schema: &Value, out: &mut String) -> Result<()> {
        let properties = schema["properties"].as_object().context("no properties")?;
        let required: Vec<&str> = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let others = properties.keys().map(String::as_str).filter(|name| !required.contains(name));
        for name in required.iter().copied().chain(others) {
            if properties.get(name).is_none_or(|property| property["type"] != "string") {
                bail!("field {name} is not a string");
            }
            let required = required.contains(&name);
            writeln!(out, "{name} s -{}{}", if required { "" } else { " o" }, if required { " r" } else { "" })?;
        }
        Ok(())
    }

    /// The fields of a struct, or of the struct that a type is another name of, with that one's package and imports.
    fn struct_fields(&mut self, package: &str, type_name: &str) -> Result<(String, Vec<Field>, BTreeMap<String, String>)> {
        let types = &self.sources.package(package)?.types;
        let (definition, imports) = types.get(type_name).cloned().context("not found in the Go sources")?;
        match definition {
            Definition::Struct(fields) => Ok((package.to_owned(), fields, imports)),
            Definition::Named(target) => match target.split_once('.') {
                Some((alias, target)) => {
                    let package = imports.get(alias).with_context(|| format!("unknown import {alias}"))?;
                    self.struct_fields(&package.clone(), target)
                }
                None => self.struct_fields(package, &target),
            },
        }
    }

    fn print_fields(&mut self, name: &str, schema: &Value, out: &mut String) -> Result<Vec<String>> {
        let (package, type_name) = self.go_name(name)?;
        let (package, fields, imports) = self.struct_fields(&package, &type_name)?;
        let none = serde_json::Map::new();
        let properties = schema["properties"].as_object().unwrap_or(&none);
        let required = required(schema);
        let mut extra = Vec::new();
        for field in &fields {
            if field.json.iter().any(|o| o == "inline") || (field.json[0].is_empty() && field.protobuf.is_empty()) {
                if field.go_type.ends_with("TypeMeta") {
                    out.push_str("< TypeMeta\n");
                    continue;
                }
                let target = self.resolve(&field.go_type, &package, &imports)?.text;
                let target = target.trim_start_matches('@');
                writeln!(out, "< {target} {}", number(field))?;
                if !self.known.contains_key(target) {
                    extra.push(target.to_owned());
                }
                continue;
            }
            let expression = self.resolve(&field.go_type, &package, &imports)?;
            self.print_field(field, &expression, properties.get(&field.json[0]), &required, out)?;
        }
        Ok(extra)
    }

    fn print_field(
        &mut self,
        field: &Field,
        expression: &Expression,
        property: Option<&Value>,
        required: &BTreeSet<&str>,
        out: &mut String,
    ) -> Result<()> {
        let name = &field.json[0];
        write!(out, "{name} {} {}", expression.text, number(field))?;
        let option = |o: &str| field.json.iter().skip(1).any(|x| x == o);
        if option("omitempty") {
            out.push_str(" o");
        }
        if option("omitzero") {
            out.push_str(" z");
        }
        if required.contains(name.as_str()) {
            out.push_str(" r");
        }
        let Some(property) = property else {
            // Not published: nothing more is known.
            out.push('\n');
            return Ok(());
        };
        let predicted = predicted_default(&expression.text, expression.pointer, option("omitempty"));
        match (property.get("default"), predicted) {
            (Some(default), predicted) if predicted.as_ref() != Some(default) => write!(out, " d={default}")?,
            (None, Some(_)) => out.push_str(" d!"),
            _ => {}
        }
        let text = |key: &str| property.get(key).and_then(Value::as_str);
        if let Some(list_type) = text("x-kubernetes-list-type") {
            write!(out, " L={list_type}")?;
        }
        if let Some(keys) = property["x-kubernetes-list-map-keys"].as_array() {
            let keys: Vec<&str> = keys.iter().filter_map(Value::as_str).collect();
            write!(out, ":{}", keys.join(","))?;
        }
        for (key, letter) in
            [("x-kubernetes-map-type", 'M'), ("x-kubernetes-patch-strategy", 'P'), ("x-kubernetes-patch-merge-key", 'K')]
        {
            if let Some(value) = text(key) {
                write!(out, " {letter}={value}")?;
            }
        }
        out.push('\n');
        Ok(())
    }

    fn go_name(&self, name: &str) -> Result<(String, String)> {
        if let Some(openapi) = self.known.get(name) {
            let (_, package, type_name) = short_name(openapi)?;
            return Ok((package, type_name));
        }
        let (path, type_name) = name.rsplit_once('.').context("no package in the name")?;
        let package = match path.strip_prefix("meta.") {
            Some(version) => format!("k8s.io/apimachinery/pkg/apis/meta/{version}"),
            None => format!("k8s.io/api/{}", path.replace('.', "/")),
        };
        Ok((package, type_name.to_owned()))
    }

    /// Translates a Go type: `*` pointer, `[` list, `{` map, `@NAME` struct, letters for scalars, `:NAME` for named scalars.
    fn resolve(&mut self, go_type: &str, package: &str, imports: &BTreeMap<String, String>) -> Result<Expression> {
        if let Some(inner) = go_type.strip_prefix('*') {
            let inner = self.resolve(inner, package, imports)?;
            return Ok(Expression { text: format!("*{}", inner.text), pointer: true });
        }
        let plain = |text: &str| Ok(Expression { text: text.to_owned(), pointer: false });
        if go_type == "[]byte" || go_type == "[]uint8" {
            return plain("y");
        }
        if let Some(inner) = go_type.strip_prefix("[]") {
            let inner = self.resolve(inner, package, imports)?;
            return plain(&format!("[{}", inner.text));
        }
        if let Some(inner) = go_type.strip_prefix("map[").and_then(|t| t.split_once(']')) {
            let inner = self.resolve(inner.1, package, imports)?;
            return plain(&format!("{{{}", inner.text));
        }
        match go_type {
            "string" => return plain("s"),
            "bool" => return plain("b"),
            "int32" | "int" | "uint16" => return plain("i"),
            "int64" => return plain("l"),
            "float64" => return plain("d"),
            _ => {}
        }
        let (package, type_name) = match go_type.split_once('.') {
            Some((alias, type_name)) => {
                (imports.get(alias).with_context(|| format!("unknown import {alias}"))?.clone(), type_name)
            }
            None => (package.to_owned(), go_type),
        };
        let name = name_of(&package, type_name).with_context(|| format!("no name rule for {package}.{type_name}"))?;
        if SPECIAL.iter().any(|(n, _)| *n == name) {
            return plain(&format!("@{name}"));
        }
        let loaded = self.sources.package(&package)?;
        let values = loaded.enum_values(type_name);
        let (definition, imports) =
            loaded.types.get(type_name).cloned().with_context(|| format!("{package}.{type_name} not found"))?;
        match definition {
            Definition::Struct(_) => plain(&format!("@{name}")),
            Definition::Named(target) => {
                let inner = self.resolve(&target, &package, &imports)?;
                if let Some(values) = values {
                    self.enums.insert(name.clone(), values);
                }
                if inner.text.starts_with('@') {
                    return if self.known.contains_key(&name) { plain(&format!("@{name}")) } else { Ok(inner) };
                }
                // A name of a name keeps the outer one, as Go's messages do.
                let base = inner.text.split(':').next().unwrap_or_default().to_owned();
                let text = if matches!(inner.text.as_bytes()[0], b'[' | b'{') { inner.text } else { format!("{base}:{name}") };
                Ok(Expression { text, pointer: false })
            }
        }
    }
}

fn required(schema: &Value) -> BTreeSet<&str> {
    schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// The protobuf number; `-` when the field has none.
fn number(field: &Field) -> &str {
    field.protobuf.get(1).map_or("-", String::as_str)
}

/// The default that kube-openapi publishes for a field without one of its own: Go's zero value.
fn predicted_default(expression: &str, pointer: bool, omitempty: bool) -> Option<Value> {
    if pointer {
        return None;
    }
    match expression.as_bytes()[0] {
        b'@' if !SPECIAL.iter().any(|(name, _)| expression[1..] == **name) => Some(Value::Object(serde_json::Map::new())),
        b's' if !omitempty => Some(Value::from("")),
        b'b' if !omitempty => Some(Value::from(false)),
        b'i' | b'l' | b'd' if !omitempty => Some(Value::from(0)),
        _ => None,
    }
}
