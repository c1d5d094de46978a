//! Which Secrets a pod's specification refers to by name.

use k8s_openapi::api::core::v1::{EnvFromSource, EnvVar, Pod, Volume};

/// The names, as often as they are there.
pub(super) fn secret_names(pod: &Pod) -> Vec<String> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let mut names: Vec<String> = spec.image_pull_secrets.iter().flatten().map(|reference| reference.name.clone()).collect();
    for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
        environment(container.env.as_deref(), container.env_from.as_deref(), &mut names);
    }
    for container in spec.ephemeral_containers.iter().flatten() {
        environment(container.env.as_deref(), container.env_from.as_deref(), &mut names);
    }
    for volume in spec.volumes.iter().flatten() {
        volume_secrets(volume, &mut names);
    }
    names.retain(|name| !name.is_empty());
    names
}

fn environment(variables: Option<&[EnvVar]>, sources: Option<&[EnvFromSource]>, names: &mut Vec<String>) {
    let sources = sources.unwrap_or_default().iter();
    names.extend(sources.filter_map(|source| source.secret_ref.as_ref()).map(|reference| reference.name.clone()));
    let values = variables.unwrap_or_default().iter().filter_map(|variable| variable.value_from.as_ref());
    names.extend(values.filter_map(|value| value.secret_key_ref.as_ref()).map(|reference| reference.name.clone()));
}

fn volume_secrets(volume: &Volume, names: &mut Vec<String>) {
    names.extend(volume.azure_file.as_ref().map(|source| source.secret_name.clone()));
    names.extend(volume.secret.as_ref().and_then(|source| source.secret_name.clone()));
    let projected = volume.projected.iter().flat_map(|source| source.sources.iter().flatten());
    names.extend(projected.filter_map(|source| source.secret.as_ref()).map(|reference| reference.name.clone()));
    names.extend(volume.scale_io.as_ref().map(|source| source.secret_ref.name.clone()));
    let references = [
        volume.cephfs.as_ref().and_then(|source| source.secret_ref.as_ref()),
        volume.cinder.as_ref().and_then(|source| source.secret_ref.as_ref()),
        volume.flex_volume.as_ref().and_then(|source| source.secret_ref.as_ref()),
        volume.rbd.as_ref().and_then(|source| source.secret_ref.as_ref()),
        volume.iscsi.as_ref().and_then(|source| source.secret_ref.as_ref()),
        volume.storageos.as_ref().and_then(|source| source.secret_ref.as_ref()),
        volume.csi.as_ref().and_then(|source| source.node_publish_secret_ref.as_ref()),
    ];
    names.extend(references.into_iter().flatten().map(|reference| reference.name.clone()));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_place() {
        let reference = |name: &str| json!({"name": name});
        let container = |from: &str, key: &str| {
            json!({
                "name": "c", "envFrom": [{"secretRef": reference(from)}, {"configMapRef": reference("no")}],
                "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": key, "key": "k"}}}, {"name": "B", "value": "no"}],
            })
        };
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {
            "imagePullSecrets": [reference("pull"), {}],
            "containers": [container("a", "b")],
            "initContainers": [container("c", "d")],
            "ephemeralContainers": [container("e", "f")],
            "volumes": [
                {"name": "v", "azureFile": {"secretName": "azure", "shareName": "s"}},
                {"name": "v", "secret": {"secretName": "secret"}},
                {"name": "v", "projected": {"sources": [{"secret": reference("projected")}, {"configMap": reference("no")}]}},
                {"name": "v", "scaleIO": {"gateway": "g", "system": "s", "secretRef": reference("scaleio")}},
                {"name": "v", "cephfs": {"monitors": [], "secretRef": reference("cephfs")}},
                {"name": "v", "cinder": {"volumeID": "v", "secretRef": reference("cinder")}},
                {"name": "v", "flexVolume": {"driver": "d", "secretRef": reference("flex")}},
                {"name": "v", "rbd": {"monitors": [], "image": "i", "secretRef": reference("rbd")}},
                {"name": "v", "iscsi": {"targetPortal": "t", "iqn": "i", "lun": 0, "secretRef": reference("iscsi")}},
                {"name": "v", "storageos": {"secretRef": reference("storageos")}},
                {"name": "v", "csi": {"driver": "d", "nodePublishSecretRef": reference("csi")}},
                {"name": "v", "emptyDir": {}},
            ],
        }}))
        .expect("is a pod");
        let mut found = secret_names(&pod);
        found.sort();
        let expected = [
            "a",
            "azure",
            "b",
            "c",
            "cephfs",
            "cinder",
            "csi",
            "d",
            "e",
            "f",
            "flex",
            "iscsi",
            "projected",
            "pull",
            "rbd",
            "scaleio",
            "secret",
            "storageos",
        ];
        assert_eq!(found, expected);
    }
}
