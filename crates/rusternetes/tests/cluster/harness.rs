//! A real server in a directory of its own, upstream's kubectl pointed at it, and waiting with a deadline.

use std::ffi::OsStr;
use std::fmt::Debug;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// The longest anything may take on a busy two-core machine with a debug build.
const PATIENCE: Duration = Duration::from_secs(120);

/// A running cluster. Dropping it stops the server, its containers and shims, and removes its traces.
pub(crate) struct Cluster {
    directory: tempfile::TempDir,
    port: u16,
    flags: Vec<String>,
    server: Option<Server>,
    small_disk: bool,
}

/// The server process with what it printed.
struct Server {
    child: Child,
    output: Arc<Mutex<Vec<String>>>,
}

impl Cluster {
    /// Starts a server on an empty data directory and waits until its node is Ready.
    pub(crate) fn start() -> Self {
        let mut cluster = Self::prepare();
        cluster.start_server();
        cluster
    }

    /// As [`Cluster::start`], with the data directory on a file system of this size.
    pub(crate) fn start_on_small_disk(bytes: u64) -> Self {
        use nix::mount::{MsFlags, mount};
        let mut cluster = Self::prepare();
        std::fs::create_dir_all(cluster.data_dir()).expect("writable");
        let size = format!("size={bytes}");
        mount(Some("tmpfs"), &cluster.data_dir(), Some("tmpfs"), MsFlags::empty(), Some(size.as_str()))
            .expect("a tmpfs (needs root)");
        cluster.small_disk = true;
        cluster.start_server();
        cluster
    }

    /// As [`Cluster::start`], with further flags, made from the cluster's scratch directory.
    pub(crate) fn start_with(flags: impl FnOnce(&Path) -> Vec<String>) -> Self {
        let mut cluster = Self::prepare();
        cluster.flags = flags(cluster.scratch());
        cluster.start_server();
        cluster
    }

    fn prepare() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        Self { directory, port: free_port(), flags: Vec::new(), server: None, small_disk: false }
    }

    /// Starts the server (again) on the same data directory and waits until the node is Ready.
    pub(crate) fn start_server(&mut self) {
        let mut child = Command::new(env!("CARGO_BIN_EXE_rusternetes"))
            .arg("server")
            .arg("--data-dir")
            .arg(self.data_dir())
            .args(["--secure-port", &self.port.to_string()])
            .args(&self.flags)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the server starts");
        let output = Arc::default();
        collect(child.stdout.take().expect("piped"), Arc::clone(&output));
        collect(child.stderr.take().expect("piped"), Arc::clone(&output));
        self.server = Some(Server { child, output });
        self.wait_for("the node to be Ready", |cluster| {
            cluster.check_alive();
            cluster.output().contains("is Ready after")
        });
    }

    /// The data directory.
    pub(crate) fn data_dir(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// The HTTPS port.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// A directory for the test's own files, gone with the cluster.
    pub(crate) fn scratch(&self) -> &Path {
        self.directory.path()
    }

    /// Everything that the server printed since its last start.
    pub(crate) fn output(&self) -> String {
        self.server.as_ref().map(|server| server.output.lock().expect("no panic holds it").join("\n")).unwrap_or_default()
    }

    /// The server's process id.
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(self.server.as_ref().expect("a running server").child.id() as i32)
    }

    /// Sends SIGTERM, waits, and returns the exit code.
    pub(crate) fn stop_server(&mut self) -> Option<i32> {
        kill(self.pid(), Signal::SIGTERM).expect("the server runs");
        self.wait_for_exit()
    }

    /// Sends SIGKILL and waits.
    pub(crate) fn kill_server(&mut self) {
        kill(self.pid(), Signal::SIGKILL).expect("the server runs");
        self.wait_for_exit();
    }

    fn wait_for_exit(&mut self) -> Option<i32> {
        let mut server = self.server.take().expect("a running server");
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = server.child.try_wait().expect("a child of ours") {
                return status.code();
            }
            assert!(Instant::now() < deadline, "the server does not end: {:#?}", server.output);
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn check_alive(&mut self) {
        let server = self.server.as_mut().expect("a running server");
        if let Some(status) = server.child.try_wait().expect("a child of ours") {
            panic!("the server ended with {status}:\n{}", self.output());
        }
    }

    /// Polls until the condition holds; fails with the server's output after the deadline.
    pub(crate) fn wait_for(&mut self, what: &str, mut condition: impl FnMut(&mut Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !condition(self) {
            assert!(Instant::now() < deadline, "timed out waiting for {what}\n{}", self.tail());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn tail(&self) -> String {
        let output = self.output();
        let lines: Vec<&str> = output.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }

    /// kubectl v1.35 as the administrator.
    pub(crate) fn kubectl(&self) -> Kubectl {
        Kubectl { program: kubectl_path("1_35"), kubeconfig: self.data_dir().join("admin.kubeconfig") }
    }

    /// kubectl v1.31 as the administrator.
    pub(crate) fn old_kubectl(&self) -> Kubectl {
        Kubectl { program: kubectl_path("1_31"), kubeconfig: self.data_dir().join("admin.kubeconfig") }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the server's last lines:\n{}", self.tail());
        }
        if let Some(server) = &mut self.server {
            // The teardown below is what counts: a server that is gone already is fine.
            let _ = server.child.kill();
            let _ = server.child.wait();
        }
        teardown(&self.data_dir());
        if self.small_disk {
            // Lazily: what still holds it must not keep the directory from being removed.
            let _ = nix::mount::umount2(&self.data_dir(), nix::mount::MntFlags::MNT_DETACH);
        }
    }
}

/// Kills everything that was started for a data directory (shims, containers) and unmounts what it mounted: what a reboot does.
pub(crate) fn teardown(data_dir: &Path) {
    let status = Command::new(env!("CARGO_BIN_EXE_rusternetes"))
        .args(["reset", "--keep-data", "--data-dir"])
        .arg(data_dir)
        .status()
        .expect("the binary runs");
    assert!(status.success() || std::thread::panicking(), "the machine could not be cleaned");
}

fn collect(stream: impl std::io::Read + Send + 'static, output: Arc<Mutex<Vec<String>>>) {
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            output.lock().expect("no panic holds it").push(line);
        }
    });
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port()
}

