//! Watches: a stream of frames, one JSON object a line or protobuf messages with their lengths before them
//! (<https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes>).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use apimachinery::{Status, Value, protobuf, value};
use bytes::{BufMut, Bytes, BytesMut};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use rand::Rng;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::negotiate::{Accepted, Answer, Format, Shape, negotiate};
use super::respond::{in_version, json_response, partial_metadata, sealed};
use crate::cache::{CacheEvent, Entry, Snapshot, WatchScope, WatchStart, Watcher};
use crate::http::{Body, RequestContext};
use crate::registry::{Endpoint, Engine, ListOptions, Stored};
use crate::server::ApiServer;
use crate::table;

/// Bookmarks come about so often (upstream's `bookmarkFrequency`).
const BOOKMARK_PERIOD: Duration = Duration::from_secs(60);
/// The last bookmark comes so long before the end, so that the client can go on where it stopped.
const BOOKMARK_BEFORE_END: Duration = Duration::from_secs(2);
/// Frames that are ready are sent together up to about this size.
const BLOCK_BYTES: usize = 64 * 1024;

/// Answers with a stream of events.
pub(crate) async fn watch(
    server: &Arc<ApiServer>,
    endpoint: &Arc<Endpoint>,
    stored: &Arc<Stored>,
    context: &RequestContext,
    headers: &HeaderMap,
) -> Result<Response<Body>, Status> {
    let accepted = negotiate(headers, &context.query, Answer::Object)?;
    if accepted.format == Format::Yaml {
        return Err(Status::not_acceptable(&["application/json", "application/vnd.kubernetes.protobuf"]));
    }
    let engine = server.engine();
    let options = ListOptions::parse(context, stored, true)?;
    let initial = options.send_initial_events.unwrap_or(matches!(options.resource_version, None | Some(0)));
    match options.resource_version {
        None => engine.fresh(stored).await?,
        Some(0) if options.send_initial_events.is_none() => engine.ready(stored).await?,
        Some(0) => engine.fresh(stored).await?,
        Some(revision) => {
            engine.ready(stored).await?;
            engine.wait_for(revision).await?;
        }
    }
    let start = match options.resource_version {
        _ if initial => WatchStart::Now,
        Some(revision) if revision > 0 => WatchStart::After(revision),
        _ => WatchStart::Now,
    };
    let scope = scope(stored, context, &options);
    let announced = engine.feed.revision();
    let (snapshot, watcher) = match stored.cacher.watch(start, scope.clone(), announced) {
        Ok(started) => started,
        Err(too_old) => {
            let asked = options.resource_version.unwrap_or_default();
            let status = Status::expired(format!("too old resource version: {asked} ({})", too_old.oldest));
            return Ok(stream_response(accepted.format, Body::full(error_frame(&status, accepted.format))));
        }
    };
    let mut stream = Frames::new(server, endpoint, stored, context, &options, accepted, watcher);
    if initial {
        stream.queue_initial(snapshot, &scope, options.send_initial_events == Some(true) && options.bookmarks);
    }
    Ok(stream_response(accepted.format, stream.into_body()))
}

/// The narrowest scope that holds everything the watcher wants.
fn scope(stored: &Stored, context: &RequestContext, options: &ListOptions) -> WatchScope {
    let selection = &options.selection;
    let namespace = match context.info.namespace.as_str() {
        _ if !stored.namespaced => "",
        "" => selection.namespace.as_deref().unwrap_or_default(),
        namespace => namespace,
    };
    let name = match context.info.name.as_str() {
        "" => selection.name.as_deref(),
        name => Some(name),
    };
    match name {
        Some(name) if !stored.namespaced || !namespace.is_empty() => return WatchScope::Name(namespace.into(), name.into()),
        _ => {}
    }
    if let Some(value) = stored.cacher.indexed_field().and_then(|at| selection.exact(stored.fields[at])) {
        return WatchScope::Field(value.into());
    }
    match namespace {
        "" => WatchScope::All,
        namespace => WatchScope::Namespace(namespace.into()),
    }
}

fn stream_response(format: Format, body: Body) -> Response<Body> {
    let media_type = match format {
        Format::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
        _ => "application/json",
    };
    let mut response = json_response(StatusCode::OK, Bytes::new());
    *response.body_mut() = body;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}

/// The frame of an error, after which a watch ends; upstream answers a resourceVersion that is too old so, too.
fn error_frame(status: &Status, format: Format) -> Bytes {
    let mut out = BytesMut::new();
    put_frame(&mut out, format, "ERROR", &status.to_value());
    out.freeze()
}

/// Writes an event with an object that the cache does not have in this form.
fn put_frame(out: &mut BytesMut, format: Format, kind: &str, object: &Value) {
    match format {
        Format::Protobuf => match sealed(object) {
            Some(sealed) => out.put_slice(&protobuf::watch_frame(kind, &sealed)),
            None => tracing::error!(kind = object.kind(), "no protobuf schema for an object of a watch"),
        },
        _ => put_json(out, kind, object.to_json().as_bytes()),
    }
}

