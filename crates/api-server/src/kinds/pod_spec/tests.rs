//! Pod specs that are refused, and how.

use apimachinery::field::ErrorList;
use apimachinery::{Value, value};

use super::*;

fn pod() -> Value {
    value!({
        "metadata": {"name": "p", "namespace": "ns"},
        "spec": {
            "restartPolicy": "Always", "dnsPolicy": "ClusterFirst", "terminationGracePeriodSeconds": 30,
            "containers": [{"name": "c", "image": "i", "imagePullPolicy": "Always", "terminationMessagePolicy": "File"}],
        },
    })
}

fn with(path: &[&str], value: Value) -> Value {
    let mut pod = pod();
    pod.set_path(path, value);
    pod
}

fn container(member: &'static str, value: Value) -> Value {
    let mut pod = pod();
    pod.get_path_mut(&["spec", "containers"]).and_then(Value::as_array_mut).expect("containers")[0].insert(member, value);
    pod
}

fn texts(pod: &Value) -> Vec<String> {
    let mut errors = ErrorList::new();
    create(pod, Policy::OPEN, &mut errors);
    errors.iter().map(ToString::to_string).collect()
}

#[test]
fn a_plain_pod_is_valid() {
    assert_eq!(texts(&pod()), Vec::<String>::new());
}

#[test]
fn refused() {
    let cases = [
        (
            with(&["spec", "volumes"], value!([{"name": "v", "emptyDir": {}, "hostPath": {"path": "/a"}}])),
            "spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type",
        ),
        (
            with(&["spec", "volumes"], value!([{"name": "v", "hostPath": {"path": "/a/../b"}}])),
            "spec.volumes[0].hostPath.path: Invalid value: \"/a/../b\": must not contain '..'",
        ),
        (
            with(&["spec", "volumes"], value!([{"name": "v", "configMap": {"name": "m", "defaultMode": 1000}}])),
            "spec.volumes[0].configMap.defaultMode: Invalid value: 1000: must be a number between 0 and 0777 (octal), both inclusive",
        ),
        (
            with(&["spec", "tolerations"], value!([{"key": "a", "operator": "Exists", "value": "b"}])),
            "spec.tolerations[0].operator: Invalid value: \"b\": value must be empty when `operator` is 'Exists'",
        ),
        (
            with(
                &["spec", "topologySpreadConstraints"],
                value!([{"maxSkew": 0, "topologyKey": "z", "whenUnsatisfiable": "ScheduleAnyway"}]),
            ),
            "spec.topologySpreadConstraints[0].maxSkew: Invalid value: 0: must be greater than zero",
        ),
        (
            with(&["spec", "securityContext"], value!({"runAsUser": -1})),
            "spec.securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive",
        ),
        (
            with(&["spec", "schedulingGates"], value!([{"name": "a b"}])),
            "spec.schedulingGates[0]: Invalid value: \"a b\": name part must consist of alphanumeric characters, '-', '_' or '.', and must \
             start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
             '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
        ),
        (
            with(&["spec", "workloadRef"], value!({"name": "w", "podGroup": "p.q"})),
            "spec.workloadRef.podGroup: Invalid value: \"p.q\": must not contain dots",
        ),
        (
            with(&["spec", "dnsConfig"], value!({"nameservers": ["x"]})),
            "spec.dnsConfig.nameservers[0]: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
        ),
        (
            with(
                &["spec", "ephemeralContainers"],
                value!([{"name": "e", "image": "i", "imagePullPolicy": "Always", "terminationMessagePolicy": "File"}]),
            ),
            "spec.ephemeralContainers: Forbidden: cannot be set on create",
        ),
        (
            container("livenessProbe", value!({"successThreshold": 1})),
            "spec.containers[0].livenessProbe: Required value: must specify a handler type",
        ),
        (
            container("lifecycle", value!({"preStop": {"sleep": {"seconds": 31}}})),
            "spec.containers[0].lifecycle.preStop.sleep: Invalid value: 31: must be non-negative and less than terminationGracePeriodSeconds (30)",
        ),
        (
            container("resources", value!({"requests": {"cpu": "2"}, "limits": {"cpu": "1"}})),
            "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
        ),
        (
            container("resources", value!({"requests": {"pears": "2"}})),
            "spec.containers[0].resources.requests[pears]: Invalid value: \"pears\": must be a standard resource type or fully qualified",
        ),
        (
            container("env", value!([{"name": "A", "valueFrom": {}}])),
            "spec.containers[0].env[0].valueFrom: Invalid value: \"\": must specify one of: `fieldRef`, `resourceFieldRef`, \
             `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
        ),
        (
            container("securityContext", value!({"procMount": "Unmasked"})),
            "spec.containers[0].securityContext.procMount: Invalid value: \"Unmasked\": `hostUsers` must be false to use `Unmasked`",
        ),
        (
            container("ports", value!([{"containerPort": 70000, "protocol": "TCP"}])),
            "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
        ),
    ];
    for (pod, expected) in cases {
        let errors = texts(&pod);
        assert_eq!(errors.first().map(String::as_str), Some(expected), "{errors:?}");
    }
}

