//! `/openapi/v3` and `/openapi/v2`: what the API's types and paths are
//! (<https://kubernetes.io/docs/concepts/overview/kubernetes-api/#openapi-interface-definition>).
//!
//! The documents come from the schema facts; what people read in them (`kubectl explain`) comes from the k8s-openapi crate. A document of
//! version 3 is made when it is asked for: clients keep it by its hash, so that a cache here would only hold memory. That of version 2
//! is large, and made once: only its compressed form is kept.

mod descriptions;

use std::borrow::Cow;
use std::collections::HashSet;
use std::io::{Read, Write};
use std::sync::Arc;

use ::http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, ETAG, EXPIRES, HeaderValue, IF_NONE_MATCH, LOCATION, VARY,
};
use ::http::{HeaderMap, Response, StatusCode};
use apimachinery::Status;
use apimachinery::openapi::{self, Options};
use apimachinery::schema::{ResourceInfo, TypeInfo};
use bytes::Bytes;
use sha2::{Digest, Sha512};
use tokio::sync::OnceCell;

use crate::endpoints::accepted_media_types;
use crate::http::{Body, Query};
use crate::registry::Catalog;
use descriptions::Descriptions;

/// Documents of version 3 have the hash of what they are made from in their address.
const FOREVER: HeaderValue = HeaderValue::from_static("public, immutable");
/// How long that is in the older header: a year.
const FOREVER_AGE: jiff::SignedDuration = jiff::SignedDuration::from_hours(24 * 365);

const JSON: &str = "application/json";
const PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
/// The older name of the same form, which clients still send.
const PROTOBUF_OLD: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
/// Version 3 in protobuf, and its older name.
const PROTOBUF_V3: &str = "application/com.github.proto-openapi.spec.v3.v1.0+protobuf";
const PROTOBUF_V3_OLD: &str = "application/com.github.proto-openapi.spec.v3@v1.0+protobuf";

/// The documents of one server.
pub(crate) struct OpenApi {
    source: Arc<Source>,
    etag: HeaderValue,
    /// Version 2, compressed: in JSON, and in protobuf.
    v2: [OnceCell<Bytes>; 2],
}

/// What documents are made from.
struct Source {
    /// Group, version and name of the resources that are served.
    served: HashSet<(String, String, String)>,
    version: &'static str,
    hash: String,
}

impl Source {
    fn with_options<T>(&self, use_them: impl FnOnce(&Options<'_>) -> T) -> T {
        let descriptions = Descriptions::unpack();
        let describe = |info: &TypeInfo, field: Option<&str>| descriptions.get(info, field);
        self.with_describe(&describe, use_them)
    }

    fn with_describe<T>(&self, describe: openapi::Describe<'_>, use_them: impl FnOnce(&Options<'_>) -> T) -> T {
        let serves =
            |info: &ResourceInfo| self.served.contains(&(info.group.to_owned(), info.version.to_owned(), info.plural.to_owned()));
        use_them(&Options {
            describe,
            serves: &serves,
            enums: true,
            media_types: &["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"],
            stream_media_types: &["application/json;stream=watch", "application/vnd.kubernetes.protobuf;stream=watch"],
            patch_types: &[
                "application/json-patch+json",
                "application/merge-patch+json",
                "application/strategic-merge-patch+json",
                "application/apply-patch+yaml",
            ],
            version: self.version,
        })
    }
}

impl OpenApi {
    /// Of the resources of a catalog. `version` is the server's.
    pub(crate) fn new(catalog: &Catalog, version: &'static str) -> OpenApi {
        let rows = catalog.endpoints().iter().map(|endpoint| &endpoint.row.gvr);
        let served: HashSet<_> = rows.map(|gvr| (gvr.group.clone(), gvr.version.clone(), gvr.resource.clone())).collect();
        let mut sorted: Vec<_> = served.iter().collect();
        sorted.sort();
        let text = format!("{} {version} {sorted:?}", openapi::hash());
        let hash = hex::encode_upper(Sha512::digest(text));
        let etag = HeaderValue::from_str(&format!("\"{hash}\"")).unwrap_or(HeaderValue::from_static("\"\""));
        OpenApi { source: Arc::new(Source { served, version, hash }), etag, v2: [OnceCell::new(), OnceCell::new()] }
    }

    /// Answers the paths below `/openapi`.
    pub(crate) async fn respond(&self, parts: &[&str], query: &Query, headers: &HeaderMap) -> Result<Response<Body>, Status> {
        match parts {
            ["v2"] => self.v2(headers).await,
            ["v3"] => {
                let index = self.source.with_describe(&|_, _| None, |options| openapi::index(options, &self.source.hash));
                Ok(self.answer(JSON, headers, index.to_vec()))
            }
            ["v3", document @ ..] => self.v3(document.join("/"), query, headers).await,
            _ => Err(Status::path_not_found()),
        }
    }

