//! statefulset-controller: pods with a name and storage of their own.
//!
//! Invariants: a pod's name follows from its ordinal, and names are unique, so there are never two pods of one ordinal, whatever the cache
//! shows; a pod is deleted by its UID, so a stale cache never takes down its successor, and counts as going from then on.
//!
//! Deliberately absent: the alpha metrics of `maxUnavailable`.

mod claims;
mod identity;
mod own_deletes;
mod perform;
mod plan;
mod revisions;
mod status;
mod wakeups;

use std::collections::HashSet;
use std::sync::Arc;

use async_trait::async_trait;
use client::{Controller, EventRecorder, NamespacedName, Outcome, ReconcileError, Store, WorkQueue, run_workers};
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::ResourceExt;
use kube::api::PostParams;

use self::identity::{Version, is_member, min_ready_seconds, revision, spec};
use self::own_deletes::OwnDeletes;
use self::perform::Performer;
use self::plan::{View, plan};
use self::revisions::{Update, collisions, current_revision, update_revision};
use crate::context::{Context, enqueue_all, now, wait_synced};
use crate::history;
use crate::label_match::Matcher;
use crate::ownership::claim_all;
use crate::pod_state::next_availability;

struct StatefulSets {
    context: Context,
    events: EventRecorder,
    sets: Store<StatefulSet>,
    pods: Store<Pod>,
    claims: Store<PersistentVolumeClaim>,
    revisions: Store<ControllerRevision>,
    deletes: Arc<OwnDeletes>,
}

pub(crate) async fn run(context: Context) {
    let sets = context.informers.get::<StatefulSet>();
    let pods = context.informers.get::<Pod>();
    let claims = context.informers.get::<PersistentVolumeClaim>();
    let revisions = context.informers.get::<ControllerRevision>();
    pods.store().add_controller_index();
    revisions.store().add_controller_index();
    let queue = WorkQueue::new("statefulset");
    enqueue_all(&sets, &queue);
    wait_synced!(sets);
    wakeups::watch_pods(&pods, sets.store(), &queue);
    wakeups::watch_claims(&claims, sets.store(), &queue);
    wait_synced!(pods, claims, revisions);
    let controller = StatefulSets {
        events: context.events("statefulset-controller"),
        sets: sets.store().clone(),
        pods: pods.store().clone(),
        claims: claims.store().clone(),
        revisions: revisions.store().clone(),
        deletes: Arc::default(),
        context: context.clone(),
    };
    let workers = context.config.concurrent_statefulset_syncs;
    run_workers(Arc::new(controller), queue, workers, context.token).await;
}

fn matcher(set: &StatefulSet) -> Option<Matcher> {
    Matcher::new(&spec(set).selector)
}

/// The revisions that plan and status go by.
struct Revisions {
    current: Arc<ControllerRevision>,
    update: Arc<ControllerRevision>,
    collisions: i32,
}

#[async_trait]
impl Controller for StatefulSets {
    type Key = NamespacedName;

    fn name(&self) -> &'static str {
        "statefulset-controller"
    }

    async fn reconcile(&self, key: &NamespacedName) -> Result<Outcome, ReconcileError> {
        let Some(set) = self.sets.get_key(key) else {
            self.deletes.forget(key);
            return Ok(Outcome::Done);
        };
        let Some(matcher) = matcher(&set) else {
            return Err(ReconcileError::Invalid("selector cannot be parsed".into()));
        };
        let uid = set.uid().unwrap_or_default();
        // Revisions that do not match are left alone, not released.
        let mut candidates = self.revisions.by_controller(&uid);
        candidates.extend(self.revisions.orphans(&key.namespace));
        candidates.retain(|revision| matcher.matches(&revision.metadata));
        let mut sorted = claim_all(&self.context.client, &*set, |meta| matcher.matches(meta), candidates).await?;
        history::sort(&mut sorted);
        let mut candidates = self.pods.by_controller(&uid);
        candidates.extend(self.pods.orphans(&key.namespace));
        let matches = |meta: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta| {
            matcher.matches(meta) && is_member(&set, meta.name.as_deref().unwrap_or_default())
        };
        let mut pods = claim_all(&self.context.client, &*set, matches, candidates).await?;
        self.deletes.overlay(key, &mut pods, now());
        self.sync(&set, &pods, &sorted).await
    }
}

