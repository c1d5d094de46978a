//! `managedFields` across the scale subresource: who owns the replicas of an object owns those of its Scale, and the other way round
//! (upstream's `ScaleHandler`).

use std::collections::BTreeMap;

use super::managers::{ManagerId, Managers, ManagersError, Owned, managers_to_values, parse_managers};
use super::path::PathElement;
use super::set::Set;
use crate::Value;

const SCALE_VERSION: &str = "autoscaling/v1";

/// Where the replicas of a kind are, for each of its versions that may occur in `managedFields`; `None` for a version without scale.
pub type ReplicasPaths = BTreeMap<String, Option<Vec<PathElement>>>;

/// The managers of a scaled object.
#[derive(Clone, Debug)]
pub struct ScaleOwners<'a> {
    managers: Managers,
    paths: &'a ReplicasPaths,
}

impl<'a> ScaleOwners<'a> {
    /// Of an object's `managedFields`.
    pub fn of(managed_fields: &[Value], paths: &'a ReplicasPaths) -> Result<ScaleOwners<'a>, ManagersError> {
        Ok(ScaleOwners { managers: parse_managers(managed_fields)?, paths })
    }

    fn path(&self, owned: &Owned) -> Option<&[PathElement]> {
        self.paths.get(&owned.api_version)?.as_deref()
    }

    /// The `managedFields` of the object's Scale: only of those who own the replicas.
    pub fn of_scale(&self) -> Vec<Value> {
        let owners = self.managers.iter().filter(|(_, owned)| self.path(owned).is_some_and(|path| owned.set.contains(path)));
        let in_scale = owners.map(|(id, owned)| {
            let api_version = if id.applies { String::new() } else { SCALE_VERSION.to_owned() };
            let id = ManagerId { api_version, ..id.clone() };
            (id, Owned { set: replicas(), api_version: SCALE_VERSION.to_owned(), time: owned.time.clone() })
        });
        managers_to_values(&in_scale.collect())
    }

    /// The object's `managedFields` after its Scale was written, which left these; `version` is the object's in the request.
    pub fn after(&self, of_scale: &[Value], version: &str) -> Result<Vec<Value>, ManagersError> {
        let mut scale = parse_managers(of_scale)?;
        let mut managers = Managers::new();
        for (id, owned) in self.managers.iter().filter(|(_, owned)| self.paths.contains_key(&owned.api_version)) {
            let Some(path) = self.path(owned).filter(|path| owned.set.contains(path)) else {
                managers.insert(id.clone(), owned.clone());
                continue;
            };
            if id.applies && scale.remove(id).is_some() {
                managers.insert(id.clone(), owned.clone());
                continue;
            }
            // Someone else has the replicas now. What an updater owns in a Scale is of another version, and so another manager's for
            // upstream, which knows no time for it.
            let mut taken = Set::new();
            taken.insert(path);
            let set = owned.set.difference(&taken);
            if !set.is_empty() {
                managers.insert(id.clone(), Owned { set, ..owned.clone() });
            }
        }
        let own = self.paths.get(version).and_then(Option::as_deref).unwrap_or_default();
        let mut set = Set::new();
        set.insert(own);
        let written = scale.into_iter().filter(|(_, owned)| !owned.set.intersection(&replicas()).is_empty());
        managers.extend(written.map(|(id, _)| {
            let time = self.managers.get(&id).and_then(|owned| owned.time.clone());
            (id, Owned { set: set.clone(), api_version: version.to_owned(), time })
        }));
        Ok(managers_to_values(&managers))
    }
}

/// The replicas in a Scale.
fn replicas() -> Set {
    let mut set = Set::new();
    set.insert(&[PathElement::field("spec"), PathElement::field("replicas")]);
    set
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value;

    fn entry(manager: &str, operation: &str, version: &str, subresource: &str, fields: &Value) -> Value {
        let mut entry = value!({"manager": manager, "operation": operation, "apiVersion": version, "fieldsType": "FieldsV1",
            "fieldsV1": fields, "time": "2026-01-01T00:00:00Z"});
        if !subresource.is_empty() {
            entry.insert("subresource", subresource);
        }
        entry
    }

    fn paths() -> ReplicasPaths {
        let path = vec![PathElement::field("spec"), PathElement::field("replicas")];
        ["apps/v1", "apps/v1beta1"].into_iter().map(|version| (version.to_owned(), Some(path.clone()))).collect()
    }

    #[test]
    fn replicas_change_hands() {
        let (paths, replicas) = (paths(), value!({"f:spec": {"f:replicas": {}}}));
        let both = value!({"f:spec": {"f:replicas": {}, "f:selector": {}}});
        let parent = [
            entry("a", "Apply", "apps/v1", "", &both),
            entry("b", "Update", "apps/v1beta1", "scale", &replicas),
            entry("c", "Update", "apps/v1", "", &value!({"f:spec": {"f:paused": {}}})),
            entry("gone", "Update", "apps/v0", "", &both),
        ];
        let owners = ScaleOwners::of(&parent, &paths).expect("well formed");
        let of_scale = owners.of_scale();
        let expected =
            [entry("a", "Apply", "autoscaling/v1", "", &replicas), entry("b", "Update", "autoscaling/v1", "scale", &replicas)];
        assert_eq!(of_scale, expected);
        let timeless = |mut entry: Value| {
            entry.remove("time");
            entry
        };
        // Nobody wrote the replicas: appliers stay as they are, updaters lose their time and the version in which they wrote. One whose
        // version nobody knows any more is gone.
        let kept = timeless(entry("b", "Update", "apps/v1", "scale", &replicas));
        let expected = [parent[0].clone(), kept, parent[2].clone()];
        assert_eq!(owners.after(&of_scale, "apps/v1").expect("well formed"), expected);
        // Someone took them; a part of the status is nobody's.
        let taken = entry("d", "Update", "autoscaling/v1", "scale", &replicas);
        let status = entry("e", "Update", "autoscaling/v1", "scale", &value!({"f:status": {"f:replicas": {}}}));
        let after = owners.after(&[taken, status], "apps/v1").expect("well formed");
        let left = value!({"f:spec": {"f:selector": {}}});
        let taken = timeless(entry("d", "Update", "apps/v1", "scale", &replicas));
        let expected = [entry("a", "Apply", "apps/v1", "", &left), taken, parent[2].clone()];
        assert_eq!(after, expected);
    }

    /// Upstream's entry for the replicas alone is one more of the same manager, and the later one of the two is the one that counts next time.
    #[test]
    fn replicas_of_an_updater_become_an_entry() {
        let (paths, replicas) = (paths(), value!({"f:spec": {"f:replicas": {}}}));
        let both = value!({"f:spec": {"f:replicas": {}, "f:selector": {}}});
        let first = [entry("m", "Update", "apps/v1", "", &both)];
        let owners = ScaleOwners::of(&first, &paths).expect("well formed");
        let second = owners.after(&owners.of_scale(), "apps/v1").expect("well formed");
        let mut alone = entry("m", "Update", "apps/v1", "", &replicas);
        alone.remove("time");
        let rest = entry("m", "Update", "apps/v1", "", &value!({"f:spec": {"f:selector": {}}}));
        assert_eq!(second, [alone, rest.clone()]);
        let owners = ScaleOwners::of(&second, &paths).expect("well formed");
        assert_eq!(owners.of_scale(), Vec::<Value>::new());
        assert_eq!(owners.after(&[], "apps/v1").expect("well formed"), [rest]);
    }
}
