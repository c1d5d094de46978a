//! What a pod and a persistent volume refer to: upstream's edges towards a pod and towards a claim.

use k8s_openapi::api::core::v1::{PersistentVolume, Pod, PodSpec, SecretReference, Volume};

/// A pod with it was made by a kubelet from a file.
const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";

/// What a pod may refer to in its namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Secret,
    ConfigMap,
    Claim,
    ResourceClaim,
    ServiceAccount,
}

/// Whether a pod refers to an object in its namespace. A mirror pod refers to nothing: a kubelet could let itself in by one.
pub(super) fn refers(pod: &Pod, kind: Kind, name: &str) -> bool {
    let mirrors = pod.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(MIRROR_ANNOTATION));
    let Some(spec) = pod.spec.as_ref().filter(|_| !mirrors && !name.is_empty()) else { return false };
    match kind {
        Kind::Secret => secrets(spec).any(|secret| secret == name),
        Kind::ConfigMap => config_maps(spec).any(|config_map| config_map == name),
        Kind::Claim => volumes(spec).any(|volume| is_claim_of(pod, volume, name)),
        Kind::ResourceClaim => resource_claims(pod, spec).any(|claim| claim == name),
        Kind::ServiceAccount => spec.service_account_name.as_deref() == Some(name),
    }
}

/// The Secrets that a kubelet needs for a volume: `(namespace, name)`. Those for the controllers of its driver are not among them.
pub(super) fn secrets_of_volume(volume: &PersistentVolume) -> impl Iterator<Item = (&str, &str)> {
    let spec = volume.spec.as_ref();
    let of_claim = claim_of(volume).map_or("", |(namespace, _)| namespace);
    // Volumes from before references had a namespace mean the claim's.
    let or_claims = move |r: &SecretReference| r.namespace.as_deref().is_none_or(str::is_empty);
    let falling_back = spec.into_iter().flat_map(|spec| {
        [
            spec.cephfs.as_ref().and_then(|s| s.secret_ref.as_ref()),
            spec.flex_volume.as_ref().and_then(|s| s.secret_ref.as_ref()),
            spec.rbd.as_ref().and_then(|s| s.secret_ref.as_ref()),
            spec.scale_io.as_ref().map(|s| &s.secret_ref),
            spec.iscsi.as_ref().and_then(|s| s.secret_ref.as_ref()),
        ]
    });
    let falling_back = falling_back.flatten().map(move |r| if or_claims(r) { (of_claim, name_of(r).1) } else { name_of(r) });
    let as_they_are = spec.into_iter().flat_map(|spec| {
        let csi = spec.csi.as_ref();
        [
            spec.cinder.as_ref().and_then(|s| s.secret_ref.as_ref()),
            csi.and_then(|s| s.node_publish_secret_ref.as_ref()),
            csi.and_then(|s| s.node_stage_secret_ref.as_ref()),
            csi.and_then(|s| s.node_expand_secret_ref.as_ref()),
        ]
    });
    let azure = spec.and_then(|spec| spec.azure_file.as_ref()).map(move |file| {
        (file.secret_namespace.as_deref().filter(|n| !n.is_empty()).unwrap_or(of_claim), file.secret_name.as_str())
    });
    let storage_os = spec.and_then(|spec| spec.storageos.as_ref()?.secret_ref.as_ref());
    let storage_os = storage_os.map(|r| (r.namespace.as_deref().unwrap_or_default(), r.name.as_deref().unwrap_or_default()));
    let all = falling_back.chain(as_they_are.flatten().map(name_of)).chain(azure).chain(storage_os);
    all.filter(|(_, name)| !name.is_empty())
}

/// Namespace and name of the claim that a volume is bound to, or kept for.
pub(super) fn claim_of(volume: &PersistentVolume) -> Option<(&str, &str)> {
    let claim = volume.spec.as_ref()?.claim_ref.as_ref()?;
    Some((claim.namespace.as_deref().unwrap_or_default(), claim.name.as_deref()?))
}

fn name_of(reference: &SecretReference) -> (&str, &str) {
    (reference.namespace.as_deref().unwrap_or_default(), reference.name.as_deref().unwrap_or_default())
}

fn volumes(spec: &PodSpec) -> impl Iterator<Item = &Volume> {
    spec.volumes.iter().flatten()
}

