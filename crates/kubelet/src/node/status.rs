//! Computes the node's status every ten seconds and reports it when it changed, or every five minutes (KEP-589).
//!
//! Only what the kubelet owns is written: a resource that someone else added to `status.capacity` (extended resources) and conditions of
//! other types stay.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeFeatures, NodeRuntimeHandler,
    NodeRuntimeHandlerFeatures, NodeSwapStatus, NodeSystemInfo,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};

use crate::context::Core;
use crate::node::machine::{Pressure, architecture};
use crate::quantity;

/// Images named in the status at most (`--node-status-max-images`).
const IMAGES_MAX: usize = 50;

/// What the kubelet says about its node, before timestamps.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct NodeStatus {
    pub(crate) capacity: BTreeMap<String, Quantity>,
    pub(crate) allocatable: BTreeMap<String, Quantity>,
    pub(crate) conditions: Vec<NodeCondition>,
    pub(crate) addresses: Vec<NodeAddress>,
    pub(crate) info: NodeSystemInfo,
    pub(crate) endpoints: NodeDaemonEndpoints,
    pub(crate) images: Vec<ContainerImage>,
    pub(crate) handlers: Vec<NodeRuntimeHandler>,
    pub(crate) features: Option<NodeFeatures>,
}

fn condition(kind: &str, bad: bool, good_reason: &str, good_message: &str, bad_reason: &str, bad_message: &str) -> NodeCondition {
    let (reason, message) = if bad { (bad_reason, bad_message) } else { (good_reason, good_message) };
    NodeCondition {
        type_: kind.to_owned(),
        status: if bad { "True" } else { "False" }.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_heartbeat_time: None,
        last_transition_time: None,
    }
}

impl NodeStatus {
    /// Looks at the machine and the runtime.
    pub(crate) async fn compute(core: &Core) -> Self {
        let machine = &core.machine;
        let reserved = core.config.eviction_memory_available_bytes;
        let mut capacity = BTreeMap::from([
            ("cpu".to_owned(), Quantity(machine.cpus.to_string())),
            ("memory".to_owned(), quantity_ki(machine.memory_bytes)),
            ("pods".to_owned(), Quantity(core.config.pods_max.to_string())),
            ("ephemeral-storage".to_owned(), quantity_ki(machine.disk_bytes)),
        ]);
        let mut allocatable = capacity.clone();
        allocatable.insert("memory".to_owned(), quantity_ki(machine.memory_bytes.saturating_sub(reserved)));
        // Upstream takes the hard eviction threshold (10%) off and prints plain bytes.
        let share = u64::from(100 - core.config.eviction_nodefs_available_percent.min(100));
        allocatable.insert("ephemeral-storage".to_owned(), Quantity((machine.disk_bytes / 100 * share).to_string()));
        for (size, bytes) in &machine.hugepages {
            let key = format!("hugepages-{size}");
            capacity.insert(key.clone(), quantity::bytes(*bytes));
            allocatable.insert(key, quantity::bytes(*bytes));
        }
        let (handlers, features, runtime_error) = runtime_status(core).await;
        Self {
            capacity,
            allocatable,
            conditions: conditions(core, runtime_error),
            addresses: addresses(core),
            info: info(core),
            endpoints: NodeDaemonEndpoints {
                kubelet_endpoint: core.server_port().map(|port| DaemonEndpoint { port: i32::from(port) }),
            },
            images: images(core).await,
            handlers,
            features,
        }
    }

    /// The strategic merge patch that brings `node`'s status to this one, and whether anything but heartbeats differs.
    pub(crate) fn patch(&self, node: &Node, now: &Time) -> (Value, bool) {
        let old = node.status.as_ref();
        let mut changed = false;
        let mut patch = serde_json::Map::new();
        let mut field = |key: &str, same: bool, value: Value| {
            if !same {
                changed = true;
                patch.insert(key.to_owned(), value);
            }
        };
        let within = |list: Option<&BTreeMap<String, Quantity>>, ours: &BTreeMap<String, Quantity>| {
            ours.iter().all(|(k, v)| list.and_then(|l| l.get(k)) == Some(v))
        };
        field("capacity", within(old.and_then(|o| o.capacity.as_ref()), &self.capacity), json!(self.capacity));
        let mut allocatable = self.allocatable.clone();
        // Upstream: an extended resource that only capacity has becomes allocatable too.
        for (name, value) in old.and_then(|o| o.capacity.as_ref()).into_iter().flatten() {
            if name.contains('/') {
                allocatable.insert(name.clone(), value.clone());
            }
        }
        field("allocatable", within(old.and_then(|o| o.allocatable.as_ref()), &allocatable), json!(allocatable));
        let same_addresses = old.and_then(|o| o.addresses.as_ref()) == Some(&self.addresses);
        let mut addresses = vec![json!({"$patch": "replace"})];
        addresses.extend(self.addresses.iter().map(|a| json!(a)));
        if old.and_then(|o| o.addresses.as_ref()).is_none_or(Vec::is_empty) {
            addresses.remove(0);
        }
        field("addresses", same_addresses, Value::Array(addresses));
        field("nodeInfo", old.and_then(|o| o.node_info.as_ref()) == Some(&self.info), json!(self.info));
        field("daemonEndpoints", old.and_then(|o| o.daemon_endpoints.as_ref()) == Some(&self.endpoints), json!(self.endpoints));
        field("images", old.and_then(|o| o.images.as_deref()).unwrap_or_default() == self.images, json!(self.images));
        field(
            "runtimeHandlers",
            old.and_then(|o| o.runtime_handlers.as_deref()).unwrap_or_default() == self.handlers,
            json!(self.handlers),
        );
        field("features", old.and_then(|o| o.features.as_ref()) == self.features.as_ref(), json!(self.features));
        let known = old.and_then(|o| o.conditions.as_deref()).unwrap_or_default();
        let conditions: Vec<NodeCondition> = self.conditions.iter().map(|c| stamp(c, known, now, &mut changed)).collect();
        patch.insert("conditions".to_owned(), json!(conditions));
        (json!({"status": patch}), changed)
    }
}

