//! `cargo xtask bench`: how fast and how small, beside a peer on the same machine in the same run. Never part of the tests.
//!
//! Invariant: the same load generator, flags and order of requests for ours and for the peer, each from an empty store.

mod api;
mod api_server;
mod archive;
mod cgroups;
mod cluster;
mod component;
mod connection;
mod containerd;
mod controllers;
mod daemons;
mod differential;
mod dns_bench;
mod flame;
mod growth;
mod load;
mod machine;
mod objects;
mod oci_bundle;
mod page;
mod peers;
mod processes;
mod profile;
mod proxy_bench;
mod report;
mod runtime;
mod scheduler;
mod scheduling;
mod server;
mod target;
mod upstream_cluster;
mod watchers;
mod workload;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::Context;
use clap::{Parser, Subcommand};

use crate::machine::Machine;
use crate::report::Run;

#[derive(Parser)]
#[command(name = "cargo xtask bench", about = "Benchmarks; results go to bench/results/ and docs/performance.md")]
struct Arguments {
    #[command(subcommand)]
    benchmark: Benchmark,
    /// The executable that is measured.
    #[arg(long, global = true, default_value = "target/x86_64-unknown-linux-gnu/release/rusternetes")]
    executable: PathBuf,
    /// The commit that the executable was built from, when that is not what is checked out.
    #[arg(long, global = true)]
    executable_commit: Option<String>,
    /// Where data directories are made; it should be on a disk.
    #[arg(long, global = true, default_value = cluster::default_scratch().as_os_str())]
    scratch: PathBuf,
    /// Only print: leave bench/results/ and docs/performance.md as they are.
    #[arg(long, global = true)]
    dry_run: bool,
    /// Stands with the results: what a reader must know of this run.
    #[arg(long, global = true)]
    note: Option<String>,
}

