//! The whole control plane and hollow nodes in one process, on the memory store, under virtual time: what it does when nothing changes,
//! and when a leader dies under load.

mod idle;
mod leadership;
mod plane;
