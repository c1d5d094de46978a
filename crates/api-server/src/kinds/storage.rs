//! PersistentVolumes and PersistentVolumeClaims.

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::{Quantity, Value, validation};

use super::at::{At, IMMUTABLE, subdomain};
use super::go_diff;
use super::go_text::{self, Shown};
use super::pod_spec;
use super::table::Checks;
use super::volume_sources::{Owner, all_required, positive_quantity, second, shared};

pub(super) const CHECKS: &[Checks] = &[
    Checks {
        group: "",
        resource: "persistentvolumes",
        create: volume,
        update: volume_update,
        status: |object, _, e| {
            if object.meta().resource_version().is_empty() {
                e.push(Error::required(&Path::new("resourceVersion"), ""));
            }
        },
    },
    Checks { group: "", resource: "persistentvolumeclaims", create: claim, update: claim_update, status: claim_status },
];

const ACCESS_MODES: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
const BETA_CLASS: &str = "volume.beta.kubernetes.io/storage-class";

fn access_modes(spec: &At, missing: &str, e: &mut ErrorList) {
    let modes = spec.get("accessModes");
    if modes.len() == 0 {
        modes.require(e, missing);
    }
    modes.items().for_each(|mode| modes.with(mode.value).one_of(e, &ACCESS_MODES));
    let pod = modes.items().any(|mode| mode.text() == "ReadWriteOncePod");
    let other = modes.items().any(|mode| mode.text() != "ReadWriteOncePod" && ACCESS_MODES.contains(&mode.text()));
    if pod && other {
        modes.forbid(e, "may not use ReadWriteOncePod with other access modes");
    }
}

fn volume_mode(spec: &At, e: &mut ErrorList) {
    if let Some(mode) = spec.set("volumeMode") {
        mode.one_of(e, &["Block", "Filesystem"]);
    }
}

/// Sources, in the order that upstream looks at them.
const SOURCES: [&str; 22] = [
    "hostPath",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "glusterfs",
    "flocker",
    "nfs",
    "rbd",
    "quobyte",
    "cephfs",
    "iscsi",
    "cinder",
    "fc",
    "flexVolume",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "scaleIO",
    "local",
    "storageos",
    "csi",
];

fn volume(object: &Value, e: &mut ErrorList) {
    volume_spec(&At::root(object).get("spec"), Some(object.meta().name()), e);
    let mounts = "volume.beta.kubernetes.io/mount-options";
    let at = Path::new("metadata").child("annotations").child(mounts);
    let takes_options = SOURCES.iter().any(|member| MOUNTED_WITH_OPTIONS.contains(member) && !object["spec"][*member].is_null());
    if !takes_options && object.meta().annotation(mounts).is_some() {
        e.push(Error::forbidden(&at, "may not specify mount options for this volume type"));
    }
}

/// Sources whose mounts take options.
const MOUNTED_WITH_OPTIONS: [&str; 13] = [
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "glusterfs",
    "nfs",
    "rbd",
    "quobyte",
    "iscsi",
    "cinder",
    "cephfs",
    "azureFile",
    "vsphereVolume",
    "azureDisk",
    "photonPersistentDisk",
];

const NOT_INLINE: &str = "may not be specified in the context of inline volumes";

/// A PersistentVolumeSpec. `name`: of the volume; one in a VolumeAttachment has none.
pub(super) fn volume_spec(spec: &At, name: Option<&str>, e: &mut ErrorList) {
    if name.is_none() {
        for member in ["claimRef", "capacity"] {
            let at = spec.get(member);
            if at.is_set() && (member == "claimRef" || at.len() > 0) {
                at.forbid(e, NOT_INLINE);
            }
        }
        if !spec.get("csi").is_set() {
            spec.get("csi").require(e, "has to be specified in the context of inline volumes");
        }
    }
    access_modes(spec, "", e);
    if name.is_some() {
        capacity(&spec.get("capacity"), e);
    }
    let policy = spec.get("persistentVolumeReclaimPolicy");
    match (policy.text(), name) {
        ("" | "Retain", _) => {}
        (_, None) => policy.forbid(e, "may only be Retain in the context of inline volumes"),
        (_, Some(_)) => policy.one_of(e, &["Delete", "Recycle", "Retain"]),
    }
    let affinity = spec.get("nodeAffinity");
    match (affinity.set("required"), name) {
        _ if !affinity.is_set() => {}
        (_, None) => affinity.forbid(e, NOT_INLINE),
        (Some(required), _) => pod_spec::node_selector(&required, e),
        (None, _) => affinity.get("required").require(e, "must specify required node constraints"),
    }
    volume_sources(spec, name, e);
    let host = spec.get("hostPath");
    if host.is_set() && cleaned_is_root(host.get("path").text()) && policy.text() == "Recycle" {
        policy.forbid(e, "may not be 'recycle' for a hostPath mount of '/'");
    }
    let (class, mode) = (spec.get("storageClassName"), spec.get("volumeMode"));
    match name {
        None if !class.text().is_empty() => class.forbid(e, NOT_INLINE),
        _ => class.check_set(e, subdomain),
    }
    match name {
        None if mode.is_set() && mode.text() != "Filesystem" => {
            mode.forbid(e, "may not specify volumeMode other than Filesystem in the context of inline volumes");
        }
        None => {}
        Some(_) => {
            volume_mode(spec, e);
            attributes_class(spec, e);
        }
    }
}

