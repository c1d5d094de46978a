//! Watches: a stream of frames, one JSON object a line or protobuf messages with their lengths before them
//! (<https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes>).

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use apimachinery::{Status, Value, cbor, decode, protobuf, schema, value};
use bytes::{BufMut, Bytes, BytesMut};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use rand::Rng;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::history;
use super::negotiate::{Accepted, Format, Shape, negotiate_stream};
use super::read::scope_range;
use super::respond::{in_version, json_response, partial_metadata, sealed};
use crate::cache::{CacheEvent, Delivery, Entry, Snapshot, WatchScope, WatchStart, Watcher};
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
    let accepted = negotiate_stream(headers, context)?;
    let engine = server.engine();
    let options = ListOptions::parse(context, stored, true)?;
    if accepted.shape == Shape::Misfit {
        // Upstream's ends at the first event.
        return Ok(stream_response(accepted.format, Body::empty()));
    }
    let initial = options.send_initial_events.unwrap_or(matches!(options.resource_version, None | Some(0)));
    match options.resource_version {
        None => engine.fresh(stored).await?,
        Some(_) => engine.ready(stored).await?,
    }
    // Only a state that is to be sent is waited for. Others hear of what follows the revision that they name, whenever that is.
    if let Some(revision) = options.resource_version.filter(|_| initial)
        && let Err(status) = engine.wait_for(revision).await
    {
        return Ok(stream_response(accepted.format, Body::full(error_frame(&status, accepted.format))));
    }
    let start = match options.resource_version {
        _ if initial => WatchStart::Now,
        Some(revision) if revision > 0 => WatchStart::After(revision),
        _ => WatchStart::Now,
    };
    let scope = scope(stored, context, &options);
    let announced = engine.feed.revision();
    let started = match start {
        WatchStart::Now => stored.cacher.watch(start, scope.clone(), announced),
        WatchStart::After(revision) => history::resume(engine, stored, revision, &scope).await?,
    };
    let (snapshot, watcher) = match started {
        Ok(started) => started,
        Err(too_old) => {
            let asked = options.resource_version.unwrap_or_default();
            let status = Status::expired(format!("too old resource version: {asked} ({})", too_old.oldest));
            return Ok(stream_response(accepted.format, Body::full(error_frame(&status, accepted.format))));
        }
    };
    let mut stream = Frames::new(server, endpoint, stored, context, &options, accepted, watcher);
    if initial {
        stream.queue_initial(&snapshot, options.send_initial_events == Some(true) && options.bookmarks);
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
    if let Some(value) = selection.indexed_value(stored) {
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
        Format::Cbor => cbor::SEQUENCE_MEDIA_TYPE,
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
        Format::Cbor => out.put_slice(&cbor::encode(&value!({"type": kind, "object": object}))),
        _ => put_json(out, kind, object.to_json().as_bytes()),
    }
}

/// Writes an event with an object in JSON.
fn put_json(out: &mut BytesMut, kind: &str, object: &[u8]) {
    out.reserve(object.len() + kind.len() + 32);
    out.put_slice(br#"{"type":""#);
    out.put_slice(kind.as_bytes());
    out.put_slice(br#"","object":"#);
    out.put_slice(object);
    out.put_slice(b"}\n");
}

/// The tree of a cached object, with another resourceVersion if one is given.
fn object_at(entry: &Entry, revision: Option<i64>) -> Option<Value> {
    match entry.served.object() {
        Ok(mut object) => {
            if let Some(revision) = revision {
                object.meta_mut().set_resource_version(&revision.to_string());
            }
            Some(object)
        }
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "cached object cannot be read");
            None
        }
    }
}

/// What an event is for a watcher of everything.
fn natural(event: &CacheEvent) -> &'static str {
    match (&event.current, &event.previous) {
        (Some(_), None) => "ADDED",
        (Some(_), Some(_)) => "MODIFIED",
        (None, _) => "DELETED",
    }
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
    /// Wakes at the next bookmark or at the end. It is kept from event to event, as is the next one: setting up and taking down are
    /// not free for thousands of watchers.
    timer: Pin<Box<Sleep>>,
    shutdown: Pin<Box<WaitForCancellationFutureOwned>>,
    done: bool,
}

/// Bytes to send: one frame that others share, or several in a buffer.
#[derive(Default)]
struct Block {
    shared: Option<Bytes>,
    buffer: BytesMut,
}

impl Block {
    fn len(&self) -> usize {
        self.buffer.len() + self.shared.as_ref().map_or(0, Bytes::len)
    }

