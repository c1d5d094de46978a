//! NamespaceExists: nothing is written in a namespace that does not exist. (NamespaceLifecycle says so too, unless it is off.)

use std::sync::Arc;

use apimachinery::Status;
use async_trait::async_trait;

use super::namespace;
use crate::admission::{AdmissionPlugin, Attributes, Operation};
use crate::objects::Objects;

pub(super) struct NamespaceExists {
    objects: Arc<dyn Objects>,
}

impl NamespaceExists {
    pub(super) fn new(objects: Arc<dyn Objects>) -> Self {
        Self { objects }
    }
}

#[async_trait]
impl AdmissionPlugin for NamespaceExists {
    fn name(&self) -> &'static str {
        "NamespaceExists"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation != Operation::Connect
    }

    async fn validate(&self, attributes: &Attributes) -> Result<(), Status> {
        let is_namespace = attributes.kind.group.is_empty() && attributes.kind.kind == "Namespace";
        if is_namespace || attributes.namespace.is_empty() {
            return Ok(());
        }
        namespace(self.objects.as_ref(), &attributes.namespace).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::admission::plugins::testing::create;
    use crate::objects::memory::MemoryObjects;

    #[tokio::test]
    async fn namespaces() {
        let objects = Arc::new(MemoryObjects::default());
        let plugin = NamespaceExists::new(objects.clone());
        let attributes = create("", "pods", "Pod", &json!({"metadata": {"name": "p"}}));
        let refused = plugin.validate(&attributes).await.expect_err("no namespace");
        assert_eq!((refused.code, refused.message.as_str()), (404, r#"namespaces "ns" not found"#));
        plugin.validate(&create("", "namespaces", "Namespace", &json!({"metadata": {"name": "ns"}}))).await.expect("itself");
        objects.put("namespaces", json!({"metadata": {"name": "ns"}}));
        plugin.validate(&attributes).await.expect("there");
    }
}
