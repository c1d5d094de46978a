//! Get and list.

use std::sync::Arc;

use apimachinery::{Status, Value, protobuf, value};
use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};
use imbl::OrdMap;
use storage::{KeyRange, RangeRequest, Revision, StoreError};

use super::list;
use super::negotiate::{Accepted, Answer, Format, Shape, negotiate};
use super::respond::{in_version, json_response, misfit, object_response, partial_metadata, protobuf_response, value_response};
use crate::cache::{Entry, Snapshot, Term, next_key, prefix_end};
use crate::http::{Body, RequestContext};
use crate::registry::{ContinueToken, Endpoint, Engine, ListOptions, ListRevision, Stored, store_status};
use crate::table;

/// Answers with one object.
pub(crate) async fn get(
    engine: &Engine,
    endpoint: &Endpoint,
    stored: &Stored,
    context: &RequestContext,
    headers: &HeaderMap,
) -> Result<Response<Body>, Status> {
    let accepted = negotiate(headers, context, Answer::Object)?;
    if let Some(version) = context.query.non_empty("resourceVersion")
        && version.parse::<u64>().is_err()
    {
        let text = apimachinery::go_quote(version);
        let why = format!("resourceVersion: Invalid value: {text}: strconv.ParseUint: parsing {text}: invalid syntax");
        // What upstream's cache says of it has no reason.
        return Err(match stored.is_cached_upstream() {
            true => Status::new(apimachinery::Reason::Unknown, why),
            false => Status::bad_request(format!("invalid resource version: {why}")),
        });
    }
    if context.query.flag("export") == Some(true) {
        return Err(Status::bad_request("the export parameter, deprecated since v1.14, is no longer supported"));
    }
    let entry = find(engine, endpoint, stored, context).await?;
    if accepted.is_plain_json() && !endpoint.converts() {
        return Ok(json_response(StatusCode::OK, entry.served.json().clone()));
    }
    if accepted.format == Format::Protobuf
        && let Some(message) = list::message(&entry, endpoint, accepted.shape)
    {
        let kind = list::item_kind(endpoint, accepted.shape);
        let sealed = protobuf::seal(&kind.api_version(), &kind.kind, &message);
        return Ok(protobuf_response(StatusCode::OK, Body::full(sealed)));
    }
    let object = entry.served.object().map_err(Status::internal_error)?;
    Ok(match accepted.shape {
        Shape::Table(version) => {
            let object = in_version(object, endpoint);
            let metadata = value!({"resourceVersion": object.meta().resource_version()});
            let include = table::Include::parse(context.query.get("includeObject"))?;
            let table = table::table(&endpoint.row, version, metadata, &[object], include, true);
            value_response(StatusCode::OK, &table, accepted)
        }
        _ => object_response(StatusCode::OK, object, endpoint, accepted),
    })
}

/// The entry of the object that a request names.
pub(crate) async fn find(
    engine: &Engine,
    endpoint: &Endpoint,
    stored: &Stored,
    context: &RequestContext,
) -> Result<Arc<Entry>, Status> {
    let info = &context.info;
    match context.query.non_empty("resourceVersion").and_then(|text| text.parse::<i64>().ok()) {
        Some(0) => engine.ready(stored).await?,
        Some(revision) => {
            engine.ready(stored).await?;
            engine.wait_for(revision).await?;
        }
        None => engine.fresh(stored).await?,
    }
    let namespace = if stored.namespaced { info.namespace.as_str() } else { "" };
    let entry = stored.cacher.get(stored.key(namespace, &info.name).as_bytes());
    entry.ok_or_else(|| Status::not_found(&endpoint.row.group_resource(), &info.name))
}

/// What a list found.
pub(crate) struct Page {
    pub(crate) entries: Vec<Arc<Entry>>,
    pub(crate) revision: i64,
    token: Option<String>,
    remaining: Option<usize>,
}

/// Answers with a list.
pub(crate) async fn list(
    engine: &Engine,
    endpoint: &Endpoint,
    stored: &Stored,
    context: &RequestContext,
    headers: &HeaderMap,
) -> Result<Response<Body>, Status> {
    let accepted = negotiate(headers, context, Answer::List)?;
    let options = ListOptions::parse(context, stored, false)?;
    let page = gather(engine, stored, context, &options).await?;
    page_response(endpoint, context, accepted, page).await
}

