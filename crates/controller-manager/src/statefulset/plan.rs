//! What to do about a StatefulSet, given its pods, claims and revisions. Pure: the time comes in.
//!
//! After upstream's `updateStatefulSet`: first every wanted ordinal has a pod that is in order, then pods beyond are taken down, then pods
//! of another revision are replaced. A set with ordered pods does one thing at a time and waits for it; one with parallel pods does
//! everything that it can.
//!
//! Invariant: no pod is planned for an ordinal for which the cache shows one.

use std::cmp::Reverse;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::Pod;

use super::claims::{self, ClaimWork, Claims};
use super::identity::{self, Version, in_range, is_parallel, min_ready_seconds, ordinal, replicas, spec};
use super::status;
use crate::int_or_percent::scaled;
use crate::pod_state::{is_available, is_ready, is_terminal, phase};

/// What the plan is made from.
pub(super) struct View<'a> {
    pub(super) set: &'a StatefulSet,
    pub(super) current: Version,
    pub(super) update: Version,
    pub(super) collisions: i32,
    pub(super) pods: &'a [Arc<Pod>],
    pub(super) claims: &'a Claims<'a>,
    pub(super) now: Timestamp,
    /// The feature gate MaxUnavailableStatefulSet, beta and off in v1.35: `maxUnavailable` counts.
    pub(super) max_unavailable: bool,
}

/// One write, or a few that belong together.
#[derive(Debug, PartialEq)]
pub(super) enum Action {
    /// Make the claims, then the pod.
    Create {
        pod: Box<Pod>,
        claims: ClaimWork,
    },
    /// Make up for claims of a pod that waits for them.
    Claims {
        pod: Arc<Pod>,
        claims: ClaimWork,
    },
    /// Put labels, volumes and claims of a pod in order.
    Repair {
        pod: Arc<Pod>,
        claims: ClaimWork,
        volumes: bool,
    },
    /// Change who owns the claims of a pod that is to go.
    Retain {
        pod: Arc<Pod>,
        claims: ClaimWork,
    },
    Delete(Arc<Pod>),
}

/// Steps follow each other; the first failure ends the plan.
#[derive(Debug, PartialEq)]
pub(super) enum Step {
    /// One after the other.
    InOrder(Vec<Action>),
    /// At once, with a slow start; each entry is one pod's, in order.
    AtOnce(Vec<Vec<Action>>),
}

#[derive(Debug)]
pub(super) struct Plan {
    pub(super) steps: Vec<Step>,
    /// The status if all of it succeeds.
    pub(super) status: StatefulSetStatus,
    /// The status if something fails.
    pub(super) status_on_failure: StatefulSetStatus,
}

struct Work<'a> {
    view: &'a View<'a>,
    /// By ordinal from the first on.
    replicas: Vec<Replica>,
    /// Beyond the range, highest ordinal first.
    condemned: Vec<Arc<Pod>>,
}

/// A wanted ordinal and its pod, if the cache shows one that the server has taken in.
struct Replica {
    ordinal: i32,
    pod: Option<Arc<Pod>>,
}

pub(super) fn plan(view: &View<'_>) -> Plan {
    let work = Work::new(view);
    if view.set.metadata.deletion_timestamp.is_some() {
        return work.finish(Vec::new(), 0);
    }
    if is_parallel(view.set) { work.in_parallel() } else { work.in_order() }
}

/// Running, ready and not about to go.
fn is_healthy(pod: &Pod) -> bool {
    phase(pod) == "Running" && is_ready(pod)
}

