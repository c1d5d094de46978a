//! Which pods this node has, and the one worker task of each.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Pod, PodCondition, PodStatus};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::context::Core;
use crate::pod::access::PodAccess;
use crate::pod::allocation::Allocation;
use crate::pod::{conditions, worker};
use crate::runtime::labels;

/// One pod, shared by its worker and everything that tells the worker something.
pub(crate) struct PodEntry {
    pub(crate) uid: String,
    pod: Mutex<Arc<Pod>>,
    /// A static pod's mirror in the API.
    mirror: Mutex<Option<Arc<Pod>>>,
    /// The pod's source no longer has it.
    removed: AtomicBool,
    /// The kubelet decided that the pod fails: reason and message.
    failed: Mutex<Option<(String, String)>>,
    /// Cancelled when the pod has to stop, for whatever reason.
    pub(crate) stop: CancellationToken,
    /// The grace period of the deletion, which can only shrink.
    pub(crate) grace: watch::Sender<Option<i64>>,
    /// What the node has granted to the pod; `None` until its worker first looked.
    pub(crate) allocation: Mutex<Option<Allocation>>,
    /// The status last computed.
    pub(crate) status: Mutex<PodStatus>,
    notify: Notify,
}

impl PodEntry {
    pub(crate) fn new(pod: Arc<Pod>) -> Self {
        Self {
            uid: pod.uid().to_owned(),
            status: Mutex::new(pod.pod_status().clone()),
            grace: watch::Sender::new(None),
            pod: Mutex::new(pod),
            mirror: Mutex::new(None),
            allocation: Mutex::new(None),
            removed: AtomicBool::new(false),
            failed: Mutex::new(None),
            stop: CancellationToken::new(),
            notify: Notify::new(),
        }
    }

    /// The pod as last seen.
    pub(crate) fn pod(&self) -> Arc<Pod> {
        Arc::clone(&self.pod.lock())
    }

    /// The API object that shows this pod's status.
    pub(crate) fn target(&self) -> Option<Arc<Pod>> {
        let pod = self.pod();
        if pod.is_static() { self.mirror.lock().clone() } else { Some(pod) }
    }

    /// Sets a static pod's mirror.
    pub(crate) fn set_mirror(&self, mirror: Option<Arc<Pod>>) {
        *self.mirror.lock() = mirror;
        self.poke();
    }

    /// Whether the source no longer has the pod.
    pub(crate) fn is_removed(&self) -> bool {
        self.removed.load(Ordering::Acquire)
    }

    /// Why the kubelet failed the pod.
    pub(crate) fn failure(&self) -> Option<(String, String)> {
        self.failed.lock().clone()
    }

    /// Fails the pod for good (eviction, deadline, admission); the first reason stays.
    pub(crate) fn fail(&self, reason: &str, message: impl Into<String>) {
        self.failed.lock().get_or_insert_with(|| (reason.to_owned(), message.into()));
        self.stop.cancel();
        self.poke();
    }

    /// Wakes the worker.
    pub(crate) fn poke(&self) {
        self.notify.notify_one();
    }

    /// Waits for a wake-up; one that came before counts. Cancellation-safe.
    pub(crate) async fn poked(&self) {
        self.notify.notified().await;
    }

    fn update(&self, pod: Arc<Pod>, removed: bool) {
        if removed {
            self.removed.store(true, Ordering::Release);
        }
        if removed || pod.is_deleted() {
            let grace = pod.metadata.deletion_grace_period_seconds;
            self.grace.send_if_modified(|current| {
                let shrinks = grace.is_some_and(|new| current.is_none_or(|old| new < old));
                if shrinks {
                    *current = grace;
                }
                shrinks
            });
            *self.pod.lock() = pod;
            self.stop.cancel();
        } else {
            let old = std::mem::replace(&mut *self.pod.lock(), Arc::clone(&pod));
            // The echo of our own status writes is no news.
            if asks_the_same(&old, &pod) {
                return;
            }
        }
        self.poke();
    }
}

/// Whether two versions of a pod differ only in what the kubelet itself writes.
fn asks_the_same(old: &Pod, new: &Pod) -> bool {
    let foreign = |pod: &Pod| -> Vec<PodCondition> {
        let owned = |c: &PodCondition| conditions::OWNED.contains(&c.type_.as_str());
        pod.pod_status().conditions.iter().flatten().filter(|c| !owned(c)).cloned().collect()
    };
    let (a, b) = (&old.metadata, &new.metadata);
    old.spec == new.spec
        && a.labels == b.labels
        && a.annotations == b.annotations
        && a.deletion_timestamp == b.deletion_timestamp
        && old.phase_is_terminal() == new.phase_is_terminal()
        && foreign(old) == foreign(new)
}

