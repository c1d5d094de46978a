//! What a controller did and has not seen yet: so long as it expects creations or deletions to show up in its cache,
//! it must not count what is in the cache, or it would do them twice. After client-go style
//! `UIDTrackingControllerExpectations`.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use client::NamespacedName;
use kube::ResourceExt;
use parking_lot::Mutex;
use tokio::time::Instant;

/// Upstream's ExpectationsTimeout: after that the cache is believed again.
const TIMEOUT: Duration = Duration::from_secs(5 * 60);

struct Pending {
    creations: usize,
    deletions: HashSet<String>,
    since: Instant,
}

#[derive(Default)]
pub(crate) struct Expectations {
    pending: Mutex<HashMap<NamespacedName, Pending>>,
}

impl Expectations {
    pub(crate) fn expect_creations(&self, key: &NamespacedName, count: usize) {
        self.expect(key, count, []);
    }

    /// `uids` are those of the objects about to be deleted.
    pub(crate) fn expect_deletions(&self, key: &NamespacedName, uids: impl IntoIterator<Item = String>) {
        self.expect(key, 0, uids);
    }

    /// Creations and deletions at once.
    pub(crate) fn expect(&self, key: &NamespacedName, creations: usize, deletions: impl IntoIterator<Item = String>) {
        let deletions = deletions.into_iter().collect();
        let pending = Pending { creations, deletions, since: Instant::now() };
        self.pending.lock().insert(key.clone(), pending);
    }

    /// Creations showed up, or will not because they failed.
    pub(crate) fn creations_observed(&self, key: &NamespacedName, count: usize) {
        if let Some(pending) = self.pending.lock().get_mut(key) {
            pending.creations = pending.creations.saturating_sub(count);
        }
    }

    /// A deletion showed up, or will not because it failed.
    pub(crate) fn deletion_observed(&self, key: &NamespacedName, uid: &str) {
        if let Some(pending) = self.pending.lock().get_mut(key) {
            pending.deletions.remove(uid);
        }
    }

    /// Takes out the objects that were deleted, which the cache does not show yet; says how many.
    pub(crate) fn take_out_deleted<K: ResourceExt>(&self, key: &NamespacedName, objects: &mut Vec<Arc<K>>) -> usize {
        let all = self.pending.lock();
        let Some(pending) = all.get(key).filter(|pending| !pending.deletions.is_empty()) else { return 0 };
        let before = objects.len();
        objects.retain(|object| object.meta().uid.as_ref().is_none_or(|uid| !pending.deletions.contains(uid)));
        before - objects.len()
    }

    /// Whether the cache can be believed.
    pub(crate) fn satisfied(&self, key: &NamespacedName) -> bool {
        let mut all = self.pending.lock();
        let Some(pending) = all.get(key) else { return true };
        let satisfied = (pending.creations == 0 && pending.deletions.is_empty()) || pending.since.elapsed() > TIMEOUT;
        if satisfied {
            all.remove(key);
        }
        satisfied
    }

    pub(crate) fn forget(&self, key: &NamespacedName) {
        self.pending.lock().remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    #[test]
    fn satisfied_when_everything_showed_up() {
        let expectations = Expectations::default();
        let key = NamespacedName::new("a", "x");
        assert!(expectations.satisfied(&key));
        expectations.expect_creations(&key, 2);
        expectations.creations_observed(&key, 1);
        assert!(!expectations.satisfied(&key));
        expectations.creations_observed(&key, 1);
        assert!(expectations.satisfied(&key));
        expectations.expect_deletions(&key, ["u1".to_owned(), "u2".to_owned()]);
        expectations.deletion_observed(&key, "u1");
        expectations.deletion_observed(&key, "u1");
        assert!(!expectations.satisfied(&key), "u2 is still to come");
        expectations.deletion_observed(&key, "u2");
        assert!(expectations.satisfied(&key));
        expectations.expect(&key, 1, ["u3".to_owned()]);
        expectations.creations_observed(&key, 1);
        assert!(!expectations.satisfied(&key), "u3 is still to come");
        expectations.forget(&key);
        assert!(expectations.satisfied(&key));
    }

    #[test]
    fn what_was_deleted_is_taken_out() {
        let pod = |uid: &str| Arc::new(serde_json::from_value::<Pod>(json!({"metadata": {"uid": uid}})).expect("is a pod"));
        let (expectations, key) = (Expectations::default(), NamespacedName::new("a", "x"));
        let taken_out = || {
            let mut pods = vec![pod("u1"), pod("u2"), pod("u3"), Arc::default()];
            let count = expectations.take_out_deleted(&key, &mut pods);
            (count, pods.iter().filter_map(|pod| pod.uid()).collect::<Vec<_>>().concat())
        };
        assert_eq!(taken_out(), (0, "u1u2u3".to_owned()), "nothing is expected");
        expectations.expect_creations(&key, 1);
        assert_eq!(taken_out(), (0, "u1u2u3".to_owned()), "no deletion is");
        expectations.expect_deletions(&key, ["u1".to_owned(), "u3".to_owned(), "elsewhere".to_owned()]);
        assert_eq!(taken_out(), (2, "u2".to_owned()));
        expectations.deletion_observed(&key, "u1");
        assert_eq!(taken_out(), (1, "u1u2".to_owned()));
    }
}
