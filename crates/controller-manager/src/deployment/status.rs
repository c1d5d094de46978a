//! A deployment's status and conditions. Pure.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use super::replica_sets::Set;
use super::scaling::{desired, max_unavailable};

pub(super) const AVAILABLE: &str = "Available";
pub(super) const PROGRESSING: &str = "Progressing";
pub(super) const REPLICA_FAILURE: &str = "ReplicaFailure";
pub(super) const NEW_SET_AVAILABLE: &str = "NewReplicaSetAvailable";
pub(super) const TIMED_OUT: &str = "ProgressDeadlineExceeded";

/// Seconds without progress after which a rollout is called failed; `None` if never.
pub(super) fn progress_deadline(deployment: &Deployment) -> Option<i32> {
    let spec = deployment.spec.as_ref()?;
    spec.progress_deadline_seconds.filter(|seconds| *seconds != i32::MAX)
}

pub(super) fn condition<'a>(status: &'a DeploymentStatus, type_: &str) -> Option<&'a DeploymentCondition> {
    status.conditions.iter().flatten().find(|condition| condition.type_ == type_)
}

pub(super) fn new_condition(
    type_: &str,
    status: &str,
    reason: &str,
    message: impl Into<String>,
    now: Timestamp,
) -> DeploymentCondition {
    DeploymentCondition {
        type_: type_.into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_transition_time: Some(Time(now)),
        last_update_time: Some(Time(now)),
    }
}

/// Sets a condition unless it has that status and reason already; the transition time moves only with the status.
pub(super) fn set_condition(status: &mut DeploymentStatus, mut condition: DeploymentCondition) {
    if let Some(current) = self::condition(status, &condition.type_)
        && current.status == condition.status
    {
        if current.reason == condition.reason {
            return;
        }
        condition.last_transition_time = current.last_transition_time.clone();
    }
    remove_condition(status, &condition.type_);
    status.conditions.get_or_insert_default().push(condition);
}

pub(super) fn remove_condition(status: &mut DeploymentStatus, type_: &str) {
    if let Some(conditions) = &mut status.conditions {
        conditions.retain(|condition| condition.type_ != type_);
    }
}

fn nonzero(count: i32) -> Option<i32> {
    Some(count).filter(|count| *count != 0)
}

/// Zero counts and empty lists become absent, as upstream's encoding has them.
pub(super) fn normalized(mut status: DeploymentStatus) -> DeploymentStatus {
    for count in [
        &mut status.replicas,
        &mut status.updated_replicas,
        &mut status.ready_replicas,
        &mut status.available_replicas,
        &mut status.unavailable_replicas,
    ] {
        *count = count.filter(|count| *count != 0);
    }
    status.conditions = status.conditions.filter(|conditions| !conditions.is_empty());
    status
}

/// Sum of the sets' terminating pods; `None` if one of them does not report it.
fn terminating(sets: &[Set]) -> Option<i32> {
    let mut total = 0;
    for set in sets {
        match set.wanted.status.as_ref() {
            None => {}
            Some(status) => match status.terminating_replicas {
                Some(count) => total += count,
                None if status.observed_generation.unwrap_or(0) == 0 => {}
                None => return None,
            },
        }
    }
    Some(total)
}