#[derive(Subcommand)]
enum Benchmark {
    /// The API server alone, over HTTPS.
    Api {
        /// Run a peer in turns with ours.
        #[arg(long)]
        peer: Option<Peer>,
        /// How often each server runs the workload.
        #[arg(long, default_value_t = 1)]
        rounds: usize,
        /// The workload.
        #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/workloads/api.yaml"))]
        workload: PathBuf,
        /// Write a flame graph of our server for each phase into this directory (needs Linux's `perf`).
        #[arg(long)]
        profile: Option<PathBuf>,
    },
    /// Make docs/performance.md anew from bench/results/.
    Page,
    /// A whole one-node cluster: start, first pod, idle memory, CPU and disk, memory a pod (needs root).
    Cluster {
        /// Run a peer in turns with ours: upstream's components, with containerd and runc of Debian.
        #[arg(long)]
        peer: Option<ClusterPeer>,
        /// How often starts are repeated.
        #[arg(long, default_value_t = 3)]
        rounds: usize,
        /// The workload.
        #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/workloads/cluster.yaml"))]
        workload: PathBuf,
    },
    /// The scheduler alone, against our API server.
    Scheduler {
        /// Run a peer in turns with ours.
        #[arg(long)]
        peer: Option<SchedulerPeer>,
        /// How often each scheduler runs each workload.
        #[arg(long, default_value_t = 1)]
        rounds: usize,
        /// Sizes of the cluster.
        #[arg(long, value_delimiter = ',', default_value = "1000,5000")]
        nodes: Vec<usize>,
        /// Only the workloads whose name contains this.
        #[arg(long)]
        only: Option<String>,
        /// The schedulers' `--feature-gates`.
        #[arg(long)]
        feature_gates: Option<String>,
        /// The workloads.
        #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/workloads/scheduler.yaml"))]
        workloads: PathBuf,
    },
    /// The controllers alone, on nodes without containers, against our API server with our scheduler.
    Controllers {
        /// Run a peer in turns with ours.
        #[arg(long)]
        peer: Option<ControllersPeer>,
        /// How often.
        #[arg(long, default_value_t = 1)]
        rounds: usize,
        /// The workload.
        #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/workloads/controllers.yaml"))]
        workload: PathBuf,
    },
    /// What one pod's change costs in a small cluster and in a large one.
    Growth {
        /// Sizes of the cluster, in pods, the small one first; the workload's unless given.
        #[arg(long, value_delimiter = ',')]
        pods: Vec<usize>,
        /// The workload.
        #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/workloads/growth.yaml"))]
        workload: PathBuf,
    },
    /// Containers: create, start, kill, delete (needs root).
    Runtime {
        /// Run a peer in turns with ours.
        #[arg(long)]
        peer: Option<runtime::Peer>,
        /// How often.
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        /// The workload.
        #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/workloads/runtime.yaml"))]
        workload: PathBuf,
    },
    /// Cluster DNS, on the Services of our API server.
    Dns {
        /// Run a peer in turns with ours.
        #[arg(long)]
        peer: Option<DnsPeer>,
        /// How often.
        #[arg(long, default_value_t = 3)]
        rounds: usize,
        /// The workload.
        #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/workloads/dns.yaml"))]
        workload: PathBuf,
    },
    /// The service proxy: Services into nftables (needs root).
    Proxy {
        /// Run a peer in turns with ours.
        #[arg(long)]
        peer: Option<ProxyPeer>,
        /// How often.
        #[arg(long, default_value_t = 3)]
        rounds: usize,
        /// The workload.
        #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/workloads/proxy.yaml"))]
        workload: PathBuf,
    },
    /// Run a component of ours alone; the other benchmarks start it.
    #[command(hide = true)]
    Component {
        #[command(subcommand)]
        component: component::Component,
    },
    /// Send the same random requests to kube-apiserver and to ours, and print what they answer differently.
    Differential(differential::Options),
    /// Run a workload against any server, and print what it came to.
    Load {
        /// The server and how to be let in; certificates must be embedded.
        #[arg(long)]
        kubeconfig: PathBuf,
        /// The workload.
        #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/workloads/api.yaml"))]
        workload: PathBuf,
    },
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Peer {
    /// kube-apiserver v1.35.4 with etcd v3.6.
    Upstream,
    /// kube-apiserver v1.35.4 with kine v0.17 on SQLite.
    Kine,
}

impl Peer {
    fn kind(self) -> api_server::Kind {
        match self {
            Peer::Upstream => api_server::Kind::Upstream,
            Peer::Kine => api_server::Kind::Kine,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Peer::Upstream => "kube-apiserver v1.35.4 with etcd v3.6",
            Peer::Kine => "kube-apiserver v1.35.4 with kine v0.17 on SQLite",
        }
    }
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum ClusterPeer {
    /// kube-apiserver, etcd, kube-controller-manager, kube-scheduler, kubelet and kube-proxy v1.35.4; containerd and runc of Debian.
    Upstream,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum DnsPeer {
    /// CoreDNS v1.13 as kubeadm sets it up.
    Coredns,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum ProxyPeer {
    /// kube-proxy v1.35.4 in nftables mode.
    Upstream,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum ControllersPeer {
    /// kube-controller-manager v1.35.4 without a limit on its requests.
    Upstream,
    /// The same as it is started without flags: 20 requests a second.
    UpstreamDefaults,
}

impl ControllersPeer {
    fn limits(self) -> controllers::Limits {
        match self {
            ControllersPeer::Upstream => controllers::Limits::None,
            ControllersPeer::UpstreamDefaults => controllers::Limits::Defaults,
        }
    }

    fn name(self) -> &'static str {
        match self {
            ControllersPeer::Upstream => "kube-controller-manager v1.35.4 without a limit on requests",
            ControllersPeer::UpstreamDefaults => "kube-controller-manager v1.35.4 at its defaults",
        }
    }
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum SchedulerPeer {
    /// kube-scheduler v1.35.4.
    Upstream,
}

fn main() -> ExitCode {
    // With this tool as `--executable`, the runtime's own processes are made of it.
    container_runtime::reexec::dispatch();
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<()> {
    // Installed once, before any TLS: it cannot have been installed by anybody else.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    if let Benchmark::Proxy { .. } = arguments.benchmark {
        // Before there are threads.
        proxy_bench::enter_namespace()?;
    }
    let runtime = tokio::runtime::Runtime::new()?;
    let started = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let machine = Machine::look();
    let (benchmark, peer, results) = match arguments.benchmark {
        Benchmark::Differential(options) => {
            return runtime.block_on(differential::run(&options, &arguments.executable, &arguments.scratch));
        }
        Benchmark::Load { kubeconfig, workload } => {
            let (target, workload) = (target::Target::from_kubeconfig(&kubeconfig)?, workload::load(&workload)?);
            eprintln!("{}", workload.title);
            let outcomes = runtime.block_on(load::run(&target, &workload))?;
            println!("{}", serde_json::to_string_pretty(&outcomes)?);
            return Ok(());
        }
        Benchmark::Component { component } => {
            return runtime.block_on(component::run(component, &arguments.executable));
        }
        Benchmark::Page => {
            println!("{}", report::renew_page(&root())?.display());
            return Ok(());
        }
        measured => {
            let executable = std::fs::canonicalize(&arguments.executable)
                .with_context(|| format!("no executable {}", arguments.executable.display()))?;
            std::fs::create_dir_all(&arguments.scratch)?;
            runtime.block_on(measure(measured, executable, arguments.scratch))?
        }
    };
    let load_at_end = Machine::look().load;
    let api::Results { figures, phases } = results;
    let run = Run {
        benchmark,
        started,
        commit: arguments.executable_commit.unwrap_or_else(commit),
        peer,
        machine,
        note: arguments.note,
        load_at_end,
        figures,
        phases,
    };
    if arguments.dry_run {
        println!("{}", serde_json::to_string_pretty(&run)?);
        return Ok(());
    }
    report::write(&root(), &run)
}

/// Runs a benchmark; returns its name, the peer's, and what it came to.
async fn measure(
    benchmark: Benchmark,
    executable: PathBuf,
    scratch: PathBuf,
) -> anyhow::Result<(String, Option<String>, api::Results)> {
    let alone = |figures| api::Results { figures, phases: Vec::new() };
    Ok(match benchmark {
        Benchmark::Api { peer, rounds, workload, profile } => {
            // Each workload has a table of its own.
            let name = match workload.file_stem().and_then(|stem| stem.to_str()) {
                Some("api") | None => "api".to_owned(),
                Some(stem) => format!("api, {stem}"),
            };
            let workload = workload::load(&workload)?;
            let plan = api::Plan { executable, scratch, workload, rounds, peer: peer.map(Peer::kind), profile };
            (name, peer.map(|peer| peer.name().to_owned()), api::run(&plan).await?)
        }
        Benchmark::Scheduler { peer, rounds, nodes, only, feature_gates, workloads } => {
            let workloads = scheduling::Scheduling::load(&workloads)?;
            let upstream = peer.is_some();
            let plan = scheduler::Plan { executable, scratch, workloads, only, nodes, rounds, upstream, feature_gates };
            let peer = peer.map(|_| "kube-scheduler v1.35.4".to_owned());
            ("scheduler".to_owned(), peer, alone(scheduler::run(&plan).await?))
        }
        Benchmark::Controllers { peer, rounds, workload } => {
            let workload = controllers::ControllersWorkload::load(&workload)?;
            let plan = controllers::Plan { executable, scratch, workload, rounds, upstream: peer.map(ControllersPeer::limits) };
            ("controllers".to_owned(), peer.map(|peer| peer.name().to_owned()), alone(controllers::run(&plan).await?))
        }
        Benchmark::Growth { pods, workload } => {
            let workload = growth::GrowthWorkload::load(&workload, pods)?;
            let plan = growth::Plan { executable, scratch, workload };
            ("growth".to_owned(), None, alone(growth::run(&plan).await?))
        }
        Benchmark::Cluster { peer, rounds, workload } => {
            let workload = cluster::ClusterWorkload::load(&workload)?;
            let plan = cluster::Plan { executable, scratch, rounds, workload, upstream: peer.is_some() };
            let peer = peer.map(|_| "upstream v1.35.4 with etcd, containerd and runc".to_owned());
            ("cluster".to_owned(), peer, alone(cluster::run(&plan).await?))
        }
        Benchmark::Runtime { peer, rounds, workload } => {
            let workload = runtime::RuntimeWorkload::load(&workload)?;
            let plan = runtime::Plan { executable, scratch, workload, rounds, peer };
            ("runtime".to_owned(), peer.map(|peer| peer.name().to_owned()), alone(runtime::run(&plan).await?))
        }
        Benchmark::Dns { peer, rounds, workload } => {
            let workload = dns_bench::DnsWorkload::load(&workload)?;
            let plan = dns_bench::Plan { executable, scratch, workload, rounds, coredns: peer.is_some() };
            ("dns".to_owned(), peer.map(|_| "CoreDNS v1.13".to_owned()), alone(dns_bench::run(&plan).await?))
        }
        Benchmark::Proxy { peer, rounds, workload } => {
            let workload = proxy_bench::ProxyWorkload::load(&workload)?;
            let plan = proxy_bench::Plan { executable, scratch, workload, rounds, upstream: peer.is_some() };
            (
                "proxy".to_owned(),
                peer.map(|_| "kube-proxy v1.35.4 in nftables mode".to_owned()),
                alone(proxy_bench::run(&plan).await?),
            )
        }
        Benchmark::Load { .. } | Benchmark::Page | Benchmark::Component { .. } | Benchmark::Differential(_) => {
            unreachable!("these have no figures")
        }
    })
}

/// The root of the workspace.
fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_path_buf()
}

/// The commit that is checked out; `unknown` outside a git repository.
fn commit() -> String {
    let output = Command::new("git").current_dir(root()).args(["describe", "--always", "--dirty", "--exclude=*"]).output();
    output
        .ok()
        .filter(|output| output.status.success())
        .map_or_else(|| "unknown".to_owned(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
