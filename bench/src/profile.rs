//! `--profile`: a flame graph of where a server's CPU time goes, sampled by Linux's `perf` (Debian: linux-perf).
//!
//! The executable should have symbols and frame pointers: `docs/performance.md` says how to build one. The drawing is [`crate::flame`].

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::flame;

/// A running `perf record`.
pub(crate) struct Profiler {
    perf: Child,
    data: PathBuf,
    title: String,
    graph: PathBuf,
}

impl Profiler {
    /// Begins to sample the processes; `finish` writes `DIRECTORY/NAME.svg`.
    pub(crate) fn start(directory: &Path, name: &str, pids: &[u32]) -> anyhow::Result<Self> {
        std::fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
        let file: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        let data = directory.join(format!("{file}.perf"));
        let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
        let perf = Command::new("perf")
            .args(["record", "--quiet", "--freq=997", "--event=cpu-clock", "--call-graph=fp", "--output"])
            .arg(&data)
            .arg(format!("--pid={}", pids.join(",")))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("--profile needs `perf` (Debian: apt-get install linux-perf)")?;
        Ok(Self { perf, data, title: name.to_owned(), graph: directory.join(format!("{file}.svg")) })
    }

    /// Ends the sampling and draws.
    pub(crate) fn finish(mut self) -> anyhow::Result<()> {
        kill(Pid::from_raw(i32::try_from(self.perf.id())?), Signal::SIGINT)?;
        self.perf.wait()?;
        let script = Command::new("perf")
            .args(["script", "--fields=comm,ip,sym", "--input"])
            .arg(&self.data)
            .stderr(Stdio::null())
            .output()
            .context("perf script")?;
        ensure!(script.status.success() && !script.stdout.is_empty(), "perf took no samples (kernel.perf_event_paranoid?)");
        let stacks = flame::fold(&String::from_utf8_lossy(&script.stdout));
        std::fs::write(&self.graph, flame::draw(&self.title, &stacks))?;
        std::fs::remove_file(&self.data)?;
        eprintln!("  {}", self.graph.display());
        Ok(())
    }
}
