//! The scheduler's tasks: one loop runs scheduling cycles, bindings and evictions run beside it.

use std::collections::BTreeMap;
use std::sync::Arc;

use client::{EventKind, EventRecorder, Informers};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cache::Cache;
use crate::config::{Config, ConfigError};
use crate::cycle::{Course, Placement, Rejection, Settings, Surroundings, schedule};
use crate::extender::Extender;
use crate::framework::{ClusterEvent, Code, Handle, Profile, Status, Unreserve, Wait};
use crate::metrics;
use crate::pod_info::PodInfo;
use crate::queue::{Backoff, Profiles, Queue, Waiting};
use crate::snapshot::Snapshot;
use crate::watching::Watches;

/// Bindings and reports of rejections that are sent at the same time.
const REQUESTS_MAX: usize = 100;

/// Why the scheduler ended before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum SchedulerError {
    /// The informers stopped before they had seen the cluster.
    #[error("the scheduler could not read pods and nodes")]
    Sync(#[from] client::ResyncError),
    /// The configuration cannot be used.
    #[error("the scheduler's configuration cannot be used")]
    Config(#[from] ConfigError),
}

/// Runs until the token is cancelled; bindings under way are finished.
pub async fn run(config: Config, client: kube::Client, token: CancellationToken) -> Result<(), SchedulerError> {
    let informers = Informers::new(client.clone(), token.clone());
    let (recorder, writer) = EventRecorder::new(client.clone(), "default-scheduler", None, token.clone());
    let watches = Watches::start(&informers, config.feature_gates);
    let handle = Arc::new(Handle { listers: watches.listers(), ..Handle::default() });
    let scheduler = Arc::new(Scheduler::new(&config, client, recorder, handle)?);
    scheduler.tasks.spawn(writer);
    tokio::select! {
        result = watches.feed(&scheduler) => result?,
        () = token.cancelled() => return Ok(()),
    }
    config.ready.set();
    scheduler.schedule_all(&token).await;
    scheduler.tasks.close();
    scheduler.tasks.wait().await;
    informers.stopped().await;
    Ok(())
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) cache: Cache,
    pub(crate) queue: Queue,
}

/// All that the tasks share.
pub(crate) struct Scheduler {
    profiles: BTreeMap<String, Arc<Profile>>,
    extenders: Vec<Arc<dyn Extender>>,
    settings: Settings,
    pub(crate) client: kube::Client,
    recorder: EventRecorder,
    pub(crate) handle: Arc<Handle>,
    pub(crate) state: Mutex<State>,
    /// The queue may have something new.
    pub(crate) changed: Notify,
    pub(crate) tasks: TaskTracker,
    /// Requests under way: each has a connection of its own, and thousands of bindings may be due at once.
    pub(crate) requests: Semaphore,
}

/// What one cycle hands on to the next.
#[derive(Default)]
pub(crate) struct Cycles {
    snapshot: Snapshot,
    course: Course,
}

/// A pod that has been given a node and waits to be bound.
struct Assumed {
    waiting: Waiting,
    profile: Arc<Profile>,
    node: String,
    reserved: Unreserve,
    wait: Option<Wait>,
    started: Instant,
}

impl Scheduler {
    /// A scheduler that knows nothing of the cluster yet.
    pub(crate) fn new(
        config: &Config,
        client: kube::Client,
        recorder: EventRecorder,
        handle: Arc<Handle>,
    ) -> Result<Self, ConfigError> {
        let mut state = State::default();
        state.queue.backing_off = Backoff { unschedulable_max: config.pod_max_in_unschedulable, ..config.backoff };
        Ok(Self {
            profiles: config.make_profiles(&handle)?,
            extenders: config.make_extenders()?,
            settings: Settings {
                percentage_of_nodes_to_score: config.percentage_of_nodes_to_score,
                batching: config.feature_gates.opportunistic_batching,
            },
            client,
            recorder,
            handle,
            state: Mutex::new(state),
            changed: Notify::new(),
            tasks: TaskTracker::new(),
            requests: Semaphore::new(REQUESTS_MAX),
        })
    }

    /// The profile that a pod asks for.
    pub(crate) fn profile_of(&self, pod: &Pod) -> Option<&Arc<Profile>> {
        let name = pod.spec.as_ref().and_then(|spec| spec.scheduler_name.as_deref()).unwrap_or("default-scheduler");
        self.profiles.get(name)
    }

