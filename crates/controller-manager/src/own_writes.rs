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

/// Versions are the newest that is known of an object.
enum Expected {
    Written(String),
    Deleted(String),
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
        self.note(owner, object.name_any(), Expected::Written(version));
    }

    /// This object of an owner was deleted.
    pub(crate) fn deleted<K: ResourceExt>(&self, owner: &NamespacedName, object: &K) {
        let version = object.resource_version().unwrap_or_default();
        self.note(owner, object.name_any(), Expected::Deleted(version));
    }

    fn note(&self, owner: &NamespacedName, name: String, expected: Expected) {
        let mut written = self.written.lock();
        written.entry(owner.clone()).or_default().insert(name, (expected, Instant::now()));
    }

    /// The cache has shown that an object is gone, which was this at last: whatever was written to it will not be seen any more. What
    /// concerns a later object of the name is still to come.
    pub(crate) fn gone<K: ResourceExt>(&self, owner: &NamespacedName, last: &K) {
        let (name, last) = (last.name_any(), last.resource_version().unwrap_or_default());
        if let Some(objects) = self.written.lock().get_mut(owner)
            && let Some((Expected::Written(version) | Expected::Deleted(version), _)) = objects.get(&name)
            && not_older(&last, version)
        {
            objects.remove(&name);
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
                (Expected::Deleted(_), cached) => cached.is_none(),
                (Expected::Written(_), None) => false,
                (Expected::Written(version), Some(object)) => not_older(&object.resource_version().unwrap_or_default(), version),
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

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;
    use serde_json::json;

    fn object(version: &str) -> ConfigMap {
        let value = json!({"metadata": {"namespace": "a", "name": "x", "resourceVersion": version}});
        serde_json::from_value(value).expect("is an object")
    }

    #[test]
    fn what_was_written_is_waited_for() {
        let (tracker, owner) = (Tracker::default(), NamespacedName::new("a", "o"));
        let shows =
            |versions: &[&str]| tracker.caught_up(&owner, &Store::from_objects(versions.iter().map(|version| object(version))));
        assert!(shows(&[]), "nothing was");
        tracker.wrote(&owner, &object("9"));
        assert!(!shows(&[]) && !shows(&["5"]));
        assert!(shows(&["10"]));
        tracker.deleted(&owner, &object("10"));
        assert!(!shows(&["10"]));
        assert!(shows(&[]));
    }

    #[test]
    fn what_is_gone_is_not_waited_for() {
        let (tracker, owner) = (Tracker::default(), NamespacedName::new("a", "o"));
        let caught_up = |cached: Option<&str>| tracker.caught_up(&owner, &Store::from_objects(cached.map(object)));
        tracker.wrote(&owner, &object("9"));
        // The one before, whose name the new one has.
        tracker.gone(&owner, &object("7"));
        assert!(!caught_up(None), "the new one is still to come");
        tracker.gone(&NamespacedName::new("a", "other"), &object("12"));
        assert!(!caught_up(None), "it is another's");
        // Written, and deleted before the cache saw it.
        tracker.gone(&owner, &object("12"));
        assert!(caught_up(None));
        tracker.deleted(&owner, &object("20"));
        tracker.gone(&owner, &object("17"));
        assert!(!caught_up(Some("20")), "what was deleted is still there");
        tracker.gone(&owner, &object("21"));
        assert!(caught_up(Some("22")), "somebody else has made it again");
    }
}
