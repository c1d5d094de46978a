//! The laws of ownership: what an update or an apply does to the sets of all managers
//! (structured-merge-diff's updater).

use std::collections::BTreeMap;

use super::conflict::{Conflict, Conflicts};
use super::managers::{ManagerId, Managers, Owned};
use super::merge;
use super::schema::Node;
use super::set::Set;
use super::typed::{Comparison, to_set};
use crate::Value;

/// The versions of one kind: managers may have written in any of them.
pub trait Versions {
    /// The schema of a version; `None` when the version is no longer (or not yet) there.
    fn schema(&self, api_version: &str) -> Option<Node<'_>>;

    /// The object in another version, as upstream's typed objects are written (see [`crate::decode::conform_written`]).
    /// `None` when that version is not there.
    fn convert(&self, object: &Value, api_version: &str) -> Option<Value>;

    /// As [`Versions::convert`], for what an apply makes of an object: empty lists and maps stay.
    fn restore(&self, object: &Value, api_version: &str) -> Option<Value>;
}

/// One write to one object.
pub(super) struct Updater<'a> {
    pub(super) versions: &'a dyn Versions,
    /// The version of the request.
    pub(super) api_version: &'a str,
    pub(super) node: Node<'a>,
    /// Fields that the write cannot change, because the kind's strategy sets them back.
    pub(super) ignored: &'a Set,
}

