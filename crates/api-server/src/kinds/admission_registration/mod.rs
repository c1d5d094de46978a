//! Webhook configurations, ValidatingAdmissionPolicies and their bindings (upstream's `pkg/apis/admissionregistration/validation`).
//!
//! Expressions are compiled when an object is written; nothing evaluates them yet, so policies and conditions are not enforced. Upstream does not look at match conditions again that an update leaves alone; all
//! other expressions it compiles each time, with the libraries of the older version only where they are new, which in v1.35 is no difference.

mod policy;

use apimachinery::field::{Error, ErrorList};
use apimachinery::{Value, validation};
use cel::Type;
use cel::admission::{Compiler, Optional};

use super::at::{At, subdomain};
use super::table::{Checks, any};
use super::webhook_client;

const GROUP: &str = "admissionregistration.k8s.io";

pub(super) const CHECKS: &[Checks] = &[
    Checks { group: GROUP, resource: "validatingwebhookconfigurations", create: hooks, update: hooks_update, status: any },
    Checks { group: GROUP, resource: "mutatingwebhookconfigurations", create: hooks, update: hooks_update, status: any },
    Checks {
        group: GROUP,
        resource: "validatingadmissionpolicies",
        create: policy::create,
        update: policy::update,
        status: policy::status,
    },
    Checks {
        group: GROUP,
        resource: "validatingadmissionpolicybindings",
        create: binding,
        update: |object, _, e| binding(object, e),
        status: any,
    },
];

const FAILURE_POLICIES: [&str; 2] = ["Fail", "Ignore"];
const MATCH_POLICIES: [&str; 2] = ["Equivalent", "Exact"];
const OPERATIONS: [&str; 5] = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
const REVIEW_VERSIONS: [&str; 2] = ["v1", "v1beta1"];
const CONDITIONS_MAX: usize = 64;

/// What older configurations may still be, once stored.
#[derive(Clone, Copy)]
struct Demands {
    no_side_effects: bool,
    known_review_version: bool,
    unique_names: bool,
    /// Whether match conditions are looked at: not where an update leaves all of them alone.
    conditions: bool,
}

fn hooks(object: &Value, e: &mut ErrorList) {
    all_hooks(object, Demands { no_side_effects: true, known_review_version: true, unique_names: true, conditions: true }, e);
}

fn hooks_update(object: &Value, old: &Value, e: &mut ErrorList) {
    let hooks = old.array_at(&["webhooks"]);
    let names: Vec<&str> = hooks.iter().filter_map(|hook| hook["name"].as_str()).filter(|name| !name.is_empty()).collect();
    let known = |hook: &Value| {
        hook.array_at(&["admissionReviewVersions"])
            .iter()
            .filter_map(Value::as_str)
            .any(|version| REVIEW_VERSIONS.contains(&version))
    };
    let demands = Demands {
        no_side_effects: hooks.iter().all(|hook| matches!(hook["sideEffects"].as_str(), Some("None" | "NoneOnDryRun"))),
        known_review_version: hooks.iter().all(known),
        unique_names: names.iter().enumerate().all(|(at, name)| !names[..at].contains(name)),
        conditions: {
            let conditions = |hooks: &[Value]| hooks.iter().map(|hook| hook["matchConditions"].clone()).collect::<Vec<_>>();
            conditions(object.array_at(&["webhooks"])) != conditions(hooks)
        },
    };
    all_hooks(object, demands, e);
}

fn all_hooks(object: &Value, demands: Demands, e: &mut ErrorList) {
    let root = At::root(object);
    let mut names: Vec<&str> = Vec::new();
    for at in root.get("webhooks").items() {
        hook(&at, demands, e);
        review_versions(&at.get("admissionReviewVersions"), demands, e);
        let name = at.get("name");
        if demands.unique_names && !name.text().is_empty() && names.contains(&name.text()) {
            name.duplicate(e);
        }
        names.push(name.text());
    }
}

