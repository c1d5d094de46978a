//! The cluster under test: a server of our own in a network namespace and data directory of its own, so that it disturbs nothing on the
//! machine and nothing disturbs it. The suite runs in the same network namespace, as on a node of the cluster.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use super::upstream::{self, Running, Swapped};
use crate::process;

/// How long the node may take to become Ready: a debug build on a busy machine needs some of it.
const READY_MAX: Duration = Duration::from_secs(180);
/// How long the server may take to end after SIGTERM.
const STOP_MAX: Duration = Duration::from_secs(30);
/// The address of the node: RFC 2544's range is never the network of a real machine.
pub(crate) const NODE_ADDRESS: &str = "198.18.0.2";
/// The name of the node.
pub(crate) const NODE_NAME: &str = "conformance-1";

/// A running cluster; stopped and removed by [`Cluster::remove`], or by the next start if we are killed.
pub(crate) struct Cluster {
    binary: PathBuf,
    data_dir: PathBuf,
    namespace: String,
    server: Child,
    /// What the server has printed since it started.
    printed: mpsc::Receiver<String>,
    upstream: Vec<Running>,
}

impl Cluster {
    /// Starts a server below `directory` (`data`, `server.log`) with upstream's components in the places of ours that are swapped, and
    /// waits until the node is Ready.
    pub(crate) fn start(binary: &Path, directory: &Path, swapped: &Swapped) -> anyhow::Result<Self> {
        ensure!(is_root(), "the conformance suite starts real containers and network namespaces: run it as root");
        let data_dir = directory.join("data");
        let namespace = format!("rusternetes-conformance-{}", std::process::id());
        if data_dir.exists() {
            reset(binary, &data_dir).context("cannot remove what an earlier run left")?;
        }
        std::fs::create_dir_all(&data_dir).with_context(|| format!("cannot create {}", data_dir.display()))?;
        make_network(&namespace)?;
        let log = std::fs::File::create(directory.join("server.log")).context("cannot write the server's log")?;
        let mut command = in_network(&namespace, binary);
        command.arg("server").arg("--data-dir").arg(&data_dir).args(["--node-name", NODE_NAME, "--node-ip", NODE_ADDRESS]);
        command.args(swapped.components().map(|component| format!("--without={}", component.ours())));
        let mut server = command.stdout(Stdio::piped()).stderr(log).spawn().context("cannot start the server")?;
        let printed = lines(&mut server)?;
        let mut cluster = Self { binary: binary.to_owned(), data_dir, namespace, server, printed, upstream: Vec::new() };
        if let Err(error) = cluster.wait_ready(directory, swapped) {
            // The first error is the one to be told.
            let _ = cluster.remove();
            return Err(error.context(format!("see {}", directory.join("server.log").display())));
        }
        Ok(cluster)
    }

