//! Field management and server-side apply (<https://kubernetes.io/docs/reference/using-api/server-side-apply/>): who set which field
//! of an object, what an apply changes, and whom it would take something from.
//!
//! Everything is pure: objects and `managedFields` in, objects and `managedFields` out. Not here: the change of a schema from granular
//! to atomic between two writes (upstream's reconciliation), which the built-in kinds of one version do not have.

mod conflict;
mod facts;
mod field_manager;
mod managers;
mod merge;
mod path;
mod scale;
mod schema;
mod set;
#[cfg(test)]
mod tests;
mod typed;
mod updater;

pub use conflict::{Conflict, Conflicts};
pub use facts::{BuiltIn, Conform, in_version};
pub use field_manager::{Apply, ApplyError, FieldManager, keep_times};
pub use managers::{ManagerId, Managers, ManagersError, Owned, managers_to_values, parse_managers};
pub use merge::extract;
pub use path::{PathElement, PathError};
pub use scale::{ReplicasPaths, ScaleOwners};
pub use schema::{Node, Scalar, Tree};
pub use set::{Set, SetError};
pub use typed::Comparison;
pub use updater::Versions;
