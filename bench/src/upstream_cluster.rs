//! The peer of `bench cluster`: upstream's components at their defaults, with containerd and runc from Debian, on this machine.
//!
//! What is set beside addresses and directories is what a machine like this asks for (cgroup v1, no CAP_SYS_RESOURCE, a full disk): each
//! setting says so. Deliberately absent: CoreDNS, which ours has in its one process, and a supervisor.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use hyper::Method;
use serde_json::{Value, json};

use crate::api_server::{self, credentials, free_port};
use crate::cluster::IMAGE;
use crate::connection::Connection;
use crate::containerd::{Containerd, PAUSE, POD_NETWORK, unmount_below};
use crate::daemons::Daemons;
use crate::objects::json_call;
use crate::peers;
use crate::target::Target;

/// How long a start may take before the run fails.
const START_MAX: Duration = Duration::from_secs(120);
/// The node's name.
const NODE: &str = "bench-node";
/// Components, the users that they are, and their groups.
const USERS: [(&str, &str, &str); 4] = [
    ("kube-controller-manager", "system:kube-controller-manager", ""),
    ("kube-scheduler", "system:kube-scheduler", ""),
    ("kubelet", "system:node:bench-node", "system:nodes"),
    ("kube-proxy", "system:kube-proxy", ""),
];

/// Upstream's components and where they keep their data. Dropping it ends them and all containers.
pub(crate) struct Installation {
    // Order matters: daemons end before containerd's remains are removed, and these before the directory.
    daemons: Daemons,
    containerd: Containerd,
    directory: tempfile::TempDir,
    target: Target,
    port: u16,
    /// Our executable: the containers' image is made of it.
    executable: PathBuf,
    imported: bool,
}

impl Installation {
    /// An empty directory below `scratch`, with credentials and configuration.
    pub(crate) fn new(executable: &Path, scratch: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(scratch)?;
        let directory = tempfile::Builder::new().prefix("bench-").tempdir_in(scratch)?;
        let port = free_port()?;
        let target = credentials(directory.path(), port)?;
        let containerd = Containerd::new(directory.path())?;
        let daemons = Daemons::new(directory.path());
        let executable = executable.to_path_buf();
        let installation = Self { daemons, containerd, directory, target, port, executable, imported: false };
        for executable in installation.executables()? {
            ensure!(executable.exists(), "no {}", executable.display());
        }
        installation.write_configuration()?;
        Ok(installation)
    }

    /// The way in, as a member of system:masters.
    pub(crate) fn target(&self) -> Target {
        self.target.clone()
    }

    /// All that must be installed, for its size and its use.
    pub(crate) fn executables(&self) -> anyhow::Result<Vec<PathBuf>> {
        let mut executables = Vec::new();
        for name in ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy"] {
            executables.push(peers::find(name)?);
        }
        executables.extend(self.containerd.executables()?);
        Ok(executables)
    }

    /// What sandboxes are held by; it is part of the cluster's memory, as our shims are.
    pub(crate) fn sandbox_process() -> &'static Path {
        Path::new(PAUSE)
    }

    /// Starts everything and waits for the node to be Ready; returns how long that took. The import of images is not counted.
    pub(crate) async fn start(&mut self) -> anyhow::Result<Duration> {
        if !self.imported {
            self.containerd.start(&mut self.daemons)?;
            self.containerd.wait().await?;
            self.containerd.import_pause()?;
            self.containerd.import(IMAGE, &self.executable)?;
            self.daemons.stop()?;
            self.imported = true;
        }
        let started = Instant::now();
        self.containerd.start(&mut self.daemons)?;
        let store = self.start_etcd()?;
        let client = store.trim_start_matches("http://");
        wait("etcd", started, &mut self.daemons, async || tokio::net::TcpStream::connect(client).await.is_ok()).await?;
        self.start_api_server(&store)?;
        let target = self.target.clone();
        wait("kube-apiserver", started, &mut self.daemons, async || answers(&target, "/readyz").await.is_some()).await?;
        self.start_others()?;
        wait("the node", started, &mut self.daemons, async || {
            let node = answers(&target, &format!("/api/v1/nodes/{NODE}")).await;
            node.is_some_and(|node| is_ready(&node))
        })
        .await?;
        Ok(started.elapsed())
    }

    /// Ends all daemons; containers go on.
    pub(crate) fn stop(&mut self) -> anyhow::Result<()> {
        self.daemons.stop()
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    fn start_etcd(&mut self) -> anyhow::Result<String> {
        let (command, client) = api_server::etcd(&self.directory.path().join("etcd"))?;
        self.daemons.start("etcd", command)?;
        Ok(client)
    }

    fn start_api_server(&mut self, store: &str) -> anyhow::Result<()> {
        let mut command = Command::new(peers::find("kube-apiserver")?);
        command.arg(format!("--etcd-servers={store}")).args(api_server::flags(self.directory.path(), self.port));
        // The Service `kubernetes` cannot lead to a loopback address; nobody listens there.
        command.arg(format!("--advertise-address={}", address()?)).arg("--authorization-mode=Node");
        self.daemons.start("kube-apiserver", command)
    }

    fn start_others(&mut self) -> anyhow::Result<()> {
        let key = self.path("service-account.key");
        let mut manager = Command::new(peers::find("kube-controller-manager")?);
        manager
            .arg(format!("--kubeconfig={}", self.path("kube-controller-manager.kubeconfig")))
            .arg(format!("--service-account-private-key-file={key}"))
            .arg(format!("--root-ca-file={}", self.path("tls.crt")))
            .args(["--use-service-account-credentials=true", "--bind-address=127.0.0.1"])
            .arg(format!("--cert-dir={}", self.path("manager-certificates")))
            .arg(format!("--secure-port={}", free_port()?));
        self.daemons.start("kube-controller-manager", manager)?;
        let mut scheduler = Command::new(peers::find("kube-scheduler")?);
        scheduler
            .arg(format!("--kubeconfig={}", self.path("kube-scheduler.kubeconfig")))
            .arg("--bind-address=127.0.0.1")
            .arg(format!("--cert-dir={}", self.path("scheduler-certificates")))
            .arg(format!("--secure-port={}", free_port()?));
        self.daemons.start("kube-scheduler", scheduler)?;
        let mut kubelet = Command::new(peers::find("kubelet")?);
        kubelet
            .arg(format!("--config={}", self.path("kubelet.yaml")))
            .arg(format!("--kubeconfig={}", self.path("kubelet.kubeconfig")))
            .arg(format!("--root-dir={}", self.path("kubelet")))
            .arg(format!("--cert-dir={}", self.path("kubelet-certificates")))
            .arg(format!("--hostname-override={NODE}"))
            .arg(format!("--node-ip={}", address()?));
        self.daemons.start("kubelet", kubelet)?;
        let mut proxy = Command::new(peers::find("kube-proxy")?);
        proxy.arg(format!("--config={}", self.path("kube-proxy.yaml")));
        self.daemons.start("kube-proxy", proxy)
    }

    fn write_configuration(&self) -> anyhow::Result<()> {
        add_users(self.directory.path())?;
        let kubelet = json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
            "address": "127.0.0.1", "port": free_port()?, "healthzPort": free_port()?,
            "containerRuntimeEndpoint": format!("unix://{}", self.containerd.socket().display()),
            "podLogsDir": self.path("logs"), "clusterDNS": ["10.96.0.10"], "clusterDomain": "cluster.local",
            "cgroupDriver": "cgroupfs",
            // Machines with cgroup v1.
            "failCgroupV1": false, "failSwapOn": false,
            // Root without CAP_SYS_RESOURCE may not lower it.
            "oomScoreAdj": 0,
            // The disk of a machine for builds is full; ours asks for 5% free.
            "evictionHard": {"memory.available": "100Mi", "nodefs.available": "5%", "imagefs.available": "5%", "nodefs.inodesFree": "5%"},
            "imageGCHighThresholdPercent": 95, "imageGCLowThresholdPercent": 90,
        });
        std::fs::write(self.path("kubelet.yaml"), kubelet.to_string())?;
        let proxy = proxy_configuration(Path::new(&self.path("kube-proxy.kubeconfig")), NODE)?;
        std::fs::write(self.path("kube-proxy.yaml"), proxy.to_string())?;
        Ok(())
    }
}

