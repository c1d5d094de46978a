//! What all backends share: the published state, the reads on it and the watches.
//!
//! Invariants: the state is published before the watchers hear of it, and they before the writer answers, so that nobody learns of a
//! revision that he cannot read; whoever holds the hub's lock sees it at the published revision. Writing is the backend's: it evaluates transactions on a copy of the state and publishes it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use tokio::task::JoinSet;

use crate::apply::tombstone;
use crate::contract::{Event, KeyRange, KeyValue, RangeRequest, RangeResponse, Revision, StoreError, WatchResponse, WatchStream};
use crate::hub::{Hub, Watcher};
use crate::mvcc::{Change, Content, RowId, State, Version};

/// How many changes a watch that catches up reads at once.
const CATCH_UP_BATCH: usize = 256;
/// How often a read is tried again whose rows were compacted away while it ran.
const READ_ATTEMPTS_MAX: usize = 10;

/// Where the values are that the state does not hold.
pub(crate) trait Values: Send + Sync + 'static {
    /// Whether [`Values::load`] waits for a disk.
    const BLOCKS: bool;
    /// Reads values; `None` for a row that is not there (any more).
    fn load(&self, ids: &[RowId]) -> Result<Vec<Option<Bytes>>, StoreError>;
}

/// The values of a backend that keeps all of them in the state.
pub(crate) struct NoDisk;

impl Values for NoDisk {
    const BLOCKS: bool = false;
    fn load(&self, ids: &[RowId]) -> Result<Vec<Option<Bytes>>, StoreError> {
        Ok(vec![None; ids.len()])
    }
}

pub(crate) struct Engine<V> {
    published: RwLock<State>,
    hub: Mutex<Hub>,
    /// Watches that catch up with history; they end with their stream or with the store.
    catching_up: Mutex<JoinSet<()>>,
    values: V,
    closed: AtomicBool,
}

#[derive(Debug, thiserror::Error)]
#[error("rows of the state are missing in the database")]
struct MissingRows;

impl<V: Values> Engine<V> {
    pub(crate) fn new(state: State, values: V) -> Arc<Self> {
        Arc::new(Self {
            hub: Mutex::new(Hub::new(state.revision)),
            published: RwLock::new(state),
            catching_up: Mutex::new(JoinSet::new()),
            values,
            closed: AtomicBool::new(false),
        })
    }

    pub(crate) fn values(&self) -> &V {
        &self.values
    }

    /// The state now.
    pub(crate) fn snapshot(&self) -> State {
        self.published.read().clone()
    }

    pub(crate) fn open_snapshot(&self) -> Result<State, StoreError> {
        if self.is_closed() {
            return Err(StoreError::Closed);
        }
        Ok(self.snapshot())
    }

    /// The newest revision: what every read asks for first, without the cost of a snapshot.
    pub(crate) fn revision(&self) -> Result<Revision, StoreError> {
        if self.is_closed() {
            return Err(StoreError::Closed);
        }
        Ok(self.published.read().revision)
    }

    /// Makes a new state, and then its events, visible. Only the one writer calls this.
    pub(crate) fn publish(&self, state: State, events: &[Event]) {
        let revision = state.revision;
        // Under the hub's lock: a watch that catches up and joins in between would get these events twice.
        let mut hub = self.hub.lock();
        let old = std::mem::replace(&mut *self.published.write(), state);
        if !events.is_empty() {
            hub.publish(events, revision);
        }
        drop(hub);
        drop(old);
    }

    pub(crate) fn request_progress(&self) -> Result<(), StoreError> {
        let mut hub = self.hub.lock();
        if hub.closed {
            return Err(StoreError::Closed);
        }
        hub.progress();
        Ok(())
    }

    /// Ends all watches; later calls answer [`StoreError::Closed`].
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.hub.lock().close();
        self.catching_up.lock().abort_all();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Reads one key, now. One row is at most one read of the disk: not worth a thread.
    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<KeyValue>, StoreError> {
        for _ in 0..READ_ATTEMPTS_MAX {
            let state = self.open_snapshot()?;
            let Some((key, version)) = state.live(key) else { return Ok(None) };
            if let Some(kvs) = self.load(vec![(key.clone(), version.clone())])? {
                return Ok(kvs.into_iter().next());
            }
        }
        Err(missing_rows())
    }

    pub(crate) async fn range(self: &Arc<Self>, request: RangeRequest) -> Result<RangeResponse, StoreError> {
        let engine = self.clone();
        self.blocking(move || engine.range_now(&request)).await
    }

    fn range_now(&self, request: &RangeRequest) -> Result<RangeResponse, StoreError> {
        for _ in 0..READ_ATTEMPTS_MAX {
            let state = self.open_snapshot()?;
            let at = request.revision.unwrap_or(state.revision);
            if at > state.revision {
                return Err(StoreError::FutureRevision { requested: at, current: state.revision });
            }
            if at < state.compact_revision {
                return Err(StoreError::Compacted { requested: at, compact_revision: state.compact_revision });
            }
            let scan = state.scan(&request.range, at, request.limit);
            let more = scan.count > scan.found.len();
            let kvs = if request.keys_only {
                Some(scan.found.into_iter().map(|(key, version)| version.key_value(key, Bytes::new())).collect())
            } else {
                self.load(scan.found)?
            };
            if let Some(kvs) = kvs {
                return Ok(RangeResponse { kvs, more, count: scan.count, revision: state.revision });
            }
        }
        Err(missing_rows())
    }

