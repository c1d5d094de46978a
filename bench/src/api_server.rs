//! An API server alone, ours or upstream's with etcd, started with the same flags, each in a directory of its own.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::Method;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::connection::Connection;
use crate::objects::json_call;
use crate::peers;
use crate::target::Target;

/// How long a start may take before the run fails.
const START_MAX: Duration = Duration::from_secs(90);
/// The administrator's token; the server listens on loopback, in a directory that is removed.
pub(crate) const TOKEN: &str = "bench-administrator";

/// Which server.
#[derive(Debug, Clone)]
pub(crate) enum Kind {
    /// `rusternetes api-server` of this executable, with the embedded store.
    Ours(PathBuf),
    /// kube-apiserver with etcd.
    Upstream,
    /// kube-apiserver with kine on SQLite.
    Kine,
}

/// A started API server. Dropping it kills it.
pub(crate) struct ApiServer {
    /// The store if it is a process of its own, and the API server last.
    children: Vec<Child>,
    kind: Kind,
    port: u16,
    /// The address of the store's process.
    store: Option<String>,
    directory: tempfile::TempDir,
    /// The way in, as a member of system:masters.
    pub(crate) target: Target,
    /// From exec of the API server (etcd is up by then) to `/readyz`.
    pub(crate) ready_after: Duration,
}

impl ApiServer {
    /// Starts it on an empty store below `scratch` and waits until it is ready.
    pub(crate) async fn start(kind: &Kind, scratch: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(scratch)?;
        let directory = tempfile::Builder::new().prefix("bench-api-").tempdir_in(scratch)?;
        let port = free_port()?;
        let target = credentials(directory.path(), port)?;
        let (kind, store) = (kind.clone(), None);
        let mut server = Self { children: Vec::new(), kind, port, store, directory, target, ready_after: Duration::ZERO };
        server.store = match server.kind {
            Kind::Ours(_) => None,
            Kind::Upstream => Some(server.start_etcd().await?),
            Kind::Kine => Some(server.start_kine().await?),
        };
        server.start_api_server().await?;
        Ok(server)
    }

    async fn start_api_server(&mut self) -> anyhow::Result<()> {
        let mut command = match (&self.kind, &self.store) {
            (Kind::Ours(executable), _) => {
                let mut command = Command::new(executable);
                command.arg("api-server").arg(format!("--data-dir={}", self.path("data").display()));
                command
            }
            (_, store) => {
                let mut command = Command::new(peers::find("kube-apiserver")?);
                command.args(store.iter().map(|address| format!("--etcd-servers={address}")));
                command
            }
        };
        for flag in flags(self.directory.path(), self.port) {
            command.arg(flag);
        }
        let started = Instant::now();
        self.spawn(command, "api-server")?;
        self.wait_until_ready(started).await
    }

    /// Ends the API server with SIGTERM and starts it again on what it has stored; `ready_after` is of this start then.
    pub(crate) async fn restart(&mut self) -> anyhow::Result<()> {
        let mut child = self.children.pop().context("the API server was started")?;
        kill(Pid::from_raw(i32::try_from(child.id())?), Signal::SIGTERM)?;
        child.wait()?;
        self.start_api_server().await
    }

    /// Its processes.
    pub(crate) fn pids(&self) -> Vec<u32> {
        self.children.iter().map(Child::id).collect()
    }

