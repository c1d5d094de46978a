//! Whether processors, memory and all else that the node counts suffice beside the pods that are here (upstream's NodeResourcesFit, as the
//! kubelet asks it), at admission and when a pod is resized.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};

use crate::context::Core;
use crate::pod::access::PodAccess;
use crate::pod::allocation::{self, Pending};
use crate::pod::resources;

/// One resource of the node, and what one pod wants of it.
#[derive(Debug, PartialEq, Eq)]
struct Need {
    name: String,
    requested: i64,
    capacity: i64,
}

/// What the node has for pods.
struct Capacity<'a> {
    pods: i64,
    cpu_milli: i64,
    memory_bytes: i64,
    /// As last reported: what else it has.
    node: Option<&'a Node>,
}

impl Capacity<'_> {
    /// `None`: the node does not count it, or has not said yet.
    fn of(&self, name: &str) -> Option<i64> {
        match name {
            "cpu" => return Some(self.cpu_milli),
            "memory" => return Some(self.memory_bytes),
            _ => {}
        }
        let allocatable = self.node?.status.as_ref()?.allocatable.as_ref()?;
        match allocatable.get(name) {
            Some(quantity) => Some(resources::read(name)(quantity)),
            // Resources of others may be counted elsewhere (upstream: `removeMissingExtendedResources`); what Kubernetes itself knows the node
            // has none of.
            None if is_extended(name) => None,
            None => Some(0),
        }
    }
}

/// A resource that somebody else than Kubernetes has named.
fn is_extended(name: &str) -> bool {
    name.contains('/') && !name.contains("kubernetes.io/")
}

/// Upstream's order: the number of pods, processors, memory, disk, all else by name.
fn needs(pod: &Pod, capacity: &Capacity<'_>) -> Vec<Need> {
    let mut names: Vec<String> = resources::requested(pod).into_iter().collect();
    let rank = |name: &str| ["cpu", "memory", "ephemeral-storage"].iter().position(|known| *known == name).unwrap_or(3);
    names.sort_by_key(|name| rank(name));
    let pods = Need { name: "pods".to_owned(), requested: 1, capacity: capacity.pods };
    let others = names.into_iter().filter_map(|name| {
        let (requested, capacity) = (resources::pod_request(pod, &name), capacity.of(&name)?);
        (requested > 0).then_some(Need { name, requested, capacity })
    });
    std::iter::once(pods).chain(others).collect()
}

/// The first need that the pods which are here leave too little for.
fn shortage(needs: &[Need], others: &[Arc<Pod>]) -> Result<(), (String, String)> {
    for Need { name, requested, capacity } in needs {
        let used = match name.as_str() {
            "pods" => i64::try_from(others.len()).unwrap_or(i64::MAX),
            _ => others.iter().map(|other| resources::pod_request(other, name)).sum(),
        };
        if requested + used > *capacity {
            let message =
                format!("Node didn't have enough resource: {name}, requested: {requested}, used: {used}, capacity: {capacity}");
            return Err((format!("OutOf{name}"), message));
        }
    }
    Ok(())
}

fn all_needs(core: &Core, pod: &Pod) -> Vec<Need> {
    let memory = core.machine.memory_bytes.saturating_sub(core.config.eviction_memory_available_bytes);
    let node = core.node.lock().clone();
    let capacity = Capacity {
        pods: i64::from(core.config.pods_max),
        cpu_milli: i64::try_from(core.machine.cpus * 1000).unwrap_or(i64::MAX),
        memory_bytes: i64::try_from(memory).unwrap_or(i64::MAX),
        node: node.as_ref(),
    };
    needs(pod, &capacity)
}

/// Refuses a pod for which something does not suffice.
pub(super) fn fits(core: &Core, pod: &Pod) -> Result<(), (String, String)> {
    shortage(&all_needs(core, pod), &others(core, pod))
}

/// Why a pod that runs here cannot have the resources that it now asks for; `None`: it can.
pub(crate) fn resize(core: &Core, pod: &Pod) -> Option<Pending> {
    let wanted = all_needs(core, pod);
    // All that the node has: what only the threshold of eviction stands against is deferred, as upstream does it.
    let memory = i64::try_from(core.machine.memory_bytes).unwrap_or(i64::MAX);
    let cpu = i64::try_from(core.machine.cpus * 1000).unwrap_or(i64::MAX);
    for (name, capacity) in [("memory", memory), ("cpu", cpu)] {
        if let Some(need) = wanted.iter().find(|need| need.name == name && need.requested > capacity) {
            let requested = need.requested;
            let message = format!("Node didn't have enough capacity: {name}, requested: {requested}, capacity: {capacity}");
            return Some(Pending { reason: "Infeasible", message });
        }
    }
    shortage(&wanted, &others(core, pod)).err().map(|(_, message)| Pending { reason: "Deferred", message })
}

