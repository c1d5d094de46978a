//! The scheduler: finds a node for each pod, on upstream's scheduling framework
//! (<https://kubernetes.io/docs/concepts/scheduling-eviction/scheduling-framework/>).
//!
//! Owns: the queue of pods that wait, the cache of nodes with what is assumed on them, the framework's extension points, the plugins.
//! Invariants: one scheduling cycle at a time, binding cycles run beside it; a node never gets more than its allocatable resources by
//! our decisions; a pod is in exactly one part of the queue or in flight.
//! Deliberately absent for now: preemption, extenders, several profiles, the plugins that need volumes, topology or other pods.

mod cache;
mod cycle;
mod framework;
mod node_info;
mod plugins;
mod queue;
mod requirement;
mod resource;
mod run;

pub use framework::{ClusterEvent, Code, CycleState, EventResource, Hint, Plugin, Profile, Status};
pub use node_info::NodeInfo;
pub use plugins::{REGISTRY, Registration};
pub use resource::Resources;
pub use run::{Config, SchedulerError, run};
