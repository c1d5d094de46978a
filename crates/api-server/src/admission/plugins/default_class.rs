//! DefaultStorageClass and DefaultIngressClass: a new claim or ingress without a class gets the one that is marked as default.

use std::sync::Arc;

use apimachinery::Status;
use async_trait::async_trait;
use k8s_openapi::api::networking::v1::IngressClass;
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use typed::FromJson;

use super::{forbidden, unreadable};
use crate::admission::{AdmissionPlugin, Attributes, Operation};
use crate::objects::{self, ListScope, Objects};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Of {
    Storage,
    Ingress,
}

/// One of the two plugins.
pub(super) struct DefaultClass {
    objects: Arc<dyn Objects>,
    of: Of,
}

impl DefaultClass {
    pub(super) fn storage(objects: Arc<dyn Objects>) -> Self {
        Self { objects, of: Of::Storage }
    }

    pub(super) fn ingress(objects: Arc<dyn Objects>) -> Self {
        Self { objects, of: Of::Ingress }
    }

    async fn marked<T: FromJson>(
        &self,
        annotations: &[&str],
        meta: impl Fn(&T) -> &ObjectMeta,
    ) -> Result<Vec<ObjectMeta>, Status> {
        let classes: Vec<T> = objects::list(self.objects.as_ref(), ListScope::default()).await.map_err(unreadable)?;
        let is_default = |m: &&ObjectMeta| {
            m.annotations.as_ref().is_some_and(|have| annotations.iter().any(|a| have.get(*a).is_some_and(|v| v == "true")))
        };
        Ok(classes.iter().map(meta).filter(is_default).cloned().collect())
    }
}

#[async_trait]
impl AdmissionPlugin for DefaultClass {
    fn name(&self) -> &'static str {
        match self.of {
            Of::Storage => "DefaultStorageClass",
            Of::Ingress => "DefaultIngressClass",
        }
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Create
    }

    async fn admit(&self, attributes: &mut Attributes) -> Result<(), Status> {
        let (group, resource, field, old_annotation) = match self.of {
            Of::Storage => ("", "persistentvolumeclaims", "storageClassName", "volume.beta.kubernetes.io/storage-class"),
            Of::Ingress => ("networking.k8s.io", "ingresses", "ingressClassName", "kubernetes.io/ingress.class"),
        };
        if !attributes.is_resource(group, resource) {
            return Ok(());
        }
        let Some(object) = &attributes.object else { return Ok(()) };
        if object.get_path(&["spec", field]).is_some() || object.meta().annotation(old_annotation).is_some() {
            return Ok(());
        }
        let mut classes = match self.of {
            Of::Storage => {
                let annotations =
                    ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];
                self.marked::<StorageClass>(&annotations, |c| &c.metadata).await?
            }
            Of::Ingress => self.marked::<IngressClass>(&["ingressclass.kubernetes.io/is-default-class"], |c| &c.metadata).await?,
        };
        if self.of == Of::Ingress && classes.len() > 1 {
            let why = format!("{} default IngressClasses were found, only 1 allowed", classes.len());
            return Err(forbidden(attributes, why));
        }
        // The newest wins, then the first by name.
        let age = |m: &ObjectMeta| m.creation_timestamp.as_ref().map(|t| t.0);
        classes.sort_by(|a, b| age(b).cmp(&age(a)).then_with(|| a.name.cmp(&b.name)));
        if let (Some(class), Some(object)) = (classes.first().and_then(|c| c.name.as_deref()), attributes.object.as_mut()) {
            object.set_path(&["spec", field], class);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::admission::plugins::testing::{create, object};
    use crate::objects::memory::MemoryObjects;

    fn class(name: &str, created: &str, annotation: &str) -> serde_json::Value {
        json!({
            "metadata": {"name": name, "creationTimestamp": created, "annotations": {annotation: "true"}},
            "provisioner": "x",
            "spec": {"controller": "x"},
        })
    }

    #[tokio::test]
    async fn storage() {
        let objects = Arc::new(MemoryObjects::default());
        let plugin = DefaultClass::storage(objects.clone());
        let claim = |spec: serde_json::Value| {
            let claim = json!({"metadata": {"name": "c"}, "spec": spec});
            create("", "persistentvolumeclaims", "PersistentVolumeClaim", &claim)
        };
        let mut without = claim(json!({}));
        plugin.admit(&mut without).await.expect("admitted");
        assert_eq!(object(&without)["spec"], json!({}), "no default, nothing set");
        let annotation = "storageclass.kubernetes.io/is-default-class";
        objects.put("storageclasses", class("old", "2026-01-01T00:00:00Z", annotation));
        objects.put("storageclasses", class("new", "2026-02-01T00:00:00Z", annotation));
        plugin.admit(&mut without).await.expect("admitted");
        assert_eq!(object(&without)["spec"]["storageClassName"], "new");
        let mut none = claim(json!({"storageClassName": ""}));
        plugin.admit(&mut none).await.expect("admitted");
        assert_eq!(object(&none)["spec"]["storageClassName"], "", "no class on purpose");
    }

    #[tokio::test]
    async fn ingress() {
        let objects = Arc::new(MemoryObjects::default());
        let plugin = DefaultClass::ingress(objects.clone());
        let annotation = "ingressclass.kubernetes.io/is-default-class";
        objects.put("ingressclasses", class("one", "2026-01-01T00:00:00Z", annotation));
        let mut attributes = create("networking.k8s.io", "ingresses", "Ingress", &json!({"metadata": {"name": "i"}}));
        plugin.admit(&mut attributes.clone()).await.expect("admitted");
        objects.put("ingressclasses", class("two", "2026-01-01T00:00:00Z", annotation));
        let refused = plugin.admit(&mut attributes).await.expect_err("two defaults");
        assert!(refused.message.ends_with("2 default IngressClasses were found, only 1 allowed"), "{}", refused.message);
    }
}
