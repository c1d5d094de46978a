//! A group of requests, evaluated one after the other on a copy of the state, to be committed together.

use std::time::{Duration, Instant};

use bytes::Bytes;
use rusqlite::Connection;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::relaxed::Entry;
use super::schema;
use crate::apply::{Applied, Load};
use crate::contract::{Durability, Event, LeaseId, Revision, StoreError, Txn, TxnResponse};
use crate::mvcc::{RowId, State};

type Answer<T> = oneshot::Sender<Result<T, StoreError>>;

/// What callers ask of the writer.
pub(super) enum Command {
    Txn(Txn, Answer<TxnResponse>),
    Grant(Duration, Answer<LeaseId>),
    KeepAlive(LeaseId, Answer<Duration>),
    Revoke(LeaseId, Answer<()>),
    Compact(Revision, Answer<()>),
    Close(Answer<()>),
}

/// A command with its place in the bounded queue.
pub(super) struct Request {
    pub(super) command: Command,
    pub(super) _place: OwnedSemaphorePermit,
}

/// An answer that waits for the commit.
enum Reply {
    Txn(Answer<TxnResponse>, Result<TxnResponse, StoreError>),
    Grant(Answer<LeaseId>, LeaseId),
    KeepAlive(Answer<Duration>, Result<Duration, StoreError>),
    Done(Answer<()>, Result<(), StoreError>),
}

pub(super) struct Batch {
    pub(super) state: State,
    /// What to persist, in order.
    pub(super) entries: Vec<Entry>,
    pub(super) events: Vec<Event>,
    /// One of the writes must survive power loss.
    pub(super) full: bool,
    /// Somebody waits for the store to be closed after this batch.
    pub(super) close: Option<Answer<()>>,
    replies: Vec<Reply>,
}

#[derive(Debug, thiserror::Error)]
#[error("row {0:?} is missing in the database")]
struct MissingRow(RowId);

impl Batch {
    pub(super) fn new(state: State) -> Self {
        Self { state, entries: Vec::new(), events: Vec::new(), full: false, close: None, replies: Vec::new() }
    }

    /// Evaluates requests; those that come behind a `Close` are dropped, which tells their callers that the store is closed.
    /// `expire`: end the leases whose time is over first.
    pub(super) fn run(&mut self, requests: Vec<Request>, connection: &Connection, now: Instant, expire: bool) {
        let mut select = None;
        let mut load = |id: RowId| {
            let read = || {
                let select = match &mut select {
                    Some(select) => select,
                    none => none.insert(connection.prepare("SELECT value FROM log WHERE id = ?1")?),
                };
                select.query_row([id.0], |row| Ok(schema::bytes(row.get_ref(0)?)))
            };
            let value: Result<_, rusqlite::Error> = { read }();
            value.map_err(|error| failed("a write", error))?.ok_or_else(|| failed("a write", MissingRow(id)))
        };
        if expire {
            self.expire_leases(now, &mut load);
        }
        for request in requests {
            if self.close.is_none() {
                self.run_one(request.command, now, &mut load);
            }
        }
    }

    fn expire_leases(&mut self, now: Instant, load: &mut Load<'_>) {
        while let Some(lease) = self.state.leases.expired(now) {
            if let Err(error) = self.revoke(lease, load) {
                tracing::error!(%error, lease = lease.0, "the keys of an expired lease cannot be deleted");
                // Not at once again.
                let _ = self.state.leases.keep_alive(lease, now);
            }
        }
    }

    fn run_one(&mut self, command: Command, now: Instant, load: &mut Load<'_>) {
        match command {
            Command::Txn(txn, answer) => {
                let durability = txn.durability;
                let response = self.state.apply(txn, load).map(|applied| self.take(applied, durability));
                self.replies.push(Reply::Txn(answer, response));
            }
            Command::Grant(ttl, answer) => {
                let id = self.state.leases.unused_id();
                self.state.leases.grant(id, ttl, now);
                self.entries.push(Entry::Grant(id, ttl));
                self.replies.push(Reply::Grant(answer, id));
            }
            Command::KeepAlive(id, answer) => {
                self.replies.push(Reply::KeepAlive(answer, self.state.leases.keep_alive(id, now)));
            }
            Command::Revoke(id, answer) => {
                let result = self.revoke(id, load);
                self.full |= result.is_ok();
                self.replies.push(Reply::Done(answer, result));
            }
            Command::Compact(revision, answer) => {
                let current = self.state.revision;
                let result = if revision > current {
                    Err(StoreError::FutureRevision { requested: revision, current })
                } else {
                    self.state.compact_revision = self.state.compact_revision.max(revision);
                    Ok(())
                };
                self.replies.push(Reply::Done(answer, result));
            }
            Command::Close(answer) => self.close = Some(answer),
        }
    }

    fn take(&mut self, applied: Applied, durability: Durability) -> TxnResponse {
        self.full |= durability == Durability::Full && !applied.rows.is_empty();
        self.entries.extend(applied.rows.into_iter().map(Entry::Version));
        self.events.extend(applied.events);
        applied.response
    }

    fn revoke(&mut self, lease: LeaseId, load: &mut Load<'_>) -> Result<(), StoreError> {
        let keys = self.state.leases.keys(lease)?;
        for applied in self.state.delete_all(keys.into_iter(), load)? {
            self.take(applied, Durability::Relaxed);
        }
        self.state.leases.forget(lease);
        self.entries.push(Entry::Revoke(lease));
        Ok(())
    }

    /// Answers everybody; `failure` makes the error for each if the batch could not be committed.
    pub(super) fn answer(replies: Replies, failure: Option<&dyn Fn() -> StoreError>) {
        // A caller that is gone does not want its answer.
        for reply in replies.0 {
            match reply {
                Reply::Txn(answer, response) => drop(answer.send(failure.map_or(response, |error| Err(error())))),
                Reply::Grant(answer, id) => drop(answer.send(failure.map_or(Ok(id), |error| Err(error())))),
                Reply::KeepAlive(answer, ttl) => drop(answer.send(failure.map_or(ttl, |error| Err(error())))),
                Reply::Done(answer, done) => drop(answer.send(failure.map_or(done, |error| Err(error())))),
            }
        }
    }

    /// Takes the answers out.
    pub(super) fn replies(&mut self) -> Replies {
        Replies(std::mem::take(&mut self.replies))
    }
}

/// Answers that wait for the commit.
pub(super) struct Replies(Vec<Reply>);

/// About the bytes that a request holds.
pub(super) fn request_bytes(request: &Request) -> usize {
    let Command::Txn(txn, _) = &request.command else { return 64 };
    txn.success.iter().chain(&txn.failure).map(op_bytes).sum()
}

fn op_bytes(op: &crate::contract::Op) -> usize {
    match op {
        crate::contract::Op::Put { key, value, .. } => 64 + key.len() + value.len(),
        crate::contract::Op::Delete { key } | crate::contract::Op::Get { key } => 64 + Bytes::len(key),
    }
}

pub(super) fn failed(operation: &'static str, error: impl std::error::Error + Send + Sync + 'static) -> StoreError {
    StoreError::Backend { operation, source: Box::new(error) }
}
