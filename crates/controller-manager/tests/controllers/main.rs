//! The controllers against the real API server on the memory store, in process; a small task plays the kubelet.

mod cluster;
mod collection;
mod namespaces;
mod nodes;
mod quotas;
mod remote;
mod storage;
mod workloads;
