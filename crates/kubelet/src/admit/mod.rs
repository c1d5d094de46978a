//! Whether this node can run a pod at all; upstream's lifecycle admission handlers. A pod that is refused fails for good.

mod node_rules;

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};

use crate::context::Core;
use crate::pod::access::PodAccess;
use crate::pod::allocation::{self, Pending};
use crate::pod::qos::{self, Qos};
use crate::pod::resources;
use crate::quantity;

/// Sysctls that every pod may set (<https://kubernetes.io/docs/tasks/administer-cluster/sysctl-cluster/>).
const SAFE_SYSCTLS: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
];

/// Refuses with upstream's reason and message.
pub(crate) fn check(core: &Core, pod: &Pod) -> Result<(), (String, String)> {
    sysctls(core, pod)?;
    let node = core.node.lock().clone();
    if let Some(node) = &node {
        node_selector(node, pod)?;
        pressure(node, pod)?;
    }
    // A restarted kubelet does not refuse what it has started before.
    if !already_running(pod) {
        fits(core, pod)?;
        node_rules::ports(pod, others(core, pod).iter().map(|other| &**other))?;
    }
    let taints = node.and_then(|node| node.spec?.taints).unwrap_or_default();
    node_rules::taints(pod, &taints)
}

fn sysctls(core: &Core, pod: &Pod) -> Result<(), (String, String)> {
    for sysctl in pod.security().and_then(|s| s.sysctls.as_ref()).into_iter().flatten() {
        let name = sysctl.name.replace('/', ".");
        let allowed = core.config.allowed_unsafe_sysctls.iter().any(|p| match p.strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix),
            None => *p == name,
        });
        if !SAFE_SYSCTLS.contains(&name.as_str()) && !allowed {
            return Err(("SysctlForbidden".to_owned(), format!("forbidden sysctl: \"{name}\" not allowlisted")));
        }
        if pod.host_network() && name.starts_with("net.") {
            return Err((
                "SysctlForbidden".to_owned(),
                format!("forbidden sysctl: \"{name}\" not allowed with host net enabled"),
            ));
        }
    }
    Ok(())
}

/// A pod that was bound by hand must match the node all the same.
fn node_selector(node: &Node, pod: &Pod) -> Result<(), (String, String)> {
    let labels = node.metadata.labels.as_ref();
    let selector = pod.pod_spec().node_selector.iter().flatten();
    for (key, value) in selector {
        if labels.and_then(|l| l.get(key)) != Some(value) {
            return Err(node_rules::refusal("NodeAffinity", "node(s) didn't match Pod's node affinity/selector"));
        }
    }
    Ok(())
}

/// Under memory pressure only pods that asked for memory are taken, under disk pressure none (upstream's eviction manager).
fn pressure(node: &Node, pod: &Pod) -> Result<(), (String, String)> {
    if already_running(pod) || pod.is_static() {
        return Ok(());
    }
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let under = |kind: &str| conditions.iter().any(|c| c.type_ == kind && c.status == "True");
    let tolerates =
        pod.pod_spec().tolerations.iter().flatten().any(|t| t.key.as_deref() == Some("node.kubernetes.io/memory-pressure"));
    let found = if under("DiskPressure") {
        "DiskPressure"
    } else if under("MemoryPressure") && qos::class(pod) == Qos::BestEffort && !tolerates {
        "MemoryPressure"
    } else {
        return Ok(());
    };
    Err(("Evicted".to_owned(), format!("The node had condition: [{found}]. ")))
}

/// Why a pod that runs here cannot have the resources that it now asks for; `None`: it can.
pub(crate) fn resize(core: &Core, pod: &Pod) -> Option<Pending> {
    let wanted = needs(core, pod);
    if let Some(need) = wanted.iter().rev().find(|need| need.requested > need.capacity) {
        let message = format!(
            "Node didn't have enough capacity: {}, requested: {}, capacity: {}",
            need.name, need.requested, need.capacity
        );
        return Some(Pending { reason: "Infeasible", message });
    }
    fits(core, pod).err().map(|(_, message)| Pending { reason: "Deferred", message })
}

/// One resource of the node and what one pod wants of it.
struct Need {
    name: &'static str,
    requested: i64,
    capacity: i64,
}

fn memory_request(pod: &Pod) -> i64 {
    pod.containers().iter().filter_map(|c| resources::request(c.resources.as_ref(), "memory", quantity::whole)).sum::<i64>()
}

fn needs(core: &Core, pod: &Pod) -> [Need; 3] {
    let memory = core.machine.memory_bytes.saturating_sub(core.config.eviction_memory_available_bytes);
    [
        Need { name: "pods", requested: 1, capacity: i64::from(core.config.pods_max) },
        Need {
            name: "cpu",
            requested: resources::pod_totals(pod).cpu_request_milli,
            capacity: i64::try_from(core.machine.cpus * 1000).unwrap_or(i64::MAX),
        },
        Need { name: "memory", requested: memory_request(pod), capacity: i64::try_from(memory).unwrap_or(i64::MAX) },
    ]
}

/// The other pods that run here, with what they were granted.
fn others(core: &Core, pod: &Pod) -> Vec<Arc<Pod>> {
    let entries = core.pods.all().into_iter().filter(|entry| !entry.is_removed());
    let running = |other: &Arc<Pod>| !other.phase_is_terminal() && other.uid() != pod.uid() && already_running(other);
    entries.map(|entry| allocation::granted(&entry)).filter(running).collect()
}

/// Whether processors, memory and the number of pods suffice beside the pods that are here.
fn fits(core: &Core, pod: &Pod) -> Result<(), (String, String)> {
    let active = others(core, pod);
    for Need { name, requested, capacity } in needs(core, pod) {
        let used: i64 = match name {
            "pods" => i64::try_from(active.len()).unwrap_or(i64::MAX),
            "cpu" => active.iter().map(|p| resources::pod_totals(p).cpu_request_milli).sum(),
            _ => active.iter().map(|p| memory_request(p)).sum(),
        };
        if requested > 0 && requested + used > capacity {
            let message =
                format!("Node didn't have enough resource: {name}, requested: {requested}, used: {used}, capacity: {capacity}");
            return Err((format!("OutOf{name}"), message));
        }
    }
    Ok(())
}

/// Pods that were started before are not refused in favour of newer ones.
fn already_running(pod: &Pod) -> bool {
    pod.pod_status().start_time.is_some()
}
