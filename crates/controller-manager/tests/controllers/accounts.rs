//! Secrets with tokens of ServiceAccounts, and claims of ephemeral volumes: made for what asks for them, and gone with it.

use controller_manager::{Config, ServiceAccountKey};
use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim, Pod, Secret, ServiceAccount};
use kube::api::DeleteParams;
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::cluster::{Cluster, config, until, until_gone};

#[tokio::test(flavor = "multi_thread")]
async fn a_token_secret_is_filled_and_goes_with_its_account() {
    let pem = rcgen::KeyPair::generate().expect("is a key").serialize_pem();
    let cluster = Cluster::start(Config { service_account_key: Some(ServiceAccountKey { pem }), ..config() }).await;
    let secrets: Api<Secret> = cluster.api("default");
    let account: ServiceAccount = cluster.create("default", json!({"metadata": {"name": "bot"}})).await;
    let metadata = json!({"name": "bot-token", "annotations": {"kubernetes.io/service-account.name": "bot"}});
    let secret = json!({"metadata": metadata, "type": "kubernetes.io/service-account-token"});
    cluster.create::<Secret>("default", secret).await;
    let filled =
        until(&secrets, "bot-token", "has a token", |secret| secret.data.as_ref().is_some_and(|data| data.contains_key("token")))
            .await;
    let data = filled.data.clone().expect("is set");
    let text = |key: &str| String::from_utf8(data[key].0.clone()).expect("is text");
    assert_eq!((text("ca.crt"), text("namespace")), ("PEM".to_owned(), "default".to_owned()));
    assert_eq!(text("token").split('.').count(), 3);
    assert_eq!(filled.annotations().get("kubernetes.io/service-account.uid"), account.metadata.uid.as_ref());
    let accounts: Api<ServiceAccount> = cluster.api("default");
    accounts.delete("bot", &DeleteParams::default()).await.expect("is deleted");
    until_gone(&secrets, "bot-token").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ephemeral_volume_has_a_claim_as_long_as_its_pod() {
    let mut cluster = Cluster::start(config()).await;
    cluster.run_pods().await;
    let pods: Api<Pod> = cluster.api("default");
    let claims: Api<PersistentVolumeClaim> = cluster.api("default");
    let wanted = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
    let volume = json!({"name": "v", "ephemeral": {"volumeClaimTemplate": {"metadata": {"labels": {"a": "b"}}, "spec": wanted}}});
    let spec = json!({"containers": [{"name": "c", "image": "image:1"}], "volumes": [volume]});
    cluster.create::<Pod>("default", json!({"metadata": {"name": "p"}, "spec": spec})).await;
    let claim = until(&claims, "p-v", "is made", |_| true).await;
    assert_eq!(claim.labels().get("a").map(String::as_str), Some("b"));
    assert_eq!(claim.owner_references()[0].name, "p");
    claims.delete("p-v", &DeleteParams::default()).await.expect("is accepted");
    pods.delete("p", &DeleteParams::default()).await.expect("is deleted");
    until_gone(&pods, "p").await;
    until_gone(&claims, "p-v").await;
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    until(&nodes, "n1", "tells how long to cache", |node| {
        node.annotations().get("node.alpha.kubernetes.io/ttl").map(String::as_str) == Some("0")
    })
    .await;
}
