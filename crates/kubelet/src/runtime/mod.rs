//! The kubelet's side of the CRI: what the runtime knows about a pod ([`snapshot`]), and the configuration of sandboxes and containers.

pub(crate) mod container;
pub(crate) mod hooks;
pub(crate) mod kill;
pub(crate) mod labels;
pub(crate) mod resize;
pub(crate) mod sandbox;
pub(crate) mod security;
pub(crate) mod snapshot;
pub(crate) mod start;
