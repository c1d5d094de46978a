//! Completion indexes of pods, and what Indexed Jobs do with them. Pure.
//!
//! A failed pod whose index is to be tried again keeps its finalizer until its replacement exists, because the replacement takes over
//! the count of failures from its annotations (KEP-3850).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;

use super::assess::Sync;
use super::backoff::{finished_at, remaining_for_index};
use super::failure_policy::{self, Action};
use super::intervals::Indexes;
use super::spec::{has_failed, index_count, is_tracked, replaces_only_failed, spec, uid};
use crate::pod_state::{is_terminating, phase};

pub(super) const COMPLETION_INDEX: &str = "batch.kubernetes.io/job-completion-index";
pub(super) const FAILURE_COUNT: &str = "batch.kubernetes.io/job-index-failure-count";
pub(super) const IGNORED_FAILURE_COUNT: &str = "batch.kubernetes.io/job-index-ignored-failure-count";

fn annotation<'p>(pod: &'p Pod, key: &str) -> Option<&'p str> {
    pod.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

/// `None` where the annotation is missing or no index.
pub(super) fn completion_index(pod: &Pod) -> Option<i32> {
    annotation(pod, COMPLETION_INDEX)?.parse().ok().filter(|index| *index >= 0)
}

/// The index, if the Job has it.
pub(super) fn valid_index(pod: &Pod, job: &Job) -> Option<i32> {
    completion_index(pod).filter(|index| *index < index_count(job))
}

/// How often the index failed before this pod; users can write anything there.
pub(super) fn failure_count(pod: &Pod) -> i32 {
    count(pod, FAILURE_COUNT)
}

/// How often the index failed before this pod in ways that the failure policy ignores.
pub(super) fn ignored_failure_count(pod: &Pod) -> i32 {
    count(pod, IGNORED_FAILURE_COUNT)
}

fn count(pod: &Pod, key: &str) -> i32 {
    annotation(pod, key).and_then(|text| text.parse().ok()).filter(|count| *count >= 0).unwrap_or(0)
}

/// The counts that the replacement of this pod carries: counted failures, ignored failures.
pub(super) fn counts_of_replacement(job: &Job, replaced: Option<&Pod>) -> (i32, i32) {
    let Some(pod) = replaced else { return (0, 0) };
    let (counted, ignored) = (failure_count(pod), ignored_failure_count(pod));
    if failure_policy::judge(job, pod).counts() {
        (counted.saturating_add(1), ignored)
    } else {
        (counted, ignored.saturating_add(1))
    }
}

fn indexes_of<'p>(pods: impl IntoIterator<Item = &'p Arc<Pod>>) -> Indexes {
    Indexes::of(pods.into_iter().filter_map(|pod| completion_index(pod)))
}

/// Indexes that pods not counted yet have completed.
pub(super) fn newly_succeeded(job: &Job, pods: &[Arc<Pod>]) -> Indexes {
    let done = pods.iter().filter(|pod| phase(pod) == "Succeeded" && is_tracked(pod));
    Indexes::of(done.filter_map(|pod| valid_index(pod, job)))
}

/// Indexes that failed for good by pods not counted yet.
pub(super) fn newly_failed(job: &Job, pods: &[Arc<Pod>]) -> Indexes {
    let lost = pods.iter().filter(|pod| is_tracked(pod) && fails_index(job, pod));
    Indexes::of(lost.filter_map(|pod| valid_index(pod, job)))
}

fn fails_index(job: &Job, pod: &Pod) -> bool {
    if !has_failed(pod, job) {
        return false;
    }
    let verdict = failure_policy::judge(job, pod);
    let limit = spec(job).backoff_limit_per_index.unwrap_or(i32::MAX);
    verdict.action == Some(Action::FailIndex) || (verdict.counts() && failure_count(pod) >= limit)
}

