//! PersistentVolumeClaimResize: a claim may only grow if it is bound and its class allows that.

use std::sync::Arc;

use apimachinery::{Quantity, Status, Value};
use async_trait::async_trait;
use k8s_openapi::api::storage::v1::StorageClass;

use super::{forbidden, unreadable};
use crate::admission::{AdmissionPlugin, Attributes, Operation};
use crate::objects::{self, Objects};

pub(super) struct PersistentVolumeClaimResize {
    objects: Arc<dyn Objects>,
}

impl PersistentVolumeClaimResize {
    pub(super) fn new(objects: Arc<dyn Objects>) -> Self {
        Self { objects }
    }

    async fn allows_growth(&self, claim: &Value, old: &Value) -> Result<bool, Status> {
        let name = class(claim);
        if name.is_empty() || name != class(old) {
            return Ok(false);
        }
        let class: Option<StorageClass> = objects::get(self.objects.as_ref(), "", name).await.map_err(unreadable)?;
        Ok(class.is_some_and(|class| class.allow_volume_expansion == Some(true)))
    }
}

fn class(claim: &Value) -> &str {
    let old = claim.meta().annotation("volume.beta.kubernetes.io/storage-class");
    old.or(claim.str_at(&["spec", "storageClassName"])).unwrap_or_default()
}

fn size(claim: &Value) -> Quantity {
    let size = claim.get_path(&["spec", "resources", "requests", "storage"]);
    size.and_then(|size| Quantity::from_value(size).ok()).unwrap_or_default()
}

#[async_trait]
impl AdmissionPlugin for PersistentVolumeClaimResize {
    fn name(&self) -> &'static str {
        "PersistentVolumeClaimResize"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Update
    }

    async fn validate(&self, attributes: &Attributes) -> Result<(), Status> {
        if !attributes.is_resource("", "persistentvolumeclaims") {
            return Ok(());
        }
        let (Some(claim), Some(old)) = (&attributes.object, &attributes.old_object) else { return Ok(()) };
        if size(claim) <= size(old) {
            return Ok(());
        }
        if old.str_at(&["status", "phase"]) != Some("Bound") {
            return Err(forbidden(attributes, "Only bound persistent volume claims can be expanded"));
        }
        if !self.allows_growth(claim, old).await? {
            let why = "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize";
            return Err(forbidden(attributes, why));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::admission::plugins::testing::create;
    use crate::objects::memory::MemoryObjects;

    #[tokio::test]
    async fn who_may_grow() {
        let objects = Arc::new(MemoryObjects::default());
        for (name, allowed) in [("grows", true), ("fixed", false)] {
            let class = json!({"metadata": {"name": name}, "provisioner": "x", "allowVolumeExpansion": allowed});
            objects.put("storageclasses", class);
        }
        let plugin = PersistentVolumeClaimResize::new(objects);
        let claim = |class: &str, size: &str, phase: &str| {
            json!({
                "metadata": {"name": "c"},
                "spec": {"storageClassName": class, "resources": {"requests": {"storage": size}}},
                "status": {"phase": phase},
            })
        };
        let resize =
            "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize";
        let unbound = "Only bound persistent volume claims can be expanded";
        for (old, new, refusal) in [
            (claim("grows", "1Gi", "Bound"), claim("grows", "2Gi", "Bound"), None),
            (claim("fixed", "1Gi", "Bound"), claim("fixed", "1Gi", "Bound"), None),
            (claim("fixed", "1Gi", "Bound"), claim("fixed", "2Gi", "Bound"), Some(resize)),
            (claim("", "1Gi", "Bound"), claim("", "2Gi", "Bound"), Some(resize)),
            (claim("gone", "1Gi", "Bound"), claim("gone", "2Gi", "Bound"), Some(resize)),
            (claim("grows", "1Gi", "Pending"), claim("grows", "2Gi", "Pending"), Some(unbound)),
        ] {
            let mut attributes = create("", "persistentvolumeclaims", "PersistentVolumeClaim", &new);
            attributes.operation = Operation::Update;
            attributes.old_object = Some(Value::from_slice(old.to_string().as_bytes()).expect("JSON"));
            let refused = plugin.validate(&attributes).await.err().map(|status| status.message);
            let expected = refusal.map(|why| format!("persistentvolumeclaims \"c\" is forbidden: {why}"));
            assert_eq!(refused, expected, "{old} {new}");
        }
    }
}
