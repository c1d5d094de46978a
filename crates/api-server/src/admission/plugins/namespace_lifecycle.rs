//! NamespaceLifecycle: nothing is created in a namespace that is missing or going away, and the system's namespaces stay.

use std::sync::Arc;

use apimachinery::{GroupResource, Status, StatusCause};
use async_trait::async_trait;
use serde::Deserialize;

use super::{forbidden, unreadable};
use crate::admission::{AdmissionPlugin, Attributes, Operation};
use crate::objects::Objects;

const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

pub(super) struct NamespaceLifecycle {
    objects: Arc<dyn Objects>,
}

/// As much of a Namespace as matters here; every write in a namespace reads one.
#[derive(Deserialize)]
struct Namespace {
    #[serde(default)]
    status: NamespaceStatus,
}

#[derive(Default, Deserialize)]
struct NamespaceStatus {
    #[serde(default)]
    phase: String,
}

impl NamespaceLifecycle {
    pub(super) fn new(objects: Arc<dyn Objects>) -> Self {
        Self { objects }
    }
}

#[async_trait]
impl AdmissionPlugin for NamespaceLifecycle {
    fn name(&self) -> &'static str {
        "NamespaceLifecycle"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation != Operation::Connect
    }

    async fn admit(&self, attributes: &mut Attributes) -> Result<(), Status> {
        let is_namespace = attributes.resource.group.is_empty() && attributes.resource.resource == "namespaces";
        let deletion = attributes.operation == Operation::Delete;
        if is_namespace && deletion && IMMORTAL.contains(&attributes.name.as_str()) {
            let resource = attributes.resource.group_resource();
            return Err(Status::forbidden(&resource, &attributes.name, "this namespace may not be deleted"));
        }
        // Access reviews would tell which namespaces there are.
        let review = attributes.resource.resource == "localsubjectaccessreviews";
        if is_namespace || deletion || review || attributes.namespace.is_empty() {
            return Ok(());
        }
        let name = attributes.namespace.as_str();
        let Some(json) = self.objects.get_json("", "namespaces", "", name).await.map_err(unreadable)? else {
            return Err(Status::not_found(&GroupResource::new("", "namespaces"), name));
        };
        let namespace: Namespace = serde_json::from_slice(&json).map_err(Status::internal_error)?;
        if attributes.operation == Operation::Create && namespace.status.phase == "Terminating" {
            let why = format!("unable to create new content in namespace {name} because it is being terminated");
            return Err(forbidden(attributes, why).with_cause(StatusCause {
                reason: "NamespaceTerminating".to_owned(),
                message: format!("namespace {name} is being terminated"),
                field: "metadata.namespace".to_owned(),
            }));
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
    async fn namespaces() {
        let objects = Arc::new(MemoryObjects::default());
        let plugin = NamespaceLifecycle::new(objects.clone());
        let mut attributes = create("", "pods", "Pod", &json!({"metadata": {"name": "p"}}));
        let missing = plugin.admit(&mut attributes).await.expect_err("no namespace");
        assert_eq!((missing.code, missing.message.as_str()), (404, r#"namespaces "ns" not found"#));
        objects.put("namespaces", json!({"metadata": {"name": "ns"}, "status": {"phase": "Active"}}));
        plugin.admit(&mut attributes).await.expect("active");
        objects.put("namespaces", json!({"metadata": {"name": "ns"}, "status": {"phase": "Terminating"}}));
        let refused = plugin.admit(&mut attributes).await.expect_err("terminating");
        assert_eq!(refused.code, 403);
        assert_eq!(
            refused.message,
            r#"pods "p" is forbidden: unable to create new content in namespace ns because it is being terminated"#
        );
        attributes.operation = Operation::Update;
        plugin.admit(&mut attributes).await.expect("updates go on");
        let mut system = create("", "namespaces", "Namespace", &json!({"metadata": {"name": "kube-system"}}));
        (system.operation, system.namespace) = (Operation::Delete, "kube-system".to_owned());
        let refused = plugin.admit(&mut system).await.expect_err("immortal");
        assert_eq!(refused.message, r#"namespaces "kube-system" is forbidden: this namespace may not be deleted"#);
    }
}
