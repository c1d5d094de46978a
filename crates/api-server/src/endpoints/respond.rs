//! Making responses.

use apimachinery::{GroupVersionKind, Reason, Status, Value, cbor, protobuf, schema, value};
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};

use super::negotiate::{Accepted, Format, Shape};
use crate::http::Body;
use crate::registry::{Endpoint, convert};
use crate::table;

/// The media type of JSON.
pub(crate) const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// The media type of YAML.
const YAML: HeaderValue = HeaderValue::from_static("application/yaml");
/// The media type of protobuf.
const PROTOBUF: HeaderValue = HeaderValue::from_static("application/vnd.kubernetes.protobuf");
/// The media type of CBOR.
const CBOR: HeaderValue = HeaderValue::from_static(cbor::MEDIA_TYPE);
const NO_CACHE: HeaderValue = HeaderValue::from_static("no-cache, private");

/// A failure as its `Status` object, in JSON.
pub(crate) fn status_response(status: &Status) -> Response<Body> {
    let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json_response(code, status.to_value().to_vec());
    if let Some(seconds) = status.details.as_ref().map(|details| details.retry_after_seconds).filter(|seconds| *seconds > 0) {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// A failure in the form that the client accepts; JSON for one that accepts nothing of ours.
pub(crate) fn negotiated_status(status: &Status, accepted: Option<Accepted>) -> Response<Body> {
    let mut response = status_response(status);
    if let Some(accepted) = accepted {
        let (media_type, body) = encode(&status.to_value(), accepted);
        response.headers_mut().insert(CONTENT_TYPE, media_type);
        *response.body_mut() = Body::full(body);
    }
    response
}

/// What a creation that leaves no object answers.
pub(super) fn created() -> Value {
    value!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201})
}

/// A response with JSON that is encoded already.
pub(crate) fn json_response(code: StatusCode, json: impl Into<Bytes>) -> Response<Body> {
    response(code, JSON, Body::full(json))
}

/// A response with protobuf in its envelope.
pub(crate) fn protobuf_response(code: StatusCode, body: Body) -> Response<Body> {
    response(code, PROTOBUF, body)
}

fn response(code: StatusCode, media_type: HeaderValue, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, media_type);
    response.headers_mut().insert(CACHE_CONTROL, NO_CACHE);
    response
}

/// A response with a tree that has no other shapes.
pub(crate) fn value_response(code: StatusCode, value: &Value, accepted: Accepted) -> Response<Body> {
    let (media_type, body) = encode(value, accepted);
    response(code, media_type, Body::full(body))
}

/// A tree in the form that the client accepts, with its media type: JSON for what protobuf cannot write.
fn encode(value: &Value, accepted: Accepted) -> (HeaderValue, Bytes) {
    if accepted.format == Format::Yaml {
        return (YAML, apimachinery::yaml::to_yaml(value).into());
    }
    if accepted.format == Format::Cbor {
        return (CBOR, cbor::encode(value).into());
    }
    if accepted.format == Format::Protobuf
        && let Some(sealed) = sealed(value)
    {
        return (PROTOBUF, sealed);
    }
    if accepted.pretty {
        return (JSON, pretty(value).into());
    }
    let mut json = value.to_vec();
    json.push(b'\n');
    (JSON, json.into())
}

/// An object as protobuf in its envelope; `None` if its kind has no schema.
pub(crate) fn sealed(object: &Value) -> Option<Bytes> {
    let (api_version, kind) = (object.api_version(), object.kind());
    let message = match kind {
        "PartialObjectMetadata" => protobuf::partial_metadata_message(object),
        // Types of the API machinery, which every group has.
        _ => protobuf::encode_message(
            object,
            object.gvk().and_then(|gvk| schema::lookup(&gvk)).or_else(|| schema::type_named(&format!("meta.v1.{kind}")))?,
        ),
    };
    Some(protobuf::seal(api_version, kind, &message).into())
}

