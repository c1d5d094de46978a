//! The storage contract of the API server, its backends and its contract suite. Knows bytes, nothing of Kubernetes.
//!
//! [`Store`] is the contract; [`Memory`] and [`sqlite`] keep it. All backends here share one pure core (`mvcc`, `apply`, `lease`:
//! persistent maps, no I/O) and the reads and watches on it (`engine`, `hub`); a backend adds how a transaction becomes durable.
//! `suite` checks any backend (feature `suite`).

mod apply;
mod contract;
mod engine;
mod hub;
mod lease;
mod memory;
mod mvcc;
pub mod sqlite;
#[cfg(any(test, feature = "suite"))]
pub mod suite;

pub use contract::{
    Compare, Durability, Event, KeyRange, KeyValue, LeaseId, Op, OpResponse, RangeRequest, RangeResponse, Revision, Store,
    StoreError, TXN_WRITES_MAX, Txn, TxnResponse, WatchResponse, WatchStream,
};
pub use memory::Memory;
