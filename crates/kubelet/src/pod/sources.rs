//! Where pods come from: the API (a watch of the pods bound to this node) and a directory of manifests.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use client::{Change, Informer};
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::watcher;
use sha2::{Digest, Sha256};

use crate::context::Core;
use crate::pod::access::{CONFIG_HASH, CONFIG_SOURCE, PodAccess};
use crate::pod::{manager, mirror};

/// How often the manifest directory is looked at besides change notifications (upstream: `fileCheckFrequency`, 20 s).
const FILE_PERIOD: Duration = Duration::from_secs(20);

/// Follows the API's pods of this node; the returned informer is synced when the first list was handed over.
pub(crate) fn follow_api(core: &Arc<Core>) -> Informer<Pod> {
    let config = watcher::Config::default().fields(&format!("spec.nodeName={}", core.config.node_name));
    let (informer, task) = Informer::<Pod>::start(core.client.clone(), config, core.token.clone());
    let weak = Arc::downgrade(core);
    informer.add_handler(move |change| {
        let Some(core) = weak.upgrade() else { return };
        match change {
            Change::Added(pod) => seen(&core, pod),
            Change::Updated { old, new } => {
                // Deleted and made again under the same name while the watch was away.
                if old.uid() != new.uid() {
                    gone(&core, old);
                }
                seen(&core, new);
            }
            Change::Deleted(pod) => gone(&core, pod),
        }
    });
    core.tasks.spawn(task);
    informer
}

fn seen(core: &Arc<Core>, pod: &Arc<Pod>) {
    if pod.is_mirror() { mirror::seen(core, pod) } else { manager::upsert(core, Arc::clone(pod)) }
}

fn gone(core: &Arc<Core>, pod: &Arc<Pod>) {
    if pod.is_mirror() { mirror::gone(core, pod) } else { manager::remove(core, Arc::clone(pod)) }
}

/// Follows the manifest directory until the kubelet stops.
pub(crate) async fn follow_files(core: Arc<Core>) {
    let Some(directory) = core.config.static_pod_dir.clone() else { return };
    let mut known: HashMap<String, Arc<Pod>> = HashMap::new();
    let mut node_ready = false;
    loop {
        // A mirror pod needs the Node to be there first.
        if !node_ready {
            node_ready = core.node.lock().is_some();
        }
        let found = read_manifests(&core, &directory);
        for (uid, pod) in &found {
            if !known.contains_key(uid) {
                manager::upsert(&core, Arc::clone(pod));
            }
        }
        for (uid, pod) in &known {
            if !found.contains_key(uid) {
                manager::remove(&core, Arc::clone(pod));
                mirror::delete(&core, pod).await;
            }
        }
        known = found;
        let mut all_mirrored = true;
        for pod in known.values() {
            all_mirrored &= mirror::ensure(&core, pod).await;
        }
        let wait = if all_mirrored { FILE_PERIOD } else { Duration::from_secs(1) };
        tokio::select! {
            () = core.token.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

fn read_manifests(core: &Core, directory: &std::path::Path) -> HashMap<String, Arc<Pod>> {
    let mut pods = HashMap::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        let hidden = entry.file_name().to_string_lossy().starts_with('.');
        if hidden || !path.is_file() {
            continue;
        }
        match std::fs::read(&path).map_err(|e| e.to_string()).and_then(|bytes| parse(core, &bytes, &path.to_string_lossy())) {
            Ok(pod) => {
                pods.insert(pod.uid().to_owned(), Arc::new(pod));
            }
            Err(error) => tracing::warn!(path = %path.display(), error, "unusable static pod manifest"),
        }
    }
    pods
}

/// Reads a manifest and gives the pod what the API server would have given it: name, uid, defaults.
fn parse(core: &Core, bytes: &[u8], path: &str) -> Result<Pod, String> {
    let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
    let mut pod: Pod = serde_json::from_str(text).or_else(|_| yaml(text))?;
    let node = &core.config.node_name;
    let hash = hex::encode(&Sha256::new().chain_update(node).chain_update(path).chain_update(bytes).finalize()[..16]);
    let metadata = &mut pod.metadata;
    let name = metadata.name.take().filter(|n| !n.is_empty()).ok_or("the manifest has no metadata.name")?;
    metadata.name = Some(format!("{name}-{}", node.to_lowercase()));
    metadata.namespace.get_or_insert_with(|| "default".to_owned());
    metadata.uid = Some(hash.clone());
    let annotations = metadata.annotations.get_or_insert_default();
    annotations.insert(CONFIG_SOURCE.to_owned(), "file".to_owned());
    annotations.insert(CONFIG_HASH.to_owned(), hash);
    let spec = pod.spec.as_mut().ok_or("the manifest has no spec")?;
    spec.node_name = Some(node.clone());
    spec.restart_policy.get_or_insert_with(|| "Always".to_owned());
    spec.dns_policy.get_or_insert_with(|| "ClusterFirst".to_owned());
    spec.termination_grace_period_seconds.get_or_insert(30);
    spec.enable_service_links.get_or_insert(true);
    for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        container.termination_message_path.get_or_insert_with(|| "/dev/termination-log".to_owned());
        container.termination_message_policy.get_or_insert_with(|| "File".to_owned());
        let latest = container
            .image
            .as_deref()
            .is_some_and(|i| i.ends_with(":latest") || !i.rsplit('/').next().unwrap_or(i).contains(':'));
        container.image_pull_policy.get_or_insert_with(|| if latest { "Always" } else { "IfNotPresent" }.to_owned());
    }
    // A static pod cannot be put off its node by a taint.
    spec.tolerations.get_or_insert_default().push(k8s_openapi::api::core::v1::Toleration {
        operator: Some("Exists".to_owned()),
        effect: Some("NoExecute".to_owned()),
        ..Default::default()
    });
    Ok(pod)
}

fn yaml(text: &str) -> Result<Pod, String> {
    // By way of JSON text: a second set of code that reads pods would cost 2 MB of the executable.
    let document = apimachinery::yaml::parse_one(text.as_bytes()).map_err(|e| e.to_string())?;
    serde_json::from_str(&document.value.to_json()).map_err(|e| e.to_string())
}
