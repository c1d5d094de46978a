//! Who a pod of a StatefulSet is: its name, ordinal, labels, revision and volumes. Pure.

use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, Volume};
use kube::ResourceExt;

use crate::history::{REVISION_HASH, label};
use crate::ownership::controller_reference;
use crate::pod_template::pod_from_template;

pub(super) const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";

pub(super) fn spec(set: &StatefulSet) -> &StatefulSetSpec {
    static EMPTY: std::sync::LazyLock<StatefulSetSpec> = std::sync::LazyLock::new(StatefulSetSpec::default);
    set.spec.as_ref().unwrap_or(&EMPTY)
}

pub(super) fn name(set: &StatefulSet) -> &str {
    set.metadata.name.as_deref().unwrap_or_default()
}

pub(super) fn replicas(set: &StatefulSet) -> i32 {
    spec(set).replicas.unwrap_or(1)
}

pub(super) fn min_ready_seconds(set: &StatefulSet) -> i32 {
    spec(set).min_ready_seconds.unwrap_or(0)
}

/// The first ordinal (KEP-3335).
pub(super) fn first_ordinal(set: &StatefulSet) -> i32 {
    spec(set).ordinals.as_ref().and_then(|ordinals| ordinals.start).unwrap_or(0)
}

/// Pods are made and deleted at once instead of one after the other.
pub(super) fn is_parallel(set: &StatefulSet) -> bool {
    spec(set).pod_management_policy.as_deref() == Some("Parallel")
}

/// The set's name and the ordinal in a pod's name; `None` if it is none that a set gives. `web-01` is none: with it there could be two pods
/// of one ordinal.
pub(super) fn parse(pod: &str) -> Option<(&str, i32)> {
    let (set, digits) = pod.rsplit_once('-')?;
    let ordinal: i32 = digits.parse().ok()?;
    (ordinal >= 0 && ordinal.to_string() == digits).then_some((set, ordinal))
}

/// Whether the pod's name is one of the set's.
pub(super) fn is_member(set: &StatefulSet, pod: &str) -> bool {
    parse(pod).is_some_and(|(parent, _)| parent == name(set))
}

/// The ordinal in the name; pods without are not members and were filtered out before.
pub(super) fn ordinal(pod: &Pod) -> Option<i32> {
    parse(pod.metadata.name.as_deref()?).map(|(_, ordinal)| ordinal)
}

/// Whether the set wants a pod of this ordinal.
pub(super) fn in_range(set: &StatefulSet, ordinal: i32) -> bool {
    let first = first_ordinal(set);
    ordinal >= first && i64::from(ordinal) < i64::from(first) + i64::from(replicas(set))
}

pub(super) fn pod_name(set: &StatefulSet, ordinal: i32) -> String {
    format!("{}-{ordinal}", name(set))
}

pub(super) fn claim_name(set: &StatefulSet, template: &PersistentVolumeClaim, ordinal: i32) -> String {
    format!("{}-{}-{ordinal}", template.metadata.name.as_deref().unwrap_or_default(), name(set))
}

/// Whether a claim of this name is one of the set's.
pub(super) fn is_claim_of(set: &StatefulSet, claim: &str) -> bool {
    let Some((prefix, _)) = parse(claim) else { return false };
    spec(set).volume_claim_templates.iter().flatten().any(|template| {
        let of_template = template.metadata.name.as_deref().and_then(|name| prefix.strip_prefix(name));
        of_template.and_then(|rest| rest.strip_prefix('-')) == Some(name(set))
    })
}

/// The name of the revision that a pod was made from; empty if unknown.
pub(super) fn revision(pod: &Pod) -> &str {
    label(pod.metadata.labels.as_ref(), REVISION_HASH)
}

/// Whether the labels that tell who the pod is are right.
pub(super) fn matches(set: &StatefulSet, pod: &Pod) -> bool {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    is_member(set, name) && label(pod.metadata.labels.as_ref(), POD_NAME) == name
}

/// Sets the labels that tell who the pod is.
pub(super) fn put_labels(pod: &mut Pod, name: &str, ordinal: i32) {
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(POD_NAME.to_owned(), name.to_owned());
    labels.insert(POD_INDEX.to_owned(), ordinal.to_string());
}

