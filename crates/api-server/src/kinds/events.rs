//! Events: lenient for the core group's old clients, strict through events.k8s.io (upstream's `pkg/apis/core/validation/events.go`).

use std::sync::Arc;

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::{Value, validation};

use super::at::{At, IMMUTABLE};
use super::go_text::Shown;
use super::{Rules, collect, go_text};
use crate::registry::{OperationContext, Strategy};

pub(super) fn rules() -> Rules {
    Rules { strategy: Arc::new(EventStrategy), subresources: Vec::new() }
}

struct EventStrategy;

/// Upstream's limits, in bytes.
const INSTANCE_MAX: usize = 128;
const ACTION_MAX: usize = 128;
const REASON_MAX: usize = 128;
const NOTE_MAX: usize = 1024;

impl Strategy for EventStrategy {
    fn prepare_for_create(&self, _context: &OperationContext, _object: &mut Value) {}

    fn prepare_for_update(&self, _context: &OperationContext, _object: &mut Value, _old: &Value) {}

    fn validate(&self, context: &OperationContext, object: &Value) -> ErrorList {
        collect(|e| {
            let is_core = context.group.is_empty();
            lenient(object, is_core, e);
            if !is_core {
                strict(object, e);
            }
        })
    }

    fn validate_update(&self, context: &OperationContext, object: &Value, old: &Value) -> ErrorList {
        collect(|e| {
            let is_core = context.group.is_empty();
            lenient(object, is_core, e);
            if !is_core {
                strict_update(object, old, e);
            }
        })
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn supports_collection(&self) -> bool {
        false
    }

    fn reset_fields(&self) -> &'static [&'static [&'static str]] {
        &[]
    }
}

/// Upstream shows no value.
fn invalid(e: &mut ErrorList, field: &str, why: impl Into<String>) {
    e.push(Error::invalid(&Path::new(field), "", why));
}

fn lenient(object: &Value, is_core: bool, e: &mut ErrorList) {
    let root = At::root(object);
    let namespace = object.meta().namespace();
    let involved = root.get("involvedObject");
    let about = involved.get("namespace");
    let mismatch = "does not match event.namespace";
    if !root.get("eventTime").is_set() {
        let fits = match about.text() {
            "" => matches!(namespace, "" | "default"),
            about => about == namespace,
        };
        if !fits {
            about.invalid_text(e, mismatch);
        }
    } else {
        if about.text().is_empty() && !matches!(namespace, "default" | "kube-system") {
            about.invalid_text(e, mismatch);
        }
        let controller = root.get("reportingComponent");
        let path = Path::new(if is_core { "reportingComponent" } else { "reportingController" });
        if controller.text().is_empty() {
            e.push(Error::required(&path, ""));
        }
        let why = validation::is_qualified_name(controller.text());
        e.extend(why.into_iter().map(|why| Error::invalid(&path, controller.text(), why)));
        for (member, most) in [("reportingInstance", INSTANCE_MAX), ("action", ACTION_MAX), ("reason", REASON_MAX)] {
            let at = root.get(member);
            if at.text().is_empty() {
                at.require(e, "");
            }
            if at.text().len() > most {
                invalid(e, member, format!("can have at most {most} characters"));
            }
        }
        if root.get("message").text().len() > NOTE_MAX {
            invalid(e, "message", format!("can have at most {NOTE_MAX} characters"));
        }
    }
    let why = validation::is_dns1123_subdomain(namespace);
    e.extend(why.into_iter().map(|why| Error::invalid(&Path::new("namespace"), namespace, why)));
}

fn strict(object: &Value, e: &mut ErrorList) {
    let root = At::root(object);
    series(&root, e);
    if !root.get("eventTime").is_set() {
        root.get("eventTime").require(e, "");
    }
    let kind = root.get("type").text();
    if !matches!(kind, "Normal" | "Warning") {
        invalid(e, "type", format!("has invalid value: {kind}"));
    }
    for member in ["firstTimestamp", "lastTimestamp", "count"] {
        if !root.get(member).value.is_zero() {
            invalid(e, member, "needs to be unset");
        }
    }
    if root.get("source").value.as_object().is_some_and(|source| source.iter().any(|(_, text)| !text.is_empty())) {
        invalid(e, "source", "needs to be unset");
    }
}

fn series(root: &At, e: &mut ErrorList) {
    let Some(series) = root.set("series") else { return };
    if series.get("count").int() < 2 {
        invalid(e, "series.count", "should be at least 2");
    }
    if !series.get("lastObservedTime").is_set() {
        e.push(Error::required(&Path::new("series.lastObservedTime"), ""));
    }
}

fn strict_update(object: &Value, old: &Value, e: &mut ErrorList) {
    let root = At::root(object);
    if object["series"] != old["series"] {
        series(&root, e);
    }
    // The path is that of the internal type, the member that of the stored one.
    for (member, path) in [
        ("involvedObject", "involvedObject"),
        ("reason", "reason"),
        ("message", "message"),
        ("source", "source"),
        ("firstTimestamp", "firstTimestamp"),
        ("lastTimestamp", "lastTimestamp"),
        ("count", "count"),
        ("reason", "reason"),
        ("type", "type"),
        ("eventTime", "eventTime"),
        ("action", "action"),
        ("related", "related"),
        ("reportingComponent", "reportingController"),
        ("reportingInstance", "reportingInstance"),
    ] {
        let (new, old) = (&object[member], &old[member]);
        if new == old || (new.is_zero() && old.is_zero()) {
            continue;
        }
        let error = match (member, new) {
            ("involvedObject" | "related", Value::Object(_)) => Error::invalid(&Path::new(path), new.clone(), IMMUTABLE)
                .shown_as(go_text::internal(new, "core.v1.ObjectReference")),
            ("source", Value::Object(_)) => {
                Error::invalid(&Path::new(path), new.clone(), IMMUTABLE).shown_as(go_text::internal(new, "core.v1.EventSource"))
            }
            ("count", _) => Error::invalid(&Path::new(path), new.as_i64().unwrap_or(0), IMMUTABLE),
            ("reason" | "message" | "type" | "action" | "reportingComponent" | "reportingInstance", _) => {
                Error::invalid(&Path::new(path), new.as_str().unwrap_or_default(), IMMUTABLE)
            }
            _ => Error::invalid(&Path::new(path), new.clone(), IMMUTABLE),
        };
        e.push(error);
    }
}

#[cfg(test)]
mod tests {
    use apimachinery::value;

