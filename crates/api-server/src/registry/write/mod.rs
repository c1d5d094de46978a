//! Creating and updating, in upstream's order (`registry/generic/registry/store.go`): what both need.

mod create;
mod update;

use std::sync::Arc;

use apimachinery::decode::EmptyMember;
use apimachinery::{GroupKind, GroupVersionResource, Status, Value, decode, defaults, field, schema, validation};
use bytes::Bytes;
use storage::{KeyValue, OpResponse};

use super::catalog::{Endpoint, Stored};
use super::codec::Served;
use super::engine::Engine;
use super::options::WriteOptions;
use super::sent::show_as_sent;
use super::strategy::{OperationContext, Strategy};
use super::{managed, meta};
use crate::admission::{Attributes, Operation};
use crate::auth::Authorizers;
use crate::http::RequestContext;

/// One write to one resource.
#[derive(Clone, Copy)]
pub(crate) struct Write<'a> {
    pub(crate) engine: &'a Engine,
    /// Asked where a change turns out to be a creation.
    pub(crate) authorizers: &'a Authorizers,
    pub(crate) endpoint: &'a Endpoint,
    pub(crate) stored: &'a Arc<Stored>,
    pub(crate) context: &'a RequestContext,
    /// The namespace of the object; empty for cluster-scoped ones.
    pub(crate) namespace: &'a str,
    pub(crate) subresource: &'a str,
}

/// What a write left behind.
pub(crate) struct Written {
    /// In the storage version, with its resourceVersion (none after a dry run).
    pub(crate) object: Value,
    /// The bytes, if it was stored just now.
    pub(crate) served: Option<Served>,
    /// It was not there before.
    pub(crate) created: bool,
}

/// An object as it is in the store.
pub(crate) struct Current {
    pub(crate) object: Value,
    pub(crate) revision: i64,
}

/// Makes the new object out of the current one, in the storage version.
pub(crate) trait Change: Send + Sync {
    /// `current` is `None` where the object is not there and the change may create it.
    fn apply(&self, current: Option<&Value>) -> Result<Value, Status>;

    /// The uid that the object must have, if the client said.
    fn uid(&self) -> Option<&str> {
        None
    }

    /// Whether the object may be created if it is not there (server-side apply).
    fn may_create(&self) -> bool {
        false
    }

    /// Whether the change keeps `managedFields` itself (server-side apply, scale).
    fn manages_fields(&self) -> bool {
        false
    }

    /// Whether the client applies, and so must not lose track of what it owns.
    fn is_apply(&self) -> bool {
        false
    }

    /// Whether the whole new object is the client's (PUT).
    fn is_sent_whole(&self) -> bool {
        false
    }

    /// Whether admission looks at the changed object; not where it has looked at what the change is made of (a Binding).
    fn is_admitted(&self) -> bool {
        true
    }

    /// The options' kind for admission.
    fn options_kind(&self) -> &'static str {
        "UpdateOptions"
    }
}

