//! Defaults of the apps group.

use super::{Rule, absent, zero};
use crate::Value;

pub(super) const RULES: &[(&str, Rule)] = &[
    ("apps.v1.Deployment", deployment),
    ("apps.v1.DaemonSet", daemon_set),
    ("apps.v1.StatefulSet", stateful_set),
    ("apps.v1.ReplicaSet", |set| absent(set.path_mut(&["spec"]), "replicas", 1)),
];

fn deployment(deployment: &mut Value) {
    let spec = deployment.path_mut(&["spec"]);
    absent(spec, "replicas", 1);
    let strategy = spec.path_mut(&["strategy"]);
    zero(strategy, "type", "RollingUpdate");
    if strategy["type"] == "RollingUpdate" {
        let rolling = strategy.path_mut(&["rollingUpdate"]);
        absent(rolling, "maxUnavailable", "25%");
        absent(rolling, "maxSurge", "25%");
    }
    absent(spec, "revisionHistoryLimit", 10);
    absent(spec, "progressDeadlineSeconds", 600);
}

/// Where apps/v1 keeps a field that it has no more.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

fn daemon_set(set: &mut Value) {
    // Conversion writes it always.
    zero(set.path_mut(&["metadata", "annotations"]), TEMPLATE_GENERATION, "0");
    let spec = set.path_mut(&["spec"]);
    let strategy = spec.path_mut(&["updateStrategy"]);
    zero(strategy, "type", "RollingUpdate");
    if strategy["type"] == "RollingUpdate" {
        let rolling = strategy.path_mut(&["rollingUpdate"]);
        absent(rolling, "maxUnavailable", 1);
        absent(rolling, "maxSurge", 0);
    }
    absent(spec, "revisionHistoryLimit", 10);
}

fn stateful_set(set: &mut Value) {
    // Claims say what they are, as conversion has it.
    for claim in set.get_path_mut(&["spec", "volumeClaimTemplates"]).and_then(Value::as_array_mut).into_iter().flatten() {
        claim.insert("apiVersion", "v1");
        claim.insert("kind", "PersistentVolumeClaim");
    }
    let spec = set.path_mut(&["spec"]);
    zero(spec, "podManagementPolicy", "OrderedReady");
    let strategy = spec.path_mut(&["updateStrategy"]);
    if strategy["type"].is_empty() {
        strategy.insert("type", "RollingUpdate");
        absent(strategy, "rollingUpdate", Value::object());
    }
    if strategy["type"] == "RollingUpdate"
        && let Some(rolling) = strategy.get_mut("rollingUpdate").filter(|r| !r.is_null())
    {
        absent(rolling, "partition", 0);
    }
    let retention = spec.path_mut(&["persistentVolumeClaimRetentionPolicy"]);
    zero(retention, "whenDeleted", "Retain");
    zero(retention, "whenScaled", "Retain");
    absent(spec, "replicas", 1);
    absent(spec, "revisionHistoryLimit", 10);
}
