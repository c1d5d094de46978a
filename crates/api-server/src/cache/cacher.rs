//! The cache of one resource: a persistent map, a ring of recent events, the watchers.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use imbl::OrdMap;
use parking_lot::Mutex;
use storage::{Event, KeyRange, RangeRequest, Store, StoreError};

use super::entry::{CacheEvent, Entry, Indexer};
use super::feed::Feed;
use super::index::{Index, Term, indexed_value};
use super::watcher::{WatchScope, Watcher, WatcherIndex};
use crate::registry::codec::Header;

/// The ring keeps at most so many events, so that a burst cannot fill the memory ...
const RING_EVENTS_MAX: usize = 16 * 1024;
/// ... nor hold more than so many bytes of objects that are gone from the map.
const RING_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Older events go, as upstream's `eventFreshDuration`: who reconnects does so sooner.
const RING_AGE_MAX: Duration = Duration::from_secs(75);
/// But so many stay whatever their age (upstream's lowest capacity).
const RING_EVENTS_MIN: usize = 100;
/// A watcher may be so many events behind before it is closed.
const WATCHER_QUEUE: usize = 4096;
/// Objects read from the store at a time when a cache is filled.
const LOAD_PAGE: usize = 5000;

/// What it costs to look an entry up, in entries passed over by a scan.
const LOOKUP_COST: usize = 4;

/// What a cache is told about its resource.
pub(crate) struct CacherConfig {
    /// The key prefix with its slash, for example `/registry/pods/`.
    pub(crate) prefix: String,
    /// The objects' fixed beginning.
    pub(crate) header: Header,
    /// Takes the selectable fields from an object.
    pub(crate) indexer: Box<dyn Indexer>,
    /// The selectable field that watchers are indexed by.
    pub(crate) indexed_field: Option<usize>,
}

/// The objects of a resource at one revision.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    /// By key.
    pub(crate) entries: OrdMap<Bytes, Arc<Entry>>,
    /// The revision.
    pub(crate) revision: i64,
    /// Finds entries; `None` for a state that the index is not of.
    index: Option<Index>,
}

impl Snapshot {
    /// A state without an index.
    pub(crate) fn unindexed(entries: OrdMap<Bytes, Arc<Entry>>, revision: i64) -> Snapshot {
        Snapshot { entries, revision, index: None }
    }

    /// The entries in `[start, end)` in order, at least those that have all `terms`: only a selector's other requirements, or all, are
    /// left to check.
    pub(crate) fn candidates(&self, terms: &[Term], start: Bytes, end: Bytes) -> Box<dyn Iterator<Item = &Arc<Entry>> + '_> {
        if start >= end {
            return Box::new(std::iter::empty());
        }
        // Finding an entry by its key costs about as much as passing over so many.
        let worthwhile = self.entries.len() / LOOKUP_COST;
        match self.index.as_ref().and_then(|index| index.narrowest(terms, &start, &end, worthwhile)) {
            Some(keys) => Box::new(keys.into_iter().filter_map(move |key| self.entries.get(&key))),
            None => Box::new(self.entries.range(start..end).map(|(_, entry)| entry)),
        }
    }
}

/// Where a watch begins.
#[derive(Clone, Copy, Debug)]
pub(crate) enum WatchStart {
    /// With the state as it is now; then what changes.
    Now,
    /// With the events after a revision.
    After(i64),
}

/// The revision asked for has left the ring.
#[derive(Debug)]
pub(crate) struct TooOld {
    /// The oldest revision that a watch can start after.
    pub(crate) oldest: i64,
}

#[derive(Default)]
struct State {
    entries: OrdMap<Bytes, Arc<Entry>>,
    index: Index,
    /// Everything up to here is in `entries`. The feed's announced revision may be higher.
    revision: i64,
    ring: VecDeque<Arc<CacheEvent>>,
    ring_bytes: usize,
    /// The ring holds every event after this revision.
    ring_start: i64,
    watchers: WatcherIndex,
    phase: Phase,
}

impl State {
    /// What there is now.
    fn snapshot(&self, revision: i64) -> Snapshot {
        Snapshot { entries: self.entries.clone(), revision, index: Some(self.index.clone()) }
    }
}

#[derive(Default)]
enum Phase {
    /// Nobody has asked yet; events are not kept.
    #[default]
    Cold,
    /// The state is being read; events since then wait here.
    Loading(Vec<Event>),
    /// Events are applied as they come.
    Ready,
}

/// The cache of one resource.
pub(crate) struct Cacher {
    config: CacherConfig,
    state: Mutex<State>,
    loading: tokio::sync::Mutex<()>,
    /// Some entries may hold a protobuf message.
    messages: AtomicBool,
}

impl Cacher {
    pub(crate) fn new(config: CacherConfig) -> Cacher {
        Cacher { config, state: Mutex::default(), loading: tokio::sync::Mutex::default(), messages: AtomicBool::new(false) }
    }

    /// The key prefix with its slash.
    pub(crate) fn prefix(&self) -> &str {
        &self.config.prefix
    }

