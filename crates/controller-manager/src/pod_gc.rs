//! pod-garbage-collector-controller: removes pods that no kubelet will ever remove.
//!
//! Those of nodes that are gone, those that are deleted without ever having had a node, those that terminate on a node
//! that is out of service, and the oldest finished ones beyond `--terminated-pod-gc-threshold`. Upstream looks at all pods
//! every 20 s; here changes of pods and nodes say what to look at, so that an idle cluster costs nothing.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use async_trait::async_trait;
use client::{Change, Controller, NamespacedName, Outcome, ReconcileError, Store, WorkQueue, run_workers};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, ResourceExt};
use prometheus::{IntCounterVec, Opts, register_int_counter_vec};
use serde_json::{Value, json};

use crate::api_errors::ignore_not_found;
use crate::context::{Context, now, wait_synced};
use crate::node_lifecycle::{index_by_node, pods_on_node};
use crate::pod_state::{is_terminal, node_name};

/// A node that is missing may only be late in the cache (upstream's quarantineTime).
const QUARANTINE: Duration = Duration::from_secs(40);
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

static DELETED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "Number of pods that are being forcefully deleted since the Pod GC Controller started.";
    register_int_counter_vec!(Opts::new("pod_gc_collector_force_delete_pods_total", help), &["namespace", "reason"])
        .expect("registered once per process, under a name of its own")
});
static FAILED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "Number of errors encountered when forcefully deleting the pods since the Pod GC Controller started.";
    register_int_counter_vec!(Opts::new("pod_gc_collector_force_delete_pod_errors_total", help), &["namespace", "reason"])
        .expect("registered once per process, under a name of its own")
});

/// Why a pod is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    Terminated,
    OutOfService,
    Orphaned,
    Unscheduled,
}

impl Reason {
    /// Value of the label `reason` in metrics.
    fn label(self) -> &'static str {
        match self {
            Self::Terminated => "terminated",
            Self::OutOfService => "out-of-service",
            Self::Orphaned => "orphaned",
            Self::Unscheduled => "unscheduled",
        }
    }
}

/// What to look at.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Work {
    /// Whether the node exists; if not, its pods go.
    MissingNode(String),
    /// Whether the pods of this node that are being deleted must be removed by force.
    OutOfService(String),
    /// Whether this pod, which is being deleted, ever had a node.
    Deleted(NamespacedName),
    /// The number of finished pods.
    Finished,
}

struct PodGc {
    context: Context,
    pods: Store<Pod>,
    nodes: Store<Node>,
}

pub(crate) async fn run(context: Context) {
    let nodes = context.informers.get::<Node>();
    let pods = context.informers.get::<Pod>();
    index_by_node(pods.store());
    let queue: WorkQueue<Work> = WorkQueue::new("orphaned_pods_nodes");
    wait_synced!(nodes);
    let (on_pod, known) = (queue.clone(), nodes.store().clone());
    let limited = context.config.terminated_pod_gc_threshold > 0;
    pods.add_handler(move |change| {
        let pod = change.object();
        if matches!(change, Change::Deleted(_)) {
            return;
        }
        if limited && is_terminal(pod) {
            on_pod.add(Work::Finished);
        }
        let node = node_name(pod);
        let deleting = pod.metadata.deletion_timestamp.is_some();
        if node.is_empty() {
            if deleting {
                on_pod.add(Work::Deleted(NamespacedName::of(&**pod)));
            }
            return;
        }
        match known.get("", node) {
            None => on_pod.add_after(Work::MissingNode(node.to_owned()), QUARANTINE),
            Some(found) if deleting && is_out_of_service(&found) => on_pod.add(Work::OutOfService(node.to_owned())),
            Some(_) => {}
        }
    });
    let on_node = queue.clone();
    nodes.add_handler(move |change| match change {
        Change::Deleted(node) => on_node.add_after(Work::MissingNode(node.name_any()), QUARANTINE),
        Change::Added(node) | Change::Updated { new: node, .. } if is_out_of_service(node) => {
            on_node.add(Work::OutOfService(node.name_any()));
        }
        Change::Added(_) | Change::Updated { .. } => {}
    });
    wait_synced!(pods);
    let controller = PodGc { pods: pods.store().clone(), nodes: nodes.store().clone(), context: context.clone() };
    run_workers(Arc::new(controller), queue, 1, context.token).await;
}

/// Not ready, and an administrator says that it will not come back (KEP-2268).
fn is_out_of_service(node: &Node) -> bool {
    let mut taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    let mut conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let ready = conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True");
    !ready && taints.any(|taint| taint.key == OUT_OF_SERVICE)
}

fn is_evicted(pod: &Pod) -> bool {
    let status = pod.status.as_ref();
    status.and_then(|status| status.reason.as_deref()) == Some("Evicted")
}

/// The finished pods that are too many: evicted ones first, then the oldest.
fn surplus(mut finished: Vec<Arc<Pod>>, threshold: usize) -> Vec<Arc<Pod>> {
    let count = finished.len().saturating_sub(threshold);
    if count == 0 {
        return Vec::new();
    }
    finished.sort_by_key(|pod| {
        let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
        (!is_evicted(pod), created, pod.name_any())
    });
    finished.truncate(count);
    finished
}

