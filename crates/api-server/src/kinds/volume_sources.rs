//! Where volumes come from, as pods and PersistentVolumes name it (upstream's `validate...VolumeSource`).
//!
//! The rules are the same but for secrets and namespaces, which a PersistentVolume names in full.

use apimachinery::field::{Error, ErrorList};
use apimachinery::{Quantity, Value, validation};

use super::at::{At, subdomain};

/// Who names the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner<'a> {
    /// A pod, or a template of pods.
    Pod,
    /// A PersistentVolume of this name.
    Volume(&'a str),
}

impl Owner<'_> {
    fn is_volume(self) -> bool {
        matches!(self, Owner::Volume(_))
    }
}

const ONE_ONLY: &str = "may not specify more than 1 volume type";

/// A source that another one forbids. The names in two places are upstream's slips of the pen.
pub(super) fn second(volume: &At, member: &'static str, e: &mut ErrorList) {
    let named = match member {
        "cephfs" => "cephFS",
        "downwardAPI" => "downwarAPI",
        member => member,
    };
    volume.get(named).forbid(e, ONE_ONLY);
}

/// The rule of a source that both may name; whether there is one.
pub(super) fn shared(volume: &At, member: &'static str, owner: Owner, e: &mut ErrorList) -> bool {
    let at = volume.get(member);
    match member {
        "hostPath" => host_path(&at, e),
        "gcePersistentDisk" => {
            let at = volume.get("persistentDisk").with(at.value);
            at.get("pdName").required(e);
            partition(&at, e);
        }
        "awsElasticBlockStore" => {
            at.get("volumeID").required(e);
            partition(&at, e);
        }
        "nfs" => {
            all_required(&at, &["server", "path"], e);
            if !at.get("path").text().starts_with('/') {
                at.get("path").invalid_text(e, "must be an absolute path");
            }
        }
        "iscsi" => iscsi(&at, owner, e),
        "glusterfs" => glusterfs(&at, owner, e),
        "flocker" => flocker(&at, e),
        "rbd" => {
            monitors(&at, e);
            at.get("image").required(e);
        }
        "cephfs" => monitors(&at, e),
        "cinder" => {
            at.get("volumeID").required(e);
            secret(&at, owner, e);
        }
        "quobyte" => quobyte(&at, e),
        "fc" => fc(&at, e),
        "flexVolume" => flex(&at, e),
        "azureFile" => {
            all_required(&at, &["secretName", "shareName"], e);
            let namespace = at.get("secretNamespace");
            if owner.is_volume() && namespace.is_set() {
                namespace.required(e);
            }
        }
        "vsphereVolume" => all_required(&at, &["volumePath"], e),
        "photonPersistentDisk" => all_required(&at, &["pdID"], e),
        "portworxVolume" => all_required(&at, &["volumeID"], e),
        "azureDisk" => azure_disk(&at, e),
        "scaleIO" => all_required(&at, &["gateway", "system", "volumeName"], e),
        "storageos" => storage_os(&at, owner, e),
        "csi" => csi(&at, owner, e),
        _ => return false,
    }
    true
}

pub(super) fn all_required(at: &At, members: &[&'static str], e: &mut ErrorList) {
    for member in members {
        at.get(member).required(e);
    }
}

fn monitors(at: &At, e: &mut ErrorList) {
    if at.get("monitors").len() == 0 {
        at.get("monitors").require(e, "");
    }
}

fn secret(at: &At, owner: Owner, e: &mut ErrorList) {
    let Some(secret) = at.set("secretRef") else { return };
    secret.get("name").required(e);
    if owner.is_volume() {
        secret.get("namespace").required(e);
    }
}

/// The text says less than the rule takes, as upstream's.
fn partition(at: &At, e: &mut ErrorList) {
    let partition = at.get("partition");
    if !(0..=255).contains(&partition.int()) {
        partition.invalid_int(e, validation::inclusive_range_error(1, 255));
    }
}

const HOST_PATH_TYPES: [&str; 8] =
    ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];

