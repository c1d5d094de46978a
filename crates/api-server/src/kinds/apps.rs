//! Deployments, ReplicaSets, DaemonSets, StatefulSets and ReplicationControllers: a pod template, and a selector that it fits
//! (upstream's `pkg/apis/apps/validation` and the strategies in `pkg/registry/apps`).

use std::sync::Arc;

use apimachinery::field::{Error, ErrorList};
use apimachinery::selector::LabelSelector;
use apimachinery::{Value, validation, value};

use super::apps_status::AppsStatus;
use super::at::{At, Policy};
use super::go_text::Shown;
use super::{Rules, collect, go_text, pod_spec, storage, warnings};
use crate::registry::{OperationContext, Strategy, bump_generation, keep_status};

/// The kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum App {
    Deployment,
    ReplicaSet,
    DaemonSet,
    StatefulSet,
    ReplicationController,
}

impl App {
    fn kind(self) -> &'static str {
        match self {
            App::Deployment => "Deployment",
            App::ReplicaSet => "ReplicaSet",
            App::DaemonSet => "DaemonSet",
            App::StatefulSet => "StatefulSet",
            App::ReplicationController => "ReplicationController",
        }
    }
}

/// Where DaemonSets keep upstream's deprecated `templateGeneration`; an annotation in apps/v1.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

pub(super) fn rules(app: App) -> Rules {
    Rules { strategy: Arc::new(AppStrategy(app)), subresources: vec![("status", Arc::new(AppsStatus(app)))] }
}

struct AppStrategy(App);

impl Strategy for AppStrategy {
    fn prepare_for_create(&self, _context: &OperationContext, object: &mut Value) {
        crate::registry::reset_status(object);
        object.meta_mut().set_generation(1);
        if self.0 == App::DaemonSet {
            let generation = template_generation(object).max(1);
            object.set_path(&["metadata", "annotations", TEMPLATE_GENERATION], generation.to_string());
        }
    }

    fn validate(&self, context: &OperationContext, object: &Value) -> ErrorList {
        collect(|e| spec(self.0, object, None, Policy::of(context), e))
    }

    fn warnings_on_create(&self, _context: &OperationContext, object: &Value) -> Vec<String> {
        let mut warnings = Vec::new();
        let why = validation::is_dns1123_label(object.meta().name());
        if !why.is_empty() && !matches!(self.0, App::DaemonSet | App::StatefulSet) {
            warnings.push(format!(
                "metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended: [{}]",
                why.join(" ")
            ));
        }
        warnings.extend(self.template_warnings(object));
        warnings
    }

    fn prepare_for_update(&self, _context: &OperationContext, object: &mut Value, old: &Value) {
        keep_status(object, old);
        bump_generation(object, old);
        match self.0 {
            App::DaemonSet => {
                let same = object["spec"]["template"] == old["spec"]["template"];
                let generation = template_generation(old) + i64::from(!same);
                object.set_path(&["metadata", "annotations", TEMPLATE_GENERATION], generation.to_string());
            }
            // Annotations are copied to ReplicaSets.
            App::Deployment if object["metadata"]["annotations"] != old["metadata"]["annotations"] => {
                object.meta_mut().set_generation(old.meta().generation() + 1);
            }
            _ => {}
        }
    }

    fn validate_update(&self, context: &OperationContext, object: &Value, old: &Value) -> ErrorList {
        collect(|e| {
            let root = At::root(object);
            let selector = root.get("spec");
            let selector = selector.get("selector");
            if self.0 == App::DaemonSet {
                selector.immutable(e, &old["spec"]["selector"]);
            }
            spec(self.0, object, Some(old), Policy::of(context), e);
            match self.0 {
                App::Deployment | App::ReplicaSet => selector.immutable(e, &old["spec"]["selector"]),
                App::StatefulSet => stateful_set_update(object, old, e),
                App::DaemonSet | App::ReplicationController => {}
            }
        })
    }

    fn warnings_on_update(&self, _context: &OperationContext, object: &Value, old: &Value) -> Vec<String> {
        let changed = match self.0 {
            App::DaemonSet => object["spec"]["template"] != old["spec"]["template"],
            _ => object.meta().generation() != old.meta().generation(),
        };
        if changed { self.template_warnings(object) } else { Vec::new() }
    }

