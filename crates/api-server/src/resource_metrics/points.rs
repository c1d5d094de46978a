//! The last two answers of every kubelet, and what was used between them. Pure.
//!
//! Rules of metrics-server: usage needs two points of the same container; one that started since the last answer is measured from its
//! start; a pod is there when all of its containers are.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::parse::{Counters, PodKey, Scrape};

/// A container that started no longer ago than this is measured from its start.
const FRESH_MAX: Duration = Duration::from_secs(60);

/// What was used of processor and memory, in which time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Usage {
    pub(super) timestamp: Timestamp,
    pub(super) window: Duration,
    /// Thousand-millionths of a processor.
    pub(super) cpu_nanocores: u64,
    pub(super) memory_bytes: u64,
}

/// What containers of a pod used, by name.
pub(super) type PodUsage = BTreeMap<String, Usage>;

#[derive(Debug)]
struct Point {
    at: Timestamp,
    scrape: Scrape,
}

/// The answers by node.
#[derive(Debug, Default)]
pub(super) struct Points {
    nodes: BTreeMap<String, (Option<Point>, Point)>,
}

fn usage(before: Option<(Timestamp, Counters)>, at: Timestamp, now: Counters) -> Option<Usage> {
    let (cpu, memory_bytes) = (now.cpu_seconds?, now.memory_bytes?);
    let started = now.start_seconds.and_then(|seconds| Timestamp::from_millisecond((seconds * 1000.0) as i64).ok());
    // The same container: its counter did not begin anew.
    let before = before
        .and_then(|(at, counters)| Some((at, counters.cpu_seconds?)))
        .filter(|(at, seconds)| *seconds <= cpu && started.is_none_or(|started| started <= *at));
    let (since, spent) = match before {
        Some((since, seconds)) => (since, cpu - seconds),
        None => {
            let started = started.filter(|started| at.duration_since(*started) <= fresh_max())?;
            (started, cpu)
        }
    };
    let window = Duration::try_from(at.duration_since(since)).ok().filter(|window| !window.is_zero())?;
    let cpu_nanocores = (spent / window.as_secs_f64() * 1e9) as u64;
    Some(Usage { timestamp: at, window, cpu_nanocores, memory_bytes })
}

fn fresh_max() -> SignedDuration {
    SignedDuration::try_from(FRESH_MAX).unwrap_or(SignedDuration::ZERO)
}

impl Points {
    /// Takes a kubelet's answer.
    pub(super) fn add(&mut self, node: &str, at: Timestamp, scrape: Scrape) {
        let point = Point { at, scrape };
        match self.nodes.get_mut(node) {
            Some((before, last)) => *before = Some(std::mem::replace(last, point)),
            None => drop(self.nodes.insert(node.to_owned(), (None, point))),
        }
    }

    /// Forgets nodes that are not there any more, and answers that are too old to say what is used now.
    pub(super) fn retain(&mut self, oldest: Timestamp, is_there: impl Fn(&str) -> bool) {
        self.nodes.retain(|node, (before, last)| {
            if before.as_ref().is_some_and(|point| point.at < oldest) {
                *before = None;
            }
            last.at >= oldest && is_there(node)
        });
    }

    /// Whether there is nothing that usage could be seen from.
    pub(super) fn are_too_few(&self) -> bool {
        !self.nodes.values().any(|(before, _)| before.is_some())
    }

    pub(super) fn node(&self, name: &str) -> Option<Usage> {
        let (before, last) = self.nodes.get(name)?;
        let before = before.as_ref()?;
        usage(Some((before.at, before.scrape.node)), last.at, last.scrape.node)
    }

    pub(super) fn nodes(&self) -> Vec<(String, Usage)> {
        self.nodes.keys().filter_map(|name| Some((name.clone(), self.node(name)?))).collect()
    }

