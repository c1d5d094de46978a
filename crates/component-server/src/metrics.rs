//! What `/metrics` and `/metrics/slis` tell: all that the process has registered, the process itself, and health.

use std::sync::LazyLock;

use prometheus::core::Collector;
use prometheus::proto::MetricFamily;
use prometheus::{Counter, Encoder, Gauge, GaugeVec, IntCounterVec, Opts, Registry, TextEncoder};

/// Clock ticks a second in `/proc/PID/stat`: fixed by the kernel's ABI on every Linux architecture we build for.
const TICKS_PER_SECOND: f64 = 100.0;
const PAGE_BYTES: f64 = 4096.0;

struct Health {
    registry: Registry,
    state: GaugeVec,
    total: IntCounterVec,
}

static HEALTH: LazyLock<Option<Health>> = LazyLock::new(|| {
    let state = Opts::new("kubernetes_healthcheck", "This metric records the result of a single healthcheck.");
    let total = Opts::new("kubernetes_healthchecks_total", "This metric records the results of all healthcheck.");
    let health = Health {
        registry: Registry::new(),
        state: GaugeVec::new(state, &["name", "type"]).ok()?,
        total: IntCounterVec::new(total, &["name", "type", "status"]).ok()?,
    };
    health.registry.register(Box::new(health.state.clone())).ok()?;
    health.registry.register(Box::new(health.total.clone())).ok()?;
    Some(health)
});

/// Counts what a check of `/healthz` and its like said.
pub(crate) fn observe_health(check: &str, kind: &str, healthy: bool) {
    let Some(health) = HEALTH.as_ref() else { return };
    health.state.with_label_values(&[check, kind]).set(if healthy { 1.0 } else { 0.0 });
    health.total.with_label_values(&[check, kind, if healthy { "success" } else { "error" }]).inc();
}

/// `/metrics/slis`: health alone, for a scraper that asks often.
pub(crate) fn render_slis() -> Vec<u8> {
    let mut families = HEALTH.as_ref().map(|health| health.registry.gather()).unwrap_or_default();
    families.extend(process().into_iter().filter(|family| family.name() == "process_start_time_seconds"));
    encode(&families)
}

/// `/metrics` in the text format; metrics of these names are left out (`--disabled-metrics`).
pub fn render(disabled: &[String]) -> Vec<u8> {
    let mut families = prometheus::gather();
    families.extend(HEALTH.as_ref().map(|health| health.registry.gather()).unwrap_or_default());
    families.extend(process());
    families.retain(|family| !disabled.iter().any(|name| name == family.name()));
    encode(&families)
}

fn encode(families: &[MetricFamily]) -> Vec<u8> {
    let mut text = Vec::with_capacity(16 * 1024);
    if let Err(error) = TextEncoder::new().encode(families, &mut text) {
        tracing::warn!(%error, "a metric cannot be encoded");
    }
    text
}

/// The process as the Prometheus client libraries tell it. Whatever can be read; nothing is made up for what cannot.
fn process() -> Vec<MetricFamily> {
    let mut families = Vec::new();
    let mut gauge = |name: &str, help: &str, value: Option<f64>| {
        if let (Some(value), Ok(gauge)) = (value, Gauge::new(name, help)) {
            gauge.set(value);
            families.extend(gauge.collect());
        }
    };
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The command, in parentheses, may hold anything: count fields from behind it. The first one there is number 3 of proc(5).
    let fields: Vec<&str> = stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().collect()).unwrap_or_default();
    let field = |number: usize| fields.get(number - 3).and_then(|f| f.parse::<f64>().ok());
    gauge("process_virtual_memory_bytes", "Virtual memory size in bytes.", field(23));
    gauge("process_resident_memory_bytes", "Resident memory size in bytes.", field(24).map(|pages| pages * PAGE_BYTES));
    let started = field(22).zip(boot_time()).map(|(ticks, boot)| boot + ticks / TICKS_PER_SECOND);
    gauge("process_start_time_seconds", "Start time of the process since unix epoch in seconds.", started);
    let open = std::fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count() as f64);
    gauge("process_open_fds", "Number of open file descriptors.", open);
    let cpu = field(14).zip(field(15)).map(|(user, system)| (user + system) / TICKS_PER_SECOND);
    let counter = Counter::new("process_cpu_seconds_total", "Total user and system CPU time spent in seconds.");
    if let (Some(cpu), Ok(counter)) = (cpu, counter) {
        counter.inc_by(cpu);
        families.extend(counter.collect());
    }
    families
}

/// When the process started, in seconds since 1970.
pub(crate) fn start_seconds() -> Option<f64> {
    process()
        .iter()
        .find(|family| family.name() == "process_start_time_seconds")
        .map(|f| f.get_metric()[0].get_gauge().get_value())
}

fn boot_time() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}
