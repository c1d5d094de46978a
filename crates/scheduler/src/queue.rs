//! The pods that wait for a node: active (by priority, then age), backing off, or unschedulable until something changes (KEP-4247).
//!
//! Pure: time comes in as an argument, nothing here waits. A pod is in exactly one part, or in flight (being scheduled or bound);
//! events that arrive while it is in flight are kept and looked at when it comes back rejected, so that none is missed.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use tokio::time::Instant;

use crate::framework::{ClusterEvent, Profile};
use crate::metrics;
use crate::pod_info::PodInfo;

/// Upstream's DefaultPodMaxInUnschedulablePodsDuration: after this a pod is tried again, in case an event was misjudged.
pub(crate) const UNSCHEDULABLE_MAX: Duration = Duration::from_secs(300);

/// The profiles by the name that pods choose them by.
pub(crate) type Profiles = BTreeMap<String, Arc<Profile>>;

/// A waiting pod with its history.
#[derive(Clone)]
pub(crate) struct Waiting {
    pub(crate) pod: Arc<PodInfo>,
    pub(crate) attempts: u32,
    /// When it was seen first.
    pub(crate) first_seen: Instant,
    /// The plugins that rejected it last; empty after a failure that is nobody's opinion.
    rejected_by: BTreeSet<&'static str>,
    /// A PreEnqueue plugin keeps it out.
    gated: bool,
    since: Instant,
}

/// The order of the active queue: higher priority first, then who waited longest.
type ActiveKey = (std::cmp::Reverse<i32>, Instant, String);

enum Place {
    Active(ActiveKey),
    Backoff(Instant),
    Unschedulable(Instant),
}

/// How long a pod that was rejected is left alone: doubled with each attempt.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backoff {
    /// `podInitialBackoffSeconds`.
    pub(crate) first: Duration,
    /// `podMaxBackoffSeconds`.
    pub(crate) max: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { first: Duration::from_secs(1), max: Duration::from_secs(10) }
    }
}

impl Backoff {
    fn after(self, attempts: u32) -> Duration {
        match attempts {
            0 => Duration::ZERO,
            attempts => self.first.saturating_mul(1 << (attempts - 1).min(20)).min(self.max),
        }
    }
}

#[derive(Default)]
pub(crate) struct Queue {
    pub(crate) backing_off: Backoff,
    pods: HashMap<String, (Waiting, Place)>,
    active: BTreeSet<ActiveKey>,
    backoff: BTreeSet<(Instant, String)>,
    unschedulable: BTreeSet<(Instant, String)>,
    /// In flight: the number of the first event that came after the pod was taken.
    in_flight: HashMap<String, (Waiting, u64)>,
    /// The first event of those in flight, counted, so that the oldest is found at once.
    in_flight_first: BTreeMap<u64, usize>,
    events: VecDeque<ClusterEvent>,
    /// The number of the first event in `events`.
    events_first: u64,
}

fn profile_of<'a>(profiles: &'a Profiles, pod: &Pod) -> Option<&'a Arc<Profile>> {
    profiles.get(pod.spec.as_ref().and_then(|spec| spec.scheduler_name.as_deref()).unwrap_or("default-scheduler"))
}

fn wants(profiles: &Profiles, waiting: &Waiting, event: &ClusterEvent) -> bool {
    profile_of(profiles, &waiting.pod.pod).is_some_and(|profile| profile.wants(&waiting.pod.pod, &waiting.rejected_by, event))
}

impl Queue {
    /// Takes in a pod that is new, or whose object changed while it waited.
    pub(crate) fn add(&mut self, profiles: &Profiles, pod: Arc<PodInfo>, now: Instant) {
        let id = pod.uid.clone();
        if let Some((waiting, _)) = self.in_flight.get_mut(&id) {
            // Its own change may be what it needs, but it is not known yet what rejects it.
            let event = ClusterEvent::UnscheduledPod { old: Arc::clone(&waiting.pod.pod), new: Arc::clone(&pod.pod) };
            waiting.pod = pod;
            self.events.push_back(event);
            return;
        }
        match self.remove(&id) {
            Some((mut waiting, place)) => {
                let event = ClusterEvent::UnscheduledPod { old: Arc::clone(&waiting.pod.pod), new: Arc::clone(&pod.pod) };
                waiting.pod = pod;
                match place {
                    Place::Unschedulable(_) if waiting.gated || wants(profiles, &waiting, &event) => {
                        self.requeue(profiles, waiting, "UnscheduledPodUpdate", now);
                    }
                    Place::Active(_) => self.activate(profiles, waiting, "UnscheduledPodUpdate", now),
                    place => self.insert(waiting, place),
                }
            }
            None => {
                let rejected_by = BTreeSet::new();
                let waiting = Waiting { pod, attempts: 0, first_seen: now, rejected_by, gated: false, since: now };
                self.activate(profiles, waiting, "UnscheduledPodAdd", now);
            }
        }
    }

