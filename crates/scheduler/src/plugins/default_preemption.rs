//! DefaultPreemption: when a pod fits nowhere, looks for the node where the least would have to go for it
//! (<https://kubernetes.io/docs/concepts/scheduling-eviction/pod-priority-preemption/>).
//!
//! Only decides. The scheduler evicts the victims after the cycle (KEP-4832), and the pod is not tried again before they are told.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use rand::Rng;

use crate::config::ConfigError;
use crate::cycle::misfit_message;
use crate::extender::Victims;
use crate::framework::{
    ClusterEvent, Code, CycleState, EventSet, Eviction, Handle, Hint, Misfit, Plugin, PostFilter, PreEnqueue, Remedy, Status,
};
use crate::label_selector::Selector;
use crate::node_info::NodeInfo;
use crate::pod_info::{PodInfo, priority};

/// The plugin's arguments (DefaultPreemptionArgs).
#[derive(Clone, Copy, Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Args {
    /// So many percent of the nodes are enough candidates.
    pub(crate) min_candidate_nodes_percentage: usize,
    /// So many candidates are wanted at least.
    pub(crate) min_candidate_nodes_absolute: usize,
}

impl Default for Args {
    fn default() -> Self {
        Self { min_candidate_nodes_percentage: 10, min_candidate_nodes_absolute: 100 }
    }
}

pub(super) struct DefaultPreemption {
    handle: Arc<Handle>,
    args: Args,
}

/// A node with what would have to go.
struct Candidate {
    node: String,
    victims: Victims,
}

impl DefaultPreemption {
    pub(super) fn with_args(handle: &Arc<Handle>, args: Args) -> Result<Self, ConfigError> {
        if args.min_candidate_nodes_percentage > 100 {
            let value = args.min_candidate_nodes_percentage;
            return Err(ConfigError::invalid("minCandidateNodesPercentage", value, "not in valid range [0-100]"));
        }
        Ok(Self { handle: Arc::clone(handle), args })
    }

    /// The candidates, those that break no budget first, and what stands against the other nodes that were looked at.
    fn candidates(&self, state: &CycleState, pod: &Pod, misfit: &Misfit<'_>) -> (Vec<Candidate>, Vec<(String, Status)>) {
        let helpful = |node: &&Arc<NodeInfo>| misfit.status(node.name()).code() == Code::Unschedulable;
        let explicit: Vec<_> = if misfit.others.code() == Code::Unschedulable {
            misfit.snapshot.nodes().iter().filter(helpful).collect()
        } else {
            let rejected = misfit.rejected.iter().filter(|(_, status)| status.code() == Code::Unschedulable);
            rejected.map(|(node, _)| node).collect()
        };
        let (mut free, mut violating, mut against) = (Vec::new(), Vec::new(), Vec::new());
        if explicit.is_empty() {
            return (free, against);
        }
        let budgets: Vec<_> = self
            .handle
            .listers
            .budgets
            .list()
            .into_iter()
            .map(|b| (Selector::new(b.spec.as_ref().and_then(|s| s.selector.as_ref())), b))
            .collect();
        let wanted = (explicit.len() * self.args.min_candidate_nodes_percentage / 100)
            .max(self.args.min_candidate_nodes_absolute)
            .min(explicit.len());
        // Not always the same nodes first: they would lose all their pods.
        let offset = self.handle.random.lock().random_range(0..explicit.len());
        for index in 0..explicit.len() {
            let node = explicit[(offset + index) % explicit.len()];
            match victims_on(misfit, state.clone(), pod, node, &budgets) {
                Ok(victims) => {
                    let violations = victims.violations;
                    let candidate = Candidate { node: node.name().to_owned(), victims };
                    if violations == 0 { &mut free } else { &mut violating }.push(candidate);
                    if !free.is_empty() && free.len() + violating.len() >= wanted {
                        break;
                    }
                }
                Err(status) => against.push((node.name().to_owned(), status)),
            }
        }
        free.append(&mut violating);
        (free, against)
    }

