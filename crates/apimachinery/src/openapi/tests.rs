//! Documents against themselves. (Against upstream's published ones: `cargo xtask vectors`.)

use super::*;

fn options() -> Options<'static> {
    Options {
        describe: &|_, _| None,
        serves: &|_| true,
        enums: false,
        media_types: &["application/json", "application/yaml"],
        stream_media_types: &["application/json;stream=watch"],
        patch_types: &["application/json-patch+json", "application/merge-patch+json", "application/apply-patch+yaml"],
        version: "unversioned",
    }
}

fn parsed(path: &str) -> Value {
    let json = document(path, &options()).unwrap_or_else(|| panic!("{path} is a document"));
    Value::from_slice(&json).expect("valid JSON")
}

#[test]
fn documents_are_valid_and_complete() {
    for path in document_paths(&options()) {
        let document = parsed(&path);
        for reference in references(&document) {
            let name = reference.strip_prefix("#/components/schemas/").expect("a reference to a schema");
            assert!(document["components"]["schemas"].get(name).is_some(), "{path}: {name} is missing");
        }
    }
    for path in ["apis/nope/v1", "apis/nope", "nope", ""] {
        assert!(document(path, &options()).is_none(), "{path}");
    }
}

#[test]
fn the_second_version_refers_to_what_it_defines() {
    let document = Value::from_slice(&document_v2(&options())).expect("valid JSON");
    let mut seen = BTreeSet::new();
    for reference in references(&document) {
        let path: Vec<&str> = reference.trim_start_matches("#/").split('/').collect();
        assert!(document.get_path(&path).is_some(), "{reference} is missing");
        seen.insert(reference);
    }
    let parameters = document["parameters"].as_object().expect("parameters");
    for name in parameters.keys() {
        assert!(seen.contains(format!("#/parameters/{name}").as_str()), "nothing has {name}");
    }
    let put = &document["paths"]["/api/v1/namespaces/{namespace}/pods/{name}"]["put"];
    assert_eq!(put["parameters"][0]["schema"], value!({"$ref": "#/definitions/io.k8s.api.core.v1.Pod"}));
    assert_eq!(
        (put["consumes"].clone(), put["produces"].clone()),
        (value!(["*/*"]), value!(["application/json", "application/yaml"]))
    );
    assert!(document.to_json().len() > 1_000_000);
}

#[test]
fn the_protobuf_form_is_a_message() {
    let bytes = document_v2_protobuf(&options());
    let mut reader = crate::protobuf::wire::Reader::new(&bytes);
    let mut numbers = Vec::new();
    while let Some((number, _)) = reader.field().expect("fields") {
        numbers.push(number);
    }
    assert_eq!(numbers, [1, 2, 8, 9, 10, 12, 13]);
}

#[test]
fn what_is_not_served_is_not_described() {
    let stable = Options { serves: &|resource| resource.version == "v1" && resource.group != "batch", ..options() };
    let paths = document_paths(&stable);
    assert!(paths.contains(&"apis/apps/v1".to_owned()) && paths.contains(&"apis/apps".to_owned()));
    assert!(paths.iter().all(|path| !path.contains("batch") && !path.contains("alpha")), "{paths:?}");
    assert!(document("apis/batch/v1", &stable).is_none() && document("apis/batch", &stable).is_none());
}

fn references(value: &Value) -> Vec<&str> {
    match value {
        Value::Object(map) => map
            .iter()
            .flat_map(|(key, v)| if *key == "$ref" { v.as_str().into_iter().collect() } else { references(v) })
            .collect(),
        Value::Array(items) => items.iter().flat_map(references).collect(),
        _ => Vec::new(),
    }
}

#[test]
fn enumerations_and_descriptions_are_shown() {
    let describe =
        |info: &TypeInfo, field: Option<&str>| (info.name == "core.v1.Container").then(|| field.unwrap_or("the type").to_owned());
    let json = document("api/v1", &Options { enums: true, describe: &describe, ..options() }).expect("core");
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
fn the_index_names_every_document() {
    let index = index(&options(), "ABC");
    assert_eq!(index["paths"]["apis/apps/v1"]["serverRelativeURL"], "/openapi/v3/apis/apps/v1?hash=ABC");
    for path in ["api", "apis", "api/v1", "apis/apps", "version"] {
        assert!(index["paths"].get(path).is_some(), "{path}");
    }
}

#[test]
fn operations_are_described_as_upstream_does() {
    let pods = parsed("api/v1");
    let text = |path: &str, method: &str| pods["paths"][path][method]["description"].as_str().unwrap_or_default().to_owned();
    assert_eq!(text("/api/v1/namespaces/{namespace}/pods", "post"), "create a Pod");
    assert_eq!(text("/api/v1/namespaces/{namespace}/endpoints", "post"), "create Endpoints");
    assert_eq!(text("/api/v1/namespaces/{namespace}/events/{name}", "delete"), "delete an Event");
    assert_eq!(text("/api/v1/namespaces/{namespace}/pods/{name}/binding", "post"), "create binding of a Pod");
}
