//! Forgetting history: what is older than an interval cannot be watched or listed from any more, as upstream's compactor has it.

use std::sync::Arc;
use std::time::Duration;

use storage::{Revision, Store};
use tokio_util::sync::CancellationToken;

use crate::cache::Feed;

/// Compacts every `interval` to the revision of one interval before, until stopped. A zero interval turns it off. The feed is told, so
/// that lists at older revisions expire even where the caches could still tell them.
pub(crate) async fn run(store: &Arc<dyn Store>, feed: &Feed, interval: Duration, stop: &CancellationToken) {
    if interval.is_zero() {
        return;
    }
    let mut before: Option<Revision> = None;
    loop {
        if stop.run_until_cancelled(tokio::time::sleep(interval)).await.is_none() {
            return;
        }
        match compact(store, feed, before).await {
            Ok(now) => before = Some(now),
            Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "compaction failed"),
        }
    }
}

async fn compact(store: &Arc<dyn Store>, feed: &Feed, before: Option<Revision>) -> Result<Revision, storage::StoreError> {
    let now = store.current_revision().await?;
    // An idle server has nothing to forget, and shall not write.
    if let Some(revision) = before.filter(|before| *before < now) {
        store.compact(revision).await?;
        feed.forget_before(revision.0);
    }
    Ok(now)
}
