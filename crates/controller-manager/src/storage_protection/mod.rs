//! The controllers that keep storage while it is used: a finalizer, set by the admission plugin StorageObjectInUseProtection, is taken off
//! an object that is being deleted once nothing uses it
//! (<https://kubernetes.io/docs/concepts/storage/persistent-volumes/#storage-object-in-use-protection>).
//!
//! One controller each for claims (used by pods), volumes (bound) and VolumeAttributesClasses (named by claims and volumes).

mod attributes_classes;
mod claims;
mod volumes;

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use client::{Change, Controller, Informer, NamespacedName, Outcome, ReconcileError, Store, WorkQueue, run_workers};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::{Api, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use crate::api_errors::ignore_not_found;

pub(crate) use attributes_classes::run as run_attributes_classes;
pub(crate) use claims::run as run_claims;
pub(crate) use volumes::run as run_volumes;

/// One kind of protected objects.
#[async_trait]
trait Protected: Send + Sync + 'static {
    type Kind: Resource<DynamicType = ()> + Clone + DeserializeOwned + Serialize + Debug + Send + Sync + 'static;
    /// Upstream's name of the controller.
    const NAME: &'static str;
    const FINALIZER: &'static str;

    fn api(&self, namespace: &str) -> Api<Self::Kind>;

    /// Whether an object that is being deleted is still needed. Must be certain of a no.
    async fn is_used(&self, object: &Self::Kind) -> Result<bool, ReconcileError>;
}

/// What an object's finalizer needs, use aside.
#[derive(Debug, PartialEq, Eq)]
enum Need {
    Nothing,
    /// It was made when the admission plugin was off.
    Add,
    /// If nothing uses the object.
    Remove,
}

fn need(meta: &ObjectMeta, finalizer: &str) -> Need {
    let present = meta.finalizers.iter().flatten().any(|name| name == finalizer);
    match (meta.deletion_timestamp.is_some(), present) {
        (true, true) => Need::Remove,
        (false, false) => Need::Add,
        _ => Need::Nothing,
    }
}

struct Protection<P: Protected> {
    protected: P,
    store: Store<P::Kind>,
}

/// Queues what needs something, now and at every change, and works on it.
async fn run<P: Protected>(
    protected: P,
    informer: &Informer<P::Kind>,
    queue: WorkQueue<NamespacedName>,
    token: CancellationToken,
) {
    let on_change = queue.clone();
    informer.add_handler(move |change| {
        let object = change.object();
        if !matches!(change, Change::Deleted(_)) && need(object.meta(), P::FINALIZER) != Need::Nothing {
            on_change.add(NamespacedName::of(&**object));
        }
    });
    let controller = Protection { protected, store: informer.store().clone() };
    run_workers(Arc::new(controller), queue, 1, token).await;
}

#[async_trait]
impl<P: Protected> Controller for Protection<P> {
    type Key = NamespacedName;

    fn name(&self) -> &'static str {
        P::NAME
    }

    async fn reconcile(&self, key: &NamespacedName) -> Result<Outcome, ReconcileError> {
        let Some(object) = self.store.get_key(key) else { return Ok(Outcome::Done) };
        let mut changed = (*object).clone();
        match need(object.meta(), P::FINALIZER) {
            Need::Nothing => return Ok(Outcome::Done),
            Need::Remove if self.protected.is_used(&object).await? => return Ok(Outcome::Done),
            Need::Remove => changed.finalizers_mut().retain(|name| name != P::FINALIZER),
            Need::Add => changed.finalizers_mut().push(P::FINALIZER.to_owned()),
        }
        let result = self.protected.api(&key.namespace).replace(&key.name, &PostParams::default(), &changed).await;
        ignore_not_found(result).map_err(ReconcileError::api("update finalizers"))?;
        Ok(Outcome::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_a_finalizer_needs() {
        for (meta, expected) in [
            (json!({}), Need::Add),
            (json!({"finalizers": ["f"]}), Need::Nothing),
            (json!({"finalizers": ["g"]}), Need::Add),
            (json!({"finalizers": ["g", "f"], "deletionTimestamp": "2026-01-01T00:00:00Z"}), Need::Remove),
            (json!({"finalizers": ["g"], "deletionTimestamp": "2026-01-01T00:00:00Z"}), Need::Nothing),
        ] {
            let meta: ObjectMeta = serde_json::from_value(meta).expect("is metadata");
            assert_eq!(need(&meta, "f"), expected, "{meta:?}");
        }
    }
}
