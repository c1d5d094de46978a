//! Upstream's cases of `evaluator/core/*_test.go` and more.

use serde_json::json;

use super::*;

fn value(json: serde_json::Value) -> Value {
    Value::from_slice(json.to_string().as_bytes()).expect("JSON")
}

fn now() -> Timestamp {
    crate::time::parse_time("2026-01-01T12:00:00Z").expect("a time")
}

/// `pod` is the spec; `expected` as printed.
fn usage(evaluator: &Evaluator, object: serde_json::Value, expected: &str) {
    let used = evaluator.usage(&value(object.clone()), now());
    assert_eq!(print(&used), expected, "{object}");
}

fn container(name: &str, resources: serde_json::Value) -> serde_json::Value {
    json!({"name": name, "resources": resources})
}

#[test]
fn pods_that_run() {
    let pods = Evaluator::Pods;
    usage(&pods, json!({"spec": {"containers": [{"name": "a"}]}}), "count/pods=1,pods=1");
    let asks = json!({"requests": {"cpu": "1m", "memory": "50Mi"}, "limits": {"cpu": "2m", "memory": "100Mi"}});
    let all = "count/pods=1,cpu=1m,limits.cpu=2m,limits.memory=100Mi,memory=50Mi,pods=1,requests.cpu=1m,requests.memory=50Mi";
    usage(&pods, json!({"spec": {"containers": [container("a", asks.clone())]}}), all);
    usage(&pods, json!({"spec": {"containers": [{"name": "m"}], "initContainers": [container("a", asks)]}}), all);
    let devices = json!({"requests": {"example.com/dongle": "3"}, "limits": {"example.com/dongle": "3"}});
    let expected = "count/pods=1,pods=1,requests.example.com/dongle=3";
    usage(&pods, json!({"spec": {"containers": [container("a", devices)]}}), expected);
    let huge = json!({"requests": {"hugepages-2Mi": "4Mi"}, "limits": {"hugepages-2Mi": "4Mi"}});
    let expected = "count/pods=1,hugepages-2Mi=4Mi,pods=1,requests.hugepages-2Mi=4Mi";
    usage(&pods, json!({"spec": {"containers": [container("a", huge)]}}), expected);
    let disk = json!({"requests": {"ephemeral-storage": "1Gi"}, "limits": {"ephemeral-storage": "2Gi"}});
    let expected = "count/pods=1,ephemeral-storage=1Gi,limits.ephemeral-storage=2Gi,pods=1,requests.ephemeral-storage=1Gi";
    usage(&pods, json!({"spec": {"containers": [container("a", disk)]}}), expected);
}

#[test]
fn sums_of_containers() {
    let cpu = |amount: &str| json!({"requests": {"cpu": amount}});
    let spec = json!({
        "containers": [container("a", cpu("1")), container("b", cpu("500m"))],
        "initContainers": [
            container("once", cpu("1")),
            {"name": "side", "restartPolicy": "Always", "resources": cpu("1")},
            container("last", cpu("4")),
        ],
        "overhead": {"cpu": "250m"},
    });
    // The last init container runs beside the sidecar.
    usage(&Evaluator::Pods, json!({ "spec": spec }), "count/pods=1,cpu=5250m,pods=1,requests.cpu=5250m");
    let mut whole = spec;
    whole["resources"] = json!({"requests": {"cpu": "2"}});
    usage(&Evaluator::Pods, json!({ "spec": whole }), "count/pods=1,cpu=2250m,pods=1,requests.cpu=2250m");
}

#[test]
fn pods_that_are_resized() {
    let pod = |reason: &str| {
        json!({
            "spec": {"containers": [container("a", json!({"requests": {"cpu": "300m"}}))]},
            "status": {
                "conditions": [{"type": "PodResizePending", "reason": reason}],
                "containerStatuses": [{
                    "name": "a", "allocatedResources": {"cpu": "150m"}, "resources": {"requests": {"cpu": "200m"}},
                }],
            },
        })
    };
    usage(&Evaluator::Pods, pod("Deferred"), "count/pods=1,cpu=300m,pods=1,requests.cpu=300m");
    usage(&Evaluator::Pods, pod("Infeasible"), "count/pods=1,cpu=200m,pods=1,requests.cpu=200m");
}

#[test]
fn pods_that_have_ended() {
    let pod = |phase: &str, deleted: Option<&str>| {
        let meta = match deleted {
            Some(at) => json!({"deletionTimestamp": at, "deletionGracePeriodSeconds": 30}),
            None => json!({}),
        };
        json!({"metadata": meta, "spec": {"containers": [{"name": "a"}]}, "status": {"phase": phase}})
    };
    for (pod, charged) in [
        (pod("Running", None), true),
        (pod("Succeeded", None), false),
        (pod("Failed", None), false),
        (pod("Running", Some("2026-01-01T11:59:45Z")), true),
        (pod("Running", Some("2026-01-01T11:59:15Z")), false),
    ] {
        usage(&Evaluator::Pods, pod, if charged { "count/pods=1,pods=1" } else { "count/pods=1" });
    }
}

