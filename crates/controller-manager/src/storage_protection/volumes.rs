//! persistentvolume-protection-controller: a volume stays while it is bound.

use async_trait::async_trait;
use client::{ReconcileError, WorkQueue};
use k8s_openapi::api::core::v1::PersistentVolume;
use kube::Api;

use super::Protected;
use crate::context::{Context, wait_synced};

struct Volumes(Context);

pub(crate) async fn run(context: Context) {
    let volumes = context.informers.get::<PersistentVolume>();
    wait_synced!(volumes);
    super::run(Volumes(context.clone()), &volumes, WorkQueue::new("pvprotection"), context.token).await;
}

#[async_trait]
impl Protected for Volumes {
    type Kind = PersistentVolume;
    const NAME: &'static str = "persistentvolume-protection-controller";
    const FINALIZER: &'static str = "kubernetes.io/pv-protection";

    fn api(&self, _namespace: &str) -> Api<PersistentVolume> {
        Api::all(self.0.client.clone())
    }

    async fn is_used(&self, volume: &PersistentVolume) -> Result<bool, ReconcileError> {
        Ok(volume.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound"))
    }
}
