//! Reading request bodies.

use apimachinery::{GroupVersionKind, Status, Value, cbor, decode, go_quote, schema};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http_body_util::{BodyExt, Limited};

use super::codecs;
use super::negotiate::supported;
use crate::gates::Feature;
use crate::http::{Body, RequestContext, media_type};
use crate::registry::FieldValidation;

/// The whole body, if it is not too large.
pub(crate) async fn read(body: Body, bytes_max: usize) -> Result<Bytes, Status> {
    match Limited::new(body, bytes_max).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            Err(Status::request_entity_too_large(&format!("limit is {bytes_max}")))
        }
        Err(error) => Err(Status::bad_request(format!("the request's body could not be read: {error}"))),
    }
}

/// The encodings of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    Json,
    Yaml,
    Protobuf,
    Cbor,
}

/// The encoding that the client says; JSON if it says nothing.
pub(crate) fn encoding(headers: &http::HeaderMap, context: &RequestContext) -> Result<Encoding, Status> {
    let text = headers.get(CONTENT_TYPE).map(|value| value.to_str().unwrap_or("?")).unwrap_or_default();
    if text.is_empty() {
        return Ok(Encoding::Json);
    }
    match media_type(text).as_deref().unwrap_or_default() {
        "application/json" => Ok(Encoding::Json),
        "application/yaml" => Ok(Encoding::Yaml),
        "application/vnd.kubernetes.protobuf" => Ok(Encoding::Protobuf),
        cbor::MEDIA_TYPE if context.gates.has(Feature::CborServingAndStorage) => Ok(Encoding::Cbor),
        _ => Err(Status::unsupported_media_type(supported(context))),
    }
}

/// An object of the kind that the endpoint takes; a missing kind or apiVersion is filled in.
pub(crate) fn decode(
    bytes: &[u8],
    encoding: Encoding,
    kind: &GroupVersionKind,
    mode: FieldValidation,
    context: &RequestContext,
) -> Result<Value, Status> {
    decode_like(bytes, encoding, kind, &[], mode, context)
}

/// As [`decode`]; objects of these versions, which have the same members, are taken for ones of the kind.
pub(crate) fn decode_like(
    bytes: &[u8],
    encoding: Encoding,
    kind: &GroupVersionKind,
    older: &[&str],
    mode: FieldValidation,
    context: &RequestContext,
) -> Result<Value, Status> {
    let mut object = decode_any(bytes, encoding, kind, older, mode, context)?;
    if let Some(info) = schema::lookup(kind) {
        decode::drop_empty(&mut object, info);
    }
    Ok(object)
}

/// As [`decode`], for an object that is written: lists and maps that the client says are empty stay until then.
pub(crate) fn decode_to_write(
    bytes: &[u8],
    encoding: Encoding,
    kind: &GroupVersionKind,
    mode: FieldValidation,
    context: &RequestContext,
) -> Result<Value, Status> {
    decode_any(bytes, encoding, kind, &[], mode, context)
}

fn decode_any(
    bytes: &[u8],
    encoding: Encoding,
    kind: &GroupVersionKind,
    older: &[&str],
    mode: FieldValidation,
    context: &RequestContext,
) -> Result<Value, Status> {
    let (mut object, mut complaints) = codecs::parse(bytes, encoding, kind).map_err(|status| match encoding {
        Encoding::Json => unrecognized(bytes, kind, &format!("{NO_KIND}{}", status.message)),
        _ => unrecognized(bytes, kind, &status.message),
    })?;
    if object.is_null() {
        object = Value::object();
    }
    if !older.contains(&object.api_version()) {
        check_kind(&object, bytes, kind)?;
    }
    if encoding == Encoding::Json
        && !complaints.is_empty()
        && let Some(info) = schema::lookup(kind)
    {
        decode::merge_repeated(bytes, &mut object, info).map_err(|error| codecs::unfit(kind, error))?;
    }
    object.set_gvk(kind);
    complaints.extend(codecs::conform_sent(&mut object, kind).map_err(|error| codecs::unfit(kind, error))?);
    if encoding == Encoding::Json {
        decode::in_document_order(bytes, &mut complaints);
    }
    codecs::judge(complaints, mode, context).map_err(|why| codecs::unfit(kind, why))?;
    Ok(object)
}

