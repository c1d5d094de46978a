//! The one thread that writes: it groups what is queued, commits the group, publishes it, answers.
//!
//! A group with a write that must survive power loss goes into the database in one synchronous transaction, with all relaxed writes
//! before it. A group of relaxed writes only goes to the side journal (`relaxed`). Either way the group is evaluated on a copy of the
//! state that nobody sees until it is committed: when a commit fails the copy is dropped and nothing happened.
//!
//! Invariants: what is published is in the database or in the journal; revisions above `reserved` are only given out by synchronous
//! commits, so that none is given out twice even if a power loss takes the journal.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, params};

use super::Options;
use super::batch::{Batch, Request, failed, request_bytes};
use super::checkpoint::{Checkpointer, Gate};
use super::reader::Disk;
use super::relaxed::{Entry, SideJournal};
use super::schema::readable;
use crate::contract::{Revision, StoreError};
use crate::engine::Engine;
use crate::mvcc::{RowId, State};

/// A group holds at most this many requests and about this many bytes.
const GROUP_REQUESTS_MAX: usize = 1024;
const GROUP_BYTES_MAX: usize = 4 << 20;
/// Revisions that relaxed writes may use between two synchronous commits.
const RESERVE: i64 = 1000;
/// Changes pruned from the state, and rows deleted with a commit, before the next group has its turn.
const PRUNE_STEP: usize = 1000;
const DELETES_PER_COMMIT: usize = 256;
/// Superfluous rows that may wait for a commit to take them along.
const DOOMED_MAX: usize = 4096;
/// The least free pages worth giving back to the file system, and how many go at once.
const VACUUM_PAGES_MIN: i64 = 2048;
const VACUUM_PAGES_STEP: i64 = 256;
/// The longest wait for more requests before a commit, however slow the disk is.
const PATIENCE_MAX: Duration = Duration::from_millis(2);
/// How long to wait before trying again what failed on a full disk.
const RETRY: Duration = Duration::from_secs(5);

pub(super) struct Writer {
    pub(super) connection: Connection,
    pub(super) engine: Arc<Engine<Disk>>,
    pub(super) journal: SideJournal,
    pub(super) checkpointer: Checkpointer,
    pub(super) gate: Gate,
    pub(super) options: Options,
    pub(super) path: String,
    /// What the journal has and the database has not.
    pub(super) pending: Pending,
    /// Rows to delete.
    pub(super) doomed: VecDeque<RowId>,
    pub(super) on_disk: OnDisk,
    /// Estimate of what the WAL gained since the checkpointer was woken.
    pub(super) wal_bytes: usize,
    /// After a failed commit, leases are not ended for a while: it would only fail again.
    pub(super) leases_wait_until: Option<Instant>,
    pub(super) rhythm: Rhythm,
    /// The state has changes to prune.
    pub(super) pruning: bool,
    /// Free pages may be worth giving back.
    pub(super) vacuuming: bool,
}

/// How the group commits follow each other. While one is being synced, some writers wait for the next; those that it answers ask again
/// within a fraction of the time that a sync takes. Without patience for them there would be two halves of all writers, each of which
/// waits for a sync of its own and one of the others.
#[derive(Debug)]
pub(super) struct Rhythm {
    /// The last group's size, when it was answered, and how long it had taken.
    size: usize,
    at: Instant,
    took: Duration,
}

impl Rhythm {
    pub(super) fn new() -> Self {
        Self { size: 0, at: Instant::now(), took: Duration::ZERO }
    }

    /// Takes what is queued, and waits for the expected number at most until a quarter of what the last commit took has passed since. A
    /// lone writer is never held up: its next request is all that is expected.
    fn gather(&self, waiting: &mut VecDeque<Request>, expected: usize, requests: &Receiver<Request>) {
        let until = self.at + (self.took / 4).min(PATIENCE_MAX);
        waiting.extend(requests.try_iter());
        while waiting.len() < expected.min(GROUP_REQUESTS_MAX) {
            let left = until.saturating_duration_since(Instant::now());
            match requests.recv_timeout(left) {
                Ok(request) => waiting.push_back(request),
                Err(_) => return,
            }
        }
    }
}

