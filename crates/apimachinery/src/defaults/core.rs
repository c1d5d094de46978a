//! Defaults of the core group, but for what is in containers and volumes.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::{Rule, absent, is_absent, pod_resources, zero};
use crate::{Value, value};

pub(super) const RULES: &[(&str, Rule)] = &[
    ("core.v1.ReplicationController", replication_controller),
    ("core.v1.Service", service),
    ("core.v1.Pod", pod),
    ("core.v1.PodSpec", pod_spec),
    ("core.v1.PodStatus", |status| first_of(status, "podIP", "podIPs")),
    ("core.v1.Secret", secret),
    ("core.v1.PersistentVolume", persistent_volume),
    ("core.v1.PersistentVolumeClaim", |claim| zero(claim.path_mut(&["status"]), "phase", "Pending")),
    ("core.v1.PersistentVolumeClaimSpec", |spec| absent(spec, "volumeMode", "Filesystem")),
    ("core.v1.EndpointPort", |port| zero(port, "protocol", "TCP")),
    ("core.v1.Namespace", namespace),
    ("core.v1.NamespaceStatus", |status| zero(status, "phase", "Active")),
    ("core.v1.NodeSpec", |spec| one_and_all(spec, "podCIDR", "podCIDRs")),
    ("core.v1.NodeStatus", node_status),
    ("core.v1.LimitRangeItem", limit_range_item),
    ("discovery.v1.EndpointPort", |port| {
        absent(port, "name", "");
        absent(port, "protocol", "TCP");
    }),
    ("scheduling.v1.PriorityClass", |class| absent(class, "preemptionPolicy", "PreemptLowerPriority")),
    ("authentication.v1.TokenRequestSpec", |spec| absent(spec, "expirationSeconds", 3600)),
];

fn replication_controller(controller: &mut Value) {
    let labels = controller["spec"]["template"]["metadata"]["labels"].clone();
    if !labels.is_null() {
        zero(controller.path_mut(&["spec"]), "selector", &labels);
        zero(controller.path_mut(&["metadata"]), "labels", &labels);
    }
}

fn service(service: &mut Value) {
    service_spec(service.path_mut(&["spec"]));
    if service["spec"]["type"] == "LoadBalancer"
        && let Some(ingress) = service.get_path_mut(&["status", "loadBalancer", "ingress"]).and_then(Value::as_array_mut)
    {
        for entry in ingress.iter_mut().filter(|e| e.get("ip").is_some()) {
            absent(entry, "ipMode", "VIP");
        }
    }
}

fn service_spec(spec: &mut Value) {
    zero(spec, "sessionAffinity", "None");
    match spec["sessionAffinity"].as_str() {
        Some("None") => {
            spec.remove("sessionAffinityConfig");
        }
        // Three hours, as upstream.
        Some("ClientIP") if spec.get_path(&["sessionAffinityConfig", "clientIP", "timeoutSeconds"]).is_none() => {
            spec.insert("sessionAffinityConfig", value!({"clientIP": {"timeoutSeconds": 10800}}));
        }
        _ => {}
    }
    zero(spec, "type", "ClusterIP");
    for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        zero(port, "protocol", "TCP");
        let number = port["port"].clone();
        zero(port, "targetPort", number);
    }
    let service_type = spec["type"].as_str().unwrap_or_default().to_owned();
    let external_ips = !spec.array_at(&["externalIPs"]).is_empty();
    if matches!(service_type.as_str(), "NodePort" | "LoadBalancer") || (service_type == "ClusterIP" && external_ips) {
        zero(spec, "externalTrafficPolicy", "Cluster");
    }
    if matches!(service_type.as_str(), "NodePort" | "LoadBalancer" | "ClusterIP") {
        absent(spec, "internalTrafficPolicy", "Cluster");
    }
    if service_type == "LoadBalancer" {
        absent(spec, "allocateLoadBalancerNodePorts", true);
    }
}

