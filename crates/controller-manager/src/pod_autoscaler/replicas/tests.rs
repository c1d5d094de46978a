//! Upstream's rules as tables.

use super::*;
use serde_json::{Value, json};

const TOLERANCES: Tolerances = Tolerances { down: 0.1, up: 0.1 };

fn at(time: &str) -> Timestamp {
    format!("2024-01-01T{time}Z").parse().expect("is a time")
}

/// A running pod, ready since long, that asks for a processor.
fn pod(name: &str, change: Value) -> Arc<Pod> {
    let mut pod = json!({
        "metadata": {"name": name},
        "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]},
        "status": {"phase": "Running", "startTime": "2024-01-01T00:00:00Z",
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2024-01-01T00:01:00Z"}]},
    });
    for (pointer, value) in change.as_object().into_iter().flatten() {
        let (parent, last) = pointer.rsplit_once('/').expect("is a pointer");
        pod.pointer_mut(parent).expect("is there")[last] = value.clone();
    }
    Arc::new(serde_json::from_value(pod).expect("is a pod"))
}

/// `r`: ready; `u`: its start is not over; `p`: pending; `f`: failed; `d`: being deleted.
fn pods(text: &str) -> Vec<Arc<Pod>> {
    let of = |(i, kind): (usize, char)| {
        let change = match kind {
            'r' => json!({}),
            'u' => {
                json!({"/status/conditions": [{"type": "Ready", "status": "False", "lastTransitionTime": "2024-01-01T00:00:05Z"}]})
            }
            'p' => json!({"/status/phase": "Pending"}),
            'f' => json!({"/status/phase": "Failed"}),
            _ => json!({"/metadata/deletionTimestamp": "2024-01-01T00:00:00Z"}),
        };
        pod(&format!("p{i}"), change)
    };
    text.chars().enumerate().map(of).collect()
}

fn metrics(values: &[Option<i64>]) -> PodMetrics {
    let metric = |value_milli: i64| PodMetric { timestamp: at("01:00:00"), window: Duration::from_secs(60), value_milli };
    values.iter().enumerate().filter_map(|(i, value)| Some((format!("p{i}"), metric((*value)?)))).collect()
}

fn all(pods: &[Arc<Pod>]) -> Pods<'_> {
    Pods {
        pods,
        now: at("01:00:00"),
        cpu_initialization: Duration::from_secs(300),
        initial_readiness_delay: Duration::from_secs(30),
    }
}

#[test]
fn utilization_of_requests() {
    let some = |values: &[i64]| values.iter().map(|value| Some(*value)).collect::<Vec<_>>();
    // (pods, what they use in millicores, replicas now, target in percent, replicas and utilization wanted)
    for (text, values, current, target, expected) in [
        // Up and down.
        ("rrr", some(&[300, 500, 700]), 3, 30, (5, 50)),
        ("rrrrr", some(&[100, 300, 500, 250, 250]), 5, 50, (3, 28)),
        // Within the tolerance.
        ("rrr", some(&[1010, 1030, 1020]), 3, 100, (3, 102)),
        // Going up, pods that start count as if they used nothing.
        ("urr", some(&[300, 500, 700]), 3, 30, (4, 60)),
        ("ruu", some(&[400, 500, 700]), 3, 30, (3, 40)),
        ("prr", vec![None, Some(500), Some(700)], 3, 30, (4, 60)),
        // Going down, they do not count.
        ("uurr", some(&[100, 200, 200, 200]), 4, 50, (1, 20)),
        // Failed pods and those being deleted never count.
        ("ffrr", some(&[100, 0, 500, 700]), 2, 50, (3, 60)),
        ("ddrr", some(&[100, 0, 500, 700]), 2, 50, (3, 60)),
        // Without a metric: going down, all that they may use; going up, nothing.
        ("rrrr", vec![None, Some(100), Some(100), Some(100)], 4, 50, (3, 10)),
        ("rrr", vec![None, Some(100), Some(450)], 3, 50, (3, 27)),
        ("rrr", vec![None, Some(100), Some(450)], 3, 150, (2, 27)),
        ("rrrr", vec![None, Some(1000), Some(500), Some(500)], 4, 50, (4, 66)),
        ("rrrrr", vec![None, Some(1000), Some(1000), Some(1000), Some(1000)], 5, 50, (8, 100)),
        // What holds back does not turn around.
        ("rrru", vec![Some(450), None, None, Some(900)], 4, 50, (4, 45)),
    ] {
        let pods = pods(text);
        let got = by_utilization(&all(&pods), metrics(&values), ("cpu", ""), current, target, TOLERANCES);
        assert_eq!(got.map(|(replicas, percent, _)| (replicas, percent)), Ok(expected), "{text} {values:?}");
    }
}

