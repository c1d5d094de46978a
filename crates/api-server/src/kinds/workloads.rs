//! Deployments, ReplicaSets, DaemonSets and StatefulSets: a selector and a pod template that belong together.

use std::sync::Arc;

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::selector::LabelSelector;
use apimachinery::{Value, value};

use super::at::At;
use super::{Rules, pod_spec};
use crate::registry::{OperationContext, StatusStrategy, Strategy, bump_generation, keep_status};

/// The kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Workload {
    Deployment,
    ReplicaSet,
    DaemonSet,
    StatefulSet,
}

pub(super) fn rules(workload: Workload) -> Rules {
    Rules { strategy: Arc::new(WorkloadStrategy(workload)), subresources: vec![("status", Arc::new(StatusStrategy))] }
}

struct WorkloadStrategy(Workload);

impl Strategy for WorkloadStrategy {
    fn prepare_for_create(&self, _context: &OperationContext, object: &mut Value) {
        object.insert("status", Value::object());
        object.meta_mut().set_generation(1);
    }

    fn validate(&self, _context: &OperationContext, object: &Value) -> ErrorList {
        validate(self.0, object)
    }

    fn prepare_for_update(&self, _context: &OperationContext, object: &mut Value, old: &Value) {
        keep_status(object, old);
        bump_generation(object, old);
    }

    fn validate_update(&self, _context: &OperationContext, object: &Value, old: &Value) -> ErrorList {
        let mut errors = validate(self.0, object);
        errors.extend(immutable(self.0, object, old));
        errors
    }
}

fn validate(workload: Workload, object: &Value) -> ErrorList {
    let (spec, path) = (&object["spec"], Path::new("spec"));
    let mut errors = ErrorList::new();
    for member in ["replicas", "minReadySeconds", "revisionHistoryLimit"] {
        if let Some(number) = spec[member].as_i64().filter(|number| *number < 0) {
            errors.push(Error::invalid(&path.child(member), number, "must be greater than or equal to 0"));
        }
    }
    errors.extend(validate_selector(workload, spec, &path));
    let template = path.child("template").child("spec");
    let root = At::root(object);
    pod_spec::template(&root.get("spec").get("template"), &mut errors);
    let restart = spec.str_at(&["template", "spec", "restartPolicy"]).unwrap_or_default();
    if !restart.is_empty() && restart != "Always" {
        errors.push(Error::not_supported(&template.child("restartPolicy"), restart, &["Always"]));
    }
    if workload == Workload::Deployment {
        errors.extend(validate_deployment(spec, &path));
    }
    errors
}

fn validate_selector(workload: Workload, spec: &Value, path: &Path) -> ErrorList {
    let selector = &spec["selector"];
    let at = path.child("selector");
    if selector.is_null() {
        return vec![Error::required(&at, "")];
    }
    let mut errors = ErrorList::new();
    if selector["matchLabels"].is_empty() && selector["matchExpressions"].is_empty() {
        let kind = match workload {
            Workload::DaemonSet => "daemonset",
            Workload::StatefulSet => "statefulset",
            // Upstream says so for ReplicaSets too.
            _ => "deployment",
        };
        errors.push(Error::invalid(&at, selector.clone(), format!("empty selector is invalid for {kind}")));
    }
    let labels = &spec["template"]["metadata"]["labels"];
    match LabelSelector::from_value(selector) {
        Err(_) => errors.push(Error::invalid(&at, selector.clone(), "invalid label selector")),
        Ok(selector) if !selector.matches_with(|key| labels[key].as_str()) => {
            let at = path.child("template").child("metadata").child("labels");
            let labels = if labels.is_null() { value!({}) } else { labels.clone() };
            errors.push(Error::invalid(&at, labels, "`selector` does not match template `labels`"));
        }
        Ok(_) => {}
    }
    errors
}

fn validate_deployment(spec: &Value, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    let at = path.child("strategy");
    let rolling = &spec["strategy"]["rollingUpdate"];
    match spec["strategy"]["type"].as_str().unwrap_or_default() {
        "Recreate" if !rolling.is_null() => {
            let why = "may not be specified when strategy `type` is 'Recreate'";
            errors.push(Error::forbidden(&at.child("rollingUpdate"), why));
        }
        "Recreate" => {}
        "RollingUpdate" => {
            let is_zero = |value: &Value| matches!(value, Value::Int(0)) || *value == "0%";
            if is_zero(&rolling["maxSurge"]) && is_zero(&rolling["maxUnavailable"]) {
                let at = at.child("rollingUpdate").child("maxUnavailable");
                errors.push(Error::invalid(&at, rolling["maxUnavailable"].clone(), "may not be 0 when `maxSurge` is 0"));
            }
        }
        other => errors.push(Error::not_supported(&at, other, &["Recreate", "RollingUpdate"])),
    }
    if let Some(seconds) = spec["progressDeadlineSeconds"].as_i64()
        && seconds <= spec["minReadySeconds"].as_i64().unwrap_or_default()
    {
        errors.push(Error::invalid(&path.child("progressDeadlineSeconds"), seconds, "must be greater than minReadySeconds"));
    }
    errors
}

fn immutable(workload: Workload, object: &Value, old: &Value) -> ErrorList {
    let path = Path::new("spec");
    let fixed: &[&str] = match workload {
        Workload::StatefulSet => {
            let mut same = object["spec"].clone();
            for member in [
                "replicas",
                "ordinals",
                "template",
                "updateStrategy",
                "revisionHistoryLimit",
                "persistentVolumeClaimRetentionPolicy",
                "minReadySeconds",
            ] {
                match old["spec"].get(member) {
                    Some(value) => drop(same.insert(member, value.clone())),
                    None => drop(same.remove(member)),
                }
            }
            let why = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', \
                       'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";
            return if same == old["spec"] { Vec::new() } else { vec![Error::forbidden(&path, why)] };
        }
        _ => &["selector"],
    };
    let changed = fixed.iter().filter(|member| object["spec"][**member] != old["spec"][**member]);
    changed.map(|member| Error::invalid(&path.child(member), object["spec"][*member].clone(), "field is immutable")).collect()
}
