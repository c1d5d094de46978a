//! The field manager of a resource: what upstream's chain of managers around the updater does, in its order.

use std::collections::BTreeMap;

use super::conflict::Conflicts;
use super::managers::{ManagerId, Managers, ManagersError, Owned, is_reset, managers_to_values, parse_managers};
use super::set::Set;
use super::typed::{Comparison, to_set, validate};
use super::updater::{Updater, Versions};
use crate::{Reason, Status, Value};

/// Updaters beyond this number are merged into [`ANCIENT`].
const UPDATERS_MAX: usize = 10;
const ANCIENT: &str = "ancient-changes";
/// Owns what an object had when it was first applied to and had no managers.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";
/// Holds what an update changed until it is added to the manager's own.
const CURRENT_OPERATION: &str = "current-operation";
/// Where client-side apply keeps its configuration.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// The one manager whose applies and client-side applies are the same person's.
const KUBECTL: &str = "kubectl";

/// Metadata that nobody owns.
const NOT_OWNED: &[&[&str]] = &[
    &["apiVersion"],
    &["kind"],
    &["metadata"],
    &["metadata", "name"],
    &["metadata", "namespace"],
    &["metadata", "creationTimestamp"],
    &["metadata", "selfLink"],
    &["metadata", "uid"],
    &["metadata", "clusterName"],
    &["metadata", "generation"],
    &["metadata", "managedFields"],
    &["metadata", "resourceVersion"],
];

/// Keeps track of who set what in objects of one kind, for writes in one version through one subresource.
pub struct FieldManager<'a> {
    /// The kind's versions.
    pub versions: &'a dyn Versions,
    /// The version of the request.
    pub api_version: &'a str,
    /// The kind, as the configuration must name it.
    pub kind: &'a str,
    /// The subresource that is written; empty for the object itself.
    pub subresource: &'a str,
    /// What the write cannot change, because the kind's strategy sets it back (`status` when the object itself is written).
    pub reset_fields: &'a Set,
    /// The time of the write, RFC 3339 in seconds.
    pub now: &'a str,
}

/// A configuration to apply.
#[derive(Clone, Copy, Debug)]
pub struct Apply<'a> {
    /// The name of the applier.
    pub manager: &'a str,
    /// Take what others own.
    pub force: bool,
}

/// Why a configuration was not applied. Nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The configuration is not one for this place.
    #[error("{0}")]
    BadRequest(String),
    /// The configuration does not fit the schema.
    #[error("failed to create typed patch object {0}")]
    NotTyped(String),
    /// There is no schema.
    #[error("no corresponding type for {0}")]
    UnknownType(String),
    /// The object's own `managedFields` cannot be read.
    #[error("failed to decode managed fields")]
    Managers(#[source] ManagersError),
    /// Others own what the configuration wants to change.
    #[error("Apply failed with {} conflicts", .0.0.len())]
    Conflicts(Conflicts),
}

impl From<ApplyError> for Status {
    /// The answer to the client, as upstream gives it.
    fn from(error: ApplyError) -> Status {
        match error {
            ApplyError::BadRequest(text) => Status::bad_request(text),
            ApplyError::Conflicts(conflicts) => conflicts.into(),
            ApplyError::Managers(source) => Status::new(Reason::Unknown, format!("failed to decode managed fields: {source}")),
            // Upstream gives these no reason.
            other => Status::new(Reason::Unknown, other.to_string()),
        }
    }
}

