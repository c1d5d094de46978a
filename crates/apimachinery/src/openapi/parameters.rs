//! Query and path parameters of operations.

use crate::{Value, value};

fn query(name: &str, schema_type: &str) -> Value {
    value!({"in": "query", "name": name, "schema": {"type": schema_type, "uniqueItems": true}})
}

/// A parameter in the path.
pub(super) fn path(name: &str) -> Value {
    value!({"in": "path", "name": name, "required": true, "schema": {"type": "string", "uniqueItems": true}})
}

/// `?pretty=`
pub(super) fn pretty() -> Value {
    query("pretty", "string")
}

fn queries(list: &[(&str, &str)]) -> Vec<Value> {
    list.iter().map(|(name, schema_type)| query(name, schema_type)).collect()
}

/// What lists and watches take.
pub(super) fn list() -> Vec<Value> {
    queries(&[
        ("allowWatchBookmarks", "boolean"),
        ("continue", "string"),
        ("fieldSelector", "string"),
        ("labelSelector", "string"),
        ("limit", "integer"),
        ("resourceVersion", "string"),
        ("resourceVersionMatch", "string"),
        ("sendInitialEvents", "boolean"),
        ("timeoutSeconds", "integer"),
        ("watch", "boolean"),
    ])
}

/// What creations and updates take.
pub(super) fn write() -> Vec<Value> {
    queries(&[("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string")])
}

/// What patches take.
pub(super) fn patch() -> Vec<Value> {
    let mut all = write();
    all.push(query("force", "boolean"));
    all
}

/// What deletions take.
pub(super) fn delete() -> Vec<Value> {
    queries(&[
        ("dryRun", "string"),
        ("gracePeriodSeconds", "integer"),
        ("ignoreStoreReadErrorWithClusterBreakingPotential", "boolean"),
        ("orphanDependents", "boolean"),
        ("propagationPolicy", "string"),
    ])
}

/// What deletions of collections take.
pub(super) fn delete_collection() -> Vec<Value> {
    let only_reading = ["allowWatchBookmarks", "watch"];
    let mut all = delete();
    all.extend(list().into_iter().filter(|p| !only_reading.iter().any(|name| p["name"] == *name)));
    sorted(all)
}

/// What a subresource that connects takes, by the kind of its options.
pub(super) fn connect(options_kind: &str) -> Vec<Value> {
    let streams = [("stderr", "boolean"), ("stdin", "boolean"), ("stdout", "boolean"), ("tty", "boolean")];
    let mut all = match options_kind {
        "PodExecOptions" => queries(&[("command", "string"), ("container", "string")]),
        "PodAttachOptions" => queries(&[("container", "string")]),
        "PodPortForwardOptions" => queries(&[("ports", "integer")]),
        _ => queries(&[("path", "string")]),
    };
    if matches!(options_kind, "PodExecOptions" | "PodAttachOptions") {
        all.extend(queries(&streams));
    }
    all
}

/// What a pod's log takes.
pub(super) fn log() -> Vec<Value> {
    queries(&[
        ("container", "string"),
        ("follow", "boolean"),
        ("insecureSkipTLSVerifyBackend", "boolean"),
        ("limitBytes", "integer"),
        ("previous", "boolean"),
        ("sinceSeconds", "integer"),
        ("stream", "string"),
        ("tailLines", "integer"),
        ("timestamps", "boolean"),
    ])
}

/// In upstream's order: by name, then by place.
pub(super) fn sorted(mut parameters: Vec<Value>) -> Vec<Value> {
    parameters.sort_by(|a, b| {
        let key =
            |p: &Value| (p["name"].as_str().unwrap_or_default().to_owned(), p["in"].as_str().unwrap_or_default().to_owned());
        key(a).cmp(&key(b))
    });
    parameters
}
