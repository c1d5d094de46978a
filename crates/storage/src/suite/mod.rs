//! The contract suite: what every [`Store`](crate::Store) must do, checked through the trait alone.
//!
//! Each check is a function that takes a fresh, empty store and panics with what it found. `contract_tests!` turns all of them into
//! tests of a backend; a check that is added here and not listed there fails to compile as unused.

mod lease;
mod model;
mod read_write;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

pub use lease::*;
pub use model::*;
pub use read_write::*;
pub use watch::*;

use crate::contract::{
    Compare, Event, KeyRange, LeaseId, Op, RangeRequest, RangeResponse, Revision, Store, StoreError, Txn, TxnResponse,
    WatchResponse, WatchStream,
};

/// A store under test.
pub type Subject = Arc<dyn Store>;

/// How long a check waits for what must happen.
const DEADLINE: Duration = Duration::from_secs(20);

/// Makes a test of each check: `contract_tests!(open)`, with `async fn open() -> (Subject, impl Sized)`; the second value is kept for
/// the duration of the test.
#[macro_export]
macro_rules! contract_tests {
    ($open:path) => {
        $crate::contract_tests!(@each $open:
            revisions_grow_by_one compare_and_swap concurrent_compare_and_swap transactions_are_atomic values_compare
            ranges_and_limits ranges_at_revisions delete_and_create_anew writes_nothing_without_change invalid_transactions
            compaction compaction_beside_readers_and_writers closed_store_refuses
            watch_delivers_in_order watch_resumes watch_is_atomic watch_many_ranges watch_compacted watch_lagged watch_progress
            watch_under_load_and_compaction watch_ends_with_store
            leases leases_expire lease_follows_its_key model_agrees
        );
    };
    (@each $open:path: $($check:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $check() {
                let (store, _kept) = $open().await;
                $crate::suite::$check(store).await;
            }
        )*
    };
}

pub(crate) fn all() -> KeyRange {
    KeyRange { start: Bytes::from_static(b"/"), end: Bytes::new() }
}

pub(crate) fn prefix(prefix: &str) -> KeyRange {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    KeyRange { start: Bytes::copy_from_slice(prefix.as_bytes()), end: end.into() }
}

pub(crate) fn put_op(key: &str, value: impl Into<Bytes>) -> Op {
    Op::Put { key: Bytes::copy_from_slice(key.as_bytes()), value: value.into(), lease: LeaseId(0) }
}

pub(crate) fn delete_op(key: &str) -> Op {
    Op::Delete { key: Bytes::copy_from_slice(key.as_bytes()) }
}

pub(crate) async fn run(store: &Subject, ops: Vec<Op>) -> TxnResponse {
    store.txn(Txn { success: ops, ..Txn::default() }).await.expect("a transaction")
}

/// Writes a key and returns its revision.
pub(crate) async fn put(store: &Subject, key: &str, value: impl Into<Bytes>) -> Revision {
    run(store, vec![put_op(key, value)]).await.revision
}

pub(crate) async fn delete(store: &Subject, key: &str) -> Revision {
    run(store, vec![delete_op(key)]).await.revision
}

/// Writes a key if it is at a revision (0: absent).
pub(crate) async fn put_at(store: &Subject, key: &str, value: &str, revision: Revision) -> TxnResponse {
    let txn = Txn {
        compares: vec![Compare::ModRevision(Bytes::copy_from_slice(key.as_bytes()), revision)],
        success: vec![put_op(key, value.to_owned())],
        failure: vec![Op::Get { key: Bytes::copy_from_slice(key.as_bytes()) }],
        ..Txn::default()
    };
    store.txn(txn).await.expect("a transaction")
}

pub(crate) async fn range(
    store: &Subject,
    range: KeyRange,
    limit: usize,
    revision: Option<Revision>,
) -> Result<RangeResponse, StoreError> {
    store.range(RangeRequest { range, limit, revision, keys_only: false }).await
}

/// `key=value` of what is there.
pub(crate) async fn content(store: &Subject, revision: Option<Revision>) -> Vec<String> {
    let response = range(store, all(), 0, revision).await.expect("a range");
    response.kvs.iter().map(|kv| format!("{}={}", text(&kv.key), text(&kv.value))).collect()
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub(crate) async fn next(watch: &mut WatchStream) -> WatchResponse {
    tokio::time::timeout(DEADLINE, watch.recv()).await.expect("a watch response in time").expect("an open watch")
}

/// The next events of a watch, at least `count`.
pub(crate) async fn events(watch: &mut WatchStream, count: usize) -> Vec<Event> {
    let mut found = Vec::new();
    while found.len() < count {
        match next(watch).await {
            WatchResponse::Events { events, .. } => found.extend(events),
            WatchResponse::Progress(_) => {}
            other => panic!("after {} of {count} events: {other:?}", found.len()),
        }
    }
    found
}

/// `revision key=value` or `revision key deleted`, and what was before.
pub(crate) fn show(event: &Event) -> String {
    let prev = event.prev.as_ref().map_or("-".to_owned(), |kv| text(&kv.value));
    let now = if event.deleted { "deleted".to_owned() } else { text(&event.kv.value) };
    format!("{} {} {prev} -> {now}", event.kv.mod_revision, text(&event.kv.key))
}
