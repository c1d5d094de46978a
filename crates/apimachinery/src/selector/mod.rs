//! Label selectors and field selectors, with upstream's syntax and messages
//! (<https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/>).

mod fields;
mod labels;
mod parser;

pub use fields::{FieldOperator, FieldRequirement, FieldSelector, escape_field_value};
pub use labels::{LabelSelector, Operator, Requirement};

/// A selector that cannot be understood; the text is what a client gets to see.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SelectorError(pub(crate) String);
