//! `/stats/summary`: use of processor, memory and disk by node, pod and container
//! (<https://pkg.go.dev/k8s.io/kubelet/pkg/apis/stats/v1alpha1>). Numbers come from the runtime and the kernel; what neither tells is left out.

use std::collections::BTreeMap;

use cri::v1;
use http::Response;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::pods::{identity, uid};
use super::{Body, json as answer};
use crate::context::Core;
use crate::node::machine::Pressure;

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

fn container(stats: &v1::ContainerStats, name: &str) -> Value {
    let mut fields = Map::from_iter([("name".to_owned(), json!(name)), ("startTime".to_owned(), time(0))]);
    fields.remove("startTime");
    if let Some(usage) = &stats.cpu {
        fields.insert("cpu".to_owned(), cpu(usage));
    }
    if let Some(usage) = &stats.memory {
        fields.insert("memory".to_owned(), memory(usage));
    }
    if let Some(layer) = &stats.writable_layer {
        let mut rootfs = Map::from_iter([("time".to_owned(), time(layer.timestamp))]);
        insert(&mut rootfs, "usedBytes", number(layer.used_bytes.as_ref()));
        insert(&mut rootfs, "inodesUsed", number(layer.inodes_used.as_ref()));
        fields.insert("rootfs".to_owned(), Value::Object(rootfs));
    }
    Value::Object(fields)
}

/// The summary.
pub(super) async fn summary(core: &Core) -> Response<Body> {
    let stats = core
        .runtime
        .list_container_stats(v1::ListContainerStatsRequest { filter: None })
        .await
        .map(|r| r.stats)
        .unwrap_or_default();
    let mut pods: BTreeMap<(String, String), Vec<&v1::ContainerStats>> = BTreeMap::new();
    for item in &stats {
        let Some(attributes) = &item.attributes else { continue };
        let (namespace, pod, _) = identity(attributes);
        pods.entry((namespace, pod)).or_default().push(item);
    }
    let pods: Vec<Value> =
        pods.iter().filter_map(|((namespace, name), containers)| pod(core, namespace, name, containers)).collect();
    answer(&json!({"node": node(core).await, "pods": pods}))
}

fn pod(core: &Core, namespace: &str, name: &str, containers: &[&v1::ContainerStats]) -> Option<Value> {
    let uid = uid(core, namespace, name)?;
    let start = core.pods.get(&uid)?.status.lock().start_time.clone();
    let sum = |read: &dyn Fn(&v1::ContainerStats) -> Option<u64>| -> Option<u64> {
        containers.iter().filter_map(|c| read(c)).reduce(|a, b| a + b)
    };
    let mut cpu_total = Map::from_iter([("time".to_owned(), time(0))]);
    insert(&mut cpu_total, "usageNanoCores", sum(&|c| number(c.cpu.as_ref()?.usage_nano_cores.as_ref())));
    insert(&mut cpu_total, "usageCoreNanoSeconds", sum(&|c| number(c.cpu.as_ref()?.usage_core_nano_seconds.as_ref())));
    let mut memory_total = Map::from_iter([("time".to_owned(), time(0))]);
    insert(&mut memory_total, "usageBytes", sum(&|c| number(c.memory.as_ref()?.usage_bytes.as_ref())));
    insert(&mut memory_total, "workingSetBytes", sum(&|c| number(c.memory.as_ref()?.working_set_bytes.as_ref())));
    let list: Vec<Value> =
        containers.iter().map(|c| container(c, &c.attributes.as_ref().map(|a| identity(a).2).unwrap_or_default())).collect();
    Some(
        json!({"podRef": {"name": name, "namespace": namespace, "uid": uid}, "startTime": start, "containers": list, "cpu": cpu_total, "memory": memory_total}),
    )
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
