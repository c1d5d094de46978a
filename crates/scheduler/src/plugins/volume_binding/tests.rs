//! Tables for the decisions of VolumeBinding.

use serde_json::{Value, json};

use super::*;
use crate::plugins::testing::{node, pod};
use crate::snapshot::Snapshot;

fn typed<K: serde::de::DeserializeOwned>(object: Value) -> K {
    serde_json::from_value(object).expect("an object")
}

fn volume(name: &str, size: &str, zone: &str) -> PersistentVolume {
    let term = json!({"matchExpressions": [{"key": "zone", "operator": "In", "values": [zone]}]});
    typed(json!({
        "metadata": {"name": name},
        "spec": {
            "storageClassName": "late", "capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"],
            "nodeAffinity": {"required": {"nodeSelectorTerms": [term]}},
        },
        "status": {"phase": "Available"},
    }))
}

fn claim(spec: Value, bound: bool) -> PersistentVolumeClaim {
    let annotations = if bound { json!({"pv.kubernetes.io/bind-completed": "yes"}) } else { json!({}) };
    let mut claim = json!({"metadata": {"name": "c", "namespace": "d", "uid": "c", "annotations": annotations}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
    claim["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    typed(claim)
}

fn plugin(claims: Vec<PersistentVolumeClaim>, volumes: Vec<PersistentVolume>, provisioner: &str) -> VolumeBinding {
    let mut handle = Handle::default();
    handle.listers.claims = client::Store::from_objects(claims);
    handle.listers.volumes = client::Store::from_objects(volumes);
    let class = json!({"metadata": {"name": "late"}, "provisioner": provisioner, "volumeBindingMode": "WaitForFirstConsumer"});
    handle.listers.classes = client::Store::from_objects([typed(class)]);
    VolumeBinding::with_args(&Arc::new(handle), &Args::default()).unwrap()
}

/// The volumes, or the reasons.
type Said = Result<Vec<String>, Vec<String>>;

/// What PreFilter refuses with, or what Filter says of a node in zone a and one in zone b; and the volumes that would be bound there.
fn outcome(plugin: &VolumeBinding) -> Result<Vec<Said>, Vec<String>> {
    let own = pod(json!({"containers": [], "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]}));
    let mut state = crate::plugins::testing::state(&own);
    let (status, _) = plugin.pre_filter(&mut state, &own, &Snapshot::default());
    if !status.is_success() {
        return Err(status.reasons().iter().map(ToString::to_string).collect());
    }
    let on = |zone: &str| {
        let node = node(json!({"metadata": {"name": zone, "labels": {"zone": zone}}}));
        let status = plugin.filter(&state, &own, &node);
        if !status.is_success() {
            return Err(status.reasons().iter().map(ToString::to_string).collect());
        }
        let decision = decision_for(&state, zone).unwrap_or_default();
        let volumes = decision.bind.iter().map(|(volume, _)| volume.name_any());
        Ok(volumes.chain(decision.provision.iter().map(|claim| format!("new for {}", claim.name_any()))).collect())
    };
    Ok(vec![on("a"), on("b")])
}

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(ToString::to_string).collect()
}

const NO_VOLUME: &str = "node(s) didn't find available persistent volumes to bind";
const BY_HAND: &str = "kubernetes.io/no-provisioner";

#[test]
fn claims_that_cannot_be_used_are_refused_at_once() {
    let check = |claims, expected: &str| assert_eq!(outcome(&plugin(claims, vec![], BY_HAND)), Err(texts(&[expected])));
    check(vec![], "persistentvolumeclaim \"c\" not found");
    check(vec![claim(json!({}), false)], "pod has unbound immediate PersistentVolumeClaims");
    let mut lost = claim(json!({"volumeName": "v"}), true);
    lost.status = Some(typed(json!({"phase": "Lost"})));
    check(vec![lost], "persistentvolumeclaim \"c\" bound to non-existent persistentvolume \"v\"");
}

#[test]
fn a_bound_volume_says_where() {
    let bound = || claim(json!({"volumeName": "v"}), true);
    let there = plugin(vec![bound()], vec![volume("v", "1Gi", "a")], BY_HAND);
    let wrong = texts(&["node(s) didn't match PersistentVolume's node affinity"]);
    assert_eq!(outcome(&there), Ok(vec![Ok(vec![]), Err(wrong)]));
    let gone = texts(&["node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)"]);
    assert_eq!(outcome(&plugin(vec![bound()], vec![], BY_HAND)), Ok(vec![Err(gone.clone()), Err(gone)]));
}

#[test]
fn a_delayed_claim_gets_the_smallest_volume_that_does() {
    let late = || claim(json!({"storageClassName": "late"}), false);
    let volumes = || vec![volume("big", "9Gi", "a"), volume("fits", "2Gi", "a"), volume("small", "1Mi", "a")];
    let there = plugin(vec![late()], volumes(), BY_HAND);
    assert_eq!(outcome(&there), Ok(vec![Ok(texts(&["fits"])), Err(texts(&[NO_VOLUME]))]));
    there.assumed.lock().insert("fits".into(), "another".into());
    assert_eq!(outcome(&there).unwrap()[0], Ok(texts(&["big"])), "what is promised to another is not free");
    let provisioned = plugin(vec![late()], vec![volume("big", "9Gi", "a")], "example.com/driver");
    assert_eq!(outcome(&provisioned), Ok(vec![Ok(texts(&["big"])), Ok(texts(&["new for c"]))]));
    let mut selected = late();
    selected.metadata.annotations = Some([(SELECTED_NODE.to_owned(), "b".to_owned())].into());
    let selected = plugin(vec![selected], volumes(), "example.com/driver");
    assert_eq!(outcome(&selected), Ok(vec![Err(texts(&[NO_VOLUME])), Ok(texts(&["new for c"]))]));
}
