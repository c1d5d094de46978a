//! Objects for the tests of this module.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::spec::TRACKING_FINALIZER;

pub(super) fn at(time: &str) -> Timestamp {
    time.parse().expect("is a time")
}

pub(super) fn now() -> Timestamp {
    at("2024-01-01T12:00:00Z")
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            from.into_iter().for_each(|(key, value)| merge(into.entry(key).or_insert(Value::Null), value));
        }
        (into, from) => *into = from,
    }
}

/// A Job with these fields of the spec.
pub(super) fn job(spec: Value) -> Job {
    job_with(json!({"spec": spec}))
}

/// A Job with these fields.
pub(super) fn job_with(fields: Value) -> Job {
    let mut value = json!({
        "metadata": {"name": "job", "namespace": "ns", "uid": "job-uid", "resourceVersion": "1"},
        "spec": {"parallelism": 2, "completions": 4, "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c"}]}},
            "selector": {"matchLabels": {"job": "job"}}},
    });
    merge(&mut value, fields);
    serde_json::from_value(value).expect("is a job")
}

/// A pod of the Job that is still to be counted.
pub(super) fn pod(name: &str, phase: &str, fields: Value) -> Arc<Pod> {
    let mut value = json!({
        "metadata": {
            "name": name, "namespace": "ns", "uid": format!("uid-{name}"), "finalizers": [TRACKING_FINALIZER], "labels": {"job": "job"},
            "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": "job", "uid": "job-uid", "controller": true}],
        },
        "status": {"phase": phase},
    });
    merge(&mut value, fields);
    Arc::new(serde_json::from_value(value).expect("is a pod"))
}

/// A pod of an index.
pub(super) fn indexed(name: &str, index: i32, phase: &str) -> Arc<Pod> {
    pod(name, phase, json!({"metadata": {"annotations": {"batch.kubernetes.io/job-completion-index": index.to_string()}}}))
}
