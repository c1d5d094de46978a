//! The status of a StatefulSet from its pods. Pure.

use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::Pod;

use super::identity::{min_ready_seconds, replicas, revision, spec};
use super::plan::View;
use crate::pod_state::{is_available, is_ready, phase};

fn nonzero(count: i32) -> Option<i32> {
    Some(count).filter(|count| *count != 0)
}

/// Counts and revisions.
pub(super) fn calculate(view: &View<'_>) -> StatefulSetStatus {
    let count = |of: &dyn Fn(&Pod) -> bool| i32::try_from(view.pods.iter().filter(|pod| of(pod)).count()).unwrap_or(i32::MAX);
    let created = |pod: &Pod| !phase(pod).is_empty();
    let ready = |pod: &Pod| phase(pod) == "Running" && is_ready(pod);
    let available = |pod: &Pod| ready(pod) && is_available(pod, min_ready_seconds(view.set), view.now);
    let of_revision = |pod: &Pod, name: &str| created(pod) && pod.metadata.deletion_timestamp.is_none() && revision(pod) == name;
    StatefulSetStatus {
        observed_generation: view.set.metadata.generation,
        replicas: count(&created),
        ready_replicas: nonzero(count(&ready)),
        available_replicas: Some(count(&available)),
        current_replicas: nonzero(count(&|pod| of_revision(pod, &view.current.name))),
        updated_replicas: nonzero(count(&|pod| of_revision(pod, &view.update.name))),
        current_revision: Some(view.current.name.clone()),
        update_revision: Some(view.update.name.clone()),
        collision_count: Some(view.collisions),
        conditions: None,
    }
}

/// When all pods are of the update revision and ready, it becomes the current one.
pub(super) fn completed(view: &View<'_>, mut status: StatefulSetStatus) -> StatefulSetStatus {
    let strategy = spec(view.set).update_strategy.as_ref().and_then(|strategy| strategy.type_.as_deref());
    let wanted = replicas(view.set);
    let all = |count: Option<i32>| count.unwrap_or(0) == wanted;
    if strategy == Some("RollingUpdate")
        && all(status.updated_replicas)
        && all(status.ready_replicas)
        && status.replicas == wanted
    {
        status.current_replicas = status.updated_replicas;
        status.current_revision = status.update_revision.clone();
    }
    status.current_replicas = status.current_replicas.and_then(nonzero);
    status
}

/// Whether the status must be written: a count or a revision changed, or the generation was not observed before.
pub(super) fn differs(set: &StatefulSet, status: &StatefulSetStatus) -> bool {
    let last = set.status.clone().unwrap_or_default();
    let counts = |status: &StatefulSetStatus| {
        [
            Some(status.replicas),
            status.current_replicas,
            status.ready_replicas,
            status.updated_replicas,
            status.available_replicas,
        ]
        .map(|count| count.unwrap_or(0))
    };
    let revisions = |status: &StatefulSetStatus| {
        let or_empty = |name: &Option<String>| name.clone().unwrap_or_default();
        (or_empty(&status.current_revision), or_empty(&status.update_revision))
    };
    status.observed_generation.unwrap_or(0) > last.observed_generation.unwrap_or(0)
        || counts(status) != counts(&last)
        || revisions(status) != revisions(&last)
}
