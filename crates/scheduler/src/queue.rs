//! The pods that wait for a node: active (by priority, then age), backing off, or unschedulable until something changes (KEP-4247).
//!
//! Pure: time comes in as an argument, nothing here waits. A pod is in exactly one part, or in flight (being scheduled or bound);
//! events that arrive while it is in flight are kept and looked at when it comes back rejected, so that none is missed.

#[cfg(test)]
use std::collections::BTreeMap;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use tokio::time::Instant;

use crate::framework::{ClusterEvent, Profile};

/// Upstream's DefaultPodInitialBackoffDuration.
const BACKOFF_FIRST: Duration = Duration::from_secs(1);
/// Upstream's DefaultPodMaxBackoffDuration.
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// Upstream's DefaultPodMaxInUnschedulablePodsDuration: after this a pod is tried again, in case an event was misjudged.
pub(crate) const UNSCHEDULABLE_MAX: Duration = Duration::from_secs(300);

/// A waiting pod with its history.
#[derive(Clone)]
pub(crate) struct Waiting {
    pub(crate) pod: Arc<Pod>,
    pub(crate) attempts: u32,
    /// The plugins that rejected it last; empty after a failure that is nobody's opinion.
    rejected_by: BTreeSet<&'static str>,
    since: Instant,
}

/// The order of the active queue: higher priority first, then who waited longest.
type ActiveKey = (std::cmp::Reverse<i32>, Instant, String);

enum Place {
    Active(ActiveKey),
    Backoff(Instant),
    Unschedulable,
}

#[derive(Default)]
pub(crate) struct Queue {
    pods: HashMap<String, (Waiting, Place)>,
    active: BTreeSet<ActiveKey>,
    backoff: BTreeSet<(Instant, String)>,
    /// In flight: the number of the first event that came after the pod was taken.
    in_flight: HashMap<String, (Waiting, u64)>,
    events: VecDeque<ClusterEvent>,
    /// The number of the first event in `events`.
    events_first: u64,
}

fn uid(pod: &Pod) -> String {
    pod.metadata.uid.clone().unwrap_or_default()
}

impl Queue {
    /// Takes in a pod that is new, or whose object changed while it waited.
    pub(crate) fn add(&mut self, profile: &Profile, pod: Arc<Pod>, now: Instant) {
        let id = uid(&pod);
        if let Some((waiting, _)) = self.in_flight.get_mut(&id) {
            waiting.pod = pod;
            return;
        }
        match self.remove(&id) {
            Some((mut waiting, place)) => {
                let event = ClusterEvent::UnscheduledPod { old: Arc::clone(&waiting.pod), new: Arc::clone(&pod) };
                waiting.pod = Arc::clone(&pod);
                match place {
                    Place::Unschedulable if profile.wants(&pod, &waiting.rejected_by, &event) => {
                        self.requeue(profile, waiting, now)
                    }
                    Place::Active(_) => self.activate(profile, waiting, now),
                    place => self.insert(waiting, place),
                }
            }
            None => {
                let waiting = Waiting { pod, attempts: 0, rejected_by: BTreeSet::new(), since: now };
                self.activate(profile, waiting, now);
            }
        }
    }

    /// Forgets a pod: it is gone, or has a node.
    pub(crate) fn delete(&mut self, id: &str) {
        self.remove(id);
        self.done(id);
    }

    /// Takes the pod whose turn it is; it is in flight until [`Queue::done`] or [`Queue::reject`].
    pub(crate) fn pop(&mut self) -> Option<Waiting> {
        let key = self.active.first()?.clone();
        let (mut waiting, _) = self.remove(&key.2)?;
        waiting.attempts += 1;
        self.in_flight.insert(key.2, (waiting.clone(), self.events_next()));
        Some(waiting)
    }

    /// The pod is bound, or gone.
    pub(crate) fn done(&mut self, id: &str) {
        self.in_flight.remove(id);
        self.trim_events();
    }

    /// The pod comes back without a node. With `rejected_by` empty it failed for no plugin's reason and is tried after the back-off.
    pub(crate) fn reject(&mut self, profile: &Profile, id: &str, rejected_by: BTreeSet<&'static str>, now: Instant) {
        let Some((mut waiting, first)) = self.in_flight.remove(id) else { return };
        let failed = rejected_by.is_empty();
        waiting.rejected_by = rejected_by;
        waiting.since = now;
        let skip = usize::try_from(first - self.events_first).unwrap_or(usize::MAX);
        let missed = self.events.iter().skip(skip).any(|event| profile.wants(&waiting.pod, &waiting.rejected_by, event));
        if failed || missed {
            self.requeue(profile, waiting, now);
        } else {
            self.insert(waiting, Place::Unschedulable);
        }
        self.trim_events();
    }

