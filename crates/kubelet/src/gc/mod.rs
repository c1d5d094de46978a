//! Removes what pods leave behind: dead containers and sandboxes, directories, logs, cgroups.

pub(crate) mod images;
pub(crate) mod logs;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use cri::v1;
use k8s_openapi::api::core::v1::Pod;

use crate::context::Core;
use crate::pod::access::PodAccess;
use crate::runtime::labels;
use crate::volume;

/// How often leftovers are looked for (upstream's container garbage collection period).
const PERIOD: Duration = Duration::from_secs(60);
/// Dead containers that are kept of each container of a pod that is here (`--maximum-dead-containers-per-container`).
const DEAD_PER_CONTAINER: usize = 1;

/// Removes everything of a pod whose object is gone and whose containers have ended.
pub(crate) async fn remove_pod(core: &Core, pod: &Pod) {
    remove_from_runtime(core, pod.uid()).await;
    core.pods_gone(pod.uid(), Some((pod.namespace(), pod.name()))).await;
}

impl Core {
    /// Removes a pod's directories.
    async fn pods_gone(&self, uid: &str, name: Option<(&str, &str)>) {
        if let Err(error) = volume::tear_down_all(self, uid).await {
            tracing::warn!(uid, %error, "volumes of a pod that is gone were not torn down");
            return;
        }
        let mut directories = vec![self.config.pod_dir(uid)];
        directories.extend(name.map(|(namespace, name)| self.config.pod_log_dir(namespace, name, uid)));
        for directory in directories {
            match tokio::fs::remove_dir_all(&directory).await {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    tracing::warn!(uid, path = %directory.display(), %error, "a directory of a pod that is gone was not removed")
                }
                _ => {}
            }
        }
    }
}

async fn remove_from_runtime(core: &Core, uid: &str) {
    let selector = HashMap::from([(labels::POD_UID.to_owned(), uid.to_owned())]);
    let filter = v1::ContainerFilter { label_selector: selector.clone(), ..Default::default() };
    let containers = core
        .runtime
        .list_containers(v1::ListContainersRequest { filter: Some(filter) })
        .await
        .map(|r| r.containers)
        .unwrap_or_default();
    for container in containers {
        let removed = core.runtime.remove_container(v1::RemoveContainerRequest { container_id: container.id.clone() }).await;
        warn_unless_gone(removed, &container.id, "container was not removed");
    }
    let filter = v1::PodSandboxFilter { label_selector: selector, ..Default::default() };
    let sandboxes = core
        .runtime
        .list_pod_sandbox(v1::ListPodSandboxRequest { filter: Some(filter) })
        .await
        .map(|r| r.items)
        .unwrap_or_default();
    for sandbox in sandboxes {
        let stopped = core.runtime.stop_pod_sandbox(v1::StopPodSandboxRequest { pod_sandbox_id: sandbox.id.clone() }).await;
        warn_unless_gone(stopped, &sandbox.id, "sandbox was not stopped");
        let removed = core.runtime.remove_pod_sandbox(v1::RemovePodSandboxRequest { pod_sandbox_id: sandbox.id.clone() }).await;
        warn_unless_gone(removed, &sandbox.id, "sandbox was not removed");
    }
}

fn warn_unless_gone<T>(result: Result<T, cri::Status>, id: &str, what: &'static str) {
    if let Err(status) = result
        && status.code() != cri::Code::NotFound
    {
        tracing::warn!(id, error = status.message(), what, "garbage collection");
    }
}

/// Collects until the kubelet stops; the first time at once, for what an earlier life left.
pub(crate) async fn run(core: Arc<Core>) {
    loop {
        collect(&core).await;
        tokio::select! {
            () = core.token.cancelled() => return,
            () = tokio::time::sleep(PERIOD) => {}
        }
    }
}

async fn collect(core: &Core) {
    orphans(core).await;
    for entry in core.pods.all() {
        dead_containers(core, &entry.uid).await;
    }
}

