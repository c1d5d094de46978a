//! legacy-serviceaccount-token-cleaner-controller: Secrets with ServiceAccount tokens that older releases made by themselves, and that nobody
//! has used for a year, are marked as invalid, and deleted when nobody asks for them for another year
//! (KEP-2799; <https://kubernetes.io/docs/reference/access-authn-authz/service-accounts-admin/#legacy-serviceaccount-token-cleaner>).
//!
//! Invariant: nothing is touched before the API server has recorded uses for the whole period. Secrets that users made, those that a pod
//! refers to, and those whose labels make no sense stay.

mod plan;
mod pod_secrets;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use client::{Controller, NamespacedName, Outcome, ReconcileError, Scope, Store, WorkQueue, run_workers};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, ServiceAccount};
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, ResourceExt};
use serde_json::json;

use self::plan::{Action, Deadlines, INVALID_SINCE};
use self::pod_secrets::secret_names;
use crate::api_errors::{is_conflict, is_not_found};
use crate::context::{Context, now, wait_synced};

const NAME: &str = "legacy-serviceaccount-token-cleaner-controller";
const SECRET_TYPE: &str = "kubernetes.io/service-account-token";
const BY_NAMESPACE: &str = "namespace";
/// Where the API server says since when it records uses.
const TRACKING: (&str, &str) = ("kube-system", "kube-apiserver-legacy-service-account-token-tracking");
/// Upstream's `DefaultCleanerSyncInterval`.
const SYNC_INTERVAL: Duration = Duration::from_secs(24 * 3600);

struct Cleaner {
    context: Context,
    secrets: Store<Secret>,
    accounts: Store<ServiceAccount>,
    pods: Store<Pod>,
}

pub(crate) async fn run(context: Context) {
    let secrets = context.informers.scoped::<Secret>(Scope::fields(format!("type={SECRET_TYPE}")));
    let accounts = context.informers.get::<ServiceAccount>();
    let pods = context.informers.get::<Pod>();
    pods.store().add_index(BY_NAMESPACE, |pod| vec![pod.namespace().unwrap_or_default()]);
    wait_synced!(secrets, accounts, pods);
    // One key: all Secrets are looked at once a day.
    let queue: WorkQueue<()> = WorkQueue::new("legacy_serviceaccount_token_cleaner");
    queue.add(());
    let controller = Cleaner {
        secrets: secrets.store().clone(),
        accounts: accounts.store().clone(),
        pods: pods.store().clone(),
        context: context.clone(),
    };
    run_workers(Arc::new(controller), queue, 1, context.token).await;
}

#[async_trait]
impl Controller for Cleaner {
    type Key = ();

    fn name(&self) -> &'static str {
        NAME
    }

    async fn reconcile(&self, _key: &()) -> Result<Outcome, ReconcileError> {
        let api: Api<ConfigMap> = self.context.api(TRACKING.0);
        let tracking = api.get(TRACKING.1).await.map_err(ReconcileError::api("get the tracking of legacy tokens"))?;
        let since = tracking.data.as_ref().and_then(|data| data.get("since")).map(String::as_str).unwrap_or_default();
        let period = self.context.config.legacy_service_account_token_clean_up_period;
        if let Some(deadlines) = Deadlines::new(now(), since, period)? {
            self.clean(&deadlines, now()).await?;
        }
        Ok(Outcome::RequeueAfter(SYNC_INTERVAL))
    }
}

impl Cleaner {
    async fn clean(&self, deadlines: &Deadlines, now: Timestamp) -> Result<(), ReconcileError> {
        let mut used: HashMap<String, HashSet<String>> = HashMap::new();
        let mut errors = Vec::new();
        for secret in self.secrets.list() {
            let namespace = secret.namespace().unwrap_or_default();
            let account = self.accounts.get(&namespace, plan::account_name(&secret));
            let mounted = used.entry(namespace.clone()).or_insert_with(|| self.used_secrets(&namespace));
            let done = match plan::plan(&secret, account.as_deref(), mounted.contains(&secret.name_any()), deadlines, now) {
                Action::Keep => continue,
                Action::Invalidate(date) => self.invalidate(&secret, &date).await,
                Action::Delete => self.delete(&secret).await,
            };
            errors.extend(done.err());
        }
        ReconcileError::collect(errors)
    }

    fn used_secrets(&self, namespace: &str) -> HashSet<String> {
        self.pods.by_index(BY_NAMESPACE, namespace).iter().flat_map(|pod| secret_names(pod)).collect()
    }

    async fn invalidate(&self, secret: &Secret, date: &str) -> Result<(), ReconcileError> {
        let key = NamespacedName::of(secret);
        tracing::info!(
            controller = NAME,
            namespace = key.namespace,
            name = key.name,
            "a token that nobody uses is marked invalid"
        );
        let patch = json!({"metadata": {"uid": secret.metadata.uid, "labels": {INVALID_SINCE: date}}});
        let api: Api<Secret> = self.context.api(&key.namespace);
        let done = api.patch(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await;
        settled(done.map(drop)).map_err(ReconcileError::api("mark a legacy token as invalid"))
    }

    async fn delete(&self, secret: &Secret) -> Result<(), ReconcileError> {
        let key = NamespacedName::of(secret);
        tracing::info!(controller = NAME, namespace = key.namespace, name = key.name, "a token that nobody uses is deleted");
        let preconditions = Preconditions { uid: None, resource_version: secret.resource_version() };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        let api: Api<Secret> = self.context.api(&key.namespace);
        settled(api.delete(&key.name, &params).await.map(drop)).map_err(ReconcileError::api("delete a legacy token"))
    }
}

/// What is gone or has changed since is looked at tomorrow.
fn settled(result: kube::Result<()>) -> kube::Result<()> {
    match result {
        Err(error) if is_not_found(&error) || is_conflict(&error) => Ok(()),
        other => other,
    }
}
