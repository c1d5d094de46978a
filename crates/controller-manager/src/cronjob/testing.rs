//! Objects for the tests of this module.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use serde_json::{Value, json};

pub(super) fn at(time: &str) -> Timestamp {
    time.parse().expect("is a time")
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            from.into_iter().for_each(|(key, value)| merge(into.entry(key).or_insert(Value::Null), value));
        }
        (into, from) => *into = from,
    }
}

/// An hourly CronJob with these fields.
pub(super) fn cron_job(fields: Value) -> CronJob {
    let mut value = json!({
        "metadata": {"name": "cron", "namespace": "ns", "uid": "cron-uid", "creationTimestamp": "2024-01-01T09:30:00Z"},
        "spec": {"schedule": "0 * * * *", "concurrencyPolicy": "Allow", "jobTemplate": {"spec": {"template": {}}}},
    });
    merge(&mut value, fields);
    serde_json::from_value(value).expect("is a cron job")
}

/// A Job of it; `end` is the condition that ended it, or empty.
pub(super) fn job(name: &str, end: &str, completed: Option<&str>) -> Arc<Job> {
    let conditions = if end.is_empty() { json!([]) } else { json!([{"type": end, "status": "True"}]) };
    let value = json!({
        "metadata": {"name": name, "namespace": "ns", "uid": format!("uid-{name}"), "ownerReferences": [
            {"apiVersion": "batch/v1", "kind": "CronJob", "name": "cron", "uid": "cron-uid", "controller": true}]},
        "spec": {"template": {}},
        "status": {"conditions": conditions, "completionTime": completed, "startTime": completed},
    });
    Arc::new(serde_json::from_value(value).expect("is a job"))
}

/// An entry of the list of active Jobs.
pub(super) fn reference(name: &str) -> Value {
    json!({"kind": "Job", "apiVersion": "batch/v1", "namespace": "ns", "name": name, "uid": format!("uid-{name}")})
}