    /// Something changed in the cluster: whoever may profit is tried again.
    pub(crate) fn on_event(&mut self, profile: &Profile, event: ClusterEvent, now: Instant) {
        let wanting: Vec<String> = self
            .pods
            .iter()
            .filter(|(_, (waiting, place))| {
                matches!(place, Place::Unschedulable) && profile.wants(&waiting.pod, &waiting.rejected_by, &event)
            })
            .map(|(id, _)| id.clone())
            .collect();
        for id in wanting {
            if let Some((waiting, _)) = self.remove(&id) {
                self.requeue(profile, waiting, now);
            }
        }
        if !self.in_flight.is_empty() {
            self.events.push_back(event);
        }
    }

    /// Moves on what has waited long enough. Returns when to call again.
    pub(crate) fn advance(&mut self, profile: &Profile, now: Instant) -> Option<Instant> {
        while let Some((due, id)) = self.backoff.first().cloned().filter(|(due, _)| *due <= now) {
            if let Some((waiting, _)) = self.remove(&id) {
                self.activate(profile, waiting, now);
            } else {
                self.backoff.remove(&(due, id));
            }
        }
        let overdue: Vec<String> =
            self.unschedulable().filter(|(_, since)| *since + UNSCHEDULABLE_MAX <= now).map(|(id, _)| id).collect();
        for id in overdue {
            if let Some((waiting, _)) = self.remove(&id) {
                self.requeue(profile, waiting, now);
            }
        }
        let next_backoff = self.backoff.first().map(|(due, _)| *due);
        let next_overdue = self.unschedulable().map(|(_, since)| since + UNSCHEDULABLE_MAX).min();
        [next_backoff, next_overdue].into_iter().flatten().min()
    }

    /// The pods of each part.
    #[cfg(test)]
    pub(crate) fn counts(&self) -> BTreeMap<&'static str, usize> {
        let unschedulable = self.unschedulable().count();
        BTreeMap::from([("active", self.active.len()), ("backoff", self.backoff.len()), ("unschedulable", unschedulable)])
    }

    fn unschedulable(&self) -> impl Iterator<Item = (String, Instant)> + '_ {
        self.pods
            .iter()
            .filter(|(_, (_, place))| matches!(place, Place::Unschedulable))
            .map(|(id, (waiting, _))| (id.clone(), waiting.since))
    }

    /// Into the active queue, if the back-off is over and the PreEnqueue plugins agree.
    fn requeue(&mut self, profile: &Profile, waiting: Waiting, now: Instant) {
        let due = waiting.since + backoff(waiting.attempts);
        if due > now { self.insert(waiting, Place::Backoff(due)) } else { self.activate(profile, waiting, now) }
    }

    fn activate(&mut self, profile: &Profile, mut waiting: Waiting, now: Instant) {
        let status = profile.pre_enqueue(&waiting.pod);
        if !status.is_success() {
            waiting.rejected_by = BTreeSet::from([status.plugin()]);
            waiting.since = now;
            self.insert(waiting, Place::Unschedulable);
            return;
        }
        let priority = waiting.pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or_default();
        let key = (std::cmp::Reverse(priority), waiting.since, uid(&waiting.pod));
        self.insert(waiting, Place::Active(key));
    }

    fn insert(&mut self, waiting: Waiting, place: Place) {
        let id = uid(&waiting.pod);
        match &place {
            Place::Active(key) => {
                self.active.insert(key.clone());
            }
            Place::Backoff(due) => {
                self.backoff.insert((*due, id.clone()));
            }
            Place::Unschedulable => {}
        }
        self.pods.insert(id, (waiting, place));
    }

    fn remove(&mut self, id: &str) -> Option<(Waiting, Place)> {
        let (waiting, place) = self.pods.remove(id)?;
        match &place {
            Place::Active(key) => {
                self.active.remove(key);
            }
            Place::Backoff(due) => {
                self.backoff.remove(&(*due, id.to_owned()));
            }
            Place::Unschedulable => {}
        }
        Some((waiting, place))
    }

    fn events_next(&self) -> u64 {
        self.events_first + self.events.len() as u64
    }

    /// Drops the events that came before every pod in flight was taken.
    fn trim_events(&mut self) {
        let oldest = self.in_flight.values().map(|(_, first)| *first).min().unwrap_or_else(|| self.events_next());
        while self.events_first < oldest && self.events.pop_front().is_some() {
            self.events_first += 1;
        }
    }
}

