//! Upstream's cases of `binder_test.go`, `index_test.go`, `recycle_test.go` and `delete_test.go`, as tables.

use k8s_openapi::api::storage::v1::StorageClass;
use serde_json::{Value, json};

use super::claims::{self, Note, World};
use super::*;

/// A volume: name, size, claim (`ns/name/uid`, or none), phase, and what else is to be merged into it.
fn volume(name: &str, size: &str, claim: Option<&str>, phase: &str, more: Value) -> Value {
    let mut volume = json!({
        "metadata": {"name": name, "uid": name},
        "spec": {"capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"], "persistentVolumeReclaimPolicy": "Retain"},
        "status": {"phase": phase},
    });
    if let Some(claim) = claim {
        let mut parts = claim.split('/');
        let mut part = || parts.next().unwrap_or_default();
        volume["spec"]["claimRef"] = json!({"namespace": part(), "name": part(), "uid": part()});
    }
    merge(&mut volume, &more);
    volume
}

fn claim(size: &str, more: Value) -> Value {
    let mut claim = json!({
        "metadata": {"name": "c", "namespace": "ns", "uid": "u"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}},
        "status": {"phase": "Pending"},
    });
    merge(&mut claim, &more);
    claim
}

fn merge(base: &mut Value, more: &Value) {
    match (base, more) {
        (Value::Object(base), Value::Object(more)) => {
            for (key, value) in more {
                merge(base.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (base, more) => *base = more.clone(),
    }
}

fn typed<T: serde::de::DeserializeOwned>(value: &Value) -> T {
    serde_json::from_value(value.clone()).expect("fits the type")
}

fn classes() -> Vec<Value> {
    let class = |name: &str, provisioner: &str, mode: &str, default: bool| {
        json!({
            "metadata": {"name": name, "annotations": {"storageclass.kubernetes.io/is-default-class": default.to_string()}},
            "provisioner": provisioner, "volumeBindingMode": mode,
        })
    };
    vec![
        class("wait", "example.com/disk", "WaitForFirstConsumer", false),
        class("now", "example.com/disk", "Immediate", false),
        class("none", "kubernetes.io/no-provisioner", "Immediate", false),
    ]
}

/// In words: what is done, and with or about what.
fn told(step: &claims::Step) -> String {
    match step {
        claims::Step::Bind(volume) => format!("bind {}", volume.name_any()),
        claims::Step::AssignClass(class) => format!("class {class}"),
        claims::Step::Provision(provisioner) => format!("provision {provisioner}"),
        claims::Step::Tell(note) => format!("tell {}: {}", note.reason, note.message),
        claims::Step::Pending(None) => "pending".to_owned(),
        claims::Step::Pending(Some(note)) => format!("pending {}: {}", note.reason, note.message),
        claims::Step::Lost(note) => format!("lost {}: {}", note.reason, note.message),
        claims::Step::Fail(note) => format!("fail {}: {}", note.reason, note.message),
    }
}

#[track_caller]
fn check(claim: Value, volumes: &[Value], classes: &[Value], pods: &[&str], expected: &str) {
    let volumes = Store::from_objects(volumes.iter().map(typed::<PersistentVolume>));
    let classes = Store::from_objects(classes.iter().map(typed::<StorageClass>));
    let pods = || pods.iter().map(|&pod| pod.to_owned()).collect();
    let world = World { volumes: &volumes, classes: &classes, unscheduled_pods: &pods };
    assert_eq!(told(&claims::plan(&typed(&claim), &world)), expected, "{claim}");
}

fn available(name: &str, size: &str, more: Value) -> Value {
    volume(name, size, None, "Available", more)
}

#[test]
fn the_smallest_volume_that_will_do() {
    let none = "pending FailedBinding: no persistent volumes available for this claim and no storage class is set";
    let three = [available("a", "10Gi", json!({})), available("b", "1Gi", json!({})), available("c", "5Gi", json!({}))];
    check(claim("1Gi", json!({})), &three, &[], &[], "bind b");
    check(claim("2Gi", json!({})), &three, &[], &[], "bind c");
    check(claim("20Gi", json!({})), &three, &[], &[], none);
    let others = [
        volume("bound", "1Gi", Some("ns/other/x"), "Bound", json!({})),
        volume("fresh", "1Gi", None, "Pending", json!({})),
        available("class", "1Gi", json!({"spec": {"storageClassName": "now"}})),
        available("block", "1Gi", json!({"spec": {"volumeMode": "Block"}})),
        available("mode", "1Gi", json!({"spec": {"accessModes": ["ReadOnlyMany"]}})),
        available("going", "1Gi", json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}})),
        available("attributes", "1Gi", json!({"spec": {"volumeAttributesClassName": "fast"}})),
    ];
    check(claim("1Gi", json!({})), &others, &[], &[], none);
    let selector = json!({"spec": {"selector": {"matchLabels": {"disk": "ssd"}}}});
    let labelled =
        [available("plain", "1Gi", json!({})), available("ssd", "2Gi", json!({"metadata": {"labels": {"disk": "ssd"}}}))];
    check(claim("1Gi", selector), &labelled, &[], &[], "bind ssd");
    // Fewer access modes go before a better size.
    let modes = [
        available("both", "1Gi", json!({"spec": {"accessModes": ["ReadWriteOnce", "ReadOnlyMany"]}})),
        available("one", "5Gi", json!({})),
    ];
    check(claim("1Gi", json!({})), &modes, &[], &[], "bind one");
}

