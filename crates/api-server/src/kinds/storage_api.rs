//! The kinds of storage.k8s.io (upstream's `pkg/apis/storage/validation`).

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::{Value, validation};

use super::at::{At, IMMUTABLE, subdomain};
use super::go_text::{self, Shown};
use super::storage;
use super::table::{Checks, any};
use super::volume_sources::csi_driver_name;

const GROUP: &str = "storage.k8s.io";

pub(super) const CHECKS: &[Checks] = &[
    Checks { group: GROUP, resource: "storageclasses", create: class, update: class_update, status: any },
    Checks {
        group: GROUP,
        resource: "volumeattachments",
        create: new_attachment,
        update: attachment_update,
        status: attachment_update,
    },
    Checks { group: GROUP, resource: "csidrivers", create: driver, update: driver_update, status: any },
    Checks { group: GROUP, resource: "csinodes", create: node, update: node_update, status: any },
    Checks { group: GROUP, resource: "csistoragecapacities", create: capacity, update: capacity_update, status: any },
    Checks { group: GROUP, resource: "volumeattributesclasses", create: attributes, update: attributes_update, status: any },
];

/// Upstream's limits of parameters: how many, and how large together.
const PARAMETERS_MAX: usize = 512;
const PARAMETERS_BYTES_MAX: usize = 256 << 10;
const MESSAGE_BYTES_MAX: usize = 1024;
const NODE_ID_MAX: usize = 256;

fn provisioner(at: &At, e: &mut ErrorList) {
    if at.required(e) {
        let why = validation::is_qualified_name(&at.text().to_lowercase());
        // Upstream checks and shows the name in lower case.
        e.extend(why.into_iter().map(|why| Error::invalid(&at.path(), at.text().to_lowercase(), why)));
    }
}

fn bytes(map: &At) -> usize {
    map.entries().map(|(key, value)| key.len() + value.text().len()).sum()
}

fn parameters(at: &At, may_be_empty: bool, e: &mut ErrorList) {
    if at.len() > PARAMETERS_MAX {
        return at.too_long(e, PARAMETERS_MAX);
    }
    if at.entries().any(|(key, _)| key.is_empty()) {
        e.push(Error::invalid(&at.path(), "", "field can not be empty."));
    }
    if bytes(at) > PARAMETERS_BYTES_MAX {
        at.too_long(e, PARAMETERS_BYTES_MAX);
    }
    if !may_be_empty && at.len() == 0 {
        at.require(e, "must contain at least one key/value pair");
    }
}

fn class(object: &Value, e: &mut ErrorList) {
    let root = At::root(object);
    provisioner(&root.get("provisioner"), e);
    parameters(&root.get("parameters"), true, e);
    let policy = root.get("reclaimPolicy");
    if !policy.text().is_empty() {
        policy.one_of(e, &["Delete", "Retain"]);
    }
    match root.set("volumeBindingMode") {
        Some(mode) => mode.one_of(e, &["Immediate", "WaitForFirstConsumer"]),
        None => root.get("volumeBindingMode").require(e, ""),
    }
    let topologies = root.get("allowedTopologies");
    let mut seen: Vec<Value> = Vec::new();
    for term in topologies.items() {
        let requirements = term.get("matchLabelExpressions");
        let mut keys: Vec<&str> = Vec::new();
        let mut values_of = Value::object();
        for requirement in requirements.items() {
            topology_requirement(&requirement, e);
            let key = requirement.get("key");
            if keys.contains(&key.text()) {
                key.duplicate(e);
            }
            keys.push(key.text());
            let mut values: Vec<&str> =
                requirement.get("values").value.as_array().unwrap_or_default().iter().filter_map(Value::as_str).collect();
            values.sort_unstable();
            values.dedup();
            values_of.insert(key.text(), values.into_iter().map(Value::from).collect::<Value>());
        }
        // Upstream compares with one empty term for each term there is.
        let empty = if values_of.is_empty() { topologies.len() } else { 0 };
        for _ in 0..empty + seen.iter().filter(|other| **other == values_of).count() {
            e.push(Error::duplicate(&requirements.path(), ""));
        }
        seen.push(values_of);
    }
}

fn topology_requirement(at: &At, e: &mut ErrorList) {
    let values = at.get("values");
    if values.len() == 0 {
        values.require(e, "");
    }
    let mut seen: Vec<&str> = Vec::new();
    for value in values.items() {
        if seen.contains(&value.text()) {
            value.duplicate(e);
        }
        seen.push(value.text());
    }
    at.get("key").label_name(e);
}

fn unchanged(object: &Value, old: &Value, member: &str, e: &mut ErrorList) {
    if object[member] != old[member] {
        e.push(Error::forbidden(&Path::new(member), format!("updates to {member} are forbidden.")));
    }
}

