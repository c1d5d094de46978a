//! What Endpoints and EndpointSlices have in common: which pods back a service, at which ports, and which changes of
//! pods and services wake a service.

use std::net::IpAddr;

use client::{Change, Informer, NamespacedName, WorkQueue};
use k8s_openapi::api::core::v1::{Container, Pod, Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;

use crate::context::enqueue_all;
use crate::pod_state::{is_ready, is_terminal};
use crate::selected::Selected;

/// The spec of a service whose endpoints a controller manages: it has a selector and is no ExternalName.
pub(crate) fn managed_spec(service: &Service) -> Option<&ServiceSpec> {
    let spec = service.spec.as_ref()?;
    (spec.type_.as_deref() != Some("ExternalName") && spec.selector.is_some()).then_some(spec)
}

pub(crate) fn is_headless(spec: &ServiceSpec) -> bool {
    matches!(spec.cluster_ip.as_deref(), None | Some("" | "None"))
}

/// Whether a pod has an address and may serve.
pub(crate) fn is_endpoint(pod: &Pod, include_terminating: bool) -> bool {
    let addressed = addresses(pod).next().is_some();
    addressed && !is_terminal(pod) && (include_terminating || pod.metadata.deletion_timestamp.is_none())
}

pub(crate) fn addresses(pod: &Pod) -> impl Iterator<Item = IpAddr> {
    let status = pod.status.as_ref();
    status.into_iter().flat_map(|status| status.pod_ips.iter().flatten()).filter_map(|ip| ip.ip.parse().ok())
}

/// The pod's hostname if it is to be resolvable under the service.
pub(crate) fn hostname<'a>(pod: &'a Pod, service: &Service) -> Option<&'a str> {
    let spec = pod.spec.as_ref()?;
    let hostname = spec.hostname.as_deref().filter(|hostname| !hostname.is_empty())?;
    let subdomain = spec.subdomain.as_deref()?;
    (Some(subdomain) == service.metadata.name.as_deref() && pod.metadata.namespace == service.metadata.namespace)
        .then_some(hostname)
}

/// The container port that a service port leads to; `None` if the pod has no port of that name.
pub(crate) fn target_port(pod: &Pod, port: &ServicePort) -> Option<i32> {
    let name = match port.target_port.as_ref() {
        None => return Some(port.port),
        Some(IntOrString::Int(number)) => return Some(*number),
        Some(IntOrString::String(name)) => name,
    };
    let spec = pod.spec.as_ref()?;
    let sidecars = spec.init_containers.iter().flatten();
    let sidecars = sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let wanted = port.protocol.as_deref().unwrap_or("TCP");
    let port_of = |container: &Container| {
        let mut ports = container.ports.iter().flatten();
        let found = ports.find(|candidate| {
            candidate.name.as_ref() == Some(name) && candidate.protocol.as_deref().unwrap_or("TCP") == wanted
        })?;
        Some(found.container_port)
    };
    spec.containers.iter().chain(sidecars).find_map(port_of)
}

/// Queues services when they or the pods that they select change in a way that endpoints show.
pub(crate) fn watch(
    services: &Informer<Service>,
    pods: &Informer<Pod>,
    selected: &Selected<Service>,
    queue: &WorkQueue<NamespacedName>,
) {
    enqueue_all(services, queue);
    let (selected, queue) = (selected.clone(), queue.clone());
    let wake = move |pod: &Pod| {
        for service in selected.selectors_of(&pod.metadata) {
            queue.add(NamespacedName::of(&*service));
        }
    };
    pods.add_handler(move |change| match change {
        Change::Updated { old, new } => {
            let moved = old.metadata.labels != new.metadata.labels;
            if moved {
                wake(old);
            }
            if moved || shows(old) != shows(new) {
                wake(new);
            }
        }
        other => wake(other.object()),
    });
}

/// What endpoints show of a pod.
fn shows(pod: &Pod) -> impl PartialEq + use<'_> {
    let spec = pod.spec.as_ref();
    (
        pod.uid(),
        is_ready(pod),
        is_terminal(pod),
        pod.metadata.deletion_timestamp.is_some(),
        pod.status.as_ref().and_then(|status| status.pod_ips.as_ref()),
        spec.map(|spec| (&spec.hostname, &spec.subdomain, &spec.node_name)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn named_ports_are_found_by_name_and_protocol() {
        let pod: Pod = serde_json::from_value(json!({"spec": {
            "containers": [{"name": "c", "ports": [
                {"name": "dns", "containerPort": 53, "protocol": "UDP"},
                {"name": "web", "containerPort": 8080}]}],
            "initContainers": [
                {"name": "i", "ports": [{"name": "once", "containerPort": 1}]},
                {"name": "s", "restartPolicy": "Always", "ports": [{"name": "side", "containerPort": 2}]}],
        }}))
        .expect("is a pod");
        for (port, expected) in [
            (json!({"port": 80}), Some(80)),
            (json!({"port": 80, "targetPort": 8000}), Some(8000)),
            (json!({"port": 80, "targetPort": "web"}), Some(8080)),
            (json!({"port": 53, "targetPort": "dns"}), None),
            (json!({"port": 53, "targetPort": "dns", "protocol": "UDP"}), Some(53)),
            (json!({"port": 80, "targetPort": "side"}), Some(2)),
            (json!({"port": 80, "targetPort": "once"}), None),
        ] {
            let port: ServicePort = serde_json::from_value(port).expect("is a port");
            assert_eq!(target_port(&pod, &port), expected, "{port:?}");
        }
    }
}
