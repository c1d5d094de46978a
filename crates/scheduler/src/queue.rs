//! The pods that wait for a node: active (by priority, then age), backing off, or unschedulable until something changes (KEP-4247).
//!
//! Pure: time comes in as an argument, nothing here waits. A pod is in exactly one part, or in flight (being scheduled or bound);
//! events that arrive while its cycle runs are kept and looked at when it comes back rejected, so that none is missed.
//! Backing off ends to the instant, where upstream rounds to windows of a second.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use tokio::time::Instant;

use crate::framework::{ClusterEvent, Profile, Worth};
use crate::metrics;
use crate::pod_info::PodInfo;

/// Upstream's DefaultPodMaxInUnschedulablePodsDuration: after this a pod is tried again, in case an event was misjudged.
pub(crate) const UNSCHEDULABLE_MAX: Duration = Duration::from_secs(300);

/// The profiles by the name that pods choose them by.
pub(crate) type Profiles = BTreeMap<String, Arc<Profile>>;

/// The plugins on whose account a pod waits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rejectors {
    /// They rejected it; empty, as is `pending`, after a failure that is nobody's opinion.
    pub(crate) rejected: BTreeSet<&'static str>,
    /// They wait for something to happen that is on its way: then the pod is tried without a back-off.
    pub(crate) pending: BTreeSet<&'static str>,
}

impl Rejectors {
    fn is_empty(&self) -> bool {
        self.rejected.is_empty() && self.pending.is_empty()
    }

    fn all(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.rejected.union(&self.pending).copied()
    }
}

/// A waiting pod with its history.
#[derive(Clone)]
pub(crate) struct Waiting {
    pub(crate) pod: Arc<PodInfo>,
    pub(crate) attempts: u32,
    /// When it was ready to be scheduled first.
    pub(crate) first_active: Option<Instant>,
    by: Rejectors,
    /// The PreEnqueue plugin that keeps it out.
    gated_by: Option<&'static str>,
    /// How often it was rejected, and how often in a row it failed: each has a back-off of its own.
    rejections: u32,
    failures: u32,
    since: Instant,
}

/// The order of the active queue: higher priority first, then who waited longest.
type ActiveKey = (Reverse<i32>, Instant, String);
/// The order of those that back off: who is done first, then as above.
type BackoffKey = (Instant, ActiveKey);

enum Place {
    Active(ActiveKey),
    Backoff(BackoffKey),
    /// The same after a failure: nobody takes it early.
    FailedBackoff(BackoffKey),
    Unschedulable(Instant),
}

/// How long a pod that was rejected is left alone: doubled with each attempt.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backoff {
    /// `podInitialBackoffSeconds`.
    pub(crate) first: Duration,
    /// `podMaxBackoffSeconds`.
    pub(crate) max: Duration,
    /// After this a pod that nothing seems to help is tried again.
    pub(crate) unschedulable_max: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { first: Duration::from_secs(1), max: Duration::from_secs(10), unschedulable_max: UNSCHEDULABLE_MAX }
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
    backoff: BTreeSet<BackoffKey>,
    failed_backoff: BTreeSet<BackoffKey>,
    unschedulable: BTreeSet<(Instant, String)>,
    /// How many unschedulable pods each plugin has on its account: an event that none of these cares for costs nothing.
    rejectors: HashMap<&'static str, usize>,
    gated: usize,
    /// In flight: the number of the first event that came after the pod was taken, while its cycle runs.
    in_flight: HashMap<String, (Waiting, Option<u64>)>,
    /// The first event of those in flight, counted, so that the oldest is found at once.
    in_flight_first: BTreeMap<u64, usize>,
    events: VecDeque<ClusterEvent>,
    /// The number of the first event in `events`.
    events_first: u64,
}

fn profile_of<'a>(profiles: &'a Profiles, pod: &Pod) -> Option<&'a Arc<Profile>> {
    profiles.get(pod.spec.as_ref().and_then(|spec| spec.scheduler_name.as_deref()).unwrap_or("default-scheduler"))
}

/// What an event is worth to a pod.
fn worth(profiles: &Profiles, waiting: &Waiting, event: &ClusterEvent) -> Worth {
    match event {
        ClusterEvent::Force(uid) if *uid == waiting.pod.uid => return Worth::AfterBackoff,
        ClusterEvent::Force(_) => return Worth::Nothing,
        _ if !concerns(waiting, event) => return Worth::Nothing,
        _ => {}
    }
    if waiting.by.is_empty() {
        return Worth::AfterBackoff;
    }
    let Some(profile) = profile_of(profiles, &waiting.pod.pod) else { return Worth::Nothing };
    if waiting.gated_by.is_some_and(|plugin| !profile.listens(plugin, event)) {
        return Worth::Nothing;
    }
    profile.worth(&waiting.pod, &waiting.by, event)
}

