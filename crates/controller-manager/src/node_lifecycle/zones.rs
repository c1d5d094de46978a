//! How fast nodes may be tainted for eviction when many of a zone fail at once. Pure.
//!
//! If everything seems to be down it is more likely that this process is cut off than that every node failed: then
//! nothing is evicted (<https://kubernetes.io/docs/concepts/architecture/nodes/#rate-limits-on-eviction>).

use std::collections::BTreeMap;

use crate::NodeEviction;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ZoneState {
    Initial,
    Normal,
    PartialDisruption,
    FullDisruption,
}

/// Nodes of a zone.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Count {
    pub(super) ready: usize,
    pub(super) not_ready: usize,
}

impl Count {
    fn state(self, limits: &NodeEviction) -> ZoneState {
        let total = self.ready + self.not_ready;
        // Counts of nodes are exact in an f64.
        #[allow(clippy::cast_precision_loss)]
        let share = self.not_ready as f64 / total.max(1) as f64;
        if self.ready == 0 && self.not_ready > 0 {
            ZoneState::FullDisruption
        } else if self.not_ready > 2 && share >= limits.unhealthy_share {
            ZoneState::PartialDisruption
        } else {
            ZoneState::Normal
        }
    }

    fn rate(self, state: ZoneState, limits: &NodeEviction) -> f64 {
        match state {
            ZoneState::PartialDisruption if self.ready + self.not_ready > limits.large_zone => limits.secondary_rate,
            ZoneState::PartialDisruption => 0.0,
            _ => limits.rate,
        }
    }
}

/// What follows from a look at all zones.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Change {
    /// New rates, nodes a second.
    pub(super) rates: BTreeMap<String, f64>,
    /// Everything is down now: take the evicting taints off all nodes.
    pub(super) enters_full_disruption: bool,
    /// Something is up again: count silence from now on.
    pub(super) leaves_full_disruption: bool,
}

/// Updates the states by the counts of this look.
pub(super) fn update(
    states: &mut BTreeMap<String, ZoneState>,
    counts: &BTreeMap<String, Count>,
    limits: &NodeEviction,
) -> Change {
    states.retain(|zone, _| counts.contains_key(zone));
    for zone in counts.keys() {
        states.entry(zone.clone()).or_insert(ZoneState::Initial);
    }
    let all_down = counts.values().all(|count| count.state(limits) == ZoneState::FullDisruption);
    let were_all_down = states.values().all(|state| *state == ZoneState::FullDisruption);
    let mut change = Change::default();
    if all_down && were_all_down {
        return change;
    }
    change.enters_full_disruption = all_down;
    change.leaves_full_disruption = were_all_down;
    for (zone, count) in counts {
        let state = count.state(limits);
        if all_down {
            change.rates.insert(zone.clone(), 0.0);
        } else if were_all_down || states.get(zone) != Some(&state) {
            change.rates.insert(zone.clone(), count.rate(state, limits));
        }
        states.insert(zone.clone(), state);
    }
    change
}

#[cfg(test)]
mod tests {
    use super::*;

    fn update(states: &mut BTreeMap<String, ZoneState>, counts: &BTreeMap<String, Count>) -> Change {
        super::update(states, counts, &NodeEviction::default())
    }

    fn counts(zones: &[(&str, usize, usize)]) -> BTreeMap<String, Count> {
        let count = |ready, not_ready| Count { ready, not_ready };
        zones.iter().map(|(zone, r, n)| ((*zone).to_owned(), count(*r, *n))).collect()
    }

    fn rates(change: &Change) -> Vec<(&str, f64)> {
        change.rates.iter().map(|(zone, rate)| (zone.as_str(), *rate)).collect()
    }

    #[test]
    fn rates_follow_the_state_of_the_zone() {
        let mut states = BTreeMap::new();
        let normal = update(&mut states, &counts(&[("a", 3, 0), ("b", 2, 1)]));
        assert_eq!(rates(&normal), [("a", 0.1), ("b", 0.1)]);
        assert_eq!(update(&mut states, &counts(&[("a", 3, 0), ("b", 2, 1)])), Change::default());
        let small = update(&mut states, &counts(&[("a", 1, 3), ("b", 2, 1)]));
        assert_eq!(rates(&small), [("a", 0.0)]);
        let mut states = BTreeMap::new();
        let large = update(&mut states, &counts(&[("a", 20, 40)]));
        assert_eq!(rates(&large), [("a", 0.01)]);
        // One zone down among others: it is evicted from.
        let one_down = update(&mut states, &counts(&[("a", 60, 0), ("b", 0, 3)]));
        assert_eq!(rates(&one_down), [("a", 0.1), ("b", 0.1)]);
    }

    #[test]
    fn when_all_is_down_nothing_is_evicted() {
        let mut states = BTreeMap::new();
        update(&mut states, &counts(&[("", 1, 0)]));
        let down = update(&mut states, &counts(&[("", 0, 1)]));
        assert!(down.enters_full_disruption);
        assert_eq!(rates(&down), [("", 0.0)]);
        assert_eq!(update(&mut states, &counts(&[("", 0, 1)])), Change::default());
        let up = update(&mut states, &counts(&[("", 1, 0)]));
        assert!(up.leaves_full_disruption && !up.enters_full_disruption);
        assert_eq!(rates(&up), [("", 0.1)]);
    }
}