fn hook(at: &At, demands: Demands, e: &mut ErrorList) {
    let name = at.get("name");
    e.extend(validation::is_fully_qualified_name(&name.path(), name.text()));
    at.get("rules").items().for_each(|rule| rule_with_operations(&rule, e));
    for (member, known) in [("failurePolicy", &FAILURE_POLICIES), ("matchPolicy", &MATCH_POLICIES)] {
        if let Some(policy) = at.set(member) {
            policy.one_of(e, known);
        }
    }
    let allowed: &[&str] =
        if demands.no_side_effects { &["None", "NoneOnDryRun"] } else { &["None", "NoneOnDryRun", "Some", "Unknown"] };
    match at.set("sideEffects") {
        None => at.get("sideEffects").require(e, &format!("must specify one of {}", allowed.join(", "))),
        Some(effects) => effects.one_of(e, allowed),
    }
    if let Some(seconds) = at.set("timeoutSeconds")
        && !(1..=30).contains(&seconds.int())
    {
        seconds.invalid(e, "the timeout value must be between 1 and 30 seconds");
    }
    at.get("namespaceSelector").label_selector(e);
    at.get("objectSelector").label_selector(e);
    if let Some(policy) = at.set("reinvocationPolicy") {
        policy.one_of(e, &["IfNeeded", "Never"]);
    }
    let client = at.get("clientConfig");
    match (client.set("url"), client.set("service")) {
        (Some(_), Some(_)) | (None, None) => client.require(e, "exactly one of url or service is required"),
        (Some(url), None) => webhook_client::url(&url, e),
        (None, Some(service)) => webhook_client::service(&service, e),
    }
    if demands.conditions {
        match_conditions(&at.get("matchConditions"), false, e);
    }
}

fn review_versions(at: &At, demands: Demands, e: &mut ErrorList) {
    let known = REVIEW_VERSIONS.join(", ");
    if at.len() == 0 {
        return at.require(e, &format!("must specify one of {known}"));
    }
    let mut seen: Vec<&str> = Vec::new();
    for version in at.items() {
        if seen.contains(&version.text()) {
            version.invalid(e, "duplicate version");
            continue;
        }
        seen.push(version.text());
        version.check(e, validation::is_dns1035_label);
    }
    if demands.known_review_version && !seen.iter().any(|version| REVIEW_VERSIONS.contains(version)) {
        at.invalid(e, format!("must include at least one of {known}"));
    }
}

fn has_wildcard(at: &At) -> bool {
    at.items().any(|item| item.text() == "*")
}

fn rule_with_operations(at: &At, e: &mut ErrorList) {
    let operations = at.get("operations");
    if operations.len() == 0 {
        operations.require(e, "");
    }
    if operations.len() > 1 && has_wildcard(&operations) {
        operations.invalid(e, "if '*' is present, must not specify other operations");
    }
    operations.items().for_each(|operation| operation.one_of(e, &OPERATIONS));
    for (member, named) in [("apiGroups", "API groups"), ("apiVersions", "API versions")] {
        let list = at.get(member);
        if list.len() == 0 {
            list.require(e, "");
        }
        if list.len() > 1 && has_wildcard(&list) {
            list.invalid(e, format!("if '*' is present, must not specify other {named}"));
        }
        if member == "apiVersions" {
            list.items().filter(|version| version.text().is_empty()).for_each(|version| version.require(e, ""));
        }
    }
    resources(&at.get("resources"), e);
    if let Some(scope) = at.set("scope") {
        scope.one_of(e, &["*", "Cluster", "Namespaced"]);
    }
}

fn resources(at: &At, e: &mut ErrorList) {
    if at.len() == 0 {
        at.require(e, "");
    }
    let (mut of_all, mut all_of): (Vec<&str>, Vec<&str>) = (Vec::new(), Vec::new());
    let (mut everything, mut wildcard, mut plain) = (false, false, false);
    for item in at.items() {
        let text = item.text();
        if text.is_empty() {
            item.require(e, "");
            continue;
        }
        everything |= text == "*/*";
        wildcard |= text == "*";
        let Some((resource, part)) = text.split_once('/') else {
            // As upstream: the last one without a part decides.
            plain = text != "*";
            continue;
        };
        if all_of.contains(&resource) {
            item.invalid(e, format!("if '{resource}/*' is present, must not specify {text}"));
        }
        if of_all.contains(&part) {
            item.invalid(e, format!("if '*/{part}' is present, must not specify {text}"));
        }
        if part == "*" {
            all_of.push(resource);
        }
        if resource == "*" {
            of_all.push(part);
        }
    }
    if at.len() > 1 && everything {
        at.invalid(e, "if '*/*' is present, must not specify other resources");
    }
    if wildcard && plain {
        at.invalid(e, "if '*' is present, must not specify other resources without subresources");
    }
}