    /// Forgets a pod: it is gone, or has a node.
    pub(crate) fn delete(&mut self, id: &str) {
        self.remove(id);
        self.done(id);
    }

    /// Whether a pod is being scheduled or bound.
    pub(crate) fn is_in_flight(&self, id: &str) -> bool {
        self.in_flight.contains_key(id)
    }

    /// Takes the pod whose turn it is; it is in flight until [`Queue::done`] or [`Queue::reject`]. With nobody else to do, one that is
    /// still backing off after a rejection has its turn early (KEP-5142).
    pub(crate) fn pop(&mut self) -> Option<Waiting> {
        let id = match self.active.first() {
            Some((_, _, id)) => id.clone(),
            None => {
                let rejected = |id: &&String| self.pods.get(*id).is_some_and(|(waiting, _)| !waiting.rejected_by.is_empty());
                self.backoff.iter().map(|(_, id)| id).find(rejected)?.clone()
            }
        };
        let (mut waiting, _) = self.remove(&id)?;
        waiting.attempts += 1;
        let first = self.events_next();
        *self.in_flight_first.entry(first).or_default() += 1;
        self.in_flight.insert(id, (waiting.clone(), first));
        Some(waiting)
    }

    /// The pod is bound, or gone.
    pub(crate) fn done(&mut self, id: &str) {
        self.land(id);
    }

    /// No longer in flight.
    fn land(&mut self, id: &str) -> Option<(Waiting, Vec<ClusterEvent>)> {
        let (waiting, first) = self.in_flight.remove(id)?;
        let skip = usize::try_from(first - self.events_first).unwrap_or(usize::MAX);
        let missed = self.events.iter().skip(skip).cloned().collect();
        if let Some(count) = self.in_flight_first.get_mut(&first) {
            *count -= 1;
            if *count == 0 {
                self.in_flight_first.remove(&first);
            }
        }
        self.trim_events();
        Some((waiting, missed))
    }

    /// The pod comes back without a node. With `rejected_by` empty it failed for no plugin's reason and is tried after the back-off.
    pub(crate) fn reject(&mut self, profiles: &Profiles, id: &str, rejected_by: BTreeSet<&'static str>, now: Instant) {
        let Some((mut waiting, missed)) = self.land(id) else { return };
        let failed = rejected_by.is_empty();
        waiting.rejected_by = rejected_by;
        waiting.since = now;
        if failed || missed.iter().any(|event| concerns(&waiting, event) && wants(profiles, &waiting, event)) {
            self.requeue(profiles, waiting, "ScheduleAttemptFailure", now);
        } else {
            metrics::incoming("unschedulable", "ScheduleAttemptFailure");
            self.insert(waiting, Place::Unschedulable(now));
        }
    }

    /// Something changed in the cluster: whoever may profit is tried again.
    pub(crate) fn on_event(&mut self, profiles: &Profiles, event: ClusterEvent, now: Instant) {
        let wanting: Vec<String> = self
            .unschedulable
            .iter()
            .filter(|(_, id)| self.pods.get(id).is_some_and(|(waiting, _)| wants(profiles, waiting, &event)))
            .map(|(_, id)| id.clone())
            .collect();
        for id in wanting {
            if let Some((waiting, _)) = self.remove(&id) {
                self.requeue(profiles, waiting, label(&event), now);
            }
        }
        if !self.in_flight.is_empty() {
            self.events.push_back(event);
        }
    }

    /// Tries a pod again without waiting for anything.
    pub(crate) fn activate_now(&mut self, profiles: &Profiles, id: &str, now: Instant) {
        if let Some((waiting, _)) = self.remove(id) {
            self.activate(profiles, waiting, "ForceActivate", now);
        }
    }

    /// Moves on what has waited long enough. Returns when to call again.
    pub(crate) fn advance(&mut self, profiles: &Profiles, now: Instant) -> Option<Instant> {
        while let Some((_, id)) = self.backoff.first().cloned().filter(|(due, _)| *due <= now) {
            if let Some((waiting, _)) = self.remove(&id) {
                self.activate(profiles, waiting, "BackoffComplete", now);
            }
        }
        while let Some((_, id)) = self.unschedulable.first().cloned().filter(|(since, _)| *since + UNSCHEDULABLE_MAX <= now) {
            if let Some((mut waiting, _)) = self.remove(&id) {
                // Even if it stays where it is, it is not overdue again at once.
                waiting.since = now;
                waiting.attempts = waiting.attempts.min(1);
                self.activate(profiles, waiting, "UnschedulableTimeout", now);
            }
        }
        let next_backoff = self.backoff.first().map(|(due, _)| *due);
        let next_overdue = self.unschedulable.first().map(|(since, _)| *since + UNSCHEDULABLE_MAX);
        [next_backoff, next_overdue].into_iter().flatten().min()
    }

