//! The server as its own client: requests that it makes on its own account, as `system:apiserver`.
//!
//! They go straight to the endpoints (upstream's loopback client passes the filters, as a member of `system:masters`, whom no filter
//! stops), so that admission, defaulting and validation run as for everybody. Bodies are JSON.

use std::sync::{Arc, Weak};

use ::http::header::CONTENT_TYPE;
use ::http::{HeaderValue, Method, Request, Response, StatusCode};
use apimachinery::Status;
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use serde_json::Value as Json;

use crate::auth::UserInfo;
use crate::cache::{Entry, prefix_end};
use crate::endpoints;
use crate::http::{Body, Query, RequestContext, RequestInfo};
use crate::objects::{Labels, ListScope, Objects, ReadError, WriteError};
use crate::registry::Stored;
use crate::server::ApiServer;

/// A request of the server to itself failed.
#[derive(Debug, thiserror::Error)]
pub enum LoopbackError {
    /// The server answered with a `Status`.
    #[error("{method} {path}: {message} ({code})")]
    Status {
        /// The method.
        method: Method,
        /// The path, with the query.
        path: String,
        /// The HTTP status code.
        code: u16,
        /// The status's reason.
        reason: String,
        /// The status's message.
        message: String,
    },
    /// The answer is not what it should be.
    #[error("{path}: the answer cannot be read")]
    Answer {
        /// The path.
        path: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The server is gone.
    #[error("the server has stopped")]
    Stopped,
}

impl LoopbackError {
    /// The HTTP status code, if it was an answer.
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Status { code, .. } => Some(*code),
            Self::Answer { .. } | Self::Stopped => None,
        }
    }
}

/// Sends requests to the server that it belongs to. Cheap to clone; does not keep the server alive.
#[derive(Clone)]
pub struct Loopback {
    server: Weak<ApiServer>,
}

/// The collection's path of a resource: `version` as in the URL, `namespace` empty for all or for cluster-scoped ones.
pub(crate) fn collection(group: &str, version: &str, resource: &str, namespace: &str) -> String {
    let prefix = if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
    match namespace {
        "" => format!("{prefix}/{resource}"),
        namespace => format!("{prefix}/namespaces/{namespace}/{resource}"),
    }
}

impl Loopback {
    /// A client of this server.
    pub fn new(server: Weak<ApiServer>) -> Self {
        Self { server }
    }

    /// The server itself.
    pub(crate) fn server(&self) -> Result<Arc<ApiServer>, LoopbackError> {
        self.server.upgrade().ok_or(LoopbackError::Stopped)
    }

    /// Sends a request; a body is JSON of this content type.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<(&'static str, Bytes)>,
    ) -> Result<Response<Body>, LoopbackError> {
        let server = self.server()?;
        let (path_only, query) = path.split_once('?').unwrap_or((path, ""));
        let query = Query::parse(query);
        let answer = |source: Box<dyn std::error::Error + Send + Sync>| LoopbackError::Answer { path: path.to_owned(), source };
        let info = RequestInfo::new(&method, path_only, &query).map_err(|e| answer(e.into()))?;
        let context = RequestContext {
            query: Arc::new(query),
            gates: server.config().gates,
            ..RequestContext::internal(UserInfo::api_server(), info)
        };
        let mut request = Request::builder().method(method).uri(path).body(Body::empty()).map_err(|e| answer(e.into()))?;
        if let Some((content_type, bytes)) = body {
            request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
            *request.body_mut() = Body::full(bytes);
        }
        Ok(endpoints::dispatch(&server, context, request).await)
    }

    /// Sends a request and reads the whole answer; any code but 2xx is an error.
    pub async fn bytes(&self, method: Method, path: &str, body: Option<(&'static str, Bytes)>) -> Result<Bytes, LoopbackError> {
        let response = self.send(method.clone(), path, body).await?;
        let code = response.status();
        let bytes = match response.into_body().collect().await {
            Ok(collected) => collected.to_bytes(),
            Err(source) => return Err(LoopbackError::Answer { path: path.to_owned(), source }),
        };
        if code.is_success() { Ok(bytes) } else { Err(failure(method, path, code, &bytes)) }
    }

    /// Opens a watch.
    pub(crate) async fn watch(&self, path: &str) -> Result<WatchLines, LoopbackError> {
        let response = self.send(Method::GET, path, None).await?;
        let code = response.status();
        let body = response.into_body();
        if !code.is_success() {
            let bytes = body.collect().await.map(|collected| collected.to_bytes()).unwrap_or_default();
            return Err(failure(Method::GET, path, code, &bytes));
        }
        Ok(WatchLines { body, pending: BytesMut::new() })
    }

    /// Reads a JSON document.
    pub async fn get(&self, path: &str) -> Result<Json, LoopbackError> {
        parse(path, &self.bytes(Method::GET, path, None).await?)
    }

    /// Creates an object in a collection.
    pub async fn create(&self, collection: &str, object: &Json) -> Result<Json, LoopbackError> {
        parse(collection, &self.bytes(Method::POST, collection, Some(("application/json", object.to_string().into()))).await?)
    }

    /// Replaces an object; its resourceVersion is the precondition.
    pub async fn update(&self, path: &str, object: &Json) -> Result<Json, LoopbackError> {
        parse(path, &self.bytes(Method::PUT, path, Some(("application/json", object.to_string().into()))).await?)
    }
}

/// The events of a watch, a line of JSON each.
pub(crate) struct WatchLines {
    body: Body,
    pending: BytesMut,
}