    /// A buffer to write to, behind what is there.
    fn buffer(&mut self) -> &mut BytesMut {
        if let Some(first) = self.shared.take() {
            self.buffer.put_slice(&first);
        }
        &mut self.buffer
    }

    fn share(&mut self, frame: &Bytes) {
        match self.len() {
            0 => self.shared = Some(frame.clone()),
            _ => self.buffer().put_slice(frame),
        }
    }

    fn finish(self) -> Bytes {
        self.shared.unwrap_or_else(|| self.buffer.freeze())
    }
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
        let include = table::Include::parse(context.query.get("includeObject")).unwrap_or(table::Include::Metadata);
        let shortest = server.config().min_request_timeout;
        // At random up to twice the shortest, so that clients do not all come back at once.
        let timeout = options.timeout.unwrap_or_else(|| shortest.mul_f64(1.0 + rand::rng().random::<f64>()));
        let now = Instant::now();
        let end = now + timeout;
        let last_bookmark = end.checked_sub(BOOKMARK_BEFORE_END).filter(|at| *at > now).unwrap_or(end);
        let next_bookmark = last_bookmark.min(now + BOOKMARK_PERIOD);
        Frames {
            shutdown: Box::pin(server.draining().clone().cancelled_owned()),
            timer: Box::pin(sleep_until(if options.bookmarks { next_bookmark } else { end })),
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
            include,
            end,
            next_bookmark,
            done: false,
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

    fn queue_initial(&mut self, snapshot: &Snapshot, bookmark: bool) {
        let (start, end) = scope_range(&self.stored, &self.context, &self.options);
        let candidates = snapshot.candidates(&self.options.selection.terms(&self.stored), start, end);
        let entries: Vec<Arc<Entry>> = candidates.filter(|entry| self.wants(entry)).cloned().collect();
        self.initial = entries.into_iter();
        self.initial_end = bookmark.then_some(snapshot.revision);
    }

    /// The next bytes to send; `None` ends the watch.
    async fn next_block(&mut self) -> Option<Bytes> {
        if self.done {
            return None;
        }
        let mut out = Block::default();
        while let Some(entry) = self.initial.next() {
            self.put(out.buffer(), "ADDED", &entry, None);
            if out.len() >= BLOCK_BYTES {
                return Some(out.finish());
            }
        }
        if let Some(revision) = self.initial_end.take() {
            self.put_bookmark(out.buffer(), revision, true);
        }
        while let Some(event) = self.watcher.backlog.next() {
            self.put_event(out.buffer(), &event);
            if out.len() >= BLOCK_BYTES {
                return Some(out.finish());
            }
        }
        self.drain_queue(&mut out);
        if out.len() > 0 {
            return Some(out.finish());
        }
        self.wait(out).await
    }

    /// Takes what is in the queue without waiting.
    fn drain_queue(&mut self, out: &mut Block) {
        while out.len() < BLOCK_BYTES {
            match self.watcher.try_next() {
                Some(delivery) => self.put_delivery(out, &delivery),
                None => return,
            }
        }
    }

    async fn wait(&mut self, mut out: Block) -> Option<Bytes> {
        loop {
            tokio::select! {
                biased;
                delivery = self.watcher.next() => match delivery {
                    Some(delivery) => {
                        self.put_delivery(&mut out, &delivery);
                        self.drain_queue(&mut out);
                    }
                    None => {
                        self.done = true;
                        let status = Status::expired("the watch fell behind and was closed; list and watch again");
                        return Some(error_frame(&status, self.accepted.format));
                    }
                },
                () = self.shutdown.as_mut() => return None,
                () = self.timer.as_mut() => {
                    if Instant::now() >= self.end {
                        return None;
                    }
                    self.bookmark(out.buffer());
                    let next = self.next_bookmark.min(self.end);
                    self.timer.as_mut().reset(next);
                }
            }
            if out.len() > 0 {
                return Some(out.finish());
            }
        }
    }

    fn bookmark(&mut self, out: &mut BytesMut) {
        let last = self.end.checked_sub(BOOKMARK_BEFORE_END).unwrap_or(self.end);
        let now = Instant::now();
        let next = now + BOOKMARK_PERIOD;
        self.next_bookmark = if last > now { next.min(last) } else { self.end + BOOKMARK_PERIOD };
        // The revision first: all its events are in the queue by then, and the queue is emptied before the bookmark is sent.
        let told = self.stored.cacher.told(self.engine().feed.revision());
        while let Some(delivery) = self.watcher.try_next() {
            self.put_event(out, &delivery.event);
        }
        if let Some(revision) = self.watcher.reached(told) {
            self.put_bookmark(out, revision, false);
        }
    }

    /// Writes an event: from the frame that watchers share, if this one wants the object as it is and sees the change as what it is.
    fn put_delivery(&mut self, out: &mut Block, delivery: &Delivery) {
        let event = &delivery.event;
        let Some((kind, entry)) = self.seen(event) else { return };
        if !self.is_plain() || kind != natural(event) {
            return self.put_event(out.buffer(), event);
        }
        let make = || {
            let mut frame = BytesMut::new();
            self.put_plain(&mut frame, kind, entry, event.current.is_none().then_some(event.revision));
            frame.freeze()
        };
        match self.accepted.format {
            Format::Protobuf => out.share(delivery.protobuf(make)),
            _ => out.share(delivery.json(make)),
        }
    }

    /// Writes the event as this watcher sees it.
    fn put_event(&mut self, out: &mut BytesMut, event: &CacheEvent) {
        if let Some((kind, entry)) = self.seen(event) {
            self.put(out, kind, entry, (kind == "DELETED").then_some(event.revision));
        }
    }

    /// What this watcher sees of an event: an object that stops matching is deleted for it.
    fn seen<'a>(&self, event: &'a CacheEvent) -> Option<(&'static str, &'a Arc<Entry>)> {
        let current = event.current.as_ref().filter(|entry| self.wants(entry));
        let previous = event.previous.as_ref().filter(|entry| self.wants(entry));
        match (current, previous) {
            (Some(current), None) => Some(("ADDED", current)),
            (Some(current), Some(_)) => Some(("MODIFIED", current)),
            (None, Some(previous)) => Some(("DELETED", previous)),
            (None, None) => None,
        }
    }