fn is_going(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

impl<'a> Work<'a> {
    fn new(view: &'a View<'a>) -> Self {
        let set = view.set;
        let mut condemned: Vec<Arc<Pod>> = Vec::new();
        let mut present = std::collections::BTreeMap::new();
        // The server gives every pod a phase; one without would be none of its.
        for pod in view.pods.iter().filter(|pod| !phase(pod).is_empty()) {
            match ordinal(pod) {
                Some(ordinal) if in_range(set, ordinal) => drop(present.insert(ordinal, Arc::clone(pod))),
                Some(_) => condemned.push(Arc::clone(pod)),
                None => {}
            }
        }
        condemned.sort_by_key(|pod| Reverse(ordinal(pod)));
        let first = identity::first_ordinal(set);
        let last = first.saturating_add(replicas(set).max(0));
        let replicas = (first..last).map(|ordinal| Replica { ordinal, pod: present.remove(&ordinal) }).collect();
        Self { view, replicas, condemned }
    }

    fn is_unavailable(&self, pod: &Pod) -> bool {
        is_going(pod) || !is_available(pod, min_ready_seconds(self.view.set), self.view.now)
    }

    /// Not healthy for long enough: an ordered set goes no further.
    fn must_wait_for(&self, pod: &Pod) -> bool {
        !is_healthy(pod) || !is_available(pod, min_ready_seconds(self.view.set), self.view.now)
    }

    fn in_order(self) -> Plan {
        let mut actions = Vec::new();
        for replica in &self.replicas {
            if self.replica(replica, true, &mut actions) {
                return self.finish(vec![Step::InOrder(actions)], 0);
            }
        }
        actions.extend(self.condemned.iter().filter_map(|pod| self.retain(pod)));
        // The next one only after this one is gone.
        if let Some(pod) = self.condemned.first() {
            let first_unavailable = self.condemned.iter().rev().find(|pod| self.is_unavailable(pod));
            let is_first = first_unavailable.is_some_and(|first| Arc::ptr_eq(first, pod));
            if !is_going(pod) && (is_first || !self.must_wait_for(pod)) {
                actions.push(Action::Delete(Arc::clone(pod)));
            }
            return self.finish(vec![Step::InOrder(actions)], 0);
        }
        let replaced = self.replace();
        let count = replaced.len();
        actions.extend(replaced);
        self.finish(vec![Step::InOrder(actions)], count)
    }

    fn in_parallel(self) -> Plan {
        let of_replicas = self.replicas.iter().map(|replica| {
            let mut actions = Vec::new();
            self.replica(replica, false, &mut actions);
            actions
        });
        let of_replicas = of_replicas.filter(|actions| !actions.is_empty()).collect();
        let retained = self.condemned.iter().filter_map(|pod| self.retain(pod)).map(|action| vec![action]).collect();
        let going = self.condemned.iter().filter(|pod| !is_going(pod));
        let deleted = going.map(|pod| vec![Action::Delete(Arc::clone(pod))]).collect();
        let replaced = self.replace();
        let count = replaced.len();
        let steps = vec![Step::AtOnce(of_replicas), Step::AtOnce(retained), Step::AtOnce(deleted), Step::InOrder(replaced)];
        self.finish(steps, count)
    }

    /// What a wanted ordinal needs; whether an ordered set has to stop there.
    fn replica(&self, replica: &Replica, ordered: bool, actions: &mut Vec<Action>) -> bool {
        let (set, claims) = (self.view.set, self.view.claims);
        let Some(pod) = &replica.pod else {
            let pod = identity::new_versioned_pod(&self.view.current, &self.view.update, replica.ordinal);
            if !claims::are_stale(set, &pod, claims) {
                let claims = claims::ensure(set, &pod, claims);
                actions.push(Action::Create { pod: Box::new(pod), claims });
            }
            return true;
        };
        // Succeeded too: what ends an evicted pod is the exit code of its container.
        if is_terminal(pod) {
            if !is_going(pod) {
                actions.push(Action::Delete(Arc::clone(pod)));
            }
            return true;
        }
        if phase(pod) == "Pending" {
            let work = claims::ensure(set, pod, claims);
            if !work.is_empty() {
                actions.push(Action::Claims { pod: Arc::clone(pod), claims: work });
            }
        }
        if ordered && (is_going(pod) || self.must_wait_for(pod)) {
            return true;
        }
        let volumes = !identity::storage_matches(set, pod);
        let owners = claims::match_policy(&self.view.update.set, pod, claims);
        let covered = actions.iter().any(|action| matches!(action, Action::Claims { .. }));
        if volumes || !identity::matches(set, pod) || (!owners && !covered) {
            let update = &self.view.update.set;
            let work = if volumes { claims::ensure(update, pod, claims) } else { claims::retain(update, pod, claims) };
            actions.push(Action::Repair { pod: Arc::clone(pod), claims: work, volumes });
        }
        false
    }

    fn retain(&self, pod: &Arc<Pod>) -> Option<Action> {
        let (set, claims) = (&self.view.update.set, self.view.claims);
        (!claims::match_policy(set, pod, claims))
            .then(|| Action::Retain { pod: Arc::clone(pod), claims: claims::retain(set, pod, claims) })
    }

    /// The pods to be replaced by ones of the update revision.
    fn replace(&self) -> Vec<Action> {
        let strategy = spec(self.view.set).update_strategy.as_ref();
        if strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("OnDelete") {
            return Vec::new();
        }
        let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
        let partition = rolling.and_then(|rolling| rolling.partition).unwrap_or(0);
        // The partition counts from the first ordinal on.
        let partition = usize::try_from(partition).unwrap_or(0);
        if !self.view.max_unavailable {
            return self.replace_one(partition).into_iter().map(Action::Delete).collect();
        }
        let wanted = rolling.and_then(|rolling| rolling.max_unavailable.as_ref());
        let allowed = if wanted.is_some() { scaled(wanted, replicas(self.view.set), false).max(1) } else { 1 };
        let unavailable = self.replicas.iter().filter(|replica| self.is_missing_or_unavailable(replica)).count();
        let left = usize::try_from(allowed).unwrap_or(0).saturating_sub(unavailable);
        let pods = self.replicas.iter().skip(partition).rev().filter_map(|replica| replica.pod.as_ref());
        pods.filter(|pod| self.is_outdated(pod)).take(left).map(|pod| Action::Delete(Arc::clone(pod))).collect()
    }

    fn is_missing_or_unavailable(&self, replica: &Replica) -> bool {
        replica.pod.as_ref().is_none_or(|pod| self.is_unavailable(pod))
    }

    fn is_outdated(&self, pod: &Pod) -> bool {
        identity::revision(pod) != self.view.update.name && !is_going(pod)
    }

    /// From the highest ordinal down: the first outdated pod, if all above it are available.
    fn replace_one(&self, partition: usize) -> Option<Arc<Pod>> {
        for replica in self.replicas.iter().skip(partition).rev() {
            if let Some(pod) = replica.pod.as_ref().filter(|pod| self.is_outdated(pod)) {
                return Some(Arc::clone(pod));
            }
            if self.is_missing_or_unavailable(replica) {
                return None;
            }
        }
        None
    }

    /// `replaced` pods leave the current revision.
    fn finish(self, steps: Vec<Step>, replaced: usize) -> Plan {
        let view = self.view;
        let on_failure = status::calculate(view);
        let mut status = on_failure.clone();
        if replaced > 0 {
            let replaced = i32::try_from(replaced).unwrap_or(i32::MAX);
            // Pods of a third revision were not counted as current.
            status.current_replicas = Some((status.current_replicas.unwrap_or(0) - replaced).max(0));
        }
        let steps = steps.into_iter().filter(|step| match step {
            Step::InOrder(actions) => !actions.is_empty(),
            Step::AtOnce(pods) => !pods.is_empty(),
        });
        Plan {
            steps: steps.collect(),
            status: status::completed(view, status),
            status_on_failure: status::completed(view, on_failure),
        }
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
