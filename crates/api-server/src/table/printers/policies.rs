//! Admission webhooks and policies.

use apimachinery::Value;

use super::format::{age, name, text};
use super::{Registration, printer};

const GROUP: &str = "admissionregistration.k8s.io";
const BINDING: &[&str] = &["Name", "PolicyName", "ParamRef", "Age"];

pub(super) const PRINTERS: &[Registration] = &[
    printer("mutatingwebhookconfigurations", GROUP, &["Name", "#Webhooks", "Age"], webhooks),
    printer("validatingwebhookconfigurations", GROUP, &["Name", "#Webhooks", "Age"], webhooks),
    printer("validatingadmissionpolicies", GROUP, &["Name", "#Validations", "ParamKind", "Age"], validating),
    printer("validatingadmissionpolicybindings", GROUP, BINDING, binding),
    printer("mutatingadmissionpolicies", GROUP, &["Name", "#Mutations", "ParamKind", "Age"], mutating),
    printer("mutatingadmissionpolicybindings", GROUP, BINDING, binding),
];

fn count(object: &Value, path: &[&str]) -> Value {
    i64::try_from(object.array_at(path).len()).unwrap_or(i64::MAX).into()
}

fn webhooks(object: &Value) -> Vec<Value> {
    vec![name(object), count(object, &["webhooks"]), age(object)]
}

fn validating(object: &Value) -> Vec<Value> {
    policy(object, "validations")
}

fn mutating(object: &Value) -> Vec<Value> {
    policy(object, "mutations")
}

fn policy(object: &Value, rules: &str) -> Vec<Value> {
    let parameters = object.get_path(&["spec", "paramKind"]).map(|kind| {
        format!("{}/{}", kind.str_at(&["apiVersion"]).unwrap_or_default(), kind.str_at(&["kind"]).unwrap_or_default())
    });
    let parameters = parameters.unwrap_or_else(|| "<unset>".to_owned());
    vec![name(object), count(object, &["spec", rules]), parameters.into(), age(object)]
}

fn binding(object: &Value) -> Vec<Value> {
    let parameters = object.get_path(&["spec", "paramRef"]).and_then(|reference| {
        let part = |field: &str| reference.str_at(&[field]).filter(|text| !text.is_empty());
        match (part("name"), reference.get("selector")) {
            // Whether the parameters have a namespace cannot be told from here.
            (Some(name), _) => Some(format!("{}/{name}", part("namespace").unwrap_or("*"))),
            (None, Some(selector)) => Some(go_selector(selector)),
            (None, None) => None,
        }
    });
    let parameters = parameters.unwrap_or_else(|| "<unset>".to_owned());
    vec![name(object), text(object, &["spec", "policyName"], ""), parameters.into(), age(object)]
}

/// A label selector as Go's generated code prints it, which is what upstream shows here.
fn go_selector(selector: &Value) -> String {
    let labels = selector.get("matchLabels").and_then(Value::as_object).into_iter().flatten();
    let labels: String = labels.map(|(key, value)| format!("{key}: {},", value.as_str().unwrap_or_default())).collect();
    let expression = |of: &Value| {
        let values: Vec<&str> = of.array_at(&["values"]).iter().filter_map(Value::as_str).collect();
        let part = |field: &str| of.str_at(&[field]).unwrap_or_default();
        let (key, operator) = (part("key"), part("operator"));
        format!("LabelSelectorRequirement{{Key:{key},Operator:{operator},Values:[{}],}},", values.join(" "))
    };
    let expressions: String = selector.array_at(&["matchExpressions"]).iter().map(expression).collect();
    let expressions = format!("[]LabelSelectorRequirement{{{expressions}}}");
    format!("&LabelSelector{{MatchLabels:map[string]string{{{labels}}},MatchExpressions:{expressions},}}")
}
