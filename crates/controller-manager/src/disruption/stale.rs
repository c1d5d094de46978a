//! Pods that were to be disrupted and were not: their `DisruptionTarget` condition is set to False after two minutes.

use std::time::Duration;

use async_trait::async_trait;
use client::{Controller, NamespacedName, Outcome, ReconcileError, Store};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::api_errors::ignore_not_found;
use crate::context::{Context, now};
use crate::pod_state::{condition, is_terminal};

/// Upstream's `stalePodDisruptionTimeout`.
const STALE_AFTER: Duration = Duration::from_secs(2 * 60);
/// Of conditions that the kubelet sets nobody knows how long they take to be followed by the end of the pod.
const BY_KUBELET: &str = "TerminationByKubelet";

pub(super) struct StaleConditions {
    pub(super) context: Context,
    pub(super) pods: Store<Pod>,
}

/// How long the condition of a pod may still stay; `None` if there is none that could be stale.
pub(super) fn stale_in(pod: &Pod, now: Timestamp) -> Option<Duration> {
    if pod.metadata.deletion_timestamp.is_some() || is_terminal(pod) {
        return None;
    }
    let target = condition(pod, "DisruptionTarget").filter(|condition| condition.status == "True")?;
    if target.reason.as_deref() == Some(BY_KUBELET) {
        return None;
    }
    // Without a time it is as old as time itself.
    let Some(since) = &target.last_transition_time else { return Some(Duration::ZERO) };
    let left = i128::try_from(STALE_AFTER.as_millis()).unwrap_or(i128::MAX) - now.duration_since(since.0).as_millis();
    Some(Duration::from_millis(u64::try_from(left).unwrap_or(0)))
}

/// The patch that ends the disruption of this version of a pod.
fn reset(pod: &Pod, now: Timestamp) -> Value {
    let condition = json!({
        "type": "DisruptionTarget", "status": "False", "lastTransitionTime": now.to_string(),
        "reason": null, "message": null, "observedGeneration": pod.metadata.generation,
    });
    let metadata = json!({"uid": pod.metadata.uid, "resourceVersion": pod.metadata.resource_version});
    json!({"metadata": metadata, "status": {"conditions": [condition]}})
}

#[async_trait]
impl Controller for StaleConditions {
    type Key = NamespacedName;

    fn name(&self) -> &'static str {
        "disruption-controller"
    }

    async fn reconcile(&self, key: &NamespacedName) -> Result<Outcome, ReconcileError> {
        let Some(pod) = self.pods.get_key(key) else { return Ok(Outcome::Done) };
        let now = now();
        match stale_in(&pod, now) {
            None => return Ok(Outcome::Done),
            Some(left) if !left.is_zero() => return Ok(Outcome::RequeueAfter(left)),
            Some(_) => {}
        }
        let api: Api<Pod> = self.context.api(&key.namespace);
        let result = api.patch_status(&key.name, &PatchParams::default(), &Patch::Strategic(reset(&pod, now))).await;
        ignore_not_found(result).map_err(ReconcileError::api("reset a stale DisruptionTarget condition"))?;
        Ok(Outcome::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_conditions_are_stale() {
        let pod = |deleting: bool, phase: &str, status: &str, reason: &str| -> Pod {
            let since = "2024-01-01T00:00:00Z";
            let condition = json!({"type": "DisruptionTarget", "status": status, "reason": reason, "lastTransitionTime": since});
            let mut pod = json!({"metadata": {"name": "p"}, "status": {"phase": phase, "conditions": [condition]}});
            if deleting {
                pod["metadata"]["deletionTimestamp"] = json!(since);
            }
            serde_json::from_value(pod).expect("is a pod")
        };
        let seconds = Duration::from_secs;
        for (pod, at, expected) in [
            (pod(false, "Running", "True", "EvictionByEvictionAPI"), "00:02:00", Some(Duration::ZERO)),
            (pod(false, "Running", "True", "EvictionByEvictionAPI"), "00:01:00", Some(seconds(60))),
            (pod(false, "Pending", "True", "PreemptionByScheduler"), "00:10:00", Some(Duration::ZERO)),
            (pod(true, "Running", "True", "EvictionByEvictionAPI"), "00:10:00", None),
            (pod(false, "Running", "False", "EvictionByEvictionAPI"), "00:10:00", None),
            (pod(false, "Running", "True", "TerminationByKubelet"), "00:10:00", None),
            (pod(false, "Failed", "True", "EvictionByEvictionAPI"), "00:10:00", None),
            (pod(false, "Succeeded", "True", "EvictionByEvictionAPI"), "00:10:00", None),
            (Pod::default(), "00:10:00", None),
        ] {
            let now = format!("2024-01-01T{at}Z").parse().expect("is a time");
            assert_eq!(stale_in(&pod, now), expected, "{at} {pod:?}");
        }
    }
}
