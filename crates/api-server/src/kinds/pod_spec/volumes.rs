//! Volumes of pods: every source (upstream's `ValidateVolumes`).

use apimachinery::field::{Error, ErrorList};
use apimachinery::{Quantity, Value, validation};

use super::field_refs;
use crate::kinds::at::{At, subdomain};

const MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";

/// A source's rule.
type Rule = fn(&At, &mut ErrorList);

/// Sources in the order that upstream looks at them, which decides what a second one is told.
const SOURCES: &[(&str, Rule)] = &[
    ("emptyDir", empty_dir),
    ("hostPath", host_path),
    ("gitRepo", |at, e| {
        at.get("repository").required(e);
        at.get("directory").local_path(e);
    }),
    ("gcePersistentDisk", |at, e| {
        at.get("pdName").required(e);
        partition(at, e);
    }),
    ("awsElasticBlockStore", |at, e| {
        at.get("volumeID").required(e);
        partition(at, e);
    }),
    ("secret", |at, e| keyed(at, "secretName", e)),
    ("nfs", |at, e| {
        at.get("server").required(e);
        at.get("path").required(e);
        if !at.get("path").text().starts_with('/') {
            at.get("path").invalid_text(e, "must be an absolute path");
        }
    }),
    ("iscsi", iscsi),
    ("glusterfs", |at, e| all_required(at, &["endpoints", "path"], e)),
    ("flocker", flocker),
    ("persistentVolumeClaim", |at, e| all_required(at, &["claimName"], e)),
    ("rbd", |at, e| {
        if at.get("monitors").len() == 0 {
            at.get("monitors").require(e, "");
        }
        at.get("image").required(e);
    }),
    ("cinder", |at, e| {
        at.get("volumeID").required(e);
        if let Some(secret) = at.set("secretRef") {
            secret.get("name").required(e);
        }
    }),
    ("cephfs", |at, e| {
        if at.get("monitors").len() == 0 {
            at.get("monitors").require(e, "");
        }
    }),
    ("quobyte", quobyte),
    ("downwardAPI", |at, e| {
        mode(&at.get("defaultMode"), e);
        for file in at.get("items").items() {
            downward_file(&at.with(file.value), e);
        }
    }),
    ("fc", fc),
    ("flexVolume", |at, e| flex(at, e)),
    ("configMap", |at, e| keyed(at, "name", e)),
    ("azureFile", |at, e| all_required(at, &["secretName", "shareName"], e)),
    ("vsphereVolume", |at, e| all_required(at, &["volumePath"], e)),
    ("photonPersistentDisk", |at, e| all_required(at, &["pdID"], e)),
    ("portworxVolume", |at, e| all_required(at, &["volumeID"], e)),
    ("azureDisk", azure_disk),
    ("projected", super::projected::projected),
    ("scaleIO", |at, e| all_required(at, &["gateway", "system", "volumeName"], e)),
    ("csi", csi),
    ("image", |at, e| {
        at.get("reference").required(e);
        if !at.get("pullPolicy").text().is_empty() {
            at.get("pullPolicy").one_of(e, &super::containers::PULL_POLICIES);
        }
    }),
];

/// `pod` is the pod's name; empty in templates. Returns the volumes that nothing is wrong with.
pub(super) fn volumes(at: &At, pod: &str, e: &mut ErrorList) -> Vec<Value> {
    let mut names: Vec<&str> = Vec::new();
    let mut valid = Vec::new();
    let claims: Vec<String> = match pod {
        "" => Vec::new(),
        pod => {
            let ephemeral = at.items().filter(|volume| volume.set("ephemeral").is_some());
            ephemeral.map(|volume| format!("{pod}-{}", volume.get("name").text())).collect()
        }
    };
    for volume in at.items() {
        let name = volume.get("name");
        let before = e.len();
        source(&volume, pod, e);
        if name.text().is_empty() {
            name.require(e, "");
        } else {
            name.check(e, validation::is_dns1123_label);
        }
        if names.contains(&name.text()) {
            name.duplicate(e);
        }
        if e.len() == before {
            names.push(name.text());
            valid.push(volume.value.clone());
        }
        if let Some(claim) = volume.set("persistentVolumeClaim").map(|claim| claim.get("claimName").text())
            && claims.iter().any(|other| other == claim)
        {
            let path = volume.get("persistentVolumeClaim").get("claimName").path();
            e.push(Error::invalid(&path, claim, "must not reference a PVC that gets created for an ephemeral volume"));
        }
    }
    valid
}

