//! Members behind feature gates that are off, most of them by default in v1.35: they are dropped before anything else looks at the object, unless the
//! object has them already (upstream's `dropDisabledFields` of pods and of Leases).
//!
//! Not here: members that only one strategy knows of (`normalize`).

use apimachinery::{GroupResource, Value};

use crate::gates::FeatureGates;
use crate::registry::OperationContext;

const CONTAINERS: [&str; 3] = ["containers", "initContainers", "ephemeralContainers"];
/// Sources of a projected volume: `ClusterTrustBundleProjection`, `PodCertificateRequest`.
const SOURCES: [&str; 2] = ["clusterTrustBundle", "podCertificate"];
/// `MaxUnavailableStatefulSet`.
const MAX_UNAVAILABLE: [&str; 4] = ["spec", "updateStrategy", "rollingUpdate", "maxUnavailable"];
/// `CoordinatedLeaderElection`.
const LEASE_MEMBERS: [&str; 2] = ["strategy", "preferredHolder"];

/// Takes out of a new object, or a new state of one, what is not to be had.
pub(crate) fn drop_disabled(context: &OperationContext, resource: &GroupResource, object: &mut Value, old: Option<&Value>) {
    match context.subresource.as_str() {
        "" => drop_from_object(resource, context.gates, object, old),
        "status" if !context.gates.terminating_replicas => drop_terminating(resource, object, old),
        _ => {}
    }
}

fn drop_terminating(resource: &GroupResource, object: &mut Value, old: Option<&Value>) {
    if resource.group == "apps" && matches!(resource.resource.as_str(), "deployments" | "replicasets") {
        drop_member(&["status", "terminatingReplicas"], object, old);
    }
}

fn drop_member(path: &[&str], object: &mut Value, old: Option<&Value>) {
    if old.and_then(|old| old.get_path(path)).is_none_or(Value::is_null) {
        object.remove_path(path);
    }
}

fn drop_from_object(resource: &GroupResource, gates: FeatureGates, object: &mut Value, old: Option<&Value>) {
    match (resource.group.as_str(), resource.resource.as_str()) {
        ("coordination.k8s.io", "leases") => {
            LEASE_MEMBERS.into_iter().for_each(|member| drop_member(&["spec", member], object, old));
        }
        (group, plural) => {
            if (group, plural) == ("apps", "statefulsets") && !gates.max_unavailable_stateful_set {
                drop_member(&MAX_UNAVAILABLE, object, old);
            }
            let Some(path) = pod_spec_path(resource) else { return };
            let old = old.and_then(|old| old.get_path(path)).cloned().unwrap_or_default();
            if let Some(spec) = object.get_path_mut(path) {
                pod_spec(spec, &old);
            }
        }
    }
}

/// Where the kind has the spec of its pods.
fn pod_spec_path(resource: &GroupResource) -> Option<&'static [&'static str]> {
    match (resource.group.as_str(), resource.resource.as_str()) {
        ("", "pods") => Some(&["spec"]),
        ("", "podtemplates") => Some(&["template", "spec"]),
        ("", "replicationcontrollers")
        | ("apps", "deployments" | "replicasets" | "daemonsets" | "statefulsets")
        | ("batch", "jobs") => Some(&["spec", "template", "spec"]),
        ("batch", "cronjobs") => Some(&["spec", "jobTemplate", "spec", "template", "spec"]),
        _ => None,
    }
}

fn pod_spec(spec: &mut Value, old: &Value) {
    // `GenericWorkload`.
    if old["workloadRef"].is_null() {
        spec.remove("workloadRef");
    }
    // `ContainerStopSignals`.
    if has_stop_signal(spec) && !has_stop_signal(old) {
        for list in CONTAINERS {
            spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten().for_each(without_stop_signal);
        }
    }
    for source in SOURCES.into_iter().filter(|source| !has_source(old, source)) {
        if has_source(spec, source) {
            remove_source(spec, source);
        }
    }
}

fn has_stop_signal(spec: &Value) -> bool {
    let mut containers = CONTAINERS.into_iter().flat_map(|list| spec.array_at(&[list]));
    containers.any(|container| !container["lifecycle"]["stopSignal"].is_null())
}

