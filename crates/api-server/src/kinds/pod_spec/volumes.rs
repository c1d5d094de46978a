//! Volumes of pods: every source (upstream's `ValidateVolumes`).

use apimachinery::field::{Error, ErrorList};
use apimachinery::{Quantity, Value, validation};

use super::field_refs;
use crate::kinds::at::At;
use crate::kinds::meta_checks::template_metadata;
use crate::kinds::volume_sources::{Owner, all_required, second, shared};

const MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";

/// Sources in the order that upstream looks at them, which decides what a second one is told.
const SOURCES: [&str; 30] = [
    "emptyDir",
    "hostPath",
    "gitRepo",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "secret",
    "nfs",
    "iscsi",
    "glusterfs",
    "flocker",
    "persistentVolumeClaim",
    "rbd",
    "cinder",
    "cephfs",
    "quobyte",
    "downwardAPI",
    "fc",
    "flexVolume",
    "configMap",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "storageos",
    "projected",
    "scaleIO",
    "csi",
    "ephemeral",
    "image",
];

/// The rule of a source that only pods have.
fn own_source(volume: &At, member: &str, pod: &str, e: &mut ErrorList) {
    let Some((at, member)) = SOURCES.iter().find(|name| **name == member).map(|name| (volume.get(name), *name)) else { return };
    match member {
        "emptyDir" => empty_dir(&at, e),
        "gitRepo" => {
            at.get("repository").required(e);
            at.get("directory").local_path(e);
        }
        "secret" => keyed(&at, "secretName", e),
        "persistentVolumeClaim" => all_required(&at, &["claimName"], e),
        "downwardAPI" => {
            mode(&at.get("defaultMode"), e);
            for file in at.get("items").items() {
                downward_file(&at.with(file.value), e);
            }
        }
        "configMap" => keyed(&at, "name", e),
        "projected" => super::projected::projected(&at, e),
        "ephemeral" => ephemeral(volume, &at, pod, e),
        "image" => {
            at.get("reference").required(e);
            if !at.get("pullPolicy").text().is_empty() {
                at.get("pullPolicy").one_of(e, &super::containers::PULL_POLICIES);
            }
        }
        _ => {}
    }
}

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
    for member in SOURCES {
        if !volume.get(member).is_set() {
            continue;
        }
        if found > 0 {
            second(volume, member, e);
        } else if !shared(volume, member, Owner::Pod, e) {
            own_source(volume, member, pod, e);
        }
        found += 1;
        let portal = volume.value["iscsi"]["targetPortal"].as_str().unwrap_or_default();
        let name = volume.get("name");
        if member == "iscsi" && volume.get("iscsi").get("initiatorName").is_set() && name.text().len() + 1 + portal.len() > 64 {
            let why = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified.";
            name.invalid_text(e, why);
        }
    }
    if found == 0 {
        volume.require(e, "must specify a volume type");
    }
}

pub(super) fn mode(at: &At, e: &mut ErrorList) {
    if at.is_set() && !(0..=0o777).contains(&at.int()) {
        at.invalid(e, MODE);
    }
}

fn empty_dir(at: &At, e: &mut ErrorList) {
    if at.get("sizeLimit").quantity().is_some_and(|limit| limit < Quantity::default()) {
        at.get("sizeLimit").forbid(e, "SizeLimit field must be a valid resource quantity");
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

fn ephemeral(volume: &At, at: &At, pod: &str, e: &mut ErrorList) {
    match at.set("volumeClaimTemplate") {
        None => at.get("volumeClaimTemplate").require(e, ""),
        Some(template) => {
            template_metadata(&template.get("metadata"), e);
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