/// The first of those who wait, as many as fit one group.
fn take_group(waiting: &mut VecDeque<Request>) -> Vec<Request> {
    let mut group = Vec::new();
    let mut bytes = 0;
    while group.len() < GROUP_REQUESTS_MAX && bytes < GROUP_BYTES_MAX {
        let Some(request) = waiting.pop_front() else { break };
        bytes += request_bytes(&request);
        group.push(request);
    }
    group
}

/// Numbers that the database holds.
pub(super) struct OnDisk {
    /// What `schema::load` would find.
    pub(super) revision: Revision,
    pub(super) compact_revision: Revision,
    pub(super) reserved: Revision,
}

#[derive(Default)]
pub(super) struct Pending {
    pub(super) entries: Vec<Entry>,
    pub(super) bytes: usize,
    /// When to move them into the database at the latest.
    pub(super) due: Option<Instant>,
}

/// Why a commit failed; nothing of it was written.
#[derive(Debug, thiserror::Error)]
pub(super) enum CommitError {
    #[error("no space left")]
    NoSpace,
    #[error("{0}")]
    Database(String),
    #[error("the side journal cannot be written: {0}")]
    Journal(String),
}

impl From<rusqlite::Error> for CommitError {
    fn from(error: rusqlite::Error) -> Self {
        /// `SQLITE_IOERR_SHMSIZE`: the WAL's index cannot grow.
        const SHM_SIZE: i32 = 4874;
        match error.sqlite_error() {
            Some(cause) if cause.code == ErrorCode::DiskFull || cause.extended_code == SHM_SIZE => Self::NoSpace,
            _ => Self::Database(error.to_string()),
        }
    }
}

impl Writer {
    /// Works until the store is closed or dropped.
    pub(super) fn run(mut self, requests: &Receiver<Request>) {
        let mut close = None;
        let mut waiting = VecDeque::new();
        while close.is_none() {
            // Those who wait already, and those who were answered just now and are about to ask again.
            let expected = waiting.len() + self.rhythm.size;
            if waiting.is_empty() {
                match self.wait(requests) {
                    Ok(request) => waiting.push_back(request),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => break,
                }
            }
            let idle = waiting.is_empty();
            if !idle {
                self.rhythm.gather(&mut waiting, expected, requests);
            }
            let group = take_group(&mut waiting);
            let (size, began) = (group.len(), Instant::now());
            close = self.work(group);
            self.rhythm = Rhythm { size, at: Instant::now(), took: began.elapsed() };
            waiting.extend(requests.try_iter());
            self.housekeeping(idle);
        }
        self.engine.close();
        let result = self.finish();
        if let Some(answer) = close {
            let _ = answer.send(result.map_err(|error| error.to_store_error(&self.path)));
        } else if let Err(error) = result {
            tracing::error!(%error, "the store could not be closed cleanly; nothing acknowledged is lost");
        }
    }

    fn wait(&self, requests: &Receiver<Request>) -> Result<Request, RecvTimeoutError> {
        if self.pruning || self.vacuuming || self.doomed.len() > DOOMED_MAX {
            return requests.try_recv().map_err(|error| match error {
                std::sync::mpsc::TryRecvError::Empty => RecvTimeoutError::Timeout,
                std::sync::mpsc::TryRecvError::Disconnected => RecvTimeoutError::Disconnected,
            });
        }
        let lease = self.engine.snapshot().leases.next_deadline();
        let deadlines = [self.pending.due, lease.max(lease.and(self.leases_wait_until))];
        match deadlines.into_iter().flatten().min() {
            Some(deadline) => requests.recv_timeout(deadline.saturating_duration_since(Instant::now())),
            None => requests.recv().map_err(|_| RecvTimeoutError::Disconnected),
        }
    }

    /// Evaluates, commits, publishes and answers one group. Returns who waits for the store to close.
    fn work(&mut self, group: Vec<Request>) -> Option<tokio::sync::oneshot::Sender<Result<(), StoreError>>> {
        let mut batch = Batch::new(self.engine.snapshot());
        let compacted = batch.state.compact_revision;
        let now = Instant::now();
        let expire = self.leases_wait_until.is_none_or(|until| until <= now);
        batch.run(group, &self.connection, now, expire);
        let replies = batch.replies();
        match self.commit(&mut batch) {
            Ok(()) => {
                self.leases_wait_until = None;
                self.pruning |= batch.state.compact_revision > compacted;
                self.engine.publish(batch.state, &batch.events);
                Batch::answer(replies, None);
            }
            Err(error) => {
                self.leases_wait_until = Some(now + RETRY);
                Batch::answer(replies, Some(&|| error.to_store_error(&self.path)));
            }
        }
        batch.close
    }

