//! The API through the server's own service, with the memory store: every verb, its options and its errors.

mod harness;

use api_server::{ApiEnablement, Feature, FeatureGates, ServerConfig, UserInfo};
use harness::Api;
use http::Method;
use serde_json::{Value, json};

fn config_map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"k": "v"}})
}

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test]
async fn create_get_update_delete() {
    let api = Api::new().await;
    let created = api.post(MAPS, &config_map("a")).await.expect(201);
    assert_eq!(created["metadata"]["namespace"], "default");
    assert!(created["metadata"]["uid"].as_str().is_some_and(|uid| uid.len() == 36));
    assert!(created["metadata"]["creationTimestamp"].is_string());
    let got = api.get(&format!("{MAPS}/a")).await.expect(200);
    assert_eq!(got, created);

    let again = api.post(MAPS, &config_map("a")).await.expect(409);
    assert_eq!(again["reason"], "AlreadyExists");
    assert_eq!(again["message"], "configmaps \"a\" already exists");

    let mut changed = got.clone();
    changed["data"]["k"] = json!("w");
    let updated = api.put(&format!("{MAPS}/a"), &changed).await.expect(200);
    assert_eq!(updated["data"]["k"], "w");
    assert_ne!(updated["metadata"]["resourceVersion"], got["metadata"]["resourceVersion"]);
    assert_eq!(updated["metadata"]["uid"], got["metadata"]["uid"]);

    let conflict = api.put(&format!("{MAPS}/a"), &changed).await.expect(409);
    assert_eq!(
        conflict["message"],
        "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your changes to the latest version and try again"
    );
    // Without a resourceVersion the update is unconditional.
    api.put(&format!("{MAPS}/a"), &config_map("a")).await.expect(200);
    // An update that changes nothing writes nothing.
    let before = api.get(&format!("{MAPS}/a")).await.expect(200);
    let after = api.put(&format!("{MAPS}/a"), &before).await.expect(200);
    assert_eq!(before["metadata"]["resourceVersion"], after["metadata"]["resourceVersion"]);

    let deleted = api.delete(&format!("{MAPS}/a")).await.expect(200);
    assert_eq!((&deleted["kind"], &deleted["status"]), (&json!("Status"), &json!("Success")));
    assert_eq!(deleted["details"]["kind"], "configmaps");
    let gone = api.get(&format!("{MAPS}/a")).await.expect(404);
    assert_eq!(gone["message"], "configmaps \"a\" not found");
    api.delete(&format!("{MAPS}/a")).await.expect(404);
}

#[tokio::test]
async fn generated_names_and_dry_run() {
    let api = Api::new().await;
    let object = json!({"metadata": {"generateName": "web-"}});
    let one = api.post(MAPS, &object).await.expect(201);
    let two = api.post(MAPS, &object).await.expect(201);
    assert_ne!(one["metadata"]["name"], two["metadata"]["name"]);
    assert!(one["metadata"]["name"].as_str().is_some_and(|name| name.starts_with("web-") && name.len() == 9));

    let dry = api.post(&format!("{MAPS}?dryRun=All"), &config_map("dry")).await.expect(201);
    assert_eq!(dry["metadata"]["name"], "dry");
    api.get(&format!("{MAPS}/dry")).await.expect(404);
    let invalid = api.post(&format!("{MAPS}?dryRun=Some"), &config_map("dry")).await.expect(422);
    assert_eq!(invalid["reason"], "Invalid");
    let bad = api.post(MAPS, &config_map("Not_A_Name")).await.expect(422);
    assert_eq!(bad["details"]["causes"][0]["field"], "metadata.name");
    let elsewhere = json!({"metadata": {"name": "a", "namespace": "other"}});
    let refused = api.post(MAPS, &elsewhere).await.expect(400);
    assert_eq!(refused["message"], "the namespace of the provided object does not match the namespace sent on the request");
}

