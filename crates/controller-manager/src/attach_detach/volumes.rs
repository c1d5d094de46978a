//! Which volumes the pods of a node need attached. Pure.
//!
//! Volumes are those of CSI drivers that attach; upstream's in-tree volume types, which it hands on to such drivers, are not known here.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{CSIPersistentVolumeSource, ContainerStatus, PersistentVolume, PersistentVolumeClaim, Pod};
use kube::ResourceExt;
use sha2::{Digest, Sha256};

use crate::pod_state::is_terminal;

/// A volume that can be attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Volume {
    /// As nodes know it (`status.volumesAttached`).
    pub(super) unique_name: String,
    pub(super) persistent_volume: String,
    pub(super) driver: String,
    pub(super) handle: String,
    /// May be attached to several nodes at once.
    pub(super) shared: bool,
}

impl Volume {
    /// The volume of a PersistentVolume, if a CSI driver has it.
    pub(super) fn of(volume: &PersistentVolume) -> Option<Self> {
        let spec = volume.spec.as_ref()?;
        let CSIPersistentVolumeSource { driver, volume_handle, .. } = spec.csi.as_ref()?;
        let modes = spec.access_modes.as_deref().unwrap_or_default();
        Some(Self {
            unique_name: format!("kubernetes.io/csi/{driver}^{volume_handle}"),
            persistent_volume: volume.name_any(),
            driver: driver.clone(),
            handle: volume_handle.clone(),
            // Without a mode nobody knows: the driver will say.
            shared: modes.is_empty() || modes.iter().any(|mode| mode == "ReadWriteMany" || mode == "ReadOnlyMany"),
        })
    }

    /// The name of the VolumeAttachment to a node: that by which kubelets and drivers look for it.
    pub(super) fn attachment_name(&self, node: &str) -> String {
        use std::fmt::Write;
        let digest = Sha256::digest(format!("{}{}{node}", self.handle, self.driver));
        digest.iter().fold("csi-".to_owned(), |mut name, byte| {
            // Writing to a String cannot fail.
            let _ = write!(name, "{byte:02x}");
            name
        })
    }
}

/// A volume and the pods of a node that wait for it or use it.
#[derive(Clone, Debug)]
pub(super) struct Needed {
    pub(super) volume: Volume,
    pub(super) pods: Vec<Arc<Pod>>,
}

/// Whether a pod needs nothing any more: it is finished, or it is being deleted and no container runs.
fn is_over(pod: &Pod) -> bool {
    let status = pod.status.as_ref();
    let runs = |statuses: Option<&Vec<ContainerStatus>>| {
        let states = statuses.into_iter().flatten().map(|status| status.state.as_ref());
        states.into_iter().any(|state| state.is_none_or(|state| state.terminated.is_none() && state.waiting.is_none()))
    };
    let running = status.is_some_and(|status| {
        runs(status.init_container_statuses.as_ref())
            || runs(status.container_statuses.as_ref())
            || runs(status.ephemeral_container_statuses.as_ref())
    });
    is_terminal(pod) || pod.metadata.deletion_timestamp.is_some() && !running
}

/// What is known beside the pods.
pub(super) trait Storage {
    fn claim(&self, namespace: &str, name: &str) -> Option<Arc<PersistentVolumeClaim>>;
    fn volume(&self, name: &str) -> Option<Arc<PersistentVolume>>;
    /// Whether the driver's volumes are attached at all (`CSIDriver.spec.attachRequired`).
    fn attaches(&self, driver: &str) -> bool;
}

/// The volumes that pods of one node need, by their unique names.
pub(super) fn needed(pods: &[Arc<Pod>], storage: &impl Storage) -> BTreeMap<String, Needed> {
    let mut needed: BTreeMap<String, Needed> = BTreeMap::new();
    for pod in pods.iter().filter(|pod| !is_over(pod)) {
        for volume in volumes_of(pod, storage) {
            let entry = needed.entry(volume.unique_name.clone());
            let entry = entry.or_insert_with(|| Needed { volume, pods: Vec::new() });
            if !entry.pods.iter().any(|known| known.uid() == pod.uid()) {
                entry.pods.push(pod.clone());
            }
        }
    }
    needed
}