#[test]
fn what_pods_must_say() {
    let pod = value(json!({"spec": {
        "containers": [container("dummy", json!({"requests": {"cpu": "1m"}, "limits": {"cpu": "2m"}})), {"name": "b"}],
        "initContainers": [{"name": "i"}],
    }}));
    for (limited, expected) in [
        (&["pods"][..], Ok(())),
        (&["cpu"], Err("must specify cpu for: b,i")),
        (&["memory", "cpu"], Err("must specify cpu for: b,i; memory for: b,dummy,i")),
        (&["requests.cpu", "limits.memory"], Err("must specify limits.memory for: b,dummy,i; requests.cpu for: b,i")),
        (&["ephemeral-storage", "requests.nvidia.com/gpu"], Ok(())),
    ] {
        assert_eq!(Evaluator::Pods.constraints(limited, &pod), expected.map_err(str::to_owned), "{limited:?}");
    }
    let whole = value(json!({"spec": {"containers": [{"name": "a"}], "resources": {"requests": {"memory": "1Mi"}}}}));
    assert_eq!(Evaluator::Pods.constraints(&["cpu", "memory"], &whole), Ok(()));
}

#[test]
fn scopes_of_pods() {
    let requirement = |scope: &str, operator: &str, values: &[&str]| Requirement {
        scope: scope.to_owned(),
        operator: operator.to_owned(),
        values: values.iter().map(|v| (*v).to_owned()).collect(),
    };
    let plain = json!({"spec": {"containers": [{"name": "a"}]}});
    let burstable = json!({"spec": {"containers": [container("a", json!({"requests": {"cpu": "1m"}}))]}});
    let ending = json!({"spec": {"activeDeadlineSeconds": 30}});
    let high = json!({"spec": {"priorityClassName": "high"}});
    let term = json!({"topologyKey": "t", "namespaceSelector": {}});
    let affine =
        json!({"spec": {"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term.clone()]}}}});
    let weighted = json!({"weight": 1, "podAffinityTerm": term});
    let apart =
        json!({"spec": {"affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [weighted]}}}});
    for (scope, pod, expected) in [
        (requirement("BestEffort", "Exists", &[]), &plain, true),
        (requirement("BestEffort", "Exists", &[]), &burstable, false),
        (requirement("NotBestEffort", "Exists", &[]), &burstable, true),
        (requirement("Terminating", "Exists", &[]), &ending, true),
        (requirement("NotTerminating", "Exists", &[]), &ending, false),
        (requirement("NotTerminating", "Exists", &[]), &plain, true),
        (requirement("PriorityClass", "Exists", &[]), &high, true),
        (requirement("PriorityClass", "Exists", &[]), &plain, false),
        (requirement("PriorityClass", "In", &["low", "high"]), &high, true),
        (requirement("PriorityClass", "In", &["low"]), &high, false),
        (requirement("PriorityClass", "NotIn", &["low"]), &high, true),
        (requirement("PriorityClass", "NotIn", &["high"]), &plain, true),
        (requirement("PriorityClass", "DoesNotExist", &[]), &plain, true),
        (requirement("CrossNamespacePodAffinity", "Exists", &[]), &affine, true),
        (requirement("CrossNamespacePodAffinity", "Exists", &[]), &apart, true),
        (requirement("CrossNamespacePodAffinity", "Exists", &[]), &plain, false),
        (requirement("VolumeAttributesClass", "Exists", &[]), &plain, false),
    ] {
        assert_eq!(Evaluator::Pods.fulfils(&scope, &value(pod.clone())), expected, "{scope:?} {pod}");
    }
}

#[test]
fn services() {
    let ports = json!([{"port": 1}, {"port": 2, "nodePort": 30000}]);
    for (spec, balancers, node_ports) in [
        (json!({"ports": ports}), 0, 0),
        (json!({"type": "ClusterIP", "ports": ports}), 0, 0),
        (json!({"type": "NodePort", "ports": ports}), 0, 2),
        (json!({"type": "LoadBalancer", "ports": ports}), 1, 2),
        (json!({"type": "LoadBalancer", "ports": ports, "allocateLoadBalancerNodePorts": false}), 1, 1),
    ] {
        let expected = format!("count/services=1,services=1,services.loadbalancers={balancers},services.nodeports={node_ports}");
        usage(&Evaluator::Services, json!({ "spec": spec }), &expected);
    }
}

#[test]
fn claims() {
    let claim = |class: Option<&str>, granted: Option<&str>| {
        let mut claim = json!({"spec": {"resources": {"requests": {"storage": "10Gi"}}}});
        if let Some(class) = class {
            claim["spec"]["storageClassName"] = json!(class);
        }
        if let Some(granted) = granted {
            claim["status"] = json!({"allocatedResources": {"storage": granted}});
        }
        claim
    };
    let claims = Evaluator::Claims;
    usage(&claims, claim(None, None), "count/persistentvolumeclaims=1,persistentvolumeclaims=1,requests.storage=10Gi");
    let gold = "count/persistentvolumeclaims=1,gold.storageclass.storage.k8s.io/persistentvolumeclaims=1,\
                gold.storageclass.storage.k8s.io/requests.storage=10Gi,persistentvolumeclaims=1,requests.storage=10Gi";
    usage(&claims, claim(Some("gold"), Some("5Gi")), gold);
    usage(&claims, claim(Some("gold"), Some("20Gi")), &gold.replace("10Gi", "20Gi"));
    for (name, measured) in [
        ("requests.storage", true),
        ("gold.storageclass.storage.k8s.io/requests.storage", true),
        ("gold.storageclass.storage.k8s.io/persistentvolumeclaims", true),
        ("gold.storageclass.storage.k8s.io/other", false),
        ("count/persistentvolumeclaims", true),
        ("cpu", false),
    ] {
        assert_eq!(claims.measures(name), measured, "{name}");
    }
    let scope = Requirement { scope: "VolumeAttributesClass".into(), operator: "In".into(), values: vec!["fast".into()] };
    let modified = value(json!({"status": {"modifyVolumeStatus": {"targetVolumeAttributesClassName": "fast"}}}));
    assert!(claims.fulfils(&scope, &modified) && !claims.fulfils(&scope, &value(json!({}))));
}

#[test]
fn devices() {
    let claim = json!({"spec": {"devices": {"requests": [
        {"name": "a", "exactly": {"deviceClassName": "gpu", "allocationMode": "ExactCount", "count": 2}},
        {"name": "b", "firstAvailable": [
            {"name": "x", "deviceClassName": "gpu", "allocationMode": "ExactCount", "count": 1},
            {"name": "y", "deviceClassName": "gpu", "allocationMode": "ExactCount", "count": 3},
            {"name": "z", "deviceClassName": "nic", "allocationMode": "All"},
        ]},
    ]}}});
    let expected = "count/resourceclaims.resource.k8s.io=1,gpu.deviceclass.resource.k8s.io/devices=5,nic.deviceclass.resource.k8s.io/devices=32";
    usage(&Evaluator::ResourceClaims, claim, expected);
}

#[test]
fn kinds_behind_names() {
    let kinds = |names: &[&str]| -> Vec<String> {
        Evaluator::for_names(names.iter().copied()).into_iter().map(|(resource, _)| resource.to_string()).collect()
    };
    assert_eq!(kinds(&["cpu", "pods", "requests.example.com/x"]), ["pods"]);
    assert_eq!(kinds(&["count/deployments.apps", "configmaps", "count/configmaps"]), ["configmaps", "deployments.apps"]);
    assert_eq!(kinds(&["services.nodeports", "requests.storage"]), ["services", "persistentvolumeclaims"]);
    assert_eq!(kinds(&["count/events", "nothing"]), [""; 0]);
    assert_eq!(kinds(&["count/widgets.example.com"]), ["widgets.example.com"]);
}

#[test]
fn totals_count_what_is_in_scope() {
    let quota = value(json!({"spec": {"scopes": ["NotTerminating"]}}));
    let requirements = requirements(&quota);
    let pods = [json!({"spec": {}}), json!({"spec": {"activeDeadlineSeconds": 1}}), json!({"spec": {}})].map(value);
    let total = Evaluator::Pods.total(&["pods", "cpu", "services"], &requirements, pods.iter(), now());
    assert_eq!(print(&total), "cpu=0,pods=2");
    let counted = Evaluator::Count(vec!["configmaps".to_owned()]);
    // Kinds without scopes are in none.
    assert_eq!(print(&counted.total(&["configmaps"], &requirements, pods.iter(), now())), "configmaps=0");
    assert_eq!(print(&counted.total(&["configmaps"], &[], pods.iter(), now())), "configmaps=3");
}

#[test]
fn changes_that_need_a_recount() {
    let pod = |phase: &str, cpu: &str| {
        value(json!({"status": {"phase": phase, "containerStatuses": [{"name": "a", "resources": {"requests": {"cpu": cpu}}}]}}))
    };
    let service = |kind: &str| value(json!({"spec": {"type": kind}}));
    for (evaluator, old, new, expected) in [
        (Evaluator::Pods, pod("Running", "1"), pod("Running", "1"), false),
        (Evaluator::Pods, pod("Running", "1"), pod("Succeeded", "1"), true),
        (Evaluator::Pods, pod("Running", "1"), pod("Running", "2"), true),
        (Evaluator::Services, service("ClusterIP"), service("ExternalName"), false),
        (Evaluator::Services, service("NodePort"), service("ClusterIP"), true),
    ] {
        assert_eq!(evaluator.recounts_after(&new, &old, now()), expected, "{old:?} {new:?}");
    }
}
