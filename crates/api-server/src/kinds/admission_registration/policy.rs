//! ValidatingAdmissionPolicies: their rules, and whether their expressions compile.

use apimachinery::field::{Error, ErrorList};
use apimachinery::{Value, validation};
use cel::Type;
use cel::admission::{Compiler, Optional};

use super::super::at::At;
use super::super::conditions::conditions;
use super::super::json_path;
use super::{FAILURE_POLICIES, match_conditions, match_resources, param_kind};

const ANNOTATIONS_MAX: usize = 20;
const VALUE_EXPRESSION_BYTES_MAX: usize = 5 << 10;

pub(super) fn create(object: &Value, e: &mut ErrorList) {
    policy(object, true, e);
}

pub(super) fn update(object: &Value, old: &Value, e: &mut ErrorList) {
    let same = |member: &str| object["spec"][member] == old["spec"][member];
    policy(object, !(same("paramKind") && same("matchConditions")), e);
}

fn policy(object: &Value, conditions: bool, e: &mut ErrorList) {
    let root = At::root(object);
    let spec = root.get("spec");
    match spec.set("failurePolicy") {
        None => spec.get("failurePolicy").require(e, ""),
        Some(policy) => policy.one_of(e, &FAILURE_POLICIES),
    }
    if let Some(kind) = spec.set("paramKind") {
        param_kind(&kind, e);
    }
    match spec.set("matchConstraints") {
        None => spec.get("matchConstraints").require(e, ""),
        Some(constraints) => {
            match_resources(&constraints, e);
            if constraints.get("resourceRules").len() == 0 {
                constraints.get("resourceRules").require(e, "");
            }
        }
    }
    let params = spec.get("paramKind").is_set();
    if conditions {
        match_conditions(&spec.get("matchConditions"), params, e);
    }
    let mut expressions = Expressions::of(&spec.get("variables"), params);
    for variable in spec.get("variables").items() {
        let (name, expression) = (variable.get("name"), variable.get("expression"));
        if name.text().trim().is_empty() {
            name.require(e, "name is not specified");
        } else if !cel::names::is_identifier(name.text()) {
            name.invalid(e, "must be a valid CEL identifier");
        }
        if expression.text().trim().is_empty() {
            expression.require(e, "expression is not specified");
        } else {
            expressions.add_variable(name.text(), &expression, e);
        }
    }
    let (validations, annotations) = (spec.get("validations"), spec.get("auditAnnotations"));
    if validations.len() == 0 && annotations.len() == 0 {
        let why = "validations or auditAnnotations must contain at least one item";
        validations.require(e, why);
        return annotations.require(e, why);
    }
    validations.items().for_each(|at| policy_validation(&at, &expressions, e));
    audit_annotations(&annotations, object.meta().name(), &expressions, e);
}

/// What compiles the expressions of one policy: what a variable is called and evaluates to is known to those after it.
struct Expressions {
    own: Option<Compiler>,
    params: bool,
}

impl Expressions {
    fn of(variables: &At, params: bool) -> Self {
        Self { own: (variables.len() > 0).then(Compiler::for_policy), params }
    }

    fn add_variable(&mut self, name: &str, at: &At, e: &mut ErrorList) {
        let optional = Optional { params: self.params, authorizer: true };
        if let Some(Err(why)) = self.own.as_mut().map(|own| own.add_variable(name, at.text(), optional)) {
            at.invalid(e, why);
        }
    }

    /// Compiles `expression`, which is the text at `at` or a part of it. Messages are made without an authorizer.
    fn check(&self, at: &At, expression: &str, wanted: &[Type], authorizer: bool, e: &mut ErrorList) {
        let compiler = self.own.as_ref().unwrap_or_else(|| Compiler::stateless());
        if let Err(why) = compiler.compile(expression, wanted, Optional { params: self.params, authorizer }) {
            at.invalid(e, why);
        }
    }
}

fn policy_validation(at: &At, expressions: &Expressions, e: &mut ErrorList) {
    let (expression, message, detail) = (at.get("expression"), at.get("message"), at.get("messageExpression"));
    if expression.text().trim().is_empty() {
        expression.require(e, "expression is not specified");
    } else {
        expressions.check(&expression, expression.text(), &[Type::Bool], true, e);
    }
    match detail.text() {
        "" => {}
        text if text.trim().is_empty() => detail.invalid(e, "must be non-empty if specified"),
        text => expressions.check(&detail, text, &[Type::String], false, e),
    }
    let trimmed = message.text().trim();
    if !message.text().is_empty() && trimmed.is_empty() {
        message.invalid(e, "must be non-empty if specified");
    } else if trimmed.contains(['\n', '\r']) {
        message.invalid(e, "must not contain line breaks");
    }
    if let Some(reason) = at.set("reason") {
        reason.one_of(e, &["Forbidden", "Invalid", "RequestEntityTooLarge"]);
    }
}

