//! Pods that have a node but may not be bound yet, because a Permit plugin told them to wait.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{Code, Status};

/// Upstream's maxTimeout of a Permit plugin.
const WAIT_MAX: Duration = Duration::from_secs(15 * 60);

struct WaitingPod {
    /// The plugins that have not allowed it yet, with the end of their patience.
    pending: BTreeMap<&'static str, Instant>,
    answer: oneshot::Sender<Status>,
}

/// All of them, by uid.
#[derive(Default)]
pub(crate) struct WaitingPods {
    pods: Mutex<HashMap<String, WaitingPod>>,
}

/// One pod's wait; ends with the verdict, or when the first plugin's patience does.
pub(crate) struct Wait {
    answer: oneshot::Receiver<Status>,
    first: (&'static str, Instant),
}

impl WaitingPods {
    /// Lets a pod wait for these plugins, each for so long.
    pub(super) fn add(&self, uid: &str, plugins: Vec<(&'static str, Duration)>) -> Option<Wait> {
        let now = Instant::now();
        let pending: BTreeMap<_, _> =
            plugins.into_iter().map(|(plugin, patience)| (plugin, now + patience.min(WAIT_MAX))).collect();
        let first = pending.iter().min_by_key(|(_, end)| **end).map(|(plugin, end)| (*plugin, *end))?;
        let (sender, answer) = oneshot::channel();
        self.pods.lock().insert(uid.to_owned(), WaitingPod { pending, answer: sender });
        Some(Wait { answer, first })
    }

    /// A plugin has nothing more against a pod. It is bound when the last has said so.
    pub(crate) fn allow(&self, uid: &str, plugin: &str) {
        let mut pods = self.pods.lock();
        let Some(pod) = pods.get_mut(uid) else { return };
        pod.pending.remove(plugin);
        if pod.pending.is_empty()
            && let Some(pod) = pods.remove(uid)
        {
            // Nobody listens any more: the pod has run out of time just now.
            let _ = pod.answer.send(Status::success());
        }
    }

    /// Sends a pod back. False if it does not wait.
    pub(crate) fn reject(&self, uid: &str, plugin: &'static str, reason: &str) -> bool {
        let Some(pod) = self.pods.lock().remove(uid) else { return false };
        let message = format!("pod {uid:?} rejected while waiting on permit: {reason}");
        pod.answer.send(Status::new(Code::Unschedulable, [message]).by(plugin)).is_ok()
    }

    /// Waits for the verdict.
    pub(crate) async fn verdict(&self, uid: &str, wait: Wait) -> Status {
        let (plugin, end) = wait.first;
        let status = match tokio::time::timeout_at(end, wait.answer).await {
            Ok(Ok(status)) => status,
            Ok(Err(_)) | Err(_) => {
                Status::new(Code::Unschedulable, [format!("rejected due to timeout after waiting at plugin {plugin}")]).by(plugin)
            }
        };
        self.pods.lock().remove(uid);
        status
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_plugin_must_allow_and_one_rejection_is_enough() {
        let pods = WaitingPods::default();
        let minute = Duration::from_secs(60);
        let wait = pods.add("u", vec![("A", minute), ("B", minute)]).unwrap();
        pods.allow("u", "A");
        assert!(pods.pods.lock().contains_key("u"));
        pods.allow("u", "B");
        assert!(pods.verdict("u", wait).await.is_success());
        let wait = pods.add("u", vec![("A", minute)]).unwrap();
        assert!(pods.reject("u", "DefaultPreemption", "preempted"));
        assert!(pods.verdict("u", wait).await.is_rejected());
        let wait = pods.add("u", vec![("A", minute), ("B", Duration::from_millis(5))]).unwrap();
        assert_eq!(pods.verdict("u", wait).await.plugin(), "B", "the first to lose patience");
        assert!(!pods.reject("u", "A", "too late"));
    }
}
