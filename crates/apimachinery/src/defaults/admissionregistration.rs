//! Defaults of the admissionregistration.k8s.io group, and of references to Services that serve webhooks.

use super::{Rule, absent};
use crate::Value;

pub(super) const RULES: &[(&str, Rule)] = &[
    ("admissionregistration.v1.ValidatingWebhook", webhook),
    ("admissionregistration.v1.MutatingWebhook", |hook| {
        webhook(hook);
        absent(hook, "reinvocationPolicy", "Never");
    }),
    ("admissionregistration.v1.RuleWithOperations", scope),
    ("admissionregistration.v1.NamedRuleWithOperations", scope),
    ("admissionregistration.v1beta1.NamedRuleWithOperations", scope),
    ("admissionregistration.v1alpha1.NamedRuleWithOperations", scope),
    ("admissionregistration.v1.ServiceReference", https_port),
    ("apiextensions.v1.ServiceReference", https_port),
    ("apiregistration.v1.ServiceReference", https_port),
    ("admissionregistration.v1.ValidatingAdmissionPolicySpec", failure_policy),
    ("admissionregistration.v1beta1.MutatingAdmissionPolicySpec", failure_policy),
    ("admissionregistration.v1alpha1.MutatingAdmissionPolicySpec", failure_policy),
    ("admissionregistration.v1.MatchResources", match_resources),
    ("admissionregistration.v1beta1.MatchResources", match_resources),
    ("admissionregistration.v1alpha1.MatchResources", match_resources),
    ("admissionregistration.v1alpha1.ParamRef", |reference| absent(reference, "parameterNotFoundAction", "Deny")),
];

fn webhook(hook: &mut Value) {
    failure_policy(hook);
    match_resources(hook);
    absent(hook, "timeoutSeconds", 10);
}

fn failure_policy(spec: &mut Value) {
    absent(spec, "failurePolicy", "Fail");
}

fn match_resources(resources: &mut Value) {
    absent(resources, "matchPolicy", "Equivalent");
    absent(resources, "namespaceSelector", Value::object());
    absent(resources, "objectSelector", Value::object());
}

fn scope(rule: &mut Value) {
    absent(rule, "scope", "*");
}

fn https_port(reference: &mut Value) {
    absent(reference, "port", 443);
}
