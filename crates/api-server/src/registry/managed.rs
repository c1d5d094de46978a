//! `metadata.managedFields`: who set what (<https://kubernetes.io/docs/reference/using-api/server-side-apply/>).
//!
//! The place where the registry calls the field manager; ownership itself is `apimachinery::managed_fields`.

use apimachinery::managed_fields::{Apply, ApplyError, FieldManager, Node, Set, Versions};
use apimachinery::{GroupVersionKind, Value, decode, schema};

use super::conversion::convert;
use super::meta::now;
use super::options::WriteOptions;
use super::write::Write;

/// All versions of a served kind.
struct KindVersions<'a>(&'a GroupVersionKind);

impl KindVersions<'_> {
    fn kind_in(&self, api_version: &str) -> Option<GroupVersionKind> {
        GroupVersionKind::from_api_version(api_version, &self.0.kind).ok()
    }
}

impl Versions for KindVersions<'_> {
    fn schema(&self, api_version: &str) -> Option<Node<'_>> {
        let kind = self.kind_in(api_version)?;
        match schema::lookup(&kind) {
            Some(info) => Some(Node::Kind(info)),
            // No schema of its own: objects are merged, lists have one owner.
            None => (schema::lookup(self.0).is_none() && kind.group == self.0.group).then_some(Node::Deduced),
        }
    }

    fn convert(&self, object: &Value, api_version: &str) -> Option<Value> {
        let kind = self.kind_in(api_version)?;
        let mut object = match object.gvk().is_some_and(|have| have != kind) {
            true => convert(object.clone(), &kind),
            false => object.clone(),
        };
        object.set_gvk(&kind);
        if let Some(info) = schema::lookup(&kind) {
            decode::conform(&mut object, info).ok()?;
        }
        Some(object)
    }
}

/// What all calls for one write share.
struct Tracking<'a> {
    versions: KindVersions<'a>,
    api_version: String,
    reset_fields: Set,
    now: String,
}

impl<'a> Tracking<'a> {
    fn new(write: &Write<'a>) -> Tracking<'a> {
        let kind = &write.endpoint.row.kind;
        Tracking {
            versions: KindVersions(kind),
            api_version: kind.api_version(),
            reset_fields: Set::of_fields(write.strategy().reset_fields()),
            now: now(),
        }
    }

    fn manager<'b>(&'b self, subresource: &'b str) -> FieldManager<'b> {
        FieldManager {
            versions: &self.versions,
            api_version: &self.api_version,
            kind: &self.versions.0.kind,
            subresource,
            reset_fields: &self.reset_fields,
            now: &self.now,
        }
    }
}

fn manager_name<'a>(write: &'a Write<'_>, options: &'a WriteOptions) -> &'a str {
    match options.field_manager.as_str() {
        "" => write.context.field_manager(),
        name => name,
    }
}

/// Records a creation.
pub(crate) fn created(write: &Write<'_>, object: Value, options: &WriteOptions) -> Value {
    let tracking = Tracking::new(write);
    tracking.manager(write.subresource).update(None, object, manager_name(write, options))
}

/// Records an update; `subresource` is the one that the client wrote.
pub(crate) fn updated(write: &Write<'_>, object: Value, old: &Value, options: &WriteOptions, subresource: &str) -> Value {
    let tracking = Tracking::new(write);
    tracking.manager(subresource).update(Some(old), object, manager_name(write, options))
}

/// Applies a configuration to the object as it is, or to none; both in the request's version.
pub(crate) fn applied(
    write: &Write<'_>,
    current: Option<&Value>,
    config: &Value,
    options: &WriteOptions,
) -> Result<Value, ApplyError> {
    let tracking = Tracking::new(write);
    let apply = Apply { manager: &options.field_manager, force: options.force };
    tracking.manager(write.subresource).apply(current, config, apply)
}
