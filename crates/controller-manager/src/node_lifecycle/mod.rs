//! node-lifecycle-controller: taints nodes by their conditions, and declares nodes Unknown whose kubelet falls silent.
//!
//! Taints of effect NoSchedule and labels follow every change of a node at once. Silence is looked for in a period
//! (`--node-monitor-period`): there is no event for something that does not happen.

mod health;
mod taints;
mod zones;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use async_trait::async_trait;
use client::{
    Change, Controller, EventKind, EventRecorder, Informer, Outcome, ReconcileError, Scope, Store, TokenBucket, WorkQueue,
    run_workers,
};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod, Taint};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::json;

use self::health::{Assessment, Grace, Health, assess};
use self::taints::{NOT_READY, NoExecute, UNREACHABLE};
use self::zones::{Count, ZoneState};
use crate::api_errors::ignore_not_found;
use crate::context::{Context, now, wait_synced};

const PODS_BY_NODE: &str = "nodeName";
const LEASES: &str = "kube-node-lease";
/// Old names of labels that are kept in step with the new ones.
const MIRRORED_LABELS: [(&str, &str); 2] =
    [("kubernetes.io/os", "beta.kubernetes.io/os"), ("kubernetes.io/arch", "beta.kubernetes.io/arch")];

pub(crate) async fn run(context: Context) {
    let nodes = context.informers.get::<Node>();
    let pods = context.informers.get::<Pod>();
    let leases: Informer<Lease> = context.informers.scoped(Scope::fields(format!("metadata.namespace={LEASES}")));
    index_by_node(pods.store());
    let queue: WorkQueue<String> = WorkQueue::new("node_lifecycle_controller");
    let on_node = queue.clone();
    nodes.add_handler(move |change| {
        if !matches!(change, Change::Deleted(_)) {
            on_node.add(change.object().name_any());
        }
    });
    wait_synced!(nodes);
    let follow = Arc::new(FollowConditions { nodes: nodes.store().clone(), api: Api::all(context.client.clone()) });
    let mut monitor = Monitor {
        api: Api::all(context.client.clone()),
        events: context.events("node-controller"),
        nodes: nodes.store().clone(),
        pods: pods.store().clone(),
        leases: leases.store().clone(),
        context: context.clone(),
        health: HashMap::new(),
        zones: BTreeMap::new(),
        waiting: BTreeMap::new(),
        pods_to_mark: BTreeSet::new(),
    };
    let watch_health = async {
        wait_synced!(pods, leases);
        let mut period = tokio::time::interval(context.config.node_monitor_period);
        period.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            period.tick().await;
            monitor.look().await;
        }
    };
    tokio::select! {
        () = run_workers(follow, queue, 2, context.token.clone()) => {}
        () = watch_health => {}
    }
}

/// Adds the index that [`pods_on_node`] reads.
pub(crate) fn index_by_node(pods: &Store<Pod>) {
    pods.add_index(PODS_BY_NODE, |pod| {
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
        node.into_iter().collect()
    });
}

/// Pods assigned to a node.
pub(crate) fn pods_on_node(pods: &Store<Pod>, node: &str) -> Vec<Arc<Pod>> {
    pods.by_index(PODS_BY_NODE, node)
}

/// Writes all taints of a node; fails on conflict, because they are one list.
async fn write_taints(api: &Api<Node>, node: &Node, taints: Vec<Taint>) -> Result<(), ReconcileError> {
    let taints = if taints.is_empty() { serde_json::Value::Null } else { json!(taints) };
    let patch = json!({
        "metadata": {"resourceVersion": node.resource_version()},
        "spec": {"taints": taints},
    });
    let result = api.patch(&node.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await;
    ignore_not_found(result).map_err(ReconcileError::api("update taints of node"))
}

/// Keeps NoSchedule taints and labels in line with a node.
struct FollowConditions {
    nodes: Store<Node>,
    api: Api<Node>,
}

fn labels_to_mirror(node: &Node) -> BTreeMap<&'static str, String> {
    let labels = node.labels();
    let mirrored = MIRRORED_LABELS.iter();
    mirrored
        .filter_map(|(primary, secondary)| {
            let value = labels.get(*primary)?;
            (labels.get(*secondary) != Some(value)).then(|| (*secondary, value.clone()))
        })
        .collect()
}

#[async_trait]
impl Controller for FollowConditions {
    type Key = String;