impl FieldManager<'_> {
    fn updater(&self) -> Option<Updater<'_>> {
        let node = self.versions.schema(self.api_version)?;
        Some(Updater { versions: self.versions, api_version: self.api_version, node, ignored: self.reset_fields })
    }

    fn id(&self, manager: &str, applies: bool) -> ManagerId {
        ManagerId {
            manager: if manager.is_empty() { "unknown" } else { manager }.to_owned(),
            applies,
            api_version: if applies { String::new() } else { self.api_version.to_owned() },
            subresource: self.subresource.to_owned(),
        }
    }

    /// Records a creation (`live` is `None`) or an update: gives the new object its `managedFields`. Never fails: ownership that cannot
    /// be worked out is dropped, as upstream does, rather than the write refused.
    pub fn update(&self, live: Option<&Value>, new: Value, manager: &str) -> Value {
        let mut managers = self.managers_for_update(live, &new);
        let mut new = new;
        new.meta_mut().remove("managedFields");
        let tracks = !managers.is_empty() || live.is_none();
        if tracks && self.record_update(live, &new, &mut managers, manager).is_none() {
            return new;
        }
        new.meta_mut().set_managed_fields(managers_to_values(&managers));
        if let Some(live) = live {
            keep_times(live, &mut new);
        }
        new
    }

    /// The managers that the client sends count, unless they are none, or not well formed, or it writes a subresource.
    fn managers_for_update(&self, live: Option<&Value>, new: &Value) -> Managers {
        let of_live = || live.and_then(|live| parse_managers(live.meta().managed_fields()).ok()).unwrap_or_default();
        if !self.subresource.is_empty() {
            return of_live();
        }
        if is_reset(new.meta().get("managedFields")) {
            return Managers::new();
        }
        match parse_managers(new.meta().managed_fields()) {
            Ok(managers) if !managers.is_empty() => managers,
            _ => of_live(),
        }
    }

    fn record_update(&self, live: Option<&Value>, new: &Value, managers: &mut Managers, manager: &str) -> Option<()> {
        let updater = self.updater()?;
        let old = self.versions.convert(&without_managed_fields(live), self.api_version)?;
        let new = self.versions.convert(new, self.api_version)?;
        let current = ManagerId { manager: CURRENT_OPERATION.to_owned(), ..ManagerId::default() };
        updater.update(&old, &new, managers, &current)?;
        strip(managers, &current);
        if let Some(changed) = managers.remove(&current) {
            let owned = managers.entry(self.id(manager, false)).or_default();
            owned.set = owned.set.union(&changed.set);
            owned.api_version = changed.api_version;
            owned.time = Some(self.now.to_owned());
        }
        cap_updaters(managers);
        Some(())
    }

    /// Applies a configuration to the object as it is, or to none. The result has its `managedFields`; it still lacks defaults.
    pub fn apply(&self, live: Option<&Value>, config: &Value, apply: Apply<'_>) -> Result<Value, ApplyError> {
        self.check_version(config)?;
        let managers =
            parse_managers(live.map(|live| live.meta().managed_fields()).unwrap_or_default()).map_err(ApplyError::Managers)?;
        let mut object = match self.apply_once(live, config, &managers, apply) {
            Err(ApplyError::Conflicts(conflicts)) if apply.manager == KUBECTL => match self.excused(live, &conflicts) {
                Some(left) if left.0.is_empty() => self.apply_once(live, config, &managers, Apply { force: true, ..apply })?,
                Some(left) => return Err(ApplyError::Conflicts(left)),
                None => return Err(ApplyError::Conflicts(conflicts)),
            },
            result => result?,
        };
        if apply.manager == KUBECTL && object.meta().annotation(LAST_APPLIED).is_some_and(|text| !text.is_empty()) {
            set_last_applied(&mut object, config);
        }
        Ok(object)
    }

    fn check_version(&self, config: &Value) -> Result<(), ApplyError> {
        let bad_request = |text: String| Err(ApplyError::BadRequest(text));
        if config.api_version() != self.api_version || config.kind() != self.kind {
            let (group, version) = config.api_version().rsplit_once('/').unwrap_or(("", config.api_version()));
            let given = match group {
                "" => format!("/{version}, Kind={}", config.kind()),
                group => format!("{group}/{version}, Kind={}", config.kind()),
            };
            return bad_request(format!("invalid object type: {given}"));
        }
        if config.meta().get("managedFields").is_some_and(|fields| !fields.is_null()) {
            return bad_request("metadata.managedFields must be nil".to_owned());
        }
        Ok(())
    }

    fn apply_once(
        &self,
        live: Option<&Value>,
        config: &Value,
        managers: &Managers,
        apply: Apply<'_>,
    ) -> Result<Value, ApplyError> {
        let unknown = || ApplyError::UnknownType(format!("{}, Kind={}", self.api_version, self.kind));
        let updater = self.updater().ok_or_else(unknown)?;
        let mut managers = managers.clone();
        if let (true, Some(live)) = (managers.is_empty(), live) {
            self.record_update(None, &without_managed_fields(Some(live)), &mut managers, BEFORE_FIRST_APPLY);
        }
        if let Err(why) = validate(config, updater.node, false) {
            let meta = config.meta();
            let named = format!("{}/{}", meta.namespace(), meta.name());
            let (version, kind) = (config.api_version(), config.kind());
            let version = if version.contains('/') { version.to_owned() } else { format!("/{version}") };
            return Err(ApplyError::NotTyped(format!("({named}; {version}, Kind={kind}): {why}")));
        }
        let before = self.versions.convert(&without_managed_fields(live), self.api_version).ok_or_else(unknown)?;
        let writer = self.id(apply.manager, true);
        let applied = updater.apply(&before, config, &mut managers, &writer, apply.force).map_err(ApplyError::Conflicts)?;
        strip(&mut managers, &writer);
        let mut object = match applied {
            Some(object) => {
                if let Some(owned) = managers.get_mut(&writer) {
                    owned.time = Some(self.now.to_owned());
                }
                self.versions.restore(&object, self.api_version).unwrap_or(object)
            }
            None => without_managed_fields(live),
        };
        object.meta_mut().set_managed_fields(managers_to_values(&managers));
        Ok(object)
    }

    /// The conflicts without those about fields that the same person's client-side apply set: `None` when there was none.
    fn excused(&self, live: Option<&Value>, conflicts: &Conflicts) -> Option<Conflicts> {
        let node = self.versions.schema(self.api_version)?;
        let live = live?;
        let last = Value::from_slice(live.meta().annotation(LAST_APPLIED)?.as_bytes()).ok()?;
        if last.api_version() != self.api_version || validate(&last, node, false).is_err() {
            return None;
        }
        let live = self.versions.convert(live, self.api_version)?;
        let changed = Comparison::of(&last, &live, node);
        let set = to_set(&last, node);
        let set = set.difference(&changed.modified).difference(&changed.added).difference(&changed.removed);
        Some(Conflicts(conflicts.0.iter().filter(|conflict| !set.contains(&conflict.path)).cloned().collect()))
    }
}