/// Whether the pod has the claims of the set's templates as its volumes.
pub(super) fn storage_matches(set: &StatefulSet, pod: &Pod) -> bool {
    let Some(ordinal) = ordinal(pod) else { return false };
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
    spec(set).volume_claim_templates.iter().flatten().all(|template| {
        let volume = volumes.iter().find(|volume| Some(&volume.name) == template.metadata.name.as_ref());
        let claim = volume.and_then(|volume| volume.persistent_volume_claim.as_ref());
        claim.is_some_and(|claim| claim.claim_name == claim_name(set, template, ordinal))
    })
}

/// The pod's volumes with those of the set's templates; a volume of such a name is replaced.
pub(super) fn volumes_with_claims(set: &StatefulSet, present: &[Volume], ordinal: i32) -> Vec<Volume> {
    let templates = spec(set).volume_claim_templates.as_deref().unwrap_or_default();
    let mut volumes: Vec<Volume> = templates
        .iter()
        .map(|template| Volume {
            name: template.name_any(),
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                claim_name: claim_name(set, template, ordinal),
                read_only: None,
            }),
            ..Default::default()
        })
        .collect();
    let replaced = volumes.len();
    for volume in present {
        if volumes[..replaced].iter().all(|claim| claim.name != volume.name) {
            volumes.push(volume.clone());
        }
    }
    volumes
}

/// A pod of this ordinal from the set's template.
fn new_pod(set: &StatefulSet, ordinal: i32, revision: &str) -> Pod {
    let mut pod = pod_from_template(Some(&spec(set).template), name(set), controller_reference(set));
    let pod_name = pod_name(set, ordinal);
    pod.metadata.name = Some(pod_name.clone());
    pod.metadata.namespace = set.namespace();
    put_labels(&mut pod, &pod_name, ordinal);
    pod.metadata.labels.get_or_insert_default().insert(REVISION_HASH.to_owned(), revision.to_owned());
    let pod_spec = pod.spec.get_or_insert_default();
    pod_spec.hostname = Some(pod_name);
    pod_spec.subdomain = spec(set).service_name.clone().filter(|service| !service.is_empty());
    let volumes = volumes_with_claims(set, pod_spec.volumes.as_deref().unwrap_or_default(), ordinal);
    pod_spec.volumes = Some(volumes).filter(|volumes| !volumes.is_empty());
    pod
}

/// One revision of a set: its name, and the set as of then.
pub(super) struct Version {
    pub(super) name: String,
    pub(super) set: StatefulSet,
}

