//! HorizontalPodAutoscalers between v1, which knows one metric, and v2: v1 carries the rest in annotations, as JSON of types that upstream no
//! longer serves (`pkg/apis/autoscaling/v1/conversion.go`).

use apimachinery::{Value, go_quote, value};

use crate::kinds::{internal_text, tagged_text};

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const CURRENT: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
/// All annotations that carry something, also what is behind a feature gate that is off.
const CARRIERS: [&str; 6] = [
    METRICS,
    BEHAVIOR,
    CONDITIONS,
    CURRENT,
    "autoscaling.alpha.kubernetes.io/scale-down-tolerance",
    "autoscaling.alpha.kubernetes.io/scale-up-tolerance",
];
/// What v1 asks for when it says nothing.
const DEFAULT_CPU_PERCENT: i64 = 80;

/// How a member of the old types is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// A text, always.
    Text,
    /// A quantity, always.
    Amount,
    /// What there is.
    Optional,
    /// A label selector, if there is one.
    Selector,
    /// A reference to an object.
    Reference,
}

use Form::{Amount, Optional, Reference, Selector, Text};

/// A member of the old type, and where v2 has it.
type Member = (&'static str, &'static [&'static str], Form);

const NAME: &[&str] = &["metric", "name"];
const SELECTOR: &[&str] = &["metric", "selector"];

/// The members of each source of a metric that is asked for, in order.
const ASKED: [(&str, &[Member]); 5] = [
    (
        "object",
        &[
            ("target", &["describedObject"], Reference),
            ("metricName", NAME, Text),
            ("targetValue", &["target", "value"], Amount),
            ("selector", SELECTOR, Selector),
            ("averageValue", &["target", "averageValue"], Optional),
        ],
    ),
    (
        "pods",
        &[
            ("metricName", NAME, Text),
            ("targetAverageValue", &["target", "averageValue"], Amount),
            ("selector", SELECTOR, Selector),
        ],
    ),
    (
        "resource",
        &[
            ("name", &["name"], Text),
            ("targetAverageUtilization", &["target", "averageUtilization"], Optional),
            ("targetAverageValue", &["target", "averageValue"], Optional),
        ],
    ),
    (
        "containerResource",
        &[
            ("name", &["name"], Text),
            ("targetAverageUtilization", &["target", "averageUtilization"], Optional),
            ("targetAverageValue", &["target", "averageValue"], Optional),
            ("container", &["container"], Text),
        ],
    ),
    (
        "external",
        &[
            ("metricName", NAME, Text),
            ("metricSelector", SELECTOR, Selector),
            ("targetValue", &["target", "value"], Optional),
            ("targetAverageValue", &["target", "averageValue"], Optional),
        ],
    ),
];

/// Those of a metric that was measured.
const MEASURED: [(&str, &[Member]); 5] = [
    (
        "object",
        &[
            ("target", &["describedObject"], Reference),
            ("metricName", NAME, Text),
            ("currentValue", &["current", "value"], Amount),
            ("selector", SELECTOR, Selector),
            ("averageValue", &["current", "averageValue"], Optional),
        ],
    ),
    (
        "pods",
        &[
            ("metricName", NAME, Text),
            ("currentAverageValue", &["current", "averageValue"], Amount),
            ("selector", SELECTOR, Selector),
        ],
    ),
    (
        "resource",
        &[
            ("name", &["name"], Text),
            ("currentAverageUtilization", &["current", "averageUtilization"], Optional),
            ("currentAverageValue", &["current", "averageValue"], Amount),
        ],
    ),
    (
        "containerResource",
        &[
            ("name", &["name"], Text),
            ("currentAverageUtilization", &["current", "averageUtilization"], Optional),
            ("currentAverageValue", &["current", "averageValue"], Amount),
            ("container", &["container"], Text),
        ],
    ),
    (
        "external",
        &[
            ("metricName", NAME, Text),
            ("metricSelector", SELECTOR, Selector),
            ("currentValue", &["current", "value"], Amount),
            ("currentAverageValue", &["current", "averageValue"], Optional),
        ],
    ),
];

/// From v1.
pub(super) fn to_v2(object: &mut Value) {
    let carried = |object: &Value, name: &str| Value::from_slice(object.meta().annotation(name)?.as_bytes()).ok();
    let metrics = carried(object, METRICS);
    let (behavior, conditions, current) = (carried(object, BEHAVIOR), carried(object, CONDITIONS), carried(object, CURRENT));
    drop_carriers(object);
    let cpu = object.remove_path(&["spec", "targetCPUUtilizationPercentage"]).filter(|percent| !percent.is_null());
    let mut all: Vec<Value> = Vec::new();
    if let Some(others) = metrics.as_ref().and_then(Value::as_array) {
        all.extend(others.iter().map(|metric| from_old(metric, &ASKED)));
    }
    if cpu.is_some() || all.is_empty() {
        let percent = cpu.unwrap_or(DEFAULT_CPU_PERCENT.into());
        all.push(value!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": percent}}}));
    }
    object.set_path(&["spec", "metrics"], all);
    if let Some(behavior) = behavior.map(|behavior| published_names(&behavior)).filter(|behavior| !behavior.is_empty()) {
        object.set_path(&["spec", "behavior"], behavior);
    }
    let measured = object.remove_path(&["status", "currentCPUUtilizationPercentage"]).filter(|percent| !percent.is_null());
    if let Some(all) = current.as_ref().and_then(Value::as_array) {
        object.set_path(&["status", "currentMetrics"], all.iter().map(|metric| from_old(metric, &MEASURED)).collect::<Vec<_>>());
    } else if let Some(percent) = measured {
        let metric = value!({"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": percent}}});
        object.set_path(&["status", "currentMetrics"], vec![metric]);
    }
    if let Some(conditions) = conditions.filter(|conditions| conditions.as_array().is_some()) {
        object.set_path(&["status", "conditions"], conditions);
    }
}

/// To v1.
pub(super) fn to_v1(object: &mut Value) {
    drop_carriers(object);
    let metrics = object.remove_path(&["spec", "metrics"]).unwrap_or_default();
    let metrics = metrics.as_array().unwrap_or_default();
    let (cpu, others): (Vec<&Value>, Vec<&Value>) = metrics.iter().partition(|metric| cpu_percent(metric, "target").is_some());
    if let Some(percent) = cpu.first().and_then(|metric| cpu_percent(metric, "target")) {
        object.set_path(&["spec", "targetCPUUtilizationPercentage"], percent.clone());
    }
    carry(object, METRICS, &others, |metric| to_old(metric, &ASKED));
    let current = object.remove_path(&["status", "currentMetrics"]).unwrap_or_default();
    let current: Vec<&Value> = current.as_array().unwrap_or_default().iter().collect();
    if let Some(percent) = current.iter().rev().find_map(|metric| cpu_percent(metric, "current")) {
        object.set_path(&["status", "currentCPUUtilizationPercentage"], percent.clone());
    }
    carry(object, CURRENT, &current, |metric| to_old(metric, &MEASURED));
    if let Some(behavior) = object.remove_path(&["spec", "behavior"]).filter(|behavior| !behavior.is_null()) {
        let text = internal_text(&behavior, "autoscaling.v2.HorizontalPodAutoscalerBehavior");
        object.meta_mut().set_annotation(BEHAVIOR, &text);
    }
    let conditions = object.remove_path(&["status", "conditions"]).unwrap_or_default();
    let conditions: Vec<&Value> = conditions.as_array().unwrap_or_default().iter().collect();
    carry(object, CONDITIONS, &conditions, condition);
}

fn drop_carriers(object: &mut Value) {
    CARRIERS.iter().for_each(|name| object.meta_mut().remove_annotation(name));
    if object["metadata"]["annotations"].as_object().is_some_and(apimachinery::Map::is_empty) {
        object.remove_path(&["metadata", "annotations"]);
    }
}

fn carry(object: &mut Value, annotation: &str, items: &[&Value], text: impl Fn(&Value) -> String) {
    if !items.is_empty() {
        let items: Vec<String> = items.iter().map(|item| text(item)).collect();
        object.meta_mut().set_annotation(annotation, &format!("[{}]", items.join(",")));
    }
}

fn cpu_percent<'v>(metric: &'v Value, side: &str) -> Option<&'v Value> {
    let is_cpu = metric["type"] == "Resource" && metric["resource"]["name"] == "cpu";
    metric.get_path(&["resource", side, "averageUtilization"]).filter(|percent| is_cpu && !percent.is_null())
}

