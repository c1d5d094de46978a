//! An in-memory API server: get, list, watch, create, replace, patch, delete of JSON objects, as much as the kubelet asks for.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::StreamExt;
use http::{Method, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use serde_json::{Value, json};
use tokio::sync::broadcast;

type Key = (String, String, String);
type Body = UnsyncBoxBody<Bytes, Infallible>;

#[derive(Default)]
struct State {
    objects: BTreeMap<Key, Value>,
    revision: u64,
}

/// The server; clones share everything.
#[derive(Clone)]
pub(crate) struct Api {
    state: Arc<Mutex<State>>,
    events: broadcast::Sender<(Key, &'static str, Value)>,
}

struct Target {
    key: Key,
    subresource: String,
}

fn parse(path: &str) -> Target {
    let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).collect();
    let rest = if parts[0] == "api" { &parts[2..] } else { &parts[3..] };
    let (namespace, rest) = if rest[0] == "namespaces" && rest.len() > 2 { (rest[1], &rest[2..]) } else { ("", rest) };
    let part = |index: usize| rest.get(index).map_or("", |p| *p).to_owned();
    Target { key: (part(0), namespace.to_owned(), part(1)), subresource: part(2) }
}

fn answer(code: u16, value: &Value) -> Response<Body> {
    let body = Full::new(Bytes::from(value.to_string())).boxed_unsync();
    Response::builder().status(code).header("content-type", "application/json").body(body).unwrap()
}

fn failure(code: u16, reason: &str) -> Response<Body> {
    answer(
        code,
        &json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "message": reason, "code": code}),
    )
}

fn merge(target: &mut Value, patch: &Value, key: &str) {
    match (target, patch) {
        (Value::Object(target), Value::Object(patch)) => {
            for (name, value) in patch {
                if value.is_null() {
                    target.remove(name);
                } else {
                    merge(target.entry(name.clone()).or_insert(Value::Null), value, name);
                }
            }
        }
        (Value::Array(target), Value::Array(patch)) if key == "conditions" => {
            for item in patch {
                match target.iter_mut().find(|known| known["type"] == item["type"]) {
                    Some(known) => merge(known, item, ""),
                    None => target.push(item.clone()),
                }
            }
        }
        (target, Value::Array(patch)) => {
            *target = Value::Array(patch.iter().filter(|i| i.get("$patch").is_none()).cloned().collect())
        }
        (target, patch) if patch.is_object() => {
            *target = json!({});
            merge(target, patch, key);
        }
        (target, patch) => *target = patch.clone(),
    }
}

fn selected(key: &Key, object: &Value, target: &Key, selector: &str) -> bool {
    let (name, value) = selector.split_once('=').unwrap_or(("", ""));
    let matches = match name {
        "metadata.name" => key.2 == value,
        "spec.nodeName" => object["spec"]["nodeName"] == value,
        _ => true,
    };
    key.0 == target.0 && (target.1.is_empty() || key.1 == target.1) && matches
}

impl Api {
    pub(crate) fn new() -> Self {
        Self { state: Arc::default(), events: broadcast::channel(1000).0 }
    }