/// Gives a condition its times: the transition's is kept while the status is the same.
fn stamp(condition: &NodeCondition, known: &[NodeCondition], now: &Time, changed: &mut bool) -> NodeCondition {
    let old = known.iter().find(|k| k.type_ == condition.type_);
    let same_status = old.filter(|o| o.status == condition.status);
    *changed |=
        old.is_none_or(|o| o.status != condition.status || o.reason != condition.reason || o.message != condition.message);
    NodeCondition {
        last_heartbeat_time: Some(now.clone()),
        last_transition_time: Some(same_status.and_then(|o| o.last_transition_time.clone()).unwrap_or_else(|| now.clone())),
        ..condition.clone()
    }
}

/// Memory and disk are printed in Ki as upstream's machine info does.
fn quantity_ki(bytes: u64) -> Quantity {
    Quantity(format!("{}Ki", bytes / 1024))
}

fn conditions(core: &Core, runtime_error: Option<String>) -> Vec<NodeCondition> {
    let pressure = Pressure::read(&core.config.root_dir);
    let memory = pressure.memory_available_bytes < core.config.eviction_memory_available_bytes;
    let disk = pressure.disk_available_bytes * 100
        < pressure.disk_bytes * u64::from(core.config.eviction_nodefs_available_percent)
        || (pressure.inodes > 0
            && pressure.inodes_free * 100 < pressure.inodes * u64::from(core.config.eviction_nodefs_inodes_free_percent));
    // A tenth of the process ids left: no threshold upstream by default, but a node without ids cannot run anything.
    let pids = pressure.pids * 10 > pressure.pids_max * 9;
    vec![
        condition(
            "MemoryPressure",
            memory,
            "KubeletHasSufficientMemory",
            "kubelet has sufficient memory available",
            "KubeletHasInsufficientMemory",
            "kubelet has insufficient memory available",
        ),
        condition(
            "DiskPressure",
            disk,
            "KubeletHasNoDiskPressure",
            "kubelet has no disk pressure",
            "KubeletHasDiskPressure",
            "kubelet has disk pressure",
        ),
        condition(
            "PIDPressure",
            pids,
            "KubeletHasSufficientPID",
            "kubelet has sufficient PID available",
            "KubeletHasInsufficientPID",
            "kubelet has insufficient PID available",
        ),
        NodeCondition {
            type_: "Ready".to_owned(),
            status: if runtime_error.is_none() { "True" } else { "False" }.to_owned(),
            reason: Some(if runtime_error.is_none() { "KubeletReady" } else { "KubeletNotReady" }.to_owned()),
            message: Some(runtime_error.unwrap_or_else(|| "kubelet is posting ready status".to_owned())),
            last_heartbeat_time: None,
            last_transition_time: None,
        },
    ]
}

