//! Requests and limits turned into what the kernel takes: shares, quota, bytes.

use std::collections::{BTreeMap, BTreeSet};

use cri::v1;
use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::pod::access::{PodAccess, is_sidecar};
use crate::pod::qos;
use crate::quantity;

/// The CFS period that upstream uses, in microseconds.
pub(crate) const CPU_PERIOD_US: i64 = 100_000;
/// The kernel's least `cpu.shares`.
const SHARES_MIN: i64 = 2;
/// The kernel's greatest `cpu.shares`.
const SHARES_MAX: i64 = 262_144;
/// The least quota that the kernel takes, in microseconds.
const QUOTA_MIN_US: i64 = 1_000;

/// `cpu.shares` for a request in thousandths of a core.
pub(crate) fn shares(milli_cpu: i64) -> i64 {
    if milli_cpu == 0 { SHARES_MIN } else { (milli_cpu * 1024 / 1000).clamp(SHARES_MIN, SHARES_MAX) }
}

/// The CFS quota for a limit in thousandths of a core; 0: none.
pub(crate) fn quota(milli_cpu: i64) -> i64 {
    if milli_cpu == 0 { 0 } else { (milli_cpu * CPU_PERIOD_US / 1000).max(QUOTA_MIN_US) }
}

fn amount(list: Option<&BTreeMap<String, Quantity>>, name: &str, read: fn(&Quantity) -> i64) -> Option<i64> {
    list?.get(name).map(read)
}

/// A request or limit of one container.
pub(crate) fn limit(resources: Option<&ResourceRequirements>, name: &str, read: fn(&Quantity) -> i64) -> Option<i64> {
    amount(resources?.limits.as_ref(), name, read)
}

/// A request of one container.
pub(crate) fn request(resources: Option<&ResourceRequirements>, name: &str, read: fn(&Quantity) -> i64) -> Option<i64> {
    amount(resources?.requests.as_ref(), name, read)
}

/// The CRI resources of one container.
pub(crate) fn container_resources(
    pod: &Pod,
    container: &Container,
    memory_capacity_bytes: u64,
    cgroup_v2: bool,
) -> v1::LinuxContainerResources {
    let resources = container.resources.as_ref();
    // A container without a limit of its own may have as much as the pod (KEP-2837).
    let of_pod = pod.pod_spec().resources.as_ref();
    let limit_of =
        |name: &str| limit(resources, name, read(name)).filter(|limit| *limit > 0).or_else(|| limit(of_pod, name, read(name)));
    let cpu_limit = limit_of("cpu");
    // As upstream: a limit without a request counts as the request.
    let cpu_request = request(resources, "cpu", quantity::milli).or(cpu_limit).unwrap_or(0);
    let memory_limit = limit_of("memory").unwrap_or(0);
    let mut unified = std::collections::HashMap::new();
    if cgroup_v2 {
        // KEP-1287's companion: the OOM killer takes the whole container (`singleProcessOOMKill: false`).
        unified.insert("memory.oom.group".to_owned(), "1".to_owned());
    }
    v1::LinuxContainerResources {
        cpu_period: if cpu_limit.is_some() { CPU_PERIOD_US } else { 0 },
        cpu_quota: quota(cpu_limit.unwrap_or(0)),
        cpu_shares: shares(cpu_request),
        memory_limit_in_bytes: memory_limit,
        oom_score_adj: qos::oom_score_adj(pod, container, memory_capacity_bytes),
        unified,
        // No swap for containers (NoSwap, upstream's default): memory + swap equals the memory limit.
        memory_swap_limit_in_bytes: memory_limit,
        ..Default::default()
    }
}

/// A pod's totals, for its cgroup: the sum of the containers, or the largest init container where that is more (KEP-753).
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct PodTotals {
    pub(crate) cpu_request_milli: i64,
    /// `None`: some container has no limit.
    pub(crate) cpu_limit_milli: Option<i64>,
    /// `None`: some container has no limit.
    pub(crate) memory_limit_bytes: Option<i64>,
}

/// How the amount of a resource is counted: processors in thousandths.
pub(crate) fn read(name: &str) -> fn(&Quantity) -> i64 {
    if name == "cpu" { quantity::milli } else { quantity::whole }
}

/// What a pod as a whole may ask for (KEP-2837); all else only its containers do.
fn is_of_pods(name: &str) -> bool {
    matches!(name, "cpu" | "memory") || name.starts_with("hugepages-")
}

/// The resources that a pod's requests, or its limits, name.
pub(crate) fn requested(pod: &Pod) -> BTreeSet<String> {
    let of_pod = pod.pod_spec().resources.as_ref();
    let all = pod.containers().iter().chain(pod.init_containers()).filter_map(|container| container.resources.as_ref());
    let lists = all.chain(of_pod).flat_map(|resources| [resources.requests.as_ref(), resources.limits.as_ref()]);
    lists.chain([pod.pod_spec().overhead.as_ref()]).flatten().flat_map(BTreeMap::keys).cloned().collect()
}