    fn find(&self, state: &CycleState, pod: &Pod, misfit: &Misfit<'_>) -> (Status, Remedy) {
        if let Some(reason) = ineligible(pod, misfit) {
            return (Status::new(Code::Unschedulable, [reason]), Remedy::default());
        }
        let (candidates, against) = self.candidates(state, pod, misfit);
        if let Some((_, error)) = against.iter().find(|(_, status)| candidates.is_empty() && status.code() == Code::Error) {
            return (error.clone(), Remedy::default());
        }
        if candidates.is_empty() {
            let not_helpful = "Preemption is not helpful for scheduling";
            let against = against.iter().map(|(_, status)| status);
            let message = misfit_message(against, &[not_helpful.into()], misfit.snapshot.len());
            let remedy = Remedy { nominate: Some(String::new()), eviction: None };
            return (Status::new(Code::Unschedulable, [message]), remedy);
        }
        let candidates = match ask_extenders(pod, misfit, candidates) {
            Ok(candidates) => candidates,
            Err(reason) => return (Status::new(Code::Error, [reason]), Remedy::default()),
        };
        match candidates.into_iter().max_by(|a, b| preference(a).cmp(&preference(b))) {
            None => (Status::new(Code::Unschedulable, ["no candidate node for preemption"]), Remedy::default()),
            Some(best) => {
                let eviction = Eviction { node: best.node.clone(), victims: best.victims.pods };
                (Status::success(), Remedy { nominate: Some(best.node), eviction: Some(eviction) })
            }
        }
    }
}

/// Lets the extenders that have a say in preemption take candidates away, or choose other victims.
fn ask_extenders(pod: &Pod, misfit: &Misfit<'_>, candidates: Vec<Candidate>) -> Result<Vec<Candidate>, String> {
    let mut extenders = misfit.extenders.iter().filter(|one| one.is_preemptor() && one.is_interested(pod)).peekable();
    if extenders.peek().is_none() {
        return Ok(candidates);
    }
    let mut left: BTreeMap<String, Victims> = candidates.into_iter().map(|one| (one.node, one.victims)).collect();
    for extender in extenders {
        let mut victims = match extender.preempt(pod, &left, &|name| misfit.snapshot.get(name).cloned()) {
            Ok(victims) => victims,
            Err(_) if extender.is_ignorable() => continue,
            Err(error) => return Err(error),
        };
        if extender.is_ignorable() {
            victims.retain(|_, victims| !victims.pods.is_empty());
        } else if let Some((node, _)) = victims.iter().find(|(_, victims)| victims.pods.is_empty()) {
            return Err(format!("expected at least one victim pod on node {node:?}"));
        }
        left = victims;
        if left.is_empty() {
            break;
        }
    }
    Ok(left.into_iter().map(|(node, victims)| Candidate { node, victims }).collect())
}

