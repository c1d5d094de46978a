//! The `Store` contract: etcd's data model, as the API server needs it.
//!
//! Invariants that every backend keeps, and that the contract suite (`storage::suite`) checks:
//! one global [`Revision`] that grows by one with each transaction that writes; transactions are atomic and
//! linearizable; an acknowledged write survives a crash; ranges can be read at any revision that is not yet
//! compacted; watches are ordered, unique, atomic, reliable, resumable and bookmarkable
//! (<https://etcd.io/docs/v3.6/learning/api_guarantees/>).

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::mpsc;

/// The store's global revision: 0 is "none", the first write has a revision above 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub i64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Identifies a lease; 0 is "no lease".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaseId(pub i64);

/// A key with its value and its history in numbers, as in etcd's `mvccpb.KeyValue`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// The key, for example `/registry/pods/default/web`.
    pub key: Bytes,
    /// The value, opaque to the store.
    pub value: Bytes,
    /// The revision that created the key last.
    pub create_revision: Revision,
    /// The revision of the last change.
    pub mod_revision: Revision,
    /// The number of changes since creation; 1 for a key just created.
    pub version: i64,
    /// The lease that deletes the key when it expires.
    pub lease: LeaseId,
}

/// A half-open interval of keys `[start, end)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRange {
    /// The first key.
    pub start: Bytes,
    /// The key after the last one; empty means "no upper bound".
    pub end: Bytes,
}

/// What to read with [`Store::range`].
#[derive(Clone, Debug)]
pub struct RangeRequest {
    /// The keys.
    pub range: KeyRange,
    /// The most key-values to return; 0 is "all".
    pub limit: usize,
    /// Read the state at this revision; `None` is the newest.
    pub revision: Option<Revision>,
    /// Leave the values out.
    pub keys_only: bool,
}

/// What [`Store::range`] found.
#[derive(Clone, Debug)]
pub struct RangeResponse {
    /// In key order.
    pub kvs: Vec<KeyValue>,
    /// There are keys beyond `limit`.
    pub more: bool,
    /// All keys in the range, also those beyond `limit`.
    pub count: usize,
    /// The store's revision when it was read (also when an older one was asked for).
    pub revision: Revision,
}

/// A condition on one key; a transaction's conditions must all hold.
#[derive(Clone, Debug)]
pub enum Compare {
    /// The key's `mod_revision` is this; `Revision(0)` is "the key does not exist".
    ModRevision(Bytes, Revision),
    /// The key exists with this value.
    Value(Bytes, Bytes),
}

/// How durable a write must be before it is acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// Survives power loss.
    #[default]
    Full,
    /// Survives the end of the process; may be lost (never torn, never reordered) at power loss. For node leases and events.
    Relaxed,
}

/// One operation of a transaction.
#[derive(Clone, Debug)]
pub enum Op {
    /// Set a key.
    Put {
        /// The key.
        key: Bytes,
        /// Its new value.
        value: Bytes,
        /// The lease to attach; `LeaseId(0)` for none.
        lease: LeaseId,
    },
    /// Delete a key; no error when it is not there.
    Delete {
        /// The key.
        key: Bytes,
    },
    /// Read a key.
    Get {
        /// The key.
        key: Bytes,
    },
}

/// The most keys that one transaction may write.
pub const TXN_WRITES_MAX: usize = 4096;

/// An atomic compare-and-write. A key may be written only once in it, by at most [`TXN_WRITES_MAX`] writes.
#[derive(Clone, Debug, Default)]
pub struct Txn {
    /// All must hold for `success` to run.
    pub compares: Vec<Compare>,
    /// What to do when they hold.
    pub success: Vec<Op>,
    /// What to do when they do not.
    pub failure: Vec<Op>,
    /// When the answer may be given.
    pub durability: Durability,
}

/// The answer to one [`Op`].
#[derive(Clone, Debug)]
pub enum OpResponse {
    /// A put; the key as it was before.
    Put(Option<KeyValue>),
    /// A delete; the key as it was before.
    Delete(Option<KeyValue>),
    /// A get.
    Get(Option<KeyValue>),
}

/// The answer to a [`Txn`].
#[derive(Clone, Debug)]
pub struct TxnResponse {
    /// Whether the compares held.
    pub succeeded: bool,
    /// The store's revision after the transaction: its own if it wrote something.
    pub revision: Revision,
    /// One for each operation that ran.
    pub responses: Vec<OpResponse>,
}

/// One change of one key.
#[derive(Clone, Debug)]
pub struct Event {
    /// The key after the change; of a deletion: key and `mod_revision` only, the value empty.
    pub kv: KeyValue,
    /// The key before the change; `None` for a creation (and where the history needed is compacted).
    pub prev: Option<KeyValue>,
    /// Whether the key was deleted.
    pub deleted: bool,
}

