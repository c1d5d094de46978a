//! NodeResourcesFit: a pod fits where its requests do; nodes with more left score better (or worse, as the scoring strategy has it).

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};

use super::scoring::{Strategy, StrategyArgs};
use crate::config::ConfigError;
use crate::framework::{
    ClusterEvent, Code, CycleState, EventSet, Filter, Hint, Plugin, PreFilter, PreScore, Score, Sign, Signer, Status,
};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use crate::resource::{PodRequest, Resources, pod_request};
use crate::snapshot::Snapshot;

/// The plugin's arguments (NodeResourcesFitArgs).
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Args {
    ignored_resources: BTreeSet<String>,
    ignored_resource_groups: BTreeSet<String>,
    scoring_strategy: StrategyArgs,
}

pub(super) struct Fit {
    strategy: Strategy,
    ignored: BTreeSet<String>,
    ignored_groups: BTreeSet<String>,
}

impl Fit {
    pub(super) fn with_args(args: Args) -> Result<Self, ConfigError> {
        let strategy = Strategy::new(&args.scoring_strategy)?;
        Ok(Self { strategy, ignored: args.ignored_resources, ignored_groups: args.ignored_resource_groups })
    }

    /// The request without the extended resources that are left to somebody else.
    fn without_ignored(&self, mut request: PodRequest) -> PodRequest {
        let group = |name: &str| name.split_once('/').is_some_and(|(group, _)| self.ignored_groups.contains(group));
        request.requested.scalars.retain(|name, _| !self.ignored.contains(name) && !group(name));
        request
    }
}

/// The resources that do not fit, in upstream's words.
fn shortages(requested: &Resources, node: &NodeInfo) -> Vec<Cow<'static, str>> {
    let mut found = Vec::new();
    if i64::try_from(node.pod_count()).unwrap_or(i64::MAX) >= node.allocatable.pods {
        found.push(Cow::Borrowed("Too many pods"));
    }
    let short = |wanted: i64, allocatable: i64, used: i64| wanted > 0 && wanted > allocatable.saturating_sub(used);
    let (have, used) = (&node.allocatable, &node.requested);
    if short(requested.milli_cpu, have.milli_cpu, used.milli_cpu) {
        found.push(Cow::Borrowed("Insufficient cpu"));
    }
    if short(requested.memory_bytes, have.memory_bytes, used.memory_bytes) {
        found.push(Cow::Borrowed("Insufficient memory"));
    }
    if short(requested.ephemeral_bytes, have.ephemeral_bytes, used.ephemeral_bytes) {
        found.push(Cow::Borrowed("Insufficient ephemeral-storage"));
    }
    for (name, wanted) in &requested.scalars {
        let amount = |resources: &Resources| resources.scalars.get(name).copied().unwrap_or_default();
        if short(*wanted, amount(have), amount(used)) {
            found.push(Cow::Owned(format!("Insufficient {name}")));
        }
    }
    found
}

/// Whether a node could have become one that the pod fits on: it has room for the request when empty, and more of something asked for.
fn has_more(requested: &Resources, before: &Resources, after: &Resources) -> bool {
    let more = |wanted: i64, before: i64, after: i64| wanted > 0 && after > before;
    let amount = |resources: &Resources, name: &str| resources.scalars.get(name).copied().unwrap_or_default();
    after.pods > before.pods
        || more(requested.milli_cpu, before.milli_cpu, after.milli_cpu)
        || more(requested.memory_bytes, before.memory_bytes, after.memory_bytes)
        || more(requested.ephemeral_bytes, before.ephemeral_bytes, after.ephemeral_bytes)
        || requested.scalars.iter().any(|(name, wanted)| more(*wanted, amount(before, name), amount(after, name)))
}

/// Whether less is asked for of anything that the pod asks for.
fn asks_less(requested: &Resources, before: &Resources, after: &Resources) -> bool {
    // The same question with the roles exchanged; `pods` is not part of a request.
    has_more(requested, after, before)
}

