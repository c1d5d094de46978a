//! What is to be done about claims and volumes. Pure.

use std::path::{Path, PathBuf};

use client::object_reference;
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimSpec};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::ResourceExt;
use serde_json::json;

use crate::config::LocalVolumes;
use crate::persistent_volume::matching::{PROVISIONED_BY, SELECTED_NODE, annotation, phase, volume_name};

/// What StorageClasses call this provisioner.
pub(super) const PROVISIONER: &str = "rusternetes.io/local-path";
/// Keeps a volume until its directory is gone.
pub(super) const FINALIZER: &str = "rusternetes.io/local-path";
/// By which the binder asks for a volume; the second is the older name.
const ASKED: [&str; 2] = ["volume.kubernetes.io/storage-provisioner", "volume.beta.kubernetes.io/storage-provisioner"];
const HOSTNAME: &str = "kubernetes.io/hostname";

/// The directory, and the node that has it.
#[derive(Debug)]
pub(super) struct Place<'a> {
    node_name: &'a str,
    hostname: &'a str,
    directory: &'a Path,
}

impl<'a> Place<'a> {
    /// `None` while the node has no label by which volumes could say that they are on it.
    pub(super) fn new(local: &'a LocalVolumes, node: &'a Node) -> Option<Self> {
        let hostname = node.labels().get(HOSTNAME)?;
        Some(Self { node_name: &local.node_name, hostname, directory: &local.directory })
    }
}

#[derive(Debug, PartialEq)]
pub(super) enum ClaimStep {
    Nothing,
    /// It asks for what this provisioner does not have.
    Refuse(String),
    /// Make the directory, then the volume.
    Provision(Box<PersistentVolume>, PathBuf),
}

#[derive(Debug, PartialEq)]
pub(super) enum VolumeStep {
    Nothing,
    /// Take the finalizer off: the volume's owner keeps the directory.
    LetGo,
    /// Remove the directory, then the volume.
    Delete(PathBuf),
}

/// Whether the binder asks this provisioner for the claim's volume.
pub(super) fn asks_us(claim: &PersistentVolumeClaim) -> bool {
    let asked = ASKED.into_iter().find_map(|name| annotation(&claim.metadata, name));
    asked == Some(PROVISIONER)
}

/// Whether this provisioner, on whichever node, made the volume.
pub(super) fn is_ours(volume: &PersistentVolume) -> bool {
    annotation(&volume.metadata, PROVISIONED_BY) == Some(PROVISIONER)
}

pub(super) fn claim(claim: &PersistentVolumeClaim, class: Option<&StorageClass>, place: &Place<'_>) -> ClaimStep {
    let Some(class) = class.filter(|class| class.provisioner == PROVISIONER) else { return ClaimStep::Nothing };
    let leaving = claim.metadata.deletion_timestamp.is_some();
    if leaving || !asks_us(claim) || !volume_name(claim).is_empty() {
        return ClaimStep::Nothing;
    }
    let waits = class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer");
    match annotation(&claim.metadata, SELECTED_NODE).filter(|node| !node.is_empty()) {
        None if waits => return ClaimStep::Nothing,
        Some(node) if node != place.node_name => return ClaimStep::Nothing,
        _ => {}
    }
    let spec = claim.spec.clone().unwrap_or_default();
    if let Some(why) = refusal(&spec, class) {
        return ClaimStep::Refuse(why);
    }
    let uid = claim.uid().unwrap_or_default();
    let name = format!("pvc-{uid}");
    let path = place.directory.join(format!("{name}_{}_{}", claim.namespace().unwrap_or_default(), claim.name_any()));
    let policy = class.reclaim_policy.as_deref().unwrap_or("Delete");
    let finalizers: &[&str] = if policy == "Delete" { &[FINALIZER] } else { &[] };
    let on_node = json!({"key": HOSTNAME, "operator": "In", "values": [place.hostname]});
    let volume = json!({
        "metadata": {"name": name, "annotations": {PROVISIONED_BY: PROVISIONER}, "finalizers": finalizers},
        "spec": {
            "capacity": {"storage": requested(&spec)},
            "accessModes": spec.access_modes,
            "persistentVolumeReclaimPolicy": policy,
            "storageClassName": class.name_any(),
            "volumeMode": "Filesystem",
            "claimRef": object_reference(claim),
            "local": {"path": path},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [on_node]}]}},
        },
    });
    match serde_json::from_str(&volume.to_string()) {
        Ok(volume) => ClaimStep::Provision(Box::new(volume), path),
        Err(error) => ClaimStep::Refuse(error.to_string()),
    }
}

