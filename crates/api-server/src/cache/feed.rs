//! The one watch on the store that feeds all caches.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use parking_lot::RwLock;
use storage::{KeyRange, Revision, Store, StoreError, WatchResponse, WatchStream};
use tokio::sync::{OnceCell, watch};
use tokio_util::sync::CancellationToken;

use super::cacher::{Cacher, prefix_end};

/// Messages of the store that may wait for the feed.
const QUEUE: usize = 16 * 1024;
/// How long a wait for a revision goes on before the store is asked for progress: only when the revision was made outside our range.
const PROGRESS_AFTER: Duration = Duration::from_millis(10);
/// How long the feed waits before it tries the store again.
const RETRY: Duration = Duration::from_millis(500);
/// How long an object's protobuf message stays at least after somebody asked for it, and half of how long at most.
const TIDY: Duration = Duration::from_secs(60);

/// A revision did not come in time.
#[derive(Debug, thiserror::Error)]
#[error("the cache has not reached revision {wanted} in time (it is at {current})")]
pub(crate) struct NotFresh {
    /// What was waited for.
    pub(crate) wanted: i64,
    /// How far the caches are.
    pub(crate) current: i64,
}

/// Follows the store and distributes its events.
pub(crate) struct Feed {
    store: Arc<dyn Store>,
    range: KeyRange,
    cachers: RwLock<BTreeMap<String, Arc<Cacher>>>,
    revision: watch::Sender<i64>,
    /// Lists at older revisions have expired.
    forgotten: AtomicI64,
    running: OnceCell<()>,
    shutdown: CancellationToken,
}

impl Feed {
    /// A feed of all keys below `prefix`, which has no slash at its end.
    pub(crate) fn new(store: Arc<dyn Store>, prefix: &str, shutdown: CancellationToken) -> Arc<Feed> {
        let start = format!("{prefix}/");
        let range = KeyRange { end: prefix_end(start.as_bytes()), start: start.into() };
        let (revision, _) = watch::channel(0);
        Arc::new(Feed {
            store,
            range,
            cachers: RwLock::default(),
            revision,
            forgotten: AtomicI64::new(0),
            running: OnceCell::new(),
            shutdown,
        })
    }

    /// Adds a cache; its prefix must not contain another one's.
    pub(crate) fn add(&self, cacher: Arc<Cacher>) {
        self.cachers.write().insert(cacher.prefix().to_owned(), cacher);
    }

    /// The store was compacted: what is older than this revision must not be listed any more.
    pub(crate) fn forget_before(&self, revision: i64) {
        self.forgotten.fetch_max(revision, Ordering::AcqRel);
    }

    /// The oldest revision that may be listed, as far as this server compacted.
    pub(crate) fn forgotten(&self) -> i64 {
        self.forgotten.load(Ordering::Acquire)
    }

    /// Everything up to this revision is in the caches.
    pub(crate) fn revision(&self) -> i64 {
        *self.revision.borrow()
    }

    /// Starts following the store, once. The task ends with the server's shutdown token.
    pub(crate) async fn start(self: &Arc<Feed>) -> Result<(), StoreError> {
        self.running
            .get_or_try_init(|| async {
                let revision = self.store.current_revision().await?;
                let stream = self.store.watch(self.range.clone(), Some(revision), QUEUE).await?;
                self.revision.send_replace(revision.0);
                let feed = self.clone();
                tokio::spawn(async move { feed.clone().shutdown.run_until_cancelled(feed.follow(stream)).await });
                Ok(())
            })
            .await
            .copied()
    }

    async fn follow(self: Arc<Feed>, mut stream: WatchStream) {
        loop {
            self.drain(&mut stream).await;
            // The stream ended: too slow, compacted, or the store went away. Resume where we were, or start anew.
            loop {
                tokio::time::sleep(RETRY).await;
                match self.store.watch(self.range.clone(), Some(Revision(self.revision())), QUEUE).await {
                    Ok(resumed) => {
                        stream = resumed;
                        break;
                    }
                    Err(StoreError::Closed) => return,
                    Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "watch on the store failed"),
                }
            }
        }
    }

    async fn drain(&self, stream: &mut WatchStream) {
        while let Some(message) = stream.recv().await {
            match message {
                WatchResponse::Events { events, revision } => {
                    self.distribute(events);
                    self.announce(revision);
                }
                WatchResponse::Progress(revision) => self.announce(revision),
                WatchResponse::Lagged => {
                    tracing::warn!(revision = self.revision(), "watch on the store fell behind; resuming");
                    return;
                }
                WatchResponse::Compacted { compact_revision } => {
                    tracing::warn!(revision = self.revision(), %compact_revision, "watch on the store lost events; starting anew");
                    for cacher in self.cachers.read().values() {
                        cacher.reset();
                    }
                    self.announce(compact_revision);
                    return;
                }
            }
        }
    }

    fn distribute(&self, events: Vec<storage::Event>) {
        let cachers = self.cachers.read();
        for event in events {
            let Ok(key) = std::str::from_utf8(&event.kv.key) else { continue };
            let Some((prefix, cacher)) = cachers.range::<str, _>((Bound::Unbounded, Bound::Included(key))).next_back() else {
                continue;
            };
            if key.starts_with(prefix.as_str()) {
                cacher.apply(event);
            }
        }
    }

    /// Drops what the caches have made for clients that have not come back, every now and then until stopped.
    pub(crate) async fn tidy(&self, stop: &CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(TIDY)).await.is_some() {
            for cacher in self.cachers.read().values() {
                cacher.forget_unused_messages();
            }
        }
    }

    fn announce(&self, revision: Revision) {
        self.revision.send_if_modified(|current| {
            let newer = revision.0 > *current;
            *current = revision.0.max(*current);
            newer
        });
    }

    /// Waits until all caches hold everything up to a revision, at most for `timeout`.
    pub(crate) async fn wait_for(&self, wanted: i64, timeout: Duration) -> Result<(), NotFresh> {
        if self.revision() >= wanted {
            return Ok(());
        }
        let mut revision = self.revision.subscribe();
        let reached = async {
            loop {
                let reached = revision.wait_for(|current| *current >= wanted);
                if tokio::time::timeout(PROGRESS_AFTER, reached).await.is_ok() {
                    return;
                }
                if let Err(error) = self.store.request_progress().await {
                    tracing::debug!(error = &error as &dyn std::error::Error, "progress request failed");
                }
            }
        };
        let late = tokio::time::timeout(timeout, reached).await.is_err();
        if late { Err(NotFresh { wanted, current: self.revision() }) } else { Ok(()) }
    }

    /// Waits until the caches hold everything that was acknowledged before the call.
    pub(crate) async fn wait_for_now(&self, timeout: Duration) -> Result<Result<(), NotFresh>, StoreError> {
        let now = self.store.current_revision().await?;
        Ok(self.wait_for(now.0, timeout).await)
    }
}
