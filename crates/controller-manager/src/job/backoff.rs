//! How long a failed pod's replacement waits: 10 s, doubling with each failure in a row up to 10 min. Pure.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

use super::indexes::{failure_count, ignored_failure_count};
use crate::pod_state::condition;

/// Upstream's DefaultJobPodFailureBackOff and MaxJobPodFailureBackOff.
const DELAY: Duration = Duration::from_secs(10);
const DELAY_MAX: Duration = Duration::from_secs(600);

/// The failures of a Job since its last success. Held in memory only: after a restart the count starts anew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Backoff {
    pub(super) failures: i32,
    pub(super) last_failure: Option<Timestamp>,
}

impl Backoff {
    /// The record after these pods have finished, too.
    pub(super) fn after(self, succeeded: &[Arc<Pod>], failed: &[Arc<Pod>]) -> Self {
        let Some(success) = succeeded.iter().filter_map(|pod| finished_at(pod)).max() else {
            let last = failed.iter().filter_map(|pod| finished_at(pod)).max();
            let more = i32::try_from(failed.len()).unwrap_or(i32::MAX);
            return Self { failures: self.failures.saturating_add(more), last_failure: last.or(self.last_failure) };
        };
        let since: Vec<Timestamp> = failed.iter().filter_map(|pod| finished_at(pod)).filter(|time| *time > success).collect();
        Self { failures: i32::try_from(since.len()).unwrap_or(i32::MAX), last_failure: since.into_iter().max() }
    }

    /// How long pods may not be created yet.
    pub(super) fn remaining(self, now: Timestamp) -> Duration {
        remaining(self.failures, self.last_failure, now)
    }
}

/// How long the replacement of this pod, the last failed one of its index, may not be created yet.
pub(super) fn remaining_for_index(failed: &Pod, now: Timestamp) -> Duration {
    let failures = failure_count(failed).saturating_add(ignored_failure_count(failed)).saturating_add(1);
    remaining(failures, finished_at(failed), now)
}

fn remaining(failures: i32, last_failure: Option<Timestamp>, now: Timestamp) -> Duration {
    let Some(last) = last_failure.filter(|_| failures > 0) else { return Duration::ZERO };
    // Six doublings are beyond the maximum.
    let doublings = u32::try_from(failures - 1).unwrap_or(0).min(6);
    let delay = (DELAY * 2u32.pow(doublings)).min(DELAY_MAX);
    let left = SignedDuration::try_from(delay).unwrap_or(SignedDuration::ZERO) - now.duration_since(last);
    Duration::try_from(left).unwrap_or(Duration::ZERO)
}

/// When the pod finished: the end of its last container, or since when it is not ready, or the start of its deletion, or,
/// where nobody says anything, its creation.
pub(super) fn finished_at(pod: &Pod) -> Option<Timestamp> {
    let unready = || {
        let unready = condition(pod, "Ready").filter(|condition| condition.status == "False")?;
        unready.last_transition_time.as_ref().map(|time| time.0)
    };
    let deleted = || {
        let gone = pod.metadata.deletion_timestamp.as_ref()?.0;
        let grace = SignedDuration::from_secs(pod.metadata.deletion_grace_period_seconds.unwrap_or(0));
        gone.checked_sub(grace).ok()
    };
    let created = || pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
    last_container_end(pod).or_else(unready).or_else(deleted).or_else(created)
}

