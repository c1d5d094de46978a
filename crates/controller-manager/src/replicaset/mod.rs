//! replicaset-controller (and, on the same code, replicationcontroller-controller): as many pods as wanted.
//!
//! Invariant: pods are only created or deleted when the cache has shown everything that was created or deleted
//! before ([`Expectations`]), so that no pod is made twice.

mod owner;
mod plan;
mod status;
mod wakeups;

use std::sync::Arc;

use async_trait::async_trait;
use client::{Controller, EventRecorder, NamespacedName, Outcome, ReconcileError, Store, WorkQueue, run_workers};
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use kube::api::PostParams;
use kube::{Api, ResourceExt};

use self::owner::{ReplicaOwner, Status};
use self::plan::Plan;
use self::status::{Observed, next_availability_check, status};
use crate::api_errors;
use crate::context::{Context, now, wait_synced};
use crate::expectations::Expectations;
use crate::label_match::Matcher;
use crate::ownership::{claim_all, controller_of, controller_reference, is_controlled_by};
use crate::pod_control::PodControl;
use crate::pod_state::{is_active, is_terminating};
use crate::pod_template::pod_from_template;

struct Replicas<K> {
    context: Context,
    events: EventRecorder,
    owners: Store<K>,
    pods: Store<Pod>,
    expectations: Arc<Expectations>,
}

pub(crate) async fn run(context: Context) {
    run_for::<ReplicaSet>(context).await;
}

/// replicationcontroller-controller.
pub(crate) async fn run_replication_controllers(context: Context) {
    run_for::<ReplicationController>(context).await;
}

async fn run_for<K: ReplicaOwner>(context: Context) {
    let owners = context.informers.get::<K>();
    let pods = context.informers.get::<Pod>();
    pods.store().add_controller_index();
    owners.store().add_controller_index();
    let queue = WorkQueue::new(K::QUEUE);
    let expectations = Arc::new(Expectations::default());
    wakeups::watch_owners(&owners, &queue, &expectations);
    wait_synced!(owners);
    // Pods are resolved to owners through the owners' cache, which must therefore be filled first.
    wakeups::watch_pods(&pods, owners.store(), &queue, &expectations);
    wait_synced!(pods);
    let controller = Replicas {
        events: context.events(K::COMPONENT),
        owners: owners.store().clone(),
        pods: pods.store().clone(),
        expectations,
        context: context.clone(),
    };
    let workers = K::workers(&context.config);
    run_workers(Arc::new(controller), queue, workers, context.token).await;
}

#[async_trait]
impl<K: ReplicaOwner> Controller for Replicas<K> {
    type Key = NamespacedName;

    fn name(&self) -> &'static str {
        K::CONTROLLER
    }

    async fn reconcile(&self, key: &NamespacedName) -> Result<Outcome, ReconcileError> {
        let Some(owner) = self.owners.get_key(key) else {
            self.expectations.forget(key);
            return Ok(Outcome::Done);
        };
        let needs_sync = self.expectations.satisfied(key);
        let Some(matcher) = owner.matcher() else {
            return Err(ReconcileError::Invalid("selector cannot be parsed".into()));
        };
        let uid = owner.uid().unwrap_or_default();
        let mut candidates = self.pods.by_controller(&uid);
        candidates.extend(self.pods.orphans(&key.namespace));
        let mut terminating = candidates
            .iter()
            .filter(|pod| is_terminating(pod) && is_controlled_by(&pod.metadata, &uid))
            .filter(|pod| matcher.matches(&pod.metadata))
            .count();
        candidates.retain(|pod| is_active(pod));
        let mut active = claim_all(&self.context.client, &*owner, |meta| matcher.matches(meta), candidates).await?;
        let mut failure = Ok(());
        if needs_sync && owner.meta().deletion_timestamp.is_none() {
            failure = self.manage(key, &owner, active.clone()).await;
        }
        // Who goes by what is available (a Deployment) must not count on pods that were just deleted: they are on their way out.
        terminating += self.expectations.take_out_deleted(key, &mut active);
        let delay = self.update_status(key, &owner, &active, terminating, failure.as_ref().err()).await?;
        failure?;
        Ok(delay)
    }
}

impl<K: ReplicaOwner> Replicas<K> {
    async fn manage(&self, key: &NamespacedName, owner: &Arc<K>, active: Vec<Arc<Pod>>) -> Result<(), ReconcileError> {
        let related = || self.related_pods(owner);
        match plan::plan(owner.replicas(), active, related, now()) {
            Plan::Nothing => Ok(()),
            Plan::Create(count) => self.create_pods(key, owner, count).await,
            Plan::Delete(pods) => self.delete_pods(key, owner, pods).await,
        }
    }

    /// Pods that match any owner with the same controller as this one: those that the owners have, and those that nobody has.
    fn related_pods(&self, owner: &K) -> Vec<Arc<Pod>> {
        let Some(controller) = controller_of(owner.meta()) else {
            return Vec::new();
        };
        let related = self.owners.by_controller(&controller.uid);
        let matchers: Vec<Matcher> = related.iter().filter_map(|related| related.matcher()).collect();
        let mut pods = self.pods.orphans(&owner.namespace().unwrap_or_default());
        pods.extend(related.iter().flat_map(|related| self.pods.by_controller(&related.uid().unwrap_or_default())));
        pods.retain(|pod| matchers.iter().any(|matcher| matcher.matches(&pod.metadata)));
        pods
    }

