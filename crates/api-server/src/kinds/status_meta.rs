//! What of `metadata` a write to a status may change: it differs from kind to kind, because upstream's strategies were written at different times.

use apimachinery::{GroupResource, Value};

/// What may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StatusMeta {
    /// Whatever the object's own endpoint may change.
    All,
    /// That, but for the labels.
    AllButLabels,
    /// That, but for the owners.
    AllButOwners,
    /// Nothing (upstream's `ResetObjectMetaForStatus`).
    Nothing,
}

impl StatusMeta {
    /// That of a kind whose rules are facts.
    pub(super) fn of(resource: &GroupResource) -> StatusMeta {
        match (resource.group.as_str(), resource.resource.as_str()) {
            ("resource.k8s.io" | "flowcontrol.apiserver.k8s.io" | "internal.apiserver.k8s.io" | "storagemigration.k8s.io", _)
            | ("storage.k8s.io", "volumeattachments")
            | ("networking.k8s.io", "servicecidrs")
            | ("certificates.k8s.io", "podcertificaterequests")
            | ("admissionregistration.k8s.io", _)
            // Those of apiextensions and of the aggregator do so too.
            | ("apiextensions.k8s.io", _) => StatusMeta::Nothing,
            _ => StatusMeta::All,
        }
    }

    /// The fields that an applier of the status cannot own.
    pub(super) fn reset_fields(self) -> &'static [&'static [&'static str]] {
        match self {
            StatusMeta::All => &[&["spec"]],
            StatusMeta::AllButLabels => &[&["spec"], &["metadata", "labels"]],
            StatusMeta::AllButOwners => &[&["spec"], &["metadata", "deletionTimestamp"], &["metadata", "ownerReferences"]],
            StatusMeta::Nothing => &[&["spec"], &["metadata"]],
        }
    }
}

/// What [`StatusMeta::Nothing`] keeps.
const KEPT: [&str; 6] = ["labels", "annotations", "finalizers", "ownerReferences", "deletionTimestamp", "generation"];

/// Puts back what a write to the status may not change.
pub(super) fn keep_for_status(object: &mut Value, old: &Value, meta: StatusMeta) {
    let (status, sent) = (object.remove("status"), object.get("metadata").cloned());
    let mut kept = old.clone();
    match status {
        Some(status) => kept.insert("status", status),
        None => kept.remove("status"),
    };
    kept.insert("metadata", sent.unwrap_or_else(Value::object));
    let members: &[&str] = match meta {
        StatusMeta::All => &[],
        StatusMeta::AllButLabels => &["labels"],
        StatusMeta::AllButOwners => &["ownerReferences", "deletionTimestamp"],
        StatusMeta::Nothing => &KEPT,
    };
    for member in members {
        match old.get_path(&["metadata", member]) {
            Some(value) => kept.set_path(&["metadata", member], value.clone()),
            None => drop(kept.remove_path(&["metadata", member])),
        }
    }
    *object = kept;
}

#[cfg(test)]
mod tests {
    use apimachinery::value;

    use super::*;

    #[test]
    fn what_is_kept() {
        let old = value!({"metadata": {"labels": {"a": "1"}, "annotations": {"a": "1"}}, "spec": 1, "status": 1});
        let sent =
            value!({"metadata": {"labels": {"a": "2"}, "annotations": {"a": "2"}, "managedFields": []}, "spec": 2, "status": 2});
        for (meta, labels, annotations) in
            [(StatusMeta::All, "2", "2"), (StatusMeta::AllButLabels, "1", "2"), (StatusMeta::Nothing, "1", "1")]
        {
            let mut object = sent.clone();
            keep_for_status(&mut object, &old, meta);
            assert_eq!((&object["spec"], &object["status"]), (&value!(1), &value!(2)));
            let metadata = &object["metadata"];
            assert_eq!(
                (&metadata["labels"]["a"], &metadata["annotations"]["a"]),
                (&value!(labels), &value!(annotations)),
                "{meta:?}"
            );
            assert!(!metadata["managedFields"].is_null());
        }
    }
}
