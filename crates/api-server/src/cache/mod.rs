//! The watch cache: what reads and watches are answered from (DESIGN 3).
//!
//! [`Feed`] follows the whole store with one watch and hands every event to the [`Cacher`] of its resource, in order, before it
//! announces the revision: who has waited for a revision sees all of it in every cache. A cacher holds encoded bytes and index
//! keys, never trees. Invariants: entries are immutable; snapshots are O(1) and consistent; watchers get every event or are
//! closed; a revision is announced only after its events are in the watchers' queues.

mod cacher;
mod entry;
mod feed;
mod index;
#[cfg(test)]
mod tests;
mod watcher;

pub(crate) use cacher::{Cacher, CacherConfig, Snapshot, TooOld, WatchStart, next_key, prefix_end};
pub(crate) use entry::{CacheEvent, Delivery, Entry, Indexer};
pub(crate) use feed::Feed;
pub(crate) use index::Term;
pub(crate) use watcher::{WatchScope, Watcher};
