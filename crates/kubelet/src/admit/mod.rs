//! Whether this node can run a pod at all; upstream's lifecycle admission handlers. A pod that is refused fails for good.

mod affinity;
mod node_rules;
mod resources;

use k8s_openapi::api::core::v1::{Node, Pod};

use crate::context::Core;
use crate::pod::access::PodAccess;
use crate::pod::qos::{self, Qos};

pub(crate) use resources::resize;

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

/// Refuses with upstream's reason and message. A refusal for the node's labels is asked about once more, with the node as it is now: who
/// bound the pod may have seen a label that we have not seen yet.
pub(crate) async fn admit(core: &Core, pod: &Pod) -> Result<(), (String, String)> {
    match check(core, pod) {
        Err((reason, _)) if reason == affinity::REASON => {}
        other => return other,
    }
    let nodes: kube::Api<Node> = kube::Api::all(core.client.clone());
    match nodes.get(&core.config.node_name).await {
        Ok(node) => *core.node.lock() = Some(node),
        Err(error) => tracing::warn!(%error, "the node cannot be read"),
    }
    check(core, pod)
}

fn check(core: &Core, pod: &Pod) -> Result<(), (String, String)> {
    sysctls(core, pod)?;
    let node = core.node.lock().clone();
    affinity::operating_system(pod)?;
    if let Some(node) = &node {
        affinity::supplemental_groups(node, pod)?;
        affinity::node_affinity(node, pod)?;
        pressure(node, pod)?;
    }
    // A restarted kubelet does not refuse what it has started before.
    if !already_running(pod) {
        resources::fits(core, pod)?;
        node_rules::ports(pod, resources::others(core, pod).iter().map(|other| &**other))?;
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

/// Pods that were started before are not refused in favour of newer ones.
fn already_running(pod: &Pod) -> bool {
    pod.pod_status().start_time.is_some()
}
