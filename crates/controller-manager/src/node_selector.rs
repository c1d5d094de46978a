//! Which nodes a pod's `nodeSelector` and required node affinity accept
//! (<https://kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node/>).

use apimachinery::selector::{Operator, Requirement};
use k8s_openapi::api::core::v1::{Node, NodeSelectorRequirement, NodeSelectorTerm, PodSpec};

/// Whether a pod with this spec may be on the node, as far as labels and fields of the node decide.
pub(crate) fn accepts(spec: &PodSpec, node: &Node) -> bool {
    let label = |key: &str| node.metadata.labels.as_ref().and_then(|labels| labels.get(key)).map(String::as_str);
    let selected = spec.node_selector.iter().flatten().all(|(key, value)| label(key) == Some(value.as_str()));
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required = affinity.and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    selected && required.is_none_or(|selector| selector.node_selector_terms.iter().any(|term| term_matches(term, node)))
}

/// Whether all requirements hold; an empty term, or one that is malformed, matches nothing.
fn term_matches(term: &NodeSelectorTerm, node: &Node) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    let labels = node.metadata.labels.as_ref();
    let label_holds =
        |wanted: &NodeSelectorRequirement| holds(wanted, labels.and_then(|labels| labels.get(&wanted.key)).map(String::as_str));
    let field_holds = |wanted: &NodeSelectorRequirement| {
        // The only field, and the only operators, that the API server admits.
        let known = wanted.key == "metadata.name" && matches!(wanted.operator.as_str(), "In" | "NotIn");
        known && wanted.values.as_ref().is_some_and(|values| values.len() == 1) && holds(wanted, node.metadata.name.as_deref())
    };
    expressions.iter().all(label_holds) && fields.iter().all(field_holds)
}

fn holds(wanted: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let operator = match wanted.operator.as_str() {
        "In" => Operator::In,
        "NotIn" => Operator::NotIn,
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        "Gt" => Operator::GreaterThan,
        "Lt" => Operator::LessThan,
        _ => return false,
    };
    let values = wanted.values.clone().unwrap_or_default();
    if wanted.key == "metadata.name" {
        // Names of nodes may be longer than the values of labels.
        let listed = value.is_some_and(|value| values.iter().any(|wanted| wanted == value));
        return listed == (operator == Operator::In);
    }
    Requirement::new(&wanted.key, operator, values).is_ok_and(|requirement| requirement.matches(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn selector_terms_and_fields() {
        let node: Node =
            serde_json::from_value(json!({"metadata": {"name": "n1", "labels": {"zone": "a", "size": "5"}}})).expect("is a node");
        let required = |terms: Value| json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}});
        let expression = |key: &str, operator: &str, values: Value| json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]});
        let field = |operator: &str, values: Value| json!({"matchFields": [{"key": "metadata.name", "operator": operator, "values": values}]});
        for (spec, expected) in [
            (json!({}), true),
            (json!({"nodeSelector": {"zone": "a"}}), true),
            (json!({"nodeSelector": {"zone": "b"}}), false),
            (required(json!([])), false),
            (required(json!([{}])), false),
            (required(json!([expression("zone", "In", json!(["a"]))])), true),
            (required(json!([expression("zone", "In", json!(["b"])), expression("size", "Gt", json!(["4"]))])), true),
            (required(json!([expression("size", "Lt", json!(["4"]))])), false),
            (required(json!([expression("none", "DoesNotExist", json!([]))])), true),
            (required(json!([expression("zone", "Exists", json!(["a"]))])), false),
            (required(json!([expression("zone", "In", json!(["not a label value!"]))])), false),
            (required(json!([expression("zone", "Odd", json!(["a"]))])), false),
            (required(json!([field("In", json!(["n1"]))])), true),
            (required(json!([field("In", json!(["n2"]))])), false),
            (required(json!([field("NotIn", json!(["n2"]))])), true),
            (required(json!([field("In", json!(["n1", "n2"]))])), false),
        ] {
            let mut value = json!({"containers": []});
            value.as_object_mut().expect("is an object").extend(spec.as_object().expect("is an object").clone());
            let parsed: PodSpec = serde_json::from_value(value).expect("is a spec");
            assert_eq!(accepts(&parsed, &node), expected, "{spec}");
        }
    }
}
