//! Upstream's feature gates that this server has code for both ways.

/// Which features are on. Upstream's flag is `--feature-gates`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeatureGates {
    /// `CBORServingAndStorage`: CBOR is spoken.
    pub cbor: bool,
    /// `WatchList`: a watch can begin with what is there.
    pub watch_list: bool,
    /// `MaxUnavailableStatefulSet`: a StatefulSet may say how many of its pods may be missing during an update.
    pub max_unavailable_stateful_set: bool,
    /// `ClearingNominatedNodeNameAfterBinding`: a pod that is bound is nominated no longer.
    pub clearing_nominated_node_name: bool,
    /// `DeploymentReplicaSetTerminatingReplicas`: `status.terminatingReplicas` of deployments and replica sets.
    pub terminating_replicas: bool,
}

impl Default for FeatureGates {
    /// As in upstream's v1.35.
    fn default() -> FeatureGates {
        FeatureGates {
            cbor: false,
            watch_list: true,
            max_unavailable_stateful_set: false,
            clearing_nominated_node_name: true,
            terminating_replicas: true,
        }
    }
}
