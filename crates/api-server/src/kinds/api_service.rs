//! APIServices (upstream's `kube-aggregator/pkg/apis/apiregistration/validation`).

use std::sync::Arc;

use apimachinery::field::{Error, ErrorList};
use apimachinery::{Value, validation, value};

use super::at::At;
use super::status_meta::{StatusMeta, keep_for_status};
use super::{Rules, collect};
use crate::registry::{OperationContext, Strategy, keep_status, now, reset_status};

pub(super) fn rules() -> Rules {
    Rules { strategy: Arc::new(ApiServiceStrategy), subresources: vec![("status", Arc::new(ApiServiceStatus))] }
}

struct ApiServiceStrategy;

const GROUP_PRIORITY_MAX: i64 = 20_000;
const VERSION_PRIORITY_MAX: i64 = 1000;

impl Strategy for ApiServiceStrategy {
    fn prepare_for_create(&self, _context: &OperationContext, object: &mut Value) {
        reset_status(object);
        // One that this server serves itself is there at once.
        if object["spec"]["service"].is_null() {
            let condition = value!({
                "type": "Available", "status": "True", "reason": "Local", "message": "Local APIServices are always available",
                "lastTransitionTime": now()
            });
            object.set_path(&["status", "conditions"], value!([condition]));
        }
    }

    fn prepare_for_update(&self, _context: &OperationContext, object: &mut Value, old: &Value) {
        keep_status(object, old);
    }

    fn validate(&self, _context: &OperationContext, object: &Value) -> ErrorList {
        collect(|e| service(object, e))
    }

    fn validate_update(&self, context: &OperationContext, object: &Value, _old: &Value) -> ErrorList {
        self.validate(context, object)
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn name_rule(&self) -> validation::NameFn {
        |name, _| validation::is_path_segment_name(name)
    }
}

fn service(object: &Value, e: &mut ErrorList) {
    let root = At::root(object);
    let spec = root.get("spec");
    let (group, version) = (spec.get("group"), spec.get("version"));
    let required = format!("{}.{}", version.text(), group.text());
    // The start of a generated name, too, which therefore never fits.
    let metadata = root.get("metadata");
    for member in ["generateName", "name"] {
        let name = metadata.get(member);
        let text = name.text();
        if !text.is_empty() && validation::is_path_segment_name(text).is_empty() && text != required {
            name.invalid_text(e, format!("must be `spec.version+\".\"+spec.group`: {}", apimachinery::go_quote(&required)));
        }
    }
    match group.text().is_empty() {
        true if version.text() != "v1" => group.require(e, "only v1 may have an empty group and it better be legacy kube"),
        true => {}
        false => group.check(e, validation::is_dns1123_subdomain),
    }
    version.check(e, validation::is_dns1035_label);
    for (member, most) in [("groupPriorityMinimum", GROUP_PRIORITY_MAX), ("versionPriority", VERSION_PRIORITY_MAX)] {
        let priority = spec.get(member);
        if !(1..=most).contains(&priority.int()) {
            priority.invalid_int(e, format!("must be positive and less than {most}"));
        }
    }
    let (bundle, insecure, at) = (spec.get("caBundle"), spec.get("insecureSkipTLSVerify"), spec.get("service"));
    if !at.is_set() {
        if !bundle.text().is_empty() {
            let bytes = bundle.text().trim_end_matches('=').len() * 3 / 4;
            e.push(Error::invalid(&bundle.path(), format!("{bytes} bytes"), "local APIServices may not have a caBundle"));
        }
        if insecure.is_true() {
            insecure.invalid(e, "local APIServices may not have insecureSkipTLSVerify");
        }
        return;
    }
    at.get("namespace").required(e);
    at.get("name").required(e);
    let why = validation::is_port_number(at.get("port").int());
    if !why.is_empty() {
        at.get("port").invalid_int(e, format!("port is not valid: {}", why.join(", ")));
    }
    if insecure.is_true() && !bundle.text().is_empty() {
        insecure.invalid(e, "may not be true if caBundle is present");
    }
}

struct ApiServiceStatus;

impl Strategy for ApiServiceStatus {
    fn prepare_for_update(&self, _context: &OperationContext, object: &mut Value, old: &Value) {
        keep_for_status(object, old, StatusMeta::Nothing);
    }

    fn validate_update(&self, _context: &OperationContext, object: &Value, _old: &Value) -> ErrorList {
        collect(|e| {
            let root = At::root(object);
            let status = root.get("status");
            for condition in status.get("conditions").items() {
                condition.get("status").one_of(e, &["True", "False", "Unknown"]);
            }
        })
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn reset_fields(&self) -> &'static [&'static [&'static str]] {
        StatusMeta::Nothing.reset_fields()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_of_services() {
        let valid = value!({"metadata": {"name": "v1.a.b"}, "spec": {
            "group": "a.b", "version": "v1", "groupPriorityMinimum": 1, "versionPriority": 1,
            "service": {"namespace": "n", "name": "s", "port": 443}
        }});
        let cases: [(&[&str], Value, &[&str]); 7] = [
            (&["metadata", "labels"], value!({}), &[]),
            (
                &["metadata", "generateName"],
                value!("v1."),
                &[r#"metadata.generateName: Invalid value: "v1.": must be `spec.version+"."+spec.group`: "v1.a.b""#],
            ),
            (
                &["metadata", "name"],
                value!("a"),
                &[r#"metadata.name: Invalid value: "a": must be `spec.version+"."+spec.group`: "v1.a.b""#],
            ),
            (
                &["spec", "versionPriority"],
                value!(1001),
                &["spec.versionPriority: Invalid value: 1001: must be positive and less than 1000"],
            ),
            (
                &["spec", "service", "port"],
                value!(0),
                &["spec.service.port: Invalid value: 0: port is not valid: must be between 1 and 65535, inclusive"],
            ),
            (&["spec", "service"], Value::Null, &[]),
            (
                &["spec", "groupPriorityMinimum"],
                value!(0),
                &["spec.groupPriorityMinimum: Invalid value: 0: must be positive and less than 20000"],
            ),
        ];
        for (path, value, expected) in cases {
            let mut object = valid.clone();
            object.set_path(path, value);
            let found: Vec<String> = collect(|e| service(&object, e)).iter().map(ToString::to_string).collect();
            assert_eq!(found, expected, "{object}");
        }
    }
}
