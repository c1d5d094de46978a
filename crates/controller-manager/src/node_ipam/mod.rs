//! node-ipam-controller: gives every node its part of the cluster's pod ranges (`spec.podCIDRs`), where `--allocate-node-cidrs` asks for it.
//!
//! The truth is the nodes: parts in use are read from them at the start. A part that was reserved for a node is kept if it is not known
//! whether the write went through, and given back when the node is gone.

mod blocks;

use std::sync::Arc;

use async_trait::async_trait;
use client::{
    Change, Controller, EventKind, EventRecorder, NamespacedName, Outcome, ReconcileError, Store, WorkQueue, run_workers,
};
use k8s_openapi::api::core::v1::{Node, ObjectReference};
use kube::Api;
use kube::api::{Patch, PatchParams};
use parking_lot::Mutex;
use serde_json::json;

use self::blocks::Ranges;
use crate::context::{Context, wait_synced};

/// Upstream's `cidrUpdateWorkers`.
const WORKERS: usize = 30;

struct NodeIpamController {
    api: Api<Node>,
    events: EventRecorder,
    nodes: Store<Node>,
    ranges: Arc<Mutex<Ranges>>,
}

fn pod_cidrs(node: &Node) -> &[String] {
    node.spec.as_ref().and_then(|spec| spec.pod_cidrs.as_deref()).unwrap_or_default()
}

pub(crate) async fn run(context: Context) {
    const NAME: &str = "node-ipam-controller";
    let Some(config) = &context.config.node_ipam else {
        tracing::info!(controller = NAME, "nodes get no pod ranges here");
        return;
    };
    let sizes = (config.mask_size_ipv4, config.mask_size_ipv6);
    let ranges = match Ranges::new(&config.cluster_cidrs, &config.service_cidrs, sizes) {
        Ok(ranges) => Arc::new(Mutex::new(ranges)),
        Err(error) => {
            tracing::error!(controller = NAME, error = &error as &dyn std::error::Error, "the cluster's ranges cannot be used");
            return;
        }
    };
    let nodes = context.informers.get::<Node>();
    wait_synced!(nodes);
    for node in nodes.store().list() {
        if let Err(error) = ranges.lock().occupy(pod_cidrs(&node)) {
            tracing::error!(controller = NAME, error = &error as &dyn std::error::Error, "a node has a foreign pod range");
        }
    }
    let queue: WorkQueue<NamespacedName> = WorkQueue::new("cidrallocator_node");
    let (on_node, known) = (queue.clone(), ranges.clone());
    nodes.add_handler(move |change| {
        let node = change.object();
        match change {
            Change::Deleted(_) => known.lock().release(pod_cidrs(node)),
            Change::Updated { old, new } if pod_cidrs(old) == pod_cidrs(new) => {}
            _ => on_node.add(NamespacedName::of(&**node)),
        }
    });
    let controller = NodeIpamController {
        api: Api::all(context.client.clone()),
        events: context.events("cidrAllocator"),
        nodes: nodes.store().clone(),
        ranges,
    };
    run_workers(Arc::new(controller), queue, WORKERS, context.token).await;
}

impl NodeIpamController {
    /// As upstream: the node's name in the place of its UID.
    fn tell(&self, name: &str, status: &str) {
        let node = ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Node".into()),
            name: Some(name.to_owned()),
            uid: Some(name.to_owned()),
            ..Default::default()
        };
        self.events.record_reference(node, EventKind::Normal, status, format!("Node {name} status is now: {status}"));
    }
}

#[async_trait]
impl Controller for NodeIpamController {
    type Key = NamespacedName;

    fn name(&self) -> &'static str {
        "node-ipam-controller"
    }

    async fn reconcile(&self, key: &NamespacedName) -> Result<Outcome, ReconcileError> {
        let Some(node) = self.nodes.get_key(key).filter(|node| node.metadata.deletion_timestamp.is_none()) else {
            return Ok(Outcome::Done);
        };
        let has = pod_cidrs(&node);
        if !has.is_empty() {
            let occupied = self.ranges.lock().occupy(has);
            return occupied.map(|()| Outcome::Done).map_err(|error| ReconcileError::Invalid(error.to_string()));
        }
        let allocated = self.ranges.lock().allocate();
        let cidrs = allocated.map_err(|error| {
            self.tell(&key.name, "CIDRNotAvailable");
            ReconcileError::Invalid(error.to_string())
        })?;
        let patch = json!({
            "metadata": {"uid": node.metadata.uid, "resourceVersion": node.metadata.resource_version},
            "spec": {"podCIDR": cidrs.first(), "podCIDRs": cidrs},
        });
        let Err(error) = self.api.patch(&key.name, &PatchParams::default(), &Patch::Strategic(patch)).await else {
            return Ok(Outcome::Done);
        };
        // The server said no; in any other case the write may have been done, and the node will tell.
        if matches!(error, kube::Error::Api(_)) {
            self.ranges.lock().release(&cidrs);
        }
        let error = ReconcileError::api("set the pod ranges of a node")(error);
        if !error.is_conflict() {
            self.tell(&key.name, "CIDRAssignmentFailed");
        }
        Err(error)
    }
}
