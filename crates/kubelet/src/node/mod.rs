//! The Node object: what this machine is, how it does, and its heartbeat.

mod lease;
pub(crate) mod machine;
mod register;
mod status;

pub(crate) use lease::renew_lease;
pub(crate) use machine::{Machine, architecture};
pub(crate) use register::register;
pub(crate) use status::{NodeStatus, report_status};
