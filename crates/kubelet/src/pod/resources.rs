//! Requests and limits turned into what the kernel takes: shares, quota, bytes.

use std::collections::BTreeMap;

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
    let cpu_limit = limit(resources, "cpu", quantity::milli);
    // As upstream: a limit without a request counts as the request.
    let cpu_request = request(resources, "cpu", quantity::milli).or(cpu_limit).unwrap_or(0);
    let memory_limit = limit(resources, "memory", quantity::whole).unwrap_or(0);
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

/// Sums a pod's requests and limits.
pub(crate) fn pod_totals(pod: &Pod) -> PodTotals {
    if let Some(resources) = pod.pod_spec().resources.as_ref() {
        return PodTotals {
            cpu_request_milli: request(Some(resources), "cpu", quantity::milli)
                .or_else(|| limit(Some(resources), "cpu", quantity::milli))
                .unwrap_or(0),
            cpu_limit_milli: limit(Some(resources), "cpu", quantity::milli),
            memory_limit_bytes: limit(Some(resources), "memory", quantity::whole),
        };
    }
    let combine = |read: &dyn Fn(&Container) -> Option<i64>, all_must: bool| -> Option<i64> {
        let mut sum = 0;
        for container in pod.containers() {
            match read(container) {
                Some(value) => sum += value,
                None if all_must => return None,
                None => {}
            }
        }
        let mut sidecars = 0;
        let mut peak = 0;
        for container in pod.init_containers() {
            let value = match read(container) {
                Some(value) => value,
                None if all_must => return None,
                None => 0,
            };
            if is_sidecar(container) {
                sidecars += value;
                peak = peak.max(sidecars);
            } else {
                peak = peak.max(sidecars + value);
            }
        }
        Some((sum + sidecars).max(peak))
    };
    let overhead = |name: &str, read: fn(&Quantity) -> i64| amount(pod.pod_spec().overhead.as_ref(), name, read).unwrap_or(0);
    let cpu_request = |c: &Container| {
        request(c.resources.as_ref(), "cpu", quantity::milli).or_else(|| limit(c.resources.as_ref(), "cpu", quantity::milli))
    };
    PodTotals {
        cpu_request_milli: combine(&cpu_request, false).unwrap_or(0) + overhead("cpu", quantity::milli),
        cpu_limit_milli: combine(&|c| limit(c.resources.as_ref(), "cpu", quantity::milli), true)
            .map(|v| v + overhead("cpu", quantity::milli)),
        memory_limit_bytes: combine(&|c| limit(c.resources.as_ref(), "memory", quantity::whole), true)
            .map(|v| v + overhead("memory", quantity::whole)),
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
}
