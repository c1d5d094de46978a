//! Sources of volumes.

use std::collections::BTreeSet;

use super::Violation;
use super::pod::{Pod, name, plural, quoted};

#[rustfmt::skip]
const FREE: [&str; 9] = [
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image", "persistentVolumeClaim", "projected", "secret",
];

#[rustfmt::skip]
const RESTRICTED: [&str; 21] = [
    "hostPath", "gcePersistentDisk", "awsElasticBlockStore", "gitRepo", "nfs", "iscsi", "glusterfs", "rbd", "flexVolume", "cinder", "cephfs",
    "flocker", "fc", "azureFile", "vsphereVolume", "quobyte", "azureDisk", "photonPersistentDisk", "portworxVolume", "scaleIO", "storageos",
];

fn has(volume: &apimachinery::Value, source: &str) -> bool {
    volume.get(source).is_some_and(|source| !source.is_null())
}

pub(super) fn host_path(pod: &Pod<'_>) -> Option<Violation> {
    let bad: Vec<_> = pod.spec.array_at(&["volumes"]).iter().filter(|volume| has(volume, "hostPath")).map(name).collect();
    let detail = || format!("{} {}", plural(bad.len(), "volume", "volumes"), quoted(&bad));
    (!bad.is_empty()).then(|| Violation { reason: "hostPath volumes", detail: detail() })
}

pub(super) fn restricted(pod: &Pod<'_>) -> Option<Violation> {
    let (mut bad, mut sources) = (Vec::new(), BTreeSet::new());
    for volume in pod.spec.array_at(&["volumes"]) {
        if !FREE.iter().any(|source| has(volume, source)) {
            bad.push(name(volume));
            sources.insert(RESTRICTED.into_iter().find(|source| has(volume, source)).unwrap_or("unknown"));
        }
    }
    if bad.is_empty() {
        return None;
    }
    let detail = format!(
        "{} {} {} {} {}",
        plural(bad.len(), "volume", "volumes"),
        quoted(&bad),
        plural(bad.len(), "uses", "use"),
        plural(sources.len(), "restricted volume type", "restricted volume types"),
        quoted(&sources),
    );
    Some(Violation { reason: "restricted volume types", detail })
}
