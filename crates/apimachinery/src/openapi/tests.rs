//! Documents against themselves and against upstream's published ones.

use super::*;
use crate::decode::{Format, parse};

fn options() -> Options<'static> {
    Options {
        describe: &|_, _| None,
        enums: false,
        media_types: &["application/json", "application/yaml"],
        stream_media_types: &["application/json;stream=watch"],
        patch_types: &[
            "application/apply-patch+yaml",
            "application/json-patch+json",
            "application/merge-patch+json",
            "application/strategic-merge-patch+json",
        ],
        version: "unversioned",
    }
}

#[test]
fn documents_are_valid_and_complete() {
    for group in schema::groups() {
        for version in &group.versions {
            let json = document(group.name, version, &options()).expect("a group version of the table");
            let document = Value::from_slice(&json).expect("valid JSON");
            let schemas = document["components"]["schemas"].as_object().expect("schemas");
            for reference in json_references(&document) {
                let name = reference.strip_prefix("#/components/schemas/").expect("a reference to a schema");
                assert!(schemas.contains_key(name), "{}/{version}: {name} is missing", group.name);
            }
        }
    }
    assert!(document("nope", "v1", &options()).is_none());
}

fn json_references(value: &Value) -> Vec<&str> {
    match value {
        Value::Object(map) => map
            .iter()
            .flat_map(|(key, v)| if *key == "$ref" { v.as_str().into_iter().collect() } else { json_references(v) })
            .collect(),
        Value::Array(items) => items.iter().flat_map(json_references).collect(),
        _ => Vec::new(),
    }
}

#[test]
fn enumerations_and_descriptions_are_shown() {
    let describe =
        |info: &TypeInfo, field: Option<&str>| (info.name == "core.v1.Container").then(|| field.unwrap_or("the type").to_owned());
    let json = document("", "v1", &Options { enums: true, describe: &describe, ..options() }).expect("core");
    let document = Value::from_slice(&json).expect("valid JSON");
    let container = &document["components"]["schemas"]["io.k8s.api.core.v1.Container"];
    assert_eq!(container["description"], "the type");
    assert_eq!(
        container["properties"]["imagePullPolicy"],
        value!({"type": "string", "description": "imagePullPolicy", "enum": ["Always", "IfNotPresent", "Never"]})
    );
    assert_eq!(
        container["properties"]["securityContext"],
        value!({"allOf": [{"$ref": "#/components/schemas/io.k8s.api.core.v1.SecurityContext"}], "description": "securityContext"})
    );
}

#[test]
fn the_index_names_every_group_version() {
    let index = index();
    let url = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().expect("a URL");
    assert!(url.starts_with("/openapi/v3/apis/apps/v1?hash="), "{url}");
    assert!(index["paths"].get("api/v1").is_some());
}

/// Upstream's published documents, without prose and without the media types that we do not serve, are ours.
#[test]
fn documents_equal_upstreams() {
    let home = std::env::var("HOME").unwrap_or_default();
    let directory = std::path::Path::new(&home).join("go/pkg/mod/k8s.io/kubernetes@v1.35.4/api/openapi-spec/v3");
    if !directory.is_dir() {
        let _ =
            std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("SKIPPED: {} is not there\n", directory.display()));
        return;
    }
    let mut differences = Vec::new();
    for group in schema::groups() {
        for version in &group.versions {
            let file = format!("{}_openapi.json", document_path(group.name, version).replace('/', "__"));
            let text = std::fs::read(directory.join(&file)).expect("one document for each group version");
            let upstream = simplified(&parse(&text, Format::Json).expect("valid JSON").0);
            let ours =
                simplified(&Value::from_slice(&document(group.name, version, &options()).expect("known")).expect("valid JSON"));
            compare(&upstream, &ours, &file, &mut differences);
        }
    }
    assert!(
        differences.is_empty(),
        "{} differences:\n{}",
        differences.len(),
        differences.iter().take(60).cloned().collect::<Vec<_>>().join("\n")
    );
}

fn simplified(value: &Value) -> Value {
    match value {
        Value::Array(items) => items.iter().map(simplified).collect(),
        Value::Object(map) => {
            let unserved = |key: &str| key.contains("cbor") || key.contains("protobuf");
            let prose = |key: &str, v: &Value| (key == "description" && v.as_str().is_some()) || key == "securitySchemes";
            let kept: crate::Map =
                map.iter().filter(|(k, v)| !unserved(k) && !prose(k, v)).map(|(k, v)| (k, simplified(v))).collect();
            match (kept.len(), kept.get("allOf").and_then(Value::as_array)) {
                (1, Some([only])) => only.clone(),
                _ => Value::from(kept),
            }
        }
        other => other.clone(),
    }
}

fn compare(upstream: &Value, ours: &Value, path: &str, differences: &mut Vec<String>) {
    match (upstream, ours) {
        (Value::Object(a), Value::Object(b)) => {
            let keys: std::collections::BTreeSet<&str> = a.keys().chain(b.keys()).map(|k| k.as_str()).collect();
            for key in keys {
                match (a.get(key), b.get(key)) {
                    (Some(x), Some(y)) => compare(x, y, &format!("{path} {key}"), differences),
                    (Some(_), None) => differences.push(format!("{path}: {key} is missing")),
                    _ => differences.push(format!("{path}: {key} is extra")),
                }
            }
        }
        // What is required is a set.
        (Value::Array(a), Value::Array(b))
            if path.ends_with(" required") && a.len() == b.len() && a.iter().all(|x| b.contains(x)) => {}
        _ if upstream != ours => differences.push(format!("{path}: upstream {upstream} ours {ours}")),
        _ => {}
    }
}
