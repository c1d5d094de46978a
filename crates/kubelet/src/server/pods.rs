//! What the kubelet knows: its pods, its configuration.

use std::collections::BTreeMap;

use cri::v1;
use http::Response;
use serde_json::json;

use super::{Body, json as answer};
use crate::context::Core;
use crate::pod::access::PodAccess;
use crate::runtime::labels;

/// `/pods`: the pods of this node with their status as computed.
pub(super) fn all(core: &Core) -> Response<Body> {
    let items: Vec<_> = core
        .pods
        .all()
        .into_iter()
        .map(|entry| {
            let mut pod = (*entry.pod()).clone();
            pod.status = Some(entry.status.lock().clone());
            pod
        })
        .collect();
    answer(&json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}))
}

/// `/runningpods`: what the runtime runs, whatever the API knows.
pub(super) async fn running(core: &Core) -> Response<Body> {
    let filter = v1::ContainerFilter {
        state: Some(v1::ContainerStateValue { state: v1::ContainerState::ContainerRunning as i32 }),
        ..Default::default()
    };
    let containers = core
        .runtime
        .list_containers(v1::ListContainersRequest { filter: Some(filter) })
        .await
        .map(|r| r.containers)
        .unwrap_or_default();
    let mut pods: BTreeMap<String, serde_json::Value> = BTreeMap::new();
    for container in containers {
        let label = |key: &str| container.labels.get(key).cloned().unwrap_or_default();
        let uid = label(labels::POD_UID);
        let pod = pods.entry(uid.clone()).or_insert_with(|| {
            json!({"metadata": {"name": label(labels::POD_NAME), "namespace": label(labels::POD_NAMESPACE), "uid": uid}, "spec": {"containers": []}, "status": {}})
        });
        let image = container.image.as_ref().map(|i| i.image.clone()).unwrap_or_default();
        if let Some(list) = pod["spec"]["containers"].as_array_mut() {
            list.push(json!({"name": label(labels::CONTAINER_NAME), "image": image, "resources": {}}));
        }
    }
    let items: Vec<_> = pods.into_values().collect();
    answer(&json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}))
}

/// `/configz`
pub(super) fn configuration(core: &Core) -> Response<Body> {
    let config = &core.config;
    let dns: Vec<String> = config.cluster_dns.iter().map(ToString::to_string).collect();
    answer(&json!({"kubeletconfig": {
        "kind": "KubeletConfiguration",
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "port": core.server_port(),
        "address": config.bind_address.to_string(),
        "clusterDomain": config.cluster_domain,
        "clusterDNS": dns,
        "resolvConf": config.resolv_conf.to_string_lossy(),
        "cgroupRoot": config.cgroup_root,
        "cgroupsPerQOS": config.cgroups_per_qos,
        "cgroupDriver": "cgroupfs",
        "maxPods": config.pods_max,
        "nodeStatusUpdateFrequency": format!("{}s", config.status_update_interval.as_secs()),
        "nodeStatusReportFrequency": format!("{}s", config.status_report_interval.as_secs()),
        "nodeLeaseDurationSeconds": config.lease_duration.as_secs(),
        "imageGCHighThresholdPercent": config.image_gc_high_percent,
        "imageGCLowThresholdPercent": config.image_gc_low_percent,
        "containerLogMaxSize": config.container_log_bytes_max.to_string(),
        "containerLogMaxFiles": config.container_log_files_max,
        "evictionHard": {
            "memory.available": format!("{}", config.eviction_memory_available_bytes),
            "nodefs.available": format!("{}%", config.eviction_nodefs_available_percent),
            "nodefs.inodesFree": format!("{}%", config.eviction_nodefs_inodes_free_percent),
        },
        "staticPodPath": config.static_pod_dir.as_ref().map(|p| p.to_string_lossy().into_owned()),
        "authentication": {"anonymous": {"enabled": false}, "webhook": {"enabled": true}},
        "authorization": {"mode": "Webhook"},
        "failSwapOn": false,
        "memorySwap": {"swapBehavior": "NoSwap"},
        "enableDebuggingHandlers": true,
    }}))
}

/// Which container of which pod a container's labels name: namespace, pod, container.
pub(super) fn identity(attributes: &v1::ContainerAttributes) -> (String, String, String) {
    let label = |key: &str| attributes.labels.get(key).cloned().unwrap_or_default();
    (label(labels::POD_NAMESPACE), label(labels::POD_NAME), label(labels::CONTAINER_NAME))
}

/// The start time of a pod's container in seconds, as the status has it.
pub(super) fn container_start(core: &Core, namespace: &str, pod: &str, container: &str) -> Option<f64> {
    let entry = core.pods.by_name(namespace, pod)?;
    let status = entry.status.lock().clone();
    let found = status.container_statuses?.into_iter().find(|s| s.name == container)?;
    #[allow(clippy::cast_precision_loss)] // Seconds since 1970 fit a double.
    Some(found.state?.running?.started_at?.0.as_second() as f64)
}

/// The uid of a pod of this node.
pub(super) fn uid(core: &Core, namespace: &str, pod: &str) -> Option<String> {
    core.pods.by_name(namespace, pod).map(|entry| entry.pod().uid().to_owned())
}
