//! The behaviour of whole writes, each as upstream's `managedfields` does it.

use proptest::prelude::*;

use super::{Apply, BuiltIn, FieldManager, Set};
use crate::{GroupVersionKind, Status, Value, value};

type Convert = fn(Value, &GroupVersionKind) -> Value;

struct Server {
    versions: BuiltIn<Convert>,
    api_version: &'static str,
    reset: Set,
}

#[allow(clippy::result_large_err)]
impl Server {
    fn new(group: &str, kind: &str, api_version: &'static str) -> Server {
        let convert: Convert = |object, _| object;
        let versions = BuiltIn { kind: GroupVersionKind::new(group, "v1", kind), convert };
        Server { versions, api_version, reset: Set::of_fields(&[&["status"]]) }
    }

    fn at<'a>(&'a self, now: &'a str, subresource: &'a str) -> FieldManager<'a> {
        FieldManager {
            versions: &self.versions,
            api_version: self.api_version,
            kind: &self.versions.kind.kind,
            subresource,
            reset_fields: &self.reset,
            now,
        }
    }

    fn apply(&self, live: Option<&Value>, config: &Value, manager: &str, force: bool) -> Result<Value, Status> {
        Ok(self.at("2026-01-01T00:00:00Z", "").apply(live, config, Apply { manager, force })?)
    }

    fn update(&self, live: Option<&Value>, new: &Value, manager: &str) -> Value {
        self.at("2026-01-01T00:00:00Z", "").update(live, new.clone(), manager)
    }
}

fn deployments() -> Server {
    Server::new("apps", "Deployment", "apps/v1")
}

fn deployment(spec: Value) -> Value {
    value!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "namespace": "n"}, "spec": spec})
}

/// Without managers, and without what Go's encoding adds.
fn spec(object: &Value) -> &Value {
    &object["spec"]
}

fn owned(object: &Value, manager: &str) -> Value {
    let entries = object.meta().managed_fields().iter();
    entries.filter(|entry| entry["manager"] == manager).map(|entry| entry["fieldsV1"].clone()).next().unwrap_or_default()
}

#[test]
fn create_records_as_upstream() {
    let template = value!({"metadata": {"labels": {"app": "x"}},
        "spec": {"containers": [{"name": "c", "image": "i", "resources": {}}]}});
    let new = deployment(value!({"replicas": 1, "selector": {"matchLabels": {"app": "x"}}, "strategy": {"type": "Recreate"},
        "template": template}));
    let created = deployments().update(None, &new, "kubectl-create");
    assert_eq!(
        owned(&created, "kubectl-create"),
        value!({"f:spec": {"f:replicas": {}, "f:selector": {}, "f:strategy": {"f:type": {}}, "f:template": {
            "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
            "f:spec": {"f:containers": {"k:{\"name\":\"c\"}": {".": {}, "f:image": {}, "f:name": {}, "f:resources": {}}}}}}})
    );
    let entry = &created.meta().managed_fields()[0];
    assert_eq!((&entry["operation"], &entry["apiVersion"]), (&"Update".into(), &"apps/v1".into()));
    assert_eq!(entry["time"], "2026-01-01T00:00:00Z");
}

#[test]
fn update_takes_what_it_changes() {
    let server = deployments();
    let first = server.update(None, &deployment(value!({"replicas": 1, "paused": true})), "a");
    let mut second = first.clone();
    second.set_path(&["spec", "replicas"], 2);
    let second = server.update(Some(&first), &second, "b");
    assert_eq!(owned(&second, "a"), value!({"f:spec": {"f:paused": {}}}));
    assert_eq!(owned(&second, "b"), value!({"f:spec": {"f:replicas": {}}}));
    // An update that changes nothing changes no times either.
    assert_eq!(server.at("2027-01-01T00:00:00Z", "").update(Some(&second), second.clone(), "c"), second);
    // What is removed, nobody owns.
    let mut third = second.clone();
    third.remove_path(&["spec", "paused"]);
    let third = server.update(Some(&second), &third, "b");
    assert_eq!(owned(&third, "a"), Value::Null);
}

