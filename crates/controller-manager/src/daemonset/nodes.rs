//! On which nodes a DaemonSet's pods belong. Pure.

use client::node_selector;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Node, PodSpec};

use super::pods::{spec, tolerate_trouble};
use crate::toleration::tolerates_all;

/// The set's pod as far as it decides about nodes.
pub(super) struct Simulation {
    spec: PodSpec,
}

/// What a node is to a DaemonSet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fit {
    /// A pod belongs here.
    Run,
    /// None is to be made, but one that is here may stay.
    Continue,
    /// No pod belongs here.
    Leave,
}

impl Simulation {
    pub(super) fn new(set: &DaemonSet) -> Self {
        let mut spec = spec(set).template.spec.clone().unwrap_or_default();
        tolerate_trouble(&mut spec);
        Self { spec }
    }

    pub(super) fn fit(&self, node: &Node) -> Fit {
        let wanted_node = self.spec.node_name.as_deref().filter(|name| !name.is_empty());
        if wanted_node.is_some_and(|name| Some(name) != node.metadata.name.as_deref())
            || !node_selector::accepts(&self.spec, node)
        {
            return Fit::Leave;
        }
        let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
        let tolerations = self.spec.tolerations.as_deref().unwrap_or_default();
        if tolerates_all(tolerations, taints, &["NoExecute", "NoSchedule"]) {
            Fit::Run
        } else if tolerates_all(tolerations, taints, &["NoExecute"]) {
            Fit::Continue
        } else {
            Fit::Leave
        }
    }

    pub(super) fn should_run(&self, node: &Node) -> bool {
        self.fit(node) == Fit::Run
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn which_nodes_fit() {
        let taint = |key: &str, effect: &str| json!([{"key": key, "value": "v", "effect": effect}]);
        let tolerate = |key: &str, effect: &str| json!({"tolerations": [{"key": key, "operator": "Exists", "effect": effect}]});
        let trouble = |name: &str| format!("node.kubernetes.io/{name}");
        // (pod spec, labels, taints, expected): upstream's TestNodeShouldRunDaemonPod and the tests of taints.
        for (spec, labels, taints, expected) in [
            (json!({}), json!({}), json!([]), Fit::Run),
            (json!({"nodeName": "n1"}), json!({}), json!([]), Fit::Run),
            (json!({"nodeName": "other"}), json!({}), json!([]), Fit::Leave),
            (json!({"nodeSelector": {"color": "blue"}}), json!({}), json!([]), Fit::Leave),
            (json!({"nodeSelector": {"color": "blue"}}), json!({"color": "blue"}), json!([]), Fit::Run),
            (json!({}), json!({}), taint("a", "NoSchedule"), Fit::Continue),
            (json!({}), json!({}), taint("a", "NoExecute"), Fit::Leave),
            (json!({}), json!({}), taint("a", "PreferNoSchedule"), Fit::Run),
            (tolerate("a", "NoSchedule"), json!({}), taint("a", "NoSchedule"), Fit::Run),
            (tolerate("a", "NoSchedule"), json!({}), taint("a", "NoExecute"), Fit::Leave),
            (tolerate("a", "NoExecute"), json!({}), taint("a", "NoExecute"), Fit::Run),
            (json!({}), json!({}), taint(&trouble("not-ready"), "NoExecute"), Fit::Run),
            (json!({}), json!({}), taint(&trouble("not-ready"), "NoSchedule"), Fit::Continue),
            (json!({}), json!({}), taint(&trouble("unreachable"), "NoExecute"), Fit::Run),
            (json!({}), json!({}), taint(&trouble("disk-pressure"), "NoSchedule"), Fit::Run),
            (json!({}), json!({}), taint(&trouble("memory-pressure"), "NoSchedule"), Fit::Run),
            (json!({}), json!({}), taint(&trouble("pid-pressure"), "NoSchedule"), Fit::Run),
            (json!({}), json!({}), taint(&trouble("unschedulable"), "NoSchedule"), Fit::Run),
            (json!({}), json!({}), taint(&trouble("out-of-disk"), "NoSchedule"), Fit::Continue),
            (json!({}), json!({}), taint(&trouble("network-unavailable"), "NoSchedule"), Fit::Continue),
            (json!({"hostNetwork": true}), json!({}), taint(&trouble("network-unavailable"), "NoSchedule"), Fit::Run),
        ] {
            let mut pod = json!({"containers": []});
            pod.as_object_mut().expect("is an object").extend(Value::as_object(&spec).expect("is an object").clone());
            let set: DaemonSet =
                serde_json::from_value(json!({"spec": {"selector": {}, "template": {"spec": pod}}})).expect("is a set");
            let node: Node =
                serde_json::from_value(json!({"metadata": {"name": "n1", "labels": labels}, "spec": {"taints": taints}}))
                    .expect("is a node");
            assert_eq!(Simulation::new(&set).fit(&node), expected, "{spec} {labels} {taints}");
        }
    }
}
