//! Node selectors: the label and field requirements of `nodeSelector` and `nodeAffinity`
//! (<https://kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node/>).

use k8s_openapi::api::core::v1::{Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm};

/// Whether one of the terms matches; a term that is empty matches nothing.
pub fn selector_matches(selector: &NodeSelector, node: &Node) -> bool {
    selector.node_selector_terms.iter().any(|term| term_matches(term, node))
}

/// Whether all requirements of a term hold; an empty term matches nothing.
pub fn term_matches(term: &NodeSelectorTerm, node: &Node) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    let labels = node.metadata.labels.as_ref();
    expressions.iter().all(|requirement| holds(requirement, labels.and_then(|labels| labels.get(&requirement.key))))
        && fields.iter().all(|requirement| {
            // The only field that the API server admits.
            requirement.key == "metadata.name" && holds(requirement, node.metadata.name.as_ref())
        })
}

fn holds(requirement: &NodeSelectorRequirement, value: Option<&String>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let compare = |operation: fn(&i64, &i64) -> bool| {
        let (Some(value), [bound]) = (value, values) else { return false };
        matches!((value.parse(), bound.parse()), (Ok(value), Ok(bound)) if operation(&value, &bound))
    };
    match requirement.operator.as_str() {
        "In" => value.is_some_and(|value| values.contains(value)),
        "NotIn" => value.is_none_or(|value| !values.contains(value)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compare(i64::gt),
        "Lt" => compare(i64::lt),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn operators() {
        let node: Node =
            serde_json::from_value(json!({"metadata": {"name": "n1", "labels": {"zone": "a", "size": "5"}}})).unwrap();
        let check = |key: &str, operator: &str, values: &[&str], expected: bool| {
            let term: NodeSelectorTerm =
                serde_json::from_value(json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]}))
                    .unwrap();
            assert_eq!(term_matches(&term, &node), expected, "{key} {operator} {values:?}");
        };
        check("zone", "In", &["a", "b"], true);
        check("zone", "In", &["b"], false);
        check("none", "In", &["a"], false);
        check("zone", "NotIn", &["b"], true);
        check("none", "NotIn", &["b"], true);
        check("zone", "NotIn", &["a"], false);
        check("zone", "Exists", &[], true);
        check("none", "Exists", &[], false);
        check("none", "DoesNotExist", &[], true);
        check("size", "Gt", &["4"], true);
        check("size", "Gt", &["5"], false);
        check("size", "Lt", &["6"], true);
        check("zone", "Gt", &["1"], false);
        check("zone", "Near", &["a"], false);
    }

    #[test]
    fn fields_and_empty_terms() {
        let node: Node = serde_json::from_value(json!({"metadata": {"name": "n1"}})).unwrap();
        let check = |term: serde_json::Value, expected| {
            assert_eq!(term_matches(&serde_json::from_value(term).unwrap(), &node), expected);
        };
        check(json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}), true);
        check(json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n2"]}]}), false);
        check(json!({}), false);
    }
}
