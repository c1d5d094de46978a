//! The cache against a model: what lists find (by index or scan, now or at an older revision) and what watches deliver.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use apimachinery::{GroupVersionKind, Map, Value, Wanted, value};
use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use storage::{Memory, Op, Store, Txn};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::registry::codec::Header;

const PREFIX: &str = "/registry/pods/";
const STEPS: usize = 400;
const SEEDS: u64 = 8;
/// Watchers of everything, more than are told at once.
const CROWD: usize = 100;
const SECOND: Duration = Duration::from_secs(1);

struct NodeName(Vec<Wanted>);

impl Indexer for NodeName {
    fn wanted(&self) -> Option<&[Wanted]> {
        Some(&self.0)
    }

    fn fields(&self, object: &Value) -> Box<[Box<str>]> {
        Box::new([object.str_at(&["spec", "nodeName"]).unwrap_or_default().into()])
    }
}

/// What the model knows of an object.
#[derive(Clone, Debug, PartialEq)]
struct Pod {
    revision: i64,
    labels: BTreeMap<String, String>,
    node: String,
}

type Pods = BTreeMap<String, Pod>;

/// A selector as the model sees it.
#[derive(Debug)]
struct Query {
    namespace: Option<&'static str>,
    labels: Vec<(String, String)>,
    node: Option<String>,
}

impl Query {
    fn random(rng: &mut StdRng) -> Query {
        let label = |rng: &mut StdRng| (format!("l{}", rng.random_range(0..3)), format!("v{}", rng.random_range(0..5)));
        Query {
            namespace: [None, Some("a"), Some("b")][rng.random_range(0..3)],
            labels: (0..rng.random_range(0..3)).map(|_| label(rng)).collect(),
            node: rng.random_bool(0.4).then(|| format!("n{}", rng.random_range(0..6))),
        }
    }

    fn matches(&self, key: &str, labels: impl Fn(&str) -> Option<String>, node: &str) -> bool {
        let in_namespace = self.namespace.is_none_or(|namespace| key.starts_with(&format!("{PREFIX}{namespace}/")));
        let labelled = self.labels.iter().all(|(key, value)| labels(key).as_ref() == Some(value));
        in_namespace && labelled && self.node.as_ref().is_none_or(|wanted| wanted == node)
    }

    fn of_model(&self, pods: &Pods) -> Vec<(String, i64)> {
        let matching = pods.iter().filter(|(key, pod)| self.matches(key, |label| pod.labels.get(label).cloned(), &pod.node));
        matching.map(|(key, pod)| (key.clone(), pod.revision)).collect()
    }

    fn of_snapshot(&self, snapshot: &Snapshot) -> Vec<(String, i64)> {
        let mut terms: Vec<Term> = self.labels.iter().map(|(key, value)| Term::label(key, value)).collect();
        terms.extend(self.node.as_deref().map(Term::field));
        let prefix = self.namespace.map_or(PREFIX.to_owned(), |namespace| format!("{PREFIX}{namespace}/"));
        let end = prefix_end(prefix.as_bytes());
        let text = |key: &Bytes| String::from_utf8(key.to_vec()).expect("UTF-8");
        let label = |entry: &Entry, wanted: &str| {
            entry.labels.iter().find(|(key, _)| &**key == wanted).map(|(_, value)| value.to_string())
        };
        let found = snapshot.candidates(&terms, prefix.into(), end);
        let matching = found.filter(|entry| self.matches(&text(&entry.key), |wanted| label(entry, wanted), &entry.fields[0]));
        matching.map(|entry| (text(&entry.key), entry.revision)).collect()
    }
}

/// A watch with the state that its events must lead to.
struct Follower {
    scope: WatchScope,
    watcher: Watcher,
    seen: BTreeMap<String, i64>,
    last: i64,
    /// What its last bookmark said.
    promised: i64,
}

impl Follower {
    fn contains(scope: &WatchScope, key: &str, pod: &Pod) -> bool {
        let (namespace, name) = key[PREFIX.len()..].split_once('/').expect("a namespace and a name");
        match scope {
            WatchScope::All => true,
            WatchScope::Namespace(wanted) => **wanted == *namespace,
            WatchScope::Name(ns, wanted) => **ns == *namespace && **wanted == *name,
            WatchScope::Field(node) => **node == *pod.node,
        }
    }

