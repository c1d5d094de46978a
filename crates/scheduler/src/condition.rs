//! What the user reads of an attempt that failed: the event FailedScheduling and the condition PodScheduled.

use std::sync::Arc;

use client::EventKind;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use crate::cycle::Rejection;
use crate::eviction::{now, patch_status};
use crate::pod_info::PodInfo;
use crate::run::Scheduler;

/// Upstream's NoteLengthLimit of events, in bytes.
const NOTE_MAX: usize = 1024;

/// An attempt for the same reason as the one before is told of so seldom: every half hour where nothing changes, of the hour that an
/// event lives.
const ATTEMPTS_TOLD: u32 = 6;

impl Scheduler {
    /// Tells about a rejection. What the pod says already is not written again with every attempt, but often enough that its event does
    /// not expire: a cluster in which nothing changes is still.
    pub(crate) async fn tell_rejection(&self, pod: &Arc<Pod>, rejection: &Rejection, attempts: u32) {
        let status = status_after(pod, rejection);
        if status.is_some() || attempts.is_multiple_of(ATTEMPTS_TOLD) {
            let note = shortened(&rejection.message);
            self.recorder_of(pod).record(pod.as_ref(), EventKind::Warning, "FailedScheduling", note);
        }
        self.give_back_claims().await;
        let Some(status) = status else { return };
        let pods = Api::<Pod>::namespaced(self.client.clone(), &pod.namespace().unwrap_or_default());
        let _permit = self.requests.acquire().await;
        if let Err(error) = patch_status(&pods, pod, status).await {
            // The pod may be gone; otherwise the next attempt tells again.
            tracing::debug!(namespace = pod.namespace(), name = pod.name_any(), %error, "cannot set the condition PodScheduled");
        }
    }

    /// Carries out what plugins found to be given back.
    pub(crate) async fn give_back_claims(&self) {
        let releases = std::mem::take(&mut *self.handle.releases.lock());
        for release in releases {
            let _permit = self.requests.acquire().await;
            if let Err(error) = release.carry_out(&self.client).await {
                // The claim has changed or is gone; otherwise the next attempt at the pod finds it again.
                tracing::debug!(%error, "cannot give a claim to devices back");
            }
        }
    }

    /// Says where a pod that is not bound yet is going.
    pub(crate) async fn nominate_expected(&self, pod: &PodInfo, node: &str) {
        let nominated = pod.pod.status.as_ref().and_then(|status| status.nominated_node_name.as_deref());
        if nominated == Some(node) {
            return;
        }
        let pods = Api::<Pod>::namespaced(self.client.clone(), &pod.pod.namespace().unwrap_or_default());
        if let Err(error) = patch_status(&pods, &pod.pod, json!({"nominatedNodeName": node})).await {
            // It is information only: the binding goes on.
            tracing::debug!(namespace = pod.pod.namespace(), name = pod.pod.name_any(), %error, "cannot set nominatedNodeName");
        }
    }
}

/// What to merge into the pod's status; `None` if it says so already.
fn status_after(pod: &Pod, rejection: &Rejection) -> Option<Value> {
    let reason = if rejection.is_failure { "SchedulerError" } else { "Unschedulable" };
    let status = pod.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let before = conditions.iter().find(|condition| condition.type_ == "PodScheduled");
    let known = before.is_some_and(|condition| {
        condition.status == "False"
            && condition.reason.as_deref() == Some(reason)
            && condition.message.as_deref() == Some(&rejection.message)
            && condition.observed_generation == pod.metadata.generation
    });
    let nominated = status.and_then(|status| status.nominated_node_name.as_deref()).unwrap_or_default();
    let nominate = rejection.nominate.as_deref().filter(|node| *node != nominated);
    let mut patch = json!({});
    if !known {
        let since = before.filter(|condition| condition.status == "False").and_then(|c| c.last_transition_time.clone());
        patch["conditions"] = json!([{
            "type": "PodScheduled",
            "status": "False",
            "observedGeneration": pod.metadata.generation,
            "reason": reason,
            "message": rejection.message,
            "lastProbeTime": null,
            "lastTransitionTime": since.map_or_else(|| json!(now()), |since| json!(since)),
        }]);
    }
    if let Some(node) = nominate {
        patch["nominatedNodeName"] = if node.is_empty() { Value::Null } else { json!(node) };
    }
    (!known || nominate.is_some()).then_some(patch)
}

fn shortened(message: &str) -> String {
    if message.len() <= NOTE_MAX {
        return message.to_owned();
    }
    let suffix = " ...";
    let end = (0..=NOTE_MAX - suffix.len()).rev().find(|end| message.is_char_boundary(*end)).unwrap_or_default();
    format!("{}{suffix}", &message[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_news_are_written() {
        let condition = json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "m", "lastTransitionTime": "2026-01-01T00:00:00Z"});
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "status": {"conditions": [condition]}})).unwrap();
        let rejection = |message: &str, nominate: Option<&str>| Rejection {
            message: message.to_owned(),
            nominate: nominate.map(str::to_owned),
            ..Rejection::default()
        };
        assert_eq!(status_after(&pod, &rejection("m", None)), None);
        assert_eq!(status_after(&pod, &rejection("m", Some(""))), None, "there is no nomination to withdraw");
        assert_eq!(status_after(&pod, &rejection("m", Some("n"))), Some(json!({"nominatedNodeName": "n"})));
        let changed = status_after(&pod, &rejection("other", None)).unwrap();
        assert_eq!(changed["conditions"][0]["lastTransitionTime"], "2026-01-01T00:00:00Z", "it was False before");
    }

    #[test]
    fn long_messages_are_cut_at_a_character() {
        assert_eq!(shortened("short"), "short");
        let cut = shortened(&"é".repeat(600));
        assert!(cut.len() <= NOTE_MAX && cut.ends_with(" ..."));
    }
}