impl Queue {
    /// Takes in a pod that is new, or whose object changed while it waited.
    pub(crate) fn add(&mut self, profiles: &Profiles, pod: Arc<PodInfo>, now: Instant) {
        let id = pod.uid.clone();
        if let Some((waiting, _)) = self.in_flight.get_mut(&id) {
            // Its own change may be what it needs, but it is not known yet what rejects it.
            let event = ClusterEvent::UnscheduledPod { old: Arc::clone(&waiting.pod.pod), new: Arc::clone(&pod.pod) };
            waiting.pod = pod;
            return self.remember(event);
        }
        match self.remove(&id) {
            Some((mut waiting, place)) => {
                let event = ClusterEvent::UnscheduledPod { old: Arc::clone(&waiting.pod.pod), new: Arc::clone(&pod.pod) };
                waiting.pod = pod;
                match place {
                    Place::Unschedulable(_) => match worth(profiles, &waiting, &event) {
                        Worth::Nothing => self.insert(waiting, place),
                        worth => self.requeue(profiles, waiting, worth, event.label(), now),
                    },
                    place => self.insert(waiting, place),
                }
            }
            None => {
                let waiting = Waiting {
                    pod,
                    attempts: 0,
                    first_active: None,
                    by: Rejectors::default(),
                    gated_by: None,
                    rejections: 0,
                    failures: 0,
                    since: now,
                };
                self.activate(profiles, waiting, "UnschedulablePodAdd", now);
            }
        }
    }

    /// Forgets a pod: it is gone, or has a node.
    pub(crate) fn delete(&mut self, id: &str) {
        if let Some((waiting, _)) = self.remove(id) {
            count_reasons(&waiting, -1);
        }
        self.land(id);
    }

    /// Whether a pod is being scheduled or bound.
    pub(crate) fn is_in_flight(&self, id: &str) -> bool {
        self.in_flight.contains_key(id)
    }

    /// Takes the pod whose turn it is; it is in flight until [`Queue::done`] or [`Queue::reject`]. With nobody else to do, one that is
    /// still backing off after a rejection has its turn early (KEP-5142).
    pub(crate) fn pop(&mut self) -> Option<Waiting> {
        let (_, _, id) = self.active.first().or_else(|| self.backoff.first().map(|(_, key)| key))?.clone();
        let (mut waiting, _) = self.remove(&id)?;
        count_reasons(&waiting, -1);
        waiting.attempts += 1;
        waiting.by = Rejectors::default();
        let first = self.events_next();
        *self.in_flight_first.entry(first).or_default() += 1;
        self.in_flight.insert(id, (waiting.clone(), Some(first)));
        Some(waiting)
    }

    /// The pod is bound, or gone.
    pub(crate) fn done(&mut self, id: &str) {
        self.land(id);
    }

    /// The pod has passed Permit: what happens in the cluster no longer matters to it, only whether its binding succeeds.
    pub(crate) fn binds(&mut self, id: &str) {
        if let Some(first) = self.in_flight.get_mut(id).and_then(|(_, first)| first.take()) {
            self.forget_first(first);
        }
    }

    /// No longer in flight; with the number of the first event that it has not seen, if its cycle did not end before.
    fn land(&mut self, id: &str) -> Option<(Waiting, Option<u64>)> {
        let (waiting, first) = self.in_flight.remove(id)?;
        if let Some(first) = first {
            self.forget_first(first);
        }
        Some((waiting, first))
    }

    fn forget_first(&mut self, first: u64) {
        if let Some(count) = self.in_flight_first.get_mut(&first) {
            *count -= 1;
            if *count == 0 {
                self.in_flight_first.remove(&first);
                self.trim_events();
            }
        }
    }