fn audit_annotations(at: &At, policy: &str, expressions: &Expressions, e: &mut ErrorList) {
    if at.len() > ANNOTATIONS_MAX {
        let why = format!("must not have more than {ANNOTATIONS_MAX} auditAnnotations");
        at.invalid(e, why);
    }
    let mut keys: Vec<&str> = Vec::new();
    for annotation in at.items() {
        let (key, expression) = (annotation.get("key"), annotation.get("valueExpression"));
        if policy.is_empty() {
            key.invalid_text(e, "requires metadata.name be non-empty");
        } else {
            let name = format!("{policy}/{}", key.text());
            e.extend(validation::is_qualified_name(&name).into_iter().map(|why| Error::invalid(&key.path(), name.as_str(), why)));
        }
        let trimmed = expression.text().trim();
        if trimmed.is_empty() {
            expression.require(e, "valueExpression is not specified");
        } else if trimmed.len() > VALUE_EXPRESSION_BYTES_MAX {
            expression.require(e, &format!("must not exceed {VALUE_EXPRESSION_BYTES_MAX} bytes in length"));
        } else {
            expressions.check(&expression, trimmed, &[Type::String, Type::Null], true, e);
        }
        if keys.contains(&key.text()) {
            e.push(Error::duplicate(&key.path(), key.text()));
        }
        keys.push(key.text());
    }
}

pub(super) fn status(object: &Value, _old: &Value, e: &mut ErrorList) {
    let root = At::root(object);
    let status = root.get("status");
    let checking = status.get("typeChecking");
    for warning in checking.get("expressionWarnings").items() {
        warning.get("warning").required(e);
        let field = warning.get("fieldRef");
        match field.text().trim() {
            "" => field.require(e, ""),
            path => {
                if let Err(why) = json_path::check(path) {
                    e.push(Error::invalid(&field.path(), path, format!("invalid JSONPath: {why}")));
                }
            }
        }
    }
    conditions(&status.get("conditions"), e);
}

#[cfg(test)]
mod tests {
    use apimachinery::value;

    use super::super::super::table::tests::{assert_create, assert_status};
    use super::super::GROUP;
    use super::*;

    #[test]
    fn policies() {
        let rule = value!({"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]});
        let valid = value!({"metadata": {"name": "p"}, "spec": {
            "failurePolicy": "Fail", "validations": [{"expression": "true"}],
            "matchConstraints": {"matchPolicy": "Exact", "namespaceSelector": {}, "objectSelector": {}, "resourceRules": [rule]}
        }});
        let resource = "validatingadmissionpolicies";
        assert_create(
            GROUP,
            resource,
            &valid,
            &[
                (&["spec", "matchConstraints"], Value::Null, &["spec.matchConstraints: Required value"]),
                (&["spec", "paramKind"], value!({"apiVersion": "v1", "kind": ""}), &["spec.paramKind.kind: Required value"]),
                (
                    &["spec", "validations"],
                    value!([{"expression": "true", "message": "a\nb"}]),
                    &["spec.validations[0].message: Invalid value: \"a\\nb\": must not contain line breaks"],
                ),
                (
                    &["spec", "variables"],
                    value!([{"name": "1a", "expression": ""}]),
                    &[
                        r#"spec.variables[0].name: Invalid value: "1a": must be a valid CEL identifier"#,
                        "spec.variables[0].expression: Required value: expression is not specified",
                    ],
                ),
                (
                    &["spec", "auditAnnotations"],
                    value!([{"key": "a", "valueExpression": "'x'"}, {"key": "a", "valueExpression": "null"}]),
                    &[r#"spec.auditAnnotations[1].key: Duplicate value: "a""#],
                ),
            ],
        );
        assert_status(
            GROUP,
            resource,
            &valid,
            &[(
                &["status"],
                value!({"typeChecking": {"expressionWarnings": [{"fieldRef": "a", "warning": ""}]}}),
                &["status.typeChecking.expressionWarnings[0].warning: Required value"],
            )],
        );
    }
}