/// Why the pod may not preempt now.
fn ineligible(pod: &Pod, misfit: &Misfit<'_>) -> Option<&'static str> {
    if pod.spec.as_ref().and_then(|spec| spec.preemption_policy.as_deref()) == Some("Never") {
        return Some("not eligible due to preemptionPolicy=Never.");
    }
    let nominated = pod.status.as_ref().and_then(|status| status.nominated_node_name.as_deref()).unwrap_or_default();
    // A nominated node that can no longer do is no reason to wait for it.
    if nominated.is_empty() || misfit.status(nominated).code() == Code::UnschedulableAndUnresolvable {
        return None;
    }
    let leaving = |other: &Arc<PodInfo>| other.priority() < priority(pod) && is_being_preempted(&other.pod);
    misfit
        .snapshot
        .get(nominated)?
        .pods()
        .iter()
        .any(leaving)
        .then_some("not eligible due to a terminating pod on the nominated node.")
}

fn is_being_preempted(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    pod.metadata.deletion_timestamp.is_some()
        && conditions.iter().any(|condition| {
            condition.type_ == "DisruptionTarget"
                && condition.status == "True"
                && condition.reason.as_deref() == Some("PreemptionByScheduler")
        })
}

/// More important pods first: by priority, then by how long they run.
fn importance(pod: &PodInfo) -> (Reverse<i32>, Timestamp) {
    (Reverse(pod.priority()), start_time(pod))
}

fn start_time(pod: &PodInfo) -> Timestamp {
    pod.pod.status.as_ref().and_then(|status| status.start_time.as_ref()).map_or(Timestamp::MAX, |time| time.0)
}

/// What is compared between candidates, in this order; the greatest is taken.
fn preference(candidate: &Candidate) -> impl Ord {
    let (pods, violations) = (&candidate.victims.pods, candidate.victims.violations);
    let highest = pods.first().map_or(i32::MIN, |victim| victim.priority());
    // Shifted to be positive: one pod of a negative priority is better than two.
    let sum: i64 = pods.iter().map(|victim| i64::from(victim.priority()) + i64::from(i32::MAX) + 1).sum();
    let most_important = pods.iter().filter(|victim| victim.priority() == highest);
    let earliest = most_important.map(|victim| start_time(victim)).min();
    (Reverse(violations), Reverse(highest), Reverse(sum), Reverse(pods.len()), earliest)
}

type Budgets = [(Selector, Arc<PodDisruptionBudget>)];

/// The least set of pods on the node that has to go, the most important first, and how many budgets that breaks.
fn victims_on(
    misfit: &Misfit<'_>,
    mut state: CycleState,
    pod: &Pod,
    node: &NodeInfo,
    budgets: &Budgets,
) -> Result<Victims, Status> {
    let (profile, mut node) = (misfit.profile, node.clone());
    let mut potential: Vec<_> = node.pods().iter().filter(|other| other.priority() < priority(pod)).cloned().collect();
    if potential.is_empty() {
        return Err(Status::new(Code::UnschedulableAndUnresolvable, ["No preemption victims found for incoming pod"]));
    }
    for other in &potential {
        profile.remove_pod(&mut state, pod, other, &mut node);
    }
    let status = profile.filter_node(&state, pod, &node);
    if !status.is_success() {
        return Err(status);
    }
    // Whoever can stay stays: first those whose budget would be broken, and the more important first.
    potential.sort_by_key(|other| importance(other));
    let (violating, others) = split_by_budgets(potential, budgets);
    let mut victims = Vec::new();
    let mut violations = 0;
    for (other, violates) in violating.into_iter().map(|pod| (pod, true)).chain(others.into_iter().map(|pod| (pod, false))) {
        profile.add_pod(&mut state, pod, &other, &mut node);
        if !profile.filter_node(&state, pod, &node).is_success() {
            profile.remove_pod(&mut state, pod, &other, &mut node);
            victims.push(other);
            violations += usize::from(violates);
        }
    }
    if victims.is_empty() {
        let reason = format!("expected at least one victim pod on node {:?}", node.name());
        return Err(Status::new(Code::Error, [reason]));
    }
    victims.sort_by_key(|victim| importance(victim));
    Ok(Victims { pods: victims, violations })
}

/// Pods whose eviction would break a budget, and the others; each in the given order.
fn split_by_budgets(pods: Vec<Arc<PodInfo>>, budgets: &Budgets) -> (Vec<Arc<PodInfo>>, Vec<Arc<PodInfo>>) {
    let mut left: BTreeMap<usize, i32> = BTreeMap::new();
    pods.into_iter().partition(|pod| {
        let meta = &pod.pod.metadata;
        let mut violates = false;
        for (index, (selector, budget)) in budgets.iter().enumerate() {
            let concerns = meta.namespace == budget.metadata.namespace
                && meta.labels.as_ref().is_some_and(|labels| !labels.is_empty())
                && !selector.is_everything()
                && selector.matches(meta.labels.as_ref());
            let status = budget.status.as_ref();
            let name = meta.name.as_deref().unwrap_or_default();
            // The API server has counted this one already.
            let counted = status.and_then(|status| status.disrupted_pods.as_ref()).is_some_and(|pods| pods.contains_key(name));
            if concerns && !counted {
                let left = left.entry(index).or_insert_with(|| status.map_or(0, |status| status.disruptions_allowed));
                *left -= 1;
                violates |= *left < 0;
            }
        }
        violates
    })
}

impl Plugin for DefaultPreemption {
    fn name(&self) -> &'static str {
        "DefaultPreemption"
    }

    fn events(&self) -> EventSet {
        EventSet::ASSIGNED_DELETE
    }

    /// Whoever preempts was rejected by another plugin too, which knows when it is worth another attempt.
    fn hint(&self, _pod: &PodInfo, _event: &ClusterEvent) -> Hint {
        Hint::Skip
    }

    fn as_pre_enqueue(&self) -> Option<&dyn PreEnqueue> {
        Some(self)
    }

    fn as_post_filter(&self) -> Option<&dyn PostFilter> {
        Some(self)
    }
}