fn put_json(out: &mut BytesMut, kind: &str, object: &[u8]) {
    out.put_slice(br#"{"type":""#);
    out.put_slice(kind.as_bytes());
    out.put_slice(br#"","object":"#);
    out.put_slice(object);
    out.put_slice(b"}\n");
}

/// The state of one watch.
struct Frames {
    server: Arc<ApiServer>,
    endpoint: Arc<Endpoint>,
    stored: Arc<Stored>,
    context: RequestContext,
    options: ListOptions,
    accepted: Accepted,
    watcher: Watcher,
    /// The state at the start, still to be sent.
    initial: std::vec::IntoIter<Arc<Entry>>,
    /// The bookmark after the initial state.
    initial_end: Option<i64>,
    /// Column definitions are sent once.
    headers_sent: bool,
    include: table::Include,
    end: Instant,
    next_bookmark: Instant,
    shutdown: CancellationToken,
    done: bool,
    pending: VecDeque<Bytes>,
}

impl Frames {
    fn new(
        server: &Arc<ApiServer>,
        endpoint: &Arc<Endpoint>,
        stored: &Arc<Stored>,
        context: &RequestContext,
        options: &ListOptions,
        accepted: Accepted,
        watcher: Watcher,
    ) -> Frames {
        let shortest = server.config().min_request_timeout;
        // At random up to twice the shortest, so that clients do not all come back at once.
        let timeout = options.timeout.unwrap_or_else(|| shortest.mul_f64(1.0 + rand::rng().random::<f64>()));
        let now = Instant::now();
        let end = now + timeout;
        let last_bookmark = end.checked_sub(BOOKMARK_BEFORE_END).filter(|at| *at > now).unwrap_or(end);
        Frames {
            shutdown: server.draining().clone(),
            server: server.clone(),
            endpoint: endpoint.clone(),
            stored: stored.clone(),
            context: context.clone(),
            options: options.clone(),
            accepted,
            watcher,
            initial: Vec::new().into_iter(),
            initial_end: None,
            headers_sent: false,
            include: table::Include::parse(context.query.get("includeObject")),
            end,
            next_bookmark: last_bookmark.min(now + BOOKMARK_PERIOD),
            done: false,
            pending: VecDeque::new(),
        }
    }

    fn into_body(self) -> Body {
        Body::stream(futures::stream::unfold(self, |mut frames| async move {
            let block = frames.next_block().await?;
            Some((Ok(block), frames))
        }))
    }

    fn engine(&self) -> &Engine {
        self.server.engine()
    }

    fn queue_initial(&mut self, snapshot: Snapshot, scope: &WatchScope, bookmark: bool) {
        let indexed = self.stored.cacher.indexed_field();
        let wanted = |entry: &&Arc<Entry>| scope.contains(entry, indexed) && self.options.selection.matches(&self.stored, entry);
        let entries: Vec<Arc<Entry>> = match scope {
            // One object or one namespace: no need to look at all.
            WatchScope::Name(namespace, name) => {
                let key = self.stored.key(namespace, name);
                snapshot.entries.get(key.as_bytes()).filter(wanted).cloned().into_iter().collect()
            }
            _ => snapshot.entries.values().filter(wanted).cloned().collect(),
        };
        self.initial = entries.into_iter();
        self.initial_end = bookmark.then_some(snapshot.revision);
    }

    /// The next bytes to send; `None` ends the watch.
    async fn next_block(&mut self) -> Option<Bytes> {
        if let Some(bytes) = self.pending.pop_front() {
            return Some(bytes);
        }
        if self.done {
            return None;
        }
        let mut out = BytesMut::new();
        while let Some(entry) = self.initial.next() {
            self.put(&mut out, "ADDED", &entry, None);
            if out.len() >= BLOCK_BYTES {
                return Some(out.freeze());
            }
        }
        if let Some(revision) = self.initial_end.take() {
            self.put_bookmark(&mut out, revision, true);
        }
        while let Some(event) = self.watcher.backlog.next() {
            self.put_event(&mut out, &event);
            if out.len() >= BLOCK_BYTES {
                return Some(out.freeze());
            }
        }
        self.drain_queue(&mut out);
        if !out.is_empty() {
            return Some(out.freeze());
        }
        self.wait(out).await
    }

    /// Takes what is in the queue without waiting.
    fn drain_queue(&mut self, out: &mut BytesMut) {
        while out.len() < BLOCK_BYTES {
            match self.watcher.queue.try_recv() {
                Ok(event) => self.put_event(out, &event),
                Err(_) => return,
            }
        }
    }

    async fn wait(&mut self, mut out: BytesMut) -> Option<Bytes> {
        loop {
            let shutdown = self.shutdown.clone();
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return None,
                event = self.watcher.queue.recv() => match event {
                    Some(event) => {
                        self.put_event(&mut out, &event);
                        self.drain_queue(&mut out);
                    }
                    None => {
                        self.done = true;
                        let status = Status::expired("the watch fell behind and was closed; list and watch again");
                        return Some(error_frame(&status, self.accepted.format));
                    }
                },
                () = sleep_until(self.next_bookmark), if self.options.bookmarks => self.bookmark(&mut out),
                () = sleep_until(self.end) => return None,
            }
            if !out.is_empty() {
                return Some(out.freeze());
            }
        }
    }

    fn bookmark(&mut self, out: &mut BytesMut) {
        let last = self.end.checked_sub(BOOKMARK_BEFORE_END).unwrap_or(self.end);
        let now = Instant::now();
        let next = now + BOOKMARK_PERIOD;
        self.next_bookmark = if last > now { next.min(last) } else { self.end + BOOKMARK_PERIOD };
        // The revision first: all its events are in the queue by then, and the queue is emptied before the bookmark is sent.
        let revision = self.engine().feed.revision();
        while let Ok(event) = self.watcher.queue.try_recv() {
            self.put_event(out, &event);
        }
        self.put_bookmark(out, revision, false);
    }

    /// Writes the event as this watcher sees it: an object that stops matching is deleted for it.
    fn put_event(&mut self, out: &mut BytesMut, event: &CacheEvent) {
        let matches = |entry: &Arc<Entry>| self.options.selection.matches(&self.stored, entry) && self.in_namespace(entry);
        let current = event.current.clone().filter(matches);
        let previous = event.previous.clone().filter(matches);
        match (current, previous) {
            (Some(current), None) => self.put(out, "ADDED", &current, None),
            (Some(current), Some(_)) => self.put(out, "MODIFIED", &current, None),
            (None, Some(previous)) => self.put(out, "DELETED", &previous, Some(event.revision)),
            (None, None) => {}
        }
    }

    fn in_namespace(&self, entry: &Entry) -> bool {
        let info = &self.context.info;
        let namespace = !self.stored.namespaced || info.namespace.is_empty() || entry.namespace() == info.namespace;
        namespace && (info.name.is_empty() || entry.name() == info.name)
    }

    /// Writes an event of a cached object; `revision` replaces its resourceVersion (deletions have that of the deletion).
    fn put(&mut self, out: &mut BytesMut, kind: &str, entry: &Entry, revision: Option<i64>) {
        if self.accepted.shape == Shape::Object && !self.endpoint.converts() {
            match (self.accepted.format, revision) {
                (Format::Protobuf, None) => {
                    if let Some(message) = entry.served.message() {
                        let row = &self.endpoint.row.kind;
                        let sealed = protobuf::seal(&row.api_version(), &row.kind, message);
                        return out.put_slice(&protobuf::watch_frame(kind, &sealed));
                    }
                }
                (Format::Protobuf, Some(_)) => {}
                (_, None) => return put_json(out, kind, entry.served.json()),
                (_, Some(revision)) => return put_json(out, kind, &entry.served.at_revision(revision)),
            }
        }
        match entry.served.object() {
            Ok(mut object) => {
                if let Some(revision) = revision {
                    object.meta_mut().set_resource_version(&revision.to_string());
                }
                let object = in_version(object, &self.endpoint);
                let shaped = self.shape(object);
                put_frame(out, self.accepted.format, kind, &shaped);
            }
            Err(error) => tracing::error!(error = &error as &dyn std::error::Error, "cached object cannot be read"),
        }
    }

    fn shape(&mut self, object: Value) -> Value {
        match self.accepted.shape {
            Shape::Object => object,
            Shape::Metadata(version) => partial_metadata(&object, version),
            Shape::Table(version) => {
                let headers = !std::mem::replace(&mut self.headers_sent, true);
                let metadata = value!({"resourceVersion": object.meta().resource_version()});
                table::table(&self.endpoint.row, version, metadata, &[object], self.include, headers)
            }
        }
    }

    fn put_bookmark(&mut self, out: &mut BytesMut, revision: i64, initial_end: bool) {
        let mut object = value!({"metadata": {"resourceVersion": revision.to_string(), "creationTimestamp": null}});
        object.set_gvk(&self.endpoint.row.kind);
        if initial_end {
            object.meta_mut().set_annotation("k8s.io/initial-events-end", "true");
        }
        let object = match self.accepted.shape {
            Shape::Table(version) => {
                let metadata = value!({"resourceVersion": revision.to_string()});
                let mut table = table::table(&self.endpoint.row, version, metadata, &[], self.include, false);
                let row = value!({"cells": [], "object": partial_metadata(&object, version)});
                table.insert("rows", vec![row]);
                table
            }
            Shape::Metadata(version) => partial_metadata(&object, version),
            Shape::Object => object,
        };
        put_frame(out, self.accepted.format, "BOOKMARK", &object);
    }
}
