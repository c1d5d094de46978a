//! resourcequota-controller: keeps the status of every ResourceQuota: what is limited, and what is used of it.
//!
//! The admission plugin charges what is created; this controller counts anew when a quota changes, when something is freed, and every
//! five minutes in any case. Both use the evaluators of `apimachinery::quota`.

#[cfg(test)]
mod model_tests;
mod monitors;
mod plan;
mod tallies;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use apimachinery::Value;
use apimachinery::quota::{Amounts, Evaluator, requirements};
use async_trait::async_trait;
use client::{Change, Controller, NamespacedName, Outcome, ReconcileError, Store, WorkQueue, run_workers};
use k8s_openapi::api::core::v1::ResourceQuota;
use kube::Api;
use kube::api::PostParams;

use self::monitors::{Count, Monitors};
use self::plan::plan;
use crate::api_errors::is_not_found;
use crate::context::{Context, now, wait_synced};

/// When a kind that a quota names does not exist yet, the resources of the server are asked for again.
const UNKNOWN_KIND_RETRY: Duration = Duration::from_secs(30);

/// After so long it is counted once more what a new status says, until nothing changes. Admission charges what is created before it
/// is stored, so that a count in between takes the charge back; and before the status has a limit, admission charges nothing.
const RECOUNT: Duration = Duration::from_secs(2);

struct Quotas {
    context: Context,
    quotas: Store<ResourceQuota>,
    monitors: Monitors,
}

pub(crate) async fn run(context: Context) {
    let quotas = context.informers.get::<ResourceQuota>();
    let queue: WorkQueue<NamespacedName> = WorkQueue::new("resourcequota_primary");
    let on_quota = queue.clone();
    quotas.add_handler(move |change| {
        let relevant = match change {
            Change::Added(_) => true,
            // The status is this controller's and the admission plugin's own doing.
            Change::Updated { old, new } => old.spec != new.spec || old.metadata.uid != new.metadata.uid,
            Change::Deleted(_) => false,
        };
        if relevant {
            on_quota.add(NamespacedName::of(&**change.object()));
        }
    });
    wait_synced!(quotas);
    let monitors = Monitors::new(&context, quotas.store().clone(), queue.clone());
    let workers = context.config.concurrent_resource_quota_syncs;
    let token = context.token.clone();
    let controller = Quotas { quotas: quotas.store().clone(), monitors, context };
    run_workers(Arc::new(controller), queue, workers, token).await;
}

#[async_trait]
impl Controller for Quotas {
    type Key = NamespacedName;

    fn name(&self) -> &'static str {
        "resourcequota-controller"
    }

    async fn reconcile(&self, key: &NamespacedName) -> Result<Outcome, ReconcileError> {
        let Some(quota) = self.quotas.get_key(key) else { return Ok(Outcome::Done) };
        let tree = Value::from_typed(&*quota).map_err(|error| ReconcileError::Invalid(error.to_string()))?;
        let hard = quota.spec.as_ref().and_then(|spec| spec.hard.as_ref());
        let names: Vec<&str> = hard.into_iter().flat_map(BTreeMap::keys).map(String::as_str).collect();
        let requirements = requirements(&tree);
        let (mut usage, mut unknown) = (Amounts::new(), false);
        for (resource, evaluator) in Evaluator::for_names(names.iter().copied()) {
            match self.monitors.count(&resource, &evaluator).await? {
                Count::Used(tallies) => usage.extend(tallies.used(&key.namespace, &names, &requirements, now())),
                Count::Number(number) => usage.extend(plan::counted(&evaluator, &names, &requirements, number(&key.namespace))),
                Count::Unknown => unknown = true,
            }
        }
        let mut changed = false;
        if let Some(status) = plan(&tree, usage) {
            let mut wanted = (*quota).clone();
            wanted.status = Some(status);
            let api: Api<ResourceQuota> = self.context.api(&key.namespace);
            match api.replace_status(&key.name, &PostParams::default(), &wanted).await {
                // What is empty is not stored, so that such a status is written again and again and stays what it is.
                Ok(stored) => changed = stored.metadata.resource_version != quota.metadata.resource_version,
                Err(error) if is_not_found(&error) => return Ok(Outcome::Done),
                Err(error) => return Err(ReconcileError::api("update resource quota status")(error)),
            }
        }
        Ok(Outcome::RequeueAfter(match (changed, unknown) {
            (true, _) => RECOUNT,
            (false, true) => UNKNOWN_KIND_RETRY,
            (false, false) => self.context.config.resource_quota_sync_period,
        }))
    }
}
