//! How long a node's failed pod is left alone before it is replaced (upstream's failedPodsBackoff): where the kubelet refuses the pod, each
//! replacement would fail at once.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;

const FIRST: Duration = Duration::from_secs(1);
const MAX: Duration = Duration::from_secs(15 * 60);

struct Entry {
    delay: Duration,
    since: Timestamp,
}

impl Entry {
    fn age(&self, now: Timestamp) -> Duration {
        Duration::try_from(now.duration_since(self.since)).unwrap_or(Duration::ZERO)
    }

    /// Long enough ago to begin anew.
    fn is_forgotten(&self, now: Timestamp) -> bool {
        self.age(now) > 2 * MAX
    }
}

/// By set, generation and node.
#[derive(Default)]
pub(super) struct FailedPods {
    entries: HashMap<(String, i64, String), Entry>,
}

impl FailedPods {
    /// Counts a replacement on this node, if one is due; else the time to wait.
    pub(super) fn replace(&mut self, uid: &str, generation: i64, node: &str, now: Timestamp) -> Result<(), Duration> {
        let key = (uid.to_owned(), generation, node.to_owned());
        let last = self.entries.get(&key).filter(|entry| !entry.is_forgotten(now));
        if let Some(entry) = last.filter(|entry| entry.age(now) < entry.delay) {
            return Err(entry.delay);
        }
        let delay = last.map_or(FIRST, |entry| (entry.delay * 2).min(MAX));
        self.entries.insert(key, Entry { delay, since: now });
        Ok(())
    }

    /// Drops what is too old to count.
    pub(super) fn clean(&mut self, now: Timestamp) {
        self.entries.retain(|_, entry| !entry.is_forgotten(now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_and_are_forgotten() {
        let mut pods = FailedPods::default();
        let at = |second: i64| Timestamp::from_second(second).expect("in range");
        let mut check = |second: i64, node: &str, expected: Result<(), u64>| {
            let got = pods.replace("u", 1, node, at(second));
            assert_eq!(got.map_err(|delay| delay.as_secs()), expected, "{second} {node}");
        };
        check(0, "a", Ok(()));
        check(0, "a", Err(1));
        check(0, "b", Ok(()));
        check(1, "a", Ok(()));
        check(2, "a", Err(2));
        check(3, "a", Ok(()));
        check(7, "a", Ok(()));
        check(14, "a", Err(8));
        check(7 + 1801, "a", Ok(()));
        check(7 + 1802, "a", Ok(()));
        assert!(pods.replace("u", 2, "a", at(7 + 1802)).is_ok(), "another generation");
        pods.clean(at(7 + 1802));
        assert_eq!(pods.entries.len(), 2, "b is forgotten");
        for second in (0..).map(|i| 10_000 + i * 1000).take(20) {
            let _counted = pods.replace("u", 3, "a", at(second));
        }
        let longest = pods.replace("u", 3, "a", at(10_000 + 19_000)).expect_err("waits");
        assert_eq!(longest, MAX);
    }
}
