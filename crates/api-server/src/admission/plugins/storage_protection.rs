//! StorageObjectInUseProtection: claims, volumes and VolumeAttributesClasses get the finalizer that keeps them while they are used. The
//! controllers of the same names take it off.

use apimachinery::Status;
use async_trait::async_trait;

use crate::admission::{AdmissionPlugin, Attributes, Operation};

const FINALIZERS: [(&str, &str, &str); 3] = [
    ("", "persistentvolumes", "kubernetes.io/pv-protection"),
    ("", "persistentvolumeclaims", "kubernetes.io/pvc-protection"),
    ("storage.k8s.io", "volumeattributesclasses", "kubernetes.io/vac-protection"),
];

pub(super) struct StorageObjectInUseProtection;

#[async_trait]
impl AdmissionPlugin for StorageObjectInUseProtection {
    fn name(&self) -> &'static str {
        "StorageObjectInUseProtection"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Create
    }

    async fn admit(&self, attributes: &mut Attributes) -> Result<(), Status> {
        let found = FINALIZERS.iter().find(|(group, resource, _)| attributes.is_resource(group, resource));
        let (Some((_, _, finalizer)), Some(object)) = (found, attributes.object.as_mut()) else { return Ok(()) };
        let mut finalizers: Vec<String> = object.meta().finalizers().map(str::to_owned).collect();
        if finalizers.iter().all(|name| name != finalizer) {
            finalizers.push((*finalizer).to_owned());
            object.meta_mut().set_finalizers(&finalizers);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::admission::plugins::testing::{create, object};

    #[tokio::test]
    async fn what_is_protected() {
        for (group, resource, subresource, before, after) in [
            ("", "persistentvolumes", "", json!(null), json!(["kubernetes.io/pv-protection"])),
            ("", "persistentvolumeclaims", "", json!(["x"]), json!(["x", "kubernetes.io/pvc-protection"])),
            ("", "persistentvolumeclaims", "", json!(["kubernetes.io/pvc-protection"]), json!(["kubernetes.io/pvc-protection"])),
            ("", "persistentvolumeclaims", "status", json!(null), json!(null)),
            ("storage.k8s.io", "volumeattributesclasses", "", json!(null), json!(["kubernetes.io/vac-protection"])),
            ("storage.k8s.io", "storageclasses", "", json!(null), json!(null)),
        ] {
            let mut meta = json!({"name": "x"});
            if !before.is_null() {
                meta["finalizers"] = before;
            }
            let mut attributes = create(group, resource, "Kind", &json!({ "metadata": meta }));
            attributes.subresource = subresource.to_owned();
            StorageObjectInUseProtection.admit(&mut attributes).await.expect("is let in");
            assert_eq!(object(&attributes)["metadata"]["finalizers"], after, "{resource} {subresource}");
        }
    }
}
