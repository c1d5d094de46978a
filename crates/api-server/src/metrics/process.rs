//! The process itself, as the Prometheus client libraries tell it (`process_*`), read from `/proc` when asked.

use prometheus::core::Collector;
use prometheus::proto::MetricFamily;
use prometheus::{Counter, Gauge};

/// Clock ticks a second in `/proc/PID/stat`: fixed by the kernel's ABI on every Linux architecture we build for.
const TICKS_PER_SECOND: f64 = 100.0;
const PAGE_BYTES: f64 = 4096.0;

/// Whatever can be read; nothing is made up for what cannot.
pub(super) fn gather() -> Vec<MetricFamily> {
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
    gauge("process_threads", "Number of OS threads in the process.", field(20));
    let started = field(22).zip(boot_time()).map(|(ticks, boot)| boot + ticks / TICKS_PER_SECOND);
    gauge("process_start_time_seconds", "Start time of the process since unix epoch in seconds.", started);
    let open = std::fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count() as f64);
    gauge("process_open_fds", "Number of open file descriptors.", open);
    gauge("process_max_fds", "Maximum number of open file descriptors.", max_fds());
    let cpu = field(14).zip(field(15)).map(|(user, system)| (user + system) / TICKS_PER_SECOND);
    let counter = Counter::new("process_cpu_seconds_total", "Total user and system CPU time spent in seconds.");
    if let (Some(cpu), Ok(counter)) = (cpu, counter) {
        counter.inc_by(cpu);
        families.extend(counter.collect());
    }
    families
}

fn boot_time() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

fn max_fds() -> Option<f64> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    limits.lines().find_map(|line| line.strip_prefix("Max open files"))?.split_whitespace().next()?.parse().ok()
}
