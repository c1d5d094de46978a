//! Exponential back-off per key: container restarts and image pulls both wait 10 s, doubling to 300 s, forgotten after twice that
//! without a failure (client-go `flowcontrol.Backoff`).

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;

/// The first delay.
pub(crate) const INITIAL: Duration = Duration::from_secs(10);
/// The longest delay.
pub(crate) const MAX: Duration = Duration::from_secs(300);

#[derive(Debug, Clone, Copy)]
struct Entry {
    delay: Duration,
    last_update: Timestamp,
}

/// The delays of one pod.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    entries: HashMap<String, Entry>,
}

fn elapsed(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or(Duration::ZERO)
}

impl Backoff {
    /// Until when `key` waits, when something failed at `event`; `None`: it need not wait at `now`.
    pub(crate) fn until(&self, key: &str, event: Timestamp, now: Timestamp) -> Option<Timestamp> {
        let entry = self.entries.get(key)?;
        if elapsed(entry.last_update, event) > MAX * 2 || elapsed(event, now) >= entry.delay {
            return None;
        }
        event.checked_add(entry.delay).ok()
    }

    /// As [`Backoff::until`], counted from the last failure itself.
    pub(crate) fn until_since_update(&self, key: &str, now: Timestamp) -> Option<Timestamp> {
        self.until(key, self.entries.get(key)?.last_update, now)
    }

    /// Counts a failure at `event`.
    pub(crate) fn next(&mut self, key: &str, event: Timestamp, now: Timestamp) {
        let delay = match self.entries.get(key) {
            Some(entry) if elapsed(entry.last_update, event) <= MAX * 2 => (entry.delay * 2).min(MAX),
            _ => INITIAL,
        };
        self.entries.insert(key.to_owned(), Entry { delay, last_update: now });
    }

    /// The current delay of `key`.
    pub(crate) fn delay(&self, key: &str) -> Duration {
        self.entries.get(key).map_or(Duration::ZERO, |entry| entry.delay)
    }

    /// Forgets `key`.
    pub(crate) fn reset(&mut self, key: &str) {
        self.entries.remove(key);
    }
}

/// A delay as Go prints it: `10s`, `1m20s`, `5m0s`.
pub(crate) fn go_duration(delay: Duration) -> String {
    let seconds = delay.as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m{s}s"),
        (h, m, s) => format!("{h}h{m}m{s}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + second).unwrap()
    }

    #[test]
    fn doubles_to_the_maximum_and_resets() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.until("k", at(0), at(0)), None);
        let mut time = 0;
        for expected in [10, 20, 40, 80, 160, 300, 300] {
            backoff.next("k", at(time), at(time));
            assert_eq!(backoff.delay("k"), Duration::from_secs(expected));
            assert_eq!(backoff.until("k", at(time), at(time)), Some(at(time + i64::try_from(expected).unwrap())));
            time += i64::try_from(expected).unwrap();
            assert_eq!(backoff.until("k", at(time - i64::try_from(expected).unwrap()), at(time)), None);
        }
        // It ran well for more than ten minutes: from the start again.
        assert_eq!(backoff.until("k", at(time + 601), at(time + 601)), None);
        backoff.next("k", at(time + 700), at(time + 700));
        assert_eq!(backoff.delay("k"), INITIAL);
    }

    #[test]
    fn prints_as_go_does() {
        for (seconds, text) in [(10, "10s"), (80, "1m20s"), (300, "5m0s")] {
            assert_eq!(go_duration(Duration::from_secs(seconds)), text);
        }
    }
}
