//! The pods of a DaemonSet: their template, and what a pod says about its node and its revision. Pure.

use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetSpec};
use k8s_openapi::api::core::v1::{
    Affinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, PodTemplateSpec, Toleration,
};
use kube::ResourceExt;

use crate::history::{REVISION_HASH, label};
use crate::ownership::controller_reference;
use crate::pod_state::node_name;
use crate::pod_template::pod_from_template;

const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";
const POD_TEMPLATE_GENERATION: &str = "pod-template-generation";
const NODE_NAME_FIELD: &str = "metadata.name";

pub(super) fn spec(set: &DaemonSet) -> &DaemonSetSpec {
    static EMPTY: std::sync::LazyLock<DaemonSetSpec> = std::sync::LazyLock::new(DaemonSetSpec::default);
    set.spec.as_ref().unwrap_or(&EMPTY)
}

pub(super) fn min_ready_seconds(set: &DaemonSet) -> i32 {
    spec(set).min_ready_seconds.unwrap_or(0)
}

/// The annotation that counted templates before there were revisions; `None` if unset or no number.
fn template_generation(set: &DaemonSet) -> Option<i64> {
    set.annotations().get(TEMPLATE_GENERATION)?.parse().ok()
}

/// Daemons stay on nodes in trouble: what is tolerated besides what the template says.
pub(super) fn tolerate_trouble(spec: &mut PodSpec) {
    let mut wanted = vec![
        ("node.kubernetes.io/not-ready", "NoExecute"),
        ("node.kubernetes.io/unreachable", "NoExecute"),
        ("node.kubernetes.io/disk-pressure", "NoSchedule"),
        ("node.kubernetes.io/memory-pressure", "NoSchedule"),
        ("node.kubernetes.io/pid-pressure", "NoSchedule"),
        ("node.kubernetes.io/unschedulable", "NoSchedule"),
    ];
    if spec.host_network == Some(true) {
        wanted.push(("node.kubernetes.io/network-unavailable", "NoSchedule"));
    }
    let tolerations = spec.tolerations.get_or_insert_default();
    for (key, effect) in wanted {
        let toleration = Toleration {
            key: Some(key.to_owned()),
            operator: Some("Exists".to_owned()),
            effect: Some(effect.to_owned()),
            ..Default::default()
        };
        // One that differs only in its time is replaced: daemons are not evicted after a while.
        match tolerations.iter_mut().find(|present| is_same(present, &toleration)) {
            Some(present) => *present = toleration,
            None => tolerations.push(toleration),
        }
    }
}

fn is_same(a: &Toleration, b: &Toleration) -> bool {
    let identity = |toleration: &Toleration| {
        [&toleration.key, &toleration.effect, &toleration.operator, &toleration.value]
            .map(|part| part.clone().unwrap_or_default())
    };
    identity(a) == identity(b)
}

/// The template of all pods of this revision.
pub(super) fn template(set: &DaemonSet, hash: &str) -> PodTemplateSpec {
    let mut template = spec(set).template.clone();
    tolerate_trouble(template.spec.get_or_insert_default());
    let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
    if let Some(generation) = template_generation(set) {
        labels.insert(POD_TEMPLATE_GENERATION.to_owned(), generation.to_string());
    }
    if !hash.is_empty() {
        labels.insert(REVISION_HASH.to_owned(), hash.to_owned());
    }
    template
}

/// A pod for this node. The scheduler binds it; affinity leaves it no other choice.
pub(super) fn new_pod(set: &DaemonSet, template: &PodTemplateSpec, node: &str) -> Pod {
    let mut pod = pod_from_template(Some(template), &set.name_any(), controller_reference(set));
    pin(pod.spec.get_or_insert_default().affinity.get_or_insert_default(), node);
    pod
}

/// Replaces what is required of nodes by their name; preferences stay.
fn pin(affinity: &mut Affinity, node: &str) {
    let by_name = NodeSelectorRequirement {
        key: NODE_NAME_FIELD.to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![node.to_owned()]),
    };
    let term = NodeSelectorTerm { match_fields: Some(vec![by_name]), match_expressions: None };
    affinity.node_affinity.get_or_insert_default().required_during_scheduling_ignored_during_execution =
        Some(NodeSelector { node_selector_terms: vec![term] });
}

/// The node that a pod is on or is meant for; `None` if it does not say.
pub(super) fn target_node(pod: &Pod) -> Option<&str> {
    if !node_name(pod).is_empty() {
        return Some(node_name(pod));
    }
    let affinity = pod.spec.as_ref()?.affinity.as_ref()?.node_affinity.as_ref()?;
    let required = affinity.required_during_scheduling_ignored_during_execution.as_ref()?;
    let fields = required.node_selector_terms.iter().flat_map(|term| term.match_fields.iter().flatten());
    let mut by_name = fields.filter(|field| field.key == NODE_NAME_FIELD && field.operator == "In");
    match by_name.next()?.values.as_deref()? {
        [node] => Some(node),
        _ => None,
    }
}

/// The hash of the revision that a pod was made from; empty if unknown.
pub(super) fn revision(pod: &Pod) -> &str {
    label(pod.metadata.labels.as_ref(), REVISION_HASH)
}

