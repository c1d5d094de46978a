use super::*;
use serde_json::{Value, json};

struct World {
    graph: Graph,
}

fn meta(namespace: &str, name: &str, owners: &[&str], extra: Value) -> ObjectMeta {
    let references: Vec<Value> = owners
        .iter()
        .map(|owner| json!({"apiVersion": "v1", "kind": "Owner", "name": owner, "uid": owner, "blockOwnerDeletion": true}))
        .collect();
    let mut value = json!({"name": name, "namespace": namespace, "uid": name, "ownerReferences": references});
    for (key, field) in extra.as_object().expect("is an object") {
        value[key] = field.clone();
    }
    serde_json::from_value(value).expect("is metadata")
}

impl World {
    fn new() -> Self {
        Self { graph: Graph::default() }
    }

    fn see(&mut self, kind: &str, meta: &ObjectMeta) -> Vec<Work> {
        let kind = self.graph.kind("v1", kind);
        let mut work = self.graph.observe(&kind, meta);
        work.sort();
        work
    }

    fn gone(&mut self, uid: &str) -> Vec<Work> {
        let mut work = self.graph.forget(uid);
        work.sort();
        work
    }
}

fn delete(uid: &str) -> Work {
    Work::Delete(uid.into())
}

#[test]
fn dependents_are_looked_at_when_their_owner_goes() {
    let mut world = World::new();
    assert_eq!(world.see("Owner", &meta("a", "o", &[], json!({}))), []);
    assert_eq!(world.see("Pod", &meta("a", "p", &["o"], json!({}))), []);
    assert_eq!(world.see("Pod", &meta("a", "q", &["o"], json!({}))), []);
    assert_eq!(world.gone("o"), [delete("p"), delete("q")]);
    let reference = meta("a", "p", &["o"], json!({})).owner_references.expect("has one")[0].clone();
    assert!(world.graph.is_absent(&reference, "a"));
    assert!(!world.graph.is_absent(&reference, "b"));
}

#[test]
fn an_unknown_owner_is_virtual_until_it_is_seen() {
    let mut world = World::new();
    assert_eq!(world.see("Pod", &meta("a", "p", &["o"], json!({}))), [delete("o")]);
    assert!(world.graph.snapshot("o").expect("is there").is_virtual);
    assert_eq!(world.see("Owner", &meta("a", "o", &[], json!({}))), []);
    let owner = world.graph.snapshot("o").expect("is there");
    assert!(!owner.is_virtual);
    assert_eq!(owner.dependents.len(), 1);
}

#[test]
fn an_absent_virtual_owner_frees_its_dependents_for_deletion() {
    let mut world = World::new();
    world.see("Pod", &meta("a", "p", &["o"], json!({})));
    let owner = world.graph.snapshot("o").expect("is there").identity;
    assert_eq!(world.graph.found_absent(&owner), [delete("p")]);
    assert!(world.graph.snapshot("o").is_none());
}

#[test]
fn one_wrong_reference_does_not_condemn_the_others() {
    // Two dependents in two namespaces name the same owner; it is looked for in the first one's namespace.
    let mut world = World::new();
    world.see("Pod", &meta("a", "p", &["o"], json!({})));
    assert_eq!(world.see("Pod", &meta("b", "q", &["o"], json!({}))), [delete("q")]);
    let first = world.graph.snapshot("o").expect("is there").identity;
    assert_eq!(&*first.namespace, "a");
    let mut work = world.graph.found_absent(&first);
    work.sort();
    assert_eq!(work, [delete("p"), Work::DeleteLater("o".into())]);
    let second = world.graph.snapshot("o").expect("is still there").identity;
    assert_eq!(&*second.namespace, "b");
    // It is seen there: only the dependent in the other namespace is doubtful.
    assert_eq!(world.see("Owner", &meta("b", "o", &[], json!({}))), []);
    let mut again = World::new();
    again.see("Pod", &meta("a", "p", &["o"], json!({})));
    let doubtful = again.see("Owner", &meta("b", "o", &[], json!({})));
    assert_eq!(doubtful, [delete("p"), Work::InvalidReference("p".into(), "o".into())]);
}

#[test]
fn foreground_deletion_waits_for_blocking_dependents() {
    let mut world = World::new();
    world.see("Owner", &meta("a", "o", &[], json!({})));
    world.see("Pod", &meta("a", "p", &["o"], json!({})));
    let deleting = json!({"deletionTimestamp": "2024-01-01T00:00:00Z", "finalizers": ["foregroundDeletion"]});
    let deleting = meta("a", "o", &[], deleting);
    assert_eq!(world.see("Owner", &deleting), [delete("o"), delete("p")]);
    assert_eq!(world.see("Owner", &deleting), [], "only the transition counts");
    let owner = world.graph.snapshot("o").expect("is there");
    assert!(owner.waits_for_dependents && owner.dependents[0].blocks);
    assert_eq!(world.gone("p"), [delete("o")]);
    assert!(world.graph.snapshot("o").expect("is there").dependents.is_empty());
}

#[test]
fn a_dependent_that_stops_blocking_wakes_its_owner() {
    let mut world = World::new();
    world.see("Owner", &meta("a", "o", &[], json!({})));
    world.see("Pod", &meta("a", "p", &["o"], json!({})));
    let mut unblocked = meta("a", "p", &["o"], json!({}));
    for reference in unblocked.owner_references.iter_mut().flatten() {
        reference.block_owner_deletion = None;
    }
    assert_eq!(world.see("Pod", &unblocked), [delete("o")]);
    assert!(!world.graph.snapshot("o").expect("is there").dependents[0].blocks);
    assert_eq!(world.see("Pod", &meta("a", "p", &[], json!({}))), []);
    assert!(world.graph.snapshot("o").expect("is there").dependents.is_empty());
}

#[test]
fn orphaning_is_asked_for_once() {
    let mut world = World::new();
    world.see("Pod", &meta("a", "p", &["o"], json!({})));
    let deleting = json!({"deletionTimestamp": "2024-01-01T00:00:00Z", "finalizers": ["orphan"]});
    let deleting = meta("a", "o", &[], deleting);
    assert_eq!(world.see("Owner", &deleting), [Work::Orphan("o".into())]);
    assert_eq!(world.see("Owner", &deleting), []);
}

#[test]
fn a_namespaced_owner_of_an_object_elsewhere_is_reported() {
    let mut world = World::new();
    world.see("Owner", &meta("a", "o", &[], json!({})));
    let expected = [delete("p"), Work::InvalidReference("p".into(), "o".into())];
    assert_eq!(world.see("Pod", &meta("b", "p", &["o"], json!({}))), expected);
    // A cluster-scoped owner is fine for everybody.
    world.see("Owner", &meta("", "c", &[], json!({})));
    assert_eq!(world.see("Pod", &meta("b", "q", &["c"], json!({}))), []);
}

#[test]
fn absent_owners_remembered_are_bounded() {
    let mut world = World::new();
    for i in 0..2000 {
        world.see("Pod", &meta("a", &format!("p{i}"), &[&format!("o{i}")], json!({})));
        world.see("Owner", &meta("a", &format!("o{i}"), &[], json!({})));
        world.gone(&format!("o{i}"));
    }
    assert_eq!(world.graph.absent.len(), ABSENT_MAX);
}
