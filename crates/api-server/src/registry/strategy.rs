//! The rules of a kind that its schema cannot say.
//!
//! The registry calls these in upstream's order (`registry/rest/create.go`, `update.go`, `delete.go`). Strategies work on the tree in the
//! resource's storage version, never do I/O outside of the `begin_*` hooks, and never decide about resourceVersion, uid,
//! timestamps or managedFields: those belong to the registry.

use std::sync::Arc;

use apimachinery::decode::EmptyMember;
use apimachinery::{Status, Value, decode, defaults, field, schema, validation};
use async_trait::async_trait;

use super::companions::Companions;
use crate::auth::UserInfo;
use crate::gates::FeatureGates;
use crate::http::Warnings;
use crate::metrics::Metrics;

/// The circumstances of one write.
#[derive(Clone, Debug)]
pub struct OperationContext {
    /// Who asks.
    pub user: Arc<UserInfo>,
    /// The API group of the request: kinds that two groups serve differ in their rules.
    pub group: String,
    /// The namespace of the request; empty for cluster-scoped resources.
    pub namespace: String,
    /// The subresource written; empty for the object itself.
    pub subresource: String,
    /// Nothing will be stored.
    pub dry_run: bool,
    /// Which features are on.
    pub gates: FeatureGates,
    /// Containers may be privileged.
    pub allow_privileged: bool,
    /// What the label of the namespace says that the strategy asked for ([`Strategy::namespace_label`]); empty otherwise.
    pub namespace_label: String,
    /// Warnings for the client.
    pub warnings: Warnings,
    /// The lists and maps of the object that the client said are empty; the object has them no more.
    pub empty: Arc<[EmptyMember]>,
    /// What the server counts.
    pub(crate) metrics: Arc<Metrics>,
}

/// What a `begin_*` hook reserved: `finish(true)` after the write was stored, `finish(false)` if it was not.
#[async_trait]
pub trait Finish: Send {
    /// Keeps or gives back what was reserved.
    async fn finish(self: Box<Self>, success: bool);
}

/// The result of a `begin_*` hook.
pub type BeginHook = Result<Option<Box<dyn Finish>>, Status>;

/// Ends hooks in reverse order.
pub(crate) async fn finish_all(hooks: Vec<Box<dyn Finish>>, success: bool) {
    for hook in hooks.into_iter().rev() {
        hook.finish(success).await;
    }
}

/// Values of the fields that a field selector may name, in the order of the resource's table row.
pub type FieldAttrs = Vec<(&'static str, String)>;

/// The rules of one kind, or of one subresource of it. Every method has the behaviour of a kind without rules as its default.
#[async_trait]
pub trait Strategy: Send + Sync + 'static {
    /// Normalizes a new object before validation: drops what clients may not set (usually the status), sets `metadata.generation`.
    fn prepare_for_create(&self, _context: &OperationContext, object: &mut Value) {
        reset_status(object);
        object.meta_mut().set_generation(1);
    }

    /// The label of the object's namespace that validation looks at, as [`OperationContext::namespace_label`]. `old` is there for updates.
    fn namespace_label(&self, _object: &Value, _old: Option<&Value>) -> Option<&'static str> {
        None
    }

    /// Checks a new object; metadata is checked by the registry.
    fn validate(&self, _context: &OperationContext, _object: &Value) -> field::ErrorList {
        Vec::new()
    }

    /// Warnings for the creator.
    fn warnings_on_create(&self, _context: &OperationContext, _object: &Value) -> Vec<String> {
        Vec::new()
    }

    /// Normalizes an update before validation: keeps what this endpoint may not change (usually the status).
    fn prepare_for_update(&self, _context: &OperationContext, object: &mut Value, old: &Value) {
        keep_status(object, old);
        bump_generation(object, old);
    }

    /// Checks an update; metadata is checked by the registry.
    fn validate_update(&self, _context: &OperationContext, _object: &Value, _old: &Value) -> field::ErrorList {
        Vec::new()
    }

    /// Warnings for the updater.
    fn warnings_on_update(&self, _context: &OperationContext, _object: &Value, _old: &Value) -> Vec<String> {
        Vec::new()
    }

    /// Whether what [`Strategy::prepare_for_create`] fills in has defaults that follow from it. They come when the object is stored.
    fn has_late_defaults(&self) -> bool {
        false
    }

    /// Brings a valid object into its one stored form.
    fn canonicalize(&self, _object: &mut Value) {}

    /// Whether a PUT may create the object.
    fn allow_create_on_update(&self) -> bool {
        false
    }

    /// Whether a PUT without resourceVersion overwrites what is there.
    fn allow_unconditional_update(&self) -> bool {
        true
    }

    /// Reserves what the new object needs (addresses, ports), before it is validated. Also for dry runs, after which nothing is kept.
    async fn begin_create(&self, _context: &OperationContext, _object: &mut Value) -> BeginHook {
        Ok(None)
    }

    /// Reserves what an update needs, as [`Strategy::begin_create`].
    async fn begin_update(&self, _context: &OperationContext, _object: &mut Value, _old: &Value) -> BeginHook {
        Ok(None)
    }

    /// The objects of other kinds that come and go with this one, when it changes from `old` to `new`. They are written in the same
    /// transaction.
    fn companions(&self, _new: Option<&Value>, _old: Option<&Value>) -> Companions {
        Companions::default()
    }

    /// Called when an object has been removed from the store, whoever asked for it.
    async fn after_delete(&self, _context: &OperationContext, _object: &Value) {}

    /// Checks and completes a deletion. Returns the grace period in seconds if the object is to be marked (`deletionTimestamp`) and
    /// removed later by its owner component, `None` for kinds that are removed at once. `requested` is the client's `gracePeriodSeconds`.
    fn graceful_deletion(&self, _context: &OperationContext, _object: &Value, _requested: Option<i64>) -> Option<i64> {
        None
    }

    /// Whether a plain delete (no propagationPolicy) orphans dependents: `true` only for kinds with legacy semantics.
    fn orphans_by_default(&self) -> bool {
        false
    }

    /// Whether a deletion may ask the garbage collector to orphan dependents, or to delete them first.
    fn supports_collection(&self) -> bool {
        true
    }

    /// Whether a deletion has to wait for finalizers.
    fn waits_for_finalizers(&self, object: &Value) -> bool {
        object.meta().finalizers().next().is_some()
    }

    /// Says in the status that the object is going, where the kind has a place for that.
    fn mark_terminating(&self, _object: &mut Value) {}

    /// The rule for names of this kind.
    fn name_rule(&self) -> validation::NameFn {
        validation::name_is_dns_subdomain
    }

    /// Values for field selectors beyond `metadata.name` and `metadata.namespace`.
    fn selectable_fields(&self, _object: &Value) -> FieldAttrs {
        Vec::new()
    }

    /// The paths that [`Strategy::selectable_fields`] reads besides the selectable fields' own, if it needs no more of the object than
    /// these: then the cache need not read all of every object. `None` is always right.
    fn selectable_from(&self) -> Option<&'static [&'static str]> {
        None
    }

    /// Fields that server-side apply ignores on this endpoint (for example `status` on the object itself), as paths from the root.
    fn reset_fields(&self) -> &'static [&'static [&'static str]] {
        &[&["status"]]
    }
}