    fn name(&self) -> &'static str {
        "node-lifecycle-controller"
    }

    async fn reconcile(&self, name: &String) -> Result<Outcome, ReconcileError> {
        let Some(node) = self.nodes.get("", name) else { return Ok(Outcome::Done) };
        if let Some(taints) = taints::no_schedule(&node, now()) {
            write_taints(&self.api, &node, taints).await?;
        }
        let labels = labels_to_mirror(&node);
        if !labels.is_empty() {
            let patch = Patch::Merge(json!({"metadata": {"labels": labels}}));
            let result = self.api.patch(name, &PatchParams::default(), &patch).await;
            ignore_not_found(result).map_err(ReconcileError::api("update labels of node"))?;
        }
        Ok(Outcome::Done)
    }
}

/// Nodes of a zone that are to be tainted, at the zone's pace.
struct Waiting {
    nodes: BTreeSet<String>,
    rate: f64,
    bucket: TokenBucket,
}

impl Waiting {
    fn new(rate: f64) -> Self {
        Self {
            nodes: BTreeSet::new(),
            rate,
            // A burst of one, as upstream's EvictionRateLimiterBurst.
            bucket: TokenBucket::new(rate, 1),
        }
    }

    fn next(&mut self) -> Option<String> {
        if self.nodes.is_empty() || self.rate <= 0.0 || !self.bucket.try_take() {
            return None;
        }
        self.nodes.pop_first()
    }
}

struct Monitor {
    context: Context,
    api: Api<Node>,
    events: EventRecorder,
    nodes: Store<Node>,
    pods: Store<Pod>,
    leases: Store<Lease>,
    health: HashMap<String, Health>,
    zones: BTreeMap<String, ZoneState>,
    waiting: BTreeMap<String, Waiting>,
    /// Nodes whose pods could not all be marked as not ready.
    pods_to_mark: BTreeSet<String>,
}

/// Region and zone, as one key.
fn zone_of(node: &Node) -> String {
    let label = |name: &str| node.labels().get(name).map_or("", String::as_str);
    let (region, zone) = (label("topology.kubernetes.io/region"), label("topology.kubernetes.io/zone"));
    if region.is_empty() && zone.is_empty() {
        return String::new();
    }
    format!("{region}:\u{0}:{zone}")
}

fn is_excluded_from_disruption(node: &Node) -> bool {
    node.labels().contains_key("node.kubernetes.io/exclude-disruption")
}

