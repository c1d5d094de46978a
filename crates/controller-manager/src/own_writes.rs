//! What a controller wrote and its cache does not show yet. To plan on a cache that lacks an own slice would make the slice twice; on one
//! that lacks the new size of an own ReplicaSet, would take down more than may be.

use std::collections::HashMap;
use std::time::Duration;

use client::{NamespacedName, Store};
use kube::ResourceExt;
use parking_lot::Mutex;
use tokio::time::Instant;

/// After that long the cache is believed: somebody else removed the object before it was ever seen.
const TIMEOUT: Duration = Duration::from_secs(30);

enum Expected {
    Version(String),
    Gone,
}

/// The objects of one owner by name, with what is expected of each and since when.
type Objects = HashMap<String, (Expected, Instant)>;

#[derive(Default)]
pub(crate) struct Tracker {
    written: Mutex<HashMap<NamespacedName, Objects>>,
}

impl Tracker {
    /// An object of an owner was written: the answer.
    pub(crate) fn wrote<K: ResourceExt>(&self, owner: &NamespacedName, object: &K) {
        let version = object.resource_version().unwrap_or_default();
        self.note(owner, object.name_any(), Expected::Version(version));
    }

    /// An object of an owner was deleted.
    pub(crate) fn deleted(&self, owner: &NamespacedName, name: String) {
        self.note(owner, name, Expected::Gone);
    }

    fn note(&self, owner: &NamespacedName, name: String, expected: Expected) {
        let mut written = self.written.lock();
        written.entry(owner.clone()).or_default().insert(name, (expected, Instant::now()));
    }

    /// The cache has shown that an object is gone: whatever was written to it will not be seen any more.
    pub(crate) fn gone(&self, owner: &NamespacedName, name: &str) {
        if let Some(objects) = self.written.lock().get_mut(owner) {
            objects.remove(name);
        }
    }

    pub(crate) fn forget(&self, owner: &NamespacedName) {
        self.written.lock().remove(owner);
    }

    /// Whether the cache shows everything that was written for this owner.
    pub(crate) fn caught_up<K: ResourceExt>(&self, owner: &NamespacedName, cache: &Store<K>) -> bool {
        let mut written = self.written.lock();
        let Some(objects) = written.get_mut(owner) else { return true };
        objects.retain(|name, (expected, since)| {
            let cached = cache.get(&owner.namespace, name);
            let shown = match (expected, cached) {
                (Expected::Gone, cached) => cached.is_none(),
                (Expected::Version(_), None) => false,
                (Expected::Version(version), Some(object)) => not_older(&object.resource_version().unwrap_or_default(), version),
            };
            !shown && since.elapsed() < TIMEOUT
        });
        let caught_up = objects.is_empty();
        if caught_up {
            written.remove(owner);
        }
        caught_up
    }
}

/// Resource versions of one object compare as numbers (KEP-5504).
fn not_older(version: &str, than: &str) -> bool {
    match (version.parse::<u64>(), than.parse::<u64>()) {
        (Ok(version), Ok(than)) => version >= than,
        _ => version == than,
    }
}
