//! The generic registry: one engine for every resource, built-in or custom, driven by rows of a table.
//!
//! `resource` is the table, `catalog` binds rows to their caches and rules, `write` and `delete` change objects, `options` reads what
//! clients may ask for. Whoever changes an object goes through here, so that no write escapes admission, validation and history.

mod autoscaler;
mod catalog;
pub(crate) mod codec;
pub(crate) mod compaction;
mod companions;
mod conversion;
mod delete;
mod enablement;
mod engine;
mod managed;
mod meta;
mod options;
mod owners;
mod resource;
mod sent;
mod size;
mod strategy;
mod write;

pub(crate) use catalog::{Catalog, Endpoint, Stored};
pub use companions::{Companion, Companions};
pub(crate) use conversion::convert;
pub use enablement::ApiEnablement;
pub(crate) use engine::{Engine, store_status};
pub(crate) use managed::{ScaleWrite, applied as apply_managed, note_creation, scaled as scale_managed};
pub(crate) use meta::{NAMESPACE_MISMATCH, now};
pub(crate) use options::{ContinueToken, DeleteOptions, FieldValidation, ListOptions, ListRevision, WriteOptions, parse_int};
pub use resource::{Resource, Subresource};
pub use strategy::{BeginHook, DefaultStrategy, FieldAttrs, Finish, OperationContext, StatusStrategy, Strategy};
pub(crate) use strategy::{bump_generation, bump_generation_exactly, keep_status, reset_status};
pub(crate) use write::{Change, Write, Written};
