//! daemonset-controller: one pod on each node that the set's template fits.
//!
//! Invariant: pods are only made or deleted when the cache has shown everything that was made or deleted before ([`Expectations`]), so that
//! no node gets two.

mod backoff;
mod nodes;
mod plan;
mod pods;
mod revisions;
mod rolling;
mod status;
mod wakeups;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use client::{Controller, EventKind, EventRecorder, NamespacedName, Outcome, ReconcileError, Store, WorkQueue, run_workers};
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use parking_lot::Mutex;
use serde_json::json;

use self::backoff::FailedPods;
use self::plan::{Plan, View, by_node, plan};
use self::pods::{min_ready_seconds, new_pod, revision, spec, template};
use self::revisions::{History, hash, is_current, snapshot, sort_out, surplus};
use self::wakeups::Wakeups;
use crate::api_errors::is_already_exists;
use crate::context::{Context, now, wait_synced};
use crate::expectations::Expectations;
use crate::history::{self, REVISION_HASH};
use crate::label_match::Matcher;
use crate::node_lifecycle::index_by_node;
use crate::ownership::claim_all;
use crate::pod_control::PodControl;
use crate::pod_state::next_availability;

struct DaemonSets {
    context: Context,
    events: EventRecorder,
    sets: Store<DaemonSet>,
    pods: Store<Pod>,
    nodes: Store<Node>,
    revisions: Store<ControllerRevision>,
    expectations: Arc<Expectations>,
    failed: Arc<Mutex<FailedPods>>,
}

pub(crate) async fn run(context: Context) {
    let sets = context.informers.get::<DaemonSet>();
    let pods = context.informers.get::<Pod>();
    let nodes = context.informers.get::<Node>();
    let revisions = context.informers.get::<ControllerRevision>();
    pods.store().add_controller_index();
    revisions.store().add_controller_index();
    index_by_node(pods.store());
    let (queue, node_queue) = (WorkQueue::new("daemonset"), WorkQueue::new("daemonset-node-updates"));
    let expectations = Arc::new(Expectations::default());
    wakeups::watch_sets(&sets, &queue, &expectations);
    // Pods and revisions are resolved to sets through the sets' cache, which must therefore be filled first.
    wait_synced!(sets);
    let wakeups = Wakeups { sets: sets.store().clone(), queue: queue.clone(), expectations: Arc::clone(&expectations) };
    wakeups.clone().watch_revisions(&revisions);
    wakeups.watch_pods(&pods);
    wait_synced!(pods, revisions);
    wakeups::watch_nodes(&nodes, &node_queue);
    wait_synced!(nodes);
    let controller = DaemonSets {
        events: context.events("daemonset-controller"),
        sets: sets.store().clone(),
        pods: pods.store().clone(),
        nodes: nodes.store().clone(),
        revisions: revisions.store().clone(),
        expectations,
        failed: Arc::default(),
        context: context.clone(),
    };
    let node_updates = NodeUpdates {
        sets: sets.store().clone(),
        pods: pods.store().clone(),
        nodes: nodes.store().clone(),
        queue: queue.clone(),
    };
    let workers = context.config.concurrent_daemonset_syncs;
    futures::future::join(
        run_workers(Arc::new(controller), queue, workers, context.token.clone()),
        run_workers(Arc::new(node_updates), node_queue, workers, context.token),
    )
    .await;
}

fn matcher(set: &DaemonSet) -> Option<Matcher> {
    Matcher::new(&spec(set).selector)
}

/// Wakes the sets that a changed node concerns. A queue of its own: with many sets this takes its time.
struct NodeUpdates {
    sets: Store<DaemonSet>,
    pods: Store<Pod>,
    nodes: Store<Node>,
    queue: WorkQueue<NamespacedName>,
}

#[async_trait]
impl Controller for NodeUpdates {
    type Key = String;

    fn name(&self) -> &'static str {
        "daemonset-controller"
    }

    async fn reconcile(&self, key: &String) -> Result<Outcome, ReconcileError> {
        if let Some(node) = self.nodes.get("", key) {
            for set in wakeups::concerned(&self.sets, &node, &self.pods) {
                self.queue.add(set);
            }
        }
        Ok(Outcome::Done)
    }
}

#[async_trait]
impl Controller for DaemonSets {
    type Key = NamespacedName;

