//! Members of the spec of a pod.

use apimachinery::Value;

use super::{Gated, has, member};
use crate::gates::{Feature, FeatureGates};

pub(super) const CONTAINERS: [&str; 3] = ["containers", "initContainers", "ephemeralContainers"];
const STOP_SIGNAL: &str = "*.lifecycle.stopSignal";

#[rustfmt::skip]
const MEMBERS: &[Gated] = &[
    member(Some(Feature::GenericWorkload), &["workloadRef"]),
    member(Some(Feature::ClusterTrustBundleProjection), &["volumes[].projected.sources[].clusterTrustBundle"]),
    // `PodCertificateRequest`.
    member(None, &["volumes[].projected.sources[].podCertificate"]),
    member(Some(Feature::EnvFiles), &["*.env[].valueFrom.fileKeyRef"]),
    member(Some(Feature::HostnameOverride), &["hostnameOverride"]),
    member(Some(Feature::SeLinuxChangePolicy), &["securityContext.seLinuxChangePolicy"]),
    member(Some(Feature::UserNamespacesSupport), &["hostUsers"]),
    Gated { feature: Some(Feature::PodLevelResources), used: &["resources.requests", "resources.limits"], gone: &["resources"] },
    Gated {
        feature: Some(Feature::DynamicResourceAllocation), used: &["resourceClaims[]"],
        gone: &["resourceClaims", "*.resources.claims"],
    },
];

pub(super) fn drop_from(gates: FeatureGates, spec: &mut Value, old: &Value) {
    MEMBERS.iter().filter(|gated| gated.is_off(gates)).for_each(|gated| gated.drop_from(spec, old));
    // `ContainerStopSignals`.
    if has(spec, STOP_SIGNAL) && !has(old, STOP_SIGNAL) {
        each_container(spec, |_, container| without_stop_signal(container));
    }
    if !gates.has(Feature::ContainerRestartRules) && !uses_restart_rules(old) {
        each_container(spec, without_restart_rules);
    }
    if !gates.has(Feature::ProcMountType) && !uses_proc_mount(old) {
        each_container(spec, |_, container| usual_proc_mount(container));
    }
    if !gates.has(Feature::ImageVolume) && !has(old, "volumes[].image") {
        drop_image_volumes(spec);
    }
}

fn each_container(spec: &mut Value, change: impl Fn(&str, &mut Value)) {
    for list in CONTAINERS {
        spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten().for_each(|container| change(list, container));
    }
}

fn without_stop_signal(container: &mut Value) {
    let signal = container.remove_path(&["lifecycle", "stopSignal"]);
    if signal.is_some() && container["lifecycle"].is_empty() {
        container.remove("lifecycle");
    }
}

/// Before restart rules, the only policy of a container was that of sidecars.
fn is_sidecar(list: &str, container: &Value) -> bool {
    list == "initContainers" && container["restartPolicy"] == *"Always"
}

fn uses_restart_rules(old: &Value) -> bool {
    let uses = |list: &str, container: &Value| {
        let policy = !container["restartPolicy"].is_null() && !is_sidecar(list, container);
        policy || (list == "initContainers" && !container["restartPolicyRules"].is_empty())
    };
    // Upstream does not ask ephemeral containers.
    CONTAINERS[..2].iter().any(|list| old.array_at(&[*list]).iter().any(|container| uses(list, container)))
}

fn without_restart_rules(list: &str, container: &mut Value) {
    container.remove("restartPolicyRules");
    if !is_sidecar(list, container) {
        container.remove("restartPolicy");
    }
}

fn uses_proc_mount(old: &Value) -> bool {
    let special = |container: &Value| {
        let kind = &container["securityContext"]["procMount"];
        !kind.is_null() && *kind != *"Default"
    };
    CONTAINERS.into_iter().any(|list| old.array_at(&[list]).iter().any(special))
}

/// It stays where it is, because it was once filled in everywhere.
fn usual_proc_mount(container: &mut Value) {
    let path = ["securityContext", "procMount"];
    if container.get_path(&path).is_some_and(|kind| !kind.is_null()) {
        container.set_path(&path, "Default");
    }
}

fn drop_image_volumes(spec: &mut Value) {
    let is_image = |volume: &Value| !volume["image"].is_null();
    let images: Vec<Value> =
        spec.array_at(&["volumes"]).iter().filter(|volume| is_image(volume)).map(|volume| volume["name"].clone()).collect();
    if images.is_empty() {
        return;
    }
    retain(spec, "volumes", |volume| !is_image(volume));
    each_container(spec, |_, container| retain(container, "volumeMounts", |mount| !images.contains(&mount["name"])));
}