/// For each index that will be tried again, its last failed pod.
pub(super) fn delayed(sync: &Sync) -> BTreeMap<i32, Arc<Pod>> {
    let active = indexes_of(&sync.active_pods);
    let mut last: BTreeMap<i32, Arc<Pod>> = BTreeMap::new();
    let failed = sync.pods.iter().filter(|pod| sync.is_uncounted(pod) && has_failed(pod, &sync.job));
    for pod in failed {
        let Some(index) = valid_index(pod, &sync.job) else { continue };
        let lost = sync.failed_indexes.as_ref().is_some_and(|failed| failed.contains(index));
        if sync.completed.contains(index) || lost || active.contains(index) {
            continue;
        }
        let rank = |pod: &Pod| (failure_count(pod).saturating_add(ignored_failure_count(pod)), finished_at(pod));
        let later = last.get(&index).is_none_or(|known| {
            let ((known_count, known_end), (count, end)) = (rank(known), rank(pod));
            known_count <= count && end >= known_end
        });
        if later {
            last.insert(index, Arc::clone(pod));
        }
    }
    last
}

/// The lowest indexes that need a pod, at most `count`.
pub(super) fn pending(sync: &Sync, count: usize) -> Vec<i32> {
    let mut taken = sync.completed.union(&indexes_of(&sync.active_pods));
    if replaces_only_failed(&sync.job) {
        taken = taken.union(&indexes_of(sync.pods.iter().filter(|pod| is_terminating(pod))));
    }
    if let Some(failed) = &sync.failed_indexes {
        taken = taken.union(failed);
    }
    taken.missing(count, index_count(&sync.job))
}

/// Those of the indexes whose back-off is over; if there are none, how long the first of them has to wait.
pub(super) fn due(indexes: Vec<i32>, delayed: &BTreeMap<i32, Arc<Pod>>, now: Timestamp) -> Result<Vec<i32>, Duration> {
    let wait = |index: &i32| delayed.get(index).map_or(Duration::ZERO, |pod| remaining_for_index(pod, now));
    let (ready, waiting): (Vec<_>, Vec<_>) = indexes.into_iter().partition(|index| wait(index).is_zero());
    match waiting.iter().map(wait).min() {
        Some(soonest) if ready.is_empty() => Err(soonest),
        _ => Ok(ready),
    }
}

/// Active pods that have no index of the Job or share one, and the rest. Of those that share one the most expendable go;
/// `sort` brings these to the front.
pub(super) fn split_redundant(job: &Job, pods: &[Arc<Pod>], sort: impl Fn(&mut Vec<Arc<Pod>>)) -> (Vec<Arc<Pod>>, Vec<Arc<Pod>>) {
    let mut by_index: BTreeMap<i32, Vec<Arc<Pod>>> = BTreeMap::new();
    let (mut redundant, mut left) = (Vec::new(), Vec::new());
    for pod in pods {
        match valid_index(pod, job) {
            Some(index) => by_index.entry(index).or_default().push(Arc::clone(pod)),
            None => redundant.push(Arc::clone(pod)),
        }
    }
    for mut same in by_index.into_values() {
        if same.len() > 1 {
            sort(&mut same);
        }
        left.extend(same.pop());
        redundant.extend(same);
    }
    (redundant, left)
}

/// Pods in the order of their indexes, those without one first.
pub(super) fn sort_by_index(pods: &mut [Arc<Pod>]) {
    pods.sort_by_key(|pod| (completion_index(pod), uid(pod).to_owned()));
}

#[cfg(test)]
mod tests {
    use super::super::testing::{at, indexed, job, now, pod};
    use super::*;
    use kube::ResourceExt;
    use serde_json::json;

    #[test]
    fn indexes_of_pods() {
        for (text, expected) in [("0", Some(0)), ("12", Some(12)), ("-1", None), ("x", None), ("", None)] {
            let pod = pod("p", "Running", json!({"metadata": {"annotations": {COMPLETION_INDEX: text}}}));
            assert_eq!(completion_index(&pod), expected, "{text}");
        }
        assert_eq!(completion_index(&pod("p", "Running", json!({}))), None);
        let job = job(json!({"completions": 3}));
        assert_eq!((valid_index(&indexed("p", 2, ""), &job), valid_index(&indexed("p", 3, ""), &job)), (Some(2), None));
    }

