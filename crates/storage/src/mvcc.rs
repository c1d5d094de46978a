//! The multi-version state: which versions of which keys exist, at which revisions.
//!
//! Owns the pure core that all backends in this crate share: persistent maps (a snapshot is one clone, O(1)) of the newest version
//! of each key, of the versions superseded since the last compaction, and of the order of changes. Values are in memory only where a
//! backend put them there ([`Content::Memory`]); others are found on disk by [`RowId`].
//!
//! Invariants: every entry of `log` names a version in `newest` or `history`; every version changed after `compact_revision` is in
//! `log`; a version that is visible at any revision from `compact_revision` on is never pruned. No I/O, no clock.

use std::ops::Bound;

use bytes::Bytes;
use imbl::OrdMap;

use crate::contract::{KeyRange, KeyValue, LeaseId, Revision};
use crate::lease::Leases;

/// Bits of a [`RowId`] below the revision; as many writes fit in one transaction.
const SUB_BITS: u32 = 12;

/// The first revision, as etcd has it: a list of an empty store must not report 0.
const FIRST_REVISION: Revision = Revision(1);

/// Where a version is in the order of all changes: its revision, then its place in the transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RowId(pub(crate) i64);

impl RowId {
    pub(crate) fn new(revision: Revision, sub: usize) -> Self {
        debug_assert!(sub < 1 << SUB_BITS);
        Self((revision.0 << SUB_BITS) | i64::try_from(sub).unwrap_or(0))
    }

    /// The greatest id that a change at `revision` can have.
    pub(crate) fn last_of(revision: Revision) -> Self {
        Self((revision.0 << SUB_BITS) | ((1 << SUB_BITS) - 1))
    }

    pub(crate) fn revision(self) -> Revision {
        Revision(self.0 >> SUB_BITS)
    }
}

/// Where the value of a version is.
#[derive(Clone, Debug)]
pub(crate) enum Content {
    /// Nowhere: the version is a deletion.
    Deleted,
    Memory(Bytes),
    Disk,
}

/// One version of a key.
#[derive(Clone, Debug)]
pub(crate) struct Version {
    pub(crate) id: RowId,
    pub(crate) create_revision: Revision,
    pub(crate) version: i64,
    pub(crate) lease: LeaseId,
    pub(crate) content: Content,
}

impl Version {
    pub(crate) fn is_deleted(&self) -> bool {
        matches!(self.content, Content::Deleted)
    }

    pub(crate) fn key_value(&self, key: Bytes, value: Bytes) -> KeyValue {
        KeyValue {
            key,
            value,
            create_revision: self.create_revision,
            mod_revision: self.id.revision(),
            version: self.version,
            lease: self.lease,
        }
    }
}

/// A change as backends persist it. `value` is `None` for a deletion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) id: RowId,
    pub(crate) key: Bytes,
    pub(crate) create_revision: Revision,
    pub(crate) version: i64,
    pub(crate) lease: LeaseId,
    pub(crate) value: Option<Bytes>,
}

/// All that can be read, at one moment. Cloning is O(1).
#[derive(Clone, Debug)]
pub(crate) struct State {
    pub(crate) revision: Revision,
    /// The oldest revision that can be read.
    pub(crate) compact_revision: Revision,
    pub(crate) leases: Leases,
    /// The newest version of each key, deletions included until they are pruned.
    newest: OrdMap<Bytes, Version>,
    /// Versions that a newer one has superseded.
    history: OrdMap<(Bytes, RowId), Version>,
    /// The key of each change, in order; complete above `compact_revision`.
    log: OrdMap<RowId, Bytes>,
}

/// The keys of a scan and how many there are beyond its limit.
pub(crate) struct Scan {
    pub(crate) found: Vec<(Bytes, Version)>,
    pub(crate) count: usize,
}

/// A change out of the log, with the version before it when the key existed.
pub(crate) struct Change {
    pub(crate) key: Bytes,
    pub(crate) version: Version,
    pub(crate) before: Option<Version>,
}

impl State {
    pub(crate) fn new() -> Self {
        Self {
            revision: FIRST_REVISION,
            compact_revision: Revision(0),
            leases: Leases::default(),
            newest: OrdMap::new(),
            history: OrdMap::new(),
            log: OrdMap::new(),
        }
    }

    /// The newest version of a key that exists now.
    pub(crate) fn live(&self, key: &[u8]) -> Option<(&Bytes, &Version)> {
        self.newest.get_key_value(key).filter(|(_, version)| !version.is_deleted())
    }

    /// The newest version of a key, be it a deletion.
    pub(crate) fn newest(&self, key: &[u8]) -> Option<&Version> {
        self.newest.get(key)
    }

    /// The keys in `range` that exist at `at`, the first `limit` of them (0: all) with their versions.
    pub(crate) fn scan(&self, range: &KeyRange, at: Revision, limit: usize) -> Scan {
        let mut scan = Scan { found: Vec::new(), count: 0 };
        if !range.end.is_empty() && range.end <= range.start {
            return scan;
        }
        let end = if range.end.is_empty() { Bound::Unbounded } else { Bound::Excluded(&range.end[..]) };
        for (key, newest) in self.newest.range::<_, [u8]>((Bound::Included(&range.start[..]), end)) {
            let Some(version) = self.visible(key, newest, at) else { continue };
            scan.count += 1;
            if limit == 0 || scan.found.len() < limit {
                scan.found.push((key.clone(), version.clone()));
            }
        }
        scan
    }

