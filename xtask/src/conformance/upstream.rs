//! Upstream's own components in place of ours (`--with-upstream`): that our API server cannot be told from upstream's by those who know it
//! best. They run at their defaults (protobuf, WatchList, Leases) beside a server that leaves them out, with the identities and flags that
//! kubeadm gives them.
//!
//! Their logs are kept (`run/upstream-COMPONENT.log`), and what they warned of is told at the end, most frequent first.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde_json::json;

use super::cluster::{NODE_ADDRESS, NODE_NAME};
use super::programs;
use crate::process;

/// How long a component may take until it says that it is well.
const HEALTHY_MAX: Duration = Duration::from_secs(120);
/// How much of a message is told, in characters.
const EXAMPLE_MAX: usize = 400;
/// How long one may take to end.
const STOP_MAX: Duration = Duration::from_secs(10);
/// How many kinds of warnings are told for each component; the log has them all.
const TOLD_MAX: usize = 40;

/// A component that is swapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Component {
    /// kube-controller-manager.
    ControllerManager,
    /// kube-scheduler.
    Scheduler,
    /// kubelet, with our container runtime behind its CRI socket.
    Kubelet,
}

impl Component {
    /// What our server's `--without` calls it.
    pub(crate) fn ours(self) -> &'static str {
        match self {
            Self::ControllerManager => "controller-manager",
            Self::Scheduler => "scheduler",
            Self::Kubelet => "kubelet",
        }
    }

    /// Upstream's executable.
    pub(crate) fn executable(self) -> &'static str {
        match self {
            Self::ControllerManager => "kube-controller-manager",
            Self::Scheduler => "kube-scheduler",
            Self::Kubelet => "kubelet",
        }
    }

    /// The port of its secure server, upstream's default: the cluster's network namespace has it free. A kubelet is seen by its node.
    fn secure_port(self) -> Option<u16> {
        match self {
            Self::ControllerManager => Some(10257),
            Self::Scheduler => Some(10259),
            Self::Kubelet => None,
        }
    }
}

/// What is swapped, and with which executables.
#[derive(Default)]
pub(crate) struct Swapped {
    executables: Vec<(Component, PathBuf)>,
    kubectl: PathBuf,
}

impl Swapped {
    /// Finds or builds the executables.
    pub(crate) fn prepare(components: &[Component], programs: &Path) -> anyhow::Result<Self> {
        let executables = components.iter().map(|component| Ok((*component, programs::peer(component.executable())?)));
        Ok(Self { executables: executables.collect::<anyhow::Result<_>>()?, kubectl: programs.join("kubectl") })
    }

    /// What our server leaves out.
    pub(crate) fn components(&self) -> impl Iterator<Item = Component> {
        self.executables.iter().map(|(component, _)| *component)
    }

    /// What runs instead.
    pub(crate) fn executables(&self) -> impl Iterator<Item = (Component, &Path)> {
        self.executables.iter().map(|(component, path)| (*component, path.as_path()))
    }

    /// Upstream's kubectl.
    pub(crate) fn kubectl(&self) -> &Path {
        &self.kubectl
    }
}

/// Where a server keeps what the components need.
pub(crate) struct Site<'a> {
    /// The server's data directory.
    pub(crate) data_dir: &'a Path,
    /// Where logs go.
    pub(crate) directory: &'a Path,
    /// Upstream's kubectl.
    pub(crate) kubectl: &'a Path,
    /// Makes a command that runs in the cluster's network namespace.
    pub(crate) enter: &'a dyn Fn(&Path) -> Command,
}

/// A running component.
pub(crate) struct Running {
    component: Component,
    child: Child,
    log: PathBuf,
}

impl Running {
    /// Starts a component.
    pub(crate) fn start(component: Component, executable: &Path, site: &Site<'_>) -> anyhow::Result<Self> {
        let log = site.directory.join(format!("upstream-{}.log", component.executable()));
        let file = std::fs::File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let mut command = (site.enter)(executable);
        // The reflectors say at 4 why one fell back from WatchList to List, which they bear in silence.
        command.args(["--v=2", "--vmodule=reflector=4"]);
        command.arg(format!("--kubeconfig={}", site.kubeconfig(component).display()));
        match component {
            Component::ControllerManager => site.controller_manager_flags(&mut command),
            Component::Scheduler => site.serving_flags(&mut command, component),
            Component::Kubelet => site.kubelet_flags(&mut command)?,
        }
        for proxy in ["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"] {
            command.env_remove(proxy);
        }
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = command.spawn().with_context(|| format!("cannot start {}", component.executable()))?;
        Ok(Self { component, child, log })
    }

