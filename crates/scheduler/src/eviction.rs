//! Carries out what DefaultPreemption decided: tells the victims, and withdraws the nominations that the preemptor outranks.

use std::sync::Arc;

use client::{EventKind, NamespacedName};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use crate::framework::Eviction;
use crate::pod_info::PodInfo;
use crate::run::Scheduler;

impl Scheduler {
    /// Evicts the victims that do not leave already. Until that is done the preemptor stays out of the active queue.
    pub(crate) fn start_eviction(self: &Arc<Self>, preemptor: Arc<PodInfo>, mut eviction: Eviction) {
        crate::metrics::preemption_victims(eviction.victims.len());
        eviction.victims.retain(|victim| victim.pod.metadata.deletion_timestamp.is_none());
        if eviction.victims.is_empty() {
            return;
        }
        self.handle.preempting.lock().insert(preemptor.uid.clone(), None);
        let scheduler = Arc::clone(self);
        self.tasks.spawn(async move { scheduler.evict(&preemptor, &eviction).await });
    }

    async fn evict(&self, preemptor: &PodInfo, eviction: &Eviction) {
        let started = tokio::time::Instant::now();
        // Whether the preemptor has to be told: nothing else will bring it back where a victim could not be evicted, or was gone before
        // (what was heard of that came while the preemptor was held up).
        let (mut failed, mut gone) = (false, false);
        let mut note = |result: kube::Result<bool>| match result {
            Ok(was_gone) => gone |= was_gone,
            Err(error) => {
                failed = true;
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    pod = preemptor.pod.name_any(),
                    "preemption did not succeed"
                );
            }
        };
        for outranked in self.handle.nominator.on(&eviction.node) {
            if outranked.priority() < preemptor.priority() {
                note(self.withdraw_nomination(&outranked).await.map(|()| false));
            }
        }
        if let Some((last, others)) = eviction.victims.split_last() {
            for victim in others {
                note(self.evict_one(preemptor, victim, &eviction.node).await);
            }
            // The removal of the last one is what brings the preemptor back: it must not be held up when that is heard of.
            let key = NamespacedName::of(last.pod.as_ref());
            self.handle.preempting.lock().insert(preemptor.uid.clone(), Some(key));
            note(self.evict_one(preemptor, last, &eviction.node).await);
        }
        self.handle.preempting.lock().remove(&preemptor.uid);
        crate::metrics::preemption_task(failed, started.elapsed());
        if failed || gone {
            self.activate(&preemptor.uid);
        }
    }

    /// Evicts a victim. True if it was gone already.
    async fn evict_one(&self, preemptor: &PodInfo, victim: &PodInfo, node: &str) -> kube::Result<bool> {
        let pod = &victim.pod;
        if !self.handle.waiting.reject(&victim.uid, "DefaultPreemption", "preempted") {
            let pods = Api::<Pod>::namespaced(self.client.clone(), &pod.namespace().unwrap_or_default());
            let scheduler = preemptor.pod.spec.as_ref().and_then(|spec| spec.scheduler_name.as_deref()).unwrap_or_default();
            let condition = json!({
                "type": "DisruptionTarget",
                "status": "True",
                "observedGeneration": pod.metadata.generation,
                "reason": "PreemptionByScheduler",
                "message": format!("{scheduler}: preempting to accommodate a higher priority pod"),
                "lastProbeTime": null,
                "lastTransitionTime": now(),
            });
            let status = json!({"conditions": [condition]});
            if is_gone(patch_status(&pods, pod, status).await)? {
                return Ok(true);
            }
            let preconditions = Preconditions { uid: pod.uid(), resource_version: None };
            let parameters = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
            if is_gone(pods.delete(&pod.name_any(), &parameters).await.map(|_| ()))? {
                return Ok(true);
            }
        }
        let message = format!("Preempted by pod {} on node {node}", preemptor.uid);
        self.recorder_of(&preemptor.pod).record(pod.as_ref(), EventKind::Normal, "Preempted", message);
        Ok(false)
    }

    /// Its room is taken: it must look for another.
    async fn withdraw_nomination(&self, pod: &PodInfo) -> kube::Result<()> {
        let pods = Api::<Pod>::namespaced(self.client.clone(), &pod.pod.namespace().unwrap_or_default());
        is_gone(patch_status(&pods, &pod.pod, json!({"nominatedNodeName": null})).await).map(|_| ())
    }
}

/// Whether the pod was not there any more, which is as good as done.
fn is_gone(result: kube::Result<()>) -> kube::Result<bool> {
    match result {
        Ok(()) => Ok(false),
        Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(true),
        Err(error) => Err(error),
    }
}

/// Merges into a pod's status, if it is still the same pod.
pub(crate) async fn patch_status(pods: &Api<Pod>, pod: &Pod, status: Value) -> kube::Result<()> {
    let patch = Patch::Strategic(json!({"metadata": {"uid": pod.uid()}, "status": status}));
    pods.patch_status(&pod.name_any(), &PatchParams::default(), &patch).await.map(|_| ())
}

/// The time as conditions have it.
pub(crate) fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
