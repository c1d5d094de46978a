//! deployment-controller: rolls templates out through ReplicaSets, one per template.

#[cfg(test)]
mod model_tests;
mod plan;
mod replica_sets;
mod rollback;
mod scaling;
mod status;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use client::{
    Change, Controller, EventKind, EventRecorder, Informer, NamespacedName, Outcome, ReconcileError, Store, WorkQueue,
    run_workers,
};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, ResourceExt};
use serde_json::json;

use self::plan::{Plan, plan};
use self::replica_sets::{HASH_LABEL, REVISION, Set};
use self::rollback::Rollback;
use crate::api_errors::{self, ignore_not_found, is_already_exists, is_namespace_terminating};
use crate::context::{Context, enqueue_all, now, wait_synced};
use crate::label_match::Matcher;
use crate::own_writes::Tracker;
use crate::ownership::{claim_all, controller_of, is_controlled_by, resolve_controller};
use crate::pod_state::is_terminal;
use crate::pod_template::same_template;

/// The cache's next change wakes this controller; after so long it looks in any case whether the cache shows what it wrote.
const CATCH_UP: Duration = Duration::from_secs(1);

struct Deployments {
    context: Context,
    events: EventRecorder,
    deployments: Store<Deployment>,
    sets: Store<ReplicaSet>,
    pods: Store<Pod>,
    written: Arc<Tracker>,
}

pub(crate) async fn run(context: Context) {
    let deployments = context.informers.get::<Deployment>();
    let sets = context.informers.get::<ReplicaSet>();
    let pods = context.informers.get::<Pod>();
    sets.store().add_controller_index();
    pods.store().add_controller_index();
    let queue = WorkQueue::new("deployment");
    enqueue_all(&deployments, &queue);
    wait_synced!(deployments);
    let written: Arc<Tracker> = Arc::default();
    watch_sets(&sets, deployments.store(), &queue, &written);
    wait_synced!(sets);
    watch_pods(&pods, deployments.store(), sets.store(), &queue);
    wait_synced!(pods);
    let controller = Deployments {
        events: context.events("deployment-controller"),
        deployments: deployments.store().clone(),
        sets: sets.store().clone(),
        pods: pods.store().clone(),
        written,
        context: context.clone(),
    };
    let workers = context.config.concurrent_deployment_syncs;
    run_workers(Arc::new(controller), queue, workers, context.token).await;
}

fn owner_of(set: &ReplicaSet, deployments: &Store<Deployment>) -> Option<NamespacedName> {
    resolve_controller(deployments, &set.metadata).map(|deployment| NamespacedName::of(&*deployment))
}

/// A set that somebody else deleted need not be waited for.
fn note_gone(change: &Change<'_, ReplicaSet>, written: &Tracker) {
    if let Change::Deleted(set) = change
        && let Some(owner) = controller_of(&set.metadata)
    {
        written.gone(&NamespacedName::new(set.namespace().unwrap_or_default(), &owner.name), &***set);
    }
}

fn watch_sets(
    sets: &Informer<ReplicaSet>,
    deployments: &Store<Deployment>,
    queue: &WorkQueue<NamespacedName>,
    written: &Arc<Tracker>,
) {
    let (deployments, queue, written) = (deployments.clone(), queue.clone(), written.clone());
    let wake = move |set: &ReplicaSet| {
        if controller_of(&set.metadata).is_some() {
            if let Some(key) = owner_of(set, &deployments) {
                queue.add(key);
            }
            return;
        }
        for deployment in deployments.list_namespace(set.metadata.namespace.as_deref().unwrap_or("")) {
            if matcher(&deployment).is_some_and(|matcher| matcher.matches(&set.metadata)) {
                queue.add(NamespacedName::of(&*deployment));
            }
        }
    };
    sets.add_handler(move |change| {
        note_gone(change, &written);
        if let Change::Updated { old, new } = change
            && controller_of(&old.metadata) != controller_of(&new.metadata)
        {
            wake(old);
        }
        wake(change.object());
    });
}

