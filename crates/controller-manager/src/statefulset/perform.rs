//! Performs a plan: the writes, and the events that tell of them.

use std::sync::Arc;

use client::{EventKind, EventRecorder, NamespacedName, ReconcileError};
use futures::FutureExt;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::json;

use super::claims::ClaimWork;
use super::identity::{POD_NAME, ordinal, put_labels, volumes_with_claims};
use super::own_deletes::OwnDeletes;
use super::plan::{Action, Step};
use crate::api_errors::{self, is_already_exists, is_conflict, is_not_found};
use crate::pod_control::with_uid;
use crate::slow_start::slow_start;

/// Most pods that are written at once (upstream's MaxBatchSize).
const BATCH_MAX: usize = 500;

/// Writes for one set.
pub(super) struct Performer<'a> {
    pub(super) set: &'a StatefulSet,
    pub(super) pods: Api<Pod>,
    pub(super) claims: Api<PersistentVolumeClaim>,
    pub(super) events: &'a EventRecorder,
    pub(super) deletes: &'a OwnDeletes,
}

impl Performer<'_> {
    pub(super) async fn perform(&self, steps: Vec<Step>) -> Result<(), ReconcileError> {
        for step in steps {
            match step {
                Step::InOrder(actions) => self.in_order(actions).await?,
                Step::AtOnce(pods) => {
                    let report = slow_start(pods, BATCH_MAX, |actions| self.in_order(actions).boxed()).await;
                    ReconcileError::collect(report.errors)?;
                }
            }
        }
        Ok(())
    }

    async fn in_order(&self, actions: Vec<Action>) -> Result<(), ReconcileError> {
        for action in actions {
            match action {
                Action::Create { pod, claims } => self.create(&pod, claims).await?,
                Action::Claims { pod, claims } => {
                    self.make_claims(&pod, &claims).await?;
                    self.update_claims(&pod, claims).await?;
                }
                Action::Repair { pod, claims, volumes } => self.repair(pod, claims, volumes).await?,
                Action::Retain { pod: _, claims } => self.write_owners(claims).await?,
                Action::Delete(pod) => self.delete(&pod).await?,
            }
        }
        Ok(())
    }

    async fn create(&self, pod: &Pod, claims: ClaimWork) -> Result<(), ReconcileError> {
        if let Err(error) = self.make_claims(pod, &claims).await {
            self.tell("create", pod, Some(&error));
            return Err(error);
        }
        let created = self.pods.create(&PostParams::default(), pod).await;
        if created.as_ref().is_err_and(is_already_exists) {
            // The cache is behind.
            return created.map(drop).map_err(ReconcileError::api("create pod"));
        }
        self.update_claims(pod, claims).await?;
        let created = created.map(drop).map_err(ReconcileError::api("create pod"));
        self.tell("create", pod, created.as_ref().err());
        created
    }

    /// Makes the claims that are missing. Fails if one is being deleted.
    async fn make_claims(&self, pod: &Pod, work: &ClaimWork) -> Result<(), ReconcileError> {
        let mut errors = Vec::new();
        for claim in &work.create {
            let created = self.claims.create(&PostParams::default(), claim).await;
            if !created.as_ref().is_err_and(is_already_exists) {
                self.tell_claim(pod, claim, created.as_ref().err());
            }
            if let Err(error) = created {
                errors.push(ReconcileError::api("create persistent volume claim")(error));
            }
        }
        errors.extend(work.deleting.iter().map(|claim| ReconcileError::Invalid(format!("pvc {claim} is being deleted"))));
        ReconcileError::collect(errors)
    }

    async fn update_claims(&self, pod: &Pod, work: ClaimWork) -> Result<(), ReconcileError> {
        let updated = self.write_owners(work).await;
        if let Err(error) = &updated {
            self.tell("update", pod, Some(error));
        }
        updated
    }

    async fn write_owners(&self, work: ClaimWork) -> Result<(), ReconcileError> {
        for claim in &work.conflicting {
            let message = format!(
                "PersistentVolumeClaim {claim} has a conflicting OwnerReference that acts as a manging controller, \
                 the retention policy is ignored for this claim"
            );
            self.events.record(self.set, EventKind::Warning, "ConflictingController", message);
        }
        for claim in work.update {
            // With the resourceVersion that the decision rests on.
            self.claims
                .replace(&claim.name_any(), &PostParams::default(), &claim)
                .await
                .map_err(ReconcileError::api("update the owners of a persistent volume claim"))?;
        }
        Ok(())
    }

    async fn repair(&self, pod: Arc<Pod>, claims: ClaimWork, volumes: bool) -> Result<(), ReconcileError> {
        let repaired = self.try_repair(&pod, claims, volumes).await;
        self.tell("update", &pod, repaired.as_ref().err());
        repaired
    }

    async fn try_repair(&self, pod: &Pod, claims: ClaimWork, volumes: bool) -> Result<(), ReconcileError> {
        let Some(ordinal) = ordinal(pod) else { return Ok(()) };
        let name = pod.name_any();
        self.make_claims(pod, &claims).await?;
        self.write_owners(claims).await?;
        let mislabeled = pod.labels().get(POD_NAME) != Some(&name);
        if !mislabeled && !volumes {
            return Ok(());
        }
        let mut labeled = Pod::default();
        put_labels(&mut labeled, &name, ordinal);
        let mut patch = json!({"metadata": {"resourceVersion": pod.resource_version(), "labels": labeled.metadata.labels}});
        if volumes {
            let present = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
            patch["spec"] = json!({"volumes": volumes_with_claims(self.set, present, ordinal)});
        }
        self.pods
            .patch(&name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .map(drop)
            .map_err(ReconcileError::api("update pod"))
    }

    /// One that is gone already, or replaced by another of its name, is as good as deleted.
    async fn delete(&self, pod: &Pod) -> Result<(), ReconcileError> {
        let deleted = self.pods.delete(&pod.name_any(), &with_uid(pod)).await;
        let gone = deleted.as_ref().is_err_and(|error| is_not_found(error) || is_conflict(error));
        if gone || deleted.is_ok() {
            self.deletes.note(&NamespacedName::of(self.set), pod.metadata.uid.as_deref().unwrap_or_default());
        }
        if gone {
            return Ok(());
        }
        let deleted = deleted.map(drop).map_err(ReconcileError::api("delete pod"));
        self.tell("delete", pod, deleted.as_ref().err());
        deleted
    }

    /// The event of a write to a pod.
    fn tell(&self, verb: &str, pod: &Pod, failure: Option<&ReconcileError>) {
        let (verb, pod, set) = (title(verb), pod.name_any(), self.set.name_any());
        match failure {
            None => {
                let message = format!("{verb} Pod {pod} in StatefulSet {set} successful");
                self.events.record(self.set, EventKind::Normal, &format!("Successful{verb}"), message);
            }
            Some(error) => {
                let message = format!("{verb} Pod {pod} in StatefulSet {set} failed error: {}", message(error));
                self.events.record(self.set, EventKind::Warning, &format!("Failed{verb}"), message);
            }
        }
    }

    fn tell_claim(&self, pod: &Pod, claim: &PersistentVolumeClaim, error: Option<&kube::Error>) {
        let (claim, pod, set) = (claim.name_any(), pod.name_any(), self.set.name_any());
        match error {
            None => {
                let message = format!("Create Claim {claim} Pod {pod} in StatefulSet {set} success");
                self.events.record(self.set, EventKind::Normal, "SuccessfulCreate", message);
            }
            Some(error) => {
                let why = api_errors::message(error);
                let message = format!("Create Claim {claim} for Pod {pod} in StatefulSet {set} failed error: {why}");
                self.events.record(self.set, EventKind::Warning, "FailedCreate", message);
            }
        }
    }
}

fn title(verb: &str) -> String {
    let mut letters = verb.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// What went wrong, in the server's words.
fn message(error: &ReconcileError) -> String {
    match error {
        ReconcileError::Api { operation: "create persistent volume claim", source } => {
            format!("failed to create PVC: {}", api_errors::message(source))
        }
        ReconcileError::Api { source, .. } => api_errors::message(source),
        ReconcileError::Several { first, .. } => message(first),
        other => other.to_string(),
    }
}
