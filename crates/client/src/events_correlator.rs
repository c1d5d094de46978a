//! Which events are written, as which object, and with which count: client-go's `EventCorrelator`.
//!
//! Pure: time comes in as an argument. Memory is bounded: each table holds at most [`ENTRIES_MAX`] entries; when it
//! is full, entries idle for longer than the aggregation interval go first, then arbitrary ones (an evicted entry
//! costs a new Event object instead of a count).

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// client-go's maxLruCacheEntries.
const ENTRIES_MAX: usize = 4096;
/// An event about one object may be repeated so often in a burst ...
const SPAM_BURST: f64 = 25.0;
/// ... and then once in five minutes.
const SPAM_PER_SECOND: f64 = 1.0 / 300.0;
/// From so many different messages on, similar events become one.
const SIMILAR_MAX: usize = 10;
/// Similar events count together within this time.
const SIMILAR_INTERVAL: Duration = Duration::from_secs(600);

type Key = String;

struct Similar {
    messages: HashSet<String>,
    last: Timestamp,
}

struct Bucket {
    tokens: f64,
    last: Timestamp,
}

struct Seen {
    name: String,
    count: i32,
    first: Option<Time>,
    last: Timestamp,
}

/// What to do with an event.
#[derive(Debug, PartialEq)]
pub(crate) enum Decision {
    /// Nothing: too many.
    Drop,
    /// Create it.
    Create { key: Key, event: Box<Event> },
    /// Count an existing one up; if it is gone, create `event`.
    Count { key: Key, event: Box<Event> },
}

#[derive(Default)]
pub(crate) struct Correlator {
    similar: HashMap<Key, Similar>,
    seen: HashMap<Key, Seen>,
    buckets: HashMap<Key, Bucket>,
}

impl Correlator {
    pub(crate) fn correlate(&mut self, event: Event, now: Timestamp) -> Decision {
        let spam_key = object_key(&event);
        let (mut event, key) = self.aggregate(event, now);
        let counted = self.observe(&mut event, &key, now);
        if !self.allow(spam_key, now) {
            return Decision::Drop;
        }
        let event = Box::new(event);
        if counted { Decision::Count { key, event } } else { Decision::Create { key, event } }
    }

    /// The server gave the event another name (it was created anew).
    pub(crate) fn written(&mut self, key: &str, name: &str, count: i32, now: Timestamp) {
        if let Some(seen) = self.seen.get_mut(key) {
            seen.name = name.to_owned();
            seen.count = count;
            seen.last = now;
        }
    }

    fn aggregate(&mut self, mut event: Event, now: Timestamp) -> (Event, Key) {
        let message = event.message.clone().unwrap_or_default();
        let reason = event.reason.clone().unwrap_or_default();
        let similar_key = format!("{}\u{0}{reason}", object_key(&event));
        make_room(&mut self.similar, now, |similar| similar.last);
        let similar = self.similar.entry(similar_key.clone()).or_insert_with(|| Similar { messages: HashSet::new(), last: now });
        if older_than(similar.last, now, SIMILAR_INTERVAL) {
            similar.messages.clear();
        }
        similar.messages.insert(message.clone());
        similar.last = now;
        if similar.messages.len() < SIMILAR_MAX {
            let path = event.involved_object.field_path.as_deref().unwrap_or("");
            let key = format!("{similar_key}\u{0}{path}\u{0}{message}");
            return (event, key);
        }
        similar.messages.remove(&message);
        event.message = Some(format!("(combined from similar events): {message}"));
        (event, similar_key)
    }

    /// Whether this repeats an event that was written; then it takes over that one's name, start and count.
    fn observe(&mut self, event: &mut Event, key: &str, now: Timestamp) -> bool {
        make_room(&mut self.seen, now, |seen| seen.last);
        if let Some(seen) = self.seen.get_mut(key) {
            seen.count += 1;
            seen.last = now;
            event.metadata.name = Some(seen.name.clone());
            event.first_timestamp = seen.first.clone();
            event.count = Some(seen.count);
            return true;
        }
        let seen = Seen {
            name: event.metadata.name.clone().unwrap_or_default(),
            count: event.count.unwrap_or(1),
            first: event.first_timestamp.clone(),
            last: now,
        };
        self.seen.insert(key.to_owned(), seen);
        false
    }

    fn allow(&mut self, key: Key, now: Timestamp) -> bool {
        make_room(&mut self.buckets, now, |bucket| bucket.last);
        let bucket = self.buckets.entry(key).or_insert(Bucket { tokens: SPAM_BURST, last: now });
        let gained = seconds_between(bucket.last, now) * SPAM_PER_SECOND;
        bucket.tokens = (bucket.tokens + gained).min(SPAM_BURST);
        bucket.last = now;
        if bucket.tokens < 1.0 {
            return false;
        }
        bucket.tokens -= 1.0;
        true
    }
}

