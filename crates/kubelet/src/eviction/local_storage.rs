//! Limits on what pods keep on the node's disk: an `emptyDir`'s `sizeLimit`, and `ephemeral-storage` of containers and of all of a pod's
//! containers together (<https://kubernetes.io/docs/concepts/storage/ephemeral-storage/>).
//!
//! Only pods that have such a limit are measured: it walks their files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use cri::v1;
use k8s_openapi::api::core::v1::{Pod, Volume};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::evict;
use crate::context::Core;
use crate::pod::access::PodAccess;
use crate::quantity;
use crate::runtime::labels;

const EPHEMERAL_STORAGE: &str = "ephemeral-storage";

/// What a pod has on the disk, in bytes, by name.
#[derive(Debug, Default)]
struct Usage {
    /// Of containers: what they have changed in their image, and their logs.
    containers: BTreeMap<String, u64>,
    empty_dirs: BTreeMap<String, u64>,
}

/// Evicts the pods that are over a limit.
pub(super) async fn check(core: &Core) {
    for entry in core.pods.all() {
        let pod = entry.pod();
        if entry.stop.is_cancelled() || !is_limited(&pod) {
            continue;
        }
        let usage = measure(core, &pod).await;
        if let Some(message) = excess(&pod, &usage) {
            evict(core, &entry, &pod, &message);
        }
    }
}

fn is_limited(pod: &Pod) -> bool {
    container_limits(pod).next().is_some() || empty_dirs(pod).any(|(_, limit)| limit.is_some())
}

/// The containers with a limit, and it.
fn container_limits(pod: &Pod) -> impl Iterator<Item = (&str, &Quantity)> {
    pod.containers().iter().filter_map(|container| {
        let limits = container.resources.as_ref()?.limits.as_ref()?;
        Some((container.name.as_str(), limits.get(EPHEMERAL_STORAGE)?))
    })
}

/// The `emptyDir` volumes on disk, and their limits.
fn empty_dirs(pod: &Pod) -> impl Iterator<Item = (&Volume, Option<&Quantity>)> {
    pod.pod_spec().volumes.iter().flatten().filter_map(|volume| {
        let source = volume.empty_dir.as_ref()?;
        let on_disk = source.medium.as_deref().unwrap_or_default().is_empty();
        on_disk.then_some((volume, source.size_limit.as_ref()))
    })
}

async fn measure(core: &Core, pod: &Pod) -> Usage {
    let mut usage = Usage { containers: layers(core, pod).await, ..Usage::default() };
    let volumes = core.config.pod_dir(pod.uid()).join("volumes/kubernetes.io~empty-dir");
    let logs = core.config.pod_log_dir(pod.namespace(), pod.name(), pod.uid());
    let volumes: Vec<(String, PathBuf)> =
        empty_dirs(pod).map(|(volume, _)| (volume.name.clone(), volumes.join(&volume.name))).collect();
    let logs: Vec<(String, PathBuf)> =
        pod.containers().iter().map(|container| (container.name.clone(), logs.join(&container.name))).collect();
    let of = |paths: Vec<(String, PathBuf)>| paths.into_iter().map(|(name, path)| (name, disk_use(&path))).collect::<Vec<_>>();
    let walked = tokio::task::spawn_blocking(move || (of(volumes), of(logs))).await;
    // A walk that panicked has been reported; the next round measures again.
    let Ok((volumes, logs)) = walked else { return usage };
    usage.empty_dirs.extend(volumes);
    for (name, bytes) in logs {
        *usage.containers.entry(name).or_default() += bytes;
    }
    usage
}

