//! The generic registry: one engine for every resource, built-in or custom, driven by rows of a table.

mod strategy;

pub use strategy::{BeginHook, DefaultStrategy, FieldAttrs, Finish, OperationContext, Strategy};
