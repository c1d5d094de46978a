//! Label selectors of typed objects, compiled once and matched often
//! (<https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/>).

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

pub(crate) type Labels = BTreeMap<String, String>;

/// A compiled label selector.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Selector {
    /// A selector that is absent, or cannot be understood, matches nothing; an empty one matches everything.
    nothing: bool,
    requirements: Vec<LabelSelectorRequirement>,
}

impl Selector {
    /// Matches nothing.
    pub(crate) fn nothing() -> Self {
        Self { nothing: true, requirements: Vec::new() }
    }

    /// Compiles a selector; an absent one matches nothing, as does one with an operator that does not exist.
    pub(crate) fn new(selector: Option<&LabelSelector>) -> Self {
        let Some(selector) = selector else { return Self::nothing() };
        let mut compiled = Self::from_labels(selector.match_labels.iter().flatten());
        for requirement in selector.match_expressions.iter().flatten() {
            if !matches!(requirement.operator.as_str(), "In" | "NotIn" | "Exists" | "DoesNotExist") {
                return Self::nothing();
            }
            compiled.requirements.push(requirement.clone());
        }
        compiled
    }

    /// Every one of these labels.
    pub(crate) fn from_labels<'a>(labels: impl IntoIterator<Item = (&'a String, &'a String)>) -> Self {
        let requirements = labels.into_iter().map(|(key, value)| requirement(key, "In", vec![value.clone()])).collect();
        Self { nothing: false, requirements }
    }

    /// Adds a requirement.
    pub(crate) fn require(&mut self, key: &str, operator: &str, values: Vec<String>) {
        self.requirements.push(requirement(key, operator, values));
    }

    /// Adds what another requires.
    pub(crate) fn extend(&mut self, other: Self) {
        self.nothing |= other.nothing;
        self.requirements.extend(other.requirements);
    }

    /// Whether it has no requirement, so that it matches everything.
    pub(crate) fn is_everything(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }

    /// Whether it matches nothing at all.
    pub(crate) fn is_nothing(&self) -> bool {
        self.nothing
    }

    /// The labels of which it asks for one of some values.
    pub(crate) fn values(&self) -> impl Iterator<Item = (&str, &[String])> {
        let listing = self.requirements.iter().filter(|requirement| requirement.operator == "In");
        listing.map(|requirement| (requirement.key.as_str(), requirement.values.as_deref().unwrap_or_default()))
    }

    /// Whether labels satisfy it.
    pub(crate) fn matches(&self, labels: Option<&Labels>) -> bool {
        !self.nothing && self.requirements.iter().all(|wanted| holds(wanted, labels.and_then(|labels| labels.get(&wanted.key))))
    }
}

fn requirement(key: &str, operator: &str, values: Vec<String>) -> LabelSelectorRequirement {
    LabelSelectorRequirement { key: key.to_owned(), operator: operator.to_owned(), values: Some(values) }
}

fn holds(requirement: &LabelSelectorRequirement, value: Option<&String>) -> bool {
    let listed = |value: &String| requirement.values.iter().flatten().any(|one| one == value);
    match requirement.operator.as_str() {
        "In" => value.is_some_and(listed),
        "NotIn" => !value.is_some_and(listed),
        "Exists" => value.is_some(),
        _ => value.is_none(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn absent_empty_and_expressions() {
        let labels = Labels::from([("app".to_owned(), "web".to_owned())]);
        let check = |selector: Value, expected: bool| {
            let typed: LabelSelector = serde_json::from_value(selector.clone()).unwrap();
            assert_eq!(Selector::new(Some(&typed)).matches(Some(&labels)), expected, "{selector}");
        };
        assert!(!Selector::new(None).matches(Some(&labels)));
        let one = |operator: &str, values: &[&str]| json!({"matchExpressions": [{"key": "app", "operator": operator, "values": values}]});
        check(json!({}), true);
        check(json!({"matchLabels": {"app": "web"}}), true);
        check(json!({"matchLabels": {"app": "db"}}), false);
        check(one("In", &["web"]), true);
        check(one("NotIn", &["web"]), false);
        check(one("NotIn", &["db"]), true);
        check(one("Exists", &[]), true);
        check(one("DoesNotExist", &[]), false);
        check(one("Near", &["web"]), false);
    }
}