/// The other pods that run here, with what they were granted.
pub(super) fn others(core: &Core, pod: &Pod) -> Vec<Arc<Pod>> {
    let entries = core.pods.all().into_iter().filter(|entry| !entry.is_removed());
    let running = |other: &Arc<Pod>| !other.phase_is_terminal() && other.uid() != pod.uid() && super::already_running(other);
    entries.map(|entry| allocation::granted(&entry)).filter(running).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(spec: Value) -> Arc<Pod> {
        Arc::new(serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).expect("is a pod"))
    }

    fn asks(requests: Value) -> Arc<Pod> {
        pod(json!({"containers": [{"name": "c", "resources": {"requests": requests}}]}))
    }

    #[test]
    fn what_does_not_fit_is_named_as_upstream_names_it() {
        let node: Node = serde_json::from_value(json!({"status": {"allocatable": {
            "ephemeral-storage": "10Gi", "example.com/gpu": "2", "hugepages-2Mi": "4Mi"}}}))
        .expect("is a node");
        let capacity = Capacity { pods: 2, cpu_milli: 2000, memory_bytes: 1 << 30, node: Some(&node) };
        let here = [asks(json!({"cpu": "1500m", "memory": "512Mi", "example.com/gpu": "1"}))];
        let out_of =
            |name: &str, rest: &str| Err((format!("OutOf{name}"), format!("Node didn't have enough resource: {name}, {rest}")));
        for (wanted, expected) in [
            (asks(json!({})), Ok(())),
            (asks(json!({"cpu": "500m", "memory": "512Mi", "ephemeral-storage": "10Gi", "example.com/gpu": "1"})), Ok(())),
            (asks(json!({"cpu": "501m", "memory": "1Gi"})), out_of("cpu", "requested: 501, used: 1500, capacity: 2000")),
            (asks(json!({"memory": "513Mi"})), out_of("memory", "requested: 537919488, used: 536870912, capacity: 1073741824")),
            (
                asks(json!({"ephemeral-storage": "11Gi"})),
                out_of("ephemeral-storage", "requested: 11811160064, used: 0, capacity: 10737418240"),
            ),
            (asks(json!({"example.com/gpu": "2"})), out_of("example.com/gpu", "requested: 2, used: 1, capacity: 2")),
            (asks(json!({"example.com/elsewhere": "7"})), Ok(())),
            (asks(json!({"hugepages-1Gi": "1Gi"})), out_of("hugepages-1Gi", "requested: 1073741824, used: 0, capacity: 0")),
            // Init containers, overhead and the pod's own requests count.
            (
                pod(json!({"initContainers": [{"name": "i", "resources": {"requests": {"memory": "600Mi"}}}], "containers": []})),
                out_of("memory", "requested: 629145600, used: 536870912, capacity: 1073741824"),
            ),
            (
                pod(json!({"resources": {"requests": {"cpu": "400m"}}, "overhead": {"cpu": "200m"},
                    "containers": [{"name": "c", "resources": {"requests": {"cpu": "100m"}}}]})),
                out_of("cpu", "requested: 600, used: 1500, capacity: 2000"),
            ),
        ] {
            assert_eq!(shortage(&needs(&wanted, &capacity), &here), expected, "{:?}", wanted.spec);
        }
        let two = [here[0].clone(), asks(json!({}))];
        assert_eq!(shortage(&needs(&asks(json!({})), &capacity), &two), out_of("pods", "requested: 1, used: 2, capacity: 2"));
    }

    #[test]
    fn a_node_that_has_not_reported_yet_refuses_nothing_that_it_does_not_know() {
        let capacity = Capacity { pods: 2, cpu_milli: 2000, memory_bytes: 1 << 30, node: None };
        assert_eq!(shortage(&needs(&asks(json!({"ephemeral-storage": "1Gi", "hugepages-2Mi": "2Mi"})), &capacity), &[]), Ok(()));
    }
}
