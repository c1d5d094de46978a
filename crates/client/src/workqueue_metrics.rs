//! Metrics of work queues, with upstream's names, in the process's default Prometheus registry.

use std::sync::LazyLock;
use std::time::Duration;

use prometheus::{
    HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, exponential_buckets, register_histogram_vec,
    register_int_counter_vec, register_int_gauge_vec,
};

struct Families {
    depth: IntGaugeVec,
    adds: IntCounterVec,
    retries: IntCounterVec,
    queue_seconds: HistogramVec,
    work_seconds: HistogramVec,
}

static FAMILIES: LazyLock<Families> = LazyLock::new(|| {
    // 10^-8 s to 10 s, as k8s.io/component-base/metrics/prometheus/workqueue.
    let buckets = exponential_buckets(1e-8, 10.0, 10).expect("start, factor and count are valid constants");
    let registered = "registered once per process, under a name of its own";
    let histogram = |name: &str, help: &str| {
        register_histogram_vec!(HistogramOpts::new(name, help).buckets(buckets.clone()), &["name"]).expect(registered)
    };
    Families {
        depth: register_int_gauge_vec!(Opts::new("workqueue_depth", "Current depth of workqueue"), &["name"]).expect(registered),
        adds: register_int_counter_vec!(
            Opts::new("workqueue_adds_total", "Total number of adds handled by workqueue"),
            &["name"]
        )
        .expect(registered),
        retries: register_int_counter_vec!(
            Opts::new("workqueue_retries_total", "Total number of retries handled by workqueue"),
            &["name"]
        )
        .expect(registered),
        queue_seconds: histogram(
            "workqueue_queue_duration_seconds",
            "How long in seconds an item stays in workqueue before being requested.",
        ),
        work_seconds: histogram(
            "workqueue_work_duration_seconds",
            "How long in seconds processing an item from workqueue takes.",
        ),
    }
});

/// The series of one queue. Queues without a name share none and cost nothing.
pub(crate) struct QueueMetrics {
    depth: prometheus::IntGauge,
    adds: prometheus::IntCounter,
    retries: prometheus::IntCounter,
    queue_seconds: prometheus::Histogram,
    work_seconds: prometheus::Histogram,
}

impl QueueMetrics {
    pub(crate) fn new(name: &str) -> Self {
        Self {
            depth: FAMILIES.depth.with_label_values(&[name]),
            adds: FAMILIES.adds.with_label_values(&[name]),
            retries: FAMILIES.retries.with_label_values(&[name]),
            queue_seconds: FAMILIES.queue_seconds.with_label_values(&[name]),
            work_seconds: FAMILIES.work_seconds.with_label_values(&[name]),
        }
    }

    pub(crate) fn added(&self, depth: usize) {
        self.adds.inc();
        self.depth.set(i64::try_from(depth).unwrap_or(i64::MAX));
    }

    pub(crate) fn taken(&self, depth: usize, waited: Duration) {
        self.depth.set(i64::try_from(depth).unwrap_or(i64::MAX));
        self.queue_seconds.observe(waited.as_secs_f64());
    }

    pub(crate) fn done(&self, took: Duration) {
        self.work_seconds.observe(took.as_secs_f64());
    }

    pub(crate) fn retried(&self) {
        self.retries.inc();
    }
}
