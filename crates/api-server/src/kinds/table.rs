//! Which kinds have rules that are checks of a tree, and nothing else: one row each, beside the checks themselves.

use apimachinery::field::ErrorList;
use apimachinery::{GroupResource, Value};

use super::{access, networking, node, quota, storage};

/// Checks a new object.
pub(super) type Check = fn(&Value, &mut ErrorList);
/// Checks a new state of an object against the old one.
pub(super) type Change = fn(&Value, &Value, &mut ErrorList);

/// The checks of one resource.
pub(super) struct Checks {
    pub(super) group: &'static str,
    pub(super) resource: &'static str,
    pub(super) create: Check,
    pub(super) update: Change,
    pub(super) status: Change,
}

/// No rule.
pub(super) fn any(_: &Value, _: &Value, _: &mut ErrorList) {}

/// The checks of this resource.
pub(super) fn checks(resource: &GroupResource) -> Option<&'static Checks> {
    let tables: [&'static [Checks]; 5] = [node::CHECKS, storage::CHECKS, networking::CHECKS, access::CHECKS, quota::CHECKS];
    tables.into_iter().flatten().find(|row| row.group == resource.group && row.resource == resource.resource)
}
