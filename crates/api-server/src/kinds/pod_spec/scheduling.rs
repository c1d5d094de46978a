//! Where a pod may run: affinity, tolerations, topology spread.

use apimachinery::field::{Error, ErrorList};
use apimachinery::{Value, validation};

use crate::kinds::at::{At, subdomain};

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
const WEIGHT: &str = "must be in the range 1-100";

pub(super) fn affinity(at: &At, e: &mut ErrorList) {
    if let Some(node) = at.set("nodeAffinity") {
        if let Some(selector) = node.set(REQUIRED) {
            node_selector(&selector, e);
        }
        for term in node.get(PREFERRED).items() {
            if !(1..=100).contains(&term.get("weight").int()) {
                term.get("weight").invalid_int(e, WEIGHT);
            }
            node_selector_term(&term.get("preference"), false, e);
        }
    }
    for member in ["podAffinity", "podAntiAffinity"] {
        let Some(pods) = at.set(member) else { continue };
        for term in pods.get(REQUIRED).items() {
            pod_term(&term, e);
        }
        for term in pods.get(PREFERRED).items() {
            if !(1..=100).contains(&term.get("weight").int()) {
                term.get("weight").invalid_int(e, WEIGHT);
            }
            pod_term(&term.get("podAffinityTerm"), e);
        }
    }
}

/// Which group of pods it is scheduled with (KEP-4671).
pub(super) fn workload_reference(at: &At, e: &mut ErrorList) {
    if at.is_set() || at.was_sent_empty() {
        at.get("name").check(e, validation::is_dns1123_subdomain);
        at.get("podGroup").check(e, validation::is_dns1123_label);
        at.get("podGroupReplicaKey").check_set(e, validation::is_dns1123_label);
    }
}

/// A core.v1.NodeSelector.
pub(in crate::kinds) fn node_selector(at: &At, e: &mut ErrorList) {
    let terms = at.get("nodeSelectorTerms");
    if terms.len() == 0 {
        terms.require(e, "must have at least one node selector term");
    }
    for term in terms.items() {
        node_selector_term(&term, true, e);
    }
}

