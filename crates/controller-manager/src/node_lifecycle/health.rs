//! Whether a node's kubelet is heard from. Pure.
//!
//! Clocks are not compared: what counts is when *this* process last saw the node's Lease or status change.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// How long a node may keep silent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grace {
    /// `--node-monitor-grace-period`.
    pub(super) usual: Duration,
    /// A node without any status, after it registered (`--node-startup-grace-period`).
    pub(super) startup: Duration,
}

/// Conditions that only the kubelet can tell.
const CONDITIONS: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

/// What is remembered of a node between two looks.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Health {
    /// When the node was last seen to be alive.
    pub(super) probed: Timestamp,
    heartbeat: Option<Timestamp>,
    has_ready: bool,
    lease_renewed: Option<Timestamp>,
}

/// The result of a look.
#[derive(Debug)]
pub(super) struct Assessment {
    pub(super) health: Health,
    /// Status of the Ready condition as found ...
    pub(super) observed_ready: String,
    /// ... and as it is after `conditions` are written.
    pub(super) ready: String,
    /// The node's conditions if they must be written: the node fell silent.
    pub(super) conditions: Option<Vec<NodeCondition>>,
}

pub(super) fn ready_condition(node: &Node) -> Option<&NodeCondition> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == "Ready")
}

pub(super) fn assess(
    node: &Node,
    lease_renewed: Option<Timestamp>,
    last: Option<&Health>,
    grace: Grace,
    now: Timestamp,
) -> Assessment {
    let ready = ready_condition(node);
    let created = node.metadata.creation_timestamp.as_ref().map_or(now, |time| time.0);
    let heartbeat = ready.and_then(|ready| ready.last_heartbeat_time.as_ref().map(|time| time.0));
    let mut health =
        Health { probed: now, heartbeat, has_ready: ready.is_some(), lease_renewed: last.and_then(|last| last.lease_renewed) };
    match last {
        // Unknown to us: alive as of now, or of its creation if it never had a status.
        None if ready.is_none() => health.probed = created,
        None => {}
        Some(last) if last.has_ready == ready.is_some() && last.heartbeat == heartbeat => health.probed = last.probed,
        Some(_) => {}
    }
    if lease_renewed.is_some() && lease_renewed > health.lease_renewed {
        health.lease_renewed = lease_renewed;
        health.probed = now;
    }
    let observed_ready = ready.map_or("Unknown", |ready| &ready.status).to_owned();
    let grace = if ready.is_some() { grace.usual } else { grace.startup };
    let silent = now.duration_since(health.probed).as_millis() > i128::try_from(grace.as_millis()).unwrap_or(i128::MAX);
    if !silent {
        return Assessment {
            health,
            ready: ready.map_or("", |ready| &ready.status).to_owned(),
            observed_ready,
            conditions: None,
        };
    }
    let conditions = unknown(node, created, now);
    // Once Ready is Unknown everything else was made so with it.
    let write = ready.is_none() || observed_ready != "Unknown";
    Assessment { health, observed_ready, ready: "Unknown".into(), conditions: write.then_some(conditions) }
}

fn unknown(node: &Node, created: Timestamp, now: Timestamp) -> Vec<NodeCondition> {
    let current = node.status.as_ref().and_then(|status| status.conditions.clone());
    let mut conditions = current.unwrap_or_default();
    for type_ in CONDITIONS {
        match conditions.iter_mut().find(|condition| condition.type_ == type_) {
            None => conditions.push(NodeCondition {
                type_: type_.into(),
                status: "Unknown".into(),
                reason: Some("NodeStatusNeverUpdated".into()),
                message: Some("Kubelet never posted node status.".into()),
                last_heartbeat_time: Some(Time(created)),
                last_transition_time: Some(Time(now)),
            }),
            Some(condition) if condition.status != "Unknown" => {
                condition.status = "Unknown".into();
                condition.reason = Some("NodeStatusUnknown".into());
                condition.message = Some("Kubelet stopped posting node status.".into());
                condition.last_transition_time = Some(Time(now));
            }
            Some(_) => {}
        }
    }
    conditions
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const GRACE: Grace = Grace { usual: Duration::from_secs(40), startup: Duration::from_secs(60) };

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_704_067_200 + second).expect("in range")
    }

    fn node(conditions: Value) -> Node {
        serde_json::from_value(json!({
            "metadata": {"name": "n", "creationTimestamp": "2024-01-01T00:00:00Z"},
            "status": {"conditions": conditions},
        }))
        .expect("is a node")
    }

    fn ready(status: &str, heartbeat: i64) -> Value {
        json!([{"type": "Ready", "status": status, "lastHeartbeatTime": at(heartbeat).to_string()}])
    }

    #[test]
    fn silence_makes_a_node_unknown_and_a_lease_keeps_it_alive() {
        let node = node(ready("True", 0));
        let first = assess(&node, Some(at(0)), None, GRACE, at(100));
        assert_eq!((first.ready.as_str(), first.health.probed), ("True", at(100)));
        // The lease is renewed: alive, although the status has not changed.
        let second = assess(&node, Some(at(35)), Some(&first.health), GRACE, at(135));
        assert_eq!((second.ready.as_str(), second.health.probed), ("True", at(135)));
        let third = assess(&node, Some(at(35)), Some(&second.health), GRACE, at(175));
        assert!(third.conditions.is_none(), "exactly the grace period is still fine");
        let fourth = assess(&node, Some(at(35)), Some(&third.health), GRACE, at(176));
        assert_eq!((fourth.observed_ready.as_str(), fourth.ready.as_str()), ("True", "Unknown"));
        let conditions = fourth.conditions.expect("are written");
        assert_eq!(conditions.len(), 4);
        assert!(conditions.iter().all(|condition| condition.status == "Unknown"));
        assert_eq!(conditions[0].reason.as_deref(), Some("NodeStatusUnknown"));
        assert_eq!(conditions[1].reason.as_deref(), Some("NodeStatusNeverUpdated"));
    }

    #[test]
    fn a_heartbeat_in_the_status_counts_too() {
        let first = assess(&node(ready("True", 0)), None, None, GRACE, at(100));
        let second = assess(&node(ready("True", 30)), None, Some(&first.health), GRACE, at(130));
        assert_eq!(second.health.probed, at(130));
    }

    #[test]
    fn an_unknown_node_is_not_written_again() {
        let unknown = node(ready("Unknown", 0));
        let first = assess(&unknown, None, None, GRACE, at(0));
        let later = assess(&unknown, None, Some(&first.health), GRACE, at(500));
        assert_eq!(later.ready, "Unknown");
        assert!(later.conditions.is_none());
    }

    #[test]
    fn a_node_that_never_had_a_status_gets_a_minute() {
        let node = node(json!([]));
        let first = assess(&node, None, None, GRACE, at(50));
        assert!(first.conditions.is_none());
        let second = assess(&node, None, Some(&first.health), GRACE, at(61));
        assert_eq!(second.conditions.map(|conditions| conditions.len()), Some(4));
    }
}