    /// Reads the resource from the store unless that was done already.
    pub(crate) async fn ensure_ready(&self, store: &dyn Store, feed: &Arc<Feed>) -> Result<(), StoreError> {
        if matches!(self.state.lock().phase, Phase::Ready) {
            return Ok(());
        }
        let _one_at_a_time = self.loading.lock().await;
        feed.start().await?;
        loop {
            {
                let mut state = self.state.lock();
                if matches!(state.phase, Phase::Ready) {
                    return Ok(());
                }
                state.phase = Phase::Loading(Vec::new());
            }
            match self.load(store).await {
                Ok((entries, revision)) => self.install(entries, revision),
                Err(error) => {
                    self.state.lock().phase = Phase::Cold;
                    return Err(error);
                }
            }
        }
    }

    async fn load(&self, store: &dyn Store) -> Result<(OrdMap<Bytes, Arc<Entry>>, i64), StoreError> {
        let end = prefix_end(self.config.prefix.as_bytes());
        let mut start = Bytes::copy_from_slice(self.config.prefix.as_bytes());
        let mut revision = None;
        let mut entries = OrdMap::new();
        loop {
            let range = KeyRange { start: start.clone(), end: end.clone() };
            let page = store.range(RangeRequest { range, limit: LOAD_PAGE, revision, keys_only: false }).await?;
            let at = *revision.get_or_insert(page.revision);
            for kv in page.kvs {
                start = next_key(&kv.key);
                if let Some(entry) = self.entry(kv.key.clone(), &kv.value, kv.mod_revision.0) {
                    entries.insert(kv.key, Arc::new(entry));
                }
            }
            if !page.more {
                return Ok((entries, at.0));
            }
        }
    }

    /// Builds an entry. A value that cannot be read is logged and left out: one broken object must not hide all others.
    pub(crate) fn entry(&self, key: Bytes, value: &Bytes, revision: i64) -> Option<Entry> {
        let prefix = self.config.prefix.len();
        match Entry::new(&self.config.header, &*self.config.indexer, key.clone(), prefix, value, revision) {
            Ok(entry) => Some(entry),
            Err(error) => {
                let key = String::from_utf8_lossy(&key).into_owned();
                tracing::error!(key, error = &error as &dyn std::error::Error, "stored object cannot be read");
                None
            }
        }
    }

    fn install(&self, entries: OrdMap<Bytes, Arc<Entry>>, revision: i64) {
        let mut state = self.state.lock();
        // A reset in between means that events were lost: what was read is not followed by what waits.
        let Phase::Loading(waiting) = std::mem::take(&mut state.phase) else { return };
        state.phase = Phase::Ready;
        state.index = Index::default();
        for (key, entry) in &entries {
            state.index.update(key, None, Some(entry), self.config.indexed_field);
        }
        state.entries = entries;
        state.revision = revision;
        state.ring_start = revision;
        let mut more = false;
        for event in waiting {
            if event.kv.mod_revision.0 > revision {
                more |= self.apply_locked(&mut state, event);
            }
        }
        while more {
            more = state.watchers.step();
        }
    }

    /// Takes in one event of the feed.
    pub(super) fn apply(self: &Arc<Cacher>, event: Event) {
        let mut state = self.state.lock();
        let more = match &mut state.phase {
            Phase::Cold => false,
            Phase::Loading(waiting) => {
                waiting.push(event);
                false
            }
            Phase::Ready => self.apply_locked(&mut state, event),
        };
        if more {
            tokio::spawn(self.clone().tell_watchers());
        }
    }

    /// Tells the watchers that were not told at once, a few at a time.
    async fn tell_watchers(self: Arc<Cacher>) {
        while self.state.lock().watchers.step() {
            tokio::task::yield_now().await;
        }
    }

    /// The revision up to which every watcher has been told of everything, not above the feed's, which was `announced` before.
    pub(crate) fn told(&self, announced: i64) -> i64 {
        self.state.lock().watchers.oldest_waiting().map_or(announced, |revision| announced.min(revision - 1))
    }

    /// Returns whether there are watchers to tell later.
    fn apply_locked(&self, state: &mut State, event: Event) -> bool {
        let revision = event.kv.mod_revision.0;
        let current = match event.deleted {
            true => None,
            false => self.entry(event.kv.key.clone(), &event.kv.value, revision).map(Arc::new),
        };
        let key = event.kv.key;
        let previous = match &current {
            Some(entry) => state.entries.insert(key.clone(), entry.clone()),
            None => state.entries.remove(&key),
        };
        state.index.update(&key, previous.as_deref(), current.as_deref(), self.config.indexed_field);
        state.revision = state.revision.max(revision);
        if current.is_none() && previous.is_none() {
            return false;
        }
        let event = Arc::new(CacheEvent { revision, previous, current, received: Instant::now() });
        state.ring_bytes += ring_cost(&event);
        state.ring.push_back(event.clone());
        trim_ring(state);
        state.watchers.send(&event, self.config.indexed_field)
    }

    /// Forgets everything: the feed lost events. Watchers are closed; the next request reads the state again.
    pub(super) fn reset(&self) {
        let mut state = self.state.lock();
        state.watchers.clear();
        *state = State::default();
    }

