//! A deduplicating queue of keys with delays and back-off, after client-go's `util/workqueue`.
//!
//! Invariants: a key waits at most once; a key that is being processed is not handed out again, but if it is added
//! meanwhile it is queued once more when it is done. So the queue is bounded by the number of distinct keys and
//! needs no overflow rule. Delayed keys sleep in the queue itself: no task and no timer exists while none waits.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::RateLimiter;
use crate::workqueue_metrics::QueueMetrics;

struct State<T> {
    ready: VecDeque<(T, Instant)>,
    /// Ready or to be queued again after processing.
    dirty: HashSet<T>,
    processing: HashMap<T, Instant>,
    delayed: BinaryHeap<Reverse<(Instant, T)>>,
    /// The earliest time for each delayed key; heap entries that disagree are stale.
    due: HashMap<T, Instant>,
    limiter: RateLimiter<T>,
    shut_down: bool,
}

/// The queue; clones share it.
pub struct WorkQueue<T> {
    state: Arc<Mutex<State<T>>>,
    wake: Arc<Notify>,
    metrics: Arc<QueueMetrics>,
}

impl<T> Clone for WorkQueue<T> {
    fn clone(&self) -> Self {
        Self { state: Arc::clone(&self.state), wake: Arc::clone(&self.wake), metrics: Arc::clone(&self.metrics) }
    }
}

impl<T: Clone + Eq + Hash + Ord> WorkQueue<T> {
    /// An empty queue with the default rate limiter; `name` labels its metrics.
    pub fn new(name: &str) -> Self {
        Self::with_limiter(name, RateLimiter::default())
    }

    /// An empty queue with its own rate limiter.
    pub fn with_limiter(name: &str, limiter: RateLimiter<T>) -> Self {
        Self {
            state: Arc::new(Mutex::new(State {
                ready: VecDeque::new(),
                dirty: HashSet::new(),
                processing: HashMap::new(),
                delayed: BinaryHeap::new(),
                due: HashMap::new(),
                limiter,
                shut_down: false,
            })),
            wake: Arc::new(Notify::new()),
            metrics: Arc::new(QueueMetrics::new(name)),
        }
    }

    /// Queues a key, unless it waits already.
    pub fn add(&self, key: T) {
        let mut state = self.state.lock();
        if state.push(key) {
            self.metrics.added(state.ready.len());
            drop(state);
            self.wake.notify_one();
        }
    }

    /// Queues a key after a delay. Of several delays for the same key the earliest counts.
    pub fn add_after(&self, key: T, delay: Duration) {
        if delay.is_zero() {
            return self.add(key);
        }
        let mut state = self.state.lock();
        if state.shut_down {
            return;
        }
        let at = Instant::now() + delay;
        if state.due.get(&key).is_some_and(|known| *known <= at) {
            return;
        }
        state.due.insert(key.clone(), at);
        let earliest = state.delayed.peek().is_none_or(|Reverse((first, _))| at < *first);
        state.delayed.push(Reverse((at, key)));
        drop(state);
        if earliest {
            // One waiting worker is enough: it will sleep until the new time.
            self.wake.notify_one();
        }
    }

    /// Queues a key that failed, after its back-off.
    pub fn add_rate_limited(&self, key: T) {
        let delay = self.state.lock().limiter.next(&key);
        self.metrics.retried();
        self.add_after(key, delay);
    }

    /// The key succeeded: its back-off starts anew.
    pub fn forget(&self, key: &T) {
        self.state.lock().limiter.forget(key);
    }

    /// How often the key failed since [`WorkQueue::forget`].
    pub fn failures(&self, key: &T) -> u32 {
        self.state.lock().limiter.failures(key)
    }

