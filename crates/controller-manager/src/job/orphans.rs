//! Pods that keep the tracking finalizer although no Job will count them: those of Jobs that are gone or over, and those that belong
//! to nobody. Without this they could never be deleted.

use std::sync::Arc;

use async_trait::async_trait;
use client::{Controller, NamespacedName, Outcome, ReconcileError, Store};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;

use super::spec::{external_manager, is_finished, is_tracked};
use super::sync::Writes;
use crate::api_errors::ignore_not_found;
use crate::ownership::controller_of;

/// Where to look.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Orphan {
    Pod(NamespacedName),
    /// All pods controlled by the Job with this UID.
    PodsOf(String),
}

pub(super) struct Orphans {
    pub(super) jobs: Store<Job>,
    pub(super) pods: Store<Pod>,
    pub(super) io: Arc<dyn Writes>,
}

#[async_trait]
impl Controller for Orphans {
    type Key = Orphan;

    fn name(&self) -> &'static str {
        "job-controller"
    }

    async fn reconcile(&self, orphan: &Orphan) -> Result<Outcome, ReconcileError> {
        let pods = match orphan {
            Orphan::Pod(key) => self.pods.get_key(key).into_iter().collect(),
            Orphan::PodsOf(uid) => self.pods.by_controller(uid),
        };
        let mut errors = Vec::new();
        for pod in pods.iter().filter(|pod| is_forsaken(pod, &self.jobs)) {
            let result = ignore_not_found(self.io.remove_finalizer(pod).await);
            errors.extend(result.map_err(ReconcileError::api("remove the finalizer of an orphan pod")).err());
        }
        ReconcileError::collect(errors).map(|()| Outcome::Done)
    }
}

/// The Job that a pod names as its controller.
pub(super) fn job_of(pod: &Pod, jobs: &Store<Job>) -> Option<Arc<Job>> {
    let reference = controller_of(&pod.metadata).filter(|reference| reference.kind == "Job")?;
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("");
    jobs.get(namespace, &reference.name).filter(|job| job.metadata.uid.as_ref() == Some(&reference.uid))
}

/// Whether the pod is kept for no one.
fn is_forsaken(pod: &Pod, jobs: &Store<Job>) -> bool {
    let foreign =
        |pod: &Pod| controller_of(&pod.metadata).is_some_and(|owner| owner.kind != "Job" || owner.api_version != "batch/v1");
    if !is_tracked(pod) || foreign(pod) {
        return false;
    }
    job_of(pod, jobs).is_none_or(|job| external_manager(&job).is_none() && is_finished(&job))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{job_with, pod};
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn who_is_forsaken() {
        let owner = |kind: &str, version: &str, name: &str| {
            json!({"metadata": {"ownerReferences": [
                {"apiVersion": version, "kind": kind, "name": name, "uid": format!("{name}-uid"), "controller": true}]}})
        };
        let jobs = [
            ("running", json!({})),
            ("over", json!({"status": {"conditions": [{"type": "Failed", "status": "True"}]}})),
            ("foreign", json!({"spec": {"managedBy": "x/y"}, "status": {"conditions": [{"type": "Failed", "status": "True"}]}})),
        ];
        let jobs = Store::from_objects(jobs.map(|(name, mut fields)| {
            fields["metadata"] = json!({"name": name, "uid": format!("{name}-uid")});
            job_with(fields)
        }));
        for (fields, expected) in [
            (owner("Job", "batch/v1", "running"), false),
            (owner("Job", "batch/v1", "over"), true),
            (owner("Job", "batch/v1", "gone"), true),
            (owner("Job", "batch/v1", "foreign"), false),
            (owner("Job", "example.com/v1", "gone"), false),
            (owner("Other", "batch/v1", "gone"), false),
            (json!({"metadata": {"ownerReferences": []}}), true),
            (json!({"metadata": {"ownerReferences": [], "finalizers": Value::Null}}), false),
        ] {
            assert_eq!(is_forsaken(&pod("p", "Running", fields.clone()), &jobs), expected, "{fields}");
        }
    }
}
