//! Matching of label selectors. A selector that is absent matches nothing, an empty one matches everything
//! (<https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors>).

use std::collections::BTreeMap;
use std::sync::LazyLock;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use kube::core::{Selector, SelectorExt};

static NO_LABELS: LazyLock<BTreeMap<String, String>> = LazyLock::new(BTreeMap::new);

/// A parsed selector.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Matcher(Option<Selector>);

impl Matcher {
    /// Parses a selector; `None` if it is invalid (the API server does not let one in).
    pub(crate) fn new(selector: &LabelSelector) -> Option<Self> {
        Selector::try_from(selector.clone()).ok().map(|selector| Self(Some(selector)))
    }

    /// From `key: value` pairs; none match nothing, as in a Service or ReplicationController.
    pub(crate) fn from_map(labels: Option<&BTreeMap<String, String>>) -> Self {
        Self(
            labels.filter(|labels| !labels.is_empty()).map(|labels| labels.iter().map(|(k, v)| (k.clone(), v.clone())).collect()),
        )
    }

    pub(crate) fn matches(&self, meta: &ObjectMeta) -> bool {
        let Some(selector) = &self.0 else { return false };
        selector.matches(meta.labels.as_ref().unwrap_or(&NO_LABELS))
    }
}

/// Whether `labels` holds every pair of `wanted`.
pub(crate) fn contains_labels(labels: Option<&BTreeMap<String, String>>, wanted: Option<&BTreeMap<String, String>>) -> bool {
    let labels = labels.unwrap_or(&NO_LABELS);
    wanted.into_iter().flatten().all(|(key, value)| labels.get(key) == Some(value))
}

/// A selector as upstream prints it in messages.
pub(crate) fn selector_text(selector: Option<&LabelSelector>) -> String {
    let Some(selector) = selector else { return "nil".to_owned() };
    let labels: String = selector.match_labels.iter().flatten().map(|(key, value)| format!("{key}: {value},")).collect();
    let expressions = selector.match_expressions.iter().flatten().map(|expression| {
        let values = expression.values.clone().unwrap_or_default().join(" ");
        format!("LabelSelectorRequirement{{Key:{},Operator:{},Values:[{values}],}},", expression.key, expression.operator)
    });
    let expressions: String = expressions.collect();
    format!(
        "&LabelSelector{{MatchLabels:map[string]string{{{labels}}},MatchExpressions:[]LabelSelectorRequirement{{{expressions}}},}}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn selectors_in_messages() {
        let expressions = json!([{"key": "k", "operator": "In", "values": ["x", "y"]}]);
        let selector = json!({"matchLabels": {"b": "2", "a": "1"}, "matchExpressions": expressions});
        let selector = serde_json::from_value(selector).expect("is a selector");
        let expected = "&LabelSelector{MatchLabels:map[string]string{a: 1,b: 2,},MatchExpressions:[]LabelSelectorRequirement{LabelSelectorRequirement{Key:k,Operator:In,Values:[x y],},},}";
        assert_eq!(selector_text(Some(&selector)), expected);
        assert_eq!(selector_text(None), "nil");
    }
}