/// One second, doubled with each attempt, ten at most.
fn backoff(attempts: u32) -> Duration {
    match attempts {
        0 => Duration::ZERO,
        attempts => BACKOFF_FIRST.saturating_mul(1 << (attempts - 1).min(10)).min(BACKOFF_MAX),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plugins::default_profile;

    fn pod(name: &str, priority: i32) -> Arc<Pod> {
        let object = json!({"metadata": {"name": name, "uid": name}, "spec": {"priority": priority, "containers": []}});
        Arc::new(serde_json::from_value(object).unwrap())
    }

    fn node_event() -> ClusterEvent {
        let node = json!({"metadata": {"name": "n"}, "status": {"allocatable": {"cpu": "1", "pods": "10"}}});
        ClusterEvent::Node { old: None, new: Arc::new(serde_json::from_value(node).unwrap()) }
    }

    fn pop_name(queue: &mut Queue) -> Option<String> {
        queue.pop().and_then(|waiting| waiting.pod.metadata.name.clone())
    }

    fn rejected() -> BTreeSet<&'static str> {
        BTreeSet::from(["NodeResourcesFit"])
    }

    #[test]
    fn priority_then_age() {
        let (profile, mut queue, now) = (default_profile(), Queue::default(), Instant::now());
        queue.add(&profile, pod("first", 0), now);
        queue.add(&profile, pod("second", 0), now + Duration::from_millis(1));
        queue.add(&profile, pod("urgent", 10), now + Duration::from_millis(2));
        assert_eq!(pop_name(&mut queue).as_deref(), Some("urgent"));
        assert_eq!(pop_name(&mut queue).as_deref(), Some("first"));
        assert_eq!(pop_name(&mut queue).as_deref(), Some("second"));
        assert_eq!(pop_name(&mut queue), None);
    }

    #[test]
    fn an_event_that_helps_brings_a_pod_back_after_its_backoff() {
        let (profile, mut queue, now) = (default_profile(), Queue::default(), Instant::now());
        queue.add(&profile, pod("a", 0), now);
        queue.pop();
        queue.reject(&profile, "a", rejected(), now);
        assert_eq!(queue.counts()["unschedulable"], 1);
        queue.on_event(&profile, ClusterEvent::AssignedPod { old: None, new: Some(pod("b", 0)) }, now);
        assert_eq!(queue.counts()["unschedulable"], 1, "a pod more does not help");
        queue.on_event(&profile, node_event(), now);
        assert_eq!(queue.counts()["backoff"], 1);
        assert_eq!(queue.advance(&profile, now), Some(now + BACKOFF_FIRST));
        assert_eq!(pop_name(&mut queue), None);
        queue.advance(&profile, now + BACKOFF_FIRST);
        assert_eq!(pop_name(&mut queue).as_deref(), Some("a"));
    }

    #[test]
    fn an_event_during_the_attempt_is_not_missed() {
        let (profile, mut queue, now) = (default_profile(), Queue::default(), Instant::now());
        queue.add(&profile, pod("a", 0), now);
        queue.pop();
        queue.on_event(&profile, node_event(), now);
        queue.reject(&profile, "a", rejected(), now);
        assert_eq!(queue.counts()["backoff"], 1);
        assert!(queue.events.is_empty(), "events are kept only while somebody is in flight");
    }

    #[test]
    fn a_gated_pod_waits_for_its_own_change() {
        let (profile, mut queue, now) = (default_profile(), Queue::default(), Instant::now());
        let gated =
            json!({"metadata": {"name": "g", "uid": "g"}, "spec": {"containers": [], "schedulingGates": [{"name": "wait"}]}});
        queue.add(&profile, Arc::new(serde_json::from_value(gated).unwrap()), now);
        queue.on_event(&profile, node_event(), now);
        assert_eq!(queue.counts()["unschedulable"], 1);
        queue.add(&profile, pod("g", 0), now);
        assert_eq!(pop_name(&mut queue).as_deref(), Some("g"));
    }

    #[test]
    fn nobody_waits_for_ever_and_the_deleted_do_not_come_back() {
        let (profile, mut queue, now) = (default_profile(), Queue::default(), Instant::now());
        for name in ["a", "b"] {
            queue.add(&profile, pod(name, 0), now);
            queue.pop();
            queue.reject(&profile, name, rejected(), now);
        }
        queue.delete("b");
        assert_eq!(queue.advance(&profile, now), Some(now + UNSCHEDULABLE_MAX));
        queue.advance(&profile, now + UNSCHEDULABLE_MAX);
        assert_eq!(pop_name(&mut queue).as_deref(), Some("a"));
        assert_eq!(pop_name(&mut queue), None);
        queue.delete("a");
        queue.reject(&profile, "a", rejected(), now);
        assert_eq!(queue.counts().values().sum::<usize>(), 0);
    }

    #[test]
    fn backoff_doubles_up_to_ten_seconds() {
        let seconds: Vec<u64> = (0..7).map(|attempts| backoff(attempts).as_secs()).collect();
        assert_eq!(seconds, [0, 1, 2, 4, 8, 10, 10]);
    }
}