fn pretty(value: &Value) -> Vec<u8> {
    let mut json = serde_json::to_vec_pretty(value).unwrap_or_else(|_| value.to_vec());
    json.push(b'\n');
    json
}

/// Upstream's answer to a client that wants metadata of a list and asks for an object, or the other way round.
pub(crate) fn misfit(endpoint: &Endpoint, list: bool) -> Status {
    let kind = &endpoint.row.kind;
    let package = match kind.group.as_str() {
        "" | "events.k8s.io" => "core",
        group => group.split('.').next().unwrap_or_default(),
    };
    misfit_of(package, &kind.kind, list)
}

/// As [`misfit`]; package and name are those of upstream's internal type.
pub(crate) fn misfit_of(package: &str, kind: &str, list: bool) -> Status {
    Status::new(
        Reason::NotAcceptable,
        match list {
            true => {
                format!("you requested PartialObjectMetadata, but the requested object is a list (*{package}.{kind}List)")
            }
            false => {
                format!("you requested PartialObjectMetadataList, but the requested object is not a list (*{package}.{kind})")
            }
        },
    )
}

/// One object in the shape that the client accepts. `object` is in the storage version.
pub(crate) fn object_response(code: StatusCode, object: Value, endpoint: &Endpoint, accepted: Accepted) -> Response<Body> {
    if accepted.shape == Shape::Misfit {
        return status_response(&misfit(endpoint, false));
    }
    let object = in_version(object, endpoint);
    value_response(code, &shape(object, endpoint, accepted.shape), accepted)
}

/// An object in the version that the endpoint serves.
pub(crate) fn in_version(object: Value, endpoint: &Endpoint) -> Value {
    if endpoint.converts() { convert(object, &endpoint.row.kind) } else { object }
}

/// An object (in the served version) in another shape.
pub(crate) fn shape(object: Value, endpoint: &Endpoint, shape: Shape) -> Value {
    match shape {
        Shape::Object | Shape::Misfit => object,
        Shape::Metadata(version) => partial_metadata(&object, version),
        Shape::Table(version) => {
            let metadata = table_metadata(&object);
            table::table(&endpoint.row, version, metadata, &[object], table::Include::Metadata, true)
        }
    }
}

/// The metadata of a Table of one object; one that is not stored has no version.
pub(crate) fn table_metadata(object: &Value) -> Value {
    match object.meta().resource_version() {
        "" => Value::object(),
        version => apimachinery::value!({"resourceVersion": version}),
    }
}

/// Annotations that only stand for fields which a version does not have: upstream's metadata does not come by way of that version.
fn without_conversions(kind: &str, metadata: &mut Value) {
    const AUTOSCALER: &str = "autoscaling.alpha.kubernetes.io/";
    let made_up = |name: &str| match kind {
        "DaemonSet" => name == "deprecated.daemonset.template.generation",
        "HorizontalPodAutoscaler" => name.starts_with(AUTOSCALER),
        _ => false,
    };
    if !matches!(kind, "DaemonSet" | "HorizontalPodAutoscaler") {
        return;
    }
    let Some(annotations) = metadata.get_mut("annotations") else { return };
    let names: Vec<String> = annotations
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, _)| name.as_str().to_owned())
        .filter(|name| made_up(name))
        .collect();
    names.iter().for_each(|name| drop(annotations.remove(name)));
    if annotations.is_empty() {
        metadata.remove("annotations");
    }
}

/// Only an object's metadata.
pub(crate) fn partial_metadata(object: &Value, version: &str) -> Value {
    let kind = GroupVersionKind::new("meta.k8s.io", version, "PartialObjectMetadata");
    let mut partial = Value::object();
    partial.set_gvk(&kind);
    let mut metadata = object["metadata"].clone();
    without_conversions(object.kind(), &mut metadata);
    partial.insert("metadata", metadata);
    partial
}