/// The runtime's handlers and features, and why it is not ready, if so.
async fn runtime_status(core: &Core) -> (Vec<NodeRuntimeHandler>, Option<NodeFeatures>, Option<String>) {
    let response = match core.runtime.status(cri::v1::StatusRequest { verbose: false }).await {
        Ok(response) => response,
        Err(status) => return (Vec::new(), None, Some(format!("container runtime is down: {}", status.message()))),
    };
    let problems: Vec<String> = response
        .status
        .iter()
        .flat_map(|s| &s.conditions)
        .filter(|c| !c.status && matches!(c.r#type.as_str(), "RuntimeReady" | "NetworkReady"))
        .map(|c| {
            let what = if c.r#type == "NetworkReady" { "container runtime network" } else { "container runtime" };
            format!("{what} not ready: {}={} reason:{} message:{}", c.r#type, c.status, c.reason, c.message)
        })
        .collect();
    let handlers = response
        .runtime_handlers
        .iter()
        .map(|h| NodeRuntimeHandler {
            name: Some(h.name.clone()),
            features: h.features.as_ref().map(|f| NodeRuntimeHandlerFeatures {
                recursive_read_only_mounts: Some(f.recursive_read_only_mounts),
                user_namespaces: Some(f.user_namespaces),
            }),
        })
        .collect();
    let features =
        response.features.as_ref().map(|f| NodeFeatures { supplemental_groups_policy: Some(f.supplemental_groups_policy) });
    (handlers, features, (!problems.is_empty()).then(|| problems.join(", ")))
}

fn addresses(core: &Core) -> Vec<NodeAddress> {
    let internal = core.config.node_ips.iter().map(|ip| NodeAddress { type_: "InternalIP".to_owned(), address: ip.to_string() });
    internal.chain([NodeAddress { type_: "Hostname".to_owned(), address: core.config.hostname.clone() }]).collect()
}

fn info(core: &Core) -> NodeSystemInfo {
    let machine = &core.machine;
    NodeSystemInfo {
        architecture: architecture().to_owned(),
        boot_id: machine.boot_id.clone(),
        container_runtime_version: format!("{}://{}", core.runtime_name, core.runtime_version),
        kernel_version: machine.kernel_version.clone(),
        kube_proxy_version: String::new(),
        kubelet_version: core.config.kubelet_version.clone(),
        machine_id: machine.machine_id.clone(),
        operating_system: "linux".to_owned(),
        os_image: machine.os_image.clone(),
        swap: (machine.swap_bytes > 0).then(|| NodeSwapStatus { capacity: i64::try_from(machine.swap_bytes).ok() }),
        system_uuid: machine.system_uuid.clone(),
    }
}

async fn images(core: &Core) -> Vec<ContainerImage> {
    let Ok(response) = core.images.list_images(cri::v1::ListImagesRequest { filter: None }).await else { return Vec::new() };
    let mut images = response.images;
    images.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.id.cmp(&b.id)));
    images
        .into_iter()
        .take(IMAGES_MAX)
        .map(|image| ContainerImage {
            names: Some(image.repo_digests.into_iter().chain(image.repo_tags).collect()),
            size_bytes: i64::try_from(image.size).ok(),
        })
        .collect()
}

/// Reports the status until the kubelet stops. Says so once when the node first becomes Ready.
pub(crate) async fn report_status(core: Arc<Core>) {
    let api: Api<Node> = Api::all(core.client.clone());
    let mut known: Option<Node> = None;
    let mut reported = tokio::time::Instant::now();
    let mut failures = 0u32;
    loop {
        let due = reported.elapsed() >= core.config.status_report_interval;
        let wait = match report_once(&core, &api, &mut known, due).await {
            Ok(sent) => {
                failures = 0;
                if sent {
                    reported = tokio::time::Instant::now();
                }
                core.config.status_update_interval
            }
            Err(error) => {
                // The API server may still be starting: soon again, then slower.
                failures += 1;
                known = None;
                tracing::debug!(%error, failures, "node status was not reported");
                if let kube::Error::Api(status) = &error
                    && status.code == 404
                {
                    let _registered = super::register(&core).await;
                }
                core.config.status_update_interval.min(std::time::Duration::from_millis(50 * u64::from(failures.min(100))))
            }
        };
        tokio::select! {
            () = core.token.cancelled() => return,
            () = core.node_changed.notified() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

async fn report_once(core: &Core, api: &Api<Node>, known: &mut Option<Node>, due: bool) -> Result<bool, kube::Error> {
    let status = NodeStatus::compute(core).await;
    // The last answer may be old, when others patch the node: look again before deciding, as upstream does (from its cache).
    let node = match known.take() {
        Some(node) => core.node.lock().clone().unwrap_or(node),
        None => api.get(&core.config.node_name).await?,
    };
    let (patch, changed) = status.patch(&node, &Time(jiff::Timestamp::now()));
    if !changed && !due {
        *known = Some(node);
        return Ok(false);
    }
    let was_ready = is_ready(&node);
    let node = api.patch_status(&core.config.node_name, &PatchParams::default(), &Patch::Strategic(patch)).await?;
    let ready = is_ready(&node);
    if ready != was_ready {
        let (reason, state) = if ready { ("NodeReady", "NodeReady") } else { ("NodeNotReady", "NodeNotReady") };
        tracing::info!(node = %core.config.node_name, ready, "node readiness changed");
        core.events.node("Normal", reason, format!("Node {} status is now: {state}", core.config.node_name));
    }
    *core.node.lock() = Some(node.clone());
    *known = Some(node);
    Ok(true)
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True")
}
