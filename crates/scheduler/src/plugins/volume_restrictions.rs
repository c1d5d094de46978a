//! VolumeRestrictions: volumes that only one pod, or only one node, can use at a time.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, Volume};

use super::pod_claims::{get_claim, uses_claim, volumes};
use crate::framework::{ClusterEvent, Code, CycleState, EventSet, Filter, Handle, Hint, Plugin, PreFilter, Sign, Signer, Status};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use crate::snapshot::Snapshot;

pub(super) struct VolumeRestrictions {
    pub(super) handle: Arc<Handle>,
}

/// The claims, as `namespace/name`, that nobody else may use, and how many do.
#[derive(Clone)]
struct Exclusive {
    claims: Arc<BTreeSet<String>>,
    used: usize,
}

/// Whether two volumes are the same disk and cannot be used by two pods of a node.
fn disks_conflict(one: &Volume, other: &Volume) -> bool {
    let shared = |one: Option<bool>, other: Option<bool>| one == Some(true) && other == Some(true);
    if let (Some(one), Some(other)) = (&one.gce_persistent_disk, &other.gce_persistent_disk) {
        return one.pd_name == other.pd_name && !shared(one.read_only, other.read_only);
    }
    if let (Some(one), Some(other)) = (&one.aws_elastic_block_store, &other.aws_elastic_block_store) {
        return one.volume_id == other.volume_id;
    }
    if let (Some(one), Some(other)) = (&one.iscsi, &other.iscsi) {
        return one.iqn == other.iqn && !shared(one.read_only, other.read_only);
    }
    if let (Some(one), Some(other)) = (&one.rbd, &other.rbd) {
        let same_cluster = one.monitors.iter().any(|monitor| other.monitors.contains(monitor));
        let pool = |pool: &Option<String>| pool.clone().unwrap_or_else(|| "rbd".to_owned());
        return same_cluster
            && pool(&one.pool) == pool(&other.pool)
            && one.image == other.image
            && !shared(one.read_only, other.read_only);
    }
    false
}

fn is_disk(volume: &Volume) -> bool {
    volume.gce_persistent_disk.is_some()
        || volume.aws_elastic_block_store.is_some()
        || volume.iscsi.is_some()
        || volume.rbd.is_some()
}

fn pods_conflict(pod: &Pod, other: &Pod) -> bool {
    volumes(pod).iter().any(|one| is_disk(one) && volumes(other).iter().any(|other| disks_conflict(one, other)))
}

impl VolumeRestrictions {
    /// The pod's claims that admit only one pod.
    fn exclusive_claims(&self, pod: &Pod) -> Result<BTreeSet<String>, String> {
        let mut exclusive = BTreeSet::new();
        for source in volumes(pod).iter().filter_map(|volume| volume.persistent_volume_claim.as_ref()) {
            let claim = get_claim(&self.handle.listers, pod, &source.claim_name)?;
            let modes = claim.spec.as_ref().and_then(|spec| spec.access_modes.as_deref()).unwrap_or_default();
            if modes.iter().any(|mode| mode == "ReadWriteOncePod") {
                let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
                exclusive.insert(format!("{namespace}/{}", source.claim_name));
            }
        }
        Ok(exclusive)
    }
}

impl Exclusive {
    fn uses(&self, other: &PodInfo) -> usize {
        other.claims.iter().filter(|claim| self.claims.contains(*claim)).count()
    }
}

