//! Watches that begin before what the cache remembers: their first events come from the history of the store, as far back as that was
//! not compacted. So a client goes on after the server was restarted, or where nobody had asked for the resource yet.

use std::sync::Arc;
use std::time::{Duration, Instant};

use apimachinery::Status;
use storage::{Event, KeyRange, Revision, StoreError, WatchResponse};

use crate::cache::{CacheEvent, Snapshot, TooOld, WatchScope, WatchStart, Watcher, prefix_end};
use crate::registry::{Engine, Stored, store_status};

/// Whoever is further behind lists again: that is cheaper than so many events.
const EVENTS_MAX: usize = 4096;
/// Messages of the store that may wait.
const QUEUE: usize = 1024;
/// How often the store is asked whether there is more.
const PROGRESS_EVERY: Duration = Duration::from_millis(10);
/// How long reading may take.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Starts a watch after a revision: from what the cache remembers, or else from the store's history.
pub(super) async fn resume(
    engine: &Engine,
    stored: &Stored,
    revision: i64,
    scope: &WatchScope,
) -> Result<Result<(Snapshot, Watcher), TooOld>, Status> {
    let announced = engine.feed.revision();
    let too_old = match stored.cacher.watch(WatchStart::After(revision), scope.clone(), announced) {
        Ok(started) => return Ok(Ok(started)),
        Err(too_old) => too_old,
    };
    // What the cache remembers begins here; the history before it cannot change any more.
    let remembered = too_old.oldest.max(announced);
    let Ok((snapshot, mut watcher)) = stored.cacher.watch(WatchStart::After(remembered), scope.clone(), announced) else {
        return Ok(Err(too_old));
    };
    let Some(mut events) = between(engine, stored, revision, remembered).await.map_err(store_status)? else {
        return Ok(Err(too_old));
    };
    events.extend(watcher.backlog);
    watcher.backlog = events.into_iter();
    Ok(Ok((snapshot, watcher)))
}

/// The events of a resource after one revision, up to and including another that the caches have reached; `None` if they are gone,
/// or too many.
async fn between(engine: &Engine, stored: &Stored, after: i64, until: i64) -> Result<Option<Vec<Arc<CacheEvent>>>, StoreError> {
    if after < engine.feed.forgotten() {
        return Ok(None);
    }
    let prefix = stored.prefix.as_bytes();
    let range = KeyRange { start: prefix.to_vec().into(), end: prefix_end(prefix) };
    let mut stream = engine.store.watch(range, Some(Revision(after)), QUEUE).await?;
    let mut found = Vec::new();
    let begun = Instant::now();
    while begun.elapsed() < TIMEOUT {
        let reached = match tokio::time::timeout(PROGRESS_EVERY, stream.recv()).await {
            Err(_) => {
                engine.store.request_progress().await?;
                continue;
            }
            Ok(Some(WatchResponse::Events { events, revision })) => {
                let wanted = events.into_iter().filter(|event| event.kv.mod_revision.0 <= until);
                found.extend(wanted.filter_map(|event| cached(stored, event)));
                revision.0
            }
            Ok(Some(WatchResponse::Progress(revision))) => revision.0,
            Ok(Some(WatchResponse::Compacted { .. } | WatchResponse::Lagged) | None) => return Ok(None),
        };
        if found.len() > EVENTS_MAX {
            return Ok(None);
        }
        if reached >= until {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// An event as the cache would have it; `None` if neither object can be read.
fn cached(stored: &Stored, event: Event) -> Option<Arc<CacheEvent>> {
    let revision = event.kv.mod_revision.0;
    let entry = |kv: &storage::KeyValue| stored.cacher.entry(kv.key.clone(), &kv.value, kv.mod_revision.0).map(Arc::new);
    let current = if event.deleted { None } else { entry(&event.kv) };
    let previous = event.prev.as_ref().and_then(entry);
    if current.is_none() && previous.is_none() {
        return None;
    }
    Some(Arc::new(CacheEvent { revision, previous, current, received: Instant::now() }))
}