fn members(parts: Vec<(&str, Option<String>)>) -> String {
    let parts = parts.into_iter().filter_map(|(name, text)| Some(format!("\"{name}\":{}", text?)));
    format!("{{{}}}", parts.collect::<Vec<_>>().join(","))
}

fn text_of(value: &Value) -> Option<String> {
    Some(go_quote(value.as_str().unwrap_or_default()))
}

fn to_old(metric: &Value, sources: &[(&'static str, &[Member])]) -> String {
    let mut parts = vec![("type", text_of(&metric["type"]))];
    for (source, list) in sources {
        let Some(from) = metric.get(source).filter(|from| !from.is_null()) else { continue };
        let member = |(name, path, form): &Member| {
            let value = from.get_path(path).cloned().unwrap_or_default();
            let text = match form {
                Text => text_of(&value),
                Amount if value.is_null() => Some("\"0\"".to_owned()),
                _ if value.is_null() && *form != Reference => None,
                Amount | Optional => Some(value.to_json()),
                Selector => Some(tagged_text(&value, "meta.v1.LabelSelector")),
                Reference => Some(members(vec![
                    ("kind", text_of(&value["kind"])),
                    ("name", text_of(&value["name"])),
                    ("apiVersion", text_of(&value["apiVersion"]).filter(|_| !value["apiVersion"].is_empty())),
                ])),
            };
            (*name, text)
        };
        parts.push((source, Some(members(list.iter().map(member).collect()))));
    }
    members(parts)
}

fn from_old(metric: &Value, sources: &[(&'static str, &[Member])]) -> Value {
    let mut new = value!({"type": metric["type"].clone()});
    for (source, list) in sources {
        let Some(from) = metric.get(source).filter(|from| !from.is_null()) else { continue };
        let mut to = value!({});
        for (name, path, form) in *list {
            match from.get(name).filter(|value| !value.is_null()) {
                Some(value) => to.set_path(path, value.clone()),
                None if *form == Amount => to.set_path(path, "0"),
                None => {}
            }
        }
        let has = |member: &str| from.get(member).is_some_and(|value| !value.is_null());
        let kind = match *source {
            "object" if has("averageValue") => "AverageValue",
            "object" => "Value",
            "external" if has("targetValue") => "Value",
            "resource" | "containerResource" if has("targetAverageUtilization") => "Utilization",
            _ => "AverageValue",
        };
        if list.iter().any(|(_, path, _)| path.first() == Some(&"target")) {
            to.set_path(&["target", "type"], kind);
        }
        new.insert(*source, to);
    }
    new
}

/// An internal type's members under their published names; null is none.
fn published_names(value: &Value) -> Value {
    match value {
        Value::Array(items) => items.iter().map(published_names).collect(),
        Value::Object(members) => {
            let mut out = Value::object();
            for (key, member) in members.iter().filter(|(_, member)| !member.is_null()) {
                let mut letters = key.as_str().chars();
                let first = letters.next().map(|c| c.to_ascii_lowercase());
                out.insert(first.into_iter().chain(letters).collect::<String>(), published_names(member));
            }
            out
        }
        other => other.clone(),
    }
}

fn condition(condition: &Value) -> String {
    let optional = |name: &str| text_of(&condition[name]).filter(|_| !condition[name].is_empty());
    members(vec![
        ("type", text_of(&condition["type"])),
        ("status", text_of(&condition["status"])),
        ("lastTransitionTime", Some(condition["lastTransitionTime"].to_json())),
        ("reason", optional("reason")),
        ("message", optional("message")),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_v1_cannot_say_is_carried() {
        let v2 = value!({"metadata": {"name": "a", "annotations": {"x": "y", "autoscaling.alpha.kubernetes.io/metrics": "forged"}},
        "spec": {"maxReplicas": 3, "behavior": {"scaleDown": {"selectPolicy": "Max", "policies": [{"type": "Pods", "value": 1, "periodSeconds": 2}]}},
            "metrics": [
                {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}},
                {"type": "Pods", "pods": {"metric": {"name": "m"}, "target": {"type": "AverageValue", "averageValue": "1"}}},
                {"type": "Object", "object": {"describedObject": {"kind": "K", "name": "n", "apiVersion": "g/v1"},
                    "metric": {"name": "m", "selector": {"matchLabels": {"a": "b"}}}, "target": {"type": "Value", "value": "2"}}}]},
        "status": {"currentMetrics": [{"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 40, "averageValue": "0"}}}],
            "conditions": [{"type": "T", "status": "True", "reason": "R", "lastTransitionTime": null}]}});
        let mut v1 = v2.clone();
        to_v1(&mut v1);
        let note = |name: &str| v1.meta().annotation(name).unwrap_or_default().to_owned();
        assert_eq!(
            note(METRICS),
            r#"[{"type":"Pods","pods":{"metricName":"m","targetAverageValue":"1"}},{"type":"Object","object":{"target":{"kind":"K","name":"n","apiVersion":"g/v1"},"metricName":"m","targetValue":"2","selector":{"matchLabels":{"a":"b"}}}}]"#
        );
        assert_eq!(
            note(CURRENT),
            r#"[{"type":"Resource","resource":{"name":"cpu","currentAverageUtilization":40,"currentAverageValue":"0"}}]"#
        );
        assert_eq!(note(CONDITIONS), r#"[{"type":"T","status":"True","lastTransitionTime":null,"reason":"R"}]"#);
        assert_eq!(
            note(BEHAVIOR),
            r#"{"ScaleUp":null,"ScaleDown":{"StabilizationWindowSeconds":null,"SelectPolicy":"Max","Policies":[{"Type":"Pods","Value":1,"PeriodSeconds":2}],"Tolerance":null}}"#
        );
        assert_eq!(v1["spec"]["targetCPUUtilizationPercentage"].as_i64(), Some(50));
        assert_eq!(v1["status"]["currentCPUUtilizationPercentage"].as_i64(), Some(40));
        let mut back = v1;
        to_v2(&mut back);
        let cpu_last = |metrics: &[Value]| metrics[1..].iter().chain(&metrics[..1]).cloned().collect::<Vec<_>>();
        assert_eq!(back.array_at(&["spec", "metrics"]), cpu_last(v2.array_at(&["spec", "metrics"])));
        assert_eq!(back["spec"]["behavior"], v2["spec"]["behavior"]);
        assert_eq!(back["status"], v2["status"]);
        assert_eq!(back["metadata"]["annotations"], value!({"x": "y"}));
    }

    #[test]
    fn v1_asks_for_a_metric_by_saying_nothing() {
        let mut object = value!({"metadata": {}, "spec": {"maxReplicas": 1}});
        to_v2(&mut object);
        assert_eq!(object["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"].as_i64(), Some(80));
    }
}