fn class_update(object: &Value, old: &Value, e: &mut ErrorList) {
    class(object, e);
    for member in ["parameters", "provisioner", "reclaimPolicy"] {
        unchanged(object, old, member, e);
    }
    At::root(object).get("volumeBindingMode").immutable(e, &old["volumeBindingMode"]);
}

fn attributes(object: &Value, e: &mut ErrorList) {
    let root = At::root(object);
    provisioner(&root.get("driverName"), e);
    parameters(&root.get("parameters"), false, e);
}

fn attributes_update(object: &Value, old: &Value, e: &mut ErrorList) {
    unchanged(object, old, "driverName", e);
    unchanged(object, old, "parameters", e);
    attributes(object, e);
}

fn attachment(object: &Value, e: &mut ErrorList) {
    let root = At::root(object);
    let (spec, status) = (root.get("spec"), root.get("status"));
    spec.get("attacher").required(e);
    let source = spec.get("source");
    match (source.set("inlineVolumeSpec"), source.set("persistentVolumeName")) {
        (None, None) => source.require(e, "must specify exactly one of inlineVolumeSpec and persistentVolumeName"),
        (Some(_), Some(_)) => source.forbid(e, "must specify exactly one of inlineVolumeSpec and persistentVolumeName"),
        (None, Some(name)) if name.text().is_empty() => name.require(e, "must specify non empty persistentVolumeName"),
        (Some(inline), None) => storage::volume_spec(&inline, None, e),
        (None, Some(_)) => {}
    }
    spec.get("nodeName").check(e, subdomain);
    let metadata = status.get("attachmentMetadata");
    if bytes(&metadata) > PARAMETERS_BYTES_MAX {
        metadata.too_long(e, PARAMETERS_BYTES_MAX);
    }
    for member in ["attachError", "detachError"] {
        let error = status.get(member);
        if error.get("message").text().len() > MESSAGE_BYTES_MAX {
            // Upstream names the other limit.
            error.get("message").too_long(e, PARAMETERS_BYTES_MAX);
        }
        let code = error.get("errorCode");
        if code.int() < 0 {
            code.invalid(e, validation::inclusive_range_error(0, i64::from(i32::MAX)));
        }
    }
}

fn new_attachment(object: &Value, e: &mut ErrorList) {
    attachment(object, e);
    let root = At::root(object);
    let spec = root.get("spec");
    csi_driver_name(&spec.get("attacher"), e);
    if let Some(name) = spec.get("source").set("persistentVolumeName") {
        name.check(e, subdomain);
    }
}

fn attachment_update(object: &Value, old: &Value, e: &mut ErrorList) {
    attachment(object, e);
    if object["spec"] != old["spec"] {
        let root = At::root(object);
        let spec = root.get("spec");
        e.push(
            Error::invalid(&spec.path(), spec.value.clone(), IMMUTABLE)
                .shown_as(super::go_text::internal(spec.value, "storage.v1.VolumeAttachmentSpec")),
        );
    }
}

fn driver(object: &Value, e: &mut ErrorList) {
    let root = At::root(object);
    let spec = root.get("spec");
    // Upstream's path of the first has a slip of the pen.
    for (member, named) in
        [("attachRequired", "attachedRequired"), ("podInfoOnMount", "podInfoOnMount"), ("storageCapacity", "storageCapacity")]
    {
        if !spec.get(member).is_set() {
            e.push(Error::required(&spec.path().child(named), ""));
        }
    }
    if let Some(policy) = spec.set("fsGroupPolicy") {
        policy.one_of(e, &["File", "None", "ReadWriteOnceWithFSType"]);
    }
    let requests = spec.get("tokenRequests");
    let mut audiences: Vec<&str> = Vec::new();
    for request in requests.items() {
        let audience = request.get("audience");
        if audiences.contains(&audience.text()) {
            e.push(Error::duplicate(&audience.path(), audience.text()));
            continue;
        }
        audiences.push(audience.text());
        let Some(seconds) = request.set("expirationSeconds") else { continue };
        if seconds.int() < 600 {
            seconds.invalid(e, "may not specify a duration less than 10 minutes");
        }
        if seconds.int() > 1 << 32 {
            seconds.invalid(e, "may not specify a duration larger than 2^32 seconds");
        }
    }
    let modes = spec.get("volumeLifecycleModes");
    modes.items().for_each(|mode| modes.with(mode.value).one_of(e, &["Persistent", "Ephemeral"]));
    if !spec.get("seLinuxMount").is_set() {
        spec.get("seLinuxMount").require(e, "");
    }
    if let Some(period) = spec.set("nodeAllocatableUpdatePeriodSeconds")
        && period.int() < 10
    {
        period.invalid(e, "must be greater than or equal to 10 seconds");
    }
    if let Some(secrets) = spec.set("serviceAccountTokenInSecrets")
        && requests.len() == 0
    {
        secrets.invalid(e, "serviceAccountTokenInSecrets is set but no tokenRequests are specified");
    }
}

