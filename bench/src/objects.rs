//! The objects that workloads create, and the requests on them.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context;
use apimachinery::{GroupVersionKind, Value, protobuf, schema};
use bytes::Bytes;
use hyper::Method;
use serde_json::json;

use crate::connection::Call;
use crate::workload::{Content, Object, Phase, Verb};

/// The namespace of everything that is created.
pub(crate) const NAMESPACE: &str = "bench";
/// Nodes that pods are spread over; they do not exist.
pub(crate) const NODES: usize = 100;
/// What an informer asks for at its start.
const WATCH_LIST: &str = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
/// The annotation by which watchers know when an update was sent.
pub(crate) const STAMP: &str = "bench-stamp";

/// The API group of custom resources.
const GROUP: &str = "bench.example.com";

/// The collection of the kind, in the benchmark's namespace where it has namespaces.
pub(crate) fn collection(object: Object) -> String {
    match object {
        Object::Configmap1k => format!("/api/v1/namespaces/{NAMESPACE}/configmaps"),
        Object::Pod5k => format!("/api/v1/namespaces/{NAMESPACE}/pods"),
        Object::Definition => "/apis/apiextensions.k8s.io/v1/customresourcedefinitions".to_owned(),
    }
}

/// The path of a phase's list or watch.
pub(crate) fn collection_path(phase: &Phase, more: &str) -> String {
    let mut path = collection(phase.object);
    for (index, part) in [phase.query.as_str(), more].into_iter().filter(|part| !part.is_empty()).enumerate() {
        // Writing to a string cannot fail.
        let _ = write!(path, "{}{part}", if index == 0 { '?' } else { '&' });
    }
    path
}

/// The object with a number, as JSON.
fn object(phase: &Phase, index: usize) -> serde_json::Value {
    let metadata = json!({"name": format!("{}-{index}", phase.pool), "namespace": NAMESPACE, "labels": {"pool": phase.pool}});
    match phase.object {
        Object::Configmap1k => {
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"data": "0123456789abcdef".repeat(64)}})
        }
        Object::Pod5k => pod(metadata, index),
        Object::Definition => definition(&phase.pool, index),
    }
}

/// A custom resource as operators define them: a specification, and a status of its own.
fn definition(pool: &str, index: usize) -> serde_json::Value {
    let fields: serde_json::Map<_, _> = (0..20)
        .map(|n| (format!("field{n}"), json!({"type": "string", "description": "What the field means.", "maxLength": 253})))
        .collect();
    let object = json!({"type": "object", "properties": fields});
    let plural = format!("{pool}-{index}");
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.{GROUP}"), "labels": {"pool": pool}},
        "spec": {
            "group": GROUP, "scope": "Namespaced",
            "names": {"plural": plural, "singular": format!("{plural}-one"), "kind": format!("Kind{index}"), "listKind": format!("Kind{index}List")},
            "versions": [{
                "name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": object, "status": object}}},
            }],
        },
    })
}

/// What a pod of a Deployment with two containers, probes and the usual environment looks like.
fn pod(mut metadata: serde_json::Value, index: usize) -> serde_json::Value {
    metadata["annotations"] = json!({"example.com/description": "x".repeat(2200)});
    let container = |name: &str| {
        let environment: Vec<_> = (0..12)
            .map(|n| json!({"name": format!("SETTING_{n}"), "value": format!("value of setting {n} of {name}")}))
            .collect();
        json!({
            "name": name, "image": "registry.example.com/team/application:v1.2.3", "env": environment,
            "ports": [{"containerPort": 8080, "name": format!("{name}-http")}],
            "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}},
            "readinessProbe": {"httpGet": {"path": "/ready", "port": 8080}, "periodSeconds": 5},
            "livenessProbe": {"httpGet": {"path": "/live", "port": 8080}, "initialDelaySeconds": 10},
            "volumeMounts": [{"name": "configuration", "mountPath": "/etc/application"}],
        })
    };
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": metadata,
        "spec": {
            "nodeName": format!("node-{}", index % NODES), "serviceAccountName": "default", "automountServiceAccountToken": false,
            "containers": [container("main"), container("helper")],
            "volumes": [{"name": "configuration", "configMap": {"name": "settings"}}],
        },
    })
}

/// The body of an object in an encoding.
fn encode(object: &serde_json::Value, content: Content) -> anyhow::Result<Bytes> {
    let json = serde_json::to_vec(object)?;
    Ok(Bytes::from(match content {
        Content::Json => json,
        Content::Protobuf => {
            let value = Value::from_slice(&json)?;
            let gvk = GroupVersionKind { group: String::new(), version: "v1".to_owned(), kind: value.kind().to_owned() };
            protobuf::encode(&value, schema::lookup(&gvk).context("a built-in kind")?)
        }
    }))
}

/// Never twice the same text: a write that changes nothing is not stored.
fn next() -> String {
    static SEQUENCE: AtomicU64 = AtomicU64::new(0);
    SEQUENCE.fetch_add(1, Ordering::Relaxed).to_string()
}

