//! `podFailurePolicy`, `podReplacementPolicy` and `successPolicy` of a Job.

use apimachinery::field::{Error, ErrorList};
use apimachinery::{go_quote, validation};

use super::indexes;
use crate::kinds::at::At;

const RULES_MAX: usize = 20;
const EXIT_CODES_MAX: usize = 255;
const PATTERNS_MAX: usize = 20;
const SUCCEEDED_INDEXES_BYTES_MAX: usize = 64 * 1024;

const ACTIONS: [&str; 4] = ["Count", "FailIndex", "FailJob", "Ignore"];
const OPERATORS: [&str; 2] = ["In", "NotIn"];
const STATUSES: [&str; 3] = ["False", "True", "Unknown"];

/// An error without the value, which would be too much to print.
pub(super) fn invalid_whole(at: &At, e: &mut ErrorList, why: impl Into<String>) {
    e.push(Error { bad_value: None, ..Error::invalid(&at.path(), "", why) });
}

pub(super) fn too_many(at: &At, most: usize, e: &mut ErrorList) {
    if at.len() > most {
        e.push(Error::too_many(&at.path(), at.len(), most));
    }
}

/// Required, and one of these; the message names them as Go prints a list.
fn chosen(at: &At, known: &[&str], e: &mut ErrorList) {
    if at.text().is_empty() {
        let quoted: Vec<String> = known.iter().map(|name| go_quote(name)).collect();
        at.require(e, &format!("valid values: [{}]", quoted.join(" ")));
    } else {
        at.one_of(e, known);
    }
}

pub(super) fn failure(spec: &At, e: &mut ErrorList) {
    let Some(policy) = spec.set("podFailurePolicy") else { return };
    let rules = policy.get("rules");
    too_many(&rules, RULES_MAX, e);
    let template = &spec.value["template"]["spec"];
    let containers = template.array_at(&["containers"]).iter().chain(template.array_at(&["initContainers"]));
    let names: Vec<&str> = containers.filter_map(|container| container["name"].as_str()).collect();
    let per_index = spec.get("backoffLimitPerIndex").is_set();
    rules.items().for_each(|rule| failure_rule(&rule, per_index, &names, e));
}

fn failure_rule(rule: &At, per_index: bool, containers: &[&str], e: &mut ErrorList) {
    let action = rule.get("action");
    if action.text() == "FailIndex" && !per_index {
        action.invalid(e, "requires the backoffLimitPerIndex to be set");
    } else {
        chosen(&action, &ACTIONS, e);
    }
    let (codes, conditions) = (rule.get("onExitCodes"), rule.get("onPodConditions"));
    if codes.is_set() {
        exit_codes(&codes, containers, e);
    }
    if conditions.len() > 0 {
        pod_conditions(&conditions, e);
    }
    match (codes.is_set(), conditions.len() > 0) {
        (true, true) => invalid_whole(rule, e, "specifying both OnExitCodes and OnPodConditions is not supported"),
        (false, false) => invalid_whole(rule, e, "specifying one of OnExitCodes and OnPodConditions is required"),
        _ => {}
    }
}

fn pod_conditions(at: &At, e: &mut ErrorList) {
    too_many(at, PATTERNS_MAX, e);
    for pattern in at.items() {
        pattern.get("type").check(e, validation::is_qualified_name);
        chosen(&pattern.get("status"), &STATUSES, e);
    }
}

fn exit_codes(at: &At, containers: &[&str], e: &mut ErrorList) {
    let operator = at.get("operator");
    chosen(&operator, &OPERATORS, e);
    if let Some(name) = at.set("containerName").filter(|name| !containers.contains(&name.text())) {
        name.invalid(e, "must be one of the container or initContainer names in the pod template");
    }
    let values = at.get("values");
    if values.len() == 0 {
        values.invalid(e, "at least one value is required");
    }
    too_many(&values, EXIT_CODES_MAX, e);
    let mut seen: Vec<i64> = Vec::new();
    for value in values.items() {
        if operator.text() == "In" && value.int() == 0 {
            value.invalid(e, "must not be 0 for the In operator");
        }
        if seen.contains(&value.int()) {
            value.duplicate(e);
        }
        seen.push(value.int());
    }
    if !seen.is_sorted() {
        values.invalid(e, "must be ordered");
    }
}

pub(super) fn replacement(spec: &At, e: &mut ErrorList) {
    if let Some(policy) = spec.set("podReplacementPolicy") {
        let failure_policy = spec.get("podFailurePolicy").is_set();
        policy.one_of(e, if failure_policy { &["Failed"] } else { &["Failed", "TerminatingOrFailed"] });
    }
}

pub(super) fn success(spec: &At, e: &mut ErrorList) {
    let Some(policy) = spec.set("successPolicy") else { return };
    if spec.get("completionMode").text() != "Indexed" {
        return policy.invalid_internal(e, "batch.v1.SuccessPolicy", "requires indexed completion mode");
    }
    let rules = policy.get("rules");
    if rules.len() == 0 {
        rules.require(e, "at least one rules must be specified when the successPolicy is specified");
    }
    too_many(&rules, RULES_MAX, e);
    let completions = spec.get("completions").int();
    rules.items().for_each(|rule| success_rule(&rule, completions, e));
}

fn success_rule(rule: &At, completions: i64, e: &mut ErrorList) {
    let (count, list) = (rule.get("succeededCount"), rule.get("succeededIndexes"));
    if !count.is_set() && !list.is_set() {
        rule.require(e, "at least one of succeededCount or succeededIndexes must be specified");
    }
    let mut total = 0;
    if list.is_set() {
        if list.text().len() > SUCCEEDED_INDEXES_BYTES_MAX {
            list.too_long(e, SUCCEEDED_INDEXES_BYTES_MAX);
        }
        match indexes::count(list.text(), completions) {
            Ok(count) => total = count,
            Err(why) => list.invalid(e, format!("error parsing succeededIndexes: {why}")),
        }
    }
    if count.is_set() {
        count.non_negative(e);
        if count.int() > completions {
            count.invalid(e, format!("must be less than or equal to {completions} (the number of specified completions)"));
        }
        if list.is_set() && count.int() > total {
            let whose = "the number of indexes in the specified succeededIndexes field";
            count.invalid(e, format!("must be less than or equal to {total} ({whose})"));
        }
    }
}
