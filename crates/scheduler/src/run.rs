//! The scheduler's tasks: one loop runs scheduling cycles, bindings and evictions run beside it.

use std::collections::BTreeMap;
use std::sync::Arc;

use client::{EventKind, EventRecorder, Informers};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cache::Cache;
use crate::config::{Config, ConfigError};
use crate::cycle::{Placement, Rejection, Settings, schedule};
use crate::framework::{ClusterEvent, Code, Handle, Profile, Status, Unreserve, Wait};
use crate::metrics;
use crate::pod_info::PodInfo;
use crate::queue::{Queue, Waiting};
use crate::snapshot::Snapshot;
use crate::watching::Watches;

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
    let watches = Watches::start(&informers);
    let handle = Arc::new(Handle { listers: watches.listers(), ..Handle::default() });
    let profiles = config.make_profiles(&handle)?;
    let scheduler = Arc::new(Scheduler {
        profiles,
        settings: Settings { percentage_of_nodes_to_score: config.percentage_of_nodes_to_score },
        client,
        recorder,
        handle,
        state: Mutex::default(),
        changed: Notify::new(),
        tasks: TaskTracker::new(),
    });
    scheduler.state.lock().queue.backing_off = config.backoff;
    scheduler.tasks.spawn(writer);
    tokio::select! {
        result = watches.feed(&scheduler) => result?,
        () = token.cancelled() => return Ok(()),
    }
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
    settings: Settings,
    pub(crate) client: kube::Client,
    recorder: EventRecorder,
    pub(crate) handle: Arc<Handle>,
    pub(crate) state: Mutex<State>,
    /// The queue may have something new.
    pub(crate) changed: Notify,
    pub(crate) tasks: TaskTracker,
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
        let (mut start, mut snapshot) = (0, Snapshot::default());
        loop {
            let (waiting, wake) = {
                let mut state = self.state.lock();
                let wake = state.queue.advance(&self.profiles, Instant::now());
                let waiting = state.queue.pop();
                if waiting.is_some() {
                    state.cache.refresh(&mut snapshot);
                } else {
                    state.report();
                }
                (waiting, wake)
            };
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
            self.attempt(waiting, &snapshot, &mut start);
            // A long queue must not keep the informers' task from running on a machine with one core.
            tokio::task::yield_now().await;
        }
    }

    /// One attempt at one pod: all of it that is not I/O.
    fn attempt(self: &Arc<Self>, waiting: Waiting, snapshot: &Snapshot, start: &mut usize) {
        let started = Instant::now();
        let Some(profile) = self.profile_of(&waiting.pod.pod).cloned() else {
            return self.state.lock().queue.done(&waiting.pod.uid);
        };
        if waiting.pod.pod.metadata.deletion_timestamp.is_some() {
            return self.state.lock().queue.done(&waiting.pod.uid);
        }
        let result = schedule(&profile, &waiting.pod, snapshot, self.settings, start);
        metrics::algorithm(started.elapsed());
        let assumed = result.and_then(|placement| self.assume(&waiting, &profile, placement));
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
        let reserved = profile.reserve(state, &node).and_then(|reserved| {
            let wait = profile.permit(&reserved.state, &pod.pod, &node)?;
            Ok((reserved, wait))
        });
        match reserved {
            Ok((reserved, wait)) => {
                self.handle.nominator.remove(&pod.uid);
                Ok((node, reserved, wait))
            }
            Err(status) => {
                self.state.lock().cache.remove_pod(&pod.uid);
                Err(Rejection::by(&status))
            }
        }
    }

    /// Back into the queue, with what there is to tell and to do.
    fn give_up(self: &Arc<Self>, waiting: Waiting, mut rejection: Rejection, profile: &Profile, started: Instant) {
        let result = if rejection.is_failure { "error" } else { "unschedulable" };
        metrics::attempt(result, profile.name(), started.elapsed());
        let pod = waiting.pod;
        if let Some(node) = &rejection.nominate {
            self.handle.nominator.set(&pod, node);
        }
        // First, so that the pod does not become active between.
        if let Some(eviction) = rejection.eviction.take() {
            self.start_eviction(Arc::clone(&pod), *eviction);
        }
        self.state.lock().queue.reject(&self.profiles, &pod.uid, rejection.plugins.clone(), Instant::now());
        self.changed.notify_one();
        let scheduler = Arc::clone(self);
        self.tasks.spawn(async move { scheduler.tell_rejection(&pod.pod, &rejection).await });
    }

    async fn bind(self: Arc<Self>, assumed: Assumed) {
        let Assumed { waiting, profile, node, reserved, wait, started } = assumed;
        let pod = Arc::clone(&waiting.pod);
        let permitted = self.wait_on_permit(&pod, wait).await;
        let result = if permitted.is_success() {
            profile.bind(&reserved.state, &self.client, &pod.pod, &node).await
        } else {
            Err(permitted)
        };
        match result {
            Ok(()) => {
                reserved.keep();
                self.state.lock().queue.done(&pod.uid);
                metrics::attempt("scheduled", profile.name(), started.elapsed());
                metrics::scheduled(waiting.attempts, waiting.first_seen.elapsed());
                let (namespace, name) = (pod.pod.namespace().unwrap_or_default(), pod.pod.name_any());
                let message = format!("Successfully assigned {namespace}/{name} to {node}");
                self.recorder_of(&pod.pod).record(pod.pod.as_ref(), EventKind::Normal, "Scheduled", message);
            }
            Err(status) => {
                drop(reserved);
                self.forget(&pod);
                self.give_up(waiting, Rejection::by(&status), &profile, started);
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

    /// The pod is not bound after all: others may have its room.
    fn forget(&self, pod: &PodInfo) {
        self.state.lock().cache.remove_pod(&pod.uid);
        self.on_event(ClusterEvent::AssignedPod { old: Some(Arc::clone(&pod.pod)), new: None });
    }
}

impl State {
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