    /// Number of keys that wait now, delayed ones not counted.
    pub fn len(&self) -> usize {
        self.state.lock().ready.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Waits for the next key; `None` after shutdown, once the ready keys are drained. Each key got must be given back
    /// with [`WorkQueue::done`]. Cancellation-safe: a cancelled call takes no key.
    pub async fn get(&self) -> Option<T> {
        loop {
            let notified = self.wake.notified();
            let next_due = {
                let mut state = self.state.lock();
                let due = state.promote_due(Instant::now());
                if due > 0 {
                    self.metrics.added(state.ready.len());
                }
                if let Some((key, since)) = state.ready.pop_front() {
                    state.dirty.remove(&key);
                    let now = Instant::now();
                    state.processing.insert(key.clone(), now);
                    self.metrics.taken(state.ready.len(), now.duration_since(since));
                    // Pass the wake-up on: others may be ready, or a delayed key needs a sleeper.
                    if !state.ready.is_empty() || !state.delayed.is_empty() {
                        self.wake.notify_one();
                    }
                    return Some(key);
                }
                if state.shut_down {
                    self.wake.notify_one();
                    return None;
                }
                state.delayed.peek().map(|Reverse((at, _))| *at)
            };
            match next_due {
                None => notified.await,
                Some(at) => {
                    tokio::select! {
                        () = notified => {}
                        () = tokio::time::sleep_until(at) => {}
                    }
                }
            }
        }
    }

    /// Ends the processing of a key; queues it again if it was added meanwhile.
    pub fn done(&self, key: &T) {
        let mut state = self.state.lock();
        if let Some(since) = state.processing.remove(key) {
            self.metrics.done(since.elapsed());
        }
        if state.dirty.contains(key) {
            state.ready.push_back((key.clone(), Instant::now()));
            drop(state);
            self.wake.notify_one();
        }
    }

    /// Refuses further keys and lets workers end.
    pub fn shut_down(&self) {
        let mut state = self.state.lock();
        state.shut_down = true;
        state.delayed.clear();
        state.due.clear();
        drop(state);
        self.wake.notify_waiters();
        self.wake.notify_one();
    }
}

impl<T: Clone + Eq + Hash + Ord> State<T> {
    /// Whether the key became ready.
    fn push(&mut self, key: T) -> bool {
        if self.shut_down || !self.dirty.insert(key.clone()) {
            return false;
        }
        if self.processing.contains_key(&key) {
            return false;
        }
        self.ready.push_back((key, Instant::now()));
        true
    }

    fn promote_due(&mut self, now: Instant) -> usize {
        let mut promoted = 0;
        while let Some(Reverse((at, _))) = self.delayed.peek() {
            if *at > now {
                break;
            }
            let Some(Reverse((at, key))) = self.delayed.pop() else {
                break;
            };
            if self.due.get(&key) == Some(&at) {
                self.due.remove(&key);
                promoted += usize::from(self.push(key));
            }
        }
        promoted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_key_waits_once_and_is_never_processed_twice_at_once() {
        let queue = WorkQueue::new("test");
        queue.add("a");
        queue.add("a");
        queue.add("b");
        assert_eq!(queue.get().await, Some("a"));
        queue.add("a");
        assert_eq!(queue.get().await, Some("b"));
        assert!(queue.is_empty(), "a is being processed");
        queue.done(&"a");
        assert_eq!(queue.get().await, Some("a"));
        queue.done(&"b");
        queue.done(&"a");
        assert!(queue.is_empty());
    }

    #[tokio::test]
    async fn the_earliest_delay_counts() {
        let queue = WorkQueue::new("test");
        let start = Instant::now();
        queue.add_after("slow", Duration::from_millis(60));
        queue.add_after("a", Duration::from_secs(5));
        queue.add_after("a", Duration::from_millis(20));
        queue.add_after("a", Duration::from_secs(9));
        assert_eq!(queue.get().await, Some("a"));
        assert!(start.elapsed() >= Duration::from_millis(20));
        queue.done(&"a");
        assert_eq!(queue.get().await, Some("slow"));
        assert!(start.elapsed() >= Duration::from_millis(60));
        assert!(queue.state.lock().due.is_empty(), "a's later delays are stale");
    }

    #[tokio::test]
    async fn a_sleeping_worker_is_woken_by_an_earlier_delay() {
        let queue = WorkQueue::new("test");
        queue.add_after("late", Duration::from_secs(3600));
        let waiting = tokio::spawn({
            let queue = queue.clone();
            async move { queue.get().await }
        });
        tokio::task::yield_now().await;
        queue.add_after("early", Duration::from_millis(10));
        let key = tokio::time::timeout(Duration::from_secs(60), waiting).await;
        assert_eq!(key.expect("does not wait an hour").expect("does not panic"), Some("early"));
    }

    #[tokio::test]
    async fn shutdown_drains_and_ends_all_workers() {
        let queue = WorkQueue::new("test");
        let workers: Vec<_> = (0..3)
            .map(|_| {
                let queue = queue.clone();
                tokio::spawn(async move {
                    let mut seen = 0;
                    while let Some(key) = queue.get().await {
                        seen += 1;
                        queue.done(&key);
                    }
                    seen
                })
            })
            .collect();
        tokio::task::yield_now().await;
        for key in 0..10 {
            queue.add(key);
        }
        queue.add_after(99, Duration::from_secs(1));
        queue.shut_down();
        queue.add(100);
        let mut total = 0;
        for worker in workers {
            total += worker.await.expect("worker does not panic");
        }
        assert_eq!(total, 10);
    }

    #[tokio::test]
    async fn failures_back_off_and_forget_resets() {
        let queue = WorkQueue::new("test");
        for delay_min in [5, 10, 20] {
            let start = Instant::now();
            queue.add_rate_limited("a");
            queue.get().await;
            queue.done(&"a");
            assert!(start.elapsed() >= Duration::from_millis(delay_min));
        }
        assert_eq!(queue.failures(&"a"), 3);
        queue.forget(&"a");
        assert_eq!(queue.failures(&"a"), 0);
    }
}