    fn wants(&self, entry: &Entry) -> bool {
        self.in_namespace(entry)
            && (self.options.selection.is_everything() || self.options.selection.matches(&self.stored, entry))
    }

    fn in_namespace(&self, entry: &Entry) -> bool {
        let info = &self.context.info;
        let namespace = !self.stored.namespaced || info.namespace.is_empty() || entry.namespace() == info.namespace;
        namespace && (info.name.is_empty() || entry.name() == info.name)
    }

    /// Whether this watcher wants objects as they are in the cache.
    fn is_plain(&self) -> bool {
        self.accepted.shape == Shape::Object && !self.endpoint.converts()
    }

    /// Writes an event of a cached object; `revision` replaces its resourceVersion (deletions have that of the deletion).
    fn put(&mut self, out: &mut BytesMut, kind: &str, entry: &Entry, revision: Option<i64>) {
        if self.is_plain() {
            return self.put_plain(out, kind, entry, revision);
        }
        if let Some(object) = object_at(entry, revision) {
            let object = in_version(object, &self.endpoint);
            let shaped = self.shape(object);
            put_frame(out, self.accepted.format, kind, &shaped);
        }
    }

    fn put_plain(&self, out: &mut BytesMut, kind: &str, entry: &Entry, revision: Option<i64>) {
        match (self.accepted.format, revision) {
            (Format::Protobuf, None) => {
                if let Some(message) = self.endpoint.message(entry) {
                    let row = &self.endpoint.row.kind;
                    let sealed = protobuf::seal(&row.api_version(), &row.kind, &message);
                    return out.put_slice(&protobuf::watch_frame(kind, &sealed));
                }
            }
            (Format::Protobuf, Some(_)) | (Format::Cbor, _) => {}
            (_, None) => return put_json(out, kind, entry.served.json()),
            (_, Some(revision)) => return put_json(out, kind, &entry.served.at_revision(revision)),
        }
        if let Some(object) = object_at(entry, revision) {
            put_frame(out, self.accepted.format, kind, &object);
        }
    }

    fn shape(&mut self, object: Value) -> Value {
        match self.accepted.shape {
            Shape::Object | Shape::Misfit => object,
            Shape::Metadata(version) => partial_metadata(&object, version),
            Shape::Table(version) => {
                let headers = !std::mem::replace(&mut self.headers_sent, true);
                let metadata = value!({"resourceVersion": object.meta().resource_version()});
                table::table(&self.endpoint.row, version, metadata, &[object], self.include, headers)
            }
        }
    }

    fn put_bookmark(&mut self, out: &mut BytesMut, revision: i64, initial_end: bool) {
        let kind = &self.endpoint.row.kind;
        let mut object = value!({"metadata": {"resourceVersion": revision.to_string()}});
        // With what Go writes of an object that was never filled in.
        if let Some(info) = schema::lookup(kind) {
            let _ = decode::conform(&mut object, info);
        }
        object.set_gvk(kind);
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
            Shape::Object | Shape::Misfit => object,
        };
        put_frame(out, self.accepted.format, "BOOKMARK", &object);
    }
}
