//! Downward API: a pod's fields and a container's resources as text
//! (<https://kubernetes.io/docs/concepts/workloads/pods/downward-api/>).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::context::Core;
use crate::pod::access::PodAccess;
use crate::pod::resources;
use crate::quantity;

/// The value of a field path such as `metadata.labels['app']` or `status.podIP`.
pub(crate) fn pod_field(core: &Core, pod: &Pod, path: &str, ips: &[String]) -> Result<String, String> {
    let node = || core.host_ips();
    let spec = pod.pod_spec();
    let value = match path {
        "metadata.name" => pod.name().to_owned(),
        "metadata.namespace" => pod.namespace().to_owned(),
        "metadata.uid" => pod.uid().to_owned(),
        "metadata.labels" => listed(pod.metadata.labels.as_ref()),
        "metadata.annotations" => listed(pod.metadata.annotations.as_ref()),
        "spec.nodeName" => spec.node_name.clone().unwrap_or_default(),
        "spec.serviceAccountName" => spec.service_account_name.clone().unwrap_or_default(),
        "spec.restartPolicy" => pod.restart_policy().to_owned(),
        "spec.schedulerName" => spec.scheduler_name.clone().unwrap_or_default(),
        "status.hostIP" => node().first().cloned().unwrap_or_default(),
        "status.hostIPs" => node().join(","),
        "status.podIP" => ips.first().cloned().unwrap_or_default(),
        "status.podIPs" => ips.join(","),
        "status.phase" => pod.phase().to_owned(),
        _ => return subscripted(pod, path).ok_or_else(|| format!("unsupported fieldPath: {path}")),
    };
    Ok(value)
}

fn subscripted(pod: &Pod, path: &str) -> Option<String> {
    let (map, key) = path.strip_suffix("']")?.split_once("['")?;
    let entries = match map {
        "metadata.labels" => pod.metadata.labels.as_ref(),
        "metadata.annotations" => pod.metadata.annotations.as_ref(),
        _ => return None,
    };
    Some(entries.and_then(|e| e.get(key)).cloned().unwrap_or_default())
}

/// `key="value"` lines, the value quoted as Go's %q does.
fn listed(map: Option<&BTreeMap<String, String>>) -> String {
    let lines: Vec<String> = map.into_iter().flatten().map(|(key, value)| format!("{key}={}", go_quote(value))).collect();
    lines.join("\n")
}

fn go_quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            '\r' => quoted.push_str("\\r"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => quoted.push_str(&format!("\\x{:02x}", c as u32)),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// `limits.cpu` and its like, divided and rounded up. A limit that is not set is what the node has.
pub(crate) fn resource_field(
    core: &Core,
    container: &Container,
    resource: &str,
    divisor: Option<&Quantity>,
) -> Result<String, String> {
    let own = container.resources.as_ref();
    let (kind, name) = resource.split_once('.').ok_or_else(|| format!("unsupported container resource: {resource}"))?;
    let read: fn(&Quantity) -> i64 = if name == "cpu" { quantity::milli } else { quantity::whole };
    let capacity = || match name {
        "cpu" => i64::try_from(core.machine.cpus * 1000).unwrap_or(i64::MAX),
        "memory" => i64::try_from(core.machine.memory_bytes.saturating_sub(core.config.eviction_memory_available_bytes))
            .unwrap_or(i64::MAX),
        "ephemeral-storage" => i64::try_from(core.machine.disk_bytes).unwrap_or(i64::MAX),
        _ => 0,
    };
    if !matches!(name, "cpu" | "memory" | "ephemeral-storage") && !name.starts_with("hugepages-") {
        return Err(format!("unsupported container resource: {resource}"));
    }
    let value = match kind {
        "limits" => resources::limit(own, name, read).filter(|v| *v > 0).unwrap_or_else(capacity),
        "requests" => resources::request(own, name, read).or_else(|| resources::limit(own, name, read)).unwrap_or(0),
        _ => return Err(format!("unsupported container resource: {resource}")),
    };
    let divisor = divisor.map(read).filter(|d| *d > 0).unwrap_or(if name == "cpu" { 1000 } else { 1 });
    Ok((value / divisor + i64::from(value % divisor != 0)).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_and_subscripts() {
        let pod: Pod = serde_json::from_value(
            serde_json::json!({"metadata": {"labels": {"a": "x\"y", "b": "1"}, "annotations": {"example.com/k": "v"}}}),
        )
        .unwrap();
        assert_eq!(listed(pod.metadata.labels.as_ref()), "a=\"x\\\"y\"\nb=\"1\"");
        assert_eq!(subscripted(&pod, "metadata.annotations['example.com/k']"), Some("v".to_owned()));
        assert_eq!(subscripted(&pod, "metadata.labels['none']"), Some(String::new()));
        assert_eq!(subscripted(&pod, "spec.x['a']"), None);
    }
}
