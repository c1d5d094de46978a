//! A pod's hostname and resolver configuration (<https://kubernetes.io/docs/concepts/services-networking/dns-pod-service/>).

use cri::v1;
use k8s_openapi::api::core::v1::Pod;

use crate::context::Core;
use crate::pod::access::PodAccess;

/// The longest hostname that Linux takes.
const HOSTNAME_MAX: usize = 64;
/// The longest label of a DNS name; pod names are cut to it.
const LABEL_MAX: usize = 63;
/// resolv.conf limits that upstream enforces: 3 servers, 32 search domains of 2,048 characters in all.
const SERVERS_MAX: usize = 3;
const SEARCHES_MAX: usize = 32;
const SEARCHES_CHARS_MAX: usize = 2048;

/// The pod's short hostname and the domain below which it is known, empty unless `subdomain` is set.
pub(crate) fn hostname_and_domain(pod: &Pod, cluster_domain: &str) -> (String, String) {
    let spec = pod.pod_spec();
    if let Some(name) = spec.hostname_override.as_deref().filter(|n| !n.is_empty()) {
        return (name.to_owned(), String::new());
    }
    let hostname = match spec.hostname.as_deref().filter(|n| !n.is_empty()) {
        Some(name) => name.to_owned(),
        None => pod.name()[..pod.name().len().min(LABEL_MAX)].trim_end_matches(['-', '.']).to_owned(),
    };
    let domain =
        spec.subdomain.as_deref().filter(|s| !s.is_empty()).map(|s| format!("{s}.{}.svc.{cluster_domain}", pod.namespace()));
    (hostname, domain.unwrap_or_default())
}

/// What `hostname` says inside the pod.
pub(crate) fn sandbox_hostname(pod: &Pod, cluster_domain: &str) -> Result<String, String> {
    let (hostname, domain) = hostname_and_domain(pod, cluster_domain);
    if pod.pod_spec().set_hostname_as_fqdn != Some(true) || domain.is_empty() {
        return Ok(hostname);
    }
    let name = format!("{hostname}.{domain}");
    if name.len() > HOSTNAME_MAX {
        return Err(format!(
            "failed to construct FQDN from pod hostname and cluster domain, FQDN {name} is too long ({HOSTNAME_MAX} characters is the max, {} characters requested)",
            name.len()
        ));
    }
    Ok(name)
}

/// The resolver configuration of a pod by its `dnsPolicy` and `dnsConfig`.
pub(crate) fn pod_dns(core: &Core, pod: &Pod) -> v1::DnsConfig {
    let host = std::fs::read_to_string(&core.config.resolv_conf).unwrap_or_default();
    let config = &core.config;
    let servers: Vec<String> = config.cluster_dns.iter().map(ToString::to_string).collect();
    let dns = resolve(pod, &parse(&host), &servers, &config.cluster_domain);
    limited(core, pod, dns)
}

fn resolve(pod: &Pod, host: &v1::DnsConfig, cluster_servers: &[String], cluster_domain: &str) -> v1::DnsConfig {
    let policy = pod.pod_spec().dns_policy.as_deref().unwrap_or("ClusterFirst");
    let cluster = match policy {
        "ClusterFirstWithHostNet" => true,
        "ClusterFirst" => !pod.host_network(),
        _ => false,
    };
    let mut dns = match policy {
        "None" => v1::DnsConfig::default(),
        _ if cluster && !cluster_servers.is_empty() => {
            let mut searches = vec![
                format!("{}.svc.{cluster_domain}", pod.namespace()),
                format!("svc.{cluster_domain}"),
                cluster_domain.to_owned(),
            ];
            searches.extend(host.searches.iter().cloned());
            v1::DnsConfig { servers: cluster_servers.to_vec(), searches, options: vec!["ndots:5".to_owned()] }
        }
        _ => host.clone(),
    };
    if let Some(extra) = &pod.pod_spec().dns_config {
        dns.servers.extend(extra.nameservers.iter().flatten().cloned());
        dns.searches.extend(extra.searches.iter().flatten().cloned());
        for option in extra.options.iter().flatten() {
            let Some(name) = option.name.as_deref() else { continue };
            dns.options.retain(|known| known.split(':').next() != Some(name));
            dns.options.push(
                option
                    .value
                    .as_deref()
                    .filter(|v| !v.is_empty())
                    .map_or_else(|| name.to_owned(), |value| format!("{name}:{value}")),
            );
        }
    }
    unique(&mut dns.servers);
    unique(&mut dns.searches);
    dns
}

