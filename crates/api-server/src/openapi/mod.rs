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
    ACCEPT_ENCODING, ACCEPT_RANGES, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, ETAG, EXPIRES, HeaderValue, IF_NONE_MATCH,
    LAST_MODIFIED, LOCATION, VARY,
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
    /// Since when the documents are what they are.
    made: jiff::Timestamp,
    /// Version 2, compressed: in JSON, and in protobuf.
    v2: [OnceCell<Bytes>; 2],
}

/// What documents are made from.
struct Source {
    /// Group, version and name of the resources that are served.
    served: HashSet<(String, String, String)>,
    version: &'static str,
    /// Fields say which values they take.
    enums: bool,
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
            enums: self.enums,
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
    /// Of the resources of a catalog. `version` is the server's; `enums` says whether fields say which values they take.
    pub(crate) fn new(catalog: &Catalog, version: &'static str, enums: bool) -> OpenApi {
        let rows = catalog.endpoints().iter().map(|endpoint| &endpoint.row.gvr);
        let served: HashSet<_> = rows.map(|gvr| (gvr.group.clone(), gvr.version.clone(), gvr.resource.clone())).collect();
        let mut sorted: Vec<_> = served.iter().collect();
        sorted.sort();
        let text = format!("{} {version} {enums} {sorted:?}", openapi::hash());
        let hash = hex::encode_upper(Sha512::digest(text));
        let etag = HeaderValue::from_str(&format!("\"{hash}\"")).unwrap_or(HeaderValue::from_static("\"\""));
        let made = jiff::Timestamp::now();
        OpenApi { source: Arc::new(Source { served, version, enums, hash }), etag, made, v2: [OnceCell::new(), OnceCell::new()] }
    }

    /// Answers the paths below `/openapi/`, with any method; `None` for those that are not there.
    pub(crate) async fn respond(&self, path: &str, query: &Query, headers: &HeaderMap) -> Result<Option<Response<Body>>, Status> {
        match path {
            "v2" => self.v2(headers).await.map(Some),
            "v3" => {
                let index = self.source.with_describe(&|_, _| None, |options| openapi::index(options, &self.source.hash));
                // Upstream says neither what it is nor which one.
                let mut response = self.document(index.to_vec());
                response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
                Ok(Some(response))
            }
            _ => match path.strip_prefix("v3/") {
                Some(document) => self.v3(document.to_owned(), query, headers).await.map(Some),
                None => Ok(None),
            },
        }
    }

    async fn v3(&self, path: String, query: &Query, headers: &HeaderMap) -> Result<Response<Body>, Status> {
        if !self.source.with_describe(&|_, _| None, |options| openapi::document_paths(options).contains(&path)) {
            return Ok(nothing(StatusCode::NOT_FOUND));
        }
        let form = |wanted: &Cow<'_, str>| match &**wanted {
            JSON | "application/*" | "*/*" => Some(JSON),
            PROTOBUF_V3 | PROTOBUF_V3_OLD => Some(PROTOBUF_V3),
            _ => None,
        };
        let Some(media_type) = accepted_media_types(headers).iter().find_map(form) else {
            let mut response = nothing(StatusCode::NOT_ACCEPTABLE);
            response.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
            return Ok(response);
        };
        let asked = query.non_empty("hash");
        if asked.is_some_and(|hash| hash != self.source.hash) {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
            let url = format!("/openapi/v3/{path}?hash={}", self.source.hash);
            let headers = response.headers_mut();
            headers.insert(LOCATION, HeaderValue::from_str(&url).map_err(Status::internal_error)?);
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
            headers.insert(ETAG, self.etag.clone());
            headers.insert(VARY, HeaderValue::from_static("Accept"));
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
        response.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
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
        let vary = |mut response: Response<Body>| {
            response.headers_mut().insert(VARY, HeaderValue::from_static("Accept-Encoding"));
            response.headers_mut().append(VARY, HeaderValue::from_static("Accept"));
            response
        };
        let Some(media_type) = accepted_media_types(headers).iter().find_map(form) else {
            return Ok(vary(nothing(StatusCode::NOT_ACCEPTABLE)));
        };
        if self.is_known(headers) {
            return Ok(vary(self.answer(media_type, headers, Vec::new())));
        }
        let at = usize::from(media_type == PROTOBUF);
        let source = self.source.clone();
        let make = || background(move || source.with_options(|options| pack(at == 1, options)));
        let packed = self.v2[at].get_or_try_init(make).await?.clone();
        if crate::endpoints::accepts_gzip(headers) && !refuses_gzip(headers) {
            let mut response = vary(self.answer(media_type, headers, packed));
            response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            return Ok(response);
        }
        let plain = background(move || {
            let mut plain = Vec::new();
            flate2::read::GzDecoder::new(packed.as_ref()).read_to_end(&mut plain).map(|_| plain)
        });
        Ok(vary(self.answer(media_type, headers, plain.await?.map_err(Status::internal_error)?)))
    }

    fn is_known(&self, headers: &HeaderMap) -> bool {
        let Some(known) = headers.get(IF_NONE_MATCH).and_then(|known| known.to_str().ok()) else { return false };
        known.trim() == "*" || known.split(',').any(|one| one.trim().trim_start_matches("W/") == self.etag)
    }

    /// A document, or that the client has it.
    fn answer(&self, media_type: &'static str, headers: &HeaderMap, body: impl Into<Bytes>) -> Response<Body> {
        let mut response = match self.is_known(headers) {
            true => nothing(StatusCode::NOT_MODIFIED),
            false => {
                let mut response = self.document(body);
                response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
                response
            }
        };
        response.headers_mut().insert(ETAG, self.etag.clone());
        response
    }

    /// With what Go's `http.ServeContent` says of it.
    fn document(&self, body: impl Into<Bytes>) -> Response<Body> {
        let mut response = Response::new(Body::full(body));
        let headers = response.headers_mut();
        headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        if let Ok(made) = HeaderValue::try_from(self.made.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()) {
            headers.insert(LAST_MODIFIED, made);
        }
        response
    }
}

/// A quality of zero, which only this document's handler heeds.
fn refuses_gzip(headers: &HeaderMap) -> bool {
    let clauses = headers.get(ACCEPT_ENCODING).and_then(|value| value.to_str().ok()).unwrap_or_default().split(',');
    let quality = |clause: &str| {
        let mut parts = clause.split(';').map(str::trim);
        (parts.next() == Some("gzip")).then(|| parts.find_map(|part| part.strip_prefix("q=")?.parse().ok()).unwrap_or(1.0))
    };
    clauses.filter_map(quality).next_back().is_some_and(|quality: f64| quality <= 0.0)
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

/// An answer without a body.
fn nothing(code: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = code;
    response
}
