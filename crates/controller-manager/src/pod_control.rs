//! Creating and deleting pods of an owner that counts them: with expectations, events and the slow start, as upstream's RealPodControl
//! and the loops around it.

use std::sync::Arc;

use client::{EventKind, EventRecorder, NamespacedName, ReconcileError};
use futures::FutureExt;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::{Api, Resource, ResourceExt};

use crate::api_errors::{self, is_namespace_terminating, is_not_found};
use crate::expectations::Expectations;
use crate::slow_start::slow_start;

/// The pods of one owner. Expectations must have been set by the caller; what fails here is taken off them.
pub(crate) struct PodControl<'a, K> {
    pub(crate) api: Api<Pod>,
    pub(crate) events: &'a EventRecorder,
    pub(crate) expectations: &'a Expectations,
    pub(crate) key: &'a NamespacedName,
    pub(crate) owner: &'a K,
}

impl<K> PodControl<'_, K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Sync,
{
    /// Creates the pods. In a namespace that is being deleted nothing can be created, which is no error.
    pub(crate) async fn create(&self, pods: Vec<Pod>) -> Result<(), ReconcileError> {
        let report = slow_start(pods, usize::MAX, |pod| self.create_one(pod).boxed()).await;
        self.expectations.creations_observed(self.key, report.skipped);
        ReconcileError::collect(report.errors)
    }

    async fn create_one(&self, pod: Pod) -> Result<(), ReconcileError> {
        match self.api.create(&PostParams::default(), &pod).await {
            Ok(created) => {
                let message = format!("Created pod: {}", created.name_any());
                self.events.record(self.owner, EventKind::Normal, "SuccessfulCreate", message);
                Ok(())
            }
            Err(error) => {
                self.expectations.creations_observed(self.key, 1);
                if is_namespace_terminating(&error) {
                    return Ok(());
                }
                let message = format!("Error creating: {}", api_errors::message(&error));
                self.events.record(self.owner, EventKind::Warning, "FailedCreate", message);
                Err(ReconcileError::api("create pod")(error))
            }
        }
    }

    /// Deletes the pods, all at once. One that is gone already, or replaced by another of its name, is no error.
    pub(crate) async fn delete(&self, pods: &[Arc<Pod>]) -> Result<(), ReconcileError> {
        let results = futures::future::join_all(pods.iter().map(|pod| self.delete_one(pod).boxed())).await;
        ReconcileError::collect(results.into_iter().filter_map(Result::err).collect())
    }

    async fn delete_one(&self, pod: &Pod) -> Result<(), ReconcileError> {
        match self.api.delete(&pod.name_any(), &with_uid(pod)).await {
            Ok(_) => {
                let message = format!("Deleted pod: {}", pod.name_any());
                self.events.record(self.owner, EventKind::Normal, "SuccessfulDelete", message);
                Ok(())
            }
            Err(error) => {
                self.expectations.deletion_observed(self.key, pod.metadata.uid.as_deref().unwrap_or_default());
                if is_not_found(&error) || api_errors::is_conflict(&error) {
                    return Ok(());
                }
                let message = format!("Error deleting: {}", api_errors::message(&error));
                self.events.record(self.owner, EventKind::Warning, "FailedDelete", message);
                Err(ReconcileError::api("delete pod")(error))
            }
        }
    }
}

/// To delete this pod, and not another that took its name since.
pub(crate) fn with_uid(pod: &Pod) -> DeleteParams {
    DeleteParams { preconditions: Some(Preconditions { uid: pod.uid(), resource_version: None }), ..Default::default() }
}
