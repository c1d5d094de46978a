//! What pods ask for and nodes have, as numbers (KEP-753 for sidecars, KEP-2837 for pod-level resources, KEP-1287 for resize).

use std::collections::BTreeMap;

use apimachinery::Quantity;
use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as RawQuantity;

/// What a container without a request counts as when nodes are scored: upstream's DefaultMilliCPURequest.
const SCORING_MILLI_CPU: i64 = 100;
/// Upstream's DefaultMemoryRequest: 200 MiB.
const SCORING_MEMORY_BYTES: i64 = 200 << 20;

type ResourceList = BTreeMap<String, RawQuantity>;

/// An amount of each resource. CPU in thousandths of a core, memory and storage in bytes, others in units.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Resources {
    /// `cpu`, in thousandths.
    pub milli_cpu: i64,
    /// `memory`, in bytes.
    pub memory_bytes: i64,
    /// `ephemeral-storage`, in bytes.
    pub ephemeral_bytes: i64,
    /// `pods`; only nodes have it.
    pub pods: i64,
    /// Extended resources and huge pages.
    pub scalars: BTreeMap<String, i64>,
}

impl Resources {
    /// Reads a resource list; a quantity that does not parse (the API server lets none in) counts as zero.
    pub(crate) fn from_list(list: &ResourceList) -> Self {
        let mut resources = Self::default();
        for (name, quantity) in list {
            let Ok(quantity) = Quantity::parse(&quantity.0) else { continue };
            match name.as_str() {
                "cpu" => resources.milli_cpu = quantity.milli_value(),
                "memory" => resources.memory_bytes = quantity.value(),
                "ephemeral-storage" => resources.ephemeral_bytes = quantity.value(),
                "pods" => resources.pods = quantity.value(),
                _ => {
                    resources.scalars.insert(name.clone(), quantity.value());
                }
            }
        }
        resources
    }

    fn combine(&mut self, other: &Self, operation: fn(i64, i64) -> i64) {
        self.milli_cpu = operation(self.milli_cpu, other.milli_cpu);
        self.memory_bytes = operation(self.memory_bytes, other.memory_bytes);
        self.ephemeral_bytes = operation(self.ephemeral_bytes, other.ephemeral_bytes);
        for (name, amount) in &other.scalars {
            let own = self.scalars.entry(name.clone()).or_default();
            *own = operation(*own, *amount);
        }
        // Nothing of something is the same as not to have it.
        self.scalars.retain(|_, amount| *amount != 0);
    }

    /// Adds each resource, `pods` aside.
    pub(crate) fn add(&mut self, other: &Self) {
        self.combine(other, i64::saturating_add);
    }

    /// Subtracts each resource, `pods` aside.
    pub(crate) fn subtract(&mut self, other: &Self) {
        self.combine(other, i64::saturating_sub);
    }

    fn maximum(&mut self, other: &Self) {
        self.combine(other, i64::max);
    }
}

/// What a pod asks of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub(crate) struct PodRequest {
    /// What the filters count.
    pub(crate) requested: Resources,
    /// What scoring counts: a container without a request is not free.
    pub(crate) scored: Resources,
}

/// Computes a pod's request: the larger of what runs together and the largest moment of the initialisation, plus overhead.
pub(crate) fn pod_request(pod: &Pod) -> PodRequest {
    PodRequest { requested: sum(pod, &Resources::default()), scored: sum(pod, &scoring_minimum()) }
}

fn scoring_minimum() -> Resources {
    Resources { milli_cpu: SCORING_MILLI_CPU, memory_bytes: SCORING_MEMORY_BYTES, ..Resources::default() }
}