/// A pod of this ordinal, of the current revision if its ordinal is yet below the update, else of the update revision.
pub(super) fn new_versioned_pod(current: &Version, update: &Version, ordinal: i32) -> Pod {
    let set = &current.set;
    let strategy = spec(set).update_strategy.as_ref();
    let below = match strategy.and_then(|strategy| strategy.rolling_update.as_ref()) {
        Some(rolling) => Some(rolling.partition.unwrap_or(0)),
        None if strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("RollingUpdate") => {
            Some(set.status.as_ref().and_then(|status| status.current_replicas).unwrap_or(0))
        }
        None => None,
    };
    let version = match below {
        Some(count) if i64::from(ordinal) < i64::from(first_ordinal(set)) + i64::from(count) => current,
        _ => update,
    };
    new_pod(&version.set, ordinal, &version.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn set(extra: Value) -> StatefulSet {
        let mut value = json!({"metadata": {"name": "web", "namespace": "ns", "uid": "u"},
            "spec": {"serviceName": "svc", "replicas": 3, "selector": {"matchLabels": {"app": "web"}},
                "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": []}}}});
        for (key, field) in extra.as_object().expect("is an object") {
            value["spec"][key] = field.clone();
        }
        serde_json::from_value(value).expect("is a set")
    }

    #[test]
    fn names_and_ordinals() {
        for (pod, expected) in [
            ("web-0", Some(("web", 0))),
            ("web-a-12", Some(("web-a", 12))),
            ("web", None),
            ("web-", None),
            ("web-a", None),
            ("web-01", None),
            ("web-+1", None),
            ("web--1", Some(("web-", 1))),
            ("web-2147483648", None),
        ] {
            assert_eq!(parse(pod), expected, "{pod}");
        }
        let claims = set(json!({"volumeClaimTemplates": [{"metadata": {"name": "data"}}]}));
        for (claim, expected) in [("data-web-0", true), ("data-web", false), ("data-webb-0", false), ("web-0", false)] {
            assert_eq!(is_claim_of(&claims, claim), expected, "{claim}");
        }
        assert!(is_member(&set(json!({})), "web-7") && !is_member(&set(json!({})), "web-a-7"));
    }

    #[test]
    fn ordinals_in_range() {
        for (extra, inside, outside) in [
            (json!({}), vec![0, 2], vec![3]),
            (json!({"ordinals": {"start": 5}}), vec![5, 7], vec![0, 4, 8]),
            (json!({"replicas": 0}), vec![], vec![0]),
            (json!({"ordinals": {"start": i32::MAX}, "replicas": 2}), vec![i32::MAX], vec![0]),
        ] {
            let set = set(extra.clone());
            assert!(inside.iter().all(|ordinal| in_range(&set, *ordinal)), "{extra}");
            assert!(outside.iter().all(|ordinal| !in_range(&set, *ordinal)), "{extra}");
        }
    }

    #[test]
    fn a_new_pod_knows_who_it_is() {
        let set = set(json!({"volumeClaimTemplates": [{"metadata": {"name": "data"}}], "template": {
            "metadata": {"labels": {"app": "web"}, "annotations": {"a": "b"}},
            "spec": {"containers": [], "volumes": [{"name": "data", "emptyDir": {}}, {"name": "other", "emptyDir": {}}]}}}));
        let pod = new_pod(&set, 1, "web-rev");
        assert_eq!((pod.name_any().as_str(), pod.namespace().as_deref()), ("web-1", Some("ns")));
        let labels = [("app", "web"), (POD_NAME, "web-1"), (POD_INDEX, "1"), (REVISION_HASH, "web-rev")];
        assert_eq!(pod.labels().len(), labels.len());
        assert!(labels.iter().all(|(key, value)| pod.labels()[*key] == *value), "{:?}", pod.labels());
        assert_eq!(pod.annotations()["a"], "b");
        assert_eq!(pod.owner_references()[0].uid, "u");
        let spec = pod.spec.clone().expect("has a spec");
        assert_eq!((spec.hostname.as_deref(), spec.subdomain.as_deref()), (Some("web-1"), Some("svc")));
        let volumes = spec.volumes.expect("has volumes");
        let names: Vec<&str> = volumes.iter().map(|volume| volume.name.as_str()).collect();
        assert_eq!(names, ["data", "other"]);
        assert_eq!(volumes[0].persistent_volume_claim.as_ref().expect("is a claim").claim_name, "data-web-1");
        assert!(matches(&set, &pod) && storage_matches(&set, &pod));
        let mut strange = pod.clone();
        strange.metadata.labels = None;
        strange.spec = None;
        assert!(!matches(&set, &strange) && !storage_matches(&set, &strange));
    }

    #[test]
    fn which_revision_a_new_pod_gets() {
        // (update strategy, current replicas in the status, start, ordinal, revision): upstream's newVersionedStatefulSetPod.
        for (strategy, current, start, ordinal, expected) in [
            (json!({"type": "RollingUpdate"}), 2, 0, 1, "old"),
            (json!({"type": "RollingUpdate"}), 2, 0, 2, "new"),
            (json!({"type": "RollingUpdate"}), 2, 5, 6, "old"),
            (json!({"type": "RollingUpdate"}), 2, 5, 7, "new"),
            (json!({"type": "RollingUpdate", "rollingUpdate": {}}), 2, 0, 0, "new"),
            (json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 2}}), 0, 0, 1, "old"),
            (json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 2}}), 3, 0, 2, "new"),
            (json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 2}}), 3, 5, 6, "old"),
            (json!({"type": "OnDelete"}), 3, 0, 0, "new"),
        ] {
            let mut set = set(json!({"updateStrategy": strategy, "ordinals": {"start": start}}));
            set.status.get_or_insert_default().current_replicas = Some(current);
            let version = |name: &str| Version { name: name.into(), set: set.clone() };
            let pod = new_versioned_pod(&version("old"), &version("new"), ordinal);
            assert_eq!(revision(&pod), expected, "{strategy} {current} {start} {ordinal}");
        }
    }
}
