//! The status of a ReplicaSet or ReplicationController from its pods. Pure.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ReplicaSetCondition;
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::owner::Status;
use crate::label_match::contains_labels;
use crate::pod_state::{is_available, is_ready, next_availability};

const REPLICA_FAILURE: &str = "ReplicaFailure";

/// What the status is made from, apart from the last one.
pub(super) struct Observed<'a> {
    pub(super) replicas_wanted: i32,
    pub(super) min_ready_seconds: i32,
    pub(super) template: Option<&'a PodTemplateSpec>,
    pub(super) active: &'a [Arc<Pod>],
    /// `None` for kinds that do not report it.
    pub(super) terminating: Option<usize>,
    /// Why pods could not be created or deleted.
    pub(super) failure: Option<String>,
    pub(super) now: Timestamp,
}

fn count(pods: &[Arc<Pod>], of: impl Fn(&Pod) -> bool) -> i32 {
    i32::try_from(pods.iter().filter(|pod| of(pod)).count()).unwrap_or(i32::MAX)
}

/// The new status; `observedGeneration` is left to the caller.
pub(super) fn status(last: &Status, observed: &Observed<'_>) -> Status {
    let template_labels = observed.template.and_then(|template| template.metadata.as_ref()).and_then(|meta| meta.labels.as_ref());
    let active = observed.active;
    Status {
        replicas: count(active, |_| true),
        fully_labeled: count(active, |pod| contains_labels(pod.metadata.labels.as_ref(), template_labels)),
        ready: count(active, is_ready),
        available: count(active, |pod| is_available(pod, observed.min_ready_seconds, observed.now)),
        terminating: observed.terminating.map(|count| i32::try_from(count).unwrap_or(i32::MAX)),
        observed_generation: last.observed_generation,
        conditions: conditions(last, observed),
    }
}

fn conditions(last: &Status, observed: &Observed<'_>) -> Vec<ReplicaSetCondition> {
    let mut conditions = last.conditions.clone();
    let failing = conditions.iter().any(|condition| condition.type_ == REPLICA_FAILURE);
    match &observed.failure {
        None => conditions.retain(|condition| condition.type_ != REPLICA_FAILURE),
        Some(message) if !failing => {
            let wanted = usize::try_from(observed.replicas_wanted).unwrap_or(0);
            let reason = if observed.active.len() < wanted { "FailedCreate" } else { "FailedDelete" };
            conditions.push(ReplicaSetCondition {
                type_: REPLICA_FAILURE.into(),
                status: "True".into(),
                reason: Some(reason.into()),
                message: Some(message.clone()),
                last_transition_time: Some(Time(observed.now)),
            });
        }
        Some(_) => {}
    }
    conditions
}

/// When to look again because a ready pod becomes available just by time.
pub(super) fn next_availability_check(observed: &Observed<'_>, status: &Status) -> Option<Duration> {
    if observed.min_ready_seconds <= 0 || status.ready == status.available {
        return None;
    }
    Some(next_availability(observed.active, observed.min_ready_seconds, observed.now))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(label: &str, ready_since: Option<&str>) -> Arc<Pod> {
        let conditions = ready_since
            .map(|since| json!([{"type": "Ready", "status": "True", "lastTransitionTime": since}]))
            .unwrap_or(json!([]));
        let value = json!({
            "metadata": {"labels": {"app": label}},
            "status": {"phase": "Running", "conditions": conditions},
        });
        Arc::new(serde_json::from_value(value).expect("is a pod"))
    }

    fn observed<'a>(active: &'a [Arc<Pod>], template: &'a PodTemplateSpec) -> Observed<'a> {
        Observed {
            replicas_wanted: 4,
            min_ready_seconds: 60,
            template: Some(template),
            active,
            terminating: Some(1),
            failure: None,
            now: "2024-01-01T12:00:00Z".parse().expect("is a time"),
        }
    }

    #[test]
    fn counts_and_the_next_check() {
        let template: PodTemplateSpec =
            serde_json::from_value(json!({"metadata": {"labels": {"app": "x"}}})).expect("is a template");
        let pods = [pod("x", Some("2024-01-01T11:59:00Z")), pod("x", Some("2024-01-01T11:59:20Z")), pod("y", None)];
        let observed = observed(&pods, &template);
        let status = status(&Status::default(), &observed);
        assert_eq!(
            (status.replicas, status.fully_labeled, status.ready, status.available, status.terminating),
            (3, 2, 2, 1, Some(1))
        );
        assert_eq!(next_availability_check(&observed, &status), Some(Duration::from_secs(20)));
    }

    #[test]
    fn a_failure_is_reported_once_and_cleared() {
        let template = PodTemplateSpec::default();
        let mut observed = observed(&[], &template);
        observed.failure = Some("quota".into());
        let failed = status(&Status::default(), &observed);
        assert_eq!(failed.conditions[0].reason.as_deref(), Some("FailedCreate"));
        observed.failure = Some("another message".into());
        assert_eq!(status(&failed, &observed).conditions, failed.conditions);
        observed.failure = None;
        assert!(status(&failed, &observed).conditions.is_empty());
    }
}
