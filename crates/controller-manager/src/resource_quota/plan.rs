//! The status that a quota should have.

use std::collections::BTreeMap;

use apimachinery::quantity::Format;
use apimachinery::quota::{Amounts, Evaluator, Requirement, amounts_at, masked};
use apimachinery::{Quantity, Value};
use k8s_openapi::api::core::v1::ResourceQuotaStatus;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;

/// What a number of objects of a kind without scopes uses.
pub(super) fn counted(evaluator: &Evaluator, names: &[&str], requirements: &[Requirement], number: usize) -> Amounts {
    let number = if requirements.is_empty() { i64::try_from(number).unwrap_or(i64::MAX) } else { 0 };
    let measured = names.iter().filter(|name| evaluator.measures(name));
    measured.map(|name| ((*name).to_owned(), Quantity::new(number, Format::DecimalSi))).collect()
}

/// The status, if it is not yet as it should be. What could not be measured keeps the amount known before.
pub(super) fn plan(quota: &Value, usage: Amounts) -> Option<ResourceQuotaStatus> {
    let hard = amounts_at(quota, &["spec", "hard"]);
    let known = amounts_at(quota, &["status", "used"]);
    let mut used = known.clone();
    used.extend(usage);
    let used = masked(&used, |name| hard.contains_key(name));
    let missing = |part: &str| quota.get_path(&["status", part]).is_none();
    let dirty = hard != amounts_at(quota, &["status", "hard"]) || missing("hard") || missing("used") || used != known;
    dirty.then(|| ResourceQuotaStatus { hard: Some(api_amounts(hard)), used: Some(api_amounts(used)) })
}

fn api_amounts(amounts: Amounts) -> BTreeMap<String, ApiQuantity> {
    amounts.into_iter().map(|(name, amount)| (name, ApiQuantity(amount.to_string()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use apimachinery::quota::print;
    use serde_json::json;

    fn amounts(json: serde_json::Value) -> Amounts {
        amounts_at(&value(json), &[])
    }

    fn value(json: serde_json::Value) -> Value {
        Value::from_slice(json.to_string().as_bytes()).expect("JSON")
    }

    fn check(status: serde_json::Value, usage: serde_json::Value, expected: Option<(&str, &str)>) {
        let quota = value(json!({"spec": {"hard": {"cpu": "3", "pods": "5", "vendor.example/x": "1"}}, "status": status}));
        let planned = plan(&quota, amounts(usage));
        let text = |list: Option<BTreeMap<String, ApiQuantity>>| {
            let list = list.unwrap_or_default();
            list.into_iter().map(|(name, amount)| format!("{name}={}", amount.0)).collect::<Vec<_>>().join(",")
        };
        let planned = planned.map(|status| (text(status.hard), text(status.used)));
        assert_eq!(planned.as_ref().map(|(hard, used)| (hard.as_str(), used.as_str())), expected, "{status}");
    }

    #[test]
    fn the_status_follows_the_spec_and_the_usage() {
        let hard = "cpu=3,pods=5,vendor.example/x=1";
        let usage = json!({"cpu": "500m", "pods": "2", "services": "7"});
        check(json!({}), usage.clone(), Some((hard, "cpu=500m,pods=2")));
        let settled = json!({"hard": {"cpu": "3", "pods": "5", "vendor.example/x": "1"}, "used": {"cpu": "0.5", "pods": "2"}});
        check(settled.clone(), usage.clone(), None);
        check(settled, json!({"cpu": "1", "pods": "2"}), Some((hard, "cpu=1,pods=2")));
        let other_limits = json!({"hard": {"cpu": "2"}, "used": {"cpu": "500m", "memory": "1Gi"}});
        check(other_limits, usage.clone(), Some((hard, "cpu=500m,pods=2")));
        // What cannot be measured now stays.
        let known = json!({"hard": {"cpu": "3"}, "used": {"vendor.example/x": "1"}});
        check(known, usage, Some((hard, "cpu=500m,pods=2,vendor.example/x=1")));
    }

    #[test]
    fn objects_that_are_only_counted() {
        let evaluator = Evaluator::Count(vec!["count/secrets".to_owned(), "secrets".to_owned()]);
        let names = ["secrets", "pods"];
        assert_eq!(print(&counted(&evaluator, &names, &[], 3)), "secrets=3");
        let scope = Requirement { scope: "BestEffort".into(), operator: "Exists".into(), values: Vec::new() };
        assert_eq!(print(&counted(&evaluator, &names, &[scope], 3)), "secrets=0");
    }
}
