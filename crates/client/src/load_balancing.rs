//! What load balancers of Services go by: which nodes may carry traffic from outside, and where a Service's endpoints are.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;

/// Keeps a node out of load balancers (<https://kubernetes.io/docs/reference/labels-annotations-taints/>).
const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// Upstream's condition for a node behind a load balancer: ready, not being deleted, not left out.
pub fn may_carry(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let ready = conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True");
    ready && node.metadata.deletion_timestamp.is_none() && !node.labels().contains_key(EXCLUDED)
}

/// The nodes with endpoints of these slices that are ready, or do not say.
pub fn endpoint_nodes(slices: &[Arc<EndpointSlice>]) -> BTreeSet<String> {
    let endpoints = slices.iter().flat_map(|slice| &slice.endpoints);
    let ready = endpoints.filter(|endpoint| endpoint.conditions.as_ref().and_then(|c| c.ready) != Some(false));
    ready.filter_map(|endpoint| endpoint.node_name.clone()).collect()
}
