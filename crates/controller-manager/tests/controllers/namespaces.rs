//! What a namespace gets when it is made, and how it goes.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Secret, ServiceAccount};
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::json;

use crate::cluster::{Cluster, config, eventually, from, until, until_gone};

async fn make(cluster: &Cluster, name: &str) -> Api<Namespace> {
    let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
    let namespace = from(json!({"metadata": {"name": name}}));
    namespaces.create(&PostParams::default(), &namespace).await.expect("is created");
    namespaces
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_gets_its_account_and_the_root_certificate() {
    let cluster = Cluster::start(config()).await;
    make(&cluster, "team").await;
    let accounts: Api<ServiceAccount> = cluster.api("team");
    let maps: Api<ConfigMap> = cluster.api("team");
    until(&accounts, "default", "the account is made", |_| true).await;
    let has_ca = |map: &ConfigMap| map.data.as_ref().and_then(|data| data.get("ca.crt")).map(String::as_str) == Some("PEM");
    until(&maps, "kube-root-ca.crt", "the certificate is published", has_ca).await;
    accounts.delete("default", &DeleteParams::default()).await.expect("is deleted");
    until(&accounts, "default", "the account is made again", |_| true).await;
    let wrong = Patch::Merge(json!({"data": {"ca.crt": "wrong"}}));
    maps.patch("kube-root-ca.crt", &PatchParams::default(), &wrong).await.expect("is spoilt");
    until(&maps, "kube-root-ca.crt", "the certificate is repaired", has_ca).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_namespace_is_emptied_pods_first() {
    let mut cluster = Cluster::start(config()).await;
    cluster.run_pods().await;
    let namespaces = make(&cluster, "team").await;
    let deployment = json!({"metadata": {"name": "web"}, "spec": {
        "replicas": 2, "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "image:1"}]}}}});
    cluster.create::<Deployment>("team", deployment).await;
    cluster.create::<Secret>("team", json!({"metadata": {"name": "secret"}})).await;
    let held = json!({"metadata": {"name": "held", "finalizers": ["example.com/hold"]}});
    cluster.create::<ConfigMap>("team", held).await;
    let pods: Api<Pod> = cluster.api("team");
    eventually("pods run", || async {
        (pods.list(&ListParams::default()).await.expect("is listed").items.len() == 2).then_some(())
    })
    .await;
    namespaces.delete("team", &DeleteParams::default()).await.expect("is deleted");
    until(&namespaces, "team", "what is left is told", |namespace| {
        let mut conditions = namespace.status.iter().flat_map(|status| status.conditions.iter().flatten());
        conditions.any(|condition| {
            condition.type_ == "NamespaceFinalizersRemaining"
                && condition.status == "True"
                && condition.message.as_deref().is_some_and(|message| message.contains("example.com/hold in 1"))
        })
    })
    .await;
    let secrets: Api<Secret> = cluster.api("team");
    assert!(secrets.get_opt("secret").await.expect("is read").is_none());
    assert!(pods.list(&ListParams::default()).await.expect("is listed").items.is_empty());
    let maps: Api<ConfigMap> = cluster.api("team");
    let release = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    maps.patch("held", &PatchParams::default(), &release).await.expect("is let go");
    until_gone(&namespaces, "team").await;
}
