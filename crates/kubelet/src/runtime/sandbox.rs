//! Sandboxes: their configuration and creation.

use std::collections::HashMap;

use cri::v1;
use k8s_openapi::api::core::v1::Pod;

use crate::context::Core;
use crate::dns;
use crate::pod::access::{PodAccess, is_sidecar};
use crate::pod::resources;
use crate::runtime::{labels, security};

/// An error of the runtime in the words that upstream's events carry.
pub(crate) fn describe(status: &cri::Status) -> String {
    format!("rpc error: code = {:?} desc = {}", status.code(), status.message())
}

/// Creates the pod's sandbox; its id and addresses.
pub(crate) async fn create(core: &Core, pod: &Pod, attempt: u32) -> Result<(String, Vec<String>), cri::Status> {
    if pod.pod_spec().host_users == Some(false) {
        return Err(cri::Status::unimplemented("hostUsers: false (user namespaces) is not implemented"));
    }
    let config = config(core, pod, attempt)?;
    std::fs::create_dir_all(&config.log_directory)
        .map_err(|e| cri::Status::internal(format!("cannot create {}: {e}", config.log_directory)))?;
    let runtime_handler = match pod.pod_spec().runtime_class_name.as_deref() {
        None | Some("") => String::new(),
        Some(class) => handler(core, class).await?,
    };
    let created = core.runtime.run_pod_sandbox(v1::RunPodSandboxRequest { config: Some(config), runtime_handler }).await?;
    let id = created.pod_sandbox_id;
    let status =
        core.runtime.pod_sandbox_status(v1::PodSandboxStatusRequest { pod_sandbox_id: id.clone(), verbose: false }).await?;
    let network = status.status.and_then(|s| s.network).unwrap_or_default();
    let ips =
        std::iter::once(network.ip).chain(network.additional_ips.into_iter().map(|p| p.ip)).filter(|ip| !ip.is_empty()).collect();
    Ok((id, ips))
}

async fn handler(core: &Core, class: &str) -> Result<String, cri::Status> {
    use k8s_openapi::api::node::v1::RuntimeClass;
    let api: kube::Api<RuntimeClass> = kube::Api::all(core.client.clone());
    match api.get_opt(class).await {
        Ok(Some(found)) => Ok(found.handler),
        Ok(None) => Err(cri::Status::not_found(format!("RuntimeClass \"{class}\" not found"))),
        Err(error) => Err(cri::Status::unavailable(format!("cannot read RuntimeClass \"{class}\": {error}"))),
    }
}

/// The CRI configuration of the pod's sandbox.
pub(crate) fn config(core: &Core, pod: &Pod, attempt: u32) -> Result<v1::PodSandboxConfig, cri::Status> {
    let log_directory = core.config.pod_log_dir(pod.namespace(), pod.name(), pod.uid());
    let hostname = if pod.host_network() {
        String::new()
    } else {
        dns::sandbox_hostname(pod, &core.config.cluster_domain).map_err(cri::Status::invalid_argument)?
    };
    Ok(v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: pod.name().to_owned(),
            uid: pod.uid().to_owned(),
            namespace: pod.namespace().to_owned(),
            attempt,
        }),
        hostname,
        log_directory: log_directory.to_string_lossy().into_owned(),
        dns_config: Some(dns::pod_dns(core, pod)),
        port_mappings: port_mappings(pod),
        labels: labels::pod_labels(pod),
        annotations: labels::pod_annotations(pod),
        linux: Some(linux(core, pod)),
        windows: None,
    })
}

fn port_mappings(pod: &Pod) -> Vec<v1::PortMapping> {
    if pod.host_network() {
        return Vec::new();
    }
    let containers = pod.containers().iter().chain(pod.init_containers().iter().filter(|c| is_sidecar(c)));
    containers
        .flat_map(|c| c.ports.iter().flatten())
        .filter(|port| port.host_port.is_some_and(|p| p > 0))
        .map(|port| v1::PortMapping {
            protocol: match port.protocol.as_deref() {
                Some("UDP") => v1::Protocol::Udp,
                Some("SCTP") => v1::Protocol::Sctp,
                _ => v1::Protocol::Tcp,
            } as i32,
            container_port: port.container_port,
            host_port: port.host_port.unwrap_or(0),
            host_ip: port.host_ip.clone().unwrap_or_default(),
        })
        .collect()
}

fn linux(core: &Core, pod: &Pod) -> v1::LinuxPodSandboxConfig {
    let sysctls: HashMap<String, String> = pod
        .security()
        .and_then(|s| s.sysctls.as_ref())
        .into_iter()
        .flatten()
        .map(|s| (s.name.clone(), s.value.clone()))
        .collect();
    let totals = resources::pod_totals(pod);
    let limits = v1::LinuxContainerResources {
        cpu_period: if totals.cpu_limit_milli.is_some() { resources::CPU_PERIOD_US } else { 0 },
        cpu_quota: resources::quota(totals.cpu_limit_milli.unwrap_or(0)),
        cpu_shares: resources::shares(totals.cpu_request_milli),
        memory_limit_in_bytes: totals.memory_limit_bytes.unwrap_or(0),
        ..Default::default()
    };
    v1::LinuxPodSandboxConfig {
        cgroup_parent: core.cgroups.parent(pod),
        security_context: Some(security::sandbox(pod)),
        sysctls,
        overhead: None,
        resources: Some(limits),
    }
}