#[test]
fn what_cannot_be_calculated() {
    let run = |pods: &[Arc<Pod>], values: &[Option<i64>], container: &str| {
        by_utilization(&all(pods), metrics(values), ("cpu", container), 1, 50, TOLERANCES).expect_err("cannot be")
    };
    assert_eq!(run(&[], &[], ""), "no pods returned by selector while calculating replica count");
    let unready = "did not receive metrics for targeted pods (pods might be unready)";
    assert_eq!(run(&pods("rr"), &[], ""), unready);
    assert_eq!(run(&pods("uu"), &[Some(1), Some(1)], ""), unready);
    let without = [pod("p0", json!({"/spec/containers": [{"name": "c"}]}))];
    assert_eq!(run(&without, &[Some(1)], ""), "missing request for cpu in container c of Pod p0");
    assert_eq!(run(&pods("r"), &[Some(1)], "other"), "container other not found in Pod p0");
    let nothing = [pod("p0", json!({"/spec/containers": []}))];
    assert_eq!(run(&nothing, &[Some(1)], ""), "no metrics returned matched known pods");
}

#[test]
fn requests_of_pods() {
    let request_of = |change: Value, container: &str| request(&pod("p", change), "cpu", container);
    let two = json!([{"name": "a", "resources": {"requests": {"cpu": "100m"}}}, {"name": "b", "resources": {"requests": {"cpu": "2"}}}]);
    let init = json!([{"name": "i"}, {"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": "1m"}}}]);
    let whole = json!({"requests": {"cpu": "5"}});
    assert_eq!(request_of(json!({"/spec/containers": two}), ""), Ok(2100));
    assert_eq!(request_of(json!({"/spec/containers": two}), "a"), Ok(100));
    assert_eq!(request_of(json!({"/spec/containers": two, "/spec/initContainers": init}), ""), Ok(2101));
    assert_eq!(request_of(json!({"/spec/containers": two, "/spec/resources": whole}), ""), Ok(5000));
    assert_eq!(request_of(json!({"/spec/containers": two, "/spec/resources": whole}), "b"), Ok(2000));
}

#[test]
fn which_pods_are_still_starting() {
    let ready = |status: &str, since: &str| json!([{"type": "Ready", "status": status, "lastTransitionTime": format!("2024-01-01T{since}Z")}]);
    let metric = |time: &str| PodMetric { timestamp: at(time), window: Duration::from_secs(30), value_milli: 1 };
    // The start was at 00:00:00, and five minutes may be those of the start.
    for (conditions, now, measured, expected) in [
        (json!([]), "01:00:00", "01:00:00", true),
        (ready("True", "00:01:00"), "00:02:00", "00:01:31", false),
        (ready("True", "00:01:00"), "00:02:00", "00:01:29", true),
        (ready("False", "00:01:00"), "00:02:00", "00:02:00", true),
        (ready("False", "00:00:10"), "00:10:00", "00:10:00", true),
        // It has been ready once.
        (ready("False", "00:04:00"), "00:10:00", "00:10:00", false),
        (ready("True", "00:04:00"), "00:10:00", "00:00:01", false),
    ] {
        let pod = pod("p", json!({"/status/conditions": conditions}));
        let pods = Pods { now: at(now), ..all(&[]) };
        assert_eq!(pods.is_starting(&pod, &metric(measured)), expected, "{conditions} {now} {measured}");
    }
}

#[test]
fn means_and_values() {
    for (text, values, current, target, expected) in [
        ("rrr", vec![Some(20_000), Some(10_000), Some(30_000)], 3, 15_000, (4, 20_000)),
        ("rrrrr", vec![Some(12_000); 5], 5, 20_000, (3, 12_000)),
        ("rrr", vec![Some(20_666); 3], 3, 20_000, (3, 20_666)),
        ("rrrr", vec![None, Some(10_000), Some(10_000), Some(10_000)], 4, 20_000, (3, 10_000)),
        ("prr", vec![None, Some(50_000), Some(10_000)], 3, 15_000, (4, 30_000)),
    ] {
        let pods = pods(text);
        assert_eq!(by_mean(&all(&pods), metrics(&values), "", current, target, TOLERANCES), Ok(expected), "{text} {values:?}");
    }
    for (text, current, usage, target, expected) in [
        ("rrr", 3, 20_000, 15_000, Ok(4)),
        ("rrr", 3, 15_500, 15_000, Ok(3)),
        ("rrr", 3, 3_000, 15_000, Ok(1)),
        ("ruu", 3, 30_000, 15_000, Ok(2)),
        ("", 0, 30_000, 15_000, Ok(2)),
        (
            "",
            1,
            30_000,
            15_000,
            Err("unable to calculate ready pods: no pods returned by selector while calculating replica count".into()),
        ),
        ("r", 1, i64::MAX, 1, Ok(i32::MAX)),
    ] {
        assert_eq!(by_value(&all(&pods(text)), current, usage, target, TOLERANCES), expected, "{text} {usage}");
    }
    for (replicas, usage, target, expected) in
        [(3, 8_600, 2_000, (5, 2_867)), (3, 6_100, 2_000, (3, 2_034)), (5, 2_000, 2_000, (1, 400)), (0, 4_000, 2_000, (2, 4_000))]
    {
        assert_eq!(by_value_per_pod(replicas, usage, target, TOLERANCES), expected, "{replicas} {usage}");
    }
    let own = Tolerances { down: 0.0, up: 0.5 };
    assert_eq!(by_value_per_pod(4, 11_900, 2_000, own), (4, 2_975), "within what was asked for");
    assert_eq!(by_value_per_pod(4, 7_900, 2_000, own), (4, 1_975), "rounded up to what there is");
    assert_eq!(by_value_per_pod(4, 5_900, 2_000, own), (3, 1_475), "no tolerance downwards");
}