/// An empty object for none, and the object without its managers otherwise.
fn without_managed_fields(object: Option<&Value>) -> Value {
    let mut object = object.cloned().unwrap_or_else(Value::object);
    object.remove_path(&["metadata", "managedFields"]);
    object
}

fn strip(managers: &mut Managers, id: &ManagerId) {
    if let Some(owned) = managers.get_mut(id) {
        owned.set = owned.set.difference(&Set::of_fields(NOT_OWNED));
        if owned.set.is_empty() {
            managers.remove(id);
        }
    }
}

/// Merges the oldest updaters of a version into one when there are too many.
fn cap_updaters(managers: &mut Managers) {
    let mut updaters: Vec<(Option<String>, ManagerId)> =
        managers.iter().filter(|(id, _)| !id.applies).map(|(id, owned)| (owned.time.clone(), id.clone())).collect();
    let mut count = updaters.len();
    updaters.sort();
    let mut first_of_version: BTreeMap<String, ManagerId> = BTreeMap::new();
    for (_, id) in updaters {
        if count <= UPDATERS_MAX {
            return;
        }
        let Some(version) = managers.get(&id).map(|owned| owned.api_version.clone()) else { continue };
        let Some(first) = first_of_version.get(&version) else {
            first_of_version.insert(version, id);
            continue;
        };
        let bucket = ManagerId { manager: ANCIENT.to_owned(), api_version: version, ..ManagerId::default() };
        if !managers.contains_key(&bucket)
            && let Some(owned) = managers.remove(first)
        {
            managers.insert(bucket.clone(), owned);
        }
        if let Some(owned) = managers.remove(&id) {
            let ancient = managers.entry(bucket).or_default();
            *ancient = Owned { set: ancient.set.union(&owned.set), ..owned };
            count -= 1;
        }
    }
}

/// Where only the times would be new, nothing is: the object keeps the times that it has (upstream's
/// `IgnoreManagedFieldsTimestampsTransformer`).
pub fn keep_times(live: &Value, new: &mut Value) {
    let without_times = |object: &Value| -> Option<Managers> {
        let mut managers = parse_managers(object.meta().managed_fields()).ok()?;
        managers.values_mut().for_each(|owned| owned.time = None);
        Some(managers)
    };
    if without_managed_fields(Some(live)) == without_managed_fields(Some(new)) && without_times(live) == without_times(new) {
        new.meta_mut().set_managed_fields(live.meta().managed_fields().to_vec());
    }
}

/// Client-side apply goes on to work for what kubectl applies on the server.
fn set_last_applied(object: &mut Value, config: &Value) {
    let mut config = config.clone();
    config.remove_path(&["metadata", "annotations", LAST_APPLIED]);
    let mut text = config.to_json();
    text.push('\n');
    // Upstream's limit for all annotations together; beyond it the annotation is dropped.
    if text.len() > 256 * 1024 {
        object.meta_mut().remove_annotation(LAST_APPLIED);
    } else {
        object.meta_mut().set_annotation(LAST_APPLIED, &text);
    }
}