fn unique(list: &mut Vec<String>) {
    let mut seen = std::collections::HashSet::new();
    list.retain(|item| seen.insert(item.clone()));
}

fn limited(core: &Core, pod: &Pod, mut dns: v1::DnsConfig) -> v1::DnsConfig {
    if dns.servers.len() > SERVERS_MAX {
        dns.servers.truncate(SERVERS_MAX);
        let message = format!(
            "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: {}",
            dns.servers.join(" ")
        );
        core.events.pod(pod, "Warning", "DNSConfigForming", message);
    }
    let before = dns.searches.len();
    dns.searches.truncate(SEARCHES_MAX);
    while dns.searches.join(" ").len() > SEARCHES_CHARS_MAX {
        dns.searches.pop();
    }
    if dns.searches.len() < before {
        let message = format!(
            "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: {}",
            dns.searches.join(" ")
        );
        core.events.pod(pod, "Warning", "DNSConfigForming", message);
    }
    dns
}

/// Reads a resolv.conf.
fn parse(text: &str) -> v1::DnsConfig {
    let mut dns = v1::DnsConfig::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => dns.servers.extend(words.next().map(str::to_owned)),
            Some("search") => {
                dns.searches = words.map(|s| if s == "." { s } else { s.trim_end_matches('.') }.to_owned()).collect()
            }
            Some("options") => dns.options = words.map(str::to_owned).collect(),
            _ => {}
        }
    }
    dns
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(serde_json::json!({"metadata": {"name": "p", "namespace": "n"}, "spec": spec})).unwrap()
    }

    #[test]
    fn policies() {
        let host = parse("nameserver 9.9.9.9\nsearch corp.example.\noptions timeout:1\n");
        let cluster = ["10.96.0.10".to_owned()];
        let cases = [
            (serde_json::json!({}), "10.96.0.10", "n.svc.cluster.local svc.cluster.local cluster.local corp.example", "ndots:5"),
            (serde_json::json!({"hostNetwork": true}), "9.9.9.9", "corp.example", "timeout:1"),
            (
                serde_json::json!({"hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"}),
                "10.96.0.10",
                "n.svc.cluster.local svc.cluster.local cluster.local corp.example",
                "ndots:5",
            ),
            (serde_json::json!({"dnsPolicy": "Default"}), "9.9.9.9", "corp.example", "timeout:1"),
            (
                serde_json::json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.1.1.1"], "searches": ["a.b"], "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]}}),
                "1.1.1.1",
                "a.b",
                "ndots:2 edns0",
            ),
            (
                serde_json::json!({"dnsConfig": {"options": [{"name": "ndots", "value": "1"}]}}),
                "10.96.0.10",
                "n.svc.cluster.local svc.cluster.local cluster.local corp.example",
                "ndots:1",
            ),
        ];
        for (spec, servers, searches, options) in cases {
            let dns = resolve(&pod(spec.clone()), &host, &cluster, "cluster.local");
            assert_eq!(
                (dns.servers.join(" ").as_str(), dns.searches.join(" ").as_str(), dns.options.join(" ").as_str()),
                (servers, searches, options),
                "{spec}"
            );
        }
    }

    #[test]
    fn hostnames() {
        assert_eq!(
            sandbox_hostname(&pod(serde_json::json!({"hostname": "h", "subdomain": "s", "setHostnameAsFQDN": true})), "c.l"),
            Ok("h.s.n.svc.c.l".to_owned())
        );
        assert_eq!(sandbox_hostname(&pod(serde_json::json!({"hostname": "h", "subdomain": "s"})), "c.l"), Ok("h".to_owned()));
        assert_eq!(sandbox_hostname(&pod(serde_json::json!({})), "c.l"), Ok("p".to_owned()));
        let long = serde_json::json!({"hostname": "h".repeat(63), "subdomain": "s", "setHostnameAsFQDN": true});
        assert!(sandbox_hostname(&pod(long), "c.l").is_err());
    }
}
