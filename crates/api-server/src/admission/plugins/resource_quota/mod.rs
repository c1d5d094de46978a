//! ResourceQuota: what a namespace's quotas limit is charged to their status before an object is stored.
//!
//! A charge is a write of the quota's status with its resourceVersion as the precondition, so that of two requests for the last place, at
//! whatever servers, one is refused. Requests for one namespace that arrive together are charged in one write: the first to
//! get its turn works for all that wait. What is charged for an object that is not stored after all is given back by
//! resourcequota-controller, as is what deletions free.
//!
//! The plugin's configuration may say that some things must have a quota (`limitedResources`).

mod check;
mod config;
mod quotas;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;

use apimachinery::quota::{Amounts, Evaluator};
use apimachinery::{GroupResource, Status, Value};
use async_trait::async_trait;
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use self::check::{Quota, check};
use self::config::Limits;
pub(in crate::admission) use self::config::QuotaConfig;
pub(super) use self::quotas::QuotaAccess;
use crate::admission::{AdmissionPlugin, Attributes, Operation};

/// How often a charge is tried against other writers (upstream's three retries).
const ATTEMPTS: usize = 4;

pub(super) struct ResourceQuota {
    quotas: Arc<dyn QuotaAccess>,
    config: QuotaConfig,
    namespaces: Mutex<HashMap<String, Arc<Namespace>>>,
}

/// A namespace that has quotas.
#[derive(Default)]
struct Namespace {
    waiting: Mutex<Vec<Waiter>>,
    /// Whose turn it is; with the quotas as last written here, which a list may not show yet.
    turn: tokio::sync::Mutex<HashMap<String, Value>>,
}

struct Waiter {
    evaluator: Evaluator,
    limits: Limits,
    attributes: Attributes,
    answer: oneshot::Sender<Result<(), Status>>,
}

impl ResourceQuota {
    pub(super) fn new(quotas: Arc<dyn QuotaAccess>, config: QuotaConfig) -> Self {
        Self { quotas, config, namespaces: Mutex::default() }
    }

    /// Waits for a turn and takes it for all that wait, unless another did.
    async fn evaluate(&self, evaluator: &Evaluator, limits: Limits, attributes: &Attributes) -> Result<(), Status> {
        let namespace = self.namespaces.lock().entry(attributes.namespace.clone()).or_default().clone();
        loop {
            let (answer, mut answered) = oneshot::channel();
            let (evaluator, limits, own) = (evaluator.clone(), limits.clone(), attributes.clone());
            namespace.waiting.lock().push(Waiter { evaluator, limits, attributes: own, answer });
            let mut written = namespace.turn.lock().await;
            match answered.try_recv() {
                Ok(result) => return result,
                // The request that took this one along was cancelled.
                Err(oneshot::error::TryRecvError::Closed) => continue,
                Err(oneshot::error::TryRecvError::Empty) => {}
            }
            let waiters = std::mem::take(&mut *namespace.waiting.lock());
            let results = self.charge(&attributes.namespace, &mut written, &waiters).await;
            for (waiter, result) in waiters.into_iter().zip(results) {
                // A request that was cancelled meanwhile wants no answer.
                let _cancelled = waiter.answer.send(result);
            }
            if let Ok(result) = answered.try_recv() {
                return result;
            }
        }
    }

    /// Checks all waiters against the quotas and writes what they use together.
    async fn charge(&self, namespace: &str, written: &mut HashMap<String, Value>, waiters: &[Waiter]) -> Vec<Result<(), Status>> {
        let mut results: Vec<Option<Result<(), Status>>> = waiters.iter().map(|_| None).collect();
        let mut left: Option<Vec<String>> = None;
        let mut failure = Status::internal_error("resource quota evaluation timed out");
        for attempt in 0..ATTEMPTS {
            let quotas = match self.read(namespace, written, attempt > 0).await {
                Ok(quotas) => quotas.into_iter().filter(|q| left.as_ref().is_none_or(|names| names.contains(&q.name))),
                Err(status) => {
                    failure = status;
                    break;
                }
            };
            let quotas: Vec<Quota> = quotas.collect();
            let used = check_all(&quotas, waiters, &mut results);
            let (failed, why) = self.write(&quotas, &used, written).await;
            let Some(why) = why else {
                return results.into_iter().map(|result| result.unwrap_or(Ok(()))).collect();
            };
            (left, failure) = (Some(failed), why);
        }
        results.into_iter().map(|result| result.unwrap_or_else(|| Err(failure.clone()))).collect()
    }