fn host_path(at: &At, e: &mut ErrorList) {
    if at.get("path").required(e) {
        at.get("path").no_backsteps(e);
        at.get("type").one_of(e, &HOST_PATH_TYPES);
    }
}

fn glusterfs(at: &At, owner: Owner, e: &mut ErrorList) {
    all_required(at, &["endpoints", "path"], e);
    let Some(namespace) = at.set("endpointsNamespace").filter(|_| owner.is_volume()) else { return };
    match namespace.text() {
        "" => namespace.invalid(e, "if the endpointnamespace is set, it must be a valid namespace name"),
        _ => namespace.check(e, validation::is_dns1123_label),
    }
}

const ISCSI_TARGET_CHARACTERS_MAX: usize = 64;

fn iscsi(at: &At, owner: Owner, e: &mut ErrorList) {
    let (portal, initiator) = (at.get("targetPortal"), at.get("initiatorName"));
    portal.required(e);
    if let Owner::Volume(name) = owner
        && initiator.is_set()
        && name.len() + 1 + portal.text().len() > ISCSI_TARGET_CHARACTERS_MAX
    {
        let why =
            "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified.";
        at.get("targetportal").with(portal.value).invalid_text(e, why);
    }
    if at.get("iqn").required(e) {
        iscsi_name(&at.get("iqn"), owner, e);
    }
    let lun = at.get("lun");
    lun.range(e, 0, 255);
    if (at.get("chapAuthDiscovery").is_true() || at.get("chapAuthSession").is_true()) && !at.get("secretRef").is_set() {
        at.get("secretRef").require(e, "");
    }
    if let Some(secret) = at.set("secretRef").filter(|_| owner.is_volume()) {
        secret.get("name").required(e);
    }
    if initiator.is_set() {
        iscsi_name(&at.get("initiatorname").with(initiator.value), owner, e);
    }
}

/// A name of RFC 3720: qualified, EUI or NAA.
fn iscsi_name(at: &At, owner: Owner, e: &mut ErrorList) {
    let text = at.text();
    let id = |length: usize| {
        let rest = text.chars().skip(3).collect::<Vec<_>>();
        rest.len() == length + 1 && rest[0] != '\n' && rest[1..].iter().all(char::is_ascii_alphanumeric)
    };
    let (known, valid) = match text.get(..3) {
        Some("iqn") => (true, is_qualified(text)),
        Some("eui") => (true, id(16)),
        Some("naa") => (true, id(32)),
        _ => (false, false),
    };
    match (known, owner) {
        (false, Owner::Pod) => at.invalid_text(e, "must be valid format starting with iqn, eui, or naa"),
        _ if !valid => at.invalid_text(e, "must be valid format"),
        _ => {}
    }
}

/// Somewhere in the text `iqn.YYYY-MM.`, then a name, then to the end a colon and an identifier.
fn is_qualified(text: &str) -> bool {
    text.match_indices("iqn.").any(|(at, _)| {
        let rest = &text[at + 4..];
        let dated = rest.len() > 8
            && rest.bytes().zip(b"0000-00.").all(|(c, form)| if *form == b'0' { c.is_ascii_digit() } else { c == *form });
        dated
            && rest.get(8..).is_some_and(|rest| {
                rest.match_indices(':').any(|(colon, _)| {
                    let (name, identifier) = (&rest[..colon], &rest[colon + 1..]);
                    !name.is_empty()
                        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '.')
                        && !identifier.is_empty()
                        && !identifier.contains(|c: char| ",;*&$|".contains(c) || c.is_ascii_whitespace())
                })
            })
    })
}

fn flocker(at: &At, e: &mut ErrorList) {
    let (name, uuid) = (at.get("datasetName"), at.get("datasetUUID"));
    match (name.text().is_empty(), uuid.text().is_empty()) {
        (true, true) => at.require(e, "one of datasetName and datasetUUID is required"),
        (false, false) => {
            let why = "datasetName and datasetUUID can not be specified simultaneously";
            e.push(Error::invalid(&at.path(), "resource", why));
        }
        _ => {}
    }
    if name.text().contains('/') {
        name.invalid(e, "must not contain '/'");
    }
}

