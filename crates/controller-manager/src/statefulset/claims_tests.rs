use super::*;
use serde_json::{Value, json};

const SET: &str = "set-uid";
const POD: &str = "pod-uid";

fn set(scaled: &str, deleted: &str, replicas: i32) -> StatefulSet {
    serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "ns", "uid": SET},
        "spec": {"serviceName": "", "replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "template": {},
            "volumeClaimTemplates": [{"metadata": {"name": "data", "labels": {"own": "label"}}}, {"metadata": {"name": "logs"}}],
            "persistentVolumeClaimRetentionPolicy": {"whenScaled": scaled, "whenDeleted": deleted}}}))
    .expect("is a set")
}

fn pod(ordinal: i32, uid: Option<&str>) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": format!("web-{ordinal}"), "uid": uid}})).expect("is a pod")
}

fn reference(kind: &str, name: &str, uid: &str, controller: bool) -> Value {
    let version = if kind == "Pod" { "v1" } else { "apps/v1" };
    json!({"apiVersion": version, "kind": kind, "name": name, "uid": uid, "controller": controller, "blockOwnerDeletion": true})
}

fn claim(name: &str, owners: Value) -> PersistentVolumeClaim {
    serde_json::from_value(json!({"metadata": {"name": name, "namespace": "ns", "ownerReferences": owners}})).expect("is a claim")
}

fn uids(claim: &PersistentVolumeClaim) -> Vec<&str> {
    claim.owner_references().iter().map(|reference| reference.uid.as_str()).collect()
}

#[test]
fn owners_follow_the_policy() {
    let by_set = reference("StatefulSet", "web", SET, true);
    let by_pod = reference("Pod", "web-1", POD, true);
    // (when scaled, when deleted, condemned, owners wanted): upstream's TestIsClaimOwnerUpToDate.
    for (scaled, deleted, condemned, expected) in [
        ("Retain", "Retain", false, &[][..]),
        ("Retain", "Retain", true, &[]),
        ("Retain", "Delete", false, &[SET]),
        ("Retain", "Delete", true, &[SET]),
        ("Delete", "Retain", false, &[]),
        ("Delete", "Retain", true, &[POD]),
        ("Delete", "Delete", false, &[SET]),
        ("Delete", "Delete", true, &[POD]),
        ("Odd", "Odd", true, &[]),
    ] {
        let set = set(scaled, deleted, if condemned { 1 } else { 2 });
        let pod = pod(1, Some(POD));
        for owners in [json!([]), json!([by_set]), json!([by_pod]), json!([by_set, by_pod])] {
            let before = claim("data-web-1", owners.clone());
            let mut have = uids(&before);
            have.sort_unstable();
            let right = have == expected;
            assert_eq!(is_up_to_date(&before, &set, &pod), right, "{scaled} {deleted} {condemned} {owners}");
            let after = with_owners(&before, &set, &pod);
            assert_eq!(uids(&after), expected, "{scaled} {deleted} {condemned} {owners}");
            assert!(is_up_to_date(&after, &set, &pod), "{scaled} {deleted} {condemned} {owners}");
        }
    }
}

#[test]
fn other_owners_are_respected() {
    let other = reference("Widget", "w", "other", true);
    let plain = reference("Widget", "w", "other", false);
    let by_set = reference("StatefulSet", "web", SET, true);
    let only_owner = reference("StatefulSet", "web", SET, false);
    let earlier_set = reference("StatefulSet", "web", "earlier", true);
    let earlier_pod = reference("Pod", "web-1", "earlier", true);
    // (when deleted, owners, up to date, owners afterwards)
    for (deleted, owners, up_to_date, after) in [
        ("Delete", json!([plain]), false, vec!["other", SET]),
        ("Delete", json!([plain, by_set]), true, vec!["other", SET]),
        ("Delete", json!([other]), true, vec!["other"]),
        ("Delete", json!([other, by_set]), false, vec!["other"]),
        ("Retain", json!([other]), true, vec!["other"]),
        ("Retain", json!([other, by_set]), false, vec!["other"]),
        ("Delete", json!([only_owner]), false, vec![SET]),
        ("Delete", json!([earlier_set]), true, vec![]),
        ("Delete", json!([earlier_pod]), true, vec![]),
    ] {
        let set = set("Retain", deleted, 2);
        let claim = claim("data-web-1", owners.clone());
        let pod = pod(1, Some(POD));
        assert_eq!(is_up_to_date(&claim, &set, &pod), up_to_date, "{deleted} {owners}");
        assert_eq!(uids(&with_owners(&claim, &set, &pod)), after, "{deleted} {owners}");
    }
}

#[test]
fn missing_claims_are_made_with_their_owners() {
    let none = |_: &str| None;
    let work = ensure(&set("Retain", "Delete", 2), &pod(1, None), &none);
    let names: Vec<_> = work.create.iter().map(|claim| claim.name_any()).collect();
    assert_eq!(names, ["data-web-1", "logs-web-1"]);
    assert_eq!(work.create[0].labels().len(), 2, "its own and the selector's: {:?}", work.create[0].labels());
    assert!(work.create.iter().all(|claim| uids(claim) == [SET] && claim.metadata.namespace.as_deref() == Some("ns")));
    let retained = ensure(&set("Delete", "Retain", 2), &pod(1, None), &none);
    assert!(retained.create.iter().all(|claim| claim.owner_references().is_empty()));
    assert!(ensure(&set("Retain", "Retain", 2), &pod(1, None), &|name| Some(Arc::new(claim(name, json!([]))))).is_empty());
}

#[test]
fn a_claim_that_is_being_deleted_holds_the_pod_up() {
    let going = |name: &str| {
        let mut claim = claim(name, json!([]));
        claim.metadata.deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::UNIX_EPOCH));
        (name == "data-web-1").then(|| Arc::new(claim))
    };
    let work = ensure(&set("Retain", "Retain", 2), &pod(1, None), &going);
    assert_eq!((work.deleting, work.create.len()), (vec!["data-web-1".to_owned()], 1));
}

#[test]
fn claims_of_an_earlier_pod_are_stale() {
    let owned_by = |kind: &'static str, name: &'static str| {
        move |claim_name: &str| Some(Arc::new(claim(claim_name, json!([reference(kind, name, "earlier", true)]))))
    };
    for (scaled, kind, name, expected) in [
        ("Delete", "Pod", "web-1", true),
        ("Retain", "Pod", "web-1", false),
        ("Delete", "Pod", "web-2", false),
        ("Delete", "StatefulSet", "web", false),
    ] {
        let stale = are_stale(&set(scaled, "Retain", 2), &pod(1, None), &owned_by(kind, name));
        assert_eq!(stale, expected, "{scaled} {kind} {name}");
    }
    assert!(!are_stale(&set("Delete", "Retain", 2), &pod(1, None), &|_| None));
}

#[test]
fn another_controller_is_told_of() {
    let other = |name: &str| Some(Arc::new(claim(name, json!([reference("Widget", "w", "other", true)]))));
    let work = retain(&set("Delete", "Delete", 2), &pod(1, Some(POD)), &other);
    assert_eq!((work.conflicting.len(), work.update.len()), (2, 0));
    assert!(retain(&set("Retain", "Retain", 2), &pod(1, Some(POD)), &other).conflicting.is_empty());
}