fn pod(pod: &mut Value) {
    let spec = pod.path_mut(&["spec"]);
    for list in ["containers", "initContainers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            requests_from_limits(container);
        }
    }
    pod_resources::apply(spec);
    absent(spec, "enableServiceLinks", true);
    // Of pods alone, not of templates (upstream's conversion of `Pod`).
    if spec["terminationGracePeriodSeconds"].as_i64().is_some_and(|seconds| seconds < 0) {
        spec.insert("terminationGracePeriodSeconds", 1);
    }
    if spec["hostNetwork"].as_bool() == Some(true) {
        for list in ["containers", "initContainers"] {
            for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
                for port in container.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
                    let number = port["containerPort"].clone();
                    zero(port, "hostPort", number);
                }
            }
        }
    }
}

fn requests_from_limits(container: &mut Value) {
    let limits = container["resources"]["limits"].clone();
    for (name, limit) in limits.as_object().into_iter().flatten() {
        let requests = container.path_mut(&["resources", "requests"]);
        if is_absent(requests, name) {
            requests.insert(name, limit);
        }
    }
}

fn pod_spec(spec: &mut Value) {
    // Two names of one field; conversion keeps both the same.
    let account = [&spec["serviceAccountName"], &spec["serviceAccount"]].into_iter().find(|v| !v.is_empty()).cloned();
    if let Some(account) = account {
        spec.insert("serviceAccountName", &account);
        spec.insert("serviceAccount", &account);
    }
    zero(spec, "dnsPolicy", "ClusterFirst");
    zero(spec, "restartPolicy", "Always");
    absent(spec, "securityContext", Value::object());
    absent(spec, "terminationGracePeriodSeconds", 30);
    zero(spec, "schedulerName", "default-scheduler");
}

fn secret(secret: &mut Value) {
    zero(secret, "type", "Opaque");
    // Write-only: conversion moves it into data.
    if let Some(plain) = secret.remove("stringData") {
        for (key, text) in plain.as_object().into_iter().flatten() {
            let encoded = STANDARD.encode(text.as_str().unwrap_or_default());
            secret.path_mut(&["data"]).insert(key, encoded);
        }
    }
}

fn persistent_volume(volume: &mut Value) {
    zero(volume.path_mut(&["status"]), "phase", "Pending");
    let spec = volume.path_mut(&["spec"]);
    zero(spec, "persistentVolumeReclaimPolicy", "Retain");
    absent(spec, "volumeMode", "Filesystem");
}

fn namespace(namespace: &mut Value) {
    let name = namespace.meta().name().to_owned();
    if !name.is_empty() {
        namespace.meta_mut().set_label("kubernetes.io/metadata.name", &name);
    }
}

/// Two fields of one list, the first element and all of it, which conversion keeps the same; the first decides.
/// The one address counts, and the list begins with it (upstream's conversion of `PodStatus`).
fn first_of(status: &mut Value, one: &'static str, all: &'static str) {
    let address = status[one].clone();
    match status.array_at(&[all]).first().map(|first| first["ip"].clone()) {
        Some(first) if address.is_empty() && !first.is_empty() => {
            status.insert(one, first);
        }
        first if !address.is_empty() && first.as_ref() != Some(&address) => {
            status.insert(all, value!([{"ip": address}]));
        }
        _ => {}
    }
}

fn one_and_all(object: &mut Value, one: &'static str, all: &'static str) {
    let (first, list) = (object[one].clone(), object[all].clone());
    match (first.is_empty(), list.is_empty()) {
        (true, false) => drop(object.insert(one, list[0].clone())),
        (false, true) => drop(object.insert(all, vec![first])),
        (false, false) if list[0] != first => drop(object.insert(all, vec![first])),
        _ => {}
    }
}

fn node_status(status: &mut Value) {
    if is_absent(status, "allocatable") && !is_absent(status, "capacity") {
        let capacity = status["capacity"].clone();
        status.insert("allocatable", capacity);
    }
}

fn limit_range_item(item: &mut Value) {
    if item["type"] != "Container" {
        return;
    }
    for (source, target) in [("max", "default"), ("default", "defaultRequest"), ("min", "defaultRequest")] {
        let amounts = item[source].clone();
        for (name, amount) in amounts.as_object().into_iter().flatten() {
            if item.get_path(&[target, name]).is_none() {
                item.path_mut(&[target]).insert(name, amount);
            }
        }
    }
}
