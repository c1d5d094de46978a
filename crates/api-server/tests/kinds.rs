//! The rules of kinds, through the API: what is refused with which words, and what is filled in.

mod harness;

use api_server::ServerConfig;
use apimachinery::GroupVersionKind;
use apimachinery::schema::{self, Shape, TypeInfo};
use harness::Api;
use serde_json::{Value, json};

const PODS: &str = "/api/v1/namespaces/default/pods";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

fn pod(spec: Value) -> Value {
    let mut pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    for (key, value) in spec.as_object().expect("an object") {
        pod["spec"][key] = value.clone();
    }
    pod
}

fn message(error: &Value) -> &str {
    error["message"].as_str().unwrap_or_default()
}

#[tokio::test]
async fn pods() {
    let api = Api::new().await;
    for (spec, text) in [
        (json!({"containers": []}), "spec.containers: Required value"),
        (json!({"containers": [{"name": "c"}]}), "spec.containers[0].image: Required value"),
        (json!({"containers": [{"image": "i"}]}), "spec.containers[0].name: Required value"),
        (
            json!({"containers": [{"name": "A", "image": "i"}]}),
            "spec.containers[0].name: Invalid value: \"A\": a lowercase RFC 1123 label",
        ),
        (
            json!({"containers": [{"name": "c", "image": "i"}, {"name": "c", "image": "i"}]}),
            "spec.containers[1].name: Duplicate value: \"c\"",
        ),
        (
            json!({"restartPolicy": "Sometimes"}),
            "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"OnFailure\", \"Never\"",
        ),
        (
            json!({"containers": [{"name": "c", "image": "i", "volumeMounts": [{"name": "v", "mountPath": "/x"}]}]}),
            "spec.containers[0].volumeMounts[0].name: Not found: \"v\"",
        ),
        (
            json!({"containers": [{"name": "c", "image": "i",
                "resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}}]}),
            "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
        ),
    ] {
        let error = api.post(PODS, &pod(spec)).await.expect(422);
        assert!(message(&error).contains(text), "{text}: {error}");
    }
    let created = api.post(PODS, &pod(json!({}))).await.expect(201);
    assert_eq!(created["status"], json!({"phase": "Pending", "qosClass": "BestEffort"}));
    let path = format!("{PODS}/p");
    let patch = json!({"spec": {"containers": [{"name": "c", "image": "j"}]}});
    api.patch(&path, "application/strategic-merge-patch+json", &patch).await.expect(200);
    let error = api.patch(&path, "application/merge-patch+json", &json!({"spec": {"hostname": "h"}})).await.expect(422);
    assert!(
        message(&error).starts_with("Pod \"p\" is invalid: spec: Forbidden: pod updates may not change fields other than"),
        "{error}"
    );
    let limits = json!({"limits": {"cpu": "1", "memory": "1Mi"}});
    let mut sure = pod(json!({"containers": [{"name": "c", "image": "i", "resources": limits}]}));
    sure["metadata"]["name"] = json!("sure");
    assert_eq!(api.post(PODS, &sure).await.expect(201)["status"]["qosClass"], "Guaranteed");
}

fn deployment(selector: Value, labels: Value) -> Value {
    json!({"metadata": {"name": "d"}, "spec": {"selector": selector,
        "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}})
}

#[tokio::test]
async fn selectors() {
    let api = Api::new().await;
    let good = deployment(json!({"matchLabels": {"a": "b"}}), json!({"a": "b"}));
    let error = api.post(DEPLOYMENTS, &deployment(json!({"matchLabels": {"a": "b"}}), json!({"a": "c"}))).await.expect(422);
    assert_eq!(
        message(&error),
        "Deployment.apps \"d\" is invalid: spec.template.metadata.labels: Invalid value: {\"a\":\"c\"}: `selector` does not match template `labels`"
    );
    let error = api.post(DEPLOYMENTS, &deployment(Value::Null, json!({}))).await.expect(422);
    assert!(message(&error).contains("spec.selector: Required value"), "{error}");
    api.post(DEPLOYMENTS, &good).await.expect(201);
    let other = deployment(json!({"matchLabels": {"a": "x"}}), json!({"a": "x"}));
    let error = api.put(&format!("{DEPLOYMENTS}/d"), &other).await.expect(422);
    assert!(
        message(&error).contains("spec.selector: Invalid value") && message(&error).ends_with("field is immutable"),
        "{error}"
    );
    let job = json!({"metadata": {"name": "j"}, "spec": {"template": {"spec": {"restartPolicy": "Never",
        "containers": [{"name": "c", "image": "i"}]}}}});
    let job = api.post("/apis/batch/v1/namespaces/default/jobs", &job).await.expect(201);
    let uid = &job["metadata"]["uid"];
    assert_eq!(job["spec"]["selector"]["matchLabels"], json!({"batch.kubernetes.io/controller-uid": uid}));
    assert_eq!(job["spec"]["template"]["metadata"]["labels"]["job-name"], "j");
}

/// Upstream defaults what it reads from its store, where empty is nothing, and whatever rules have filled in.
#[tokio::test]
async fn defaults_of_what_is_stored() {
    let api = Api::new().await;
    let jobs = "/apis/batch/v1/namespaces/default/jobs";
    let job = |labels: Value| {
        json!({"metadata": {"name": "j", "labels": labels}, "spec": {"template": {"metadata": {"labels": labels}, "spec": {
            "restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}})
    };
    for (query, labels) in [("?dryRun=All", json!(null)), ("?dryRun=All", json!({})), ("", json!({}))] {
        let created = api.post(&format!("{jobs}{query}"), &job(labels)).await.expect(201);
        let of_template = &created["spec"]["template"]["metadata"]["labels"];
        assert_eq!(of_template["batch.kubernetes.io/controller-uid"], created["metadata"]["uid"]);
        assert_eq!(&created["metadata"]["labels"], of_template);
    }
    let patch = json!({"metadata": {"labels": {"a": "b"}}});
    let labelled = api.patch(&format!("{jobs}/j"), "application/merge-patch+json", &patch).await.expect(200);
    assert_eq!(labelled["metadata"]["labels"]["a"], "b");

    let node = json!({"metadata": {"name": "n"}, "status": {"capacity": {"cpu": "4"}, "allocatable": {"cpu": "3"}}});
    let mut node = api.post("/api/v1/nodes", &node).await.expect(201);
    node["status"]["allocatable"] = json!({});
    let changed = api.put("/api/v1/nodes/n/status", &node).await.expect(200);
    assert_eq!(changed["status"]["allocatable"], json!({"cpu": "4"}));
}

#[tokio::test]
async fn configuration() {
    let api = Api::new().await;
    let maps = "/api/v1/namespaces/default/configmaps";
    let map = |data: Value| json!({"metadata": {"name": "m"}, "data": data, "immutable": true});
    let error = api.post(maps, &map(json!({"a b": "1"}))).await.expect(422);
    assert!(message(&error).starts_with("ConfigMap \"m\" is invalid: data[a b]: Invalid value: \"a b\""), "{error}");
    api.post(maps, &map(json!({"big": "x".repeat(1024 * 1024 + 1)}))).await.expect(422);
    api.post(maps, &map(json!({"a": "1"}))).await.expect(201);
    let error = api.put(&format!("{maps}/m"), &map(json!({"a": "2"}))).await.expect(422);
    assert_eq!(message(&error), "ConfigMap \"m\" is invalid: data: Forbidden: field is immutable when `immutable` is set");
    let secrets = "/api/v1/namespaces/default/secrets";
    api.post(secrets, &json!({"metadata": {"name": "s"}, "data": {"a": "YQ=="}})).await.expect(201);
    let typed = json!({"metadata": {"name": "s"}, "type": "other", "data": {"a": "YQ=="}});
    let error = api.put(&format!("{secrets}/s"), &typed).await.expect(422);
    assert!(message(&error).contains("type: Invalid value: \"other\": field is immutable"), "{error}");
}

/// Where a type has the spec of a pod, at most so many levels down (some types hold themselves).
fn to_pod_spec(info: &TypeInfo, levels: usize) -> Option<Vec<&'static str>> {
    if info.name == "core.v1.PodSpec" {
        return Some(Vec::new());
    }
    info.fields.iter().filter(|_| levels > 0).find_map(|field| match field.shape {
        Shape::Type(id) => to_pod_spec(id.info(), levels - 1).map(|rest| [vec![field.name], rest].concat()),
        _ => None,
    })
}

/// A valid object whose pods have this container.
fn pods_of(kind: &str, to_spec: &[&'static str], container: &Value) -> Value {
    let restart = if matches!(kind, "Job" | "CronJob") { "Never" } else { "Always" };
    let pod_spec = json!({"containers": [container], "restartPolicy": restart});
    let mut object = to_spec.iter().rev().fold(pod_spec, |inner, name| json!({*name: inner}));
    object["metadata"] = json!({"name": "holder"});
    match kind {
        "Deployment" | "ReplicaSet" | "DaemonSet" | "StatefulSet" => {
            object["spec"]["selector"] = json!({"matchLabels": {"a": "b"}});
            object["spec"]["template"]["metadata"] = json!({"labels": {"a": "b"}});
        }
        "ReplicationController" => {
            object["spec"]["selector"] = json!({"a": "b"});
            object["spec"]["template"]["metadata"] = json!({"labels": {"a": "b"}});
        }
        "CronJob" => object["spec"]["schedule"] = json!("@daily"),
        _ => {}
    }
    object
}

#[tokio::test]
async fn no_kind_forgets_that_pods_may_not_be_privileged() {
    const REFUSED: &str = "securityContext.privileged: Forbidden: disallowed by cluster policy";
    let api = Api::new().await;
    let open = Api::with(ServerConfig { allow_privileged: true, ..ServerConfig::default() }).await;
    let mut kinds = 0;
    for resource in schema::resources().iter().filter(|resource| resource.verbs.contains(&"create")) {
        let kind = GroupVersionKind::new(resource.group, resource.version, resource.kind);
        let Some(to_spec) = schema::lookup(&kind).and_then(|info| to_pod_spec(info, 6)) else { continue };
        kinds += 1;
        let root = if resource.group.is_empty() { "/api".to_owned() } else { format!("/apis/{}", resource.group) };
        let path = format!("{root}/{}/namespaces/default/{}", resource.version, resource.plural);
        let plain = pods_of(resource.kind, &to_spec, &json!({"name": "c", "image": "i"}));
        let container = json!({"name": "c", "image": "i", "securityContext": {"privileged": true}});
        let privileged = pods_of(resource.kind, &to_spec, &container);
        open.post(&path, &privileged).await.expect(201);
        let error = api.post(&path, &privileged).await.expect(422);
        assert!(message(&error).contains(REFUSED), "{error}");
        api.post(&path, &plain).await.expect(201);
        let error = api.put(&format!("{path}/holder"), &privileged).await.expect(422);
        assert!(message(&error).contains(REFUSED), "{error}");
    }
    assert!(kinds >= 9, "{kinds}");
    let ephemeral = json!({"name": "e", "image": "i", "securityContext": {"privileged": true}});
    let patch = json!({"spec": {"ephemeralContainers": [ephemeral]}});
    let path = format!("{PODS}/holder/ephemeralcontainers");
    let error = api.patch(&path, "application/strategic-merge-patch+json", &patch).await.expect(422);
    assert!(message(&error).contains(REFUSED), "{error}");
}

#[tokio::test]
async fn only_namespaces_with_a_label_see_devices_of_others() {
    const REFUSED: &str = "admin access to devices requires the `resource.kubernetes.io/admin-access: true` label";
    let api = Api::new().await;
    let labels = json!({"resource.kubernetes.io/admin-access": "true"});
    api.post("/api/v1/namespaces", &json!({"metadata": {"name": "admin", "labels": labels}})).await.expect(201);
    let request = json!({"name": "all", "exactly": {"deviceClassName": "gpu", "allocationMode": "All", "adminAccess": true}});
    let spec = json!({"devices": {"requests": [request]}});
    let claim = json!({"metadata": {"name": "c"}, "spec": spec});
    let template = json!({"metadata": {"name": "t"}, "spec": {"spec": spec}});
    let result = json!({"request": "all", "driver": "d.example.com", "pool": "p", "device": "d", "adminAccess": true});
    let status = json!({"status": {"allocation": {"devices": {"results": [result]}}}});
    for (object, plural) in [(&claim, "resourceclaims"), (&template, "resourceclaimtemplates")] {
        let path = |namespace: &str| format!("/apis/resource.k8s.io/v1/namespaces/{namespace}/{plural}");
        let error = api.post(&path("default"), object).await.expect(422);
        let cause = &error["details"]["causes"][0];
        assert_eq!(cause["field"], "spec.devices.requests[0].adminAccess", "{error}");
        assert!(cause["message"].as_str().is_some_and(|text| text.contains(REFUSED)), "{error}");
        api.post(&path("admin"), object).await.expect(201);
    }
    let status_of = |namespace: &str| format!("/apis/resource.k8s.io/v1/namespaces/{namespace}/resourceclaims/c/status");
    let merge = "application/merge-patch+json";
    api.patch(&status_of("admin"), merge, &status).await.expect(200);
    // Once it is given, nobody asks again.
    let unlabelled = json!({"metadata": {"labels": {"resource.kubernetes.io/admin-access": null}}});
    api.patch("/api/v1/namespaces/admin", merge, &unlabelled).await.expect(200);
    let reserved = json!({"status": {"reservedFor": [{"resource": "pods", "name": "p", "uid": "u"}]}});
    api.patch(&status_of("admin"), merge, &reserved).await.expect(200);
    let mut plain = claim;
    plain["spec"]["devices"]["requests"][0]["exactly"]["adminAccess"] = json!(false);
    api.post("/apis/resource.k8s.io/v1/namespaces/default/resourceclaims", &plain).await.expect(201);
    let error = api.patch(&status_of("default"), merge, &status).await.expect(422);
    assert!(message(&error).contains(REFUSED), "{error}");
}

#[tokio::test]
async fn names_of_events() {
    let api = Api::new().await;
    let involved = json!({"kind": "Pod", "namespace": "default", "name": "p"});
    let core = json!({"metadata": {"name": "A_b"}, "involvedObject": involved});
    api.post("/api/v1/namespaces/default/events", &core).await.expect(201);
    let event = json!({"metadata": {"name": "A_c"}, "regarding": involved, "type": "Normal", "reason": "r", "action": "a",
        "eventTime": "2026-01-01T00:00:00.000000Z", "reportingController": "example.com/c", "reportingInstance": "i"});
    let error = api.post("/apis/events.k8s.io/v1/namespaces/default/events", &event).await.expect(422);
    assert!(message(&error).contains("metadata.name"), "{error}");
}

#[tokio::test]
async fn starts_of_generated_names() {
    let api = Api::new().await;
    // Only what comes of it must be a name: the dot at its end is none for the start.
    let spec = json!({"selector": {"a": "b"}, "template": {"metadata": {"labels": {"a": "b"}}, "spec": pod(json!({}))["spec"]}});
    let controllers = "/api/v1/namespaces/default/replicationcontrollers";
    api.post(controllers, &json!({"metadata": {"generateName": "a."}, "spec": spec})).await.expect(201);
    let refused = api.post(controllers, &json!({"metadata": {"generateName": "A"}, "spec": spec})).await.expect(422);
    let causes = refused["details"]["causes"].as_array().map_or(0, Vec::len);
    assert_eq!((causes, refused["details"]["causes"][0]["field"].as_str()), (1, Some("metadata.name")), "{refused}");
}

#[tokio::test]
async fn a_series_of_events_says_how_many() {
    let api = Api::new().await;
    let involved = json!({"kind": "Pod", "namespace": "default", "name": "p"});
    let (events, table) = ("/api/v1/namespaces/default/events", "application/json;as=Table;v=v1;g=meta.k8s.io");
    for (name, more, count, last) in [
        ("alone", json!({}), 1, "<unknown>"),
        ("none", json!({"series": {"count": 0}, "count": 5, "lastTimestamp": "2024-01-01T00:00:00Z"}), 0, "<unknown>"),
        ("some", json!({"series": {"count": 3}}), 3, "<unknown>"),
    ] {
        let mut event = json!({"metadata": {"name": name}, "involvedObject": involved});
        event.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        api.post(events, &event).await.expect(201);
        let shown = api.get_as(&format!("{events}/{name}"), table).await.expect(200);
        let cells = &shown["rows"][0]["cells"];
        assert_eq!((&cells[0], &cells[8]), (&json!(last), &json!(count)), "{name}: {shown}");
    }
}

#[tokio::test]
async fn pods_keep_to_the_level_of_their_namespace() {
    let api = Api::new().await;
    api.post(PODS, &pod(json!({"hostPID": true}))).await.expect(201);
    let namespace = "/api/v1/namespaces/default";
    let enforce = |level: &str| json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": level}}});
    let wrong = api.patch(namespace, "application/merge-patch+json", &enforce("none")).await.expect(422);
    assert!(message(&wrong).contains("must be one of privileged, baseline, restricted"), "{wrong}");
    let labelled = api.patch(namespace, "application/merge-patch+json", &enforce("baseline")).await;
    let warnings: Vec<_> = labelled.headers.get_all("warning").iter().filter_map(|value| value.to_str().ok()).collect();
    assert!(warnings.iter().any(|warning| warning.contains("p: host namespaces")), "{warnings:?}");
    labelled.expect(200);

    let mut other = pod(json!({"hostNetwork": true}));
    other["metadata"] = json!({"generateName": "q-"});
    let refused = api.post(PODS, &other).await.expect(403);
    let text = r#"is forbidden: violates PodSecurity "baseline:latest": host namespaces (hostNetwork=true)"#;
    assert!(message(&refused).starts_with(r#"pods "q-"#) && message(&refused).ends_with(text), "{refused}");
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": pod(json!({"hostNetwork": true}))["spec"]});
    let spec = json!({"selector": {"matchLabels": {"a": "b"}}, "template": template});
    let deployment = api.post(DEPLOYMENTS, &json!({"metadata": {"name": "d"}, "spec": spec})).await;
    let warning = deployment.headers.get("warning").and_then(|value| value.to_str().ok()).unwrap_or_default();
    assert!(warning.contains(r#"would violate PodSecurity \"baseline:latest\""#), "{warning}");
    deployment.expect(201);
}
