//! `scale`: how many replicas, for whatever has replicas (<https://kubernetes.io/docs/reference/kubernetes-api/>, autoscaling/v1 Scale).

use std::sync::Arc;

use ::http::{Request, Response, StatusCode};
use apimachinery::selector::LabelSelector;
use apimachinery::{GroupKind, GroupVersionKind, Status, Value, field, value};

use super::apply::option_errors;
use super::body;
use super::change::{Target, check_name};
use super::codecs;
use super::negotiate::{Accepted, Answer, Shape, negotiate};
use super::patch::{PatchType, SentPatch};
use super::read;
use super::respond::{misfit_of, partial_metadata, value_response};
use crate::http::{Body, RequestContext, Verb};
use crate::registry::{Change, Endpoint, NAMESPACE_MISMATCH, ScaleWrite, Stored, Write, WriteOptions, scale_managed};
use crate::server::ApiServer;
use crate::table;

/// Answers get, update and patch.
pub(crate) async fn respond(
    server: &Arc<ApiServer>,
    endpoint: &Arc<Endpoint>,
    stored: &Arc<Stored>,
    context: &RequestContext,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let accepted = negotiate(request.headers(), context, Answer::Object)?;
    if context.info.verb == Verb::Get {
        let entry = read::find(server.engine(), endpoint, stored, context).await?;
        let object = entry.served.object().map_err(Status::internal_error)?;
        return answer(&scale_of(&object), context, accepted);
    }
    let target = super::target(server, endpoint, stored, context);
    let (sent, options) = Sent::read(&target, request).await?;
    if let Sent::Replacement(scale) = &sent {
        let given = scale.meta().namespace();
        if !given.is_empty() && given != context.info.namespace {
            return Err(Status::bad_request(NAMESPACE_MISMATCH));
        }
        check_name(scale, &context.info.name)?;
    }
    // The object itself is written, by its own rules: generation and the rest follow.
    let write = Write { subresource: "", ..target.write };
    let change = ScaleChange { sent, write, options: &options };
    let written = write.update(&context.info.name, &change, &options).await?;
    answer(&scale_of(&written.object), context, accepted)
}

/// A Scale in the shape that the client accepts.
fn answer(scale: &Value, context: &RequestContext, accepted: Accepted) -> Result<Response<Body>, Status> {
    let shaped = match accepted.shape {
        Shape::Object => return Ok(value_response(StatusCode::OK, scale, accepted)),
        Shape::Table(version) => table::scale_table(version, scale, table::Include::parse(context.query.get("includeObject"))?),
        Shape::Metadata(version) => partial_metadata(scale, version),
        Shape::Misfit => return Err(misfit_of("autoscaling", "Scale", false)),
    };
    Ok(value_response(StatusCode::OK, &shaped, accepted))
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

/// What a client sent.
enum Sent {
    Replacement(Value),
    Patch(SentPatch),
    Configuration(Value),
}

impl Sent {
    async fn read(target: &Target<'_>, request: Request<Body>) -> Result<(Sent, WriteOptions), Status> {
        let context = target.write.context;
        if context.info.verb != Verb::Patch {
            let options = WriteOptions::parse(&context.query, "UpdateOptions")?;
            let encoding = body::encoding(request.headers(), context)?;
            let bytes = body::read(request.into_body(), target.body_bytes_max).await?;
            let scale = body::decode(&bytes, encoding, &scale_kind(), options.field_validation, context)?;
            return Ok((Sent::Replacement(scale), options));
        }
        let kind = PatchType::of(request.headers(), context)?;
        let options = WriteOptions::parse_patch(&context.query, option_errors(kind, &context.query))?;
        let bytes = body::read(request.into_body(), target.body_bytes_max).await?;
        let PatchType::Apply(encoding) = kind else {
            return Ok((Sent::Patch(SentPatch::read(kind, &bytes, &scale_kind(), options.field_validation)), options));
        };
        let (configuration, complaints) = codecs::parse(&bytes, encoding, &scale_kind())
            .map_err(|status| Status::bad_request(format!("error decoding YAML: {}", status.message)))?;
        codecs::judge(complaints, options.field_validation, context).map_err(Status::bad_request)?;
        Ok((Sent::Configuration(configuration), options))
    }
}

/// A write of the Scale as one of its object.
struct ScaleChange<'a> {
    sent: Sent,
    write: Write<'a>,
    options: &'a WriteOptions,
}

impl ScaleChange<'_> {
    /// The Scale as the client wants it.
    fn wanted(&self, current: &Value) -> Result<Value, Status> {
        match &self.sent {
            Sent::Patch(patch) => patch.patched(current, &scale_kind(), self.write.context),
            Sent::Replacement(scale) | Sent::Configuration(scale) => Ok(scale.clone()),
        }
    }
}

impl Change for ScaleChange<'_> {
    fn apply(&self, current: Option<&Value>) -> Result<Value, Status> {
        let mut object = current.cloned().unwrap_or_else(Value::object);
        let wanted = |current: &Value| self.wanted(current);
        let change = match &self.sent {
            Sent::Configuration(config) => ScaleWrite::Apply(config),
            _ => ScaleWrite::Update(&wanted),
        };
        let (mut scale, managed_fields) = scale_managed(&self.write, &object, scale_of(&object), &change, self.options)?;
        let name = object.meta().name();
        let replicas = scale.i64_at(&["spec", "replicas"]).unwrap_or(0);
        // As upstream, that of the request where the client says none.
        if scale.meta().namespace().is_empty() {
            scale.set_path(&["metadata", "namespace"], self.write.namespace);
        }
        let mut errors = self.write.metadata_errors(&scale);
        if replicas < 0 {
            let path = field::Path::new("spec").child("replicas");
            errors.push(field::Error::invalid(&path, replicas, "must be greater than or equal to 0"));
        }
        if !errors.is_empty() {
            return Err(Status::invalid(&GroupKind::new("autoscaling", "Scale"), name, &errors));
        }
        let (given, uid) = (scale.meta().uid(), object.meta().uid());
        if !given.is_empty() && given != uid {
            let resource = self.write.endpoint.row.group_resource();
            let why = format!("Precondition failed: UID in precondition: {given}, UID in object meta: {uid}");
            return Err(Status::conflict(&resource, name, why));
        }
        object.set_path(&["spec", "replicas"], replicas);
        let mut meta = object.meta_mut();
        meta.set_resource_version(scale.meta().resource_version());
        meta.set_managed_fields(managed_fields);
        Ok(object)
    }

    fn uid(&self) -> Option<&str> {
        match &self.sent {
            Sent::Replacement(scale) => Some(scale.meta().uid()).filter(|uid| !uid.is_empty()),
            _ => None,
        }
    }

    fn manages_fields(&self) -> bool {
        true
    }

    fn options_kind(&self) -> &'static str {
        match self.sent {
            Sent::Replacement(_) => "UpdateOptions",
            Sent::Patch(..) | Sent::Configuration(_) => "PatchOptions",
        }
    }
}
