//! Processes of a peer that belong together, each with a log in the peer's directory.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long a daemon may take to end by SIGTERM.
const END_MAX: Duration = Duration::from_secs(30);

/// Started processes. Dropping this kills them.
pub(crate) struct Daemons {
    logs: PathBuf,
    children: Vec<(String, Child)>,
}

impl Daemons {
    /// None yet; logs go to the directory.
    pub(crate) fn new(logs: &Path) -> Self {
        Self { logs: logs.to_path_buf(), children: Vec::new() }
    }

    /// Starts one.
    pub(crate) fn start(&mut self, name: &str, mut command: Command) -> anyhow::Result<()> {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log(name))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        self.children.push((name.to_owned(), child));
        Ok(())
    }

    /// Their process numbers.
    pub(crate) fn pids(&self) -> Vec<u32> {
        self.children.iter().map(|(_, child)| child.id()).collect()
    }

    /// Fails if one of them has ended.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        for (name, child) in &mut self.children {
            if let Some(status) = child.try_wait()? {
                let name = name.clone();
                bail!("{name} ended with {status}; its log ends with:\n{}", self.tail(&name));
            }
        }
        Ok(())
    }

    /// The end of one's log, for an error.
    pub(crate) fn tail(&self, name: &str) -> String {
        let log = std::fs::read_to_string(self.log(name)).unwrap_or_default();
        let tail: Vec<&str> = log.lines().rev().take(20).collect();
        tail.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    /// SIGTERM in the reverse order of the starts, each waited for; SIGKILL to one that does not end.
    pub(crate) fn stop(&mut self) -> anyhow::Result<()> {
        while let Some((name, mut child)) = self.children.pop() {
            let pid = Pid::from_raw(i32::try_from(child.id())?);
            kill(pid, Signal::SIGTERM).with_context(|| format!("cannot stop {name}"))?;
            let (sender, ended) = std::sync::mpsc::channel();
            // Ends with the process.
            let waiter = std::thread::spawn(move || {
                let _ = sender.send(child.wait());
            });
            if ended.recv_timeout(END_MAX).is_err() {
                kill(pid, Signal::SIGKILL).with_context(|| format!("cannot kill {name}"))?;
            }
            waiter.join().map_err(|_| anyhow::anyhow!("the wait for {name} panicked"))?;
        }
        Ok(())
    }

    fn log(&self, name: &str) -> PathBuf {
        self.logs.join(format!("{name}.log"))
    }
}

impl Drop for Daemons {
    fn drop(&mut self) {
        for (_, child) in &mut self.children {
            // It may have ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
