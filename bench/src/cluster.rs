//! `bench cluster`: what a user of one small machine feels. Start, restart, first pod, memory, CPU and disk when idle, writes, memory a pod,
//! size. The peer is upstream's components with containerd and runc.
//!
//! Invariant: both run the same pods of the same image, and memory counts all processes but the containers' own.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use hyper::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::connection::Connection;
use crate::load;
use crate::objects::json_call;
use crate::processes::{self, Usage};
use crate::report::{Better, Figure, Figures, Goals, Side};
use crate::server::Installation;
use crate::target::Target;
use crate::upstream_cluster;
use crate::workload;

/// How long pods may take before the run fails.
const PODS_MAX: Duration = Duration::from_secs(240);
/// The image of all pods: our executable, which needs no pull.
pub(crate) const IMAGE: &str = concat!("localhost/rusternetes:", env!("CARGO_PKG_VERSION"));

/// What to do, from the command line.
pub(crate) struct Plan {
    /// Our executable.
    pub(crate) executable: PathBuf,
    /// Where data directories are made.
    pub(crate) scratch: PathBuf,
    /// How often starts and first pods are repeated.
    pub(crate) rounds: usize,
    /// What is measured.
    pub(crate) workload: ClusterWorkload,
    /// Whether to run upstream's components, too.
    pub(crate) upstream: bool,
}

/// `bench/workloads/cluster.yaml`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ClusterWorkload {
    #[serde(rename = "title")]
    _title: String,
    /// How long the cluster settles, and then how long it is watched, when idle.
    idle_seconds: u64,
    /// Pods for the figure of memory a pod.
    pods: usize,
    /// Requests to the API server of the running cluster.
    requests: Vec<workload::Entry>,
    #[serde(default)]
    goals: Goals,
}

impl ClusterWorkload {
    /// Reads and checks a file.
    pub(crate) fn load(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let file: Self =
            serde_saphyr::from_str(&text).with_context(|| format!("{} is no workload of a cluster", path.display()))?;
        ensure!(file.pods > 0, "{}: `pods` must be at least 1", path.display());
        ensure!(file.idle_seconds > 0, "{}: `idle_seconds` must be at least 1", path.display());
        workload::expand(&file.requests)?;
        Ok(file)
    }
}

/// One of the two.
enum Cluster {
    Ours(Installation),
    Upstream(Box<upstream_cluster::Installation>),
}

impl Cluster {
    fn new(plan: &Plan, side: Side) -> anyhow::Result<Self> {
        Ok(match side {
            Side::Ours => Self::Ours(Installation::new(&plan.executable, &plan.scratch)?),
            Side::Peer => Self::Upstream(Box::new(upstream_cluster::Installation::new(&plan.executable, &plan.scratch)?)),
        })
    }

    fn target(&self) -> anyhow::Result<Target> {
        match self {
            Self::Ours(installation) => installation.target(),
            Self::Upstream(installation) => Ok(installation.target()),
        }
    }

    /// Starts it, and waits until its node is Ready; returns how long that took.
    async fn start(&mut self) -> anyhow::Result<Duration> {
        match self {
            Self::Ours(installation) => installation.start(),
            Self::Upstream(installation) => installation.start().await,
        }
    }

    /// Ends all daemons; containers go on.
    fn stop(&mut self) -> anyhow::Result<()> {
        match self {
            Self::Ours(installation) => installation.stop(),
            Self::Upstream(installation) => installation.stop(),
        }
    }

    fn executables(&self) -> anyhow::Result<Vec<PathBuf>> {
        match self {
            Self::Ours(installation) => Ok(vec![installation.executable().to_path_buf()]),
            Self::Upstream(installation) => installation.executables(),
        }
    }

    fn usage(&self) -> anyhow::Result<Usage> {
        let mut executables = self.executables()?;
        if let Self::Upstream(_) = self {
            executables.push(upstream_cluster::Installation::sandbox_process().to_path_buf());
        }
        processes::of_executables(&executables)
    }
}

/// Runs the whole benchmark.
pub(crate) async fn run(plan: &Plan) -> anyhow::Result<Vec<Figure>> {
    ensure!(nix::unistd::geteuid().is_root(), "this benchmark starts containers and must be run by root");
    let mut figures = Figures::new(&plan.workload.goals);
    for round in 1..=plan.rounds {
        for side in [Side::Ours, Side::Peer].into_iter().filter(|side| *side == Side::Ours || plan.upstream) {
            eprintln!("round {round} of {}, {}", plan.rounds, side.name());
            let mut cluster = Cluster::new(plan, side)?;
            if round == 1 {
                figures.add(side, "executables (MiB)", size(&cluster.executables()?)?, Better::Less);
            }
            starts(&mut cluster, side, &mut figures).await?;
            if round == plan.rounds {
                running(plan, &cluster, side, &mut figures).await?;
            }
            cluster.stop()?;
        }
    }
    Ok(figures.finish())
}

/// On an empty data directory: first start, pods, restart.
async fn starts(cluster: &mut Cluster, side: Side, figures: &mut Figures) -> anyhow::Result<()> {
    let mut add = |name: &str, duration: Duration| figures.add(side, name, milliseconds(duration), Better::Less);
    add("first start to node Ready (ms)", cluster.start().await?);
    let target = cluster.target()?;
    add("create the first deployment to its pod Running (ms)", deployment(&target, "first", 1).await?);
    for name in ["second", "third", "fourth"] {
        add("create a deployment to its pod Running (ms)", deployment(&target, name, 1).await?);
    }
    cluster.stop()?;
    add("restart to node Ready (ms)", cluster.start().await?);
    Ok(())
}

