//! The controllers that make the cluster converge on what the API holds.
//!
//! Owns: one module per controller, the explicit ordered registry ([`controller_names`]) and the loop that runs
//! those enabled. Each controller is a pure `plan` (state in, actions out) apart from `reconcile` (I/O).
//!
//! Invariants: controllers read shared informers and write through the API only; they never mutate a cached
//! object; every write that rests on cached state carries a precondition (resourceVersion or UID).
//!
//! Deliberately absent: any access to storage or to the API server's internals, and stand-ins for controllers
//! that are not written: a kind without its controller is stored and served, and nothing pretends to act on it.

mod api_errors;
mod attach_detach;
mod bootstrap_tokens;
mod certificates;
mod cidr;
mod cluster_role_aggregation;
mod config;
mod config_roll;
mod context;
mod cronjob;
mod daemonset;
mod deployment;
mod discovery;
mod disruption;
mod endpoints;
mod endpointslice;
mod endpointslice_mirroring;
mod ensure;
mod ephemeral_volume;
mod expand;
mod expectations;
mod garbage_collector;
mod hash;
mod history;
mod identity;
mod int_or_percent;
mod job;
mod label_match;
mod legacy_token_cleaner;
mod local_provisioner;
#[cfg(test)]
mod model;
mod namespace;
mod node_ipam;
mod node_lifecycle;
mod own_writes;
mod ownership;
mod persistent_volume;
mod pod_autoscaler;
mod pod_claims;
mod pod_control;
mod pod_gc;
mod pod_state;
mod pod_template;
mod policy_status;
mod registry;
mod replicaset;
mod resource_claims;
mod resource_quota;
mod root_ca_publisher;
mod run;
mod selected;
mod service_cidr;
mod service_lb;
mod service_pods;
mod serviceaccount;
mod serviceaccount_tokens;
mod slow_start;
mod statefulset;
mod storage_protection;
mod taint_eviction;
mod toleration;
mod ttl;
mod ttl_after_finished;

pub use config::{
    ClusterSigning, Config, FeatureGates, LocalVolumes, NodeEviction, NodeIpam, PodAutoscaler, ServiceAccountKey,
    ServiceLoadBalancers, SigningCa, Started,
};
pub use config_roll::{NAME as CONFIG_ROLL, ensure_rights as ensure_config_roll_rights};
pub use identity::{Clients, service_account};
pub use local_provisioner::ensure_local_storage;
pub use registry::controller_names;
pub use run::{RunError, run};
