//! Mirror pods: how static pods show in the API (<https://kubernetes.io/docs/tasks/configure-pod-container/static-pod/>).

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Api, DeleteParams, PostParams};

use crate::context::Core;
use crate::pod::access::{CONFIG_HASH, CONFIG_MIRROR, CONFIG_SOURCE, PodAccess};

fn static_uid(mirror: &Pod) -> &str {
    mirror.annotation(CONFIG_MIRROR).unwrap_or("")
}

/// A mirror pod is in the API.
pub(crate) fn seen(core: &Core, mirror: &Arc<Pod>) {
    if let Some(entry) = core.pods.get(static_uid(mirror)) {
        entry.set_mirror(Some(Arc::clone(mirror)));
    }
}

/// A mirror pod was deleted; it comes back with the next look at the manifests.
pub(crate) fn gone(core: &Core, mirror: &Arc<Pod>) {
    if let Some(entry) = core.pods.get(static_uid(mirror)) {
        entry.set_mirror(None);
        core.reporter.forget(static_uid(mirror));
    }
}

/// Makes the mirror of a static pod; one of another version of it is replaced. `false`: to be tried again.
pub(crate) async fn ensure(core: &Core, pod: &Pod) -> bool {
    let Some(entry) = core.pods.get(pod.uid()) else { return true };
    if entry.is_removed() {
        return true;
    }
    if let Some(mirror) = entry.target() {
        if mirror.is_deleted() {
            // Only the kubelet can end it; the next look makes it anew.
            delete_object(core, &mirror).await;
        }
        return !mirror.is_deleted();
    }
    let api: Api<Pod> = Api::namespaced(core.client.clone(), pod.namespace());
    let Some(node) = core.node.lock().clone() else { return false };
    let mut mirror = pod.clone();
    mirror.metadata.uid = None;
    mirror.status = None;
    let hash = pod.annotation(CONFIG_HASH).unwrap_or("").to_owned();
    let annotations = mirror.metadata.annotations.get_or_insert_default();
    annotations.insert(CONFIG_MIRROR.to_owned(), hash.clone());
    annotations.insert(CONFIG_SOURCE.to_owned(), "file".to_owned());
    mirror.metadata.owner_references = Some(vec![OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: core.config.node_name.clone(),
        uid: node.metadata.uid.unwrap_or_default(),
        controller: Some(true),
        ..OwnerReference::default()
    }]);
    match api.create(&PostParams::default(), &mirror).await {
        Ok(created) => {
            entry.set_mirror(Some(Arc::new(created)));
            true
        }
        Err(kube::Error::Api(status)) if status.code == 409 => {
            match api.get_opt(pod.name()).await {
                Ok(Some(existing)) if existing.annotation(CONFIG_MIRROR) == Some(hash.as_str()) && !existing.is_deleted() => {
                    entry.set_mirror(Some(Arc::new(existing)));
                    return true;
                }
                Ok(Some(existing)) if existing.is_mirror() => delete_object(core, &existing).await,
                _ => {}
            }
            false
        }
        Err(error) => {
            tracing::warn!(
                namespace = pod.namespace(),
                name = pod.name(),
                error = &error as &dyn std::error::Error,
                "mirror pod was not created"
            );
            false
        }
    }
}

/// Deletes the mirror of a static pod whose manifest is gone.
pub(crate) async fn delete(core: &Core, pod: &Pod) {
    let api: Api<Pod> = Api::namespaced(core.client.clone(), pod.namespace());
    if let Ok(Some(existing)) = api.get_opt(pod.name()).await
        && existing.is_mirror()
    {
        delete_object(core, &existing).await;
    }
}

async fn delete_object(core: &Core, mirror: &Pod) {
    let api: Api<Pod> = Api::namespaced(core.client.clone(), mirror.namespace());
    let parameters = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
    if let Err(error) = api.delete(mirror.name(), &parameters).await {
        tracing::debug!(
            namespace = mirror.namespace(),
            name = mirror.name(),
            error = &error as &dyn std::error::Error,
            "mirror pod was not deleted"
        );
    }
}
