//! Role-based access control: rules, the index of those in force, and escalation checks.

mod index;
mod rule;

pub use index::RbacIndex;
pub use rule::{Rule, uncovered};
