//! The backend on one SQLite file.
//!
//! Owns `PATH` with SQLite's `-wal` and `-shm`, `PATH-relaxed` (the side journal) and `PATH-lock`. The index of keys and revisions is
//! in memory, values are not. One thread writes (`writer`), one moves the WAL into the file (`checkpoint`), reads run on connections
//! of their own (`reader`) and never wait for either.
//!
//! Invariants: an acknowledged write of [`Durability::Full`](crate::Durability::Full) is in the synced WAL; an acknowledged relaxed one
//! is at least in the page cache; revisions never go backwards: after a crash they jump ahead by up to 1000.

mod batch;
mod checkpoint;
mod lock;
mod reader;
mod relaxed;
mod schema;
#[cfg(test)]
mod tests;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, oneshot};

use crate::contract::{
    KeyRange, KeyValue, LeaseId, RangeRequest, RangeResponse, Revision, Store, StoreError, Txn, TxnResponse, WatchStream,
};
use crate::engine::Engine;
use batch::{Command, Request};
use checkpoint::{Checkpointer, Gate};
use reader::Disk;
use relaxed::{Entry, SideJournal};
use writer::{OnDisk, Pending, Rhythm, Writer};

/// Requests that may wait for the writer; more callers wait for a place.
const QUEUE: usize = 4096;

/// How the backend trades writes for time. The defaults suit a server.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long a relaxed write may stay in the side journal before it is in the database too (where `sqlite3` sees it).
    pub relaxed_delay: Duration,
    /// How many bytes of relaxed writes may be in the side journal (and in memory).
    pub relaxed_bytes_max: usize,
    /// After about this many bytes the WAL is moved into the database.
    pub checkpoint_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            // As long as a quiet node writes nothing but leases, so that these cost only their own bytes.
            relaxed_delay: Duration::from_secs(300),
            relaxed_bytes_max: 1 << 20,
            checkpoint_bytes: 4 << 20,
        }
    }
}

/// A [`Store`] in an SQLite file.
pub struct Sqlite {
    engine: Arc<Engine<Disk>>,
    path: PathBuf,
    places: Arc<Semaphore>,
    /// `None` once closed.
    writer: Mutex<Option<WriterHandle>>,
}

struct WriterHandle {
    requests: Sender<Request>,
    thread: JoinHandle<()>,
}

/// Opens the database at `path`, creating it (mode 0600) if it is not there; its directory must exist. Blocks while it reads the index:
/// call it before serving.
///
/// Fails with [`StoreError::Open`], whose reason says what to do: another process uses it, a newer version wrote it (it is not touched),
/// it is damaged or no database, no permission, no space.
pub fn open(path: &Path, options: Options) -> Result<Sqlite, StoreError> {
    let refuse = |reason: String| StoreError::Open { path: path.display().to_string(), reason };
    let lock = lock::Lock::acquire(&beside(path, "-lock")).map_err(refuse)?;
    schema::check_header(path).map_err(refuse)?;
    let opened = open_writer(path, options).map_err(|error| match error {
        OpenError::Database(error) => refuse(schema::explain(&error)),
        OpenError::Journal(error) => refuse(schema::explain_io(&error, &beside(path, "-relaxed"))),
    })?;
    let engine = opened.engine.clone();
    let (requests, queue) = channel();
    let thread = std::thread::Builder::new().name("store-writer".to_owned()).spawn(move || {
        opened.run(&queue);
        drop(lock);
    });
    let thread = thread.map_err(|error| refuse(format!("its thread cannot be started: {error}")))?;
    Ok(Sqlite {
        engine,
        path: path.to_owned(),
        places: Arc::new(Semaphore::new(QUEUE)),
        writer: Mutex::new(Some(WriterHandle { requests, thread })),
    })
}

enum OpenError {
    Database(rusqlite::Error),
    Journal(std::io::Error),
}

impl From<rusqlite::Error> for OpenError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Database(error)
    }
}

