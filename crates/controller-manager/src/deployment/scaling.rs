//! How large each ReplicaSet of a deployment should be. Pure arithmetic, upstream's rules.

use k8s_openapi::api::apps::v1::Deployment;

use super::replica_sets::{MAX_REPLICAS, Set};
use crate::int_or_percent::scaled;

pub(super) fn desired(deployment: &Deployment) -> i32 {
    deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

pub(super) fn is_rolling(deployment: &Deployment) -> bool {
    strategy(deployment) == "RollingUpdate"
}

pub(super) fn strategy(deployment: &Deployment) -> &str {
    let strategy = deployment.spec.as_ref().and_then(|spec| spec.strategy.as_ref());
    strategy.and_then(|strategy| strategy.type_.as_deref()).unwrap_or("RollingUpdate")
}

/// maxSurge rounded up and maxUnavailable rounded down; at least one of them is not 0.
fn fenceposts(deployment: &Deployment) -> (i32, i32) {
    let rolling =
        deployment.spec.as_ref().and_then(|spec| spec.strategy.as_ref()).and_then(|strategy| strategy.rolling_update.as_ref());
    let total = desired(deployment);
    let surge = scaled(rolling.and_then(|r| r.max_surge.as_ref()), total, true);
    let unavailable = scaled(rolling.and_then(|r| r.max_unavailable.as_ref()), total, false);
    if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable) }
}

pub(super) fn max_surge(deployment: &Deployment) -> i32 {
    if is_rolling(deployment) { fenceposts(deployment).0 } else { 0 }
}

pub(super) fn max_unavailable(deployment: &Deployment) -> i32 {
    let desired = desired(deployment);
    if !is_rolling(deployment) || desired == 0 {
        return 0;
    }
    fenceposts(deployment).1.min(desired)
}

/// Size of the new set, of `current` size now, when all sets together have `total` replicas.
pub(super) fn new_set_replicas(deployment: &Deployment, total: i32, current: i32) -> i32 {
    let desired = desired(deployment);
    if !is_rolling(deployment) {
        return desired;
    }
    let room = desired + max_surge(deployment) - total;
    if room <= 0 {
        return current;
    }
    current + room.min(desired - current)
}

/// Sizes for active sets when a rolling deployment is scaled in the middle of a rollout: each changes in proportion
/// to its share. `sets` must be sorted by [`sort_for_scaling`]; the result has the same order.
pub(super) fn proportional(deployment: &Deployment, sets: &[&Set]) -> Vec<i32> {
    let to_add = replicas_to_add(deployment, sets);
    let mut added = 0;
    let mut sizes: Vec<i32> = Vec::with_capacity(sets.len());
    for set in sets {
        let share = proportion(deployment, set, to_add, added);
        added += share;
        sizes.push(set.replicas() + share);
    }
    // What rounding left over goes to the first: the largest.
    if to_add != 0
        && let Some(first) = sizes.first_mut()
    {
        *first = (*first + to_add - added).max(0);
    }
    sizes
}

fn replicas_to_add(deployment: &Deployment, sets: &[&Set]) -> i32 {
    let desired = desired(deployment);
    let allowed = if desired > 0 { desired + max_surge(deployment) } else { 0 };
    allowed - sets.iter().map(|set| set.replicas()).sum::<i32>()
}

/// Largest first; of equal ones the newest first when growing, the oldest first when shrinking.
pub(super) fn sort_for_scaling(deployment: &Deployment, sets: &mut [&Set]) {
    let to_add = replicas_to_add(deployment, sets);
    if to_add == 0 {
        return;
    }
    sets.sort_by(|a, b| {
        let by_age = if to_add > 0 { b.compare_age(a) } else { a.compare_age(b) };
        b.replicas().cmp(&a.replicas()).then(by_age)
    });
}

fn proportion(deployment: &Deployment, set: &Set, to_add: i32, added: i32) -> i32 {
    if set.replicas() == 0 || to_add == 0 || to_add == added {
        return 0;
    }
    let share = fraction(deployment, set);
    let left = to_add - added;
    if to_add > 0 { share.min(left) } else { share.max(left) }
}

