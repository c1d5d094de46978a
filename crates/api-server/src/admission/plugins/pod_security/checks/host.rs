//! What a pod shares with its node, or changes on it: namespaces, ports, probes to other hosts, sysctls, Windows' host processes.

use std::collections::BTreeSet;

use super::Violation;
use super::pod::{Pod, listed, plural, quoted, security};

pub(super) fn namespaces(pod: &Pod<'_>) -> Option<Violation> {
    let shared = ["hostNetwork", "hostPID", "hostIPC"].into_iter().filter(|field| pod.spec.bool_at(&[field]) == Some(true));
    let shared: Vec<_> = shared.map(|field| format!("{field}=true")).collect();
    (!shared.is_empty()).then(|| Violation { reason: "host namespaces", detail: shared.join(", ") })
}

pub(super) fn ports(pod: &Pod<'_>) -> Option<Violation> {
    // Sorted as text, as upstream does.
    let mut used = BTreeSet::new();
    let containers = pod.bad_containers(|container| {
        let ports = container.array_at(&["ports"]).iter().filter_map(|port| port.i64_at(&["hostPort"])).filter(|port| *port != 0);
        let ports: Vec<_> = ports.map(|port| port.to_string()).collect();
        let bad = !ports.is_empty();
        used.extend(ports);
        bad
    });
    if containers.is_empty() {
        return None;
    }
    let (verb, noun) = (plural(containers.len(), "uses", "use"), plural(used.len(), "hostPort", "hostPorts"));
    let used: Vec<_> = used.into_iter().collect();
    Some(Violation { reason: "hostPort", detail: format!("{} {verb} {noun} {}", listed(&containers), used.join(", ")) })
}

/// Where probes and hooks name a host.
const HANDLERS: [&[&str]; 5] =
    [&["livenessProbe"], &["readinessProbe"], &["startupProbe"], &["lifecycle", "postStart"], &["lifecycle", "preStop"]];

pub(super) fn probes(pod: &Pod<'_>) -> Option<Violation> {
    let mut hosts: BTreeSet<&str> = BTreeSet::new();
    let mut containers = pod.bad_containers(|container| {
        let handlers = HANDLERS.iter().filter_map(|path| container.get_path(path));
        let named = handlers.flat_map(|handler| [handler.str_at(&["httpGet", "host"]), handler.str_at(&["tcpSocket", "host"])]);
        let named: Vec<_> = named.flatten().filter(|host| !host.is_empty()).collect();
        hosts.extend(&named);
        !named.is_empty()
    });
    if containers.is_empty() {
        return None;
    }
    containers.sort_unstable();
    containers.dedup();
    let verb = plural(containers.len(), "uses", "use");
    let noun = plural(hosts.len(), "probe or lifecycle host", "probe or lifecycle hosts");
    let detail = format!("{} {verb} {noun} {}", listed(&containers), quoted(&hosts));
    Some(Violation { reason: "probe or lifecycle host", detail })
}

const SYSCTLS: [&str; 5] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
];
const SYSCTLS_27: [&str; 1] = ["net.ipv4.ip_local_reserved_ports"];
const SYSCTLS_29: [&str; 4] =
    ["net.ipv4.tcp_keepalive_time", "net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl", "net.ipv4.tcp_keepalive_probes"];
const SYSCTLS_32: [&str; 2] = ["net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem"];

fn other_sysctls(pod: &Pod<'_>, safe: &[&[&str]]) -> Option<Violation> {
    let named = pod.spec.array_at(&["securityContext", "sysctls"]).iter().filter_map(|sysctl| sysctl.str_at(&["name"]));
    let forbidden: Vec<_> = named.filter(|name| !safe.iter().any(|names| names.contains(name))).collect();
    (!forbidden.is_empty()).then(|| Violation { reason: "forbidden sysctls", detail: forbidden.join(", ") })
}

pub(super) fn sysctls(pod: &Pod<'_>) -> Option<Violation> {
    other_sysctls(pod, &[&SYSCTLS])
}

pub(super) fn sysctls_27(pod: &Pod<'_>) -> Option<Violation> {
    other_sysctls(pod, &[&SYSCTLS, &SYSCTLS_27])
}

pub(super) fn sysctls_29(pod: &Pod<'_>) -> Option<Violation> {
    other_sysctls(pod, &[&SYSCTLS, &SYSCTLS_27, &SYSCTLS_29])
}

pub(super) fn sysctls_32(pod: &Pod<'_>) -> Option<Violation> {
    other_sysctls(pod, &[&SYSCTLS, &SYSCTLS_27, &SYSCTLS_29, &SYSCTLS_32])
}

pub(super) fn windows_process(pod: &Pod<'_>) -> Option<Violation> {
    let who = pod.bad_setters(|holder| {
        security(holder, "windowsOptions").and_then(|options| options.bool_at(&["hostProcess"])) == Some(true)
    })?;
    Some(Violation {
        reason: "hostProcess",
        detail: format!("{who} must not set securityContext.windowsOptions.hostProcess=true"),
    })
}
