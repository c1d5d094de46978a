//! A whole server of ours in a directory of its own: `rusternetes server`.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::target::Target;

/// How long a start may take before the run fails.
const START_MAX: Duration = Duration::from_secs(60);

/// An installation: the executable and where it keeps its data. Dropping it kills the server and all containers.
pub(crate) struct Installation {
    executable: PathBuf,
    directory: tempfile::TempDir,
    port: u16,
    /// The server, while it runs.
    child: Option<Child>,
}

impl Installation {
    /// An empty data directory below `scratch` and a free port.
    pub(crate) fn new(executable: &Path, scratch: &Path) -> anyhow::Result<Self> {
        let executable = std::fs::canonicalize(executable)
            .with_context(|| format!("no executable {}: `cargo build --release` makes it", executable.display()))?;
        std::fs::create_dir_all(scratch)?;
        let directory = tempfile::Builder::new().prefix("bench-").tempdir_in(scratch)?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        Ok(Self { executable, directory, port, child: None })
    }

    fn data_dir(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// The executable, as `/proc/PID/exe` shows it.
    pub(crate) fn executable(&self) -> &Path {
        &self.executable
    }

    /// The administrator's way in.
    pub(crate) fn target(&self) -> anyhow::Result<Target> {
        Target::from_kubeconfig(&self.data_dir().join("admin.kubeconfig"))
    }

    /// Starts the server and waits for its node to be Ready; returns how long that took, from exec to the line that says so.
    pub(crate) fn start(&mut self) -> anyhow::Result<Duration> {
        let started = Instant::now();
        let mut child = Command::new(&self.executable)
            .args(["server", "--bind-address", "127.0.0.1", "--secure-port", &self.port.to_string(), "--data-dir"])
            .arg(self.data_dir())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::from(std::fs::File::create(self.directory.path().join("server.log"))?))
            .spawn()?;
        let (lines, received) = std::sync::mpsc::channel();
        let output = child.stdout.take().context("piped")?;
        // Ends with the server's standard output.
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let seen = Instant::now();
                // Nobody waits any more once the node is Ready; the pipe is read on, so that the server can print.
                let _ = lines.send((seen, line));
            }
        });
        loop {
            match received.recv_timeout(START_MAX.saturating_sub(started.elapsed())) {
                Ok((seen, line)) if line.contains("is Ready after") => {
                    self.child = Some(child);
                    return Ok(seen - started);
                }
                Ok(_) => {}
                Err(_) => {
                    let _ = child.kill();
                    let _ = child.wait();
                    let log = std::fs::read_to_string(self.directory.path().join("server.log")).unwrap_or_default();
                    bail!("the server did not become ready:\n{log}");
                }
            }
        }
    }

    /// SIGTERM, and the wait for the end; containers go on.
    pub(crate) fn stop(&mut self) -> anyhow::Result<()> {
        if let Some(mut child) = self.child.take() {
            kill(Pid::from_raw(i32::try_from(child.id())?), Signal::SIGTERM)?;
            child.wait()?;
        }
        Ok(())
    }
}

impl Drop for Installation {
    fn drop(&mut self) {
        // Best effort: a benchmark that failed must still leave the machine as it was.
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = Command::new(&self.executable).args(["reset", "--keep-data", "--data-dir"]).arg(self.data_dir()).status();
    }
}