#[test]
fn volumes_that_are_reserved() {
    let both = [available("small", "1Gi", json!({})), volume("mine", "10Gi", Some("ns/c"), "Available", json!({}))];
    check(claim("1Gi", json!({})), &both, &[], &[], "bind mine");
    let waiting = json!({"spec": {"storageClassName": "wait"}});
    let class = json!({"spec": {"storageClassName": "wait"}});
    let mine = [volume("mine", "10Gi", Some("ns/c/u"), "Bound", class.clone())];
    check(claim("1Gi", waiting.clone()), &mine, &classes(), &[], "bind mine");
    let first = "pending WaitForFirstConsumer: waiting for first consumer to be created before binding";
    check(claim("1Gi", waiting.clone()), &[available("free", "1Gi", class)], &classes(), &[], first);
    check(
        claim("1Gi", waiting.clone()),
        &[],
        &classes(),
        &["p"],
        "pending WaitForPodScheduled: waiting for pod p to be scheduled",
    );
    let two = "pending WaitForPodScheduled: waiting for pods p,q to be scheduled";
    check(claim("1Gi", waiting.clone()), &[], &classes(), &["p", "q"], two);
    let mut selected = waiting;
    selected["metadata"] = json!({"annotations": {"volume.kubernetes.io/selected-node": "n1"}});
    check(claim("1Gi", selected), &[], &classes(), &[], "provision example.com/disk");
}

#[test]
fn classes_and_provisioners() {
    let of = |class: &str| claim("1Gi", json!({"spec": {"storageClassName": class}}));
    check(of("now"), &[], &classes(), &[], "provision example.com/disk");
    let none = "tell ProvisioningFailed: no volume plugin matched name: kubernetes.io/no-provisioner";
    check(of("none"), &[], &classes(), &[], none);
    check(of("gone"), &[], &classes(), &[], "tell ProvisioningFailed: storageclass.storage.k8s.io \"gone\" not found");
    let mut with_default = classes();
    with_default[1]["metadata"]["annotations"] = json!({"storageclass.kubernetes.io/is-default-class": "true"});
    check(claim("1Gi", json!({})), &[], &with_default, &[], "class now");
    // An empty class is a wish too.
    let expected = "pending FailedBinding: no persistent volumes available for this claim and no storage class is set";
    check(of(""), &[], &with_default, &[], expected);
    check(claim("1Gi", json!({})), &[available("v", "1Gi", json!({}))], &with_default, &[], "bind v");
}

