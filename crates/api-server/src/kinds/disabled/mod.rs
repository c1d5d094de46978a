//! Members behind feature gates that are off: they are dropped before anything else looks at the object, unless the object has them already
//! (upstream's `dropDisabledFields` of each kind).
//!
//! What is only a member is a row of a table. Not here: members that only one strategy knows of (`normalize`).

mod job;
mod pod;

use apimachinery::{GroupResource, Value};

use crate::gates::{Feature, FeatureGates};
use crate::registry::OperationContext;

/// Members of a feature. A path is written with dots, `[]` after a list; `*` stands for each of a pod's lists of containers.
struct Gated {
    /// `None` for a feature that this server has no code for, alpha in v1.35.
    feature: Option<Feature>,
    /// The old object keeps the feature's members if it has one of these.
    used: &'static [&'static str],
    /// What goes otherwise.
    gone: &'static [&'static str],
}

/// A feature of one member.
const fn member(feature: Option<Feature>, path: &'static [&'static str; 1]) -> Gated {
    Gated { feature, used: path, gone: path }
}

impl Gated {
    fn is_off(&self, gates: FeatureGates) -> bool {
        self.feature.is_none_or(|feature| !gates.has(feature))
    }

    fn drop_from(&self, object: &mut Value, old: &Value) {
        // Looked for first: what is shared with another tree is copied to be changed.
        let gone = self.gone.iter().filter(|path| has(object, path)).copied().collect::<Vec<_>>();
        if !gone.is_empty() && !self.used.iter().any(|path| has(old, path)) {
            gone.into_iter().for_each(|path| remove(object, path));
        }
    }
}

