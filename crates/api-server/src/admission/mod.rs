//! Admission: what may change or refuse a write after authorization and before it is stored
//! (<https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/>).
//!
//! The chain runs twice over one explicit, ordered list: first every plugin may change the object, then every plugin may refuse it.
//! The generic registry calls it for every write of every resource, so that no handler can forget it. Mutating webhooks and policies
//! go after the built-in mutating plugins, validating ones after the built-in validating plugins: the list in `plugins` says where.

mod config;
pub(crate) mod plugins;

use std::sync::Arc;

use apimachinery::{GroupVersionKind, GroupVersionResource, Status, Value};
use async_trait::async_trait;

use crate::auth::UserInfo;
use crate::http::Warnings;

pub use config::{AdmissionConfig, AdmissionConfigError};

/// What a request does to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Operation {
    Create,
    Update,
    Delete,
    Connect,
}

impl Operation {
    /// As in AdmissionReview: `CREATE`, `UPDATE`, `DELETE`, `CONNECT`.
    pub fn as_str(self) -> &'static str {
        match self {
            Operation::Create => "CREATE",
            Operation::Update => "UPDATE",
            Operation::Delete => "DELETE",
            Operation::Connect => "CONNECT",
        }
    }
}

/// What a plugin is asked about.
#[derive(Clone, Debug)]
pub struct Attributes {
    /// The object's kind.
    pub kind: GroupVersionKind,
    /// The resource.
    pub resource: GroupVersionResource,
    /// The subresource; empty for the object itself.
    pub subresource: String,
    /// The namespace; empty for cluster-scoped resources.
    pub namespace: String,
    /// The name; empty when it is still to be generated.
    pub name: String,
    /// What is done.
    pub operation: Operation,
    /// The object as it is to be stored; `None` for deletions.
    pub object: Option<Value>,
    /// The object as it is; `None` for creations and connections.
    pub old_object: Option<Value>,
    /// CreateOptions, UpdateOptions, PatchOptions or DeleteOptions.
    pub options: Value,
    /// Nothing will be stored: plugins must not have side effects.
    pub dry_run: bool,
    /// Who asks.
    pub user: Arc<UserInfo>,
    /// Warnings for the client.
    pub warnings: Warnings,
}

impl Attributes {
    /// Whether this is about the resource itself in this group (any version), not about a subresource.
    pub fn is_resource(&self, group: &str, resource: &str) -> bool {
        self.subresource.is_empty() && self.resource.group == group && self.resource.resource == resource
    }
}

/// One admission plugin. Add a module in `admission/` and one line in the ordered list.
#[async_trait]
pub trait AdmissionPlugin: Send + Sync + 'static {
    /// Upstream's name, for example `NamespaceLifecycle`.
    fn name(&self) -> &'static str;

    /// Whether the plugin looks at this operation at all.
    fn handles(&self, operation: Operation) -> bool;

    /// Changes the object, or refuses it early.
    async fn admit(&self, _attributes: &mut Attributes) -> Result<(), Status> {
        Ok(())
    }

    /// Refuses the object, which is now as it will be stored.
    async fn validate(&self, _attributes: &Attributes) -> Result<(), Status> {
        Ok(())
    }
}

/// The plugins in the order that they run in.
#[derive(Clone, Default)]
pub struct AdmissionChain {
    plugins: Arc<[Arc<dyn AdmissionPlugin>]>,
}

impl AdmissionChain {
    /// A chain in the order given.
    pub fn new(plugins: Vec<Arc<dyn AdmissionPlugin>>) -> AdmissionChain {
        AdmissionChain { plugins: plugins.into() }
    }

    /// Whether any plugin looks at this operation.
    pub fn handles(&self, operation: Operation) -> bool {
        self.plugins.iter().any(|plugin| plugin.handles(operation))
    }

    /// Lets every plugin change the object; ends at the first refusal.
    pub async fn admit(&self, attributes: &mut Attributes) -> Result<(), Status> {
        let operation = attributes.operation;
        for plugin in self.plugins.iter().filter(|plugin| plugin.handles(operation)) {
            plugin.admit(attributes).await?;
        }
        Ok(())
    }

    /// Lets every plugin refuse the object; ends at the first refusal.
    pub async fn validate(&self, attributes: &Attributes) -> Result<(), Status> {
        for plugin in self.plugins.iter().filter(|plugin| plugin.handles(attributes.operation)) {
            plugin.validate(attributes).await?;
        }
        Ok(())
    }

    /// The plugins' names, in order.
    pub fn names(&self) -> Vec<&'static str> {
        self.plugins.iter().map(|plugin| plugin.name()).collect()
    }
}
