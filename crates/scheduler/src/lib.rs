//! The scheduler: finds a node for each pod, on upstream's scheduling framework
//! (<https://kubernetes.io/docs/concepts/scheduling-eviction/scheduling-framework/>).
//!
//! Owns: the queue of pods that wait, the cache of nodes with what is assumed on them, the framework's extension points, the plugins.
//! Invariants: one scheduling cycle at a time, binding cycles run beside it; a node never gets more than its allocatable resources by
//! our decisions; a pod is in exactly one part of the queue or in flight.
//! Deliberately absent for now: gang scheduling.

mod batch;
mod cache;
mod condition;
mod config;
mod cycle;
mod eviction;
mod extender;
mod framework;
mod label_selector;
mod labelled;
mod memo;
mod metrics;
#[cfg(test)]
mod model_tests;
mod node_info;
mod nominator;
mod plugins;
mod pod_info;
mod queue;
mod resource;
mod run;
mod simulate;
mod snapshot;
mod watching;

pub use config::{Config, ConfigError, FeatureGates, Ready};
pub use framework::{ClusterEvent, Code, CycleState, EventSet, Handle, Hint, Listers, Plugin, Profile, Status, Transition};
pub use node_info::NodeInfo;
pub use plugins::{REGISTRY, Registration};
pub use resource::Resources;
pub use run::{SchedulerError, run};
pub use simulate::{Cluster, ClusterError, Fate, NodeOpinion, Simulation, TemplateError, Verdict, pods_of};