#[test]
fn claims_that_name_their_volume() {
    let named = |more: Value| {
        let mut claim = claim("2Gi", json!({"spec": {"volumeName": "v"}}));
        merge(&mut claim, &more);
        claim
    };
    check(named(json!({})), &[], &[], &[], "pending");
    check(named(json!({})), &[available("v", "2Gi", json!({}))], &[], &[], "bind v");
    check(named(json!({})), &[volume("v", "2Gi", Some("ns/c"), "Available", json!({}))], &[], &[], "bind v");
    let taken = [volume("v", "2Gi", Some("ns/other/x"), "Bound", json!({}))];
    let note = "FailedBinding: volume \"v\" already bound to a different claim.";
    check(named(json!({})), &taken, &[], &[], &format!("pending {note}"));
    let by_controller = json!({"metadata": {"annotations": {"pv.kubernetes.io/bound-by-controller": "yes"}}});
    check(named(by_controller), &taken, &[], &[], &format!("fail {note}"));
    for (more, why) in [
        (json!({"spec": {"capacity": {"storage": "1Gi"}}}), "requested PV is too small"),
        (json!({"spec": {"storageClassName": "x"}}), "storageClassName does not match"),
        (json!({"spec": {"volumeMode": "Block"}}), "incompatible volumeMode"),
        (json!({"spec": {"accessModes": ["ReadOnlyMany"]}}), "incompatible accessMode"),
        (json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}), "the volume is marked for deletion \"v\""),
    ] {
        let expected = format!("pending VolumeMismatch: Cannot bind to requested volume \"v\": {why}");
        check(named(json!({})), &[available("v", "2Gi", more)], &[], &[], &expected);
    }
}

#[test]
fn claims_that_were_bound() {
    let bound = |name: &str| {
        let annotations = json!({"pv.kubernetes.io/bind-completed": "yes"});
        claim("1Gi", json!({"metadata": {"annotations": annotations}, "spec": {"volumeName": name}}))
    };
    let reference = "lost ClaimLost: Bound claim has lost reference to PersistentVolume. Data on the volume is lost!";
    check(bound(""), &[], &[], &[], reference);
    check(bound("v"), &[], &[], &[], "lost ClaimLost: Bound claim has lost its PersistentVolume. Data on the volume is lost!");
    check(bound("v"), &[volume("v", "1Gi", Some("ns/c/u"), "Bound", json!({}))], &[], &[], "bind v");
    check(bound("v"), &[available("v", "1Gi", json!({}))], &[], &[], "bind v");
    let misbound = "lost ClaimMisbound: Two claims are bound to the same volume, this one is bound incorrectly";
    check(bound("v"), &[volume("v", "1Gi", Some("ns/d/x"), "Bound", json!({}))], &[], &[], misbound);
}

#[test]
fn what_becomes_of_volumes() {
    let bound = |more: Value| volume("v", "1Gi", Some("ns/c/u"), "Bound", more);
    let with = |name: &str| Some(claim("1Gi", json!({"spec": {"volumeName": name}})));
    let provisioned = json!({
        "metadata": {"annotations": {"pv.kubernetes.io/provisioned-by": "example.com/disk"}},
        "spec": {"persistentVolumeReclaimPolicy": "Delete"},
    });
    let stranger = claim("1Gi", json!({"metadata": {"uid": "another"}, "spec": {"volumeName": "v"}}));
    for (volume, claim, expected) in [
        (volume("v", "1Gi", None, "Pending", json!({})), None, volumes::Step::Available),
        (volume("v", "1Gi", Some("ns/c"), "Pending", json!({})), with("v"), volumes::Step::Available),
        (bound(json!({})), with("v"), volumes::Step::Bound),
        (bound(json!({})), with(""), volumes::Step::WakeClaim),
        (bound(json!({})), None, volumes::Step::Release),
        (bound(json!({})), Some(stranger), volumes::Step::Release),
        (bound(json!({})), with("w"), volumes::Step::Unbind),
        (bound(provisioned), with("w"), volumes::Step::Release),
    ] {
        let claim = claim.as_ref().map(typed::<PersistentVolumeClaim>);
        assert_eq!(volumes::plan(&typed(&volume), claim.as_ref()), expected, "{volume}");
    }
}

