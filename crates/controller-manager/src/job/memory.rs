//! What the controller remembers between two syncs of a Job: what its cache has not shown yet, and when pods failed.
//!
//! All of it may be lost: after a restart the cache is filled anew, and nothing is counted that the status does not say.

use std::collections::{HashMap, HashSet};

use std::time::Duration;

use client::NamespacedName;
use k8s_openapi::api::batch::v1::Job;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::backoff::Backoff;
use crate::expectations::Expectations;

/// After that the cache is believed again, as with what else is expected.
const TIMEOUT: Duration = Duration::from_secs(5 * 60);

/// Resource versions of one resource are in the order of their writes (KEP-5504).
fn version(job: &Job) -> Option<u64> {
    job.metadata.resource_version.as_ref()?.parse().ok()
}

#[derive(Default)]
pub(super) struct Memory {
    /// Pods created and deleted.
    pub(super) expectations: Expectations,
    /// UIDs of pods whose finalizer was removed.
    removals: Mutex<HashMap<NamespacedName, HashSet<String>>>,
    backoff: Mutex<HashMap<NamespacedName, Backoff>>,
    /// The resource version of the last status written, and when, until the cache shows it.
    written: Mutex<HashMap<NamespacedName, (u64, Instant)>>,
    /// UIDs of Jobs that ended, until the cache says so.
    finished: Mutex<HashSet<String>>,
}

impl Memory {
    pub(super) fn expect_removals(&self, key: &NamespacedName, uids: impl IntoIterator<Item = String>) {
        let uids: HashSet<String> = uids.into_iter().collect();
        if !uids.is_empty() {
            self.removals.lock().entry(key.clone()).or_default().extend(uids);
        }
    }

    /// The removal showed up, or will not because it failed.
    pub(super) fn removal_observed(&self, key: &NamespacedName, uid: &str) {
        let mut removals = self.removals.lock();
        if let Some(uids) = removals.get_mut(key) {
            uids.remove(uid);
            if uids.is_empty() {
                removals.remove(key);
            }
        }
    }

    pub(super) fn removals_expected(&self, key: &NamespacedName) -> HashSet<String> {
        self.removals.lock().get(key).cloned().unwrap_or_default()
    }

    /// The status was written, and this is the Job as it was stored.
    pub(super) fn wrote(&self, key: &NamespacedName, stored: &Job) {
        if let Some(version) = version(stored) {
            self.written.lock().insert(key.clone(), (version, Instant::now()));
        }
    }

    /// Whether this Job, from the cache, is older than what was written: it would count too little, and start pods too many.
    pub(super) fn is_behind(&self, key: &NamespacedName, cached: &Job) -> bool {
        let mut written = self.written.lock();
        let Some((last, since)) = written.get(key).copied() else { return false };
        let behind = version(cached).is_some_and(|version| version < last) && since.elapsed() < TIMEOUT;
        if !behind {
            written.remove(key);
        }
        behind
    }

    pub(super) fn backoff(&self, key: &NamespacedName) -> Backoff {
        self.backoff.lock().get(key).copied().unwrap_or_default()
    }

    pub(super) fn set_backoff(&self, key: &NamespacedName, backoff: Backoff) {
        self.backoff.lock().insert(key.clone(), backoff);
    }

    pub(super) fn forget_backoff(&self, key: &NamespacedName) {
        self.backoff.lock().remove(key);
    }

    pub(super) fn set_finished(&self, uid: &str) {
        self.finished.lock().insert(uid.to_owned());
    }

    pub(super) fn is_finished(&self, uid: &str) -> bool {
        self.finished.lock().contains(uid)
    }

    pub(super) fn forget_finished(&self, uid: &str) {
        self.finished.lock().remove(uid);
    }

    /// The Job is gone.
    pub(super) fn forget(&self, key: &NamespacedName) {
        self.expectations.forget(key);
        self.removals.lock().remove(key);
        self.written.lock().remove(key);
        self.forget_backoff(key);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::job_with;
    use super::*;
    use serde_json::json;

    #[test]
    fn a_job_older_than_what_was_written_is_behind() {
        let memory = Memory::default();
        let key = NamespacedName::new("a", "x");
        let at = |version: &str| job_with(json!({"metadata": {"resourceVersion": version}}));
        assert!(!memory.is_behind(&key, &at("5")));
        memory.wrote(&key, &at("10"));
        assert!(memory.is_behind(&key, &at("9")));
        assert!(!memory.is_behind(&key, &at("10")));
        assert!(!memory.is_behind(&key, &at("9")), "it was seen");
    }

    #[test]
    fn removals_are_expected_until_seen() {
        let memory = Memory::default();
        let (key, other) = (NamespacedName::new("a", "x"), NamespacedName::new("a", "y"));
        memory.expect_removals(&key, ["u1".to_owned(), "u2".to_owned()]);
        memory.expect_removals(&key, ["u3".to_owned()]);
        memory.removal_observed(&other, "u1");
        memory.removal_observed(&key, "u2");
        memory.removal_observed(&key, "unknown");
        assert_eq!(memory.removals_expected(&key), HashSet::from(["u1".to_owned(), "u3".to_owned()]));
        assert!(memory.removals_expected(&other).is_empty());
        memory.forget(&key);
        assert!(memory.removals_expected(&key).is_empty());
    }
}
