//! Watchers and the index that finds them.

use std::collections::{HashMap, VecDeque};
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
    queue: mpsc::Receiver<Arc<Delivery>>,
    /// The revision that it began after, if that was still to come; 0 otherwise.
    ahead: i64,
    /// It knows of everything up to here.
    revision: i64,
}

impl Watcher {
    /// `newest` is the revision that there is.
    pub(super) fn new(
        backlog: Vec<Arc<CacheEvent>>,
        queue: mpsc::Receiver<Arc<Delivery>>,
        revision: i64,
        newest: i64,
    ) -> Watcher {
        let ahead = if revision > newest { revision } else { 0 };
        let revision = backlog.last().map_or(revision, |newest| revision.max(newest.revision));
        Watcher { backlog: backlog.into_iter(), queue, ahead, revision }
    }

    /// The next live event, if one is there.
    pub(crate) fn try_next(&mut self) -> Option<Arc<Delivery>> {
        let delivery = self.queue.try_recv().ok()?;
        self.revision = delivery.event.revision;
        Some(delivery)
    }

    /// The next live event; `None` when the watch is over. Cancellation-safe.
    pub(crate) async fn next(&mut self) -> Option<Arc<Delivery>> {
        let delivery = self.queue.recv().await?;
        self.revision = delivery.event.revision;
        Some(delivery)
    }

    /// The revision up to which it knows everything, once all of backlog and queue has been taken; `told` is what all watchers were told
    /// of, read before. This one may have been told of more, and never goes back. `None` while that is before where it began.
    pub(crate) fn reached(&mut self, told: i64) -> Option<i64> {
        if told < self.ahead && self.revision <= self.ahead {
            return None;
        }
        self.revision = self.revision.max(told);
        Some(self.revision)
    }
}

/// Watchers of one scope that are told at once; of more, so many at a time, and then others get their turn: waking a thousand watchers
/// is tens of milliseconds of work, which the writer would have to wait for. What happens meanwhile goes out together, with one write
/// a watcher.
const AT_ONCE: usize = 32;
/// So many events wait for their turn, then all watchers are told whatever it holds up.
const WAITING_MAX: usize = 1024;

/// All watchers of a cache, found by scope.
#[derive(Debug, Default)]
pub(crate) struct WatcherIndex {
    by_scope: HashMap<WatchScope, Group>,
    /// Scopes with events that wait; the first has its turn next.
    behind: VecDeque<WatchScope>,
    /// Someone calls [`WatcherIndex::step`] until it is done.
    stepping: bool,
}

impl WatcherIndex {
    /// Adds a watcher with a queue of `capacity` events, which hears of what comes after `revision`.
    pub(crate) fn add(&mut self, scope: WatchScope, capacity: usize, revision: i64) -> mpsc::Receiver<Arc<Delivery>> {
        let (queue, receiver) = mpsc::channel(capacity);
        self.by_scope.entry(scope).or_default().add(Member { queue: Some(queue), revision });
        receiver
    }

    /// Tells everyone whose scope holds the object, before or after. Watchers that left or fell behind are dropped. Returns whether
    /// the caller has to see to it that [`WatcherIndex::step`] is called until it is done.
    #[must_use]
    pub(crate) fn send(&mut self, event: &Arc<CacheEvent>, indexed: Option<usize>) -> bool {
        let Some(entry) = event.entry().filter(|_| !self.by_scope.is_empty()) else { return false };
        let delivery = Arc::new(Delivery::new(event.clone()));
        self.send_to(&WatchScope::All, &delivery);
        if self.by_scope.len() > usize::from(self.by_scope.contains_key(&WatchScope::All)) {
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
        let begins = !self.behind.is_empty() && !self.stepping;
        self.stepping |= begins;
        begins
    }

    fn send_to(&mut self, scope: &WatchScope, delivery: &Arc<Delivery>) {
        let Some(group) = self.by_scope.get_mut(scope) else { return };
        let was_behind = group.is_behind();
        group.waiting.push(delivery.clone());
        let at_once = group.members.len() <= AT_ONCE || group.waiting.len() > WAITING_MAX;
        while at_once && group.step(usize::MAX) {}
        match (was_behind, group.is_behind()) {
            (false, true) => self.behind.push_back(scope.clone()),
            (true, false) => self.behind.retain(|other| other != scope),
            _ => {}
        }
        if group.members.is_empty() {
            self.by_scope.remove(scope);
        }
    }

    /// Tells the next few watchers; whether there are more to tell.
    pub(crate) fn step(&mut self) -> bool {
        if let Some(scope) = self.behind.pop_front()
            && self.by_scope.get_mut(&scope).is_some_and(|group| group.step(AT_ONCE))
        {
            self.behind.push_back(scope);
        }
        self.stepping = !self.behind.is_empty();
        self.stepping
    }

    /// Everything before this revision is in the watchers' queues; `None` when nothing waits.
    pub(crate) fn oldest_waiting(&self) -> Option<i64> {
        let groups = self.behind.iter().filter_map(|scope| self.by_scope.get(scope));
        groups.filter_map(|group| group.round.first().or(group.waiting.first())).map(|delivery| delivery.event.revision).min()
    }

    /// Closes all watchers.
    pub(crate) fn clear(&mut self) {
        self.by_scope.clear();
        self.behind.clear();
    }
}

/// The watchers of one scope.
#[derive(Debug, Default)]
struct Group {
    members: Vec<Member>,
    /// What the next round tells.
    waiting: Vec<Arc<Delivery>>,
    /// What this round tells, to the members from `next` on.
    round: Vec<Arc<Delivery>>,
    next: usize,
}

#[derive(Debug)]
struct Member {
    /// `None` once it left or fell behind: it loses its sender, sees the end, and answers 410.
    queue: Option<mpsc::Sender<Arc<Delivery>>>,
    /// It knows of what came until here.
    revision: i64,
}

impl Member {
    fn tell(&mut self, deliveries: &[Arc<Delivery>]) {
        let Some(queue) = &self.queue else { return };
        let mut news = deliveries.iter().filter(|delivery| delivery.event.revision > self.revision);
        if !news.all(|delivery| queue.try_send(delivery.clone()).is_ok()) {
            self.queue = None;
        }
    }

    fn is_gone(&self) -> bool {
        self.queue.as_ref().is_none_or(mpsc::Sender::is_closed)
    }
}

impl Group {
    fn add(&mut self, member: Member) {
        if !self.is_behind() {
            self.members.retain(|member| !member.is_gone());
        }
        self.members.push(member);
    }

    fn is_behind(&self) -> bool {
        !self.round.is_empty() || !self.waiting.is_empty()
    }

    /// Tells the next `count` members; whether there are more to tell.
    fn step(&mut self, count: usize) -> bool {
        if self.round.is_empty() {
            self.round = std::mem::take(&mut self.waiting);
        }
        let end = self.members.len().min(self.next.saturating_add(count));
        for member in &mut self.members[self.next..end] {
            member.tell(&self.round);
        }
        self.next = end;
        if end == self.members.len() {
            self.next = 0;
            self.round.clear();
            self.members.retain(|member| !member.is_gone());
        }
        self.is_behind()
    }
}