/// Group, resource, subresource, members.
type Row = (&'static str, &'static str, &'static str, Gated);

const DRA: &str = "resource.k8s.io";
const ADMIN_ACCESS: &[&str] = &["spec.devices.requests[].exactly.adminAccess", "status.allocation.devices.results[].adminAccess"];
const TOLERANCES: &[&str] = &["spec.behavior.scaleDown.tolerance", "spec.behavior.scaleUp.tolerance"];

/// Everything but what pods' specs hold.
#[rustfmt::skip]
const OBJECTS: &[Row] = &[
    // `CoordinatedLeaderElection`.
    ("coordination.k8s.io", "leases", "", member(None, &["spec.strategy"])),
    ("coordination.k8s.io", "leases", "", member(None, &["spec.preferredHolder"])),
    ("apps", "statefulsets", "", member(Some(Feature::MaxUnavailableStatefulSet), &["spec.updateStrategy.rollingUpdate.maxUnavailable"])),
    ("apps", "deployments", "status", member(Some(Feature::DeploymentReplicaSetTerminatingReplicas), &["status.terminatingReplicas"])),
    ("apps", "replicasets", "status", member(Some(Feature::DeploymentReplicaSetTerminatingReplicas), &["status.terminatingReplicas"])),
    ("autoscaling", "horizontalpodautoscalers", "", Gated { feature: Some(Feature::HpaConfigurableTolerance), used: TOLERANCES, gone: TOLERANCES }),
    ("storage.k8s.io", "csidrivers", "", member(Some(Feature::MutableCsiNodeAllocatableCount), &["spec.nodeAllocatableUpdatePeriodSeconds"])),
    ("storage.k8s.io", "csidrivers", "", member(Some(Feature::CsiServiceAccountTokenSecrets), &["spec.serviceAccountTokenInSecrets"])),
    ("", "persistentvolumes", "", member(Some(Feature::VolumeAttributesClass), &["spec.volumeAttributesClassName"])),
    ("", "persistentvolumeclaims", "", member(Some(Feature::VolumeAttributesClass), &["spec.volumeAttributesClassName"])),
    ("", "persistentvolumeclaims", "status", member(Some(Feature::VolumeAttributesClass), &["status.currentVolumeAttributesClassName"])),
    ("", "persistentvolumeclaims", "status", member(Some(Feature::VolumeAttributesClass), &["status.modifyVolumeStatus"])),
    ("", "services", "", member(Some(Feature::ServiceTrafficDistribution), &["spec.trafficDistribution"])),
    ("discovery.k8s.io", "endpointslices", "", member(Some(Feature::PreferSameTrafficDistribution), &["endpoints[].hints.forNodes"])),
    (DRA, "resourceclaims", "", member(Some(Feature::DraPrioritizedList), &["spec.devices.requests[].firstAvailable"])),
    (DRA, "resourceclaims", "", member(Some(Feature::DraAdminAccess), &["spec.devices.requests[].exactly.adminAccess"])),
    (DRA, "resourceclaims", "status", member(Some(Feature::DraResourceClaimDeviceStatus), &["status.devices"])),
    (DRA, "resourceclaims", "status", Gated { feature: Some(Feature::DraAdminAccess), used: ADMIN_ACCESS, gone: &["status.allocation.devices.results[].adminAccess"] }),
    (DRA, "resourceclaimtemplates", "", member(Some(Feature::DraPrioritizedList), &["spec.spec.devices.requests[].firstAvailable"])),
    (DRA, "resourceclaimtemplates", "", member(Some(Feature::DraAdminAccess), &["spec.spec.devices.requests[].exactly.adminAccess"])),
    ("", "pods", "status", Gated { feature: Some(Feature::DynamicResourceAllocation), used: &["spec.resourceClaims[]"], gone: &["status.resourceClaimStatuses"] }),
];

/// Takes out of a new object, or a new state of one, what is not to be had.
pub(crate) fn drop_disabled(context: &OperationContext, resource: &GroupResource, object: &mut Value, old: Option<&Value>) {
    drop_from(context.gates, &context.subresource, resource, object, old);
}

fn drop_from(gates: FeatureGates, subresource: &str, resource: &GroupResource, object: &mut Value, old: Option<&Value>) {
    let before = old.unwrap_or(&Value::Null);
    let is_of = |(group, plural, part, gated): &&Row| {
        *plural == resource.resource && *group == resource.group && *part == subresource && gated.is_off(gates)
    };
    OBJECTS.iter().filter(is_of).for_each(|(.., gated)| gated.drop_from(object, before));
    // These two have the whole pod.
    let of_pod =
        resource.group.is_empty() && resource.resource == "pods" && matches!(subresource, "ephemeralcontainers" | "resize");
    if !subresource.is_empty() && !of_pod {
        return;
    }
    if resource.group == "batch" && resource.resource == "jobs" {
        job::drop_from(gates, object, old);
    }
    let Some(path) = pod_spec_path(resource) else { return };
    let before = before.get_path(path).unwrap_or(&Value::Null);
    if let Some(spec) = object.get_path_mut(path) {
        pod::drop_from(gates, spec, before);
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

/// The first step of a path: a member, whether it is a list, and the way from there.
fn step(path: &str) -> (&str, bool, &str) {
    let (first, rest) = path.split_once('.').unwrap_or((path, ""));
    match first.strip_suffix("[]") {
        Some(list) => (list, true, rest),
        None => (first, false, rest),
    }
}

/// Whether there is anything at the end of a path.
fn has(value: &Value, path: &str) -> bool {
    if path.is_empty() {
        return !value.is_null();
    }
    match step(path) {
        ("*", _, rest) => pod::CONTAINERS.into_iter().any(|list| value.array_at(&[list]).iter().any(|item| has(item, rest))),
        (list, true, rest) => value.array_at(&[list]).iter().any(|item| has(item, rest)),
        (member, false, rest) => value.get(member).is_some_and(|value| has(value, rest)),
    }
}

/// Takes out what is at the end of a path.
fn remove(value: &mut Value, path: &str) {
    let into = |value: &mut Value, list: &str, rest: &str| {
        value.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten().for_each(|item| remove(item, rest));
    };
    match step(path) {
        ("*", _, rest) => pod::CONTAINERS.into_iter().for_each(|list| into(value, list, rest)),
        (list, true, rest) => into(value, list, rest),
        (member, false, "") => drop(value.remove(member)),
        (member, false, rest) => value.get_mut(member).into_iter().for_each(|value| remove(value, rest)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apimachinery::value;

    /// What is left of a new object, and that one which has it keeps it.
    pub(super) fn check(gates: FeatureGates, (group, resource, subresource): (&str, &str, &str), object: &Value, left: &Value) {
        let resource = GroupResource::new(group, resource);
        let mut new = object.clone();
        drop_from(gates, subresource, &resource, &mut new, None);
        assert_eq!(new, *left, "{resource:?}");
        let mut kept = object.clone();
        drop_from(gates, subresource, &resource, &mut kept, Some(object));
        assert_eq!(kept, *object, "what the object has it keeps");
    }

    #[test]
    fn what_nobody_has_goes() {
        let lease = value!({"spec": {"strategy": "a", "preferredHolder": "b", "holderIdentity": "c"}});
        let gates = FeatureGates::default();
        check(gates, ("coordination.k8s.io", "leases", ""), &lease, &value!({"spec": {"holderIdentity": "c"}}));
        let update = value!({"spec": {"updateStrategy": {"rollingUpdate": {"maxUnavailable": 2, "partition": 1}}}});
        let left = value!({"spec": {"updateStrategy": {"rollingUpdate": {"partition": 1}}}});
        check(gates, ("apps", "statefulsets", ""), &update, &left);
        check(gates.with(Feature::MaxUnavailableStatefulSet, true), ("apps", "statefulsets", ""), &update, &update);
        check(gates, ("apps", "daemonsets", ""), &update, &update);
    }

    #[test]
    fn members_of_features_that_are_off() {
        let cases = [
            (
                Feature::HpaConfigurableTolerance,
                ("autoscaling", "horizontalpodautoscalers", ""),
                value!({"spec": {"behavior": {"scaleUp": {"tolerance": "1"}, "scaleDown": {}}}}),
                value!({"spec": {"behavior": {"scaleUp": {}, "scaleDown": {}}}}),
            ),
            (
                Feature::DeploymentReplicaSetTerminatingReplicas,
                ("apps", "deployments", "status"),
                value!({"status": {"replicas": 1, "terminatingReplicas": 0}}),
                value!({"status": {"replicas": 1}}),
            ),
            (
                Feature::DraPrioritizedList,
                ("resource.k8s.io", "resourceclaims", ""),
                value!({"spec": {"devices": {"requests": [{"name": "a", "firstAvailable": [{}]}, {"name": "b"}]}}}),
                value!({"spec": {"devices": {"requests": [{"name": "a"}, {"name": "b"}]}}}),
            ),
            (
                Feature::ServiceTrafficDistribution,
                ("", "services", ""),
                value!({"spec": {"trafficDistribution": "PreferClose"}}),
                value!({"spec": {}}),
            ),
        ];
        for (feature, place, object, left) in cases {
            check(FeatureGates::default().with(feature, false), place, &object, &left);
            check(FeatureGates::default(), place, &object, &object);
        }
    }

    #[test]
    fn a_status_is_not_an_object() {
        let gates = FeatureGates::default().with(Feature::DeploymentReplicaSetTerminatingReplicas, false);
        let object = value!({"status": {"terminatingReplicas": 0}});
        check(gates, ("apps", "deployments", ""), &object, &object);
        check(gates, ("", "replicationcontrollers", "status"), &object, &object);
    }
}