    /// The state now. `announced` is the feed's revision, read before.
    pub(crate) fn snapshot(&self, announced: i64) -> Snapshot {
        let state = self.state.lock();
        state.snapshot(state.revision.max(announced))
    }

    /// The state at an older revision, as far back as the ring remembers: the newest state with the events since undone.
    pub(crate) fn snapshot_at(&self, revision: i64) -> Option<Snapshot> {
        let state = self.state.lock();
        if revision < state.ring_start || !matches!(state.phase, Phase::Ready) {
            return None;
        }
        if state.ring.back().is_none_or(|newest| newest.revision <= revision) {
            return Some(state.snapshot(revision));
        }
        let mut entries = state.entries.clone();
        for event in state.ring.iter().rev().take_while(|event| event.revision > revision) {
            match (&event.previous, &event.current) {
                (Some(previous), _) => {
                    entries.insert(previous.key.clone(), previous.clone());
                }
                (None, Some(current)) => {
                    entries.remove(&current.key);
                }
                (None, None) => {}
            }
        }
        Some(Snapshot::unindexed(entries, revision))
    }

    /// How many objects there are; `None` while nobody has asked for any.
    pub(crate) fn count(&self) -> Option<usize> {
        let state = self.state.lock();
        matches!(state.phase, Phase::Ready).then(|| state.entries.len())
    }

    /// How many postings the index has.
    #[cfg(test)]
    pub(super) fn postings(&self) -> usize {
        self.state.lock().index.len()
    }

    /// One object.
    pub(crate) fn get(&self, key: &[u8]) -> Option<Arc<Entry>> {
        self.state.lock().entries.get(key).cloned()
    }

    /// Entries have been asked for protobuf messages.
    pub(crate) fn messages_were_made(&self) {
        self.messages.store(true, Ordering::Relaxed);
    }

    /// Drops the protobuf messages that nobody has asked for since the last call.
    pub(super) fn forget_unused_messages(&self) {
        if !self.messages.swap(false, Ordering::Relaxed) {
            return;
        }
        let entries = self.state.lock().entries.clone();
        // Not `any`: all have to be looked at.
        let left = entries.values().filter(|entry| entry.served.forget_unused_message()).count();
        if left > 0 {
            self.messages_were_made();
        }
    }

    /// The position of the field that watchers are indexed by.
    pub(crate) fn indexed_field(&self) -> Option<usize> {
        self.config.indexed_field
    }

    /// An entry's value of the indexed field.
    pub(crate) fn indexed_value<'a>(&self, entry: &'a Entry) -> Option<&'a str> {
        indexed_value(entry, self.config.indexed_field)
    }

    /// Starts a watch; with [`WatchStart::Now`] also returns the state that it continues from. `announced` is the feed's revision, read before.
    pub(crate) fn watch(&self, start: WatchStart, scope: WatchScope, announced: i64) -> Result<(Snapshot, Watcher), TooOld> {
        let mut state = self.state.lock();
        let told = state.revision;
        let (backlog, revision, heard) = match start {
            WatchStart::Now => (Vec::new(), state.revision.max(announced), told),
            WatchStart::After(after) if after < state.ring_start => return Err(TooOld { oldest: state.ring_start }),
            WatchStart::After(after) => {
                let first = state.ring.partition_point(|event| event.revision <= after);
                let in_scope = |event: &&Arc<CacheEvent>| {
                    let entries = [&event.previous, &event.current];
                    entries.into_iter().flatten().any(|entry| scope.contains(entry, self.config.indexed_field))
                };
                // A revision that is still to come: what happens until then is no event.
                (state.ring.range(first..).filter(in_scope).cloned().collect(), after, told.max(after))
            }
        };
        let queue = state.watchers.add(scope, WATCHER_QUEUE, heard);
        let snapshot = state.snapshot(revision);
        Ok((snapshot, Watcher::new(backlog, queue, revision, told.max(announced))))
    }
}

/// What the ring alone keeps in memory: objects that are no longer in the map.
fn ring_cost(event: &CacheEvent) -> usize {
    event.previous.as_ref().map_or(0, |entry| entry.bytes()) + std::mem::size_of::<CacheEvent>()
}

fn trim_ring(state: &mut State) {
    while let Some(oldest) = state.ring.front() {
        let over = state.ring.len() > RING_EVENTS_MAX || state.ring_bytes > RING_BYTES_MAX;
        let stale = state.ring.len() > RING_EVENTS_MIN && oldest.received.elapsed() > RING_AGE_MAX;
        if !over && !stale {
            break;
        }
        state.ring_bytes -= ring_cost(oldest);
        state.ring_start = oldest.revision;
        state.ring.pop_front();
    }
}

/// The key after all keys with this prefix.
pub(crate) fn prefix_end(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            break;
        }
    }
    end.into()
}

/// The first key after this one.
pub(crate) fn next_key(key: &[u8]) -> Bytes {
    let mut next = key.to_vec();
    next.push(0);
    next.into()
}