    fn follow(&mut self) {
        let mut events: Vec<_> = self.watcher.backlog.by_ref().collect();
        events.extend(std::iter::from_fn(|| self.watcher.try_next()).map(|delivery| delivery.event.clone()));
        for event in events {
            assert!(event.revision > self.last, "events come once and in order");
            assert!(event.revision > self.promised, "an event after the bookmark that covers it");
            self.last = event.revision;
            let wanted = |entry: &&Arc<Entry>| self.scope.contains(entry, Some(0));
            let key = String::from_utf8(event.entry().expect("before or after").key.to_vec()).expect("UTF-8");
            match event.current.as_ref().filter(wanted) {
                Some(entry) => drop(self.seen.insert(key, entry.revision)),
                None => {
                    assert!(event.previous.as_ref().filter(wanted).is_some(), "an event of another scope");
                    self.seen.remove(&key);
                }
            }
        }
    }
}

struct World {
    rng: StdRng,
    store: Arc<Memory>,
    feed: Arc<Feed>,
    cacher: Arc<Cacher>,
    pods: Pods,
    history: Vec<(i64, Pods)>,
    followers: Vec<Follower>,
}

impl World {
    async fn new(seed: u64) -> World {
        let store = Arc::new(Memory::new());
        let feed = Feed::new(store.clone(), "/registry", CancellationToken::new());
        let cacher = Arc::new(Cacher::new(CacherConfig {
            prefix: PREFIX.to_owned(),
            header: Header::new(&GroupVersionKind::new("", "v1", "Pod")),
            indexer: Box::new(NodeName(Wanted::of_paths(["metadata.labels", "spec.nodeName"]))),
            indexed_field: Some(0),
        }));
        feed.add(cacher.clone());
        let rng = StdRng::seed_from_u64(seed);
        World { rng, store, feed, cacher, pods: Pods::new(), history: Vec::new(), followers: Vec::new() }
    }

    async fn write(&mut self) {
        let namespace = ["a", "b"][self.rng.random_range(0..2)];
        let key = format!("{PREFIX}{namespace}/pod-{}", self.rng.random_range(0..60));
        if self.rng.random_bool(0.25) && self.pods.contains_key(&key) {
            let response = self.commit(Op::Delete { key: key.clone().into() }).await;
            self.pods.remove(&key);
            self.history.push((response, self.pods.clone()));
            return;
        }
        let mut labels = BTreeMap::new();
        for label in 0..self.rng.random_range(0..3) {
            labels.insert(format!("l{label}"), format!("v{}", self.rng.random_range(0..5)));
        }
        // Now and then only the status changes, as it does most of the time in a cluster.
        let old = self.pods.get(&key).filter(|_| self.rng.random_bool(0.5)).cloned();
        let node = format!("n{}", self.rng.random_range(0..6));
        let (labels, node) = old.map_or((labels, node), |old| (old.labels, old.node));
        let named: Map = labels.iter().map(|(key, value)| (key.as_str(), Value::from(value.as_str()))).collect();
        let object = value!({"kind": "Pod", "apiVersion": "v1", "metadata": {"labels": Value::from(named)},
            "spec": {"nodeName": node.as_str()}, "status": {"n": self.rng.random_range(0..1000)}});
        let value = Header::new(&GroupVersionKind::new("", "v1", "Pod")).encode(&object);
        let revision = self.commit(Op::Put { key: key.clone().into(), value, lease: storage::LeaseId(0) }).await;
        self.pods.insert(key, Pod { revision, labels, node });
        self.history.push((revision, self.pods.clone()));
    }

    async fn commit(&self, op: Op) -> i64 {
        let response = self.store.txn(Txn { success: vec![op], ..Txn::default() }).await.expect("the store is in memory");
        response.revision.0
    }

    async fn catch_up(&self) {
        self.cacher.ensure_ready(&*self.store, &self.feed).await.expect("the store is in memory");
        self.feed.wait_for_now(SECOND * 10).await.expect("open").expect("the feed follows");
    }

    fn check_lists(&mut self) {
        let now = self.cacher.snapshot(self.feed.revision());
        for _ in 0..4 {
            let query = Query::random(&mut self.rng);
            assert_eq!(query.of_snapshot(&now), query.of_model(&self.pods), "{query:?}");
            let (revision, then) = &self.history[self.rng.random_range(0..self.history.len())];
            if let Some(snapshot) = self.cacher.snapshot_at(*revision) {
                assert_eq!(query.of_snapshot(&snapshot), query.of_model(then), "{query:?} at {revision}");
            }
        }
    }