fn allocatable(node: &Node) -> Resources {
    node.status.as_ref().and_then(|status| status.allocatable.as_ref()).map(Resources::from_list).unwrap_or_default()
}

/// Whether the pod could fit on the node if it were empty: if not, removing pods does not help.
fn fits_empty(requested: &Resources, allocatable: &Resources) -> bool {
    requested.milli_cpu <= allocatable.milli_cpu
        && requested.memory_bytes <= allocatable.memory_bytes
        && requested.ephemeral_bytes <= allocatable.ephemeral_bytes
        && requested.scalars.iter().all(|(name, wanted)| *wanted <= allocatable.scalars.get(name).copied().unwrap_or_default())
}

impl Plugin for Fit {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }

    fn events(&self) -> EventSet {
        EventSet::ASSIGNED_UPDATE
            .and(EventSet::ASSIGNED_DELETE)
            .and(EventSet::OWN)
            .and(EventSet::NODE_ADD)
            .and(EventSet::NODE_UPDATE)
    }

    fn hint(&self, info: &PodInfo, event: &ClusterEvent) -> Hint {
        let requested = &info.request.requested;
        match event {
            ClusterEvent::AssignedPod { old: Some(_), new: None } => Hint::Queue,
            // A resize of the pod itself, or of one on a node.
            ClusterEvent::UnscheduledPod { old, new } | ClusterEvent::AssignedPod { old: Some(old), new: Some(new) } => {
                let (before, after) = (pod_request(old).requested, pod_request(new).requested);
                let own = matches!(event, ClusterEvent::UnscheduledPod { .. });
                Hint::queue_if(asks_less(if own { &before } else { requested }, &before, &after))
            }
            ClusterEvent::Node { old, new } => {
                let after = allocatable(new);
                let fits = after.pods > 0 && fits_empty(requested, &after);
                Hint::queue_if(fits && old.as_ref().is_none_or(|old| has_more(requested, &allocatable(old), &after)))
            }
            _ => Hint::Skip,
        }
    }

    fn as_pre_filter(&self) -> Option<&dyn PreFilter> {
        Some(self)
    }

    fn as_filter(&self) -> Option<&dyn Filter> {
        Some(self)
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

impl Sign for Fit {
    fn sign(&self, pod: &PodInfo, signer: &mut Signer) {
        signer.requests(pod);
    }
}

impl PreFilter for Fit {
    fn pre_filter(&self, state: &mut CycleState, _pod: &Pod, _snapshot: &Snapshot) -> (Status, Option<Vec<String>>) {
        state.put(self.without_ignored(state.pod().request.clone()));
        (Status::success(), None)
    }
}

impl Filter for Fit {
    fn filter(&self, state: &CycleState, _pod: &Pod, node: &NodeInfo) -> Status {
        let Some(PodRequest { requested, .. }) = state.get() else { return Status::success() };
        let shortages = shortages(requested, node);
        if shortages.is_empty() {
            return Status::success();
        }
        let code =
            if fits_empty(requested, &node.allocatable) { Code::Unschedulable } else { Code::UnschedulableAndUnresolvable };
        Status::new(code, shortages)
    }
}

impl PreScore for Fit {
    fn pre_score(&self, state: &mut CycleState, _pod: &Pod, _nodes: &[Arc<NodeInfo>], _snapshot: &Snapshot) -> Status {
        if state.get::<PodRequest>().is_none() {
            state.put(state.pod().request.clone());
        }
        Status::success()
    }
}

impl Score for Fit {
    fn score(&self, state: &CycleState, _pod: &Pod, node: &NodeInfo) -> i64 {
        state.get::<PodRequest>().map_or(0, |request| self.strategy.score(request, node))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::plugins::testing::{info, node, pod, scores, state};

    fn fit() -> Fit {
        Fit::with_args(Args::default()).unwrap()
    }

    fn machine(allocatable: Value) -> NodeInfo {
        node(json!({"metadata": {"name": "n"}, "status": {"allocatable": allocatable}}))
    }

    fn wants(requests: Value) -> Pod {
        pod(json!({"containers": [{"name": "c", "resources": {"requests": requests}}]}))
    }

    #[test]
    fn every_shortage_is_named() {
        let check = |requests: Value, expected: &[&str], code: Code| {
            let mut on = machine(json!({"cpu": "1", "memory": "1Gi", "pods": "2", "example.com/gpu": "1"}));
            on.add_pod(&info(wants(json!({"cpu": "600m", "memory": "512Mi"}))));
            let pod = wants(requests);
            let mut state = state(&pod);
            fit().pre_filter(&mut state, &pod, &Snapshot::default());
            let status = fit().filter(&state, &pod, &on);
            assert_eq!(
                (status.reasons(), status.code()),
                (&*expected.iter().map(|text| Cow::from(text.to_string())).collect::<Vec<_>>(), code)
            );
        };
        check(json!({"cpu": "400m", "memory": "512Mi"}), &[], Code::Success);
        check(json!({"cpu": "401m"}), &["Insufficient cpu"], Code::Unschedulable);
        check(
            json!({"cpu": "2", "memory": "2Gi"}),
            &["Insufficient cpu", "Insufficient memory"],
            Code::UnschedulableAndUnresolvable,
        );
        check(json!({"example.com/gpu": "1"}), &[], Code::Success);
        check(json!({"example.com/gpu": "2"}), &["Insufficient example.com/gpu"], Code::UnschedulableAndUnresolvable);
        check(json!({"example.com/none": "1"}), &["Insufficient example.com/none"], Code::UnschedulableAndUnresolvable);
    }

    #[test]
    fn the_number_of_pods_is_limited() {
        let mut on = machine(json!({"pods": "1"}));
        on.add_pod(&info(wants(json!({}))));
        assert_eq!(shortages(&Resources::default(), &on), ["Too many pods"]);
    }

    #[test]
    fn the_emptier_node_scores_better() {
        let empty = machine(json!({"cpu": "2", "memory": "4Gi", "pods": "9"}));
        let mut half = empty.clone();
        half.add_pod(&info(wants(json!({"cpu": "1", "memory": "2Gi"}))));
        let pod = wants(json!({"cpu": "1", "memory": "2Gi"}));
        assert_eq!(scores(&fit(), &pod, vec![empty, half]), [50, 0]);
    }

    #[test]
    fn only_room_that_the_pod_needs_wakes_it() {
        let typed = |object: Value| Arc::new(serde_json::from_value::<Node>(object).unwrap());
        let machine = |cpu: &str, memory: &str| {
            typed(json!({"metadata": {"name": "n"}, "status": {"allocatable": {"cpu": cpu, "memory": memory, "pods": "9"}}}))
        };
        let waiting = info(wants(json!({"cpu": "1"})));
        let check = |event: ClusterEvent, expected: Hint| assert_eq!(fit().hint(&waiting, &event), expected, "{event:?}");
        let node = |old, new| ClusterEvent::Node { old, new };
        check(node(None, machine("1", "1Gi")), Hint::Queue);
        check(node(None, machine("500m", "1Gi")), Hint::Skip);
        check(node(Some(machine("500m", "1Gi")), machine("2", "1Gi")), Hint::Queue);
        check(node(Some(machine("2", "1Gi")), machine("2", "2Gi")), Hint::Skip);
        let on_node = |requests: Value| Some(Arc::new(wants(requests)));
        let assigned = |old, new| ClusterEvent::AssignedPod { old, new };
        check(assigned(on_node(json!({"cpu": "2"})), None), Hint::Queue);
        check(assigned(on_node(json!({"cpu": "2"})), on_node(json!({"cpu": "1"}))), Hint::Queue);
        check(assigned(on_node(json!({"cpu": "1"})), on_node(json!({"cpu": "2"}))), Hint::Skip);
        check(assigned(on_node(json!({"memory": "2Gi"})), on_node(json!({"memory": "1Gi"}))), Hint::Skip);
    }
}