fn requested(spec: &PersistentVolumeClaimSpec) -> Option<&str> {
    let requests = spec.resources.as_ref()?.requests.as_ref()?;
    requests.get("storage").map(|quantity| quantity.0.as_str())
}

/// What a directory cannot be.
fn refusal(spec: &PersistentVolumeClaimSpec, class: &StorageClass) -> Option<String> {
    let single = |mode: &String| matches!(mode.as_str(), "ReadWriteOnce" | "ReadWriteOncePod");
    let refused = if spec.selector.is_some() {
        "claim.spec.selector is not supported"
    } else if spec.volume_mode.as_deref() == Some("Block") {
        "only volumes with a file system are supported"
    } else if !spec.access_modes.iter().flatten().all(single) {
        "only the access modes ReadWriteOnce and ReadWriteOncePod are supported"
    } else if spec.data_source.is_some() || spec.data_source_ref.is_some() {
        "volumes with a data source are not supported"
    } else if class.mount_options.as_ref().is_some_and(|options| !options.is_empty()) {
        "mount options are not supported"
    } else if class.parameters.as_ref().is_some_and(|parameters| !parameters.is_empty()) {
        "the class may have no parameters"
    } else {
        return None;
    };
    Some(refused.to_owned())
}

pub(super) fn volume(volume: &PersistentVolume, place: &Place<'_>) -> VolumeStep {
    let Some(path) = directory(volume, place).filter(|_| is_ours(volume)) else { return VolumeStep::Nothing };
    let held = volume.finalizers().iter().any(|finalizer| finalizer == FINALIZER);
    let policy = volume.spec.as_ref().and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref());
    if policy != Some("Delete") {
        return if held { VolumeStep::LetGo } else { VolumeStep::Nothing };
    }
    let leaving = volume.metadata.deletion_timestamp.is_some();
    if phase(volume) != "Released" || (leaving && !held) {
        return VolumeStep::Nothing;
    }
    VolumeStep::Delete(path)
}

