//! `/openapi/v3`: what the API's types and paths are (<https://kubernetes.io/docs/concepts/overview/kubernetes-api/#openapi-v3>).
//!
//! The documents come from the schema facts; what people read in them (`kubectl explain`) comes from the k8s-openapi crate. A document is
//! made when it is asked for: clients keep it by its hash, so that a cache here would only hold memory.

mod descriptions;

use ::http::header::{CACHE_CONTROL, ETAG, HeaderValue, IF_NONE_MATCH};
use ::http::{HeaderMap, Response, StatusCode};
use apimachinery::openapi::{self, Options};
use apimachinery::{Status, schema};

use crate::http::{Body, Query};
use descriptions::Descriptions;

/// Documents have the hash of what they are made from in their address.
const FOREVER: HeaderValue = HeaderValue::from_static("public, immutable");

/// Answers `/openapi/v3` (no parts) and `/openapi/v3/apis/GROUP/VERSION`. Returns JSON.
pub(crate) fn respond(parts: &[&str], query: &Query, headers: &HeaderMap, version: &str) -> Result<Response<Body>, Status> {
    let etag = format!("\"{}\"", openapi::hash());
    let etag = HeaderValue::from_str(&etag).map_err(Status::internal_error)?;
    let known = headers.get(IF_NONE_MATCH) == Some(&etag);
    let (json, immutable) = match parts {
        [] => (openapi::index().to_vec(), false),
        ["api", api] => (document("", api, version, known)?, query.get("hash").is_some()),
        ["apis", group, api] => (document(group, api, version, known)?, query.get("hash").is_some()),
        _ => return Err(Status::path_not_found()),
    };
    let code = if known { StatusCode::NOT_MODIFIED } else { StatusCode::OK };
    let mut response = crate::endpoints::json_response(code, if known { Vec::new() } else { json });
    response.headers_mut().insert(ETAG, etag);
    if immutable {
        response.headers_mut().insert(CACHE_CONTROL, FOREVER);
    }
    Ok(response)
}

fn document(group: &str, api: &str, version: &str, known: bool) -> Result<Vec<u8>, Status> {
    if known {
        return Ok(Vec::new());
    }
    let descriptions = Descriptions::unpack();
    let describe = |info: &schema::TypeInfo, field: Option<&str>| descriptions.get(info, field);
    let options = Options {
        describe: &describe,
        enums: true,
        media_types: &["application/json", "application/yaml"],
        stream_media_types: &["application/json;stream=watch"],
        patch_types: &["application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json"],
        version,
    };
    openapi::document(group, api, &options).ok_or_else(Status::path_not_found)
}
