//! `/stats/summary`: use of processor, memory and disk by node, pod and container
//! (<https://pkg.go.dev/k8s.io/kubelet/pkg/apis/stats/v1alpha1>). Numbers come from the runtime and the kernel; what neither tells is left out.

use std::collections::BTreeMap;

use cri::v1;
use http::{Response, StatusCode};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Map, Value, json};

use super::cadvisor::sandboxes;
use super::pods::{identity, uid};
use super::{Body, json as answer, text};
use crate::context::Core;
use crate::node::machine::Pressure;
use crate::pod::access::PodAccess;
use crate::runtime::labels;

fn time(nanoseconds: i64) -> Value {
    let stamp = if nanoseconds > 0 { Timestamp::from_nanosecond(i128::from(nanoseconds)).ok() } else { None };
    json!(stamp.unwrap_or_else(Timestamp::now).to_string())
}

fn number(value: Option<&v1::UInt64Value>) -> Option<u64> {
    value.map(|v| v.value)
}

fn cpu(usage: &v1::CpuUsage) -> Value {
    let mut fields = Map::from_iter([("time".to_owned(), time(usage.timestamp))]);
    insert(&mut fields, "usageNanoCores", number(usage.usage_nano_cores.as_ref()));
    insert(&mut fields, "usageCoreNanoSeconds", number(usage.usage_core_nano_seconds.as_ref()));
    Value::Object(fields)
}

fn memory(usage: &v1::MemoryUsage) -> Value {
    let mut fields = Map::from_iter([("time".to_owned(), time(usage.timestamp))]);
    for (key, value) in [
        ("availableBytes", &usage.available_bytes),
        ("usageBytes", &usage.usage_bytes),
        ("workingSetBytes", &usage.working_set_bytes),
        ("rssBytes", &usage.rss_bytes),
        ("pageFaults", &usage.page_faults),
        ("majorPageFaults", &usage.major_page_faults),
    ] {
        insert(&mut fields, key, number(value.as_ref()));
    }
    Value::Object(fields)
}

fn insert(fields: &mut Map<String, Value>, key: &str, value: Option<u64>) {
    if let Some(value) = value {
        fields.insert(key.to_owned(), json!(value));
    }
}

fn swap(usage: &v1::SwapUsage) -> Value {
    let mut fields = Map::from_iter([("time".to_owned(), time(usage.timestamp))]);
    insert(&mut fields, "swapAvailableBytes", number(usage.swap_available_bytes.as_ref()));
    insert(&mut fields, "swapUsageBytes", number(usage.swap_usage_bytes.as_ref()));
    Value::Object(fields)
}

fn interface(usage: &v1::NetworkInterfaceUsage) -> Map<String, Value> {
    let mut fields = Map::from_iter([("name".to_owned(), json!(usage.name))]);
    for (key, value) in [
        ("rxBytes", &usage.rx_bytes),
        ("rxErrors", &usage.rx_errors),
        ("txBytes", &usage.tx_bytes),
        ("txErrors", &usage.tx_errors),
    ] {
        insert(&mut fields, key, number(value.as_ref()));
    }
    fields
}

/// The default interface's numbers, and those of all.
fn network(usage: &v1::NetworkUsage) -> Value {
    let mut fields = usage.default_interface.as_ref().map(interface).unwrap_or_default();
    fields.insert("time".to_owned(), time(usage.timestamp));
    fields.insert("interfaces".to_owned(), usage.interfaces.iter().map(|one| Value::Object(interface(one))).collect());
    Value::Object(fields)
}

fn container(stats: &v1::ContainerStats, name: &str, started: Option<&Time>) -> Value {
    let mut fields = Map::from_iter([("name".to_owned(), json!(name))]);
    if let Some(started) = started {
        fields.insert("startTime".to_owned(), json!(started));
    }
    if let Some(usage) = &stats.cpu {
        fields.insert("cpu".to_owned(), cpu(usage));
    }
    if let Some(usage) = &stats.memory {
        fields.insert("memory".to_owned(), memory(usage));
    }
    if let Some(usage) = &stats.swap {
        fields.insert("swap".to_owned(), swap(usage));
    }
    if let Some(layer) = &stats.writable_layer {
        let mut rootfs = Map::from_iter([("time".to_owned(), time(layer.timestamp))]);
        insert(&mut rootfs, "usedBytes", number(layer.used_bytes.as_ref()));
        insert(&mut rootfs, "inodesUsed", number(layer.inodes_used.as_ref()));
        fields.insert("rootfs".to_owned(), Value::Object(rootfs));
    }
    Value::Object(fields)
}

