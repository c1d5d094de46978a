//! Random operations, compared with a model that keeps a whole copy of the state for every revision.

use std::collections::BTreeMap;

use super::*;
use crate::contract::Durability;

const STEPS: usize = 1500;
const KEYS: u64 = 12;

type Snapshot = BTreeMap<String, (String, i64, i64, i64)>;

/// xorshift64: reproducible, and the suite needs no dependency for it.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

struct Model {
    /// The state after each revision: key to value, create revision, mod revision, version.
    states: BTreeMap<i64, Snapshot>,
    compacted: i64,
}

impl Model {
    fn current(&self) -> (i64, &Snapshot) {
        let (revision, snapshot) = self.states.last_key_value().expect("never empty");
        (*revision, snapshot)
    }
}

/// Any sequence of operations has the effects that the model predicts. The seed of a failure is in the panic message; make it a
/// test of its own with [`model_agrees_from`].
pub async fn model_agrees(store: Subject) {
    let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(1, |time| time.subsec_nanos() | 1);
    model_agrees_from(store, u64::from(seed)).await;
}

/// [`model_agrees`] from one seed.
pub async fn model_agrees_from(store: Subject, seed: u64) {
    let mut random = Random(seed.max(1));
    let start = store.current_revision().await.expect("a revision").0;
    let mut model = Model { states: BTreeMap::from([(start, Snapshot::new())]), compacted: 0 };
    let mut watch = store.watch(all(), None, STEPS * 4).await.expect("a watch");
    for step in 0..STEPS {
        let context = format!("seed {seed}, step {step}");
        match random.below(20) {
            0..13 => write(&store, &mut model, &mut random, &context).await,
            13..19 => read(&store, &model, &mut random, &context).await,
            _ => {
                let (current, _) = model.current();
                let at = model.compacted.max(current - i64::try_from(random.below(30)).expect("small"));
                let result = store.compact(Revision(at)).await;
                assert!(result.is_ok(), "{context}: {result:?}");
                model.compacted = at;
            }
        }
    }
    let (current, expected) = model.current();
    let mut replayed = Snapshot::new();
    let mut last = start;
    while last < current {
        for event in events(&mut watch, 1).await {
            assert!(event.kv.mod_revision.0 >= last, "seed {seed}: events out of order");
            last = event.kv.mod_revision.0;
            apply_event(&mut replayed, &event);
        }
    }
    assert_eq!(replayed, *expected, "seed {seed}: the state made from the watch's events");
}

fn apply_event(state: &mut Snapshot, event: &Event) {
    let key = text(&event.kv.key);
    let before = state.get(&key).map(|(value, ..)| value.clone());
    assert_eq!(before, event.prev.as_ref().map(|kv| text(&kv.value)), "what was before {}", show(event));
    if event.deleted {
        state.remove(&key);
    } else {
        let kv = &event.kv;
        state.insert(key, (text(&kv.value), kv.create_revision.0, kv.mod_revision.0, kv.version));
    }
}

async fn write(store: &Subject, model: &mut Model, random: &mut Random, context: &str) {
    let (current, before) = model.current();
    let (mut after, next) = (before.clone(), current + 1);
    let mut compares = Vec::new();
    let mut holds = true;
    if random.below(2) == 0 {
        let key = format!("/k{}", random.below(KEYS));
        let actual = before.get(&key).map_or(0, |kv| kv.2);
        let expected = if random.below(3) == 0 { i64::try_from(random.below(50)).expect("small") } else { actual };
        holds = expected == actual;
        compares.push(Compare::ModRevision(key.into(), Revision(expected)));
    }
    let mut ops = Vec::new();
    let first = random.below(KEYS);
    for offset in 0..=random.below(3) {
        let key = format!("/k{}", (first + offset) % KEYS);
        if random.below(4) == 0 {
            ops.push(delete_op(&key));
            after.remove(&key);
        } else {
            let value = format!("{}", random.below(1_000_000));
            ops.push(put_op(&key, value.clone()));
            let (create, version) = after.get(&key).map_or((next, 1), |kv| (kv.1, kv.3 + 1));
            after.insert(key, (value, create, next, version));
        }
    }
    let durability = if random.below(2) == 0 { Durability::Full } else { Durability::Relaxed };
    let writes = holds && after != *before;
    let response = store.txn(Txn { compares, success: ops, failure: vec![], durability }).await;
    let response = response.unwrap_or_else(|error| panic!("{context}: {error}"));
    assert_eq!(response.succeeded, holds, "{context}");
    if writes {
        model.states.insert(next, after);
    }
    assert_eq!(response.revision.0, model.current().0, "{context}");
}

async fn read(store: &Subject, model: &Model, random: &mut Random, context: &str) {
    let (current, _) = model.current();
    let back = i64::try_from(random.below(40)).expect("small");
    let at = (current - back).max(1);
    let limit = usize::try_from(random.below(5)).expect("small");
    let start = format!("/k{}", random.below(KEYS));
    let wanted = KeyRange { start: start.clone().into(), end: "/k9".into() };
    let result = range(store, wanted, limit, Some(Revision(at))).await;
    if at < model.compacted {
        assert!(matches!(result, Err(StoreError::Compacted { .. })), "{context}: {result:?}");
        return;
    }
    let response = result.unwrap_or_else(|error| panic!("{context}: {error}"));
    // Before the first write of the model there was nothing.
    let nothing = Snapshot::new();
    let state = model.states.range(..=at).next_back().map_or(&nothing, |(_, state)| state);
    let expected: Vec<_> = state
        .iter()
        .filter(|(key, _)| **key >= start && key.as_str() < "/k9")
        .map(|(key, kv)| (key.clone(), kv.clone()))
        .collect();
    let take = if limit == 0 { expected.len() } else { limit.min(expected.len()) };
    let found: Vec<_> = response
        .kvs
        .iter()
        .map(|kv| (text(&kv.key), (text(&kv.value), kv.create_revision.0, kv.mod_revision.0, kv.version)))
        .collect();
    assert_eq!(found, expected[..take], "{context}: at {at}");
    assert_eq!((response.count, response.more), (expected.len(), take < expected.len()), "{context}");
}