    async fn v3(&self, path: String, query: &Query, headers: &HeaderMap) -> Result<Response<Body>, Status> {
        if !self.source.with_describe(&|_, _| None, |options| openapi::document_paths(options).contains(&path)) {
            return Err(Status::path_not_found());
        }
        let form = |wanted: &Cow<'_, str>| match &**wanted {
            JSON | "application/*" | "*/*" => Some(JSON),
            PROTOBUF_V3 | PROTOBUF_V3_OLD => Some(PROTOBUF_V3),
            _ => None,
        };
        let Some(media_type) = accepted_media_types(headers).iter().find_map(form) else { return Ok(not_acceptable()) };
        let asked = query.non_empty("hash");
        if asked.is_some_and(|hash| hash != self.source.hash) {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
            let url = format!("/openapi/v3/{path}?hash={}", self.source.hash);
            response.headers_mut().insert(LOCATION, HeaderValue::from_str(&url).map_err(Status::internal_error)?);
            return Ok(response);
        }
        let source = self.source.clone();
        let make = if media_type == JSON { openapi::document } else { openapi::document_protobuf };
        let document = match self.is_known(headers) {
            true => Vec::new(),
            false => background(move || source.with_options(|options| make(&path, options)))
                .await?
                .ok_or_else(Status::path_not_found)?,
        };
        let mut response = self.answer(media_type, headers, document);
        if asked.is_some() {
            let expires = jiff::Timestamp::now() + FOREVER_AGE;
            response.headers_mut().insert(CACHE_CONTROL, FOREVER);
            let text = expires.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
            response.headers_mut().insert(EXPIRES, HeaderValue::try_from(text).map_err(Status::internal_error)?);
        }
        Ok(response)
    }

    async fn v2(&self, headers: &HeaderMap) -> Result<Response<Body>, Status> {
        let form = |wanted: &Cow<'_, str>| match &**wanted {
            JSON | "application/*" | "*/*" => Some(JSON),
            PROTOBUF | PROTOBUF_OLD => Some(PROTOBUF),
            _ => None,
        };
        let Some(media_type) = accepted_media_types(headers).iter().find_map(form) else { return Ok(not_acceptable()) };
        if self.is_known(headers) {
            return Ok(self.answer(media_type, headers, Vec::new()));
        }
        let at = usize::from(media_type == PROTOBUF);
        let source = self.source.clone();
        let make = || background(move || source.with_options(|options| pack(at == 1, options)));
        let packed = self.v2[at].get_or_try_init(make).await?.clone();
        if crate::endpoints::accepts_gzip(headers) {
            let mut response = self.answer(media_type, headers, packed);
            response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            return Ok(response);
        }
        let plain = background(move || {
            let mut plain = Vec::new();
            flate2::read::GzDecoder::new(packed.as_ref()).read_to_end(&mut plain).map(|_| plain)
        });
        Ok(self.answer(media_type, headers, plain.await?.map_err(Status::internal_error)?))
    }

    fn is_known(&self, headers: &HeaderMap) -> bool {
        headers.get(IF_NONE_MATCH) == Some(&self.etag)
    }

    /// A document, or that the client has it.
    fn answer(&self, media_type: &'static str, headers: &HeaderMap, body: impl Into<Bytes>) -> Response<Body> {
        let mut response = match self.is_known(headers) {
            true => crate::endpoints::json_response(StatusCode::NOT_MODIFIED, Bytes::new()),
            false => crate::endpoints::json_response(StatusCode::OK, body),
        };
        let answered = response.headers_mut();
        answered.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
        answered.insert(ETAG, self.etag.clone());
        answered.insert(VARY, HeaderValue::from_static("Accept"));
        answered.append(VARY, HeaderValue::from(ACCEPT_ENCODING));
        response
    }
}

/// Version 2, compressed.
fn pack(protobuf: bool, options: &Options<'_>) -> Bytes {
    let document = if protobuf { openapi::document_v2_protobuf(options) } else { openapi::document_v2(options) };
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(&document).and_then(|()| encoder.finish()).map(Bytes::from).expect("writing to memory does not fail")
}

/// Work that takes the processor for long, away from the tasks of connections.
async fn background<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Status> {
    tokio::task::spawn_blocking(work).await.map_err(Status::internal_error)
}

/// Upstream's answer has no body.
fn not_acceptable() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NOT_ACCEPTABLE;
    response
}