impl Monitor {
    async fn look(&mut self) {
        let nodes = self.nodes.list();
        self.note_membership(&nodes);
        let mut counts: BTreeMap<String, Count> = BTreeMap::new();
        for node in &nodes {
            let ready = match self.check(node, now()).await {
                Ok(ready) => ready,
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(node = node.name_any(), error, "cannot update the health of a node, will try again");
                    continue;
                }
            };
            if !is_excluded_from_disruption(node) {
                let count = counts.entry(zone_of(node)).or_default();
                if ready == "True" { count.ready += 1 } else { count.not_ready += 1 }
            }
        }
        self.handle_disruption(&nodes, &counts).await;
        self.taint_waiting().await;
    }

    fn note_membership(&mut self, nodes: &[Arc<Node>]) {
        let present: BTreeSet<String> = nodes.iter().map(|node| node.name_any()).collect();
        self.health.retain(|name, _| present.contains(name));
        self.pods_to_mark.retain(|name| present.contains(name));
        for node in nodes.iter().filter(|node| !self.health.contains_key(&node.name_any())) {
            let message = format!("Registered Node {} in Controller", node.name_any());
            self.events.record(&**node, EventKind::Normal, "RegisteredNode", message);
        }
    }

    /// The status of its Ready condition, after this look.
    async fn check(&mut self, node: &Node, now: Timestamp) -> Result<String, ReconcileError> {
        let name = node.name_any();
        let lease = self.leases.get(LEASES, &name);
        let renewed = lease.and_then(|lease| lease.spec.as_ref()?.renew_time.as_ref().map(|time| time.0));
        let config = &self.context.config;
        let grace = Grace { usual: config.node_monitor_grace_period, startup: config.node_eviction.startup_grace_period };
        let Assessment { health, observed_ready, ready, conditions } = assess(node, renewed, self.health.get(&name), grace, now);
        self.health.insert(name.clone(), health);
        if let Some(conditions) = conditions {
            let mut updated = node.clone();
            updated.status.get_or_insert_default().conditions = Some(conditions);
            self.api
                .replace_status(&name, &PostParams::default(), &updated)
                .await
                .map_err(ReconcileError::api("update node status"))?;
        }
        if ready.is_empty() {
            return Ok(ready);
        }
        self.keep_evicting_taints(node, &ready, now).await;
        let lost = ready != "True" && observed_ready == "True";
        if lost {
            let message = format!("Node {name} status is now: NodeNotReady");
            self.events.record(node, EventKind::Normal, "NodeNotReady", message);
        }
        if lost || (self.pods_to_mark.contains(&name) && observed_ready != "True") {
            self.mark_pods_not_ready(&name, now).await;
        } else {
            self.pods_to_mark.remove(&name);
        }
        Ok(ready)
    }

    async fn keep_evicting_taints(&mut self, node: &Node, ready: &str, now: Timestamp) {
        let rate = self.context.config.node_eviction.rate;
        let waiting = self.waiting.entry(zone_of(node)).or_insert_with(|| Waiting::new(rate));
        match taints::no_execute(node, ready, now) {
            NoExecute::Enqueue => {
                waiting.nodes.insert(node.name_any());
            }
            NoExecute::Fine => {
                if ready == "True" {
                    waiting.nodes.remove(&node.name_any());
                }
            }
            NoExecute::Set(taints) => {
                waiting.nodes.remove(&node.name_any());
                self.try_write(node, taints).await;
            }
        }
    }

    /// A failure is left to the next look.
    async fn try_write(&self, node: &Node, taints: Vec<Taint>) {
        if let Err(error) = write_taints(&self.api, node, taints).await {
            let error = &error as &dyn std::error::Error;
            tracing::debug!(node = node.name_any(), error, "cannot update taints, will try again");
        }
    }

    /// Services must not lead to pods of a node that nobody hears from.
    async fn mark_pods_not_ready(&mut self, node: &str, now: Timestamp) {
        let mut complete = true;
        for pod in pods_on_node(&self.pods, node) {
            let Some(ready) = crate::pod_state::condition(&pod, "Ready").filter(|ready| ready.status != "False") else {
                continue;
            };
            let time = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now);
            let condition = json!({"type": ready.type_, "status": "False", "lastTransitionTime": time});
            let patch = json!({"metadata": {"uid": pod.uid()}, "status": {"conditions": [condition]}});
            let api: Api<Pod> = self.context.api(&pod.namespace().unwrap_or_default());
            let patch = Patch::Strategic(patch);
            let result = api.patch_status(&pod.name_any(), &PatchParams::default(), &patch).await;
            match ignore_not_found(result) {
                Ok(()) => self.events.record(&*pod, EventKind::Warning, "NodeNotReady", "Node is not ready"),
                Err(error) => {
                    complete = false;
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(node, pod = pod.name_any(), error, "cannot mark pod as not ready, will try again");
                }
            }
        }
        if complete {
            self.pods_to_mark.remove(node);
        } else {
            self.pods_to_mark.insert(node.to_owned());
        }
    }

    async fn handle_disruption(&mut self, nodes: &[Arc<Node>], counts: &BTreeMap<String, Count>) {
        let change = zones::update(&mut self.zones, counts, &self.context.config.node_eviction);
        for (zone, rate) in change.rates {
            let waiting = self.waiting.entry(zone).or_insert_with(|| Waiting::new(rate));
            if (waiting.rate - rate).abs() > f64::EPSILON {
                waiting.rate = rate;
                waiting.bucket = TokenBucket::new(rate, 1);
            }
        }
        if change.enters_full_disruption {
            tracing::warn!(controller = "node-lifecycle-controller", "no node is ready, evicting nothing");
            for node in nodes {
                if let Some(taints) = taints::without(node, &[NOT_READY, UNREACHABLE]) {
                    self.try_write(node, taints).await;
                }
            }
        }
        if change.leaves_full_disruption {
            let now = now();
            self.health.values_mut().for_each(|health| health.probed = now);
        }
    }

    async fn taint_waiting(&mut self) {
        let mut taken = Vec::new();
        for waiting in self.waiting.values_mut() {
            taken.extend(std::iter::from_fn(|| waiting.next()));
        }
        for name in taken {
            let Some(node) = self.nodes.get("", &name) else { continue };
            let Some(ready) = health::ready_condition(&node) else { continue };
            if let Some(taints) = taints::tainted(&node, &ready.status, now()) {
                self.try_write(&node, taints).await;
            }
        }
        self.waiting.retain(|zone, _| self.zones.contains_key(zone));
    }
}