    /// The way in as a file.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.path("kubeconfig")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn spawn(&mut self, mut command: Command, name: &str) -> anyhow::Result<()> {
        let log = std::fs::File::create(self.path(&format!("{name}.log")))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.children.push(command.spawn().with_context(|| format!("cannot start {name}"))?);
        Ok(())
    }

    async fn start_etcd(&mut self) -> anyhow::Result<String> {
        let (command, client) = etcd(&self.path("etcd"))?;
        self.spawn(command, "etcd")?;
        listens(&client).await?;
        Ok(client)
    }

    async fn start_kine(&mut self) -> anyhow::Result<String> {
        let address = format!("127.0.0.1:{}", free_port()?);
        // kine's own defaults for its file, in a place of ours.
        let options = "_journal=WAL&cache=shared&_busy_timeout=30000&_txlock=immediate";
        let mut command = Command::new(peers::find("kine")?);
        command
            .arg(format!("--endpoint=sqlite://{}?{options}", self.path("kine.db").display()))
            .arg(format!("--listen-address=tcp://{address}"))
            .arg("--metrics-bind-address=0");
        self.spawn(command, "kine")?;
        let client = format!("http://{address}");
        listens(&client).await?;
        Ok(client)
    }

    async fn wait_until_ready(&mut self, started: Instant) -> anyhow::Result<()> {
        let readyz = json_call(Method::GET, "/readyz", None);
        loop {
            if let Ok(mut connection) = Connection::open(&self.target).await
                && connection.fetch(&readyz).await.is_ok()
            {
                self.ready_after = started.elapsed();
                return Ok(());
            }
            let ended = self.children.iter_mut().any(|child| child.try_wait().is_ok_and(|status| status.is_some()));
            if ended || started.elapsed() > START_MAX {
                let log = std::fs::read_to_string(self.path("api-server.log")).unwrap_or_default();
                let tail: Vec<&str> = log.lines().rev().take(20).collect();
                bail!("the API server is not ready: {}", tail.into_iter().rev().collect::<Vec<_>>().join("\n"));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        for child in &mut self.children {
            // It may have ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Waits until a store takes connections.
async fn listens(url: &str) -> anyhow::Result<()> {
    let address = url.trim_start_matches("http://");
    let started = Instant::now();
    while tokio::net::TcpStream::connect(address).await.is_err() {
        ensure!(started.elapsed() < START_MAX, "the store at {address} does not start");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// The flags that both servers take.
pub(crate) fn flags(directory: &Path, port: u16) -> Vec<String> {
    let file = |name: &str| directory.join(name).display().to_string();
    vec![
        "--bind-address=127.0.0.1".to_owned(),
        "--advertise-address=127.0.0.1".to_owned(),
        format!("--secure-port={port}"),
        format!("--cert-dir={}", file("certificates")),
        format!("--tls-cert-file={}", file("tls.crt")),
        format!("--tls-private-key-file={}", file("tls.key")),
        format!("--token-auth-file={}", file("tokens.csv")),
        format!("--service-account-key-file={}", file("service-account.key")),
        format!("--service-account-signing-key-file={}", file("service-account.key")),
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
        "--authorization-mode=RBAC".to_owned(),
    ]
}

/// Writes certificate, keys and token, and a kubeconfig that fits.
pub(crate) fn credentials(directory: &Path, port: u16) -> anyhow::Result<Target> {
    let serving = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned(), "localhost".to_owned()])?;
    let tokens = rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048)?;
    std::fs::write(directory.join("tls.crt"), serving.cert.pem())?;
    std::fs::write(directory.join("tls.key"), serving.signing_key.serialize_pem())?;
    std::fs::write(directory.join("service-account.key"), tokens.serialize_pem())?;
    std::fs::write(directory.join("tokens.csv"), format!("{TOKEN},bench,bench,\"system:masters\"\n"))?;
    let kubeconfig = format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: bench\n  cluster:\n    server: https://127.0.0.1:{port}\n    certificate-authority-data: {}\nusers:\n- name: bench\n  user:\n    token: {TOKEN}\ncontexts:\n- name: bench\n  context: {{cluster: bench, user: bench}}\ncurrent-context: bench\n",
        STANDARD.encode(serving.cert.pem())
    );
    let path = directory.join("kubeconfig");
    std::fs::write(&path, kubeconfig)?;
    Target::from_kubeconfig(&path)
}

/// etcd on a data directory and free ports, to be started; and where clients reach it.
pub(crate) fn etcd(data: &Path) -> anyhow::Result<(Command, String)> {
    let (client, peer) = (format!("http://127.0.0.1:{}", free_port()?), format!("http://127.0.0.1:{}", free_port()?));
    let mut command = Command::new(peers::find("etcd")?);
    command
        .arg(format!("--data-dir={}", data.display()))
        .arg(format!("--listen-client-urls={client}"))
        .arg(format!("--advertise-client-urls={client}"))
        .arg(format!("--listen-peer-urls={peer}"))
        .arg(format!("--initial-advertise-peer-urls={peer}"))
        .arg(format!("--initial-cluster=default={peer}"))
        .arg("--log-level=warn");
    Ok((command, client))
}
