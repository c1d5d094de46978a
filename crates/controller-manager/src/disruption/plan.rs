//! The status that a budget should have. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;

use crate::pod_state::is_ready;

/// How long an evicted pod is taken for gone before its deletion is seen; upstream's `DeletionTimeout`. It bounds how old the cached pods
/// may be for the budget to hold.
pub(super) const DELETION_TIMEOUT: Duration = Duration::from_secs(2 * 60);

const DISRUPTION_ALLOWED: &str = "DisruptionAllowed";

/// How many pods there should be, and how many of them must be healthy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) expected: i32,
    pub(super) desired_healthy: i32,
}

/// What to do about a budget.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Plan {
    /// The status to write, if it is not as it should be.
    pub(super) status: Option<PodDisruptionBudgetStatus>,
    /// When an evicted pod that is still there has to be counted again.
    pub(super) recheck: Option<Duration>,
    /// Pods that were evicted and are still there.
    pub(super) not_deleted: Vec<String>,
}

/// Whether the number of pods is asked of the workloads that own them, rather than counted.
pub(super) fn needs_scale(spec: &PodDisruptionBudgetSpec) -> bool {
    spec.max_unavailable.is_some() || matches!(spec.min_available, Some(IntOrString::String(_)))
}

/// What the spec asks for, given the pods that match and the replicas of the workloads that own them.
pub(super) fn counts(spec: &PodDisruptionBudgetSpec, pods: usize, scale: i32) -> Result<Counts, String> {
    if let Some(unavailable) = &spec.max_unavailable {
        let desired_healthy = scale.saturating_sub(scaled(unavailable, scale)?).max(0);
        return Ok(Counts { expected: scale, desired_healthy });
    }
    match &spec.min_available {
        Some(IntOrString::Int(number)) => {
            Ok(Counts { expected: i32::try_from(pods).unwrap_or(i32::MAX), desired_healthy: *number })
        }
        Some(percentage) => Ok(Counts { expected: scale, desired_healthy: scaled(percentage, scale)? }),
        None => Ok(Counts { expected: 0, desired_healthy: 0 }),
    }
}

/// A number, or a percentage of `total`, rounded up; the errors are upstream's.
fn scaled(value: &IntOrString, total: i32) -> Result<i32, String> {
    let text = match value {
        IntOrString::Int(number) => return Ok(*number),
        IntOrString::String(text) => text,
    };
    let Some(digits) = text.strip_suffix('%') else {
        return Err("invalid value for IntOrString: invalid type: string is not a percentage".to_owned());
    };
    let percent: i64 = digits.parse().map_err(|_| {
        format!("invalid value for IntOrString: invalid value {text:?}: strconv.Atoi: parsing {digits:?}: invalid syntax")
    })?;
    let rounded = (percent.saturating_mul(i64::from(total))).saturating_add(99).div_euclid(100);
    Ok(i32::try_from(rounded).unwrap_or(i32::MAX))
}

/// The status of a budget whose pods are these.
pub(super) fn plan(budget: &PodDisruptionBudget, pods: &[Arc<Pod>], counts: Counts, now: Timestamp) -> Plan {
    let known = budget.status.clone().unwrap_or_default();
    let mut plan = Plan::default();
    let mut disrupted = BTreeMap::new();
    let mut healthy = 0;
    for pod in pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()) {
        let name = pod.name_any();
        if let Some(since) = known.disrupted_pods.as_ref().and_then(|pods| pods.get(&name)) {
            let left = left(since.0, now);
            if left >= 0 {
                // A little later than the last moment, at which the pod is still on the list.
                let again = Duration::from_millis(u64::try_from(left).unwrap_or(0) + 1);
                plan.recheck = Some(plan.recheck.map_or(again, |earlier| earlier.min(again)));
                disrupted.insert(name, since.clone());
                continue;
            }
            plan.not_deleted.push(name);
        }
        healthy += i32::from(is_ready(pod));
    }
    let allowed = if counts.expected <= 0 { 0 } else { (healthy - counts.desired_healthy).max(0) };
    let generation = budget.metadata.generation;
    let mut wanted = PodDisruptionBudgetStatus {
        current_healthy: healthy,
        desired_healthy: counts.desired_healthy,
        expected_pods: counts.expected,
        disruptions_allowed: allowed,
        disrupted_pods: Some(disrupted).filter(|pods| !pods.is_empty()),
        observed_generation: generation,
        conditions: known.conditions.clone(),
    };
    let reason = if allowed > 0 { "SufficientPods" } else { "InsufficientPods" };
    set_allowed(&mut wanted, allowed > 0, reason, "", now);
    plan.status = differs(&known, &wanted).then_some(wanted);
    plan
}

/// Milliseconds until an evicted pod is no longer taken for gone.
fn left(since: Timestamp, now: Timestamp) -> i128 {
    i128::try_from(DELETION_TIMEOUT.as_millis()).unwrap_or(i128::MAX) - now.duration_since(since).as_millis()
}

/// Whether a write is worth it: the message and the observed generation of the condition alone are no reason, as upstream.
fn differs(known: &PodDisruptionBudgetStatus, wanted: &PodDisruptionBudgetStatus) -> bool {
    let numbers = |status: &PodDisruptionBudgetStatus| {
        (
            [status.current_healthy, status.desired_healthy, status.expected_pods, status.disruptions_allowed],
            status.observed_generation.unwrap_or(0),
            status.disrupted_pods.clone().unwrap_or_default(),
            allowed_condition(status).map(|condition| (condition.status.clone(), condition.reason.clone())),
        )
    };
    numbers(known) != numbers(wanted)
}

fn allowed_condition(status: &PodDisruptionBudgetStatus) -> Option<&Condition> {
    status.conditions.iter().flatten().find(|condition| condition.type_ == DISRUPTION_ALLOWED)
}

/// Sets the condition; its time changes with its status only.
fn set_allowed(status: &mut PodDisruptionBudgetStatus, allowed: bool, reason: &str, message: &str, now: Timestamp) {
    let text = if allowed { "True" } else { "False" };
    let known = allowed_condition(status).filter(|condition| condition.status == text);
    let condition = Condition {
        type_: DISRUPTION_ALLOWED.to_owned(),
        status: text.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        observed_generation: status.observed_generation,
        last_transition_time: known.map_or(Time(now), |condition| condition.last_transition_time.clone()),
    };
    let conditions = status.conditions.get_or_insert_default();
    match conditions.iter_mut().find(|condition| condition.type_ == DISRUPTION_ALLOWED) {
        Some(known) => *known = condition,
        None => conditions.push(condition),
    }
}

/// The status when the pods could not be counted: nothing is allowed, so that the eviction API lets no pod go (it "fails safe").
/// `None` if that is so already.
pub(super) fn fail_safe(budget: &PodDisruptionBudget, why: &str, now: Timestamp) -> Option<PodDisruptionBudgetStatus> {
    let known = budget.status.clone().unwrap_or_default();
    let mut wanted = PodDisruptionBudgetStatus { disruptions_allowed: 0, ..known.clone() };
    set_allowed(&mut wanted, false, "SyncFailed", why, now);
    (wanted != known).then_some(wanted)
}