fn match_conditions(at: &At, params: bool, e: &mut ErrorList) {
    if at.len() > CONDITIONS_MAX {
        e.push(Error::too_many(&at.path(), at.len(), CONDITIONS_MAX));
    }
    let mut names: Vec<&str> = Vec::new();
    for condition in at.items() {
        let (name, expression) = (condition.get("name"), condition.get("expression"));
        match expression.text().trim() {
            "" => expression.require(e, ""),
            text => {
                let compiled = Compiler::stateless().compile(text, &[Type::Bool], Optional { params, authorizer: true });
                e.extend(compiled.err().map(|why| Error::invalid(&expression.path(), text, why)));
            }
        }
        name.required_name(e, validation::is_qualified_name);
        if !name.text().is_empty() && names.contains(&name.text()) {
            name.duplicate(e);
        }
        names.push(name.text());
    }
}

fn param_kind(at: &At, e: &mut ErrorList) {
    let (version, kind) = (at.get("apiVersion"), at.get("kind"));
    let parts: Vec<&str> = version.text().split('/').collect();
    match parts.as_slice() {
        _ if version.text().is_empty() => version.require(e, ""),
        ["", ""] => version.invalid(e, "version must be specified"),
        [_, _, _, ..] => version.invalid(e, format!("unexpected GroupVersion string: {}", version.text())),
        parts => {
            let (group, number) = if let [group, number] = parts { (*group, *number) } else { ("", parts[0]) };
            let mut wrong = |text: &str, why: Vec<String>| {
                if !why.is_empty() {
                    e.push(Error::invalid(&version.path(), text, why.join(",")));
                }
            };
            if !group.is_empty() {
                wrong(group, validation::is_dns1123_subdomain(group));
            }
            match number.is_empty() {
                true => wrong(version.text(), vec!["version must be specified".to_owned()]),
                false => wrong(number, validation::is_dns1035_label(number)),
            }
        }
    }
    let why = validation::is_dns1035_label(&kind.text().to_lowercase());
    if kind.required(e) && !why.is_empty() {
        kind.invalid(e, format!("may have mixed case, but should otherwise match: {}", why.join(",")));
    }
}

fn match_resources(at: &At, e: &mut ErrorList) {
    match at.set("matchPolicy") {
        None => at.get("matchPolicy").require(e, ""),
        Some(policy) => policy.one_of(e, &MATCH_POLICIES),
    }
    for member in ["namespaceSelector", "objectSelector"] {
        match at.set(member) {
            None => at.get(member).require(e, ""),
            Some(selector) => selector.label_selector(e),
        }
    }
    for member in ["resourceRules", "excludeResourceRules"] {
        for rule in at.get(member).items() {
            let mut seen: Vec<&str> = Vec::new();
            for name in rule.get("resourceNames").items() {
                name.check(e, validation::is_path_segment_name);
                if seen.contains(&name.text()) {
                    name.duplicate(e);
                }
                seen.push(name.text());
            }
            rule_with_operations(&rule, e);
        }
    }
}

fn binding(object: &Value, e: &mut ErrorList) {
    let root = At::root(object);
    let spec = root.get("spec");
    spec.get("policyName").required_name(e, subdomain);
    if let Some(reference) = spec.set("paramRef") {
        param_ref(&reference, e);
    }
    if let Some(resources) = spec.set("matchResources") {
        match_resources(&resources, e);
    }
    let actions = spec.get("validationActions");
    let mut seen: Vec<&str> = Vec::new();
    for action in actions.items() {
        action.one_of(e, &["Audit", "Deny", "Warn"]);
        if seen.contains(&action.text()) {
            action.duplicate(e);
        }
        seen.push(action.text());
    }
    if seen.contains(&"Deny") && seen.contains(&"Warn") {
        let why = "must not contain both Deny and Warn (repeating the same validation failure information in the API response and \
                   headers serves no purpose)";
        actions.invalid(e, why);
    }
    if seen.is_empty() {
        actions.require(e, "at least one validation action is required");
    }
}