/// `cargo xtask test` says where upstream's kubectl is; a bare `cargo test` finds what an earlier run fetched.
fn kubectl_path(version: &str) -> PathBuf {
    if let Some(path) = std::env::var_os(format!("RUSTERNETES_KUBECTL_{version}")) {
        return path.into();
    }
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").expect("a home directory")).join(".cache"));
    let path = cache.join(format!("rusternetes/tools/kubectl-{version}"));
    assert!(path.exists(), "no kubectl: run `cargo xtask test`, which fetches it");
    path
}

/// One kubectl with one kubeconfig.
pub(crate) struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
}

impl Kubectl {
    /// A command to be run by the caller.
    pub(crate) fn command<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Command {
        let mut command = Command::new(&self.program);
        command.env("KUBECONFIG", &self.kubeconfig).args(arguments);
        command
    }

    /// Runs to the end, whatever the exit code.
    pub(crate) fn output<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Output {
        self.command(arguments).stdin(Stdio::null()).output().expect("kubectl starts")
    }

    /// Runs a command line (split at spaces) that must succeed; returns what it printed.
    pub(crate) fn ok(&self, line: &str) -> String {
        self.ok_arguments(line.split_whitespace())
    }

    /// As [`Kubectl::ok`], with arguments that hold spaces.
    pub(crate) fn ok_arguments<A: AsRef<OsStr> + Debug>(&self, arguments: impl IntoIterator<Item = A>) -> String {
        let arguments: Vec<A> = arguments.into_iter().collect();
        let output = self.output(&arguments);
        assert!(
            output.status.success(),
            "kubectl {arguments:?} ended with {}\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).expect("kubectl prints UTF-8")
    }

    /// Runs a command line that must fail; returns what it said on standard error.
    pub(crate) fn fails(&self, line: &str) -> String {
        let output = self.output(line.split_whitespace());
        assert!(!output.status.success(), "kubectl {line} succeeded: {}", String::from_utf8_lossy(&output.stdout));
        String::from_utf8(output.stderr).expect("kubectl prints UTF-8")
    }

    /// Runs a command with standard input; returns the output, whatever the exit code.
    pub(crate) fn with_input(&self, line: &str, input: &str) -> Output {
        use std::io::Write;
        let mut child = self
            .command(line.split_whitespace())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kubectl starts");
        child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("kubectl reads its input");
        child.wait_with_output().expect("kubectl ends")
    }

    /// Applies a manifest; it must succeed.
    pub(crate) fn apply(&self, manifest: &str) -> String {
        let output = self.with_input("apply -f -", manifest);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("kubectl prints UTF-8")
    }

    /// Gets an object (or a list) as JSON.
    pub(crate) fn json(&self, line: &str) -> Value {
        serde_json::from_str(&self.ok(&format!("{line} -o json"))).expect("kubectl prints JSON")
    }
}
