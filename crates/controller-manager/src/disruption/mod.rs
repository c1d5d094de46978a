//! disruption-controller: says in the status of every PodDisruptionBudget how many of its pods may be disrupted now. The eviction API
//! and the scheduler act on that number.
//!
//! Invariants: an eviction that was granted counts as a pod gone until its deletion is seen, for at most two minutes; a status is written
//! on the version of the budget that it was computed from, so that no eviction granted meanwhile is forgotten; a budget whose pods cannot
//! be counted allows nothing.

mod plan;
mod scale;
mod stale;

#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod plan_tests;

use std::sync::Arc;

use async_trait::async_trait;
use client::{
    Change, Controller, EventKind, EventRecorder, NamespacedName, Outcome, ReconcileError, Store, WorkQueue, run_workers,
};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use kube::api::PostParams;
use kube::{Api, ResourceExt};

use self::plan::{Counts, counts, fail_safe, needs_scale, plan};
use self::scale::{Scale, Scales, Workloads, expected};
use self::stale::{StaleConditions, stale_in};
use crate::api_errors::is_not_found;
use crate::context::{Context, enqueue_all, now, wait_synced};
use crate::label_match::{Matcher, selector_text};
use crate::ownership::controller_of;
use crate::pod_state::is_ready;
use crate::selected::Selected;

struct Disruption {
    context: Context,
    events: EventRecorder,
    budgets: Store<PodDisruptionBudget>,
    selected: Selected<PodDisruptionBudget>,
    workloads: Workloads,
    scales: Scales,
}

pub(crate) async fn run(context: Context) {
    let budgets = context.informers.get::<PodDisruptionBudget>();
    let pods = context.informers.get::<Pod>();
    let replication_controllers = context.informers.get::<ReplicationController>();
    let replica_sets = context.informers.get::<ReplicaSet>();
    let deployments = context.informers.get::<Deployment>();
    let stateful_sets = context.informers.get::<StatefulSet>();
    let queue: WorkQueue<NamespacedName> = WorkQueue::new("disruption");
    let stale: WorkQueue<NamespacedName> = WorkQueue::new("stale_pod_disruption");
    // Upstream's name of the component here.
    let events = context.events("controllermanager");
    enqueue_all(&budgets, &queue);
    // Budgets first: a pod that comes before its budget is counted when the budget comes.
    wait_synced!(budgets);
    let selected = Selected::follow(&budgets, &pods);
    let (known, on_pod, on_stale, told) = (selected.clone(), queue.clone(), stale.clone(), events.clone());
    pods.add_handler(move |change| {
        let pod = change.object();
        if is_relevant(change) {
            concerned(&known, change, &told).into_iter().for_each(|budget| on_pod.add(budget));
        }
        if !matches!(change, Change::Deleted(_))
            && let Some(left) = stale_in(pod, now())
        {
            on_stale.add_after(NamespacedName::of(&**pod), left);
        }
    });
    wait_synced!(pods, replication_controllers, replica_sets, deployments, stateful_sets);
    let workloads = Workloads {
        replication_controllers: replication_controllers.store().clone(),
        replica_sets: replica_sets.store().clone(),
        deployments: deployments.store().clone(),
        stateful_sets: stateful_sets.store().clone(),
    };
    let conditions = StaleConditions { context: context.clone(), pods: pods.store().clone() };
    let controller = Disruption {
        events,
        budgets: budgets.store().clone(),
        selected,
        workloads,
        scales: Scales::new(context.client.clone()),
        context: context.clone(),
    };
    let budgets = run_workers(Arc::new(controller), queue, 1, context.token.clone());
    let conditions = run_workers(Arc::new(conditions), stale, 1, context.token);
    tokio::join!(budgets, conditions);
}

/// Whether a change of a pod can change the status of a budget.
fn is_relevant(change: &Change<'_, Pod>) -> bool {
    let facts = |pod: &Pod| {
        let owner = controller_of(&pod.metadata).map(|owner| owner.uid.clone());
        (pod.metadata.deletion_timestamp.is_some(), is_ready(pod), owner, pod.metadata.uid.clone())
    };
    match change {
        Change::Updated { old, new } => facts(old) != facts(new) || old.metadata.labels != new.metadata.labels,
        Change::Added(_) | Change::Deleted(_) => true,
    }
}

