//! Evicts pods when memory or disk runs out, and pods that outgrow their limits of local storage
//! (<https://kubernetes.io/docs/concepts/scheduling-eviction/node-pressure-eviction/>).

mod local_storage;

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use cri::v1;
use k8s_openapi::api::core::v1::Pod;

use crate::context::Core;
use crate::gc;
use crate::node::machine::Pressure;
use crate::pod::access::PodAccess;
use crate::pod::manager::PodEntry;
use crate::pod::resources;
use crate::quantity;
use crate::runtime::labels;

/// How often the machine is looked at (upstream: `monitoringInterval`).
const PERIOD: Duration = Duration::from_secs(10);

/// What is short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shortage {
    Memory { threshold: u64, available: u64 },
    Disk { threshold: u64, available: u64 },
    Inodes { threshold: u64, available: u64 },
}

/// Watches until the kubelet stops.
pub(crate) async fn run(core: Arc<Core>) {
    loop {
        tokio::select! {
            () = core.token.cancelled() => return,
            () = tokio::time::sleep(PERIOD) => {}
        }
        local_storage::check(&core).await;
        let Some(mut shortage) = shortage(&core) else { continue };
        core.node_changed.notify_one();
        if !matches!(shortage, Shortage::Memory { .. }) {
            gc::images::free_all(&core).await;
            match self::shortage(&core) {
                None => continue,
                Some(still) => shortage = still,
            }
        }
        evict_one(&core, shortage).await;
    }
}

fn shortage(core: &Core) -> Option<Shortage> {
    by_pressure(
        Pressure::read(&core.config.root_dir),
        core.config.eviction_memory_available_bytes,
        core.config.eviction_nodefs_available_percent,
        core.config.eviction_nodefs_inodes_free_percent,
    )
}

fn by_pressure(pressure: Pressure, memory_bytes: u64, disk_percent: u8, inodes_percent: u8) -> Option<Shortage> {
    let disk = pressure.disk_bytes / 100 * u64::from(disk_percent);
    let inodes = pressure.inodes / 100 * u64::from(inodes_percent);
    if pressure.memory_available_bytes < memory_bytes {
        Some(Shortage::Memory { threshold: memory_bytes, available: pressure.memory_available_bytes })
    } else if pressure.disk_available_bytes < disk {
        Some(Shortage::Disk { threshold: disk, available: pressure.disk_available_bytes })
    } else if pressure.inodes_free < inodes {
        Some(Shortage::Inodes { threshold: inodes, available: pressure.inodes_free })
    } else {
        None
    }
}

/// Static and system-critical pods stay whatever happens.
fn may_go(pod: &Pod) -> bool {
    !pod.is_static() && !pod.is_mirror() && pod.pod_spec().priority.is_none_or(|p| p < 2_000_000_000)
}

fn memory_request(pod: &Pod) -> u64 {
    let sum: i64 =
        pod.containers().iter().filter_map(|c| resources::request(c.resources.as_ref(), "memory", quantity::whole)).sum();
    u64::try_from(sum).unwrap_or(0)
}

/// Working set by pod uid.
async fn memory_use(core: &Core) -> HashMap<String, u64> {
    let stats = core
        .runtime
        .list_container_stats(v1::ListContainerStatsRequest { filter: None })
        .await
        .map(|r| r.stats)
        .unwrap_or_default();
    let mut by_pod = HashMap::new();
    for item in stats {
        let uid = item.attributes.as_ref().and_then(|a| a.labels.get(labels::POD_UID)).cloned().unwrap_or_default();
        *by_pod.entry(uid).or_default() += item.memory.and_then(|m| m.working_set_bytes).map_or(0, |v| v.value);
    }
    by_pod
}

/// The first to go: who uses more than it asked for, then the lowest priority, then the greatest excess.
fn rank(pods: &mut [(Arc<PodEntry>, Arc<Pod>)], used: &HashMap<String, u64>) {
    let excess = |pod: &Pod| i128::from(used.get(pod.uid()).copied().unwrap_or(0)) - i128::from(memory_request(pod));
    pods.sort_by_key(|(_, pod)| (excess(pod) <= 0, pod.pod_spec().priority.unwrap_or(0), Reverse(excess(pod))));
}

async fn evict_one(core: &Core, shortage: Shortage) {
    let used = memory_use(core).await;
    let entries = core.pods.all().into_iter().filter(|e| !e.stop.is_cancelled()).map(|e| (Arc::clone(&e), e.pod()));
    let mut pods: Vec<_> = entries.filter(|(_, pod)| may_go(pod)).collect();
    rank(&mut pods, &used);
    let Some((entry, pod)) = pods.first() else {
        tracing::warn!(?shortage, "the node is short of a resource and no pod may be evicted");
        return;
    };
    let (name, threshold, available) = match shortage {
        Shortage::Memory { threshold, available } => ("memory", quantity::bytes(threshold).0, quantity::bytes(available).0),
        Shortage::Disk { threshold, available } => {
            ("ephemeral-storage", quantity::bytes(threshold).0, quantity::bytes(available).0)
        }
        Shortage::Inodes { threshold, available } => ("inodes", threshold.to_string(), available.to_string()),
    };
    let message = format!("The node was low on resource: {name}. Threshold quantity: {threshold}, available: {available}. ");
    evict(core, entry, pod, &message);
}

fn evict(core: &Core, entry: &PodEntry, pod: &Pod, message: &str) {
    tracing::info!(namespace = pod.namespace(), name = pod.name(), uid = pod.uid(), detail = message, "evicting a pod");
    core.events.pod(pod, "Warning", "Evicted", message);
    entry.fail("Evicted", message);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds() {
        let pressure = |memory, disk, inodes| Pressure {
            memory_available_bytes: memory,
            disk_bytes: 1000,
            disk_available_bytes: disk,
            inodes: 1000,
            inodes_free: inodes,
            ..Pressure::default()
        };
        for (found, expected) in [
            (pressure(100, 500, 500), None),
            (pressure(99, 500, 500), Some(Shortage::Memory { threshold: 100, available: 99 })),
            (pressure(100, 99, 500), Some(Shortage::Disk { threshold: 100, available: 99 })),
            (pressure(100, 100, 49), Some(Shortage::Inodes { threshold: 50, available: 49 })),
        ] {
            assert_eq!(by_pressure(found, 100, 10, 5), expected, "{found:?}");
        }
    }

    #[test]
    fn the_greediest_of_the_lowest_priority_goes_first() {
        let pod = |name: &str, priority: i32, request: &str| -> Arc<Pod> {
            Arc::new(serde_json::from_value(serde_json::json!({"metadata": {"name": name, "uid": name}, "spec": {"priority": priority, "containers": [{"name": "c", "resources": {"requests": {"memory": request}}}]}})).unwrap())
        };
        let mut pods: Vec<_> = [pod("modest", -5, "1Gi"), pod("important", 9, "0"), pod("greedy", 0, "0"), pod("small", 0, "0")]
            .into_iter()
            .map(|p| (Arc::new(PodEntry::new(Arc::clone(&p))), p))
            .collect();
        let used = HashMap::from([
            ("modest".to_owned(), 500),
            ("important".to_owned(), 900),
            ("greedy".to_owned(), 700),
            ("small".to_owned(), 10),
        ]);
        rank(&mut pods, &used);
        assert_eq!(pods.iter().map(|(_, p)| p.name()).collect::<Vec<_>>(), ["greedy", "small", "important", "modest"]);
    }
}
