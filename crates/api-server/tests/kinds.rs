//! The rules of kinds, through the API: what is refused with which words, and what is filled in.

mod harness;

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