    fn visible<'a>(&'a self, key: &Bytes, newest: &'a Version, at: Revision) -> Option<&'a Version> {
        let version = if newest.id.revision() <= at { Some(newest) } else { self.superseded(key, RowId::last_of(at)) };
        version.filter(|version| !version.is_deleted())
    }

    /// The last superseded version of `key` up to `id`.
    fn superseded(&self, key: &Bytes, id: RowId) -> Option<&Version> {
        self.history.get_prev(&(key.clone(), id)).filter(|((k, _), _)| k == key).map(|(_, version)| version)
    }

    /// Changes after `after` in order, whole revisions only: about `max` of them (at least one revision), and the revision
    /// up to which they are complete.
    pub(crate) fn changes(&self, after: Revision, range: &KeyRange, max: usize) -> (Vec<Change>, Revision) {
        let mut changes = Vec::new();
        let mut complete = after;
        for (scanned, (id, key)) in self.log.range((Bound::Excluded(RowId::last_of(after)), Bound::Unbounded)).enumerate() {
            // Ten times as many keys of others are passed over before a pause: they cost no I/O.
            if id.revision() > complete && (changes.len() >= max || scanned >= max * 10) {
                return (changes, complete);
            }
            complete = id.revision();
            if !in_range(range, key) {
                continue;
            }
            if let Some(version) = self.version(key, *id) {
                let before = self.superseded(key, RowId(id.0 - 1)).filter(|version| !version.is_deleted());
                changes.push(Change { key: key.clone(), version: version.clone(), before: before.cloned() });
            }
        }
        (changes, self.revision)
    }

    /// The version of `key` made by the change `id`, unless it is pruned.
    pub(crate) fn version(&self, key: &Bytes, id: RowId) -> Option<&Version> {
        match self.newest.get(key) {
            Some(newest) if newest.id == id => Some(newest),
            _ => self.history.get(&(key.clone(), id)),
        }
    }

    /// Adds a change that is newer than all others; its value stays in memory until [`State::settle`] if `in_memory`.
    pub(crate) fn record(&mut self, row: &Row, in_memory: bool) {
        let content = match &row.value {
            None => Content::Deleted,
            Some(value) if in_memory => Content::Memory(value.clone()),
            Some(_) => Content::Disk,
        };
        let version =
            Version { id: row.id, create_revision: row.create_revision, version: row.version, lease: row.lease, content };
        self.revision = self.revision.max(row.id.revision());
        let mut key = row.key.clone();
        if let Some((known, old)) = self.newest.get_key_value(&row.key) {
            key = known.clone();
            let old = old.clone();
            self.leases.detach(old.lease, &key);
            self.history.insert((key.clone(), old.id), old);
        }
        if !version.is_deleted() {
            self.leases.attach(row.lease, &key);
        }
        self.log.insert(row.id, key.clone());
        self.newest.insert(key, version);
    }

    /// The bytes of all keys and values held here, without what holds them. Linear in the number of versions.
    pub(crate) fn bytes_in_memory(&self) -> u64 {
        let size = |key: &Bytes, version: &Version| {
            let value = if let Content::Memory(value) = &version.content { value.len() } else { 0 };
            (key.len() + value) as u64
        };
        let newest: u64 = self.newest.iter().map(|(key, version)| size(key, version)).sum();
        let history: u64 = self.history.iter().map(|((key, _), version)| size(key, version)).sum();
        newest + history
    }

    /// Notes that a version's value is on disk now, and forgets it here.
    pub(crate) fn settle(&mut self, row: &Row) {
        let version = match self.newest.get_mut(&row.key) {
            Some(newest) if newest.id == row.id => Some(newest),
            _ => self.history.get_mut(&(row.key.clone(), row.id)),
        };
        if let Some(Version { content: content @ Content::Memory(_), .. }) = version {
            *content = Content::Disk;
        }
    }

    /// Prunes what became invisible with `compact_revision`, at most `max` changes of it. Returns the rows that went and whether
    /// there may be more.
    pub(crate) fn prune(&mut self, max: usize) -> (Vec<RowId>, bool) {
        let due: Vec<(RowId, Bytes)> = self
            .log
            .range((Bound::Unbounded, Bound::Included(RowId::last_of(self.compact_revision))))
            .take(max)
            .map(|(id, key)| (*id, key.clone()))
            .collect();
        let mut gone = Vec::new();
        for (id, key) in &due {
            self.log.remove(id);
            let before = self.superseded(key, RowId(id.0 - 1)).map(|version| version.id);
            if let Some(before) = before {
                self.history.remove(&(key.clone(), before));
                gone.push(before);
            }
            if self.version(key, *id).is_some_and(Version::is_deleted) {
                if self.newest.get(key).is_some_and(|newest| newest.id == *id) {
                    self.newest.remove(key);
                } else {
                    self.history.remove(&(key.clone(), *id));
                }
                gone.push(*id);
            }
        }
        (gone, due.len() == max)
    }
}

/// Whether `key` lies in `range`.
pub(crate) fn in_range(range: &KeyRange, key: &[u8]) -> bool {
    key >= &range.start[..] && (range.end.is_empty() || key < &range.end[..])
}