impl WatchLines {
    /// The next event; `None` once the watch has ended. Nothing is lost when this is dropped while it waits.
    pub(crate) async fn next(&mut self) -> Option<BytesMut> {
        loop {
            if let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') {
                return Some(self.pending.split_to(end + 1));
            }
            let frame = self.body.frame().await?.ok()?;
            if let Ok(data) = frame.into_data() {
                self.pending.extend_from_slice(&data);
            }
        }
    }
}

fn parse(path: &str, bytes: &[u8]) -> Result<Json, LoopbackError> {
    serde_json::from_slice(bytes).map_err(|e| LoopbackError::Answer { path: path.to_owned(), source: e.into() })
}

/// An unsuccessful answer as an error.
pub(crate) fn failure(method: Method, path: &str, code: StatusCode, body: &[u8]) -> LoopbackError {
    let status: Json = serde_json::from_slice(body).unwrap_or_default();
    let text = |field: &str| status[field].as_str().unwrap_or_default().to_owned();
    LoopbackError::Status { method, path: path.to_owned(), code: code.as_u16(), reason: text("reason"), message: text("message") }
}

/// The preferred version of the groups that authentication, authorization and admission read from.
fn version(group: &str) -> &'static str {
    match group {
        "autoscaling" => "v2",
        _ => "v1",
    }
}

#[async_trait]
impl Objects for Loopback {
    async fn get_json(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Result<Option<Bytes>, ReadError> {
        let failed = |error| backend(resource, namespace, name, error);
        if let Some(plain) = self.plain(group, resource).map_err(failed)? {
            let entry = plain.fresh_entry(namespace, name).await.map_err(|status| failed(refused(resource, &status)))?;
            return Ok(entry.map(|entry| entry.served.json().clone()));
        }
        let path = format!("{}/{name}", collection(group, version(group), resource, namespace));
        match self.bytes(Method::GET, &path, None).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.code() == Some(404) => Ok(None),
            Err(error) => Err(failed(error)),
        }
    }

    async fn labels(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Result<Option<Labels>, ReadError> {
        let failed = |error| backend(resource, namespace, name, error);
        let plain = self.plain(group, resource).map_err(failed)?;
        let plain = plain.ok_or_else(|| failed(refused(resource, &Status::path_not_found())))?;
        let entry = plain.fresh_entry(namespace, name).await.map_err(|status| failed(refused(resource, &status)))?;
        let owned =
            |labels: &[(Box<str>, Box<str>)]| labels.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
        Ok(entry.map(|entry| owned(&entry.labels)))
    }

    async fn list_json(&self, group: &str, resource: &str, scope: ListScope<'_>) -> Result<Bytes, ReadError> {
        let failed = |error| backend(resource, scope.namespace, "", error);
        if let Some(plain) = self.plain(group, resource).map_err(failed)?
            && scope.node_name.is_empty()
        {
            return plain.list(scope.namespace).await.map_err(|status| failed(refused(resource, &status)));
        }
        let mut path = collection(group, version(group), resource, scope.namespace);
        path.push_str("?resourceVersion=0");
        if !scope.node_name.is_empty() {
            path.push_str("&fieldSelector=spec.nodeName%3D");
            path.push_str(scope.node_name);
        }
        self.bytes(Method::GET, &path, None).await.map_err(failed)
    }

    async fn merge_json(&self, group: &str, resource: &str, namespace: &str, name: &str, patch: Bytes) -> Result<(), WriteError> {
        let path = format!("{}/{name}", collection(group, version(group), resource, namespace));
        let written = self.bytes(Method::PATCH, &path, Some(("application/merge-patch+json", patch))).await;
        written.map(drop).map_err(|error| WriteError {
            resource: resource.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            source: Box::new(error),
        })
    }
}

/// A resource that is read in the version that it is stored in: straight from the cache, for admission and authorization read
/// something for nearly every request.
struct Plain {
    server: Arc<ApiServer>,
    stored: Arc<Stored>,
}

impl Loopback {
    fn plain(&self, group: &str, resource: &str) -> Result<Option<Plain>, LoopbackError> {
        let server = self.server()?;
        let endpoint = server.engine().catalog.get(group, version(group), resource);
        let stored = endpoint.filter(|endpoint| !endpoint.converts()).and_then(|endpoint| endpoint.stored.clone());
        Ok(stored.map(|stored| Plain { server, stored }))
    }
}

impl Plain {
    async fn fresh_entry(&self, namespace: &str, name: &str) -> Result<Option<Arc<Entry>>, Status> {
        self.server.engine().fresh(&self.stored).await?;
        Ok(self.stored.cacher.get(self.stored.key(namespace, name).as_bytes()))
    }

    async fn list(&self, namespace: &str) -> Result<Bytes, Status> {
        let (engine, stored) = (self.server.engine(), &self.stored);
        engine.ready(stored).await?;
        let prefix = match namespace {
            "" => stored.prefix.clone(),
            namespace => format!("{}{namespace}/", stored.prefix),
        };
        let end = prefix_end(prefix.as_bytes());
        let snapshot = engine.snapshot(stored);
        let mut out = br#"{"items":["#.to_vec();
        for (index, entry) in snapshot.candidates(&[], prefix.into(), end).enumerate() {
            if index > 0 {
                out.push(b',');
            }
            out.extend_from_slice(entry.served.json());
        }
        out.extend_from_slice(b"]}");
        Ok(out.into())
    }
}

fn refused(resource: &str, status: &Status) -> LoopbackError {
    let (path, reason) = (resource.to_owned(), status.reason.as_str().to_owned());
    LoopbackError::Status { method: Method::GET, path, code: status.code, reason, message: status.message.clone() }
}

fn backend(resource: &str, namespace: &str, name: &str, source: LoopbackError) -> ReadError {
    ReadError::Backend {
        resource: resource.to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        source: Box::new(source),
    }
}