/// Pods that the runtime or the disk has and the API does not.
async fn orphans(core: &Core) {
    let known = |uid: &str| core.pods.get(uid).is_some();
    let sandboxes =
        core.runtime.list_pod_sandbox(v1::ListPodSandboxRequest { filter: None }).await.map(|r| r.items).unwrap_or_default();
    let mut gone: HashMap<String, (String, String)> = HashMap::new();
    for metadata in sandboxes.into_iter().filter_map(|s| s.metadata) {
        if !metadata.uid.is_empty() && !known(&metadata.uid) {
            gone.insert(metadata.uid, (metadata.namespace, metadata.name));
        }
    }
    for (uid, (namespace, name)) in &gone {
        tracing::info!(namespace, name, uid, "removing a pod that the API no longer has");
        stop_orphan(core, uid).await;
        remove_from_runtime(core, uid).await;
        core.pods_gone(uid, Some((namespace, name))).await;
    }
    for entry in std::fs::read_dir(core.config.root_dir.join("pods")).into_iter().flatten().flatten() {
        let uid = entry.file_name().to_string_lossy().into_owned();
        if !known(&uid) && !gone.contains_key(&uid) {
            core.pods_gone(&uid, None).await;
        }
    }
    for entry in std::fs::read_dir(&core.config.pod_logs_dir).into_iter().flatten().flatten() {
        // NAMESPACE_NAME_UID
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.rsplit_once('_').is_some_and(|(_, uid)| !known(uid)) {
            let _best_effort = tokio::fs::remove_dir_all(entry.path()).await;
        }
    }
    core.cgroups.remove_orphans(&known);
}

/// Nobody knows the pod's grace period any more but the containers' annotations.
async fn stop_orphan(core: &Core, uid: &str) {
    let selector = HashMap::from([(labels::POD_UID.to_owned(), uid.to_owned())]);
    let filter = v1::ContainerFilter { label_selector: selector, ..Default::default() };
    let containers = core
        .runtime
        .list_containers(v1::ListContainersRequest { filter: Some(filter) })
        .await
        .map(|r| r.containers)
        .unwrap_or_default();
    let running = containers.into_iter().filter(|c| c.state == v1::ContainerState::ContainerRunning as i32);
    let stops = running.map(|container| async move {
        let seconds = |key: &str| container.annotations.get(key).and_then(|v| v.parse::<i64>().ok());
        let timeout = seconds(labels::DELETION_GRACE).or_else(|| seconds(labels::TERMINATION_GRACE)).unwrap_or(2);
        let stopped = core.runtime.stop_container(v1::StopContainerRequest { container_id: container.id.clone(), timeout }).await;
        warn_unless_gone(stopped, &container.id, "container was not stopped");
    });
    futures::future::join_all(stops).await;
}

/// Old incarnations of containers, and sandboxes that were replaced.
async fn dead_containers(core: &Core, uid: &str) {
    let Ok(snapshot) = crate::runtime::snapshot::take(&*core.runtime, uid).await else { return };
    let mut seen: HashMap<&str, usize> = HashMap::new();
    for record in &snapshot.containers {
        let index = seen.entry(record.name.as_str()).or_default();
        *index += 1;
        // The newest is the container itself; of the ones before a few are kept for `lastState` and `logs --previous`.
        if *index > 1 + DEAD_PER_CONTAINER && record.state == crate::runtime::snapshot::State::Exited {
            let removed = core.runtime.remove_container(v1::RemoveContainerRequest { container_id: record.id.clone() }).await;
            warn_unless_gone(removed, &record.id, "container was not removed");
            let _best_effort = tokio::fs::remove_file(&record.log_path).await;
        }
    }
    for sandbox in snapshot.sandboxes.iter().skip(1).filter(|s| !s.ready) {
        if !snapshot.containers.iter().any(|c| c.sandbox_id == sandbox.id) {
            let removed =
                core.runtime.remove_pod_sandbox(v1::RemovePodSandboxRequest { pod_sandbox_id: sandbox.id.clone() }).await;
            warn_unless_gone(removed, &sandbox.id, "sandbox was not removed");
        }
    }
}