/// The path of an object of a phase's pool.
fn one_path(phase: &Phase, index: usize) -> String {
    let suffix = if phase.object == Object::Definition { format!(".{GROUP}") } else { String::new() };
    format!("{}/{}-{index}{suffix}", collection(phase.object), phase.pool)
}

/// The write that watchers see: `stamp` says when it was sent.
pub(crate) fn stamped(phase: &Phase, index: usize, stamp: u128) -> Call {
    let patch = json!({"metadata": {"annotations": {STAMP: stamp.to_string()}}});
    let body = Some(("application/merge-patch+json", Bytes::from(patch.to_string())));
    let path = one_path(phase, index);
    Call { method: Method::PATCH, path, body, accept: phase.content.media_type(), gzip: false }
}

/// The request on the object number `index` of a phase.
pub(crate) fn call(phase: &Phase, index: usize) -> anyhow::Result<Call> {
    let one = || one_path(phase, index);
    let whole = || Ok::<_, anyhow::Error>(Some((phase.content.media_type(), encode(&object(phase, index), phase.content)?)));
    let (method, path, body) = match phase.verb {
        Verb::Create => (Method::POST, collection(phase.object), whole()?),
        Verb::Get => (Method::GET, one(), None),
        Verb::Update => {
            let mut object = object(phase, index);
            object["metadata"]["labels"]["round"] = next().into();
            (Method::PUT, one(), Some((phase.content.media_type(), encode(&object, phase.content)?)))
        }
        Verb::Patch => {
            let patch = json!({"metadata": {"labels": {"round": next()}}});
            (Method::PATCH, one(), Some(("application/strategic-merge-patch+json", Bytes::from(patch.to_string()))))
        }
        Verb::Status => {
            let patch = json!({"status": {"phase": "Running", "podIP": "10.1.2.3", "hostIP": "10.0.0.1",
                "message": next(),
                "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
            let path = format!("{}/status", one());
            (Method::PATCH, path, Some(("application/merge-patch+json", Bytes::from(patch.to_string()))))
        }
        Verb::Delete => {
            let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0});
            (Method::DELETE, one(), Some(("application/json", Bytes::from(options.to_string()))))
        }
        Verb::List => (Method::GET, collection_path(phase, ""), None),
        Verb::Watchlist => (Method::GET, collection_path(phase, WATCH_LIST), None),
        Verb::Watch => return Ok(stamped(phase, index, 0)),
    };
    Ok(Call { method, path, body, accept: phase.content.media_type(), gzip: phase.gzip })
}

/// The request that creates the benchmark's namespace.
pub(crate) fn create_namespace() -> Call {
    let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
    json_call(Method::POST, "/api/v1/namespaces", Some(body))
}

/// The request that creates what pods run as: there is no controller that would do it.
pub(crate) fn create_service_account() -> Call {
    let body = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    json_call(Method::POST, &format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts"), Some(body))
}

/// A request in JSON.
pub(crate) fn json_call(method: Method, path: &str, body: Option<serde_json::Value>) -> Call {
    let body = body.map(|body| ("application/json", Bytes::from(body.to_string())));
    Call { method, path: path.to_owned(), body, accept: "application/json", gzip: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn phase(verb: Verb, object: Object, content: Content) -> Phase {
        Phase {
            name: "p".into(),
            verb,
            object,
            pool: "pool".into(),
            connections: 1,
            requests: 1,
            objects: None,
            query: "limit=5".into(),
            content,
            gzip: false,
            watchers: 0,
            by_node: false,
            pace: None,
            setup: false,
            goal: None,
        }
    }

    #[test]
    fn sizes_are_as_named() {
        let size =
            |object| encode(&super::object(&phase(Verb::Create, object, Content::Json), 7), Content::Json).expect("valid").len();
        assert!((1024..1300).contains(&size(Object::Configmap1k)), "{}", size(Object::Configmap1k));
        assert!((4500..5500).contains(&size(Object::Pod5k)), "{}", size(Object::Pod5k));
    }

    #[test]
    fn protobuf_bodies_are_read_back() {
        let phase = phase(Verb::Create, Object::Pod5k, Content::Protobuf);
        let (media_type, body) = call(&phase, 3).expect("valid").body.expect("a body");
        assert_eq!(media_type, "application/vnd.kubernetes.protobuf");
        let gvk = GroupVersionKind { group: String::new(), version: "v1".into(), kind: "Pod".into() };
        let pod = protobuf::decode(&body, &gvk).expect("our own encoding");
        assert_eq!(pod.str_at(&["metadata", "name"]), Some("pool-3"));
    }

    #[test]
    fn queries_are_joined() {
        let path = collection_path(&phase(Verb::List, Object::Configmap1k, Content::Json), "watch=1");
        assert_eq!(path, "/api/v1/namespaces/bench/configmaps?limit=5&watch=1");
    }
}