/// A list in the form that the client accepts.
pub(crate) async fn page_response(
    endpoint: &Endpoint,
    context: &RequestContext,
    accepted: Accepted,
    page: Page,
) -> Result<Response<Body>, Status> {
    if accepted.is_plain_json() && !endpoint.converts() {
        return Ok(list::json(endpoint, page));
    }
    if accepted.shape == Shape::Misfit {
        return Err(misfit(endpoint, true));
    }
    if accepted.format == Format::Protobuf {
        return list::protobuf(endpoint, accepted.shape, page).await;
    }
    let mut objects = Vec::with_capacity(page.entries.len());
    for entry in &page.entries {
        objects.push(in_version(entry.served.object().map_err(Status::internal_error)?, endpoint));
    }
    let metadata = list_metadata(&page);
    let include = match accepted.shape {
        Shape::Table(_) => table::Include::parse(context.query.get("includeObject"))?,
        _ => table::Include::None,
    };
    Ok(value_response(StatusCode::OK, &list_value(endpoint, accepted, metadata, objects, include), accepted))
}

fn list_value(
    endpoint: &Endpoint,
    accepted: Accepted,
    metadata: Value,
    mut objects: Vec<Value>,
    include: table::Include,
) -> Value {
    match accepted.shape {
        Shape::Table(version) => table::table(&endpoint.row, version, metadata, &objects, include, true),
        Shape::Metadata(version) => {
            let items: Vec<Value> = objects.iter().map(|object| partial_metadata(object, version)).collect();
            value!({
                "kind": "PartialObjectMetadataList",
                "apiVersion": format!("meta.k8s.io/{version}"),
                "metadata": metadata,
                // Go's list of nothing is null.
                "items": if items.is_empty() { Value::Null } else { items.into() },
            })
        }
        Shape::Object | Shape::Misfit => {
            for object in &mut objects {
                object.remove("kind");
                object.remove("apiVersion");
            }
            value!({
                "kind": format!("{}List", endpoint.row.kind.kind),
                "apiVersion": endpoint.row.kind.api_version(),
                "metadata": metadata,
                "items": objects,
            })
        }
    }
}

pub(super) fn list_metadata(page: &Page) -> Value {
    let mut metadata = value!({"resourceVersion": page.revision.to_string()});
    if let Some(token) = &page.token {
        metadata.insert("continue", token.as_str());
    }
    if let Some(remaining) = page.remaining {
        metadata.insert("remainingItemCount", remaining);
    }
    metadata
}

/// Finds what a list asks for.
pub(crate) async fn gather(
    engine: &Engine,
    stored: &Stored,
    context: &RequestContext,
    options: &ListOptions,
) -> Result<Page, Status> {
    let snapshot = snapshot(engine, stored, options).await?;
    let (start, end) = scope_range(stored, context, options);
    let start = match &options.token {
        Some(token) => Bytes::from(format!("{}{}", stored.prefix, token.start)).max(start),
        None => start,
    };
    let everything = options.selection.is_everything();
    let candidates = snapshot.candidates(&options.selection.terms(stored), start, end.clone());
    let mut entries: Vec<Arc<Entry>> = Vec::new();
    let mut more = None;
    for entry in candidates.filter(|entry| everything || options.selection.matches(stored, entry)) {
        entries.push(entry.clone());
        if options.limit > 0 && entries.len() == options.limit {
            // There is more if there is anything more, whether it matches or not, but for what upstream's index has; it is counted only where
            // no selector makes that a guess.
            let indexed = options.indexed_value(stored);
            let terms: Vec<Term> = indexed.map(Term::field).into_iter().collect();
            let left = snapshot.candidates(&terms, next_key(&entry.key), end);
            let mut left = left.filter(|entry| indexed.is_none_or(|value| stored.cacher.indexed_value(entry) == Some(value)));
            more = left.next().map(|_| if everything { 1 + left.count() } else { 0 });
            break;
        }
    }
    let token = more.and_then(|_| entries.last()).map(|last: &Arc<Entry>| {
        let next = next_key(&last.key[stored.prefix.len()..]);
        ContinueToken { revision: snapshot.revision, start: String::from_utf8_lossy(&next).into_owned() }.encode()
    });
    let remaining = more.filter(|_| everything);
    Ok(Page { entries, revision: snapshot.revision, token, remaining })
}

