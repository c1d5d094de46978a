//! The scheduling framework: the points at which plugins take part in placing a pod, and what they answer (KEP-624).

mod profile;
mod state;
mod status;

use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Node, Pod};

pub(crate) use profile::FilterOutcome;
pub use profile::Profile;
pub use state::CycleState;
pub use status::{Code, Status};

use crate::node_info::NodeInfo;

/// The best score of a node at one plugin; the worst is 0.
pub(crate) const NODE_SCORE_MAX: i64 = 100;

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventResource {
    /// A pod that has a node.
    AssignedPod,
    /// The waiting pod itself.
    UnscheduledPod,
    /// A node.
    Node,
}

/// A change in the cluster that may make a waiting pod schedulable.
#[derive(Clone, Debug)]
pub enum ClusterEvent {
    /// A pod on a node changed; `None` for `new` when it is gone.
    AssignedPod {
        /// Before; `None` when it is new.
        old: Option<Arc<Pod>>,
        /// After; `None` when it is gone.
        new: Option<Arc<Pod>>,
    },
    /// The waiting pod's own object changed.
    UnscheduledPod {
        /// Before.
        old: Arc<Pod>,
        /// After.
        new: Arc<Pod>,
    },
    /// A node came or changed.
    Node {
        /// Before; `None` when it is new.
        old: Option<Arc<Node>>,
        /// After.
        new: Arc<Node>,
    },
}

impl ClusterEvent {
    /// The kind of object that the event is about.
    pub fn resource(&self) -> EventResource {
        match self {
            ClusterEvent::AssignedPod { .. } => EventResource::AssignedPod,
            ClusterEvent::UnscheduledPod { .. } => EventResource::UnscheduledPod,
            ClusterEvent::Node { .. } => EventResource::Node,
        }
    }
}

/// A plugin's opinion on whether an event is worth another attempt (KEP-4247).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hint {
    /// Try again.
    Queue,
    /// This changes nothing for the pod.
    Skip,
}

/// A plugin: a name, and the extension points that it implements. Each `as_*` answers `None` unless overridden.
pub trait Plugin: Send + Sync + 'static {
    /// Upstream's name.
    fn name(&self) -> &'static str;

    /// Whether an event may help a pod that this plugin rejected. Asked only for rejected pods.
    fn hint(&self, pod: &Pod, event: &ClusterEvent) -> Hint;

    /// Extension point PreEnqueue.
    fn as_pre_enqueue(&self) -> Option<&dyn PreEnqueue> {
        None
    }
    /// Extension point PreFilter.
    fn as_pre_filter(&self) -> Option<&dyn PreFilter> {
        None
    }
    /// Extension point Filter.
    fn as_filter(&self) -> Option<&dyn Filter> {
        None
    }
    /// Extension point PostFilter.
    fn as_post_filter(&self) -> Option<&dyn PostFilter> {
        None
    }
    /// Extension point PreScore.
    fn as_pre_score(&self) -> Option<&dyn PreScore> {
        None
    }
    /// Extension point Score.
    fn as_score(&self) -> Option<&dyn Score> {
        None
    }
    /// Extension point Reserve.
    fn as_reserve(&self) -> Option<&dyn Reserve> {
        None
    }
    /// Extension point Permit.
    fn as_permit(&self) -> Option<&dyn Permit> {
        None
    }
    /// Extension point PreBind.
    fn as_pre_bind(&self) -> Option<&dyn PreBind> {
        None
    }
    /// Extension point Bind.
    fn as_bind(&self) -> Option<&dyn Bind> {
        None
    }
    /// Extension point PostBind.
    fn as_post_bind(&self) -> Option<&dyn PostBind> {
        None
    }
}

/// Runs before a pod enters the active queue; a rejected pod waits outside of it.
pub trait PreEnqueue: Send + Sync {
    /// Success lets the pod in.
    fn pre_enqueue(&self, pod: &Pod) -> Status;
}

/// Runs once a cycle, before the nodes are looked at.
pub trait PreFilter: Send + Sync {
    /// Prepares `state`; may name the only nodes that can do. `Skip` leaves this plugin's Filter out of the cycle.
    fn pre_filter(&self, state: &mut CycleState, pod: &Pod) -> (Status, Option<Vec<String>>);
}

/// Runs for each node: can the pod run there?
pub trait Filter: Send + Sync {
    /// Success lets the node stay.
    fn filter(&self, state: &CycleState, pod: &Pod, node: &NodeInfo) -> Status;
}

/// Runs when no node was left.
#[async_trait]
pub trait PostFilter: Send + Sync {
    /// May make room; names the node that the pod shall be nominated for.
    async fn post_filter(&self, state: &CycleState, pod: &Pod, rejected: &[(String, Status)]) -> (Status, Option<String>);
}

/// Runs once, before the feasible nodes are scored.
pub trait PreScore: Send + Sync {
    /// Prepares `state`. `Skip` leaves this plugin's Score out of the cycle.
    fn pre_score(&self, state: &mut CycleState, pod: &Pod, nodes: &[Arc<NodeInfo>]) -> Status;
}

/// Runs for each feasible node: how good is it?
pub trait Score: Send + Sync {
    /// A score; any range, if `normalize` brings it to 0..=100.
    fn score(&self, state: &CycleState, pod: &Pod, node: &NodeInfo) -> i64;

    /// Brings the scores of all nodes to 0..=100.
    fn normalize(&self, _scores: &mut [i64]) {}
}

/// Runs when the node is chosen, before the pod is bound, and again if that fails.
pub trait Reserve: Send + Sync {
    /// Sets aside what the pod needs there.
    fn reserve(&self, state: &mut CycleState, pod: &Pod, node: &str) -> Status;

    /// Gives it back. Idempotent; also called for plugins whose `reserve` was not reached.
    fn unreserve(&self, state: &mut CycleState, pod: &Pod, node: &str);
}

/// Runs last in the scheduling cycle; may refuse.
pub trait Permit: Send + Sync {
    /// Success lets the binding cycle begin.
    fn permit(&self, state: &CycleState, pod: &Pod, node: &str) -> Status;
}

/// Runs at the start of the binding cycle, for work that takes time.
#[async_trait]
pub trait PreBind: Send + Sync {
    /// Success lets the pod be bound.
    async fn pre_bind(&self, state: &CycleState, pod: &Pod, node: &str) -> Status;
}

/// Tells the API server.
#[async_trait]
pub trait Bind: Send + Sync {
    /// `Skip` leaves the work to the next plugin.
    async fn bind(&self, client: &kube::Client, pod: &Pod, node: &str) -> Status;
}

/// Runs after the pod is bound.
pub trait PostBind: Send + Sync {
    /// Information only.
    fn post_bind(&self, pod: &Pod, node: &str);
}