#[tokio::test]
async fn lists_select_and_page() {
    let api = Api::new().await;
    for at in 0..10 {
        let mut object = config_map(&format!("m{at}"));
        object["metadata"]["labels"] = json!({"parity": if at % 2 == 0 { "even" } else { "odd" }});
        api.post(MAPS, &object).await.expect(201);
    }
    let all = api.get(MAPS).await.expect(200);
    assert_eq!((&all["kind"], &all["apiVersion"]), (&json!("ConfigMapList"), &json!("v1")));
    assert_eq!(all["items"].as_array().map(Vec::len), Some(10));
    assert!(all["items"][0].get("kind").is_none(), "typed lists leave the kind out");
    let even = api.get(&format!("{MAPS}?labelSelector=parity%3Deven")).await.expect(200);
    assert_eq!(even["items"].as_array().map(Vec::len), Some(5));
    let one = api.get("/api/v1/configmaps?fieldSelector=metadata.name%3Dm3").await.expect(200);
    assert_eq!(one["items"][0]["metadata"]["name"], "m3");
    api.get(&format!("{MAPS}?fieldSelector=spec.x%3Dy")).await.expect(400);

    let first = api.get(&format!("{MAPS}?limit=4")).await.expect(200);
    assert_eq!(first["metadata"]["remainingItemCount"], 6);
    // What comes in between must not show up in the later pages.
    api.delete(&format!("{MAPS}/m9")).await.expect(200);
    api.post(MAPS, &config_map("m5a")).await.expect(201);
    let mut names: Vec<String> = Vec::new();
    let mut page = first.clone();
    loop {
        let items = page["items"].as_array().cloned().unwrap_or_default();
        names.extend(items.iter().filter_map(|item| item["metadata"]["name"].as_str().map(str::to_owned)));
        assert_eq!(page["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
        let Some(token) = page["metadata"]["continue"].as_str().map(str::to_owned) else { break };
        page = api.get(&format!("{MAPS}?limit=4&continue={token}")).await.expect(200);
    }
    let expected: Vec<String> = (0..10).map(|at| format!("m{at}")).collect();
    assert_eq!(names, expected);
    let exact = api
        .get(&format!(
            "{MAPS}?resourceVersionMatch=Exact&resourceVersion={}",
            first["metadata"]["resourceVersion"].as_str().unwrap_or_default()
        ))
        .await
        .expect(200);
    assert_eq!(exact["items"].as_array().map(Vec::len), Some(10));
    api.get(&format!("{MAPS}?resourceVersionMatch=Exact")).await.expect(422);
}

#[tokio::test]
async fn patches() {
    let api = Api::new().await;
    api.post(MAPS, &config_map("a")).await.expect(201);
    let path = format!("{MAPS}/a");
    let merged = api.patch(&path, "application/merge-patch+json", &json!({"data": {"k": null, "x": "y"}})).await.expect(200);
    assert_eq!(merged["data"], json!({"x": "y"}));
    let patch = json!([{"op": "test", "path": "/data/x", "value": "y"}, {"op": "add", "path": "/data/z", "value": "1"}]);
    let patched = api.patch(&path, "application/json-patch+json", &patch).await.expect(200);
    assert_eq!(patched["data"], json!({"x": "y", "z": "1"}));
    let failed = json!([{"op": "test", "path": "/data/x", "value": "n"}]);
    api.patch(&path, "application/json-patch+json", &failed).await.expect(422);
    let strategic = json!({"metadata": {"labels": {"a": "b"}}});
    let labelled = api.patch(&path, "application/strategic-merge-patch+json", &strategic).await.expect(200);
    assert_eq!(labelled["metadata"]["labels"]["a"], "b");
    api.patch(&path, "text/plain", &strategic).await.expect(415);
    api.patch(&format!("{MAPS}/none"), "application/merge-patch+json", &json!({})).await.expect(404);
    let stale = json!({"metadata": {"resourceVersion": "1"}, "data": {"q": "r"}});
    api.patch(&path, "application/merge-patch+json", &stale).await.expect(409);
}

#[tokio::test]
async fn repeated_owners_go_when_upstream_looks() {
    let api = Api::new().await;
    let owner = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "o", "uid": "u1"});
    let mut map = config_map("a");
    map["metadata"]["ownerReferences"] = json!([owner, owner]);
    let path = format!("{MAPS}/a");
    let twice = json!({"metadata": {"ownerReferences": [owner, owner]}});
    // A patch is looked at only after admission.
    for (answer, late) in [
        (api.post(MAPS, &map).await, false),
        (api.put(&path, &map).await, false),
        (api.patch(&path, "application/merge-patch+json", &twice).await, true),
    ] {
        let warnings: Vec<_> =
            answer.headers.get_all("warning").iter().map(|text| text.to_str().expect("is text").to_owned()).collect();
        let told = |text: &String| text.contains("duplicate entries") && text.contains("after mutating admission") == late;
        assert!(warnings.len() == 1 && warnings.iter().all(told), "{late}: {warnings:?}");
        assert_eq!(answer.body["metadata"]["ownerReferences"], json!([owner]));
    }
}

