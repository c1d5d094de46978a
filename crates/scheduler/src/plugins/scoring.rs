//! The scoring strategies of NodeResourcesFit
//! (<https://kubernetes.io/docs/concepts/scheduling-eviction/resource-bin-packing/>).

use serde::Deserialize;

use crate::config::ConfigError;
use crate::framework::NODE_SCORE_MAX;
use crate::node_info::NodeInfo;
use crate::resource::PodRequest;

/// `scoringStrategy`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct StrategyArgs {
    #[serde(rename = "type")]
    kind: Option<String>,
    resources: Vec<WeightedResource>,
    requested_to_capacity_ratio: Option<Ratio>,
}

/// A resource that counts, and how much.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WeightedResource {
    name: String,
    #[serde(default = "one")]
    weight: i64,
}

fn one() -> i64 {
    1
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ratio {
    shape: Vec<ShapePoint>,
}

/// The score (0 to 10) at a utilization (0 to 100 percent).
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ShapePoint {
    utilization: i64,
    score: i64,
}

enum Kind {
    LeastAllocated,
    MostAllocated,
    /// Straight lines between points: utilization in percent, score up to 100.
    RequestedToCapacityRatio(Vec<(i64, i64)>),
}

/// A strategy, checked.
pub(super) struct Strategy {
    kind: Kind,
    resources: Vec<WeightedResource>,
}

impl Strategy {
    pub(super) fn new(args: &StrategyArgs) -> Result<Self, ConfigError> {
        let mut resources = args.resources.clone();
        if resources.is_empty() {
            resources = ["cpu", "memory"].map(|name| WeightedResource { name: name.to_owned(), weight: 1 }).to_vec();
        }
        for resource in resources.iter_mut() {
            if resource.weight == 0 {
                resource.weight = 1;
            }
            if !(1..=100).contains(&resource.weight) {
                let path = format!("scoringStrategy.resources[{}].weight", resource.name);
                return Err(ConfigError::invalid(path, resource.weight, "not in valid range [1-100]"));
            }
        }
        let kind = match args.kind.as_deref() {
            None | Some("LeastAllocated") => Kind::LeastAllocated,
            Some("MostAllocated") => Kind::MostAllocated,
            Some("RequestedToCapacityRatio") => Kind::RequestedToCapacityRatio(shape(args.requested_to_capacity_ratio.as_ref())?),
            Some(other) => {
                let reason = "supported values: \"LeastAllocated\", \"MostAllocated\", \"RequestedToCapacityRatio\"";
                return Err(ConfigError::invalid("scoringStrategy.type", other, reason));
            }
        };
        Ok(Self { kind, resources })
    }

    /// The weighted mean over the resources that the node has.
    pub(super) fn score(&self, request: &PodRequest, node: &NodeInfo) -> i64 {
        let (mut sum, mut weights) = (0, 0);
        for resource in &self.resources {
            let Some((capacity, used)) = amounts(&resource.name, request, node) else { continue };
            let score = self.kind.score(capacity, used);
            if matches!(self.kind, Kind::RequestedToCapacityRatio(_)) && score <= 0 {
                continue;
            }
            sum += score * resource.weight;
            weights += resource.weight;
        }
        match self.kind {
            _ if weights == 0 => 0,
            Kind::RequestedToCapacityRatio(_) => (sum as f64 / weights as f64).round() as i64,
            _ => sum / weights,
        }
    }
}

/// What the node has, and what would be in use with the pod; none for what the node does not have or the pod does not ask for.
fn amounts(name: &str, request: &PodRequest, node: &NodeInfo) -> Option<(i64, i64)> {
    let (capacity, used) = match name {
        "cpu" => (node.allocatable.milli_cpu, node.scored.milli_cpu + request.scored.milli_cpu),
        "memory" => (node.allocatable.memory_bytes, node.scored.memory_bytes + request.scored.memory_bytes),
        "ephemeral-storage" => {
            (node.allocatable.ephemeral_bytes, node.requested.ephemeral_bytes + request.requested.ephemeral_bytes)
        }
        name => {
            let wanted = request.requested.scalars.get(name).copied().filter(|wanted| *wanted > 0)?;
            let used = node.requested.scalars.get(name).copied().unwrap_or_default();
            (node.allocatable.scalars.get(name).copied().unwrap_or_default(), used + wanted)
        }
    };
    (capacity > 0).then_some((capacity, used))
}

impl Kind {
    fn score(&self, capacity: i64, used: i64) -> i64 {
        match self {
            Self::LeastAllocated if used > capacity => 0,
            Self::LeastAllocated => (capacity - used) * NODE_SCORE_MAX / capacity,
            Self::MostAllocated => used.min(capacity) * NODE_SCORE_MAX / capacity,
            Self::RequestedToCapacityRatio(shape) => on_line(shape, if used > capacity { 100 } else { used * 100 / capacity }),
        }
    }
}

fn on_line(shape: &[(i64, i64)], at: i64) -> i64 {
    let Some(next) = shape.iter().position(|(utilization, _)| at <= *utilization) else {
        return shape.last().map_or(0, |(_, score)| *score);
    };
    let (x, y) = shape[next];
    match next.checked_sub(1).map(|before| shape[before]) {
        Some((x0, y0)) => y0 + (y - y0) * (at - x0) / (x - x0),
        None => y,
    }
}

fn shape(ratio: Option<&Ratio>) -> Result<Vec<(i64, i64)>, ConfigError> {
    let path = "scoringStrategy.requestedToCapacityRatio.shape";
    let points = ratio.map(|ratio| ratio.shape.as_slice()).unwrap_or_default();
    if points.is_empty() {
        return Err(ConfigError::invalid(path, "[]", "at least one point must be specified"));
    }
    for pair in points.windows(2) {
        if pair[1].utilization <= pair[0].utilization {
            return Err(ConfigError::invalid(path, pair[1].utilization, "utilization values must be sorted in increasing order"));
        }
    }
    for point in points {
        if !(0..=100).contains(&point.utilization) || !(0..=10).contains(&point.score) {
            let value = format!("{}: {}", point.utilization, point.score);
            return Err(ConfigError::invalid(path, value, "utilization not in valid range [0-100] or score not in [0-10]"));
        }
    }
    // Ten points are worth the hundred of a node's score.
    Ok(points.iter().map(|point| (point.utilization, point.score * 10)).collect())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;
    use crate::plugins::testing::{info, node, pod};

    fn score(strategy: Value, cpu: &str) -> i64 {
        let args: StrategyArgs = serde_json::from_value(strategy).unwrap();
        let allocatable = json!({"cpu": "4", "memory": "4Gi", "example.com/gpu": "4"});
        let node = node(json!({"metadata": {"name": "n"}, "status": {"allocatable": allocatable}}));
        let requests = json!({"cpu": cpu, "memory": "1Gi", "example.com/gpu": "3"});
        let pod = info(pod(json!({"containers": [{"name": "c", "resources": {"requests": requests}}]})));
        Strategy::new(&args).unwrap().score(&Arc::unwrap_or_clone(pod).request, &node)
    }

    #[test]
    fn strategies() {
        let check = |strategy: Value, cpu: &str, expected: i64| assert_eq!(score(strategy.clone(), cpu), expected, "{strategy}");
        check(json!({}), "2", (50 + 75) / 2);
        check(json!({"type": "MostAllocated"}), "2", (50 + 25) / 2);
        check(json!({"type": "MostAllocated", "resources": [{"name": "example.com/gpu", "weight": 5}]}), "2", 75);
        let shape = json!({"shape": [{"utilization": 0, "score": 0}, {"utilization": 100, "score": 10}]});
        let ratio =
            json!({"type": "RequestedToCapacityRatio", "requestedToCapacityRatio": shape, "resources": [{"name": "cpu"}]});
        check(ratio, "1", 25);
    }
}
