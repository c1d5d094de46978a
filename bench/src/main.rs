//! `cargo xtask bench`: how fast and how small, beside a peer on the same machine in the same run. Never part of the tests.
//!
//! Invariant: the same load generator, flags and order of requests for ours and for the peer, each from an empty store.

mod api;
mod api_server;
mod cluster;
mod connection;
mod differential;
mod flame;
mod load;
mod machine;
mod objects;
mod page;
mod peers;
mod processes;
mod profile;
mod report;
mod scheduler;
mod scheduling;
mod server;
mod target;
mod watchers;
mod workload;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::Context;
use clap::{Parser, Subcommand};

use crate::machine::Machine;
use crate::report::{Figure, Run};

#[derive(Parser)]
#[command(name = "cargo xtask bench", about = "Benchmarks; results go to bench/results/ and docs/performance.md")]
struct Arguments {
    #[command(subcommand)]
    benchmark: Benchmark,
    /// The executable that is measured.
    #[arg(long, global = true, default_value = "target/x86_64-unknown-linux-gnu/release/rusternetes")]
    executable: PathBuf,
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
        /// How often starts are repeated.
        #[arg(long, default_value_t = 3)]
        rounds: usize,
        /// Seconds to settle, and then to watch, when idle.
        #[arg(long, default_value_t = 60)]
        idle: u64,
        /// Pods for the figure of memory a pod.
        #[arg(long, default_value_t = 100)]
        pods: usize,
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
        /// The workloads.
        #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/scheduling/workloads.yaml"))]
        workloads: PathBuf,
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
enum SchedulerPeer {
    /// kube-scheduler v1.35.4.
    Upstream,
}

fn main() -> ExitCode {
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
        benchmark: benchmark.to_owned(),
        started,
        commit: commit(),
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
) -> anyhow::Result<(&'static str, Option<String>, api::Results)> {
    let alone = |figures| api::Results { figures, phases: Vec::new() };
    Ok(match benchmark {
        Benchmark::Api { peer, rounds, workload, profile } => {
            let workload = workload::load(&workload)?;
            let plan = api::Plan { executable, scratch, workload, rounds, peer: peer.map(Peer::kind), profile };
            ("api", peer.map(|peer| peer.name().to_owned()), api::run(&plan).await?)
        }
        Benchmark::Scheduler { peer, rounds, nodes, only, workloads } => {
            let workloads = scheduling::Scheduling::load(&workloads)?;
            let plan = scheduler::Plan { executable, scratch, workloads, only, nodes, rounds, upstream: peer.is_some() };
            let peer = peer.map(|_| "kube-scheduler v1.35.4".to_owned());
            ("scheduler", peer, alone(scheduler::run(&plan).await?))
        }
        Benchmark::Cluster { rounds, idle, pods } => {
            let plan = cluster::Plan { executable, scratch, rounds, idle: Duration::from_secs(idle), pods };
            let figure = |(name, ours): (String, Vec<f64>)| Figure {
                more_is_better: name.ends_with("a second"),
                name,
                ours,
                peer: Vec::new(),
            };
            ("cluster", None, alone(cluster::run(&plan).await?.into_iter().map(figure).collect()))
        }
        Benchmark::Load { .. } | Benchmark::Page | Benchmark::Differential(_) => unreachable!("these have no figures"),
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
