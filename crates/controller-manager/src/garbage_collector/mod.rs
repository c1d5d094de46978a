//! garbage-collector-controller: deletes objects whose owners are gone, and carries out foreground deletion and orphaning
//! (<https://kubernetes.io/docs/concepts/architecture/garbage-collection/>).
//!
//! Nothing is deleted on the word of the graph alone: owners are asked for at the server first.

mod collect;
mod graph;
mod monitors;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use client::{Controller, Outcome, ReconcileError, WorkQueue, run_workers};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use self::collect::{Collector, Done};
use self::graph::{Graph, Work};
use self::monitors::{Monitors, Sink};
use crate::context::Context;
use crate::discovery::resources;

/// Several definitions often change together: one look at the resources for all.
const RESOURCES_SETTLE: Duration = Duration::from_secs(1);

pub(crate) async fn run(context: Context) {
    let queue: WorkQueue<Work> = WorkQueue::new("garbage_collector_attempt_to_delete");
    let sender = queue.clone();
    let enqueue: Arc<dyn Fn(Vec<Work>) + Send + Sync> = Arc::new(move |work| {
        for item in work {
            match item {
                Work::DeleteLater(uid) => sender.add_rate_limited(Work::Delete(uid)),
                item => sender.add(item),
            }
        }
    });
    let graph = Arc::new(Mutex::new(Graph::default()));
    let collector = Arc::new(Collector::new(
        context.client.clone(),
        context.events("garbage-collector-controller"),
        Arc::clone(&graph),
        Arc::clone(&enqueue),
    ));
    let sink = Sink { graph, enqueue, resources_changed: Arc::new(Notify::new()) };
    let changed = Arc::clone(&sink.resources_changed);
    let token = context.token.clone();
    let mut monitors = Monitors::new(context.client.clone(), context.informers.clone(), sink, token.clone());
    if !discover(&context.client, &collector, &mut monitors, &token).await {
        return;
    }
    tokio::select! {
        () = token.cancelled() => return,
        () = monitors.wait_synced() => {}
    }
    tracing::debug!(controller = "garbage-collector-controller", "all resources are watched");
    let follow = async {
        loop {
            changed.notified().await;
            tokio::time::sleep(RESOURCES_SETTLE).await;
            if !discover(&context.client, &collector, &mut monitors, &token).await {
                return;
            }
        }
    };
    let worker = Arc::new(Worker(Arc::clone(&collector)));
    let workers = context.config.concurrent_gc_syncs;
    tokio::select! {
        () = run_workers(worker, queue, workers, token.clone()) => {}
        () = follow => {}
    }
}

/// Finds out which resources there are and watches them; retries until it works. False when cancelled.
async fn discover(client: &kube::Client, collector: &Collector, monitors: &mut Monitors, token: &CancellationToken) -> bool {
    let mut delay = Duration::from_millis(200);
    loop {
        let attempt = tokio::select! {
            () = token.cancelled() => return false,
            attempt = resources(client) => attempt,
        };
        match attempt {
            Ok(resources) => {
                collector.set_resources(&resources);
                monitors.set_resources(&resources);
                return true;
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(controller = "garbage-collector-controller", error, "cannot discover resources, retrying");
            }
        }
        tokio::select! {
            () = token.cancelled() => return false,
            () = tokio::time::sleep(delay) => {}
        }
        delay = (delay * 2).min(Duration::from_secs(30));
    }
}

struct Worker(Arc<Collector>);

#[async_trait]
impl Controller for Worker {
    type Key = Work;

    fn name(&self) -> &'static str {
        "garbage-collector-controller"
    }

    async fn reconcile(&self, work: &Work) -> Result<Outcome, ReconcileError> {
        let done = match work {
            Work::Delete(uid) | Work::DeleteLater(uid) => self.0.attempt_to_delete(uid).await?,
            Work::Orphan(uid) => self.0.attempt_to_orphan(uid).await?,
            Work::InvalidReference(dependent, owner) => {
                self.0.report_invalid(dependent, owner);
                Done::Finished
            }
        };
        Ok(match done {
            Done::Finished => Outcome::Done,
            Done::Again => Outcome::Retry,
        })
    }
}
