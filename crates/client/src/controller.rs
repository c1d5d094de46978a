//! The loop around a controller: keys in, `reconcile`, back-off on failure.
//!
//! A controller is a module with a pure `plan` (the state of the world in, actions out: no clock, no I/O) and a
//! `reconcile` that gathers the state from informers, plans, and performs the actions. Reconciling is
//! level-triggered and idempotent, one key at a time.

use std::error::Error;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::WorkQueue;

/// What to do with a key that was reconciled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing until something changes.
    Done,
    /// Look again after this time even if nothing changes; the back-off starts anew.
    RequeueAfter(Duration),
    /// Not an error, but not finished either: look again with back-off, without a log line.
    Retry,
}

/// Why a key could not be reconciled. The worker loop logs it and retries with back-off.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// A request to the API server failed.
    #[error("request to {operation} failed")]
    Api {
        /// What was being done, for example "create pod".
        operation: &'static str,
        /// The client's error.
        #[source]
        source: kube::Error,
    },
    /// The object cannot be worked on as it is.
    #[error("{0}")]
    Invalid(String),
    /// Several failures while going through a list; the first is the source.
    #[error("{count} of the actions failed")]
    Several {
        /// How many failed.
        count: usize,
        /// The first failure.
        #[source]
        first: Box<ReconcileError>,
    },
}

impl ReconcileError {
    /// Wraps a client error with what was being done.
    pub fn api(operation: &'static str) -> impl FnOnce(kube::Error) -> Self {
        move |source| Self::Api { operation, source }
    }

    /// Whether the server refused because the object changed meanwhile (409 Conflict): normal, a retry follows.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Api { source: kube::Error::Api(status), .. } if status.reason == "Conflict")
    }

    /// Nothing, the error, or a summary of several.
    pub fn collect(errors: Vec<ReconcileError>) -> Result<(), ReconcileError> {
        let count = errors.len();
        let mut errors = errors.into_iter();
        match (errors.next(), count) {
            (None, _) => Ok(()),
            (Some(only), 1) => Err(only),
            (Some(first), _) => Err(Self::Several { count, first: Box::new(first) }),
        }
    }
}

/// A controller's reconcile loop body.
#[async_trait]
pub trait Controller: Send + Sync + 'static {
    /// What the queue holds, most often [`crate::NamespacedName`].
    type Key: Clone + Eq + Hash + Ord + Debug + Send + Sync + 'static;

    /// Upstream's name of the controller, used in logs.
    fn name(&self) -> &'static str;

    /// Brings one key closer to its desired state. Must be idempotent; may be cut off between awaits at shutdown.
    async fn reconcile(&self, key: &Self::Key) -> Result<Outcome, ReconcileError>;
}

/// Runs `workers` workers until the token is cancelled; then the queue is shut down and the workers are given
/// what they are doing to finish, for at most 5 s.
pub async fn run_workers<C: Controller>(controller: Arc<C>, queue: WorkQueue<C::Key>, workers: usize, token: CancellationToken) {
    let mut running = JoinSet::new();
    for _ in 0..workers {
        // Boxed, as in all places where tasks of many types start: one kind of task to compile, not one for each controller.
        running.spawn(work(Arc::clone(&controller), queue.clone(), token.clone()).boxed());
    }
    token.cancelled().await;
    queue.shut_down();
    let drained = async { while running.join_next().await.is_some() {} };
    if tokio::time::timeout(Duration::from_secs(5), drained).await.is_err() {
        tracing::warn!(controller = controller.name(), "workers did not end in time, stopping them");
    }
}

async fn work<C: Controller>(controller: Arc<C>, queue: WorkQueue<C::Key>, token: CancellationToken) {
    loop {
        let key = tokio::select! {
            biased;
            () = token.cancelled() => return,
            key = queue.get() => key,
        };
        let Some(key) = key else { return };
        match controller.reconcile(&key).await {
            Ok(Outcome::Done) => queue.forget(&key),
            Ok(Outcome::RequeueAfter(delay)) => {
                queue.forget(&key);
                queue.add_after(key.clone(), delay);
            }
            Ok(Outcome::Retry) => queue.add_rate_limited(key.clone()),
            Err(error) => {
                log_failure(controller.name(), &key, &error);
                queue.add_rate_limited(key.clone());
            }
        }
        queue.done(&key);
    }
}

fn log_failure(controller: &'static str, key: &impl Debug, error: &ReconcileError) {
    if error.is_conflict() {
        tracing::debug!(controller, ?key, "object changed meanwhile, retrying");
    } else {
        tracing::warn!(controller, ?key, error = error as &(dyn Error + 'static), "reconcile failed, retrying");
    }
}
