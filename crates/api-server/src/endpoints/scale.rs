//! `scale`: how many replicas, for whatever has replicas (<https://kubernetes.io/docs/reference/kubernetes-api/>, autoscaling/v1 Scale).

use std::sync::Arc;

use ::http::{Request, Response, StatusCode};
use apimachinery::selector::LabelSelector;
use apimachinery::{GroupKind, GroupVersionKind, Status, Value, field, value};

use super::body;
use super::negotiate::{Answer, negotiate};
use super::patch::{PatchType, apply_patch};
use super::read;
use super::respond::value_response;
use crate::http::{Body, RequestContext, Verb};
use crate::registry::{Change, Endpoint, Stored, WriteOptions};
use crate::server::ApiServer;

/// Answers get, update and patch.
pub(crate) async fn respond(
    server: &Arc<ApiServer>,
    endpoint: &Arc<Endpoint>,
    stored: &Arc<Stored>,
    context: &RequestContext,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let accepted = negotiate(request.headers(), &context.query, Answer::Fixed)?;
    if context.info.verb == Verb::Get {
        let entry = read::find(server.engine(), endpoint, stored, context).await?;
        let object = entry.served.object().map_err(Status::internal_error)?;
        return Ok(value_response(StatusCode::OK, &scale_of(&object), accepted));
    }
    let target = super::target(server, endpoint, stored, context);
    let name = &context.info.name;
    let change = match context.info.verb {
        Verb::Patch => {
            let kind = PatchType::of(request.headers())?;
            let bytes = body::read(request.into_body(), target.body_bytes_max).await?;
            let patch =
                Value::from_slice(&bytes).map_err(|error| Status::bad_request(format!("error decoding patch: {error}")))?;
            ScaleChange::Patch(kind, patch)
        }
        _ => ScaleChange::Replace(super::read_object(server, &scale_kind(), context, request).await?),
    };
    let options_kind = change.options_kind();
    let options = WriteOptions::parse(&context.query, options_kind)?;
    // The object itself is written, by its own rules: generation and the rest follow.
    let write = crate::registry::Write { subresource: "", ..target.write };
    let written = write.update(name, &change, &options).await?;
    Ok(value_response(StatusCode::OK, &scale_of(&written.object), accepted))
}

fn scale_kind() -> GroupVersionKind {
    GroupVersionKind::new("autoscaling", "v1", "Scale")
}

/// An object's Scale.
fn scale_of(object: &Value) -> Value {
    let meta = object.meta();
    let mut scale = value!({"kind": "Scale", "apiVersion": "autoscaling/v1"});
    let mut metadata = Value::object();
    for member in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = meta.get(member) {
            metadata.insert(member, value.clone());
        }
    }
    scale.insert("metadata", metadata);
    let replicas = object.i64_at(&["spec", "replicas"]).unwrap_or(0);
    scale.insert("spec", if replicas == 0 { Value::object() } else { value!({"replicas": replicas}) });
    let mut status = value!({"replicas": object.i64_at(&["status", "replicas"]).unwrap_or(0)});
    let selector = match object.get_path(&["spec", "selector"]) {
        // ReplicationControllers have a plain map.
        Some(map) if map.get("matchLabels").is_none() && map.get("matchExpressions").is_none() => {
            let pairs = map.as_object().into_iter().flatten().filter_map(|(key, value)| Some((key.as_str(), value.as_str()?)));
            Some(LabelSelector::from_labels(pairs).to_string())
        }
        Some(selector) => LabelSelector::from_value(selector).ok().map(|selector| selector.to_string()),
        None => None,
    };
    if let Some(selector) = selector.filter(|selector| !selector.is_empty()) {
        status.insert("selector", selector);
    }
    scale.insert("status", status);
    scale
}

enum ScaleChange {
    Replace(Value),
    Patch(PatchType, Value),
}

impl Change for ScaleChange {
    fn apply(&self, current: Option<&Value>) -> Result<Value, Status> {
        let current = current.cloned().unwrap_or_else(Value::object);
        let scale = match self {
            ScaleChange::Replace(scale) => scale.clone(),
            ScaleChange::Patch(kind, patch) => apply_patch(*kind, &scale_of(&current), patch, &scale_kind())?,
        };
        let replicas = scale.i64_at(&["spec", "replicas"]).unwrap_or(0);
        if replicas < 0 {
            let path = field::Path::new("spec").child("replicas");
            let error = field::Error::invalid(&path, replicas, "must be greater than or equal to 0");
            return Err(Status::invalid(&GroupKind::new("autoscaling", "Scale"), current.meta().name(), &[error]));
        }
        let mut object = current;
        object.set_path(&["spec", "replicas"], replicas);
        let version = scale.meta().resource_version();
        object.meta_mut().set_resource_version(version);
        Ok(object)
    }

    fn managed_subresource(&self) -> Option<&'static str> {
        Some("scale")
    }

    fn options_kind(&self) -> &'static str {
        match self {
            ScaleChange::Replace(_) => "UpdateOptions",
            ScaleChange::Patch(..) => "PatchOptions",
        }
    }
}