/// The attachable volumes of a pod whose claims are bound.
fn volumes_of(pod: &Pod, storage: &impl Storage) -> Vec<Volume> {
    let namespace = pod.namespace().unwrap_or_default();
    let names = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()).filter_map(|volume| {
        match (&volume.persistent_volume_claim, &volume.ephemeral) {
            (Some(source), _) => Some((source.claim_name.clone(), false)),
            (None, Some(_)) => Some((format!("{}-{}", pod.name_any(), volume.name), true)),
            (None, None) => None,
        }
    });
    let found = names.filter_map(|(name, ephemeral)| {
        let claim = storage.claim(&namespace, &name)?;
        let bound = claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound");
        let own = !ephemeral || crate::ownership::is_controlled_by(&claim.metadata, &pod.uid().unwrap_or_default());
        let volume = storage.volume(claim.spec.as_ref()?.volume_name.as_deref().filter(|_| bound && own)?)?;
        let reference = volume.spec.as_ref()?.claim_ref.as_ref()?;
        // Bound to this claim, not to one before it of the same name.
        if reference.uid != claim.uid() {
            return None;
        }
        Volume::of(&volume).filter(|volume| storage.attaches(&volume.driver))
    });
    found.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[derive(Default)]
    struct Known {
        claims: Vec<Arc<PersistentVolumeClaim>>,
        volumes: Vec<Arc<PersistentVolume>>,
    }

    impl Storage for Known {
        fn claim(&self, namespace: &str, name: &str) -> Option<Arc<PersistentVolumeClaim>> {
            let is =
                |claim: &&Arc<PersistentVolumeClaim>| claim.name_any() == name && claim.namespace().as_deref() == Some(namespace);
            self.claims.iter().find(is).cloned()
        }

        fn volume(&self, name: &str) -> Option<Arc<PersistentVolume>> {
            self.volumes.iter().find(|volume| volume.name_any() == name).cloned()
        }

        fn attaches(&self, driver: &str) -> bool {
            driver != "never"
        }
    }

    fn from<K: serde::de::DeserializeOwned>(value: Value) -> Arc<K> {
        Arc::new(serde_json::from_value(value).expect("fits the type"))
    }

    fn known(driver: &str, modes: Value, phase: &str, claim_uid: &str) -> Known {
        Known {
            claims: vec![from(json!({"metadata": {"name": "c", "namespace": "n", "uid": claim_uid},
                "spec": {"volumeName": "pv"}, "status": {"phase": phase}}))],
            volumes: vec![from(json!({"metadata": {"name": "pv"}, "spec": {"accessModes": modes,
                "claimRef": {"uid": "u", "name": "c", "namespace": "n"}, "csi": {"driver": driver, "volumeHandle": "h"}}}))],
        }
    }

    fn pod(more: Value) -> Arc<Pod> {
        let mut pod = json!({"metadata": {"name": "p", "namespace": "n", "uid": "p"}, "spec": {"containers": [],
            "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]}});
        for (key, value) in more.as_object().expect("is an object") {
            let place = &mut pod[key.as_str()];
            match (place.as_object_mut(), value.as_object()) {
                (Some(place), Some(value)) => place.extend(value.clone()),
                _ => *place = value.clone(),
            }
        }
        from(pod)
    }

    #[test]
    fn what_pods_need() {
        let rwo = || json!(["ReadWriteOnce"]);
        let gone = json!({"deletionTimestamp": "2026-01-01T00:00:00Z"});
        let running = json!({"containerStatuses": [{"name": "c", "image": "", "imageID": "", "ready": true, "restartCount": 0, "state": {"running": {}}}]});
        for (known, pod, expected) in [
            (known("d", rwo(), "Bound", "u"), pod(json!({})), true),
            (known("d", rwo(), "Pending", "u"), pod(json!({})), false),
            (known("d", rwo(), "Bound", "other"), pod(json!({})), false),
            (known("never", rwo(), "Bound", "u"), pod(json!({})), false),
            (Known::default(), pod(json!({})), false),
            (known("d", rwo(), "Bound", "u"), pod(json!({"status": {"phase": "Succeeded"}})), false),
            (known("d", rwo(), "Bound", "u"), pod(json!({"metadata": gone})), false),
            (known("d", rwo(), "Bound", "u"), pod(json!({"metadata": gone, "status": running})), true),
        ] {
            let needed = needed(std::slice::from_ref(&pod), &known);
            assert_eq!(needed.contains_key("kubernetes.io/csi/d^h"), expected, "{pod:?}");
        }
        for (modes, shared) in [
            (rwo(), false),
            (json!(["ReadWriteOncePod"]), false),
            (json!([]), true),
            (json!(["ReadWriteOnce", "ReadOnlyMany"]), true),
            (json!(["ReadWriteMany"]), true),
        ] {
            let known = known("d", modes.clone(), "Bound", "u");
            assert_eq!(Volume::of(&known.volumes[0]).expect("is a CSI volume").shared, shared, "{modes}");
        }
    }

    #[test]
    fn attachments_have_upstreams_names() {
        let known = known("d", json!([]), "Bound", "u");
        let name = Volume::of(&known.volumes[0]).expect("is a CSI volume").attachment_name("node");
        // printf hdnode | sha256sum
        assert_eq!(name, "csi-c42cf57099d6443b605c16f111056170d3d4e01cedcbcbac71a93245953703cf");
    }
}