    /// Many watch everything, so that they are told in turns; some hang up. What `told` promises has to be in the queues of the others.
    fn check_crowd(&mut self, crowd: &mut Vec<Follower>) {
        crowd.retain(|_| self.rng.random_bool(0.95));
        while crowd.len() < CROWD {
            let Ok((snapshot, watcher)) = self.cacher.watch(WatchStart::Now, WatchScope::All, 0) else { return };
            let text = |key: &Bytes| String::from_utf8(key.to_vec()).expect("UTF-8");
            let seen = snapshot.entries.iter().map(|(key, entry)| (text(key), entry.revision)).collect();
            crowd.push(Follower { scope: WatchScope::All, watcher, seen, last: snapshot.revision, promised: 0 });
        }
        let told = self.cacher.told(self.feed.revision());
        let (last, _) = self.history.iter().rev().find(|(revision, _)| *revision <= told).expect("some time ago");
        for follower in crowd {
            follower.follow();
            assert!(follower.last >= *last, "{} was promised, {} came", last, follower.last);
            let reached = follower.watcher.reached(told).expect("it began at what there was");
            assert!(reached >= follower.last, "a bookmark at {reached} would go back behind {}", follower.last);
            follower.promised = reached;
        }
    }

    fn begin_watch(&mut self) {
        let scope = match self.rng.random_range(0..4) {
            0 => WatchScope::All,
            1 => WatchScope::Namespace("a".into()),
            2 => WatchScope::Name("b".into(), format!("pod-{}", self.rng.random_range(0..60)).into()),
            _ => WatchScope::Field(format!("n{}", self.rng.random_range(0..6)).into()),
        };
        let (revision, then) = self.history[self.rng.random_range(0..self.history.len())].clone();
        let Ok((_, watcher)) = self.cacher.watch(WatchStart::After(revision), scope.clone(), self.feed.revision()) else {
            return;
        };
        let seen = in_scope(&scope, &then);
        self.followers.push(Follower { scope, watcher, seen, last: revision, promised: 0 });
    }
}

fn in_scope(scope: &WatchScope, pods: &Pods) -> BTreeMap<String, i64> {
    let inside = pods.iter().filter(|(key, pod)| Follower::contains(scope, key, pod));
    inside.map(|(key, pod)| (key.clone(), pod.revision)).collect()
}

#[tokio::test]
async fn lists_and_watches_equal_a_model() {
    for seed in 0..SEEDS {
        let mut world = World::new(seed).await;
        // What was there before anybody asked is read, not followed.
        for _ in 0..40 {
            world.write().await;
        }
        world.history.drain(..39);
        let mut crowd = Vec::new();
        for _ in 0..STEPS {
            world.write().await;
            if world.rng.random_bool(0.1) {
                world.catch_up().await;
                world.check_lists();
                world.begin_watch();
                world.check_crowd(&mut crowd);
                // In the middle of a round.
                tokio::task::yield_now().await;
                world.check_crowd(&mut crowd);
                for follower in &mut world.followers {
                    follower.follow();
                }
            }
        }
        world.catch_up().await;
        assert!(world.followers.len() > 10, "seed {seed}");
        while world.cacher.told(world.feed.revision()) < world.feed.revision() {
            tokio::task::yield_now().await;
        }
        assert!(crowd.len() > CROWD / 2, "seed {seed}");
        for follower in world.followers.iter_mut().chain(&mut crowd) {
            follower.follow();
            assert_eq!(follower.seen, in_scope(&follower.scope, &world.pods), "seed {seed}, {:?}", follower.scope);
        }
    }
}

#[tokio::test]
async fn the_index_forgets_what_is_deleted() {
    let mut world = World::new(7).await;
    world.write().await;
    world.catch_up().await;
    for _ in 0..STEPS {
        world.write().await;
    }
    for key in world.pods.keys().cloned().collect::<Vec<_>>() {
        world.commit(Op::Delete { key: key.into() }).await;
    }
    world.catch_up().await;
    assert_eq!(world.cacher.postings(), 0);
}

#[tokio::test]
async fn messages_go_when_nobody_asks_for_them() {
    let mut world = World::new(11).await;
    for _ in 0..STEPS {
        world.write().await;
    }
    world.catch_up().await;
    let entries = world.cacher.snapshot(0).entries;
    let message = |entry: &Arc<Entry>| entry.served.message().expect("pods have a schema");
    let made: Vec<Bytes> = entries.values().map(message).collect();
    world.cacher.messages_were_made();
    assert!(made.len() > 1, "there are pods");
    world.cacher.forget_unused_messages();
    let (key, asked) = entries.iter().next().expect("there are pods");
    assert_eq!(message(asked).as_ptr(), made[0].as_ptr(), "it was asked for since the last time");
    world.cacher.forget_unused_messages();
    // As long as `made` holds the old ones, new ones lie elsewhere.
    for (one, old) in entries.iter().zip(&made) {
        assert_eq!(message(one.1).as_ptr() == old.as_ptr(), one.0 == key, "{:?}", one.0);
    }
}
