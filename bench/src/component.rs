//! `bench component`: a component of ours that has no command of its own, as a process of its own, until SIGTERM.
//!
//! These are the crates that `rusternetes server` runs in its one process; alone they can be measured beside upstream's.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use client::Informers;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::runtime::Embedded;

/// Which component.
#[derive(clap::Subcommand)]
pub(crate) enum Component {
    /// Cluster DNS.
    Dns {
        /// The API server and how to be let in.
        #[arg(long)]
        kubeconfig: PathBuf,
        /// Where to listen.
        #[arg(long)]
        listen: SocketAddr,
    },
    /// The service proxy, in the current network namespace.
    Proxy {
        /// The API server and how to be let in.
        #[arg(long)]
        kubeconfig: PathBuf,
        /// The node's name.
        #[arg(long)]
        node: String,
    },
    /// The container runtime behind a CRI socket.
    Runtime {
        /// Where everything is kept.
        #[arg(long)]
        directory: PathBuf,
    },
}

/// The command that runs cluster DNS.
pub(crate) fn dns(kubeconfig: &Path, listen: SocketAddr) -> anyhow::Result<Command> {
    let mut command = this("dns")?;
    command.arg("--kubeconfig").arg(kubeconfig).arg(format!("--listen={listen}"));
    Ok(command)
}

/// The command that runs the service proxy.
pub(crate) fn proxy(kubeconfig: &Path, node: &str) -> anyhow::Result<Command> {
    let mut command = this("proxy")?;
    command.arg("--kubeconfig").arg(kubeconfig).arg(format!("--node={node}"));
    Ok(command)
}

/// The command that serves the container runtime on [`socket`].
pub(crate) fn runtime(directory: &Path, executable: &Path) -> anyhow::Result<Command> {
    let mut command = this("runtime")?;
    command.arg("--directory").arg(directory).arg("--executable").arg(executable);
    Ok(command)
}

/// Where the container runtime of a directory is served.
pub(crate) fn socket(directory: &Path) -> PathBuf {
    directory.join("cri.sock")
}

fn this(component: &str) -> anyhow::Result<Command> {
    let mut command = Command::new(std::env::current_exe().context("the bench tool does not find itself")?);
    command.args(["component", component]);
    Ok(command)
}

/// Runs a component until SIGTERM.
pub(crate) async fn run(component: Component, executable: &Path) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for signals")?;
    let token = CancellationToken::new();
    let stop = token.clone();
    let ended = async move {
        terminate.recv().await;
        stop.cancel();
    };
    match component {
        Component::Dns { kubeconfig, listen } => {
            let client = client::from_kubeconfig(&kubeconfig).await?;
            let config = dns::Config {
                addresses: vec![listen],
                cluster_domain: "cluster.local".to_owned(),
                service_ips: Vec::new(),
                resolv_conf: PathBuf::from("/etc/resolv.conf"),
            };
            let server = dns::run(config, Informers::new(client, token.clone()), token);
            tokio::select! { () = ended => Ok(()), result = server => Ok(result?) }
        }
        Component::Proxy { kubeconfig, node } => {
            let client = client::from_kubeconfig(&kubeconfig).await?;
            let config = kube_proxy::Config {
                node_name: node,
                table: "bench-proxy".to_owned(),
                // What upstream's is told.
                cluster_cidrs: vec![([10, 88, 0, 0].into(), 16)],
                masquerade_all: false,
                masquerade_bit: 14,
                node_port_addresses: Vec::new(),
                healthz_bind_address: None,
                announce: None,
            };
            let proxy = kube_proxy::run(config, Informers::new(client, token.clone()), token);
            tokio::select! { () = ended => Ok(()), result = proxy => Ok(result?) }
        }
        Component::Runtime { directory } => {
            let ours = Embedded::open(&directory, executable).await?;
            let served = cri::serve(socket(&directory), ours.runtime.clone(), ours.runtime.clone(), ended).await;
            ours.close().await;
            Ok(served?)
        }
    }
}
