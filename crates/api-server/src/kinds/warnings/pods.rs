//! Warnings about pods and their templates (upstream's `pkg/api/pod/warnings.go`).

use apimachinery::field::Path;
use apimachinery::{Value, go_quote, validation, value};

use super::addresses::ip;
use super::paths;
use super::{claim_spec, deprecated_label, expressions, fractional};
use crate::kinds::at::At;

const DEPRECATED_ANNOTATIONS: [(&str, &str); 3] = [
    ("scheduler.alpha.kubernetes.io/critical-pod", "non-functional in v1.16+; use the \"priorityClassName\" field instead"),
    ("security.alpha.kubernetes.io/sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
    ("security.alpha.kubernetes.io/unsafe-sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
];

/// Types of volumes that are going or gone.
pub(super) const VOLUMES: [(&str, &str); 9] = [
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

/// Of a pod, or of a template.
pub(in crate::kinds) fn pod(at: &At, is_template: bool) -> Vec<String> {
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
    let security = spec.get("securityContext");
    if !security.get("seccompProfile").is_set() && annotations.key(SECCOMP_POD).is_set() {
        let path = annotations.path().key(SECCOMP_POD);
        found.push(format!("{path}: non-functional in v1.27+; use the \"seccompProfile\" field instead"));
    }
    let lists = LISTS.map(|list| spec.get(list));
    for container in lists.iter().flat_map(At::items) {
        of_container(&container, &annotations, &mut found);
        if is_template {
            armor(&container, &annotations, security.get("appArmorProfile").value, &mut found);
        }
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
        for (member, why) in VOLUMES.iter().filter(|(member, _)| volume.set(member).is_some()) {
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
    spec.get("volumes").items().for_each(|volume| paths::overlapping(&volume, found));
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

fn of_container(at: &At, annotations: &At, found: &mut Vec<String>) {
    let (name, security) = (at.get("name"), at.get("securityContext"));
    let key = format!("{SECCOMP_CONTAINER}{}", name.text());
    if !security.get("seccompProfile").is_set() && annotations.value.get(&key).is_some() {
        let path = annotations.path().key(&key);
        found.push(format!("{path}: non-functional in v1.27+; use the \"seccompProfile\" field instead"));
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

/// An annotation for AppArmor that says something else than the pod's profile. Pods themselves get a field made of it instead.
fn armor(container: &At, annotations: &At, of_pod: &Value, found: &mut Vec<String>) {
    let security = container.get("securityContext");
    let key = format!("{APPARMOR_CONTAINER}{}", container.get("name").text());
    let annotation = annotations.value.get(&key);
    if security.get("appArmorProfile").is_set() || annotation.is_none() {
        return;
    }
    let said = match annotation.and_then(Value::as_str).unwrap_or_default() {
        "unconfined" => value!({"type": "Unconfined"}),
        "runtime/default" => value!({"type": "RuntimeDefault"}),
        text => match text.strip_prefix("localhost/").filter(|name| !name.is_empty()) {
            Some(name) => value!({"type": "Localhost", "localhostProfile": name}),
            None => Value::Null,
        },
    };
    if of_pod.is_null() || *of_pod != said {
        let path = annotations.path().key(&key);
        found.push(format!("{path}: deprecated since v1.30; use the \"appArmorProfile\" field instead"));
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
