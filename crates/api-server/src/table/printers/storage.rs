//! Volumes and storage classes.

use apimachinery::Value;

use super::format::{age, joined, name, text};
use super::{Registration, printer};

const GROUP: &str = "storage.k8s.io";

pub(super) const PRINTERS: &[Registration] = &[
    printer(
        "persistentvolumes",
        "",
        &[
            "Name",
            "Capacity",
            "Access Modes",
            "Reclaim Policy",
            "Status",
            "Claim",
            "StorageClass",
            "VolumeAttributesClass",
            "Reason",
            "Age",
            "+VolumeMode",
        ],
        volume,
    ),
    printer(
        "persistentvolumeclaims",
        "",
        &["Name", "Status", "Volume", "Capacity", "Access Modes", "StorageClass", "VolumeAttributesClass", "Age", "+VolumeMode"],
        claim,
    ),
    printer(
        "storageclasses",
        GROUP,
        &["Name", "Provisioner", "ReclaimPolicy", "VolumeBindingMode", "AllowVolumeExpansion", "Age"],
        class,
    ),
    printer("volumeattributesclasses", GROUP, &["Name", "DriverName", "Age"], attributes_class),
    printer("volumeattachments", GROUP, &["Name", "@Attacher", "PV", "Node", "?Attached", "Age"], attachment),
    printer("csinodes", GROUP, &["Name", "#Drivers", "Age"], csi_node),
    printer(
        "csidrivers",
        GROUP,
        &[
            "Name",
            "?AttachRequired",
            "?PodInfoOnMount",
            "?StorageCapacity",
            "TokenRequests",
            "?RequiresRepublish",
            "Modes",
            "Age",
        ],
        csi_driver,
    ),
];

/// The modes in their short forms, each once, in a fixed order.
fn access_modes(object: &Value, path: &[&str]) -> String {
    let modes: Vec<&str> = object.array_at(path).iter().filter_map(Value::as_str).collect();
    let short = [("ReadWriteOnce", "RWO"), ("ReadOnlyMany", "ROX"), ("ReadWriteMany", "RWX"), ("ReadWriteOncePod", "RWOP")];
    short.iter().filter(|(mode, _)| modes.contains(mode)).map(|(_, short)| *short).collect::<Vec<_>>().join(",")
}

/// The class: the old annotation before the field.
fn storage_class(object: &Value) -> Value {
    match object.meta().annotation("volume.beta.kubernetes.io/storage-class") {
        Some(class) => class.into(),
        None => text(object, &["spec", "storageClassName"], ""),
    }
}

fn phase(object: &Value) -> Value {
    if object.meta().deletion_timestamp().is_some() { "Terminating".into() } else { text(object, &["status", "phase"], "") }
}

fn volume(object: &Value) -> Vec<Value> {
    let claim = object.get_path(&["spec", "claimRef"]).map(|claim| {
        format!("{}/{}", claim.str_at(&["namespace"]).unwrap_or_default(), claim.str_at(&["name"]).unwrap_or_default())
    });
    vec![
        name(object),
        text(object, &["spec", "capacity", "storage"], "0"),
        access_modes(object, &["spec", "accessModes"]).into(),
        text(object, &["spec", "persistentVolumeReclaimPolicy"], ""),
        phase(object),
        claim.unwrap_or_default().into(),
        storage_class(object),
        text(object, &["spec", "volumeAttributesClassName"], "<unset>"),
        text(object, &["status", "reason"], ""),
        age(object),
        text(object, &["spec", "volumeMode"], "<unset>"),
    ]
}

fn claim(object: &Value) -> Vec<Value> {
    let bound = object.str_at(&["spec", "volumeName"]).is_some_and(|volume| !volume.is_empty());
    let (capacity, modes) = if bound {
        (text(object, &["status", "capacity", "storage"], "0"), access_modes(object, &["status", "accessModes"]))
    } else {
        ("".into(), String::new())
    };
    vec![
        name(object),
        phase(object),
        text(object, &["spec", "volumeName"], ""),
        capacity,
        modes.into(),
        storage_class(object),
        text(object, &["spec", "volumeAttributesClassName"], "<unset>"),
        age(object),
        text(object, &["spec", "volumeMode"], "<unset>"),
    ]
}

fn class(object: &Value) -> Vec<Value> {
    let default = ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"]
        .iter()
        .any(|key| object.meta().annotation(key) == Some("true"));
    let shown = format!("{}{}", object.meta().name(), if default { " (default)" } else { "" });
    vec![
        shown.into(),
        text(object, &["provisioner"], ""),
        text(object, &["reclaimPolicy"], "Delete"),
        text(object, &["volumeBindingMode"], "Immediate"),
        object.bool_at(&["allowVolumeExpansion"]).unwrap_or_default().into(),
        age(object),
    ]
}

fn attributes_class(object: &Value) -> Vec<Value> {
    vec![name(object), text(object, &["driverName"], ""), age(object)]
}

fn attachment(object: &Value) -> Vec<Value> {
    vec![
        name(object),
        text(object, &["spec", "attacher"], ""),
        text(object, &["spec", "source", "persistentVolumeName"], ""),
        text(object, &["spec", "nodeName"], ""),
        object.bool_at(&["status", "attached"]).unwrap_or_default().into(),
        age(object),
    ]
}

fn csi_node(object: &Value) -> Vec<Value> {
    let drivers = i64::try_from(object.array_at(&["spec", "drivers"]).len()).unwrap_or(i64::MAX);
    vec![name(object), drivers.into(), age(object)]
}

fn csi_driver(object: &Value) -> Vec<Value> {
    let flag = |field: &str, otherwise: bool| Value::from(object.bool_at(&["spec", field]).unwrap_or(otherwise));
    let audiences = object.get_path(&["spec", "tokenRequests"]).and_then(Value::as_array).map(|requests| {
        requests.iter().map(|request| request.str_at(&["audience"]).unwrap_or_default()).collect::<Vec<_>>().join(",")
    });
    let modes = joined(object, &["spec", "volumeLifecycleModes"]);
    vec![
        name(object),
        flag("attachRequired", true),
        flag("podInfoOnMount", false),
        flag("storageCapacity", false),
        audiences.unwrap_or_else(|| "<unset>".to_owned()).into(),
        flag("requiresRepublish", false),
        if modes.is_empty() { "<none>".into() } else { modes.into() },
        age(object),
    ]
}
