//! The watchers that are up to date: hands them each commit's events, once and in order.
//!
//! Invariants: a watcher here has been sent everything up to `revision` that concerns it; publishing never waits for a watcher:
//! one whose queue is full gets its last message (kept free for it) and is gone.

use std::time::{Duration, Instant};

use tokio::sync::mpsc::{self, OwnedPermit, error::TrySendError};

use crate::contract::{Event, KeyRange, Revision, StoreError, WatchResponse, WatchStream};
use crate::mvcc::in_range;

/// How often a watch without events hears of the newest revision unasked, at most.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);

/// A watch with its sending half.
pub(crate) struct Watcher {
    pub(crate) range: KeyRange,
    pub(crate) tx: mpsc::Sender<WatchResponse>,
    /// A place in the queue for the message that ends the watch.
    last_word: OwnedPermit<WatchResponse>,
    /// The revision of the last message.
    pub(crate) told: Revision,
    told_at: Instant,
}

impl Watcher {
    pub(crate) fn new(range: KeyRange, capacity: usize) -> Result<(Self, WatchStream), StoreError> {
        let (tx, rx) = mpsc::channel(capacity.max(1) + 1);
        let last_word = tx.clone().try_reserve_owned().map_err(|_| StoreError::Closed)?;
        Ok((Self { range, tx, last_word, told: Revision(0), told_at: Instant::now() }, rx))
    }

    /// Ends the watch with a last message.
    pub(crate) fn end(self, message: WatchResponse) {
        self.last_word.send(message);
    }

    /// Sends without waiting; false when the queue is full or nobody listens.
    fn tell(&mut self, message: WatchResponse, revision: Revision) -> Result<(), TrySendError<WatchResponse>> {
        self.tx.try_send(message)?;
        self.told = revision;
        self.told_at = Instant::now();
        Ok(())
    }
}

/// The up-to-date watchers.
pub(crate) struct Hub {
    watchers: Vec<Watcher>,
    pub(crate) revision: Revision,
    pub(crate) closed: bool,
}

impl Hub {
    pub(crate) fn new(revision: Revision) -> Self {
        Self { watchers: Vec::new(), revision, closed: false }
    }

    /// Takes a watcher that has been sent everything up to `self.revision`.
    pub(crate) fn attach(&mut self, mut watcher: Watcher) {
        if self.closed {
            return;
        }
        if watcher.told < self.revision && watcher.told > Revision(0) {
            // A full queue is no matter: progress is only a hint.
            let _ = watcher.tell(WatchResponse::Progress(self.revision), self.revision);
        }
        self.watchers.push(watcher);
    }

    /// Delivers the events of one or more whole revisions, up to `revision`.
    pub(crate) fn publish(&mut self, events: &[Event], revision: Revision) {
        self.revision = self.revision.max(revision);
        let mut index = 0;
        while let Some(watcher) = self.watchers.get_mut(index) {
            let mine: Vec<Event> = events.iter().filter(|event| in_range(&watcher.range, &event.kv.key)).cloned().collect();
            let sent = if !mine.is_empty() {
                watcher.tell(WatchResponse::Events { events: mine, revision }, revision)
            } else if watcher.tx.is_closed() {
                Err(TrySendError::Closed(WatchResponse::Progress(revision)))
            } else {
                if watcher.told_at.elapsed() >= PROGRESS_INTERVAL {
                    let _ = watcher.tell(WatchResponse::Progress(revision), revision);
                }
                Ok(())
            };
            match sent {
                Ok(()) => index += 1,
                Err(TrySendError::Full(_)) => self.watchers.swap_remove(index).end(WatchResponse::Lagged),
                Err(TrySendError::Closed(_)) => drop(self.watchers.swap_remove(index)),
            }
        }
    }

    /// Tells every watcher that has room how far the store is.
    pub(crate) fn progress(&mut self) {
        let revision = self.revision;
        for watcher in self.watchers.iter_mut().filter(|watcher| watcher.told < revision) {
            let _ = watcher.tell(WatchResponse::Progress(revision), revision);
        }
    }

    /// Ends all watches.
    pub(crate) fn close(&mut self) {
        self.closed = true;
        self.watchers.clear();
    }
}
