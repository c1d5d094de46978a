//! Which other API objects a pod needs: a static pod, which a kubelet has from a file, may need none.

use apimachinery::Value;

/// Volumes that need no object.
const PLAIN: [&str; 22] = [
    "awsElasticBlockStore",
    "azureDisk",
    "cephfs",
    "cinder",
    "downwardAPI",
    "emptyDir",
    "fc",
    "flexVolume",
    "flocker",
    "gcePersistentDisk",
    "gitRepo",
    "hostPath",
    "image",
    "iscsi",
    "nfs",
    "photonPersistentDisk",
    "portworxVolume",
    "quobyte",
    "rbd",
    "scaleIO",
    "storageos",
    "vsphereVolume",
];
/// Volumes that need one, and upstream's name for it.
const NEEDY: [(&str, &str); 7] = [
    ("configMap", "configmaps (via configmap volumes)"),
    ("secret", "secrets (via secret volumes)"),
    ("csi", "csidrivers (via CSI volumes)"),
    ("glusterfs", "endpoints (via glusterFS volumes)"),
    ("persistentVolumeClaim", "persistentvolumeclaims"),
    ("ephemeral", "persistentvolumeclaims (via ephemeral volumes)"),
    ("azureFile", "secrets (via azureFile volumes)"),
];
const PROJECTED: [(&str, &str); 5] = [
    ("configMap", "configmaps (via projected volumes)"),
    ("secret", "secrets (via projected volumes)"),
    ("serviceAccountToken", "serviceaccounts (via projected volumes)"),
    ("clusterTrustBundle", "clustertrustbundles"),
    ("podCertificate", "podcertificates"),
];
/// Where volumes name a Secret.
const SECRETS: [(&str, &str); 10] = [
    ("azureFile", "secretName"),
    ("cephfs", "secretRef"),
    ("cinder", "secretRef"),
    ("csi", "nodePublishSecretRef"),
    ("flexVolume", "secretRef"),
    ("iscsi", "secretRef"),
    ("rbd", "secretRef"),
    ("scaleIO", "secretRef"),
    ("secret", "secretName"),
    ("storageos", "secretRef"),
];

/// The first kind of object that a pod needs, in upstream's words and order; an error if it has a volume that nobody knows.
pub(super) fn referenced(spec: &Value) -> Result<Option<&'static str>, String> {
    if spec.str_at(&["serviceAccountName"]).is_some_and(|name| !name.is_empty()) {
        return Ok(Some("serviceaccounts"));
    }
    if needs(spec, "secretKeyRef", "secretRef", "secret") || has_secret(spec) {
        return Ok(Some("secrets"));
    }
    let volumes = spec.array_at(&["volumes"]);
    if needs(spec, "configMapKeyRef", "configMapRef", "configMap") || volumes.iter().any(|volume| names(&volume["configMap"])) {
        return Ok(Some("configmaps"));
    }
    if !spec.array_at(&["resourceClaims"]).is_empty() {
        return Ok(Some("resourceclaims"));
    }
    for volume in volumes {
        if let Some(what) = of_volume(volume)? {
            return Ok(Some(what));
        }
    }
    Ok(None)
}

/// Whether a reference names something: one that does not is none.
fn names(reference: &Value) -> bool {
    !reference["name"].is_empty()
}

/// Whether environment variables or projected volumes come from objects of a kind.
fn needs(spec: &Value, key_ref: &str, whole_ref: &str, projected: &str) -> bool {
    let lists = ["initContainers", "containers", "ephemeralContainers"].into_iter();
    let by_containers = lists.flat_map(|list| spec.array_at(&[list])).any(|container| {
        container.array_at(&["env"]).iter().any(|variable| names(&variable["valueFrom"][key_ref]))
            || container.array_at(&["envFrom"]).iter().any(|source| names(&source[whole_ref]))
    });
    let sources = spec.array_at(&["volumes"]).iter().flat_map(|volume| volume.array_at(&["projected", "sources"]));
    by_containers || sources.into_iter().any(|source| names(&source[projected]))
}