    /// For old clients of the core group's kind.
    fn orphans_by_default(&self) -> bool {
        self.0 == App::ReplicationController
    }

    fn name_rule(&self) -> validation::NameFn {
        match self.0 {
            App::StatefulSet => validation::name_is_dns_label,
            _ => validation::name_is_dns_subdomain,
        }
    }
}

impl AppStrategy {
    fn template_warnings(&self, object: &Value) -> Vec<String> {
        let root = At::root(object);
        let spec = root.get("spec");
        let mut found = warnings::pod(&spec.get("template"), true);
        if self.0 == App::StatefulSet {
            for claim in spec.get("volumeClaimTemplates").items() {
                warnings::claim_spec(&claim.path(), &claim.get("spec"), &mut found);
            }
            if spec.get("revisionHistoryLimit").int() < 0 {
                let text =
                    "spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 is recommended";
                found.push(text.to_owned());
            }
        }
        found
    }
}

fn template_generation(object: &Value) -> i64 {
    let text = object.str_at(&["metadata", "annotations", TEMPLATE_GENERATION]);
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn spec(app: App, object: &Value, old: Option<&Value>, policy: Policy, e: &mut ErrorList) {
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
        App::StatefulSet => stateful_set(&spec, old, e),
        App::ReplicationController => replication_controller(&spec, e),
    }
}