    /// The pod comes back without a node. If no plugin has rejected it, it failed for no plugin's reason and is tried after the back-off.
    pub(crate) fn reject(&mut self, profiles: &Profiles, id: &str, by: Rejectors, now: Instant) {
        let Some((waiting, first)) = self.in_flight.get_mut(id) else { return };
        waiting.by = by;
        waiting.since = now;
        let best = if waiting.by.is_empty() {
            waiting.failures += 1;
            Worth::AfterBackoff
        } else {
            waiting.rejections += 1;
            waiting.failures = 0;
            match *first {
                Some(first) => {
                    let skip = usize::try_from(first - self.events_first).unwrap_or(usize::MAX);
                    let events = self.events.iter().skip(skip);
                    events.map(|event| worth(profiles, waiting, event)).max().unwrap_or(Worth::Nothing)
                }
                // A plugin that rejects a pod in its binding cycle: nobody has listened for what may help.
                None => Worth::AfterBackoff,
            }
        };
        let Some((waiting, _)) = self.land(id) else { return };
        count_reasons(&waiting, 1);
        match best {
            Worth::Nothing => {
                metrics::incoming("unschedulable", "ScheduleAttemptFailure");
                self.insert(waiting, Place::Unschedulable(now));
            }
            worth => self.requeue(profiles, waiting, worth, "ScheduleAttemptFailure", now),
        }
    }

    /// Something changed in the cluster: whoever may profit is tried again.
    pub(crate) fn on_event(&mut self, profiles: &Profiles, event: ClusterEvent, now: Instant) {
        self.on_event_for(profiles, event, now, |_| true);
    }

    /// The same for some pods only.
    pub(crate) fn on_event_for(&mut self, profiles: &Profiles, event: ClusterEvent, now: Instant, of: impl Fn(&PodInfo) -> bool) {
        if self.is_of_interest(profiles, &event) {
            let ids = self.unschedulable.iter().map(|(_, id)| id);
            let pods = ids.filter_map(|id| self.pods.get(id)).filter(|(waiting, _)| of(&waiting.pod));
            let worths = pods.map(|(waiting, _)| (waiting.pod.uid.clone(), worth(profiles, waiting, &event)));
            let wanting: Vec<_> = worths.filter(|(_, worth)| *worth > Worth::Nothing).collect();
            for (id, worth) in wanting {
                if let Some((waiting, _)) = self.remove(&id) {
                    self.requeue(profiles, waiting, worth, event.label(), now);
                }
            }
        }
        self.remember(event);
    }

    /// Whether any plugin that has a pod on its account cares for such events at all.
    fn is_of_interest(&self, profiles: &Profiles, event: &ClusterEvent) -> bool {
        !self.unschedulable.is_empty()
            && self.rejectors.keys().any(|plugin| profiles.values().any(|profile| profile.listens(plugin, event)))
    }

    /// Keeps an event for those whose cycle runs.
    fn remember(&mut self, event: ClusterEvent) {
        if !self.in_flight_first.is_empty() {
            self.events.push_back(event);
        }
    }

    /// Tries a pod again without waiting for anything; one whose cycle runs, as soon as it comes back.
    pub(crate) fn activate_now(&mut self, profiles: &Profiles, id: &str, now: Instant) {
        match self.pods.get(id) {
            Some((_, Place::Active(_))) => {}
            Some(_) => {
                if let Some((waiting, _)) = self.remove(id) {
                    self.activate(profiles, waiting, "ForceActivate", now);
                }
            }
            None => self.remember(ClusterEvent::Force(id.to_owned())),
        }
    }

    /// Moves on what has waited long enough. Returns when to call again.
    pub(crate) fn advance(&mut self, profiles: &Profiles, now: Instant) -> Option<Instant> {
        let due = |queue: &BTreeSet<BackoffKey>| queue.first().filter(|(due, _)| *due <= now).map(|(_, key)| key.2.clone());
        while let Some(id) = due(&self.backoff).or_else(|| due(&self.failed_backoff)) {
            if let Some((waiting, _)) = self.remove(&id) {
                self.make_active(waiting, "BackoffComplete", now);
            }
        }
        let longest = self.backing_off.unschedulable_max;
        while let Some((_, id)) = self.unschedulable.first().cloned().filter(|(since, _)| *since + longest <= now) {
            if let Some((waiting, _)) = self.remove(&id) {
                self.requeue(profiles, waiting, Worth::AfterBackoff, "UnschedulableTimeout", now);
            }
        }
        let backoffs = [self.backoff.first(), self.failed_backoff.first()].into_iter().flatten().map(|(due, _)| *due);
        backoffs.chain(self.unschedulable.first().map(|(since, _)| *since + self.backing_off.unschedulable_max)).min()
    }