    /// Fills in the values; `None` when a row was compacted away meanwhile.
    fn load(&self, found: Vec<(Bytes, Version)>) -> Result<Option<Vec<KeyValue>>, StoreError> {
        let on_disk = found.iter().filter(|(_, version)| matches!(version.content, Content::Disk));
        let ids: Vec<RowId> = on_disk.map(|(_, version)| version.id).collect();
        let mut loaded = if ids.is_empty() { Vec::new() } else { self.values.load(&ids)? }.into_iter();
        let mut kvs = Vec::with_capacity(found.len());
        for (key, version) in found {
            let value = match &version.content {
                Content::Memory(value) => value.clone(),
                Content::Deleted => Bytes::new(),
                Content::Disk => match loaded.next().flatten() {
                    Some(value) => value,
                    None => return Ok(None),
                },
            };
            kvs.push(version.key_value(key, value));
        }
        Ok(Some(kvs))
    }

    pub(crate) fn watch(
        self: &Arc<Self>,
        range: KeyRange,
        after: Option<Revision>,
        capacity: usize,
    ) -> Result<WatchStream, StoreError> {
        let (mut watcher, stream) = Watcher::new(range, capacity)?;
        let mut hub = self.hub.lock();
        if hub.closed {
            return Err(StoreError::Closed);
        }
        let after = after.unwrap_or(hub.revision);
        watcher.told = after;
        if after > hub.revision {
            return Err(StoreError::FutureRevision { requested: after, current: hub.revision });
        }
        if after == hub.revision {
            hub.attach(watcher);
            return Ok(stream);
        }
        drop(hub);
        let mut tasks = self.catching_up.lock();
        while tasks.try_join_next().is_some() {}
        tasks.spawn(self.clone().catch_up(watcher));
        Ok(stream)
    }

    /// Sends a watcher the history that it asked for, at its own pace, then lets it join the others.
    async fn catch_up(self: Arc<Self>, mut watcher: Watcher) {
        let mut position = watcher.told;
        loop {
            {
                let mut hub = self.hub.lock();
                if position >= hub.revision {
                    hub.attach(watcher);
                    return;
                }
            }
            let (engine, range) = (self.clone(), watcher.range.clone());
            match self.blocking(move || engine.history(position, &range)).await {
                Ok((events, complete)) => {
                    position = complete;
                    if events.is_empty() {
                        continue;
                    }
                    watcher.told = complete;
                    if watcher.tx.send(WatchResponse::Events { events, revision: complete }).await.is_err() {
                        return;
                    }
                }
                Err(StoreError::Compacted { compact_revision, .. }) => {
                    return watcher.end(WatchResponse::Compacted { compact_revision });
                }
                Err(StoreError::Closed) => return,
                Err(error) => {
                    let error: &(dyn std::error::Error + 'static) = &error;
                    tracing::error!(error, "a watch ends: its history cannot be read");
                    return watcher.end(WatchResponse::Lagged);
                }
            }
        }
    }

    /// The events after a revision, some whole revisions of them, and the revision up to which they are complete.
    fn history(&self, after: Revision, range: &KeyRange) -> Result<(Vec<Event>, Revision), StoreError> {
        for _ in 0..READ_ATTEMPTS_MAX {
            let state = self.open_snapshot()?;
            if after < state.compact_revision {
                return Err(StoreError::Compacted { requested: after, compact_revision: state.compact_revision });
            }
            let (changes, complete) = state.changes(after, range, CATCH_UP_BATCH);
            if let Some(events) = self.events(changes)? {
                return Ok((events, complete));
            }
        }
        Err(missing_rows())
    }

    fn events(&self, changes: Vec<Change>) -> Result<Option<Vec<Event>>, StoreError> {
        let mut wanted = Vec::with_capacity(changes.len() * 2);
        for change in &changes {
            wanted.push((change.key.clone(), change.version.clone()));
            wanted.extend(change.before.clone().map(|before| (change.key.clone(), before)));
        }
        let Some(kvs) = self.load(wanted)? else { return Ok(None) };
        let mut kvs = kvs.into_iter();
        let mut events = Vec::with_capacity(changes.len());
        for change in changes {
            let deleted = change.version.is_deleted();
            let kv = kvs.next().filter(|_| !deleted);
            let kv = kv.unwrap_or_else(|| tombstone(change.key, change.version.id.revision()));
            let prev = if change.before.is_some() { kvs.next() } else { None };
            events.push(Event { kv, prev, deleted });
        }
        Ok(Some(events))
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        if !V::BLOCKS {
            return work();
        }
        match tokio::task::spawn_blocking(work).await {
            Ok(result) => result,
            Err(error) => Err(StoreError::Backend { operation: "a read", source: Box::new(error) }),
        }
    }
}

fn missing_rows() -> StoreError {
    StoreError::Backend { operation: "a read", source: Box::new(MissingRows) }
}
