//! The node's heartbeat: a Lease in `kube-node-lease`, renewed every quarter of its duration (KEP-589).

use std::sync::Arc;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use kube::api::{Api, PostParams};

use crate::context::Core;

const NAMESPACE: &str = "kube-node-lease";

/// Renews the Lease until the kubelet stops.
pub(crate) async fn renew_lease(core: Arc<Core>) {
    let api: Api<Lease> = Api::namespaced(core.client.clone(), NAMESPACE);
    let period = core.config.lease_duration / 4;
    let mut held: Option<Lease> = None;
    let mut failures = 0u32;
    loop {
        let wait = match renew(&core, &api, held.take()).await {
            Ok(lease) => {
                held = Some(lease);
                failures = 0;
                period
            }
            Err(error) => {
                failures += 1;
                tracing::debug!(%error, failures, "node lease was not renewed");
                // Upstream doubles from 200 ms to 7 s.
                std::time::Duration::from_millis(200 << failures.min(5)).min(period)
            }
        };
        tokio::select! {
            () = core.token.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

async fn renew(core: &Core, api: &Api<Lease>, held: Option<Lease>) -> Result<Lease, kube::Error> {
    let name = &core.config.node_name;
    let held = match held {
        Some(lease) => Some(lease),
        None => api.get_opt(name).await?,
    };
    let spec = LeaseSpec {
        holder_identity: Some(name.clone()),
        lease_duration_seconds: i32::try_from(core.config.lease_duration.as_secs()).ok(),
        renew_time: Some(MicroTime(jiff::Timestamp::now())),
        ..LeaseSpec::default()
    };
    // The owner lets the garbage collector remove the Lease with its Node.
    let owner = core.node.lock().as_ref().and_then(|node| node.metadata.uid.clone()).map(|uid| OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: name.clone(),
        uid,
        ..OwnerReference::default()
    });
    match held {
        Some(mut lease) => {
            lease.spec = Some(LeaseSpec { acquire_time: lease.spec.as_ref().and_then(|s| s.acquire_time.clone()), ..spec });
            if lease.metadata.owner_references.as_ref().is_none_or(Vec::is_empty) {
                lease.metadata.owner_references = owner.map(|o| vec![o]);
            }
            api.replace(name, &PostParams::default(), &lease).await
        }
        None => {
            let metadata = ObjectMeta {
                name: Some(name.clone()),
                namespace: Some(NAMESPACE.to_owned()),
                owner_references: owner.map(|o| vec![o]),
                ..ObjectMeta::default()
            };
            api.create(&PostParams::default(), &Lease { metadata, spec: Some(spec) }).await
        }
    }
}
