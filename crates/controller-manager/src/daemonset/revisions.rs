//! The history of a DaemonSet: which revision is the present one, which are double, which may go. Pure.

use std::collections::HashSet;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use kube::ResourceExt;

use super::pods::{revision, spec};
use crate::history::{REVISION_HASH, label, records, template_patch};
use crate::ownership::controller_reference;
use crate::pod_template::template_hash;

/// The history, sorted out.
#[derive(Debug, Default, PartialEq)]
pub(super) struct History {
    /// Of the present template, if it was recorded before.
    pub(super) current: Option<Arc<ControllerRevision>>,
    /// Others of the present template, to be deleted.
    pub(super) doubles: Vec<Arc<ControllerRevision>>,
    /// Of other templates.
    pub(super) old: Vec<Arc<ControllerRevision>>,
    /// The number that the current one should have at least.
    pub(super) number: i64,
}

/// Whether a revision records the set's present template.
pub(super) fn is_current(set: &DaemonSet, revision: &ControllerRevision) -> bool {
    records(revision, &spec(set).template)
}

/// The hash that pods of a revision carry.
pub(super) fn hash(revision: &ControllerRevision) -> &str {
    label(revision.metadata.labels.as_ref(), REVISION_HASH)
}

pub(super) fn sort_out(set: &DaemonSet, revisions: Vec<Arc<ControllerRevision>>) -> History {
    let patch = template_patch(&spec(set).template);
    let (mut same, old): (Vec<_>, Vec<_>) =
        revisions.into_iter().partition(|revision| revision.data.as_ref().is_some_and(|data| data.0 == patch));
    let number = old.iter().map(|revision| revision.revision).max().unwrap_or(0).max(0) + 1;
    // Of equal numbers the last in order.
    same.sort_by(|a, b| (a.revision, &a.metadata.name).cmp(&(b.revision, &b.metadata.name)));
    let current = same.pop();
    History { current, doubles: same, old, number }
}

/// A revision of the present template. Its name may be taken: then the set's collision count goes up.
pub(super) fn snapshot(set: &DaemonSet, number: i64) -> ControllerRevision {
    let template = &spec(set).template;
    let hash = template_hash(template, set.status.as_ref().and_then(|status| status.collision_count));
    let mut labels = template.metadata.as_ref().and_then(|meta| meta.labels.clone()).unwrap_or_default();
    labels.insert(REVISION_HASH.to_owned(), hash.clone());
    ControllerRevision {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", set.name_any())),
            namespace: set.namespace(),
            labels: Some(labels),
            annotations: set.metadata.annotations.clone(),
            owner_references: Some(vec![controller_reference(set)]),
            ..Default::default()
        },
        data: Some(RawExtension(template_patch(template))),
        revision: number,
    }
}

/// The oldest revisions beyond the limit; those that have pods, even such that ended, stay.
pub(super) fn surplus(set: &DaemonSet, old: &[Arc<ControllerRevision>], pods: &[Arc<Pod>]) -> Vec<Arc<ControllerRevision>> {
    let limit = usize::try_from(spec(set).revision_history_limit.unwrap_or(10)).unwrap_or(0);
    let live: HashSet<&str> = pods.iter().map(|pod| revision(pod)).filter(|hash| !hash.is_empty()).collect();
    let mut dead: Vec<_> = old.iter().filter(|revision| !live.contains(hash(revision))).cloned().collect();
    dead.sort_by_key(|revision| revision.revision);
    dead.truncate(old.len().saturating_sub(limit));
    dead
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn set(image: &str) -> DaemonSet {
        serde_json::from_value(json!({"metadata": {"name": "agent", "namespace": "ns", "uid": "u", "annotations": {"a": "b"}},
            "spec": {"selector": {"matchLabels": {"app": "agent"}}, "revisionHistoryLimit": 1,
                "template": {"metadata": {"labels": {"app": "agent"}}, "spec": {"containers": [{"name": "c", "image": image}]}}}}))
        .expect("is a set")
    }

    fn recorded(name: &str, image: &str, number: i64) -> Arc<ControllerRevision> {
        let mut revision = snapshot(&set(image), number);
        revision.metadata.name = Some(name.into());
        revision.metadata.labels.get_or_insert_default().insert(REVISION_HASH.into(), name.into());
        Arc::new(revision)
    }

    #[test]
    fn a_snapshot_is_found_again() {
        let revision = snapshot(&set("i:1"), 3);
        assert!(is_current(&set("i:1"), &revision) && !is_current(&set("i:2"), &revision));
        assert_eq!(revision.name_any(), format!("agent-{}", hash(&revision)));
        assert_eq!((revision.revision, revision.labels()["app"].as_str()), (3, "agent"));
        assert_eq!((revision.annotations()["a"].as_str(), revision.owner_references()[0].uid.as_str()), ("b", "u"));
        let mut collided = set("i:1");
        collided.status.get_or_insert_default().collision_count = Some(1);
        assert_ne!(snapshot(&collided, 3).name_any(), revision.name_any());
    }

    #[test]
    fn the_history_is_sorted_out() {
        let (a, b, c) = (recorded("a", "i:1", 1), recorded("b", "i:2", 2), recorded("c", "i:2", 5));
        let all = vec![a.clone(), b.clone(), c.clone()];
        let sorted = sort_out(&set("i:2"), all.clone());
        assert_eq!(sorted, History { current: Some(c.clone()), doubles: vec![b.clone()], old: vec![a.clone()], number: 2 });
        let back = sort_out(&set("i:1"), all.clone());
        assert_eq!((back.current, back.number), (Some(a), 6), "a rollback gets the highest number");
        let new = sort_out(&set("i:3"), all);
        assert_eq!((new.current, new.old.len(), new.number), (None, 3, 6));
        assert_eq!(sort_out(&set("i:3"), Vec::new()).number, 1);
    }

    #[test]
    fn old_revisions_go_unless_they_have_pods() {
        let old = [recorded("c", "i:3", 3), recorded("a", "i:1", 1), recorded("b", "i:2", 2)];
        let pod = |hash: &str| {
            Arc::new(
                serde_json::from_value::<Pod>(json!({"metadata": {"labels": {"controller-revision-hash": hash}}}))
                    .expect("is a pod"),
            )
        };
        let gone = |pods: &[Arc<Pod>]| surplus(&set("i:9"), &old, pods).iter().map(|r| r.name_any()).collect::<Vec<_>>();
        assert_eq!(gone(&[]), ["a", "b"]);
        assert_eq!(gone(&[pod("a")]), ["b", "c"]);
        assert_eq!(gone(&[pod("a"), pod("b")]), ["c"]);
    }
}
