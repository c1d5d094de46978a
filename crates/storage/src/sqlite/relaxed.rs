//! The side journal: relaxed writes between two commits of the database.
//!
//! A relaxed write is appended here with one `write` and no sync: it is in the page cache before it is acknowledged, so it survives
//! the end of the process, at a cost of its own bytes instead of several database pages. The next commit of the database takes
//! everything over, and the journal starts again from its first byte.
//!
//! Each record names the database (`instance`), the revision that the database had when the journal was started (`base`), the run of
//! the journal (`nonce`) and its place in it. Recovery takes records from the front while all four fit, so that leftovers of earlier
//! runs, torn records, and records behind a hole that a power loss left, are never applied.
//! The decision is recorded in docs/decisions/0010-relaxed-writes.md.

use std::fs::{File, OpenOptions};
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};

use crate::contract::{LeaseId, Revision};
use crate::mvcc::{Row, RowId};

/// Length and checksum.
const FRAME_BYTES: usize = 4 + 8;
/// instance, base, nonce, sequence.
const HEAD_BYTES: usize = 4 * 8;

/// What is persisted, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    Version(Row),
    Grant(LeaseId, Duration),
    Revoke(LeaseId),
}

impl Entry {
    /// About the bytes that it takes.
    pub(super) fn size(&self) -> usize {
        match self {
            Self::Version(row) => 64 + row.key.len() + row.value.as_ref().map_or(0, Bytes::len),
            Self::Grant(..) | Self::Revoke(_) => 32,
        }
    }
}

pub(super) struct SideJournal {
    file: File,
    instance: i64,
    base: Revision,
    nonce: u64,
    sequence: u64,
    offset: u64,
}

impl SideJournal {
    /// Opens the journal and reads what must be applied to a database at revision `on_disk`.
    pub(super) fn open(path: &Path, instance: i64, on_disk: Revision) -> io::Result<(Self, Vec<Entry>)> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        let mut content = vec![0; usize::try_from(file.metadata()?.len()).unwrap_or(0)];
        file.read_exact_at(&mut content, 0)?;
        let entries = recover(&content, instance, on_disk);
        let mut journal = Self { file, instance, base: on_disk, nonce: 0, sequence: 0, offset: 0 };
        journal.restart(on_disk);
        Ok((journal, entries))
    }

    /// Appends one record, whole or (after an error) not at all.
    pub(super) fn append(&mut self, entries: &[Entry]) -> io::Result<()> {
        let mut frame = vec![0; FRAME_BYTES];
        frame.put_i64_le(self.instance);
        frame.put_i64_le(self.base.0);
        frame.put_u64_le(self.nonce);
        frame.put_u64_le(self.sequence);
        for entry in entries {
            encode(entry, &mut frame);
        }
        let length = u32::try_from(frame.len() - FRAME_BYTES)
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "the group of writes is too large"))?;
        let sum = checksum(&frame[FRAME_BYTES..]);
        frame[..4].copy_from_slice(&length.to_le_bytes());
        frame[4..FRAME_BYTES].copy_from_slice(&sum.to_le_bytes());
        self.file.write_all_at(&frame, self.offset)?;
        self.offset += frame.len() as u64;
        self.sequence += 1;
        Ok(())
    }

    /// Starts again from the first byte: the database has everything, and is at revision `on_disk`.
    pub(super) fn restart(&mut self, on_disk: Revision) {
        if self.sequence > 0 {
            // Not needed for safety; it keeps a lease that was revoked since from coming back once.
            let _ = self.file.write_all_at(&[0; FRAME_BYTES], 0);
        }
        self.base = on_disk;
        self.nonce = std::hash::RandomState::new().build_hasher().finish();
        self.sequence = 0;
        self.offset = 0;
    }
}

fn recover(mut content: &[u8], instance: i64, on_disk: Revision) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut run = None;
    for sequence in 0.. {
        let Some(mut record) = next_record(&mut content) else { break };
        let fits = record.get_i64_le() == instance && record.get_i64_le() == on_disk.0;
        let nonce = record.get_u64_le();
        if !fits || *run.get_or_insert(nonce) != nonce || record.get_u64_le() != sequence {
            break;
        }
        while let Some(entry) = decode(&mut record) {
            entries.push(entry);
        }
    }
    entries
}

/// Takes a record off the front, if a whole one is there.
fn next_record<'a>(content: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = content.try_get_u32_le().ok()? as usize;
    let sum = content.try_get_u64_le().ok()?;
    let (record, rest) = content.split_at_checked(length)?;
    if length < HEAD_BYTES || checksum(record) != sum {
        return None;
    }
    *content = rest;
    Some(record)
}