    /// The pods of each part, under the names of the metric `scheduler_pending_pods`.
    pub(crate) fn counts(&self) -> BTreeMap<&'static str, usize> {
        BTreeMap::from([
            ("active", self.active.len()),
            ("backoff", self.backoff.len() + self.failed_backoff.len()),
            ("unschedulable", self.unschedulable.len() - self.gated),
            ("gated", self.gated),
        ])
    }

    /// Into the active queue, if the back-off is over and the PreEnqueue plugins agree.
    fn requeue(&mut self, profiles: &Profiles, mut waiting: Waiting, worth: Worth, event: &str, now: Instant) {
        let count = if waiting.failures > 0 { waiting.failures } else { waiting.rejections };
        let due = waiting.since + self.backing_off.after(count);
        if worth == Worth::AtOnce || due <= now {
            return self.activate(profiles, waiting, event, now);
        }
        if is_gated(profiles, &mut waiting) {
            return self.gate(waiting, event, now);
        }
        metrics::incoming("backoff", event);
        let key = (due, active_key(&waiting));
        let place = if waiting.by.is_empty() { Place::FailedBackoff(key) } else { Place::Backoff(key) };
        self.insert(waiting, place);
    }

    fn activate(&mut self, profiles: &Profiles, mut waiting: Waiting, event: &str, now: Instant) {
        if profile_of(profiles, &waiting.pod.pod).is_none() {
            return count_reasons(&waiting, -1);
        }
        if is_gated(profiles, &mut waiting) {
            return self.gate(waiting, event, now);
        }
        self.make_active(waiting, event, now);
    }

    fn gate(&mut self, waiting: Waiting, event: &str, now: Instant) {
        metrics::incoming("gated", event);
        self.insert(waiting, Place::Unschedulable(now));
    }

    fn make_active(&mut self, mut waiting: Waiting, event: &str, now: Instant) {
        metrics::incoming("active", event);
        waiting.first_active.get_or_insert(now);
        let key = active_key(&waiting);
        self.insert(waiting, Place::Active(key));
    }

    fn insert(&mut self, waiting: Waiting, place: Place) {
        let id = waiting.pod.uid.clone();
        match &place {
            Place::Active(key) => {
                self.active.insert(key.clone());
            }
            Place::Backoff(key) => {
                self.backoff.insert(key.clone());
            }
            Place::FailedBackoff(key) => {
                self.failed_backoff.insert(key.clone());
            }
            Place::Unschedulable(since) => {
                self.unschedulable.insert((*since, id.clone()));
                self.gated += usize::from(waiting.gated_by.is_some());
                waiting.by.all().for_each(|plugin| *self.rejectors.entry(plugin).or_default() += 1);
            }
        }
        self.pods.insert(id, (waiting, place));
    }

    fn remove(&mut self, id: &str) -> Option<(Waiting, Place)> {
        let (waiting, place) = self.pods.remove(id)?;
        match &place {
            Place::Active(key) => {
                self.active.remove(key);
            }
            Place::Backoff(key) => {
                self.backoff.remove(key);
            }
            Place::FailedBackoff(key) => {
                self.failed_backoff.remove(key);
            }
            Place::Unschedulable(since) => {
                self.unschedulable.remove(&(*since, id.to_owned()));
                self.gated -= usize::from(waiting.gated_by.is_some());
                for plugin in waiting.by.all() {
                    if let Some(pods) = self.rejectors.get_mut(plugin) {
                        *pods -= 1;
                        if *pods == 0 {
                            self.rejectors.remove(plugin);
                        }
                    }
                }
            }
        }
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

fn active_key(waiting: &Waiting) -> ActiveKey {
    (Reverse(waiting.pod.priority()), waiting.since, waiting.pod.uid.clone())
}

/// Asks the PreEnqueue plugins. The one that refuses is added to those on whose account the pod waits: what helps against them must
/// still be heard of.
fn is_gated(profiles: &Profiles, waiting: &mut Waiting) -> bool {
    let Some(profile) = profile_of(profiles, &waiting.pod.pod) else { return false };
    let status = profile.pre_enqueue(&waiting.pod.pod);
    waiting.gated_by = (!status.is_success()).then(|| status.plugin());
    if let Some(plugin) = waiting.gated_by
        && waiting.by.rejected.insert(plugin)
    {
        metrics::unschedulable_reason(plugin, profile.name(), 1);
    }
    waiting.gated_by.is_some()
}

fn count_reasons(waiting: &Waiting, by: i64) {
    let spec = waiting.pod.pod.spec.as_ref();
    let profile = spec.and_then(|spec| spec.scheduler_name.as_deref()).unwrap_or("default-scheduler");
    waiting.by.all().for_each(|plugin| metrics::unschedulable_reason(plugin, profile, by));
}

/// A change of a waiting pod's own object concerns only that pod.
fn concerns(waiting: &Waiting, event: &ClusterEvent) -> bool {
    match event {
        ClusterEvent::UnscheduledPod { new, .. } => new.metadata.uid.as_ref() == Some(&waiting.pod.uid),
        _ => true,
    }
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