    /// A client of this server.
    pub(crate) fn client(&self) -> kube::Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let api = api.clone();
            async move { Ok::<_, Infallible>(api.handle(request).await) }
        });
        client::from_service(service, "default")
    }

    fn put(&self, key: &Key, mut object: Value, event: &'static str) -> Value {
        let mut state = self.state.lock().unwrap();
        state.revision += 1;
        object["metadata"]["resourceVersion"] = json!(state.revision.to_string());
        object["metadata"]["name"] = json!(key.2);
        if !key.1.is_empty() {
            object["metadata"]["namespace"] = json!(key.1);
        }
        if object["metadata"]["uid"].is_null() {
            object["metadata"]["uid"] = json!(format!("uid-{}", state.revision));
        }
        match event {
            "DELETED" => state.objects.remove(key),
            _ => state.objects.insert(key.clone(), object.clone()),
        };
        let _nobody_watches = self.events.send((key.clone(), event, object.clone()));
        object
    }

    /// Creates or replaces an object.
    pub(crate) fn apply(&self, resource: &str, object: Value) -> Value {
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or("").to_owned();
        let key = (resource.to_owned(), text("namespace"), text("name"));
        let known = self.state.lock().unwrap().objects.contains_key(&key);
        self.put(&key, object, if known { "MODIFIED" } else { "ADDED" })
    }

    pub(crate) fn get(&self, resource: &str, namespace: &str, name: &str) -> Option<Value> {
        self.state.lock().unwrap().objects.get(&(resource.to_owned(), namespace.to_owned(), name.to_owned())).cloned()
    }

    pub(crate) fn list(&self, resource: &str) -> Vec<Value> {
        self.state.lock().unwrap().objects.iter().filter(|(key, _)| key.0 == resource).map(|(_, object)| object.clone()).collect()
    }

    /// Asks for a pod's deletion as `kubectl delete` does.
    pub(crate) fn delete_pod(&self, namespace: &str, name: &str, grace: i64) {
        let mut pod = self.get("pods", namespace, name).unwrap();
        pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        pod["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
        self.put(&("pods".to_owned(), namespace.to_owned(), name.to_owned()), pod, "MODIFIED");
    }

    async fn handle(&self, request: Request<kube::client::Body>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let target = parse(parts.uri.path());
        let query = parts.uri.query().unwrap_or("").replace("%3D", "=");
        let selector = query.split('&').find_map(|p| p.strip_prefix("fieldSelector=")).unwrap_or("").to_owned();
        let body: Value = serde_json::from_slice(&body.collect().await.unwrap().to_bytes()).unwrap_or(Value::Null);
        let existing = self.get(&target.key.0, &target.key.1, &target.key.2);
        match parts.method {
            Method::GET if query.contains("watch=") => self.watch(target.key, selector),
            Method::GET if target.key.2.is_empty() => self.list_response(&target.key, &selector),
            Method::GET => existing.map_or_else(|| failure(404, "NotFound"), |object| answer(200, &object)),
            Method::POST if target.subresource == "token" => answer(
                201,
                &json!({"metadata": {}, "spec": {"audiences": []}, "status": {"token": "a-token", "expirationTimestamp": "2099-01-01T00:00:00Z"}}),
            ),
            Method::POST => {
                let mut key = target.key;
                key.2 = body["metadata"]["name"].as_str().unwrap_or("").to_owned();
                if self.get(&key.0, &key.1, &key.2).is_some() {
                    return failure(409, "AlreadyExists");
                }
                answer(201, &self.put(&key, body, "ADDED"))
            }
            Method::PUT => answer(200, &self.put(&target.key, body, "MODIFIED")),
            Method::PATCH => match existing {
                None => failure(404, "NotFound"),
                Some(mut object) => {
                    merge(&mut object, &body, "");
                    answer(200, &self.put(&target.key, object, "MODIFIED"))
                }
            },
            Method::DELETE => match existing {
                None => failure(404, "NotFound"),
                Some(object) => answer(200, &self.put(&target.key, object, "DELETED")),
            },
            _ => failure(405, "MethodNotAllowed"),
        }
    }

    fn list_response(&self, target: &Key, selector: &str) -> Response<Body> {
        let state = self.state.lock().unwrap();
        let items: Vec<Value> = state
            .objects
            .iter()
            .filter(|(key, object)| selected(key, object, target, selector))
            .map(|(_, object)| object.clone())
            .collect();
        answer(
            200,
            &json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": state.revision.to_string()}, "items": items}),
        )
    }

    /// Sends what is there, then what happens: a client that listed a moment ago misses nothing.
    fn watch(&self, target: Key, selector: String) -> Response<Body> {
        let state = self.state.lock().unwrap();
        let receiver = self.events.subscribe();
        let current: Vec<_> = state.objects.iter().map(|(key, object)| (key.clone(), "MODIFIED", object.clone())).collect();
        drop(state);
        let later =
            futures::stream::unfold(
                receiver,
                |mut receiver| async move { receiver.recv().await.ok().map(|event| (event, receiver)) },
            );
        let frames = futures::stream::iter(current).chain(later).filter_map(move |(key, event, object)| {
            let wanted = selected(&key, &object, &target, &selector);
            std::future::ready(wanted.then(|| {
                Ok::<_, Infallible>(Frame::data(Bytes::from(json!({"type": event, "object": object}).to_string() + "\n")))
            }))
        });
        Response::builder()
            .status(200)
            .header("content-type", "application/json")
            .body(StreamBody::new(frames).boxed_unsync())
            .unwrap()
    }
}
