//! Watchers and the index that finds them.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::entry::{CacheEvent, Delivery, Entry};

/// What a watcher wants to hear of; selectors are applied by the watcher itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum WatchScope {
    /// Everything.
    All,
    /// One namespace.
    Namespace(Box<str>),
    /// One object (`namespace`, `name`).
    Name(Box<str>, Box<str>),
    /// Objects whose indexed field has this value.
    Field(Box<str>),
}

impl WatchScope {
    /// Whether an entry is in the scope. `indexed` is the position of the indexed field.
    pub(crate) fn contains(&self, entry: &Entry, indexed: Option<usize>) -> bool {
        match self {
            WatchScope::All => true,
            WatchScope::Namespace(namespace) => entry.namespace() == &**namespace,
            WatchScope::Name(namespace, name) => entry.namespace() == &**namespace && entry.name() == &**name,
            WatchScope::Field(value) => indexed.and_then(|at| entry.fields.get(at)).is_some_and(|have| have == value),
        }
    }
}

/// The receiving end of a watch.
#[derive(Debug)]
pub(crate) struct Watcher {
    /// Events from the ring that come before the queue's.
    pub(crate) backlog: std::vec::IntoIter<Arc<CacheEvent>>,
    /// Live events. Closed when the watcher was too slow or the cache started anew.
    pub(crate) queue: mpsc::Receiver<Arc<Delivery>>,
}

/// All watchers of a cache, found by scope.
#[derive(Debug, Default)]
pub(crate) struct WatcherIndex {
    by_scope: HashMap<WatchScope, Vec<mpsc::Sender<Arc<Delivery>>>>,
}

impl WatcherIndex {
    /// Adds a watcher with a queue of `capacity` events.
    pub(crate) fn add(&mut self, scope: WatchScope, capacity: usize) -> mpsc::Receiver<Arc<Delivery>> {
        let (sender, receiver) = mpsc::channel(capacity);
        let senders = self.by_scope.entry(scope).or_default();
        senders.retain(|sender| !sender.is_closed());
        senders.push(sender);
        receiver
    }

    /// Queues an event for everyone whose scope holds the object, before or after. Watchers that left or fell behind are dropped.
    pub(crate) fn send(&mut self, event: &Arc<CacheEvent>, indexed: Option<usize>) {
        let Some(entry) = event.entry() else { return };
        if self.by_scope.is_empty() {
            return;
        }
        let delivery = Arc::new(Delivery::new(event.clone()));
        self.send_to(&WatchScope::All, &delivery);
        if self.by_scope.len() <= usize::from(self.by_scope.contains_key(&WatchScope::All)) {
            return;
        }
        if !entry.namespace().is_empty() {
            self.send_to(&WatchScope::Namespace(entry.namespace().into()), &delivery);
        }
        self.send_to(&WatchScope::Name(entry.namespace().into(), entry.name().into()), &delivery);
        let value = |entry: &Option<Arc<Entry>>| -> Option<Box<str>> { entry.as_ref()?.fields.get(indexed?).cloned() };
        let (before, after) = (value(&event.previous), value(&event.current));
        if let Some(value) = &after {
            self.send_to(&WatchScope::Field(value.clone()), &delivery);
        }
        if before != after
            && let Some(value) = before
        {
            self.send_to(&WatchScope::Field(value), &delivery);
        }
    }

    fn send_to(&mut self, scope: &WatchScope, delivery: &Arc<Delivery>) {
        if let Some(senders) = self.by_scope.get_mut(scope) {
            // A full queue means that the watcher is too slow: it loses its sender, sees the end, and answers 410.
            senders.retain(|sender| sender.try_send(delivery.clone()).is_ok());
            if senders.is_empty() {
                self.by_scope.remove(scope);
            }
        }
    }

    /// Closes all watchers.
    pub(crate) fn clear(&mut self) {
        self.by_scope.clear();
    }
}
