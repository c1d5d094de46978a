//! End-to-end: the real binary, real containers, upstream's kubectl. Needs root; `cargo xtask test` fetches the tools.

mod bad_input;
mod harness;
mod images;
mod kubectl;
mod lifecycle;
mod network;
mod pods;
mod registry;