impl StatefulSets {
    async fn sync(
        &self,
        set: &StatefulSet,
        pods: &[Arc<Pod>],
        sorted: &[Arc<ControllerRevision>],
    ) -> Result<Outcome, ReconcileError> {
        let Some(revisions) = self.revisions_of(set, sorted).await? else {
            return Ok(Outcome::Done);
        };
        let updated = self.update(set, pods, &revisions).await;
        let truncated = self.truncate(set, pods, sorted, &revisions).await;
        let outcome = updated?;
        truncated?;
        Ok(outcome)
    }

    /// `None` if a set that is being deleted lacks a revision: the garbage collector takes them, and making one would keep it busy.
    async fn revisions_of(
        &self,
        set: &StatefulSet,
        sorted: &[Arc<ControllerRevision>],
    ) -> Result<Option<Revisions>, ReconcileError> {
        let mut collisions = collisions(set);
        let api = self.context.api(&set.namespace().unwrap_or_default());
        let update = match update_revision(set, sorted) {
            Update::Keep(revision) => revision,
            _ if set.metadata.deletion_timestamp.is_some() => return Ok(None),
            Update::Renumber(revision, number) => Arc::new(history::write::renumber(&api, &revision, number).await?),
            Update::Create(revision) => {
                Arc::new(history::write::create(&api, &set.name_any(), &revision, &mut collisions).await?)
            }
        };
        let current = current_revision(set, sorted).unwrap_or_else(|| Arc::clone(&update));
        Ok(Some(Revisions { current, update, collisions }))
    }

    async fn update(&self, set: &StatefulSet, pods: &[Arc<Pod>], revisions: &Revisions) -> Result<Outcome, ReconcileError> {
        let namespace = set.namespace().unwrap_or_default();
        let now = now();
        let plan = plan(&View {
            set,
            current: version(set, &revisions.current)?,
            update: version(set, &revisions.update)?,
            collisions: revisions.collisions,
            pods,
            claims: &|name| self.claims.get(&namespace, name),
            now,
            max_unavailable: self.context.config.feature_gates.max_unavailable_stateful_set,
        });
        let performer = Performer {
            set,
            pods: self.context.api(&namespace),
            claims: self.context.api(&namespace),
            events: &self.events,
            deletes: &self.deletes,
        };
        let performed = performer.perform(plan.steps).await;
        let status = if performed.is_ok() { plan.status } else { plan.status_on_failure };
        let written = self.write_status(set, &status).await;
        performed?;
        written?;
        let waits = min_ready_seconds(set) > 0 && status.ready_replicas.unwrap_or(0) != status.available_replicas.unwrap_or(0);
        if !waits {
            return Ok(Outcome::Done);
        }
        Ok(Outcome::RequeueAfter(next_availability(pods, min_ready_seconds(set), now)))
    }

    async fn write_status(&self, set: &StatefulSet, status: &StatefulSetStatus) -> Result<(), ReconcileError> {
        if !status::differs(set, status) {
            return Ok(());
        }
        let mut updated = set.clone();
        updated.status = Some(status.clone());
        let api: kube::Api<StatefulSet> = self.context.api(&set.namespace().unwrap_or_default());
        api.replace_status(&set.name_any(), &PostParams::default(), &updated)
            .await
            .map(drop)
            .map_err(ReconcileError::api("update status"))
    }

    /// Deletes old revisions beyond the limit; those of pods, and the two that count, live.
    async fn truncate(
        &self,
        set: &StatefulSet,
        pods: &[Arc<Pod>],
        sorted: &[Arc<ControllerRevision>],
        revisions: &Revisions,
    ) -> Result<(), ReconcileError> {
        let mut live: HashSet<&str> = pods.iter().map(|pod| revision(pod)).collect();
        live.extend([&revisions.current, &revisions.update].iter().filter_map(|revision| revision.metadata.name.as_deref()));
        let limit = spec(set).revision_history_limit.unwrap_or(10);
        let api = self.context.api(&set.namespace().unwrap_or_default());
        for revision in history::surplus(sorted, &live, limit) {
            history::write::delete(&api, &revision).await?;
        }
        Ok(())
    }
}

fn version(set: &StatefulSet, revision: &ControllerRevision) -> Result<Version, ReconcileError> {
    if history::records(revision, &spec(set).template) {
        return Ok(Version { name: revision.name_any(), set: set.clone() });
    }
    let set = history::apply(set, revision).map_err(|error| ReconcileError::Invalid(chain(&error)))?;
    Ok(Version { name: revision.name_any(), set })
}

/// An error and what caused it, as one text.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod model_tests;
