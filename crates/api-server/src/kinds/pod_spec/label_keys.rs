//! `matchLabelKeys` and `mismatchLabelKeys`: what a new pod's own labels say goes into the selectors, so that the scheduler need not look at
//! them (KEP-3633, KEP-3243).

use apimachinery::{Value, value};

use crate::gates::{Feature, FeatureGates};

/// Writes the labels of a new pod into its affinity terms and its constraints of topology.
pub(in crate::kinds) fn merge(gates: FeatureGates, pod: &mut Value) {
    let spec = &pod["spec"];
    if spec["affinity"].is_null() && spec["topologySpreadConstraints"].is_null() {
        return;
    }
    let labels = pod["metadata"]["labels"].clone();
    for kind in ["podAffinity", "podAntiAffinity"] {
        for (list, term) in [
            ("preferredDuringSchedulingIgnoredDuringExecution", Some("podAffinityTerm")),
            ("requiredDuringSchedulingIgnoredDuringExecution", None),
        ] {
            let terms = pod.get_path_mut(&["spec", "affinity", kind, list]).and_then(Value::as_array_mut);
            for item in terms.into_iter().flatten() {
                let term = match term {
                    Some(member) => item.get_mut(member),
                    None => Some(item),
                };
                if let Some(term) = term {
                    merge_keys(term, "matchLabelKeys", "In", &labels);
                    merge_keys(term, "mismatchLabelKeys", "NotIn", &labels);
                }
            }
        }
    }
    if gates.has(Feature::MatchLabelKeysInPodTopologySpreadSelectorMerge) {
        let constraints = pod.get_path_mut(&["spec", "topologySpreadConstraints"]).and_then(Value::as_array_mut);
        constraints.into_iter().flatten().for_each(|constraint| merge_keys(constraint, "matchLabelKeys", "In", &labels));
    }
}

/// Without a selector nothing is selected, whatever the keys.
fn merge_keys(term: &mut Value, member: &str, operator: &str, labels: &Value) {
    let keys: Vec<&str> = term.array_at(&[member]).iter().filter_map(Value::as_str).collect();
    let added: Vec<Value> = keys
        .into_iter()
        .filter_map(|key| Some(value!({"key": key, "operator": operator, "values": [labels[key].as_str()?]})))
        .collect();
    if added.is_empty() || term["labelSelector"].is_null() {
        return;
    }
    let path = ["labelSelector", "matchExpressions"];
    let mut expressions = term.array_at(&path).to_vec();
    expressions.extend(added);
    term.set_path(&path, expressions);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_go_into_selectors() {
        let mut pod = value!({
            "metadata": {"labels": {"a": "1", "b": "2"}},
            "spec": {
                "affinity": {
                    "podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
                        {"podAffinityTerm": {"labelSelector": {}, "matchLabelKeys": ["a", "gone"], "mismatchLabelKeys": ["b"]}},
                    ]},
                    "podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"matchLabelKeys": ["a"]}]},
                },
                "topologySpreadConstraints": [
                    {"labelSelector": {"matchExpressions": [{"key": "x", "operator": "Exists"}]}, "matchLabelKeys": ["b"]},
                ],
            },
        });
        let mut without = pod.clone();
        merge(FeatureGates::default(), &mut pod);
        let in_ = |key: &str, operator: &str, text: &str| value!({"key": key, "operator": operator, "values": [text]});
        let preferred = ["spec", "affinity", "podAffinity", "preferredDuringSchedulingIgnoredDuringExecution"];
        let term = &pod.array_at(&preferred)[0]["podAffinityTerm"]["labelSelector"]["matchExpressions"];
        assert_eq!(*term, value!([in_("a", "In", "1"), in_("b", "NotIn", "2")]));
        let required = ["spec", "affinity", "podAntiAffinity", "requiredDuringSchedulingIgnoredDuringExecution"];
        assert!(pod.array_at(&required)[0]["labelSelector"].is_null());
        let constraint =
            |pod: &Value| pod.array_at(&["spec", "topologySpreadConstraints"])[0]["labelSelector"]["matchExpressions"].clone();
        assert_eq!(constraint(&pod), value!([{"key": "x", "operator": "Exists"}, in_("b", "In", "2")]));
        let gates = FeatureGates::default().with(Feature::MatchLabelKeysInPodTopologySpreadSelectorMerge, false);
        merge(gates, &mut without);
        assert_eq!(constraint(&without), value!([{"key": "x", "operator": "Exists"}]));
    }
}
