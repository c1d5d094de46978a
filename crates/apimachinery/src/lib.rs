//! Kubernetes objects without I/O: the dynamic tree ([`Value`]), names of kinds and resources, metadata accessors,
//! `Status` errors, field errors and validation of names, selectors, quantities and times.
//!
//! Invariants: nothing here reads files, the network or the clock (but for explicit `now()` constructors); output is
//! deterministic (object keys are kept sorted); hostile input gives an error, never a panic or a stack overflow.

pub mod cbor;
pub mod cron;
pub mod decode;
pub mod defaults;
pub mod field;
mod gvk;
pub mod managed_fields;
mod meta;
mod migrated;
pub mod openapi;
pub mod patch;
pub mod protobuf;
pub mod quantity;
pub mod quota;
pub mod schema;
pub mod selector;
mod status;
pub mod time;
pub mod url;
pub mod validation;
mod value;
pub mod yaml;

pub use gvk::{GroupKind, GroupResource, GroupVersion, GroupVersionKind, GroupVersionResource, NamespacedName, ParseError};
pub use meta::{Meta, MetaMut, OwnerReference};
pub use migrated::{MIGRATED_VOLUMES, MigratedVolume};
pub use quantity::Quantity;
pub use status::{Reason, Status, StatusCause, StatusDetails};
pub use value::{JsonError, Key, Map, TypedError, Value, Wanted, go_quote};