#[test]
fn only_where_the_cluster_allows_it() {
    let mut host_process = container("securityContext", value!({"windowsOptions": {"hostProcess": true}}));
    host_process.set_path(&["spec", "hostNetwork"], true);
    let cases = [
        (
            container("securityContext", value!({"privileged": true})),
            "spec.containers[0].securityContext.privileged: Forbidden: disallowed by cluster policy",
        ),
        (host_process, "spec: Forbidden: hostProcess containers are disallowed by cluster policy"),
    ];
    for (pod, expected) in cases {
        assert_eq!(texts(&pod), Vec::<String>::new());
        let mut errors = ErrorList::new();
        create(&pod, Policy { privileged: false, ..Policy::OPEN }, &mut errors);
        assert_eq!(errors.iter().map(ToString::to_string).collect::<Vec<_>>(), [expected]);
    }
    let mut errors = ErrorList::new();
    let template = value!({"template": container("securityContext", value!({"privileged": true}))});
    super::template(&At::root_under(&template, Policy { privileged: false, ..Policy::OPEN }).get("template"), &mut errors);
    let found: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert!(
        found.contains(&"template.spec.containers[0].securityContext.privileged: Forbidden: disallowed by cluster policy".into()),
        "{found:?}"
    );
}

#[test]
fn updates() {
    let old = pod();
    let mut image = container("image", "other".into());
    let check = |now: &Value| {
        let mut errors = ErrorList::new();
        update(now, &old, Policy::OPEN, &mut errors);
        errors.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(check(&image), Vec::<String>::new());
    image.set_path(&["spec", "hostname"], "h");
    let errors = check(&image);
    assert!(
        errors[0].starts_with("spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`"),
        "{errors:?}"
    );
}

#[test]
fn resizes() {
    let old = container("resources", value!({"requests": {"cpu": "1"}, "limits": {"cpu": "2"}}));
    let check = |now: Value| {
        let mut errors = ErrorList::new();
        resize(&now, &old, Policy::OPEN, &mut errors);
        errors.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(
        check(container("resources", value!({"requests": {"cpu": "1500m"}, "limits": {"cpu": "2"}}))),
        Vec::<String>::new()
    );
    let removed = check(container("resources", value!({"requests": {"cpu": "1"}})));
    assert_eq!(removed, ["spec.containers[0].resources.limits: Forbidden: resource limits cannot be removed"]);
    let class =
        check(container("resources", value!({"requests": {"cpu": "2", "memory": "1"}, "limits": {"cpu": "2", "memory": "1"}})));
    assert!(class[0].contains("Pod QOS Class may not change as a result of resizing"), "{class:?}");
}

#[test]
fn nodes_that_resize_say_what_containers_have() {
    let pod = |statuses: Value| {
        let mut pod = container("resources", value!({"requests": {"cpu": "1"}, "limits": {"cpu": "2"}}));
        pod.set_path(&["status", "containerStatuses"], statuses);
        pod
    };
    let check = |statuses: Value| {
        let mut errors = ErrorList::new();
        resize(&pod(statuses.clone()), &pod(statuses), Policy::OPEN, &mut errors);
        errors.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let refused = ["spec: Forbidden: Pod running on node without support for resize"];
    assert_eq!(check(value!([{"state": {"waiting": {}}}, {"state": {"running": {}}}])), refused);
    assert_eq!(check(value!([{"state": {"running": {}}, "resources": {}}, {"state": {"running": {}}}])), Vec::<String>::new());
    assert_eq!(check(value!([{"state": {"waiting": {}}}])), Vec::<String>::new());
}