fn param_ref(at: &At, e: &mut ErrorList) {
    let (name, selector, missing) = (at.get("name"), at.get("selector"), at.get("parameterNotFoundAction"));
    let both = !name.text().is_empty() && selector.is_set();
    name.check_set(e, validation::is_path_segment_name);
    if both {
        name.forbid(e, "name and selector are mutually exclusive");
    }
    selector.label_selector(e);
    if both {
        selector.forbid(e, "name and selector are mutually exclusive");
    }
    if name.text().is_empty() && !selector.is_set() {
        at.require(e, "one of name or selector must be specified");
    }
    missing.required_one_of(e, &["Deny", "Allow"]);
}

#[cfg(test)]
mod tests {
    use apimachinery::value;

    use super::super::table::tests::{assert_create, assert_update};
    use super::*;

    fn hook() -> Value {
        value!({
            "name": "a.b.c", "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "clientConfig": {"service": {"name": "a", "namespace": "b", "port": 443}},
            "rules": [{"operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods/*"]}]
        })
    }

    #[test]
    fn webhooks() {
        let with = |path: &[&str], value: Value| {
            let mut hook = hook();
            hook.set_path(path, value);
            value!([hook])
        };
        let hooks = &["webhooks"];
        assert_create(
            GROUP,
            "validatingwebhookconfigurations",
            &value!({"webhooks": [hook()]}),
            &[
                (hooks, value!([hook(), hook()]), &[r#"webhooks[1].name: Duplicate value: "a.b.c""#]),
                (
                    hooks,
                    with(&["sideEffects"], value!("Some")),
                    &[r#"webhooks[0].sideEffects: Unsupported value: "Some": supported values: "None", "NoneOnDryRun""#],
                ),
                (
                    hooks,
                    with(&["timeoutSeconds"], value!(31)),
                    &["webhooks[0].timeoutSeconds: Invalid value: 31: the timeout value must be between 1 and 30 seconds"],
                ),
                (
                    hooks,
                    with(&["clientConfig"], value!({})),
                    &["webhooks[0].clientConfig: Required value: exactly one of url or service is required"],
                ),
                (
                    hooks,
                    with(&["admissionReviewVersions"], value!(["v2"])),
                    &[r#"webhooks[0].admissionReviewVersions: Invalid value: ["v2"]: must include at least one of v1, v1beta1"#],
                ),
                (
                    hooks,
                    with(
                        &["rules"],
                        value!([{"operations": ["*", "CREATE"], "apiGroups": ["*", "a"], "apiVersions": [""], "resources": ["pods/*", "pods/log"]}]),
                    ),
                    &[
                        r#"webhooks[0].rules[0].operations: Invalid value: ["*","CREATE"]: if '*' is present, must not specify other operations"#,
                        r#"webhooks[0].rules[0].apiGroups: Invalid value: ["*","a"]: if '*' is present, must not specify other API groups"#,
                        "webhooks[0].rules[0].apiVersions[0]: Required value",
                        r#"webhooks[0].rules[0].resources[1]: Invalid value: "pods/log": if 'pods/*' is present, must not specify pods/log"#,
                    ],
                ),
            ],
        );
        let old = value!({"webhooks": with(&["sideEffects"], value!("Some"))});
        // It was so before.
        assert_update(GROUP, "mutatingwebhookconfigurations", &old, &[]);
    }

    #[test]
    fn bindings() {
        let valid = value!({"spec": {"policyName": "p", "validationActions": ["Deny"]}});
        assert_create(
            GROUP,
            "validatingadmissionpolicybindings",
            &valid,
            &[
                (
                    &["spec", "validationActions"],
                    value!([]),
                    &["spec.validationActions: Required value: at least one validation action is required"],
                ),
                (
                    &["spec", "paramRef"],
                    value!({}),
                    &[
                        "spec.paramRef: Required value: one of name or selector must be specified",
                        "spec.paramRef.parameterNotFoundAction: Required value",
                    ],
                ),
            ],
        );
    }
}
