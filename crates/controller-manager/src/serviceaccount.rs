//! serviceaccount-controller: every active namespace has the ServiceAccount `default`.

use std::sync::Arc;

use async_trait::async_trait;
use client::{Change, Controller, NamespacedName, Outcome, ReconcileError, Store, WorkQueue, run_workers};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;

use crate::api_errors::{is_already_exists, is_namespace_terminating};
use crate::context::{Context, wait_synced};

const NAME: &str = "default";

struct ServiceAccounts {
    context: Context,
    namespaces: Store<Namespace>,
    accounts: Store<ServiceAccount>,
}

pub(crate) async fn run(context: Context) {
    let namespaces = context.informers.get::<Namespace>();
    let accounts = context.informers.get::<ServiceAccount>();
    let queue: WorkQueue<String> = WorkQueue::new("serviceaccount");
    let on_namespace = queue.clone();
    namespaces.add_handler(move |change| {
        if !matches!(change, Change::Deleted(_)) {
            on_namespace.add(change.object().metadata.name.clone().unwrap_or_default());
        }
    });
    let on_account = queue.clone();
    accounts.add_handler(move |change| {
        if let Change::Deleted(account) = change {
            let key = NamespacedName::of(&***account);
            if key.name == NAME {
                on_account.add(key.namespace);
            }
        }
    });
    wait_synced!(namespaces, accounts);
    let controller =
        ServiceAccounts { namespaces: namespaces.store().clone(), accounts: accounts.store().clone(), context: context.clone() };
    run_workers(Arc::new(controller), queue, 1, context.token).await;
}

/// Whether the account must be created.
fn plan(namespace: Option<&Namespace>, account_exists: bool) -> bool {
    namespace.is_some_and(is_active) && !account_exists
}

pub(crate) fn is_active(namespace: &Namespace) -> bool {
    let phase = namespace.status.as_ref().and_then(|status| status.phase.as_deref());
    namespace.metadata.deletion_timestamp.is_none() && phase == Some("Active")
}

#[async_trait]
impl Controller for ServiceAccounts {
    type Key = String;

    fn name(&self) -> &'static str {
        "serviceaccount-controller"
    }

    async fn reconcile(&self, namespace: &String) -> Result<Outcome, ReconcileError> {
        let exists = self.accounts.get(namespace, NAME).is_some();
        if !plan(self.namespaces.get("", namespace).as_deref(), exists) {
            return Ok(Outcome::Done);
        }
        let account = ServiceAccount {
            metadata: ObjectMeta { name: Some(NAME.into()), namespace: Some(namespace.clone()), ..Default::default() },
            ..Default::default()
        };
        match self.context.api(namespace).create(&PostParams::default(), &account).await {
            Ok(_) => Ok(Outcome::Done),
            Err(error) if is_already_exists(&error) || is_namespace_terminating(&error) => Ok(Outcome::Done),
            Err(error) => Err(ReconcileError::api("create service account")(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_active_namespaces_without_the_account_get_one() {
        let namespace = |value| serde_json::from_value::<Namespace>(value).expect("is a namespace");
        let active = namespace(json!({"metadata": {"name": "a"}, "status": {"phase": "Active"}}));
        let terminating = namespace(json!({"metadata": {"name": "a"}, "status": {"phase": "Terminating"}}));
        let deleted = namespace(json!({
            "metadata": {"name": "a", "deletionTimestamp": "2024-01-01T00:00:00Z"},
            "status": {"phase": "Active"}
        }));
        for (namespace, exists, expected) in [
            (Some(&active), false, true),
            (Some(&active), true, false),
            (Some(&terminating), false, false),
            (Some(&deleted), false, false),
            (None, false, false),
        ] {
            assert_eq!(plan(namespace, exists), expected, "{namespace:?} {exists}");
        }
    }
}