/// All pods of this node by uid.
#[derive(Default)]
pub(crate) struct PodTable {
    entries: Mutex<HashMap<String, Arc<PodEntry>>>,
}

impl PodTable {
    /// The pod with that uid.
    pub(crate) fn get(&self, uid: &str) -> Option<Arc<PodEntry>> {
        self.entries.lock().get(uid).cloned()
    }

    /// All pods.
    pub(crate) fn all(&self) -> Vec<Arc<PodEntry>> {
        self.entries.lock().values().cloned().collect()
    }

    /// The pod of that name that is not gone; a static pod is found by its own name.
    pub(crate) fn by_name(&self, namespace: &str, name: &str) -> Option<Arc<PodEntry>> {
        let entries = self.entries.lock();
        let named = entries.values().filter(|entry| {
            let pod = entry.pod();
            pod.namespace() == namespace && pod.name() == name
        });
        // While one of that name goes, another may have come.
        named.min_by_key(|entry| (entry.is_removed(), entry.pod().is_deleted())).cloned()
    }

    /// Wakes the worker of the pod `uid`.
    pub(crate) fn poke(&self, uid: &str) {
        if let Some(entry) = self.get(uid) {
            entry.poke();
        }
    }

    /// Wakes the pods whose resize waits: something was given back.
    pub(crate) fn poke_pending(&self) {
        let waits = |entry: &PodEntry| entry.allocation.lock().as_ref().is_some_and(|a| a.pending.is_some());
        self.all().iter().filter(|entry| waits(entry)).for_each(|entry| entry.poke());
    }

    /// Forgets a pod whose worker has ended.
    pub(crate) fn forget(&self, uid: &str) {
        self.entries.lock().remove(uid);
    }
}

/// A pod is new or changed at its source.
pub(crate) fn upsert(core: &Arc<Core>, pod: Arc<Pod>) {
    let (entry, new) = {
        let mut entries = core.pods.entries.lock();
        match entries.get(pod.uid()) {
            Some(entry) => (Arc::clone(entry), false),
            None => {
                let entry = Arc::new(PodEntry::new(Arc::clone(&pod)));
                entries.insert(entry.uid.clone(), Arc::clone(&entry));
                (entry, true)
            }
        }
    };
    entry.update(pod, false);
    if new {
        core.tasks.spawn(worker::run(Arc::clone(core), entry));
    }
}

/// A pod is gone from its source.
pub(crate) fn remove(core: &Arc<Core>, pod: Arc<Pod>) {
    if let Some(entry) = core.pods.get(pod.uid()) {
        entry.update(pod, true);
    }
}

/// Wakes workers when the runtime reports a change; after a broken stream, and every [`Config::relist_interval`](crate::Config), all of them.
pub(crate) async fn follow_runtime(core: Arc<Core>) {
    let poke_all = || {
        core.runtime_changes.send_modify(|count| *count += 1);
        core.pods.all().iter().for_each(|entry| entry.poke());
    };
    loop {
        match core.runtime.get_container_events(cri::v1::GetEventsRequest {}).await {
            Ok(mut events) => {
                poke_all();
                loop {
                    tokio::select! {
                        () = core.token.cancelled() => return,
                        () = tokio::time::sleep(core.config.relist_interval) => poke_all(),
                        event = events.next() => match event {
                            Some(Ok(event)) => poke_event(&core, &event),
                            Some(Err(status)) => {
                                tracing::warn!(error = status.message(), "the runtime's event stream broke");
                                break;
                            }
                            None => break,
                        }
                    }
                }
            }
            Err(status) => tracing::debug!(error = status.message(), "the runtime has no event stream; polling"),
        }
        // Upstream's generic PLEG relists every second; that is the fallback here.
        tokio::select! {
            () = core.token.cancelled() => return,
            () = tokio::time::sleep(std::time::Duration::from_secs(1)) => poke_all(),
        }
    }
}

fn poke_event(core: &Core, event: &cri::v1::ContainerEventResponse) {
    core.runtime_changes.send_modify(|count| *count += 1);
    let sandbox = event.pod_sandbox_status.as_ref();
    let uid = sandbox.and_then(|s| s.metadata.as_ref()).map(|m| m.uid.as_str());
    let labelled = || event.containers_statuses.iter().find_map(|c| c.labels.get(labels::POD_UID)).map(String::as_str);
    match uid.filter(|uid| !uid.is_empty()).or_else(labelled) {
        Some(uid) => core.pods.poke(uid),
        None => core.pods.all().iter().for_each(|entry| entry.poke()),
    }
}