    /// Records events in the name of the scheduler that a pod asks for.
    pub(crate) fn recorder_of(&self, pod: &Pod) -> EventRecorder {
        match self.profile_of(pod) {
            Some(profile) => self.recorder.for_component(profile.name()),
            None => self.recorder.clone(),
        }
    }

    /// Tries a pod again at once.
    pub(crate) fn activate(&self, uid: &str) {
        self.state.lock().queue.activate_now(&self.profiles, uid, Instant::now());
        self.changed.notify_one();
    }

    /// Tells the queue what has happened.
    pub(crate) fn on_event(&self, event: ClusterEvent) {
        if matches!(event, ClusterEvent::PersistentVolume(_) | ClusterEvent::PersistentVolumeClaim(_)) {
            self.handle.storage_changed.send_modify(|changes| *changes += 1);
        }
        self.state.lock().queue.on_event(&self.profiles, event, Instant::now());
        self.changed.notify_one();
    }

    /// All profiles by the name that pods choose them by.
    pub(crate) fn profiles(&self) -> &BTreeMap<String, Arc<Profile>> {
        &self.profiles
    }

    /// Takes pods from the queue, one at a time, until the token is cancelled.
    async fn schedule_all(self: &Arc<Self>, token: &CancellationToken) {
        let mut loop_state = Cycles::default();
        loop {
            let (waiting, wake) = self.next(&mut loop_state);
            let Some(waiting) = waiting else {
                tokio::select! {
                    () = self.changed.notified() => {}
                    () = sleep_until(wake) => {}
                    () = token.cancelled() => return,
                }
                continue;
            };
            if token.is_cancelled() {
                return;
            }
            if self.extenders.is_empty() {
                self.attempt(waiting, &mut loop_state);
                // A long queue must not keep the informers' task from running on a machine with one core.
                tokio::task::yield_now().await;
            } else {
                // Extenders are waited for.
                let scheduler = Arc::clone(self);
                let attempt = tokio::task::spawn_blocking(move || {
                    scheduler.attempt(waiting, &mut loop_state);
                    loop_state
                });
                match attempt.await {
                    Ok(after) => loop_state = after,
                    // The runtime is going down.
                    Err(_) => return,
                }
            }
        }
    }

    /// The pod whose turn it is, with the snapshot made fresh for it; and when to look again if nothing happens.
    fn next(&self, cycles: &mut Cycles) -> (Option<Waiting>, Option<Instant>) {
        let mut state = self.state.lock();
        let wake = state.queue.advance(&self.profiles, Instant::now());
        let waiting = state.queue.pop();
        if waiting.is_some() {
            state.cache.refresh(&mut cycles.snapshot);
            cycles.course.batches.begin_cycle();
        } else {
            state.report();
        }
        (waiting, wake)
    }

    /// Runs one cycle, if a pod waits for one. False if none does.
    #[cfg(test)]
    pub(crate) fn step(self: &Arc<Self>, cycles: &mut Cycles) -> bool {
        let (waiting, _) = self.next(cycles);
        let some = waiting.is_some();
        if let Some(waiting) = waiting {
            self.attempt(waiting, cycles);
        }
        some
    }

    /// One attempt at one pod: all of it that is not I/O, but for extenders.
    fn attempt(self: &Arc<Self>, waiting: Waiting, cycles: &mut Cycles) {
        let started = Instant::now();
        let pod = &waiting.pod.pod;
        let Some(profile) = self.profile_of(pod).cloned() else {
            return self.state.lock().queue.done(&waiting.pod.uid);
        };
        if pod.metadata.deletion_timestamp.is_some() {
            let message = format!("skip schedule deleting pod: {}/{}", pod.namespace().unwrap_or_default(), pod.name_any());
            self.recorder_of(pod).record(pod.as_ref(), EventKind::Warning, "FailedScheduling", message);
            return self.state.lock().queue.done(&waiting.pod.uid);
        }
        let around = Surroundings { snapshot: &cycles.snapshot, settings: self.settings, extenders: &self.extenders };
        let result = schedule(&profile, &waiting.pod, around, &mut cycles.course);
        metrics::algorithm(started.elapsed());
        let assumed = result.and_then(|placement| self.assume(&waiting, &profile, placement));
        let activations = std::mem::take(&mut *self.handle.activations.lock());
        activations.iter().for_each(|uid| self.activate(uid));
        match assumed {
            Ok((node, reserved, wait)) => {
                let scheduler = Arc::clone(self);
                let assumed = Assumed { waiting, profile, node, reserved, wait, started };
                self.tasks.spawn(async move { scheduler.bind(assumed).await });
            }
            Err(rejection) => self.give_up(waiting, rejection, &profile, started),
        }
    }