/// Whether Go's `path.Clean` makes it `/`.
fn cleaned_is_root(path: &str) -> bool {
    let mut depth = 0_usize;
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => depth = depth.saturating_sub(1),
            _ => depth += 1,
        }
    }
    path.starts_with('/') && depth == 0
}

fn capacity(capacity: &At, e: &mut ErrorList) {
    if capacity.len() == 0 {
        capacity.require(e, "");
    }
    if !capacity.key("storage").is_set() || capacity.len() > 1 {
        e.push(Error::not_supported(&capacity.path(), capacity.value.clone(), &["storage"]));
    }
    for (_, amount) in capacity.entries() {
        if let Some(value) = amount.quantity().map(|amount| amount.value()).filter(|value| *value < 0) {
            e.push(Error::invalid(&amount.path(), value, "must be a valid resource quantity"));
        }
        positive_quantity(&amount, e);
    }
}

fn attributes_class(spec: &At, e: &mut ErrorList) {
    let Some(class) = spec.set("volumeAttributesClassName") else { return };
    if class.text().is_empty() {
        class.require(e, "an empty string is disallowed");
    } else {
        class.check(e, subdomain);
    }
    if !spec.get("csi").is_set() {
        spec.get("csi").require(e, "has to be specified when using volumeAttributesClassName");
    }
}

fn volume_sources(spec: &At, name: Option<&str>, e: &mut ErrorList) {
    let mut found = 0;
    for member in SOURCES {
        if !spec.get(member).is_set() {
            continue;
        }
        if found > 0 && member != "flexVolume" {
            second(spec, member, e);
        } else if member == "local" {
            if spec.get(member).get("path").required(e) {
                spec.get(member).get("path").no_backsteps(e);
            }
            if name.is_none() || !spec.get("nodeAffinity").is_set() {
                spec.get("nodeAffinity").require(e, "Local volume requires node affinity");
            }
        } else {
            shared(spec, member, Owner::Volume(name.unwrap_or_default()), e);
        }
        found += 1;
    }
    if found == 0 {
        spec.require(e, "must specify a volume type");
    }
}

fn volume_update(object: &Value, old: &Value, e: &mut ErrorList) {
    // Upstream's strategy asks for the rules of a new one, and then for those of a change, which ask for them again.
    volume(object, e);
    volume_spec(&At::root(object).get("spec"), Some(object.meta().name()), e);
    let source = |object: &Value| {
        let mut source = Value::object();
        for member in SOURCES {
            if let Some(value) = object.get_path(&["spec", member]) {
                source.insert(member, value.clone());
            }
        }
        source
    };
    let (mut now, before) = (source(object), source(old));
    if before.get_path(&["csi", "controllerExpandSecretRef"]).is_none() {
        now.remove_path(&["csi", "controllerExpandSecretRef"]);
    }
    if now != before {
        let shown = |source: &Value| go_text::internal(source, "core.v1.PersistentVolumeSource");
        let (at, spec) = (Path::new("spec").child("persistentvolumesource"), Path::new("spec"));
        let why = "spec.persistentvolumesource is immutable after creation";
        e.push(go_diff::forbidden(&at, &spec, why, shown(&before), shown(&now)));
    }
    let (spec, before) = (&object["spec"], &old["spec"]);
    if spec["volumeMode"] != before["volumeMode"] {
        e.push(Error::invalid(&Path::new("volumeMode"), spec["volumeMode"].clone(), IMMUTABLE));
    }
    let affinity = &spec["nodeAffinity"];
    if !before["nodeAffinity"].is_null() && !same_affinity(affinity, &before["nodeAffinity"]) {
        let why = format!("{IMMUTABLE}, except for updating from beta label to GA");
        let error = Error::invalid(&Path::new("nodeAffinity"), affinity.clone(), why);
        e.push(if affinity.is_null() {
            error
        } else {
            error
                .shown_as(go_text::internal(affinity, "core.v1.VolumeNodeAffinity"))
                .of_place(&Path::new("spec").child("nodeAffinity"))
        });
    }
    let class = "volumeAttributesClassName";
    if !before[class].is_null() && spec[class].is_null() {
        e.push(Error::forbidden(&Path::new("spec").child(class), "update from non-nil value to nil is forbidden"));
    }
}

