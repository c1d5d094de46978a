//! Nodes are tainted by their conditions, fall silent, and lose their pods.

use std::time::Duration;

use controller_manager::Config;
use k8s_openapi::api::core::v1::{Node, Pod, Taint};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::cluster::{Cluster, config, from, until, until_gone};

fn taints(node: &Node) -> Vec<(&str, &str)> {
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    taints.map(|Taint { key, effect, .. }| (key.as_str(), effect.as_str())).collect()
}

async fn set_ready(nodes: &Api<Node>, name: &str, status: &str) {
    let now = jiff::Timestamp::now().to_string();
    let conditions = json!([{"type": "Ready", "status": status, "lastHeartbeatTime": now, "lastTransitionTime": now}]);
    let patch = Patch::Strategic(json!({"status": {"conditions": conditions}}));
    nodes.patch_status(name, &PatchParams::default(), &patch).await.expect("status is set");
}

async fn make(nodes: &Api<Node>, name: &str) {
    let node: Value = json!({"metadata": {"name": name, "labels": {"kubernetes.io/os": "linux"}}});
    nodes.create(&PostParams::default(), &from(node)).await.expect("is created");
}

#[tokio::test(flavor = "multi_thread")]
async fn taints_and_labels_follow_a_node() {
    let cluster = Cluster::start(config()).await;
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    make(&nodes, "n1").await;
    let mirrored = |node: &Node| node.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key("beta.kubernetes.io/os"));
    until(&nodes, "n1", "the old label is added", mirrored).await;
    set_ready(&nodes, "n1", "False").await;
    let not_ready = ("node.kubernetes.io/not-ready", "NoSchedule");
    until(&nodes, "n1", "it is tainted", |node| taints(node).contains(&not_ready)).await;
    set_ready(&nodes, "n1", "True").await;
    until(&nodes, "n1", "it is clean", |node| taints(node).is_empty()).await;
    let cordon = Patch::Merge(json!({"spec": {"unschedulable": true}}));
    nodes.patch("n1", &PatchParams::default(), &cordon).await.expect("is cordoned");
    let unschedulable = ("node.kubernetes.io/unschedulable", "NoSchedule");
    until(&nodes, "n1", "cordoning taints", |node| taints(node).contains(&unschedulable)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_node_becomes_unknown_and_its_pods_go() {
    let config =
        Config { node_monitor_period: Duration::from_millis(100), node_monitor_grace_period: Duration::from_secs(2), ..config() };
    let cluster = Cluster::start(config).await;
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    // While no node is ready at all nothing is evicted: a second one keeps its heartbeat up.
    for name in ["silent", "alive"] {
        make(&nodes, name).await;
        set_ready(&nodes, name, "True").await;
    }
    let (heart, stop) = (nodes.clone(), tokio_util::sync::CancellationToken::new());
    let beating = stop.clone();
    let heartbeat = tokio::spawn(async move {
        while !beating.is_cancelled() {
            set_ready(&heart, "alive", "True").await;
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    });
    let pod = |name: &str, seconds: i64| {
        let toleration =
            |key: &str| json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds});
        json!({"metadata": {"name": name}, "spec": {
            "nodeName": "silent", "containers": [{"name": "c", "image": "image:1"}], "terminationGracePeriodSeconds": 0,
            "tolerations": [toleration("node.kubernetes.io/unreachable"), toleration("node.kubernetes.io/not-ready")]}})
    };
    cluster.create::<Pod>("default", pod("leaves", 1)).await;
    cluster.create::<Pod>("default", pod("stays", 3600)).await;
    until(&nodes, "silent", "it is unreachable", |node| {
        let ready = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let unknown = ready.clone().any(|condition| condition.type_ == "Ready" && condition.status == "Unknown");
        unknown && taints(node).contains(&("node.kubernetes.io/unreachable", "NoExecute"))
    })
    .await;
    let pods: Api<Pod> = cluster.api("default");
    until_gone(&pods, "leaves").await;
    let stays = pods.get("stays").await.expect("is tolerated for an hour");
    assert!(stays.metadata.deletion_timestamp.is_none());
    stop.cancel();
    heartbeat.await.expect("the heartbeat ends");
}
