//! What an autoscaler decides from what its metrics ask for, and what its status says. Pure.

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{HorizontalPodAutoscalerCondition, MetricStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// What a metric asks for.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Proposal {
    pub(super) replicas: i32,
    /// What the metric is called in reasons.
    pub(super) metric: String,
    pub(super) status: MetricStatus,
}

/// A metric that could not be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    /// Of the event and of the condition.
    pub(super) reason: &'static str,
    /// Why.
    pub(super) why: String,
    /// Why, with what it was for.
    pub(super) error: String,
}

/// What is known before any metric is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bounds {
    /// Somebody scaled the target to nothing.
    Disabled,
    /// It is outside of its limits.
    Outside { replicas: i32, reason: &'static str },
    /// The metrics decide.
    Within,
}

pub(super) fn bounds(current: i32, min: i32, max: i32) -> Bounds {
    if current == 0 && min != 0 {
        Bounds::Disabled
    } else if current > max {
        Bounds::Outside { replicas: max, reason: "Current number of replicas above Spec.MaxReplicas" }
    } else if current < min {
        Bounds::Outside { replicas: min, reason: "Current number of replicas below Spec.MinReplicas" }
    } else {
        Bounds::Within
    }
}

/// What all metrics together ask for: the most that one of them does.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Combined {
    pub(super) replicas: i32,
    pub(super) metric: String,
    /// Some failed, but not in a way that matters.
    pub(super) error: Option<String>,
}

/// No replica count if all metrics failed, or if some did and the others ask for fewer replicas than there are: those that failed might
/// have asked for more.
pub(super) fn combine(outcomes: &[Result<Proposal, Failure>], spec_replicas: i32) -> Result<Combined, (Failure, String)> {
    let mut best: Option<&Proposal> = None;
    for proposal in outcomes.iter().flatten() {
        if best.is_none_or(|best| best.replicas == 0 || proposal.replicas > best.replicas) {
            best = Some(proposal);
        }
    }
    let failures: Vec<&Failure> = outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).collect();
    let error = failures.first().map(|first| {
        format!("invalid metrics ({} invalid out of {}), first error is: {}", failures.len(), outcomes.len(), first.error)
    });
    let (replicas, metric) = best.map_or((0, String::new()), |best| (best.replicas, best.metric.clone()));
    match (failures.first(), error) {
        (Some(first), Some(error)) if best.is_none() || replicas < spec_replicas => Err(((*first).clone(), error)),
        (_, error) => Ok(Combined { replicas, metric, error }),
    }
}

/// Sets a condition; its time changes with its status only.
pub(super) fn set(
    conditions: &mut Vec<HorizontalPodAutoscalerCondition>,
    type_: &str,
    status: bool,
    (reason, message): (&str, &str),
    now: Timestamp,
) {
    let text = if status { "True" } else { "False" };
    let at = conditions.iter().position(|condition| condition.type_ == type_);
    let known = at.map(|at| &conditions[at]).filter(|condition| condition.status == text);
    let condition = HorizontalPodAutoscalerCondition {
        type_: type_.to_owned(),
        status: text.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_transition_time: known.and_then(|condition| condition.last_transition_time.clone()).or(Some(Time(now))),
    };
    match at {
        Some(at) => conditions[at] = condition,
        None => conditions.push(condition),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_come_first() {
        let outside = |replicas, reason| Bounds::Outside { replicas, reason };
        for (current, min, max, expected) in [
            (0, 1, 5, Bounds::Disabled),
            (0, 0, 5, Bounds::Within),
            (6, 1, 5, outside(5, "Current number of replicas above Spec.MaxReplicas")),
            (1, 2, 5, outside(2, "Current number of replicas below Spec.MinReplicas")),
            (2, 2, 5, Bounds::Within),
            (5, 2, 5, Bounds::Within),
        ] {
            assert_eq!(bounds(current, min, max), expected, "{current} {min} {max}");
        }
    }

    #[test]
    fn the_metric_that_asks_for_most_decides() {
        let ok = |replicas, metric: &str| Ok(Proposal { replicas, metric: metric.into(), status: MetricStatus::default() });
        let failed = |error: &str| Err(Failure { reason: "R", why: "w".into(), error: error.into() });
        let one_of_two = "invalid metrics (1 invalid out of 2), first error is: e";
        for (outcomes, current, expected) in [
            (vec![ok(3, "a"), ok(5, "b"), ok(5, "c")], 4, Ok((5, "b", None))),
            (vec![ok(0, "a")], 4, Ok((0, "a", None))),
            (vec![failed("e"), ok(5, "b")], 4, Ok((5, "b", Some(one_of_two)))),
            (vec![failed("e"), ok(4, "b")], 4, Ok((4, "b", Some(one_of_two)))),
            (vec![ok(3, "b"), failed("e")], 4, Err(one_of_two)),
            (vec![failed("e"), failed("f")], 4, Err("invalid metrics (2 invalid out of 2), first error is: e")),
        ] {
            let got = combine(&outcomes, current);
            let got =
                got.as_ref().map(|c| (c.replicas, c.metric.as_str(), c.error.as_deref())).map_err(|(_, error)| error.as_str());
            assert_eq!(got, expected, "{outcomes:?}");
        }
    }

    #[test]
    fn conditions_remember_when_they_changed() {
        let at = |second| Timestamp::from_second(second).expect("is in range");
        let mut conditions = Vec::new();
        set(&mut conditions, "A", true, ("R", "m"), at(1));
        set(&mut conditions, "B", true, ("R", "m"), at(1));
        set(&mut conditions, "A", true, ("S", "n"), at(2));
        set(&mut conditions, "B", false, ("S", "n"), at(2));
        let read: Vec<_> = conditions
            .iter()
            .map(|c| (c.type_.as_str(), c.reason.as_deref(), c.last_transition_time.as_ref().map(|time| time.0.as_second())))
            .collect();
        assert_eq!(read, [("A", Some("S"), Some(1)), ("B", Some("S"), Some(2))]);
    }
}