/// What the pod's containers have written over their images; of a container that was restarted, its last run.
async fn layers(core: &Core, pod: &Pod) -> BTreeMap<String, u64> {
    let label_selector = [(labels::POD_UID.to_owned(), pod.uid().to_owned())].into();
    let filter = Some(v1::ContainerStatsFilter { label_selector, ..v1::ContainerStatsFilter::default() });
    let answer = core.runtime.list_container_stats(v1::ListContainerStatsRequest { filter }).await;
    let mut stats = answer.map(|answer| answer.stats).unwrap_or_default();
    let attempt = |stats: &v1::ContainerStats| {
        stats.attributes.as_ref().and_then(|attributes| attributes.metadata.as_ref()).map(|metadata| metadata.attempt)
    };
    stats.sort_by_key(attempt);
    let used = |stats: v1::ContainerStats| {
        let name = stats.attributes?.labels.remove(labels::CONTAINER_NAME)?;
        Some((name, stats.writable_layer?.used_bytes?.value))
    };
    stats.into_iter().filter_map(used).collect()
}

/// Upstream's message for the first limit that is exceeded.
fn excess(pod: &Pod, usage: &Usage) -> Option<String> {
    let bytes = |limit: &Quantity| u64::try_from(quantity::whole(limit)).unwrap_or(0);
    let full = empty_dirs(pod).find_map(|(volume, limit)| {
        let (limit, used) = (limit?, usage.empty_dirs.get(&volume.name)?);
        let full = bytes(limit) > 0 && *used > bytes(limit);
        full.then(|| format!("Usage of EmptyDir volume \"{}\" exceeds the limit \"{}\". ", volume.name, limit.0))
    });
    if full.is_some() {
        return full;
    }
    let limits: BTreeMap<&str, &Quantity> = container_limits(pod).collect();
    let sum: u64 = limits.values().map(|limit| bytes(limit)).sum();
    let used: u64 = usage.containers.values().chain(usage.empty_dirs.values()).sum();
    if !limits.is_empty() && used > sum {
        let limit = quantity::bytes(sum).0;
        return Some(format!("Pod ephemeral local storage usage exceeds the total limit of containers {limit}. "));
    }
    limits
        .into_iter()
        .find(|(name, limit)| usage.containers.get(*name).is_some_and(|used| *used > bytes(limit)))
        .map(|(name, limit)| format!("Container {name} exceeded its local ephemeral storage limit \"{}\". ", limit.0))
}

/// Bytes that a directory occupies.
fn disk_use(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(metadata) = std::fs::symlink_metadata(path) else { return 0 };
    let own = metadata.blocks() * 512;
    if !metadata.is_dir() {
        return own;
    }
    own + std::fs::read_dir(path).into_iter().flatten().flatten().map(|e| disk_use(&e.path())).sum::<u64>()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_first_limit_that_is_exceeded() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {
            "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1Mi"}}, {"name": "m", "emptyDir": {"medium": "Memory", "sizeLimit": "1"}}],
            "containers": [
                {"name": "a", "resources": {"limits": {"ephemeral-storage": "5Mi"}}},
                {"name": "b", "resources": {"limits": {"ephemeral-storage": "3Mi"}}},
                {"name": "c"},
            ]}}))
        .unwrap();
        let check = |containers: &[(&str, u64)], empty_dir: u64, expected: Option<&str>| {
            let containers = containers.iter().map(|(name, mib)| ((*name).to_owned(), mib << 20)).collect();
            let usage = Usage { containers, empty_dirs: [("v".to_owned(), empty_dir)].into() };
            assert_eq!(excess(&pod, &usage).as_deref(), expected);
        };
        assert!(is_limited(&pod));
        check(&[], 0, None);
        check(&[("a", 5), ("b", 3)], 0, None);
        check(&[], (1 << 20) + 1, Some("Usage of EmptyDir volume \"v\" exceeds the limit \"1Mi\". "));
        check(&[("a", 1), ("b", 4)], 0, Some("Container b exceeded its local ephemeral storage limit \"3Mi\". "));
        let total = Some("Pod ephemeral local storage usage exceeds the total limit of containers 8Mi. ");
        check(&[("a", 5), ("b", 3)], 1, total);
        check(&[("c", 9)], 0, total);
    }

    #[test]
    fn pods_without_limits_are_not_measured() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {
            "volumes": [{"name": "v", "emptyDir": {}}], "containers": [{"name": "c", "resources": {"limits": {"cpu": "1"}}}]}}))
        .unwrap();
        assert!(!is_limited(&pod));
    }
}