#[test]
fn reclaim_policies() {
    let of = |policy: &str, more: Value| {
        let mut volume = volume("v", "1Gi", Some("ns/c/u"), "Released", more);
        volume["spec"]["persistentVolumeReclaimPolicy"] = json!(policy);
        volume
    };
    let by = |provisioner: &str| json!({"metadata": {"annotations": {"pv.kubernetes.io/provisioned-by": provisioner}}});
    let no_deleter = "error getting deleter volume plugin for volume \"v\": no deletable volume plugin matched";
    for (volume, expected) in [
        (of("Retain", json!({})), None),
        (of("Recycle", json!({})), Some(Note::warning("VolumeFailedRecycle", "No recycler plugin found for the volume!"))),
        (of("Delete", by("example.com/disk")), None),
        (of("Delete", json!({"spec": {"csi": {"driver": "d", "volumeHandle": "h"}}})), None),
        (of("Delete", json!({"spec": {"hostPath": {"path": "/data"}}})), Some(Note::warning("VolumeFailedDelete", no_deleter))),
        (
            of("Strange", json!({})),
            Some(Note::warning("VolumeUnknownReclaimPolicy", "Volume has unrecognized PersistentVolumeReclaimPolicy")),
        ),
    ] {
        assert_eq!(volumes::reclaim(&typed(&volume)), expected, "{volume}");
    }
}

#[test]
fn both_objects_of_a_binding() {
    let claim: PersistentVolumeClaim = typed(&claim("1Gi", json!({})));
    let free: PersistentVolume = typed(&available("v", "2Gi", json!({})));
    let bound = binding::bound_volume(&free, &claim).expect("changes");
    assert_eq!(matching::annotation(&bound.metadata, matching::BOUND_BY_CONTROLLER), Some("yes"));
    assert!(binding::bound_volume(&bound, &claim).is_none(), "is idempotent");
    let back = volumes::unbound(&bound);
    assert!(back.spec.as_ref().is_some_and(|spec| spec.claim_ref.is_none()));
    // A user's reservation keeps its name, and is not marked as the controller's.
    let reserved: PersistentVolume = typed(&volume("v", "2Gi", Some("ns/c"), "Available", json!({})));
    let bound = binding::bound_volume(&reserved, &claim).expect("changes");
    assert_eq!(matching::annotation(&bound.metadata, matching::BOUND_BY_CONTROLLER), None);
    let reference = volumes::unbound(&bound).spec.and_then(|spec| spec.claim_ref).expect("stays");
    assert_eq!((reference.name.as_deref(), reference.uid), (Some("c"), None));

    let claimed = binding::bound_claim(&claim, &bound).expect("changes");
    assert_eq!(matching::volume_name(&claimed), "v");
    assert!(binding::bound_claim(&claimed, &bound).is_none(), "is idempotent");
    let told = binding::claim_in_phase(&claimed, "Bound", Some(&bound)).expect("changes");
    let status = told.status.clone().expect("is there");
    assert_eq!(status.capacity.expect("is there")["storage"].0, "2Gi");
    assert_eq!(status.access_modes, Some(vec!["ReadWriteOnce".to_owned()]));
    assert!(binding::claim_in_phase(&told, "Bound", Some(&bound)).is_none(), "is idempotent");
    let lost = binding::claim_in_phase(&told, "Lost", None).expect("changes").status.expect("is there");
    assert_eq!((lost.phase.as_deref(), lost.capacity), (Some("Lost"), None));
}