/// The budgets that match a pod, as it is and as it was.
fn concerned(selected: &Selected<PodDisruptionBudget>, change: &Change<'_, Pod>, events: &EventRecorder) -> Vec<NamespacedName> {
    let pod = change.object();
    let before = match change {
        Change::Updated { old, new } if old.metadata.labels != new.metadata.labels => selected.selectors_of(&old.metadata),
        _ => Vec::new(),
    };
    let matching = selected.selectors_of(&pod.metadata);
    if let [first, _, ..] = matching.as_slice() {
        let (namespace, name, first) = (pod.namespace().unwrap_or_default(), pod.name_any(), first.name_any());
        let message = format!("Pod {namespace:?}/{name:?} matches multiple PodDisruptionBudgets.  Chose {first:?} arbitrarily.");
        events.record(&**pod, EventKind::Warning, "MultiplePodDisruptionBudgets", message);
    }
    matching.iter().chain(&before).map(|budget| NamespacedName::of(&**budget)).collect()
}

impl Disruption {
    fn warn(&self, budget: &PodDisruptionBudget, reason: &str, message: String) {
        self.events.record(budget, EventKind::Warning, reason, message);
    }

    fn pods_of(&self, budget: &PodDisruptionBudget) -> Result<Vec<Arc<Pod>>, String> {
        let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        if selector.is_some_and(|selector| Matcher::new(selector).is_none()) {
            let why = "the selector is invalid".to_owned();
            self.warn(budget, "NoPods", format!("Failed to get pods: {why}"));
            return Err(why);
        }
        let pods = self.selected.pods_of(budget);
        if pods.is_empty() {
            self.events.record(budget, EventKind::Normal, "NoPods", "No matching pods found");
        }
        Ok(pods)
    }

    async fn count(&self, budget: &PodDisruptionBudget, pods: &[Arc<Pod>]) -> Result<Counts, String> {
        let spec = budget.spec.clone().unwrap_or_default();
        let scale = match needs_scale(&spec) {
            true => expected(&self.workloads, &self.scales, pods).await,
            false => Ok(Scale::default()),
        };
        let counted = scale.and_then(|scale| counts(&spec, pods.len(), scale.replicas).map(|counts| (counts, scale)));
        let (counts, scale) = counted.inspect_err(|why| {
            let message = format!("Failed to calculate the number of expected pods: {why}");
            self.warn(budget, "CalculateExpectedPodCountFailed", message);
        })?;
        if scale.unmanaged > 0 {
            let selector = selector_text(spec.selector.as_ref());
            let message = format!(
                "Pods selected by this PodDisruptionBudget (selector: {selector}) were found to be unmanaged. As a result, the status of the PDB cannot be calculated correctly, which may result in undefined behavior. To account for these pods please set \".spec.minAvailable\" field of the PDB to an integer value."
            );
            self.warn(budget, "UnmanagedPods", message);
        }
        Ok(counts)
    }

    async fn write(&self, budget: &PodDisruptionBudget, status: PodDisruptionBudgetStatus) -> Result<(), ReconcileError> {
        // With the resourceVersion of the cached budget: what the eviction API wrote since is not overwritten.
        let wanted = PodDisruptionBudget { status: Some(status), ..budget.clone() };
        let api: Api<PodDisruptionBudget> = self.context.api(&budget.namespace().unwrap_or_default());
        match api.replace_status(&budget.name_any(), &PostParams::default(), &wanted).await {
            Ok(_) => Ok(()),
            Err(error) if is_not_found(&error) => Ok(()),
            Err(error) => Err(ReconcileError::api("update pod disruption budget status")(error)),
        }
    }

    async fn sync(&self, budget: &PodDisruptionBudget, namespace: &str) -> Result<Outcome, ReconcileError> {
        let counted = match self.pods_of(budget) {
            Ok(pods) => self.count(budget, &pods).await.map(|counts| (pods, counts)),
            Err(why) => Err(why),
        };
        let (pods, counts) = match counted {
            Ok(counted) => counted,
            Err(why) => {
                if let Some(status) = fail_safe(budget, &why, now()) {
                    self.write(budget, status).await?;
                }
                return Ok(Outcome::Done);
            }
        };
        let plan = plan(budget, &pods, counts, now());
        for pod in pods.iter().filter(|pod| plan.not_deleted.contains(&pod.name_any())) {
            let message = format!("Pod was expected by PDB {namespace}/{} to be deleted but it wasn't", budget.name_any());
            self.events.record(&**pod, EventKind::Warning, "NotDeleted", message);
        }
        if let Some(status) = plan.status {
            self.write(budget, status).await?;
        }
        Ok(plan.recheck.map_or(Outcome::Done, Outcome::RequeueAfter))
    }
}

#[async_trait]
impl Controller for Disruption {
    type Key = NamespacedName;

    fn name(&self) -> &'static str {
        "disruption-controller"
    }

    async fn reconcile(&self, key: &NamespacedName) -> Result<Outcome, ReconcileError> {
        let Some(budget) = self.budgets.get_key(key) else { return Ok(Outcome::Done) };
        self.sync(&budget, &key.namespace).await
    }
}