/// Whether the pod is of the present template, by its hash or, from before there were hashes, by its generation.
pub(super) fn is_updated(set: &DaemonSet, pod: &Pod, hash: &str) -> bool {
    let generation = template_generation(set).map(|generation| generation.to_string());
    let of_generation =
        generation.is_some_and(|generation| label(pod.metadata.labels.as_ref(), POD_TEMPLATE_GENERATION) == generation);
    of_generation || (!hash.is_empty() && revision(pod) == hash)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn set(template: Value, annotations: Value) -> DaemonSet {
        serde_json::from_value(json!({"metadata": {"name": "agent", "namespace": "ns", "uid": "u", "annotations": annotations},
            "spec": {"selector": {"matchLabels": {"app": "agent"}}, "template": template}}))
        .expect("is a set")
    }

    #[test]
    fn tolerations_are_added_once() {
        let count = |spec: Value| {
            let mut spec: PodSpec = serde_json::from_value(spec).expect("is a spec");
            tolerate_trouble(&mut spec);
            let once = spec.tolerations.clone();
            tolerate_trouble(&mut spec);
            assert_eq!(spec.tolerations, once);
            once.expect("has tolerations")
        };
        assert_eq!(count(json!({"containers": []})).len(), 6);
        assert_eq!(count(json!({"containers": [], "hostNetwork": true})).len(), 7);
        let for_a_while =
            json!({"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300});
        let replaced = count(json!({"containers": [], "tolerations": [for_a_while]}));
        assert_eq!((replaced.len(), replaced[0].toleration_seconds), (6, None));
        let other = json!({"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoSchedule"});
        assert_eq!(count(json!({"containers": [], "tolerations": [other]})).len(), 7);
    }

    #[test]
    fn a_new_pod_is_pinned_to_its_node() {
        let preferred = json!([{"weight": 1, "preference": {"matchExpressions": [{"key": "a", "operator": "Exists"}]}}]);
        let required = json!({"nodeSelectorTerms": [{"matchExpressions": [{"key": "b", "operator": "Exists"}]}]});
        let set = set(
            json!({"metadata": {"labels": {"app": "agent"}}, "spec": {"containers": [], "affinity": {"nodeAffinity": {
                "preferredDuringSchedulingIgnoredDuringExecution": preferred,
                "requiredDuringSchedulingIgnoredDuringExecution": required}}}}),
            json!({"deprecated.daemonset.template.generation": "4"}),
        );
        let pod = new_pod(&set, &template(&set, "h1"), "n1");
        assert_eq!((pod.metadata.generate_name.as_deref(), target_node(&pod)), (Some("agent-"), Some("n1")));
        assert_eq!(pod.labels()[REVISION_HASH], "h1");
        assert_eq!(pod.labels()[POD_TEMPLATE_GENERATION], "4");
        let affinity = pod.spec.expect("has a spec").affinity.expect("is pinned").node_affinity.expect("is pinned");
        assert!(affinity.preferred_during_scheduling_ignored_during_execution.is_some());
        let terms = affinity.required_during_scheduling_ignored_during_execution.expect("is pinned").node_selector_terms;
        assert_eq!((terms.len(), &terms[0].match_expressions), (1, &None));
    }

    #[test]
    fn the_node_of_a_pod() {
        let pinned = |field: Value| {
            json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchFields": [field]}]}}}})
        };
        for (spec, expected) in [
            (json!({"nodeName": "n1"}), Some("n1")),
            (json!({}), None),
            (pinned(json!({"key": "metadata.name", "operator": "In", "values": ["n2"]})), Some("n2")),
            (pinned(json!({"key": "metadata.name", "operator": "In", "values": ["n2", "n3"]})), None),
            (pinned(json!({"key": "metadata.name", "operator": "NotIn", "values": ["n2"]})), None),
        ] {
            let mut value = json!({"containers": []});
            value.as_object_mut().expect("is an object").extend(spec.as_object().expect("is an object").clone());
            let pod: Pod = serde_json::from_value(json!({"spec": value})).expect("is a pod");
            assert_eq!(target_node(&pod), expected, "{spec}");
        }
    }

    #[test]
    fn updated_by_hash_or_generation() {
        let pod = |labels: Value| serde_json::from_value::<Pod>(json!({"metadata": {"labels": labels}})).expect("is a pod");
        // Upstream's TestIsPodUpdated.
        for (annotations, labels, hash, expected) in [
            (
                json!({"deprecated.daemonset.template.generation": "12345"}),
                json!({"pod-template-generation": "12345", "controller-revision-hash": "1"}),
                "1",
                true,
            ),
            (
                json!({"deprecated.daemonset.template.generation": "12345"}),
                json!({"pod-template-generation": "12345", "controller-revision-hash": "2"}),
                "1",
                true,
            ),
            (json!({}), json!({"pod-template-generation": "12345", "controller-revision-hash": "1"}), "1", true),
            (
                json!({"deprecated.daemonset.template.generation": "1"}),
                json!({"pod-template-generation": "2", "controller-revision-hash": "1"}),
                "1",
                true,
            ),
            (json!({}), json!({"controller-revision-hash": "2"}), "1", false),
            (json!({}), json!({}), "1", false),
            (json!({}), json!({"controller-revision-hash": ""}), "", false),
            (json!({"deprecated.daemonset.template.generation": "x"}), json!({"pod-template-generation": "x"}), "1", false),
        ] {
            let set = set(json!({}), annotations.clone());
            assert_eq!(is_updated(&set, &pod(labels.clone()), hash), expected, "{annotations} {labels} {hash}");
        }
    }
}
