//! Node selectors: the label and field requirements of `nodeSelector` and `nodeAffinity`
//! (<https://kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node/>).

use apimachinery::validation;
use k8s_openapi::api::core::v1::{Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodSpec};

/// Whether a pod with this spec may be on the node, as far as its `nodeSelector` and required node affinity decide.
pub fn accepts(spec: &PodSpec, node: &Node) -> bool {
    let labels = node.metadata.labels.as_ref();
    let selected =
        spec.node_selector.iter().flatten().all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value));
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required = affinity.and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    selected && required.is_none_or(|selector| selector_matches(selector, node))
}

/// Whether one of the terms matches; a term that is empty, or malformed, matches nothing.
pub fn selector_matches(selector: &NodeSelector, node: &Node) -> bool {
    selector.node_selector_terms.iter().any(|term| term_matches(term, node))
}

/// Whether all requirements of a term hold; an empty term, or one that is malformed, matches nothing.
pub fn term_matches(term: &NodeSelectorTerm, node: &Node) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    let labels = node.metadata.labels.as_ref();
    let label_holds = |requirement: &NodeSelectorRequirement| {
        holds(requirement, labels.and_then(|labels| labels.get(&requirement.key))) && is_of_labels(requirement)
    };
    expressions.iter().all(label_holds)
        && fields.iter().all(|requirement| {
            // The only field, and the only operators, that the API server admits.
            let known = requirement.key == "metadata.name" && matches!(requirement.operator.as_str(), "In" | "NotIn");
            known
                && requirement.values.as_ref().is_some_and(|values| values.len() == 1)
                && holds(requirement, node.metadata.name.as_ref())
        })
}

/// Whether key and values are such as labels have; asked of what holds alone, because this is asked for each node.
fn is_of_labels(requirement: &NodeSelectorRequirement) -> bool {
    let mut values = requirement.values.iter().flatten();
    validation::is_qualified_name(&requirement.key).is_empty() && values.all(|value| validation::is_label_value(value).is_empty())
}

fn holds(requirement: &NodeSelectorRequirement, value: Option<&String>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let compare = |operation: fn(&i64, &i64) -> bool| {
        let (Some(value), [bound]) = (value, values) else { return false };
        matches!((value.parse(), bound.parse()), (Ok(value), Ok(bound)) if operation(&value, &bound))
    };
    match requirement.operator.as_str() {
        "In" => value.is_some_and(|value| values.contains(value)),
        "NotIn" => !values.is_empty() && value.is_none_or(|value| !values.contains(value)),
        "Exists" => values.is_empty() && value.is_some(),
        "DoesNotExist" => values.is_empty() && value.is_none(),
        "Gt" => compare(i64::gt),
        "Lt" => compare(i64::lt),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn which_nodes_accept_a_pod() {
        let node: Node =
            serde_json::from_value(json!({"metadata": {"name": "n1", "labels": {"zone": "a", "size": "5"}}})).unwrap();
        let required = |terms: Value| json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}});
        let expression = |key: &str, operator: &str, values: Value| json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]});
        for (spec, expected) in [
            (json!({}), true),
            (json!({"nodeSelector": {"zone": "a"}}), true),
            (json!({"nodeSelector": {"zone": "b"}}), false),
            (required(json!([])), false),
            (required(json!([{}])), false),
            (required(json!([expression("zone", "In", json!(["a"]))])), true),
            (required(json!([expression("zone", "In", json!(["b"])), expression("size", "Gt", json!(["4"]))])), true),
            (required(json!([expression("size", "Lt", json!(["4"]))])), false),
        ] {
            let mut value = json!({"containers": []});
            value.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
            assert_eq!(accepts(&serde_json::from_value(value).unwrap(), &node), expected, "{spec}");
        }
    }

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
        // Malformed, and so true of nothing.
        check("zone", "Near", &["a"], false);
        check("zone", "Exists", &["a"], false);
        check("none", "DoesNotExist", &["a"], false);
        check("zone", "NotIn", &[], false);
        check("size", "Gt", &["4", "4"], false);
        check("zone", "In", &["not a label value!"], false);
        check("zone", "In", &["a", "not a label value!"], false);
        check("zone", "NotIn", &["not a label value!"], false);
        check("not a key!", "DoesNotExist", &[], false);
    }

    #[test]
    fn fields_and_empty_terms() {
        let node: Node = serde_json::from_value(json!({"metadata": {"name": "n1"}})).unwrap();
        let check = |term: serde_json::Value, expected| {
            assert_eq!(term_matches(&serde_json::from_value(term).unwrap(), &node), expected);
        };
        check(json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}), true);
        check(json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n2"]}]}), false);
        check(json!({"matchFields": [{"key": "metadata.name", "operator": "NotIn", "values": ["n2"]}]}), true);
        check(json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1", "n2"]}]}), false);
        check(json!({"matchFields": [{"key": "metadata.name", "operator": "Exists"}]}), false);
        check(json!({"matchFields": [{"key": "metadata.namespace", "operator": "In", "values": ["n1"]}]}), false);
        check(json!({}), false);
    }
}
