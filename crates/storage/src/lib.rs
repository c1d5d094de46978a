//! The storage contract of the API server, its backends and its contract suite. Knows bytes, nothing of Kubernetes.

mod contract;

pub use contract::{
    Compare, Durability, Event, KeyRange, KeyValue, LeaseId, Op, OpResponse, RangeRequest, RangeResponse, Revision, Store,
    StoreError, Txn, TxnResponse, WatchResponse, WatchStream,
};
