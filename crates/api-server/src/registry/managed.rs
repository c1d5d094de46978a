//! `metadata.managedFields`: who set what (<https://kubernetes.io/docs/reference/using-api/server-side-apply/>).
//!
//! The place where the registry calls the field manager. Ownership itself is computed in `apimachinery`; until it is there, entries
//! that are stored already are kept, and clients cannot set any.

use apimachinery::Value;

use super::catalog::Endpoint;
use super::options::WriteOptions;
use crate::http::RequestContext;

/// Clients cannot create an object with a history.
pub(crate) fn prepare(object: &mut Value) {
    object.meta_mut().remove("managedFields");
}

/// Records a creation.
pub(crate) fn created(object: Value, _: &Endpoint, _: &RequestContext, _: &WriteOptions, _subresource: &str) -> Value {
    object
}

/// Records an update.
pub(crate) fn updated(
    mut object: Value,
    old: &Value,
    _: &Endpoint,
    _: &RequestContext,
    _: &WriteOptions,
    _subresource: &str,
) -> Value {
    object.meta_mut().set_managed_fields(old.meta().managed_fields().to_vec());
    object
}
