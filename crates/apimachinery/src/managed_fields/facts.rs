//! The versions of the built-in kinds, from their facts.

use super::schema::Node;
use super::updater::Versions;
use crate::schema::{TypeInfo, lookup};
use crate::{GroupVersionKind, Value, decode};

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

    fn in_version(&self, object: &Value, api_version: &str, conform: Conform) -> Option<Value> {
        let kind = self.kind_in(api_version)?;
        lookup(&kind)?;
        in_version(object, &kind, &self.convert, conform)
    }
}

/// An object as one of this kind, converted where it is of another, and what the kind's type says if it has one.
pub fn in_version(
    object: &Value,
    kind: &GroupVersionKind,
    convert: impl Fn(Value, &GroupVersionKind) -> Value,
    conform: Conform,
) -> Option<Value> {
    let mut object = match object.gvk().is_some_and(|now| now != *kind) {
        true => convert(object.clone(), kind),
        false => object.clone(),
    };
    object.set_gvk(kind);
    if let Some(info) = lookup(kind) {
        conform(&mut object, info).ok()?;
    }
    Some(object)
}

/// Makes an object what its type says.
pub type Conform = fn(&mut Value, &'static TypeInfo) -> Result<Vec<String>, decode::DecodeError>;

impl<F: Fn(Value, &GroupVersionKind) -> Value> Versions for BuiltIn<F> {
    fn schema(&self, api_version: &str) -> Option<Node<'_>> {
        lookup(&self.kind_in(api_version)?).map(Node::Kind)
    }

    fn convert(&self, object: &Value, api_version: &str) -> Option<Value> {
        self.in_version(object, api_version, decode::conform_written)
    }

    fn restore(&self, object: &Value, api_version: &str) -> Option<Value> {
        self.in_version(object, api_version, decode::conform_sent)
    }
}
