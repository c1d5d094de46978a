//! Who set what: managed fields on writes, and server-side apply through the API.

mod harness;

use harness::{Answer, Api};
use http::Method;
use serde_json::{Value, json};

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

fn deployment(spec: Value) -> Value {
    let mut object = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {
        "selector": {"matchLabels": {"app": "x"}},
        "template": {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}},
    }});
    for (key, value) in spec.as_object().expect("an object") {
        object["spec"][key] = value.clone();
    }
    object
}

async fn apply(api: &Api, query: &str, config: &Value) -> Answer {
    let path = format!("{DEPLOYMENTS}/d{query}");
    api.send(Method::PATCH, &path, &[("content-type", "application/apply-patch+yaml")], Some(config)).await
}

fn managers(object: &Value) -> Vec<String> {
    let entries = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let text = |entry: &Value, key: &str| entry[key].as_str().unwrap_or_default().to_owned();
    entries
        .iter()
        .map(|entry| format!("{} {} {}", text(entry, "manager"), text(entry, "operation"), text(entry, "subresource")))
        .collect()
}

#[tokio::test]
async fn apply_creates_changes_and_conflicts() {
    let api = Api::new().await;
    let error = apply(&api, "", &deployment(json!({}))).await.expect(422);
    assert_eq!(
        error["message"],
        "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch"
    );
    apply(&api, "?fieldManager=a&dryRun=All", &deployment(json!({}))).await.expect(201);
    api.get(&format!("{DEPLOYMENTS}/d")).await.expect(404);
    let created = apply(&api, "?fieldManager=a", &deployment(json!({"replicas": 2}))).await.expect(201);
    assert_eq!((managers(&created), &created["metadata"]["generation"]), (vec!["a Apply ".to_owned()], &json!(1)));
    assert_eq!(created["spec"]["revisionHistoryLimit"], 10, "defaults are set");

    // The same again changes nothing, not even the resourceVersion.
    let again = apply(&api, "?fieldManager=a", &deployment(json!({"replicas": 2}))).await.expect(200);
    assert_eq!(again, created);

    let scale = json!({"spec": {"replicas": 5}});
    api.patch(&format!("{DEPLOYMENTS}/d/scale?fieldManager=b"), "application/merge-patch+json", &scale).await.expect(200);
    let error = apply(&api, "?fieldManager=a", &deployment(json!({"replicas": 2}))).await.expect(409);
    let text = "Apply failed with 1 conflict: conflict with \"b\" with subresource \"scale\" using apps/v1: .spec.replicas";
    assert_eq!((error["reason"].as_str(), error["message"].as_str()), (Some("Conflict"), Some(text)));
    assert_eq!(
        error["details"]["causes"][0],
        json!({"reason": "FieldManagerConflict", "field": ".spec.replicas",
            "message": "conflict with \"b\" with subresource \"scale\" using apps/v1"})
    );
    let forced = apply(&api, "?fieldManager=a&force=true", &deployment(json!({"replicas": 2}))).await.expect(200);
    assert_eq!((&forced["spec"]["replicas"], managers(&forced)), (&json!(2), vec!["a Apply ".to_owned()]));

    // What is no longer applied goes, to its default.
    let gone = apply(&api, "?fieldManager=a", &deployment(json!({}))).await.expect(200);
    assert_eq!(gone["spec"]["replicas"], 1);

    let error = apply(&api, "?fieldManager=a", &deployment(json!({"replcas": 2}))).await.expect(500);
    assert!(
        error["message"].as_str().is_some_and(|text| text.ends_with(".spec.replcas: field not declared in schema")),
        "{error}"
    );
    let mut other = deployment(json!({}));
    other["metadata"]["name"] = json!("e");
    apply(&api, "?fieldManager=a", &other).await.expect(400);
}

#[tokio::test]
async fn updates_are_recorded() {
    let api = Api::new().await;
    let created = api.post(&format!("{DEPLOYMENTS}?fieldManager=maker"), &deployment(json!({}))).await.expect(201);
    assert_eq!(managers(&created), ["maker Update "]);
    let path = format!("{DEPLOYMENTS}/d");
    let patch = json!({"status": {"observedGeneration": 1}});
    let status = api.patch(&format!("{path}/status?fieldManager=ctl"), "application/merge-patch+json", &patch).await.expect(200);
    // Those of one second are sorted by name, others by time.
    let mut both = managers(&status);
    both.sort_unstable();
    assert_eq!(both, ["ctl Update status", "maker Update "]);
    // Strategic merge keeps the other container, and only what changed has a new owner.
    let patch = json!({"spec": {"template": {"spec": {"containers": [{"name": "side", "image": "s"}]}}}});
    let path_with = format!("{path}?fieldManager=side");
    let patched = api.patch(&path_with, "application/strategic-merge-patch+json", &patch).await.expect(200);
    assert_eq!(patched["spec"]["template"]["spec"]["containers"].as_array().map(Vec::len), Some(2));
    let entries = patched["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let side = entries.iter().find(|entry| entry["manager"] == "side").expect("a new manager");
    let containers = &side["fieldsV1"]["f:spec"]["f:template"]["f:spec"]["f:containers"];
    assert_eq!(
        containers.as_object().map(|c| c.keys().cloned().collect::<Vec<_>>()),
        Some(vec![r#"k:{"name":"side"}"#.to_owned()])
    );
    // A write that changes nothing is not recorded.
    let same = api.put(&format!("{path}?fieldManager=again"), &patched).await.expect(200);
    assert_eq!(same["metadata"]["resourceVersion"], patched["metadata"]["resourceVersion"]);
    api.patch(&format!("{path}?force=true"), "application/merge-patch+json", &json!({})).await.expect(422);
}
