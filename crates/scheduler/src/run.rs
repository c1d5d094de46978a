//! The scheduler's tasks: informers feed queue and cache, one loop runs scheduling cycles, bindings run beside it.

use std::sync::Arc;

use client::{Change, EventKind, EventRecorder, Informers};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cache::Cache;
use crate::cycle::{Placement, Rejection, schedule};
use crate::framework::{ClusterEvent, Profile};
use crate::plugins::default_profile;
use crate::queue::{Queue, Waiting};

/// The scheduler's settings.
#[derive(Clone, Debug)]
pub struct Config {
    /// Pods with this `spec.schedulerName` are ours; upstream's default is `default-scheduler`.
    pub scheduler_name: String,
}

impl Default for Config {
    fn default() -> Self {
        Self { scheduler_name: "default-scheduler".to_owned() }
    }
}

/// Why the scheduler ended before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum SchedulerError {
    /// The informers stopped before they had seen the cluster.
    #[error("the scheduler could not read pods and nodes")]
    Sync(#[from] client::ResyncError),
}

/// Runs until the token is cancelled; bindings under way are finished.
pub async fn run(config: Config, client: kube::Client, token: CancellationToken) -> Result<(), SchedulerError> {
    let informers = Informers::new(client.clone(), token.clone());
    let (recorder, writer) = EventRecorder::new(client.clone(), config.scheduler_name.clone(), None, token.clone());
    let tasks = TaskTracker::new();
    tasks.spawn(writer);
    let scheduler = Arc::new(Scheduler {
        profile: default_profile(),
        client,
        recorder,
        state: Mutex::new(State { cache: Cache::default(), queue: Queue::default() }),
        changed: Notify::new(),
        name: config.scheduler_name,
    });
    // Nodes and placed pods first: what is counted before the first decision cannot be overcommitted.
    let (nodes, pods) = (informers.get::<Node>(), informers.get::<Pod>());
    let watcher = Arc::clone(&scheduler);
    nodes.add_handler(move |change| watcher.on_node(change));
    let watcher = Arc::clone(&scheduler);
    pods.add_handler(move |change| watcher.on_pod(change));
    let synced = async {
        nodes.wait_synced().await?;
        pods.wait_synced().await
    };
    tokio::select! {
        result = synced => result?,
        () = token.cancelled() => return Ok(()),
    }
    scheduler.schedule_all(&tasks, &token).await;
    tasks.close();
    tasks.wait().await;
    informers.stopped().await;
    Ok(())
}

struct State {
    cache: Cache,
    queue: Queue,
}

struct Scheduler {
    profile: Profile,
    client: kube::Client,
    recorder: EventRecorder,
    state: Mutex<State>,
    /// The queue may have something new.
    changed: Notify,
    name: String,
}

fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).filter(|name| !name.is_empty())
}

/// A pod that has ended holds nothing.
fn has_ended(pod: &Pod) -> bool {
    matches!(pod.status.as_ref().and_then(|status| status.phase.as_deref()), Some("Succeeded" | "Failed"))
}

impl Scheduler {
    fn on_node(&self, change: &Change<'_, Node>) {
        let mut state = self.state.lock();
        let event = match change {
            Change::Added(node) => {
                state.cache.set_node(Arc::clone(node));
                ClusterEvent::Node { old: None, new: Arc::clone(node) }
            }
            Change::Updated { old, new } => {
                state.cache.set_node(Arc::clone(new));
                ClusterEvent::Node { old: Some(Arc::clone(old)), new: Arc::clone(new) }
            }
            Change::Deleted(node) => return state.cache.remove_node(&node.name_any()),
        };
        state.queue.on_event(&self.profile, event, Instant::now());
        drop(state);
        self.changed.notify_one();
    }

    fn on_pod(&self, change: &Change<'_, Pod>) {
        let (old, new) = match change {
            Change::Added(pod) => (None, Some(Arc::clone(pod))),
            Change::Updated { old, new } => (Some(Arc::clone(old)), Some(Arc::clone(new))),
            Change::Deleted(pod) => (Some(Arc::clone(pod)), None),
        };
        let Some(uid) = change.object().metadata.uid.clone() else { return };
        let now = Instant::now();
        let mut state = self.state.lock();
        let placed = new.as_ref().filter(|pod| !has_ended(pod)).and_then(|pod| Some((pod, node_of(pod)?)));
        if let Some((pod, node)) = placed {
            state.cache.place(&uid, node, pod);
            state.queue.delete(&uid);
            let event = ClusterEvent::AssignedPod { old: old.filter(|old| node_of(old).is_some()), new: new.clone() };
            state.queue.on_event(&self.profile, event, now);
        } else if old.as_ref().is_some_and(|old| node_of(old).is_some()) {
            state.cache.remove_pod(&uid);
            state.queue.on_event(&self.profile, ClusterEvent::AssignedPod { old, new: None }, now);
        } else {
            match new {
                Some(pod) if self.is_ours(&pod) => state.queue.add(&self.profile, pod, now),
                _ => state.queue.delete(&uid),
            }
        }
        drop(state);
        self.changed.notify_one();
    }