    use super::*;

    fn event() -> Value {
        value!({
            "metadata": {"namespace": "a"}, "involvedObject": {"namespace": "a"}, "eventTime": "2020-01-02T03:04:05.000006Z",
            "reportingComponent": "c", "reportingInstance": "i", "action": "a", "reason": "r", "type": "Normal"
        })
    }

    #[test]
    fn new_ones() {
        let cases: [(&str, Value, &[&str]); 6] = [
            ("action", value!("a"), &[]),
            ("action", value!(""), &["action: Required value"]),
            (
                "reportingInstance",
                value!("x".repeat(129)),
                &[r#"reportingInstance: Invalid value: "": can have at most 128 characters"#],
            ),
            ("type", value!("Nope"), &[r#"type: Invalid value: "": has invalid value: Nope"#]),
            ("count", value!(1), &[r#"count: Invalid value: "": needs to be unset"#]),
            (
                "series",
                value!({"count": 1}),
                &[r#"series.count: Invalid value: "": should be at least 2"#, "series.lastObservedTime: Required value"],
            ),
        ];
        for (member, value, expected) in cases {
            let mut object = event();
            object.insert(member, value);
            let found = collect(|e| {
                lenient(&object, false, e);
                strict(&object, e);
            });
            assert_eq!(found.iter().map(ToString::to_string).collect::<Vec<_>>(), expected, "{object}");
        }
        let old_style = value!({"metadata": {"namespace": "a"}, "involvedObject": {}});
        let found = collect(|e| lenient(&old_style, true, e));
        assert_eq!(
            found.first().map(ToString::to_string).as_deref(),
            Some(r#"involvedObject.namespace: Invalid value: "": does not match event.namespace"#)
        );
    }

    #[test]
    fn changes() {
        let mut object = event();
        object.insert("reason", "other");
        object.insert("reportingComponent", "d");
        let found = collect(|e| strict_update(&object, &event(), e));
        let texts: Vec<String> = found.iter().map(ToString::to_string).collect();
        let reason = r#"reason: Invalid value: "other": field is immutable"#;
        assert_eq!(texts, [reason, reason, r#"reportingController: Invalid value: "d": field is immutable"#]);
    }
}
