//! HorizontalPodAutoscalers (upstream's `pkg/apis/autoscaling/validation`). They are checked as autoscaling/v2, whatever version came in.

use apimachinery::field::{Error, ErrorList};
use apimachinery::{GroupVersion, Value, validation};

use super::at::{At, NOT_NEGATIVE};
use super::resources::container_resource_name;
use super::table::Checks;

pub(super) const CHECKS: &[Checks] = &[Checks {
    group: "autoscaling",
    resource: "horizontalpodautoscalers",
    create: |object, e| autoscaler(object, None, e),
    update: |object, old, e| autoscaler(object, Some(old), e),
    status,
}];

const PERIOD_SECONDS_MAX: i64 = 1800;
const WINDOW_SECONDS_MAX: i64 = 3600;

/// What an API version of a reference may be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ApiVersion {
    /// It was wrong before and may stay so.
    Any,
    /// Of any group, the core one too.
    Known,
    /// Of a named group.
    Grouped,
}

fn autoscaler(object: &Value, old: Option<&Value>, e: &mut ErrorList) {
    let root = At::root(object);
    let spec = root.get("spec");
    let (min, max) = (spec.get("minReplicas"), spec.get("maxReplicas"));
    let had_zero = old.is_some_and(|old| old.i64_at(&["spec", "minReplicas"]) == Some(0));
    let lowest = if had_zero { 0 } else { 1 };
    if min.is_set() && min.int() < lowest {
        min.invalid(e, format!("must be greater than or equal to {lowest}"));
    }
    if max.int() < 1 {
        max.invalid_int(e, "must be greater than 0");
    }
    if min.is_set() && max.int() < min.int() {
        max.invalid_int(e, "must be greater than or equal to `minReplicas`");
    }
    let target = spec.get("scaleTargetRef");
    let same = |member: &str, old: &Value| {
        old.str_at(&["spec", "scaleTargetRef", member]).unwrap_or_default() == target.get(member).text()
    };
    let rule = match old {
        Some(old) if same("apiVersion", old) && same("kind", old) => ApiVersion::Any,
        _ if target.get("kind").text() == "ReplicationController" => ApiVersion::Known,
        _ => ApiVersion::Grouped,
    };
    reference(&target, rule, e);
    let was_wrong = old.is_some_and(|old| {
        old.array_at(&["spec", "metrics"]).iter().any(|metric| {
            let version = metric.str_at(&["object", "describedObject", "apiVersion"]).unwrap_or_default();
            metric["type"] == "Object" && !metric["object"].is_null() && api_version_error(version, ApiVersion::Known).is_some()
        })
    });
    let metrics = spec.get("metrics");
    metrics.items().for_each(|at| metric(&at, if was_wrong { ApiVersion::Any } else { ApiVersion::Known }, e));
    let scales_from_zero = metrics.items().any(|metric| matches!(metric.get("type").text(), "Object" | "External"));
    if min.is_set() && min.int() == 0 && !scales_from_zero {
        metrics.forbid(e, "must specify at least one Object or External metric to support scaling to zero replicas");
    }
    let behavior = spec.get("behavior");
    for direction in ["scaleUp", "scaleDown"] {
        if let Some(rules) = behavior.set(direction) {
            scaling_rules(&rules, e);
        }
    }
}

fn status(object: &Value, _old: &Value, e: &mut ErrorList) {
    let root = At::root(object);
    let status = root.get("status");
    for member in ["currentReplicas", "desiredReplicas"] {
        status.get(member).non_negative(e);
    }
}

fn api_version_error(text: &str, rule: ApiVersion) -> Option<String> {
    if rule == ApiVersion::Any {
        return None;
    }
    match text.parse::<GroupVersion>() {
        _ if text.is_empty() || text == "/" => {
            (rule == ApiVersion::Grouped).then(|| "apiVersion must specify API group".to_owned())
        }
        Err(_) => Some(format!("unexpected GroupVersion string: {text}")),
        Ok(version) if version.group.is_empty() && rule == ApiVersion::Grouped => {
            Some("apiVersion must specify API group".to_owned())
        }
        Ok(_) => None,
    }
}

fn reference(at: &At, rule: ApiVersion, e: &mut ErrorList) {
    at.get("kind").required_name(e, validation::is_path_segment_name);
    at.get("name").required_name(e, validation::is_path_segment_name);
    let version = at.get("apiVersion");
    if let Some(why) = api_version_error(version.text(), rule) {
        version.invalid_text(e, why);
    }
}

