//! The scheduling framework: the points at which plugins take part in placing a pod, and what they answer (KEP-624).

mod event;
mod gangs;
mod handle;
mod points;
mod profile;
mod release;
mod signature;
mod state;
mod status;
mod waiting;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Pod;

pub(crate) use event::Worth;
pub use event::{ClusterEvent, EventSet, Hint, Transition};
pub(crate) use gangs::{Group, workload_reference};
pub use handle::{Handle, Listers};
pub(crate) use points::{POINTS, Point, Points, implements};
pub use profile::Profile;
pub(crate) use profile::{FilterOutcome, PreFiltered, Unreserve};
pub(crate) use release::ClaimRelease;
pub(crate) use signature::{Sign, Signature, Signer, terms, weighted_terms};
pub use state::CycleState;
pub use status::{Code, Status};
pub(crate) use waiting::Wait;

use crate::extender::Extender;
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use crate::snapshot::Snapshot;

/// The best score of a node at one plugin; the worst is 0.
pub(crate) const NODE_SCORE_MAX: i64 = 100;

/// A plugin: a name, and the extension points that it implements. Each `as_*` answers `None` unless overridden.
pub trait Plugin: Send + Sync + 'static {
    /// Upstream's name.
    fn name(&self) -> &'static str;

    /// The kinds of events that can help a pod that this plugin rejected: others cost nothing.
    fn events(&self) -> EventSet;

    /// Whether an event may help a pod that this plugin rejected. Asked only for rejected pods and events of those kinds.
    fn hint(&self, pod: &PodInfo, event: &ClusterEvent) -> Hint;

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
    /// What a pod's signature has to hold for this plugin. Needed of those with one of the points so far but the first.
    fn as_sign(&self) -> Option<&dyn Sign> {
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
    fn pre_filter(&self, state: &mut CycleState, pod: &Pod, snapshot: &Snapshot) -> (Status, Option<Vec<String>>);

    /// What if another pod ran on the node too? Changes `state` accordingly.
    fn add_pod(&self, _state: &mut CycleState, _pod: &Pod, _other: &PodInfo, _node: &NodeInfo) {}

    /// What if another pod did not run on the node? Changes `state` accordingly.
    fn remove_pod(&self, _state: &mut CycleState, _pod: &Pod, _other: &PodInfo, _node: &NodeInfo) {}
}

/// Runs for each node: can the pod run there?
pub trait Filter: Send + Sync {
    /// Success lets the node stay.
    fn filter(&self, state: &CycleState, pod: &Pod, node: &NodeInfo) -> Status;
}

/// Why a pod fits nowhere, for PostFilter.
pub struct Misfit<'a> {
    /// The profile that the pod is scheduled with.
    pub(crate) profile: &'a Profile,
    /// All nodes.
    pub(crate) snapshot: &'a Snapshot,
    /// The nodes that a filter looked at, and what it said.
    pub(crate) rejected: &'a [(Arc<NodeInfo>, Status)],
    /// What holds for the nodes that no filter looked at.
    pub(crate) others: Status,
    /// They may have a say in preemption.
    pub(crate) extenders: &'a [Arc<dyn Extender>],
}

impl Misfit<'_> {
    /// What was said of a node.
    pub(crate) fn status(&self, node: &str) -> &Status {
        self.rejected.iter().find(|(known, _)| known.name() == node).map_or(&self.others, |(_, status)| status)
    }
}

/// Pods that must go, so that another gets their room.
#[derive(Clone, Debug)]
pub(crate) struct Eviction {
    /// Where.
    pub(crate) node: String,
    /// Who, the most important first.
    pub(crate) victims: Vec<Arc<PodInfo>>,
}

/// What a PostFilter found.
#[derive(Clone, Debug, Default)]
pub struct Remedy {
    /// The node to nominate; empty to withdraw a nomination; `None` to leave it.
    pub(crate) nominate: Option<String>,
    /// Who has to go first. The scheduler carries it out after the cycle.
    pub(crate) eviction: Option<Eviction>,
}

/// Runs when no node was left.
pub trait PostFilter: Send + Sync {
    /// May find a way to make room.
    fn post_filter(&self, state: &CycleState, pod: &Pod, misfit: &Misfit<'_>) -> (Status, Remedy);
}

/// Runs once, before the feasible nodes are scored.
pub trait PreScore: Send + Sync {
    /// Prepares `state`. `Skip` leaves this plugin's Score out of the cycle.
    fn pre_score(&self, state: &mut CycleState, pod: &Pod, nodes: &[Arc<NodeInfo>], snapshot: &Snapshot) -> Status;
}

/// Runs for each feasible node: how good is it?
pub trait Score: Send + Sync {
    /// A score; any range, if `normalize` brings it to 0..=100.
    fn score(&self, state: &CycleState, pod: &Pod, node: &NodeInfo) -> i64;

    /// Brings the scores of all nodes, in the order of `nodes`, to 0..=100.
    fn normalize(&self, _state: &CycleState, _nodes: &[Arc<NodeInfo>], _scores: &mut [i64]) {}
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
    /// Success lets the binding cycle begin; `Wait` makes it wait, for so long at most, until the plugin allows it.
    fn permit(&self, state: &CycleState, pod: &Pod, node: &str) -> (Status, Duration);
}

/// Runs at the start of the binding cycle, for work that takes time.
#[async_trait]
pub trait PreBind: Send + Sync {
    /// Whether there will be anything to do: `Skip` leaves the plugin out, and a pod that no plugin holds up is bound at once.
    fn pre_flight(&self, state: &CycleState, pod: &Pod, node: &str) -> Status;

    /// Success lets the pod be bound.
    async fn pre_bind(&self, client: &kube::Client, state: &CycleState, pod: &Pod, node: &str) -> Status;
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

/// Stands among the plugins that rejected a pod for any extender (upstream's framework.ExtenderName).
pub(crate) const EXTENDER: &str = "Extender";