#[tokio::test]
async fn status_belongs_to_its_subresource() {
    let api = Api::new().await;
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let object = json!({
        "metadata": {"name": "web"},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "web"}}, "template": {"metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "c", "image": "i"}]}}},
        "status": {"replicas": 7},
    });
    let created = api.post(deployments, &object).await.expect(201);
    assert_eq!(created["metadata"]["generation"], 1);
    assert!(created["status"]["replicas"].is_null(), "{created}");
    let mut changed = created.clone();
    changed["status"] = json!({"replicas": 2});
    changed["spec"]["replicas"] = json!(9);
    let status = api.put(&format!("{deployments}/web/status"), &changed).await.expect(200);
    assert_eq!((&status["status"]["replicas"], &status["spec"]["replicas"]), (&json!(2), &json!(2)));
    assert_eq!(status["metadata"]["generation"], 1);

    let scale = api.get(&format!("{deployments}/web/scale")).await.expect(200);
    assert_eq!((&scale["kind"], &scale["spec"]["replicas"]), (&json!("Scale"), &json!(2)));
    assert_eq!(scale["status"]["selector"], "app=web");
    let scaled =
        api.patch(&format!("{deployments}/web/scale"), "application/merge-patch+json", &json!({"spec": {"replicas": 5}})).await;
    assert_eq!(scaled.expect(200)["spec"]["replicas"], 5);
    let after = api.get(&format!("{deployments}/web")).await.expect(200);
    assert_eq!((&after["spec"]["replicas"], &after["metadata"]["generation"]), (&json!(5), &json!(2)));
    assert_eq!(after["status"]["replicas"], 2);
}

#[tokio::test]
async fn finalizers_and_graceful_deletion() {
    let api = Api::new().await;
    let mut object = config_map("held");
    object["metadata"]["finalizers"] = json!(["example.com/hold"]);
    api.post(MAPS, &object).await.expect(201);
    let path = format!("{MAPS}/held");
    let marked = api.delete(&path).await.expect(200);
    assert!(marked["metadata"]["deletionTimestamp"].is_string());
    let mut released = api.get(&path).await.expect(200);
    released["metadata"]["finalizers"] = json!([]);
    api.put(&path, &released).await.expect(200);
    api.get(&path).await.expect(404);

    let pods = "/api/v1/namespaces/default/pods";
    let pod = |name: &str| json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i"}], "terminationGracePeriodSeconds": 30}});
    api.post(pods, &pod("free")).await.expect(201);
    api.delete(&format!("{pods}/free")).await.expect(200);
    api.get(&format!("{pods}/free")).await.expect(404);

    api.post(pods, &pod("bound")).await.expect(201);
    let nominate = |node: &str| json!({"status": {"nominatedNodeName": node}});
    let status = format!("{pods}/bound/status");
    let merge = "application/merge-patch+json";
    api.patch(&status, merge, &nominate("n1")).await.expect(200);
    let binding =
        json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "bound"}, "target": {"kind": "Node", "name": "n1"}});
    api.post(&format!("{pods}/bound/binding"), &binding).await.expect(201);
    api.post(&format!("{pods}/bound/binding"), &binding).await.expect(409);
    let bound = api.get(&format!("{pods}/bound")).await.expect(200);
    assert_eq!(bound["spec"]["nodeName"], "n1");
    assert!(bound["status"]["nominatedNodeName"].is_null(), "who is bound is nominated no longer");
    api.patch(&status, merge, &nominate("n2")).await.expect(422);
    assert_eq!(bound["status"]["conditions"][0]["type"], "PodScheduled");
    let deleting = api.delete(&format!("{pods}/bound")).await.expect(200);
    assert_eq!(deleting["metadata"]["deletionGracePeriodSeconds"], 30);
    api.get(&format!("{pods}/bound")).await.expect(200);
    let on_node = api.get("/api/v1/pods?fieldSelector=spec.nodeName%3Dn1").await.expect(200);
    assert_eq!(on_node["items"].as_array().map(Vec::len), Some(1));
    api.delete(&format!("{pods}/bound?gracePeriodSeconds=0")).await.expect(200);
    api.get(&format!("{pods}/bound")).await.expect(404);
}

