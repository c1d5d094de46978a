//! End-to-end: the real binary, real containers, upstream's kubectl. Needs root; `cargo xtask test` fetches the tools.

// What these tests wait for (processes, answers of a command line) has no event: they poll, each with a deadline.
#![allow(clippy::disallowed_methods)]

mod autoscaling;
mod bad_input;
mod harness;
mod images;
mod kubectl;
mod lifecycle;
mod network;
mod pods;
mod registry;
mod storage;