/// Reads the database, applies what only the side journal has, and reserves revisions.
fn open_writer(path: &Path, options: Options) -> Result<Writer, OpenError> {
    let connection = schema::open_writer(path)?;
    let now = Instant::now();
    let mut loaded = schema::load(&connection, now)?;
    let (mut journal, recovered) =
        SideJournal::open(&beside(path, "-relaxed"), loaded.instance, loaded.on_disk).map_err(OpenError::Journal)?;
    let state = &mut loaded.state;
    for entry in &recovered {
        match entry {
            Entry::Version(row) => state.record(row, false),
            Entry::Grant(id, ttl) => state.leases.grant(*id, *ttl, now),
            Entry::Revoke(id) => drop(state.leases.forget(*id)),
        }
    }
    let on_disk = loaded.on_disk.max(state.revision);
    // A clean end leaves nothing reserved; otherwise a power loss may have taken relaxed writes whose revisions were seen.
    state.revision = on_disk.max(loaded.reserved);
    let reserved = Revision(state.revision.0 + 1000);
    let transaction = connection.unchecked_transaction()?;
    writer::insert(&transaction, state, recovered.iter())?;
    writer::set_meta(&transaction, "reserved_revision", reserved)?;
    transaction.commit()?;
    journal.restart(on_disk);
    let compact_revision = state.compact_revision;
    let gate = Gate::default();
    Ok(Writer {
        checkpointer: Checkpointer::start(path, gate.clone())?,
        connection,
        engine: Engine::new(loaded.state, Disk::new(path.to_owned())),
        journal,
        gate,
        options,
        path: path.display().to_string(),
        pending: Pending::default(),
        doomed: loaded.doomed.into(),
        on_disk: OnDisk { revision: on_disk, compact_revision, reserved },
        wal_bytes: 0,
        leases_wait_until: None,
        rhythm: Rhythm::new(),
        pruning: false,
        vacuuming: true,
    })
}

/// A file next to the database.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

impl Sqlite {
    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Command) -> Result<T, StoreError> {
        let place = self.places.clone().acquire_owned().await.map_err(|_| StoreError::Closed)?;
        let (answer, answered) = oneshot::channel();
        let request = Request { command: command(answer), _place: place };
        {
            let writer = self.writer.lock();
            let writer = writer.as_ref().ok_or(StoreError::Closed)?;
            writer.requests.send(request).map_err(|_| StoreError::Closed)?;
        }
        // The writer drops requests that come behind a close.
        answered.await.map_err(|_| StoreError::Closed)?
    }
}

impl Drop for Sqlite {
    /// Waits until the writer has put everything into the database.
    fn drop(&mut self) {
        if let Some(WriterHandle { requests, thread }) = self.writer.lock().take() {
            drop(requests);
            if thread.join().is_err() {
                tracing::error!("the writer thread of the store panicked");
            }
        }
    }
}

#[async_trait]
impl Store for Sqlite {
    async fn current_revision(&self) -> Result<Revision, StoreError> {
        self.engine.revision()
    }

    async fn get(&self, key: &[u8]) -> Result<Option<KeyValue>, StoreError> {
        self.engine.get(key)
    }

    async fn range(&self, request: RangeRequest) -> Result<RangeResponse, StoreError> {
        self.engine.range(request).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnResponse, StoreError> {
        self.ask(|answer| Command::Txn(txn, answer)).await
    }

    async fn watch(&self, range: KeyRange, after: Option<Revision>, capacity: usize) -> Result<WatchStream, StoreError> {
        self.engine.watch(range, after, capacity)
    }

    async fn request_progress(&self) -> Result<(), StoreError> {
        self.engine.request_progress()
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.ask(|answer| Command::Compact(revision, answer)).await
    }

    async fn lease_grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.ask(|answer| Command::Grant(ttl, answer)).await
    }

    async fn lease_keep_alive(&self, lease: LeaseId) -> Result<Duration, StoreError> {
        self.ask(|answer| Command::KeepAlive(lease, answer)).await
    }

    async fn lease_revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.ask(|answer| Command::Revoke(lease, answer)).await
    }

    async fn size_bytes(&self) -> Result<u64, StoreError> {
        self.engine.open_snapshot()?;
        let files = ["", "-wal", "-relaxed"].map(|suffix| beside(&self.path, suffix));
        Ok(files.iter().filter_map(|file| std::fs::metadata(file).ok()).map(|metadata| metadata.len()).sum())
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.ask(Command::Close).await?;
        let handle = self.writer.lock().take();
        if let Some(WriterHandle { requests, thread }) = handle {
            drop(requests);
            // It has answered, so it is about to end: what is left is to free the lock.
            let joined = tokio::task::spawn_blocking(move || thread.join().is_ok()).await;
            if !matches!(joined, Ok(true)) {
                tracing::error!("the writer thread of the store panicked");
            }
        }
        Ok(())
    }
}