    fn commit(&mut self, batch: &mut Batch) -> Result<(), CommitError> {
        if batch.entries.is_empty() {
            return Ok(());
        }
        let bytes: usize = batch.entries.iter().map(Entry::size).sum();
        let must_sync = batch.full
            || batch.state.revision > self.on_disk.reserved
            || self.pending.bytes + bytes > self.options.relaxed_bytes_max;
        if must_sync {
            return self.commit_to_database(&mut batch.state, &batch.entries, DELETES_PER_COMMIT);
        }
        self.journal.append(&batch.entries).map_err(|error| match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => CommitError::NoSpace,
            _ => CommitError::Journal(error.to_string()),
        })?;
        self.pending.bytes += bytes;
        self.pending.due.get_or_insert_with(|| Instant::now() + self.options.relaxed_delay);
        self.pending.entries.append(&mut batch.entries);
        Ok(())
    }

    /// One synchronous transaction: everything pending, `entries`, and some deletions of superfluous rows.
    fn commit_to_database(&mut self, state: &mut State, entries: &[Entry], deletes: usize) -> Result<(), CommitError> {
        let deletes = deletes.min(self.doomed.len());
        let compact_revision = state.compact_revision;
        let reserved = self.next_reserve(state.revision);
        {
            let _open = self.gate.lock();
            let transaction = self.connection.unchecked_transaction()?;
            insert(&transaction, state, self.pending.entries.iter().chain(entries))?;
            delete(&transaction, self.doomed.iter().take(deletes))?;
            if compact_revision > self.on_disk.compact_revision {
                set_meta(&transaction, "compact_revision", compact_revision)?;
            }
            if let Some(reserved) = reserved {
                set_meta(&transaction, "reserved_revision", reserved)?;
            }
            transaction.commit()?;
        }
        self.doomed.drain(..deletes);
        self.on_disk.reserved = reserved.unwrap_or(self.on_disk.reserved);
        self.on_disk.compact_revision = compact_revision;
        self.on_disk.revision = self.on_disk.revision.max(compact_revision);
        let pending = std::mem::take(&mut self.pending);
        for entry in pending.entries.iter().chain(entries) {
            if let Entry::Version(row) = entry {
                self.on_disk.revision = self.on_disk.revision.max(row.id.revision());
                state.settle(row);
            }
            self.wal_bytes += entry.size();
        }
        self.journal.restart(self.on_disk.revision);
        // A commit writes some pages besides the rows' own; a deletion about one.
        self.wal_bytes += (8 << 10) + deletes * 1024;
        if self.wal_bytes > self.options.checkpoint_bytes {
            self.wal_bytes = 0;
            self.checkpointer.wake();
        }
        Ok(())
    }

    /// A new reservation, when half of the last one is used.
    fn next_reserve(&self, revision: Revision) -> Option<Revision> {
        (self.on_disk.reserved.0 - revision.0 < RESERVE / 2).then_some(Revision(revision.0 + RESERVE))
    }

    /// Work that nobody waits for, in small steps.
    fn housekeeping(&mut self, idle: bool) {
        if self.pruning {
            let mut state = self.engine.snapshot();
            let (gone, more) = state.prune(PRUNE_STEP);
            self.doomed.extend(gone);
            self.engine.publish(state, &[]);
            self.pruning = more;
            self.vacuuming = !more;
        }
        let due = self.pending.due.is_some_and(|due| due <= Instant::now());
        let many = self.doomed.len() > DOOMED_MAX;
        if due || (many && idle) {
            let mut state = self.engine.snapshot();
            match self.commit_to_database(&mut state, &[], DELETES_PER_COMMIT * 4) {
                Ok(()) => self.engine.publish(state, &[]),
                Err(error) => self.try_later("relaxed writes stay in the side journal for now", &error),
            }
        } else if self.vacuuming && idle {
            match self.vacuum_step() {
                Ok(more) => self.vacuuming = more,
                Err(error) => {
                    self.vacuuming = false;
                    self.try_later("free pages stay in the database for now", &error);
                }
            }
        }
    }

    fn try_later(&mut self, what: &'static str, error: &CommitError) {
        tracing::warn!(%error, what, "the store cannot tidy up");
        self.pending.due = Some(Instant::now() + RETRY);
        // Only deletions wait here: leave them to the next commit that works, and to the next start.
        self.doomed.truncate(DOOMED_MAX);
    }

    /// Gives some free pages back, when many are. Returns whether to go on.
    fn vacuum_step(&mut self) -> Result<bool, CommitError> {
        let pragma = |name| self.connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
        let (free, all) = (pragma("freelist_count")?, pragma("page_count")?);
        if free < VACUUM_PAGES_MIN || free < all / 4 {
            return Ok(false);
        }
        let _open = self.gate.lock();
        // Each row that it returns is a page given back.
        let mut vacuum = self.connection.prepare(&format!("PRAGMA incremental_vacuum({VACUUM_PAGES_STEP})"))?;
        let mut pages = vacuum.query([])?;
        while pages.next()?.is_some() {}
        drop(pages);
        drop(vacuum);
        self.wal_bytes += usize::try_from(VACUUM_PAGES_STEP).unwrap_or(0) * 4096;
        Ok(true)
    }

    /// Moves everything into the database and gives the reserved revisions back.
    fn finish(&mut self) -> Result<(), CommitError> {
        self.checkpointer.stop();
        self.engine.values().close();
        let mut state = self.engine.snapshot();
        self.commit_to_database(&mut state, &[], self.doomed.len())?;
        set_meta(&self.connection, "reserved_revision", state.revision)?;
        self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
        Ok(())
    }
}