/// What the pod's status says at its end.
fn failed_status(pod: &Pod, reason: Reason, now: Timestamp) -> Value {
    let generation = pod.metadata.generation;
    let mut status = json!({"phase": "Failed", "observedGeneration": generation});
    if reason == Reason::Orphaned {
        status["conditions"] = json!([{
            "type": "DisruptionTarget",
            "status": "True",
            "reason": "DeletionByPodGC",
            "message": "PodGC: node no longer exists",
            "observedGeneration": generation,
            "lastTransitionTime": Time(now),
        }]);
    }
    status
}

#[async_trait]
impl Controller for PodGc {
    type Key = Work;

    fn name(&self) -> &'static str {
        "pod-garbage-collector-controller"
    }

    async fn reconcile(&self, work: &Work) -> Result<Outcome, ReconcileError> {
        match work {
            Work::Finished => {
                let mut finished = self.pods.list();
                finished.retain(|pod| is_terminal(pod));
                self.remove_all(surplus(finished, self.context.config.terminated_pod_gc_threshold), Reason::Terminated).await
            }
            Work::Deleted(key) => {
                let pod = self.pods.get_key(key);
                let doomed = pod.filter(|pod| pod.metadata.deletion_timestamp.is_some() && node_name(pod).is_empty());
                self.remove_all(doomed.into_iter().collect(), Reason::Unscheduled).await
            }
            Work::OutOfService(name) => {
                if !self.nodes.get("", name).is_some_and(|node| is_out_of_service(&node)) {
                    return Ok(Outcome::Done);
                }
                let mut doomed = pods_on_node(&self.pods, name);
                doomed.retain(|pod| pod.metadata.deletion_timestamp.is_some());
                self.remove_all(doomed, Reason::OutOfService).await
            }
            Work::MissingNode(name) => {
                // The cache alone must not make pods go.
                let nodes: Api<Node> = Api::all(self.context.client.clone());
                let found = nodes.get_opt(name).await.map_err(ReconcileError::api("get node"))?;
                if found.is_some() {
                    return Ok(Outcome::Done);
                }
                self.remove_all(pods_on_node(&self.pods, name), Reason::Orphaned).await
            }
        }
    }
}

impl PodGc {
    async fn remove_all(&self, pods: Vec<Arc<Pod>>, reason: Reason) -> Result<Outcome, ReconcileError> {
        let mut errors = Vec::new();
        for pod in pods {
            let labels = [pod.metadata.namespace.as_deref().unwrap_or(""), reason.label()];
            DELETED.with_label_values(&labels).inc();
            if let Err(error) = self.remove(&pod, reason, now()).await {
                FAILED.with_label_values(&labels).inc();
                errors.push(error);
            }
        }
        ReconcileError::collect(errors).map(|()| Outcome::Done)
    }

    /// Marks an unfinished pod as Failed, as nobody else will, and deletes it without grace.
    async fn remove(&self, pod: &Pod, reason: Reason, now: Timestamp) -> Result<(), ReconcileError> {
        let api: Api<Pod> = self.context.api(&pod.namespace().unwrap_or_default());
        let name = pod.name_any();
        if !is_terminal(pod) {
            let patch = Patch::Strategic(json!({"metadata": {"uid": pod.uid()}, "status": failed_status(pod, reason, now)}));
            let result = api.patch_status(&name, &PatchParams::default(), &patch).await;
            ignore_not_found(result).map_err(ReconcileError::api("mark pod as failed"))?;
        }
        let params = DeleteParams {
            preconditions: Some(Preconditions { uid: pod.uid(), resource_version: None }),
            ..DeleteParams::default().grace_period(0)
        };
        ignore_not_found(api.delete(&name, &params).await).map_err(ReconcileError::api("delete pod"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evicted_then_oldest_finished_pods_are_too_many() {
        let pod = |name: &str, day: u32, reason: &str| {
            let value = json!({"metadata": {"name": name, "creationTimestamp": format!("2024-01-{day:02}T00:00:00Z")},
                "status": {"phase": "Failed", "reason": reason}});
            Arc::new(serde_json::from_value::<Pod>(value).expect("is a pod"))
        };
        let pods = [pod("old", 1, ""), pod("new", 3, ""), pod("evicted", 4, "Evicted"), pod("middle", 2, "")];
        for (threshold, expected) in [(4, vec![]), (3, vec!["evicted"]), (1, vec!["evicted", "old", "middle"])] {
            let names: Vec<_> = surplus(pods.to_vec(), threshold).iter().map(|pod| pod.name_any()).collect();
            assert_eq!(names, expected, "threshold {threshold}");
        }
    }

    #[test]
    fn a_pod_whose_node_is_gone_says_so() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"generation": 3}})).expect("is a pod");
        for (reason, disrupted) in [(Reason::Orphaned, true), (Reason::Unscheduled, false), (Reason::OutOfService, false)] {
            let status = failed_status(&pod, reason, Timestamp::UNIX_EPOCH);
            assert_eq!((status["phase"].as_str(), status["observedGeneration"].as_i64()), (Some("Failed"), Some(3)));
            assert_eq!(status["conditions"][0]["reason"] == "DeletionByPodGC", disrupted, "{reason:?}");
        }
    }

    #[test]
    fn out_of_service_nodes() {
        for (ready, taint, expected) in
            [("True", OUT_OF_SERVICE, false), ("Unknown", OUT_OF_SERVICE, true), ("Unknown", "other", false)]
        {
            let node: Node = serde_json::from_value(json!({
                "spec": {"taints": [{"key": taint, "effect": "NoExecute"}]},
                "status": {"conditions": [{"type": "Ready", "status": ready}]},
            }))
            .expect("is a node");
            assert_eq!(is_out_of_service(&node), expected, "{ready} {taint}");
        }
    }
}