    /// The pods of each part, under the names of the metric `scheduler_pending_pods`.
    pub(crate) fn counts(&self) -> BTreeMap<&'static str, usize> {
        let is_gated = |id: &String| self.pods.get(id).is_some_and(|(waiting, _)| waiting.gated);
        let gated = self.unschedulable.iter().filter(|(_, id)| is_gated(id)).count();
        BTreeMap::from([
            ("active", self.active.len()),
            ("backoff", self.backoff.len()),
            ("unschedulable", self.unschedulable.len() - gated),
            ("gated", gated),
        ])
    }

    /// Into the active queue, if the back-off is over and the PreEnqueue plugins agree.
    fn requeue(&mut self, profiles: &Profiles, waiting: Waiting, event: &str, now: Instant) {
        let due = waiting.since + self.backing_off.after(waiting.attempts);
        if due > now && !waiting.gated {
            metrics::incoming("backoff", event);
            self.insert(waiting, Place::Backoff(due));
        } else {
            self.activate(profiles, waiting, event, now);
        }
    }

    fn activate(&mut self, profiles: &Profiles, mut waiting: Waiting, event: &str, now: Instant) {
        let Some(profile) = profile_of(profiles, &waiting.pod.pod) else { return };
        let status = profile.pre_enqueue(&waiting.pod.pod);
        waiting.gated = !status.is_success();
        if waiting.gated {
            metrics::incoming("gated", event);
            // Added to the others: what helps against them must still be heard of.
            waiting.rejected_by.insert(status.plugin());
            return self.insert(waiting, Place::Unschedulable(now));
        }
        metrics::incoming("active", event);
        let key = (std::cmp::Reverse(waiting.pod.priority()), waiting.since, waiting.pod.uid.clone());
        self.insert(waiting, Place::Active(key));
    }

    fn insert(&mut self, waiting: Waiting, place: Place) {
        let id = waiting.pod.uid.clone();
        match &place {
            Place::Active(key) => self.active.insert(key.clone()),
            Place::Backoff(due) => self.backoff.insert((*due, id.clone())),
            Place::Unschedulable(since) => self.unschedulable.insert((*since, id.clone())),
        };
        self.pods.insert(id, (waiting, place));
    }

    fn remove(&mut self, id: &str) -> Option<(Waiting, Place)> {
        let (waiting, place) = self.pods.remove(id)?;
        match &place {
            Place::Active(key) => self.active.remove(key),
            Place::Backoff(due) => self.backoff.remove(&(*due, id.to_owned())),
            Place::Unschedulable(since) => self.unschedulable.remove(&(*since, id.to_owned())),
        };
        Some((waiting, place))
    }

    fn events_next(&self) -> u64 {
        self.events_first + self.events.len() as u64
    }

    /// Drops the events that came before every pod in flight was taken.
    fn trim_events(&mut self) {
        let oldest = self.in_flight_first.keys().next().copied().unwrap_or_else(|| self.events_next());
        while self.events_first < oldest && self.events.pop_front().is_some() {
            self.events_first += 1;
        }
    }
}

/// A change of a waiting pod's own object concerns only that pod.
fn concerns(waiting: &Waiting, event: &ClusterEvent) -> bool {
    match event {
        ClusterEvent::UnscheduledPod { new, .. } => new.metadata.uid == waiting.pod.pod.metadata.uid,
        _ => true,
    }
}

