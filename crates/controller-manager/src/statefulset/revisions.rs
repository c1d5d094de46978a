//! Which revision of a StatefulSet is the current one and which the one to update to. Pure.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};

use super::identity::spec;
use crate::history::{apply, equal, find_equal, new_revision, next_number, records, with_defaults};

/// Where the update revision comes from.
#[derive(Debug, PartialEq)]
pub(super) enum Update {
    /// It is there.
    Keep(Arc<ControllerRevision>),
    /// A rollback: the revision is there and gets this number.
    Renumber(Arc<ControllerRevision>, i64),
    Create(Box<ControllerRevision>),
}

/// How many hash collisions the set has seen.
pub(super) fn collisions(set: &StatefulSet) -> i32 {
    set.status.as_ref().and_then(|status| status.collision_count).unwrap_or(0)
}

/// The revision of the set's present template, given its sorted revisions.
pub(super) fn update_revision(set: &StatefulSet, sorted: &[Arc<ControllerRevision>]) -> Update {
    let proposed = new_revision(set, &spec(set).template, next_number(sorted), Some(collisions(set)));
    let found = find_equal(sorted, &proposed).last().copied().cloned();
    match (found, sorted.last()) {
        (Some(found), Some(last)) if equal(&found, last) => Update::Keep(Arc::clone(last)),
        (Some(found), _) => Update::Renumber(found, proposed.revision),
        (None, Some(last)) if means_the_same(set, &proposed, last) => Update::Keep(Arc::clone(last)),
        (None, _) => Update::Create(Box::new(proposed)),
    }
}

/// The revision that the status names, if it is still there.
pub(super) fn current_revision(set: &StatefulSet, sorted: &[Arc<ControllerRevision>]) -> Option<Arc<ControllerRevision>> {
    let name = set.status.as_ref()?.current_revision.as_ref()?;
    sorted.iter().find(|revision| revision.metadata.name.as_ref() == Some(name)).cloned()
}

/// Whether the last revision, with the defaults of today, is the same as the proposed one (StatefulSetSemanticRevisionComparison): a server
/// that sets more defaults, or writes the same otherwise, must not roll all pods.
fn means_the_same(set: &StatefulSet, proposed: &ControllerRevision, last: &ControllerRevision) -> bool {
    let restored = apply(set, last).and_then(|set| with_defaults(&set));
    restored.is_ok_and(|restored| records(proposed, &spec(&restored).template))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::ResourceExt;
    use serde_json::{Value, json};

    fn set(image: &str, status: Value) -> StatefulSet {
        let value = json!({"metadata": {"name": "web", "namespace": "ns", "uid": "u"}, "status": status,
            "spec": {"serviceName": "", "selector": {"matchLabels": {"app": "web"}},
                "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": image}]}}}});
        // As the server has it.
        with_defaults(&serde_json::from_value::<StatefulSet>(value).expect("is a set")).expect("takes defaults")
    }

    fn revision(image: &str, number: i64) -> Arc<ControllerRevision> {
        let set = set(image, json!({"replicas": 0}));
        Arc::new(new_revision(&set, &spec(&set).template, number, Some(0)))
    }

    #[test]
    fn the_update_revision() {
        let (one, two) = (revision("i:1", 1), revision("i:2", 2));
        let history = [Arc::clone(&one), Arc::clone(&two)];
        let at = |image: &str| update_revision(&set(image, json!({"replicas": 0})), &history);
        assert_eq!(at("i:2"), Update::Keep(Arc::clone(&two)), "unchanged");
        assert_eq!(at("i:1"), Update::Renumber(one, 3), "rolled back");
        let Update::Create(new) = at("i:3") else { panic!("a new template is a new revision") };
        assert_eq!(new.revision, 3);
        let first = update_revision(&set("i:3", json!({"replicas": 0})), &[]);
        assert!(matches!(first, Update::Create(first) if first.revision == 1));
    }

    #[test]
    fn a_last_revision_without_todays_defaults_is_kept() {
        let mut old = ControllerRevision::clone(&revision("i:1", 1));
        let data = &mut old.data.as_mut().expect("has data").0;
        let container = data["spec"]["template"]["spec"]["containers"][0].as_object_mut().expect("is an object");
        assert!(container.remove("terminationMessagePath").is_some(), "the server has set it");
        let old = Arc::new(old);
        let history = [Arc::clone(&old)];
        assert_eq!(update_revision(&set("i:1", json!({"replicas": 0})), &history), Update::Keep(old));
        assert!(matches!(update_revision(&set("i:2", json!({"replicas": 0})), &history), Update::Create(_)));
    }

    #[test]
    fn a_collision_count_changes_the_name() {
        let name = |count: i32| match update_revision(&set("i", json!({"replicas": 0, "collisionCount": count})), &[]) {
            Update::Create(revision) => revision.name_any(),
            other => panic!("{other:?}"),
        };
        assert_ne!(name(0), name(1));
    }

    #[test]
    fn the_current_revision_is_named_by_the_status() {
        let history = [revision("i:1", 1), revision("i:2", 2)];
        let named = |name: &str| current_revision(&set("i", json!({"replicas": 0, "currentRevision": name})), &history);
        assert_eq!(named(&history[0].name_any()), Some(Arc::clone(&history[0])));
        assert_eq!(named("web-gone"), None);
        assert_eq!(current_revision(&set("i", json!({"replicas": 0})), &history), None);
    }
}
