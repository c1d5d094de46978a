//! The scale subresource over HTTP: whoever writes it owns the replicas of the object.

mod harness;

use harness::Api;
use serde_json::{Value, json};

const DEPLOYMENT: &str = "/apis/apps/v1/namespaces/default/deployments/web";
const SCALE: &str = "/apis/apps/v1/namespaces/default/deployments/web/scale";
const APPLY: &str = "application/apply-patch+yaml";
const MERGE: &str = "application/merge-patch+json";

fn deployment() -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "web", "image": "nginx"}]},
            },
        },
    })
}

fn scale(replicas: i64) -> Value {
    json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "web"}, "spec": {"replicas": replicas}})
}

/// The managers that own the replicas, in the order of their names.
async fn owners(api: &Api) -> Vec<String> {
    let object = api.get(DEPLOYMENT).await.expect(200);
    let managers = object["metadata"]["managedFields"].as_array().expect("managed fields");
    let owning = managers.iter().filter(|entry| entry["fieldsV1"]["f:spec"]["f:replicas"].is_object());
    let mut names: Vec<String> = owning.map(|entry| entry["manager"].as_str().unwrap_or_default().to_owned()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn replicas_have_the_owners_of_the_scale() {
    let api = Api::new().await;
    api.patch(&format!("{DEPLOYMENT}?fieldManager=apply"), APPLY, &deployment()).await.expect(201);
    assert_eq!(owners(&api).await, ["apply"]);
    // A patch of the scale takes the replicas; what else it says is nobody's.
    let patched = api.patch(&format!("{SCALE}?fieldManager=patch"), MERGE, &json!({"spec": {"replicas": 5}})).await.expect(200);
    assert_eq!((patched["kind"].as_str(), patched["spec"]["replicas"].as_i64()), (Some("Scale"), Some(5)));
    assert_eq!(owners(&api).await, ["patch"]);
    api.patch(&format!("{SCALE}?fieldManager=status"), MERGE, &json!({"status": {"replicas": 42}})).await.expect(200);
    assert_eq!(owners(&api).await, ["patch"]);
    // The first owner is in conflict now, and so is who applies another number.
    api.patch(&format!("{DEPLOYMENT}?fieldManager=apply"), APPLY, &deployment()).await.expect(409);
    api.patch(&format!("{DEPLOYMENT}?fieldManager=apply&force=true"), APPLY, &deployment()).await.expect(200);
    assert_eq!(owners(&api).await, ["apply"]);
    let conflict = api.patch(&format!("{SCALE}?fieldManager=scale"), APPLY, &scale(17)).await.expect(409);
    assert!(conflict["message"].as_str().unwrap_or_default().contains("apply"), "{conflict}");
    api.patch(&format!("{SCALE}?fieldManager=scale&force=true"), APPLY, &scale(17)).await.expect(200);
    assert_eq!(owners(&api).await, ["scale"]);
    assert_eq!(api.get(DEPLOYMENT).await.expect(200)["spec"]["replicas"], 17);
    // A dry run changes nothing; a replacement takes over; who applies the same number shares.
    api.patch(&format!("{SCALE}?fieldManager=dry&force=true&dryRun=All"), APPLY, &scale(3)).await.expect(200);
    assert_eq!(owners(&api).await, ["scale"]);
    api.put(&format!("{SCALE}?fieldManager=put"), &scale(7)).await.expect(200);
    assert_eq!(owners(&api).await, ["put"]);
    api.patch(&format!("{SCALE}?fieldManager=share"), APPLY, &scale(7)).await.expect(200);
    assert_eq!(owners(&api).await, ["put", "share"]);
}

#[tokio::test]
async fn what_is_no_scale_is_refused() {
    let api = Api::new().await;
    api.patch(&format!("{DEPLOYMENT}?fieldManager=apply"), APPLY, &deployment()).await.expect(201);
    api.put(SCALE, &scale(-1)).await.expect(422);
    api.patch(SCALE, MERGE, &json!({"metadata": {"labels": {"-": "x"}}})).await.expect(422);
    let mut other = scale(2);
    other["metadata"]["uid"] = json!("7c5b6f0e-0000-0000-0000-000000000000");
    api.put(SCALE, &other).await.expect(409);
    let strict = format!("{SCALE}?fieldValidation=Strict");
    api.patch(&strict, MERGE, &json!({"spec": {"replicas": 2, "unknown": 1}})).await.expect(422);
    api.patch(SCALE, APPLY, &scale(2)).await.expect(422);
    assert_eq!(api.get(DEPLOYMENT).await.expect(200)["spec"]["replicas"], 1);
}

#[tokio::test]
async fn in_other_shapes() {
    let api = Api::new().await;
    api.patch(&format!("{DEPLOYMENT}?fieldManager=apply"), APPLY, &deployment()).await.expect(201);
    let shaped = async |shape: &str| api.get_as(SCALE, &format!("application/json;as={shape};v=v1;g=meta.k8s.io")).await;
    let table = shaped("Table").await.expect(200);
    let columns: Vec<_> = table["columnDefinitions"].as_array().expect("columns").iter().map(|column| &column["name"]).collect();
    assert_eq!(columns, ["Name", "Desired", "Available", "Age"]);
    let row = &table["rows"][0];
    assert_eq!((&row["cells"][0], &row["cells"][1], &row["cells"][2]), (&json!("web"), &json!(1), &json!(0)));
    assert_eq!((&row["object"]["kind"], &row["object"]["metadata"]["name"]), (&json!("PartialObjectMetadata"), &json!("web")));
    let metadata = shaped("PartialObjectMetadata").await.expect(200);
    assert_eq!((&metadata["kind"], &metadata["spec"]), (&json!("PartialObjectMetadata"), &Value::Null));
    shaped("PartialObjectMetadataList").await.expect(406);
}
