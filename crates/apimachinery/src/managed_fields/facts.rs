//! The built-in kinds' facts, for whoever patches and applies.

use super::schema::Node;
use super::updater::Versions;
use crate::patch::{FieldRule, ListRule, PatchSchema};
use crate::schema::{Shape, TypeInfo, TypeKind, lookup};
use crate::{GroupVersionKind, Value, decode};

impl PatchSchema for TypeInfo {
    fn field(&self, name: &str) -> Option<FieldRule<'_>> {
        let field = TypeInfo::field(self, name)?;
        let has = |strategy: &str| field.patch_strategy().is_some_and(|text| text.split(',').any(|word| word == strategy));
        let list = match has("merge") {
            true => ListRule::Merge { key: field.patch_merge_key() },
            false => ListRule::Replace,
        };
        Some(FieldRule { list, replace: has("replace"), inner: inner(field.shape) })
    }
}

fn inner(shape: &'static Shape) -> Option<&'static dyn PatchSchema> {
    match shape {
        Shape::List(inner_shape) => inner(inner_shape),
        Shape::Type(id) if id.info().kind == TypeKind::Struct => Some(id.info()),
        _ => None,
    }
}

/// The strategic merge rules of a built-in kind.
pub fn patch_schema(kind: &GroupVersionKind) -> Option<&'static dyn PatchSchema> {
    lookup(kind).map(|info| info as &dyn PatchSchema)
}

/// A built-in kind that has one version, or whose versions are converted by a function.
pub struct BuiltIn<F> {
    /// The group and kind; the version does not matter.
    pub kind: GroupVersionKind,
    /// Converts an object to a version of the kind.
    pub convert: F,
}

impl<F: Fn(Value, &GroupVersionKind) -> Value> BuiltIn<F> {
    fn kind_in(&self, api_version: &str) -> Option<GroupVersionKind> {
        let kind = GroupVersionKind::from_api_version(api_version, &self.kind.kind).ok()?;
        Some(kind)
    }
}

impl<F: Fn(Value, &GroupVersionKind) -> Value> Versions for BuiltIn<F> {
    fn schema(&self, api_version: &str) -> Option<Node<'_>> {
        lookup(&self.kind_in(api_version)?).map(Node::Kind)
    }

    fn convert(&self, object: &Value, api_version: &str) -> Option<Value> {
        let kind = self.kind_in(api_version)?;
        let info = lookup(&kind)?;
        let mut object = match object.gvk().is_some_and(|now| now != kind) {
            true => (self.convert)(object.clone(), &kind),
            false => object.clone(),
        };
        object.set_gvk(&kind);
        decode::conform(&mut object, info).ok()?;
        Some(object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::patch::strategic_merge_patch;
    use crate::value;

    #[test]
    fn containers_merge_by_name() {
        let schema = patch_schema(&GroupVersionKind::new("apps", "v1", "Deployment"));
        let pod = |containers: Value| value!({"spec": {"template": {"spec": {"containers": containers}}}});
        let object = pod(value!([{"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}]}, {"name": "b"}]));
        let patch = pod(value!([{"name": "a", "image": "2", "env": [{"name": "Y", "value": "2"}]}]));
        let expected = pod(
            value!([{"name": "a", "image": "2", "env": [{"name": "Y", "value": "2"}, {"name": "X", "value": "1"}]}, {"name": "b"}]),
        );
        assert_eq!(strategic_merge_patch(&object, &patch, schema), Ok(expected));
    }
}
