//! Hollow nodes: Nodes without containers, thousands in one process, to try a control plane at scale (upstream: kubemark).
//!
//! Owns: the Node objects with their status and Leases, and the statuses of the pods that are bound to them. A pod's status is computed by
//! the kubelet's own function from what a runtime would say if every container had started at once; a pod that is deleted ends at once.
//! Invariant: only pods on nodes of this process are touched. Deliberately absent: volumes, images, probes, logs, a server on the node,
//! containers that end by themselves.
//!
//! All nodes share ONE watch, of the pods that have a node: each event is received and decoded once, and a process with 5,000 nodes
//! holds one stream, not 5,000. What real kubelets cost the API server (a watch each, served by the index of `spec.nodeName`) is for a
//! benchmark of watches to measure.

mod node;
mod pods;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::node::HollowNode;
use self::pods::HollowPods;

/// Requests under way at the same time.
const CONCURRENCY: usize = 64;

/// What the nodes are like.
#[derive(Debug, Clone)]
pub struct HollowConfig {
    /// How many.
    pub count: usize,
    /// Nodes are called `PREFIX0`, `PREFIX1`, ...
    pub prefix: String,
    /// The number of the first.
    pub first: usize,
    /// `status.capacity`: `cpu`, `memory`, `pods`, and extended resources.
    pub capacity: Vec<(String, String)>,
    /// Labels; `{i}` and `{i%N}` in values are the node's number and its remainder.
    pub labels: Vec<(String, String)>,
    /// Taints.
    pub taints: Vec<k8s_openapi::api::core::v1::Taint>,
    /// How long a heartbeat is good for; one is sent each quarter of it.
    pub lease_duration: Duration,
    /// How often a status that does not change is reported.
    pub report_period: Duration,
    /// `nodeInfo.kubeletVersion`.
    pub version: String,
}

/// Why hollow nodes cannot run.
#[derive(Debug, thiserror::Error)]
pub enum HollowError {
    /// A node cannot be registered.
    #[error("cannot register the node {name}")]
    Register {
        /// The node.
        name: String,
        /// What went wrong.
        #[source]
        source: Box<kube::Error>,
    },
    /// Stopped before the pods were known.
    #[error("the pods could not be listed")]
    Sync(#[from] client::ResyncError),
}

/// Registers the nodes, then runs them until the token is cancelled. `ready` is called when all are registered. The nodes stay when it ends.
pub async fn run_hollow(
    config: HollowConfig,
    client: kube::Client,
    token: CancellationToken,
    ready: impl FnOnce(),
) -> Result<(), HollowError> {
    let nodes: Vec<Arc<HollowNode>> =
        (config.first..config.first + config.count).map(|number| Arc::new(HollowNode::new(&config, number))).collect();
    let mut registrations =
        futures::stream::iter(nodes.clone()).map(|node| register(node, client.clone())).buffer_unordered(CONCURRENCY);
    while let Some(registered) = tokio::select! {
        () = token.cancelled() => return Ok(()),
        registered = registrations.next() => registered,
    } {
        registered?;
    }
    drop(registrations);
    let by_name: HashMap<String, usize> = nodes.iter().enumerate().map(|(index, node)| (node.name().to_owned(), index)).collect();
    let tasks = TaskTracker::new();
    let pods = HollowPods::start(by_name, client.clone(), &tasks, &token).await?;
    ready();
    let heartbeats = in_turns(&nodes, config.lease_duration / 4, &token, |node| renew(node, client.clone()));
    let reports = in_turns(&nodes, config.report_period, &token, |node| report(node, client.clone()));
    tokio::join!(heartbeats, reports);
    pods.stop();
    tasks.close();
    tasks.wait().await;
    Ok(())
}

async fn register(node: Arc<HollowNode>, client: kube::Client) -> Result<(), HollowError> {
    let failed = |source| HollowError::Register { name: node.name().to_owned(), source: Box::new(source) };
    node.register(&client).await.map_err(failed)?;
    node.report_status(&client).await.map_err(failed)?;
    node.renew_lease(&client).await.map_err(failed)
}

async fn renew(node: Arc<HollowNode>, client: kube::Client) {
    if let Err(error) = node.renew_lease(&client).await {
        tracing::debug!(name = node.name(), %error, "node lease was not renewed");
    }
}

async fn report(node: Arc<HollowNode>, client: kube::Client) {
    if let Err(error) = node.report_status(&client).await {
        tracing::debug!(name = node.name(), %error, "node status was not reported");
    }
}

/// Does something for each node once a period, evenly spread over it, until the token is cancelled.
async fn in_turns<F: Future<Output = ()>>(
    nodes: &[Arc<HollowNode>],
    period: Duration,
    token: &CancellationToken,
    work: impl Fn(Arc<HollowNode>) -> F,
) {
    let step = period / u32::try_from(nodes.len().max(1)).unwrap_or(u32::MAX);
    let mut ticks = tokio::time::interval(step.max(Duration::from_micros(1)));
    // A server that was away is not flooded afterwards.
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let due = futures::stream::unfold((ticks, 0), |(mut ticks, index)| async move {
        ticks.tick().await;
        Some((index, (ticks, index + 1)))
    });
    let work = due.map(|index: usize| work(Arc::clone(&nodes[index % nodes.len()]))).buffer_unordered(CONCURRENCY);
    tokio::select! {
        () = token.cancelled() => {}
        () = work.for_each(|()| std::future::ready(())) => {}
    }
}

/// `{i}` and `{i%N}` replaced by the number.
fn numbered(text: &str, number: usize) -> String {
    let Some((before, rest)) = text.split_once("{i") else { return text.to_owned() };
    let Some((modulus, after)) = rest.split_once('}') else { return text.to_owned() };
    let here = match modulus.strip_prefix('%').and_then(|modulus| modulus.parse::<usize>().ok()) {
        Some(modulus) if modulus > 0 => number % modulus,
        _ => number,
    };
    format!("{before}{here}{}", numbered(after, number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_numbered() {
        let check = |text: &str, expected: &str| assert_eq!(numbered(text, 7), expected);
        check("zone-{i%3}", "zone-1");
        check("{i}/{i}", "7/7");
        check("plain{", "plain{");
    }

    #[tokio::test]
    async fn every_node_has_its_turn_in_each_period() {
        let config = HollowConfig {
            count: 4,
            prefix: "n".into(),
            first: 0,
            capacity: vec![],
            labels: vec![],
            taints: vec![],
            lease_duration: Duration::from_secs(40),
            report_period: Duration::from_secs(300),
            version: "v1".into(),
        };
        let nodes: Vec<_> = (0..4).map(|number| Arc::new(HollowNode::new(&config, number))).collect();
        let (seen, token) = (parking_lot::Mutex::new(Vec::new()), CancellationToken::new());
        in_turns(&nodes, Duration::from_millis(8), &token, |node| {
            let mut seen = seen.lock();
            seen.push(node.name().to_owned());
            if seen.len() == 8 {
                token.cancel();
            }
            std::future::ready(())
        })
        .await;
        assert_eq!(seen.lock()[..8], ["n0", "n1", "n2", "n3", "n0", "n1", "n2", "n3"]);
    }
}