fn driver_update(object: &Value, old: &Value, e: &mut ErrorList) {
    driver(object, e);
    for (member, named) in [("attachRequired", "attachedRequired"), ("volumeLifecycleModes", "volumeLifecycleModes")] {
        let (new, old) = (&object["spec"][member], &old["spec"][member]);
        if new != old {
            e.push(Error::invalid(&Path::new("spec").child(named), new.clone(), IMMUTABLE));
        }
    }
}

fn node(object: &Value, e: &mut ErrorList) {
    let root = At::root(object);
    let spec = root.get("spec");
    let mut names: Vec<&str> = Vec::new();
    for driver in spec.get("drivers").items() {
        let (name, id) = (driver.get("name"), driver.get("nodeID"));
        csi_driver_name(&name, e);
        id.required(e);
        if id.text().len() > NODE_ID_MAX {
            id.invalid(e, format!("must be {NODE_ID_MAX} characters or less"));
        }
        if let Some(count) = driver.get("allocatable").set("count") {
            count.non_negative(e);
        }
        if names.contains(&name.text()) {
            name.duplicate(e);
        }
        names.push(name.text());
        let mut keys: Vec<&str> = Vec::new();
        for key in driver.get("topologyKeys").items() {
            let here = driver.with(key.value);
            if key.text().is_empty() {
                here.require(e, "");
            }
            if keys.contains(&key.text()) {
                here.duplicate(e);
            }
            keys.push(key.text());
            here.check(e, validation::is_qualified_name);
        }
    }
}

fn node_update(object: &Value, old: &Value, e: &mut ErrorList) {
    // Upstream asks for the rules of a new one twice.
    node(object, e);
    node(object, e);
    let root = At::root(object);
    let spec = root.get("spec");
    let drivers = spec.get("drivers");
    for before in old.array_at(&["spec", "drivers"]) {
        for driver in drivers.items().filter(|driver| driver.value["name"] == before["name"]) {
            let (mut new, mut before) = (driver.value.clone(), before.clone());
            new.remove("allocatable");
            before.remove("allocatable");
            if new != before {
                let shown = super::go_text::internal(&new, "storage.v1.CSINodeDriver");
                e.push(Error::invalid(&drivers.path(), new, IMMUTABLE).shown_as(shown).of_place(&driver.path()));
            }
        }
    }
}

fn capacity(object: &Value, e: &mut ErrorList) {
    let root = At::root(object);
    root.get("nodeTopology").label_selector(e);
    root.get("storageClassName").check(e, subdomain);
    let amount = root.get("capacity");
    if amount.quantity().is_some_and(|amount| amount.signum() < 0) {
        amount.invalid(e, super::at::NOT_NEGATIVE);
    }
}

fn capacity_update(object: &Value, old: &Value, e: &mut ErrorList) {
    capacity(object, e);
    let root = At::root(object);
    let topology = root.get("nodeTopology");
    topology.immutable_as(e, &old["nodeTopology"], |value| go_text::tagged(value, "meta.v1.LabelSelector"));
    let class = root.get("storageClassName");
    if object["storageClassName"] != old["storageClassName"] {
        class.invalid_text(e, IMMUTABLE);
    }
}

#[cfg(test)]
mod tests {
    use apimachinery::value;

    use super::super::table::tests::{assert_create, assert_update};
    use super::*;