fn source(volume: &At, pod: &str, e: &mut ErrorList) {
    let mut found = 0;
    for (name, rule) in SOURCES.iter().copied() {
        let Some(at) = volume.set(name) else { continue };
        if found > 0 {
            // Upstream's spelling.
            let at = if name == "downwardAPI" { volume.get("downwarAPI") } else { at };
            at.forbid(e, "may not specify more than 1 volume type");
        } else {
            rule(&at, e);
        }
        found += 1;
    }
    for name in ["storageos", "ephemeral"] {
        let Some(at) = volume.set(name) else { continue };
        if found > 0 {
            at.forbid(e, "may not specify more than 1 volume type");
        } else if name == "ephemeral" {
            ephemeral(volume, &at, pod, e);
        } else {
            storage_os(&at, e);
        }
        found += 1;
    }
    if found == 0 {
        volume.require(e, "must specify a volume type");
    }
}

pub(in crate::kinds) fn all_required(at: &At, members: &[&'static str], e: &mut ErrorList) {
    for member in members {
        at.get(member).required(e);
    }
}

pub(super) fn mode(at: &At, e: &mut ErrorList) {
    if at.is_set() && !(0..=0o777).contains(&at.int()) {
        at.invalid(e, MODE);
    }
}

fn partition(at: &At, e: &mut ErrorList) {
    if !(0..=255).contains(&at.get("partition").int()) {
        at.get("partition").range(e, 0, 255);
    }
}

fn empty_dir(at: &At, e: &mut ErrorList) {
    if at.get("sizeLimit").quantity().is_some_and(|limit| limit < Quantity::default()) {
        at.get("sizeLimit").forbid(e, "SizeLimit field must be a valid resource quantity");
    }
}

pub(in crate::kinds) const HOST_PATH_TYPES: [&str; 8] =
    ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];

fn host_path(at: &At, e: &mut ErrorList) {
    if at.get("path").required(e) {
        at.get("path").no_backsteps(e);
        at.get("type").one_of(e, &HOST_PATH_TYPES);
    }
}

/// A Secret's or ConfigMap's entries as files.
fn keyed(at: &At, name: &'static str, e: &mut ErrorList) {
    at.get(name).required(e);
    mode(&at.get("defaultMode"), e);
    for item in at.get("items").items() {
        key_to_path(&item, e);
    }
}

pub(super) fn key_to_path(at: &At, e: &mut ErrorList) {
    all_required(at, &["key", "path"], e);
    non_reserved(&at.get("path"), e);
    mode(&at.get("mode"), e);
}

/// A relative path whose first part is not the writer's own (`..data`).
pub(super) fn non_reserved(at: &At, e: &mut ErrorList) {
    at.local_path(e);
    if at.text().starts_with("..") && !at.text().starts_with("../") {
        at.invalid(e, "must not start with '..'");
    }
}

/// The errors are at the list's owner, as upstream's.
pub(super) fn downward_file(at: &At, e: &mut ErrorList) {
    at.get("path").required(e);
    non_reserved(&at.get("path"), e);
    if let Some(field) = at.set("fieldRef") {
        field_refs::object_field(&field, &field_refs::IN_VOLUMES, e);
        if at.set("resourceFieldRef").is_some() {
            e.push(Error::invalid(&at.path(), "resource", "fieldRef and resourceFieldRef can not be specified simultaneously"));
        }
    } else if let Some(resource) = at.set("resourceFieldRef") {
        field_refs::resource_field(&resource, true, e);
    } else {
        at.require(e, "one of fieldRef and resourceFieldRef is required");
    }
    mode(&at.get("mode"), e);
}

fn iscsi(at: &At, e: &mut ErrorList) {
    at.get("targetPortal").required(e);
    let iqn = at.get("iqn");
    if iqn.required(e) && !["iqn", "eui", "naa"].iter().any(|kind| iqn.text().starts_with(kind)) {
        iqn.invalid(e, "must be valid format starting with iqn, eui, or naa");
    }
    at.get("lun").range(e, 0, 255);
    if (at.get("chapAuthDiscovery").is_true() || at.get("chapAuthSession").is_true()) && !at.get("secretRef").is_set() {
        at.get("secretRef").require(e, "");
    }
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
        for _ in registry.text().split(',').filter(|pair| !pair.contains(':')) {
            registry.invalid(e, why);
        }
    }
    at.get("volume").required(e);
}