#[test]
fn managers_can_be_reset() {
    let server = deployments();
    let live = server.update(None, &deployment(value!({"replicas": 1})), "a");
    let mut new = live.clone();
    new.set_path(&["metadata", "managedFields"], value!([{}]));
    assert!(server.update(Some(&live), &new, "b").meta().managed_fields().is_empty());
    // Without managers, updates do not start to track; an apply does, and gives the old fields an owner.
    let bare = server.update(Some(&live), &new, "b");
    let applied = server.apply(Some(&bare), &deployment(value!({"paused": true})), "c", false).expect("no conflict");
    assert_eq!(owned(&applied, "before-first-apply"), value!({"f:spec": {"f:replicas": {}}}));
    let error = server.apply(Some(&bare), &deployment(value!({"replicas": 5})), "c", false).expect_err("conflict");
    assert_eq!(error.message, "Apply failed with 1 conflict: conflict with \"before-first-apply\" using apps/v1: .spec.replicas");
}

#[test]
fn conflicts_read_as_upstream() {
    let server = deployments();
    let live = server.update(None, &deployment(value!({"replicas": 1, "paused": true})), "kubectl-client-side-apply");
    let config = deployment(value!({"replicas": 3}));
    let error = server.apply(Some(&live), &config, "me", false).expect_err("conflict");
    assert_eq!((error.code, error.reason), (409, crate::Reason::Conflict));
    assert_eq!(
        error.message,
        "Apply failed with 1 conflict: conflict with \"kubectl-client-side-apply\" using apps/v1: .spec.replicas"
    );
    let cause = &error.details.expect("details").causes[0];
    assert_eq!(
        (cause.reason.as_str(), cause.message.as_str(), cause.field.as_str()),
        ("FieldManagerConflict", "conflict with \"kubectl-client-side-apply\" using apps/v1", ".spec.replicas")
    );
    let both = deployment(value!({"replicas": 3, "paused": false, "minReadySeconds": 1}));
    let live = server.apply(Some(&live), &deployment(value!({"minReadySeconds": 2})), "other", false).expect("no conflict");
    let error = server.apply(Some(&live), &both, "me", false).expect_err("conflict");
    assert_eq!(
        error.message,
        "Apply failed with 3 conflicts: conflicts with \"kubectl-client-side-apply\" using apps/v1:\n- .spec.paused\n- .spec.replicas\n\
         conflicts with \"other\":\n- .spec.minReadySeconds"
    );
    let forced = server.apply(Some(&live), &config, "me", true).expect("forced");
    assert_eq!(spec(&forced)["replicas"], Value::Int(3));
    assert_eq!(owned(&forced, "kubectl-client-side-apply"), value!({"f:spec": {"f:paused": {}}}));
    // The same value is no conflict: both own it.
    let same = server.apply(Some(&live), &deployment(value!({"replicas": 1})), "me", false).expect("shared");
    assert_eq!(owned(&same, "me"), value!({"f:spec": {"f:replicas": {}}}));
    assert_eq!(owned(&same, "kubectl-client-side-apply"), value!({"f:spec": {"f:paused": {}, "f:replicas": {}}}));
}

