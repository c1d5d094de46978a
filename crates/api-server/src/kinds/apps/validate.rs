//! What the specs of these kinds may say, and what they have in common.

use apimachinery::field::{Error, ErrorList};
use apimachinery::selector::LabelSelector;
use apimachinery::{Value, validation};

use super::{App, stateful_set};
use crate::kinds::at::{At, Policy};
use crate::kinds::go_text::{self, Shown};
use crate::kinds::pod_spec;

pub(super) fn spec(app: App, object: &Value, old: Option<&Value>, policy: Policy, e: &mut ErrorList) {
    let root = At::root_under(object, policy);
    let spec = root.get("spec");
    match app {
        App::Deployment => deployment(&spec, e),
        App::ReplicaSet => {
            non_negative(&spec, &["replicas", "minReadySeconds"], e);
            selector(&spec, "deployment", "invalid label selector", e);
            template(app, &spec, e);
        }
        App::DaemonSet => daemon_set(&spec, e),
        App::StatefulSet => stateful_set::check(&spec, old, e),
        App::ReplicationController => replication_controller(&spec, e),
    }
}

pub(super) fn non_negative(at: &At, members: &[&'static str], e: &mut ErrorList) {
    members.iter().for_each(|member| at.get(member).non_negative(e));
}

/// Whether the selector can be used.
pub(super) fn selector(spec: &At, kind: &str, unusable: &str, e: &mut ErrorList) -> bool {
    let at = spec.get("selector");
    if !at.is_set() {
        at.require(e, "");
        return true;
    }
    at.label_selector(e);
    if at.value["matchLabels"].is_empty() && at.value["matchExpressions"].is_empty() {
        at.invalid_selector(e, &format!("empty selector is invalid for {kind}"));
    }
    let usable = LabelSelector::from_value(at.value).is_ok();
    if !usable && kind != "daemonset" {
        at.invalid_selector(e, unusable);
    }
    usable
}

/// That the selector selects the template's pods; `empty_matches` is false where upstream takes no selector for one that selects nothing.
pub(super) fn labels_fit(spec: &At, template: &At, empty_fits: bool, e: &mut ErrorList) {
    let selector = spec.get("selector").value;
    let meta = template.get("metadata");
    let labels = meta.get("labels");
    let is_empty = selector["matchLabels"].is_empty() && selector["matchExpressions"].is_empty();
    let fits = match LabelSelector::from_value(selector) {
        _ if selector.is_null() => empty_fits,
        _ if is_empty => true,
        Ok(selector) => selector.matches_with(|key| labels.value[key].as_str()),
        Err(_) => return,
    };
    if !fits {
        labels.invalid(e, "`selector` does not match template `labels`");
    }
}

fn template(app: App, spec: &At, e: &mut ErrorList) {
    let at = spec.get("template");
    if spec.get("selector").is_set() && LabelSelector::from_value(spec.get("selector").value).is_err() && app != App::DaemonSet {
        return;
    }
    labels_fit(spec, &at, app != App::DaemonSet && app != App::Deployment && app != App::ReplicaSet, e);
    pod_spec::template(&at, e);
    always(app, &at, e);
}

pub(super) fn always(app: App, template: &At, e: &mut ErrorList) {
    let spec = template.get("spec");
    let (policy, deadline) = (spec.get("restartPolicy"), spec.get("activeDeadlineSeconds"));
    policy.one_of(e, &["Always"]);
    if deadline.is_set() {
        deadline.forbid(
            e,
            format!(
                "activeDeadlineSeconds in {} is not Supported",
                match app {
                    App::Deployment => "ReplicaSet",
                    other => other.kind(),
                }
            ),
        );
    }
}

/// A number or a percentage.
#[derive(Clone, Copy)]
enum Amount {
    Percent(i64),
    Number(i64),
}

fn amount(value: &Value) -> Amount {
    match value {
        Value::String(text) if validation::is_percent(text).is_empty() => {
            Amount::Percent(text.trim_end_matches('%').parse().unwrap_or(i64::MAX))
        }
        Value::String(text) => Amount::Number(text.parse().unwrap_or(0)),
        other => Amount::Number(other.as_i64().unwrap_or(0)),
    }
}

pub(super) fn is_zero(value: &Value) -> bool {
    matches!(amount(value), Amount::Percent(0) | Amount::Number(0))
}

pub(super) fn int_or_percent(at: &At, e: &mut ErrorList) {
    match at.value {
        Value::String(_) => at.check(e, validation::is_percent),
        _ => at.non_negative(e),
    }
}

pub(super) fn at_most_all(at: &At, e: &mut ErrorList) {
    if matches!(amount(at.value), Amount::Percent(101..)) {
        at.invalid(e, "must not be greater than 100%");
    }
}

fn deployment(spec: &At, e: &mut ErrorList) {
    spec.get("replicas").non_negative(e);
    selector(spec, "deployment", "invalid label selector", e);
    template(App::Deployment, spec, e);
    let strategy = spec.get("strategy");
    let (kind, rolling) = (strategy.get("type"), strategy.get("rollingUpdate"));
    match kind.text() {
        "Recreate" if rolling.is_set() => rolling.forbid(e, "may not be specified when strategy `type` is 'Recreate'"),
        "Recreate" => {}
        "RollingUpdate" if !rolling.is_set() => rolling.require(e, "this should be defaulted and never be nil"),
        "RollingUpdate" => {
            let (unavailable, surge) = (rolling.get("maxUnavailable"), rolling.get("maxSurge"));
            int_or_percent(&unavailable, e);
            int_or_percent(&surge, e);
            if is_zero(unavailable.value) && is_zero(surge.value) {
                unavailable.invalid(e, "may not be 0 when `maxSurge` is 0");
            }
            at_most_all(&unavailable, e);
        }
        _ => wrong_strategy(&strategy, "apps.v1.DeploymentStrategy", &["Recreate", "RollingUpdate"], e),
    }
    non_negative(spec, &["minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"], e);
    let deadline = spec.get("progressDeadlineSeconds");
    if deadline.is_set() && deadline.int() <= spec.get("minReadySeconds").int() {
        deadline.invalid(e, "must be greater than minReadySeconds");
    }
}

fn wrong_strategy(at: &At, type_name: &str, known: &[&str], e: &mut ErrorList) {
    let shown = go_text::internal(at.value, type_name);
    e.push(Error::not_supported(&at.path(), at.value.clone(), known).shown_as(shown));
}

fn daemon_set(spec: &At, e: &mut ErrorList) {
    let at = spec.get("selector");
    at.label_selector(e);
    let template = spec.get("template");
    labels_fit(spec, &template, false, e);
    if at.is_set() && at.value["matchLabels"].is_empty() && at.value["matchExpressions"].is_empty() {
        at.invalid(e, "empty selector is invalid for daemonset");
    }
    pod_spec::template(&template, e);
    always(App::DaemonSet, &template, e);
    spec.get("minReadySeconds").non_negative(e);
    let strategy = spec.get("updateStrategy");
    let (kind, rolling) = (strategy.get("type"), strategy.get("rollingUpdate"));
    match kind.text() {
        "OnDelete" => {}
        "RollingUpdate" if !rolling.is_set() => rolling.require(e, ""),
        "RollingUpdate" => {
            let (unavailable, surge) = (rolling.get("maxUnavailable"), rolling.get("maxSurge"));
            for check in [int_or_percent, at_most_all] {
                check(&unavailable, e);
                check(&surge, e);
            }
            match (is_zero(unavailable.value), is_zero(surge.value)) {
                (false, false) => surge.invalid(e, "may not be set when maxUnavailable is non-zero"),
                (true, true) => unavailable.require(e, "cannot be 0 when maxSurge is 0"),
                _ => {}
            }
        }
        _ => wrong_strategy(&strategy, "apps.v1.DaemonSetUpdateStrategy", &["RollingUpdate", "OnDelete"], e),
    }
    spec.get("revisionHistoryLimit").non_negative(e);
}

fn replication_controller(spec: &At, e: &mut ErrorList) {
    spec.get("minReadySeconds").non_negative(e);
    let selector = spec.get("selector");
    if selector.len() == 0 {
        selector.require(e, "");
    }
    match spec.set("replicas") {
        None => spec.get("replicas").require(e, ""),
        Some(replicas) => replicas.non_negative(e),
    }
    let at = spec.get("template");
    if !at.is_set() {
        return at.require(e, "");
    }
    let meta = at.get("metadata");
    let labels = meta.get("labels");
    if selector.entries().any(|(key, value)| labels.value[key] != *value.value) {
        labels.invalid(e, "`selector` does not match template `labels`");
    }
    pod_spec::template(&at, e);
    always(App::ReplicationController, &at, e);
}