fn node_selector_term(at: &At, check_values: bool, e: &mut ErrorList) {
    for requirement in at.get("matchExpressions").items() {
        let (operator, values) = (requirement.get("operator"), requirement.get("values"));
        match operator.text() {
            "In" | "NotIn" if values.len() == 0 => {
                values.require(e, "must be specified when `operator` is 'In' or 'NotIn'");
            }
            "Exists" | "DoesNotExist" if values.len() > 0 => {
                values.forbid(e, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
            }
            "Gt" | "Lt" if values.len() != 1 => {
                values.require(e, "must be specified single value when `operator` is 'Lt' or 'Gt'");
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
            _ => operator.invalid_text(e, "not a valid selector operator"),
        }
        requirement.get("key").label_name(e);
        if check_values {
            values.items().for_each(|value| value.check(e, validation::is_label_value));
        }
    }
    for requirement in at.get("matchFields").items() {
        let (operator, values) = (requirement.get("operator"), requirement.get("values"));
        match operator.text() {
            "In" | "NotIn" if values.len() != 1 => {
                values.require(e, "must be only one value when `operator` is 'In' or 'NotIn' for node field selector");
            }
            "In" | "NotIn" => {}
            _ => operator.invalid_text(e, "not a valid selector operator"),
        }
        if requirement.get("key").text() == "metadata.name" {
            values.items().for_each(|value| value.check(e, subdomain));
        } else {
            requirement.get("key").invalid_text(e, "not a valid field selector key");
        }
    }
}

fn pod_term(at: &At, e: &mut ErrorList) {
    at.get("labelSelector").label_selector(e);
    at.get("namespaceSelector").label_selector(e);
    for name in at.get("namespaces").items() {
        at.get("namespace").with(name.value).check(e, validation::is_dns1123_label);
    }
    label_keys(at, &["matchLabelKeys", "mismatchLabelKeys"], e);
    let key = at.get("topologyKey");
    if key.text().is_empty() {
        key.require(e, "can not be empty");
    }
    key.label_name(e);
}

fn label_keys(at: &At, members: &[&'static str], e: &mut ErrorList) {
    let selector = at.get("labelSelector");
    for member in members {
        let keys = at.get(member);
        if keys.len() > 0 && !selector.is_set() {
            keys.forbid(e, "must not be specified when labelSelector is not set");
        } else {
            keys.items().for_each(|key| key.label_name(e));
        }
    }
    let matching = at.get("matchLabelKeys");
    let mut known: Vec<&str> = selector.get("matchLabels").entries().map(|(key, _)| key).collect();
    for expression in selector.get("matchExpressions").items() {
        let key = expression.get("key").text();
        let place = matching.value.as_array().unwrap_or_default().iter().position(|listed| *listed == *key);
        if let Some(i) = place.filter(|_| known.contains(&key)) {
            e.push(Error::invalid(&at.path().index(i), key, "exists in both matchLabelKeys and labelSelector"));
        }
        known.push(key);
    }
    let mismatching = at.value.array_at(&["mismatchLabelKeys"]);
    for key in matching.items().filter(|key| mismatching.contains(key.value)) {
        key.invalid(e, "exists in both matchLabelKeys and mismatchLabelKeys");
    }
}

pub(in crate::kinds) fn tolerations(at: &At, e: &mut ErrorList) {
    for toleration in at.items() {
        let (key, operator, value) = (toleration.get("key"), toleration.get("operator"), toleration.get("value"));
        let effect = toleration.get("effect");
        if !key.text().is_empty() {
            key.label_name(e);
        } else if operator.text() != "Exists" {
            let why = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            operator.invalid_text(e, why);
        }
        if toleration.get("tolerationSeconds").is_set() && effect.text() != "NoExecute" {
            effect.invalid_text(e, "effect must be 'NoExecute' when `tolerationSeconds` is set");
        }
        match operator.text() {
            "Equal" | "" => {
                let why = validation::is_label_value(value.text());
                if !why.is_empty() {
                    operator.with(value.value).invalid_text(e, why.join(";"));
                }
            }
            "Exists" if !value.text().is_empty() => {
                operator.with(value.value).invalid_text(e, "value must be empty when `operator` is 'Exists'");
            }
            "Exists" => {}
            // Alpha; upstream's list names them all the same.
            "Lt" | "Gt" => e.push(Error::not_supported(&operator.path(), operator.text(), &["Equal", "Exists", "Lt", "Gt"])),
            _ => operator.one_of(e, &["Equal", "Exists"]),
        }
        if !effect.text().is_empty() {
            effect.one_of(e, &EFFECTS);
        }
    }
}

/// What is wrong with a list of tolerations that stands in a configuration, at a place of two members.
pub(crate) fn toleration_errors(whole: &Value, [above, list]: [&str; 2]) -> ErrorList {
    let mut e = ErrorList::new();
    let root = At::root(whole);
    tolerations(&root.get(above).get(list), &mut e);
    e
}

/// Effects of taints, in upstream's order.
pub(in crate::kinds) const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

/// In upstream's words for these.
fn above_zero(at: &At, e: &mut ErrorList) {
    if at.int() <= 0 {
        at.invalid_int(e, "must be greater than zero");
    }
}

pub(super) fn topology_spread(at: &At, e: &mut ErrorList) {
    let list = at.value.as_array().unwrap_or_default();
    for (i, constraint) in at.items().enumerate() {
        above_zero(&constraint.get("maxSkew"), e);
        if constraint.get("topologyKey").text().is_empty() {
            constraint.get("topologyKey").require(e, "can not be empty");
        }
        let action = constraint.get("whenUnsatisfiable");
        action.one_of(e, &["DoNotSchedule", "ScheduleAnyway"]);
        let same =
            |other: &Value| ["topologyKey", "whenUnsatisfiable"].iter().all(|member| other[*member] == constraint.value[*member]);
        if list[i + 1..].iter().any(same) {
            let text = format!("{{{}, {}}}", constraint.get("topologyKey").text(), action.text());
            e.push(Error::duplicate(&constraint.get("{topologyKey, whenUnsatisfiable}").path(), text));
        }
        if let Some(domains) = constraint.set("minDomains") {
            above_zero(&domains, e);
            if action.text() != "DoNotSchedule" {
                let why = format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {}", action.text());
                domains.invalid(e, why);
            }
        }
        for member in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            if let Some(policy) = constraint.set(member) {
                policy.one_of(e, &["Honor", "Ignore"]);
            }
        }
        label_keys(&constraint, &["matchLabelKeys"], e);
        constraint.get("labelSelector").label_selector(e);
    }
}
