//! ImageLocality: nodes that have the pod's images already score better, by their size.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use crate::framework::{ClusterEvent, CycleState, EventSet, Hint, NODE_SCORE_MAX, Plugin, PreScore, Score, Sign, Signer, Status};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use crate::snapshot::Snapshot;

pub(super) struct ImageLocality;

/// Less than this is fetched soon enough: it does not count.
const BYTES_MIN: i64 = 23 << 20;
/// More than this a container does not count more.
const BYTES_MAX_PER_CONTAINER: i64 = 1000 << 20;

/// For each of the pod's images: its name, and the share of nodes that have it (so that one node does not draw all pods).
#[derive(Clone)]
struct Spread(Vec<(String, f64)>);

/// The name as nodes report it: with a tag.
fn with_tag(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    if last.contains(':') || last.contains('@') { image.to_owned() } else { format!("{image}:latest") }
}

/// The images of all containers as nodes name them; one that several have counts for each.
fn images(pod: &Pod) -> impl Iterator<Item = String> {
    let containers = pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers));
    containers.filter_map(|container| container.image.as_deref()).map(with_tag)
}

impl Plugin for ImageLocality {
    fn name(&self) -> &'static str {
        "ImageLocality"
    }

    fn events(&self) -> EventSet {
        EventSet::NONE
    }

    /// It never rejects a pod.
    fn hint(&self, _pod: &PodInfo, _event: &ClusterEvent) -> Hint {
        Hint::Skip
    }

    fn as_pre_score(&self) -> Option<&dyn PreScore> {
        Some(self)
    }

    fn as_score(&self) -> Option<&dyn Score> {
        Some(self)
    }

    fn as_sign(&self) -> Option<&dyn Sign> {
        Some(self)
    }
}

impl Sign for ImageLocality {
    fn sign(&self, pod: &PodInfo, signer: &mut Signer) {
        signer.add("v1.Pod.Spec.CanonicalImageNames()", || Ok(images(&pod.pod).collect::<Vec<_>>()));
    }
}

impl PreScore for ImageLocality {
    fn pre_score(&self, state: &mut CycleState, pod: &Pod, _nodes: &[Arc<NodeInfo>], snapshot: &Snapshot) -> Status {
        let spread: Vec<(String, f64)> = images(pod)
            .map(|image| {
                let having = snapshot.nodes_with_image(&image);
                (image, having as f64 / snapshot.len().max(1) as f64)
            })
            .collect();
        // Where nobody has any, all are equal.
        if spread.iter().all(|(_, share)| *share == 0.0) {
            return Status::skip();
        }
        state.put(Spread(spread));
        Status::success()
    }
}

impl Score for ImageLocality {
    fn score(&self, state: &CycleState, _pod: &Pod, node: &NodeInfo) -> i64 {
        let Some(Spread(images)) = state.get() else { return 0 };
        let bytes: i64 =
            images.iter().filter_map(|(image, spread)| Some((*node.images.get(image)? as f64 * spread) as i64)).sum();
        let most = BYTES_MAX_PER_CONTAINER * i64::try_from(images.len().max(1)).unwrap_or(1);
        NODE_SCORE_MAX * (bytes.clamp(BYTES_MIN, most) - BYTES_MIN) / (most - BYTES_MIN)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plugins::testing::{node, pod, scores};

    #[test]
    fn the_node_with_the_image_scores_better() {
        let with = |images: serde_json::Value| node(json!({"metadata": {"name": "n"}, "status": {"images": images}}));
        let large = json!([{"names": ["registry/big:latest"], "sizeBytes": 2_000_000_000u64}]);
        let small = json!([{"names": ["registry/big:latest"], "sizeBytes": 1_000_000}]);
        let pod = pod(json!({"containers": [{"name": "c", "image": "registry/big"}]}));
        // Half of the nodes have it: half of its size counts.
        assert_eq!(scores(&ImageLocality, &pod, vec![with(large.clone()), with(json!([]))]), [95, 0]);
        assert_eq!(scores(&ImageLocality, &pod, vec![with(small)]), [0]);
        assert_eq!(scores(&ImageLocality, &pod, vec![with(large)]), [100]);
    }
}
