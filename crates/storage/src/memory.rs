//! The backend without a disk: for tests, and for a server that is to forget.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::apply::{Applied, Load};
use crate::contract::{
    Event, KeyRange, KeyValue, LeaseId, RangeRequest, RangeResponse, Revision, Store, StoreError, Txn, TxnResponse, WatchStream,
};
use crate::engine::{Engine, NoDisk};
use crate::mvcc::{RowId, State};

/// Changes that compaction prunes before it lets writers in again.
const PRUNE_STEP: usize = 1000;

/// A [`Store`] in memory.
pub struct Memory {
    inner: Arc<Inner>,
    /// Ends leases when their time is over; runs from the first lease on.
    expiry: Mutex<Option<JoinHandle<()>>>,
}

struct Inner {
    engine: Arc<Engine<NoDisk>>,
    /// Held while a transaction is evaluated and published: one writer at a time.
    writing: Mutex<()>,
    leases_changed: Notify,
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if let Some(task) = self.expiry.lock().take() {
            task.abort();
        }
        self.inner.engine.close();
    }
}

impl Memory {
    /// An empty store at revision 1.
    pub fn new() -> Self {
        let inner = Inner { engine: Engine::new(State::new(), NoDisk), writing: Mutex::new(()), leases_changed: Notify::new() };
        Self { inner: Arc::new(inner), expiry: Mutex::new(None) }
    }
}

impl Inner {
    /// Runs a change of the state alone, and publishes it if it succeeds.
    fn change<T>(&self, change: impl FnOnce(&mut State, &mut Vec<Event>) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let _alone = self.writing.lock();
        let mut state = self.engine.open_snapshot()?;
        let mut events = Vec::new();
        let answer = change(&mut state, &mut events)?;
        self.engine.publish(state, &events);
        Ok(answer)
    }

    fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.change(|state, events| {
            let keys = state.leases.keys(lease)?;
            let applied = state.delete_all(keys.into_iter(), &mut no_disk())?;
            events.extend(applied.into_iter().flat_map(|applied| applied.events));
            state.leases.forget(lease);
            Ok(())
        })
    }

    async fn expire_leases(self: Arc<Self>) {
        loop {
            let changed = self.leases_changed.notified();
            let leases = self.engine.snapshot().leases;
            if let Some(lease) = leases.expired(now()) {
                // A client may have revoked it just now; otherwise only a store that was closed refuses.
                if self.revoke(lease).is_err() && self.engine.is_closed() {
                    return;
                }
                continue;
            }
            match self.engine.snapshot().leases.next_deadline() {
                None => changed.await,
                Some(deadline) => {
                    let _ = tokio::time::timeout_at(deadline.into(), changed).await;
                }
            }
        }
    }
}

/// The runtime's clock, so that a test with a paused clock drives leases too.
fn now() -> std::time::Instant {
    tokio::time::Instant::now().into_std()
}

fn no_disk() -> Box<Load<'static>> {
    Box::new(|_: RowId| Err(StoreError::Closed))
}

#[async_trait]
impl Store for Memory {
    async fn current_revision(&self) -> Result<Revision, StoreError> {
        self.inner.engine.revision()
    }

    async fn get(&self, key: &[u8]) -> Result<Option<KeyValue>, StoreError> {
        self.inner.engine.get(key)
    }

    async fn range(&self, request: RangeRequest) -> Result<RangeResponse, StoreError> {
        self.inner.engine.range(request).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnResponse, StoreError> {
        self.inner.change(|state, events| {
            let Applied { response, events: made, .. } = state.apply(txn, &mut no_disk())?;
            *events = made;
            Ok(response)
        })
    }

    async fn watch(&self, range: KeyRange, after: Option<Revision>, capacity: usize) -> Result<WatchStream, StoreError> {
        self.inner.engine.watch(range, after, capacity)
    }

    async fn request_progress(&self) -> Result<(), StoreError> {
        self.inner.engine.request_progress()
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.inner.change(|state, _| {
            if revision > state.revision {
                return Err(StoreError::FutureRevision { requested: revision, current: state.revision });
            }
            state.compact_revision = state.compact_revision.max(revision);
            Ok(())
        })?;
        while self.inner.change(|state, _| Ok(state.prune(PRUNE_STEP).1))? {
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    async fn lease_grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        let id = self.inner.change(|state, _| {
            let id = state.leases.unused_id();
            state.leases.grant(id, ttl, now());
            Ok(id)
        })?;
        self.expiry.lock().get_or_insert_with(|| tokio::spawn(self.inner.clone().expire_leases()));
        self.inner.leases_changed.notify_one();
        Ok(id)
    }

    async fn lease_keep_alive(&self, lease: LeaseId) -> Result<Duration, StoreError> {
        self.inner.change(|state, _| state.leases.keep_alive(lease, now()))
    }

    async fn lease_revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.inner.revoke(lease)
    }

    async fn size_bytes(&self) -> Result<u64, StoreError> {
        Ok(self.inner.engine.open_snapshot()?.bytes_in_memory())
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.inner.engine.close();
        if let Some(task) = self.expiry.lock().take() {
            task.abort();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn open() -> (crate::suite::Subject, ()) {
        (Arc::new(Memory::new()), ())
    }

    crate::contract_tests!(open);
}