/// Deployments of strategy Recreate wait for the last pod of the old sets.
fn watch_pods(
    pods: &Informer<Pod>,
    deployments: &Store<Deployment>,
    sets: &Store<ReplicaSet>,
    queue: &WorkQueue<NamespacedName>,
) {
    let (deployments, sets, queue) = (deployments.clone(), sets.clone(), queue.clone());
    pods.add_handler(move |change| {
        let Change::Deleted(pod) = change else { return };
        let Some(reference) = controller_of(&pod.metadata).filter(|r| r.kind == "ReplicaSet") else {
            return;
        };
        let namespace = pod.metadata.namespace.as_deref().unwrap_or("");
        let set = sets.get(namespace, &reference.name);
        let Some(key) = set.and_then(|set| owner_of(&set, &deployments)) else {
            return;
        };
        if deployments.get_key(&key).is_some_and(|d| scaling::strategy(&d) == "Recreate") {
            queue.add(key);
        }
    });
}

fn matcher(deployment: &Deployment) -> Option<Matcher> {
    Matcher::new(&deployment.spec.as_ref()?.selector)
}

#[async_trait]
impl Controller for Deployments {
    type Key = NamespacedName;

    fn name(&self) -> &'static str {
        "deployment-controller"
    }

    async fn reconcile(&self, key: &NamespacedName) -> Result<Outcome, ReconcileError> {
        let Some(deployment) = self.deployments.get_key(key) else {
            self.written.forget(key);
            return Ok(Outcome::Done);
        };
        if !self.written.caught_up(key, &self.sets) {
            return Ok(Outcome::RequeueAfter(CATCH_UP));
        }
        let Some(matcher) = matcher(&deployment) else {
            return Err(ReconcileError::Invalid("selector cannot be parsed".into()));
        };
        let mut candidates = self.sets.by_controller(&deployment.uid().unwrap_or_default());
        candidates.extend(self.sets.orphans(&key.namespace));
        let sets = claim_all(&self.context.client, &*deployment, |meta| matcher.matches(meta), candidates).await?;
        let owners: Vec<String> = sets.iter().filter_map(|set| set.uid()).collect();
        let old_pods_exist = |new_uid: Option<&str>| {
            owners
                .iter()
                .filter(|uid| Some(uid.as_str()) != new_uid)
                .flat_map(|uid| self.pods.by_controller(uid))
                .any(|pod| !is_terminal(&pod))
        };
        let plan = plan(&deployment, sets, old_pods_exist, now());
        self.perform(&deployment, plan).await
    }
}

impl Deployments {
    async fn perform(&self, deployment: &Deployment, plan: Plan) -> Result<Outcome, ReconcileError> {
        if plan.selects_everything {
            let message = "This deployment is selecting all pods. A non-empty selector is required.";
            self.events.record(deployment, EventKind::Warning, "SelectingAll", message);
        }
        let api: Api<ReplicaSet> = self.context.api(&deployment.namespace().unwrap_or_default());
        for set in &plan.sets {
            match &set.current {
                None => self.create(&api, deployment, set).await?,
                Some(current) => {
                    let updated = update(&api, current, set).await?;
                    self.written.wrote(&NamespacedName::of(deployment), &updated);
                }
            }
            if let Some(event) = &set.event {
                self.events.record(deployment, EventKind::Normal, "ScalingReplicaSet", event);
            }
        }
        if let Some(rollback) = plan.rollback {
            return self.roll_back(rollback).await;
        }
        for set in &plan.delete {
            let params = DeleteParams {
                preconditions: Some(Preconditions { uid: set.uid(), resource_version: set.resource_version() }),
                ..DeleteParams::background()
            };
            ignore_not_found(api.delete(&set.name_any(), &params).await)
                .map_err(ReconcileError::api("delete an old replica set"))?;
        }
        if plan.status.is_some() || plan.revision.is_some() {
            let status = plan.status.or_else(|| deployment.status.clone()).unwrap_or_default();
            self.write_status(deployment, status, plan.revision).await?;
        }
        Ok(plan.check_after.map_or(Outcome::Done, Outcome::RequeueAfter))
    }

