//! What the processes of an executable use: memory, CPU and disk, from `/proc`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context;

/// Sums over a set of processes at one moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Usage {
    /// How many processes.
    pub(crate) processes: usize,
    /// Proportional set size in KiB: shared pages count once over all processes that map them.
    pub(crate) pss_kib: u64,
    /// User and system time so far in seconds; zero of [`of_executables`], see [`Usage::cpu_since`].
    pub(crate) cpu_seconds: f64,
    /// Bytes that were handed to block devices so far.
    pub(crate) written_bytes: u64,
    /// The sum of the processes' peaks of resident memory in KiB, since the start or [`reset_peaks`].
    pub(crate) peak_kib: u64,
    /// Nanoseconds of CPU of each thread that lives, by process and thread; only of [`of_executables`].
    threads: BTreeMap<(u32, u32), u64>,
}

/// Sums over processes by number.
pub(crate) fn of_pids(pids: &[u32]) -> anyhow::Result<Usage> {
    let mut usage = Usage::default();
    for pid in pids {
        let path = PathBuf::from(format!("/proc/{pid}"));
        usage.add(&of_process(&path, ticks(&path)?)?);
    }
    Ok(usage)
}

/// The processes that any thread of a process has started, and that live.
pub(crate) fn children(pid: u32) -> Vec<u32> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let texts = threads.map(|thread| std::fs::read_to_string(thread.path().join("children")).unwrap_or_default());
    texts.flat_map(|text| text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect()
}

/// Peaks of memory count from now on.
pub(crate) fn reset_peaks(pids: &[u32]) -> anyhow::Result<()> {
    for pid in pids {
        std::fs::write(format!("/proc/{pid}/clear_refs"), "5").context("cannot reset the peak of memory")?;
    }
    Ok(())
}

/// CPU time of a process with its threads that ended, to the clock's tick.
fn ticks(path: &Path) -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string(path.join("stat"))?;
    // The name in parentheses may hold anything; utime is field 14 of the line.
    let (_, rest) = stat.rsplit_once(')').context("stat has a name in parentheses")?;
    let fields: Vec<u64> = rest.split_whitespace().skip(11).take(2).filter_map(|field| field.parse().ok()).collect();
    Ok(fields.iter().sum::<u64>() as f64 / TICKS_A_SECOND)
}

/// `USER_HZ`, which every architecture of Linux that we run on has.
const TICKS_A_SECOND: f64 = 100.0;

impl Usage {
    /// CPU time since an earlier look, in seconds, of the threads that live now: what ended in between took its time away.
    pub(crate) fn cpu_since(&self, before: &Usage) -> f64 {
        let since = |(thread, now): (&(u32, u32), &u64)| now.saturating_sub(before.threads.get(thread).copied().unwrap_or(0));
        self.threads.iter().map(since).sum::<u64>() as f64 / 1e9
    }

    fn add(&mut self, one: &Usage) {
        self.processes += one.processes;
        self.pss_kib += one.pss_kib;
        self.cpu_seconds += one.cpu_seconds;
        self.written_bytes += one.written_bytes;
        self.peak_kib += one.peak_kib;
        self.threads.extend(&one.threads);
    }
}

/// Sums over the processes that run one of these executables (the server, its shims, pause processes).
pub(crate) fn of_executables(executables: &[PathBuf]) -> anyhow::Result<Usage> {
    let mut usage = Usage::default();
    for entry in std::fs::read_dir("/proc")? {
        let path = entry?.path();
        let runs_it = std::fs::read_link(path.join("exe")).is_ok_and(|exe| executables.contains(&exe));
        // A process that ends while we look is not counted.
        if runs_it
            && let Ok(threads) = threads(&path)
            && let Ok(one) = of_process(&path, 0.0)
        {
            usage.add(&Usage { threads, ..one });
        }
    }
    Ok(usage)
}

fn read(path: &Path, name: &str) -> anyhow::Result<String> {
    std::fs::read_to_string(path.join(name)).with_context(|| format!("{}/{name}", path.display()))
}

/// The number after `key` in a file of `/proc`.
fn number(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key))?.split_whitespace().next()?.parse().ok()
}

/// CPU time of the threads that live. Not utime and stime of `stat`: those are sampled by the clock tick, which an idle process's
/// short wake-ups escape.
fn threads(path: &Path) -> anyhow::Result<BTreeMap<(u32, u32), u64>> {
    let pid = path.file_name().and_then(|name| name.to_str()?.parse().ok()).context("not a process")?;
    let mut threads = BTreeMap::new();
    for thread in std::fs::read_dir(path.join("task"))? {
        let thread = thread?;
        let schedstat = std::fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default();
        if let Some(id) = thread.file_name().to_str().and_then(|name| name.parse().ok()) {
            threads.insert((pid, id), number(&schedstat, "").unwrap_or(0));
        }
    }
    Ok(threads)
}

fn of_process(path: &Path, cpu_seconds: f64) -> anyhow::Result<Usage> {
    Ok(Usage {
        processes: 1,
        pss_kib: number(&read(path, "smaps_rollup")?, "Pss:").unwrap_or(0),
        cpu_seconds,
        written_bytes: number(&read(path, "io")?, "write_bytes:").unwrap_or(0),
        peak_kib: number(&read(path, "status")?, "VmHWM:").unwrap_or(0),
        threads: BTreeMap::new(),
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
        let own = of_pids(&[std::process::id()]).expect("/proc");
        let later = of_executables(&[std::env::current_exe().and_then(std::fs::canonicalize).expect("a file")]).expect("/proc");
        assert!(later.cpu_since(&usage) >= 0.0 && later.cpu_since(&Usage::default()) > 0.0, "{later:?}");
        assert!(own.processes == 1 && own.peak_kib >= own.pss_kib / 2, "{own:?}");
    }
}
