//! Objects before and after defaulting.

use super::apply;
use crate::decode::conform;
use crate::schema::lookup;
use crate::{Value, value};

fn defaulted(mut object: Value) -> Value {
    let info = lookup(&object.gvk().expect("has a kind")).expect("known kind");
    conform(&mut object, info).expect("fits its type");
    apply(&mut object, info);
    let once = object.clone();
    apply(&mut object, info);
    assert_eq!(object, once, "defaulting is idempotent");
    conform(&mut object, info).expect("still fits");
    assert_eq!(object, once, "defaulting keeps the object's form");
    object
}

#[test]
fn a_pod_as_upstream_defaults_it() {
    let pod = value!({"apiVersion": "v1", "kind": "Pod", "spec": {
        "serviceAccountName": "sa", "hostNetwork": true,
        "volumes": [{"name": "e"}, {"name": "s", "secret": {"secretName": "x"}}, {"name": "h", "hostPath": {"path": "/"}},
            {"name": "p", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}],
        "containers": [{"name": "c", "image": "nginx", "ports": [{"containerPort": 80}],
            "resources": {"limits": {"cpu": "1", "memory": "0.0001"}, "requests": {"cpu": "500m"}},
            "env": [{"name": "n", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
            "livenessProbe": {"httpGet": {"port": 80}}, "readinessProbe": {"grpc": {"port": 1}}}],
    }});
    let expected = value!({"apiVersion": "v1", "kind": "Pod", "metadata": {}, "status": {}, "spec": {
        "serviceAccountName": "sa", "serviceAccount": "sa", "hostNetwork": true, "dnsPolicy": "ClusterFirst", "restartPolicy": "Always",
        "schedulerName": "default-scheduler", "securityContext": {}, "terminationGracePeriodSeconds": 30, "enableServiceLinks": true,
        "volumes": [{"name": "e", "emptyDir": {}}, {"name": "s", "secret": {"secretName": "x", "defaultMode": 420}},
            {"name": "h", "hostPath": {"path": "/", "type": ""}},
            {"name": "p", "projected": {"defaultMode": 420, "sources": [{"serviceAccountToken": {"path": "t", "expirationSeconds": 3600}}]}}],
        "containers": [{"name": "c", "image": "nginx", "imagePullPolicy": "Always", "terminationMessagePath": "/dev/termination-log",
            "terminationMessagePolicy": "File", "ports": [{"containerPort": 80, "hostPort": 80, "protocol": "TCP"}],
            "resources": {"limits": {"cpu": "1", "memory": "1m"}, "requests": {"cpu": "500m", "memory": "1m"}},
            "env": [{"name": "n", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}}],
            "livenessProbe": {"httpGet": {"port": 80, "path": "/", "scheme": "HTTP"}, "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3},
            "readinessProbe": {"grpc": {"port": 1, "service": ""}, "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3}}],
    }});
    assert_eq!(defaulted(pod), expected);
}

#[test]
fn a_negative_grace_of_a_pod_is_a_second() {
    let check = |mut object: Value, at: &[&str], expected: i64| {
        object.path_mut(at).insert("terminationGracePeriodSeconds", -1);
        assert_eq!(defaulted(object).path_mut(at)["terminationGracePeriodSeconds"].as_i64(), Some(expected), "{at:?}");
    };
    check(value!({"apiVersion": "v1", "kind": "Pod"}), &["spec"], 1);
    check(value!({"apiVersion": "apps/v1", "kind": "Deployment"}), &["spec", "template", "spec"], -1);
}

#[test]
fn a_deployment_and_its_template() {
    let deployment = value!({"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "x:1"}]}}}});
    let expected = value!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {}, "status": {}, "spec": {
        "replicas": 1, "revisionHistoryLimit": 10, "progressDeadlineSeconds": 600, "selector": {"matchLabels": {"a": "b"}},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {
            "containers": [{"name": "c", "image": "x:1", "imagePullPolicy": "IfNotPresent", "resources": {},
                "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"}],
            "dnsPolicy": "ClusterFirst", "restartPolicy": "Always", "schedulerName": "default-scheduler", "securityContext": {},
            "terminationGracePeriodSeconds": 30}}}});
    assert_eq!(defaulted(deployment), expected);
}

#[test]
fn services() {
    let spec = |spec: Value| defaulted(value!({"apiVersion": "v1", "kind": "Service", "spec": spec}))["spec"].clone();
    assert_eq!(
        spec(value!({"ports": [{"port": 80}]})),
        value!({"ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}], "sessionAffinity": "None", "type": "ClusterIP", "internalTrafficPolicy": "Cluster"})
    );
    let balanced = spec(value!({"type": "LoadBalancer", "sessionAffinity": "ClientIP"}));
    assert_eq!(balanced["allocateLoadBalancerNodePorts"], Value::Bool(true));
    assert_eq!(balanced["externalTrafficPolicy"], "Cluster");
    assert_eq!(balanced["sessionAffinityConfig"], value!({"clientIP": {"timeoutSeconds": 10800}}));
    let external = spec(value!({"type": "ExternalName", "externalName": "x"}));
    assert!(external.get("internalTrafficPolicy").is_none() && external.get("externalTrafficPolicy").is_none());
}

#[test]
fn single_members() {
    let cases: [(Value, &[&str], Value); 14] = [
        (value!({"apiVersion": "batch/v1", "kind": "Job", "spec": {"parallelism": 2}}), &["spec", "completions"], Value::Null),
        (value!({"apiVersion": "batch/v1", "kind": "Job", "spec": {}}), &["spec", "backoffLimit"], Value::Int(6)),
        (value!({"apiVersion": "batch/v1", "kind": "CronJob", "spec": {}}), &["spec", "failedJobsHistoryLimit"], Value::Int(1)),
        (value!({"apiVersion": "v1", "kind": "Secret", "stringData": {"a": "x"}}), &["data", "a"], Value::from("eA==")),
        (
            value!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n"}}),
            &["metadata", "labels", "kubernetes.io/metadata.name"],
            Value::from("n"),
        ),
        (
            value!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n"}}),
            &["status", "phase"],
            Value::from("Active"),
        ),
        (
            value!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "spec": {}}),
            &["spec", "volumeMode"],
            Value::from("Filesystem"),
        ),
        (
            value!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "provisioner": "x"}),
            &["reclaimPolicy"],
            Value::from("Delete"),
        ),
        (
            value!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "subjects": [{"kind": "User", "name": "u"}]}),
            &["roleRef", "apiGroup"],
            Value::from("rbac.authorization.k8s.io"),
        ),
        (
            value!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "spec": {"egress": [{}]}}),
            &["spec", "policyTypes"],
            value!(["Ingress", "Egress"]),
        ),
        (
            value!({"apiVersion": "apps/v1", "kind": "StatefulSet", "spec": {"updateStrategy": {"type": "RollingUpdate"}}}),
            &["spec", "updateStrategy", "rollingUpdate"],
            Value::Null,
        ),
        (
            value!({"apiVersion": "apps/v1", "kind": "DaemonSet", "spec": {}}),
            &["spec", "updateStrategy", "rollingUpdate", "maxUnavailable"],
            Value::Int(1),
        ),
        (
            value!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "spec": {}}),
            &["spec", "metrics"],
            value!([{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}}]),
        ),
        (
            value!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "spec": {"names": {"kind": "Foo", "plural": "foos"}, "versions": [{"name": "v1", "served": true, "storage": true}]}}),
            &["status", "storedVersions"],
            value!(["v1"]),
        ),
    ];
    for (object, path, expected) in cases {
        let text = object.to_json();
        assert_eq!(defaulted(object).get_path(path).cloned().unwrap_or_default(), expected, "{text} {path:?}");
    }
}

#[test]
fn pod_level_resources() {
    let pod = value!({"apiVersion": "v1", "kind": "Pod", "spec": {"resources": {"limits": {"cpu": "2", "memory": "1Gi"}},
        "containers": [{"name": "a", "resources": {"requests": {"cpu": "100m"}}}, {"name": "b", "resources": {"requests": {"cpu": "200m"}}}],
        "initContainers": [{"name": "i", "resources": {"requests": {"cpu": "1"}}}]}});
    assert_eq!(defaulted(pod)["spec"]["resources"]["requests"], value!({"cpu": "1", "memory": "1Gi"}));
}