fn fraction(deployment: &Deployment, set: &Set) -> i32 {
    let desired = desired(deployment);
    let replicas = set.replicas();
    if desired == 0 {
        return -replicas;
    }
    let max_now = desired + max_surge(deployment);
    let status_replicas = || deployment.status.as_ref().and_then(|status| status.replicas).unwrap_or(0);
    let max_before = set.annotation_number(MAX_REPLICAS).filter(|max| *max != 0).unwrap_or_else(status_replicas);
    if max_before == 0 {
        return 0;
    }
    let size = f64::from(replicas) * f64::from(max_now) / f64::from(max_before);
    // Half away from zero, as Go's RoundToInt32; sizes are far below 2^31.
    #[allow(clippy::cast_possible_truncation)]
    let rounded = size.round() as i32;
    rounded - replicas
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use std::sync::Arc;

    fn deployment(replicas: i32, surge: Value, unavailable: Value) -> Deployment {
        serde_json::from_value(json!({
            "metadata": {"name": "d"},
            "spec": {"replicas": replicas, "selector": {}, "template": {},
                "strategy": {"type": "RollingUpdate",
                    "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}}},
        }))
        .expect("is a deployment")
    }

    fn set(name: &str, replicas: i32, max: i32, second: u32) -> Set {
        let value = json!({
            "metadata": {"name": name, "creationTimestamp": format!("2024-01-01T00:00:{second:02}Z"),
                "annotations": {"deployment.kubernetes.io/max-replicas": max.to_string()}},
            "spec": {"replicas": replicas, "selector": {}},
        });
        Set::existing(Arc::new(serde_json::from_value(value).expect("is a replica set")))
    }

    #[test]
    fn fenceposts_round_in_favour_of_progress() {
        for (replicas, surge, unavailable, expected) in [
            (10, json!("25%"), json!("25%"), (3, 2)),
            (1, json!("25%"), json!("25%"), (1, 0)),
            (10, json!(0), json!("5%"), (0, 1)),
            (3, json!(0), json!(5), (0, 3)),
            (10, json!("100%"), json!(0), (10, 0)),
            (0, json!("25%"), json!(1), (0, 0)),
        ] {
            let deployment = deployment(replicas, surge.clone(), unavailable.clone());
            let got = (max_surge(&deployment), max_unavailable(&deployment));
            assert_eq!(got, expected, "{replicas} {surge} {unavailable}");
        }
    }

    #[test]
    fn the_new_set_grows_into_the_surge() {
        for (replicas, surge, total, current, expected) in [
            (10, json!(2), 10, 0, 2),
            (10, json!(2), 12, 2, 2),
            (10, json!(2), 5, 3, 10),
            (10, json!(0), 10, 0, 0),
            (10, json!(5), 0, 0, 10),
        ] {
            let deployment = deployment(replicas, surge.clone(), json!(1));
            let got = new_set_replicas(&deployment, total, current);
            assert_eq!(got, expected, "{replicas} {surge} {total} {current}");
        }
    }

    #[test]
    fn scaling_during_a_rollout_is_proportional() {
        // (desired, sizes before (max 10 then), sizes after): upstream's TestScale cases.
        for (desired, before, after) in [
            (12, vec![10], vec![12]),
            (20, vec![5, 5], vec![10, 10]),
            (5, vec![5, 5], vec![2, 3]),
            (6, vec![8, 2], vec![5, 1]),
            (0, vec![8, 2], vec![0, 0]),
            (20, vec![5, 3, 2], vec![10, 6, 4]),
        ] {
            let deployment = deployment(desired, json!(0), json!(1));
            let sets: Vec<Set> = (0u32..).zip(&before).map(|(i, replicas)| set(&format!("s{i}"), *replicas, 10, i)).collect();
            let mut sorted: Vec<&Set> = sets.iter().collect();
            sort_for_scaling(&deployment, &mut sorted);
            let sizes = proportional(&deployment, &sorted);
            let mut by_name: Vec<(String, i32)> = sorted.iter().map(|set| set.name()).zip(sizes).collect();
            by_name.sort();
            let got: Vec<i32> = by_name.into_iter().map(|(_, size)| size).collect();
            assert_eq!(got, after, "to {desired} from {before:?}");
        }
    }
}