/// Counts and the Available condition; the other conditions are kept.
pub(super) fn calculate(deployment: &Deployment, sets: &[Set], new: Option<usize>, now: Timestamp) -> DeploymentStatus {
    let sum = |of: &dyn Fn(&Set) -> i32| sets.iter().map(of).sum::<i32>();
    let ready = |set: &Set| {
        let status = set.wanted.status.as_ref();
        status.and_then(|status| status.ready_replicas).unwrap_or(0)
    };
    let available = sum(&Set::available);
    let last = deployment.status.clone().unwrap_or_default();
    let mut status = DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: nonzero(sum(&Set::actual)),
        updated_replicas: nonzero(new.map_or(0, |new| sets[new].actual())),
        ready_replicas: nonzero(sum(&ready)),
        available_replicas: nonzero(available),
        unavailable_replicas: nonzero((sum(&Set::replicas) - available).max(0)),
        terminating_replicas: terminating(sets),
        collision_count: last.collision_count,
        conditions: last.conditions,
    };
    let enough = available >= desired(deployment) - max_unavailable(deployment);
    let condition = if enough {
        new_condition(AVAILABLE, "True", "MinimumReplicasAvailable", "Deployment has minimum availability.", now)
    } else {
        let message = "Deployment does not have minimum availability.";
        new_condition(AVAILABLE, "False", "MinimumReplicasUnavailable", message, now)
    };
    set_condition(&mut status, condition);
    normalized(status)
}

/// All replicas are updated and available, and none is left over.
pub(super) fn is_complete(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let wanted = nonzero(desired(deployment));
    let positive = |count: Option<i32>| count.filter(|count| *count != 0);
    positive(status.updated_replicas) == wanted
        && positive(status.replicas) == wanted
        && positive(status.available_replicas) == wanted
        && status.observed_generation >= deployment.metadata.generation
}

fn has_progressed(last: &DeploymentStatus, status: &DeploymentStatus) -> bool {
    let count = |count: Option<i32>| count.unwrap_or(0);
    let outdated = |status: &DeploymentStatus| count(status.replicas) - count(status.updated_replicas);
    count(status.updated_replicas) > count(last.updated_replicas)
        || outdated(status) < outdated(last)
        || count(status.ready_replicas) > count(last.ready_replicas)
        || count(status.available_replicas) > count(last.available_replicas)
}

fn has_timed_out(deployment: &Deployment, status: &DeploymentStatus, now: Timestamp) -> bool {
    let (Some(deadline), Some(condition)) = (progress_deadline(deployment), condition(status, PROGRESSING)) else {
        return false;
    };
    match condition.reason.as_deref() {
        Some(NEW_SET_AVAILABLE) => false,
        Some(TIMED_OUT) => true,
        _ => condition
            .last_update_time
            .as_ref()
            .is_none_or(|updated| now.duration_since(updated.0) > SignedDuration::from_secs(i64::from(deadline))),
    }
}

/// Status after a step of a rollout: counts, and how the rollout fares.
pub(super) fn rollout(deployment: &Deployment, sets: &[Set], new: Option<usize>, now: Timestamp) -> DeploymentStatus {
    let mut status = calculate(deployment, sets, new, now);
    let last = deployment.status.clone().unwrap_or_default();
    if progress_deadline(deployment).is_none() {
        remove_condition(&mut status, PROGRESSING);
    } else if !was_complete(&last, &status) {
        set_progress(deployment, &last, &mut status, new.map(|new| sets[new].name()), now);
    }
    match replica_failure(sets, new) {
        Some(failure) => set_condition(&mut status, failure),
        None => remove_condition(&mut status, REPLICA_FAILURE),
    }
    normalized(status)
}

fn was_complete(last: &DeploymentStatus, status: &DeploymentStatus) -> bool {
    let reason = condition(last, PROGRESSING).and_then(|condition| condition.reason.as_deref());
    status.replicas == status.updated_replicas && reason == Some(NEW_SET_AVAILABLE)
}

fn set_progress(
    deployment: &Deployment,
    last: &DeploymentStatus,
    status: &mut DeploymentStatus,
    new_set: Option<String>,
    now: Timestamp,
) {
    let subject = match new_set {
        Some(name) => format!("ReplicaSet {name:?}"),
        None => format!("Deployment {:?}", deployment.name_any()),
    };
    if is_complete(deployment, status) {
        let message = format!("{subject} has successfully progressed.");
        set_condition(status, new_condition(PROGRESSING, "True", NEW_SET_AVAILABLE, message, now));
    } else if has_progressed(last, status) {
        let message = format!("{subject} is progressing.");
        let mut condition = new_condition(PROGRESSING, "True", "ReplicaSetUpdated", message, now);
        if let Some(current) = self::condition(last, PROGRESSING) {
            if current.status == "True" {
                condition.last_transition_time = current.last_transition_time.clone();
            }
            // Set anew even if status and reason are the same: each step of progress restarts the deadline.
            remove_condition(status, PROGRESSING);
        }
        set_condition(status, condition);
    } else if has_timed_out(deployment, status, now) {
        let message = format!("{subject} has timed out progressing.");
        set_condition(status, new_condition(PROGRESSING, "False", TIMED_OUT, message, now));
    }
}