    async fn create_pods(&self, key: &NamespacedName, owner: &Arc<K>, count: usize) -> Result<(), ReconcileError> {
        self.expectations.expect_creations(key, count);
        let pod = pod_from_template(owner.template(), &owner.name_any(), controller_reference(&**owner));
        self.pod_control(key, owner).create(vec![pod; count]).await
    }

    async fn delete_pods(&self, key: &NamespacedName, owner: &Arc<K>, pods: Vec<Arc<Pod>>) -> Result<(), ReconcileError> {
        let uids = pods.iter().map(|pod| pod.uid().unwrap_or_default());
        self.expectations.expect_deletions(key, uids);
        self.pod_control(key, owner).delete(&pods).await
    }

    fn pod_control<'a>(&'a self, key: &'a NamespacedName, owner: &'a K) -> PodControl<'a, K> {
        PodControl { api: self.context.api(&key.namespace), events: &self.events, expectations: &self.expectations, key, owner }
    }

    async fn update_status(
        &self,
        key: &NamespacedName,
        owner: &Arc<K>,
        active: &[Arc<Pod>],
        terminating: usize,
        failure: Option<&ReconcileError>,
    ) -> Result<Outcome, ReconcileError> {
        let observed = Observed {
            replicas_wanted: owner.replicas(),
            min_ready_seconds: owner.min_ready_seconds(),
            template: owner.template(),
            active,
            terminating: (K::CONTROLLER == ReplicaSet::CONTROLLER).then_some(terminating),
            failure: failure.map(failure_message),
            now: now(),
        };
        let last = owner.status();
        let wanted = Status { observed_generation: owner.meta().generation, ..status(&last, &observed) };
        if wanted != last {
            let updated = owner.with_status(wanted.clone());
            let api: Api<K> = self.context.api(&key.namespace);
            api.replace_status(&key.name, &PostParams::default(), &updated)
                .await
                .map_err(ReconcileError::api("update status"))?;
        }
        Ok(match next_availability_check(&observed, &wanted) {
            Some(delay) => Outcome::RequeueAfter(delay),
            None => Outcome::Done,
        })
    }
}

/// The controller of ReplicaSets in model tests: what a process of it remembers, without informers and queue.
#[cfg(test)]
#[derive(Default)]
pub(crate) struct Simulated {
    expectations: Arc<Expectations>,
}

#[cfg(test)]
impl Simulated {
    pub(crate) fn pod(&self, sets: &Store<ReplicaSet>, change: &client::Change<'_, Pod>) {
        let (owners, queue) = (sets.clone(), WorkQueue::new("model"));
        wakeups::Wakeups { owners, queue, expectations: Arc::clone(&self.expectations) }.pod(change);
    }

    pub(crate) async fn reconcile(
        &self,
        (context, events): (Context, EventRecorder),
        (owners, pods): (Store<ReplicaSet>, Store<Pod>),
        key: &NamespacedName,
    ) -> Result<Outcome, ReconcileError> {
        let expectations = Arc::clone(&self.expectations);
        Replicas { context, events, owners, pods, expectations }.reconcile(key).await
    }
}

fn failure_message(error: &ReconcileError) -> String {
    match error {
        ReconcileError::Api { source, .. } => api_errors::message(source),
        ReconcileError::Several { first, .. } => failure_message(first),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;
    use crate::model::{Cache, Model};
    use kube::api::{Patch, PatchParams};
    use serde_json::{Value, json};

    fn replica_set(replicas: u32) -> Value {
        json!({"metadata": {"name": "web"}, "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "image:0"}]}}}})
    }

    /// Each pod is in one of the two numbers, whatever the cache shows of it.
    #[tokio::test]
    async fn a_pod_that_was_just_deleted_is_terminating() {
        let model = Model::new(0).await;
        let made: ReplicaSet = model.create(replica_set(3)).await;
        let (mut sets, mut pods, simulated) = (Cache::<ReplicaSet>::default(), Cache::<Pod>::default(), Simulated::default());
        let key = NamespacedName::of(&made);
        let mut check = async |pods: &Cache<Pod>, expected: [i32; 2], what: &str| {
            sets.observe(model.list().await);
            sets.advance(sets.lag(), |_| {});
            let context = model.context("replicaset-controller", Config::default());
            simulated.reconcile(context, (sets.store(), pods.store()), &key).await.expect("is done");
            let status = model.api::<ReplicaSet>().get("web").await.expect("is there").status.expect("is written");
            assert_eq!([status.replicas, status.terminating_replicas.unwrap_or(0)], expected, "{what}");
            sets.store()
        };
        let owners = check(&pods, [0, 0], "they are being made").await;
        for pod in model.list::<Pod>().await {
            // A pod that runs nowhere would go at once.
            model.run_pod(&pod, "n1").await;
        }
        pods.observe(model.list().await);
        pods.advance(pods.lag(), |change| simulated.pod(&owners, change));
        check(&pods, [3, 0], "all are there").await;
        let fewer = Patch::Merge(json!({"spec": {"replicas": 1}}));
        model.api::<ReplicaSet>().patch("web", &PatchParams::default(), &fewer).await.expect("is scaled");
        let owners = check(&pods, [1, 2], "two were deleted, which the cache does not show").await;
        pods.observe(model.list().await);
        let terminating = pods.truth().filter(|pod| is_terminating(pod)).count();
        assert_eq!((terminating, pods.truth().count()), (2, 3), "they are still there");
        pods.advance(pods.lag(), |change| simulated.pod(&owners, change));
        check(&pods, [1, 2], "the cache shows it").await;
    }
}
