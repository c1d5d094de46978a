//! The machine that figures were taken on, and how busy it was.

use serde::{Deserialize, Serialize};

/// What a reader needs to judge a figure.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Machine {
    /// The processor's name.
    pub(crate) cpu: String,
    /// Its cores.
    pub(crate) cores: usize,
    /// Memory in MiB.
    pub(crate) memory_mib: u64,
    /// The kernel's release.
    pub(crate) kernel: String,
    /// Average load of the last minute when the run began: more than a few tenths means that others worked, too.
    pub(crate) load: f64,
}

impl Machine {
    /// Reads `/proc`; what cannot be read is left empty.
    pub(crate) fn look() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let value = |text: &str, key: &str| {
            text.lines()
                .find(|line| line.starts_with(key))
                .and_then(|line| line.split_once(':'))
                .map(|(_, value)| value.trim().to_owned())
        };
        let memory =
            value(&read("/proc/meminfo"), "MemTotal").and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok());
        Self {
            cpu: value(&read("/proc/cpuinfo"), "model name").unwrap_or_default(),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_mib: memory.unwrap_or(0) / 1024,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            load: read("/proc/loadavg").split_whitespace().next().and_then(|text| text.parse().ok()).unwrap_or(0.0),
        }
    }
}