/// The new set's failure, or else that of any other.
fn replica_failure(sets: &[Set], new: Option<usize>) -> Option<DeploymentCondition> {
    let failure_of = |set: &Set| {
        let conditions = set.wanted.status.as_ref()?.conditions.as_ref()?;
        let failure = conditions.iter().find(|condition| condition.type_ == REPLICA_FAILURE)?;
        Some(DeploymentCondition {
            type_: failure.type_.clone(),
            status: failure.status.clone(),
            reason: failure.reason.clone(),
            message: failure.message.clone(),
            last_transition_time: failure.last_transition_time.clone(),
            last_update_time: failure.last_transition_time.clone(),
        })
    };
    new.and_then(|new| failure_of(&sets[new])).or_else(|| sets.iter().find_map(failure_of))
}

/// When to look again whether a rollout missed its deadline.
pub(super) fn next_progress_check(deployment: &Deployment, status: &DeploymentStatus, now: Timestamp) -> Option<Duration> {
    let deadline = progress_deadline(deployment)?;
    let condition = condition(status, PROGRESSING)?;
    if is_complete(deployment, status) || condition.reason.as_deref() == Some(TIMED_OUT) {
        return None;
    }
    let updated = condition.last_update_time.as_ref()?.0;
    let left = i64::from(deadline) - now.duration_since(updated).as_secs();
    // One second more, so that the deadline has surely passed by then.
    Some(Duration::from_secs(u64::try_from(left).unwrap_or(0) + 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn when_a_rollout_has_timed_out() {
        // (deadline, reason, last update, now, expected)
        for (deadline, reason, updated, now, expected) in [
            (Some(10), "ReplicaSetUpdated", "2024-01-01T00:00:00Z", "2024-01-01T00:00:10Z", false),
            (Some(10), "ReplicaSetUpdated", "2024-01-01T00:00:00Z", "2024-01-01T00:00:10.1Z", true),
            (Some(10), NEW_SET_AVAILABLE, "2024-01-01T00:00:00Z", "2024-01-01T01:00:00Z", false),
            (Some(10), TIMED_OUT, "2024-01-01T00:00:00Z", "2024-01-01T00:00:01Z", true),
            (Some(i32::MAX), "ReplicaSetUpdated", "2024-01-01T00:00:00Z", "2024-02-01T00:00:00Z", false),
            (None, "ReplicaSetUpdated", "2024-01-01T00:00:00Z", "2024-02-01T00:00:00Z", false),
        ] {
            let deployment: Deployment = serde_json::from_value(json!({
                "spec": {"progressDeadlineSeconds": deadline, "selector": {}, "template": {}},
                "status": {"conditions": [{"type": "Progressing", "status": "True", "reason": reason, "lastUpdateTime": updated}]},
            }))
            .expect("is a deployment");
            let status = deployment.status.clone().expect("has a status");
            let got = has_timed_out(&deployment, &status, now.parse().expect("is a time"));
            assert_eq!(got, expected, "{deadline:?} {reason} {now}");
        }
        let without: Deployment =
            serde_json::from_value(json!({"spec": {"progressDeadlineSeconds": 10, "selector": {}, "template": {}}}))
                .expect("is a deployment");
        assert!(!has_timed_out(&without, &DeploymentStatus::default(), Timestamp::UNIX_EPOCH), "nothing to go by");
    }
}
