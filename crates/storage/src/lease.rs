//! The leases: which exist, when they expire, which keys hang on them. Pure; the caller brings the time.

use std::time::{Duration, Instant};

use bytes::Bytes;
use imbl::{OrdMap, OrdSet};

use crate::contract::{LeaseId, StoreError};

#[derive(Clone, Debug)]
struct Lease {
    ttl: Duration,
    deadline: Instant,
    keys: OrdSet<Bytes>,
}

/// All leases. Cloning is O(1).
#[derive(Clone, Debug, Default)]
pub(crate) struct Leases {
    leases: OrdMap<LeaseId, Lease>,
    deadlines: OrdSet<(Instant, LeaseId)>,
}

impl Leases {
    /// Adds a lease, or starts one anew that is known already (a recovery that sees it twice).
    pub(crate) fn grant(&mut self, id: LeaseId, ttl: Duration, now: Instant) {
        let deadline = now + ttl;
        let keys = self.forget(id);
        self.leases.insert(id, Lease { ttl, deadline, keys });
        self.deadlines.insert((deadline, id));
    }

    /// Starts a lease's time anew and returns its length.
    pub(crate) fn keep_alive(&mut self, id: LeaseId, now: Instant) -> Result<Duration, StoreError> {
        let lease = self.leases.get_mut(&id).ok_or(StoreError::LeaseNotFound(id))?;
        self.deadlines.remove(&(lease.deadline, id));
        lease.deadline = now + lease.ttl;
        self.deadlines.insert((lease.deadline, id));
        Ok(lease.ttl)
    }

    /// Ends a lease; the caller deletes the keys that are returned.
    pub(crate) fn forget(&mut self, id: LeaseId) -> OrdSet<Bytes> {
        let Some(lease) = self.leases.remove(&id) else { return OrdSet::new() };
        self.deadlines.remove(&(lease.deadline, id));
        lease.keys
    }

    pub(crate) fn keys(&self, id: LeaseId) -> Result<OrdSet<Bytes>, StoreError> {
        self.leases.get(&id).map(|lease| lease.keys.clone()).ok_or(StoreError::LeaseNotFound(id))
    }

    pub(crate) fn contains(&self, id: LeaseId) -> bool {
        id == LeaseId(0) || self.leases.contains_key(&id)
    }

    /// A lease whose time is over.
    pub(crate) fn expired(&self, now: Instant) -> Option<LeaseId> {
        self.deadlines.get_min().filter(|(deadline, _)| *deadline <= now).map(|(_, id)| *id)
    }

    /// When the next lease expires.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.get_min().map(|(deadline, _)| *deadline)
    }

    pub(crate) fn attach(&mut self, id: LeaseId, key: &Bytes) {
        if let Some(lease) = self.leases.get_mut(&id) {
            lease.keys.insert(key.clone());
        }
    }

    pub(crate) fn detach(&mut self, id: LeaseId, key: &Bytes) {
        if let Some(lease) = self.leases.get_mut(&id) {
            lease.keys.remove(key);
        }
    }

    /// An id that no lease has: random, as etcd's are, so that an old client cannot keep a stranger's lease alive.
    pub(crate) fn unused_id(&self) -> LeaseId {
        use std::hash::{BuildHasher, Hasher};
        loop {
            let random = std::hash::RandomState::new().build_hasher().finish() >> 1;
            let id = LeaseId(i64::try_from(random).unwrap_or(0));
            if !self.contains(id) {
                return id;
            }
        }
    }
}
