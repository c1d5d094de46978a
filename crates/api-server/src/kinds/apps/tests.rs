//! Which specs are valid, and which changes.

use apimachinery::{Value, value};

use super::validate::spec;
use super::{App, stateful_set};
use crate::kinds::at::Policy;
use crate::kinds::collect;

fn valid(app: App) -> Value {
    let mut object = value!({"spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {
        "metadata": {"labels": {"a": "b"}},
        "spec": {"restartPolicy": "Always", "dnsPolicy": "Default", "terminationGracePeriodSeconds": 30, "containers": [{
            "name": "c", "image": "i", "imagePullPolicy": "Always", "terminationMessagePolicy": "File"
        }]}
    }}});
    match app {
        App::Deployment => object.set_path(&["spec", "strategy", "type"], "Recreate"),
        App::DaemonSet => object.set_path(&["spec", "updateStrategy", "type"], "OnDelete"),
        App::StatefulSet => {
            object.set_path(&["spec", "updateStrategy", "type"], "RollingUpdate");
            object.set_path(&["spec", "podManagementPolicy"], "Parallel");
        }
        App::ReplicaSet => {}
        App::ReplicationController => {
            object.set_path(&["spec", "selector"], value!({"a": "b"}));
            object.set_path(&["spec", "replicas"], 1);
        }
    }
    object
}

#[test]
fn new_ones() {
    let cases: [(App, &[&str], Value, &[&str]); 15] = [
        (App::Deployment, &["spec", "replicas"], value!(1), &[]),
        (
            App::Deployment,
            &["spec", "replicas"],
            value!(-1),
            &["spec.replicas: Invalid value: -1: must be greater than or equal to 0"],
        ),
        (
            App::Deployment,
            &["spec", "strategy"],
            value!({"type": "Nope"}),
            &[
                r#"spec.strategy: Unsupported value: {"Type":"Nope","RollingUpdate":null}: supported values: "Recreate", "RollingUpdate""#,
            ],
        ),
        (
            App::Deployment,
            &["spec", "strategy"],
            value!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "0%", "maxUnavailable": 0}}),
            &["spec.strategy.rollingUpdate.maxUnavailable: Invalid value: 0: may not be 0 when `maxSurge` is 0"],
        ),
        (
            App::Deployment,
            &["spec", "template", "spec", "restartPolicy"],
            value!("Never"),
            &[r#"spec.template.spec.restartPolicy: Unsupported value: "Never": supported values: "Always""#],
        ),
        (
            App::ReplicaSet,
            &["spec", "template", "spec", "activeDeadlineSeconds"],
            value!(1),
            &["spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in ReplicaSet is not Supported"],
        ),
        (
            App::ReplicaSet,
            &["spec", "template", "metadata", "labels"],
            value!({"a": "c"}),
            &[r#"spec.template.metadata.labels: Invalid value: {"a":"c"}: `selector` does not match template `labels`"#],
        ),
        (
            App::DaemonSet,
            &["spec", "updateStrategy"],
            value!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": "101%"}}),
            &[
                r#"spec.updateStrategy.rollingUpdate.maxUnavailable: Invalid value: "101%": must not be greater than 100%"#,
                "spec.updateStrategy.rollingUpdate.maxSurge: Invalid value: 1: may not be set when maxUnavailable is non-zero",
            ],
        ),
        (
            App::DaemonSet,
            &["spec", "updateStrategy"],
            value!({"type": "RollingUpdate"}),
            &["spec.updateStrategy.rollingUpdate: Required value"],
        ),
        (App::StatefulSet, &["spec", "podManagementPolicy"], value!(""), &["spec.podManagementPolicy: Required value"]),
        (
            App::StatefulSet,
            &["spec", "serviceName"],
            value!("A"),
            &[
                "spec.serviceName: Invalid value: \"A\": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
            ],
        ),
        (
            App::StatefulSet,
            &["spec", "updateStrategy"],
            value!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0}}),
            &["spec.updateStrategy.rollingUpdate.maxUnavailable: Invalid value: 0: cannot be 0"],
        ),
        (App::StatefulSet, &["spec", "template", "spec", "hostname"], value!("not A name"), &[]),
        (App::ReplicationController, &["spec", "selector"], value!({}), &["spec.selector: Required value"]),
        (App::ReplicationController, &["spec", "template"], Value::Null, &["spec.template: Required value"]),
    ];
    for (app, path, value, expected) in cases {
        let mut object = valid(app);
        object.set_path(path, value);
        let found: Vec<String> = collect(|e| spec(app, &object, None, Policy::OPEN, e)).iter().map(ToString::to_string).collect();
        assert_eq!(found, expected, "{app:?} {object}");
    }
}

#[test]
fn changes_of_a_stateful_set() {
    let old = valid(App::StatefulSet);
    for (member, value, allowed) in [("replicas", value!(3), true), ("serviceName", value!("a"), false)] {
        let mut object = old.clone();
        object.set_path(&["spec", member], value);
        assert_eq!(collect(|e| stateful_set::update(&object, &old, e)).is_empty(), allowed, "{member}");
    }
}