fn quobyte(at: &At, e: &mut ErrorList) {
    let why = "must be a host:port pair or multiple pairs separated by commas";
    let registry = at.get("registry");
    if registry.text().is_empty() {
        registry.require(e, why);
    } else if at.get("tenant").text().len() >= 65 {
        at.get("tenant").require(e, "must be a UUID and may not exceed a length of 64 characters");
    } else {
        for _ in registry.text().split(',').filter(|pair| !is_host_and_port(pair)) {
            registry.invalid(e, why);
        }
    }
    at.get("volume").required(e);
}

/// Go's `net.SplitHostPort`: an IPv6 address stands in brackets.
fn is_host_and_port(pair: &str) -> bool {
    let Some((host, port)) = pair.rsplit_once(':') else { return false };
    let host = match host.strip_prefix('[') {
        Some(bracketed) => match bracketed.strip_suffix(']') {
            Some(inside) => return !inside.contains(['[', ']']) && !port.contains(['[', ']']),
            None => return false,
        },
        None => host,
    };
    !host.contains([':', '[', ']']) && !port.contains(['[', ']'])
}

fn fc(at: &At, e: &mut ErrorList) {
    let (targets, ids) = (at.get("targetWWNs").len(), at.get("wwids").len());
    if targets == 0 && ids == 0 {
        at.get("targetWWNs").require(e, "must specify either targetWWNs or wwids, but not both");
    }
    if targets > 0 && ids > 0 {
        at.get("targetWWNs").invalid(e, "targetWWNs and wwids can not be specified simultaneously");
    }
    if targets > 0 {
        let lun = at.get("lun");
        match lun.is_set() {
            false => lun.require(e, "lun is required if targetWWNs is specified"),
            true => lun.range(e, 0, 255),
        }
    }
}

fn flex(at: &At, e: &mut ErrorList) {
    at.get("driver").required(e);
    for (key, entry) in at.get("options").entries() {
        let domain = format!(".{}", key.split('/').next().unwrap_or_default().to_lowercase());
        if domain.ends_with(".kubernetes.io") || domain.ends_with(".k8s.io") {
            e.push(Error::invalid(&entry.path(), key, "kubernetes.io and k8s.io namespaces are reserved"));
        }
    }
}

fn azure_disk(at: &At, e: &mut ErrorList) {
    all_required(at, &["diskName", "diskURI"], e);
    if at.get("cachingMode").is_set() {
        at.get("cachingMode").one_of(e, &["None", "ReadOnly", "ReadWrite"]);
    }
    let (kind, uri) = (at.get("kind"), at.get("diskURI"));
    if !kind.is_set() {
        return;
    }
    kind.one_of(e, &["Dedicated", "Managed", "Shared"]);
    let (start, form) = match kind.text() {
        "Managed" => {
            ("/subscriptions/", "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}")
        }
        _ => ("https://", "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd"),
    };
    if !uri.text().starts_with(start) {
        e.push(Error::not_supported(&uri.path(), uri.text(), &[form]));
    }
}

fn storage_os(at: &At, owner: Owner, e: &mut ErrorList) {
    at.get("volumeName").required_name(e, validation::is_dns1123_label);
    at.get("volumeNamespace").check_set(e, validation::is_dns1123_label);
    secret(at, owner, e);
}

/// The name of a CSI driver.
pub(super) fn csi_driver_name(at: &At, e: &mut ErrorList) {
    if !at.required(e) {
        return;
    }
    if at.text().len() > 63 {
        at.too_long(e, 63);
    }
    let why = validation::is_dns1123_subdomain(&at.text().to_lowercase());
    e.extend(why.into_iter().map(|why| Error::invalid(&at.path(), at.text(), why)));
}

fn csi(at: &At, owner: Owner, e: &mut ErrorList) {
    csi_driver_name(&at.get("driver"), e);
    if !owner.is_volume() {
        if let Some(secret) = at.set("nodePublishSecretRef")
            && secret.get("name").required(e)
        {
            // Upstream's path is one level up.
            at.get("name").with(&secret.value["name"]).check(e, subdomain);
        }
        return;
    }
    at.get("volumeHandle").required(e);
    for secret in ["controllerPublishSecretRef", "controllerExpandSecretRef", "nodePublishSecretRef", "nodeExpandSecretRef"] {
        if let Some(secret) = at.set(secret) {
            secret.get("name").required_name(e, validation::is_dns1123_subdomain);
            secret.get("namespace").required_name(e, validation::is_dns1123_label);
        }
    }
}