pub(super) const NO_KIND: &str = "couldn't get version/kind; json parse error: ";
/// What upstream shows of a body at most.
const SUMMARY_BYTES_MAX: usize = 30;

/// Upstream's answer to a body of which it cannot even tell the kind.
fn unrecognized(bytes: &[u8], kind: &GroupVersionKind, why: &str) -> Status {
    let shown = &bytes[..bytes.len().min(SUMMARY_BYTES_MAX)];
    let more = if shown.len() < bytes.len() { " ..." } else { "" };
    let summary = match shown.first() {
        None => "<empty>".to_owned(),
        Some(b'{') => format!("{}{more}", String::from_utf8_lossy(shown)),
        Some(_) => format!("{}{more}", shown.iter().map(|byte| format!("{byte:02x}")).collect::<String>()),
    };
    Status::bad_request(format!("the object provided is unrecognized (must be of type {}): {why} ({summary})", kind.kind))
}

/// The body is of the kind that the endpoint takes, or says nothing about it.
fn check_kind(object: &Value, bytes: &[u8], kind: &GroupVersionKind) -> Result<(), Status> {
    if let Some(why) = no_kind(object) {
        return Err(unrecognized(bytes, kind, &why));
    }
    let mut given = kind.clone();
    if !object.kind().is_empty() {
        object.kind().clone_into(&mut given.kind);
    }
    if !object.api_version().is_empty() {
        given = GroupVersionKind::from_api_version(object.api_version(), &given.kind)
            .map_err(|error| unrecognized(bytes, kind, &error.to_string()))?;
    }
    let Some(why) = unusable(&given, kind) else { return Ok(()) };
    if schema::lookup(&given).is_some() && shares_type(&given, kind) {
        let (given, expected) = (given.api_version(), kind.api_version());
        return Err(Status::bad_request(format!(
            "the API version in the data ({given}) does not match the expected API version ({expected})"
        )));
    }
    let (kind_given, version) = (&given.kind, &given.version);
    let wanted = &kind.kind;
    Err(Status::bad_request(format!("{kind_given} in version \"{version}\" cannot be handled as a {wanted}: {why}")))
}

/// Upstream decodes both into the same internal type: another version, or what moved between groups.
fn shares_type(given: &GroupVersionKind, kind: &GroupVersionKind) -> bool {
    let families: &[&str] = match kind.kind.as_str() {
        "Event" => &["", "events.k8s.io"],
        "Scale" => &["extensions", "apps", "autoscaling"],
        "Deployment" | "DaemonSet" | "ReplicaSet" => &["extensions", "apps"],
        "Ingress" | "NetworkPolicy" => &["extensions", "networking.k8s.io"],
        _ => &[],
    };
    let related = |group: &str| families.contains(&group);
    given.kind == kind.kind && (given.group == kind.group || related(&given.group) && related(&kind.group))
}

/// Why a document cannot have a kind and a version, in upstream's words.
pub(super) fn no_kind(object: &Value) -> Option<String> {
    if object.as_object().is_none() {
        let found = object.type_name();
        let into = r#"struct { APIVersion string "json:\"apiVersion,omitempty\""; Kind string "json:\"kind,omitempty\"" }"#;
        return Some(format!("{NO_KIND}json: cannot unmarshal {found} into Go value of type {into}"));
    }
    let odd =
        ["apiVersion", "kind"].into_iter().find(|member| !object[*member].is_null() && object[*member].as_str().is_none())?;
    let found = object[odd].type_name();
    Some(format!("{NO_KIND}json: cannot unmarshal {found} into Go struct field .{odd} of type string"))
}

/// Why an object of one kind cannot be taken for one of another; `None` if they are the same.
pub(super) fn unusable(given: &GroupVersionKind, kind: &GroupVersionKind) -> Option<String> {
    if given == kind {
        return None;
    }
    Some(match schema::lookup(given) {
        None => format!(
            "no kind {} is registered for version {} in scheme \"pkg/runtime/scheme.go:111\"",
            go_quote(&given.kind),
            go_quote(&given.api_version())
        ),
        Some(_) => {
            // The name of upstream's internal package.
            let group = kind.group.split('.').next().filter(|group| !group.is_empty()).unwrap_or("core");
            format!("converting ({}.{}) to ({group}.{}): unknown conversion", given.version, given.kind, kind.kind)
        }
    })
}