/// Where the environment of containers comes from, of all three kinds of containers: `(Secret, ConfigMap)`.
fn environment(spec: &PodSpec) -> impl Iterator<Item = (Option<&str>, Option<&str>)> {
    let usual = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let ephemeral = spec.ephemeral_containers.iter().flatten();
    let env = usual
        .clone()
        .flat_map(|c| c.env.iter().flatten())
        .chain(ephemeral.clone().flat_map(|c| c.env.iter().flatten()))
        .filter_map(|variable| variable.value_from.as_ref())
        .map(|source| {
            let secret = source.secret_key_ref.as_ref().map(|r| r.name.as_str());
            (secret, source.config_map_key_ref.as_ref().map(|r| r.name.as_str()))
        });
    let from = usual.flat_map(|c| c.env_from.iter().flatten()).chain(ephemeral.flat_map(|c| c.env_from.iter().flatten()));
    env.chain(from.map(|source| {
        let secret = source.secret_ref.as_ref().map(|r| r.name.as_str());
        (secret, source.config_map_ref.as_ref().map(|r| r.name.as_str()))
    }))
}

fn secrets(spec: &PodSpec) -> impl Iterator<Item = &str> {
    let pull = spec.image_pull_secrets.iter().flatten().map(|r| r.name.as_str());
    let projected = volumes(spec).flat_map(|v| v.projected.iter().flat_map(|p| p.sources.iter().flatten()));
    let projected = projected.filter_map(|source| source.secret.as_ref()).map(|r| r.name.as_str());
    let local = volumes(spec).flat_map(|v| {
        [
            v.cephfs.as_ref().and_then(|s| s.secret_ref.as_ref()),
            v.cinder.as_ref().and_then(|s| s.secret_ref.as_ref()),
            v.csi.as_ref().and_then(|s| s.node_publish_secret_ref.as_ref()),
            v.flex_volume.as_ref().and_then(|s| s.secret_ref.as_ref()),
            v.iscsi.as_ref().and_then(|s| s.secret_ref.as_ref()),
            v.rbd.as_ref().and_then(|s| s.secret_ref.as_ref()),
            v.scale_io.as_ref().map(|s| &s.secret_ref),
            v.storageos.as_ref().and_then(|s| s.secret_ref.as_ref()),
        ]
    });
    let local = local.flatten().map(|r| r.name.as_str());
    let named = volumes(spec).flat_map(|v| {
        [v.secret.as_ref().and_then(|s| s.secret_name.as_deref()), v.azure_file.as_ref().map(|s| s.secret_name.as_str())]
    });
    pull.chain(environment(spec).filter_map(|(secret, _)| secret)).chain(projected).chain(local).chain(named.flatten())
}

fn config_maps(spec: &PodSpec) -> impl Iterator<Item = &str> {
    let projected = volumes(spec).flat_map(|v| v.projected.iter().flat_map(|p| p.sources.iter().flatten()));
    let projected = projected.filter_map(|source| source.config_map.as_ref()).map(|r| r.name.as_str());
    let plain = volumes(spec).filter_map(|v| v.config_map.as_ref()).map(|r| r.name.as_str());
    environment(spec).filter_map(|(_, config_map)| config_map).chain(projected).chain(plain)
}

/// A generic ephemeral volume's claim is named after pod and volume.
fn is_claim_of(pod: &Pod, volume: &Volume, name: &str) -> bool {
    match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(claim), _) => claim.claim_name == name,
        (None, Some(_)) => pod.metadata.name.as_ref().is_some_and(|pod| name == format!("{pod}-{}", volume.name)),
        (None, None) => false,
    }
}

/// Claims by name, those made from the pod's templates, and the one made for its extended resources.
fn resource_claims<'a>(pod: &'a Pod, spec: &'a PodSpec) -> impl Iterator<Item = &'a str> {
    let status = pod.status.as_ref();
    let made = move |wanted: &str| {
        let mut statuses = status.and_then(|s| s.resource_claim_statuses.as_ref()).into_iter().flatten();
        statuses.find(|made| made.name == wanted).and_then(|made| made.resource_claim_name.as_deref())
    };
    let listed = spec.resource_claims.iter().flatten().filter_map(move |claim| {
        match (&claim.resource_claim_name, &claim.resource_claim_template_name) {
            (Some(name), _) => Some(name.as_str()),
            (None, Some(_)) => made(&claim.name),
            (None, None) => None,
        }
    });
    let extended = status.and_then(|s| s.extended_resource_claim_status.as_ref());
    listed.chain(extended.map(|made| made.resource_claim_name.as_str()))
}
