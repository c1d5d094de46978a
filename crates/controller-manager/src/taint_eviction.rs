//! taint-eviction-controller: deletes pods from nodes with NoExecute taints that they do not tolerate, or no longer.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use client::{
    Change, Controller, EventKind, EventRecorder, NamespacedName, Outcome, ReconcileError, Store, WorkQueue, run_workers,
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, Taint, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, ResourceExt};
use parking_lot::Mutex;
use serde_json::json;

use crate::api_errors::ignore_not_found;
use crate::context::{Context, now, wait_synced};
use crate::node_lifecycle::{index_by_node, pods_on_node};
use crate::pod_state::{condition, node_name};
use crate::toleration::tolerates;

pub(crate) async fn run(context: Context) {
    let nodes = context.informers.get::<Node>();
    let pods = context.informers.get::<Pod>();
    index_by_node(pods.store());
    let queue: WorkQueue<NamespacedName> = WorkQueue::new("taint_eviction");
    wait_synced!(nodes);
    let (on_pod, known) = (queue.clone(), nodes.store().clone());
    pods.add_handler(move |change| {
        let pod = change.object();
        let concerned = match change {
            Change::Updated { old, new } => node_name(old) != node_name(new) || tolerations(old) != tolerations(new),
            Change::Added(_) | Change::Deleted(_) => true,
        };
        let tainted = || known.get("", node_name(pod)).is_some_and(|node| !evicting(&node).is_empty());
        if concerned && tainted() {
            on_pod.add(NamespacedName::of(&**pod));
        }
    });
    wait_synced!(pods);
    let (on_node, on_nodes_pods) = (queue.clone(), pods.store().clone());
    nodes.add_handler(move |change| {
        let concerned = match change {
            Change::Added(node) => !evicting(node).is_empty(),
            Change::Updated { old, new } => evicting(old) != evicting(new),
            Change::Deleted(_) => false,
        };
        if concerned {
            for pod in pods_on_node(&on_nodes_pods, &change.object().name_any()) {
                on_node.add(NamespacedName::of(&*pod));
            }
        }
    });
    let controller = TaintEviction {
        events: context.events("taint-eviction-controller"),
        nodes: nodes.store().clone(),
        pods: pods.store().clone(),
        scheduled: Mutex::new(HashMap::new()),
        context: context.clone(),
    };
    run_workers(Arc::new(controller), queue, 2, context.token).await;
}

fn evicting(node: &Node) -> Vec<&Taint> {
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    taints.filter(|taint| taint.effect == "NoExecute").collect()
}

fn tolerations(pod: &Pod) -> &[Toleration] {
    let spec = pod.spec.as_ref();
    spec.and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default()
}

#[derive(Debug, PartialEq)]
enum Plan {
    /// It may stay.
    Stay,
    /// It may stay for so long since the eviction was first considered.
    StayFor(Duration),
    Evict,
}

fn plan(taints: &[&Taint], tolerations: &[Toleration]) -> Plan {
    let mut shortest: Option<i64> = None;
    for taint in taints {
        let Some(toleration) = tolerations.iter().find(|toleration| tolerates(toleration, taint)) else {
            return Plan::Evict;
        };
        if let Some(seconds) = toleration.toleration_seconds {
            shortest = Some(shortest.map_or(seconds, |known| known.min(seconds)));
        }
    }
    match shortest.map(u64::try_from) {
        None => Plan::Stay,
        Some(Ok(0) | Err(_)) => Plan::Evict,
        Some(Ok(seconds)) => Plan::StayFor(Duration::from_secs(seconds)),
    }
}

/// How much of the time is left; zero if it is up.
fn left(since: Timestamp, stay: Duration, now: Timestamp) -> Duration {
    let passed = u64::try_from(now.duration_since(since).as_millis()).unwrap_or(0);
    stay.saturating_sub(Duration::from_millis(passed))
}

struct TaintEviction {
    context: Context,
    events: EventRecorder,
    nodes: Store<Node>,
    pods: Store<Pod>,
    /// UID of the pods that are to be evicted at some time, and since when.
    scheduled: Mutex<HashMap<NamespacedName, (String, Timestamp)>>,
}

#[async_trait]
impl Controller for TaintEviction {
    type Key = NamespacedName;