fn fc(at: &At, e: &mut ErrorList) {
    let (targets, ids) = (at.get("targetWWNs").len(), at.get("wwids").len());
    if targets == 0 && ids == 0 {
        at.get("targetWWNs").require(e, "must specify either targetWWNs or wwids, but not both");
    }
    if targets > 0 && ids > 0 {
        let why = "targetWWNs and wwids can not be specified simultaneously";
        at.get("targetWWNs").invalid(e, why);
    }
    if targets > 0 && ids == 0 {
        let lun = at.get("lun");
        if !lun.is_set() {
            lun.require(e, "lun is required if targetWWNs is specified");
        } else {
            lun.range(e, 0, 255);
        }
    }
}

pub(in crate::kinds) fn flex(at: &At, e: &mut ErrorList) {
    at.get("driver").required(e);
    for (key, entry) in at.get("options").entries() {
        let domain = key.split('/').next().unwrap_or_default().to_ascii_lowercase();
        if domain.ends_with("kubernetes.io") || domain.ends_with("k8s.io") {
            e.push(Error::invalid(&entry.path(), key, "kubernetes.io and k8s.io namespaces are reserved"));
        }
    }
}

fn azure_disk(at: &At, e: &mut ErrorList) {
    all_required(at, &["diskName", "diskURI"], e);
    if at.get("cachingMode").is_set() {
        at.get("cachingMode").one_of(e, &["None", "ReadOnly", "ReadWrite"]);
    }
    if at.get("kind").is_set() {
        at.get("kind").one_of(e, &["Dedicated", "Managed", "Shared"]);
    }
    let (kind, uri) = (at.get("kind").text(), at.get("diskURI"));
    if kind == "Managed" && !uri.text().starts_with("/subscriptions/") {
        e.push(Error::not_supported(
            &uri.path(),
            uri.text(),
            &["/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}"],
        ));
    }
    if !matches!(kind, "" | "Managed") && !uri.text().starts_with("https://") {
        e.push(Error::not_supported(
            &uri.path(),
            uri.text(),
            &["https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd"],
        ));
    }
}

fn storage_os(at: &At, e: &mut ErrorList) {
    at.get("volumeName").required_name(e, validation::is_dns1123_label);
    at.get("volumeNamespace").check_set(e, validation::is_dns1123_label);
    if let Some(secret) = at.set("secretRef") {
        secret.get("name").required(e);
    }
}

/// The name of a CSI driver.
pub(in crate::kinds) fn csi_driver_name(at: &At, e: &mut ErrorList) {
    if !at.required(e) {
        return;
    }
    if at.text().len() > 63 {
        at.too_long(e, 63);
    }
    let why = validation::is_dns1123_subdomain(&at.text().to_ascii_lowercase());
    e.extend(why.into_iter().map(|why| Error::invalid(&at.path(), at.text(), why)));
}

fn csi(at: &At, e: &mut ErrorList) {
    csi_driver_name(&at.get("driver"), e);
    if let Some(secret) = at.set("nodePublishSecretRef") {
        secret.get("name").required_name(e, subdomain);
    }
}

fn ephemeral(volume: &At, at: &At, pod: &str, e: &mut ErrorList) {
    match at.set("volumeClaimTemplate") {
        None => at.get("volumeClaimTemplate").require(e, ""),
        Some(template) => {
            let meta = template.get("metadata");
            meta.get("annotations").annotations(e);
            meta.get("labels").labels(e);
            let others = meta.value.as_object().into_iter().flatten();
            let others = others.filter(|(key, value)| !matches!(key.as_str(), "annotations" | "labels") && !value.is_empty());
            for (key, _) in others {
                meta.get(key.as_str()).forbid(e, "not allowed to be set");
            }
            crate::kinds::storage::claim_spec(&template.get("spec"), e);
        }
    }
    let name = volume.get("name").text();
    if !pod.is_empty() && !name.is_empty() {
        let claim = format!("{pod}-{name}");
        let why = validation::name_is_dns_subdomain(&claim, false);
        let why = why.into_iter().map(|why| format!("PVC name {}: {why}", apimachinery::go_quote(&claim)));
        e.extend(why.map(|why| Error::invalid(&volume.get("name").path(), name, why)));
    }
}

/// The volume of this name.
pub(super) fn find<'v>(volumes: &'v [Value], name: &str) -> Option<&'v Value> {
    volumes.iter().find(|volume| volume["name"] == *name)
}
