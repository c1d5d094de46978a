//! What the processes of an executable use: memory, CPU and disk, from `/proc`.

use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::{Deserialize, Serialize};

/// Sums over a set of processes at one moment.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Usage {
    /// How many processes.
    pub(crate) processes: usize,
    /// Proportional set size in KiB: shared pages count once over all processes that map them.
    pub(crate) pss_kib: u64,
    /// User and system time of the threads that live, so far, in seconds.
    pub(crate) cpu_seconds: f64,
    /// Bytes that were handed to block devices so far.
    pub(crate) written_bytes: u64,
}

/// Sums over the processes that run one of these executables (the server, its shims, pause processes).
pub(crate) fn of_executables(executables: &[PathBuf]) -> anyhow::Result<Usage> {
    let mut usage = Usage::default();
    for entry in std::fs::read_dir("/proc")? {
        let path = entry?.path();
        let runs_it = std::fs::read_link(path.join("exe")).is_ok_and(|exe| executables.contains(&exe));
        // A process that ends while we look is not counted.
        if runs_it && let Ok(one) = of_process(&path) {
            usage.processes += 1;
            usage.pss_kib += one.pss_kib;
            usage.cpu_seconds += one.cpu_seconds;
            usage.written_bytes += one.written_bytes;
        }
    }
    Ok(usage)
}

fn of_process(path: &Path) -> anyhow::Result<Usage> {
    let read = |name: &str| std::fs::read_to_string(path.join(name)).with_context(|| format!("{}/{name}", path.display()));
    let number = |text: &str, key: &str| -> Option<u64> {
        text.lines().find_map(|line| line.strip_prefix(key))?.split_whitespace().next()?.parse().ok()
    };
    // Not utime and stime of `stat`: those are sampled by the clock tick, which an idle process's short wake-ups escape.
    let mut nanoseconds = 0;
    for thread in std::fs::read_dir(path.join("task"))? {
        let schedstat = std::fs::read_to_string(thread?.path().join("schedstat")).unwrap_or_default();
        nanoseconds += number(&schedstat, "").unwrap_or(0);
    }
    Ok(Usage {
        processes: 1,
        pss_kib: number(&read("smaps_rollup")?, "Pss:").unwrap_or(0),
        cpu_seconds: nanoseconds as f64 / 1e9,
        written_bytes: number(&read("io")?, "write_bytes:").unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_memory() {
        let executable = std::env::current_exe().and_then(std::fs::canonicalize).expect("a test runs from a file");
        let usage = of_executables(&[executable]).expect("/proc");
        assert!(usage.processes >= 1 && usage.pss_kib > 100, "{usage:?}");
    }
}
