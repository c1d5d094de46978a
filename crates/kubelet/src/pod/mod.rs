//! Pods as the kubelet sees them: where they come from, the state machine that each one runs, and the status that is reported.
//!
//! Decisions are pure ([`actions`], [`status`], [`qos`]); everything that touches the runtime, the disk or the API is in [`worker`].

pub(crate) mod access;
pub(crate) mod actions;
pub(crate) mod allocation;
pub(crate) mod backoff;
pub(crate) mod conditions;
pub(crate) mod manager;
pub(crate) mod mirror;
pub(crate) mod qos;
pub(crate) mod report;
pub(crate) mod resources;
pub(crate) mod sources;
pub(crate) mod status;
pub(crate) mod sync;
pub(crate) mod worker;

/// The members of an object as it is written in JSON; `None` if it cannot be. By way of text, for which the executable has the code anyway.
pub(crate) fn fields<T: serde::Serialize>(object: &T) -> Option<serde_json::Map<String, serde_json::Value>> {
    serde_json::to_vec(object).and_then(|json| serde_json::from_slice(&json)).ok()
}