    /// Going back is a change of the template, from which the next plan follows.
    async fn roll_back(&self, rollback: Rollback) -> Result<Outcome, ReconcileError> {
        let deployment = &rollback.deployment;
        let tell = || self.events.record(deployment, rollback.kind, rollback.reason, &rollback.message);
        if rollback.kind == EventKind::Warning {
            tell();
        }
        let api: Api<Deployment> = self.context.api(&deployment.namespace().unwrap_or_default());
        api.replace(&deployment.name_any(), &PostParams::default(), deployment)
            .await
            .map_err(ReconcileError::api("roll the deployment back"))?;
        if rollback.kind == EventKind::Normal {
            tell();
        }
        Ok(Outcome::Done)
    }

    /// The revision annotation goes with the status: through the main resource it would raise the generation.
    async fn write_status(
        &self,
        deployment: &Deployment,
        status: DeploymentStatus,
        revision: Option<String>,
    ) -> Result<(), ReconcileError> {
        let mut updated = deployment.clone();
        updated.status = Some(status);
        if let Some(revision) = revision {
            let annotations = updated.metadata.annotations.get_or_insert_default();
            annotations.insert(REVISION.to_owned(), revision);
        }
        let api: Api<Deployment> = self.context.api(&deployment.namespace().unwrap_or_default());
        api.replace_status(&deployment.name_any(), &PostParams::default(), &updated)
            .await
            .map_err(ReconcileError::api("update deployment status"))?;
        Ok(())
    }

    async fn create(&self, api: &Api<ReplicaSet>, deployment: &Deployment, set: &Set) -> Result<(), ReconcileError> {
        let error = match api.create(&PostParams::default(), &set.wanted).await {
            Ok(created) => {
                self.written.wrote(&NamespacedName::of(deployment), &created);
                return Ok(());
            }
            Err(error) => error,
        };
        if is_already_exists(&error) {
            return self.resolve_collision(api, deployment, set, error).await;
        }
        if !is_namespace_terminating(&error) {
            let message = format!("Failed to create new replica set {:?}: {}", set.name(), api_errors::message(&error));
            if status::progress_deadline(deployment).is_some() {
                let mut status = deployment.status.clone().unwrap_or_default();
                let reason = "ReplicaSetCreateError";
                let condition = status::new_condition(status::PROGRESSING, "False", reason, message.clone(), now());
                status::set_condition(&mut status, condition);
                // The failure to create is the one to report.
                if let Err(error) = self.write_status(deployment, status, None).await {
                    tracing::debug!(error = &error as &dyn std::error::Error, "cannot note the failure in the status");
                }
            }
            self.events.record(deployment, EventKind::Warning, "ReplicaSetCreateError", message);
        }
        Err(ReconcileError::api("create replica set")(error))
    }

    /// The name is taken: by our own set that the cache does not show yet, or by one of another template whose hash is
    /// the same; then a collision count changes the hash.
    async fn resolve_collision(
        &self,
        api: &Api<ReplicaSet>,
        deployment: &Deployment,
        set: &Set,
        error: kube::Error,
    ) -> Result<(), ReconcileError> {
        let existing = api.get(&set.name()).await.map_err(ReconcileError::api("get the replica set of that name"))?;
        let template = |set: &ReplicaSet| set.spec.as_ref().and_then(|spec| spec.template.clone());
        let ours = is_controlled_by(&existing.metadata, deployment.metadata.uid.as_deref().unwrap_or(""));
        if !ours || !same_template(template(&existing).as_ref(), template(&set.wanted).as_ref(), HASH_LABEL) {
            let mut status = deployment.status.clone().unwrap_or_default();
            status.collision_count = Some(status.collision_count.unwrap_or(0) + 1);
            self.write_status(deployment, status, None).await?;
        }
        Err(ReconcileError::api("create replica set")(error))
    }
}

async fn update(api: &Api<ReplicaSet>, current: &ReplicaSet, set: &Set) -> Result<ReplicaSet, ReconcileError> {
    let spec = set.wanted.spec.clone().unwrap_or_default();
    // The plan rests on this version of the set: a change meanwhile makes it void.
    let patch = json!({
        "metadata": {
            "resourceVersion": current.resource_version(),
            "annotations": set.wanted.metadata.annotations,
        },
        "spec": {"replicas": spec.replicas, "minReadySeconds": spec.min_ready_seconds},
    });
    let updated = api.patch(&set.name(), &PatchParams::default(), &Patch::Merge(patch)).await;
    updated.map_err(ReconcileError::api("update replica set"))
}