    /// Waits until the component's server answers, and reads its metrics as the administrator: it asks our API server who that is
    /// (TokenReview, or the CA in extension-apiserver-authentication) and whether that is allowed (SubjectAccessReview).
    pub(crate) fn wait_healthy(&mut self, site: &Site<'_>) -> anyhow::Result<()> {
        let Some(port) = self.component.secure_port() else { return Ok(()) };
        let deadline = Instant::now() + HEALTHY_MAX;
        for path in ["/healthz", "/metrics"] {
            let mut command = (site.enter)(site.kubectl);
            command.arg("--kubeconfig").arg(site.data_dir.join("admin.kubeconfig"));
            command.arg(format!("--server=https://127.0.0.1:{port}")).args(["get", "--raw", path]);
            loop {
                let answer = command.output().context("cannot start kubectl")?;
                if answer.status.success() {
                    break;
                }
                self.check()?;
                let error = String::from_utf8_lossy(&answer.stderr).trim().to_owned();
                ensure!(Instant::now() < deadline, "{}{path}: {error}; see {}", self.component.executable(), self.log.display());
                std::thread::park_timeout(Duration::from_millis(200));
            }
        }
        Ok(())
    }

    /// That it still runs: both end themselves when they lose their Lease.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("upstream's {} ended with {status}: see {}", self.component.executable(), self.log.display());
        }
        Ok(())
    }

    /// Ends it and tells what it warned of.
    pub(crate) fn stop(mut self) -> anyhow::Result<()> {
        if self.child.try_wait()?.is_none() {
            process::end(&mut self.child, STOP_MAX)?;
        }
        let text = std::fs::read(&self.log).with_context(|| format!("cannot read {}", self.log.display()))?;
        let told = complaints(&String::from_utf8_lossy(&text));
        eprintln!(
            "upstream's {}: {} kinds of warnings and errors in {}",
            self.component.executable(),
            told.len(),
            self.log.display()
        );
        for complaint in told.iter().take(TOLD_MAX) {
            eprintln!("  {:5} times {} {}", complaint.count, complaint.place, complaint.example);
        }
        Ok(())
    }
}

impl Site<'_> {
    fn kubeconfig(&self, component: Component) -> PathBuf {
        self.data_dir.join(format!("{}.kubeconfig", component.ours()))
    }

    fn pki(&self, file: &str) -> PathBuf {
        self.data_dir.join("pki").join(file)
    }

    /// A server on loopback that asks our API server whom to trust. The certificate is the API server's, so that kubectl trusts it.
    fn serving_flags(&self, command: &mut Command, component: Component) {
        let kubeconfig = self.kubeconfig(component);
        command.arg("--bind-address=127.0.0.1");
        command.arg(flag("authentication-kubeconfig", &kubeconfig)).arg(flag("authorization-kubeconfig", &kubeconfig));
        command.arg(flag("tls-cert-file", &self.pki("apiserver.crt")));
        command.arg(flag("tls-private-key-file", &self.pki("apiserver.key")));
    }

    fn controller_manager_flags(&self, command: &mut Command) {
        self.serving_flags(command, Component::ControllerManager);
        command.arg("--use-service-account-credentials=true");
        command.arg(flag("root-ca-file", &self.pki("ca.crt")));
        command.arg(flag("service-account-private-key-file", &self.pki("sa.key")));
        command.arg(flag("cluster-signing-cert-file", &self.pki("ca.crt")));
        command.arg(flag("cluster-signing-key-file", &self.pki("ca.key")));
    }

    fn kubelet_flags(&self, command: &mut Command) -> anyhow::Result<()> {
        let root = self.data_dir.join("upstream-kubelet");
        std::fs::create_dir_all(&root).with_context(|| format!("cannot create {}", root.display()))?;
        let config = root.join("config.yaml");
        std::fs::write(&config, self.kubelet_configuration(&root)?.to_string())
            .with_context(|| format!("cannot write {}", config.display()))?;
        command.arg(flag("config", &config)).arg(flag("root-dir", &root.join("root")));
        command.arg(format!("--hostname-override={NODE_NAME}")).arg(format!("--node-ip={NODE_ADDRESS}"));
        Ok(())
    }

    fn kubelet_configuration(&self, root: &Path) -> anyhow::Result<serde_json::Value> {
        Ok(json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
            "containerRuntimeEndpoint": format!("unix://{}", self.data_dir.join("cri.sock").display()),
            "authentication": {"x509": {"clientCAFile": self.pki("ca.crt")}, "webhook": {"enabled": true}},
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": self.pki("kubelet.crt"), "tlsPrivateKeyFile": self.pki("kubelet.key"),
            "podLogsDir": root.join("logs"), "clusterDNS": [self.cluster_dns()?], "clusterDomain": "cluster.local",
            "cgroupDriver": "cgroupfs",
            // Machines with cgroup v1.
            "failCgroupV1": false, "failSwapOn": false,
            // Root without CAP_SYS_RESOURCE may not lower it.
            "oomScoreAdj": 0,
            // The disk of a machine for builds may be nearly full, and what fills it is not the cluster's (kind does the same).
            "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%", "nodefs.inodesFree": "1%"},
            "imageGCHighThresholdPercent": 100,
        }))
    }

    /// The tenth address of the network of Services, whose first one is that of the API server.
    fn cluster_dns(&self) -> anyhow::Result<String> {
        let mut command = (self.enter)(self.kubectl);
        command.arg("--kubeconfig").arg(self.data_dir.join("admin.kubeconfig"));
        command.args(["get", "service", "kubernetes", "-o", "jsonpath={.spec.clusterIP}"]);
        let first = process::output(&mut command)?;
        let network = first.strip_suffix(".1").with_context(|| format!("{first} is not the first address of a network"))?;
        Ok(format!("{network}.10"))
    }
}

