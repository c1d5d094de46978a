//! root-ca-certificate-publisher-controller: every active namespace has the ConfigMap `kube-root-ca.crt`, from which pods
//! learn the CA of the API server (KEP-1205).

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use client::{Change, Controller, Informer, NamespacedName, Outcome, ReconcileError, Scope, Store, WorkQueue, run_workers};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;

use crate::api_errors::{is_already_exists, is_namespace_terminating};
use crate::context::{Context, wait_synced};
use crate::serviceaccount::is_active;

const NAME: &str = "kube-root-ca.crt";
const KEY: &str = "ca.crt";
const DESCRIPTION: (&str, &str) = (
    "kubernetes.io/description",
    "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters.",
);

struct Publisher {
    context: Context,
    root_ca: String,
    namespaces: Store<Namespace>,
    config_maps: Store<ConfigMap>,
}

pub(crate) async fn run(context: Context) {
    let Some(root_ca) = context.config.root_ca.clone() else {
        tracing::info!(controller = "root-ca-certificate-publisher-controller", "no root CA configured, not publishing");
        return;
    };
    let namespaces = context.informers.get::<Namespace>();
    // Only ours are of interest: a watch of every ConfigMap would keep all of them in memory.
    let config_maps: Informer<ConfigMap> = context.informers.scoped(Scope::fields(format!("metadata.name={NAME}")));
    let queue: WorkQueue<String> = WorkQueue::new("root_ca_cert_publisher");
    let on_namespace = queue.clone();
    namespaces.add_handler(move |change| {
        if !matches!(change, Change::Deleted(_)) {
            on_namespace.add(change.object().metadata.name.clone().unwrap_or_default());
        }
    });
    let on_config_map = queue.clone();
    config_maps.add_handler(move |change| {
        if !matches!(change, Change::Added(_)) {
            on_config_map.add(NamespacedName::of(&**change.object()).namespace);
        }
    });
    wait_synced!(namespaces, config_maps);
    let publisher = Publisher {
        root_ca,
        namespaces: namespaces.store().clone(),
        config_maps: config_maps.store().clone(),
        context: context.clone(),
    };
    run_workers(Arc::new(publisher), queue, 1, context.token).await;
}

#[derive(Debug, PartialEq)]
enum Action {
    Nothing,
    Create(Box<ConfigMap>),
    Replace(Box<ConfigMap>),
}

fn plan(namespace: Option<&Namespace>, current: Option<&ConfigMap>, root_ca: &str) -> Action {
    let Some(namespace) = namespace.filter(|namespace| is_active(namespace)) else {
        return Action::Nothing;
    };
    let data = BTreeMap::from([(KEY.to_owned(), root_ca.to_owned())]);
    let Some(current) = current else {
        return Action::Create(Box::new(ConfigMap {
            metadata: ObjectMeta {
                name: Some(NAME.into()),
                namespace: namespace.metadata.name.clone(),
                annotations: Some([(DESCRIPTION.0.to_owned(), DESCRIPTION.1.to_owned())].into()),
                ..Default::default()
            },
            data: Some(data),
            ..Default::default()
        }));
    };
    let described = current.metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(DESCRIPTION.0));
    if current.data.as_ref() == Some(&data) && described {
        return Action::Nothing;
    }
    let mut wanted = current.clone();
    wanted.data = Some(data);
    wanted.metadata.annotations.get_or_insert_default().insert(DESCRIPTION.0.to_owned(), DESCRIPTION.1.to_owned());
    Action::Replace(Box::new(wanted))
}

#[async_trait]
impl Controller for Publisher {
    type Key = String;

    fn name(&self) -> &'static str {
        "root-ca-certificate-publisher-controller"
    }

    async fn reconcile(&self, namespace: &String) -> Result<Outcome, ReconcileError> {
        let current = self.config_maps.get(namespace, NAME);
        let api = self.context.api::<ConfigMap>(namespace);
        let params = PostParams::default();
        let result = match plan(self.namespaces.get("", namespace).as_deref(), current.as_deref(), &self.root_ca) {
            Action::Nothing => return Ok(Outcome::Done),
            Action::Create(wanted) => api.create(&params, &wanted).await,
            Action::Replace(wanted) => api.replace(NAME, &params, &wanted).await,
        };
        match result {
            Ok(_) => Ok(Outcome::Done),
            Err(error) if is_already_exists(&error) || is_namespace_terminating(&error) => Ok(Outcome::Done),
            Err(error) => Err(ReconcileError::api("write config map")(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_config_map_is_made_and_repaired() {
        let namespace: Namespace =
            serde_json::from_value(json!({"metadata": {"name": "a"}, "status": {"phase": "Active"}})).expect("is one");
        let Action::Create(made) = plan(Some(&namespace), None, "PEM") else {
            panic!("is created");
        };
        assert_eq!(made.data, Some([("ca.crt".to_owned(), "PEM".to_owned())].into()));
        assert_eq!(plan(Some(&namespace), Some(&made), "PEM"), Action::Nothing);
        let Action::Replace(repaired) = plan(Some(&namespace), Some(&made), "NEW") else {
            panic!("is replaced");
        };
        assert_eq!(repaired.data, Some([("ca.crt".to_owned(), "NEW".to_owned())].into()));
        assert_eq!(plan(None, None, "PEM"), Action::Nothing);
    }
}
