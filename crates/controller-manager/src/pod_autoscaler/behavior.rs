//! How fast an autoscaler may follow its metrics: stabilization windows and scaling policies. Pure but for the history that it keeps.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::autoscaling::v2::{HPAScalingPolicy, HPAScalingRules, HorizontalPodAutoscalerBehavior};

/// Without a behaviour, a target may double, or grow to four.
const SCALE_UP_FACTOR: f64 = 2.0;
const SCALE_UP_MINIMUM: f64 = 4.0;

/// What was recommended and done. It is lost at a restart, as upstream's.
#[derive(Debug, Default)]
pub(super) struct History {
    recommendations: Vec<(Timestamp, i32)>,
    ups: Vec<(Timestamp, i32)>,
    downs: Vec<(Timestamp, i32)>,
}

/// What an autoscaler allows.
#[derive(Clone, Debug)]
pub(super) struct Limits<'a> {
    pub(super) min: i32,
    pub(super) max: i32,
    pub(super) behavior: Option<&'a HorizontalPodAutoscalerBehavior>,
    /// `--horizontal-pod-autoscaler-downscale-stabilization`.
    pub(super) downscale_stabilization: Duration,
}

/// A reason and a message of a condition.
pub(super) type Why = (&'static str, &'static str);

/// The replicas to have, and what the conditions say.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Normalized {
    pub(super) replicas: i32,
    /// Of `AbleToScale`, which is true.
    pub(super) able: Why,
    pub(super) limited: bool,
    /// Of `ScalingLimited`.
    pub(super) limit: Why,
}

const READY: Why = ("ReadyForNewScale", "recommended size matches current size");
const DOWN_STABILIZED: Why =
    ("ScaleDownStabilized", "recent recommendations were higher than current one, applying the highest recent recommendation");
const UP_STABILIZED: Why =
    ("ScaleUpStabilized", "recent recommendations were lower than current one, applying the lowest recent recommendation");
const WITHIN: Why = ("DesiredWithinRange", "the desired count is within the acceptable range");
const UP_LIMIT: Why = ("ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate");
const TOO_MANY: Why = ("TooManyReplicas", "the desired replica count is more than the maximum replica count");
const DOWN_LIMIT: Why = ("ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate");
const TOO_FEW: Why = ("TooFewReplicas", "the desired replica count is less than the minimum replica count");

fn before(now: Timestamp, delay: Duration) -> Timestamp {
    let delay = SignedDuration::try_from(delay).unwrap_or(SignedDuration::MAX);
    now.checked_sub(delay).unwrap_or(Timestamp::MIN)
}

fn seconds(number: i32) -> Duration {
    Duration::from_secs(u64::try_from(number).unwrap_or(0))
}

fn window(rules: Option<&HPAScalingRules>, default: Duration) -> Duration {
    rules.and_then(|rules| rules.stabilization_window_seconds).map_or(default, seconds)
}

fn policies(rules: Option<&HPAScalingRules>) -> &[HPAScalingPolicy] {
    rules.and_then(|rules| rules.policies.as_deref()).unwrap_or_default()
}