/// The rules of a kind without rules of its own.
#[derive(Clone, Copy, Debug, Default)]
pub struct DefaultStrategy {
    /// The kind has a status subresource, so that its main endpoint does not touch `status`.
    pub has_status: bool,
    /// The registry counts `metadata.generation` up when the spec changes.
    pub has_generation: bool,
}

impl Strategy for DefaultStrategy {
    fn prepare_for_create(&self, _context: &OperationContext, object: &mut Value) {
        if self.has_status {
            reset_status(object);
        }
        if self.has_generation {
            object.meta_mut().set_generation(1);
        }
    }

    fn prepare_for_update(&self, _context: &OperationContext, object: &mut Value, old: &Value) {
        if self.has_status {
            keep_status(object, old);
        }
        if self.has_generation {
            bump_generation(object, old);
        }
    }

    fn reset_fields(&self) -> &'static [&'static [&'static str]] {
        if self.has_status { &[&["status"]] } else { &[] }
    }
}

/// Drops the status that a creator sent: what is left is what Go writes for one that was never set, with its defaults.
pub(crate) fn reset_status(object: &mut Value) {
    object.remove("status");
    let Some(info) = object.gvk().and_then(|kind| schema::lookup(&kind)) else { return };
    if let Some(status) = decode::zero_field(info, "status") {
        // Of the status alone: what is not there in the spec any more has had its defaults.
        let mut fresh = Value::object();
        fresh.insert("status", status);
        defaults::apply(&mut fresh, info);
        object.insert("status", fresh.remove("status").unwrap_or_default());
    }
}

/// Puts the stored status back.
pub(crate) fn keep_status(object: &mut Value, old: &Value) {
    match old.get("status") {
        Some(status) => object.insert("status", status.clone()),
        None => object.remove("status"),
    };
}

/// As [`bump_generation`], for the few kinds where upstream compares Go's variables: something empty is not the same as nothing.
pub(crate) fn bump_generation_exactly(context: &OperationContext, object: &mut Value, old: &Value, part: &str) {
    bump_generation(object, old);
    let same = object.meta().generation() == old.meta().generation();
    let inside = |path: &str| path.strip_prefix(part).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']));
    if same && context.empty.iter().any(|member| inside(&member.path)) {
        object.meta_mut().set_generation(old.meta().generation() + 1);
    }
}

/// Counts `metadata.generation` up if anything but metadata and status changed.
pub(crate) fn bump_generation(object: &mut Value, old: &Value) {
    let ignored = |key: &str| matches!(key, "metadata" | "status" | "apiVersion" | "kind");
    let changed = match (object.as_object(), old.as_object()) {
        (Some(new), Some(old)) => {
            new.iter().any(|(key, value)| !ignored(key) && old.get(key) != Some(value))
                || old.keys().any(|key| !ignored(key) && !new.contains_key(key))
        }
        _ => true,
    };
    let generation = old.meta().generation() + i64::from(changed);
    object.meta_mut().set_generation(generation);
}

/// The rules of a `status` subresource: everything else stays as it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct StatusStrategy;

impl Strategy for StatusStrategy {
    fn prepare_for_update(&self, _context: &OperationContext, object: &mut Value, old: &Value) {
        keep_all_but_status(object, old);
    }

    fn reset_fields(&self) -> &'static [&'static [&'static str]] {
        &[&["spec"]]
    }
}

/// Puts everything back but status and metadata.
pub(crate) fn keep_all_but_status(object: &mut Value, old: &Value) {
    let (status, metadata) = (object.remove("status"), object.remove("metadata"));
    let mut kept = old.clone();
    match status {
        Some(status) => kept.insert("status", status),
        None => kept.remove("status"),
    };
    kept.insert("metadata", metadata.unwrap_or_else(Value::object));
    *object = kept;
}
