//! Claims get their volumes, keep them while they are used, and give them back.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use kube::api::{DeleteParams, PostParams};
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
