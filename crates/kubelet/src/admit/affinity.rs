//! Whether the node is one that the pod may be on: node selector, required node affinity, operating system, policy of supplemental groups.

use std::collections::BTreeMap;

use client::node_selector;
use k8s_openapi::api::core::v1::{Node, Pod};

use super::node_rules::refusal;
use crate::pod::access::PodAccess;

/// The name of the predicate.
pub(super) const REASON: &str = "NodeAffinity";
const OS_LABEL: &str = "kubernetes.io/os";
const OS: &str = "linux";

/// Refuses a pod whose node selector or required node affinity the node does not match: it was bound by hand, or the node's labels have changed.
pub(super) fn node_affinity(node: &Node, pod: &Pod) -> Result<(), (String, String)> {
    if node_selector::accepts(pod.pod_spec(), node) {
        return Ok(());
    }
    Err(refusal(REASON, "node(s) didn't match Pod's node affinity/selector"))
}

fn label<'a>(labels: Option<&'a BTreeMap<String, String>>, key: &str) -> Option<&'a String> {
    labels?.get(key)
}

/// Refuses pods of another operating system. As upstream, the label that counts is the pod's own.
pub(super) fn operating_system(pod: &Pod) -> Result<(), (String, String)> {
    let labelled = label(pod.metadata.labels.as_ref(), OS_LABEL);
    if labelled.is_some_and(|os| os != OS) {
        let message = "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label";
        return Err(("PodOSSelectorNodeLabelDoesNotMatch".to_owned(), message.to_owned()));
    }
    if pod.pod_spec().os.as_ref().is_some_and(|os| os.name != OS) {
        let message = "Failed to admit pod as the OS field doesn't match node OS";
        return Err(("PodOSNotSupported".to_owned(), message.to_owned()));
    }
    Ok(())
}

/// Refuses strict supplemental groups where the runtime does not know them (KEP-3619): they would silently be merged.
pub(super) fn supplemental_groups(node: &Node, pod: &Pod) -> Result<(), (String, String)> {
    let strict = pod.security().and_then(|context| context.supplemental_groups_policy.as_deref()) == Some("Strict");
    let features = node.status.as_ref().and_then(|status| status.features.as_ref());
    if strict && features.and_then(|features| features.supplemental_groups_policy) != Some(true) {
        let message = "SupplementalGroupsPolicy=Strict is not supported in this node";
        return Err(("SupplementalGroupsPolicyNotSupported".to_owned(), message.to_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn node(features: Value) -> Node {
        let labels = json!({"zone": "a", "generation": "7"});
        serde_json::from_value(json!({"metadata": {"name": "here", "labels": labels}, "status": {"features": features}}))
            .expect("is a node")
    }

    fn pod(metadata: Value, mut spec: Value) -> Pod {
        spec["containers"] = json!([]);
        serde_json::from_value(json!({"metadata": metadata, "spec": spec})).expect("is a pod")
    }

    #[test]
    fn required_affinity_and_selector_must_both_match() {
        let requirement =
            |key: &str, operator: &str, values: &[&str]| json!({"key": key, "operator": operator, "values": values});
        let expressions = |requirements: &[Value]| json!({"matchExpressions": requirements});
        let fields = |name: &str| json!({"matchFields": [requirement("metadata.name", "In", &[name])]});
        for (selector, terms, expected) in [
            (json!({}), json!(null), true),
            (json!({"zone": "a"}), json!(null), true),
            (json!({"zone": "b"}), json!(null), false),
            (json!({}), json!([expressions(&[requirement("zone", "In", &["b", "a"])])]), true),
            (json!({"zone": "b"}), json!([expressions(&[requirement("zone", "In", &["a"])])]), false),
            (json!({}), json!([expressions(&[requirement("zone", "NotIn", &["a"])])]), false),
            (json!({}), json!([expressions(&[requirement("rack", "NotIn", &["a"])])]), true),
            (json!({}), json!([expressions(&[requirement("rack", "Exists", &[])])]), false),
            (json!({}), json!([expressions(&[requirement("rack", "DoesNotExist", &[])])]), true),
            (json!({}), json!([expressions(&[requirement("generation", "Gt", &["6"])])]), true),
            (json!({}), json!([expressions(&[requirement("generation", "Lt", &["7"])])]), false),
            (json!({}), json!([fields("here")]), true),
            (json!({}), json!([fields("elsewhere")]), false),
            // One of the terms suffices, all requirements of it must hold, an empty one matches nothing.
            (json!({}), json!([fields("elsewhere"), expressions(&[requirement("zone", "Exists", &[])])]), true),
            (json!({}), json!([expressions(&[requirement("zone", "Exists", &[]), requirement("rack", "Exists", &[])])]), false),
            (json!({}), json!([{}]), false),
        ] {
            let mut spec = json!({"nodeSelector": selector});
            if terms.is_array() {
                spec["affinity"] =
                    json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}});
            }
            let found = node_affinity(&node(json!({})), &pod(json!({}), spec.clone()));
            assert_eq!(found.is_ok(), expected, "{spec}");
            if let Err((reason, message)) = found {
                assert_eq!(reason, "NodeAffinity");
                assert_eq!(message, "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector");
            }
        }
    }

    #[test]
    fn only_pods_of_this_system_with_groups_that_it_can_give() {
        let reason = |found: Result<(), (String, String)>| found.err().map(|(reason, _)| reason);
        let labelled = |os: &str| pod(json!({"labels": {OS_LABEL: os}}), json!({}));
        assert_eq!(reason(operating_system(&labelled("windows"))).as_deref(), Some("PodOSSelectorNodeLabelDoesNotMatch"));
        assert_eq!(reason(operating_system(&labelled("linux"))), None);
        let named = |os: &str| pod(json!({}), json!({"os": {"name": os}}));
        assert_eq!(reason(operating_system(&named("windows"))).as_deref(), Some("PodOSNotSupported"));
        assert_eq!(reason(operating_system(&named("linux"))), None);
        let strict = pod(json!({}), json!({"securityContext": {"supplementalGroupsPolicy": "Strict"}}));
        let able = node(json!({"supplementalGroupsPolicy": true}));
        assert_eq!(reason(supplemental_groups(&able, &strict)), None);
        assert_eq!(
            reason(supplemental_groups(&node(json!({})), &strict)).as_deref(),
            Some("SupplementalGroupsPolicyNotSupported")
        );
    }
}