    /// Counts the pod on its node at once, so that the next cycle knows; reserves what it needs there.
    fn assume(
        &self,
        waiting: &Waiting,
        profile: &Arc<Profile>,
        placement: Placement,
    ) -> Result<(String, Unreserve, Option<Wait>), Rejection> {
        let Placement { node, state } = placement;
        let pod = &waiting.pod;
        self.state.lock().cache.place(&node, pod);
        let reserved = profile.timed("Reserve", || {
            let result = profile.reserve(state, &node);
            let code = result.as_ref().map_or_else(Status::code, |_| Code::Success);
            (result, code)
        });
        let reserved = reserved.and_then(|reserved| {
            let wait = profile.timed("Permit", || {
                let result = profile.permit(&reserved.state, &pod.pod, &node);
                let code =
                    result.as_ref().map_or_else(Status::code, |wait| if wait.is_some() { Code::Wait } else { Code::Success });
                (result, code)
            });
            wait.map(|wait| (reserved, wait))
        });
        match reserved {
            Ok((reserved, wait)) => {
                let kept = self.handle.nominator.node_of(&pod.uid);
                self.handle.nominator.remove(&pod.uid);
                if kept.is_some_and(|kept| kept != node) {
                    self.state.lock().on_room_left(&self.profiles, pod);
                }
                Ok((node, reserved, wait))
            }
            Err(status) => {
                self.state.lock().forget(&pod.uid);
                Err(Rejection::of_node(&status))
            }
        }
    }

    /// Back into the queue, with what there is to tell and to do.
    fn give_up(self: &Arc<Self>, waiting: Waiting, mut rejection: Rejection, profile: &Profile, started: Instant) {
        let result = if rejection.is_failure { "error" } else { "unschedulable" };
        metrics::attempt(result, profile.name(), started.elapsed());
        let (pod, attempts) = (waiting.pod, waiting.attempts);
        let before = self.handle.nominator.node_of(&pod.uid);
        if let Some(node) = &rejection.nominate {
            self.handle.nominator.set(&pod, node);
        }
        let left = before.is_some() && before != self.handle.nominator.node_of(&pod.uid);
        // First, so that the pod does not become active between.
        if let Some(eviction) = rejection.eviction.take() {
            self.start_eviction(Arc::clone(&pod), *eviction);
        }
        let mut state = self.state.lock();
        state.queue.reject(&self.profiles, &pod.uid, rejection.by.clone(), Instant::now());
        if left {
            state.on_room_left(&self.profiles, &pod);
        }
        drop(state);
        self.changed.notify_one();
        let scheduler = Arc::clone(self);
        self.tasks.spawn(async move { scheduler.tell_rejection(&pod.pod, &rejection, attempts).await });
    }

    async fn bind(self: Arc<Self>, assumed: Assumed) {
        let _binding = metrics::Working::on("binding");
        let Assumed { waiting, profile, node, mut reserved, wait, started } = assumed;
        let pod = Arc::clone(&waiting.pod);
        match self.binding_cycle(&pod, &profile, &node, &mut reserved, wait).await {
            Ok(()) => {
                reserved.keep();
                self.state.lock().queue.done(&pod.uid);
                metrics::attempt("scheduled", profile.name(), started.elapsed());
                metrics::scheduled(waiting.attempts, waiting.first_active.map(|since| since.elapsed()));
                let (namespace, name) = (pod.pod.namespace().unwrap_or_default(), pod.pod.name_any());
                let message = format!("Successfully assigned {namespace}/{name} to {node}");
                self.recorder_of(&pod.pod).record(pod.pod.as_ref(), EventKind::Normal, "Scheduled", message);
            }
            Err(status) => {
                drop(reserved);
                self.state.lock().forget(&pod.uid);
                // Others may have its room. One that was rejected is not helped by its own room: it must not see that as news.
                let room = ClusterEvent::AssignedPod { old: Some(Arc::clone(&pod.pod)), new: None };
                let rejection = Rejection::of_node(&status);
                if status.is_rejected() {
                    self.give_up(waiting, rejection, &profile, started);
                    let others = |other: &PodInfo| other.uid != pod.uid;
                    self.state.lock().queue.on_event_for(&self.profiles, room, Instant::now(), others);
                } else {
                    self.on_event(room);
                    self.give_up(waiting, rejection, &profile, started);
                }
                self.changed.notify_one();
            }
        }
    }

