//! VolumeZone: volumes that are labelled with a zone are used there only.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use super::pod_claims::{claim_refs, get_claim, is_delayed, uses_claim, volume_name};
use crate::framework::{ClusterEvent, Code, CycleState, EventSet, Filter, Handle, Hint, Plugin, PreFilter, Sign, Signer, Status};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use crate::snapshot::Snapshot;

/// The labels that mean a place, with today's name of each.
const LABELS: [(&str, &str); 4] = [
    ("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    ("failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"),
    ("topology.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    ("topology.kubernetes.io/region", "topology.kubernetes.io/region"),
];

pub(super) struct VolumeZone {
    pub(super) handle: Arc<Handle>,
}

/// Where the pod's volumes are: label, its name today, values.
#[derive(Clone)]
struct Zones(Vec<(&'static str, &'static str, BTreeSet<String>)>);

impl VolumeZone {
    fn zones(&self, pod: &Pod) -> Result<Zones, String> {
        let listers = &self.handle.listers;
        let mut zones = Vec::new();
        for reference in claim_refs(pod) {
            let claim = get_claim(listers, pod, &reference.name)?;
            let Some(name) = volume_name(&claim) else {
                if is_delayed(listers, &claim)? {
                    continue;
                }
                return Err("PersistentVolume had no name".to_owned());
            };
            let volume = listers.volumes.get("", name).ok_or_else(|| format!("persistentvolume {name:?} not found"))?;
            for (label, today) in LABELS {
                if let Some(values) = volume.metadata.labels.as_ref().and_then(|labels| labels.get(label)) {
                    // Several zones are written as one value.
                    zones.push((label, today, values.split("__").map(str::to_owned).collect()));
                }
            }
        }
        Ok(Zones(zones))
    }
}

impl Plugin for VolumeZone {
    fn name(&self) -> &'static str {
        "VolumeZone"
    }

    fn events(&self) -> EventSet {
        EventSet::STORAGE.and(EventSet::NODE_ADD).and(EventSet::NODE_UPDATE)
    }

    fn hint(&self, info: &PodInfo, event: &ClusterEvent) -> Hint {
        let pod = &*info.pod;
        match event {
            ClusterEvent::PersistentVolumeClaim(change) => {
                Hint::queue_if(change.present().is_some_and(|claim| uses_claim(pod, claim)))
            }
            ClusterEvent::StorageClass(change) => Hint::queue_if(change.added().is_some()),
            ClusterEvent::PersistentVolume(change) => Hint::queue_if(change.present().is_some()),
            ClusterEvent::Node { old, new } => {
                let before = old.as_ref().map(|old| &old.metadata.labels);
                Hint::queue_if(before != Some(&new.metadata.labels))
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

impl Sign for VolumeZone {
    fn sign(&self, pod: &PodInfo, signer: &mut Signer) {
        signer.volumes(&pod.pod);
    }
}

impl PreFilter for VolumeZone {
    fn pre_filter(&self, state: &mut CycleState, pod: &Pod, _snapshot: &Snapshot) -> (Status, Option<Vec<String>>) {
        match self.zones(pod) {
            Err(reason) => (Status::new(Code::UnschedulableAndUnresolvable, [reason]), None),
            Ok(Zones(zones)) if zones.is_empty() => (Status::skip(), None),
            Ok(zones) => {
                state.put(zones);
                (Status::success(), None)
            }
        }
    }
}

impl Filter for VolumeZone {
    fn filter(&self, state: &CycleState, _pod: &Pod, node: &NodeInfo) -> Status {
        let Some(Zones(zones)) = state.get() else { return Status::success() };
        // A cluster without zones: nothing to compare with.
        if !LABELS.iter().any(|(label, _)| node.label(label).is_some()) {
            return Status::success();
        }
        let there = |(label, today, values): &(&str, &str, BTreeSet<String>)| {
            node.label(label).or_else(|| node.label(today)).is_some_and(|value| values.contains(value))
        };
        if zones.iter().all(there) {
            return Status::success();
        }
        Status::new(Code::UnschedulableAndUnresolvable, ["node(s) had no available volume zone"])
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plugins::testing::{filter_among, node, pod};

    #[test]
    fn a_volume_is_used_in_its_zone() {
        let claim = json!({"metadata": {"name": "c", "namespace": "d"}, "spec": {"volumeName": "v"}});
        let labels = json!({"failure-domain.beta.kubernetes.io/zone": "a__b"});
        let mut handle = Handle::default();
        handle.listers.claims = client::Store::from_objects([serde_json::from_value(claim).unwrap()]);
        let volume = json!({"metadata": {"name": "v", "labels": labels}});
        handle.listers.volumes = client::Store::from_objects([serde_json::from_value(volume).unwrap()]);
        let plugin = VolumeZone { handle: Arc::new(handle) };
        let volume = json!({"name": "v", "persistentVolumeClaim": {"claimName": "c"}});
        let own = pod(json!({"containers": [], "volumes": [volume]}));
        let there = |zone: &str| node(json!({"metadata": {"name": zone, "labels": {"topology.kubernetes.io/zone": zone}}}));
        let nodes = vec![there("a"), there("b"), there("c"), node(json!({"metadata": {"name": "none"}}))];
        let (yes, no) = (Code::Success, Code::UnschedulableAndUnresolvable);
        assert_eq!(filter_among(&plugin, &own, nodes), [yes, yes, no, yes]);
    }
}
