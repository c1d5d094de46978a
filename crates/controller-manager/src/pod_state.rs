//! What a pod's status means to controllers. Pure.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition};

pub(crate) fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("")
}

/// Succeeded or Failed: it will never run again.
pub(crate) fn is_terminal(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Neither finished nor being deleted.
pub(crate) fn is_active(pod: &Pod) -> bool {
    !is_terminal(pod) && pod.metadata.deletion_timestamp.is_none()
}

/// Being deleted, but not finished.
pub(crate) fn is_terminating(pod: &Pod) -> bool {
    !is_terminal(pod) && pod.metadata.deletion_timestamp.is_some()
}

pub(crate) fn condition<'a>(pod: &'a Pod, type_: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == type_)
}

pub(crate) fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|condition| condition.status == "True")
}

/// When the Ready condition last changed, if the pod is ready.
pub(crate) fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let ready = condition(pod, "Ready").filter(|condition| condition.status == "True")?;
    ready.last_transition_time.as_ref().map(|time| time.0)
}

/// Ready for at least `min_ready_seconds`.
pub(crate) fn is_available(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> bool {
    if !is_ready(pod) {
        return false;
    }
    min_ready_seconds <= 0 || available_in(pod, min_ready_seconds, now).is_some_and(|left| left.is_zero())
}

/// How long a ready pod still has to stay ready to be available; `None` if it is not ready.
pub(crate) fn available_in(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> Option<Duration> {
    let ready = ready_since(pod)?;
    let ready_for = now.duration_since(ready).as_millis();
    let left_ms = i128::from(min_ready_seconds) * 1000 - ready_for;
    Some(Duration::from_millis(u64::try_from(left_ms).unwrap_or(0)))
}

/// When to look again because a ready pod becomes available just by time; `min_ready_seconds` if none of these pods will.
pub(crate) fn next_availability(pods: &[Arc<Pod>], min_ready_seconds: i32, now: Timestamp) -> Duration {
    let fallback = Duration::from_secs(u64::try_from(min_ready_seconds).unwrap_or(0));
    let left = pods.iter().filter_map(|pod| available_in(pod, min_ready_seconds, now)).filter(|left| !left.is_zero());
    left.min().unwrap_or(fallback)
}

pub(crate) fn node_name(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or("")
}