/// The volume's directory, if it is one of this place: what a volume says is a user's word, and must not lead elsewhere.
fn directory(volume: &PersistentVolume, place: &Place<'_>) -> Option<PathBuf> {
    let spec = volume.spec.as_ref()?;
    let path = PathBuf::from(&spec.local.as_ref()?.path);
    let name = path.file_name()?.to_str()?;
    let own_name = name.starts_with(&format!("{}_", volume.name_any()));
    let terms = &spec.node_affinity.as_ref()?.required.as_ref()?.node_selector_terms;
    let requirements = terms.iter().flat_map(|term| term.match_expressions.iter().flatten());
    let mut hosts = requirements.filter(|wanted| wanted.key == HOSTNAME).flat_map(|wanted| wanted.values.iter().flatten());
    let here = hosts.any(|host| host == place.hostname);
    (own_name && here && path.parent() == Some(place.directory)).then_some(path)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn from<K: serde::de::DeserializeOwned>(value: Value) -> K {
        serde_json::from_value(value).expect("fits the type")
    }

    fn local() -> LocalVolumes {
        LocalVolumes { node_name: "n1".to_owned(), directory: PathBuf::from("/volumes") }
    }

    fn node() -> Node {
        from(json!({"metadata": {"name": "n1", "labels": {HOSTNAME: "host1"}}}))
    }

    fn class(changes: Value) -> StorageClass {
        let mut class = json!({
            "metadata": {"name": "local-path"}, "provisioner": PROVISIONER, "reclaimPolicy": "Delete",
            "volumeBindingMode": "WaitForFirstConsumer",
        });
        class.as_object_mut().expect("is one").extend(changes.as_object().expect("is one").clone());
        from(class)
    }

    fn asking(selected: &str, spec: Value) -> PersistentVolumeClaim {
        let mut annotations = json!({ASKED[0]: PROVISIONER});
        if !selected.is_empty() {
            annotations[SELECTED_NODE] = json!(selected);
        }
        let mut whole = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
        whole.as_object_mut().expect("is one").extend(spec.as_object().expect("is one").clone());
        from(json!({"metadata": {"name": "c", "namespace": "ns", "uid": "u", "annotations": annotations}, "spec": whole}))
    }

    fn provisioned(claimed: &PersistentVolumeClaim, class: &StorageClass) -> (PersistentVolume, PathBuf) {
        let (local, node) = (local(), node());
        match claim(claimed, Some(class), &Place::new(&local, &node).expect("has a label")) {
            ClaimStep::Provision(volume, path) => (*volume, path),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn which_claims_get_a_volume() {
        let (local, node) = (local(), node());
        let place = Place::new(&local, &node).expect("has a label");
        let mut other = asking("n1", json!({}));
        other.metadata.annotations = Some([(ASKED[0].to_owned(), "csi.example".to_owned())].into());
        let mut older = asking("n1", json!({}));
        older.metadata.annotations =
            Some([(ASKED[1].to_owned(), PROVISIONER.to_owned()), (SELECTED_NODE.to_owned(), "n1".to_owned())].into());
        let immediate = || class(json!({"volumeBindingMode": "Immediate"}));
        let nothing = Some("");
        for (claimed, class, refused) in [
            (asking("n1", json!({})), class(json!({})), None),
            (older, class(json!({})), None),
            (asking("", json!({})), immediate(), None),
            (asking("", json!({})), class(json!({})), nothing),
            (asking("n2", json!({})), class(json!({})), nothing),
            (asking("n2", json!({})), immediate(), nothing),
            (other, class(json!({})), nothing),
            (asking("n1", json!({"volumeName": "v"})), class(json!({})), nothing),
            (asking("n1", json!({})), class(json!({"provisioner": "csi.example"})), nothing),
            (asking("n1", json!({"selector": {}})), class(json!({})), Some("selector")),
            (asking("n1", json!({"volumeMode": "Block"})), class(json!({})), Some("file system")),
            (asking("n1", json!({"accessModes": ["ReadWriteOncePod"]})), class(json!({})), None),
            (asking("n1", json!({"accessModes": ["ReadWriteMany"]})), class(json!({})), Some("access modes")),
            (
                asking("n1", json!({"dataSource": {"kind": "PersistentVolumeClaim", "name": "d"}})),
                class(json!({})),
                Some("data source"),
            ),
            (asking("n1", json!({})), class(json!({"mountOptions": ["ro"]})), Some("mount options")),
            (asking("n1", json!({})), class(json!({"parameters": {"a": "b"}})), Some("parameters")),
        ] {
            match (claim(&claimed, Some(&class), &place), refused) {
                (ClaimStep::Provision(..), None) | (ClaimStep::Nothing, Some("")) => {}
                (ClaimStep::Refuse(why), Some(part)) if !part.is_empty() => assert!(why.contains(part), "{why}"),
                (found, _) => panic!("{claimed:?} {class:?}: {found:?}"),
            }
        }
        assert_eq!(claim(&asking("n1", json!({})), None, &place), ClaimStep::Nothing);
    }

    #[test]
    fn what_a_volume_says() {
        let (volume, path) = provisioned(&asking("n1", json!({})), &class(json!({})));
        assert_eq!(path, Path::new("/volumes/pvc-u_ns_c"));
        assert_eq!(volume.name_any(), "pvc-u");
        assert_eq!(volume.finalizers(), [FINALIZER]);
        let spec = serde_json::to_value(volume.spec).expect("is JSON");
        assert_eq!(spec["capacity"]["storage"], "1Gi");
        assert_eq!(spec["local"]["path"], "/volumes/pvc-u_ns_c");
        assert_eq!(spec["claimRef"]["uid"], "u");
        let terms = &spec["nodeAffinity"]["required"]["nodeSelectorTerms"];
        assert_eq!(terms[0]["matchExpressions"][0], json!({"key": HOSTNAME, "operator": "In", "values": ["host1"]}));
        let (kept, _) = provisioned(&asking("n1", json!({})), &class(json!({"reclaimPolicy": "Retain"})));
        assert!(kept.finalizers().is_empty());
        assert_eq!(kept.spec.and_then(|spec| spec.persistent_volume_reclaim_policy).as_deref(), Some("Retain"));
    }

    #[test]
    fn what_becomes_of_volumes() {
        let (local, node) = (local(), node());
        let place = Place::new(&local, &node).expect("has a label");
        let with = |phase: &str, change: &dyn Fn(&mut Value)| -> PersistentVolume {
            let (volume, _) = provisioned(&asking("n1", json!({})), &class(json!({})));
            let mut volume = serde_json::to_value(volume).expect("is JSON");
            volume["status"] = json!({"phase": phase});
            change(&mut volume);
            from(volume)
        };
        let delete = || VolumeStep::Delete(PathBuf::from("/volumes/pvc-u_ns_c"));
        let leaving = |volume: &mut Value| volume["metadata"]["deletionTimestamp"] = json!("2026-11-30T00:00:00Z");
        let retain = |volume: &mut Value| volume["spec"]["persistentVolumeReclaimPolicy"] = json!("Retain");
        let path = |path: &'static str| move |volume: &mut Value| volume["spec"]["local"]["path"] = json!(path);
        let free = |volume: &mut Value| volume["metadata"]["finalizers"] = json!([]);
        for (found, expected) in [
            (with("Bound", &|_| {}), VolumeStep::Nothing),
            (with("Bound", &leaving), VolumeStep::Nothing),
            (with("Released", &|_| {}), delete()),
            (with("Released", &leaving), delete()),
            (with("Released", &free), delete()),
            (with("Released", &|volume| (leaving(volume), free(volume)).0), VolumeStep::Nothing),
            (with("Released", &retain), VolumeStep::LetGo),
            (with("Bound", &retain), VolumeStep::LetGo),
            (with("Released", &|volume| (retain(volume), free(volume)).0), VolumeStep::Nothing),
            (with("Released", &path("/volumes/pvc-u_ns_c/../../etc")), VolumeStep::Nothing),
            (with("Released", &path("/volumes/pvc-other_ns_c")), VolumeStep::Nothing),
            (with("Released", &path("/volumes/deeper/pvc-u_ns_c")), VolumeStep::Nothing),
            (with("Released", &path("/volumes")), VolumeStep::Nothing),
            (with("Released", &|volume| volume["metadata"]["annotations"] = json!({})), VolumeStep::Nothing),
            (
                with("Released", &|volume| drop(volume["spec"].as_object_mut().map(|spec| spec.remove("nodeAffinity")))),
                VolumeStep::Nothing,
            ),
        ] {
            assert_eq!(volume(&found, &place), expected, "{found:?}");
        }
        let elsewhere: Node = from(json!({"metadata": {"name": "n1", "labels": {HOSTNAME: "host2"}}}));
        let place = Place::new(&local, &elsewhere).expect("has a label");
        assert_eq!(volume(&with("Released", &|_| {}), &place), VolumeStep::Nothing);
    }
}
