//! Warnings about objects that are valid, but not what their author may think (upstream's `GetWarningsFor...` in `pkg/api`).
//!
//! Not here: overlapping paths in volumes, and the AppArmor annotation that equals the pod's profile.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use apimachinery::field::Path;
use apimachinery::{GroupResource, Quantity, Value, go_quote, validation};

use super::at::{At, legacy_ip};

const DEPRECATED_LABELS: [(&str, &str); 8] = [
    ("beta.kubernetes.io/arch", "deprecated since v1.14; use \"kubernetes.io/arch\" instead"),
    ("beta.kubernetes.io/os", "deprecated since v1.14; use \"kubernetes.io/os\" instead"),
    ("failure-domain.beta.kubernetes.io/region", "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead"),
    ("failure-domain.beta.kubernetes.io/zone", "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead"),
    ("beta.kubernetes.io/instance-type", "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead"),
    ("app.kubernetes.io/created-by", "deprecated since v1.9"),
    ("scheduler.alpha.kubernetes.io/preferAvoidPods", "deprecated since v1.22; use Taints and Tolerations instead"),
    ("node-role.kubernetes.io/master", "use \"node-role.kubernetes.io/control-plane\" instead"),
];

const DEPRECATED_ANNOTATIONS: [(&str, &str); 3] = [
    ("scheduler.alpha.kubernetes.io/critical-pod", "non-functional in v1.16+; use the \"priorityClassName\" field instead"),
    ("security.alpha.kubernetes.io/sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
    ("security.alpha.kubernetes.io/unsafe-sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
];

const POD_VOLUMES: [(&str, &str); 9] = [
    ("photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
    ("gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"),
    ("scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("flocker", "deprecated in v1.22, non-functional in v1.25+"),
    ("storageos", "deprecated in v1.22, non-functional in v1.25+"),
    ("quobyte", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("rbd", "deprecated in v1.28, non-functional in v1.31+"),
];

/// Those of the kinds whose rules are facts; `old` is there for updates.
pub(super) fn of(resource: &GroupResource, object: &Value, old: Option<&Value>) -> Vec<String> {
    let root = At::root(object);
    let mut found = Vec::new();
    match (resource.group.as_str(), resource.resource.as_str()) {
        ("", "persistentvolumes") => volume(&root, &mut found),
        ("", "nodes") if !root.get("spec").get("externalID").text().is_empty() => {
            found.push("spec.externalID: this field is deprecated, and is unused by Kubernetes".to_owned());
        }
        ("", "persistentvolumeclaims") => {
            if object.str_at(&["metadata", "annotations", BETA_CLASS]).is_some() {
                found.push(format!(
                    "metadata.annotations[{BETA_CLASS}]: deprecated since v1.8; use \"storageClassName\" attribute instead"
                ));
            }
            claim_spec(&Path::new("spec"), &root.get("spec"), &mut found);
        }
        ("storage.k8s.io", "storageclasses") => {
            for term in root.get("allowedTopologies").items() {
                for requirement in term.get("matchLabelExpressions").items() {
                    let key = requirement.get("key");
                    found.extend(deprecated_label(key.text()).map(|why| format!("{}: {why}", key.path())));
                }
            }
        }
        ("storage.k8s.io", "csistoragecapacities") => {
            let topology = root.get("nodeTopology");
            expressions(&topology, &mut found);
            let labels = topology.get("matchLabels");
            for (label, _) in labels.entries() {
                found.extend(deprecated_label(label).map(|why| format!("{}: {why}", labels.path().child(label))));
            }
        }
        ("networking.k8s.io", "networkpolicies") => {
            for (rules, peers) in [("ingress", "from"), ("egress", "to")] {
                for rule in root.get("spec").get(rules).items() {
                    for peer in rule.get(peers).items() {
                        let block = peer.get("ipBlock");
                        cidr(&block.get("cidr"), &mut found);
                        block.get("except").items().for_each(|except| cidr(&except, &mut found));
                    }
                }
            }
        }
        ("discovery.k8s.io", "endpointslices") => endpoint_slice(&root, old.is_none(), &mut found),
        ("storage.k8s.io", "csidrivers") => csi_driver(object, old, &mut found),
        ("resource.k8s.io", "resourceslices") => {
            let driver = object.str_at(&["spec", "driver"]).unwrap_or_default();
            if driver != driver.to_lowercase() {
                let name = apimachinery::go_quote(driver);
                found.push(format!("spec.driver: driver names should be lowercase; {name} contains uppercase characters"));
            }
        }
        ("node.k8s.io", "runtimeclasses") => {
            for (label, _) in root.get("scheduling").get("nodeSelector").entries() {
                found.extend(deprecated_label(label).map(|why| format!("scheduling.nodeSelector: {why}")));
            }
        }
        _ => {}
    }
    found
}

/// What a Service asks for in vain.
pub(super) fn service(object: &Value) -> Vec<String> {
    let root = At::root(object);
    let (meta, spec) = (root.get("metadata"), root.get("spec"));
    let mut found = Vec::new();
    let external = spec.get("type").text() == "ExternalName";
    let (hints, mode) = ("service.kubernetes.io/topology-aware-hints", "service.kubernetes.io/topology-mode");
    if !meta.get("annotations").key(hints).value.is_null() {
        found.push(format!("annotation {hints} is deprecated, please use {mode} instead"));
    }
    if spec.get("clusterIP").text() != "None" {
        spec.get("clusterIPs").items().for_each(|address| ip(&address, &mut found));
    }
    let given = |name: &'static str| !spec.get(name).value.is_empty();
    if spec.get("clusterIP").text() == "None" {
        let sticky = spec.get("sessionAffinity").text() != "None";
        let ignored =
            [("loadBalancerIP", given("loadBalancerIP")), ("externalIPs", given("externalIPs")), ("SessionAffinity", sticky)];
        let ignored = ignored.into_iter().filter(|(_, given)| *given);
        found.extend(ignored.map(|(name, _)| format!("spec.{name} is ignored for headless services")));
    }
    spec.get("externalIPs").items().for_each(|address| ip(&address, &mut found));
    ip(&spec.get("loadBalancerIP"), &mut found);
    spec.get("loadBalancerSourceRanges").items().for_each(|range| cidr(&range, &mut found));
    if external && given("externalIPs") {
        found.push("spec.externalIPs is ignored when spec.type is \"ExternalName\"".to_owned());
    }
    if !external && given("externalName") {
        found.push("spec.externalName is ignored when spec.type is not \"ExternalName\"".to_owned());
    }
    if spec.get("trafficDistribution").text() == "PreferClose" {
        found.push("spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"".to_owned());
    }
    found
}

const BETA_CLASS: &str = "volume.beta.kubernetes.io/storage-class";
const BETA_OPTIONS: &str = "volume.beta.kubernetes.io/mount-options";

fn deprecated_label(label: &str) -> Option<&'static str> {
    DEPRECATED_LABELS.iter().find(|(known, _)| *known == label).map(|(_, why)| *why)
}

fn csi_driver(object: &Value, old: Option<&Value>, found: &mut Vec<String>) {
    let requests = &object["spec"]["tokenRequests"];
    let changed = old.is_none_or(|old| old["spec"]["tokenRequests"] != *requests);
    if changed && !requests.is_empty() && object["spec"]["serviceAccountTokenInSecrets"].is_null() {
        found.push(
            "spec.serviceAccountTokenInSecrets is unset; if supported by this CSI driver, set to true to prevent possible logging of \
             tokens in volume attributes"
                .to_owned(),
        );
    }
}

fn volume(root: &At, found: &mut Vec<String>) {
    let spec = root.get("spec");
    let annotations = &root.value["metadata"]["annotations"];
    for (key, why) in [
        (BETA_CLASS, "deprecated since v1.8; use \"storageClassName\" attribute instead"),
        (BETA_OPTIONS, "deprecated since v1.31; use \"mountOptions\" attribute instead"),
    ] {
        if annotations.get(key).is_some() {
            found.push(format!("metadata.annotations[{key}]: {why}"));
        }
    }
    if spec.get("persistentVolumeReclaimPolicy").text() == "Recycle" {
        found.push(
            "spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use \
             dynamic provisioning."
                .to_owned(),
        );
    }
    let affinity = spec.get("nodeAffinity");
    affinity.get("required").get("nodeSelectorTerms").items().for_each(|term| expressions(&term, found));
    for member in ["cephfs", "photonPersistentDisk", "scaleIO", "storageos", "glusterfs", "rbd"] {
        if let Some((_, why)) = POD_VOLUMES.iter().find(|(known, _)| *known == member && spec.set(member).is_some()) {
            let shown = if member == "storageos" { "storageOS" } else { member };
            found.push(format!("spec.{shown}: {why}"));
        }
    }
}

/// Of labels in `matchExpressions`.
fn expressions(term: &At, found: &mut Vec<String>) {
    for requirement in term.get("matchExpressions").items() {
        let key = requirement.get("key");
        found.extend(deprecated_label(key.text()).map(|why| format!("{}: {} is {why}", key.path(), key.text())));
    }
}

fn fractional(path: &Path, amount: Option<Quantity>, text: &str, found: &mut Vec<String>) {
    if amount.is_some_and(|amount| amount.milli_value() % 1000 != 0) {
        found.push(format!("{path}: fractional byte value {} is invalid, must be an integer", go_quote(text)));
    }
}

/// Of a PersistentVolumeClaimSpec.
pub(super) fn claim_spec(path: &Path, spec: &At, found: &mut Vec<String>) {
    let resources = spec.get("resources");
    for list in ["requests", "limits"] {
        let amounts = resources.get(list);
        let amount = amounts.key("storage");
        fractional(&path.child("resources").child(list).key("storage"), amount.quantity(), amount.text(), found);
    }
}

/// Of a pod, or of a template.
pub(super) fn pod(at: &At, is_template: bool) -> Vec<String> {
    let mut found = Vec::new();
    if !at.is_set() {
        return found;
    }
    let (meta, spec) = (at.get("metadata"), at.get("spec"));
    let annotations = meta.get("annotations");
    scheduling(&spec, &mut found);
    for (key, why) in DEPRECATED_ANNOTATIONS {
        if annotations.key(key).is_set() {
            found.push(format!("{}: {why}", annotations.path().key(key)));
        }
    }
    volumes(&spec, &mut found);
    repeated(&spec.get("hostAliases"), "ip", 1, &mut found);
    repeated(&spec.get("imagePullSecrets"), "name", 1, &mut found);
    for secret in spec.get("imagePullSecrets").items() {
        let name = secret.get("name");
        if name.text().is_empty() {
            found.push(format!("{}: invalid empty name \"\"", name.path()));
        }
    }
    for name in ["memory", "ephemeral-storage"] {
        let overhead = spec.get("overhead");
        let amount = overhead.key(name);
        fractional(&amount.path(), amount.quantity(), amount.text(), &mut found);
    }
    let has_profile = spec.get("securityContext").get("seccompProfile").is_set();
    if !has_profile && annotations.key(SECCOMP_POD).is_set() {
        let path = annotations.path().key(SECCOMP_POD);
        found.push(format!("{path}: non-functional in v1.27+; use the \"seccompProfile\" field instead"));
    }
    let lists = LISTS.map(|list| spec.get(list));
    for container in lists.iter().flat_map(At::items) {
        of_container(&container, &annotations, is_template, &mut found);
    }
    ports(&lists, &mut found);
    if spec.get("terminationGracePeriodSeconds").int() < 0 {
        let path = spec.get("terminationGracePeriodSeconds").path();
        found.push(format!("{path}: must be >= 0; negative values are invalid and will be treated as 1"));
    }
    affinities(&spec, &mut found);
    let dns = spec.get("dnsConfig");
    dns.get("nameservers").items().for_each(|address| ip(&address, &mut found));
    spec.get("hostAliases").items().for_each(|alias| ip(&alias.get("ip"), &mut found));
    found
}

const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
const APPARMOR_CONTAINER: &str = "container.apparmor.security.beta.kubernetes.io/";
/// In upstream's order of visiting.
const LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

fn scheduling(spec: &At, found: &mut Vec<String>) {
    let selector = spec.get("nodeSelector");
    for (label, entry) in selector.entries() {
        found.extend(deprecated_label(label).map(|why| format!("{}: {why}", entry.path())));
    }
    let affinity = spec.get("affinity");
    let nodes = affinity.get("nodeAffinity");
    let required = nodes.get("requiredDuringSchedulingIgnoredDuringExecution");
    required.get("nodeSelectorTerms").items().for_each(|term| expressions(&term, found));
    for preferred in nodes.get("preferredDuringSchedulingIgnoredDuringExecution").items() {
        let term = preferred.get("preference");
        for requirement in term.get("matchExpressions").items() {
            let key = requirement.get("key");
            found.extend(deprecated_label(key.text()).map(|why| format!("{}: {} is {why}", key.path(), key.text())));
            for value in requirement.get("values").items() {
                let why = validation::is_label_value(value.text());
                found.extend(why.into_iter().map(|why| format!("{}: {} is invalid, {why}", value.path(), value.text())));
            }
        }
    }
    for constraint in spec.get("topologySpreadConstraints").items() {
        let (key, selector) = (constraint.get("topologyKey"), constraint.get("labelSelector"));
        found.extend(deprecated_label(key.text()).map(|why| format!("{}: {} is {why}", key.path(), key.text())));
        if !selector.is_set() {
            found.push(format!("{}: a null labelSelector results in matching no pod", selector.path()));
        }
    }
}

fn affinities(spec: &At, found: &mut Vec<String>) {
    let affinity = spec.get("affinity");
    for kind in ["podAffinity", "podAntiAffinity"] {
        let of = affinity.get(kind);
        let missing = |selector: At, found: &mut Vec<String>| {
            if !selector.is_set() {
                found.push(format!("{}: a null labelSelector results in matching no pod", selector.path()));
            }
        };
        for term in of.get("requiredDuringSchedulingIgnoredDuringExecution").items() {
            missing(term.get("labelSelector"), found);
        }
        for term in of.get("preferredDuringSchedulingIgnoredDuringExecution").items() {
            missing(term.get("podAffinityTerm").get("labelSelector"), found);
        }
    }
}

fn volumes(spec: &At, found: &mut Vec<String>) {
    for volume in spec.get("volumes").items() {
        for (member, why) in POD_VOLUMES.iter().filter(|(member, _)| volume.set(member).is_some()) {
            let shown = if *member == "storageos" { "storageOS" } else { member };
            found.push(format!("{}: {why}", volume.path().child(shown)));
        }
        let template = volume.get("ephemeral");
        let template = template.get("volumeClaimTemplate");
        let claim = template.get("spec");
        if template.is_set() {
            claim_spec(&claim.path(), &claim, found);
        }
    }
    for volume in spec.get("volumes").items() {
        let projected = volume.get("projected");
        for _ in projected.get("sources").items().filter(|source| source.value.is_empty()) {
            found.push(format!("volume {} (Projected) has no sources provided", go_quote(volume.get("name").text())));
        }
    }
}

fn repeated(list: &At, member: &'static str, more_than: usize, found: &mut Vec<String>) {
    if list.len() <= more_than {
        return;
    }
    let mut seen: Vec<&str> = Vec::new();
    for item in list.items() {
        let value = item.get(member);
        if seen.contains(&value.text()) {
            found.push(format!("{}: duplicate {member} {}", value.path(), go_quote(value.text())));
        }
        seen.push(value.text());
    }
}

fn of_container(at: &At, annotations: &At, is_template: bool, found: &mut Vec<String>) {
    let (name, security) = (at.get("name"), at.get("securityContext"));
    let key = format!("{SECCOMP_CONTAINER}{}", name.text());
    if !security.get("seccompProfile").is_set() && annotations.value.get(&key).is_some() {
        let path = annotations.path().key(&key);
        found.push(format!("{path}: non-functional in v1.27+; use the \"seccompProfile\" field instead"));
    }
    let key = format!("{APPARMOR_CONTAINER}{}", name.text());
    if is_template && !security.get("appArmorProfile").is_set() && annotations.value.get(&key).is_some() {
        let path = annotations.path().key(&key);
        found.push(format!("{path}: deprecated since v1.30; use the \"appArmorProfile\" field instead"));
    }
    let resources = at.get("resources");
    for name in ["memory", "ephemeral-storage"] {
        for list in ["limits", "requests"] {
            let amounts = resources.get(list);
            let amount = amounts.key(name);
            fractional(&amount.path(), amount.quantity(), amount.text(), found);
        }
    }
    let mut seen: Vec<&str> = Vec::new();
    for entry in at.get("env").items() {
        let (name, value) = (entry.get("name"), entry.get("value"));
        if !seen.contains(&name.text()) {
            seen.push(name.text());
            continue;
        }
        let own = format!("$({})", name.text());
        if entry.get("valueFrom").is_set() || value.text() == own || !value.text().contains(&own) {
            let name = go_quote(name.text());
            found.push(format!("{}: hides previous definition of {name}, which may be dropped when using apply", entry.path()));
        }
    }
}

/// A port that was seen before: its place, address, and port of the host.
struct Seen<'v> {
    key: (i64, &'v str),
    path: Path,
    address: &'v str,
    host: i64,
}

fn ports<'v>(lists: &[At<'_, 'v>; 3], found: &mut Vec<String>) {
    let mut seen: Vec<Seen<'v>> = Vec::new();
    let mut names: Vec<(&'v str, Path)> = Vec::new();
    let mut about_names = Vec::new();
    for container in lists.iter().flat_map(At::items) {
        for port in container.get("ports").items() {
            let key = (port.get("containerPort").int(), port.get("protocol").text());
            let (address, host) = (port.get("hostIP").text(), port.get("hostPort").int());
            if !address.is_empty() && host == 0 {
                found.push(format!(
                    "{}: hostIP set without hostPort: {{Name:{} HostPort:0 ContainerPort:{} Protocol:{} HostIP:{address}}}",
                    port.path(),
                    port.get("name").text(),
                    key.0,
                    key.1,
                ));
            }
            let this = Seen { key, path: port.path(), address: port.get("hostIP").text(), host: port.get("hostPort").int() };
            for other in seen.iter().filter(|other| other.key == key) {
                found.extend(clash(&this, other));
            }
            let name = port.get("name").text();
            match names.iter().find(|(known, _)| *known == name) {
                _ if name.is_empty() => {}
                Some((_, first)) => about_names.push(format!(
                    "{}: duplicate port name {} with {first}, services and probes that select ports by name will use {first}",
                    this.path,
                    go_quote(name)
                )),
                None => names.push((name, this.path.clone())),
            }
            seen.push(this);
        }
    }
    found.append(&mut about_names);
}

fn clash(this: &Seen, other: &Seen) -> Option<String> {
    let how = if this.address == other.address && this.host == other.host {
        "duplicate"
    } else if this.host == 0 || other.host == 0 {
        "overlapping"
    } else if this.host == other.host && this.address.is_empty() != other.address.is_empty() {
        "dangerously ambiguous"
    } else {
        return None;
    };
    Some(format!("{}: {how} port definition with {}", this.path, other.path))
}

fn endpoint_slice(root: &At, new: bool, found: &mut Vec<String>) {
    if new && root.get("addressType").text() == "FQDN" {
        found.push("spec.addressType: FQDN endpoints are deprecated".to_owned());
    }
    // Upstream's own controllers mend addresses before they write.
    let labels = root.get("metadata");
    let labels = labels.get("labels");
    let manager = labels.key("endpointslice.kubernetes.io/managed-by");
    if matches!(manager.text(), "endpointslice-controller.k8s.io" | "endpointslicemirroring-controller.k8s.io") {
        return;
    }
    for endpoint in root.get("endpoints").items() {
        endpoint.get("addresses").items().for_each(|address| ip(&address, found));
    }
}

/// Of a network with more bits than its prefix has, or in a form that is going out of use.
fn cidr(at: &At, found: &mut Vec<String>) {
    let (path, text) = (at.path(), at.text());
    let Some((head, bits)) = text.split_once('/') else { return };
    let (Some(address), Ok(length)) = (legacy_ip(head), bits.parse::<u32>()) else { return };
    let size = if head.contains(':') { 128 } else { 32 };
    // An address that is mapped into IPv6 is shown as the IPv4 address that it is.
    let shown = address.to_canonical();
    let network = network(address, length).to_canonical();
    let prefix = format!("{network}/{}", if network.is_ipv4() && size == 128 { length.saturating_sub(96) } else { length });
    let before = found.len();
    if shown != network {
        let alone = format!("{shown}/{size}");
        found.push(format!(
            "{path}: CIDR value {} is ambiguous in this context (should be {} or {}?)",
            go_quote(text),
            go_quote(&prefix),
            go_quote(&alone)
        ));
    }
    if head.parse::<IpAddr>().is_err() || bits != length.to_string() || shown != address {
        found.push(format!(
            "{path}: non-standard CIDR value {} will be considered invalid in a future Kubernetes release: use {}",
            go_quote(text),
            go_quote(&prefix)
        ));
    }
    if found.len() == before && address.is_ipv6() && format!("{address}/{length}") != text {
        let canonical = go_quote(&format!("{address}/{length}"));
        found.push(format!("{path}: IPv6 CIDR value {} should be in RFC 5952 canonical format ({canonical})", go_quote(text)));
    }
}

/// An address without the bits after the prefix.
fn network(address: IpAddr, length: u32) -> IpAddr {
    match address {
        IpAddr::V4(v4) => Ipv4Addr::from(u32::from(v4) & u32::MAX.checked_shl(32_u32.saturating_sub(length)).unwrap_or(0)).into(),
        IpAddr::V6(v6) => {
            Ipv6Addr::from(u128::from(v6) & u128::MAX.checked_shl(128_u32.saturating_sub(length)).unwrap_or(0)).into()
        }
    }
}

/// Of an address in a form that is going out of use.
pub(super) fn ip(at: &At, found: &mut Vec<String>) {
    let (text, Some(address)) = (at.text(), legacy_ip(at.text())) else { return };
    let strict = text.parse::<IpAddr>();
    let mapped = matches!(strict, Ok(IpAddr::V6(v6)) if v6.to_ipv4_mapped().is_some());
    let (given, canonical) = (go_quote(text), go_quote(&address.to_canonical().to_string()));
    if strict.is_err() || mapped {
        let path = at.path();
        found.push(format!(
            "{path}: non-standard IP address {given} will be considered invalid in a future Kubernetes release: use {canonical}"
        ));
    } else if address.is_ipv6() && canonical != given {
        found.push(format!("{}: IPv6 address {given} should be in RFC 5952 canonical format ({canonical})", at.path()));
    }
}

#[cfg(test)]
mod tests {
    use apimachinery::value;

    use super::*;

    #[test]
    fn of_pods() {
        let cases: [(Value, &[&str]); 6] = [
            (
                value!({"nodeSelector": {"beta.kubernetes.io/os": "linux"}}),
                &[r#"spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use "kubernetes.io/os" instead"#],
            ),
            (
                value!({"volumes": [{"name": "a", "gitRepo": {}}]}),
                &["spec.volumes[0].gitRepo: deprecated in v1.11, and disabled by default in v1.33+"],
            ),
            (
                value!({"imagePullSecrets": [{"name": "a"}, {"name": "a"}]}),
                &[r#"spec.imagePullSecrets[1].name: duplicate name "a""#],
            ),
            (
                value!({"containers": [{"name": "c", "resources": {"limits": {"memory": "1m"}}, "env": [{"name": "A", "value": "1"}, {"name": "A", "value": "$(A)2"}, {"name": "A"}]}]}),
                &[
                    r#"spec.containers[0].resources.limits[memory]: fractional byte value "1m" is invalid, must be an integer"#,
                    r#"spec.containers[0].env[2]: hides previous definition of "A", which may be dropped when using apply"#,
                ],
            ),
            (
                value!({"containers": [{"ports": [{"containerPort": 1, "protocol": "TCP", "name": "a"}]}, {"ports": [{"containerPort": 1, "protocol": "TCP", "hostPort": 2, "name": "a"}]}]}),
                &[
                    "spec.containers[1].ports[0]: overlapping port definition with spec.containers[0].ports[0]",
                    r#"spec.containers[1].ports[0]: duplicate port name "a" with spec.containers[0].ports[0], services and probes that select ports by name will use spec.containers[0].ports[0]"#,
                ],
            ),
            (
                value!({"topologySpreadConstraints": [{"topologyKey": "a"}], "terminationGracePeriodSeconds": -1}),
                &[
                    "spec.topologySpreadConstraints[0].labelSelector: a null labelSelector results in matching no pod",
                    "spec.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1",
                ],
            ),
        ];
        for (spec, expected) in cases {
            let object = value!({"spec": spec});
            assert_eq!(pod(&At::root(&object), false), expected, "{object}");
        }
    }

    #[test]
    fn of_other_kinds() {
        let cases: [(&str, &str, Value, &[&str]); 3] = [
            (
                "networking.k8s.io",
                "networkpolicies",
                value!({"spec": {"ingress": [{"from": [
                    {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.2.3/16", "010.0.0.0/8", "FD00::/64"]}}]}]}}),
                &[
                    r#"spec.ingress[0].from[0].ipBlock.except[0]: CIDR value "10.1.2.3/16" is ambiguous in this context (should be "10.1.0.0/16" or "10.1.2.3/32"?)"#,
                    r#"spec.ingress[0].from[0].ipBlock.except[1]: non-standard CIDR value "010.0.0.0/8" will be considered invalid in a future Kubernetes release: use "10.0.0.0/8""#,
                    r#"spec.ingress[0].from[0].ipBlock.except[2]: IPv6 CIDR value "FD00::/64" should be in RFC 5952 canonical format ("fd00::/64")"#,
                ],
            ),
            (
                "",
                "persistentvolumes",
                value!({"spec": {"rbd": {}}}),
                &["spec.rbd: deprecated in v1.28, non-functional in v1.31+"],
            ),
            (
                "",
                "persistentvolumeclaims",
                value!({"spec": {"resources": {"requests": {"storage": "1500m"}}}}),
                &[r#"spec.resources.requests[storage]: fractional byte value "1500m" is invalid, must be an integer"#],
            ),
        ];
        for (group, resource, object, expected) in cases {
            assert_eq!(of(&GroupResource::new(group, resource), &object, None), expected, "{object}");
        }
        let driver = value!({"spec": {"tokenRequests": [{"audience": "a"}]}});
        let resource = GroupResource::new("storage.k8s.io", "csidrivers");
        assert_eq!(of(&resource, &driver, None).len(), 1);
        assert_eq!(of(&resource, &driver, Some(&driver)).len(), 0);
    }
}
