//! Reads the optional fields of a Pod with the defaults that the API server has already applied.

use k8s_openapi::api::core::v1::{
    Container, ContainerStatus, EphemeralContainer, ObjectReference, Pod, PodSecurityContext, PodSpec, PodStatus,
};

/// Marks a static pod's source; on a mirror pod, and on pods from a file (`kubetypes.ConfigSourceAnnotationKey`).
pub(crate) const CONFIG_SOURCE: &str = "kubernetes.io/config.source";
/// The hash of a static pod, on its mirror pod.
pub(crate) const CONFIG_MIRROR: &str = "kubernetes.io/config.mirror";
/// The hash of a static pod's manifest.
pub(crate) const CONFIG_HASH: &str = "kubernetes.io/config.hash";

/// Which of a pod's lists a container is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ContainerKind {
    Init,
    Regular,
    Ephemeral,
}

/// Short ways to a Pod's fields.
pub(crate) trait PodAccess {
    fn uid(&self) -> &str;
    fn name(&self) -> &str;
    fn namespace(&self) -> &str;
    fn pod_spec(&self) -> &PodSpec;
    fn pod_status(&self) -> &PodStatus;
    fn containers(&self) -> &[Container];
    fn init_containers(&self) -> &[Container];
    fn ephemeral_containers(&self) -> &[EphemeralContainer];
    fn security(&self) -> Option<&PodSecurityContext>;
    fn annotation(&self, key: &str) -> Option<&str>;

    fn restart_policy(&self) -> &str {
        self.pod_spec().restart_policy.as_deref().unwrap_or("Always")
    }
    fn host_network(&self) -> bool {
        self.pod_spec().host_network.unwrap_or(false)
    }
    fn is_deleted(&self) -> bool;
    fn phase(&self) -> &str {
        self.pod_status().phase.as_deref().unwrap_or("")
    }
    fn phase_is_terminal(&self) -> bool {
        matches!(self.phase(), "Failed" | "Succeeded")
    }
    /// `name_namespace(uid)`, the form in which upstream's messages name a pod.
    fn display(&self) -> String {
        format!("{}_{}({})", self.name(), self.namespace(), self.uid())
    }
    /// The container of that name, of whatever kind.
    fn find_container(&self, name: &str) -> Option<(ContainerKind, Container)> {
        if let Some(c) = self.containers().iter().find(|c| c.name == name) {
            return Some((ContainerKind::Regular, c.clone()));
        }
        if let Some(c) = self.init_containers().iter().find(|c| c.name == name) {
            return Some((ContainerKind::Init, c.clone()));
        }
        self.ephemeral_containers().iter().find(|c| c.name == name).map(|c| (ContainerKind::Ephemeral, ephemeral_as_container(c)))
    }
    fn is_static(&self) -> bool {
        self.annotation(CONFIG_SOURCE).is_some_and(|source| source != "api")
    }
    fn is_mirror(&self) -> bool {
        self.annotation(CONFIG_MIRROR).is_some()
    }
    fn reference(&self) -> ObjectReference;
}

static EMPTY_SPEC: std::sync::LazyLock<PodSpec> = std::sync::LazyLock::new(PodSpec::default);
static EMPTY_STATUS: std::sync::LazyLock<PodStatus> = std::sync::LazyLock::new(PodStatus::default);

impl PodAccess for Pod {
    fn uid(&self) -> &str {
        self.metadata.uid.as_deref().unwrap_or("")
    }
    fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or("")
    }
    fn namespace(&self) -> &str {
        self.metadata.namespace.as_deref().unwrap_or("default")
    }
    fn pod_spec(&self) -> &PodSpec {
        self.spec.as_ref().unwrap_or(&EMPTY_SPEC)
    }
    fn pod_status(&self) -> &PodStatus {
        self.status.as_ref().unwrap_or(&EMPTY_STATUS)
    }
    fn containers(&self) -> &[Container] {
        &self.pod_spec().containers
    }
    fn init_containers(&self) -> &[Container] {
        self.pod_spec().init_containers.as_deref().unwrap_or_default()
    }
    fn ephemeral_containers(&self) -> &[EphemeralContainer] {
        self.pod_spec().ephemeral_containers.as_deref().unwrap_or_default()
    }
    fn security(&self) -> Option<&PodSecurityContext> {
        self.pod_spec().security_context.as_ref()
    }
    fn annotation(&self, key: &str) -> Option<&str> {
        self.metadata.annotations.as_ref()?.get(key).map(String::as_str)
    }
    fn is_deleted(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }
    fn reference(&self) -> ObjectReference {
        ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            name: self.metadata.name.clone(),
            namespace: self.metadata.namespace.clone(),
            uid: self.metadata.uid.clone(),
            resource_version: self.metadata.resource_version.clone(),
            field_path: None,
        }
    }
}

/// The pod's reference with the field path of one of its containers, as container events carry it.
pub(crate) fn container_reference(pod: &Pod, container: &str) -> ObjectReference {
    let list = match pod.find_container(container) {
        Some((ContainerKind::Init, _)) => "initContainers",
        Some((ContainerKind::Ephemeral, _)) => "ephemeralContainers",
        _ => "containers",
    };
    ObjectReference { field_path: Some(format!("spec.{list}{{{container}}}")), ..pod.reference() }
}

/// A sidecar: an init container with `restartPolicy: Always` (KEP-753).
pub(crate) fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// The status of the container of that name.
pub(crate) fn find_status<'a>(statuses: &'a [ContainerStatus], name: &str) -> Option<&'a ContainerStatus> {
    statuses.iter().find(|status| status.name == name)
}

/// An ephemeral container as the container that is run for it.
pub(crate) fn ephemeral_as_container(c: &EphemeralContainer) -> Container {
    Container {
        args: c.args.clone(),
        command: c.command.clone(),
        env: c.env.clone(),
        env_from: c.env_from.clone(),
        image: c.image.clone(),
        image_pull_policy: c.image_pull_policy.clone(),
        name: c.name.clone(),
        resources: c.resources.clone(),
        security_context: c.security_context.clone(),
        stdin: c.stdin,
        stdin_once: c.stdin_once,
        termination_message_path: c.termination_message_path.clone(),
        termination_message_policy: c.termination_message_policy.clone(),
        tty: c.tty,
        volume_devices: c.volume_devices.clone(),
        volume_mounts: c.volume_mounts.clone(),
        working_dir: c.working_dir.clone(),
        ..Container::default()
    }
}
