//! Evaluates transactions on the [`State`]: the one place that knows what compares, puts and deletes mean.
//!
//! All that can fail happens before the first change, so that a transaction that fails leaves the state as it was.

use std::collections::HashSet;

use bytes::Bytes;

use crate::contract::{
    Compare, Event, KeyValue, LeaseId, Op, OpResponse, Revision, StoreError, TXN_WRITES_MAX, Txn, TxnResponse,
};
use crate::mvcc::{Content, Row, RowId, State};

/// Reads the value of a version from disk.
pub(crate) type Load<'a> = dyn FnMut(RowId) -> Result<Bytes, StoreError> + 'a;

/// What a transaction did.
#[derive(Debug)]
pub(crate) struct Applied {
    pub(crate) response: TxnResponse,
    /// What to persist; empty when nothing was written.
    pub(crate) rows: Vec<Row>,
    pub(crate) events: Vec<Event>,
}

#[derive(Debug, thiserror::Error)]
enum Invalid {
    #[error("the key {0:?} is written twice in one transaction")]
    WrittenTwice(Bytes),
    #[error("{0} writes in one transaction, {TXN_WRITES_MAX} are allowed")]
    TooManyWrites(usize),
}

impl State {
    /// Evaluates a transaction. Values of the rows it made stay in memory until they are settled.
    pub(crate) fn apply(&mut self, txn: Txn, load: &mut Load<'_>) -> Result<Applied, StoreError> {
        let succeeded = self.compare(&txn.compares, load)?;
        let ops = if succeeded { txn.success } else { txn.failure };
        self.check(&ops)?;
        let mut before = Vec::with_capacity(ops.len());
        for op in &ops {
            let (Op::Put { key, .. } | Op::Delete { key } | Op::Get { key }) = op;
            before.push(self.read(key, load)?);
        }
        Ok(self.write(succeeded, ops, before))
    }

    /// Deletes keys at one revision each [`TXN_WRITES_MAX`] keys, as the end of a lease does.
    pub(crate) fn delete_all(
        &mut self,
        keys: impl Iterator<Item = Bytes>,
        load: &mut Load<'_>,
    ) -> Result<Vec<Applied>, StoreError> {
        let ops: Vec<Op> = keys.map(|key| Op::Delete { key }).collect();
        let mut applied = Vec::new();
        for chunk in ops.chunks(TXN_WRITES_MAX) {
            applied.push(self.apply(Txn { success: chunk.to_vec(), ..Txn::default() }, load)?);
        }
        Ok(applied)
    }

    fn compare(&self, compares: &[Compare], load: &mut Load<'_>) -> Result<bool, StoreError> {
        for compare in compares {
            let holds = match compare {
                Compare::ModRevision(key, revision) => {
                    self.live(key).map_or(Revision(0), |(_, version)| version.id.revision()) == *revision
                }
                Compare::Value(key, value) => self.read(key, load)?.is_some_and(|kv| kv.value == *value),
            };
            if !holds {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn check(&self, ops: &[Op]) -> Result<(), StoreError> {
        let mut written = HashSet::new();
        for op in ops {
            match op {
                Op::Put { lease, .. } if !self.leases.contains(*lease) => return Err(StoreError::LeaseNotFound(*lease)),
                Op::Put { key, .. } | Op::Delete { key } if !written.insert(key) => {
                    return Err(invalid(Invalid::WrittenTwice(key.clone())));
                }
                _ => {}
            }
        }
        if written.len() > TXN_WRITES_MAX {
            return Err(invalid(Invalid::TooManyWrites(written.len())));
        }
        Ok(())
    }

    fn read(&self, key: &[u8], load: &mut Load<'_>) -> Result<Option<KeyValue>, StoreError> {
        let Some((key, version)) = self.live(key) else { return Ok(None) };
        let value = match &version.content {
            Content::Memory(value) => value.clone(),
            Content::Disk => load(version.id)?,
            Content::Deleted => return Ok(None),
        };
        Ok(Some(version.key_value(key.clone(), value)))
    }

    fn write(&mut self, succeeded: bool, ops: Vec<Op>, before: Vec<Option<KeyValue>>) -> Applied {
        let revision = Revision(self.revision.0 + 1);
        let mut applied = Applied {
            response: TxnResponse { succeeded, revision, responses: Vec::with_capacity(ops.len()) },
            rows: Vec::new(),
            events: Vec::new(),
        };
        for (op, prev) in ops.into_iter().zip(before) {
            let response = match op {
                Op::Put { key, value, lease } => {
                    // The caller's key may be a slice of a whole request: keep only its own bytes.
                    let key = prev.as_ref().map_or_else(|| Bytes::copy_from_slice(&key), |kv| kv.key.clone());
                    self.put(&mut applied, revision, key, value, lease, prev.clone());
                    OpResponse::Put(prev)
                }
                Op::Delete { .. } => {
                    if let Some(prev) = &prev {
                        self.delete(&mut applied, revision, prev.clone());
                    }
                    OpResponse::Delete(prev)
                }
                Op::Get { key } => OpResponse::Get(self.own_write(revision, &key, prev)),
            };
            applied.response.responses.push(response);
        }
        applied.response.revision = self.revision;
        applied
    }

    fn put(
        &mut self,
        applied: &mut Applied,
        revision: Revision,
        key: Bytes,
        value: Bytes,
        lease: LeaseId,
        prev: Option<KeyValue>,
    ) {
        let (create_revision, version) = prev.as_ref().map_or((revision, 1), |kv| (kv.create_revision, kv.version + 1));
        let id = RowId::new(revision, applied.rows.len());
        let row = Row { id, key: key.clone(), create_revision, version, lease, value: Some(value.clone()) };
        self.record(&row, true);
        applied.rows.push(row);
        let kv = KeyValue { key, value, create_revision, mod_revision: revision, version, lease };
        applied.events.push(Event { kv, prev, deleted: false });
    }

    fn delete(&mut self, applied: &mut Applied, revision: Revision, prev: KeyValue) {
        let id = RowId::new(revision, applied.rows.len());
        let row = Row { id, key: prev.key.clone(), create_revision: Revision(0), version: 0, lease: LeaseId(0), value: None };
        self.record(&row, true);
        applied.rows.push(row);
        applied.events.push(Event { kv: tombstone(prev.key.clone(), revision), prev: Some(prev), deleted: true });
    }

    /// What a get sees: its own transaction's write, or else what was there before it.
    fn own_write(&self, revision: Revision, key: &Bytes, before: Option<KeyValue>) -> Option<KeyValue> {
        let Some(version) = self.newest(key).filter(|version| version.id.revision() == revision) else { return before };
        match &version.content {
            Content::Memory(value) => Some(version.key_value(key.clone(), value.clone())),
            Content::Deleted | Content::Disk => None,
        }
    }
}

/// The key-value of a deletion event.
pub(crate) fn tombstone(key: Bytes, revision: Revision) -> KeyValue {
    KeyValue { key, value: Bytes::new(), create_revision: Revision(0), mod_revision: revision, version: 0, lease: LeaseId(0) }
}

fn invalid(source: Invalid) -> StoreError {
    StoreError::Backend { operation: "a transaction", source: Box::new(source) }
}