impl PreEnqueue for DefaultPreemption {
    fn pre_enqueue(&self, pod: &Pod) -> Status {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        if self.handle.is_preempting(uid) {
            let reason = "waiting for the preemption for this pod to be finished";
            return Status::new(Code::UnschedulableAndUnresolvable, [reason]);
        }
        Status::success()
    }
}

impl PostFilter for DefaultPreemption {
    fn post_filter(&self, state: &CycleState, pod: &Pod, misfit: &Misfit<'_>) -> (Status, Remedy) {
        crate::metrics::preemption_attempt();
        let (status, remedy) = self.find(state, pod, misfit);
        if status.reasons().is_empty() {
            return (status, remedy);
        }
        (Status::new(status.code(), [format!("preemption: {}", status.message())]), remedy)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::SeedableRng;
    use rand::rngs::StdRng;
    use serde_json::{Value, json};

    use super::*;
    use crate::cycle::{Course, Surroundings};
    use crate::plugins::default_profile;
    use crate::snapshot::Snapshot;

    fn pod(name: &str, priority: i32, cpu: &str, label: &str) -> Value {
        json!({
            "metadata": {"name": name, "uid": name, "namespace": "d", "labels": {"app": label}},
            "spec": {"priority": priority, "containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]},
            "status": {"startTime": "2026-01-01T00:00:00Z"},
        })
    }

    fn info(object: &Value) -> Arc<PodInfo> {
        Arc::new(PodInfo::new(Arc::new(serde_json::from_value(object.clone()).unwrap())))
    }

    fn node(name: &str, pods: &[Value]) -> Arc<NodeInfo> {
        let object = json!({"metadata": {"name": name}, "status": {"allocatable": {"cpu": "2", "memory": "1Gi", "pods": "10"}}});
        let mut node = NodeInfo::new(Arc::new(serde_json::from_value(object).unwrap()));
        pods.iter().for_each(|pod| node.add_pod(&info(pod)));
        Arc::new(node)
    }

    fn preempt(nodes: Vec<Arc<NodeInfo>>, preemptor: &Value, budgets: Vec<Value>) -> Result<(String, Vec<String>), String> {
        preempt_from(0, nodes, preemptor, budgets)
    }

    /// The node and its victims, or the message. The seed decides where the search begins.
    fn preempt_from(
        seed: u64,
        nodes: Vec<Arc<NodeInfo>>,
        preemptor: &Value,
        budgets: Vec<Value>,
    ) -> Result<(String, Vec<String>), String> {
        let mut handle = Handle { random: parking_lot::Mutex::new(StdRng::seed_from_u64(seed)), ..Handle::default() };
        let typed = |budget| serde_json::from_value::<PodDisruptionBudget>(budget).unwrap();
        handle.listers.budgets = client::Store::from_objects(budgets.into_iter().map(typed));
        let profile = default_profile("default-scheduler", &Arc::new(handle));
        let snapshot = Snapshot::of(nodes);
        match crate::cycle::schedule(&profile, &info(preemptor), Surroundings::of(&snapshot), &mut Course::default()) {
            Ok(placement) => Ok((placement.node, Vec::new())),
            Err(rejection) => match rejection.eviction {
                Some(eviction) => Ok((eviction.node, eviction.victims.iter().map(|pod| pod.uid.clone()).collect())),
                None => Err(rejection.message),
            },
        }
    }

    fn found(node: &str, victims: &[&str]) -> Result<(String, Vec<String>), String> {
        Ok((node.to_owned(), victims.iter().map(ToString::to_string).collect()))
    }

    #[test]
    fn the_least_has_to_go() {
        let check = |cpu: &str, nodes: Vec<_>, expected: Result<_, _>| {
            // Wherever the search begins.
            for seed in 0..8 {
                assert_eq!(preempt_from(seed, nodes.clone(), &pod("p", 100, cpu, "x"), vec![]), expected, "seed {seed}");
            }
        };
        // The less important of two, where either would do.
        check("1", vec![node("n", &[pod("a", 10, "1", "x"), pod("b", 20, "1", "x")])], found("n", &["a"]));
        // Two small ones rather than one of higher priority.
        check(
            "1",
            vec![node("high", &[pod("a", 50, "2", "x")]), node("low", &[pod("b", 1, "1", "x"), pod("c", 1, "1", "x")])],
            found("low", &["c"]),
        );
        // Fewer pods at the same highest priority, also where it is negative.
        for priority in [5, -5] {
            let two = node("two", &[pod("a", priority, "1500m", "x"), pod("b", priority, "500m", "x")]);
            check("2", vec![two, node("one", &[pod("c", priority, "2", "x")])], found("one", &["c"]));
        }
    }

    #[test]
    fn among_equals_the_search_decides() {
        let nodes = || vec![node("one", &[pod("a", 5, "2", "x")]), node("other", &[pod("b", 5, "2", "x")])];
        let chosen = (0..32).map(|seed| preempt_from(seed, nodes(), &pod("p", 9, "1", "x"), vec![]).unwrap().0);
        assert_eq!(chosen.collect::<BTreeSet<_>>(), BTreeSet::from(["one".to_owned(), "other".to_owned()]));
    }

    #[test]
    fn those_who_ran_longer_stay() {
        let mut old = pod("old", 5, "2", "x");
        old["status"]["startTime"] = json!("2020-01-01T00:00:00Z");
        let nodes = vec![node("a", &[old]), node("b", &[pod("young", 5, "2", "x")])];
        assert_eq!(preempt(nodes, &pod("p", 9, "1", "x"), vec![]), found("b", &["young"]));
    }

    #[test]
    fn budgets_are_respected_where_possible() {
        let budget = |allowed: i32| json!({"metadata": {"name": "b", "namespace": "d"}, "spec": {"selector": {"matchLabels": {"app": "guarded"}}}, "status": {"disruptionsAllowed": allowed, "currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1}});
        let want = pod("p", 100, "2", "x");
        let nodes = || vec![node("a", &[pod("low", 1, "2", "guarded")]), node("b", &[pod("higher", 50, "2", "x")])];
        assert_eq!(preempt(nodes(), &want, vec![budget(0)]), found("b", &["higher"]));
        assert_eq!(preempt(nodes(), &want, vec![budget(1)]), found("a", &["low"]));
        let only = vec![node("a", &[pod("low", 1, "2", "guarded")])];
        assert_eq!(preempt(only, &want, vec![budget(0)]), found("a", &["low"]), "a budget is a wish, not a wall");
    }

    #[test]
    fn why_not_is_said_in_upstreams_words() {
        let full = || vec![node("n", &[pod("a", 10, "2", "x")])];
        let check = |preemptor: Value, expected: &str| {
            assert_eq!(preempt(full(), &preemptor, vec![]), Err(expected.to_owned()));
        };
        check(
            pod("p", 10, "1", "x"),
            "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.",
        );
        check(
            pod("p", 100, "3", "x"),
            "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.",
        );
        let mut meek = pod("p", 100, "1", "x");
        meek["spec"]["preemptionPolicy"] = json!("Never");
        check(
            meek,
            "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: not eligible due to preemptionPolicy=Never.",
        );
    }

    #[test]
    fn one_preemption_at_a_time() {
        let mut leaving = pod("a", 10, "1", "x");
        leaving["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        leaving["status"]["conditions"] =
            json!([{"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}]);
        let mut want = pod("p", 100, "1", "x");
        want["status"]["nominatedNodeName"] = json!("n");
        let message = preempt(vec![node("n", &[leaving, pod("b", 10, "1", "x")])], &want, vec![]).unwrap_err();
        assert!(message.ends_with("not eligible due to a terminating pod on the nominated node."), "{message}");
    }

    #[test]
    fn room_that_is_meant_for_another_is_not_taken() {
        let handle = Arc::new(Handle::default());
        handle.nominator.set(&info(&pod("meant", 50, "2", "x")), "n");
        let profile = default_profile("s", &handle);
        let snapshot = Snapshot::of([node("n", &[])]);
        let place = |priority| {
            let pod = info(&pod("p", priority, "1", "x"));
            crate::cycle::schedule(&profile, &pod, Surroundings::of(&snapshot), &mut Course::default()).is_ok()
        };
        assert!(!place(50));
        assert!(place(51));
    }
}