    fn is_ours(&self, pod: &Pod) -> bool {
        let name = pod.spec.as_ref().and_then(|spec| spec.scheduler_name.as_deref()).unwrap_or("default-scheduler");
        name == self.name && pod.metadata.deletion_timestamp.is_none() && !has_ended(pod)
    }

    /// Takes pods from the queue, one at a time, until the token is cancelled.
    async fn schedule_all(self: &Arc<Self>, tasks: &TaskTracker, token: &CancellationToken) {
        let mut start = 0;
        loop {
            let (waiting, nodes, wake) = {
                let mut state = self.state.lock();
                let wake = state.queue.advance(&self.profile, Instant::now());
                (state.queue.pop(), state.cache.snapshot(), wake)
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
            match schedule(&self.profile, &waiting.pod, &nodes, &mut start).await {
                Ok(placement) => self.assume_and_bind(waiting, placement, tasks),
                Err(rejection) => {
                    let scheduler = Arc::clone(self);
                    scheduler.requeue(&waiting, &rejection);
                    tasks.spawn(async move { scheduler.tell_rejection(&waiting, &rejection).await });
                }
            }
        }
    }

    /// Counts the pod on its node at once, and binds it in a task of its own.
    fn assume_and_bind(self: &Arc<Self>, waiting: Waiting, placement: Placement, tasks: &TaskTracker) {
        let uid = waiting.pod.uid().unwrap_or_default();
        self.state.lock().cache.place(&uid, &placement.node, &waiting.pod);
        let scheduler = Arc::clone(self);
        tasks.spawn(async move { scheduler.bind(waiting, placement).await });
    }

    async fn bind(&self, waiting: Waiting, placement: Placement) {
        let (pod, node) = (&waiting.pod, &placement.node);
        let uid = pod.uid().unwrap_or_default();
        let result = match self.profile.reserve(placement.state, pod, node) {
            Ok(reserved) => {
                let result = self.profile.bind(&reserved.state, &self.client, pod, node).await;
                if result.is_ok() {
                    reserved.keep();
                }
                result
            }
            Err(status) => Err(status),
        };
        match result {
            Ok(()) => {
                self.state.lock().queue.done(&uid);
                let message =
                    format!("Successfully assigned {}/{} to {node}", pod.namespace().unwrap_or_default(), pod.name_any());
                self.recorder.record(pod.as_ref(), EventKind::Normal, "Scheduled", message);
            }
            Err(status) => {
                self.state.lock().cache.remove_pod(&uid);
                let plugins = if status.is_rejected() { [status.plugin()].into() } else { Default::default() };
                let rejection = Rejection { message: status.reasons().join(", "), plugins, nominated: None };
                self.requeue(&waiting, &rejection);
                self.tell_rejection(&waiting, &rejection).await;
            }
        }
    }

    fn requeue(&self, waiting: &Waiting, rejection: &Rejection) {
        let uid = waiting.pod.uid().unwrap_or_default();
        self.state.lock().queue.reject(&self.profile, &uid, rejection.plugins.clone(), Instant::now());
        self.changed.notify_one();
    }

    /// Event and condition, so that `kubectl describe pod` says why the pod waits.
    async fn tell_rejection(&self, waiting: &Waiting, rejection: &Rejection) {
        let pod = &waiting.pod;
        self.recorder.record(pod.as_ref(), EventKind::Warning, "FailedScheduling", &rejection.message);
        let reason = if rejection.plugins.is_empty() { "SchedulerError" } else { "Unschedulable" };
        let known = pod.status.as_ref().and_then(|status| status.conditions.as_ref()).into_iter().flatten().any(|condition| {
            condition.type_ == "PodScheduled"
                && condition.status == "False"
                && condition.reason.as_deref() == Some(reason)
                && condition.message.as_deref() == Some(&rejection.message)
        });
        if known && rejection.nominated.is_none() {
            return;
        }
        let mut status = json!({"conditions": [{
            "type": "PodScheduled",
            "status": "False",
            "reason": reason,
            "message": rejection.message,
            "lastProbeTime": null,
            "lastTransitionTime": jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        }]});
        if let Some(node) = &rejection.nominated {
            status["nominatedNodeName"] = json!(node);
        }
        let pods = Api::<Pod>::namespaced(self.client.clone(), &pod.namespace().unwrap_or_default());
        let patch = Patch::Strategic(json!({"metadata": {"uid": pod.uid()}, "status": status}));
        if let Err(error) = pods.patch_status(&pod.name_any(), &PatchParams::default(), &patch).await {
            // The pod may be gone; otherwise the next attempt tells again.
            tracing::debug!(namespace = pod.namespace(), name = pod.name_any(), %error, "cannot set the condition PodScheduled");
        }
    }
}

async fn sleep_until(wake: Option<Instant>) {
    match wake {
        Some(wake) => tokio::time::sleep_until(wake).await,
        None => std::future::pending().await,
    }
}
