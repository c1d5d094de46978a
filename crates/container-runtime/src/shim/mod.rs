//! The shim: one small process per sandbox that owns the sandbox's containers.
//!
//! It is the parent (by subreaper) of every container process, keeps their exit codes, writes their logs, and outlives the
//! server. It is single-threaded and blocking: one `poll` over everything, no allocation that grows with output.

mod container;
mod launch;
mod log;
mod operation;
pub(crate) mod protocol;
mod server;
mod socket;

pub(crate) use launch::{main, pause};
pub(crate) use socket::{connect, listen, receive, send};