impl Drop for Installation {
    fn drop(&mut self) {
        // Best effort: a benchmark that failed must still leave the machine as it was.
        let _ = self.daemons.stop();
        unmount_below(self.directory.path());
        for family in ["ip", "ip6"] {
            let _ = Command::new("nft").args(["delete", "table", family, "kube-proxy"]).stderr(Stdio::null()).status();
        }
    }
}

/// kube-proxy in nftables mode.
pub(crate) fn proxy_configuration(kubeconfig: &Path, node: &str) -> anyhow::Result<Value> {
    Ok(json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration",
        "mode": "nftables", "clientConnection": {"kubeconfig": kubeconfig}, "clusterCIDR": POD_NETWORK, "hostnameOverride": node,
        "healthzBindAddress": format!("127.0.0.1:{}", free_port()?), "metricsBindAddress": format!("127.0.0.1:{}", free_port()?),
        // Root without CAP_SYS_RESOURCE may not lower it, and the limits of the host's connection tracking are not ours to set.
        "oomScoreAdj": 0,
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    }))
}

/// Adds a token for each component, and writes a kubeconfig that has it.
fn add_users(directory: &Path) -> anyhow::Result<()> {
    let mut tokens = std::fs::read_to_string(directory.join("tokens.csv"))?;
    let kubeconfig = std::fs::read_to_string(directory.join("kubeconfig"))?;
    for (component, user, group) in USERS {
        let token = format!("bench-{component}");
        tokens.push_str(&match group {
            "" => format!("{token},{user},{component}\n"),
            group => format!("{token},{user},{component},\"{group}\"\n"),
        });
        let mine = kubeconfig.replace(api_server::TOKEN, &token);
        std::fs::write(directory.join(format!("{component}.kubeconfig")), mine)?;
    }
    std::fs::write(directory.join("tokens.csv"), tokens).context("cannot write the tokens")
}

/// The address of this machine by which its node is known: that of the default route.
fn address() -> anyhow::Result<std::net::IpAddr> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    // Sends nothing: the kernel chooses the address.
    socket.connect("192.0.2.1:9").context("the node needs a default route")?;
    Ok(socket.local_addr()?.ip())
}

async fn wait(what: &str, started: Instant, daemons: &mut Daemons, is_there: impl AsyncFn() -> bool) -> anyhow::Result<()> {
    while !is_there().await {
        daemons.check()?;
        if started.elapsed() > START_MAX {
            anyhow::bail!("{what} is not ready after {START_MAX:?}; the kubelet's log ends with:\n{}", daemons.tail("kubelet"));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

async fn answers(target: &Target, path: &str) -> Option<Value> {
    let body = Connection::open(target).await.ok()?.fetch(&json_call(Method::GET, path, None)).await.ok()?;
    Some(serde_json::from_slice(&body).unwrap_or(Value::Null))
}

fn is_ready(node: &Value) -> bool {
    let conditions = node["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}