impl Plugin for VolumeRestrictions {
    fn name(&self) -> &'static str {
        "VolumeRestrictions"
    }

    fn events(&self) -> EventSet {
        EventSet::STORAGE.and(EventSet::ASSIGNED_DELETE).and(EventSet::NODE_ADD)
    }

    fn hint(&self, info: &PodInfo, event: &ClusterEvent) -> Hint {
        let pod = &*info.pod;
        match event {
            ClusterEvent::AssignedPod { old: Some(old), new: None } => {
                let shares = volumes(pod).iter().filter_map(|volume| volume.persistent_volume_claim.as_ref()).any(|own| {
                    volumes(old).iter().any(|other| {
                        other.persistent_volume_claim.as_ref().is_some_and(|other| other.claim_name == own.claim_name)
                    })
                });
                Hint::queue_if(pods_conflict(pod, old) || shares && pod.metadata.namespace == old.metadata.namespace)
            }
            ClusterEvent::Node { old: None, .. } => Hint::Queue,
            ClusterEvent::PersistentVolumeClaim(change) => {
                Hint::queue_if(change.present().is_some_and(|claim| uses_claim(pod, claim)))
            }
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

impl Sign for VolumeRestrictions {
    fn sign(&self, pod: &PodInfo, signer: &mut Signer) {
        signer.volumes(&pod.pod);
    }
}

impl PreFilter for VolumeRestrictions {
    fn pre_filter(&self, state: &mut CycleState, pod: &Pod, snapshot: &Snapshot) -> (Status, Option<Vec<String>>) {
        let claims = match self.exclusive_claims(pod) {
            Ok(claims) => claims,
            Err(reason) => return (Status::new(Code::UnschedulableAndUnresolvable, [reason]), None),
        };
        if claims.is_empty() && !volumes(pod).iter().any(is_disk) {
            return (Status::skip(), None);
        }
        let used = claims.iter().filter(|claim| snapshot.is_claim_used(claim)).count();
        state.put(Exclusive { claims: Arc::new(claims), used });
        (Status::success(), None)
    }

    fn add_pod(&self, state: &mut CycleState, _pod: &Pod, other: &PodInfo, _node: &NodeInfo) {
        if let Some(exclusive) = state.get_mut::<Exclusive>() {
            exclusive.used += exclusive.uses(other);
        }
    }

    fn remove_pod(&self, state: &mut CycleState, _pod: &Pod, other: &PodInfo, _node: &NodeInfo) {
        if let Some(exclusive) = state.get_mut::<Exclusive>() {
            exclusive.used = exclusive.used.saturating_sub(exclusive.uses(other));
        }
    }
}

impl Filter for VolumeRestrictions {
    fn filter(&self, state: &CycleState, pod: &Pod, node: &NodeInfo) -> Status {
        if node.pods().iter().any(|other| pods_conflict(pod, &other.pod)) {
            return Status::new(Code::Unschedulable, ["node(s) had no available disk"]);
        }
        if state.get::<Exclusive>().is_some_and(|exclusive| exclusive.used > 0) {
            let reason = "node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod";
            return Status::new(Code::Unschedulable, [reason]);
        }
        Status::success()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plugins::testing::{filter_among, info, node, pod};

    #[test]
    fn a_claim_for_one_pod_admits_one_pod() {
        let claim = json!({"metadata": {"name": "c", "namespace": "d"}, "spec": {"accessModes": ["ReadWriteOncePod"]}});
        let mut handle = Handle::default();
        handle.listers.claims = client::Store::from_objects([serde_json::from_value(claim).unwrap()]);
        let plugin = VolumeRestrictions { handle: Arc::new(handle) };
        let wants = |name: &str| {
            let volume = json!({"name": "v", "persistentVolumeClaim": {"claimName": name}});
            pod(json!({"containers": [], "volumes": [volume]}))
        };
        let machine = || node(json!({"metadata": {"name": "n"}}));
        let mut taken = machine();
        taken.add_pod(&info(wants("c")));
        assert_eq!(filter_among(&plugin, &wants("c"), vec![machine()]), [Code::Success]);
        let both = filter_among(&plugin, &wants("c"), vec![taken.clone(), machine()]);
        assert_eq!(both, [Code::Unschedulable; 2], "on no other node either");
        assert_eq!(filter_among(&plugin, &wants("none"), vec![taken]), [Code::UnschedulableAndUnresolvable]);
    }

    #[test]
    fn disks_are_shared_only_read_only() {
        let disk = |name: &str, read_only: bool| {
            let volume = json!({"name": "v", "gcePersistentDisk": {"pdName": name, "readOnly": read_only}});
            pod(json!({"containers": [], "volumes": [volume]}))
        };
        let check = |one, other, expected| assert_eq!(pods_conflict(&one, &other), expected);
        check(disk("a", false), disk("a", false), true);
        check(disk("a", true), disk("a", false), true);
        check(disk("a", true), disk("a", true), false);
        check(disk("a", false), disk("b", false), false);
    }
}
