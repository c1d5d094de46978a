//! The scheduler's metrics under upstream's names, in the process's default Prometheus registry.

use std::sync::LazyLock;
use std::time::Duration;

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec, exponential_buckets, register_histogram,
    register_histogram_vec, register_int_counter, register_int_counter_vec, register_int_gauge_vec,
};

struct Families {
    attempts: IntCounterVec,
    attempt_seconds: HistogramVec,
    algorithm_seconds: Histogram,
    sli_seconds: HistogramVec,
    attempts_per_pod: Histogram,
    victims: Histogram,
    preemptions: IntCounter,
    pending: IntGaugeVec,
    incoming: IntCounterVec,
    cache_size: IntGaugeVec,
    point_seconds: HistogramVec,
    permit_seconds: HistogramVec,
}

const REGISTERED: &str = "registered once per process, under a name of its own, with constant buckets";

fn options(name: &str, help: &str, start: f64, factor: f64, count: usize) -> HistogramOpts {
    let buckets = exponential_buckets(start, factor, count).expect(REGISTERED);
    HistogramOpts::new(format!("scheduler_{name}"), help).buckets(buckets)
}

static FAMILIES: LazyLock<Families> = LazyLock::new(|| {
    Families {
    attempts: register_int_counter_vec!(
        "scheduler_schedule_attempts_total",
        "Number of attempts to schedule pods, by the result. 'unschedulable' means a pod could not be scheduled, while 'error' means an internal scheduler problem.",
        &["result", "profile"]
    )
    .expect(REGISTERED),
    attempt_seconds: register_histogram_vec!(
        options("scheduling_attempt_duration_seconds", "Scheduling attempt latency in seconds (scheduling algorithm + binding)", 0.001, 2.0, 15),
        &["result", "profile"]
    )
    .expect(REGISTERED),
    algorithm_seconds: register_histogram!(options(
        "scheduling_algorithm_duration_seconds",
        "Scheduling algorithm latency in seconds",
        0.001,
        2.0,
        15
    ))
    .expect(REGISTERED),
    sli_seconds: register_histogram_vec!(
        options(
            "pod_scheduling_sli_duration_seconds",
            "E2e latency for a pod being scheduled, from the time the pod enters the scheduling queue and might involve multiple scheduling attempts.",
            0.01,
            2.0,
            20
        ),
        &["attempts"]
    )
    .expect(REGISTERED),
    attempts_per_pod: register_histogram!(options(
        "pod_scheduling_attempts",
        "Number of attempts to successfully schedule a pod.",
        1.0,
        2.0,
        5
    ))
    .expect(REGISTERED),
    victims: register_histogram!(options("preemption_victims", "Number of selected preemption victims", 1.0, 2.0, 7))
        .expect(REGISTERED),
    preemptions: register_int_counter!("scheduler_preemption_attempts_total", "Total preemption attempts in the cluster till now")
        .expect(REGISTERED),
    pending: register_int_gauge_vec!(
        "scheduler_pending_pods",
        "Number of pending pods, by the queue type: active, backoff, unschedulable, gated.",
        &["queue"]
    )
    .expect(REGISTERED),
    incoming: register_int_counter_vec!(
        "scheduler_queue_incoming_pods_total",
        "Number of pods added to scheduling queues by event and queue type.",
        &["queue", "event"]
    )
    .expect(REGISTERED),
    cache_size: register_int_gauge_vec!(
        "scheduler_cache_size",
        "Number of nodes, pods, and assumed (bound) pods in the scheduler cache.",
        &["type"]
    )
    .expect(REGISTERED),
    point_seconds: register_histogram_vec!(
        options(
            "framework_extension_point_duration_seconds",
            "Latency for running all plugins of a specific extension point.",
            0.0001,
            2.0,
            12
        ),
        &["extension_point", "status", "profile"]
    )
    .expect(REGISTERED),
    permit_seconds: register_histogram_vec!(
        options("permit_wait_duration_seconds", "Duration of waiting on permit.", 0.001, 2.0, 15),
        &["result"]
    )
    .expect(REGISTERED),
}
});

/// An attempt has ended; `result` is `scheduled`, `unschedulable` or `error`.
pub(crate) fn attempt(result: &str, profile: &str, took: Duration) {
    FAMILIES.attempts.with_label_values(&[result, profile]).inc();
    FAMILIES.attempt_seconds.with_label_values(&[result, profile]).observe(took.as_secs_f64());
}

/// A cycle has chosen a node, or found none.
pub(crate) fn algorithm(took: Duration) {
    FAMILIES.algorithm_seconds.observe(took.as_secs_f64());
}

/// A pod is bound after so many attempts; `waited` since it entered the queue first.
pub(crate) fn scheduled(attempts: u32, waited: Duration) {
    let label = if attempts >= 15 { "15+".to_owned() } else { attempts.to_string() };
    FAMILIES.sli_seconds.with_label_values(&[&label]).observe(waited.as_secs_f64());
    FAMILIES.attempts_per_pod.observe(f64::from(attempts));
}

/// Somebody has to go for a pod.
pub(crate) fn preemption_victims(victims: usize) {
    FAMILIES.victims.observe(victims as f64);
}

/// PostFilter looked for victims.
pub(crate) fn preemption_attempt() {
    FAMILIES.preemptions.inc();
}

/// How many pods are in a part of the queue.
pub(crate) fn pending(queue: &str, pods: usize) {
    FAMILIES.pending.with_label_values(&[queue]).set(i64::try_from(pods).unwrap_or(i64::MAX));
}

/// A pod has entered a part of the queue because of an event.
pub(crate) fn incoming(queue: &str, event: &str) {
    FAMILIES.incoming.with_label_values(&[queue, event]).inc();
}

/// What the cache holds.
pub(crate) fn cache_size(nodes: usize, pods: usize) {
    for (kind, count) in [("nodes", nodes), ("pods", pods)] {
        FAMILIES.cache_size.with_label_values(&[kind]).set(i64::try_from(count).unwrap_or(i64::MAX));
    }
}

/// All plugins of an extension point have run; `status` is upstream's name of the code.
pub(crate) fn extension_point(point: &str, status: &str, profile: &str, took: Duration) {
    FAMILIES.point_seconds.with_label_values(&[point, status, profile]).observe(took.as_secs_f64());
}

/// A pod has waited for a Permit plugin.
pub(crate) fn permit_wait(result: &str, took: Duration) {
    FAMILIES.permit_seconds.with_label_values(&[result]).observe(took.as_secs_f64());
}
