//! NamespaceAutoProvision: what is created in a namespace that does not exist creates it.

use apimachinery::Status;
use async_trait::async_trait;

use super::{forbidden, unreadable};
use crate::admission::{AdmissionPlugin, Attributes, Operation};
use crate::loopback::{Loopback, collection};
use crate::objects::Objects;

pub(super) struct NamespaceAutoProvision {
    loopback: Loopback,
}

impl NamespaceAutoProvision {
    pub(super) fn new(loopback: Loopback) -> Self {
        Self { loopback }
    }
}

#[async_trait]
impl AdmissionPlugin for NamespaceAutoProvision {
    fn name(&self) -> &'static str {
        "NamespaceAutoProvision"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Create
    }

    async fn admit(&self, attributes: &mut Attributes) -> Result<(), Status> {
        let name = attributes.namespace.as_str();
        let is_namespace = attributes.kind.group.is_empty() && attributes.kind.kind == "Namespace";
        if attributes.dry_run || is_namespace || name.is_empty() {
            return Ok(());
        }
        if self.loopback.get_json("", "namespaces", "", name).await.map_err(unreadable)?.is_some() {
            return Ok(());
        }
        let namespace = serde_json::json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        match self.loopback.create(&collection("", "v1", "namespaces", ""), &namespace).await {
            Ok(_) => Ok(()),
            // Somebody else was faster.
            Err(error) if error.code() == Some(409) => Ok(()),
            Err(error) => Err(forbidden(attributes, error)),
        }
    }
}