impl Write<'_> {
    pub(crate) fn operation(&self, dry_run: bool) -> OperationContext {
        OperationContext {
            user: self.context.user.clone(),
            group: self.endpoint.row.gvr.group.clone(),
            namespace: self.namespace.to_owned(),
            subresource: self.subresource.to_owned(),
            dry_run,
            gates: self.context.gates,
            allow_privileged: self.engine.allow_privileged,
            namespace_label: String::new(),
            warnings: self.context.warnings.clone(),
            empty: Arc::default(),
            metrics: self.engine.metrics.clone(),
        }
    }

    pub(crate) fn attributes(&self, operation: Operation, name: &str, options: Value, dry_run: bool) -> Attributes {
        let row = &self.endpoint.row;
        let kind = match self.endpoint.row.subresource(self.subresource) {
            Some(sub) => sub.kind.clone(),
            None => row.kind.clone(),
        };
        Attributes {
            kind,
            resource: GroupVersionResource::clone(&row.gvr),
            subresource: self.subresource.to_owned(),
            namespace: self.namespace.to_owned(),
            name: name.to_owned(),
            operation,
            object: None,
            old_object: None,
            options,
            dry_run,
            user: self.context.user.clone(),
            warnings: self.context.warnings.clone(),
        }
    }

    pub(crate) fn strategy(&self) -> &dyn Strategy {
        &**self.stored.strategy_for(self.subresource).unwrap_or(&self.stored.strategy)
    }

    fn group_kind(&self) -> GroupKind {
        // Upstream's errors name the kind as it is kept, whatever version or group was spoken.
        self.stored.kind.group_kind()
    }

    /// Takes out what the client said is empty: from here on, as in the store, that is the same as nothing.
    fn without_empty(&self, object: &mut Value) -> Arc<[EmptyMember]> {
        let mut empty = schema::lookup(&self.stored.kind).map(|info| decode::drop_empty(object, info)).unwrap_or_default();
        // What is put back or dropped before anything is looked at was never there.
        let of_status = self.subresource == "status";
        empty.retain(|member| {
            !(of_status && member.path.starts_with("spec") || crate::kinds::drops(&self.stored.resource, &member.path))
        });
        empty.into()
    }

    /// Fills in what is missing once more. Upstream does so whenever it reads what it stored, so that what was sent as empty, which the store
    /// cannot tell from nothing, is defaulted after all the rules have looked at it.
    fn with_late_defaults(&self, operation: &OperationContext, object: &mut Value, created: bool) {
        let late = created && self.strategy().has_late_defaults();
        if let Some(info) = schema::lookup(&self.stored.kind).filter(|_| late || !operation.empty.is_empty()) {
            defaults::apply(object, info);
        }
    }

    fn with_managers(&self, mut object: Value, options: &WriteOptions) -> Value {
        meta::wipe_system_fields(&mut object);
        managed::created(self, object, options)
    }

    /// What the label of the namespace says that the rules of the object ask for.
    async fn namespace_label(&self, object: &Value, old: Option<&Value>) -> Result<String, Status> {
        let Some(label) = self.strategy().namespace_label(object, old) else { return Ok(String::new()) };
        let namespaces = self.engine.catalog.get("", "v1", "namespaces").and_then(|endpoint| endpoint.stored.as_ref());
        let Some(namespaces) = namespaces else { return Ok(String::new()) };
        self.engine.fresh(namespaces).await?;
        let entry = namespaces.cacher.get(namespaces.key("", self.namespace).as_bytes());
        let labels = entry.iter().flat_map(|entry| &entry.labels);
        Ok(labels.filter(|(name, _)| **name == *label).map(|(_, value)| value.to_string()).collect())
    }

    /// What is wrong with an object, with the empty values that the client sent.
    fn invalid(&self, operation: &OperationContext, object: &Value, mut errors: field::ErrorList) -> Status {
        show_as_sent(&mut errors, &operation.empty);
        Status::invalid(&self.group_kind(), object.meta().name(), &errors)
    }

    /// What is wrong with the metadata of a namespaced object that is written as a part of another one (upstream's `ValidateObjectMeta`).
    pub(crate) fn metadata_errors(&self, object: &Value) -> field::ErrorList {
        let path = field::Path::new("metadata");
        let mut errors = validation::validate_object_meta(object, true, validation::name_is_dns_subdomain, &path);
        errors.extend(self.finalizer_errors(object, &path));
        errors
    }

    /// Names of finalizers have a domain, unless they are the system's own (upstream's `validateKubeFinalizerName`).
    fn finalizer_errors(&self, object: &Value, path: &field::Path) -> field::ErrorList {
        let group = self.stored.kind.group.as_str();
        let general =
            matches!(group, "admissionregistration.k8s.io" | "apiregistration.k8s.io" | "apiextensions.k8s.io" | "node.k8s.io");
        let is_event = self.stored.kind.kind == "Event" && self.endpoint.row.gvr.group.is_empty();
        if general || is_event {
            return Vec::new();
        }
        let path = path.child("finalizers");
        let names = object.meta().finalizers().enumerate();
        let bare = names.filter(|(_, name)| {
            let known = matches!(*name, "kubernetes" | "orphan" | "foregroundDeletion");
            !name.contains('/') && !known
        });
        let why = "name is neither a standard finalizer name nor is it fully qualified";
        bare.map(|(at, name)| field::Error::invalid(&path.index(at), name, why)).collect()
    }

    fn written(&self, mut object: Value, value: &Bytes, revision: i64, created: bool) -> Written {
        object.meta_mut().set_resource_version(&revision.to_string());
        Written { served: self.stored.header.serve(value, revision).ok(), object, created }
    }

    /// The object as it is now.
    pub(crate) async fn current(&self, name: &str) -> Result<Option<Current>, Status> {
        self.engine.fresh(self.stored).await?;
        match self.stored.cacher.get(self.stored.key(self.namespace, name).as_bytes()) {
            None => Ok(None),
            Some(entry) => {
                let object = entry.served.object().map_err(Status::internal_error)?;
                Ok(Some(Current { object, revision: entry.revision }))
            }
        }
    }

    pub(crate) fn current_from(&self, kv: &KeyValue) -> Result<Current, Status> {
        let revision = kv.mod_revision.0;
        let served = self.stored.header.serve(&kv.value, revision).map_err(Status::internal_error)?;
        Ok(Current { object: served.object().map_err(Status::internal_error)?, revision })
    }

    pub(crate) fn not_found(&self, name: &str) -> Status {
        Status::not_found(&self.endpoint.row.group_resource(), name)
    }
}

/// The key as a failed transaction found it.
pub(crate) fn current_of(responses: &[OpResponse]) -> Option<KeyValue> {
    responses.iter().find_map(|response| match response {
        OpResponse::Get(kv) => kv.clone(),
        _ => None,
    })
}