    fn name(&self) -> &'static str {
        "daemonset-controller"
    }

    async fn reconcile(&self, key: &NamespacedName) -> Result<Outcome, ReconcileError> {
        self.failed.lock().clean(now());
        let Some(set) = self.sets.get_key(key) else {
            self.expectations.forget(key);
            return Ok(Outcome::Done);
        };
        if spec(&set).selector == LabelSelector::default() {
            let message = "This daemon set is selecting all pods. A non-empty selector is required.";
            self.events.record(&*set, EventKind::Warning, "SelectingAll", message);
            return Ok(Outcome::Done);
        }
        // What is left of its history cannot be told from what the garbage collector took, and so neither can its status.
        if set.metadata.deletion_timestamp.is_some() {
            return Ok(Outcome::Done);
        }
        let Some(matcher) = matcher(&set) else {
            return Err(ReconcileError::Invalid("selector cannot be parsed".into()));
        };
        let trusted = self.expectations.satisfied(key);
        let uid = set.uid().unwrap_or_default();
        let mut candidates = self.revisions.by_controller(&uid);
        candidates.extend(self.revisions.orphans(&key.namespace));
        let revisions = claim_all(&self.context.client, &*set, |meta| matcher.matches(meta), candidates).await?;
        let mut candidates = self.pods.by_controller(&uid);
        candidates.extend(self.pods.orphans(&key.namespace));
        let pods = claim_all(&self.context.client, &*set, |meta| matcher.matches(meta), candidates).await?;
        let (current, old) = self.history(&set, revisions, &pods).await?;
        let (nodes, pods_by_node) = (self.nodes.list(), by_node(&pods));
        let view = View { set: &set, nodes: &nodes, pods: &pods_by_node, hash: hash(&current), now: now() };
        if !trusted {
            // The generation was not worked on.
            return self.write_status(key, &view, false).await;
        }
        let managed = self.manage(key, &view, &old, &pods).await;
        let waits = self.write_status(key, &view, true).await;
        Ok(sooner(managed?, waits?))
    }
}

/// The first of two reasons to look again.
fn sooner(a: Outcome, b: Outcome) -> Outcome {
    match (a, b) {
        (Outcome::RequeueAfter(a), Outcome::RequeueAfter(b)) => Outcome::RequeueAfter(a.min(b)),
        (Outcome::Done, other) => other,
        (other, _) => other,
    }
}

impl DaemonSets {
    async fn manage(
        &self,
        key: &NamespacedName,
        view: &View<'_>,
        old: &[Arc<ControllerRevision>],
        pods: &[Arc<Pod>],
    ) -> Result<Outcome, ReconcileError> {
        let plan = plan(view, &mut self.failed.lock());
        let check_after = plan.check_after;
        self.perform(key, view, plan).await?;
        let api = self.context.api(&key.namespace);
        for revision in surplus(view.set, old, pods) {
            history::write::delete(&api, &revision).await?;
        }
        Ok(check_after.map_or(Outcome::Done, Outcome::RequeueAfter))
    }

    async fn perform(&self, key: &NamespacedName, view: &View<'_>, plan: Plan) -> Result<(), ReconcileError> {
        for ended in &plan.ended {
            let (namespace, name, node) = (&key.namespace, ended.pod.name_any(), &ended.node);
            let (kind, reason, message) = if ended.failed {
                let message = format!("Found failed daemon pod {namespace}/{name} on node {node}, will try to kill it");
                (EventKind::Warning, "FailedDaemonPod", message)
            } else {
                let message = format!("Found succeeded daemon pod {namespace}/{name} on node {node}, will try to delete it");
                (EventKind::Normal, "SucceededDaemonPod", message)
            };
            self.events.record(view.set, kind, reason, message);
        }
        if plan.create.is_empty() && plan.delete.is_empty() {
            return Ok(());
        }
        let deletions = plan.delete.iter().map(|pod| pod.uid().unwrap_or_default());
        self.expectations.expect(key, plan.create.len(), deletions);
        let control = PodControl {
            api: self.context.api(&key.namespace),
            events: &self.events,
            expectations: &self.expectations,
            key,
            owner: view.set,
        };
        let template = template(view.set, view.hash);
        let created = control.create(plan.create.iter().map(|node| new_pod(view.set, &template, node)).collect()).await;
        // One does not wait for the other.
        let deleted = control.delete(&plan.delete).await;
        created.and(deleted)
    }