    /// The administrator's kubeconfig; its address is right inside the network namespace.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.data_dir.join("admin.kubeconfig")
    }

    /// A command in the cluster's network namespace.
    pub(crate) fn command(&self, program: &Path) -> Command {
        in_network(&self.namespace, program)
    }

    /// Loads every image of an archive.
    pub(crate) fn import(&self, archive: &Path) -> anyhow::Result<()> {
        let mut command = Command::new(&self.binary);
        command.args(["image", "import"]).arg(archive).arg("--data-dir").arg(&self.data_dir).stdout(Stdio::null());
        process::run(&mut command).context("cannot import the images")
    }

    /// Stops the server and removes everything that it made, the network namespace too.
    pub(crate) fn remove(mut self) -> anyhow::Result<()> {
        for component in std::mem::take(&mut self.upstream) {
            component.stop()?;
        }
        self.stop()?;
        reset(&self.binary, &self.data_dir)?;
        process::run(Command::new("ip").args(["netns", "delete", &self.namespace]))
    }

    /// Leaves the cluster as it is and says how to reach it.
    pub(crate) fn keep(self) {
        let (namespace, kubeconfig) = (&self.namespace, self.kubeconfig());
        eprintln!("the cluster runs on, server process {}; the next run removes it:", self.server.id());
        eprintln!("  nsenter --net=/run/netns/{namespace} kubectl --kubeconfig {} get pods -A", kubeconfig.display());
    }

    /// That upstream's components still run.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        self.upstream.iter_mut().try_for_each(Running::check)
    }

    fn wait_ready(&mut self, directory: &Path, swapped: &Swapped) -> anyhow::Result<()> {
        let deadline = Instant::now() + READY_MAX;
        // From here on their kubeconfigs are there.
        self.wait_printed("Kubernetes API on", deadline)?;
        let namespace = self.namespace.clone();
        let enter = |program: &Path| in_network(&namespace, program);
        let site = upstream::Site { data_dir: &self.data_dir, directory, kubectl: swapped.kubectl(), enter: &enter };
        for (component, executable) in swapped.executables() {
            self.upstream.push(Running::start(component, executable, &site)?);
        }
        self.upstream.iter_mut().try_for_each(|component| component.wait_healthy(&site))?;
        self.wait_printed("is Ready", deadline)
    }

    fn wait_printed(&self, text: &str, deadline: Instant) -> anyhow::Result<()> {
        loop {
            match self.printed.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) if line.contains(text) => return Ok(()),
                Ok(_) => {}
                Err(mpsc::RecvTimeoutError::Timeout) => bail!("the server did not say {text:?} in {} s", READY_MAX.as_secs()),
                Err(mpsc::RecvTimeoutError::Disconnected) => bail!("the server ended before it said {text:?}"),
            }
        }
    }

    fn stop(&mut self) -> anyhow::Result<()> {
        process::end(&mut self.server, STOP_MAX)
    }
}

/// What a server prints, line by line. All of it is read, so that the server never blocks on a full pipe.
fn lines(server: &mut Child) -> anyhow::Result<mpsc::Receiver<String>> {
    let printed = server.stdout.take().context("the server's output is a pipe")?;
    let (sender, received) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(printed).lines().map_while(Result::ok) {
            // Nobody listens when the cluster is kept.
            let _ = sender.send(line);
        }
    });
    Ok(received)
}

fn is_root() -> bool {
    process::output(Command::new("id").arg("-u")).is_ok_and(|id| id.trim() == "0")
}

fn in_network(namespace: &str, program: &Path) -> Command {
    // Not `ip netns exec`: that mounts another /sys and hides the cgroups.
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/run/netns/{namespace}")).arg("--").arg(program);
    command
}

/// Stops the containers of a server that is not running and removes its data.
fn reset(binary: &Path, data_dir: &Path) -> anyhow::Result<()> {
    process::run(Command::new(binary).arg("reset").arg("--data-dir").arg(data_dir).stdout(Stdio::null()))
}

/// A namespace with one address and a default route: a connection to a ClusterIP needs a route before nftables sees it. What leaves goes
/// nowhere; the machine's name servers are refused at once, so that look-ups of foreign names fail instead of timing out.
fn make_network(namespace: &str) -> anyhow::Result<()> {
    let address = format!("{NODE_ADDRESS}/24");
    process::run(Command::new("ip").args(["netns", "add", namespace])).context("cannot make a network namespace")?;
    let mut steps: Vec<Vec<&str>> = vec![
        vec!["link", "set", "lo", "up"],
        vec!["link", "add", "eth0", "type", "veth", "peer", "name", "wire"],
        vec!["link", "set", "wire", "up"],
        vec!["addr", "add", &address, "dev", "eth0"],
        vec!["link", "set", "eth0", "up"],
        vec!["route", "add", "default", "dev", "eth0"],
    ];
    let resolver = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let servers = resolver.lines().filter_map(|line| line.strip_prefix("nameserver ")).map(str::trim);
    steps.extend(
        servers
            .filter(|server| !server.contains(':') && !server.starts_with("127."))
            .map(|server| vec!["route", "add", "unreachable", server]),
    );
    for step in steps {
        process::run(Command::new("ip").args(["-n", namespace]).args(&step)).context("cannot set up the network namespace")?;
    }
    Ok(())
}