/// The containers' sum, or the largest init container with the sidecars before it where that is more (KEP-753). `None`: `all_must` have
/// a value, and one has none.
fn of_containers(pod: &Pod, value: &dyn Fn(&Container) -> Option<i64>, all_must: bool) -> Option<i64> {
    let value = |container: &Container| value(container).or((!all_must).then_some(0));
    let mut sum = 0;
    for container in pod.containers() {
        sum += value(container)?;
    }
    let (mut sidecars, mut peak) = (0, 0);
    for container in pod.init_containers() {
        let value = value(container)?;
        if is_sidecar(container) {
            sidecars += value;
            peak = peak.max(sidecars);
        } else {
            peak = peak.max(sidecars + value);
        }
    }
    Some((sum + sidecars).max(peak))
}

fn overhead(pod: &Pod, name: &str) -> i64 {
    amount(pod.pod_spec().overhead.as_ref(), name, read(name)).unwrap_or(0)
}

/// What the containers of a pod ask for of one resource. A limit without a request counts as one.
pub(crate) fn containers_request(pod: &Pod, name: &str) -> i64 {
    let value = |container: &Container| {
        let resources = container.resources.as_ref();
        request(resources, name, read(name)).or_else(|| limit(resources, name, read(name)))
    };
    of_containers(pod, &value, false).unwrap_or(0)
}

/// What a pod asks for of one resource: as a whole, or its containers; with its overhead.
pub(crate) fn pod_request(pod: &Pod, name: &str) -> i64 {
    let of_pod = pod.pod_spec().resources.as_ref().filter(|_| is_of_pods(name));
    let asked = request(of_pod, name, read(name)).unwrap_or_else(|| match containers_request(pod, name) {
        // As the API server has it by default.
        0 => limit(of_pod, name, read(name)).unwrap_or(0),
        sum => sum,
    });
    asked + overhead(pod, name)
}

/// The most that a pod may have of one resource; `None`: it has no limit, or one of its containers has none.
fn pod_limit(pod: &Pod, name: &str) -> Option<i64> {
    let of_pod = pod.pod_spec().resources.as_ref().filter(|_| is_of_pods(name));
    let positive = |value: &i64| *value > 0;
    let of_containers =
        || of_containers(pod, &|container| limit(container.resources.as_ref(), name, read(name)).filter(positive), true);
    Some(limit(of_pod, name, read(name)).filter(positive).or_else(of_containers)? + overhead(pod, name))
}

/// Sums a pod's requests and limits.
pub(crate) fn pod_totals(pod: &Pod) -> PodTotals {
    PodTotals {
        cpu_request_milli: pod_request(pod, "cpu"),
        cpu_limit_milli: pod_limit(pod, "cpu"),
        memory_limit_bytes: pod_limit(pod, "memory"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_numbers() {
        for (milli, expected_shares, expected_quota) in
            [(0, 2, 0), (1, 2, 1000), (500, 512, 50_000), (2000, 2048, 200_000), (1_000_000, 262_144, 100_000_000)]
        {
            assert_eq!((shares(milli), quota(milli)), (expected_shares, expected_quota), "{milli}m");
        }
    }

    #[test]
    fn pod_sums_follow_sidecar_rules() {
        let pod: Pod = serde_json::from_value(serde_json::json!({"spec": {
            "initContainers": [
                {"name": "i", "resources": {"requests": {"cpu": "300m"}, "limits": {"cpu": "1", "memory": "1Mi"}}},
                {"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": "50m"}, "limits": {"cpu": "1", "memory": "1Mi"}}}],
            "containers": [
                {"name": "a", "resources": {"requests": {"cpu": "100m"}, "limits": {"cpu": "1", "memory": "1Mi"}}},
                {"name": "b", "resources": {"requests": {"cpu": "100m"}, "limits": {"cpu": "1"}}}]}}))
        .unwrap();
        assert_eq!(pod_totals(&pod), PodTotals { cpu_request_milli: 300, cpu_limit_milli: Some(3000), memory_limit_bytes: None });
    }

    #[test]
    fn what_a_pod_asks_for_as_a_whole_goes_before_its_containers() {
        let pod: Pod = serde_json::from_value(serde_json::json!({"spec": {
            "overhead": {"cpu": "10m", "memory": "1Mi"},
            "resources": {"requests": {"memory": "100Mi"}, "limits": {"memory": "200Mi"}},
            "containers": [
                {"name": "a", "resources": {"requests": {"cpu": "100m", "memory": "10Mi", "example.com/x": "2"}, "limits": {"cpu": "1"}}},
                {"name": "b", "resources": {"requests": {"cpu": "50m"}, "limits": {"cpu": "500m", "memory": "20Mi"}}}]}}))
        .unwrap();
        let mebi = |count: i64| count << 20;
        assert_eq!((pod_request(&pod, "cpu"), pod_request(&pod, "memory")), (160, mebi(101)));
        assert_eq!((pod_request(&pod, "example.com/x"), containers_request(&pod, "memory")), (2, mebi(30)));
        let expected = PodTotals { cpu_request_milli: 160, cpu_limit_milli: Some(1510), memory_limit_bytes: Some(mebi(201)) };
        assert_eq!(pod_totals(&pod), expected);
        let memory = |index: usize| container_resources(&pod, &pod.containers()[index], 1 << 30, false).memory_limit_in_bytes;
        assert_eq!((memory(0), memory(1)), (mebi(200), mebi(20)), "the pod's, and its own");
        let names: Vec<String> = requested(&pod).into_iter().collect();
        assert_eq!(names, ["cpu", "example.com/x", "memory"]);
    }
}
