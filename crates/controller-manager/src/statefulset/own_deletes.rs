//! The deletions that the cache does not show yet. A deletion cannot be taken back, so a pod that was deleted is treated as going from then
//! on: else a stale cache would count it as available, and one more pod would be taken down than `maxUnavailable` allows.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use client::NamespacedName;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use parking_lot::Mutex;

/// UIDs of deleted pods by set.
#[derive(Default)]
pub(super) struct OwnDeletes {
    uids: Mutex<HashMap<NamespacedName, HashSet<String>>>,
}

impl OwnDeletes {
    pub(super) fn note(&self, set: &NamespacedName, uid: &str) {
        self.uids.lock().entry(set.clone()).or_default().insert(uid.to_owned());
    }

    pub(super) fn forget(&self, set: &NamespacedName) {
        self.uids.lock().remove(set);
    }

    /// The pods as they are by now; forgets the deletions that the cache shows.
    pub(super) fn overlay(&self, set: &NamespacedName, pods: &mut [Arc<Pod>], now: Timestamp) {
        let mut all = self.uids.lock();
        let Some(uids) = all.get_mut(set) else { return };
        let mut hidden = HashSet::new();
        for pod in pods.iter_mut().filter(|pod| pod.metadata.deletion_timestamp.is_none()) {
            if let Some(uid) = pod.metadata.uid.as_ref().and_then(|uid| uids.take(uid)) {
                hidden.insert(uid);
                Arc::make_mut(pod).metadata.deletion_timestamp = Some(Time(now));
            }
        }
        if hidden.is_empty() {
            all.remove(set);
        } else {
            *uids = hidden;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deleted_pod_is_going_until_the_cache_shows_it() {
        let deletes = OwnDeletes::default();
        let key = NamespacedName::new("ns", "web");
        let pod = |uid: &str, going: bool| {
            let mut pod = Pod::default();
            pod.metadata.uid = Some(uid.into());
            pod.metadata.deletion_timestamp = going.then_some(Time(Timestamp::UNIX_EPOCH));
            Arc::new(pod)
        };
        let going = |pods: &[Arc<Pod>]| pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_some()).count();
        deletes.note(&key, "a");
        deletes.note(&key, "b");
        let mut stale = vec![pod("a", false), pod("b", true), pod("c", false)];
        deletes.overlay(&key, &mut stale, Timestamp::UNIX_EPOCH);
        assert_eq!(going(&stale), 2);
        let mut still_stale = vec![pod("a", false), pod("c", false)];
        deletes.overlay(&key, &mut still_stale, Timestamp::UNIX_EPOCH);
        assert_eq!(going(&still_stale), 1);
        let mut fresh = vec![pod("c", false)];
        deletes.overlay(&key, &mut fresh, Timestamp::UNIX_EPOCH);
        assert_eq!((going(&fresh), deletes.uids.lock().len()), (0, 0));
    }
}