    async fn write_status(&self, key: &NamespacedName, view: &View<'_>, observed: bool) -> Result<Outcome, ReconcileError> {
        let status = status::status(view, observed);
        if status::differs(view, &status) {
            let mut updated = view.set.clone();
            updated.status = Some(status.clone());
            let api: Api<DaemonSet> = self.context.api(&key.namespace);
            api.replace_status(&key.name, &PostParams::default(), &updated)
                .await
                .map_err(ReconcileError::api("update status"))?;
        }
        if min_ready_seconds(view.set) > 0 && status.number_ready != status.number_available.unwrap_or(0) {
            let pods: Vec<_> = view.pods.values().flatten().cloned().collect();
            let second = Duration::from_secs(1);
            return Ok(Outcome::RequeueAfter(next_availability(&pods, min_ready_seconds(view.set), view.now).max(second)));
        }
        Ok(Outcome::Done)
    }

    /// The present revision, which is made if need be, and the old ones.
    async fn history(
        &self,
        set: &DaemonSet,
        revisions: Vec<Arc<ControllerRevision>>,
        pods: &[Arc<Pod>],
    ) -> Result<(Arc<ControllerRevision>, Vec<Arc<ControllerRevision>>), ReconcileError> {
        let api: Api<ControllerRevision> = self.context.api(&set.namespace().unwrap_or_default());
        let mut labeled = Vec::with_capacity(revisions.len());
        for revision in revisions {
            labeled.push(if hash(&revision).is_empty() { label(&api, &revision).await? } else { revision });
        }
        let History { current, doubles, old, number } = sort_out(set, labeled);
        let Some(current) = current else {
            return Ok((Arc::new(self.snapshot(&api, set, number).await?), old));
        };
        if !doubles.is_empty() {
            self.relabel(set, pods, hash(&current)).await?;
        }
        for double in doubles {
            history::write::delete(&api, &double).await?;
        }
        if current.revision < number {
            return Ok((Arc::new(history::write::renumber(&api, &current, number).await?), old));
        }
        Ok((current, old))
    }

    /// Pods of revisions that are double become ones of the revision that stays, and are not replaced.
    async fn relabel(&self, set: &DaemonSet, pods: &[Arc<Pod>], hash: &str) -> Result<(), ReconcileError> {
        let api: Api<Pod> = self.context.api(&set.namespace().unwrap_or_default());
        for pod in pods.iter().filter(|pod| revision(pod) != hash) {
            let patch = json!({"metadata": {"uid": pod.uid(), "labels": {REVISION_HASH: hash}}});
            api.patch(&pod.name_any(), &PatchParams::default(), &Patch::Merge(patch))
                .await
                .map_err(ReconcileError::api("label pod with its revision"))?;
        }
        Ok(())
    }

    async fn snapshot(
        &self,
        api: &Api<ControllerRevision>,
        set: &DaemonSet,
        number: i64,
    ) -> Result<ControllerRevision, ReconcileError> {
        let wanted = snapshot(set, number);
        let error = match api.create(&PostParams::default(), &wanted).await {
            Ok(created) => return Ok(created),
            Err(error) => error,
        };
        if is_already_exists(&error) {
            let existing = api.get(&wanted.name_any()).await.map_err(ReconcileError::api("get the revision of that name"))?;
            if is_current(set, &existing) {
                return Ok(existing);
            }
            self.count_collision(set).await?;
        }
        Err(ReconcileError::api("create revision")(error))
    }

    /// The name is taken by a revision of another template. The collision count, which is part of the hash, goes up; with the version of the
    /// set that the count was read from, so that it goes up once.
    async fn count_collision(&self, set: &DaemonSet) -> Result<(), ReconcileError> {
        let mut updated = set.clone();
        let status = updated.status.get_or_insert_default();
        status.collision_count = Some(status.collision_count.unwrap_or(0) + 1);
        let api: Api<DaemonSet> = self.context.api(&set.namespace().unwrap_or_default());
        api.replace_status(&set.name_any(), &PostParams::default(), &updated)
            .await
            .map(drop)
            .map_err(ReconcileError::api("count a collision"))
    }
}

/// Labels a revision from before they had labels. The name instead of a hash: names do not collide.
async fn label(api: &Api<ControllerRevision>, revision: &ControllerRevision) -> Result<Arc<ControllerRevision>, ReconcileError> {
    let name = revision.name_any();
    let patch = json!({"metadata": {"resourceVersion": revision.resource_version(), "labels": {REVISION_HASH: name}}});
    let labeled = api.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await;
    labeled.map(Arc::new).map_err(ReconcileError::api("label revision"))
}

#[cfg(test)]
mod model_tests;
