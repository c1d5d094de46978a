//! The status of Deployments, ReplicaSets, DaemonSets, StatefulSets and ReplicationControllers: what their controllers may report.

use apimachinery::Value;
use apimachinery::field::{Error, ErrorList};

use super::validate::non_negative;
use super::{App, TEMPLATE_GENERATION};
use crate::kinds::at::At;
use crate::kinds::collect;
use crate::kinds::status_meta::{StatusMeta, keep_for_status};
use crate::registry::{OperationContext, Strategy};

pub(super) struct AppsStatus(pub(super) App);

impl Strategy for AppsStatus {
    fn prepare_for_update(&self, _context: &OperationContext, object: &mut Value, old: &Value) {
        let meta = if self.0 == App::Deployment { StatusMeta::AllButLabels } else { StatusMeta::All };
        keep_for_status(object, old, meta);
        if self.0 == App::DaemonSet {
            // Stands for a field of the spec.
            let path = ["metadata", "annotations", TEMPLATE_GENERATION];
            match old.get_path(&path) {
                Some(generation) => object.set_path(&path, generation.clone()),
                None => drop(object.remove_path(&path)),
            }
        }
    }

    fn validate_update(&self, _context: &OperationContext, object: &Value, old: &Value) -> ErrorList {
        collect(|e| validate(self.0, object, old, e))
    }

    fn reset_fields(&self) -> &'static [&'static [&'static str]] {
        match self.0 {
            App::Deployment => &[&["spec"], &["metadata", "labels"]],
            _ => &[&["spec"]],
        }
    }
}

fn validate(app: App, object: &Value, old: &Value, e: &mut ErrorList) {
    let root = At::root(object);
    let status = root.get("status");
    let (counts, parts) = numbers(app);
    non_negative(&status, counts, e);
    let all = status.get("replicas").int();
    for part in parts.iter().map(|part| status.get(part)).filter(|part| part.int() > all) {
        part.invalid_int(e, "cannot be greater than status.replicas");
    }
    let available = status.get("availableReplicas");
    if !parts.is_empty() && available.int() > status.get("readyReplicas").int() {
        let ready = if app == App::StatefulSet { "status.readyReplicas" } else { "readyReplicas" };
        available.invalid_int(e, format!("cannot be greater than {ready}"));
    }
    if matches!(app, App::Deployment | App::DaemonSet | App::StatefulSet) {
        let (new, old) = (status.get("collisionCount"), &old["status"]["collisionCount"]);
        let decremented = !old.is_null() && (!new.is_set() || new.int() < old.as_i64().unwrap_or(0));
        if decremented {
            e.push(Error::invalid(&new.path(), new.int(), "cannot be decremented"));
        }
    }
}

/// The numbers of a status, and those of them that are parts of `replicas`.
fn numbers(app: App) -> (&'static [&'static str], &'static [&'static str]) {
    match app {
        App::Deployment => (
            &[
                "observedGeneration",
                "replicas",
                "updatedReplicas",
                "readyReplicas",
                "availableReplicas",
                "unavailableReplicas",
                "terminatingReplicas",
                "collisionCount",
            ],
            &["updatedReplicas", "readyReplicas", "availableReplicas"],
        ),
        App::ReplicaSet => (
            &[
                "replicas",
                "fullyLabeledReplicas",
                "readyReplicas",
                "availableReplicas",
                "observedGeneration",
                "terminatingReplicas",
            ],
            &["fullyLabeledReplicas", "readyReplicas", "availableReplicas"],
        ),
        App::ReplicationController => (
            &["replicas", "fullyLabeledReplicas", "readyReplicas", "availableReplicas", "observedGeneration"],
            &["fullyLabeledReplicas", "readyReplicas", "availableReplicas"],
        ),
        App::DaemonSet => (
            &[
                "currentNumberScheduled",
                "numberMisscheduled",
                "desiredNumberScheduled",
                "numberReady",
                "observedGeneration",
                "updatedNumberScheduled",
                "numberAvailable",
                "numberUnavailable",
                "collisionCount",
            ],
            &[],
        ),
        App::StatefulSet => (
            &[
                "replicas",
                "readyReplicas",
                "currentReplicas",
                "updatedReplicas",
                "availableReplicas",
                "observedGeneration",
                "collisionCount",
            ],
            &["readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas"],
        ),
    }
}

#[cfg(test)]
mod tests {
    use apimachinery::value;

    use super::*;

    #[test]
    fn counts() {
        let cases: [(App, Value, &[&str]); 5] = [
            (App::Deployment, value!({"replicas": 2, "readyReplicas": 2, "availableReplicas": 2, "collisionCount": 3}), &[]),
            (App::Deployment, value!({"collisionCount": 1}), &["status.collisionCount: Invalid value: 1: cannot be decremented"]),
            (
                App::ReplicaSet,
                value!({"replicas": 1, "availableReplicas": 2}),
                &[
                    "status.availableReplicas: Invalid value: 2: cannot be greater than status.replicas",
                    "status.availableReplicas: Invalid value: 2: cannot be greater than readyReplicas",
                ],
            ),
            (
                App::StatefulSet,
                value!({"replicas": 1, "availableReplicas": 1, "collisionCount": 2}),
                &["status.availableReplicas: Invalid value: 1: cannot be greater than status.readyReplicas"],
            ),
            (
                App::DaemonSet,
                value!({"numberReady": -1, "collisionCount": 2}),
                &["status.numberReady: Invalid value: -1: must be greater than or equal to 0"],
            ),
        ];
        let old = value!({"status": {"collisionCount": 2}});
        for (app, status, expected) in cases {
            let object = value!({"status": status});
            let found: Vec<String> = collect(|e| validate(app, &object, &old, e)).iter().map(ToString::to_string).collect();
            assert_eq!(found, expected, "{app:?} {object}");
        }
    }
}