pub(super) fn non_negative(at: &At, members: &[&'static str], e: &mut ErrorList) {
    members.iter().for_each(|member| at.get(member).non_negative(e));
}

/// Whether the selector can be used.
fn selector(spec: &At, kind: &str, unusable: &str, e: &mut ErrorList) -> bool {
    let at = spec.get("selector");
    if !at.is_set() {
        at.require(e, "");
        return true;
    }
    at.label_selector(e);
    if at.value["matchLabels"].is_empty() && at.value["matchExpressions"].is_empty() {
        at.invalid(e, format!("empty selector is invalid for {kind}"));
    }
    let usable = LabelSelector::from_value(at.value).is_ok();
    if !usable && kind != "daemonset" {
        at.invalid(e, unusable);
    }
    usable
}

/// That the selector selects the template's pods; `empty_matches` is false where upstream takes no selector for one that selects nothing.
fn labels_fit(spec: &At, template: &At, empty_fits: bool, e: &mut ErrorList) {
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

fn always(app: App, template: &At, e: &mut ErrorList) {
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

fn is_zero(value: &Value) -> bool {
    matches!(amount(value), Amount::Percent(0) | Amount::Number(0))
}

fn int_or_percent(at: &At, e: &mut ErrorList) {
    match at.value {
        Value::String(_) => at.check(e, validation::is_percent),
        _ => at.non_negative(e),
    }
}

fn at_most_all(at: &At, e: &mut ErrorList) {
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

fn stateful_set(spec: &At, old: Option<&Value>, e: &mut ErrorList) {
    let policy = spec.get("podManagementPolicy");
    match policy.text() {
        "" => policy.require(e, ""),
        "OrderedReady" | "Parallel" => {}
        _ => policy.invalid(e, "must be 'OrderedReady' or 'Parallel'"),
    }
    stateful_set_strategy(&spec.get("updateStrategy"), e);
    if let Some(retention) = spec.set("persistentVolumeClaimRetentionPolicy") {
        for member in ["whenDeleted", "whenScaled"] {
            retention.get(member).one_of(e, &["Retain", "Delete"]);
        }
    }
    if old.is_none() {
        for claim in spec.get("volumeClaimTemplates").items() {
            storage::claim_spec(&claim.get("spec"), e);
        }
    }
    non_negative(spec, &["replicas", "minReadySeconds"], e);
    let ordinals = spec.get("ordinals");
    ordinals.get("start").non_negative(e);
    if old.is_none() {
        spec.get("serviceName").check_set(e, validation::is_dns1123_label);
    }
    selector(spec, "statefulset", "", e);
    if LabelSelector::from_value(spec.get("selector").value).is_ok() || !spec.get("selector").is_set() {
        let at = spec.get("template");
        let adjusted = adjusted_template(spec);
        labels_fit(spec, &at, false, e);
        let was_invalid = old.is_some_and(|old| {
            let old = At::root_under(old, spec.policy());
            !collect(|e| stateful_set(&old.get("spec"), None, e)).is_empty()
        });
        if !was_invalid {
            pod_spec::template(&at.with(&adjusted), e);
        }
        // Upstream checks these once more.
        pod_spec::template_meta(&at, e);
    }
    always(App::StatefulSet, &spec.get("template"), e);
}

/// The template as pods get it: the controller sets the names and the volumes of the claims.
fn adjusted_template(spec: &At) -> Value {
    let mut template = spec.get("template").value.clone();
    for member in ["subdomain", "hostname"] {
        template.remove_path(&["spec", member]);
    }
    let claims = spec.get("volumeClaimTemplates");
    let mut names: Vec<&str> = Vec::new();
    for claim in claims.items() {
        // Upstream keeps the claims by name.
        let name = claim.value.str_at(&["metadata", "name"]).unwrap_or_default();
        if !names.contains(&name) {
            names.push(name);
        }
    }
    if !names.is_empty() {
        let own = names.iter().map(|name| value!({"name": *name, "persistentVolumeClaim": {"claimName": *name}}));
        let others = spec.value.array_at(&["template", "spec", "volumes"]).iter();
        let others = others.filter(|volume| !names.iter().any(|name| volume["name"] == *name)).cloned();
        template.set_path(&["spec", "volumes"], own.chain(others).collect::<Value>());
    }
    template
}

fn stateful_set_strategy(at: &At, e: &mut ErrorList) {
    let (kind, rolling) = (at.get("type"), at.get("rollingUpdate"));
    match kind.text() {
        "" => at.require(e, ""),
        "OnDelete" if rolling.is_set() => {
            let shown = go_text::internal(rolling.value, "apps.v1.RollingUpdateStatefulSetStrategy");
            let why = "only allowed for updateStrategy 'RollingUpdate'";
            e.push(Error::invalid(&rolling.path(), rolling.value.clone(), why).shown_as(shown));
        }
        "OnDelete" => {}
        "RollingUpdate" => {
            rolling.get("partition").non_negative(e);
            if let Some(unavailable) = rolling.set("maxUnavailable") {
                int_or_percent(&unavailable, e);
                if is_zero(unavailable.value) {
                    unavailable.invalid(e, "cannot be 0");
                }
                at_most_all(&unavailable, e);
            }
        }
        _ => {
            let shown = go_text::internal(at.value, "apps.v1.StatefulSetUpdateStrategy");
            e.push(Error::invalid(&at.path(), at.value.clone(), "must be 'RollingUpdate' or 'OnDelete'").shown_as(shown));
        }
    }
}

/// What of a StatefulSet's spec may change.
const CHANGEABLE: [&str; 7] = [
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
];

fn stateful_set_update(object: &Value, old: &Value, e: &mut ErrorList) {
    let mut same = object["spec"].clone();
    for member in CHANGEABLE {
        match old["spec"].get(member) {
            Some(value) => drop(same.insert(member, value.clone())),
            None => drop(same.remove(member)),
        }
    }
    if same != old["spec"] {
        At::root(object).get("spec").forbid(
            e,
            "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', \
             'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden",
        );
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn valid(app: App) -> Value {
        let mut object = value!({"spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {
            "metadata": {"labels": {"a": "b"}},
            "spec": {"restartPolicy": "Always", "dnsPolicy": "Default", "terminationGracePeriodSeconds": 30, "containers": [{
                "name": "c", "image": "i", "imagePullPolicy": "Always", "terminationMessagePolicy": "File"
            }]}
        }}});
        match app {
            App::Deployment => object.set_path(&["spec", "strategy", "type"], "Recreate"),
            App::DaemonSet => object.set_path(&["spec", "updateStrategy", "type"], "OnDelete"),
            App::StatefulSet => {
                object.set_path(&["spec", "updateStrategy", "type"], "RollingUpdate");
                object.set_path(&["spec", "podManagementPolicy"], "Parallel");
            }
            App::ReplicaSet => {}
            App::ReplicationController => {
                object.set_path(&["spec", "selector"], value!({"a": "b"}));
                object.set_path(&["spec", "replicas"], 1);
            }
        }
        object
    }

    #[test]
    fn new_ones() {
        let cases: [(App, &[&str], Value, &[&str]); 15] = [
            (App::Deployment, &["spec", "replicas"], value!(1), &[]),
            (
                App::Deployment,
                &["spec", "replicas"],
                value!(-1),
                &["spec.replicas: Invalid value: -1: must be greater than or equal to 0"],
            ),
            (
                App::Deployment,
                &["spec", "strategy"],
                value!({"type": "Nope"}),
                &[
                    r#"spec.strategy: Unsupported value: {"Type":"Nope","RollingUpdate":null}: supported values: "Recreate", "RollingUpdate""#,
                ],
            ),
            (
                App::Deployment,
                &["spec", "strategy"],
                value!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "0%", "maxUnavailable": 0}}),
                &["spec.strategy.rollingUpdate.maxUnavailable: Invalid value: 0: may not be 0 when `maxSurge` is 0"],
            ),
            (
                App::Deployment,
                &["spec", "template", "spec", "restartPolicy"],
                value!("Never"),
                &[r#"spec.template.spec.restartPolicy: Unsupported value: "Never": supported values: "Always""#],
            ),
            (
                App::ReplicaSet,
                &["spec", "template", "spec", "activeDeadlineSeconds"],
                value!(1),
                &["spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in ReplicaSet is not Supported"],
            ),
            (
                App::ReplicaSet,
                &["spec", "template", "metadata", "labels"],
                value!({"a": "c"}),
                &[r#"spec.template.metadata.labels: Invalid value: {"a":"c"}: `selector` does not match template `labels`"#],
            ),
            (
                App::DaemonSet,
                &["spec", "updateStrategy"],
                value!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": "101%"}}),
                &[
                    r#"spec.updateStrategy.rollingUpdate.maxUnavailable: Invalid value: "101%": must not be greater than 100%"#,
                    "spec.updateStrategy.rollingUpdate.maxSurge: Invalid value: 1: may not be set when maxUnavailable is non-zero",
                ],
            ),
            (
                App::DaemonSet,
                &["spec", "updateStrategy"],
                value!({"type": "RollingUpdate"}),
                &["spec.updateStrategy.rollingUpdate: Required value"],
            ),
            (App::StatefulSet, &["spec", "podManagementPolicy"], value!(""), &["spec.podManagementPolicy: Required value"]),
            (
                App::StatefulSet,
                &["spec", "serviceName"],
                value!("A"),
                &[
                    "spec.serviceName: Invalid value: \"A\": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
                ],
            ),
            (
                App::StatefulSet,
                &["spec", "updateStrategy"],
                value!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0}}),
                &["spec.updateStrategy.rollingUpdate.maxUnavailable: Invalid value: 0: cannot be 0"],
            ),
            (App::StatefulSet, &["spec", "template", "spec", "hostname"], value!("not A name"), &[]),
            (App::ReplicationController, &["spec", "selector"], value!({}), &["spec.selector: Required value"]),
            (App::ReplicationController, &["spec", "template"], Value::Null, &["spec.template: Required value"]),
        ];
        for (app, path, value, expected) in cases {
            let mut object = valid(app);
            object.set_path(path, value);
            let found: Vec<String> =
                collect(|e| spec(app, &object, None, Policy::OPEN, e)).iter().map(ToString::to_string).collect();
            assert_eq!(found, expected, "{app:?} {object}");
        }
    }

    #[test]
    fn changes_of_a_stateful_set() {
        let old = valid(App::StatefulSet);
        for (member, value, allowed) in [("replicas", value!(3), true), ("serviceName", value!("a"), false)] {
            let mut object = old.clone();
            object.set_path(&["spec", member], value);
            assert_eq!(collect(|e| stateful_set_update(&object, &old, e)).is_empty(), allowed, "{member}");
        }
    }
}
