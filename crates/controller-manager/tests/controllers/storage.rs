//! Claims get their volumes, keep them while they are used, and give them back.

use controller_manager::{Config, LocalVolumes, ensure_local_storage};
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use crate::cluster::{Cluster, config, from, until, until_gone};

fn volume(name: &str, size: &str) -> PersistentVolume {
    from(json!({
        "metadata": {"name": name},
        "spec": {
            "capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"], "storageClassName": "manual",
            "hostPath": {"path": "/data"},
        },
    }))
}

fn claim(name: &str, size: &str) -> Value {
    json!({
        "metadata": {"name": name},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "manual", "resources": {"requests": {"storage": size}}},
    })
}

fn has_phase(volume: &PersistentVolume, phase: &str) -> bool {
    volume.status.as_ref().and_then(|status| status.phase.as_deref()) == Some(phase)
}

fn is_bound(claim: &PersistentVolumeClaim, volume: &str) -> bool {
    let name = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref());
    let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref());
    (name, phase) == (Some(volume), Some("Bound"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_is_bound_protected_and_released() {
    let mut cluster = Cluster::start(config()).await;
    cluster.run_pods().await;
    let volumes: Api<PersistentVolume> = Api::all(cluster.client.clone());
    let claims: Api<PersistentVolumeClaim> = cluster.api("default");
    let pods: Api<Pod> = cluster.api("default");
    // The claim is first, so that it must hear of the volumes.
    cluster.create::<PersistentVolumeClaim>("default", claim("c", "1Gi")).await;
    for (name, size) in [("large", "9Gi"), ("small", "512Mi")] {
        volumes.create(&PostParams::default(), &volume(name, size)).await.expect("is made");
    }
    let bound = until(&claims, "c", "is bound", |claim| is_bound(claim, "large")).await;
    assert_eq!(bound.finalizers(), ["kubernetes.io/pvc-protection"]);
    until(&volumes, "large", "is bound", |volume| has_phase(volume, "Bound")).await;
    until(&volumes, "small", "is free", |volume| has_phase(volume, "Available")).await;

    let spec = json!({
        "containers": [{"name": "c", "image": "image:1"}],
        "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}],
    });
    cluster.create::<Pod>("default", json!({"metadata": {"name": "p"}, "spec": spec})).await;
    until(&pods, "p", "runs", |pod| pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running")).await;
    claims.delete("c", &DeleteParams::default()).await.expect("is accepted");
    volumes.delete("large", &DeleteParams::default()).await.expect("is accepted");
    // Long enough for controllers that would get it wrong.
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    assert!(claims.get_opt("c").await.expect("is read").is_some(), "a pod uses it");
    assert!(volumes.get_opt("large").await.expect("is read").is_some(), "a claim has it");
    pods.delete("p", &DeleteParams::default()).await.expect("is deleted");
    until_gone(&claims, "c").await;
    until_gone(&volumes, "large").await;

    cluster.create::<PersistentVolumeClaim>("default", claim("d", "100Mi")).await;
    until(&claims, "d", "is bound", |claim| is_bound(claim, "small")).await;
    claims.delete("d", &DeleteParams::default()).await.expect("is accepted");
    until_gone(&claims, "d").await;
    until(&volumes, "small", "is kept for its owner", |volume| has_phase(volume, "Released")).await;
}

/// A directory for each claim of the StorageClass, once the scheduler has chosen the node; it goes with the claim. With no more rights
/// than the role gives.
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_gets_a_directory_of_the_node() {
    let base = tempfile::tempdir().expect("a temporary directory");
    let directory = base.path().join("volumes");
    let local = LocalVolumes { node_name: "n1".into(), directory: directory.clone() };
    let cluster = Cluster::start(Config { local_volumes: Some(local), ..config() }).await;
    ensure_local_storage(&cluster.client).await.expect("is installed");
    ensure_local_storage(&cluster.client).await.expect("is there already");
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    let node = json!({"metadata": {"name": "n1", "labels": {"kubernetes.io/hostname": "n1"}}});
    nodes.create(&PostParams::default(), &from(node)).await.expect("is made");
    let volumes: Api<PersistentVolume> = Api::all(cluster.client.clone());
    let claims: Api<PersistentVolumeClaim> = cluster.api("default");
    let spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
    let made: PersistentVolumeClaim = cluster.create("default", json!({"metadata": {"name": "c"}, "spec": spec.clone()})).await;
    assert_eq!(made.spec.and_then(|spec| spec.storage_class_name).as_deref(), Some("local-path"), "the default class");
    let name = format!("pvc-{}", made.metadata.uid.expect("is set"));
    // The scheduler's part.
    let selected = json!({"metadata": {"annotations": {"volume.kubernetes.io/selected-node": "n1"}}});
    claims.patch("c", &PatchParams::default(), &Patch::Merge(selected.clone())).await.expect("is written");
    until(&claims, "c", "is bound", |claim| is_bound(claim, &name)).await;
    let path = directory.join(format!("{name}_default_c"));
    assert!(path.is_dir());
    std::fs::write(path.join("file"), "data").expect("is written");

    // Deleting the volume first does not keep its directory from going with the claim.
    volumes.delete(&name, &DeleteParams::default()).await.expect("is accepted");
    claims.delete("c", &DeleteParams::default()).await.expect("is accepted");
    until_gone(&claims, "c").await;
    until_gone(&volumes, &name).await;
    assert!(!path.exists());

    // Who changes the policy keeps the directory.
    let kept: PersistentVolumeClaim = cluster.create("default", json!({"metadata": {"name": "kept"}, "spec": spec})).await;
    let name = format!("pvc-{}", kept.metadata.uid.expect("is set"));
    claims.patch("kept", &PatchParams::default(), &Patch::Merge(selected)).await.expect("is written");
    until(&claims, "kept", "is bound", |claim| is_bound(claim, &name)).await;
    let retain = json!({"spec": {"persistentVolumeReclaimPolicy": "Retain"}});
    volumes.patch(&name, &PatchParams::default(), &Patch::Merge(retain)).await.expect("is written");
    claims.delete("kept", &DeleteParams::default()).await.expect("is accepted");
    until(&volumes, &name, "is kept for its owner", |volume| {
        has_phase(volume, "Released") && volume.finalizers().iter().all(|finalizer| finalizer.starts_with("kubernetes.io/"))
    })
    .await;
    assert!(directory.join(format!("{name}_default_kept")).is_dir());
}
