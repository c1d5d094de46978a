//! Sets of completion indexes in the text form of `completedIndexes`: `1,3-5,7`. Pure.
//!
//! Invariant: intervals are in order, disjoint and not adjacent, so that a Job of a million indexes costs what its gaps cost.

use std::fmt;

/// First and last index, both inclusive.
type Interval = (i32, i32);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Indexes(Vec<Interval>);

impl Indexes {
    /// From the text form; indexes at or above `end` are left out (the Job shrank), and what cannot be read is ignored.
    pub(super) fn parse(text: &str, end: i32) -> Self {
        let mut parsed = Self::default();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (Ok(first), Ok(last)) = (first.parse::<i32>(), last.parse::<i32>()) else {
                tracing::info!(interval = part, "unreadable interval of indexes ignored");
                continue;
            };
            if first >= end {
                break;
            }
            parsed.push((first, last.min(end - 1)));
        }
        parsed
    }

    /// Of these indexes, in any order.
    pub(super) fn of(indexes: impl IntoIterator<Item = i32>) -> Self {
        let mut sorted: Vec<i32> = indexes.into_iter().collect();
        sorted.sort_unstable();
        let mut result = Self::default();
        sorted.into_iter().for_each(|index| result.push((index, index)));
        result
    }

    /// Appends an interval that starts no earlier than the last one.
    fn push(&mut self, (first, last): Interval) {
        match self.0.last_mut() {
            _ if last < first => {}
            Some(end) if first <= end.1.saturating_add(1) => end.1 = end.1.max(last),
            _ => self.0.push((first, last)),
        }
    }

    pub(super) fn union(&self, other: &Self) -> Self {
        let mut all: Vec<Interval> = self.0.iter().chain(&other.0).copied().collect();
        all.sort_unstable();
        let mut result = Self::default();
        all.into_iter().for_each(|interval| result.push(interval));
        result
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn count(&self) -> i32 {
        self.0.iter().map(|(first, last)| last - first + 1).sum()
    }

    pub(super) fn contains(&self, index: i32) -> bool {
        let at = self.0.partition_point(|(_, last)| *last < index);
        self.0.get(at).is_some_and(|(first, _)| *first <= index)
    }

    /// How many indexes both have.
    pub(super) fn overlap(&self, other: &Self) -> i32 {
        let (mut a, mut b) = (self.0.iter().peekable(), other.0.iter().peekable());
        let mut count = 0;
        while let (Some(left), Some(right)) = (a.peek(), b.peek()) {
            count += (left.1.min(right.1) - left.0.max(right.0) + 1).max(0);
            let (left, right) = (left.1, right.1);
            if left <= right {
                a.next();
            }
            if right <= left {
                b.next();
            }
        }
        count
    }

    /// The lowest indexes below `end` that are not in the set, at most `count`. Costs no more than `count` and the gaps.
    pub(super) fn missing(&self, count: usize, end: i32) -> Vec<i32> {
        let mut found = Vec::new();
        let mut candidate = 0;
        for (first, last) in &self.0 {
            found.extend((candidate..(*first).min(end)).take(count - found.len()));
            candidate = candidate.max(last.saturating_add(1));
        }
        found.extend((candidate..end).take(count - found.len()));
        found
    }
}

impl fmt::Display for Indexes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (first, last)) in self.0.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            match last - first {
                0 => write!(f, "{comma}{first}")?,
                1 => write!(f, "{comma}{first},{last}")?,
                _ => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_form() {
        for (text, end, expected) in [
            ("", 10, ""),
            ("0", 10, "0"),
            ("0,1", 10, "0,1"),
            ("0-2", 10, "0-2"),
            ("0,1,2", 10, "0-2"),
            ("1,3-5,7", 10, "1,3-5,7"),
            ("1,3-5,7", 5, "1,3,4"),
            ("1,3-5,7", 3, "1"),
            ("5-9", 5, ""),
            ("x,2,3-y,4", 10, "2,4"),
            ("0,1-3,4", 10, "0-4"),
            ("7-5,8", 10, "8"),
        ] {
            assert_eq!(Indexes::parse(text, end).to_string(), expected, "{text} below {end}");
        }
    }

    #[test]
    fn sets() {
        let set = |text: &str| Indexes::parse(text, 1000);
        for (a, b, union, overlap) in [
            ("", "", "", 0),
            ("1-3", "", "1-3", 0),
            ("1-3", "2-5", "1-5", 2),
            ("1,3,5", "2,4", "1-5", 0),
            ("0-10", "2,4-5", "0-10", 3),
            ("2,4-5", "0-10", "0-10", 3),
            ("0,1,9", "5-9", "0,1,5-9", 1),
            ("4-6", "1,2", "1,2,4-6", 0),
        ] {
            assert_eq!(set(a).union(&set(b)).to_string(), union, "{a} and {b}");
            assert_eq!(set(a).overlap(&set(b)), overlap, "{a} and {b}");
        }
        let some = set("1,3-5,7");
        assert_eq!(some.count(), 5);
        let members: Vec<i32> = (0..9).filter(|index| some.contains(*index)).collect();
        assert_eq!(members, [1, 3, 4, 5, 7]);
        assert_eq!(Indexes::of([7, 3, 5, 4, 1, 4]), some);
    }

    #[test]
    fn the_lowest_missing_ones() {
        for (text, count, end, expected) in [
            ("", 3, 10, vec![0, 1, 2]),
            ("", 0, 10, vec![]),
            ("0-3", 2, 10, vec![4, 5]),
            ("1,3,6-8", 5, 10, vec![0, 2, 4, 5, 9]),
            ("1,3,6-8", 3, 10, vec![0, 2, 4]),
            ("0-9", 3, 10, vec![]),
            ("2,15", 9, 4, vec![0, 1, 3]),
        ] {
            let found = Indexes::parse(text, 100).missing(count, end);
            assert_eq!(found, expected, "{count} below {end} beside {text}");
        }
    }
}
