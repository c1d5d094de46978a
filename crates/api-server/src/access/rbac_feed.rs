//! Keeps the RBAC index equal to the stored roles and bindings: lists, then watches, each of the four kinds.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use ::http::Method;
use futures::future::join_all;
use k8s_openapi::api::rbac::v1::{PolicyRule, RoleRef, Subject};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use crate::auth::RbacIndex;
use crate::loopback::{Loopback, LoopbackError, collection};

const GROUP: &str = "rbac.authorization.k8s.io";
/// The pause after a watch that ended in order.
const AGAIN_AFTER: Duration = Duration::from_millis(50);
/// The pause after a failed list or watch.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A role or a binding, of either scope.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Object {
    metadata: ObjectMeta,
    #[serde(default)]
    rules: Option<Vec<PolicyRule>>,
    #[serde(default)]
    role_ref: Option<RoleRef>,
    #[serde(default)]
    subjects: Option<Vec<Subject>>,
}

#[derive(Deserialize)]
struct List {
    metadata: ListMeta,
    #[serde(default)]
    items: Vec<Object>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListMeta {
    #[serde(default)]
    resource_version: String,
}

#[derive(Deserialize)]
struct WatchEvent {
    #[serde(rename = "type")]
    kind: String,
    object: serde_json::Value,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Role,
    Binding,
}

/// The task that feeds one server's index.
pub(crate) struct RbacFeed {
    index: Arc<RbacIndex>,
    loopback: Loopback,
}

impl RbacFeed {
    pub(crate) fn new(index: Arc<RbacIndex>, loopback: Loopback) -> Self {
        Self { index, loopback }
    }

    /// Fills the index once with what is stored, so that authorization can start.
    pub(crate) async fn fill(&self) -> Result<(), LoopbackError> {
        for (resource, kind) in RESOURCES {
            self.list(resource, kind, &mut HashSet::new()).await?;
        }
        Ok(())
    }

    /// Follows all changes until stopped.
    pub(crate) async fn run(&self, stop: &CancellationToken) {
        let follow = join_all(RESOURCES.map(|(resource, kind)| self.follow(resource, kind)));
        tokio::select! {
            _ = follow => {}
            () = stop.cancelled() => {}
        }
    }

    async fn follow(&self, resource: &str, kind: Kind) {
        let mut known = HashSet::new();
        loop {
            let followed = match self.list(resource, kind, &mut known).await {
                Ok(version) => self.watch(resource, kind, version, &mut known).await,
                Err(error) => Err(error),
            };
            match followed {
                // Never at once: while the server stops, lists and watches end without waiting for anything.
                Ok(()) => tokio::time::sleep(AGAIN_AFTER).await,
                Err(LoopbackError::Stopped) => return,
                Err(error) => {
                    tracing::warn!(resource, error = %error, "cannot follow RBAC objects; trying again");
                    tokio::time::sleep(RETRY_AFTER).await;
                }
            }
        }
    }

    /// Brings the index to what is stored and returns the list's resourceVersion. `known` is what an earlier list or watch put in.
    async fn list(&self, resource: &str, kind: Kind, known: &mut HashSet<(String, String)>) -> Result<String, LoopbackError> {
        let path = collection(GROUP, "v1", resource, "");
        let bytes = self.loopback.bytes(Method::GET, &path, None).await?;
        let list: List = serde_json::from_slice(&bytes).map_err(|e| LoopbackError::Answer { path, source: e.into() })?;
        let mut seen = HashSet::with_capacity(list.items.len());
        for object in list.items {
            seen.insert(key(&object.metadata));
            self.set(kind, object);
        }
        for (namespace, name) in known.difference(&seen) {
            self.remove(kind, namespace, name);
        }
        *known = seen;
        Ok(list.metadata.resource_version)
    }

    /// Ends normally when the watch ends; the caller lists anew.
    async fn watch(
        &self,
        resource: &str,
        kind: Kind,
        version: String,
        known: &mut HashSet<(String, String)>,
    ) -> Result<(), LoopbackError> {
        let path = format!("{}?watch=true&resourceVersion={version}", collection(GROUP, "v1", resource, ""));
        let mut events = self.loopback.watch(&path).await?;
        while let Some(line) = events.next().await {
            if !self.apply(kind, &line, known) {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Whether the watch can go on.
    fn apply(&self, kind: Kind, line: &[u8], known: &mut HashSet<(String, String)>) -> bool {
        let Ok(event) = serde_json::from_slice::<WatchEvent>(line) else { return false };
        let (added, deleted) = (matches!(event.kind.as_str(), "ADDED" | "MODIFIED"), event.kind == "DELETED");
        if !added && !deleted {
            return event.kind == "BOOKMARK";
        }
        let Ok(object) = serde_json::from_value::<Object>(event.object) else { return false };
        let key = key(&object.metadata);
        if added {
            known.insert(key);
            self.set(kind, object);
        } else {
            self.remove(kind, &key.0, &key.1);
            known.remove(&key);
        }
        true
    }

    fn set(&self, kind: Kind, object: Object) {
        let (namespace, name) = key(&object.metadata);
        match (kind, object.role_ref) {
            (Kind::Role, _) => self.index.set_role(&namespace, &name, object.rules),
            (Kind::Binding, Some(role)) => self.index.set_binding(&namespace, &name, &role, object.subjects),
            (Kind::Binding, None) => self.index.remove_binding(&namespace, &name),
        }
    }

    fn remove(&self, kind: Kind, namespace: &str, name: &str) {
        match kind {
            Kind::Role => self.index.remove_role(namespace, name),
            Kind::Binding => self.index.remove_binding(namespace, name),
        }
    }
}

const RESOURCES: [(&str, Kind); 4] = [
    ("clusterroles", Kind::Role),
    ("roles", Kind::Role),
    ("clusterrolebindings", Kind::Binding),
    ("rolebindings", Kind::Binding),
];

fn key(meta: &ObjectMeta) -> (String, String) {
    (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}