impl Updater<'_> {
    /// Takes from all other managers what the write changed or removed. Without force, changes of what others own are conflicts.
    fn take_from_others(
        &self,
        old: &Value,
        new: &Value,
        managers: &mut Managers,
        writer: &ManagerId,
        force: bool,
    ) -> Result<Comparison, Conflicts> {
        let own = Comparison::of(old, new, self.node).excluding(self.ignored);
        let mut others: BTreeMap<String, Option<Comparison>> = BTreeMap::new();
        let mut conflicts = Vec::new();
        let mut taken = Vec::new();
        let mut gone = Vec::new();
        for (id, owned) in managers.iter().filter(|(id, _)| *id != writer) {
            let comparison = match owned.api_version == self.api_version {
                true => &own,
                false => {
                    let known =
                        others.entry(owned.api_version.clone()).or_insert_with(|| self.compare_in(&owned.api_version, old, new));
                    match known {
                        Some(comparison) => comparison,
                        None => {
                            gone.push(id.clone());
                            continue;
                        }
                    }
                }
            };
            let contested = owned.set.intersection(&comparison.modified.union(&comparison.added));
            let left = owned.set.difference(&contested).difference(&comparison.removed);
            if left != owned.set {
                taken.push((id.clone(), left));
            }
            conflicts.extend(contested.paths().into_iter().map(|path| Conflict { manager: id.clone(), path }));
        }
        if !force && !conflicts.is_empty() {
            return Err(Conflicts(conflicts));
        }
        gone.iter().for_each(|id| drop(managers.remove(id)));
        for (id, left) in taken {
            if let Some(owned) = managers.get_mut(&id) {
                owned.set = left;
            }
        }
        managers.retain(|_, owned| !owned.set.is_empty());
        Ok(own)
    }

    fn compare_in(&self, api_version: &str, old: &Value, new: &Value) -> Option<Comparison> {
        let node = self.versions.schema(api_version)?;
        let (old, new) = (self.versions.convert(old, api_version)?, self.versions.convert(new, api_version)?);
        Some(Comparison::of(&old, &new, node))
    }

    /// An update: the writer owns what it changed. Both objects are in the request's version. `None` where the new one is not of its type.
    pub(super) fn update(&self, old: &Value, new: &Value, managers: &mut Managers, writer: &ManagerId) -> Option<()> {
        let forced = self.take_from_others(old, new, managers, writer, true);
        let comparison = forced.unwrap_or_else(|conflicts| unreachable!("a forced write has no conflicts: {conflicts:?}"));
        if comparison.untyped {
            return None;
        }
        let before = managers.remove(writer).map(|owned| owned.set).unwrap_or_default();
        let set = before.difference(&comparison.removed).union(&comparison.modified).union(&comparison.added);
        let set = set.recursive_difference(self.ignored);
        if !set.is_empty() {
            managers.insert(writer.clone(), Owned { set, api_version: self.api_version.to_owned(), time: None });
        }
        Some(())
    }

    /// An apply: the writer owns what its configuration says, and what it owned alone before and says no longer goes. `None` when the
    /// object stays as it is.
    pub(super) fn apply(
        &self,
        live: &Value,
        config: &Value,
        managers: &mut Managers,
        writer: &ManagerId,
        force: bool,
    ) -> Result<Option<Value>, Conflicts> {
        let merged = merge::merge(live, config, self.node);
        let set = to_set(config, self.node).recursive_difference(self.ignored);
        let before = managers.get(writer).cloned();
        let time = before.as_ref().and_then(|owned| owned.time.clone());
        managers.insert(writer.clone(), Owned { set, api_version: self.api_version.to_owned(), time });
        let pruned = match &before {
            Some(last) if !last.set.is_empty() => self.prune(merged, managers, last),
            _ => merged,
        };
        self.take_from_others(live, &pruned, managers, writer, force)?;
        // A null that the configuration says where there is nothing is a difference, too.
        Ok((pruned != *live).then(|| merge::without_nulls(pruned, self.node)))
    }

    /// Takes out what only the writer owned and no longer says.
    fn prune(&self, merged: Value, managers: &Managers, last: &Owned) -> Value {
        let version = last.api_version.as_str();
        let (Some(node), Some(converted)) = (self.versions.schema(version), self.in_version(&merged, version)) else {
            return merged;
        };
        let last_set = last.set.with_named_fields(node);
        let pruned = merge::remove(&converted, &last_set, node);
        let pruned = self.add_back_owned(&converted, pruned, version, managers);
        // What the writer never owned stays, even inside of something that it removes.
        let pruned_set = to_set(&pruned, node).with_named_fields(node);
        let merged_set = to_set(&converted, node).with_named_fields(node);
        let removed = merged_set.difference(&pruned_set).intersection(&last_set);
        let pruned = merge::remove(&converted, &removed, node);
        self.back_from(pruned, version).unwrap_or(merged)
    }

    fn in_version(&self, object: &Value, api_version: &str) -> Option<Value> {
        match api_version == self.api_version {
            true => Some(object.clone()),
            false => self.versions.convert(object, api_version),
        }
    }

    fn back_from(&self, object: Value, api_version: &str) -> Option<Value> {
        match api_version == self.api_version {
            true => Some(object),
            false => self.versions.convert(&object, self.api_version),
        }
    }

    /// Puts back what any manager still owns, version by version, the one of the pruned object first.
    fn add_back_owned(&self, merged: &Value, pruned: Value, version: &str, managers: &Managers) -> Value {
        let mut by_version: BTreeMap<&str, Set> = BTreeMap::new();
        for owned in managers.values() {
            let set = by_version.entry(&owned.api_version).or_default();
            *set = set.union(&owned.set);
        }
        let own = by_version.remove_entry(version);
        let mut pruned = pruned;
        for (at, managed) in own.into_iter().chain(by_version) {
            let Some(node) = self.versions.schema(at) else { continue };
            let convert = |object: &Value, from: &str, to: &str| match from == to {
                true => Some(object.clone()),
                false => self.versions.convert(object, to),
            };
            let (Some(merged), Some(now)) = (convert(merged, version, at), convert(&pruned, version, at)) else { continue };
            let merged_set = to_set(&merged, node).with_named_fields(node);
            let kept = to_set(&now, node).with_named_fields(node).union(&managed.with_named_fields(node));
            let restored = merge::remove(&merged, &merged_set.difference(&kept), node);
            if let Some(restored) = convert(&restored, at, version) {
                pruned = restored;
            }
        }
        pruned
    }
}