    /// The quotas of a namespace, each in the newest version known.
    async fn read(&self, namespace: &str, written: &mut HashMap<String, Value>, fresh: bool) -> Result<Vec<Quota>, Status> {
        let revision = |quota: &Value| quota.meta().resource_version().parse::<u64>().unwrap_or(0);
        let listed = self.quotas.list(namespace, fresh).await?;
        written.retain(|name, own| {
            listed.iter().any(|quota| quota.meta().name() == name && revision(quota) < revision(own) && !fresh)
        });
        Ok(listed.into_iter().map(|quota| Quota::new(written.get(quota.meta().name()).cloned().unwrap_or(quota))).collect())
    }

    /// Writes the quotas of which more is used now; returns those for which that failed, and why the last of them did.
    async fn write(
        &self,
        quotas: &[Quota],
        used: &[Amounts],
        written: &mut HashMap<String, Value>,
    ) -> (Vec<String>, Option<Status>) {
        let (mut failed, mut why) = (Vec::new(), None);
        for (quota, used) in quotas.iter().zip(used).filter(|(quota, used)| quota.used != **used) {
            match self.quotas.update_status(quota.with_used(used)).await {
                Ok(stored) => {
                    written.insert(quota.name.clone(), stored);
                }
                Err(status) => {
                    failed.push(quota.name.clone());
                    why = Some(status);
                }
            }
        }
        (failed, why)
    }
}

/// Answers those that are refused or cost nothing; returns what would be used with all others.
fn check_all(quotas: &[Quota], waiters: &[Waiter], results: &mut [Option<Result<(), Status>>]) -> Vec<Amounts> {
    let mut used: Vec<Amounts> = quotas.iter().map(|quota| quota.used.clone()).collect();
    for (waiter, result) in waiters.iter().zip(results).filter(|(_, result)| result.is_none()) {
        match check(quotas, &used, &waiter.evaluator, &waiter.limits, &waiter.attributes, Timestamp::now()) {
            Err(status) => *result = Some(Err(status)),
            Ok(_) if waiter.attributes.dry_run => *result = Some(Ok(())),
            Ok(after) if after == used => *result = Some(Ok(())),
            Ok(after) => used = after,
        }
    }
    used
}

#[async_trait]
impl AdmissionPlugin for ResourceQuota {
    fn name(&self) -> &'static str {
        "ResourceQuota"
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    async fn validate(&self, attributes: &Attributes) -> Result<(), Status> {
        if attributes.namespace.is_empty() || attributes.is_resource("", "namespaces") {
            return Ok(());
        }
        let resource = GroupResource::new(&*attributes.resource.group, &*attributes.resource.resource);
        let Some(evaluator) = Evaluator::of(&resource) else { return Ok(()) };
        let charged = match (&attributes.object, &attributes.old_object) {
            (Some(object), Some(old)) => evaluator.charges_update(&attributes.subresource, object, old),
            (Some(_), None) => evaluator.charges_create(&attributes.subresource),
            (None, _) => false,
        };
        if !charged {
            return Ok(());
        }
        let limits = self.config.of(&resource);
        if limits.is_empty() && self.quotas.list(&attributes.namespace, false).await?.is_empty() {
            self.namespaces.lock().remove(&attributes.namespace);
            return Ok(());
        }
        self.evaluate(&evaluator, limits, attributes).await
    }
}
