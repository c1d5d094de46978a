//! The controllers against the real API server on the memory store, in process; a small task plays the kubelet.

mod accounts;
mod apps;
mod autoscaling;
mod batch;
mod beyond;
mod cluster;
mod collection;
mod disruption;
mod namespaces;
mod nodes;
mod policies;
mod quotas;
mod remote;
mod service_cidrs;
mod storage;
mod workloads;