/// The members for the types of metrics, in the order in which upstream looks at them.
const SOURCES: [(&str, &str); 5] = [
    ("Object", "object"),
    ("External", "external"),
    ("Pods", "pods"),
    ("Resource", "resource"),
    ("ContainerResource", "containerResource"),
];
const TYPES: [&str; 5] = ["ContainerResource", "External", "Object", "Pods", "Resource"];

fn metric(at: &At, rule: ApiVersion, e: &mut ErrorList) {
    let kind = at.get("type");
    if kind.text().is_empty() {
        kind.require(e, "must specify a metric source type");
    }
    // Upstream says twice that it does not know a type.
    kind.one_of(e, &TYPES);
    kind.one_of(e, &TYPES);
    let present: Vec<&str> = SOURCES.iter().map(|(_, member)| *member).filter(|member| at.set(member).is_some()).collect();
    if let Some(first) = present.first() {
        source(&at.get(first), first, rule, e);
    }
    let expected = SOURCES.iter().find(|(name, _)| *name == kind.text()).map(|(_, member)| *member);
    if let Some(expected) = expected
        && !present.contains(&expected)
    {
        at.get(expected).require(e, "must populate information for the given metric source");
    }
    if present.len() != 1 {
        for member in present.into_iter().filter(|member| Some(*member) != expected) {
            at.get(member).forbid(e, "must populate the given metric source only");
        }
    }
}

fn source(at: &At, member: &str, rule: ApiVersion, e: &mut ErrorList) {
    let target = at.get("target");
    match member {
        "object" => reference(&at.get("describedObject"), rule, e),
        "resource" if at.get("name").text().is_empty() => at.get("name").require(e, "must specify a resource name"),
        "containerResource" => {
            let (name, container) = (at.get("name"), at.get("container"));
            match name.text().is_empty() {
                true => name.require(e, "must specify a resource name"),
                false => container_resource_name(&name, name.text(), e),
            }
            match container.text().is_empty() {
                true => container.require(e, "must specify a container"),
                false => container.check(e, validation::is_dns1123_label),
            }
        }
        _ => {}
    }
    if matches!(member, "object" | "external" | "pods") {
        let metric = at.get("metric");
        let name = metric.get("name");
        match name.text().is_empty() {
            true => name.require(e, "must specify a metric name"),
            false => name.check(e, validation::is_path_segment_name),
        }
    }
    metric_target(&target, e);
    let (value, average, percent) = (target.get("value"), target.get("averageValue"), target.get("averageUtilization"));
    match member {
        "object" if !value.is_set() && !average.is_set() => average.require(e, "must set either a target value or averageValue"),
        "external" if !value.is_set() && !average.is_set() => {
            average.require(e, "must set either a target value for metric or a per-pod target");
        }
        "external" if value.is_set() && average.is_set() => {
            value.forbid(e, "may not set both a target value for metric and a per-pod target");
        }
        "pods" if !average.is_set() => average.require(e, "must specify a positive target averageValue"),
        "resource" | "containerResource" if !percent.is_set() && !average.is_set() => {
            percent.require(e, "must set either a target raw value or a target utilization");
        }
        "resource" | "containerResource" if percent.is_set() && average.is_set() => {
            average.forbid(e, "may not set both a target raw value and a target utilization");
        }
        _ => {}
    }
}

fn metric_target(at: &At, e: &mut ErrorList) {
    let kind = at.get("type");
    if kind.text().is_empty() {
        kind.require(e, "must specify a metric target type");
    }
    if !matches!(kind.text(), "Utilization" | "Value" | "AverageValue") {
        kind.invalid_text(e, "must be either Utilization, Value, or AverageValue");
    }
    for member in ["value", "averageValue"] {
        let amount = at.get(member);
        if amount.quantity().is_some_and(|amount| amount.signum() != 1) {
            amount.invalid(e, "must be positive");
        }
    }
    let percent = at.get("averageUtilization");
    if percent.is_set() && percent.int() < 1 {
        percent.invalid(e, "must be greater than 0");
    }
}