/// The summary. Refused when the runtime does not say what containers use.
pub(super) async fn summary(core: &Core) -> Response<Body> {
    let stats = match core.runtime.list_container_stats(v1::ListContainerStatsRequest { filter: None }).await {
        Ok(response) => response.stats,
        Err(status) => {
            let message = format!("failed to list pod stats: failed to list all container stats: {}\n", status.message());
            return text(StatusCode::INTERNAL_SERVER_ERROR, message);
        }
    };
    let sandboxes = sandboxes(core).await;
    let sandbox_of = |uid: &str| {
        let is = |stats: &&v1::PodSandboxStats| {
            stats.attributes.as_ref().and_then(|attributes| attributes.labels.get(labels::POD_UID)).is_some_and(|own| own == uid)
        };
        sandboxes.iter().find(is).and_then(|stats| stats.linux.as_ref())
    };
    let mut pods: BTreeMap<(String, String), Vec<&v1::ContainerStats>> = BTreeMap::new();
    for item in &stats {
        let Some(attributes) = &item.attributes else { continue };
        let (namespace, pod, _) = identity(attributes);
        pods.entry((namespace, pod)).or_default().push(item);
    }
    let pods = pods.iter().filter_map(|((namespace, name), containers)| {
        let entry = core.pods.get(&uid(core, namespace, name)?)?;
        let (pod, status) = (entry.pod(), entry.status.lock().clone());
        Some(pod_stats(&pod, &status, containers, sandbox_of(pod.uid())))
    });
    let pods: Vec<Value> = pods.collect();
    answer(&json!({"node": node(core).await, "pods": pods}))
}

/// A pod: its containers, and what its cgroup says; where the runtime does not read that, the sum of the containers.
fn pod_stats(
    pod: &Pod,
    status: &PodStatus,
    containers: &[&v1::ContainerStats],
    sandbox: Option<&v1::LinuxPodSandboxStats>,
) -> Value {
    let sum = |read: &dyn Fn(&v1::ContainerStats) -> Option<u64>| -> Option<u64> {
        containers.iter().filter_map(|c| read(c)).reduce(|a, b| a + b)
    };
    let cpu_total = sandbox.and_then(|sandbox| sandbox.cpu.as_ref()).map(cpu).unwrap_or_else(|| {
        let mut total = Map::from_iter([("time".to_owned(), time(0))]);
        insert(&mut total, "usageNanoCores", sum(&|c| number(c.cpu.as_ref()?.usage_nano_cores.as_ref())));
        insert(&mut total, "usageCoreNanoSeconds", sum(&|c| number(c.cpu.as_ref()?.usage_core_nano_seconds.as_ref())));
        Value::Object(total)
    });
    let memory_total = sandbox.and_then(|sandbox| sandbox.memory.as_ref()).map(memory).unwrap_or_else(|| {
        let mut total = Map::from_iter([("time".to_owned(), time(0))]);
        insert(&mut total, "usageBytes", sum(&|c| number(c.memory.as_ref()?.usage_bytes.as_ref())));
        insert(&mut total, "workingSetBytes", sum(&|c| number(c.memory.as_ref()?.working_set_bytes.as_ref())));
        Value::Object(total)
    });
    let started = |name: &str| {
        let statuses = [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses];
        let found = statuses.into_iter().flatten().flatten().find(|status| status.name == name)?;
        found.state.as_ref()?.running.as_ref()?.started_at.as_ref()
    };
    let list = containers.iter().map(|stats| {
        let name = stats.attributes.as_ref().map(|attributes| identity(attributes).2).unwrap_or_default();
        container(stats, &name, started(&name))
    });
    let mut fields = json!({
        "podRef": {"name": pod.name(), "namespace": pod.namespace(), "uid": pod.uid()},
        "startTime": status.start_time, "containers": list.collect::<Vec<_>>(), "cpu": cpu_total, "memory": memory_total,
    });
    let swap_total = sum(&|c| number(c.swap.as_ref()?.swap_usage_bytes.as_ref()));
    if let Some(usage) = swap_total {
        fields["swap"] = json!({"time": time(0), "swapUsageBytes": usage});
    }
    // The host's network is not the pod's.
    if let Some(usage) = sandbox.and_then(|sandbox| sandbox.network.as_ref()).filter(|_| !pod.host_network()) {
        fields["network"] = network(usage);
    }
    if let Some(count) = sandbox.and_then(|sandbox| number(sandbox.process.as_ref()?.process_count.as_ref())) {
        fields["process_stats"] = json!({"process_count": count});
    }
    fields
}