/// Keeps some of a list, and no list without elements.
fn retain(object: &mut Value, list: &str, keep: impl Fn(&Value) -> bool) {
    let Some(items) = object.get_mut(list).and_then(Value::as_array_mut) else { return };
    items.retain(|item| keep(item));
    if items.is_empty() {
        object.remove(list);
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::check;
    use super::*;
    use apimachinery::value;

    #[test]
    fn what_is_never_there() {
        let cases = [
            (
                ("", "podtemplates", ""),
                value!({"template": {"spec": {"workloadRef": {"name": "a"}}}}),
                value!({"template": {"spec": {}}}),
            ),
            (
                ("", "pods", ""),
                value!({"spec": {"containers": [{"lifecycle": {"stopSignal": "SIGHUP"}}, {"lifecycle": {"stopSignal": "SIGHUP", "preStop": {}}}]}}),
                value!({"spec": {"containers": [{}, {"lifecycle": {"preStop": {}}}]}}),
            ),
            (
                ("batch", "jobs", ""),
                value!({"spec": {"template": {"spec": {"volumes": [{"projected": {"sources": [{"podCertificate": {}}, {"secret": {}}]}}]}}}}),
                value!({"spec": {"template": {"spec": {"volumes": [{"projected": {"sources": [{}, {"secret": {}}]}}]}}}}),
            ),
        ];
        for (place, object, left) in cases {
            check(FeatureGates::default(), place, &object, &left);
        }
    }

    #[test]
    fn features_that_are_off() {
        let cases = [
            (
                Feature::ContainerRestartRules,
                value!({
                    "containers": [{"restartPolicy": "Never", "restartPolicyRules": [{}]}],
                    "initContainers": [{"restartPolicy": "Always"}, {"restartPolicy": "Never"}],
                }),
                value!({"containers": [{}], "initContainers": [{"restartPolicy": "Always"}, {}]}),
            ),
            (
                Feature::ProcMountType,
                value!({"containers": [{"securityContext": {"procMount": "Unmasked"}}, {"securityContext": {}}]}),
                value!({"containers": [{"securityContext": {"procMount": "Default"}}, {"securityContext": {}}]}),
            ),
            (
                Feature::ImageVolume,
                value!({
                    "volumes": [{"name": "a", "image": {}}, {"name": "b"}],
                    "containers": [{"volumeMounts": [{"name": "a"}, {"name": "b"}]}, {"volumeMounts": [{"name": "a"}]}],
                }),
                value!({"volumes": [{"name": "b"}], "containers": [{"volumeMounts": [{"name": "b"}]}, {}]}),
            ),
            (
                Feature::EnvFiles,
                value!({"initContainers": [{"env": [{"name": "a", "valueFrom": {"fileKeyRef": {}}}]}]}),
                value!({"initContainers": [{"env": [{"name": "a", "valueFrom": {}}]}]}),
            ),
            (
                Feature::DynamicResourceAllocation,
                value!({"resourceClaims": [{}], "containers": [{"resources": {"claims": [{}], "limits": {}}}]}),
                value!({"containers": [{"resources": {"limits": {}}}]}),
            ),
        ];
        for (feature, spec, left) in cases {
            let (object, left) = (value!({"spec": spec}), value!({"spec": left}));
            check(FeatureGates::default().with(feature, false), ("", "pods", ""), &object, &left);
            check(FeatureGates::default(), ("", "pods", ""), &object, &object);
        }
    }

    #[test]
    fn subresources_that_have_the_whole_pod() {
        let env = value!([{"name": "a", "valueFrom": {"fileKeyRef": {}}}]);
        let object = value!({"spec": {"ephemeralContainers": [{"env": env}], "hostnameOverride": "h"}});
        let gates = FeatureGates::default().with(Feature::EnvFiles, false);
        let left =
            value!({"spec": {"ephemeralContainers": [{"env": [{"name": "a", "valueFrom": {}}]}], "hostnameOverride": "h"}});
        for subresource in ["ephemeralcontainers", "resize"] {
            check(gates, ("", "pods", subresource), &object, &left);
        }
        check(gates, ("", "pods", "status"), &object, &object);
    }
}