    /// The pods of a namespace, or of all.
    pub(super) fn pods(&self, namespace: &str) -> Vec<(PodKey, PodUsage)> {
        let mut found = BTreeMap::new();
        for (before, last) in self.nodes.values() {
            let wanted = last.scrape.pods.iter().filter(|((of, _), _)| namespace.is_empty() || of == namespace);
            for (key, containers) in wanted {
                if let Some(used) = pod(before.as_ref(), last, key, containers) {
                    found.insert(key.clone(), used);
                }
            }
        }
        found.into_iter().collect()
    }
}

fn pod(before: Option<&Point>, last: &Point, key: &PodKey, containers: &BTreeMap<String, Counters>) -> Option<PodUsage> {
    let measured = containers.iter().map(|(name, counters)| {
        let known = before.and_then(|point| Some((point.at, *point.scrape.pods.get(key)?.get(name)?)));
        Some((name.clone(), usage(known, last.at, *counters)?))
    });
    measured.collect::<Option<PodUsage>>().filter(|used| !used.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + seconds).expect("is in range")
    }

    fn counters(cpu: f64, memory: u64, started: i64) -> Counters {
        let start_seconds = Some(at(started).as_second() as f64);
        Counters { cpu_seconds: Some(cpu), memory_bytes: Some(memory), start_seconds }
    }

    #[test]
    fn usage_between_two_points() {
        let old = -10_000;
        for (before, now, expected) in [
            // A quarter of a processor in 20 seconds.
            (Some(counters(10.0, 1, old)), counters(15.0, 4096, old), Some((250_000_000, 4096, 20))),
            (Some(counters(10.0, 1, old)), counters(10.0, 7, old), Some((0, 7, 20))),
            // One point says nothing, unless it began just now.
            (None, counters(15.0, 4096, old), None),
            (None, counters(5.0, 4096, 10), Some((500_000_000, 4096, 10))),
            // It was restarted in between.
            (Some(counters(10.0, 1, old)), counters(5.0, 4096, 10), Some((500_000_000, 4096, 10))),
            (Some(counters(10.0, 1, old)), counters(5.0, 4096, old), None),
            // Something is missing.
            (Some(counters(10.0, 1, old)), Counters { memory_bytes: None, ..counters(15.0, 0, old) }, None),
            (Some(counters(10.0, 1, old)), Counters { cpu_seconds: None, ..counters(15.0, 0, old) }, None),
        ] {
            let got = usage(before.map(|before| (at(0), before)), at(20), now);
            let got = got.map(|usage| (usage.cpu_nanocores, usage.memory_bytes, usage.window.as_secs()));
            assert_eq!(got, expected, "{before:?} {now:?}");
        }
    }

    fn scrape(cpu: f64, containers: &[(&str, f64)]) -> Scrape {
        let pod = containers.iter().map(|(name, cpu)| ((*name).to_owned(), counters(*cpu, 1, -10_000))).collect();
        Scrape { node: counters(cpu, 1, -10_000), pods: [(("ns".to_owned(), "p".to_owned()), pod)].into() }
    }

    #[test]
    fn nodes_and_pods_need_two_answers() {
        let mut points = Points::default();
        points.add("n", at(0), scrape(1.0, &[("a", 1.0)]));
        assert!(points.are_too_few() && points.node("n").is_none() && points.pods("").is_empty());
        points.add("n", at(10), scrape(2.0, &[("a", 2.0)]));
        assert!(!points.are_too_few());
        assert_eq!(points.node("n").map(|usage| usage.cpu_nanocores), Some(100_000_000));
        assert_eq!(points.pods("ns").len(), 1);
        assert!(points.pods("other").is_empty());
        points.add("n", at(20), scrape(3.0, &[("a", 3.0), ("b", 1.0)]));
        assert!(points.pods("").is_empty(), "of a container nothing is known yet");
        points.add("n", at(30), scrape(4.0, &[("a", 4.0), ("b", 2.0)]));
        assert_eq!(points.pods("")[0].1.len(), 2);
        points.retain(at(25), |_| true);
        assert!(points.are_too_few(), "the older of the two is too old");
        points.retain(at(25), |node| node != "n");
        assert!(points.nodes().is_empty());
    }
}
