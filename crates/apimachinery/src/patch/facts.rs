//! The published schema as what a strategic merge needs.

use super::strategic::{FieldRule, ListRule, PatchSchema};
use crate::schema::{Shape, TypeInfo, TypeKind};

impl PatchSchema for TypeInfo {
    fn field(&self, name: &str) -> Option<FieldRule<'_>> {
        let field = TypeInfo::field(self, name)?;
        let strategies = field.patch_strategy().unwrap_or_default();
        let has = |strategy: &str| strategies.split(',').any(|have| have == strategy);
        let list = match has("merge") {
            true => ListRule::Merge { key: field.patch_merge_key() },
            false => ListRule::Replace,
        };
        let element = match field.shape {
            Shape::List(element) | Shape::Map(element) => element,
            other => other,
        };
        let inner = match element {
            Shape::Type(id) if id.info().kind == TypeKind::Struct => Some(id.info() as &dyn PatchSchema),
            _ => None,
        };
        Some(FieldRule { list, replace: has("replace"), inner })
    }
}

#[cfg(test)]
mod tests {
    use crate::patch::strategic_merge_patch;
    use crate::{GroupVersionKind, schema, value};

    #[test]
    fn containers_merge_by_name() {
        let pod = schema::lookup(&GroupVersionKind::new("", "v1", "Pod")).expect("pods are known");
        let document = value!({"spec": {"containers": [{"name": "a", "image": "x"}, {"name": "b", "image": "y"}]}});
        let patch = value!({"spec": {"containers": [{"name": "b", "image": "z"}]}});
        let patched = strategic_merge_patch(&document, &patch, Some(pod)).expect("a valid patch");
        let containers = patched.array_at(&["spec", "containers"]);
        assert_eq!(containers.len(), 2, "{patched}");
        assert!(containers.iter().any(|container| container["name"] == "b" && container["image"] == "z"), "{patched}");
    }
}