fn sum(pod: &Pod, minimum: &Resources) -> Resources {
    let Some(spec) = &pod.spec else { return Resources::default() };
    let statuses = pod.status.as_ref();
    let find = |statuses: Option<&Vec<ContainerStatus>>, name: &str| statuses?.iter().find(|s| s.name == name).cloned();
    let mut running = Resources::default();
    for container in &spec.containers {
        let status = find(statuses.and_then(|status| status.container_statuses.as_ref()), &container.name);
        running.add(&container_request(container, status.as_ref(), minimum));
    }
    // Sidecars run beside each init container after them, and beside the containers.
    let mut sidecars = Resources::default();
    let mut initialisation = Resources::default();
    for container in spec.init_containers.iter().flatten() {
        let status = find(statuses.and_then(|status| status.init_container_statuses.as_ref()), &container.name);
        let mut moment = container_request(container, status.as_ref(), minimum);
        if container.restart_policy.as_deref() == Some("Always") {
            running.add(&moment);
            sidecars.add(&moment);
            moment = sidecars.clone();
        } else {
            moment.add(&sidecars);
        }
        initialisation.maximum(&moment);
    }
    running.maximum(&initialisation);
    // Pod-level requests take the place of the sum, for the resources that they name.
    if let Some(requests) = spec.resources.as_ref().and_then(|resources| resources.requests.as_ref()) {
        let pod_level = Resources::from_list(requests);
        if requests.contains_key("cpu") {
            running.milli_cpu = pod_level.milli_cpu;
        }
        if requests.contains_key("memory") {
            running.memory_bytes = pod_level.memory_bytes;
        }
        running.scalars.extend(pod_level.scalars);
    }
    if let Some(overhead) = &spec.overhead {
        running.add(&Resources::from_list(overhead));
    }
    running
}

/// The request of the specification or what the node has really set aside, whichever is larger: a resize under way counts fully.
fn container_request(container: &Container, status: Option<&ContainerStatus>, minimum: &Resources) -> Resources {
    let requests = container.resources.as_ref().and_then(|resources| resources.requests.clone()).unwrap_or_default();
    let mut amount = Resources::from_list(&requests);
    if !requests.contains_key("cpu") {
        amount.milli_cpu = minimum.milli_cpu;
    }
    if !requests.contains_key("memory") {
        amount.memory_bytes = minimum.memory_bytes;
    }
    if let Some(status) = status {
        let actual = status.resources.as_ref().and_then(|resources| resources.requests.as_ref());
        for list in actual.into_iter().chain(status.allocated_resources.as_ref()) {
            amount.maximum(&Resources::from_list(list));
        }
    }
    amount
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn request(spec: serde_json::Value) -> (i64, i64) {
        let pod: Pod = serde_json::from_value(json!({"spec": spec})).unwrap();
        let request = pod_request(&pod);
        (request.requested.milli_cpu, request.requested.memory_bytes)
    }

    #[test]
    fn a_request_covers_the_largest_moment() {
        let container = |cpu: &str| json!({"name": cpu, "resources": {"requests": {"cpu": cpu, "memory": "1Ki"}}});
        let mut sidecar = container("50m");
        sidecar["restartPolicy"] = "Always".into();
        let check = |spec, expected| assert_eq!(request(spec), expected);
        check(json!({"containers": [container("100m"), container("200m")]}), (300, 2048));
        check(json!({"containers": [container("100m")], "initContainers": [container("1")]}), (1000, 1024));
        check(json!({"containers": [container("100m")], "initContainers": [sidecar.clone(), container("1")]}), (1050, 2048));
        check(json!({"containers": [container("2")], "initContainers": [container("1"), sidecar.clone()]}), (2050, 2048));
        check(json!({"containers": [container("1")], "overhead": {"cpu": "250m"}}), (1250, 1024));
        check(json!({"containers": [container("1")], "resources": {"requests": {"cpu": "3"}}}), (3000, 1024));
    }

    #[test]
    fn a_container_without_requests_is_not_free_when_scored() {
        let pod: Pod = serde_json::from_value(json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}]}})).unwrap();
        let request = pod_request(&pod);
        assert_eq!(request.requested, Resources::default());
        assert_eq!((request.scored.milli_cpu, request.scored.memory_bytes), (200, 400 << 20));
    }
}