#[test]
fn what_is_no_longer_applied_goes() {
    let server = deployments();
    let containers = |names: &[&str]| {
        let list: Vec<Value> = names.iter().map(|name| value!({"name": *name, "image": "i"})).collect();
        deployment(value!({"template": {"spec": {"containers": list}}}))
    };
    let names = |object: &Value| -> Vec<String> {
        let list = object.array_at(&["spec", "template", "spec", "containers"]);
        list.iter().map(|c| c["name"].as_str().unwrap_or_default().to_owned()).collect()
    };
    let first = server.apply(None, &containers(&["a", "b", "c"]), "me", false).expect("created");
    let shared = server.apply(Some(&first), &containers(&["b"]), "other", false).expect("shared");
    let fewer = server.apply(Some(&shared), &containers(&["a"]), "me", false).expect("pruned");
    // "c" was mine alone, "b" is also the other's.
    assert_eq!(names(&fewer), ["a", "b"]);
    let labels = |labels: Value| value!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"labels": labels}});
    let labelled = server.apply(Some(&fewer), &labels(value!({"x": "1", "y": "2"})), "labels", false).expect("labelled");
    let one = server.apply(Some(&labelled), &labels(value!({"y": "2"})), "labels", false).expect("one");
    assert_eq!(one["metadata"]["labels"], value!({"y": "2"}));
    let none = server.apply(Some(&one), &labels(value!({})), "labels", false).expect("none");
    assert_eq!(none.meta().labels().count(), 0);
}