    /// What follows when a pod has its node: permission, what takes time, and the binding itself.
    async fn binding_cycle(
        &self,
        pod: &Arc<PodInfo>,
        profile: &Profile,
        node: &str,
        reserved: &mut Unreserve,
        wait: Option<Wait>,
    ) -> Result<(), Status> {
        let any_pre_bind = profile.pre_bind_pre_flight(&mut reserved.state, &pod.pod, node)?;
        if any_pre_bind || wait.is_some() {
            // It takes a while: others (an autoscaler) learn where the pod is going (KEP-5278).
            self.nominate_expected(pod, node).await;
        }
        let permitted = self.wait_on_permit(pod, wait).await;
        if !permitted.is_success() {
            return Err(permitted);
        }
        self.state.lock().queue.binds(&pod.uid);
        if any_pre_bind {
            let pre_bind = profile.pre_bind(&reserved.state, &self.client, &pod.pod, node);
            profile.timed_async("PreBind", pre_bind).await?;
        }
        match self.extenders.iter().find(|one| one.is_binder() && one.is_interested(&pod.pod)) {
            Some(extender) => {
                let (extender, bound, to) = (Arc::clone(extender), Arc::clone(&pod.pod), node.to_owned());
                let ignorable = extender.is_ignorable();
                let result = tokio::task::spawn_blocking(move || extender.bind(&bound, &to)).await;
                match result.unwrap_or_else(|error| Err(error.to_string())) {
                    Ok(()) => {
                        profile.post_bind(&pod.pod, node);
                        Ok(())
                    }
                    Err(error) if ignorable => {
                        tracing::info!(%error, "an extender that may be ignored does not bind");
                        profile.bind(&self.client, &pod.pod, node).await
                    }
                    Err(error) => Err(Status::new(Code::Error, [error])),
                }
            }
            None => {
                // Never closed: there is a permit sooner or later.
                let _permit = self.requests.acquire().await;
                profile.timed_async("Bind", profile.bind(&self.client, &pod.pod, node)).await
            }
        }
    }

    async fn wait_on_permit(&self, pod: &PodInfo, wait: Option<Wait>) -> Status {
        let Some(wait) = wait else { return Status::success() };
        let since = Instant::now();
        let status = self.handle.waiting.verdict(&pod.uid, wait).await;
        let result = if status.code() == Code::Success { "Success" } else { "Unschedulable" };
        metrics::permit_wait(result, since.elapsed());
        status
    }
}

impl State {
    /// The room that was kept for a pod by our own decision is free, of which its status may never have spoken: those that had to leave it
    /// may have it.
    fn on_room_left(&mut self, profiles: &Profiles, pod: &PodInfo) {
        let room = ClusterEvent::AssignedPod { old: Some(Arc::clone(&pod.pod)), new: None };
        let others = |other: &PodInfo| other.uid != pod.uid && other.priority() <= pod.priority();
        self.queue.on_event_for(profiles, room, Instant::now(), others);
    }

    /// Stops counting a pod on the node that it was to have. One that is no longer in flight is there after all, by what the API server
    /// says, or gone: then it is not ours to forget.
    fn forget(&mut self, uid: &str) {
        if self.queue.is_in_flight(uid) {
            self.cache.remove_pod(uid);
        }
    }

    /// Gauges, whenever there is nothing else to do.
    fn report(&self) {
        for (part, count) in self.queue.counts() {
            metrics::pending(part, count);
        }
        let (nodes, pods) = self.cache.sizes();
        metrics::cache_size(nodes, pods);
    }
}

async fn sleep_until(wake: Option<Instant>) {
    match wake {
        Some(wake) => tokio::time::sleep_until(wake).await,
        None => std::future::pending().await,
    }
}
