//! Lists as gathers of the cache's bytes, in blocks that are made as the client takes them: a list holds no copy of its items.

use std::sync::Arc;

use apimachinery::{GroupVersionKind, Status, protobuf};
use bytes::Bytes;
use http::{Response, StatusCode};

use super::negotiate::Shape;
use super::read::{Page, list_metadata};
use super::respond::{in_version, json_response, protobuf_response};
use crate::cache::Entry;
use crate::http::Body;
use crate::registry::Endpoint;
use crate::registry::codec::message as encode;

/// Larger lists are sent in blocks of about this size.
const BLOCK_BYTES: usize = 64 * 1024;
/// Objects that are encoded for the first time hold the thread for so many at once.
const ENCODE_MAX: usize = 128;

/// A list in JSON.
pub(super) fn json(endpoint: &Endpoint, page: Page) -> Response<Body> {
    let kind = &endpoint.row.kind;
    let head = format!(
        r#"{{"kind":"{}List","apiVersion":"{}","metadata":{},"items":["#,
        kind.kind,
        kind.api_version(),
        list_metadata(&page).to_json()
    );
    let mut first = true;
    let item = move |entry: Arc<Entry>, out: &mut Vec<u8>| {
        out.extend_from_slice(if std::mem::take(&mut first) { b"{" } else { b",{" });
        out.extend_from_slice(entry.served.members());
    };
    json_response(StatusCode::OK, Bytes::new()).map(|_| blocks(head.into_bytes(), page.entries, item, b"]}\n".to_vec()))
}

/// A list in protobuf. Its length stands at its beginning, so all items are encoded first, once for all lists and watches.
pub(super) async fn protobuf(endpoint: &Endpoint, shape: Shape, page: Page) -> Result<Response<Body>, Status> {
    let mut messages = Vec::with_capacity(page.entries.len());
    for (index, entry) in page.entries.iter().enumerate() {
        if index % ENCODE_MAX == ENCODE_MAX - 1 {
            tokio::task::yield_now().await;
        }
        let no_schema = || Status::internal_error(format_args!("{} has no protobuf schema", endpoint.row.kind.kind));
        messages.push(message(entry, endpoint, shape).ok_or_else(no_schema)?);
    }
    let kind = item_kind(endpoint, shape);
    let list = format!("{}List", kind.kind);
    let frame = protobuf::list_frame(&kind.api_version(), &list, &list_metadata(&page), messages.iter().map(Bytes::len));
    let item = |message: Bytes, out: &mut Vec<u8>| protobuf::list_item(&message, out);
    Ok(protobuf_response(StatusCode::OK, blocks(frame.head, messages, item, frame.tail)))
}

/// The kind of what stands for an object in a shape.
pub(super) fn item_kind(endpoint: &Endpoint, shape: Shape) -> GroupVersionKind {
    match shape {
        Shape::Metadata(version) => GroupVersionKind::new("meta.k8s.io", version, "PartialObjectMetadata"),
        _ => endpoint.row.kind.clone(),
    }
}

/// What stands for an object in a shape, as a protobuf message; `None` if the kind has no schema.
pub(super) fn message(entry: &Entry, endpoint: &Endpoint, shape: Shape) -> Option<Bytes> {
    match shape {
        Shape::Object if !endpoint.converts() => endpoint.message(entry),
        Shape::Object => encode(&in_version(entry.served.object().ok()?, endpoint)),
        Shape::Metadata(_) => Some(protobuf::partial_metadata_message(&entry.served.object().ok()?).into()),
        Shape::Table(_) | Shape::Misfit => None,
    }
}

/// A body of a head, items and a tail: at once if it is small.
fn blocks<T: Send + 'static>(
    head: Vec<u8>,
    items: Vec<T>,
    mut item: impl FnMut(T, &mut Vec<u8>) + Send + 'static,
    tail: Vec<u8>,
) -> Body {
    let mut items = items.into_iter().peekable();
    let mut block = move |mut out: Vec<u8>| {
        for one in items.by_ref() {
            item(one, &mut out);
            if out.len() >= BLOCK_BYTES {
                break;
            }
        }
        let done = items.peek().is_none();
        if done {
            out.extend_from_slice(&tail);
        }
        (Bytes::from(out), done)
    };
    let (bytes, done) = block(head);
    if done {
        return Body::full(bytes);
    }
    let rest = futures::stream::unfold(Some(block), |block| async move {
        let mut block = block?;
        let (bytes, done) = block(Vec::with_capacity(BLOCK_BYTES * 2));
        Some((Ok(bytes), (!done).then_some(block)))
    });
    use futures::StreamExt;
    Body::stream(futures::stream::once(async { Ok(bytes) }).chain(rest))
}
