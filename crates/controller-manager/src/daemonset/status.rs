//! The status of a DaemonSet from its nodes and pods. Pure.

use k8s_openapi::api::apps::v1::DaemonSetStatus;

use super::nodes::Simulation;
use super::plan::{View, sort_by_age};
use super::pods::{is_updated, min_ready_seconds};
use crate::pod_state::{is_available, is_ready};

fn nonzero(count: i32) -> Option<i32> {
    Some(count).filter(|count| *count != 0)
}

/// Counts; what else is in the status stays. `observed`: the plan was made for this generation.
pub(super) fn status(view: &View<'_>, observed: bool) -> DaemonSetStatus {
    let simulation = Simulation::new(view.set);
    let last = view.set.status.clone().unwrap_or_default();
    let (mut desired, mut current, mut astray, mut ready, mut updated, mut available) = (0, 0, 0, 0, 0, 0);
    for node in view.nodes {
        let pods = view.pods.get(node.metadata.name.as_deref().unwrap_or_default());
        if !simulation.should_run(node) {
            astray += i32::from(pods.is_some());
            continue;
        }
        desired += 1;
        let mut pods: Vec<_> = pods.into_iter().flatten().collect();
        sort_by_age(&mut pods);
        let Some(oldest) = pods.first() else { continue };
        current += 1;
        ready += i32::from(is_ready(oldest));
        available += i32::from(is_available(oldest, min_ready_seconds(view.set), view.now));
        updated += i32::from(is_updated(view.set, oldest, view.hash));
    }
    DaemonSetStatus {
        current_number_scheduled: current,
        number_misscheduled: astray,
        desired_number_scheduled: desired,
        number_ready: ready,
        updated_number_scheduled: nonzero(updated),
        number_available: nonzero(available),
        number_unavailable: nonzero(desired - available),
        observed_generation: if observed { view.set.metadata.generation } else { last.observed_generation },
        collision_count: last.collision_count,
        conditions: last.conditions,
    }
}

/// Whether the status must be written.
pub(super) fn differs(view: &View<'_>, status: &DaemonSetStatus) -> bool {
    let counts = |status: &DaemonSetStatus| {
        [
            status.current_number_scheduled,
            status.number_misscheduled,
            status.desired_number_scheduled,
            status.number_ready,
            status.updated_number_scheduled.unwrap_or(0),
            status.number_available.unwrap_or(0),
            status.number_unavailable.unwrap_or(0),
        ]
    };
    let last = view.set.status.clone().unwrap_or_default();
    counts(status) != counts(&last) || status.observed_generation != last.observed_generation
}