/// Upstream's name of an event, for metrics.
fn label(event: &ClusterEvent) -> &'static str {
    match event {
        ClusterEvent::AssignedPod { old: None, .. } => "AssignedPodAdd",
        ClusterEvent::AssignedPod { new: None, .. } => "AssignedPodDelete",
        ClusterEvent::AssignedPod { .. } => "AssignedPodUpdate",
        ClusterEvent::UnscheduledPod { .. } => "UnscheduledPodUpdate",
        ClusterEvent::Node { old: None, .. } => "NodeAdd",
        ClusterEvent::Node { .. } => "NodeUpdate",
        ClusterEvent::NodeGone(_) => "NodeDelete",
        ClusterEvent::PersistentVolume(_) => "PersistentVolumeChange",
        ClusterEvent::PersistentVolumeClaim(_) => "PersistentVolumeClaimChange",
        ClusterEvent::StorageClass(_) => "StorageClassChange",
        ClusterEvent::CsiNode(_) => "CSINodeChange",
        ClusterEvent::CsiDriver(_) => "CSIDriverChange",
        ClusterEvent::CsiStorageCapacity(_) => "CSIStorageCapacityChange",
        ClusterEvent::VolumeAttachment(_) => "VolumeAttachmentChange",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plugins::default_profile;

    fn pod(name: &str, priority: i32) -> Arc<PodInfo> {
        let object = json!({"metadata": {"name": name, "uid": name}, "spec": {"priority": priority, "containers": []}});
        Arc::new(PodInfo::new(Arc::new(serde_json::from_value(object).unwrap())))
    }

    fn default_profiles() -> Profiles {
        let profile = default_profile("default-scheduler", &Arc::default());
        Profiles::from([("default-scheduler".to_owned(), Arc::new(profile))])
    }

    fn node_event() -> ClusterEvent {
        let node = json!({"metadata": {"name": "n"}, "status": {"allocatable": {"cpu": "1", "pods": "10"}}});
        ClusterEvent::Node { old: None, new: Arc::new(serde_json::from_value(node).unwrap()) }
    }

    fn pop_name(queue: &mut Queue) -> Option<String> {
        queue.pop().and_then(|waiting| waiting.pod.pod.metadata.name.clone())
    }

    fn rejected() -> BTreeSet<&'static str> {
        BTreeSet::from(["NodeResourcesFit"])
    }

    #[test]
    fn priority_then_age() {
        let (profile, mut queue, now) = (default_profiles(), Queue::default(), Instant::now());
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
        let (profile, mut queue, now) = (default_profiles(), Queue::default(), Instant::now());
        queue.add(&profile, pod("a", 0), now);
        queue.pop();
        queue.reject(&profile, "a", rejected(), now);
        assert_eq!(queue.counts()["unschedulable"], 1);
        queue.on_event(&profile, ClusterEvent::AssignedPod { old: None, new: Some(Arc::clone(&pod("b", 0).pod)) }, now);
        assert_eq!(queue.counts()["unschedulable"], 1, "a pod more does not help");
        queue.on_event(&profile, node_event(), now);
        assert_eq!(queue.counts()["backoff"], 1);
        assert_eq!(queue.advance(&profile, now), Some(now + Duration::from_secs(1)));
        queue.advance(&profile, now + Duration::from_secs(1));
        assert_eq!(queue.counts()["active"], 1);
        assert_eq!(pop_name(&mut queue).as_deref(), Some("a"));
    }

    #[test]
    fn an_event_during_the_attempt_is_not_missed() {
        let (profile, mut queue, now) = (default_profiles(), Queue::default(), Instant::now());
        queue.add(&profile, pod("a", 0), now);
        queue.pop();
        queue.on_event(&profile, node_event(), now);
        queue.reject(&profile, "a", rejected(), now);
        assert_eq!(queue.counts()["backoff"], 1);
        assert!(queue.events.is_empty(), "events are kept only while somebody is in flight");
    }

    #[test]
    fn a_gated_pod_waits_for_its_own_change() {
        let (profile, mut queue, now) = (default_profiles(), Queue::default(), Instant::now());
        let gated =
            json!({"metadata": {"name": "g", "uid": "g"}, "spec": {"containers": [], "schedulingGates": [{"name": "wait"}]}});
        let gated = Arc::new(PodInfo::new(Arc::new(serde_json::from_value(gated).unwrap())));
        queue.add(&profile, gated, now);
        queue.on_event(&profile, node_event(), now);
        assert_eq!(queue.counts()["gated"], 1);
        queue.add(&profile, pod("g", 0), now);
        assert_eq!(pop_name(&mut queue).as_deref(), Some("g"));
    }

    #[test]
    fn nobody_waits_for_ever_and_the_deleted_do_not_come_back() {
        let (profile, mut queue, now) = (default_profiles(), Queue::default(), Instant::now());
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
        let seconds: Vec<u64> = (0..7).map(|attempts| Backoff::default().after(attempts).as_secs()).collect();
        assert_eq!(seconds, [0, 1, 2, 4, 8, 10, 10]);
    }

    #[test]
    fn with_nothing_else_to_do_a_backoff_is_cut_short() {
        let (profile, mut queue, now) = (default_profiles(), Queue::default(), Instant::now());
        for (name, plugins) in [("failed", BTreeSet::new()), ("rejected", rejected())] {
            queue.add(&profile, pod(name, 0), now);
            queue.pop();
            queue.on_event(&profile, node_event(), now);
            queue.reject(&profile, name, plugins, now);
        }
        assert_eq!(queue.counts()["backoff"], 2);
        assert_eq!(pop_name(&mut queue).as_deref(), Some("rejected"));
        assert_eq!(pop_name(&mut queue), None, "after a failure the back-off is kept");
    }
}