/// Idle, writes, and many pods.
async fn running(plan: &Plan, cluster: &Cluster, side: Side, figures: &mut Figures) -> anyhow::Result<()> {
    let idle = Duration::from_secs(plan.workload.idle_seconds);
    tokio::time::sleep(idle).await;
    let before = cluster.usage()?;
    tokio::time::sleep(idle).await;
    let after = cluster.usage()?;
    let seconds = idle.as_secs_f64();
    figures.add(side, "idle: memory, PSS of all processes (MiB)", mib(&after), Better::Less);
    figures.add(side, "idle: processes", after.processes as f64, Better::Less);
    figures.add(side, "idle: CPU (% of a core)", after.cpu_since(&before) / seconds * 100.0, Better::Less);
    let written = after.written_bytes.saturating_sub(before.written_bytes);
    figures.add(side, "idle: written (KB/s)", written as f64 / seconds / 1000.0, Better::Less);
    let target = cluster.target()?;
    many_pods(plan, cluster, &target, side, &after, figures).await?;
    load::prepare(&target).await?;
    for phase in workload::expand(&plan.workload.requests)? {
        let before = cluster.usage()?;
        let outcome = load::phase(&target, &phase).await?;
        let after = cluster.usage()?;
        let cpu = after.cpu_since(&before) * 1e6 / outcome.count as f64;
        figures.add(side, &format!("{} (a second)", phase.name), outcome.rate, Better::More);
        figures.add(side, &format!("{}: p99 (ms)", phase.name), outcome.p99_ms, Better::Less);
        figures.add(side, &format!("{}: CPU of all processes each (µs)", phase.name), cpu, Better::Less);
    }
    figures.add(side, "memory after all, PSS of all processes (MiB)", mib(&cluster.usage()?), Better::Less);
    Ok(())
}

/// Memory and time of many pods.
async fn many_pods(
    plan: &Plan,
    cluster: &Cluster,
    target: &Target,
    side: Side,
    idle: &Usage,
    figures: &mut Figures,
) -> anyhow::Result<()> {
    let pods = plan.workload.pods;
    let took = deployment(target, "many", pods).await?;
    figures.add(
        side,
        &format!("{pods} pods of one deployment, started (a second)"),
        pods as f64 / took.as_secs_f64(),
        Better::More,
    );
    // What starting them needed is given back.
    tokio::time::sleep(Duration::from_secs(plan.workload.idle_seconds) / 3).await;
    let full = cluster.usage()?;
    let each = (mib(&full) - mib(idle)) / pods as f64;
    figures.add(side, "memory a pod, PSS of all processes (MiB)", each, Better::Less);
    figures.add(side, &format!("memory with {pods} pods, PSS of all processes (MiB)"), mib(&full), Better::Less);
    Ok(())
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

fn mib(usage: &Usage) -> f64 {
    usage.pss_kib as f64 / 1024.0
}

/// The files' sizes in MiB.
fn size(executables: &[PathBuf]) -> anyhow::Result<f64> {
    let mut bytes = 0;
    for path in executables {
        bytes += std::fs::metadata(path).with_context(|| format!("no {}", path.display()))?.len();
    }
    Ok(bytes as f64 / 1024.0 / 1024.0)
}

/// Creates a deployment and waits until all its pods run; returns how long that took.
async fn deployment(target: &Target, name: &str, replicas: usize) -> anyhow::Result<Duration> {
    let mut connection = Connection::open(target).await?;
    let labels = json!({"app": name});
    let body = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": {
            "metadata": {"labels": labels},
            "spec": {"terminationGracePeriodSeconds": 1,
                     "containers": [{"name": "hello", "image": IMAGE, "command": ["rusternetes", "hello", "--port", "8080"]}]},
        }},
    });
    let started = Instant::now();
    connection.fetch(&json_call(Method::POST, "/apis/apps/v1/namespaces/default/deployments", Some(body))).await?;
    let list = json_call(Method::GET, &format!("/api/v1/namespaces/default/pods?labelSelector=app%3D{name}"), None);
    loop {
        let pods: Value = serde_json::from_slice(&connection.fetch(&list).await?)?;
        let running =
            pods["items"].as_array().map_or(0, |items| items.iter().filter(|pod| pod["status"]["phase"] == "Running").count());
        if running == replicas {
            return Ok(started.elapsed());
        }
        if started.elapsed() > PODS_MAX {
            let events = connection.fetch(&json_call(Method::GET, "/api/v1/namespaces/default/events", None)).await?;
            let events: Value = serde_json::from_slice(&events)?;
            let last: Vec<String> = events["items"]
                .as_array()
                .into_iter()
                .flatten()
                .rev()
                .take(5)
                .map(|event| event["message"].to_string())
                .collect();
            anyhow::bail!("only {running} of {replicas} pods run after {PODS_MAX:?}; events: {}", last.join("; "));
        }
        tokio::time::sleep(Duration::from_millis(if replicas > 1 { 50 } else { 2 })).await;
    }
}

/// Where data directories of benchmarks are made unless told otherwise: on a disk, for `/tmp` may be memory.
pub(crate) fn default_scratch() -> &'static Path {
    Path::new("/var/tmp/rusternetes-bench")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_workload_is_valid() {
        let file = ClusterWorkload::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("workloads/cluster.yaml")).expect("valid");
        assert!(file.pods > 0);
    }
}
