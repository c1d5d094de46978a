//! Garbage collection by every policy.

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{DeleteParams, Patch, PatchParams, PropagationPolicy};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use crate::cluster::{Cluster, config, until, until_gone};

fn owned_by(name: &str, owner: &ConfigMap) -> Value {
    json!({"metadata": {"name": name, "ownerReferences": [{
        "apiVersion": "v1", "kind": "ConfigMap", "name": owner.name_any(), "uid": owner.uid(), "blockOwnerDeletion": true,
    }]}})
}

async fn family(cluster: &Cluster) -> Api<ConfigMap> {
    let owner: ConfigMap = cluster.create("default", json!({"metadata": {"name": "owner"}})).await;
    let child: ConfigMap = cluster.create("default", owned_by("child", &owner)).await;
    cluster.create::<ConfigMap>("default", owned_by("grandchild", &child)).await;
    cluster.api("default")
}

#[tokio::test(flavor = "multi_thread")]
async fn background_deletion_takes_all_descendants() {
    let cluster = Cluster::start(config()).await;
    let maps = family(&cluster).await;
    maps.delete("owner", &DeleteParams::background()).await.expect("is deleted");
    assert!(maps.get_opt("owner").await.expect("is read").is_none(), "the owner goes at once");
    until_gone(&maps, "child").await;
    until_gone(&maps, "grandchild").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn foreground_deletion_waits_for_blocking_dependents() {
    let cluster = Cluster::start(config()).await;
    let maps = family(&cluster).await;
    let hold = |finalizers: Value| Patch::Merge(json!({"metadata": {"finalizers": finalizers}}));
    let params = PatchParams::default();
    maps.patch("grandchild", &params, &hold(json!(["example.com/hold"]))).await.expect("is held");
    maps.delete("owner", &DeleteParams::foreground()).await.expect("is deleted");
    // The deletion reaches the grandchild, which is held; so are those above it.
    until(&maps, "grandchild", "deletion reaches the grandchild", |map| map.metadata.deletion_timestamp.is_some()).await;
    for name in ["owner", "child"] {
        let waiting = maps.get(name).await.expect("still exists");
        assert!(waiting.finalizers().contains(&"foregroundDeletion".to_owned()), "{name} waits");
    }
    maps.patch("grandchild", &params, &hold(Value::Null)).await.expect("is let go");
    for name in ["grandchild", "child", "owner"] {
        until_gone(&maps, name).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn orphaning_frees_the_dependents() {
    let cluster = Cluster::start(config()).await;
    let maps = family(&cluster).await;
    let orphan = DeleteParams { propagation_policy: Some(PropagationPolicy::Orphan), ..Default::default() };
    maps.delete("owner", &orphan).await.expect("is deleted");
    until_gone(&maps, "owner").await;
    let child = until(&maps, "child", "the child is freed", |map| map.owner_references().is_empty()).await;
    assert!(child.metadata.deletion_timestamp.is_none());
    let grandchild = maps.get("grandchild").await.expect("is untouched");
    assert_eq!(grandchild.owner_references().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_never_existed_does_not_hold() {
    let cluster = Cluster::start(config()).await;
    let maps: Api<ConfigMap> = cluster.api("default");
    let reference = |uid: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "nobody", "uid": uid});
    let lost = json!({"metadata": {"name": "lost", "ownerReferences": [reference("00000000-0000-0000-0000-000000000001")]}});
    cluster.create::<ConfigMap>("default", lost).await;
    until_gone(&maps, "lost").await;
    // With one owner that exists the object stays, and only the reference to the other goes.
    let owner: ConfigMap = cluster.create("default", json!({"metadata": {"name": "owner"}})).await;
    let mut kept = owned_by("kept", &owner);
    let references = kept["metadata"]["ownerReferences"].as_array_mut().expect("is a list");
    references.push(reference("00000000-0000-0000-0000-000000000002"));
    cluster.create::<ConfigMap>("default", kept).await;
    let kept = until(&maps, "kept", "the reference goes", |map| map.owner_references().len() == 1).await;
    assert_eq!(Some(&kept.owner_references()[0].uid), owner.metadata.uid.as_ref());
}
