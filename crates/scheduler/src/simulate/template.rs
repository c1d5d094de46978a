//! Pods from what a user writes: Pods themselves, or workloads with a template of them; and what the API server would fill in.

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use serde_json::{Value, json};

/// Why there are no pods.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// A kind that has no pods.
    #[error("{kind} {name:?} is neither a Pod nor a workload with a template of pods")]
    Kind {
        /// The kind.
        kind: String,
        /// The object.
        name: String,
    },
    /// The pod is not one.
    #[error("the pods of {kind} {name:?} cannot be read: {reason}")]
    Decode {
        /// The kind.
        kind: String,
        /// The object.
        name: String,
        /// What is wrong.
        reason: String,
    },
}

/// The pods of an object: of a workload as many as it asks for, called `NAME-0`, `NAME-1`, ...
pub fn pods_of(object: &Value) -> Result<Vec<Pod>, TemplateError> {
    let kind = object["kind"].as_str().unwrap_or_default();
    let name = object["metadata"]["name"].as_str().or(object["metadata"]["generateName"].as_str()).unwrap_or_default();
    if kind.ends_with("List") {
        let items = object["items"].as_array().map(Vec::as_slice).unwrap_or_default();
        return items.iter().map(pods_of).collect::<Result<Vec<_>, _>>().map(|pods| pods.concat());
    }
    let spec = &object["spec"];
    let count = |field: &str| spec[field].as_u64().unwrap_or(1);
    let (template, copies) = match kind {
        "Pod" => (object.clone(), None),
        "Deployment" | "ReplicaSet" | "StatefulSet" | "ReplicationController" => {
            (spec["template"].clone(), Some(count("replicas")))
        }
        "Job" => (spec["template"].clone(), Some(count("parallelism"))),
        "CronJob" => {
            let job = &spec["jobTemplate"]["spec"];
            (job["template"].clone(), Some(job["parallelism"].as_u64().unwrap_or(1)))
        }
        _ => return Err(TemplateError::Kind { kind: kind.to_owned(), name: name.to_owned() }),
    };
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or("default");
    let one = |number: Option<u64>| {
        let mut pod = template.clone();
        if !pod["metadata"].is_object() {
            pod["metadata"] = json!({});
        }
        pod["metadata"]["name"] = number.map_or_else(|| json!(name), |number| json!(format!("{name}-{number}")));
        pod["metadata"]["namespace"] = json!(namespace);
        let decoded = serde_json::from_str(&pod.to_string());
        decoded.map_err(|error| TemplateError::Decode { kind: kind.to_owned(), name: name.to_owned(), reason: error.to_string() })
    };
    match copies {
        None => one(None).map(|pod| vec![pod]),
        Some(copies) => (0..copies).map(|number| one(Some(number))).collect(),
    }
}

/// The defaults that scheduling depends on.
pub(super) fn set_defaults(spec: &mut PodSpec) {
    spec.scheduler_name.get_or_insert_with(|| "default-scheduler".to_owned());
    let host_network = spec.host_network == Some(true);
    let containers = spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten());
    containers.for_each(|container| set_container_defaults(container, host_network));
}

fn set_container_defaults(container: &mut Container, host_network: bool) {
    for port in container.ports.iter_mut().flatten() {
        port.protocol.get_or_insert_with(|| "TCP".to_owned());
        if host_network && port.host_port.is_none_or(|port| port == 0) {
            port.host_port = Some(port.container_port);
        }
    }
    // What is limited, and not asked for, is asked for up to its limit.
    if let Some(resources) = &mut container.resources
        && let Some(limits) = resources.limits.clone()
    {
        let requests = resources.requests.get_or_insert_default();
        for (name, limit) in limits {
            requests.entry(name).or_insert(limit);
        }
    }
}
