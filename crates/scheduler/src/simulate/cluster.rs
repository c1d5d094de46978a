//! A picture of a cluster: read from an API server, or from a dump.

use client::Store;
use k8s_openapi::api::apps::v1::{ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, ReplicationController, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::resource::v1::{DeviceClass, ResourceClaim, ResourceSlice};
use k8s_openapi::api::scheduling::v1::PriorityClass;
use k8s_openapi::api::storage::v1::{CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment};
use kube::api::ListParams;
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::framework::Listers;

/// Why there is no picture.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// A kind cannot be listed.
    #[error("cannot list {kind}")]
    List {
        /// Its plural.
        kind: String,
        /// What went wrong.
        #[source]
        source: Box<kube::Error>,
    },
    /// An object of the dump is not what its kind says.
    #[error("{kind} {name:?} of the dump cannot be read: {reason}")]
    Decode {
        /// Its kind.
        kind: String,
        /// Its name.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// A dump without nodes would leave every pod pending.
    #[error("the dump has no nodes")]
    NoNodes,
}

/// All that scheduling depends on.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    pub(super) nodes: Vec<Node>,
    pub(super) pods: Vec<Pod>,
    pub(super) priority_classes: Vec<PriorityClass>,
    namespaces: Vec<Namespace>,
    budgets: Vec<PodDisruptionBudget>,
    services: Vec<Service>,
    replication_controllers: Vec<ReplicationController>,
    replica_sets: Vec<ReplicaSet>,
    stateful_sets: Vec<StatefulSet>,
    volumes: Vec<PersistentVolume>,
    claims: Vec<PersistentVolumeClaim>,
    classes: Vec<StorageClass>,
    csi_nodes: Vec<CSINode>,
    csi_drivers: Vec<CSIDriver>,
    csi_capacities: Vec<CSIStorageCapacity>,
    attachments: Vec<VolumeAttachment>,
    resource_claims: Vec<ResourceClaim>,
    device_classes: Vec<DeviceClass>,
    resource_slices: Vec<ResourceSlice>,
}

async fn list<K>(client: &kube::Client) -> Result<Vec<K>, ClusterError>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    let listed = Api::<K>::all(client.clone()).list(&ListParams::default()).await;
    let failed = |source| ClusterError::List { kind: K::plural(&()).into_owned(), source: Box::new(source) };
    Ok(listed.map_err(failed)?.items)
}

fn take<K: DeserializeOwned>(into: &mut Vec<K>, kind: &str, object: Value) -> Result<(), ClusterError> {
    let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    // Text again: only for text is there code that reads every type (the `instances` of crates/client).
    let decoded = serde_json::from_str(&object.to_string());
    into.push(decoded.map_err(|error| ClusterError::Decode { kind: kind.to_owned(), name, reason: error.to_string() })?);
    Ok(())
}

impl Cluster {
    /// Lists everything. Only reads.
    pub async fn read(client: &kube::Client) -> Result<Self, ClusterError> {
        Ok(Self {
            nodes: list(client).await?,
            pods: list(client).await?,
            priority_classes: list(client).await?,
            namespaces: list(client).await?,
            budgets: list(client).await?,
            services: list(client).await?,
            replication_controllers: list(client).await?,
            replica_sets: list(client).await?,
            stateful_sets: list(client).await?,
            volumes: list(client).await?,
            claims: list(client).await?,
            classes: list(client).await?,
            csi_nodes: list(client).await?,
            csi_drivers: list(client).await?,
            csi_capacities: list(client).await?,
            attachments: list(client).await?,
            resource_claims: list(client).await?,
            device_classes: list(client).await?,
            resource_slices: list(client).await?,
        })
    }

    /// From objects as `kubectl get -o json` or `-o yaml` prints them, lists or single; kinds that scheduling does not depend on are left
    /// out.
    pub fn from_dump(objects: impl IntoIterator<Item = Value>) -> Result<Self, ClusterError> {
        let mut cluster = Self::default();
        for object in objects {
            cluster.add(object)?;
        }
        if cluster.nodes.is_empty() {
            return Err(ClusterError::NoNodes);
        }
        Ok(cluster)
    }

    fn add(&mut self, mut object: Value) -> Result<(), ClusterError> {
        let kind = object["kind"].as_str().unwrap_or_default().to_owned();
        if kind.ends_with("List") {
            let of = kind.trim_end_matches("List");
            let version = object["apiVersion"].clone();
            for mut item in object["items"].as_array_mut().map(std::mem::take).unwrap_or_default() {
                // The items of a typed list do not say what they are.
                if item["kind"].is_null() && !of.is_empty() {
                    item["kind"] = of.into();
                    item["apiVersion"] = version.clone();
                }
                self.add(item)?;
            }
            return Ok(());
        }
        match kind.as_str() {
            "Node" => take(&mut self.nodes, &kind, object),
            "Pod" => take(&mut self.pods, &kind, object),
            "PriorityClass" => take(&mut self.priority_classes, &kind, object),
            "Namespace" => take(&mut self.namespaces, &kind, object),
            "PodDisruptionBudget" => take(&mut self.budgets, &kind, object),
            "Service" => take(&mut self.services, &kind, object),
            "ReplicationController" => take(&mut self.replication_controllers, &kind, object),
            "ReplicaSet" => take(&mut self.replica_sets, &kind, object),
            "StatefulSet" => take(&mut self.stateful_sets, &kind, object),
            "PersistentVolume" => take(&mut self.volumes, &kind, object),
            "PersistentVolumeClaim" => take(&mut self.claims, &kind, object),
            "StorageClass" => take(&mut self.classes, &kind, object),
            "CSINode" => take(&mut self.csi_nodes, &kind, object),
            "CSIDriver" => take(&mut self.csi_drivers, &kind, object),
            "CSIStorageCapacity" => take(&mut self.csi_capacities, &kind, object),
            "VolumeAttachment" => take(&mut self.attachments, &kind, object),
            "ResourceClaim" => take(&mut self.resource_claims, &kind, object),
            "DeviceClass" => take(&mut self.device_classes, &kind, object),
            "ResourceSlice" => take(&mut self.resource_slices, &kind, object),
            _ => Ok(()),
        }
    }

    /// The same as caches that plugins read.
    pub(super) fn listers(&self) -> Listers {
        fn store<K: ResourceExt + Clone + Send + Sync + 'static>(objects: &[K]) -> Store<K> {
            Store::from_objects(objects.iter().cloned())
        }
        Listers {
            pods: store(&self.pods),
            namespaces: store(&self.namespaces),
            budgets: store(&self.budgets),
            services: store(&self.services),
            replication_controllers: store(&self.replication_controllers),
            replica_sets: store(&self.replica_sets),
            stateful_sets: store(&self.stateful_sets),
            volumes: store(&self.volumes),
            claims: store(&self.claims),
            classes: store(&self.classes),
            csi_nodes: store(&self.csi_nodes),
            csi_drivers: store(&self.csi_drivers),
            csi_capacities: store(&self.csi_capacities),
            attachments: store(&self.attachments),
            resource_claims: store(&self.resource_claims),
            device_classes: store(&self.device_classes),
            resource_slices: store(&self.resource_slices),
            // Gangs are of a feature that is off by default, and nothing switches it on here.
            workloads: Store::default(),
        }
    }
}
