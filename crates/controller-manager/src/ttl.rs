//! ttl-controller: tells kubelets by an annotation of their nodes how long they may cache Secrets and ConfigMaps. The larger the cluster,
//! the longer.

use std::sync::Arc;

use async_trait::async_trait;
use client::{Change, Controller, NamespacedName, Outcome, ReconcileError, Store, WorkQueue, run_workers};
use k8s_openapi::api::core::v1::Node;
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use parking_lot::Mutex;
use serde_json::json;

use crate::api_errors::ignore_not_found;
use crate::context::{Context, wait_synced};

const ANNOTATION: &str = "node.alpha.kubernetes.io/ttl";
/// Upstream's number of workers.
const WORKERS: usize = 5;

/// Upstream's steps: from which size down, and up to which size up, a cluster stays in the step, and its seconds. They overlap, so that a
/// cluster at a boundary does not go back and forth.
const STEPS: [(usize, usize, u32); 5] = [(0, 100, 0), (90, 500, 15), (450, 1000, 30), (900, 2000, 60), (1800, usize::MAX, 300)];

/// The step after the cluster has grown or shrunk to this size.
fn step(mut current: usize, nodes: usize) -> usize {
    while nodes > STEPS[current].1 {
        current += 1;
    }
    while nodes < STEPS[current].0 {
        current -= 1;
    }
    current
}

/// The seconds to write, if the node does not say so yet.
fn plan(node: &Node, step: usize) -> Option<u32> {
    let wanted = STEPS[step].2;
    let known = node.annotations().get(ANNOTATION).and_then(|text| text.parse::<u32>().ok());
    (known != Some(wanted)).then_some(wanted)
}

struct Ttl {
    api: Api<Node>,
    nodes: Store<Node>,
    step: Arc<Mutex<usize>>,
}

pub(crate) async fn run(context: Context) {
    let nodes = context.informers.get::<Node>();
    let queue: WorkQueue<NamespacedName> = WorkQueue::new("ttlcontroller");
    let current = Arc::new(Mutex::new(0));
    let (on_node, known, size) = (queue.clone(), nodes.store().clone(), current.clone());
    nodes.add_handler(move |change| {
        let mut size = size.lock();
        let before = *size;
        *size = step(before, known.len());
        if *size != before {
            known.keys().into_iter().for_each(|key| on_node.add(key));
        }
        if !matches!(change, Change::Deleted(_)) && plan(change.object(), *size).is_some() {
            on_node.add(NamespacedName::of(&**change.object()));
        }
    });
    wait_synced!(nodes);
    let controller = Ttl { api: Api::all(context.client.clone()), nodes: nodes.store().clone(), step: current };
    run_workers(Arc::new(controller), queue, WORKERS, context.token).await;
}

#[async_trait]
impl Controller for Ttl {
    type Key = NamespacedName;

    fn name(&self) -> &'static str {
        "ttl-controller"
    }

    async fn reconcile(&self, key: &NamespacedName) -> Result<Outcome, ReconcileError> {
        let Some(node) = self.nodes.get_key(key) else { return Ok(Outcome::Done) };
        let step = *self.step.lock();
        let Some(seconds) = plan(&node, step) else { return Ok(Outcome::Done) };
        let patch = json!({"metadata": {"uid": node.metadata.uid, "annotations": {ANNOTATION: seconds.to_string()}}});
        let result = self.api.patch(&key.name, &PatchParams::default(), &Patch::Strategic(patch)).await;
        ignore_not_found(result).map_err(ReconcileError::api("annotate node"))?;
        Ok(Outcome::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_of_a_cluster_that_grows_and_shrinks() {
        for (current, nodes, expected) in [
            (0, 0, 0),
            (0, 100, 0),
            (0, 101, 1),
            (1, 90, 1),
            (1, 89, 0),
            (1, 500, 1),
            (1, 501, 2),
            (2, 450, 2),
            (2, 449, 1),
            (0, 5000, 4),
            (4, 1800, 4),
            (4, 1799, 3),
            (4, 3, 0),
        ] {
            assert_eq!(step(current, nodes), expected, "{current} {nodes}");
        }
    }

    #[test]
    fn what_is_written() {
        for (annotation, step, expected) in
            [(None, 0, Some(0)), (Some("0"), 0, None), (Some("0"), 1, Some(15)), (Some("x"), 1, Some(15)), (Some("300"), 4, None)]
        {
            let annotations = annotation.map(|text| json!({ANNOTATION: text}));
            let node: Node = serde_json::from_value(json!({"metadata": {"annotations": annotations}})).expect("is a node");
            assert_eq!(plan(&node, step), expected, "{annotation:?} {step}");
        }
    }
}
