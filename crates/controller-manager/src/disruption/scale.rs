//! The workloads that own pods, and how many replicas they are asked to have (upstream's controller finders).
//!
//! Of built-in workloads the shared caches say it; of any other kind its `scale` subresource is read.

use std::collections::HashSet;
use std::sync::Arc;

use client::Store;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::DynamicObject;
use kube::{Api, ResourceExt};

use crate::api_errors::{is_not_found, message};
use crate::discovery::Kinds;
use crate::ownership::controller_of;

/// A workload by its UID, and its replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Workload {
    uid: String,
    replicas: i32,
}

impl std::fmt::Display for Workload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.uid, self.replicas)
    }
}

/// What the owners of a budget's pods add up to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Scale {
    pub(super) replicas: i32,
    /// Pods that no controller owns.
    pub(super) unmanaged: usize,
}

/// The workloads in the caches.
pub(super) struct Workloads {
    pub(super) replication_controllers: Store<ReplicationController>,
    pub(super) replica_sets: Store<ReplicaSet>,
    pub(super) deployments: Store<Deployment>,
    pub(super) stateful_sets: Store<StatefulSet>,
}

fn is_kind(reference: &OwnerReference, kind: &str, groups: &[&str]) -> bool {
    let group = reference.api_version.split_once('/').map_or("", |(group, _)| group);
    reference.kind == kind && groups.contains(&group)
}

/// An object of the cache, if it is the one that is referred to.
macro_rules! referred {
    ($store:expr, $namespace:expr, $reference:expr) => {
        $store.get($namespace, &$reference.name).filter(|found| found.metadata.uid.as_deref() == Some(&*$reference.uid))
    };
}

fn workload(uid: Option<String>, replicas: Option<i32>) -> Option<Workload> {
    // An absent number is 1, the default of all these kinds.
    Some(Workload { uid: uid.unwrap_or_default(), replicas: replicas.unwrap_or(1) })
}

impl Workloads {
    /// The workload that the caches know for a pod's owner: of a ReplicaSet that a Deployment owns, the Deployment.
    pub(super) fn find(&self, namespace: &str, owner: &OwnerReference) -> Option<Workload> {
        if is_kind(owner, "ReplicationController", &[""]) {
            let found = referred!(self.replication_controllers, namespace, owner)?;
            return workload(found.uid(), found.spec.as_ref().and_then(|spec| spec.replicas));
        }
        if is_kind(owner, "StatefulSet", &["apps"]) {
            let found = referred!(self.stateful_sets, namespace, owner)?;
            return workload(found.uid(), found.spec.as_ref().and_then(|spec| spec.replicas));
        }
        if !is_kind(owner, "ReplicaSet", &["apps", "extensions"]) {
            return None;
        }
        let set = referred!(self.replica_sets, namespace, owner)?;
        match controller_of(&set.metadata).filter(|above| above.kind == "Deployment") {
            None => workload(set.uid(), set.spec.as_ref().and_then(|spec| spec.replicas)),
            Some(above) if is_kind(above, "Deployment", &["apps", "extensions"]) => {
                let found = referred!(self.deployments, namespace, above)?;
                workload(found.uid(), found.spec.as_ref().and_then(|spec| spec.replicas))
            }
            Some(_) => None,
        }
    }
}

/// Reads `scale` subresources.
pub(super) struct Scales {
    client: kube::Client,
    kinds: Kinds,
}

impl Scales {
    pub(super) fn new(client: kube::Client) -> Self {
        Self { kinds: Kinds::new(client.clone()), client }
    }

    /// The owner itself by its `scale`; `None` if it is not there any more.
    async fn read(&self, namespace: &str, owner: &OwnerReference) -> Result<Option<Workload>, String> {
        let kind = self.kinds.of_version(&owner.api_version, &owner.kind).await?;
        if !kind.has_scale {
            return Err(format!("{} does not implement the scale subresource", kind.group_resource()));
        }
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, &kind.resource);
        match api.get_scale(&owner.name).await {
            Ok(scale) if scale.metadata.uid.as_deref() == Some(&*owner.uid) => {
                // An absent number is 0 here, as in upstream's type.
                let replicas = scale.spec.and_then(|spec| spec.replicas).unwrap_or(0);
                Ok(Some(Workload { uid: owner.uid.clone(), replicas }))
            }
            Ok(_) => Ok(None),
            Err(error) if is_not_found(&error) => Ok(None),
            Err(error) => Err(message(&error)),
        }
    }
}

/// Adds up the replicas of the workloads that own the pods, each once.
pub(super) async fn expected(workloads: &Workloads, scales: &Scales, pods: &[Arc<Pod>]) -> Result<Scale, String> {
    let mut scale = Scale::default();
    let mut counted: HashSet<String> = HashSet::new();
    let mut seen: HashSet<&str> = HashSet::new();
    for pod in pods {
        let Some(owner) = controller_of(&pod.metadata) else {
            scale.unmanaged += 1;
            continue;
        };
        if !seen.insert(&owner.uid) {
            continue;
        }
        let namespace = pod.metadata.namespace.as_deref().unwrap_or("");
        let found = match workloads.find(namespace, owner) {
            Some(found) => Some(found),
            None => scales.read(namespace, owner).await?,
        };
        let found = found.ok_or_else(|| format!("found no controllers for pod {:?}", pod.name_any()))?;
        if counted.insert(found.uid) {
            scale.replicas = scale.replicas.saturating_add(found.replicas);
        }
    }
    Ok(scale)
}
