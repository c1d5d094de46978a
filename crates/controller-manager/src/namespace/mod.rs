//! namespace-controller: empties a namespace that is being deleted, then lets it go.

mod conditions;
mod content;
#[cfg(test)]
mod model_tests;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use client::{Change, Controller, Outcome, RateLimiter, ReconcileError, WorkQueue, run_workers};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::PostParams;
use kube::{Api, ResourceExt};

use self::conditions::{Report, conditions};
use crate::api_errors::{ignore_not_found, is_conflict};
use crate::context::{Context, now, wait_synced};

/// The finalizer that this controller removes.
const FINALIZER: &str = "kubernetes";

struct Namespaces {
    api: Api<Namespace>,
    client: kube::Client,
}

pub(crate) async fn run(context: Context) {
    let namespaces = context.informers.get::<Namespace>();
    let pods = context.informers.get::<Pod>();
    // Upstream's own limits for this queue.
    let limiter = RateLimiter::item(Duration::from_millis(5), Duration::from_secs(60));
    let queue: WorkQueue<String> = WorkQueue::with_limiter("namespace", limiter);
    let delay = context.config.namespace_deletion_grace_period;
    let on_namespace = queue.clone();
    namespaces.add_handler(move |change| {
        let namespace = change.object();
        if namespace.metadata.deletion_timestamp.is_some() && !matches!(change, Change::Deleted(_)) {
            on_namespace.add_after(namespace.name_any(), delay);
        }
    });
    wait_synced!(namespaces);
    // The rest waits for the last pod. Upstream looks again after half the longest grace period; hearing of it
    // costs nothing and is sooner.
    let (on_pod, known) = (queue.clone(), namespaces.store().clone());
    pods.add_handler(move |change| {
        let Change::Deleted(pod) = change else { return };
        let name = pod.metadata.namespace.as_deref().unwrap_or("");
        if known.get("", name).is_some_and(|namespace| namespace.metadata.deletion_timestamp.is_some()) {
            on_pod.add_after(name.to_owned(), Duration::from_millis(100));
        }
    });
    let controller = Namespaces { api: Api::all(context.client.clone()), client: context.client.clone() };
    let workers = context.config.concurrent_namespace_syncs;
    run_workers(Arc::new(controller), queue, workers, context.token).await;
}

/// What follows from an attempt to delete the content.
#[derive(Debug, PartialEq)]
enum Next {
    /// Something failed: try again with back-off.
    Retry,
    /// Something is left that needs its time.
    Wait(Duration),
    Finalize,
}

fn next(report: &Report) -> Next {
    if !report.errors.is_empty() {
        return Next::Retry;
    }
    match u64::try_from(report.estimate_seconds) {
        Ok(0) | Err(_) => Next::Finalize,
        Ok(seconds) => Next::Wait(Duration::from_secs(seconds / 2 + 1)),
    }
}

#[async_trait]
impl Controller for Namespaces {
    type Key = String;

    fn name(&self) -> &'static str {
        "namespace-controller"
    }

    async fn reconcile(&self, name: &String) -> Result<Outcome, ReconcileError> {
        // Read from the server: a stale copy must not make anything be deleted.
        let found = self.api.get_opt(name).await.map_err(ReconcileError::api("get namespace"))?;
        let Some(mut namespace) = found else { return Ok(Outcome::Done) };
        let Some(deleted_at) = namespace.metadata.deletion_timestamp.clone() else {
            return Ok(Outcome::Done);
        };
        if phase(&namespace) != Some("Terminating") {
            namespace.status.get_or_insert_default().phase = Some("Terminating".into());
            namespace = self.write_status(&namespace).await?;
        }
        if finalizers(&namespace).is_empty() {
            return Ok(Outcome::Done);
        }
        let report = content::delete_all(&self.client, name, deleted_at.0, now()).await;
        let status = namespace.status.get_or_insert_default();
        if let Some(conditions) = conditions(status.conditions.as_deref().unwrap_or_default(), &report, now()) {
            status.conditions = Some(conditions);
            namespace = self.write_status(&namespace).await?;
        }
        match next(&report) {
            Next::Retry => Err(ReconcileError::Invalid(format!(
                "content of the namespace could not be deleted: {}",
                report.errors.join(", ")
            ))),
            Next::Wait(delay) => Ok(Outcome::RequeueAfter(delay)),
            Next::Finalize => self.finalize(namespace).await.map(|()| Outcome::Done),
        }
    }
}

fn phase(namespace: &Namespace) -> Option<&str> {
    namespace.status.as_ref()?.phase.as_deref()
}

fn finalizers(namespace: &Namespace) -> &[String] {
    let spec = namespace.spec.as_ref();
    spec.and_then(|spec| spec.finalizers.as_deref()).unwrap_or_default()
}

impl Namespaces {
    async fn write_status(&self, namespace: &Namespace) -> Result<Namespace, ReconcileError> {
        self.api
            .replace_status(&namespace.name_any(), &PostParams::default(), namespace)
            .await
            .map_err(ReconcileError::api("update namespace status"))
    }

    async fn finalize(&self, mut namespace: Namespace) -> Result<(), ReconcileError> {
        let name = namespace.name_any();
        let uid = namespace.uid();
        loop {
            let spec = namespace.spec.get_or_insert_default();
            if let Some(finalizers) = &mut spec.finalizers {
                finalizers.retain(|finalizer| finalizer != FINALIZER);
            }
            let params = PostParams::default();
            match self.api.replace_subresource("finalize", &name, &params, &namespace).await {
                Err(error) if is_conflict(&error) => {}
                result => return ignore_not_found(result).map_err(ReconcileError::api("finalize namespace")),
            }
            let latest = self.api.get_opt(&name).await.map_err(ReconcileError::api("get namespace"))?;
            match latest {
                Some(latest) if latest.uid() == uid => namespace = latest,
                _ => return Ok(()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_an_attempt() {
        for (errors, estimate_seconds, expected) in [
            (vec![], 0, Next::Finalize),
            (vec![], 30, Next::Wait(Duration::from_secs(16))),
            (vec!["failed".to_owned()], 30, Next::Retry),
        ] {
            let report = Report { errors, estimate_seconds, ..Default::default() };
            assert_eq!(next(&report), expected, "{report:?}");
        }
    }
}