impl CommitError {
    fn to_store_error(&self, path: &str) -> StoreError {
        match self {
            Self::NoSpace => StoreError::NoSpace { path: path.to_owned() },
            Self::Database(cause) => failed("a write", Self::Database(cause.clone())),
            Self::Journal(cause) => failed("a write", Self::Journal(cause.clone())),
        }
    }
}

/// Writes entries; versions that compaction pruned before they got here are left out.
pub(super) fn insert<'a>(
    connection: &Connection,
    state: &State,
    entries: impl Iterator<Item = &'a Entry>,
) -> Result<(), rusqlite::Error> {
    let mut insert = connection
        .prepare("INSERT INTO log (id, key, create_revision, version, lease, value) VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?;
    for entry in entries {
        match entry {
            Entry::Version(row) if state.version(&row.key, row.id).is_some() => {
                let value = row.value.as_deref().map(readable);
                let value = value.unwrap_or(rusqlite::types::ValueRef::Null);
                let (key, value) = (to_sql(readable(&row.key)), to_sql(value));
                insert.execute(params![row.id.0, key, row.create_revision.0, row.version, row.lease.0, value])?;
            }
            Entry::Version(_) => {}
            Entry::Grant(id, ttl) => {
                let ttl = i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX);
                connection.execute("INSERT OR REPLACE INTO lease VALUES (?1, ?2)", params![id.0, ttl])?;
            }
            Entry::Revoke(id) => drop(connection.execute("DELETE FROM lease WHERE id = ?1", [id.0])?),
        }
    }
    Ok(())
}

fn to_sql(value: rusqlite::types::ValueRef<'_>) -> rusqlite::types::ToSqlOutput<'_> {
    rusqlite::types::ToSqlOutput::Borrowed(value)
}

fn delete<'a>(connection: &Connection, rows: impl ExactSizeIterator<Item = &'a RowId>) -> Result<(), rusqlite::Error> {
    if rows.len() == 0 {
        return Ok(());
    }
    let mut delete = connection.prepare("DELETE FROM log WHERE id = ?1")?;
    for row in rows {
        delete.execute([row.0])?;
    }
    Ok(())
}

pub(super) fn set_meta(connection: &Connection, name: &str, value: Revision) -> Result<(), rusqlite::Error> {
    connection.execute("INSERT OR REPLACE INTO meta VALUES (?1, ?2)", params![name, value.0]).map(|_| ())
}