/// Processor time of the whole machine in nanoseconds, from the aggregate line of /proc/stat.
pub(super) fn node_cpu_nanoseconds() -> Option<u64> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    let fields: Vec<u64> = stat.lines().next()?.split_whitespace().skip(1).filter_map(|f| f.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal: all but idle and iowait, in ticks of 10 ms.
    let busy: u64 = fields.iter().take(8).enumerate().filter(|(index, _)| !matches!(index, 3 | 4)).map(|(_, value)| value).sum();
    Some(busy * 10_000_000)
}

async fn node(core: &Core) -> Value {
    let pressure = Pressure::read(&core.config.root_dir);
    let used = core.machine.memory_bytes.saturating_sub(pressure.memory_available_bytes);
    let images = core.images.image_fs_info(v1::ImageFsInfoRequest {}).await.ok();
    let image_bytes: Option<u64> = images
        .as_ref()
        .and_then(|i| i.image_filesystems.iter().filter_map(|f| number(f.used_bytes.as_ref())).reduce(|a, b| a + b));
    let fs = json!({
        "time": time(0), "availableBytes": pressure.disk_available_bytes, "capacityBytes": pressure.disk_bytes,
        "usedBytes": pressure.disk_bytes.saturating_sub(pressure.disk_available_bytes),
        "inodesFree": pressure.inodes_free, "inodes": pressure.inodes, "inodesUsed": pressure.inodes.saturating_sub(pressure.inodes_free),
    });
    let mut image_fs = fs.clone();
    if let Some(bytes) = image_bytes {
        image_fs["usedBytes"] = json!(bytes);
    }
    json!({
        "nodeName": core.config.node_name,
        "cpu": {"time": time(0), "usageCoreNanoSeconds": node_cpu_nanoseconds()},
        "memory": {"time": time(0), "availableBytes": pressure.memory_available_bytes, "usageBytes": used, "workingSetBytes": used},
        "fs": fs,
        "runtime": {"imageFs": image_fs},
        "rlimit": {"time": time(0), "maxpid": pressure.pids_max, "curproc": pressure.pids},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pods_numbers_are_its_cgroups_or_the_sum_of_its_containers() {
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": {"containers": []}}))
                .expect("is a pod");
        let status: PodStatus = serde_json::from_value(json!({"startTime": "2026-01-01T00:00:00Z", "containerStatuses": [
            {"name": "c", "image": "i", "imageID": "", "ready": true, "restartCount": 0, "state": {"running": {"startedAt": "2026-01-01T00:00:05Z"}}}]}))
        .expect("is a status");
        let value = |value| Some(v1::UInt64Value { value });
        let cpu = |usage| Some(v1::CpuUsage { usage_core_nano_seconds: value(usage), timestamp: 1, ..Default::default() });
        let attributes = v1::ContainerAttributes {
            labels: std::collections::HashMap::from([(labels::CONTAINER_NAME.to_owned(), "c".to_owned())]),
            ..Default::default()
        };
        let one = v1::ContainerStats { attributes: Some(attributes), cpu: cpu(5), ..Default::default() };
        let other = v1::ContainerStats { cpu: cpu(7), ..Default::default() };
        let alone = pod_stats(&pod, &status, &[&one, &other], None);
        assert_eq!(alone["cpu"]["usageCoreNanoSeconds"], 12);
        assert_eq!(alone["podRef"], json!({"name": "p", "namespace": "n", "uid": "u"}));
        assert_eq!(alone["containers"][0]["startTime"], "2026-01-01T00:00:05Z");
        assert_eq!((alone.get("network"), alone["containers"][1].get("startTime")), (None, None));
        let eth0 = v1::NetworkInterfaceUsage { name: "eth0".to_owned(), rx_bytes: value(3), ..Default::default() };
        let sandbox = v1::LinuxPodSandboxStats {
            cpu: cpu(20),
            network: Some(v1::NetworkUsage { default_interface: Some(eth0.clone()), interfaces: vec![eth0], timestamp: 1 }),
            process: Some(v1::ProcessUsage { process_count: value(4), ..Default::default() }),
            ..Default::default()
        };
        let whole = pod_stats(&pod, &status, &[&one, &other], Some(&sandbox));
        assert_eq!(whole["cpu"]["usageCoreNanoSeconds"], 20);
        assert_eq!((&whole["network"]["name"], &whole["network"]["rxBytes"]), (&json!("eth0"), &json!(3)));
        assert_eq!(whole["network"]["interfaces"], json!([{"name": "eth0", "rxBytes": 3}]));
        assert_eq!(whole["process_stats"], json!({"process_count": 4}));
    }
}
