//! The hosts file that the kubelet gives to a pod's containers.

use std::path::PathBuf;

use k8s_openapi::api::core::v1::Pod;

use crate::context::Core;
use crate::dns;
use crate::pod::access::PodAccess;

/// Writes the pod's hosts file, if it is the kubelet's to write: not before the pod has an address.
pub(crate) fn ensure(core: &Core, pod: &Pod, ips: &[String]) -> std::io::Result<Option<PathBuf>> {
    use std::os::unix::fs::PermissionsExt;
    if ips.is_empty() {
        return Ok(None);
    }
    let text = if pod.host_network() {
        let host = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
        format!("# Kubernetes-managed hosts file (host network).\n{host}{}", aliases(pod))
    } else {
        let (hostname, domain) = dns::hostname_and_domain(pod, &core.config.cluster_domain);
        content(pod, ips, &hostname, &domain)
    };
    let directory = core.config.pod_dir(pod.uid());
    std::fs::create_dir_all(&directory)?;
    let path = directory.join("etc-hosts");
    // Written in place: containers hold the file itself.
    std::fs::write(&path, text)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644))?;
    Ok(Some(path))
}

fn content(pod: &Pod, ips: &[String], hostname: &str, domain: &str) -> String {
    let mut text = String::from(
        "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
    );
    for ip in ips {
        if domain.is_empty() {
            text.push_str(&format!("{ip}\t{hostname}\n"));
        } else {
            text.push_str(&format!("{ip}\t{hostname}.{domain}\t{hostname}\n"));
        }
    }
    text.push_str(&aliases(pod));
    text
}

fn aliases(pod: &Pod) -> String {
    let aliases = pod.pod_spec().host_aliases.as_deref().unwrap_or_default();
    if aliases.is_empty() {
        return String::new();
    }
    let lines: String =
        aliases.iter().map(|a| format!("{}\t{}\n", a.ip, a.hostnames.clone().unwrap_or_default().join("\t"))).collect();
    format!("\n# Entries added by HostAliases.\n{lines}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_pod_and_its_aliases() {
        let pod: Pod = serde_json::from_value(
            serde_json::json!({"spec": {"containers": [], "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["a", "b"]}]}}),
        )
        .unwrap();
        let text = content(&pod, &["10.0.0.9".to_owned()], "web-0", "web.n.svc.cluster.local");
        assert!(text.contains("10.0.0.9\tweb-0.web.n.svc.cluster.local\tweb-0\n"));
        assert!(text.ends_with("\n# Entries added by HostAliases.\n1.2.3.4\ta\tb\n"));
    }
}