    fn name(&self) -> &'static str {
        "taint-eviction-controller"
    }

    async fn reconcile(&self, key: &NamespacedName) -> Result<Outcome, ReconcileError> {
        let Some(pod) = self.pods.get_key(key) else {
            self.scheduled.lock().remove(key);
            return Ok(Outcome::Done);
        };
        let node = self.nodes.get("", node_name(&pod));
        let taints = node.as_ref().map(|node| evicting(node)).unwrap_or_default();
        if pod.metadata.deletion_timestamp.is_some() || node.is_none() {
            self.scheduled.lock().remove(key);
            return Ok(Outcome::Done);
        }
        match plan(&taints, tolerations(&pod)) {
            Plan::Stay => {
                if self.scheduled.lock().remove(key).is_some() {
                    self.tell(&pod, format!("Cancelling deletion of Pod {key}"));
                }
                Ok(Outcome::Done)
            }
            Plan::StayFor(stay) => match left(self.since(key, &pod), stay, now()) {
                Duration::ZERO => self.evict(key, &pod).await,
                left => Ok(Outcome::RequeueAfter(left)),
            },
            Plan::Evict => self.evict(key, &pod).await,
        }
    }
}

impl TaintEviction {
    fn tell(&self, pod: &Pod, message: String) {
        self.events.record(pod, EventKind::Normal, "TaintManagerEviction", message);
    }

    fn since(&self, key: &NamespacedName, pod: &Pod) -> Timestamp {
        let uid = pod.uid().unwrap_or_default();
        let mut scheduled = self.scheduled.lock();
        match scheduled.get(key) {
            Some((known, since)) if *known == uid => *since,
            _ => {
                let since = now();
                scheduled.insert(key.clone(), (uid, since));
                since
            }
        }
    }

    async fn evict(&self, key: &NamespacedName, pod: &Pod) -> Result<Outcome, ReconcileError> {
        self.tell(pod, format!("Marking for deletion Pod {key}"));
        let api: Api<Pod> = self.context.api(&key.namespace);
        if condition(pod, "DisruptionTarget").is_none_or(|condition| condition.status != "True") {
            let condition = json!({
                "type": "DisruptionTarget",
                "status": "True",
                "reason": "DeletionByTaintManager",
                "message": "Taint manager: deleting due to NoExecute taint",
                "lastTransitionTime": Time(now()),
            });
            let patch = json!({"metadata": {"uid": pod.uid()}, "status": {"conditions": [condition]}});
            let patch = Patch::Strategic(patch);
            let result = api.patch_status(&key.name, &PatchParams::default(), &patch).await;
            ignore_not_found(result).map_err(ReconcileError::api("tell why the pod is deleted"))?;
        }
        let params =
            DeleteParams { preconditions: Some(Preconditions { uid: pod.uid(), resource_version: None }), ..Default::default() };
        ignore_not_found(api.delete(&key.name, &params).await).map_err(ReconcileError::api("evict pod"))?;
        self.scheduled.lock().remove(key);
        Ok(Outcome::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn taint(key: &str, value: &str) -> Taint {
        Taint { key: key.into(), value: Some(value.into()), effect: "NoExecute".into(), time_added: None }
    }

    #[test]
    fn who_may_stay_and_for_how_long() {
        let seconds = |seconds| Plan::StayFor(Duration::from_secs(seconds));
        let a = json!({"key": "a", "operator": "Exists"});
        for (taints, tolerations, expected) in [
            (vec![], vec![], Plan::Stay),
            (vec![taint("a", "")], vec![], Plan::Evict),
            (vec![taint("a", "")], vec![a.clone()], Plan::Stay),
            (vec![taint("a", "x")], vec![json!({"key": "a", "value": "x"})], Plan::Stay),
            (vec![taint("a", "x")], vec![json!({"key": "a", "value": "y"})], Plan::Evict),
            (vec![taint("a", "")], vec![json!({"key": "a", "operator": "Exists", "effect": "NoSchedule"})], Plan::Evict),
            (vec![taint("a", ""), taint("b", "")], vec![a.clone()], Plan::Evict),
            (vec![taint("a", ""), taint("b", "")], vec![json!({"operator": "Exists"})], Plan::Stay),
            (
                vec![taint("a", ""), taint("b", "")],
                vec![
                    json!({"key": "a", "operator": "Exists", "tolerationSeconds": 300}),
                    json!({"key": "b", "operator": "Exists", "tolerationSeconds": 60}),
                ],
                seconds(60),
            ),
            (vec![taint("a", "")], vec![json!({"key": "a", "operator": "Exists", "tolerationSeconds": 0})], Plan::Evict),
        ] {
            let tolerations: Vec<Toleration> = serde_json::from_value(Value::Array(tolerations)).expect("are tolerations");
            let taints: Vec<&Taint> = taints.iter().collect();
            assert_eq!(plan(&taints, &tolerations), expected, "{taints:?} {tolerations:?}");
        }
    }

    #[test]
    fn the_time_left_counts_from_the_start() {
        let at = |second| Timestamp::from_second(second).expect("in range");
        for (now, expected) in [(0, 60), (59, 1), (60, 0), (100, 0)] {
            assert_eq!(left(at(0), Duration::from_secs(60), at(now)).as_secs(), expected);
        }
    }
}