#[tokio::test]
async fn delete_preconditions_and_collections() {
    let api = Api::new().await;
    for name in ["a", "b", "c"] {
        api.post(MAPS, &config_map(name)).await.expect(201);
    }
    let options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"uid": "other"}});
    api.delete_with(&format!("{MAPS}/a"), &options).await.expect(409);
    let foreground = json!({"propagationPolicy": "Foreground"});
    let marked = api.delete_with(&format!("{MAPS}/b"), &foreground).await.expect(200);
    assert_eq!(marked["metadata"]["finalizers"], json!(["foregroundDeletion"]));
    let list = api.delete(&format!("{MAPS}?fieldSelector=metadata.name%21%3Db")).await.expect(200);
    assert_eq!(list["items"].as_array().map(Vec::len), Some(2));
    let left = api.get(MAPS).await.expect(200);
    assert_eq!(left["items"].as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn namespaces_wait_for_their_finalizer() {
    let api = Api::new().await;
    let created = api.post("/api/v1/namespaces", &json!({"metadata": {"name": "team"}})).await.expect(201);
    assert_eq!(created["spec"]["finalizers"], json!(["kubernetes"]));
    assert_eq!(created["metadata"]["labels"]["kubernetes.io/metadata.name"], "team");
    let deleting = api.delete("/api/v1/namespaces/team").await.expect(200);
    assert_eq!(deleting["status"]["phase"], "Terminating");
    let mut finalized = deleting.clone();
    finalized["spec"]["finalizers"] = json!([]);
    api.put("/api/v1/namespaces/team/finalize", &finalized).await.expect(200);
    api.get("/api/v1/namespaces/team").await.expect(404);
}

#[tokio::test]
async fn other_shapes() {
    let api = Api::new().await;
    api.post(MAPS, &config_map("a")).await.expect(201);
    let table = api.get_as(MAPS, "application/json;as=Table;v=v1;g=meta.k8s.io,application/json").await.expect(200);
    assert_eq!((&table["kind"], &table["apiVersion"]), (&json!("Table"), &json!("meta.k8s.io/v1")));
    assert_eq!(table["columnDefinitions"][0]["name"], "Name");
    assert_eq!(table["rows"][0]["cells"][0], "a");
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    let partial = api.get_as(MAPS, "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1").await.expect(200);
    assert_eq!(partial["items"][0]["metadata"]["name"], "a");
    assert!(partial["items"][0].get("data").is_none());
    api.get_as(MAPS, "application/cbor").await.expect(406);
    api.get("/api/v1/namespaces/default/widgets").await.expect(404);
    api.get("/apis/none.example.com/v1/things").await.expect(404);
    api.put(MAPS, &json!({})).await.expect(405);
}

#[tokio::test]
async fn events_and_autoscalers_speak_two_versions() {
    let api = Api::new().await;
    let event = json!({"metadata": {"name": "e"}, "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"}, "message": "m", "reason": "R",
        "type": "Normal"});
    api.post("/api/v1/namespaces/default/events", &event).await.expect(201);
    let other = api.get("/apis/events.k8s.io/v1/namespaces/default/events/e").await.expect(200);
    assert_eq!((&other["apiVersion"], &other["note"]), (&json!("events.k8s.io/v1"), &json!("m")));
    assert_eq!(other["regarding"]["name"], "p");
    let selected = api.get("/api/v1/events?fieldSelector=involvedObject.name%3Dp").await.expect(200);
    assert_eq!(selected["items"].as_array().map(Vec::len), Some(1));
    let hpa = json!({"metadata": {"name": "h"}, "spec": {"maxReplicas": 3, "targetCPUUtilizationPercentage": 50,
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}}});
    api.post("/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers", &hpa).await.expect(201);
    let v2 = api.get("/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers/h").await.expect(200);
    assert_eq!(v2["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 50);
}

#[tokio::test]
async fn discovery() {
    let api = Api::new().await;
    let core = api.get("/api/v1").await.expect(200);
    let pods = core["resources"].as_array().and_then(|rows| rows.iter().find(|row| row["name"] == "pods")).cloned();
    assert_eq!(pods.map(|row| row["shortNames"].clone()), Some(json!(["po"])));
    let groups = api.get("/apis").await.expect(200);
    assert!(groups["groups"].as_array().is_some_and(|groups| groups.iter().any(|group| group["name"] == "apps")));
    let aggregated =
        api.get_as("/apis", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json").await;
    assert_eq!(aggregated.expect(200)["kind"], "APIGroupDiscoveryList");
    let version = api.get("/version").await.expect(200);
    assert_eq!((&version["major"], &version["minor"]), (&json!("1"), &json!("35")));
    let as_nobody = api.as_user(UserInfo::anonymous()).get("/api/v1/namespaces").await;
    as_nobody.expect(403);
}

#[tokio::test]
async fn unknown_fields_and_defaults() {
    let api = Api::new().await;
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let object = json!({
        "metadata": {"name": "web"},
        "spec": {"selector": {"matchLabels": {"app": "web"}}, "replicsa": 3, "template": {"metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "c", "image": "i"}]}}},
    });
    let refused = api.post(&format!("{deployments}?fieldValidation=Strict"), &object).await.expect(400);
    assert_eq!(
        refused["message"],
        "Deployment in version \"v1\" cannot be handled as a Deployment: strict decoding error: unknown field \"spec.replicsa\""
    );
    let answer = api.post(deployments, &object).await;
    let warning = answer.headers.get("warning").and_then(|value| value.to_str().ok()).map(str::to_owned);
    assert_eq!(warning.as_deref(), Some("299 - \"unknown field \\\"spec.replicsa\\\"\""));
    let created = answer.expect(201);
    assert!(created["spec"].get("replicsa").is_none());
    assert_eq!((&created["spec"]["replicas"], &created["spec"]["strategy"]["type"]), (&json!(1), &json!("RollingUpdate")));
    assert_eq!(created["spec"]["template"]["spec"]["restartPolicy"], "Always");
    let wrong = json!({"metadata": {"name": "bad"}, "spec": {"replicas": "many"}});
    api.post(deployments, &wrong).await.expect(400);
}

#[tokio::test]
async fn yaml_in_and_out() {
    let api = Api::new().await;
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: yaml\ndata:\n  a: \"1\"\n";
    let request = http::Request::post(MAPS).header("content-type", "application/yaml").header("accept", "application/yaml");
    let mut request = request.body(api_server::Body::full(yaml)).expect("a valid request");
    request.extensions_mut().insert(UserInfo::new("admin", &[api_server::names::MASTERS]));
    let response = api.server.handle(request).await;
    let (parts, body) = response.into_parts();
    let bytes = http_body_util::BodyExt::collect(body).await.expect("a body").to_bytes();
    let text = String::from_utf8_lossy(&bytes);
    assert_eq!((parts.status.as_u16(), parts.headers["content-type"].to_str().ok()), (201, Some("application/yaml")), "{text}");
    assert!(text.contains("data:\n  a: \"1\"\n"), "{text}");
}

#[tokio::test]
async fn openapi() {
    let api = Api::new().await;
    let index = api.get("/openapi/v3").await.expect(200);
    let url = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().expect("apps/v1 is there").to_owned();
    let document = api.get(&url).await.expect(200);
    let deployment = &document["components"]["schemas"]["io.k8s.api.apps.v1.Deployment"];
    assert!(deployment["description"].as_str().is_some_and(|text| text.contains("declarative updates")), "{deployment}");
}

#[tokio::test]
async fn services_get_addresses_and_ports() {
    let api = Api::new().await;
    let path = "/api/v1/namespaces/default/services";
    let service = |name: &str, kind: &str| json!({"metadata": {"name": name}, "spec": {"type": kind, "ports": [{"port": 80}], "selector": {"a": "b"}}});
    let one = api.post(path, &service("one", "NodePort")).await.expect(201);
    let ip = one["spec"]["clusterIP"].as_str().expect("an address").to_owned();
    assert!(ip.starts_with("10.0.0."), "{ip}");
    assert_eq!((&one["spec"]["clusterIPs"], &one["spec"]["ipFamilies"]), (&json!([ip]), &json!(["IPv4"])));
    let port = one["spec"]["ports"][0]["nodePort"].as_i64().expect("a node port");
    assert!((30000..=32767).contains(&port));

    let mut taken = service("two", "NodePort");
    taken["spec"]["ports"][0]["nodePort"] = json!(port);
    let refused = api.post(path, &taken).await.expect(422);
    assert_eq!(
        refused["message"],
        format!("Service \"two\" is invalid: spec.ports[0].nodePort: Invalid value: {port}: provided port is already allocated")
    );
    let mut taken = service("two", "ClusterIP");
    taken["spec"]["clusterIP"] = json!(ip);
    api.post(path, &taken).await.expect(422);
    taken["spec"]["clusterIP"] = json!("192.168.1.1");
    api.post(path, &taken).await.expect(422);

    // What an update leaves out stays, and what another type does not have goes.
    let updated = api.put(&format!("{path}/one"), &service("one", "NodePort")).await.expect(200);
    assert_eq!((&updated["spec"]["clusterIP"], &updated["spec"]["ports"][0]["nodePort"]), (&json!(ip), &json!(port)));
    let mut plain = updated.clone();
    plain["spec"]["type"] = json!("ClusterIP");
    let plain = api.put(&format!("{path}/one"), &plain).await.expect(200);
    assert!(plain["spec"]["ports"][0].get("nodePort").is_none(), "{plain}");
    let mut moved = plain.clone();
    moved["spec"]["clusterIP"] = json!("10.0.0.9.9");
    moved["spec"]["clusterIPs"] = json!(["10.0.0.9.9"]);
    api.put(&format!("{path}/one"), &moved).await.expect(422);

    // Freed with its Service.
    api.delete(&format!("{path}/one")).await.expect(200);
    taken["spec"]["clusterIP"] = json!(ip);
    api.post(path, &taken).await.expect(201);
    let headless = json!({"metadata": {"name": "headless"}, "spec": {"clusterIP": "None", "selector": {"a": "b"}}});
    assert_eq!(api.post(path, &headless).await.expect(201)["spec"]["clusterIPs"], json!(["None"]));
    let external = json!({"metadata": {"name": "external"}, "spec": {"type": "ExternalName", "externalName": "example.com"}});
    assert!(api.post(path, &external).await.expect(201)["spec"].get("clusterIP").is_none());

    // Many at once: nobody gets what another one has.
    let many = (0..40).map(|at| {
        let (api, object) = (api.clone(), service(&format!("s{at}"), "NodePort"));
        async move { api.post(path, &object).await.expect(201) }
    });
    let created = futures::future::join_all(many).await;
    let mut ips: Vec<String> = created.iter().map(|one| one["spec"]["clusterIP"].to_string()).collect();
    let mut ports: Vec<i64> = created.iter().filter_map(|one| one["spec"]["ports"][0]["nodePort"].as_i64()).collect();
    ips.sort();
    ips.dedup();
    ports.sort_unstable();
    ports.dedup();
    assert_eq!((ips.len(), ports.len()), (40, 40));
}

#[tokio::test]
async fn every_row_is_served() {
    // What is not stable is off unless it is asked for.
    let apis = ApiEnablement::parse(&["api/all=true".to_owned()]).expect("is valid");
    let gates = FeatureGates::DEFAULT.with(Feature::ClusterTrustBundle, true).with(Feature::GenericWorkload, true);
    let api = Api::with(ServerConfig { apis, gates, ..ServerConfig::default() }).await;
    let mut rows = 0;
    for row in apimachinery::schema::resources().iter().filter(|row| row.verbs.contains(&"watch")) {
        rows += 1;
        let base = if row.group.is_empty() { "/api".to_owned() } else { format!("/apis/{}", row.group) };
        let all = format!("{base}/{}/{}", row.version, row.plural);
        let list = api.get(&all).await.expect(200);
        assert_eq!(list["kind"], format!("{}List", row.kind), "{all}");
        let table = api.get_as(&all, "application/json;as=Table;v=v1;g=meta.k8s.io").await.expect(200);
        assert!(table["columnDefinitions"].as_array().is_some_and(|columns| columns.len() > 1), "{all}");
        let one = match row.namespaced {
            true => format!("{base}/{}/namespaces/default/{}/nothing", row.version, row.plural),
            false => format!("{all}/nothing"),
        };
        let missing = api.get(&one).await.expect(404);
        assert_eq!((&missing["details"]["kind"], &missing["details"]["name"]), (&json!(row.plural), &json!("nothing")));
        let discovered = api.get(&format!("{base}/{}", row.version)).await.expect(200);
        let names = discovered["resources"].as_array().cloned().unwrap_or_default();
        assert!(names.iter().any(|entry| entry["name"] == row.plural), "{all}");
    }
    assert!(rows > 60, "{rows} rows");
}

/// The answer as protobuf: its code and the object.
async fn protobuf(api: &Api, method: Method, path: &str, accept: &str, kind: (&str, &str, &str)) -> (u16, apimachinery::Value) {
    use http_body_util::BodyExt;
    let response = api.request(method, path, &[("accept", accept)], None).await;
    assert_eq!(response.headers()["content-type"], "application/vnd.kubernetes.protobuf", "{path}");
    let code = response.status().as_u16();
    let bytes = response.into_body().collect().await.expect("a body").to_bytes();
    let expected = apimachinery::GroupVersionKind::new(kind.0, kind.1, kind.2);
    (code, apimachinery::protobuf::decode(&bytes, &expected).expect("protobuf"))
}

#[tokio::test]
async fn pages_end_where_the_index_of_nodes_ends() {
    let api = Api::new().await;
    for (name, node) in [("a", "n1"), ("b", "n2"), ("c", "n2"), ("d", "n3")] {
        let spec = json!({"nodeName": node, "containers": [{"name": "c", "image": "i"}]});
        let pod = json!({"metadata": {"name": name, "labels": {"node": node}}, "spec": spec});
        api.post("/api/v1/namespaces/default/pods", &pod).await.expect(201);
    }
    let page = async |query: &str| {
        let list = api.get(&format!("/api/v1/pods?limit=1&{query}")).await.expect(200);
        let token = list["metadata"]["continue"].as_str().map(str::to_owned);
        (list["items"][0]["metadata"]["name"].as_str().map(str::to_owned), token)
    };
    assert_eq!(page("fieldSelector=spec.nodeName%3Dn1").await, (Some("a".to_owned()), None));
    let (first, token) = page("fieldSelector=spec.nodeName%3Dn2").await;
    assert_eq!(first.as_deref(), Some("b"));
    // What goes on is looked up by its key, so that there is more.
    let token = token.expect("one more on this node");
    let (second, token) = page(&format!("fieldSelector=spec.nodeName%3Dn2&continue={token}")).await;
    assert!(second.as_deref() == Some("c") && token.is_some());
    // There is no index of labels.
    assert!(page("labelSelector=node%3Dn1").await.1.is_some());
}

#[tokio::test]
async fn what_is_not_cached_is_limited_at_any_revision() {
    let api = Api::new().await;
    for name in ["a", "b"] {
        let object = json!({"kind": "Pod", "namespace": "default", "name": "p"});
        let event = json!({"metadata": {"name": name}, "involvedObject": object, "type": "Normal"});
        api.post("/api/v1/namespaces/default/events", &event).await.expect(201);
        api.post(MAPS, &config_map(name)).await.expect(201);
    }
    let count = async |path: &str| {
        let list = api.get(&format!("{path}?limit=1&resourceVersion=0")).await.expect(200);
        (list["items"].as_array().map(Vec::len), list["metadata"]["continue"].is_string())
    };
    assert_eq!(count("/api/v1/namespaces/default/events").await, (Some(1), true));
    assert_eq!(count("/apis/events.k8s.io/v1/namespaces/default/events").await, (Some(1), true));
    assert_eq!(count(MAPS).await, (Some(2), false));
}

#[tokio::test]
async fn answers_in_protobuf() {
    const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
    let api = Api::new().await;
    let maps = "/api/v1/namespaces/default/configmaps";
    // More than one block.
    for index in 0..40 {
        let body = json!({"metadata": {"name": format!("m{index:02}")}, "data": {"k": "v".repeat(5_000)}});
        api.post(maps, &body).await.expect(201);
    }
    let (code, one) = protobuf(&api, Method::GET, &format!("{maps}/m07"), PROTOBUF, ("", "v1", "ConfigMap")).await;
    assert_eq!((code, one.meta().name(), one.kind()), (200, "m07", "ConfigMap"));
    let (_, list) = protobuf(&api, Method::GET, &format!("{maps}?limit=30"), PROTOBUF, ("", "v1", "ConfigMapList")).await;
    assert_eq!((list.kind(), list.array_at(&["items"]).len()), ("ConfigMapList", 30));
    assert!(list.str_at(&["metadata", "continue"]).is_some_and(|token| !token.is_empty()));
    assert_eq!(list.array_at(&["items"])[29].str_at(&["data", "k"]).map(str::len), Some(5_000));
    let (code, missing) = protobuf(&api, Method::GET, &format!("{maps}/nothing"), PROTOBUF, ("", "v1", "Status")).await;
    assert_eq!((code, missing.str_at(&["reason"])), (404, Some("NotFound")));
    let (code, gone) = protobuf(&api, Method::DELETE, &format!("{maps}/m00"), PROTOBUF, ("", "v1", "Status")).await;
    assert_eq!((code, gone.str_at(&["status"])), (200, Some("Success")));
    // Converted from the stored version, and only the metadata.
    let scaler = json!({"metadata": {"name": "s"}, "spec": {"maxReplicas": 3, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}}});
    let path = "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers";
    api.post(path, &scaler).await.expect(201);
    let (_, scaler) =
        protobuf(&api, Method::GET, &format!("{path}/s"), PROTOBUF, ("autoscaling", "v1", "HorizontalPodAutoscaler")).await;
    assert_eq!((scaler.api_version(), scaler.i64_at(&["spec", "maxReplicas"])), ("autoscaling/v1", Some(3)));
    let metadata = format!("{PROTOBUF};as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json");
    let response = api.request(Method::GET, maps, &[("accept", &metadata)], None).await;
    assert_eq!(response.headers()["content-type"], PROTOBUF);
}