fn without_stop_signal(container: &mut Value) {
    let signal = container.remove_path(&["lifecycle", "stopSignal"]);
    if signal.is_some() && container["lifecycle"].is_empty() {
        container.remove("lifecycle");
    }
}

fn has_source(spec: &Value, name: &str) -> bool {
    let mut sources = spec.array_at(&["volumes"]).iter().flat_map(|volume| volume.array_at(&["projected", "sources"]));
    sources.any(|source| !source[name].is_null())
}

fn remove_source(spec: &mut Value, name: &str) {
    for volume in spec.get_mut("volumes").and_then(Value::as_array_mut).into_iter().flatten() {
        for source in volume.get_path_mut(&["projected", "sources"]).and_then(Value::as_array_mut).into_iter().flatten() {
            source.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apimachinery::value;

    #[test]
    fn what_nobody_has_goes() {
        let cases = [
            (
                ("coordination.k8s.io", "leases"),
                value!({"spec": {"strategy": "a", "preferredHolder": "b", "holderIdentity": "c"}}),
                value!({"spec": {"holderIdentity": "c"}}),
            ),
            (
                ("", "podtemplates"),
                value!({"template": {"spec": {"workloadRef": {"name": "a"}}}}),
                value!({"template": {"spec": {}}}),
            ),
            (
                ("", "pods"),
                value!({"spec": {"containers": [{"lifecycle": {"stopSignal": "SIGHUP"}}, {"lifecycle": {"stopSignal": "SIGHUP", "preStop": {}}}]}}),
                value!({"spec": {"containers": [{}, {"lifecycle": {"preStop": {}}}]}}),
            ),
            (
                ("apps", "statefulsets"),
                value!({"spec": {"updateStrategy": {"rollingUpdate": {"maxUnavailable": 2, "partition": 1}}}}),
                value!({"spec": {"updateStrategy": {"rollingUpdate": {"partition": 1}}}}),
            ),
            (
                ("batch", "jobs"),
                value!({"spec": {"template": {"spec": {"volumes": [{"projected": {"sources": [{"podCertificate": {}}, {"secret": {}}]}}]}}}}),
                value!({"spec": {"template": {"spec": {"volumes": [{"projected": {"sources": [{}, {"secret": {}}]}}]}}}}),
            ),
        ];
        for ((group, resource), object, expected) in cases {
            let resource = GroupResource::new(group, resource);
            let mut new = object.clone();
            drop_from_object(&resource, FeatureGates::default(), &mut new, None);
            assert_eq!(new, expected);
            let mut kept = object.clone();
            drop_from_object(&resource, FeatureGates::default(), &mut kept, Some(&object));
            assert_eq!(kept, object, "what the object has it keeps");
        }
    }

    #[test]
    fn what_a_gate_lets_in() {
        let object = || value!({"spec": {"updateStrategy": {"rollingUpdate": {"maxUnavailable": 2}}}});
        let gates = FeatureGates { max_unavailable_stateful_set: true, ..FeatureGates::default() };
        for (resource, gates) in [("statefulsets", gates), ("daemonsets", FeatureGates::default())] {
            let mut new = object();
            drop_from_object(&GroupResource::new("apps", resource), gates, &mut new, None);
            assert_eq!(new, object(), "{resource}");
        }
    }

    #[test]
    fn terminating_replicas_without_their_feature() {
        let status = value!({"status": {"replicas": 1, "terminatingReplicas": 0}});
        for (group, resource, gone) in [("apps", "deployments", true), ("", "replicationcontrollers", false)] {
            let mut object = status.clone();
            drop_terminating(&GroupResource::new(group, resource), &mut object, Some(&value!({"status": {}})));
            assert_eq!(object["status"]["terminatingReplicas"].is_null(), gone);
        }
        let mut object = status.clone();
        drop_terminating(&GroupResource::new("apps", "replicasets"), &mut object, Some(&status));
        assert_eq!(object, status, "who has it keeps it");
    }
}
