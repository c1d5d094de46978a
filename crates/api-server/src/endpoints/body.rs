//! Reading request bodies.

use apimachinery::{GroupVersionKind, Status, Value, decode};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http_body_util::{BodyExt, Limited};

use super::codecs;
use crate::http::{Body, RequestContext};
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
}

/// The encoding that the client says; JSON if it says nothing.
pub(crate) fn encoding(headers: &http::HeaderMap) -> Result<Encoding, Status> {
    let media_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    match media_type.split(';').next().unwrap_or_default().trim() {
        "" | "application/json" | "*/*" => Ok(Encoding::Json),
        "application/yaml" => Ok(Encoding::Yaml),
        "application/vnd.kubernetes.protobuf" => Ok(Encoding::Protobuf),
        _ => {
            Err(Status::unsupported_media_type(&["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"]))
        }
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
    let (mut object, mut complaints) = codecs::parse(bytes, encoding, kind)?;
    if object.as_object().is_none() {
        return Err(Status::bad_request("the body of the request is not an object"));
    }
    let given = (object.api_version().to_owned(), object.kind().to_owned());
    let expected = (kind.api_version(), kind.kind.clone());
    if !given.0.is_empty() && given.0 != expected.0 {
        let why = format!("the API version in the data ({}) does not match the expected API version ({})", given.0, expected.0);
        return Err(Status::bad_request(why));
    }
    if !given.1.is_empty() && given.1 != expected.1 {
        let why = format!(
            "{} in version \"{}\" cannot be handled as a {}: converting ({}) to ({}): unknown conversion",
            given.1, kind.version, kind.kind, given.1, kind.kind
        );
        return Err(Status::bad_request(why));
    }
    object.set_gvk(kind);
    complaints.extend(codecs::conform(&mut object, kind).map_err(|error| codecs::unfit(kind, error))?);
    if encoding == Encoding::Json {
        decode::in_document_order(bytes, &mut complaints);
    }
    codecs::judge(complaints, mode, context).map_err(|why| codecs::unfit(kind, why))?;
    Ok(object)
}