fn has_secret(spec: &Value) -> bool {
    let named = |reference: &Value| reference.as_str().map_or_else(|| names(reference), |name| !name.is_empty());
    let of_volume = |volume: &Value| SECRETS.iter().any(|(kind, member)| named(&volume[*kind][*member]));
    spec.array_at(&["imagePullSecrets"]).iter().any(names) || spec.array_at(&["volumes"]).iter().any(of_volume)
}

fn of_volume(volume: &Value) -> Result<Option<&'static str>, String> {
    let has = |kind: &str| !volume[kind].is_null();
    let name = volume["name"].as_str().unwrap_or_default();
    if PLAIN.into_iter().any(has) {
        return Ok(None);
    }
    if let Some((_, what)) = NEEDY.iter().find(|(kind, _)| has(kind)) {
        return Ok(Some(what));
    }
    if !has("projected") {
        return Err(format!("unknown volume type for volume  {name:?}"));
    }
    for source in volume.array_at(&["projected", "sources"]) {
        if let Some((_, what)) = PROJECTED.iter().find(|(kind, _)| !source[*kind].is_null()) {
            return Ok(Some(what));
        }
        if source["downwardAPI"].is_null() {
            return Err(format!("unknown source for projected volume {name:?}"));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use apimachinery::value;

    use super::*;

    #[test]
    fn what_pods_need() {
        for (spec, expected) in [
            (
                value!({"volumes": [{"name": "a", "emptyDir": {}}, {"name": "b", "projected": {"sources": [{"downwardAPI": {}}]}}]}),
                Ok(None),
            ),
            (value!({"serviceAccountName": "a"}), Ok(Some("serviceaccounts"))),
            (value!({"imagePullSecrets": [{"name": "a"}]}), Ok(Some("secrets"))),
            (value!({"imagePullSecrets": [{"name": ""}]}), Ok(None)),
            (value!({"containers": [{"env": [{"valueFrom": {"secretKeyRef": {"name": "a"}}}]}]}), Ok(Some("secrets"))),
            (value!({"initContainers": [{"env": [{"valueFrom": {"secretKeyRef": {}}}]}]}), Ok(None)),
            (value!({"ephemeralContainers": [{"envFrom": [{"configMapRef": {"name": "a"}}]}]}), Ok(Some("configmaps"))),
            (value!({"volumes": [{"cephfs": {"secretRef": {"name": "a"}}}]}), Ok(Some("secrets"))),
            (value!({"volumes": [{"cephfs": {"secretRef": {}}}]}), Ok(None)),
            (value!({"volumes": [{"azureFile": {"secretName": "a"}}]}), Ok(Some("secrets"))),
            (value!({"volumes": [{"azureFile": {}}]}), Ok(Some("secrets (via azureFile volumes)"))),
            (value!({"volumes": [{"secret": {}}]}), Ok(Some("secrets (via secret volumes)"))),
            (value!({"volumes": [{"configMap": {}}]}), Ok(Some("configmaps (via configmap volumes)"))),
            (value!({"volumes": [{"projected": {"sources": [{"secret": {"name": "a"}}]}}]}), Ok(Some("secrets"))),
            (value!({"volumes": [{"projected": {"sources": [{"secret": {}}]}}]}), Ok(Some("secrets (via projected volumes)"))),
            (
                value!({"volumes": [{"name": "v", "projected": {"sources": [{"new": {}}]}}]}),
                Err("unknown source for projected volume \"v\"".to_owned()),
            ),
            (value!({"volumes": [{"configMap": {"name": "a"}}]}), Ok(Some("configmaps"))),
            (value!({"volumes": [{"csi": {"driver": "a"}}]}), Ok(Some("csidrivers (via CSI volumes)"))),
            (value!({"resourceClaims": [{"name": "a"}]}), Ok(Some("resourceclaims"))),
            (
                value!({"volumes": [{"projected": {"sources": [{"serviceAccountToken": {}}]}}]}),
                Ok(Some("serviceaccounts (via projected volumes)")),
            ),
            (value!({"volumes": [{"name": "v", "new": {}}]}), Err("unknown volume type for volume  \"v\"".to_owned())),
        ] {
            assert_eq!(referenced(&spec), expected, "{spec:?}");
        }
    }
}