fn seconds_between(earlier: Timestamp, later: Timestamp) -> f64 {
    later.duration_since(earlier).as_secs_f64().max(0.0)
}

fn older_than(earlier: Timestamp, later: Timestamp, age: Duration) -> bool {
    seconds_between(earlier, later) > age.as_secs_f64()
}

fn make_room<K: Eq + Hash + Clone, V>(table: &mut HashMap<K, V>, now: Timestamp, last: impl Fn(&V) -> Timestamp) {
    if table.len() < ENTRIES_MAX {
        return;
    }
    table.retain(|_, value| !older_than(last(value), now, SIMILAR_INTERVAL));
    if table.len() >= ENTRIES_MAX {
        let mut keep = false;
        table.retain(|_, _| {
            keep = !keep;
            keep
        });
    }
}

/// Source, object and type of an event: what client-go's spam key holds.
fn object_key(event: &Event) -> Key {
    let object = &event.involved_object;
    let source = event.source.as_ref();
    let parts = [
        source.and_then(|s| s.component.as_deref()),
        source.and_then(|s| s.host.as_deref()),
        object.kind.as_deref(),
        object.namespace.as_deref(),
        object.name.as_deref(),
        object.uid.as_deref(),
        object.api_version.as_deref(),
        event.type_.as_deref(),
    ];
    parts.map(|part| part.unwrap_or("")).join("\u{0}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ObjectReference;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + second).expect("in range")
    }

    fn event(object: &str, message: &str, second: i64) -> Event {
        Event {
            metadata: ObjectMeta { name: Some(format!("{object}.{second}.{message}")), ..Default::default() },
            involved_object: ObjectReference { name: Some(object.into()), ..Default::default() },
            reason: Some("Reason".into()),
            message: Some(message.into()),
            type_: Some("Normal".into()),
            count: Some(1),
            first_timestamp: Some(Time(at(second))),
            last_timestamp: Some(Time(at(second))),
            ..Default::default()
        }
    }

    #[test]
    fn a_repeated_event_is_counted_with_its_first_name_and_time() {
        let mut correlator = Correlator::default();
        assert!(matches!(correlator.correlate(event("p", "m", 0), at(0)), Decision::Create { .. }));
        let Decision::Count { event, .. } = correlator.correlate(event("p", "m", 3), at(3)) else {
            panic!("the second is counted");
        };
        assert_eq!(event.count, Some(2));
        assert_eq!(event.metadata.name.as_deref(), Some("p.0.m"));
        assert_eq!(event.first_timestamp, Some(Time(at(0))));
        assert_eq!(event.last_timestamp, Some(Time(at(3))));
    }

    #[test]
    fn the_tenth_different_message_is_combined() {
        let mut correlator = Correlator::default();
        for i in 0..9 {
            let decision = correlator.correlate(event("p", &format!("m{i}"), i), at(i));
            assert!(matches!(decision, Decision::Create { .. }), "{i}");
        }
        let Decision::Create { event: combined, .. } = correlator.correlate(event("p", "m9", 9), at(9)) else {
            panic!("the first combined event is created");
        };
        assert_eq!(combined.message.as_deref(), Some("(combined from similar events): m9"));
        let Decision::Count { event, .. } = correlator.correlate(event("p", "m10", 10), at(10)) else {
            panic!("the second combined event is counted");
        };
        assert_eq!(event.count, Some(2));
        assert_eq!(event.metadata.name, combined.metadata.name);
    }

    #[test]
    fn an_object_is_allowed_a_burst_then_one_in_five_minutes() {
        let mut correlator = Correlator::default();
        let mut written = |object: &str, second| correlator.correlate(event(object, "m", second), at(second)) != Decision::Drop;
        assert_eq!((0..30).filter(|_| written("p", 0)).count(), 25);
        assert!(written("q", 0), "other objects have their own bucket");
        assert!(!written("p", 200));
        assert!(written("p", 301));
        assert!(!written("p", 302));
    }

    #[test]
    fn tables_are_bounded() {
        let mut correlator = Correlator::default();
        for i in 0..10_000 {
            correlator.correlate(event(&format!("p{i}"), "m", 0), at(0));
        }
        assert!(correlator.seen.len() <= ENTRIES_MAX);
        assert!(correlator.similar.len() <= ENTRIES_MAX);
        assert!(correlator.buckets.len() <= ENTRIES_MAX);
    }
}