    #[test]
    fn succeeded_and_failed_indexes() {
        let indexed_job = job(json!({"completionMode": "Indexed", "completions": 5, "backoffLimitPerIndex": 1}));
        let again = |name: &str, index: i32, failures: &str| {
            pod(
                name,
                "Failed",
                json!({"metadata": {"annotations": {COMPLETION_INDEX: index.to_string(), FAILURE_COUNT: failures}}}),
            )
        };
        let mut counted = (*indexed("counted", 2, "Succeeded")).clone();
        counted.metadata.finalizers = None;
        let pods = [
            indexed("a", 0, "Succeeded"),
            indexed("b", 1, "Running"),
            Arc::new(counted),
            again("c", 3, "1"),
            again("d", 4, "0"),
            indexed("e", 5, "Succeeded"),
        ];
        assert_eq!(newly_succeeded(&indexed_job, &pods).to_string(), "0");
        assert_eq!(newly_failed(&indexed_job, &pods).to_string(), "3");
        // The policy can fail an index at once, and an ignored failure never does.
        let exit = |action: &str| {
            job(json!({"completionMode": "Indexed", "completions": 5, "backoffLimitPerIndex": 1, "podFailurePolicy": {"rules": [
                {"action": action, "onPodConditions": [{"type": "X", "status": "True"}]}]}}))
        };
        let mut hit = (*again("d", 4, "0")).clone();
        let conditions = serde_json::from_value(json!([{"type": "X", "status": "True"}])).expect("are conditions");
        hit.status.as_mut().expect("has a status").conditions = Some(conditions);
        let mut spent = hit.clone();
        spent.metadata.annotations.as_mut().expect("has some").insert(FAILURE_COUNT.into(), "1".into());
        for (action, pod, expected) in
            [("FailIndex", &hit, "4"), ("Ignore", &spent, ""), ("Count", &hit, ""), ("Count", &spent, "4")]
        {
            assert_eq!(newly_failed(&exit(action), &[Arc::new(pod.clone())]).to_string(), expected, "{action}");
        }
    }

    #[test]
    fn replacements_count_on() {
        let plain = job(json!({}));
        assert_eq!(counts_of_replacement(&plain, None), (0, 0));
        let old = pod(
            "p",
            "Failed",
            json!({"metadata": {"annotations": {FAILURE_COUNT: "2", IGNORED_FAILURE_COUNT: "3"}},
            "status": {"conditions": [{"type": "X", "status": "True"}]}}),
        );
        assert_eq!(counts_of_replacement(&plain, Some(&old)), (3, 3));
        let rules = json!([{"action": "Ignore", "onPodConditions": [{"type": "X", "status": "True"}]}]);
        assert_eq!(counts_of_replacement(&job(json!({"podFailurePolicy": {"rules": rules}})), Some(&old)), (2, 4));
    }

    #[test]
    fn redundant_pods() {
        let indexed_job = job(json!({"completionMode": "Indexed", "completions": 3}));
        let pods = [
            indexed("a", 0, "Running"),
            indexed("b", 1, "Running"),
            indexed("c", 1, "Running"),
            indexed("d", 3, "Running"),
            pod("e", "Running", json!({})),
        ];
        let by_name = |pods: &mut Vec<Arc<Pod>>| pods.sort_by_key(|pod| pod.name_any());
        let (redundant, left) = split_redundant(&indexed_job, &pods, by_name);
        let names = |pods: &[Arc<Pod>]| pods.iter().map(|pod| pod.name_any()).collect::<Vec<_>>().join(" ");
        assert_eq!((names(&redundant), names(&left)), ("d e b".into(), "a c".into()));
    }

    #[test]
    fn indexes_wait_for_their_back_off() {
        let failed = |index: i32, end: &str| {
            let state = json!({"terminated": {"exitCode": 1, "finishedAt": end}});
            let status = json!({"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state});
            let annotations = json!({COMPLETION_INDEX: index.to_string()});
            (
                index,
                pod("p", "Failed", json!({"metadata": {"annotations": annotations}, "status": {"containerStatuses": [status]}})),
            )
        };
        let delayed = BTreeMap::from([
            failed(1, "2024-01-01T11:59:57Z"),
            failed(2, "2024-01-01T11:59:55Z"),
            failed(3, "2024-01-01T11:00:00Z"),
        ]);
        assert_eq!(now(), at("2024-01-01T12:00:00Z"));
        for (indexes, expected) in [
            (vec![], Ok(vec![])),
            (vec![0, 1], Ok(vec![0])),
            (vec![1, 2, 3], Ok(vec![3])),
            (vec![1, 2], Err(Duration::from_secs(5))),
        ] {
            assert_eq!(due(indexes.clone(), &delayed, now()), expected, "{indexes:?}");
        }
    }
}
