//! Evictions: budgets are asked, and the pod says why it went.

mod harness;

use harness::Api;
use serde_json::{Value, json};

const PODS: &str = "/api/v1/namespaces/default/pods";
const BUDGETS: &str = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";

/// A running pod on a node, with a long grace period, so that its end can be looked at.
async fn running_pod(api: &Api, name: &str, ready: &str) {
    let pod = json!({
        "metadata": {"name": name, "labels": {"app": "web"}},
        "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i"}], "terminationGracePeriodSeconds": 600},
    });
    api.post(PODS, &pod).await.expect(201);
    let status = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]}});
    api.patch(&format!("{PODS}/{name}/status"), "application/merge-patch+json", &status).await.expect(200);
}

async fn set_budget(api: &Api, status: &Value) {
    api.patch(&format!("{BUDGETS}/b/status"), "application/merge-patch+json", &json!({"status": status})).await.expect(200);
}

async fn evict(api: &Api, name: &str) -> harness::Answer {
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}});
    api.post(&format!("{PODS}/{name}/eviction"), &eviction).await
}

#[tokio::test]
async fn a_budget_is_asked_and_counts() {
    let api = Api::new().await;
    let budget = json!({"metadata": {"name": "b"}, "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}}});
    api.post(BUDGETS, &budget).await.expect(201);
    for name in ["p1", "p2"] {
        running_pod(&api, name, "True").await;
    }
    let unseen = evict(&api, "p1").await.expect(429);
    assert_eq!(unseen["details"]["retryAfterSeconds"], 10, "{unseen}");
    assert_eq!(unseen["details"]["causes"][0]["message"], "The disruption budget b is still being processed by the server.");

    set_budget(&api, &json!({"observedGeneration": 1, "disruptionsAllowed": 1, "currentHealthy": 2, "desiredHealthy": 1})).await;
    evict(&api, "p1").await.expect(201);
    let gone = api.get(&format!("{PODS}/p1")).await.expect(200);
    assert!(gone["metadata"]["deletionTimestamp"].is_string(), "{gone}");
    let conditions = gone["status"]["conditions"].as_array().expect("conditions");
    let condition = conditions.iter().find(|condition| condition["type"] == "DisruptionTarget").expect("why it went");
    assert_eq!(condition["reason"], "EvictionByEvictionAPI");

    let budget = api.get(&format!("{BUDGETS}/b")).await.expect(200);
    assert_eq!(budget["status"]["disruptionsAllowed"], 0);
    assert!(budget["status"]["disruptedPods"]["p1"].is_string(), "{budget}");
    assert_eq!(budget["status"]["conditions"][0]["reason"], "InsufficientPods");
    let refused = evict(&api, "p2").await.expect(429);
    assert_eq!(refused["details"]["causes"][0]["reason"], "DisruptionBudget");
    // It is terminating already: evicting it again takes nothing from the budget.
    evict(&api, "p1").await.expect(201);
}

#[tokio::test]
async fn an_unhealthy_pod_goes_when_enough_are_healthy() {
    let api = Api::new().await;
    let budget = json!({"metadata": {"name": "b"}, "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}}});
    api.post(BUDGETS, &budget).await.expect(201);
    running_pod(&api, "ill", "False").await;
    set_budget(&api, &json!({"observedGeneration": 1, "disruptionsAllowed": 0, "currentHealthy": 0, "desiredHealthy": 1})).await;
    let refused = evict(&api, "ill").await.expect(429);
    assert_eq!(refused["details"]["causes"][0]["message"], "The disruption budget b needs 1 healthy pods and has 0 currently");
    set_budget(&api, &json!({"observedGeneration": 1, "disruptionsAllowed": 0, "currentHealthy": 1, "desiredHealthy": 1})).await;
    evict(&api, "ill").await.expect(201);
}

#[tokio::test]
async fn the_older_version_is_taken_and_no_other() {
    let api = Api::new().await;
    running_pod(&api, "p", "True").await;
    let path = format!("{PODS}/p/eviction");
    for version in ["policy/v1beta1", "policy/v1"] {
        let eviction =
            json!({"apiVersion": version, "kind": "Eviction", "metadata": {"name": "p"}, "deleteOptions": {"dryRun": ["All"]}});
        let answer = api.post(&path, &eviction).await.expect(201);
        assert_eq!((answer["apiVersion"].as_str(), answer["kind"].as_str()), (Some("v1"), Some("Status")));
    }
    let unknown = json!({"apiVersion": "policy/v2", "kind": "Eviction", "metadata": {"name": "p"}});
    let refused = api.post(&path, &unknown).await.expect(400);
    assert!(refused["message"].as_str().is_some_and(|message| message.contains("policy/v2")), "{refused}");
    api.get(&path).await.expect(405);
}
