//! NodeVolumeLimits: a CSI driver attaches only so many volumes to a node (KEP-554).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::storage::v1::CSINode;

use super::pod_claims::{claim_ref, uses_claim, volume_name, volumes};
use crate::framework::{ClusterEvent, Code, CycleState, EventSet, Filter, Handle, Hint, Plugin, PreFilter, Sign, Signer, Status};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use crate::snapshot::Snapshot;

pub(super) struct NodeVolumeLimits {
    pub(super) handle: Arc<Handle>,
}

/// A volume of a driver. One that does not exist yet is known by its claim.
type AttachedVolume = (String, String);

/// How many volumes each driver can attach, where it says so.
fn limits(node: Option<&CSINode>) -> HashMap<&str, usize> {
    let drivers = node.map(|node| node.spec.drivers.as_slice()).unwrap_or_default();
    let limit = |driver: &k8s_openapi::api::storage::v1::CSINodeDriver| {
        driver.allocatable.as_ref().and_then(|allocatable| allocatable.count).and_then(|count| usize::try_from(count).ok())
    };
    drivers.iter().filter_map(|driver| Some((driver.name.as_str(), limit(driver)?))).collect()
}

impl NodeVolumeLimits {
    fn attached(&self, pod: &Pod) -> HashSet<AttachedVolume> {
        let listers = &self.handle.listers;
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let find = |name: &str| {
            let claim = listers.claims.get(namespace, name)?;
            if let Some(volume) = volume_name(&claim).and_then(|name| listers.volumes.get("", name)) {
                let source = volume.spec.as_ref()?.csi.as_ref()?;
                return Some((source.driver.clone(), source.volume_handle.clone()));
            }
            let class = listers.classes.get("", super::pod_claims::class_of_claim(&claim))?;
            Some((class.provisioner.clone(), format!("{namespace}/{name}")))
        };
        volumes(pod).iter().filter_map(|volume| find(&claim_ref(pod, volume)?.name)).collect()
    }
}

impl Plugin for NodeVolumeLimits {
    fn name(&self) -> &'static str {
        "NodeVolumeLimits"
    }

    fn events(&self) -> EventSet {
        EventSet::STORAGE.and(EventSet::ASSIGNED_DELETE)
    }

    fn hint(&self, info: &PodInfo, event: &ClusterEvent) -> Hint {
        let pod = &*info.pod;
        match event {
            ClusterEvent::CsiNode(change) => Hint::queue_if(change.present().is_some()),
            ClusterEvent::AssignedPod { old: Some(old), new: None } => {
                Hint::queue_if(volumes(old).iter().any(|volume| claim_ref(old, volume).is_some()))
            }
            ClusterEvent::PersistentVolumeClaim(change) => {
                Hint::queue_if(change.present().is_some_and(|claim| uses_claim(pod, claim)))
            }
            ClusterEvent::VolumeAttachment(change) => Hint::queue_if(change.deleted().is_some()),
            _ => Hint::Skip,
        }
    }

    fn as_pre_filter(&self) -> Option<&dyn PreFilter> {
        Some(self)
    }

    fn as_filter(&self) -> Option<&dyn Filter> {
        Some(self)
    }

    fn as_sign(&self) -> Option<&dyn Sign> {
        Some(self)
    }
}

impl Sign for NodeVolumeLimits {
    fn sign(&self, pod: &PodInfo, signer: &mut Signer) {
        signer.volumes(&pod.pod);
    }
}

impl PreFilter for NodeVolumeLimits {
    fn pre_filter(&self, _state: &mut CycleState, pod: &Pod, _snapshot: &Snapshot) -> (Status, Option<Vec<String>>) {
        let has_claims = volumes(pod).iter().any(|volume| claim_ref(pod, volume).is_some());
        (if has_claims { Status::success() } else { Status::skip() }, None)
    }
}

impl Filter for NodeVolumeLimits {
    fn filter(&self, _state: &CycleState, pod: &Pod, node: &NodeInfo) -> Status {
        let csi_node = self.handle.listers.csi_nodes.get("", node.name());
        let limits = limits(csi_node.as_deref());
        if limits.is_empty() {
            return Status::success();
        }
        let there: HashSet<AttachedVolume> = node.pods().iter().flat_map(|other| self.attached(&other.pod)).collect();
        let new: Vec<AttachedVolume> = self.attached(pod).into_iter().filter(|volume| !there.contains(volume)).collect();
        for (driver, limit) in limits {
            let of_driver = |(other, _): &&AttachedVolume| other == driver;
            let wanted = new.iter().filter(of_driver).count();
            if wanted > 0 && there.iter().filter(of_driver).count() + wanted > limit {
                return Status::new(Code::Unschedulable, ["node(s) exceed max volume count"]);
            }
        }
        Status::success()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::plugins::testing::{filter, info, node, pod};

    #[test]
    fn a_driver_attaches_only_so_many() {
        let typed = |object: Value| serde_json::from_value(object).unwrap();
        let claims = ["a", "b"].map(|name| {
            let claim = json!({"metadata": {"name": name, "namespace": "d"}, "spec": {"storageClassName": "fast"}});
            serde_json::from_value(claim).unwrap()
        });
        let mut handle = Handle::default();
        handle.listers.claims = client::Store::from_objects(claims);
        let class = typed(json!({"metadata": {"name": "fast"}, "provisioner": "driver"}));
        handle.listers.classes = client::Store::from_objects([class]);
        let drivers = json!([{"name": "driver", "nodeID": "n", "allocatable": {"count": 1}}]);
        let csi_node = serde_json::from_value(json!({"metadata": {"name": "n"}, "spec": {"drivers": drivers}})).unwrap();
        handle.listers.csi_nodes = client::Store::from_objects([csi_node]);
        let plugin = NodeVolumeLimits { handle: Arc::new(handle) };
        let uses = |claim: &str| {
            pod(json!({"containers": [], "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": claim}}]}))
        };
        let mut machine = node(json!({"metadata": {"name": "n"}}));
        assert_eq!(filter(&plugin, &uses("a"), &machine), Code::Success);
        machine.add_pod(&info(uses("a")));
        assert_eq!(filter(&plugin, &uses("a"), &machine), Code::Success, "it is attached already");
        assert_eq!(filter(&plugin, &uses("b"), &machine), Code::Unschedulable);
    }
}