/// The end of the last container, sidecars included; `None` while one has not ended.
fn last_container_end(pod: &Pod) -> Option<Timestamp> {
    let status = pod.status.as_ref()?;
    let init = pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
    let sidecars: Vec<&str> =
        init.filter(|container| container.restart_policy.as_deref() == Some("Always")).map(|c| c.name.as_str()).collect();
    let end = |status: &ContainerStatus| Some(status.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref()?.0);
    let latest = |before: Option<Timestamp>, ends: Vec<Option<Timestamp>>| {
        if ends.contains(&None) { None } else { ends.into_iter().flatten().chain(before).max() }
    };
    let main = latest(None, status.container_statuses.iter().flatten().map(end).collect());
    let init = status.init_container_statuses.iter().flatten();
    latest(main, init.filter(|status| sidecars.contains(&status.name.as_str())).map(end).collect())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{at, now, pod};
    use super::*;
    use serde_json::{Value, json};

    fn ended(at: Option<&str>) -> Value {
        let state = at.map_or(json!({"running": {}}), |at| json!({"terminated": {"exitCode": 1, "finishedAt": at}}));
        json!({"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state})
    }

    fn failed(at: &str) -> Arc<Pod> {
        pod("p", "Failed", json!({"status": {"containerStatuses": [ended(Some(at))]}}))
    }

    #[test]
    fn finish_times() {
        let ready = json!([{"type": "Ready", "status": "False", "lastTransitionTime": "2024-01-01T10:00:00Z"}]);
        let sidecar = |at: Option<&str>| {
            let mut status = ended(at);
            status["name"] = json!("side");
            json!({"spec": {"containers": [], "initContainers": [{"name": "side", "restartPolicy": "Always"}, {"name": "init"}]},
                "status": {"containerStatuses": [ended(Some("2024-01-01T11:00:00Z"))], "initContainerStatuses": [status], "conditions": ready}})
        };
        for (fields, expected) in [
            (
                json!({"status": {"containerStatuses": [ended(Some("2024-01-01T11:00:00Z")), ended(Some("2024-01-01T11:05:00Z"))]}}),
                "11:05:00",
            ),
            (
                json!({"status": {"containerStatuses": [ended(Some("2024-01-01T11:00:00Z")), ended(None)], "conditions": ready}}),
                "10:00:00",
            ),
            (sidecar(Some("2024-01-01T11:30:00Z")), "11:30:00"),
            (sidecar(None), "10:00:00"),
            (json!({"metadata": {"deletionTimestamp": "2024-01-01T09:00:30Z", "deletionGracePeriodSeconds": 30}}), "09:00:00"),
            (json!({"metadata": {"creationTimestamp": "2024-01-01T08:00:00Z"}}), "08:00:00"),
        ] {
            let found = finished_at(&pod("p", "Failed", fields.clone()));
            assert_eq!(found, Some(at(&format!("2024-01-01T{expected}Z"))), "{fields}");
        }
    }

    #[test]
    fn records() {
        let before = Backoff { failures: 2, last_failure: Some(at("2024-01-01T10:00:00Z")) };
        let (early, late) = ("2024-01-01T11:00:00Z", "2024-01-01T11:01:00Z");
        for (succeeded, failures, expected) in [
            (vec![], vec![], before),
            (vec![], vec![late, early], Backoff { failures: 4, last_failure: Some(at(late)) }),
            (vec![early], vec![], Backoff::default()),
            (vec![early], vec![late], Backoff { failures: 1, last_failure: Some(at(late)) }),
            (vec![late], vec![early], Backoff::default()),
            (vec![late], vec![late, early], Backoff::default()),
        ] {
            let pods = |times: &[&str]| times.iter().map(|at| failed(at)).collect::<Vec<_>>();
            assert_eq!(before.after(&pods(&succeeded), &pods(&failures)), expected, "{succeeded:?} {failures:?}");
        }
    }

    #[test]
    fn delays_double_to_ten_minutes() {
        for (failures, expected) in [(0, 0), (1, 10), (2, 20), (3, 40), (6, 320), (7, 600), (8, 600), (1000, 600)] {
            let backoff = Backoff { failures, last_failure: Some(now()) };
            assert_eq!(backoff.remaining(now()).as_secs(), expected, "{failures}");
        }
        let earlier = Backoff { failures: 1, last_failure: Some(now() - SignedDuration::from_secs(4)) };
        assert_eq!(earlier.remaining(now()).as_secs(), 6);
        let long_ago = Backoff { failures: 1, last_failure: Some(now() - SignedDuration::from_secs(11)) };
        assert_eq!(long_ago.remaining(now()), Duration::ZERO);
    }

    #[test]
    fn each_index_has_its_own_delay() {
        let annotated = |count: &str, ignored: &str| {
            let annotations = json!({"batch.kubernetes.io/job-index-failure-count": count, "batch.kubernetes.io/job-index-ignored-failure-count": ignored});
            let end = ended(Some("2024-01-01T12:00:00Z"));
            pod("p", "Failed", json!({"metadata": {"annotations": annotations}, "status": {"containerStatuses": [end]}}))
        };
        for (count, ignored, expected) in
            [("0", "0", 10), ("1", "0", 20), ("1", "1", 40), ("2147483647", "1", 600), ("x", "-1", 10)]
        {
            assert_eq!(remaining_for_index(&annotated(count, ignored), now()).as_secs(), expected, "{count} {ignored}");
        }
    }
}