/// What a watch delivers.
#[derive(Clone, Debug)]
pub enum WatchResponse {
    /// All events of one or more whole revisions, in order: a transaction is never split.
    Events {
        /// The events.
        events: Vec<Event>,
        /// Everything up to this revision has been delivered.
        revision: Revision,
    },
    /// No events up to and including this revision beyond those delivered. See [`Store::request_progress`].
    Progress(Revision),
    /// The start revision is compacted; the watch ends.
    Compacted {
        /// The oldest revision that a watch can start from.
        compact_revision: Revision,
    },
    /// The watcher was too slow for its bounded queue; the watch ends. Resume from the last revision seen.
    Lagged,
}

/// A running watch. Dropping it ends the watch.
pub type WatchStream = mpsc::Receiver<WatchResponse>;

/// Why a store operation failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The revision asked for is gone.
    #[error("revision {requested} has been compacted (oldest readable: {compact_revision})")]
    Compacted {
        /// What was asked for.
        requested: Revision,
        /// The oldest revision that can be read.
        compact_revision: Revision,
    },
    /// The revision asked for is not there yet.
    #[error("revision {requested} is in the future (current: {current})")]
    FutureRevision {
        /// What was asked for.
        requested: Revision,
        /// The newest.
        current: Revision,
    },
    /// The lease is unknown or expired.
    #[error("lease {0:?} not found")]
    LeaseNotFound(LeaseId),
    /// The disk is full. Nothing of the transaction was written.
    #[error("the store at {path} has no space left: free some disk space; nothing was written")]
    NoSpace {
        /// The database file.
        path: String,
    },
    /// The store cannot be opened (already in use, from a newer version, unreadable, ...).
    #[error("cannot open the store at {path}: {reason}")]
    Open {
        /// The database file.
        path: String,
        /// What to do about it.
        reason: String,
    },
    /// The backend failed.
    #[error("{operation} failed in the store")]
    Backend {
        /// What was tried.
        operation: &'static str,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The store is shutting down.
    #[error("the store is closed")]
    Closed,
}

/// A revisioned key-value store. All methods are cancellation safe: a dropped write may or may not have happened,
/// never half.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// The newest revision, linearizable: at least that of every write acknowledged before the call.
    async fn current_revision(&self) -> Result<Revision, StoreError>;

    /// Reads one key, now.
    async fn get(&self, key: &[u8]) -> Result<Option<KeyValue>, StoreError>;

    /// Reads a range, now or at an older revision.
    async fn range(&self, request: RangeRequest) -> Result<RangeResponse, StoreError>;

    /// Compares and writes, atomically.
    async fn txn(&self, txn: Txn) -> Result<TxnResponse, StoreError>;

    /// Delivers every event in `range` with a revision above `after`; `None` starts from now. The queue is bounded by `capacity`
    /// messages; a watcher that falls further behind gets [`WatchResponse::Lagged`]. The stream ends when the store closes.
    /// Fails with [`StoreError::FutureRevision`] when `after` is above the newest revision.
    async fn watch(&self, range: KeyRange, after: Option<Revision>, capacity: usize) -> Result<WatchStream, StoreError>;

    /// Asks that every watch which has nothing left to deliver gets a [`WatchResponse::Progress`] with the newest revision now, as
    /// etcd's `WatchProgressRequest` does: a cache that waits for a revision calls this instead of polling. Without it a quiet
    /// watch hears of the newest revision only every few seconds, and only while others write. A watch whose queue is full is left out.
    async fn request_progress(&self) -> Result<(), StoreError>;

    /// Forgets history below `revision`, which itself stays readable. Never blocks writers for long; compacting again at an older
    /// revision does nothing.
    async fn compact(&self, revision: Revision) -> Result<(), StoreError>;

    /// Creates a lease; its keys are deleted when `ttl` has passed without a keep-alive.
    async fn lease_grant(&self, ttl: Duration) -> Result<LeaseId, StoreError>;

    /// Starts the lease's `ttl` anew and returns it.
    async fn lease_keep_alive(&self, lease: LeaseId) -> Result<Duration, StoreError>;

    /// Ends a lease and deletes its keys.
    async fn lease_revoke(&self, lease: LeaseId) -> Result<(), StoreError>;

    /// The bytes on disk (or in memory) that the store uses.
    async fn size_bytes(&self) -> Result<u64, StoreError>;

    /// Flushes and closes; later calls answer [`StoreError::Closed`].
    async fn close(&self) -> Result<(), StoreError>;
}
