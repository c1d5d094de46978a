//! Labels and annotations by which a restarted kubelet recognises its sandboxes and containers; upstream's keys.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::{Container, Pod};
use sha2::{Digest, Sha256};

use super::resize;
use crate::pod::access::PodAccess;

pub(crate) const POD_NAME: &str = "io.kubernetes.pod.name";
pub(crate) const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
pub(crate) const POD_UID: &str = "io.kubernetes.pod.uid";
pub(crate) const CONTAINER_NAME: &str = "io.kubernetes.container.name";
pub(crate) const CONTAINER_HASH: &str = "io.kubernetes.container.hash";
pub(crate) const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
pub(crate) const TERMINATION_PATH: &str = "io.kubernetes.container.terminationMessagePath";
pub(crate) const TERMINATION_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
pub(crate) const PRE_STOP: &str = "io.kubernetes.container.preStopHandler";
pub(crate) const CONTAINER_PORTS: &str = "io.kubernetes.container.ports";
/// Ours: what the container was started with, in bytes, where a change of it means a restart. No cgroup says it.
pub(crate) const MEMORY_REQUEST: &str = "io.kubernetes.container.memoryRequest";
pub(crate) const DELETION_GRACE: &str = "io.kubernetes.pod.deletionGracePeriod";
pub(crate) const TERMINATION_GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";

/// What of a container a change of which means a new container: its name and image (upstream since v1.31, `HashContainer`).
pub(crate) fn hash(container: &Container) -> String {
    let digest = Sha256::new()
        .chain_update(&container.name)
        .chain_update([0])
        .chain_update(container.image.as_deref().unwrap_or(""))
        .finalize();
    hex::encode(&digest[..8])
}

/// A sandbox's labels: the pod's own, and which pod it is.
pub(crate) fn pod_labels(pod: &Pod) -> HashMap<String, String> {
    let mut labels: HashMap<String, String> = pod.metadata.labels.iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect();
    labels.extend(identity(pod));
    labels
}

fn identity(pod: &Pod) -> [(String, String); 3] {
    [
        (POD_NAME.to_owned(), pod.name().to_owned()),
        (POD_NAMESPACE.to_owned(), pod.namespace().to_owned()),
        (POD_UID.to_owned(), pod.uid().to_owned()),
    ]
}

/// A sandbox's annotations: the pod's own.
pub(crate) fn pod_annotations(pod: &Pod) -> HashMap<String, String> {
    pod.metadata.annotations.iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect()
}

/// A container's labels.
pub(crate) fn container_labels(pod: &Pod, container: &Container) -> HashMap<String, String> {
    identity(pod).into_iter().chain([(CONTAINER_NAME.to_owned(), container.name.clone())]).collect()
}

/// A container's annotations.
pub(crate) fn container_annotations(pod: &Pod, container: &Container, restart_count: u32) -> HashMap<String, String> {
    let mut annotations = HashMap::from([
        (CONTAINER_HASH.to_owned(), hash(container)),
        (RESTART_COUNT.to_owned(), restart_count.to_string()),
        (TERMINATION_PATH.to_owned(), container.termination_message_path.clone().unwrap_or_default()),
        (TERMINATION_POLICY.to_owned(), container.termination_message_policy.clone().unwrap_or_default()),
    ]);
    let mut number = |key: &str, value: Option<i64>| {
        if let Some(value) = value {
            annotations.insert(key.to_owned(), value.to_string());
        }
    };
    number(DELETION_GRACE, pod.metadata.deletion_grace_period_seconds);
    number(TERMINATION_GRACE, pod.pod_spec().termination_grace_period_seconds);
    number(MEMORY_REQUEST, resize::memory_request(container));
    let json = |value: Option<String>, key: &str, into: &mut HashMap<String, String>| {
        if let Some(value) = value {
            into.insert(key.to_owned(), value);
        }
    };
    let pre_stop = container.lifecycle.as_ref().and_then(|l| l.pre_stop.as_ref()).and_then(|h| serde_json::to_string(h).ok());
    json(pre_stop, PRE_STOP, &mut annotations);
    let ports = container.ports.as_ref().filter(|p| !p.is_empty()).and_then(|p| serde_json::to_string(p).ok());
    json(ports, CONTAINER_PORTS, &mut annotations);
    annotations
}
