//! bootstrap-signer-controller and token-cleaner-controller: sign the ConfigMap `cluster-info` with every bootstrap token, and delete
//! those that are over. Off by default, as upstream.

mod token;

use std::sync::Arc;

use async_trait::async_trait;
use client::{Change, Controller, Informer, NamespacedName, Outcome, ReconcileError, Scope, Store, WorkQueue, run_workers};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::Api;
use kube::api::{DeleteParams, PostParams, Preconditions};

use self::token::{SECRET_TYPE, Validity, signed, validity};
use crate::api_errors::{is_conflict, is_not_found};
use crate::context::{Context, now, wait_synced};

const NAMESPACE: &str = "kube-system";
const PUBLIC_NAMESPACE: &str = "kube-public";
const CLUSTER_INFO: &str = "cluster-info";

/// Tokens only: other Secrets are nobody's business here.
fn tokens(context: &Context) -> Informer<Secret> {
    context.informers.scoped(Scope::fields(format!("metadata.namespace={NAMESPACE},type={SECRET_TYPE}")))
}

struct Signer {
    context: Context,
    secrets: Store<Secret>,
    config_maps: Store<ConfigMap>,
}

pub(crate) async fn run_signer(context: Context) {
    let secrets = tokens(&context);
    let fields = format!("metadata.namespace={PUBLIC_NAMESPACE},metadata.name={CLUSTER_INFO}");
    let config_maps: Informer<ConfigMap> = context.informers.scoped(Scope::fields(fields));
    let queue: WorkQueue<NamespacedName> = WorkQueue::new("bootstrap_signer_queue");
    let key = || NamespacedName::new(PUBLIC_NAMESPACE, CLUSTER_INFO);
    let on_secret = queue.clone();
    secrets.add_handler(move |_| on_secret.add(key()));
    let on_config_map = queue.clone();
    config_maps.add_handler(move |change| {
        if !matches!(change, Change::Deleted(_)) {
            on_config_map.add(key());
        }
    });
    wait_synced!(secrets, config_maps);
    let controller =
        Signer { secrets: secrets.store().clone(), config_maps: config_maps.store().clone(), context: context.clone() };
    run_workers(Arc::new(controller), queue, 1, context.token).await;
}

#[async_trait]
impl Controller for Signer {
    type Key = NamespacedName;

    fn name(&self) -> &'static str {
        "bootstrap-signer-controller"
    }

    async fn reconcile(&self, key: &NamespacedName) -> Result<Outcome, ReconcileError> {
        let Some(current) = self.config_maps.get_key(key) else { return Ok(Outcome::Done) };
        let secrets = self.secrets.list();
        let data = current.data.clone().unwrap_or_default();
        let Some(data) = signed(&data, secrets.iter().map(|secret| &**secret), now()) else { return Ok(Outcome::Done) };
        let wanted = ConfigMap { data: Some(data), ..(*current).clone() };
        match self.context.api::<ConfigMap>(&key.namespace).replace(&key.name, &PostParams::default(), &wanted).await {
            Ok(_) => Ok(Outcome::Done),
            Err(error) if is_not_found(&error) => Ok(Outcome::Done),
            Err(error) => Err(ReconcileError::api("sign cluster-info")(error)),
        }
    }
}

struct Cleaner {
    context: Context,
    secrets: Store<Secret>,
}

pub(crate) async fn run_cleaner(context: Context) {
    let secrets = tokens(&context);
    let queue: WorkQueue<NamespacedName> = WorkQueue::new("token_cleaner");
    let on_secret = queue.clone();
    secrets.add_handler(move |change| {
        if !matches!(change, Change::Deleted(_)) {
            on_secret.add(NamespacedName::of(&**change.object()));
        }
    });
    wait_synced!(secrets);
    let controller = Cleaner { secrets: secrets.store().clone(), context: context.clone() };
    run_workers(Arc::new(controller), queue, 1, context.token).await;
}

#[async_trait]
impl Controller for Cleaner {
    type Key = NamespacedName;

    fn name(&self) -> &'static str {
        "token-cleaner-controller"
    }

    async fn reconcile(&self, key: &NamespacedName) -> Result<Outcome, ReconcileError> {
        let Some(secret) = self.secrets.get_key(key) else { return Ok(Outcome::Done) };
        match validity(&secret, now()) {
            Validity::Forever => return Ok(Outcome::Done),
            Validity::For(left) => return Ok(Outcome::RequeueAfter(left)),
            Validity::Expired => {}
        }
        let api: Api<Secret> = self.context.api(&key.namespace);
        let preconditions = Preconditions { uid: secret.metadata.uid.clone(), resource_version: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        match api.delete(&key.name, &params).await {
            Ok(_) => Ok(Outcome::Done),
            // Gone, or another one by now.
            Err(error) if is_not_found(&error) || is_conflict(&error) => Ok(Outcome::Done),
            Err(error) => Err(ReconcileError::api("delete expired bootstrap token")(error)),
        }
    }
}