fn selects<'a>(rules: Option<&'a HPAScalingRules>, policy: &str) -> bool {
    rules.and_then(|rules: &'a HPAScalingRules| rules.select_policy.as_deref()) == Some(policy)
}

fn longest_period(rules: Option<&HPAScalingRules>) -> Duration {
    policies(rules).iter().map(|policy| seconds(policy.period_seconds)).max().unwrap_or_default()
}

fn changed_since(events: &[(Timestamp, i32)], cutoff: Timestamp) -> i32 {
    events.iter().filter(|(at, _)| *at > cutoff).fold(0, |sum, (_, change)| sum.saturating_add(*change))
}

impl History {
    /// The size at the first look counts as recommended.
    pub(super) fn start(&mut self, current: i32, now: Timestamp) {
        if self.recommendations.is_empty() {
            self.recommendations.push((now, current));
        }
    }

    /// A target was scaled.
    pub(super) fn scaled(&mut self, limits: &Limits<'_>, from: i32, to: i32, now: Timestamp) {
        let Some(behavior) = limits.behavior else { return };
        let (events, rules) = match to > from {
            true => (&mut self.ups, behavior.scale_up.as_ref()),
            false => (&mut self.downs, behavior.scale_down.as_ref()),
        };
        let cutoff = before(now, longest_period(rules));
        events.retain(|(at, _)| *at >= cutoff);
        events.push((now, (to - from).abs()));
    }

    /// Brings what the metrics ask for within what is allowed now.
    pub(super) fn normalize(&mut self, limits: &Limits<'_>, current: i32, wanted: i32, now: Timestamp) -> Normalized {
        let (stable, stabilized) = self.stabilize(limits, current, wanted, now);
        let able = if stable == wanted { READY } else { stabilized };
        let (replicas, limit) = match limits.behavior {
            None => without_behavior(limits, current, stable),
            Some(behavior) => self.at_rate(limits, behavior, current, stable, now),
        };
        Normalized { replicas, able, limited: replicas != stable, limit }
    }

    /// The recommendation after the windows, and what to say if they changed it.
    fn stabilize(&mut self, limits: &Limits<'_>, current: i32, wanted: i32, now: Timestamp) -> (i32, Why) {
        let Some(behavior) = limits.behavior else {
            let cutoff = before(now, limits.downscale_stabilization);
            self.recommendations.retain(|(at, _)| *at >= cutoff);
            let highest = self.recommendations.iter().map(|(_, replicas)| *replicas).fold(wanted, i32::max);
            self.recommendations.push((now, wanted));
            return (highest, DOWN_STABILIZED);
        };
        let up_cutoff = before(now, window(behavior.scale_up.as_ref(), Duration::ZERO));
        let down_cutoff = before(now, window(behavior.scale_down.as_ref(), limits.downscale_stabilization));
        let since =
            |cutoff: Timestamp| self.recommendations.iter().filter(move |(at, _)| *at > cutoff).map(|(_, replicas)| *replicas);
        let lowest = since(up_cutoff).fold(wanted, i32::min);
        let highest = since(down_cutoff).fold(wanted, i32::max);
        let stable = current.max(lowest).min(highest);
        let oldest = up_cutoff.min(down_cutoff);
        self.recommendations.retain(|(at, _)| *at >= oldest);
        self.recommendations.push((now, wanted));
        (stable, if wanted >= current { UP_STABILIZED } else { DOWN_STABILIZED })
    }

    fn at_rate(
        &self,
        limits: &Limits<'_>,
        behavior: &HorizontalPodAutoscalerBehavior,
        current: i32,
        wanted: i32,
        now: Timestamp,
    ) -> (i32, Why) {
        if wanted > current {
            let limit = self.up_limit(behavior.scale_up.as_ref(), current, now).max(current);
            let (allowed, why) = if limits.max > limit { (limit, UP_LIMIT) } else { (limits.max, TOO_MANY) };
            if wanted > allowed {
                return (allowed, why);
            }
        } else if wanted < current {
            let limit = self.down_limit(behavior.scale_down.as_ref(), current, now).min(current);
            let (allowed, why) = if limits.min < limit { (limit, DOWN_LIMIT) } else { (limits.min, TOO_FEW) };
            if wanted < allowed {
                return (allowed, why);
            }
        }
        (wanted, WITHIN)
    }

    /// The replicas at the start of a policy's period.
    fn at_period_start(&self, policy: &HPAScalingPolicy, current: i32, now: Timestamp) -> i32 {
        let cutoff = before(now, seconds(policy.period_seconds));
        current.saturating_sub(changed_since(&self.ups, cutoff)).saturating_add(changed_since(&self.downs, cutoff))
    }

    fn up_limit(&self, rules: Option<&HPAScalingRules>, current: i32, now: Timestamp) -> i32 {
        if selects(rules, "Disabled") {
            return current;
        }
        let limits = policies(rules).iter().map(|policy| {
            let start = self.at_period_start(policy, current, now);
            match policy.type_.as_str() {
                "Percent" => (f64::from(start) * (1.0 + f64::from(policy.value) / 100.0)).ceil() as i32,
                _ => start.saturating_add(policy.value),
            }
        });
        // The policy with the smallest change allows the fewest replicas.
        match selects(rules, "Min") {
            true => limits.min().unwrap_or(i32::MAX),
            false => limits.max().unwrap_or(i32::MIN),
        }
    }

    fn down_limit(&self, rules: Option<&HPAScalingRules>, current: i32, now: Timestamp) -> i32 {
        if selects(rules, "Disabled") {
            return current;
        }
        let limits = policies(rules).iter().map(|policy| {
            let start = self.at_period_start(policy, current, now);
            match policy.type_.as_str() {
                "Percent" => (f64::from(start) * (1.0 - f64::from(policy.value) / 100.0)) as i32,
                _ => start.saturating_sub(policy.value),
            }
        });
        match selects(rules, "Min") {
            true => limits.max().unwrap_or(i32::MIN),
            false => limits.min().unwrap_or(i32::MAX),
        }
    }
}

fn without_behavior(limits: &Limits<'_>, current: i32, wanted: i32) -> (i32, Why) {
    let up = (SCALE_UP_FACTOR * f64::from(current)).max(SCALE_UP_MINIMUM) as i32;
    let (max, why) = if limits.max > up { (up, UP_LIMIT) } else { (limits.max, TOO_MANY) };
    if wanted < limits.min {
        (limits.min, TOO_FEW)
    } else if wanted > max {
        (max, why)
    } else {
        (wanted, WITHIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + seconds).expect("is in range")
    }

    fn behavior(value: Value) -> HorizontalPodAutoscalerBehavior {
        serde_json::from_value(value).expect("is a behaviour")
    }

    fn limits(behavior: Option<&HorizontalPodAutoscalerBehavior>) -> Limits<'_> {
        Limits { min: 1, max: 100, behavior, downscale_stabilization: Duration::from_secs(300) }
    }

    #[test]
    fn without_a_behaviour() {
        // (current, wanted, limits, replicas, reason)
        for (current, wanted, min, max, expected, reason) in [
            (3, 4, 1, 10, 4, "DesiredWithinRange"),
            (1, 9, 1, 10, 4, "ScaleUpLimit"),
            (3, 9, 1, 10, 6, "ScaleUpLimit"),
            (3, 9, 1, 5, 5, "TooManyReplicas"),
            (3, 0, 1, 10, 1, "TooFewReplicas"),
            (3, 1, 2, 10, 2, "TooFewReplicas"),
        ] {
            let limits = Limits { min, max, ..limits(None) };
            let got = History::default().normalize(&limits, current, wanted, at(0));
            assert_eq!((got.replicas, got.limit.0, got.limited), (expected, reason, expected != wanted), "{current} {wanted}");
        }
        // Down only when nothing higher was recommended for five minutes.
        let mut history = History::default();
        history.start(10, at(0));
        let mut look = |wanted, seconds| {
            let got = history.normalize(&limits(None), 10, wanted, at(seconds));
            (got.replicas, got.able.0)
        };
        assert_eq!(look(3, 60), (10, "ScaleDownStabilized"));
        assert_eq!(look(7, 120), (10, "ScaleDownStabilized"));
        assert_eq!(look(3, 301), (7, "ScaleDownStabilized"));
        assert_eq!(look(3, 421), (3, "ReadyForNewScale"));
    }

    fn rules(select: &str, policies: Value) -> Value {
        json!({"selectPolicy": select, "stabilizationWindowSeconds": 0, "policies": policies})
    }

    #[test]
    fn policies_limit_the_rate() {
        let pods = |value: i32| json!({"type": "Pods", "value": value, "periodSeconds": 60});
        let percent = |value: i32| json!({"type": "Percent", "value": value, "periodSeconds": 60});
        // (rules of both directions, current, wanted, replicas, reason)
        for (rules, current, wanted, expected, reason) in [
            (rules("Max", json!([pods(4), percent(100)])), 10, 50, 20, "ScaleUpLimit"),
            (rules("Max", json!([pods(40), percent(100)])), 10, 45, 45, "DesiredWithinRange"),
            (rules("Min", json!([pods(4), percent(100)])), 10, 50, 14, "ScaleUpLimit"),
            (rules("Disabled", json!([pods(4)])), 10, 50, 10, "ScaleUpLimit"),
            (rules("Max", json!([percent(10)])), 11, 50, 13, "ScaleUpLimit"),
            (rules("Max", json!([pods(400)])), 10, 500, 100, "TooManyReplicas"),
            (rules("Max", json!([pods(4), percent(50)])), 10, 1, 5, "ScaleDownLimit"),
            (rules("Min", json!([pods(4), percent(50)])), 10, 1, 6, "ScaleDownLimit"),
            (rules("Disabled", json!([pods(4)])), 10, 1, 10, "ScaleDownLimit"),
            (rules("Max", json!([percent(100)])), 10, 0, 1, "TooFewReplicas"),
            (rules("Max", json!([percent(10)])), 11, 1, 9, "ScaleDownLimit"),
        ] {
            let behavior = behavior(json!({"scaleUp": rules, "scaleDown": rules}));
            let got = History::default().normalize(&limits(Some(&behavior)), current, wanted, at(0));
            assert_eq!((got.replicas, got.limit.0), (expected, reason), "{rules} {current} {wanted}");
        }
    }

    #[test]
    fn what_was_done_in_the_period_counts() {
        let policy = json!([{"type": "Pods", "value": 4, "periodSeconds": 60}]);
        let behavior = behavior(json!({"scaleUp": rules("Max", policy.clone()), "scaleDown": rules("Max", policy)}));
        let limits = limits(Some(&behavior));
        let mut history = History::default();
        assert_eq!(history.normalize(&limits, 10, 50, at(0)).replicas, 14);
        history.scaled(&limits, 10, 14, at(0));
        assert_eq!(history.normalize(&limits, 14, 50, at(30)).replicas, 14, "four were added in this minute");
        assert_eq!(history.normalize(&limits, 14, 50, at(61)).replicas, 18);
        history.scaled(&limits, 14, 18, at(61));
        assert_eq!(history.normalize(&limits, 18, 5, at(62)).replicas, 10, "from what it was a minute ago");
        history.scaled(&limits, 18, 10, at(62));
        assert_eq!(history.normalize(&limits, 10, 5, at(63)).replicas, 10);
    }

    #[test]
    fn windows_in_both_directions() {
        let rules = |window: i32| json!({"selectPolicy": "Max", "stabilizationWindowSeconds": window, "policies": [{"type": "Percent", "value": 1000, "periodSeconds": 15}]});
        let behavior = behavior(json!({"scaleUp": rules(60), "scaleDown": rules(120)}));
        let limits = limits(Some(&behavior));
        let mut history = History::default();
        history.start(10, at(0));
        let mut look = |wanted, seconds| {
            let got = history.normalize(&limits, 10, wanted, at(seconds));
            (got.replicas, got.able.0)
        };
        assert_eq!(look(20, 10), (10, "ScaleUpStabilized"), "a lower one is recent");
        assert_eq!(look(30, 61), (20, "ScaleUpStabilized"));
        assert_eq!(look(30, 75), (30, "ReadyForNewScale"));
        assert_eq!(look(5, 80), (10, "ScaleDownStabilized"), "higher ones are recent");
        assert_eq!(look(5, 200), (5, "ReadyForNewScale"));
    }
}