const GA_LABELS: [(&str, &str); 5] = [
    ("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    ("failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"),
    ("beta.kubernetes.io/os", "kubernetes.io/os"),
    ("beta.kubernetes.io/arch", "kubernetes.io/arch"),
    ("beta.kubernetes.io/instance-type", "node.kubernetes.io/instance-type"),
];

/// Whether nothing changed but labels that have got their final names.
fn same_affinity(new: &Value, old: &Value) -> bool {
    if let (Some(new), Some(old)) = (new.as_array(), old.as_array()) {
        return new.len() == old.len() && new.iter().zip(old).all(|(new, old)| same_affinity(new, old));
    }
    let (Some(members), Some(before)) = (new.as_object(), old.as_object()) else { return new == old };
    let label = |value: &Value| GA_LABELS.iter().find(|(beta, _)| *value == *beta).map(|(_, label)| *label);
    members.len() == before.len()
        && members.iter().all(|(name, value)| match name.as_str() {
            // Upstream finds no name for other labels, and takes it.
            "key" => *value == old["key"] || *value == label(&old["key"]).unwrap_or_default(),
            name => same_affinity(value, &old[name]),
        })
}

fn claim(object: &Value, e: &mut ErrorList) {
    let root = At::root(object);
    claim_spec(&root.get("spec"), e);
}

/// A PersistentVolumeClaimSpec, also that of a template.
pub(super) fn claim_spec(spec: &At, e: &mut ErrorList) {
    access_modes(spec, "at least 1 access mode is required", e);
    spec.get("selector").label_selector(e);
    let (resources, requests) = (spec.get("resources"), &spec.value["resources"]["requests"]);
    let storage = resources.key("storage");
    let storage = storage.with(&requests["storage"]);
    if !storage.is_set() {
        storage.require(e, "");
    }
    positive_quantity(&storage, e);
    spec.get("storageClassName").check_set(e, subdomain);
    volume_mode(spec, e);
    for member in ["dataSource", "dataSourceRef"] {
        if let Some(source) = spec.set(member) {
            data_source(&source, e);
        }
    }
    let (source, reference) = (spec.get("dataSource"), spec.get("dataSourceRef"));
    if source.is_set() && reference.is_set() {
        let same = ["apiGroup", "kind", "name"].iter().all(|member| source.value[*member] == reference.value[*member]);
        let why = match reference.get("namespace").text().is_empty() {
            false => "may not be specified when dataSourceRef.namespace is specified",
            true if same => "",
            true => "must match dataSourceRef",
        };
        if !why.is_empty() {
            e.push(Error::invalid(&spec.path(), Value::object(), why));
        }
    }
    spec.get("volumeAttributesClassName").check_set(e, subdomain);
}

fn data_source(at: &At, e: &mut ErrorList) {
    all_required(at, &["name", "kind"], e);
    let group = at.get("apiGroup");
    if group.text().is_empty() && at.get("kind").text() != "PersistentVolumeClaim" {
        at.with(at.get("kind").value).invalid_text(e, "must be 'PersistentVolumeClaim' when referencing the default apiGroup");
    }
    group.check_set(e, validation::is_dns1123_subdomain);
    at.get("namespace").check_set(e, validation::is_dns1123_label);
}

fn claim_update(object: &Value, old: &Value, e: &mut ErrorList) {
    claim(object, e);
    let (mut now, mut before) = (object["spec"].clone(), old["spec"].clone());
    let bound = object.str_at(&["status", "phase"]) == Some("Bound");
    let keep = |now: &mut Value, before: &Value, path: &[&str]| match before.get_path(path) {
        Some(value) => now.set_path(path, value.clone()),
        None => drop(now.remove_path(path)),
    };
    if before["volumeName"].is_empty() {
        keep(&mut before, &object["spec"], &["volumeName"]);
    }
    let (noted, noted_before) = (object.meta().annotation(BETA_CLASS), old.meta().annotation(BETA_CLASS));
    let class = |object: &Value| object.str_at(&["spec", "storageClassName"]).map(str::to_owned);
    if noted_before.is_some() && noted.is_none() && class(old).is_none() && class(object).as_deref() == noted_before {
        now.remove("storageClassName");
    } else {
        if noted != noted_before {
            let at = Path::new("metadata").child("annotations").child(BETA_CLASS);
            e.push(Error::invalid(&at, noted.unwrap_or_default(), IMMUTABLE));
        }
        // A claim from before there was a default class may take one.
        if class(old).is_none() && noted_before.is_none() {
            now.remove("storageClassName");
        }
    }
    if bound {
        if now.get_path(&["resources", "requests"]).is_some_and(|requests| !requests.is_null()) {
            keep(&mut now, &before, &["resources", "requests", "storage"]);
        }
        keep(&mut now, &before, &["volumeAttributesClassName"]);
    }
    if now != before {
        let why = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
        let shown = |spec: &Value| go_text::internal(spec, "core.v1.PersistentVolumeClaimSpec");
        let at = Path::new("spec");
        e.push(go_diff::forbidden(&at, &at, why, shown(&before), shown(&now)));
    }
    let size = |object: &Value, path: &[&str]| object.get_path(path).and_then(|value| Quantity::from_value(value).ok());
    let asked = ["spec", "resources", "requests", "storage"];
    let (now, before) = (size(object, &asked).unwrap_or_default(), size(old, &asked).unwrap_or_default());
    if now < before && now <= size(old, &["status", "capacity", "storage"]).unwrap_or_default() {
        let at = Path::new("spec").child("resources").child("requests").child("storage");
        e.push(Error::forbidden(&at, "field can not be less than status.capacity"));
    }
    if object["spec"]["volumeMode"] != old["spec"]["volumeMode"] {
        e.push(Error::invalid(&Path::new("volumeMode"), object["spec"]["volumeMode"].clone(), IMMUTABLE));
    }
    let class = "volumeAttributesClassName";
    if object["spec"][class] != old["spec"][class] && !old["status"]["currentVolumeAttributesClassName"].is_null() {
        let why = "is forbidden when status.currentVolumeAttributesClassName is not nil";
        let at = Path::new("spec").child(class);
        match object["spec"][class].as_str() {
            None => e.push(Error::forbidden(&at, format!("update to nil {why}"))),
            Some("") => e.push(Error::forbidden(&at, format!("update to empty string {why}"))),
            Some(_) => {}
        }
    }
}

const RESIZE_STATUSES: [&str; 5] = [
    "ControllerResizeInProgress",
    "ControllerResizeInfeasible",
    "NodeResizeInProgress",
    "NodeResizeInfeasible",
    "NodeResizePending",
];

/// What a claim may have an amount of: storage, and what is no resource of Kubernetes' own.
fn claim_resource_key(list: &At, key: &str, e: &mut ErrorList) -> bool {
    let why = validation::is_qualified_name(key);
    let native = why.is_empty() && super::resources::is_native(key) && key != "storage";
    if native {
        e.push(Error::not_supported(&list.path(), key, &["storage"]));
    }
    let well_formed = why.is_empty();
    e.extend(why.into_iter().map(|why| Error::invalid(&list.path(), key, why)));
    well_formed && !native
}

fn claim_status(object: &Value, _old: &Value, e: &mut ErrorList) {
    let root = At::root(object);
    let status = root.get("status");
    for member in ["capacity", "allocatedResources"] {
        let list = status.get(member);
        for (key, amount) in list.entries() {
            if member == "allocatedResources" && !claim_resource_key(&list, key, e) {
                continue;
            }
            if let Some(value) = amount.quantity().map(|amount| amount.value()).filter(|value| *value < 0) {
                e.push(Error::invalid(&amount.path(), value, "must be a valid resource quantity"));
            }
        }
    }
    let statuses = status.get("allocatedResourceStatuses");
    for (key, entry) in statuses.entries() {
        claim_resource_key(&statuses, key, e);
        if !RESIZE_STATUSES.contains(&entry.text()) {
            e.push(Error::not_supported(&statuses.path(), key, &RESIZE_STATUSES));
        }
    }
}
