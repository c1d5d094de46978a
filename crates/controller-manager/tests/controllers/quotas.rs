//! A quota limits what is created, and gets back what is deleted.

use k8s_openapi::api::core::v1::{ConfigMap, Pod, ResourceQuota};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::cluster::{Cluster, config, from, until};

fn used(quota: &ResourceQuota, name: &str) -> Option<String> {
    let used = quota.status.as_ref()?.used.as_ref()?;
    Some(used.get(name)?.0.clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_refuses_counts_and_replenishes() {
    let mut cluster = Cluster::start(config()).await;
    cluster.run_pods().await;
    let quotas: Api<ResourceQuota> = cluster.api("default");
    let hard = json!({"pods": "1", "requests.cpu": "1", "count/configmaps": "2", "count/replicasets.apps": "1"});
    cluster.create::<ResourceQuota>("default", json!({"metadata": {"name": "q"}, "spec": {"hard": hard}})).await;
    // kube-root-ca.crt is one.
    until(&quotas, "q", "counted", |quota| {
        used(quota, "count/configmaps").as_deref() == Some("1") && used(quota, "count/replicasets.apps").as_deref() == Some("0")
    })
    .await;
    let pods: Api<Pod> = cluster.api("default");
    let pod = |name: &str, cpu: &str| -> Pod {
        let container = json!({"name": "c", "image": "image:1", "resources": {"requests": {"cpu": cpu}}});
        from(json!({"metadata": {"name": name}, "spec": {"containers": [container]}}))
    };
    pods.create(&PostParams::default(), &pod("a", "500m")).await.expect("fits");
    let refused = pods.create(&PostParams::default(), &pod("b", "100m")).await.expect_err("is one too many").to_string();
    let expected = "pods \"b\" is forbidden: exceeded quota: q, requested: pods=1, used: pods=1, limited: pods=1";
    assert!(refused.contains(expected), "{refused}");
    pods.delete("a", &DeleteParams::default()).await.expect("is deleted");
    until(&quotas, "q", "given back", |quota| {
        used(quota, "pods").as_deref() == Some("0") && used(quota, "requests.cpu").as_deref() == Some("0")
    })
    .await;
    pods.create(&PostParams::default(), &pod("b", "100m")).await.expect("fits now");
    let map: ConfigMap = cluster.create("default", json!({"metadata": {"generateName": "m-"}})).await;
    until(&quotas, "q", "full", |quota| used(quota, "count/configmaps").as_deref() == Some("2")).await;
    let maps: Api<ConfigMap> = cluster.api("default");
    maps.delete(&map.name_any(), &DeleteParams::default()).await.expect("is deleted");
    until(&quotas, "q", "counted by metadata", |quota| used(quota, "count/configmaps").as_deref() == Some("1")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_count_that_came_to_something_new_is_not_the_last() {
    let cluster = Cluster::start(config()).await;
    let quotas: Api<ResourceQuota> = cluster.api("default");
    let hard = json!({"count/configmaps": "9"});
    cluster.create::<ResourceQuota>("default", json!({"metadata": {"name": "q"}, "spec": {"hard": hard}})).await;
    let counted = |quota: &ResourceQuota| used(quota, "count/configmaps").as_deref() == Some("1");
    until(&quotas, "q", "counted", counted).await;
    // Twice, as when objects are charged just before a count that does not find them yet.
    for _ in 0..2 {
        let wrong = json!({"status": {"used": {"count/configmaps": "7"}}});
        quotas.patch_status("q", &PatchParams::default(), &Patch::Merge(wrong)).await.expect("is written");
        until(&quotas, "q", "counted again", counted).await;
    }
}
