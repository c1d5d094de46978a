//! The scheduler's metrics under upstream's names, in the process's default Prometheus registry.

use std::sync::LazyLock;
use std::time::Duration;

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, exponential_buckets,
    register_histogram, register_histogram_vec, register_int_counter, register_int_counter_vec, register_int_gauge_vec,
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
    event_seconds: HistogramVec,
    unschedulable: IntGaugeVec,
    goroutines: IntGaugeVec,
    preemption_tasks: IntCounterVec,
    preemption_seconds: HistogramVec,
    batch_attempts: IntCounterVec,
    batch_flushes: IntCounterVec,
    hint_seconds: HistogramVec,
    store_seconds: HistogramVec,
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
        "Number of pending pods, by the queue type. 'active' means number of pods in activeQ; 'backoff' means number of pods in backoffQ; 'unschedulable' means number of pods in unschedulablePods that the scheduler attempted to schedule and failed; 'gated' is the number of unschedulable pods that the scheduler never attempted to schedule because they are gated.",
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
    event_seconds: register_histogram_vec!(
        options("event_handling_duration_seconds", "Event handling latency in seconds.", 0.0001, 2.0, 12),
        &["event"]
    )
    .expect(REGISTERED),
    unschedulable: register_int_gauge_vec!(
        "scheduler_unschedulable_pods",
        "The number of unschedulable pods broken down by plugin name. A pod will increment the gauge for all plugins that caused it to not schedule and so this metric have meaning only when broken down by plugin.",
        &["plugin", "profile"]
    )
    .expect(REGISTERED),
    goroutines: register_int_gauge_vec!(
        "scheduler_goroutines",
        "Number of running goroutines split by the work they do such as binding.",
        &["operation"]
    )
    .expect(REGISTERED),
    preemption_tasks: register_int_counter_vec!(
        "scheduler_preemption_goroutines_execution_total",
        "Number of preemption goroutines executed.",
        &["result"]
    )
    .expect(REGISTERED),
    preemption_seconds: register_histogram_vec!(
        options(
            "preemption_goroutines_duration_seconds",
            "Duration in seconds for running goroutines for the preemption.",
            0.01,
            2.0,
            20
        ),
        &["result"]
    )
    .expect(REGISTERED),
    batch_attempts: register_int_counter_vec!(
        "scheduler_batch_attempts_total",
        "Counts of results when we attempt to use batching.",
        &["profile", "result"]
    )
    .expect(REGISTERED),
    batch_flushes: register_int_counter_vec!(
        "scheduler_batch_cache_flushed_total",
        "Counts of cache flushes by reason.",
        &["profile", "reason"]
    )
    .expect(REGISTERED),
    hint_seconds: register_histogram_vec!(
        options("get_node_hint_duration_seconds", "Latency for getting a node hint.", 0.00001, 2.0, 12),
        &["hinted", "profile"]
    )
    .expect(REGISTERED),
    store_seconds: register_histogram_vec!(
        options("store_schedule_results_duration_seconds", "Latency for keeping the results of a cycle.", 0.00001, 2.0, 12),
        &["profile"]
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

/// A pod is bound after so many attempts; `waited` since it was ready to be scheduled first.
pub(crate) fn scheduled(attempts: u32, waited: Option<Duration>) {
    let label = if attempts >= 15 { "15+".to_owned() } else { attempts.to_string() };
    if let Some(waited) = waited {
        FAMILIES.sli_seconds.with_label_values(&[&label]).observe(waited.as_secs_f64());
    }
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

/// A change of an object has reached the queue.
pub(crate) fn event_handled(event: &str, took: Duration) {
    FAMILIES.event_seconds.with_label_values(&[event]).observe(took.as_secs_f64());
}

/// A pod waits on a plugin's account (1), or does so no longer (-1).
pub(crate) fn unschedulable_reason(plugin: &str, profile: &str, by: i64) {
    FAMILIES.unschedulable.with_label_values(&[plugin, profile]).add(by);
}

/// The eviction of a pod's victims is over.
pub(crate) fn preemption_task(failed: bool, took: Duration) {
    let result = if failed { "error" } else { "success" };
    FAMILIES.preemption_tasks.with_label_values(&[result]).inc();
    FAMILIES.preemption_seconds.with_label_values(&[result]).observe(took.as_secs_f64());
}

/// What has come of a node that an earlier pod's cycle left over: `no_hint`, `hint_used` or `hint_not_used`.
pub(crate) fn batch_attempt(profile: &str, result: &str) {
    FAMILIES.batch_attempts.with_label_values(&[profile, result]).inc();
}

/// What an earlier pod's cycle left over is of no use.
pub(crate) fn batch_flushed(profile: &str, reason: &str) {
    FAMILIES.batch_flushes.with_label_values(&[profile, reason]).inc();
}

/// A pod was compared with the one before.
pub(crate) fn node_hint(hinted: bool, profile: &str, took: Duration) {
    let hinted = if hinted { "hint" } else { "no_hint" };
    FAMILIES.hint_seconds.with_label_values(&[hinted, profile]).observe(took.as_secs_f64());
}

/// The results of a cycle were kept for the next.
pub(crate) fn results_stored(profile: &str, took: Duration) {
    FAMILIES.store_seconds.with_label_values(&[profile]).observe(took.as_secs_f64());
}

/// Counts a task while it runs.
pub(crate) struct Working(IntGauge);

impl Working {
    /// Work of one kind.
    pub(crate) fn on(operation: &str) -> Self {
        let gauge = FAMILIES.goroutines.with_label_values(&[operation]);
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        self.0.dec();
    }
}