fn encode(entry: &Entry, out: &mut Vec<u8>) {
    match entry {
        Entry::Version(row) => {
            out.put_u8(1 + u8::from(row.value.is_some()));
            out.put_i64_le(row.id.0);
            out.put_i64_le(row.create_revision.0);
            out.put_i64_le(row.version);
            out.put_i64_le(row.lease.0);
            for part in std::iter::once(&row.key).chain(&row.value) {
                // The whole record's length was checked to fit.
                out.put_u32_le(u32::try_from(part.len()).unwrap_or(u32::MAX));
                out.put_slice(part);
            }
        }
        Entry::Grant(id, ttl) => {
            out.put_u8(3);
            out.put_i64_le(id.0);
            out.put_u64_le(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX));
        }
        Entry::Revoke(id) => {
            out.put_u8(4);
            out.put_i64_le(id.0);
        }
    }
}

fn decode(record: &mut &[u8]) -> Option<Entry> {
    let kind = record.try_get_u8().ok()?;
    match kind {
        1 | 2 => {
            let id = RowId(record.try_get_i64_le().ok()?);
            let create_revision = Revision(record.try_get_i64_le().ok()?);
            let version = record.try_get_i64_le().ok()?;
            let lease = LeaseId(record.try_get_i64_le().ok()?);
            let key = decode_bytes(record)?;
            let value = if kind == 2 { Some(decode_bytes(record)?) } else { None };
            Some(Entry::Version(Row { id, key, create_revision, version, lease, value }))
        }
        3 => {
            let id = LeaseId(record.try_get_i64_le().ok()?);
            Some(Entry::Grant(id, Duration::from_millis(record.try_get_u64_le().ok()?)))
        }
        4 => Some(Entry::Revoke(LeaseId(record.try_get_i64_le().ok()?))),
        _ => None,
    }
}

fn decode_bytes(record: &mut &[u8]) -> Option<Bytes> {
    let length = record.try_get_u32_le().ok()? as usize;
    let (bytes, rest) = record.split_at_checked(length)?;
    *record = rest;
    Some(Bytes::copy_from_slice(bytes))
}

/// FNV-1a: tells torn records, not forged ones.
fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(revision: i64, value: &'static str) -> Entry {
        Entry::Version(Row {
            id: RowId::new(Revision(revision), 0),
            key: "/k".into(),
            create_revision: Revision(1),
            version: revision,
            lease: LeaseId(0),
            value: Some(value.into()),
        })
    }

    fn reopen(path: &Path, instance: i64, on_disk: i64) -> Vec<Entry> {
        SideJournal::open(path, instance, Revision(on_disk)).unwrap().1
    }

    #[test]
    fn what_was_appended_comes_back_for_the_same_database_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("j");
        let entries = vec![row(11, "one"), Entry::Grant(LeaseId(7), Duration::from_secs(3)), Entry::Revoke(LeaseId(7))];
        let (mut journal, found) = SideJournal::open(&path, 5, Revision(10)).unwrap();
        assert_eq!(found, []);
        journal.append(&entries[..1]).unwrap();
        journal.append(&entries[1..]).unwrap();
        assert_eq!(reopen(&path, 5, 10), entries);
        assert_eq!(reopen(&path, 5, 11), [], "the database has it already");
        assert_eq!(reopen(&path, 6, 10), [], "another database");
    }

    #[test]
    fn leftovers_of_an_earlier_run_are_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("j");
        let (mut journal, _) = SideJournal::open(&path, 5, Revision(10)).unwrap();
        for revision in 11..15 {
            journal.append(&[row(revision, "old")]).unwrap();
        }
        // Same base (nothing but leases was committed), same record size: the old records fit exactly behind the new one.
        journal.restart(Revision(10));
        journal.append(&[row(11, "new")]).unwrap();
        assert_eq!(reopen(&path, 5, 10), [row(11, "new")]);
    }

    #[test]
    fn nothing_behind_a_damaged_byte_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("j");
        let (mut journal, _) = SideJournal::open(&path, 5, Revision(10)).unwrap();
        for revision in 11..14 {
            journal.append(&[row(revision, "value")]).unwrap();
        }
        let good = std::fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x40;
            std::fs::write(&path, &bad).unwrap();
            let whole = at / (good.len() / 3);
            let expected: Vec<Entry> = (0..whole).map(|index| row(11 + index as i64, "value")).collect();
            assert_eq!(reopen(&path, 5, 10), expected, "byte {at}");
            std::fs::write(&path, &good[..at]).unwrap();
            assert_eq!(reopen(&path, 5, 10), expected, "cut at {at}");
        }
    }
}