/// The keys that a list is about: all of the resource, one namespace, or one object.
pub(super) fn scope_range(stored: &Stored, context: &RequestContext, options: &ListOptions) -> (Bytes, Bytes) {
    let namespace = match context.info.namespace.as_str() {
        "" => options.selection.namespace.as_deref().unwrap_or_default(),
        namespace => namespace,
    };
    let prefix = match stored.namespaced && !namespace.is_empty() {
        true => format!("{}{namespace}/", stored.prefix),
        false => stored.prefix.clone(),
    };
    match options.selection.name.as_deref() {
        Some(name) if !stored.namespaced || !namespace.is_empty() => {
            let key = Bytes::from(format!("{prefix}{name}"));
            (key.clone(), next_key(&key))
        }
        _ => {
            let end = prefix_end(prefix.as_bytes());
            (prefix.into(), end)
        }
    }
}

/// The state that a list reads.
async fn snapshot(engine: &Engine, stored: &Stored, options: &ListOptions) -> Result<Snapshot, Status> {
    if let Some(token) = &options.token {
        engine.ready(stored).await?;
        return match token.revision {
            -1 => {
                engine.fresh(stored).await?;
                Ok(engine.snapshot(stored))
            }
            revision => at_revision(engine, stored, options, revision).await,
        };
    }
    match options.revision {
        ListRevision::MostRecent => engine.fresh(stored).await?,
        ListRevision::Any => engine.ready(stored).await?,
        ListRevision::NotOlderThan(revision) => {
            engine.ready(stored).await?;
            engine.wait_for(revision).await?;
        }
        ListRevision::Exact(revision) => {
            engine.ready(stored).await?;
            engine.wait_for(revision).await?;
            return at_revision(engine, stored, options, revision).await;
        }
    }
    Ok(engine.snapshot(stored))
}

/// The state at an older revision: the cache's if nothing changed since, else the store's history.
async fn at_revision(engine: &Engine, stored: &Stored, options: &ListOptions, revision: i64) -> Result<Snapshot, Status> {
    if revision < engine.feed.forgotten() {
        return Err(expired(options));
    }
    if let Some(snapshot) = stored.cacher.snapshot_at(revision) {
        return Ok(snapshot);
    }
    let prefix = stored.prefix.as_bytes();
    let range = KeyRange { start: Bytes::copy_from_slice(prefix), end: prefix_end(prefix) };
    let request = RangeRequest { range, limit: 0, revision: Some(Revision(revision)), keys_only: false };
    let found = match engine.timed("list", stored, engine.store.range(request)).await {
        Ok(found) => found,
        Err(StoreError::Compacted { .. }) => return Err(expired(options)),
        Err(error) => return Err(store_status(error)),
    };
    let mut entries = OrdMap::new();
    for kv in found.kvs {
        if let Some(entry) = stored.cacher.entry(kv.key.clone(), &kv.value, kv.mod_revision.0) {
            entries.insert(kv.key, Arc::new(entry));
        }
    }
    Ok(Snapshot::unindexed(entries, revision))
}

/// Upstream's answer to a list at a revision that the store no longer has: a page's successor may go on at the newest state.
fn expired(options: &ListOptions) -> Status {
    let Some(token) = &options.token else {
        return Status::expired("The resourceVersion for the provided list is too old.");
    };
    let newest = ContinueToken { revision: -1, start: token.start.clone() };
    Status {
        continue_token: newest.encode(),
        ..Status::expired(
            "The provided continue parameter is too old to display a consistent list result. You can start a new list without \
             the continue parameter, or use the continue token in this response to retrieve the remainder of the results. \
             Continuing with the provided token results in an inconsistent list - objects that were created, modified, or \
             deleted between the time the first chunk was returned and now may show up in the list.",
        )
    }
}
