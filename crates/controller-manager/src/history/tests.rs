use super::*;
use k8s_openapi::api::apps::v1::StatefulSet;

fn set(image: &str) -> StatefulSet {
    serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "ns", "uid": "u", "annotations": {"note": "x"}},
        "spec": {"serviceName": "web", "replicas": 3, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": image}]}}},
    }))
    .expect("is a set")
}

fn template(set: &StatefulSet) -> &PodTemplateSpec {
    &set.spec.as_ref().expect("has a spec").template
}

fn numbered(name: &str, number: i64, second: u32) -> Arc<ControllerRevision> {
    let value = json!({
        "metadata": {"name": name, "creationTimestamp": format!("2024-01-01T00:00:{second:02}Z")},
        "revision": number, "data": {"from": name},
    });
    Arc::new(serde_json::from_value(value).expect("is a revision"))
}

fn names(revisions: &[Arc<ControllerRevision>]) -> Vec<&str> {
    revisions.iter().map(|revision| revision.metadata.name.as_deref().expect("has a name")).collect()
}

#[test]
fn the_hash_is_that_of_the_bytes_go_writes() {
    // FNV-1 over the bytes, worked out apart from this code.
    let mut revision = ControllerRevision { data: Some(RawExtension(json!({"b": "<&>", "a": 1}))), ..Default::default() };
    assert_eq!(go_json(&json!({"b": "<&>", "a": 1})), r#"{"a":1,"b":"\u003c\u0026\u003e"}"#);
    assert_eq!(revision_hash(&revision, None), "775485b798");
    assert_eq!(revision_hash(&revision, Some(0)), "6598b568c4");
    revision.data = None;
    assert_eq!(revision_hash(&revision, None), "65bb57b6b5");
}

#[test]
fn names_leave_room_for_the_hash() {
    assert_eq!(revision_name("web", "abc"), "web-abc");
    assert_eq!(revision_name(&"w".repeat(230), "abc"), format!("{}-abc", "w".repeat(223)));
    assert_eq!(revision_name(&"ä".repeat(150), "abc"), format!("{}-abc", "ä".repeat(111)));
}

#[test]
fn a_revision_restores_its_template_and_nothing_else() {
    let old = set("image:1");
    let revision = new_revision(&old, template(&old), 7, Some(0));
    assert_eq!((revision.revision, revision.metadata.namespace.as_deref()), (7, Some("ns")));
    assert_eq!(revision.annotations()["note"], "x");
    assert_eq!(revision.labels()["app"], "web");
    assert_eq!(revision.name_any(), format!("web-{}", revision.labels()[HASH]));
    let owner = &revision.owner_references()[0];
    assert_eq!((owner.kind.as_str(), owner.uid.as_str(), owner.controller), ("StatefulSet", "u", Some(true)));
    let mut new = set("image:2");
    new.spec.as_mut().expect("has a spec").replicas = Some(9);
    let labels = [("extra".to_owned(), "label".to_owned())];
    new.spec
        .as_mut()
        .expect("has a spec")
        .template
        .metadata
        .get_or_insert_default()
        .labels
        .get_or_insert_default()
        .extend(labels);
    let restored = apply(&new, &revision).expect("applies");
    assert_eq!(template(&restored), template(&old), "what the template gained is gone");
    assert_eq!(restored.spec.expect("has a spec").replicas, Some(9));
}

#[test]
fn a_revision_without_data_or_with_another_kind_of_data_is_an_error() {
    let set = set("i");
    let without = ControllerRevision::default();
    assert!(matches!(apply(&set, &without), Err(RevisionError::NoData)));
    let odd = ControllerRevision { data: Some(RawExtension(json!({"spec": {"template": 5}}))), ..Default::default() };
    assert!(apply(&set, &odd).is_err());
}

#[test]
fn equality_is_of_data() {
    let (a, b) = (set("image:1"), set("image:2"));
    let first = Arc::new(new_revision(&a, template(&a), 1, Some(0)));
    let second = Arc::new(new_revision(&b, template(&b), 2, Some(0)));
    let again = new_revision(&a, template(&a), 3, Some(5));
    assert!(equal(&first, &again) && !equal(&first, &second));
    assert_ne!(first.metadata.name, again.metadata.name, "collisions change the name");
    let all = [first.clone(), second];
    let found = find_equal(&all, &again);
    assert_eq!((found.len(), &found[0].metadata.name), (1, &first.metadata.name));
}

#[test]
fn order_is_by_number_age_and_name() {
    let mut revisions = vec![numbered("d", 2, 0), numbered("c", 1, 5), numbered("b", 1, 3), numbered("a", 1, 5)];
    sort(&mut revisions);
    assert_eq!(names(&revisions), ["b", "a", "c", "d"]);
    assert_eq!((next_number(&revisions), next_number(&[])), (3, 1));
}

#[test]
fn history_is_cut_from_its_old_end_without_the_live() {
    let revisions: Vec<_> = (1..=5).map(|number| numbered(&format!("r{number}"), number, 0)).collect();
    for (live, limit, expected) in [
        (&["r5"][..], 10, &[][..]),
        (&["r5"], 4, &[]),
        (&["r5"], 2, &["r1", "r2"]),
        (&["r1", "r5"], 1, &["r2", "r3"]),
        (&["r5"], 0, &["r1", "r2", "r3", "r4"]),
        (&["r5"], -1, &[]),
    ] {
        let live = live.iter().copied().collect();
        assert_eq!(names(&surplus(&revisions, &live, limit)), expected, "{live:?} {limit}");
    }
}