#[test]
fn kubectl_may_take_over_its_own_client_side_apply() {
    let server = deployments();
    let config = deployment(value!({"replicas": 1}));
    let mut new = config.clone();
    new.meta_mut().set_annotation("kubectl.kubernetes.io/last-applied-configuration", &config.to_json());
    let live = server.update(None, &new, "kubectl-client-side-apply");
    let applied = server.apply(Some(&live), &deployment(value!({"replicas": 2})), "kubectl", false).expect("excused");
    assert_eq!(spec(&applied)["replicas"], Value::Int(2));
    let last = applied.meta().annotation("kubectl.kubernetes.io/last-applied-configuration").expect("kept in step");
    assert!(last.contains(r#""replicas":2"#), "{last}");
    assert!(server.apply(Some(&live), &deployment(value!({"replicas": 2})), "someone", false).is_err());
}

#[test]
fn refused_configurations() {
    let server = deployments();
    let check = |config: Value, code: u16, text: &str| {
        let error = server.apply(None, &config, "me", false).expect_err("refused");
        assert_eq!((error.code, error.message.as_str()), (code, text));
    };
    check(value!({"apiVersion": "v1", "kind": "Pod"}), 400, "invalid object type: /v1, Kind=Pod");
    let mut managed = deployment(value!({}));
    managed.set_path(&["metadata", "managedFields"], Value::array());
    check(managed, 400, "metadata.managedFields must be nil");
    check(
        deployment(value!({"bar": 1})),
        500,
        "failed to create typed patch object (n/d; apps/v1, Kind=Deployment): .spec.bar: field not declared in schema",
    );
}

#[test]
fn old_updaters_become_one() {
    let server = deployments();
    let mut live = server.update(None, &deployment(value!({"replicas": 0})), "m00");
    for i in 1..15 {
        let mut new = live.clone();
        new.meta_mut().set_label(&format!("l{i:02}"), "x");
        let now = format!("2026-01-01T00:00:{i:02}Z");
        live = server.at(&now, "").update(Some(&live), new, &format!("m{i:02}"));
    }
    let managers: Vec<&str> = live.meta().managed_fields().iter().filter_map(|entry| entry["manager"].as_str()).collect();
    assert_eq!(managers.len(), 10);
    assert!(managers.contains(&"ancient-changes") && managers.contains(&"m14") && !managers.contains(&"m01"));
}

#[test]
fn subresources_have_their_own_managers() {
    let server = deployments();
    let live = server.update(None, &deployment(value!({"replicas": 1})), "a");
    let mut new = live.clone();
    new.set_path(&["status", "replicas"], 1);
    let reset = Set::of_fields(&[&["spec"]]);
    let status = FieldManager { reset_fields: &reset, ..server.at("2026-01-01T00:00:01Z", "status") };
    let live = status.update(Some(&live), new, "a");
    let entries = live.meta().managed_fields();
    assert_eq!((entries.len(), &entries[1]["subresource"]), (2, &"status".into()));
    assert_eq!(entries[1]["fieldsV1"], value!({"f:status": {"f:replicas": {}}}));
}

fn any_config() -> impl Strategy<Value = Value> {
    let labels = prop::collection::btree_map("[a-c]", "[xy]", 0..3);
    let containers = prop::collection::btree_map("[a-c]", prop::option::of("[ij]"), 0..3);
    (labels, containers, prop::option::of(0..3i64)).prop_map(|(labels, containers, replicas)| {
        let labels: crate::Map = labels.into_iter().collect();
        let containers: Vec<Value> = containers
            .into_iter()
            .map(|(name, image)| {
                let mut container = value!({"name": name});
                if let Some(image) = image {
                    container.insert("image", image);
                }
                container
            })
            .collect();
        let mut config = deployment(value!({"template": {"spec": {"containers": containers}}}));
        config.set_path(&["metadata", "labels"], labels);
        if let Some(replicas) = replicas {
            config.set_path(&["spec", "replicas"], replicas);
        }
        config
    })
}

proptest! {
    #[test]
    fn apply_twice_is_once(a in any_config(), b in any_config()) {
        let server = deployments();
        let live = server.apply(None, &a, "a", false).expect("created");
        let once = server.apply(Some(&live), &b, "b", true).expect("forced");
        let twice = server.apply(Some(&once), &b, "b", false).expect("nothing to take");
        prop_assert_eq!(once, twice);
    }

    #[test]
    fn what_another_owns_survives(a in any_config(), b in any_config(), c in any_config()) {
        let server = deployments();
        let live = server.apply(None, &a, "a", false).expect("created");
        let live = server.apply(Some(&live), &b, "b", true).expect("forced");
        let before = Set::parse(&owned(&live, "a")).expect("a set");
        let Ok(after) = server.apply(Some(&live), &c, "b", false) else { return Ok(()) };
        prop_assert_eq!(Set::parse(&owned(&after, "a")).expect("a set"), before);
        for path in ["replicas"] {
            if owned(&live, "a")["f:spec"].get(&format!("f:{path}")).is_some() {
                prop_assert_eq!(&spec(&after)[path], &spec(&a)[path]);
            }
        }
    }

    #[test]
    fn taking_everything_back_leaves_the_others(a in any_config(), b in any_config()) {
        let server = deployments();
        let live = server.apply(None, &a, "a", false).expect("created");
        let Ok(both) = server.apply(Some(&live), &b, "b", false) else { return Ok(()) };
        let nothing = value!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "namespace": "n"}});
        let left = server.apply(Some(&both), &nothing, "b", false).expect("nothing to take");
        prop_assert_eq!(&left["spec"]["replicas"], &live["spec"]["replicas"]);
        prop_assert_eq!(left.meta().labels().collect::<Vec<_>>(), live.meta().labels().collect::<Vec<_>>());
        prop_assert_eq!(owned(&left, "b"), Value::Null);
    }
}

#[test]
fn what_changes_nothing_keeps_its_times() {
    let server = deployments();
    let config = deployment(value!({"replicas": 2, "selector": {"matchLabels": {"app": "x"}}}));
    let live = server.apply(None, &config, "m", false).expect("applied");
    // Members that say nothing make the merge see a change.
    let mut again = config.clone();
    again.meta_mut().set_annotation("a", "");
    again.set_path(&["metadata", "creationTimestamp"], Value::Null);
    again.remove_path(&["metadata", "annotations"]);
    let later = server.at("2026-01-01T00:00:09Z", "");
    let mut object = later.apply(Some(&live), &again, Apply { manager: "m", force: false }).expect("applied");
    object.remove_path(&["metadata", "creationTimestamp"]);
    super::keep_times(&live, &mut object);
    assert_eq!(object.meta().managed_fields(), live.meta().managed_fields());
    object.set_path(&["spec", "replicas"], 3);
    let changed = later.update(Some(&live), object, "m");
    assert_ne!(changed.meta().managed_fields(), live.meta().managed_fields());
}
