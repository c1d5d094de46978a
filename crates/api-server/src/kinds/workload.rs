//! Workloads (KEP-4671): groups of pods that are scheduled together. Served with the feature `GenericWorkload` alone.

use apimachinery::field::{Error, ErrorList};
use apimachinery::{Value, validation};

use super::at::{At, IMMUTABLE};
use super::table::{Checks, any};

/// Upstream's `WorkloadMaxPodGroups`.
const POD_GROUPS_MAX: usize = 8;

pub(super) const CHECKS: &[Checks] =
    &[Checks { group: "scheduling.k8s.io", resource: "workloads", create: workload, update, status: any }];

fn workload(object: &Value, e: &mut ErrorList) {
    let root = At::root(object);
    let spec = root.get("spec");
    if let Some(reference) = spec.set("controllerRef") {
        reference.get("apiGroup").check_set(e, validation::is_dns1123_subdomain);
        reference.get("kind").required_name(e, validation::is_path_segment_name);
        reference.get("name").required_name(e, validation::is_path_segment_name);
    }
    let groups = spec.get("podGroups");
    match groups.len() {
        0 => groups.require(e, "must have at least one item"),
        count if count > POD_GROUPS_MAX => e.push(Error::too_many(&groups.path(), count, POD_GROUPS_MAX)),
        _ => pod_groups(&groups, e),
    }
}

fn pod_groups(groups: &At, e: &mut ErrorList) {
    let mut seen: Vec<&str> = Vec::new();
    for group in groups.items() {
        let name = group.get("name");
        name.check(e, validation::is_dns1123_label);
        if seen.contains(&name.text()) {
            e.push(Error::duplicate(&name.path(), name.text()));
        }
        seen.push(name.text());
        policy(&group.get("policy"), e);
    }
}

/// A union: exactly one member.
fn policy(at: &At, e: &mut ErrorList) {
    const RULE: &str = "exactly one of `basic`, `gang` is required";
    let is_there = |name: &str| at.get(name).is_set() || at.get(name).was_sent_empty();
    match (is_there("basic"), is_there("gang")) {
        (false, false) => at.require(e, RULE),
        (true, true) => {
            let why = format!("{RULE}, but multiple fields are set");
            e.push(Error::invalid(&at.path(), "{`basic`, `gang`}", why));
        }
        (false, true) => at.get("gang").get("minCount").positive(e),
        (true, false) => {}
    }
}

/// Upstream's paths leave `spec` out here.
fn update(object: &Value, old: &Value, e: &mut ErrorList) {
    workload(object, e);
    let (new, before) = (&object["spec"], &old["spec"]);
    let root = At::root(object);
    let at = |name: &'static str| (root.get(name), &new[name], &before[name]);
    let (reference, value, old) = at("controllerRef");
    if !old.is_null() && value != old {
        reference.with(value).invalid_internal(e, "scheduling.v1alpha1.TypedLocalObjectReference", IMMUTABLE);
    }
    let (groups, value, old) = at("podGroups");
    if value != old {
        groups.with(value).invalid_list(e, "scheduling.v1alpha1.PodGroup", IMMUTABLE);
    }
}

#[cfg(test)]
mod tests {
    use apimachinery::value;

    use super::super::table::tests::{assert_create, assert_update};

    #[test]
    fn rules() {
        let group = |name: &str| value!({"name": name, "policy": {"gang": {"minCount": 2}}});
        let with = |policy: apimachinery::Value| value!([{"name": "a", "policy": policy}]);
        let valid = value!({"spec": {
            "controllerRef": {"apiGroup": "batch", "kind": "Job", "name": "j"},
            "podGroups": [group("a"), {"name": "b", "policy": {"basic": {}}}],
        }});
        let nine: Vec<_> = (0..9).map(|n| group(&format!("g{n}"))).collect();
        assert_create(
            "scheduling.k8s.io",
            "workloads",
            &valid,
            &[
                (&["spec", "podGroups"], value!([]), &["spec.podGroups: Required value: must have at least one item"]),
                (
                    &["spec", "podGroups"],
                    apimachinery::Value::from(nine),
                    &["spec.podGroups: Too many: 9: must have at most 8 items"],
                ),
                (&["spec", "podGroups"], value!([group("a"), group("a")]), &[r#"spec.podGroups[1].name: Duplicate value: "a""#]),
                (
                    &["spec", "podGroups"],
                    value!([group("A")]),
                    &[
                        r#"spec.podGroups[0].name: Invalid value: "A": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"#,
                    ],
                ),
                (
                    &["spec", "podGroups"],
                    with(value!({})),
                    &["spec.podGroups[0].policy: Required value: exactly one of `basic`, `gang` is required"],
                ),
                (
                    &["spec", "podGroups"],
                    with(value!({"basic": {}, "gang": {"minCount": 1}})),
                    &[
                        "spec.podGroups[0].policy: Invalid value: \"{`basic`, `gang`}\": exactly one of `basic`, `gang` is required, but multiple fields are set",
                    ],
                ),
                (
                    &["spec", "podGroups"],
                    with(value!({"gang": {"minCount": 0}})),
                    &["spec.podGroups[0].policy.gang.minCount: Invalid value: 0: must be greater than 0"],
                ),
                (
                    &["spec", "controllerRef"],
                    value!({"apiGroup": "B", "kind": "a/b"}),
                    &[
                        r#"spec.controllerRef.apiGroup: Invalid value: "B": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"#,
                        r#"spec.controllerRef.kind: Invalid value: "a/b": may not contain '/'"#,
                        "spec.controllerRef.name: Required value",
                    ],
                ),
            ],
        );
        assert_update(
            "scheduling.k8s.io",
            "workloads",
            &valid,
            &[
                (&["spec", "controllerRef"], value!(null), &["controllerRef: Invalid value: null: field is immutable"]),
                (
                    &["spec", "podGroups"],
                    value!([group("a")]),
                    &[
                        r#"podGroups: Invalid value: [{"Name":"a","Policy":{"Basic":null,"Gang":{"MinCount":2}}}]: field is immutable"#,
                    ],
                ),
            ],
        );
        let without = value!({"spec": {"podGroups": [group("a")]}});
        let added = (&["spec", "controllerRef"][..], value!({"kind": "Job", "name": "j"}), &[][..]);
        assert_update("scheduling.k8s.io", "workloads", &without, &[added]);
    }
}