    #[test]
    fn new_objects() {
        let class = value!({"provisioner": "a.example.com/b", "volumeBindingMode": "Immediate", "reclaimPolicy": "Delete"});
        let driver = value!({"spec": {"attachRequired": true, "podInfoOnMount": true, "storageCapacity": true, "seLinuxMount": false, "tokenRequests": [{"audience": "a"}]}});
        let node = value!({"spec": {"drivers": [{"name": "d", "nodeID": "n", "topologyKeys": ["a"]}]}});
        let attachment = value!({"spec": {"attacher": "a", "nodeName": "n", "source": {"persistentVolumeName": "p"}}});
        assert_create(
            GROUP,
            "storageclasses",
            &class,
            &[
                (&["provisioner"], value!(""), &["provisioner: Required value"]),
                (
                    &["reclaimPolicy"],
                    value!("Recycle"),
                    &[r#"reclaimPolicy: Unsupported value: "Recycle": supported values: "Delete", "Retain""#],
                ),
                (&["parameters"], value!({"": "x"}), &[r#"parameters: Invalid value: "": field can not be empty."#]),
                (
                    &["allowedTopologies"],
                    value!([{"matchLabelExpressions": [{"key": "a", "values": []}]}]),
                    &["allowedTopologies[0].matchLabelExpressions[0].values: Required value"],
                ),
                (
                    &["allowedTopologies"],
                    value!([{"matchLabelExpressions": [{"key": "a", "values": ["b", "c"]}]}, {"matchLabelExpressions": [{"key": "a", "values": ["c", "b"]}]}]),
                    &[r#"allowedTopologies[1].matchLabelExpressions: Duplicate value: """#],
                ),
            ],
        );
        assert_create(
            GROUP,
            "csidrivers",
            &driver,
            &[
                (&["spec", "attachRequired"], Value::Null, &["spec.attachedRequired: Required value"]),
                (
                    &["spec", "tokenRequests"],
                    value!([{"audience": "a"}, {"audience": "a"}, {"audience": "b", "expirationSeconds": 1}]),
                    &[
                        r#"spec.tokenRequests[1].audience: Duplicate value: "a""#,
                        "spec.tokenRequests[2].expirationSeconds: Invalid value: 1: may not specify a duration less than 10 minutes",
                    ],
                ),
                (
                    &["spec", "nodeAllocatableUpdatePeriodSeconds"],
                    value!(9),
                    &["spec.nodeAllocatableUpdatePeriodSeconds: Invalid value: 9: must be greater than or equal to 10 seconds"],
                ),
            ],
        );
        assert_create(
            GROUP,
            "csinodes",
            &node,
            &[
                (&["spec", "drivers"], value!([{"name": "d", "nodeID": ""}]), &["spec.drivers[0].nodeID: Required value"]),
                (
                    &["spec", "drivers"],
                    value!([{"name": "d", "nodeID": "a"}, {"name": "d", "nodeID": "a", "allocatable": {"count": -1}}]),
                    &[
                        "spec.drivers[1].allocatable.count: Invalid value: -1: must be greater than or equal to 0",
                        r#"spec.drivers[1].name: Duplicate value: "d""#,
                    ],
                ),
            ],
        );
        assert_create(
            GROUP,
            "volumeattachments",
            &attachment,
            &[
                (&["spec", "attacher"], value!(""), &["spec.attacher: Required value", "spec.attacher: Required value"]),
                (
                    &["spec", "source"],
                    value!({}),
                    &["spec.source: Required value: must specify exactly one of inlineVolumeSpec and persistentVolumeName"],
                ),
            ],
        );
        assert_create(
            GROUP,
            "volumeattributesclasses",
            &value!({"driverName": "d", "parameters": {"a": "b"}}),
            &[(&["parameters"], value!({}), &["parameters: Required value: must contain at least one key/value pair"])],
        );
        assert_create(
            GROUP,
            "csistoragecapacities",
            &value!({"storageClassName": "s", "capacity": "1Gi"}),
            &[(&["capacity"], value!("-1"), &[r#"capacity: Invalid value: "-1": must be greater than or equal to 0"#])],
        );
    }

    #[test]
    fn changes() {
        let class = value!({"provisioner": "a", "volumeBindingMode": "Immediate", "reclaimPolicy": "Delete"});
        assert_update(
            GROUP,
            "storageclasses",
            &class,
            &[
                (&["provisioner"], value!("b"), &["provisioner: Forbidden: updates to provisioner are forbidden."]),
                (
                    &["volumeBindingMode"],
                    value!("WaitForFirstConsumer"),
                    &[r#"volumeBindingMode: Invalid value: "WaitForFirstConsumer": field is immutable"#],
                ),
            ],
        );
        let attachment = value!({"spec": {"attacher": "a", "nodeName": "n", "source": {"persistentVolumeName": "p"}}});
        assert_update(
            GROUP,
            "volumeattachments",
            &attachment,
            &[(
                &["spec", "nodeName"],
                value!("m"),
                &[
                    r#"spec: Invalid value: {"Attacher":"a","Source":{"PersistentVolumeName":"p","InlineVolumeSpec":null},"NodeName":"m"}: field is immutable"#,
                ],
            )],
        );
        let node = value!({"spec": {"drivers": [{"name": "d", "nodeID": "n", "allocatable": {"count": 1}}]}});
        assert_update(
            GROUP,
            "csinodes",
            &node,
            &[
                (&["spec", "drivers"], value!([{"name": "d", "nodeID": "n", "allocatable": {"count": 2}}]), &[]),
                (
                    &["spec", "drivers"],
                    value!([{"name": "d", "nodeID": "m"}]),
                    &[
                        r#"spec.drivers: Invalid value: {"Name":"d","NodeID":"m","TopologyKeys":null,"Allocatable":null}: field is immutable"#,
                    ],
                ),
            ],
        );
    }
}
