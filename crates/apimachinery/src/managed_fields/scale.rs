//! `scale` subresources: who owns `spec.replicas` of the Scale owns the field behind it in the object, and the other way round.

use super::managers::{Managers, Owned, managers_to_values, parse_managers};
use super::path::PathElement;
use super::set::Set;
use crate::Value;

const SCALE_VERSION: &str = "autoscaling/v1";

fn replicas() -> Vec<PathElement> {
    vec![PathElement::field("spec"), PathElement::field("replicas")]
}

/// The `managedFields` of the Scale, from those of the object. `path` is where an object of a version keeps its replicas.
pub fn managers_to_scale(parent: &[Value], path: &dyn Fn(&str) -> Option<Vec<PathElement>>) -> Vec<Value> {
    let Ok(parent) = parse_managers(parent) else { return Vec::new() };
    let mut set = Set::new();
    set.insert(&replicas());
    let owners = parent.into_iter().filter(|(_, owned)| path(&owned.api_version).is_some_and(|path| owned.set.contains(&path)));
    let scale: Managers = owners
        .map(|(id, owned)| (id, Owned { set: set.clone(), api_version: SCALE_VERSION.to_owned(), time: owned.time }))
        .collect();
    managers_to_values(&scale)
}

/// The `managedFields` of the object (in `api_version`) after a write of its Scale.
pub fn managers_from_scale(
    parent: &[Value],
    scale: &[Value],
    api_version: &str,
    path: &dyn Fn(&str) -> Option<Vec<PathElement>>,
) -> Vec<Value> {
    let (Ok(parent), Ok(mut scale)) = (parse_managers(parent), parse_managers(scale)) else { return parent.to_vec() };
    let mut managers = Managers::new();
    for (id, mut owned) in parent {
        let path = path(&owned.api_version).filter(|path| owned.set.contains(path));
        if let Some(path) = path.filter(|_| scale.remove(&id).is_none()) {
            let mut gone = Set::new();
            gone.insert(&path);
            owned.set = owned.set.difference(&gone);
        }
        if !owned.set.is_empty() {
            managers.insert(id, owned);
        }
    }
    let Some(path) = path(api_version) else { return managers_to_values(&managers) };
    for (id, owned) in scale.into_iter().filter(|(_, owned)| owned.set.contains(&replicas())) {
        let mut set = Set::new();
        set.insert(&path);
        managers.insert(id, Owned { set, api_version: api_version.to_owned(), time: owned.time });
    }
    managers_to_values(&managers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value;

    #[test]
    fn there_and_back() {
        let path = |_: &str| Some(replicas());
        let entry = |manager: &str, version: &str, fields: Value| value!({"manager": manager, "operation": "Update", "apiVersion": version, "fieldsType": "FieldsV1", "fieldsV1": fields});
        let parent = [entry("a", "apps/v1", value!({"f:spec": {"f:paused": {}, "f:replicas": {}}}))];
        let scale = managers_to_scale(&parent, &path);
        assert_eq!(scale, [entry("a", "autoscaling/v1", value!({"f:spec": {"f:replicas": {}}}))]);
        // Nothing changed, as the identity of an updater has the version of its first write.
        let hpa = entry("hpa", "autoscaling/v1", value!({"f:spec": {"f:replicas": {}}}));
        let back = managers_from_scale(&parent, &[hpa], "apps/v1", &path);
        assert_eq!(
            back,
            [
                entry("a", "apps/v1", value!({"f:spec": {"f:paused": {}}})),
                entry("hpa", "apps/v1", value!({"f:spec": {"f:replicas": {}}})),
            ]
        );
    }
}