/// A quantity that must be more than nothing.
pub(super) fn positive_quantity(at: &At, e: &mut ErrorList) {
    if let Some(amount) = at.quantity()
        && amount <= Quantity::default()
    {
        e.push(Error::invalid(&at.path(), Value::from(amount.to_string()), "must be greater than zero"));
    }
}

#[cfg(test)]
mod tests {
    use apimachinery::value;

    use super::*;

    #[test]
    fn rules_of_sources() {
        let pv = Owner::Volume("pv");
        let cases: &[(&'static str, Owner, Value, &[&str])] = &[
            (
                "gcePersistentDisk",
                pv,
                value!({"partition": 256}),
                &[
                    "persistentDisk.pdName: Required value",
                    "persistentDisk.partition: Invalid value: 256: must be between 1 and 255, inclusive",
                ],
            ),
            (
                "iscsi",
                Owner::Pod,
                value!({"targetPortal": "a", "iqn": "x"}),
                &["iscsi.iqn: Invalid value: \"x\": must be valid format starting with iqn, eui, or naa"],
            ),
            (
                "iscsi",
                pv,
                value!({"targetPortal": "a", "iqn": "iqn.2001-04.com.example:disk", "initiatorName": "x"}),
                &["iscsi.initiatorname: Invalid value: \"x\": must be valid format"],
            ),
            (
                "iscsi",
                pv,
                value!({"targetPortal": "a", "iqn": "iqn.2001-4.com.example:disk"}),
                &["iscsi.iqn: Invalid value: \"iqn.2001-4.com.example:disk\": must be valid format"],
            ),
            (
                "cinder",
                pv,
                value!({"volumeID": "a", "secretRef": {"name": "b"}}),
                &["cinder.secretRef.namespace: Required value"],
            ),
            ("cinder", Owner::Pod, value!({"volumeID": "a", "secretRef": {"name": "b"}}), &[]),
            (
                "quobyte",
                pv,
                value!({"registry": "a:1,[::1]:2,::1", "volume": "v"}),
                &[
                    "quobyte.registry: Invalid value: \"a:1,[::1]:2,::1\": must be a host:port pair or multiple pairs separated by commas",
                ],
            ),
            (
                "glusterfs",
                pv,
                value!({"endpoints": "a", "path": "b", "endpointsNamespace": ""}),
                &[
                    "glusterfs.endpointsNamespace: Invalid value: \"\": if the endpointnamespace is set, it must be a valid namespace name",
                ],
            ),
            (
                "azureDisk",
                pv,
                value!({"diskName": "a", "diskURI": "b", "kind": "Managed"}),
                &[
                    "azureDisk.diskURI: Unsupported value: \"b\": supported values: \"/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}\"",
                ],
            ),
            (
                "csi",
                Owner::Pod,
                value!({"driver": "a", "nodePublishSecretRef": {}}),
                &["csi.nodePublishSecretRef.name: Required value"],
            ),
            (
                "flexVolume",
                pv,
                value!({"driver": "a", "options": {"k8s.io/b": "c"}}),
                &["flexVolume.options[k8s.io/b]: Invalid value: \"k8s.io/b\": kubernetes.io and k8s.io namespaces are reserved"],
            ),
        ];
        for (member, owner, source, expected) in cases {
            let mut volume = value!({});
            volume.insert(*member, source.clone());
            let mut errors = ErrorList::new();
            assert!(shared(&At::root(&volume), member, *owner, &mut errors));
            assert_eq!(errors.iter().map(ToString::to_string).collect::<Vec<_>>(), *expected, "{member}");
        }
        assert!(!shared(&At::root(&value!({})), "emptyDir", Owner::Pod, &mut ErrorList::new()));
    }
}