fn scaling_rules(at: &At, e: &mut ErrorList) {
    if let Some(window) = at.set("stabilizationWindowSeconds") {
        if window.int() < 0 {
            window.invalid(e, "must be greater than or equal to zero");
        }
        if window.int() > WINDOW_SECONDS_MAX {
            window.invalid(e, format!("must be less than or equal to {WINDOW_SECONDS_MAX}"));
        }
    }
    if let Some(select) = at.set("selectPolicy") {
        select.one_of(e, &["Disabled", "Max", "Min"]);
    }
    let policies = at.get("policies");
    if policies.len() == 0 {
        policies.require(e, "must specify at least one Policy");
    }
    for policy in policies.items() {
        policy.get("type").one_of(e, &["Percent", "Pods"]);
        for member in ["value", "periodSeconds"] {
            if policy.get(member).int() <= 0 {
                policy.get(member).invalid_int(e, "must be greater than zero");
            }
        }
        let period = policy.get("periodSeconds");
        if period.int() > PERIOD_SECONDS_MAX {
            period.invalid(e, format!("must be less than or equal to {PERIOD_SECONDS_MAX}"));
        }
    }
    let tolerance = at.get("tolerance");
    if tolerance.quantity().is_some_and(|tolerance| tolerance.signum() < 0) {
        e.push(Error::invalid(&tolerance.path(), tolerance.value.clone(), NOT_NEGATIVE));
    }
}

#[cfg(test)]
mod tests {
    use apimachinery::value;

    use super::super::table::tests::{assert_create, assert_status, assert_update};
    use super::*;

    fn valid() -> Value {
        value!({"spec": {"minReplicas": 1, "maxReplicas": 3, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "a"}}})
    }

    #[test]
    fn new_ones() {
        let group = "autoscaling";
        let both = value!([{
            "type": "Resource",
            "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 0}},
            "pods": {}
        }]);
        assert_create(
            group,
            "horizontalpodautoscalers",
            &valid(),
            &[
                (
                    &["spec", "minReplicas"],
                    value!(0),
                    &[
                        "spec.minReplicas: Invalid value: 0: must be greater than or equal to 1",
                        "spec.metrics: Forbidden: must specify at least one Object or External metric to support scaling to zero replicas",
                    ],
                ),
                (
                    &["spec", "minReplicas"],
                    value!(4),
                    &["spec.maxReplicas: Invalid value: 3: must be greater than or equal to `minReplicas`"],
                ),
                (
                    &["spec", "scaleTargetRef", "apiVersion"],
                    value!("v1"),
                    &[r#"spec.scaleTargetRef.apiVersion: Invalid value: "v1": apiVersion must specify API group"#],
                ),
                (
                    &["spec", "scaleTargetRef", "apiVersion"],
                    value!("a/b/c"),
                    &[r#"spec.scaleTargetRef.apiVersion: Invalid value: "a/b/c": unexpected GroupVersion string: a/b/c"#],
                ),
                (&["spec", "scaleTargetRef", "name"], value!(""), &["spec.scaleTargetRef.name: Required value"]),
                (
                    &["spec", "metrics"],
                    both,
                    &[
                        "spec.metrics[0].pods.metric.name: Required value: must specify a metric name",
                        "spec.metrics[0].pods.target.type: Required value: must specify a metric target type",
                        r#"spec.metrics[0].pods.target.type: Invalid value: "": must be either Utilization, Value, or AverageValue"#,
                        "spec.metrics[0].pods.target.averageValue: Required value: must specify a positive target averageValue",
                        "spec.metrics[0].pods: Forbidden: must populate the given metric source only",
                    ],
                ),
                (
                    &["spec", "behavior"],
                    value!({"scaleUp": {"stabilizationWindowSeconds": 3601, "policies": [{"type": "Nope", "value": 0, "periodSeconds": 1801}]}}),
                    &[
                        "spec.behavior.scaleUp.stabilizationWindowSeconds: Invalid value: 3601: must be less than or equal to 3600",
                        r#"spec.behavior.scaleUp.policies[0].type: Unsupported value: "Nope": supported values: "Percent", "Pods""#,
                        "spec.behavior.scaleUp.policies[0].value: Invalid value: 0: must be greater than zero",
                        "spec.behavior.scaleUp.policies[0].periodSeconds: Invalid value: 1801: must be less than or equal to 1800",
                    ],
                ),
            ],
        );
    }

    #[test]
    fn changes() {
        let mut old = valid();
        old.set_path(&["spec", "scaleTargetRef", "apiVersion"], "a/b/c");
        // It was wrong before.
        assert_update("autoscaling", "horizontalpodautoscalers", &old, &[]);
        assert_status(
            "autoscaling",
            "horizontalpodautoscalers",
            &valid(),
            &[(
                &["status", "currentReplicas"],
                value!(-1),
                &["status.currentReplicas: Invalid value: -1: must be greater than or equal to 0"],
            )],
        );
    }
}
