//! `metadata.managedFields`: who set what (<https://kubernetes.io/docs/reference/using-api/server-side-apply/>).
//!
//! The place where the registry calls the field manager; ownership itself is `apimachinery::managed_fields`.

use apimachinery::managed_fields::{
    Apply, ApplyError, BuiltIn, Conform, FieldManager, Node, PathElement, ReplicasPaths, ScaleOwners, Set, Versions, in_version,
};
use apimachinery::{GroupVersionKind, Status, Value, decode, schema};

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

    fn in_version(&self, object: &Value, api_version: &str, conform: Conform) -> Option<Value> {
        in_version(object, &self.kind_in(api_version)?, convert, conform)
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
        self.in_version(object, api_version, decode::conform_written)
    }

    fn restore(&self, object: &Value, api_version: &str) -> Option<Value> {
        self.in_version(object, api_version, decode::conform_sent)
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

/// Records the creation of an object that is not stored.
pub(crate) fn note_creation(kind: &GroupVersionKind, object: Value, subresource: &str, manager: &str) -> Value {
    let (versions, api_version) = (KindVersions(kind), kind.api_version());
    let recorder = FieldManager {
        versions: &versions,
        api_version: &api_version,
        kind: &kind.kind,
        subresource,
        reset_fields: &Set::new(),
        now: &now(),
    };
    recorder.update(None, object, manager)
}

/// Records an update.
pub(crate) fn updated(write: &Write<'_>, object: Value, old: &Value, options: &WriteOptions) -> Value {
    let tracking = Tracking::new(write);
    tracking.manager(write.subresource).update(Some(old), object, manager_name(write, options))
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

/// What is done to a Scale.
pub(crate) enum ScaleWrite<'a> {
    /// It becomes this.
    Update(&'a dyn Fn(&Value) -> Result<Value, Status>),
    /// This is applied to it.
    Apply(&'a Value),
}

/// Writes the Scale of an object (in the request's version), which has the object's replicas and their owners. Returns the Scale as it
/// is then, and the `managedFields` that the object has then.
pub(crate) fn scaled(
    write: &Write<'_>,
    object: &Value,
    mut scale: Value,
    change: &ScaleWrite<'_>,
    options: &WriteOptions,
) -> Result<(Value, Vec<Value>), Status> {
    let paths = replicas_paths(write);
    let malformed = |error| Status::from(ApplyError::Managers(error));
    let owners = ScaleOwners::of(object.meta().managed_fields(), &paths).map_err(malformed)?;
    scale.meta_mut().set_managed_fields(owners.of_scale());
    let kind = GroupVersionKind::new("autoscaling", "v1", "Scale");
    let api_version = kind.api_version();
    let versions = BuiltIn { kind, convert: |scale: Value, _: &GroupVersionKind| scale };
    let manager = FieldManager {
        versions: &versions,
        api_version: &api_version,
        kind: "Scale",
        subresource: "scale",
        reset_fields: &Set::new(),
        now: &now(),
    };
    let scale = match change {
        ScaleWrite::Update(update) => manager.update(Some(&scale), update(&scale)?, manager_name(write, options)),
        ScaleWrite::Apply(config) => {
            manager.apply(Some(&scale), config, Apply { manager: &options.field_manager, force: options.force })?
        }
    };
    let version = write.endpoint.row.group_version().to_string();
    let managed_fields = owners.after(scale.meta().managed_fields(), &version).map_err(malformed)?;
    Ok((scale, managed_fields))
}

/// Where the replicas are, in all versions that a kind ever had.
fn replicas_paths(write: &Write<'_>) -> ReplicasPaths {
    let versions: &[&str] = match write.endpoint.row.gvr.group.as_str() {
        "apps" => &["apps/v1", "apps/v1beta1", "apps/v1beta2"],
        _ => &["v1"],
    };
    let path = vec![PathElement::field("spec"), PathElement::field("replicas")];
    versions.iter().map(|version| ((*version).to_owned(), Some(path.clone()))).collect()
}
