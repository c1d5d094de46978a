//! Whether a request fits into quotas, and what they would have used with it (upstream's `CheckRequest`).

use apimachinery::quota::{
    Amounts, Evaluator, Requirement, amounts_at, exceeding, masked, print, requirements, sum, without_debts, without_zeros,
};
use apimachinery::{Reason, Status, Value};
use jiff::Timestamp;

use super::config::Limits;
use crate::admission::Attributes;
use crate::admission::plugins::forbidden;

/// A quota as it is in the store.
pub(super) struct Quota {
    pub(super) name: String,
    pub(super) used: Amounts,
    hard: Amounts,
    requirements: Vec<Requirement>,
    value: Value,
}

impl Quota {
    pub(super) fn new(value: Value) -> Self {
        Self {
            name: value.meta().name().to_owned(),
            used: amounts_at(&value, &["status", "used"]),
            hard: amounts_at(&value, &["status", "hard"]),
            requirements: requirements(&value),
            value,
        }
    }

    /// The object with another amount used.
    pub(super) fn with_used(&self, used: &Amounts) -> Value {
        let mut value = self.value.clone();
        let mut list = Value::object();
        for (name, amount) in used {
            list.insert(name.as_str(), Value::from(*amount));
        }
        value.set_path(&["status", "used"], list);
        value
    }

    fn applies_to(&self, evaluator: &Evaluator, object: &Value) -> bool {
        self.hard.keys().any(|name| evaluator.measures(name))
            && self.requirements.iter().all(|requirement| evaluator.fulfils(requirement, object))
    }
}

/// What is charged to a quota for the request, or to one that it does not fit into.
fn charge(quota: Option<&Quota>, evaluator: &Evaluator, attributes: &Attributes, usage: &Amounts, now: Timestamp) -> Amounts {
    // An object that was charged before pays the difference only.
    let before = attributes
        .old_object
        .as_ref()
        .filter(|old| !old.meta().resource_version().is_empty() && quota.is_none_or(|quota| quota.applies_to(evaluator, old)));
    without_zeros(match before {
        Some(old) => without_debts(usage, &evaluator.usage(old, now)),
        None => usage.clone(),
    })
}

fn as_go_prints(scope: &Requirement) -> String {
    format!("{{{} {} [{}]}}", scope.scope, scope.operator, scope.values.join(" "))
}

/// What must have a quota has one.
fn check_coverage(
    quotas: &[Quota],
    applying: &[usize],
    evaluator: &Evaluator,
    limits: &Limits,
    attributes: &Attributes,
    object: &Value,
    usage: &Amounts,
) -> Result<(), Status> {
    let restricted = |name: &str| applying.iter().any(|index| evaluator.measures(name) && quotas[*index].hard.contains_key(name));
    let uncovered: Vec<&str> = limits.names(usage).into_iter().filter(|name| !restricted(name)).collect();
    if !uncovered.is_empty() {
        return Err(forbidden(attributes, format!("insufficient quota to consume: {}", uncovered.join(","))));
    }
    let own = || quotas.iter().flat_map(|quota| &quota.requirements).filter(|own| evaluator.fulfils(own, object));
    let covered = |scope: &Requirement| own().any(|own| own.scope == scope.scope);
    let uncovered: Vec<String> =
        limits.scopes(evaluator, object).into_iter().filter(|scope| !covered(scope)).map(as_go_prints).collect();
    match uncovered.is_empty() {
        true => Ok(()),
        false => {
            let why = format!("insufficient quota to match these scopes: [{}]", uncovered.join(" "));
            Err(Status::new(Reason::Unknown, why))
        }
    }
}

/// What each quota has used once the request is granted, or why it is refused. `used` is what they have used so far.
pub(super) fn check(
    quotas: &[Quota],
    used: &[Amounts],
    evaluator: &Evaluator,
    limits: &Limits,
    attributes: &Attributes,
    now: Timestamp,
) -> Result<Vec<Amounts>, Status> {
    let mut after = used.to_vec();
    let Some(object) = &attributes.object else { return Ok(after) };
    let usage = evaluator.usage(object, now);
    let applying: Vec<usize> = (0..quotas.len()).filter(|i| quotas[*i].applies_to(evaluator, object)).collect();
    for index in &applying {
        let quota = &quotas[*index];
        let limited: Vec<&str> = quota.hard.keys().map(String::as_str).filter(|name| evaluator.measures(name)).collect();
        if let Err(why) = evaluator.constraints(&limited, object) {
            return Err(forbidden(attributes, format!("failed quota: {}: {why}", quota.name)));
        }
        if limited.iter().any(|name| !quota.used.contains_key(*name)) {
            let why = format!("status unknown for quota: {}, resources: {}", quota.name, limited.join(","));
            return Err(forbidden(attributes, why));
        }
    }
    let negative: Vec<&str> = usage.iter().filter(|(_, amount)| amount.signum() < 0).map(|(name, _)| name.as_str()).collect();
    if !negative.is_empty() {
        return Err(forbidden(attributes, format!("quota usage is negative for resource(s): {}", negative.join(","))));
    }
    let costs = |quota: Option<&Quota>| charge(quota, evaluator, attributes, &usage, now);
    let charges: Vec<Amounts> = applying.iter().map(|index| costs(Some(&quotas[*index]))).collect();
    let changes = match applying.is_empty() {
        true => !costs(None).is_empty(),
        false => charges.iter().any(|charge| !charge.is_empty()),
    };
    if !changes {
        return Ok(after);
    }
    check_coverage(quotas, &applying, evaluator, limits, attributes, object, &usage)?;
    for (index, charge) in applying.into_iter().zip(charges) {
        let quota = &quotas[index];
        let requested = masked(&charge, |name| quota.hard.contains_key(name));
        let total = sum(&after[index], &requested);
        let over = match attributes.subresource.as_str() {
            // What the system reports about itself is counted, not refused.
            "status" => Vec::new(),
            _ => exceeding(&masked(&total, |name| requested.contains_key(name)), &quota.hard),
        };
        if !over.is_empty() {
            let part = |amounts: &Amounts| print(&masked(amounts, |name| over.iter().any(|o| o == name)));
            let (asked, used, limited) = (part(&requested), part(&after[index]), part(&quota.hard));
            let why = format!("exceeded quota: {}, requested: {asked}, used: {used}, limited: {limited}", quota.name);
            return Err(forbidden(attributes, why));
        }
        after[index] = total;
    }
    Ok(after)
}