fn flag(name: &str, path: &Path) -> String {
    format!("--{name}={}", path.display())
}

/// Lines of a log that come from one place in upstream's source and say the same but for names, at level W or E, or that say that a
/// reflector gave up WatchList.
#[derive(Debug, PartialEq, Eq)]
struct Complaint {
    /// Level and source, for example `E reflector.go:205`.
    place: String,
    count: usize,
    /// The first of them.
    example: String,
}

/// Reads klog's text format: `E1130 06:52:46.123456   12345 reflector.go:205] message`. Most frequent first.
fn complaints(log: &str) -> Vec<Complaint> {
    let mut found: BTreeMap<String, Complaint> = BTreeMap::new();
    for line in log.lines() {
        let Some((head, message)) = line.split_once("] ") else { continue };
        let Some(source) = head.rsplit(' ').next().filter(|source| source.contains(".go:")) else { continue };
        let level = &line[..1];
        if !matches!(level, "W" | "E" | "F") && !message.contains("Falling back to regular list") {
            continue;
        }
        let place = format!("{level} {source}");
        let kind = format!("{place} {}", without_names(message));
        let new = || Complaint { place, count: 0, example: message.chars().take(EXAMPLE_MAX).collect() };
        found.entry(kind).or_insert_with(new).count += 1;
    }
    let mut all: Vec<Complaint> = found.into_values().collect();
    all.sort_by_key(|complaint| std::cmp::Reverse(complaint.count));
    all
}

/// A message without what is quoted inside an error's text, which is names, and without what follows its error.
fn without_names(message: &str) -> String {
    let error = message.split("\" ").take(2).collect::<Vec<_>>().join(" ");
    error.split("\\\"").step_by(2).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_of_a_log() {
        let log = "\
I1130 06:52:46.123456   12345 server.go:1] \"Starting\"
E1130 06:52:46.123456   12345 a.go:2] \"no\" err=\"x \\\"p\\\"\" pod=\"p\"
W1130 06:52:46.123456   12345 b.go:3] Warning: old
E1130 06:52:47.123456   12345 a.go:2] \"no\" err=\"x \\\"q\\\"\" pod=\"q\"
E1130 06:52:48.123456   12345 a.go:2] \"no\" err=\"y\"
\tgoroutine 1 [running]
I1130 06:52:47.000000   12345 reflector.go:429] \"Data couldn't be fetched in watchlist mode. Falling back to regular list.\"
";
        let told: Vec<(String, usize, String)> =
            complaints(log).into_iter().map(|one| (one.place, one.count, one.example)).collect();
        let expected = [
            ("E a.go:2", 2, "\"no\" err=\"x \\\"p\\\"\" pod=\"p\""),
            ("E a.go:2", 1, "\"no\" err=\"y\""),
            ("I reflector.go:429", 1, "\"Data couldn't be fetched in watchlist mode. Falling back to regular list.\""),
            ("W b.go:3", 1, "Warning: old"),
        ];
        assert_eq!(told, expected.map(|(place, count, example)| (place.to_owned(), count, example.to_owned())));
    }
}
