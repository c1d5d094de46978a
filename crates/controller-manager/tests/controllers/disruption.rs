//! Budgets allow what they can, and the eviction API keeps to it.

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Pod};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use kube::api::{EvictParams, ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use crate::cluster::{Cluster, config, eventually, until, until_gone};

fn set(replicas: i32) -> Value {
    json!({"metadata": {"name": "set"}, "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "image:1"}]}}}})
}

fn budget(spec: Value) -> Value {
    let mut budget = json!({"metadata": {"name": "b"}, "spec": spec});
    budget["spec"]["selector"] = json!({"matchLabels": {"app": "web"}});
    budget
}

fn status(budget: &PodDisruptionBudget) -> PodDisruptionBudgetStatus {
    budget.status.clone().filter(|status| status.observed_generation == budget.metadata.generation).unwrap_or_default()
}

fn condition(budget: &PodDisruptionBudget) -> Option<(String, String)> {
    let condition = budget.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == "DisruptionAllowed")?;
    Some((condition.status.clone(), condition.reason.clone()))
}

async fn any_ready_pod(pods: &Api<Pod>) -> String {
    let pods = pods.list(&ListParams::default()).await.expect("is listed").items;
    let usable = pods.iter().find(|pod| {
        pod.metadata.deletion_timestamp.is_none() && pod.status.as_ref().is_some_and(|s| s.phase.as_deref() == Some("Running"))
    });
    usable.expect("one is ready").name_any()
}

#[tokio::test(flavor = "multi_thread")]
async fn evictions_are_blocked_until_the_budget_allows_them() {
    let mut cluster = Cluster::start(config()).await;
    cluster.run_pods().await;
    let budgets: Api<PodDisruptionBudget> = cluster.api("default");
    let pods: Api<Pod> = cluster.api("default");
    cluster.create::<PodDisruptionBudget>("default", budget(json!({"minAvailable": 3}))).await;
    cluster.create::<ReplicaSet>("default", set(3)).await;
    let seen = until(&budgets, "b", "all are healthy, none to spare", |budget| {
        let status = status(budget);
        (status.current_healthy, status.desired_healthy, status.expected_pods, status.disruptions_allowed) == (3, 3, 3, 0)
    })
    .await;
    assert_eq!(condition(&seen), Some(("False".to_owned(), "InsufficientPods".to_owned())));
    let name = any_ready_pod(&pods).await;
    let refused = pods.evict(&name, &EvictParams::default()).await.expect_err("is refused").to_string();
    assert!(refused.contains("Cannot evict pod as it would violate the pod's disruption budget."), "{refused}");

    let fewer = Patch::Merge(json!({"spec": {"minAvailable": 2}}));
    budgets.patch("b", &PatchParams::default(), &fewer).await.expect("is changed");
    let seen = until(&budgets, "b", "one to spare", |budget| status(budget).disruptions_allowed == 1).await;
    assert_eq!(condition(&seen), Some(("True".to_owned(), "SufficientPods".to_owned())));
    pods.evict(&name, &EvictParams::default()).await.expect("is allowed");
    until_gone(&pods, &name).await;
    until(&budgets, "b", "the replacement is counted, the evicted pod forgotten", |budget| {
        let status = status(budget);
        (status.current_healthy, status.disruptions_allowed, status.disrupted_pods.is_none()) == (3, 1, true)
    })
    .await;

    let none = Patch::Merge(json!({"spec": {"minAvailable": null, "maxUnavailable": 0}}));
    budgets.patch("b", &PatchParams::default(), &none).await.expect("is changed");
    let seen = until(&budgets, "b", "none again", |budget| status(budget).desired_healthy == 3).await;
    assert_eq!((status(&seen).expected_pods, status(&seen).disruptions_allowed), (3, 0));
    let name = any_ready_pod(&pods).await;
    pods.evict(&name, &EvictParams::default()).await.expect_err("is refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn percentages_ask_the_workloads_and_what_cannot_be_counted_is_told() {
    let mut cluster = Cluster::start(config()).await;
    cluster.run_pods().await;
    let budgets: Api<PodDisruptionBudget> = cluster.api("default");
    cluster.create::<PodDisruptionBudget>("default", budget(json!({"minAvailable": "40%"}))).await;
    let events: Api<Event> = cluster.api("default");
    let told = |reason: &'static str| {
        let events = events.clone();
        async move {
            let what = format!("an event with reason {reason}");
            eventually(&what, || async {
                let events = events.list(&ListParams::default()).await.expect("is listed").items;
                events.into_iter().find(|event| event.reason.as_deref() == Some(reason))
            })
            .await
        }
    };
    told("NoPods").await;
    cluster.create::<ReplicaSet>("default", set(3)).await;
    until(&budgets, "b", "two of three", |budget| {
        let status = status(budget);
        (status.expected_pods, status.desired_healthy, status.current_healthy, status.disruptions_allowed) == (3, 2, 3, 1)
    })
    .await;
    let owner: ConfigMap = cluster.create("default", json!({"metadata": {"name": "owner"}})).await;
    let lone = json!({"metadata": {"name": "lone", "labels": {"app": "web"}, "ownerReferences": [
            {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner.uid(), "controller": true}]},
        "spec": {"containers": [{"name": "c", "image": "image:1"}]}});
    cluster.create::<Pod>("default", lone).await;
    let seen =
        until(&budgets, "b", "fails safe", |budget| condition(budget) == Some(("False".to_owned(), "SyncFailed".to_owned())))
            .await;
    assert_eq!(status(&seen).disruptions_allowed, 0);
    let failed = told("CalculateExpectedPodCountFailed").await;
    let expected = "Failed to calculate the number of expected pods: configmaps does not implement the scale subresource";
    assert_eq!(failed.message.as_deref(), Some(expected));
}
